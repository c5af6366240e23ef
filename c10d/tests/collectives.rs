//! Two ranks as two threads over real sockets of the loopback.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::net::{Ipv4Addr, TcpListener};
use std::thread;
use std::time::Duration;

use tch::{Kind, Tensor};
use tinygate_c10d::{Error, ErrorKind, Group, Listen, Store};

const PATIENCE: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(300);

fn listener() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()
}

/// The results of two ranks, with collectives that wait for `timeout`.
fn pair<T: Send>(timeout: Duration, rank: impl Fn(u32, &Store, Group) -> T + Sync) -> (T, T) {
    let listener = listener();
    let port = listener.local_addr().unwrap().port();
    let join = |number: u32, store: Store| {
        let listen = Listen::Address("127.0.0.1".to_owned());
        let group = Group::gloo(
            &store.prefixed("group").unwrap(),
            number,
            2,
            &listen,
            timeout,
        );
        rank(number, &store, group.unwrap())
    };
    thread::scope(|scope| {
        let first = scope.spawn(|| join(0, Store::serve(listener, PATIENCE).unwrap()));
        let second = scope.spawn(|| {
            join(
                1,
                Store::connect("127.0.0.1", port, PATIENCE, None).unwrap(),
            )
        });
        (first.join().unwrap(), second.join().unwrap())
    })
}

#[test]
fn sums_are_the_same_bits_on_all_ranks() {
    let sums = |rank: u32, _: &Store, group: Group| {
        let share = 0.1 + f64::from(rank);
        let mut weights = Tensor::from_slice(&[share as f32, 1e-8, -3.0]);
        let mut biases = Tensor::from_slice(&[share as f32]);
        group.sum(&mut [&mut weights, &mut biases]).unwrap();
        let mut loss = Tensor::from_slice(&[share]);
        group.sum(&mut [&mut loss]).unwrap();
        (
            Vec::<f32>::try_from(weights).unwrap(),
            Vec::<f32>::try_from(biases).unwrap(),
            loss.double_value(&[0]),
        )
    };
    let (first, second) = pair(PATIENCE, sums);
    assert_eq!(first.0, [0.1_f32 + 1.1, 2e-8, -6.0]);
    assert_eq!(first.1, [0.1_f32 + 1.1]);
    assert_eq!(first.2, 0.1 + 1.1);
    assert_eq!(first, second);
}

#[test]
fn a_broadcast_sends_the_tensor_of_the_root() {
    let shared = |rank: u32, _: &Store, group: Group| {
        let mut flat = Tensor::from_slice(&[f64::from(rank), 7.0]);
        group.broadcast(&mut flat, 1).unwrap();
        let mut bytes = Tensor::full([3], i64::from(rank), (Kind::Uint8, tch::Device::Cpu));
        group.broadcast(&mut bytes, 0).unwrap();
        (
            Vec::<f64>::try_from(flat).unwrap(),
            Vec::<u8>::try_from(bytes).unwrap(),
        )
    };
    let (first, second) = pair(PATIENCE, shared);
    assert_eq!(first, (vec![1.0, 7.0], vec![0; 3]));
    assert_eq!(first, second);
}

#[test]
fn the_store_returns_values_and_reports_missing_ones() {
    let keys = |rank: u32, store: &Store, _: Group| {
        if rank == 0 {
            store.set("empty", &[]).unwrap();
            store.set("bytes", &[0, 255, 10]).unwrap();
        }
        let missing = store.get("missing", SHORT).unwrap();
        assert!(!store.has("missing").unwrap());
        let empty = store.get("empty", PATIENCE).unwrap();
        let bytes = store.get("bytes", PATIENCE).unwrap();
        // Rank 0 serves the store, so it stays until the other rank has read everything.
        if rank == 1 {
            store.set("done", b"yes").unwrap();
        } else {
            store.get("done", PATIENCE).unwrap().unwrap();
        }
        (missing, empty, bytes)
    };
    let want = (None, Some(vec![]), Some(vec![0, 255, 10]));
    assert_eq!(pair(PATIENCE, keys), (want.clone(), want));
}

#[test]
fn a_silent_rank_times_out() {
    let outcome = |rank: u32, store: &Store, group: Group| {
        if rank == 1 {
            // Alive and connected, but not computing.
            store.get("timed out", PATIENCE).unwrap().unwrap();
            return None;
        }
        let mut one = Tensor::from_slice(&[1.0_f32]);
        let error = group.sum(&mut [&mut one]).unwrap_err();
        store.set("timed out", b"").unwrap();
        Some(error)
    };
    let (error, _) = pair(Duration::from_secs(10), outcome);
    let error = error.unwrap();
    assert_eq!(error.kind, ErrorKind::TimedOut, "{error}");
}

#[test]
fn a_rank_that_exits_breaks_the_connection() {
    let outcome = |rank: u32, _: &Store, group: Group| {
        let mut one = Tensor::from_slice(&[1.0_f32]);
        // Both are connected when it ends: a rank may return from its own connecting before the other one does.
        group.sum(&mut [&mut one]).unwrap();
        if rank == 1 {
            drop(group);
            return None;
        }
        Some(group.sum(&mut [&mut one]).unwrap_err())
    };
    let (error, _) = pair(PATIENCE, outcome);
    let error = error.unwrap();
    assert_eq!(error.kind, ErrorKind::Network, "{error}");
}

#[track_caller]
fn check(name: &str, made: Result<(), Error>, kinds: &[ErrorKind]) {
    let error = made.unwrap_err();
    assert!(kinds.contains(&error.kind), "{name}: {error:?}");
    assert!(!error.text.is_empty(), "{name}");
}

#[test]
fn unreachable_addresses_are_errors() {
    let free = listener().local_addr().unwrap().port();
    let network = [ErrorKind::TimedOut, ErrorKind::Network];
    check(
        "nothing listens",
        Store::connect("127.0.0.1", free, SHORT, None).map(drop),
        &network,
    );
    check(
        "no such host",
        Store::connect("no-such-host.invalid", free, SHORT, None).map(drop),
        &network,
    );
    check(
        "a zero byte",
        Store::connect("a\0b", free, SHORT, None).map(drop),
        &[ErrorKind::Other],
    );
    let store = Store::serve(listener(), PATIENCE).unwrap();
    check(
        "another machine's address",
        Group::gloo(
            &store,
            0,
            2,
            &Listen::Address("192.0.2.1".to_owned()),
            SHORT,
        )
        .map(drop),
        &[ErrorKind::Network, ErrorKind::Other],
    );
    check(
        "no such interface",
        Group::gloo(&store, 0, 2, &Listen::Interface("none0".to_owned()), SHORT).map(drop),
        &[ErrorKind::Network, ErrorKind::Other],
    );
    check(
        "the other rank never connects",
        Group::gloo(
            &store,
            0,
            2,
            &Listen::Address("127.0.0.1".to_owned()),
            SHORT,
        )
        .map(drop),
        &[ErrorKind::TimedOut, ErrorKind::Network],
    );
}
