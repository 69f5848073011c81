//! Configuration files of QEMU (`-readconfig FILE`), where QMP sockets can be named too.
//!
//! Such a file is as hostile as a command line. It is found as a socket is ([`super::monitor_socket`]): in the view of the
//! process, by no links but root's. It must be a plain file of the process's user or of root, it is opened without
//! waiting, and no more than a command line may have is read of it. It is read on the thread that asks the monitor,
//! so a file system that never answers keeps nobody waiting but that thread.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, SFlag};

use super::monitor_socket::{self, Listener, SocketError};
use crate::HostRoot;

/// Most files that are read of one command line.
pub(super) const MAX_FILES: usize = 8;

/// Why a configuration file is not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error(transparent)]
    Path(#[from] SocketError),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it is not a plain file")]
    NotAFile,
    #[error("it belongs to user {found}, not to user {expected} of the process or to root")]
    Foreign { found: u32, expected: u32 },
    #[error("it has more than {0} KiB ([limits] command_line_kib)")]
    TooLong(usize),
}

/// The text of the file at `path`, which `process` sees so; bytes that are not UTF-8 are replaced.
pub(crate) fn read(
    root: &HostRoot,
    process: Listener,
    path: &Path,
    most_bytes: usize,
) -> Result<String, ConfigError> {
    let (found, stat) = monitor_socket::find(root, process.pid, path)?;
    if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
        return Err(ConfigError::NotAFile);
    }
    if stat.st_uid != process.uid && stat.st_uid != 0 {
        return Err(ConfigError::Foreign { found: stat.st_uid, expected: process.uid });
    }
    // The very inode that was looked at.
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let file = nix::fcntl::open(&monitor_socket::this_descriptor(&found), flags, Mode::empty());
    let file = File::from(file.map_err(io::Error::from)?);
    let mut bytes = Vec::new();
    let most = u64::try_from(most_bytes).unwrap_or(u64::MAX);
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() > most_bytes {
        return Err(ConfigError::TooLong(most_bytes / 1024));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The groups of a file that name QMP sockets.
const GROUPS: [&str; 2] = ["chardev", "mon"];

/// Its character devices and monitors, as QEMU takes them on a command line: `-chardev id=x,backend=socket,..`.
///
/// The file has groups `[GROUP "ID"]` or `[GROUP]` with lines `KEY = "VALUE"`, and comments with `#`
/// (`qemu_config_foreach`, util/qemu-config.c, QEMU 10). QEMU does not start with other lines, so they are passed over.
pub fn as_args(text: &str) -> Vec<String> {
    let mut args: Vec<String> = Vec::new();
    // The option that is being read, without its value so far.
    let mut open = false;
    for line in text.lines() {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let (group, id) = match header.split_once(|c: char| c.is_ascii_whitespace()) {
                Some((group, id)) => (group, id.trim().trim_matches('"')),
                None => (header, ""),
            };
            open = GROUPS.contains(&group);
            if open {
                args.push(format!("-{group}"));
                args.push(if id.is_empty() { String::new() } else { format!("id={}", escaped(id)) });
            }
        } else if open
            && !line.starts_with('#')
            && let Some((key, value)) = line.split_once('=')
            && let Some((value, _)) =
                value.trim_start().strip_prefix('"').and_then(|value| value.split_once('"'))
            && let Some(option) = args.last_mut()
        {
            let comma = if option.is_empty() { "" } else { "," };
            option.push_str(&format!("{comma}{}={}", escaped(key.trim()), escaped(value)));
        }
    }
    args
}

