//! This process, as a run's log records it.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::events::{FallbackGranted, ProcessStarted};
use crate::store::host_name;

/// The ranks that train a run together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub size: u32,
    /// Why they are fewer than the run asked for; recorded once.
    pub fallback: Option<FallbackGranted>,
}

impl Group {
    /// One rank: this process.
    pub const fn alone() -> Group {
        Group {
            size: 1,
            fallback: None,
        }
    }
}

/// This process on one thread, without a device. A caller that has more replaces those fields.
pub fn this_process() -> ProcessStarted {
    ProcessStarted {
        host: host_name(),
        pid: std::process::id(),
        tinygate_version: env!("CARGO_PKG_VERSION").to_owned(),
        libtorch_version: "none".to_owned(),
        devices: Vec::new(),
        threads: 1,
        cards: Vec::new(),
    }
}

/// Milliseconds since 1970-01-01 UTC; 0 where the system clock is before that.
pub fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}
