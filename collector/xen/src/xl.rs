//! The program `xl`, which creates domains, and which lists and pins instead of Xen's libraries where they
//! are missing or of an unknown version.
//!
//! Cost and limits: each request starts a program, which takes 0.02 s on hardware, 0.3 to 0.8 s in an
//! emulator; without a running xenstored it waits forever, so each has a time limit. Its output is text for
//! people (xl(1), Xen 4.17; its source prints the same lines in 2026), which the pure parsers in [`list`],
//! [`machine`] and [`psr`] read; unknown output is an error, never a guess. Not available from it: pages that
//! are shared; memory below a MiB, CPU time below a tenth of a second; the numbers of cpupools, replaced by
//! the order in which this client first saw them, `Pool-0` first; affinities to CPUs beyond the number of
//! online ones (`smt=0`), which is refused.
//!
//! A domain is given by its number, which `xl` prefers to a name that looks like one. Numbers are reused
//! eventually, so the UUID is compared before and after each change.

mod life;
mod list;
mod machine;
mod psr;
mod run;

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use huddle_model::cpuset::CpuSet;
use nix::errno::Errno;

use self::list::{Affinity, Listed, ListedVcpu};
use self::machine::Info;
use self::run::Answer;
use super::toolstack::{
    AffinityKind, CpuPool, Domain, DomainKind, DomainRef, DomainVcpu, Machine, PAGE_BYTES, Toolstack,
    XenError,
};
use super::{plain, running_version};
use huddle_host::HostRoot;

/// How long `xl` may take; it takes less than a second in an emulator.
const LIMIT: Duration = Duration::from_secs(10);

/// The program `xl`.
#[derive(Debug)]
pub struct Xl {
    program: PathBuf,
    version: Option<String>,
    limit: Duration,
    /// Cpupools in the order in which they were first seen.
    pools: Mutex<Vec<String>>,
    /// How domains are virtualised, which never changes: requested once.
    kinds: Mutex<BTreeMap<DomainRef, Option<DomainKind>>>,
    /// Domains monitored by another program.
    monitored_by_others: BTreeSet<DomainRef>,
}

/// A part of an answer that cannot be parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ParseError {
    what: &'static str,
    text: String,
}

impl ParseError {
    fn new(what: &'static str, text: &str) -> Self {
        Self { what, text: text.chars().take(200).collect() }
    }
}

impl From<ParseError> for XenError {
    fn from(misread: ParseError) -> Self {
        Self::Answer { what: misread.what.to_owned(), text: plain(&misread.text) }
    }
}

