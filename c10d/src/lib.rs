//! PyTorch's own collectives for tch tensors: c10d's TCPStore and its Gloo and NCCL process groups.
//!
//! tch exposes none of them, so a thin border of C++ does (`cpp/bridge.cpp`). What is done with it (who is which rank,
//! what is averaged when) is not decided here. All of the project's `unsafe` is in this crate.
//!
//! Invariant: an exception of libtorch becomes an [`Error`]; none crosses into Rust.

mod ffi;

use std::ffi::{CStr, CString, c_int, c_void};
use std::net::TcpListener;
use std::os::fd::IntoRawFd;
use std::ptr::{self, NonNull};
use std::time::Duration;

use tch::Tensor;

use ffi::{RawFailure, RawGroup, RawStore};

/// What libtorch said, and what kind of thing it was about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Error {
    pub kind: ErrorKind,
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Another rank, or the store, did not answer in time.
    TimedOut,
    /// A connection was refused or broke.
    Network,
    /// The store answered something else than what was asked for.
    Store,
    Other,
}

pub type Result<T> = std::result::Result<T, Error>;

/// Keys and values that all ranks see: a client of a TCPStore, and on one rank its server too.
pub struct Store {
    raw: NonNull<RawStore>,
}

// SAFETY: c10d's stores lock each operation; the pointer is owned by this value alone.
unsafe impl Send for Store {}

impl Store {
    /// Serves a store on `listener`, which says where it can be reached, and connects to it.
    ///
    /// # Errors
    /// What libtorch says of the socket.
    pub fn serve(listener: TcpListener, timeout: Duration) -> Result<Store> {
        let address = listener.local_addr().map_err(|error| Error {
            kind: ErrorKind::Network,
            text: error.to_string(),
        })?;
        // A socket that listens everywhere is reached over the loopback as well.
        let host = match (address.is_ipv4(), address.ip().is_unspecified()) {
            (true, true) => "127.0.0.1".to_owned(),
            (false, true) => "::1".to_owned(),
            (_, false) => address.ip().to_string(),
        };
        let host = text(&host)?;
        let listener = listener.into_raw_fd();
        Store::made(|failure| {
            // SAFETY: the text lives until the call is over; the descriptor is handed over for good.
            unsafe {
                ffi::tinygate_store_serve(
                    listener,
                    host.as_ptr(),
                    address.port(),
                    milliseconds(timeout),
                    failure,
                )
            }
        })
    }

    /// Connects to a store; asks again until `timeout` while nobody is there.
    ///
    /// # Errors
    /// [`ErrorKind::TimedOut`] or [`ErrorKind::Network`] where there is none.
    pub fn connect(host: &str, port: u16, timeout: Duration) -> Result<Store> {
        let host = text(host)?;
        Store::made(|failure| {
            // SAFETY: the text lives until the call is over.
            unsafe {
                ffi::tinygate_store_connect(host.as_ptr(), port, milliseconds(timeout), failure)
            }
        })
    }

    /// The same store, with `prefix/` before each key.
    ///
    /// # Errors
    /// A prefix with a zero byte.
    pub fn prefixed(&self, prefix: &str) -> Result<Store> {
        let prefix = text(prefix)?;
        Store::made(|failure| {
            // SAFETY: the store and the text live until the call is over; c10d counts its references.
            unsafe { ffi::tinygate_store_prefixed(self.raw.as_ptr(), prefix.as_ptr(), failure) }
        })
    }

    pub fn set(&self, key: &str, value: &[u8]) -> Result<()> {
        let key = text(key)?;
        done(|failure| {
            // SAFETY: all pointers live until the call is over, and the length is the value's.
            unsafe {
                ffi::tinygate_store_set(
                    self.raw.as_ptr(),
                    key.as_ptr(),
                    value.as_ptr(),
                    value.len(),
                    failure,
                )
            }
        })
    }

