use std::io::Read;
use std::os::unix::net::UnixListener;
use std::thread::JoinHandle;

use tempfile::TempDir;

use super::reply::{HEADER, XS_ERROR, XS_READ, XS_WATCH_EVENT, words};
use super::*;

/// The answer of a fake daemon to the request with this number; `None` closes the connection.
type Reply = fn(u32) -> Option<Vec<u8>>;

fn message(kind: u32, request: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    let header = [kind, request, 0, length].into_iter().flat_map(u32::to_ne_bytes);
    header.chain(payload.iter().copied()).collect()
}

struct Daemon {
    root: TempDir,
    thread: JoinHandle<Vec<String>>,
}

/// A daemon that answers each request with the next of `replies`, over any connection, and returns its
/// requests.
fn daemon(replies: &'static [Reply]) -> (Daemon, Xenstore) {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("proc/1/root/run/xenstored");
    std::fs::create_dir_all(&directory).unwrap();
    let listener = UnixListener::bind(directory.join("socket")).unwrap();
    let thread = std::thread::spawn(move || {
        let mut heard = Vec::new();
        let (mut stream, _) = listener.accept().unwrap();
        for reply in replies {
            let mut header = [0; HEADER];
            if stream.read_exact(&mut header).is_err() {
                (stream, _) = listener.accept().unwrap();
                stream.read_exact(&mut header).unwrap();
            }
            let [kind, request, transaction, length] = words(header);
            assert_eq!((kind, transaction), (XS_READ, 0));
            let mut path = vec![0; length as usize];
            stream.read_exact(&mut path).unwrap();
            heard.push(String::from_utf8(path).unwrap());
            match reply(request) {
                Some(bytes) => stream.write_all(&bytes).unwrap(),
                None => {
                    drop(stream);
                    (stream, _) = listener.accept().unwrap();
                }
            }
        }
        // Until the client has disconnected.
        let _ = stream.read(&mut [0]);
        heard
    });
    let mut store = Xenstore::new(&HostRoot::at(root.path()));
    store.limit = Duration::from_millis(300);
    (Daemon { root, thread }, store)
}

/// The client's result with a daemon that sends `reply` and stays.
fn ask(replies: &'static [Reply]) -> Result<Option<String>, XenError> {
    let (daemon, store) = daemon(replies);
    let answer = store.domain_name(7);
    drop(store);
    daemon.thread.join().unwrap();
    answer
}

#[test]
fn a_console_is_an_absolute_path_or_none_yet() {
    let (daemon, store) = daemon(&[
        |request| Some(message(XS_READ, request, b"/dev/pts/3")),
        |request| Some(message(XS_READ, request, b"")),
        |request| Some(message(XS_ERROR, request, b"ENOENT\0")),
    ]);
    assert_eq!(store.console(5).unwrap(), Some("/dev/pts/3".into()));
    assert_eq!((store.console(5).unwrap(), store.console(5).unwrap()), (None, None));
    drop(store);
    assert_eq!(daemon.thread.join().unwrap()[0], "/local/domain/5/console/tty\0");
}

#[test]
fn names_are_read_over_one_connection() {
    let (daemon, store) = daemon(&[
        |request| Some(message(XS_READ, request, b"Domain-0")),
        |request| Some(message(XS_ERROR, request, b"ENOENT\0")),
        |request| {
            let event = message(XS_WATCH_EVENT, 0, b"/local/domain\0token\0");
            Some([event, message(XS_READ, request, b"a web server")].concat())
        },
    ]);
    assert_eq!(store.domain_name(0).unwrap().as_deref(), Some("Domain-0"));
    assert_eq!(store.domain_name(3).unwrap(), None);
    assert_eq!(store.domain_name(65_535).unwrap().as_deref(), Some("a web server"));
    drop(store);
    let heard = daemon.thread.join().unwrap();
    assert_eq!(heard, ["/local/domain/0/name\0", "/local/domain/3/name\0", "/local/domain/65535/name\0"]);
}