impl Xl {
    /// The installed program: in `PATH`, in `/usr/sbin` or `/usr/local/sbin`, or in Debian's directory for
    /// the running version.
    ///
    /// # Errors
    /// [`XenError::Xl`] if there is none.
    pub fn find(root: &HostRoot) -> Result<Self, XenError> {
        let version = running_version(root);
        let path = env::var_os("PATH").unwrap_or_default();
        let debian = version.as_ref().map(|version| PathBuf::from(format!("/usr/lib/xen-{version}/bin")));
        // A relative directory could be anyone's.
        let program = env::split_paths(&path)
            .filter(|directory| directory.is_absolute())
            .chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from))
            .chain(debian)
            .map(|directory| directory.join("xl"))
            .find(|program| is_executable(program));
        let why = "is neither in PATH nor in /usr/sbin; install Xen's tools (Debian: xen-utils)";
        match program {
            Some(program) => Ok(Self { version, ..Self::at(program) }),
            None => Err(XenError::Xl { command: "xl".to_owned(), why: why.to_owned() }),
        }
    }

    /// The program at a path.
    pub fn at(program: PathBuf) -> Self {
        Self {
            program,
            version: None,
            limit: LIMIT,
            pools: Mutex::default(),
            kinds: Mutex::default(),
            monitored_by_others: BTreeSet::new(),
        }
    }

    fn run(&self, args: &[&str]) -> Result<Answer, XenError> {
        run::run(&self.program, args, self.limit)
    }

    fn ask(&self, args: &[&str]) -> Result<String, XenError> {
        self.run(args)?.text()
    }

    /// Like [`Self::ask`], for a domain given by its number.
    fn ask_about(&self, id: u16, args: &[&str]) -> Result<String, XenError> {
        let answer = self.run(args)?;
        if is_gone(&answer) { Err(XenError::Gone(id)) } else { answer.text() }
    }

    /// Checks that the number still belongs to this domain.
    fn check(&self, domain: DomainRef) -> Result<(), XenError> {
        let text = self.ask_about(domain.id, &["list", "-v", &domain.id.to_string()])?;
        let listed = list::list(&text)?;
        if listed.iter().any(|line| line.domain == domain) { Ok(()) } else { Err(XenError::Gone(domain.id)) }
    }

    fn info(&self) -> Result<Info, XenError> {
        Ok(machine::info(&self.ask(&["info", "-n"])?)?)
    }

    /// [`Self::info`], if `xl` prints whole affinities.
    fn info_for_affinities(&self) -> Result<Info, XenError> {
        let info = self.info()?;
        if info.is_whole() {
            return Ok(info);
        }
        let why = format!(
            "reports affinities for CPUs 0 to {} only, and the online CPUs are {}; boot Xen with smt=1, or install \
             the libraries of its version",
            info.count.saturating_sub(1),
            info.set()
        );
        Err(XenError::Xl { command: "xl vcpu-list".to_owned(), why })
    }

    /// Cpupools, with the numbers assigned here.
    fn pools(&self) -> Result<Vec<(String, CpuPool)>, XenError> {
        let counts = self.ask(&["cpupool-list"])?;
        let lists = self.ask(&["cpupool-list", "-c"])?;
        let mut known = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pools = Vec::new();
        for pool in machine::pools(&counts, &lists)? {
            let index = known.iter().position(|name| *name == pool.name).unwrap_or_else(|| {
                known.push(pool.name.clone());
                known.len() - 1
            });
            let id = u32::try_from(index).unwrap_or(u32::MAX);
            pools.push((pool.name, CpuPool { id, cpus: pool.cpus }));
        }
        Ok(pools)
    }

    /// How the domains are virtualised, requested when one is new. Unknown kinds are not an error.
    fn kinds(&self, listed: &[Listed]) -> BTreeMap<DomainRef, Option<DomainKind>> {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        if listed.iter().any(|line| !kinds.contains_key(&line.domain)) {
            let details = self
                .ask(&["list", "-l"])
                .and_then(|text| Ok(list::details(&text)?))
                .inspect_err(|error| tracing::debug!("kinds of domains: {error}"))
                .unwrap_or_default();
            *kinds = listed
                .iter()
                .map(|Listed { domain, .. }| {
                    let kind = details.get(&domain.id).and_then(|detailed| detailed.kind(*domain));
                    (*domain, kind.or(kinds.get(domain).copied().flatten()))
                })
                .collect();
        }
        kinds.clone()
    }

    /// The vCPUs of one domain.
    fn vcpus(&self, domain: DomainRef) -> Result<Vec<ListedVcpu>, XenError> {
        let text = self.ask_about(domain.id, &["vcpu-list", &domain.id.to_string()])?;
        let mut vcpus = list::vcpu_list(&text)?;
        vcpus.retain(|vcpu| vcpu.id == domain.id);
        Ok(vcpus)
    }
}

impl Toolstack for Xl {
    fn name(&self) -> String {
        match &self.version {
            Some(version) => format!("xl {version}"),
            None => "xl".to_owned(),
        }
    }

    fn domains(&self) -> Result<Vec<Domain>, XenError> {
        let info = self.info_for_affinities()?;
        let listed = list::list(&self.ask(&["list", "-v", "-c"])?)?;
        // After the domains: a cpupool with domains cannot be destroyed.
        let pools = self.pools()?;
        let names: Vec<String> = pools.iter().map(|(name, _)| name.clone()).collect();
        let kinds = self.kinds(&listed);
        let mut vcpus: BTreeMap<u16, Vec<ListedVcpu>> = BTreeMap::new();
        for vcpu in list::vcpu_list(&self.ask(&["vcpu-list"])?)? {
            vcpus.entry(vcpu.id).or_default().push(vcpu);
        }
        let mut domains = Vec::new();
        for line in listed {
            // None: it ended between the two requests. Another name: likewise, and its number was reused.
            let vcpus = vcpus.remove(&line.domain.id).unwrap_or_default();
            if vcpus.is_empty() || vcpus.iter().any(|vcpu| vcpu.name != line.name) {
                continue;
            }
            let (_, pool) = &pools[line.pool(&names)?];
            domains.push(domain(line, &info, pool.id, vcpus, &kinds));
        }
        domains.sort_by_key(|domain| domain.domain.id);
        Ok(domains)
    }