    /// Whether the key has a value by now.
    pub fn has(&self, key: &str) -> Result<bool> {
        let key = text(key)?;
        let mut there = false;
        done(|failure| {
            // SAFETY: all pointers live until the call is over.
            unsafe {
                ffi::tinygate_store_check(self.raw.as_ptr(), key.as_ptr(), &raw mut there, failure)
            }
        })?;
        Ok(there)
    }

    /// Waits for a value; `None` when none came within `timeout`.
    ///
    /// # Errors
    /// A store that is gone.
    pub fn get(&self, key: &str, timeout: Duration) -> Result<Option<Vec<u8>>> {
        let name = text(key)?;
        let waited = done(|failure| {
            // SAFETY: all pointers live until the call is over.
            unsafe {
                ffi::tinygate_store_wait(
                    self.raw.as_ptr(),
                    name.as_ptr(),
                    milliseconds(timeout),
                    failure,
                )
            }
        });
        match waited {
            Ok(()) => {}
            // The store does not say of what kind a time-out is; asking once more does.
            Err(_) if !self.has(key)? => return Ok(None),
            Err(_) => {}
        }
        let mut length = 0;
        let bytes = made(|failure| {
            // SAFETY: all pointers live until the call is over.
            unsafe {
                ffi::tinygate_store_get(self.raw.as_ptr(), name.as_ptr(), &raw mut length, failure)
            }
        })?;
        // SAFETY: the call answered with `length` bytes that are ours.
        let value = unsafe { std::slice::from_raw_parts(bytes.as_ptr(), length) }.to_vec();
        // SAFETY: they were allocated for us and are freed once.
        unsafe { ffi::tinygate_free_bytes(bytes.as_ptr()) };
        Ok(Some(value))
    }

    fn made(make: impl FnOnce(*mut RawFailure) -> *mut RawStore) -> Result<Store> {
        Ok(Store { raw: made(make)? })
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: the pointer is ours and is freed once.
        unsafe { ffi::tinygate_store_free(self.raw.as_ptr()) }
    }
}

/// Where a Gloo group listens for its other ranks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// An address of this machine, or a name of it.
    Address(String),
    /// A network interface, as `GLOO_SOCKET_IFNAME` names it.
    Interface(String),
}

/// Ranks that compute together. All ranks call the same functions in the same order.
pub struct Group {
    raw: NonNull<RawGroup>,
}

// SAFETY: the pointer is owned by this value alone; c10d's groups are not bound to a thread.
unsafe impl Send for Group {}

impl Group {
    /// Gloo, for tensors on the CPU. Returns when all `size` ranks are connected.
    ///
    /// # Errors
    /// Ranks that did not come within `timeout`, an address that is not this machine's.
    pub fn gloo(
        store: &Store,
        rank: u32,
        size: u32,
        listen: &Listen,
        timeout: Duration,
    ) -> Result<Group> {
        let (rank, size) = (count(rank)?, count(size)?);
        let (address, interface) = match listen {
            Listen::Address(address) => (Some(text(address)?), None),
            Listen::Interface(interface) => (None, Some(text(interface)?)),
        };
        let pointer =
            |text: &Option<CString>| text.as_ref().map_or(ptr::null(), |text| text.as_ptr());
        let raw = made(|failure| {
            // SAFETY: all pointers live until the call is over; exactly one of address and interface is null.
            unsafe {
                ffi::tinygate_group_gloo(
                    store.raw.as_ptr(),
                    rank,
                    size,
                    pointer(&address),
                    pointer(&interface),
                    milliseconds(timeout),
                    failure,
                )
            }
        })?;
        Ok(Group { raw })
    }

    /// NCCL, for tensors on CUDA devices. Untested: no run on a GPU is on record. Its ranks connect at the first
    /// collective; `loopback` keeps them on this machine.
    ///
    /// # Errors
    /// A build without NCCL, and what NCCL says.
    pub fn nccl(
        store: &Store,
        rank: u32,
        size: u32,
        loopback: bool,
        timeout: Duration,
    ) -> Result<Group> {
        let (rank, size) = (count(rank)?, count(size)?);
        let raw = made(|failure| {
            // SAFETY: all pointers live until the call is over.
            unsafe {
                ffi::tinygate_group_nccl(
                    store.raw.as_ptr(),
                    rank,
                    size,
                    loopback,
                    milliseconds(timeout),
                    failure,
                )
            }
        })?;
        Ok(Group { raw })
    }

