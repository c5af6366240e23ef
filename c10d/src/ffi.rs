//! The declarations of `cpp/bridge.h`.

use std::ffi::{c_char, c_int, c_void};

pub const TIMED_OUT: i32 = 1;
pub const NETWORK: i32 = 2;
pub const STORE: i32 = 3;

#[repr(C)]
pub struct RawFailure {
    pub kind: i32,
    pub text: *mut c_char,
}

#[repr(C)]
pub struct RawStore {
    _private: [u8; 0],
}

#[repr(C)]
pub struct RawGroup {
    _private: [u8; 0],
}

unsafe extern "C" {
    pub fn tinygate_free_text(text: *mut c_char);
    pub fn tinygate_free_bytes(bytes: *mut u8);
    pub fn tinygate_store_serve(
        listener: c_int,
        host: *const c_char,
        port: u16,
        timeout_ms: i64,
        failure: *mut RawFailure,
    ) -> *mut RawStore;
    pub fn tinygate_store_connect(
        host: *const c_char,
        port: u16,
        timeout_ms: i64,
        failure: *mut RawFailure,
    ) -> *mut RawStore;
    pub fn tinygate_store_prefixed(
        store: *const RawStore,
        prefix: *const c_char,
        failure: *mut RawFailure,
    ) -> *mut RawStore;
    pub fn tinygate_store_free(store: *mut RawStore);
    pub fn tinygate_store_set(
        store: *const RawStore,
        key: *const c_char,
        bytes: *const u8,
        length: usize,
        failure: *mut RawFailure,
    ) -> bool;
    pub fn tinygate_store_check(
        store: *const RawStore,
        key: *const c_char,
        there: *mut bool,
        failure: *mut RawFailure,
    ) -> bool;
    pub fn tinygate_store_wait(
        store: *const RawStore,
        key: *const c_char,
        timeout_ms: i64,
        failure: *mut RawFailure,
    ) -> bool;
    pub fn tinygate_store_get(
        store: *const RawStore,
        key: *const c_char,
        length: *mut usize,
        failure: *mut RawFailure,
    ) -> *mut u8;
    pub fn tinygate_group_gloo(
        store: *const RawStore,
        rank: c_int,
        size: c_int,
        address: *const c_char,
        interface: *const c_char,
        timeout_ms: i64,
        failure: *mut RawFailure,
    ) -> *mut RawGroup;
    pub fn tinygate_has_nccl() -> bool;
    pub fn tinygate_cuda_card(index: c_int) -> *mut c_char;
    pub fn tinygate_group_nccl(
        store: *const RawStore,
        rank: c_int,
        size: c_int,
        loopback: bool,
        timeout_ms: i64,
        failure: *mut RawFailure,
    ) -> *mut RawGroup;
    pub fn tinygate_group_free(group: *mut RawGroup);
    pub fn tinygate_group_sum(
        group: *const RawGroup,
        tensors: *const *mut c_void,
        count: usize,
        failure: *mut RawFailure,
    ) -> bool;
    pub fn tinygate_group_broadcast(
        group: *const RawGroup,
        tensor: *mut c_void,
        root: i64,
        failure: *mut RawFailure,
    ) -> bool;
}