/// As an option has it, where commas separate.
fn escaped(text: &str) -> String {
    text.replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use proptest::prelude::*;

    use super::super::cmdline::qmp_sockets;
    use super::*;

    const FILE: &str = "# qemu config file\n\n[machine]\n  type = \"pc\"\n\n[chardev \"m\"]\n  backend = \"socket\"\n  \
                        path = \"/run/a,b.sock\"\n  server = \"on\"\n  wait = \"off\"\n\n[mon \"x\"]\n  chardev = \"m\"\n  \
                        mode = \"control\"\n";

    #[test]
    fn sockets_of_a_file_are_found_as_those_of_a_command_line() {
        let args = as_args(FILE);
        let expected = [
            "-chardev",
            "id=m,backend=socket,path=/run/a,,b.sock,server=on,wait=off",
            "-mon",
            "id=x,chardev=m,mode=control",
        ];
        assert_eq!(args, expected);
        assert_eq!(qmp_sockets(&args), [Path::new("/run/a,b.sock")]);
        // One part in the file, the other on the command line.
        let line = |line: &str, file: &str| {
            let mut args: Vec<String> = line.split(' ').map(str::to_owned).collect();
            args.extend(as_args(file));
            qmp_sockets(&args)
        };
        let chardev = "[chardev \"m\"]\nbackend = \"socket\"\npath=\"/q\"\nserver = \"on\"\n";
        assert_eq!(line("qemu -mon chardev=m,mode=control", chardev), [Path::new("/q")]);
        let mon = "[mon]\nchardev = \"m\"\nmode = \"control\"\n";
        assert_eq!(line("qemu -chardev socket,id=m,path=/q,server=on", mon), [Path::new("/q")]);
        // As a client of somebody else's socket, for people, and not a socket.
        for other in [
            FILE.replace("server = \"on\"", "server = \"off\""),
            FILE.replace("  server = \"on\"\n", ""),
            FILE.replace("control", "readline"),
            FILE.replace("\"socket\"", "\"pty\""),
            FILE.replace("[chardev", "[device"),
            FILE.replace("path = ", "# path = "),
        ] {
            assert!(qmp_sockets(&as_args(&other)).is_empty(), "{other}");
        }
    }

    #[test]
    fn only_a_plain_file_of_the_user_is_read_and_not_more_than_may_be() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        let own = Listener::this_process();
        let proc = root.proc(own.pid.to_string());
        std::fs::create_dir_all(&proc).unwrap();
        symlink(dir.path(), proc.join("root")).unwrap();
        symlink(dir.path(), proc.join("cwd")).unwrap();
        std::fs::write(dir.path().join("vm.cfg"), FILE).unwrap();
        let read = |path: &str, most| super::read(&root, own, Path::new(path), most);
        for path in ["/vm.cfg", "vm.cfg"] {
            assert_eq!(read(path, FILE.len()).unwrap(), FILE);
        }
        let refusal = |path: &str| read(path, 4096).unwrap_err().to_string();
        assert!(read("/vm.cfg", FILE.len() - 1).unwrap_err().to_string().contains("command_line_kib"));
        nix::unistd::mkfifo(&dir.path().join("pipe"), Mode::S_IRWXU).unwrap();
        let _listener = UnixListener::bind(dir.path().join("socket")).unwrap();
        for path in ["/pipe", "/socket"] {
            assert_eq!(refusal(path), "it is not a plain file");
        }
        assert!(read("/", 4096).is_err() && refusal("/nowhere").contains("No such file"));
        symlink("vm.cfg", dir.path().join("link")).unwrap();
        if nix::unistd::geteuid().is_root() {
            assert_eq!(read("/link", 4096).unwrap(), FILE, "root made it");
            std::os::unix::fs::lchown(dir.path().join("link"), Some(65_534), None).unwrap();
            assert!(refusal("/link").contains("is a link that belongs to user 65534"));
            std::os::unix::fs::chown(dir.path().join("vm.cfg"), Some(65_533), None).unwrap();
            assert!(refusal("/vm.cfg").contains("belongs to user 65533, not to user 0"));
        } else {
            assert!(refusal("/link").contains("is a link"));
        }
    }

    proptest! {
        #[test]
        fn any_file_is_survived(text in "(\\[chardev \"a\"\\]|\\[mon\\]|path = \"|server|[\\[\\]\"=\n,#a-z ]|.){0,60}") {
            let args = as_args(&text);
            prop_assert!(args.len() <= 2 * text.len());
            prop_assert!(qmp_sockets(&args).len() <= args.len());
        }

        #[test]
        fn any_path_is_read_back(path in "[^\"\r\n\\x00\\x0b\\x0c\u{85}\u{2028}\u{2029}]{1,60}") {
            let text = FILE.replace("/run/a,b.sock", &path);
            prop_assert_eq!(qmp_sockets(&as_args(&text)), [Path::new(&path)]);
        }
    }
}
