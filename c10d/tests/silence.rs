//! Stores that accept a connection and do not answer, or not as a store does.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tinygate_c10d::{Cut, ErrorKind, Group, Listen, Result, Store};

const LONG: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_millis(300);

/// A port where every connection is served by `answer`, and kept open after it if there is one to keep.
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

/// What a client asks first: one byte and a magic number, then one byte and a number that must come back.
fn number_asked_for(stream: &mut TcpStream) -> Option<[u8; 4]> {
    let mut asked = [0; 10];
    stream.read_exact(&mut asked).ok()?;
    asked[6..].try_into().ok()
}

/// A store up to the end of the handshake, and silent after it.
fn answers_the_handshake(mut stream: TcpStream) -> Option<TcpStream> {
    let number = number_asked_for(&mut stream)?;
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
fn nobody_waits_longer_for_a_handshake_than_the_time_limit() {
    assert_eq!(kind(connect(Some, SHORT)), Some(ErrorKind::TimedOut));
    let half = |mut stream: TcpStream| {
        let number = number_asked_for(&mut stream)?;
        stream.write_all(&number[..2]).ok()?;
        Some(stream)
    };
    assert_eq!(kind(connect(half, SHORT)), Some(ErrorKind::TimedOut));
    assert!(connect(|_| None, SHORT).is_err(), "accepts and closes");
    let garbage = |mut stream: TcpStream| {
        number_asked_for(&mut stream)?;
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").ok()?;
        Some(stream)
    };
    assert!(connect(garbage, SHORT).is_err(), "another service");
}

#[test]
fn nobody_waits_longer_for_an_answer_than_the_time_limit() {
    let store = connect(answers_the_handshake, SHORT).unwrap();
    assert_eq!(store.get("key", SHORT), Ok(None));
    assert_eq!(store.get("key", SHORT), Ok(None), "asked again");
    assert_eq!(kind(store.has("key")), Some(ErrorKind::TimedOut));
    let listen = Listen::Address("127.0.0.1".to_owned());
    let group = Group::gloo(&store.prefixed("group").unwrap(), 1, 2, &listen, SHORT);
    assert_eq!(kind(group), Some(ErrorKind::TimedOut));
}

#[test]
fn a_wait_is_given_up_when_its_caller_says_so() {
    let cut: Cut = Arc::new(|| true);
    let connected = Store::connect("127.0.0.1", port(Some), LONG, Some(&cut));
    assert_eq!(kind(connected), Some(ErrorKind::Cut));
    let silent = port(answers_the_handshake);
    // The handshake is over before anybody asks whether to go on.
    let never: Cut = Arc::new(|| false);
    let mut store = Store::connect("127.0.0.1", silent, LONG, Some(&never)).unwrap();
    store.uncut();
    assert_eq!(store.get("key", SHORT), Ok(None));
}
