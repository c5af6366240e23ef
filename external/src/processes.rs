//! The processes of a program: who they are, and how all of them are ended.
//!
//! A launcher may put each rank into a session of its own, and a rank may leave processes behind. They
//! are found by their process group, by what the program reported, and on Linux by the token in their
//! environment. A process is never ended by name, and never by a pid alone, which another process may
//! have by now.

use std::fs;
use std::time::Duration;

use rustix::process::{Pid, Signal, getpgid, kill_process_group};
use serde::{Deserialize, Serialize};

use crate::TOKEN;

/// A process that cannot be confused with a later one that has the same pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub pid: u32,
    /// Clock ticks since boot. `None` where there is no `/proc`: such a process is never signalled.
    pub start_time: Option<u64>,
}

impl Identity {
    /// A process that runs now.
    pub fn of(pid: u32) -> Identity {
        Identity {
            pid,
            start_time: running_since(pid),
        }
    }

    /// Whether it still runs. A zombie does not.
    pub fn is_running(&self) -> bool {
        self.start_time.is_some() && self.start_time == running_since(self.pid)
    }
}

/// When the process with this pid started; `None` if none runs, or without `/proc`.
fn running_since(pid: u32) -> Option<u64> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may contain spaces and parentheses.
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = String::from_utf8_lossy(stat.get(end + 1..)?).into_owned();
    let mut fields = rest.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X" | "x") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Every process that has this token in its environment. Empty without `/proc`.
pub fn with_token(token: &str) -> Vec<Identity> {
    let entry = format!("{TOKEN}={token}").into_bytes();
    let Ok(all) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = all.filter_map(|process| process.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let has_token = |pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment
            .split(|byte| *byte == 0)
            .any(|found| found == entry)
    };
    let found = pids.filter(|pid| *pid != std::process::id());
    let found = found.filter(has_token).map(Identity::of);
    found.filter(Identity::is_running).collect()
}

/// Those of `known` that still run, and every process with the token.
pub fn running(known: &[Identity], token: &str) -> Vec<Identity> {
    let mut found = with_token(token);
    for identity in known.iter().filter(|identity| identity.is_running()) {
        if !found.contains(identity) {
            found.push(*identity);
        }
    }
    found
}

/// How often processes are looked for that were started meanwhile.
const ROUNDS: u32 = 200;
const PAUSE: Duration = Duration::from_millis(10);

/// Kills those of `known` that still run, and every process with the token. Waits until they are gone,
/// but not for ever: the kernel cannot end a process that waits for a disk.
pub fn end_all(known: &[Identity], token: &str) {
    for _ in 0..ROUNDS {
        let found = running(known, token);
        if found.is_empty() {
            return;
        }
        found.iter().for_each(kill);
        std::thread::sleep(PAUSE);
    }
    let left = running(known, token);
    tracing::warn!("processes of the trainer cannot be ended: {left:?}");
}

/// Kills a process, and its group if it leads one.
fn kill(identity: &Identity) {
    let pid = i32::try_from(identity.pid).ok().and_then(Pid::from_raw);
    let Some(pid) = pid.filter(|_| identity.pid != std::process::id()) else {
        return;
    };
    if getpgid(Some(pid)) == Ok(pid) && identity.is_running() {
        // An error means that it is gone.
        let _ = kill_process_group(pid, Signal::KILL);
    }
    kill_exactly(identity, pid);
}

/// The descriptor refers to one process even if its pid is given to another.
#[cfg(target_os = "linux")]
fn kill_exactly(identity: &Identity, pid: Pid) {
    use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};
    if let Ok(process) = pidfd_open(pid, PidfdFlags::empty())
        && identity.is_running()
    {
        let _ = pidfd_send_signal(process, Signal::KILL);
    }
}

#[cfg(not(target_os = "linux"))]
fn kill_exactly(identity: &Identity, pid: Pid) {
    if identity.is_running() {
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_of_another_start_is_not_the_process() {
        let own = Identity::of(std::process::id());
        if own.start_time.is_none() {
            // There is no /proc.
            return;
        }
        assert!(own.is_running());
        let later = Identity {
            start_time: own.start_time.map(|start| start + 1),
            ..own
        };
        assert!(!later.is_running());
        let unknown = Identity {
            start_time: None,
            ..own
        };
        assert!(!unknown.is_running());
    }
}
