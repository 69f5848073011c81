use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use huddle_host::HostRoot;

use super::*;
use crate::{Facts, MetricsSettings};

fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::new(HostRoot::real(), MetricsSettings::default(), Facts::default()))
}

/// A server on a thread of its own until this is dropped.
struct Running {
    place: Listen,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Running {
    fn start(listen: &Listen) -> Self {
        let server = Server::bind(listen).unwrap();
        let place = server.place().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = server.serve(metrics()) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { place, stop: Some(stop), thread: Some(thread) }
    }

    fn address() -> Self {
        Self::start(&"127.0.0.1:0".parse().unwrap())
    }

    fn connect(&self) -> TcpStream {
        let Listen::Address(address) = &self.place else { panic!("a socket") };
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    }

    fn ask(&self, request: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

#[test]
fn each_client_gets_the_format_that_it_takes() {
    let server = Running::address();
    let accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";
    let answer = server.ask(&format!("GET /metrics HTTP/1.1\r\nHost: h\r\nAccept: {accept}\r\n\r\n"));
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("content-type: application/openmetrics-text; version=1.0.0"), "{answer}");
    assert!(answer.contains("# UNIT huddle_process_cpu_seconds seconds\n") && answer.ends_with("# EOF\n"));
    let answer = server.ask("GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
    assert!(answer.contains("# TYPE huddle_process_cpu_seconds_total counter\n"));
    assert!(!answer.contains("# EOF"));

    for (request, status) in [
        ("HEAD /metrics HTTP/1.1\r\nHost: h\r\n\r\n", "200"),
        ("GET / HTTP/1.1\r\nHost: h\r\n\r\n", "404"),
        ("GET /metrics/../etc HTTP/1.1\r\nHost: h\r\n\r\n", "404"),
        ("POST /metrics HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", "405"),
        ("nonsense\r\n\r\n", "400"),
    ] {
        let answer = server.ask(request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {answer}");
    }
}

#[test]
fn a_request_that_is_too_long_is_refused() {
    let server = Running::address();
    let mut stream = server.connect();
    let long = format!("GET /metrics HTTP/1.1\r\nHost: h\r\nX: {}", "x".repeat(4 * MAX_REQUEST_BYTES));
    // It may refuse before everything is written.
    let _ = stream.write_all(long.as_bytes());
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    assert!(read.is_err() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[test]
fn clients_that_send_nothing_are_disconnected_and_others_are_answered_then() {
    let server = Running::address();
    let silent: Vec<TcpStream> = (0..MAX_CONNECTIONS + 4)
        .map(|_| {
            let mut stream = server.connect();
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost:").unwrap();
            stream
        })
        .collect();
    let begun = Instant::now();
    let answer = server.ask("GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(begun.elapsed() < 4 * HEADER_TIMEOUT, "{:?}", begun.elapsed());
    for mut stream in silent {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(!rest.starts_with(b"HTTP/1.1 200"), "nothing was asked for");
    }
}

#[test]
fn a_socket_is_for_its_owner_and_goes_with_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metrics");
    let listen = Listen::Socket(path.clone());
    let server = Running::start(&listen);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("huddle_build_info"), "{answer}");
    assert!(matches!(Server::bind(&listen), Err(ListenError::Taken(_))));
    drop(server);
    assert!(!path.exists());

    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(Server::bind(&listen), Err(ListenError::NotASocket(_))));
    let taken = BlockingTcp::bind("127.0.0.1:0").unwrap();
    let error = Server::bind(&Listen::Address(taken.local_addr().unwrap())).unwrap_err().to_string();
    assert!(error.starts_with("another program listens at 127.0.0.1:"), "{error}");
}
