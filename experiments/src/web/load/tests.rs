//! The load generator against a server that answers as the test says.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

use super::*;

/// What the server does with one request.
#[derive(Clone, Copy)]
enum Act {
    Answer { status: u16, body: &'static str, after: Duration },
    HangUp,
}

const GOOD: Act = Act::Answer { status: 200, body: "8\n", after: Duration::ZERO };

/// A server that serves one connection after the other; `act` gets the number of the request.
fn server(act: impl Fn(usize) -> Act + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut number = 0;
        for stream in listener.incoming() {
            answer(stream.unwrap(), &act, &mut number);
        }
    });
    address
}

fn answer(mut stream: TcpStream, act: &impl Fn(usize) -> Act, number: &mut usize) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    while let Some(Ok(line)) = lines.next() {
        if !line.is_empty() {
            continue;
        }
        *number += 1;
        match act(*number) {
            Act::HangUp => return,
            Act::Answer { status, body, after } => {
                std::thread::sleep(after);
                let length = body.len();
                let text = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n{body}");
                if stream.write_all(text.as_bytes()).is_err() {
                    return;
                }
            }
        }
    }
}

fn load(schedule: Schedule) -> Requests {
    Requests {
        target: "/x?reads=1".into(),
        words: 64,
        seed: 1,
        schedule,
        timeout: Duration::from_millis(300),
    }
}

fn responses(address: SocketAddr, schedule: Schedule, requests: usize) -> Vec<Response> {
    let mut user = User::new(address, std::process::id() as i32);
    user.start(load(schedule)).unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    while user.answered() < requests && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(2));
    }
    let mut responses = user.stop(Duration::from_secs(5)).expect("it stops");
    assert!(responses.len() >= requests, "{responses:?}");
    responses.truncate(requests);
    responses
}

#[test]
fn every_response_is_recorded_with_its_time() {
    let slow_third = |number| match number {
        3 => Act::Answer { status: 200, body: "56\n", after: Duration::from_millis(60) },
        _ => GOOD,
    };
    let responses = responses(server(slow_third), Schedule::Closed, 5);
    assert!(responses.iter().all(|response| response.failure.is_none() && response.status == Some(200)));
    assert!(responses[2].latency_ns >= 60_000_000, "{responses:?}");
    assert!(responses.windows(2).all(|two| two[0].at_us <= two[1].at_us));
}

#[test]
fn bad_responses_are_classified_and_the_user_goes_on() {
    let act = |number| match number {
        1 => Act::Answer { status: 500, body: "8\n", after: Duration::ZERO },
        2 => Act::Answer { status: 200, body: "64\n", after: Duration::ZERO },
        3 => Act::Answer { status: 200, body: "Warning: ...", after: Duration::ZERO },
        4 => Act::HangUp,
        5 => Act::Answer { status: 200, body: "8\n", after: Duration::from_millis(800) },
        _ => GOOD,
    };
    let responses = responses(server(act), Schedule::Closed, 6);
    let failures: Vec<Option<Failure>> = responses.iter().map(|response| response.failure).collect();
    let wanted = [Failure::Status, Failure::Body, Failure::Body, Failure::Connection, Failure::TimedOut];
    assert_eq!(failures[..5], wanted.map(Some));
    assert_eq!(responses[0].status, Some(500));
    assert!((290_000_000..700_000_000).contains(&responses[4].latency_ns), "{responses:?}");
}

#[test]
fn in_an_open_loop_the_waiting_behind_a_slow_response_is_counted() {
    let slow_first = |number| match number {
        1 => Act::Answer { status: 200, body: "8\n", after: Duration::from_millis(200) },
        _ => GOOD,
    };
    let schedule = Schedule::Open { every: Duration::from_millis(20), first: Duration::from_millis(1) };
    let open = responses(server(slow_first), schedule, 8);
    // Due 20 ms after the first, answered at its end at the earliest.
    assert!(open[1].latency_ns >= 170_000_000 && open[4].latency_ns >= 110_000_000, "{open:?}");
    for two in open.windows(2) {
        assert!((19_000..=21_000).contains(&(two[1].at_us - two[0].at_us)), "{open:?}");
    }
    let closed = responses(server(slow_first), Schedule::Closed, 8);
    assert!(closed[4].latency_ns < 110_000_000, "the closed loop hides it: {closed:?}");
}

#[test]
fn a_server_that_is_not_there_is_a_failed_connection() {
    let address = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    let mut user = User::new(address, std::process::id() as i32);
    assert_eq!(user.ask("/", None, Duration::from_secs(2)), Err(Failure::Connection));
    assert!(
        responses(address, Schedule::Closed, 2).iter().all(|one| one.failure == Some(Failure::Connection))
    );
}
