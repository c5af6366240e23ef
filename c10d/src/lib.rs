//! PyTorch's own collectives for tch tensors: c10d's TCPStore and its Gloo and NCCL process groups.
//!
//! tch does not expose them, so a thin C interface in C++ does (`cpp/bridge.cpp`). Who is which rank and what is averaged
//! when is up to the caller. All of the project's `unsafe` is in this crate.
//!
//! Invariant: an exception of libtorch becomes an [`Error`]; none crosses into Rust.

mod calls;
mod error;
mod ffi;

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::net::TcpListener;
use std::os::fd::IntoRawFd;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::Duration;

use tch::{Device, Kind, Tensor};

use calls::Calls;
pub use calls::Cancel;
pub use error::{Error, ErrorKind, Result};

use ffi::{RawFailure, RawGroup, RawStore};

/// Keys and values that all ranks see: a client of a TCPStore, and on one rank its server too.
///
/// If the store does not answer, a call ends at its own time limit, or at that of the connection if it has none.
pub struct Store {
    raw: Arc<OwnedStore>,
    calls: Calls,
    timeout: Duration,
}

struct OwnedStore(NonNull<RawStore>);

// SAFETY: c10d's stores lock each operation and count their references; the pointer is freed once, by its owner.
unsafe impl Send for OwnedStore {}
// SAFETY: as above.
unsafe impl Sync for OwnedStore {}

impl Drop for OwnedStore {
    fn drop(&mut self) {
        // SAFETY: we own the pointer and free it once.
        unsafe { ffi::tinygate_store_free(self.0.as_ptr()) }
    }
}

impl Store {
    /// Serves a store on `listener`, and connects to it.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn serve(listener: TcpListener, timeout: Duration) -> Result<Store> {
        let address = listener.local_addr().map_err(|error| Error {
            kind: ErrorKind::Network,
            text: error.to_string(),
        })?;
        // A socket that listens on all addresses can be reached over the loopback.
        let host = match (address.is_ipv4(), address.ip().is_unspecified()) {
            (true, true) => "127.0.0.1".to_owned(),
            (false, true) => "::1".to_owned(),
            (_, false) => address.ip().to_string(),
        };
        let host = text(&host)?;
        let listener = listener.into_raw_fd();
        Store::made(timeout, None, move |failure| {
            // SAFETY: the text lives until the call returns; the descriptor is handed over for good.
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

    /// Connects to a store. Retries until `timeout` while nothing listens at the address, and waits as long for a
    /// service that does not answer like a store. `cancel` ends this wait early, and those of later calls.
    ///
    /// # Errors
    /// [`ErrorKind::TimedOut`] or [`ErrorKind::Network`] if no store can be reached.
    pub fn connect(
        host: &str,
        port: u16,
        timeout: Duration,
        cancel: Option<&Cancel>,
    ) -> Result<Store> {
        let host = text(host)?;
        Store::made(timeout, cancel, move |failure| {
            // SAFETY: the text lives until the call returns.
            unsafe {
                ffi::tinygate_store_connect(host.as_ptr(), port, milliseconds(timeout), failure)
            }
        })
    }

    /// Later calls cannot be cancelled.
    pub fn disable_cancel(&mut self) {
        self.calls = self.calls.without_cancel();
    }

    /// The same store, with `prefix/` before each key.
    ///
    /// # Errors
    /// A prefix that contains a zero byte.
    pub fn prefixed(&self, prefix: &str) -> Result<Store> {
        let prefix = text(prefix)?;
        let raw = made(|failure| {
            // SAFETY: the store and the text live until the call returns; nothing is sent.
            unsafe { ffi::tinygate_store_prefixed(self.raw.0.as_ptr(), prefix.as_ptr(), failure) }
        })?;
        Ok(Store {
            raw: Arc::new(OwnedStore(raw)),
            calls: self.calls.clone(),
            timeout: self.timeout,
        })
    }

    pub fn set(&self, key: &str, value: &[u8]) -> Result<()> {
        let (key, value) = (text(key)?, value.to_vec());
        let raw = Arc::clone(&self.raw);
        self.calls.call(self.timeout, move || {
            done(|failure| {
                // SAFETY: all pointers live until the call returns, and the length is the value's.
                unsafe {
                    ffi::tinygate_store_set(
                        raw.0.as_ptr(),
                        key.as_ptr(),
                        value.as_ptr(),
                        value.len(),
                        failure,
                    )
                }
            })
        })
    }

    /// Whether the key has a value by now.
    pub fn has(&self, key: &str) -> Result<bool> {
        let key = text(key)?;
        let raw = Arc::clone(&self.raw);
        self.calls.call(self.timeout, move || raw.has(&key))
    }

    /// Waits for a value. `None` if there is none within `timeout`, or if the store does not answer.
    ///
    /// # Errors
    /// A store that no longer exists.
    pub fn get(&self, key: &str, timeout: Duration) -> Result<Option<Vec<u8>>> {
        let key = text(key)?;
        let raw = Arc::clone(&self.raw);
        let got = self.calls.call(timeout, move || raw.get(&key, timeout));
        match got {
            Err(error) if error.kind == ErrorKind::TimedOut => Ok(None),
            got => got,
        }
    }

    fn made(
        timeout: Duration,
        cancel: Option<&Cancel>,
        make: impl FnOnce(*mut RawFailure) -> *mut RawStore + Send + 'static,
    ) -> Result<Store> {
        let calls = Calls::new(cancel);
        let raw = calls.call(timeout, move || made(make).map(OwnedStore))?;
        Ok(Store {
            raw: Arc::new(raw),
            calls,
            timeout,
        })
    }
}

impl OwnedStore {
    fn has(&self, key: &CStr) -> Result<bool> {
        let mut there = false;
        done(|failure| {
            // SAFETY: all pointers live until the call returns.
            unsafe {
                ffi::tinygate_store_check(self.0.as_ptr(), key.as_ptr(), &raw mut there, failure)
            }
        })?;
        Ok(there)
    }

    fn get(&self, key: &CStr, timeout: Duration) -> Result<Option<Vec<u8>>> {
        let waited = done(|failure| {
            // SAFETY: all pointers live until the call returns.
            unsafe {
                ffi::tinygate_store_wait(
                    self.0.as_ptr(),
                    key.as_ptr(),
                    milliseconds(timeout),
                    failure,
                )
            }
        });
        match waited {
            Ok(()) => {}
            // The error does not say whether the wait timed out; checking the key does.
            Err(_) if !self.has(key)? => return Ok(None),
            Err(_) => {}
        }
        let mut length = 0;
        let bytes = made(|failure| {
            // SAFETY: all pointers live until the call returns.
            unsafe {
                ffi::tinygate_store_get(self.0.as_ptr(), key.as_ptr(), &raw mut length, failure)
            }
        })?;
        // SAFETY: the call returned `length` bytes that we own.
        let value = unsafe { std::slice::from_raw_parts(bytes.as_ptr(), length) }.to_vec();
        // SAFETY: we own them and free them once.
        unsafe { ffi::tinygate_free_bytes(bytes.as_ptr()) };
        Ok(Some(value))
    }
}

/// Where a Gloo group listens for its other ranks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// An address or a host name of this machine.
    Address(String),
    /// A network interface, as `GLOO_SOCKET_IFNAME` names it.
    Interface(String),
}

/// A group of ranks that compute together. All ranks call the same functions in the same order.
pub struct Group {
    raw: NonNull<RawGroup>,
}

// SAFETY: the pointer is owned by this value alone; c10d's groups are not bound to a thread.
unsafe impl Send for Group {}

impl Group {
    /// Gloo, for tensors on the CPU. Returns when all `size` ranks are connected.
    ///
    /// # Errors
    /// Ranks that did not connect within `timeout`, or an address that this machine does not have.
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
        fn pointer(text: &Option<CString>) -> *const c_char {
            text.as_ref().map_or(ptr::null(), |text| text.as_ptr())
        }
        let raw = Arc::clone(&store.raw);
        store.calls.call(timeout, move || {
            let group = made(|failure| {
                // SAFETY: all pointers live until the call returns; exactly one of address and interface is null.
                unsafe {
                    ffi::tinygate_group_gloo(
                        raw.0.as_ptr(),
                        rank,
                        size,
                        pointer(&address),
                        pointer(&interface),
                        milliseconds(timeout),
                        failure,
                    )
                }
            })?;
            Ok(Group { raw: group })
        })
    }

