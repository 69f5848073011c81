//! Parsers of the output of `xl info -n` and `xl cpupool-list` (xl(1); tools/xl/xl_info.c and xl_cpupool.c,
//! Xen 4.17). Pure.

use huddle_model::cpuset::CpuSet;

use super::ParseError;
use super::list::header;
use crate::toolstack::PhysicalCpu;

/// `xl info -n`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Info {
    /// Online CPUs, ascending.
    pub(super) cpus: Vec<PhysicalCpu>,
    /// The number of CPUs that `xl` counts, and up to which it prints affinities.
    pub(super) count: u32,
}

impl Info {
    /// Whether `xl` prints whole affinities: not if offline CPUs (`smt=0`) precede online ones.
    pub(super) fn is_whole(&self) -> bool {
        self.cpus.iter().all(|cpu| cpu.cpu < self.count)
    }

    pub(super) fn set(&self) -> CpuSet {
        self.cpus.iter().map(|cpu| cpu.cpu).collect()
    }
}

/// `xl info -n`: `nr_cpus` and the block `cpu_topology`, a line per online CPU.
pub(super) fn info(text: &str) -> Result<Info, ParseError> {
    let count = text
        .lines()
        .find_map(|line| line.strip_prefix("nr_cpus")?.trim_start().strip_prefix(':')?.trim().parse().ok())
        .ok_or_else(|| ParseError::new("xl info without nr_cpus", text))?;
    let mut lines = text.lines().skip_while(|line| !line.starts_with("cpu_topology")).skip(1);
    header(lines.next(), &["cpu:", "core", "socket", "node"])?;
    // Each begins with its number and a colon; the next block does not.
    let cpus = lines
        .map_while(|line| line.split_once(':').filter(|(number, _)| number.trim().parse::<u32>().is_ok()))
        .map(|(number, places)| {
            cpu(number, places).ok_or_else(|| ParseError::new("a CPU of xl info -n", places))
        })
        .collect::<Result<Vec<_>, _>>()?;
    if cpus.is_empty() || !cpus.is_sorted_by(|a, b| a.cpu < b.cpu) {
        return Err(ParseError::new("the CPUs of xl info -n", text));
    }
    Ok(Info { cpus, count })
}

fn cpu(number: &str, places: &str) -> Option<PhysicalCpu> {
    let places: Vec<&str> = places.split_whitespace().collect();
    let [core, socket, node] = places[..] else { return None };
    Some(PhysicalCpu {
        cpu: number.trim().parse().ok()?,
        core: core.parse().ok()?,
        socket: socket.parse().ok()?,
        // Unknown is `XEN_INVALID_NODE_ID`, all bits set, printed as a signed number.
        node: if node == "-1" { None } else { Some(node.parse().ok()?) },
    })
}

/// A cpupool by its name: `xl` reports no number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ListedPool {
    pub(super) name: String,
    pub(super) cpus: CpuSet,
}

/// `xl cpupool-list` and `xl cpupool-list -c`: the first shows where names end, since the list of CPUs
/// follows a name of 19 characters or more without a blank; the second has that list.
pub(super) fn pools(counts: &str, lists: &str) -> Result<Vec<ListedPool>, ParseError> {
    let (mut counted, mut listed) = (counts.lines(), lists.lines());
    header(counted.next(), &["Name", "CPUs", "Sched", "Active", "Domain", "count"])?;
    // `CPU list` follows `Name` after blanks for 19 characters.
    header(listed.next(), &["Name", "CPU", "list"])?;
    let mut pools: Vec<ListedPool> = Vec::new();
    for line in counted.filter(|line| !line.trim().is_empty()) {
        let (name, count) = pool(line).ok_or_else(|| ParseError::new("a pool of xl cpupool-list", line))?;
        let list = listed.next().unwrap_or_default();
        let cpus: Option<CpuSet> = list.strip_prefix(name).and_then(|cpus| cpus.parse().ok());
        let cpus = cpus.filter(|cpus| cpus.len() == count);
        let cpus = cpus.ok_or_else(|| ParseError::new("a pool of xl cpupool-list -c", list))?;
        if pools.iter().any(|pool| pool.name == name) {
            return Err(ParseError::new("two pools of one name", line));
        }
        pools.push(ListedPool { name: name.to_owned(), cpus });
    }
    Ok(pools)
}

/// Its name and how many CPUs it has: `NAME COUNT SCHEDULER y DOMAINS`.
fn pool(line: &str) -> Option<(&str, usize)> {
    let (line, domains) = line.trim_end().rsplit_once(char::is_whitespace)?;
    domains.parse::<u32>().ok()?;
    let line = line.trim_end().strip_suffix('y')?;
    let (line, _scheduler) = line.trim_end().rsplit_once(char::is_whitespace)?;
    // A number of three digits follows a long name without a blank; a shorter one has blanks before it.
    let line = line.trim_end();
    let (name, count) = match line.rsplit_once(char::is_whitespace) {
        Some((name, count)) if count.parse::<usize>().is_ok() => (name, count),
        _ => line.split_at_checked(line.len().checked_sub(3)?)?,
    };
    let name = name.trim_end();
    (!name.is_empty()).then_some((name, count.parse().ok()?))
}

#[cfg(test)]
mod tests;