    fn machine(&self) -> Result<Machine, XenError> {
        let cpus = self.info()?.cpus;
        let pools = self.pools()?.into_iter().map(|(_, pool)| pool).collect();
        Ok(Machine { cpus, pools })
    }

    fn affinity(&self, domain: DomainRef, vcpu: u32, kind: AffinityKind) -> Result<CpuSet, XenError> {
        let info = self.info_for_affinities()?;
        let vcpus = self.vcpus(domain)?;
        // Checked afterwards: a domain that still exists existed before.
        self.check(domain)?;
        let vcpu = vcpus.into_iter().find(|line| line.index == vcpu).ok_or(XenError::Gone(domain.id))?;
        Ok(match kind {
            AffinityKind::Hard => cpus(&vcpu.hard, &info),
            AffinityKind::Soft => cpus(&vcpu.soft, &info),
        })
    }

    fn set_affinity(
        &self,
        domain: DomainRef,
        vcpu: u32,
        kind: AffinityKind,
        cpus: &CpuSet,
    ) -> Result<(), XenError> {
        // All online CPUs are passed as `all`, so that a CPU that comes online later is included.
        let online = self.info()?.set();
        let set = if online.is_subset(cpus) { "all".to_owned() } else { cpus.to_string() };
        let (id, index) = (domain.id.to_string(), vcpu.to_string());
        let args = match kind {
            AffinityKind::Hard => ["vcpu-pin", &id, &index, &set, "-"],
            AffinityKind::Soft => ["vcpu-pin", &id, &index, "-", &set],
        };
        let refused = || XenError::Call { call: format!("xl {}", args.join(" ")), errno: Errno::EINVAL };
        // `xl` accepts no empty set, and misinterprets unknown CPU numbers.
        if cpus.is_disjoint(&online) {
            return Err(refused());
        }
        self.check(domain)?;
        let answer = self.run(&args)?;
        if answer.status.success() {
            return self.check(domain);
        }
        self.check(domain)?;
        if !answer.stderr.contains(INVALID) && !answer.stderr.contains(EMPTY) {
            return Err(answer.failed());
        }
        // The same error for a missing vCPU.
        let exists = self.vcpus(domain)?.iter().any(|line| line.index == vcpu);
        Err(if exists { refused() } else { XenError::Gone(domain.id) })
    }
}

/// `EINVAL` as `xl` prints it.
const INVALID: &str = "Invalid argument";
/// `xl vcpu-pin` if none of the CPUs exists.
const EMPTY: &str = "affinity map is empty";

/// Whether an answer reports a missing domain: messages of `xl` and libxl, and `ESRCH`.
fn is_gone(answer: &Answer) -> bool {
    let words =
        ["does not exist", "invalid domain identifier", "Could not get domain info", "invalid domain ID"];
    !answer.status.success() && words.iter().any(|word| answer.stderr.contains(word))
}

fn domain(
    line: Listed,
    info: &Info,
    pool: u32,
    vcpus: Vec<ListedVcpu>,
    kinds: &BTreeMap<DomainRef, Option<DomainKind>>,
) -> Domain {
    let online = vcpus.into_iter().filter(|vcpu| vcpu.cpu.is_some());
    let mut vcpus: Vec<DomainVcpu> = online
        .map(|vcpu| DomainVcpu {
            index: vcpu.index,
            cpu: vcpu.cpu,
            cpu_time_ns: vcpu.cpu_time_ns,
            hard: cpus(&vcpu.hard, info),
            soft: cpus(&vcpu.soft, info),
        })
        .collect();
    vcpus.sort_by_key(|vcpu| vcpu.index);
    Domain {
        domain: line.domain,
        name: line.name.unwrap_or_else(|| format!("Domain-{}", line.domain.id)),
        kind: kinds.get(&line.domain).copied().flatten(),
        pool,
        is_paused: line.is_paused,
        is_ending: line.is_ending,
        pages: line.mib.saturating_mul((1 << 20) / PAGE_BYTES as u64),
        shared_pages: None,
        vcpus,
    }
}

fn cpus(affinity: &Affinity, info: &Info) -> CpuSet {
    match affinity {
        Affinity::All => info.set(),
        Affinity::Cpus(cpus) => cpus.intersection(&info.set()),
    }
}

fn is_executable(program: &Path) -> bool {
    std::fs::metadata(program).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests;