    /// NCCL, for tensors on this rank's CUDA `device`. Untested: it has not run on a GPU. `loopback` keeps its
    /// ranks on this machine. Returns when all `size` ranks are connected.
    ///
    /// # Errors
    /// A build without NCCL, or an error of NCCL.
    pub fn nccl(
        store: &Store,
        rank: u32,
        size: u32,
        device: Device,
        loopback: bool,
        timeout: Duration,
    ) -> Result<Group> {
        let (rank, size) = (count(rank)?, count(size)?);
        let raw = Arc::clone(&store.raw);
        store.calls.call(timeout, move || {
            let group = made(|failure| {
                // SAFETY: all pointers live until the call returns.
                unsafe {
                    ffi::tinygate_group_nccl(
                        raw.0.as_ptr(),
                        rank,
                        size,
                        loopback,
                        milliseconds(timeout),
                        failure,
                    )
                }
            })?;
            let group = Group { raw: group };
            // NCCL connects the ranks in the first collective.
            let one = Tensor::f_ones([1], (Kind::Float, device));
            let mut one = one.map_err(|error| Error {
                kind: ErrorKind::Other,
                text: error.to_string(),
            })?;
            group.sum(&mut [&mut one])?;
            Ok(group)
        })
    }

    /// Replaces each tensor by its sum over all ranks. All have the same type and device.
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

    /// Replaces `tensor` by that of rank `root`.
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
        // SAFETY: we own the pointer and free it once.
        unsafe { ffi::tinygate_group_free(self.raw.as_ptr()) }
    }
}

/// The driver's name of the CUDA device with libtorch's `index`; `None` if there is no such device or no driver.
pub fn cuda_card(index: u32) -> Option<String> {
    let index = c_int::try_from(index).ok()?;
    // SAFETY: takes a number; returns null or a zero-terminated string that we own.
    let name = NonNull::new(unsafe { ffi::tinygate_cuda_card(index) })?;
    // SAFETY: as above.
    let text = unsafe { CStr::from_ptr(name.as_ptr()) }
        .to_string_lossy()
        .into_owned();
    // SAFETY: we own it and free it once.
    unsafe { ffi::tinygate_free_text(name.as_ptr()) };
    Some(text)
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
            // SAFETY: a zero-terminated string that we own.
            let text = unsafe { CStr::from_ptr(self.text) }
                .to_string_lossy()
                .into_owned();
            // SAFETY: we own it and free it once.
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

fn text(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error {
        kind: ErrorKind::Other,
        text: format!("{text:?} contains a zero byte"),
    })
}

fn count(count: u32) -> Result<c_int> {
    c_int::try_from(count).map_err(|_| Error {
        kind: ErrorKind::Other,
        text: format!("{count} is more ranks than c10d supports"),
    })
}

fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}
