//! Tenants: this program again, as processes whose memory holds known contents.
//!
//! A specification is a list of `KIND:NUMBER:COUNT`, separated by commas; pages follow one another in
//! its order:
//! - `set:N:COUNT`: COUNT different pages, the same in every tenant that names set N;
//! - `copies:N:COUNT`: COUNT equal pages, of content N;
//! - `zeros:0:COUNT`: pages written with zeros;
//! - `read:0:COUNT`: pages never written, only read;
//! - `hole:0:COUNT`: pages never touched.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

use huddle_host::{HostRoot, task};
use huddle_model::vm::{GuestRegion, MemoryKind, Vm};
use huddle_testing::memory::{mergeable, page_bytes};
use nix::sys::signal::Signal;
use nix::unistd::ForkResult;

/// A process with the memory of a specification; it ends with this value.
pub struct Tenant {
    pub name: String,
    pub start: u64,
    pub pages: u64,
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Tenant {
    /// Starts one and waits until its memory is as specified.
    pub fn start(name: &str, spec: &str) -> Self {
        let mut child = Command::new("/proc/self/exe")
            .args(["tenant", spec])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut line, mut output) = (String::new(), BufReader::new(child.stdout.take().unwrap()));
        output.read_line(&mut line).unwrap();
        let (start, pages) = line.trim().split_once(' ').unwrap_or_else(|| panic!("{spec}: {line:?}"));
        Self {
            name: name.to_owned(),
            start: start.parse().unwrap(),
            pages: pages.parse().unwrap(),
            child,
            output,
        }
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// It as discovery would describe it.
    pub fn vm(&self) -> Vm {
        self.vm_of(&self.name, self.pid())
    }

    /// A child of it, which has the memory as it is now and ends with it.
    pub fn fork(&mut self, name: &str) -> Vm {
        self.child.stdin.as_mut().unwrap().write_all(b"f").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        self.vm_of(name, line.trim().parse().unwrap())
    }

    fn vm_of(&self, name: &str, pid: i32) -> Vm {
        let process = task::process(&HostRoot::real(), pid).unwrap().id;
        let (start, end) = (self.start, self.start + self.pages * page_bytes() as u64);
        Vm::of_process(
            name,
            process,
            vec![GuestRegion { process: Some(process), start, end, kind: MemoryKind::Mergeable }],
        )
    }

    /// Ends it now.
    pub fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Makes it exit, without waiting until it has.
    pub fn begin_end(&mut self) {
        drop(self.child.stdin.take());
    }
}

impl Drop for Tenant {
    fn drop(&mut self) {
        self.end();
    }
}

fn parts(spec: &str) -> Vec<(&str, u64, usize)> {
    spec.split(',')
        .map(|part| {
            let fields: Vec<&str> = part.split(':').collect();
            let [kind, number, count] = fields[..] else { panic!("{part:?} is not KIND:NUMBER:COUNT") };
            (kind, number.parse().unwrap(), count.parse().unwrap())
        })
        .collect()
}

/// The tenant itself.
pub fn run(spec: &str) -> ! {
    let parts = parts(spec);
    let pages: usize = parts.iter().map(|(_, _, count)| count).sum();
    let words = mergeable(pages);
    let mut rest = words.chunks_exact_mut(page_bytes() / 8);
    for (kind, number, count) in parts {
        for (index, page) in rest.by_ref().take(count).enumerate() {
            match kind {
                // Zeros first: such a page cannot be distinguished from a zero-filled one by its beginning.
                "set" => page[page_bytes() / 8 - 1 - index % 7] = number << 32 | (index as u64 + 1),
                "copies" => page[page_bytes() / 8 - 1] = number << 32,
                "zeros" => page.iter_mut().for_each(|word| {
                    // SAFETY: a write to a reference; volatile, so that it is not left out as needless.
                    unsafe { std::ptr::from_mut(word).write_volatile(0) }
                }),
                "read" => _ = std::hint::black_box(page[0]),
                "hole" => {}
                _ => panic!("{kind:?} is no kind of page"),
            }
        }
    }
    println!("{} {pages}", words.as_ptr() as u64);
    std::io::stdout().flush().unwrap();
    // Each byte asks for a child with the same memory; the end of the input ends the tenant.
    while let Ok(1) = std::io::stdin().read(&mut [0]) {
        // SAFETY: this process has one thread, so the child may do whatever it likes.
        match unsafe { nix::unistd::fork() }.unwrap() {
            ForkResult::Parent { child } => println!("{child}"),
            ForkResult::Child => {
                nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).unwrap();
                loop {
                    nix::unistd::pause();
                }
            }
        }
        std::io::stdout().flush().unwrap();
    }
    std::process::exit(0)
}