    /// Replaces each tensor by its sum over all ranks. All are of one type and one device.
    pub fn sum(&self, tensors: &mut [&mut Tensor]) -> Result<()> {
        let mut pointers: Vec<*mut c_void> = tensors
            .iter_mut()
            .map(|tensor| tensor.as_mut_ptr().cast::<c_void>())
            .collect();
        done(|failure| {
            // SAFETY: each pointer is a live tensor of tch, borrowed for the whole call, which waits for the result.
            unsafe {
                ffi::tinygate_group_sum(
                    self.raw.as_ptr(),
                    pointers.as_mut_ptr(),
                    pointers.len(),
                    failure,
                )
            }
        })
    }

    /// Replaces `tensor` by the one of rank `root`.
    pub fn broadcast(&self, tensor: &mut Tensor, root: u32) -> Result<()> {
        done(|failure| {
            // SAFETY: a live tensor of tch, borrowed for the whole call, which waits for the result.
            unsafe {
                ffi::tinygate_group_broadcast(
                    self.raw.as_ptr(),
                    tensor.as_mut_ptr().cast::<c_void>(),
                    i64::from(root),
                    failure,
                )
            }
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // SAFETY: the pointer is ours and is freed once.
        unsafe { ffi::tinygate_group_free(self.raw.as_ptr()) }
    }
}

/// Whether this build can make NCCL groups.
pub fn has_nccl() -> bool {
    // SAFETY: takes nothing and touches nothing.
    unsafe { ffi::tinygate_has_nccl() }
}

fn made<T>(make: impl FnOnce(*mut RawFailure) -> *mut T) -> Result<NonNull<T>> {
    let mut failure = RawFailure::none();
    let made = make(&raw mut failure);
    NonNull::new(made).ok_or_else(|| failure.take())
}

fn done(work: impl FnOnce(*mut RawFailure) -> bool) -> Result<()> {
    let mut failure = RawFailure::none();
    if work(&raw mut failure) {
        Ok(())
    } else {
        Err(failure.take())
    }
}

impl RawFailure {
    fn none() -> RawFailure {
        RawFailure {
            kind: 0,
            text: ptr::null_mut(),
        }
    }

    fn take(self) -> Error {
        let text = if self.text.is_null() {
            "no message".to_owned()
        } else {
            // SAFETY: a text of C++ that ends with a zero and is ours.
            let text = unsafe { CStr::from_ptr(self.text) }
                .to_string_lossy()
                .into_owned();
            // SAFETY: it was allocated for us and is freed once.
            unsafe { ffi::tinygate_free_text(self.text) };
            text
        };
        let kind = match self.kind {
            ffi::TIMED_OUT => ErrorKind::TimedOut,
            ffi::NETWORK => ErrorKind::Network,
            ffi::STORE => ErrorKind::of_text(&text).unwrap_or(ErrorKind::Store),
            _ => ErrorKind::of_text(&text).unwrap_or(ErrorKind::Other),
        };
        Error { kind, text }
    }
}

impl ErrorKind {
    /// Time-outs of a store are its errors like all others, and Gloo's own exceptions come through c10d with their
    /// words alone.
    fn of_text(text: &str) -> Option<ErrorKind> {
        let text = text.to_ascii_lowercase();
        let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
        if says(&["timed out", "timeout", "time out"]) {
            Some(ErrorKind::TimedOut)
        } else if says(&["connect", "socket", "broken pipe"]) {
            Some(ErrorKind::Network)
        } else {
            None
        }
    }
}

fn text(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error {
        kind: ErrorKind::Other,
        text: format!("{text:?} holds a zero byte"),
    })
}

fn count(count: u32) -> Result<c_int> {
    c_int::try_from(count).map_err(|_| Error {
        kind: ErrorKind::Other,
        text: format!("{count} is more ranks than c10d counts"),
    })
}

fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}
