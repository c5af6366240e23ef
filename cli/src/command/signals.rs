//! Signals that ask a run to stop with a checkpoint.
//!
//! The first SIGINT or SIGTERM asks, the second ends the process at once. SIGHUP, sent when a
//! terminal closes, and SIGUSR1, sent by Slurm before a job's limit (`--signal=USR1@120`), only ask.
//! A SIGHUP that is ignored when the program starts, as under `nohup`, stays ignored.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;
use signal_hook::low_level;
use tinygate::trainer::StopRequest;

use crate::exit::Exit;
use crate::output;

/// Listens from now on, on another thread.
pub fn listen(quiet: bool) -> io::Result<Arc<StopRequest>> {
    let insisted = AtomicBool::new(false);
    on_each(move |stop, signal| {
        // A shell repeats a hangup that the kernel has sent, and a job manager may warn twice. Only a
        // person or a deadline sends these two.
        let insists = matches!(signal, "SIGINT" | "SIGTERM");
        if insists && insisted.swap(true, Ordering::Relaxed) {
            // What was acknowledged is durable, and the next process cleans up the rest.
            low_level::exit(i32::from(Exit::Interrupted.code()));
        }
        let first = stop.requested().is_none();
        stop.request(signal);
        if !quiet && (first || insists) {
            let more = if insists {
                "once more"
            } else {
                "SIGTERM twice"
            };
            output::say(&format!(
                "{signal}: stopping at the next update; {more} stops at once"
            ));
        }
    })
}

/// Notes signals and continues: for a rank that rank 0 ends.
pub fn note() -> io::Result<Arc<StopRequest>> {
    on_each(StopRequest::request)
}

fn on_each(react: impl Fn(&StopRequest, &str) + Send + 'static) -> io::Result<Arc<StopRequest>> {
    let stop = Arc::new(StopRequest::default());
    let asked = Arc::clone(&stop);
    let mut signals = Signals::new(wanted(is_ignored(SIGHUP)))?;
    std::thread::Builder::new()
        .name("tinygate-signals".to_owned())
        .spawn(move || {
            for signal in signals.forever() {
                react(&asked, name(signal));
            }
        })?;
    Ok(stop)
}

fn wanted(hangup_is_ignored: bool) -> Vec<i32> {
    let mut signals = vec![SIGINT, SIGTERM, SIGUSR1];
    if !hangup_is_ignored {
        signals.push(SIGHUP);
    }
    signals
}

/// Whether a signal was ignored when this process started, as far as the system says.
fn is_ignored(signal: i32) -> bool {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else {
        return false;
    };
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

fn name(signal: i32) -> &'static str {
    match signal {
        SIGINT => "SIGINT",
        SIGHUP => "SIGHUP",
        SIGUSR1 => "SIGUSR1",
        _ => "SIGTERM",
    }
}