#[test]
fn names_cannot_upset_a_terminal() {
    let name = ask(&[|request| Some(message(XS_READ, request, b"a\x1b[2J\n\xffb\0"))]);
    assert_eq!(name.unwrap().as_deref(), Some("a\\u{1b}[2J\\n\u{fffd}b\\u{0}"));
    assert_eq!(ask(&[|request| Some(message(XS_READ, request, b""))]).unwrap(), None);
}

#[test]
fn refusals_are_reported_by_name() {
    let error = ask(&[|request| Some(message(XS_ERROR, request, b"EACCES\x07\0"))]).unwrap_err();
    assert_eq!(error.to_string(), "xenstore: EACCES\\u{7} for /local/domain/7/name");
}

#[test]
fn protocol_violations_are_errors() {
    let replies: [&'static [Reply]; 3] = [
        // Larger than allowed, without any payload.
        &[|request| Some([XS_READ, request, 0, 4097].into_iter().flat_map(u32::to_ne_bytes).collect())],
        // To another request.
        &[|request| Some(message(XS_READ, request + 1, b"other"))],
        // Of another type.
        &[|request| Some(message(1, request, b"directory\0"))],
    ];
    for reply in replies {
        let begin = Instant::now();
        let error = ask(reply).unwrap_err();
        assert!(matches!(error, XenError::Answer { .. }), "{error}");
        assert!(begin.elapsed() < Duration::from_millis(300));
    }
}

#[test]
fn silence_ends_after_the_limit() {
    let silent: [&'static [Reply]; 3] = [
        &[|_| Some(Vec::new())],
        // Half a header, and half a payload.
        &[|request| Some(message(XS_READ, request, b"")[..10].to_vec())],
        &[|request| Some(message(XS_READ, request, b"half of it")[..20].to_vec())],
    ];
    for replies in silent {
        let begin = Instant::now();
        let error = ask(replies).unwrap_err();
        assert!(matches!(error, XenError::TimedOut { .. }), "{error}");
        assert!(begin.elapsed() >= Duration::from_millis(300) && begin.elapsed() < Duration::from_secs(3));
    }
    // Endless events time out like silence.
    let (daemon, store) = daemon(&[|_| Some(message(XS_WATCH_EVENT, 0, b"/\0t\0").repeat(2))]);
    assert!(matches!(store.domain_name(1), Err(XenError::TimedOut { .. })));
    drop(store);
    daemon.thread.join().unwrap();
}

#[test]
fn a_late_answer_is_not_used_for_the_next_request() {
    let (daemon, store) =
        daemon(&[|_| Some(Vec::new()), |request| Some(message(XS_READ, request, b"second"))]);
    assert!(matches!(store.domain_name(1), Err(XenError::TimedOut { .. })));
    assert_eq!(store.domain_name(2).unwrap().as_deref(), Some("second"));
    drop(store);
    daemon.thread.join().unwrap();
}

#[test]
fn a_restarted_daemon_is_asked_again() {
    let (daemon, store) = daemon(&[
        |request| Some(message(XS_READ, request, b"before")),
        |_| None,
        |request| Some(message(XS_READ, request, b"after")),
        |_| None,
        |_| None,
    ]);
    assert_eq!(store.domain_name(1).unwrap().as_deref(), Some("before"));
    assert_eq!(store.domain_name(1).unwrap().as_deref(), Some("after"));
    // Once: a daemon that closes the connection at each request is an error.
    let error = store.domain_name(1).unwrap_err().to_string();
    assert!(error.contains("closed the connection"), "{error}");
    drop(UnixStream::connect(daemon.root.path().join("proc/1/root/run/xenstored/socket")));
    drop(store);
    daemon.thread.join().unwrap();
}

#[test]
fn without_a_daemon_the_error_names_the_socket() {
    let root = tempfile::tempdir().unwrap();
    let store = Xenstore::new(&HostRoot::at(root.path()));
    let error = store.domain_name(1).unwrap_err().to_string();
    assert!(error.contains("run/xenstored/socket") && error.contains("is xenstored running?"), "{error}");
}
