//! Stores that accept a connection and do not answer, or answer like another service.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tinygate_c10d::{Cancel, ErrorKind, Group, Listen, Result, Store};

const LONG: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_millis(300);

/// A port where `answer` serves every connection, which stays open if `answer` returns it.
fn port(answer: fn(TcpStream) -> Option<TcpStream>) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let kept: Vec<TcpStream> = listener
            .incoming()
            .filter_map(|stream| answer(stream.unwrap()))
            .collect();
        drop(kept);
    });
    port
}

/// Reads the first request of a client: one byte and a magic number, then one byte and a number that must be returned.
fn requested_number(stream: &mut TcpStream) -> Option<[u8; 4]> {
    let mut asked = [0; 10];
    stream.read_exact(&mut asked).ok()?;
    asked[6..].try_into().ok()
}

/// Completes the handshake like a store, then stays silent.
fn answers_the_handshake(mut stream: TcpStream) -> Option<TcpStream> {
    let number = requested_number(&mut stream)?;
    stream.write_all(&number).ok()?;
    Some(stream)
}

fn connect(answer: fn(TcpStream) -> Option<TcpStream>, timeout: Duration) -> Result<Store> {
    Store::connect("127.0.0.1", port(answer), timeout, None)
}

fn kind<T>(result: Result<T>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind)
}

#[test]
fn a_handshake_without_an_answer_times_out() {
    assert_eq!(kind(connect(Some, SHORT)), Some(ErrorKind::TimedOut));
    let half = |mut stream: TcpStream| {
        let number = requested_number(&mut stream)?;
        stream.write_all(&number[..2]).ok()?;
        Some(stream)
    };
    assert_eq!(kind(connect(half, SHORT)), Some(ErrorKind::TimedOut));
    assert!(connect(|_| None, SHORT).is_err(), "accepts and closes");
    let garbage = |mut stream: TcpStream| {
        requested_number(&mut stream)?;
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").ok()?;
        Some(stream)
    };
    assert!(connect(garbage, SHORT).is_err(), "another service");
}

#[test]
fn a_call_without_an_answer_times_out() {
    let store = connect(answers_the_handshake, SHORT).unwrap();
    assert_eq!(store.get("key", SHORT), Ok(None));
    assert_eq!(store.get("key", SHORT), Ok(None), "asked again");
    assert_eq!(kind(store.has("key")), Some(ErrorKind::TimedOut));
    let listen = Listen::Address("127.0.0.1".to_owned());
    let group = Group::gloo(&store.prefixed("group").unwrap(), 1, 2, &listen, SHORT);
    assert_eq!(kind(group), Some(ErrorKind::TimedOut));
}

#[test]
fn a_wait_can_be_cancelled() {
    let cancel: Cancel = Arc::new(|| true);
    let connected = Store::connect("127.0.0.1", port(Some), LONG, Some(&cancel));
    assert_eq!(kind(connected), Some(ErrorKind::Cancelled));
    let silent = port(answers_the_handshake);
    // The handshake ends before cancellation is polled.
    let never: Cancel = Arc::new(|| false);
    let mut store = Store::connect("127.0.0.1", silent, LONG, Some(&never)).unwrap();
    store.disable_cancel();
    assert_eq!(store.get("key", SHORT), Ok(None));
}
