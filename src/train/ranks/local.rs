//! Ranks that rank 0 starts as processes of its own program on the same machine.
//!
//! Invariant: a worker does not outlive rank 0. It holds a pipe that closes when rank 0 ends, however that happens, and
//! on Linux it is also killed via `PR_SET_PDEATHSIG`. No zombie is left behind: every worker is waited for.

use std::io::{self, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};

use super::job::Job;

/// The program's hidden command that makes it a worker.
pub const WORKER_COMMAND: &str = "worker";
/// The environment variable with rank 0's process id, by which a worker notices that rank 0 has exited already.
pub const LEADER_VARIABLE: &str = "TINYGATE_LEADER";
/// How much of the end of a worker's standard error is kept, in bytes.
const STDERR_MOST: usize = 8 << 10;

pub(super) struct Worker {
    pub rank: u32,
    child: Child,
    stderr: Arc<Mutex<Vec<u8>>>,
    /// Closes when the worker's standard error does.
    ended: Receiver<()>,
}

impl Worker {
    /// Starts `program` as the rank that `job` describes.
    pub fn start(program: &Path, job: &Job) -> io::Result<Worker> {
        let mut child = Command::new(program)
            .arg(WORKER_COMMAND)
            .envs(job.variables())
            .env(LEADER_VARIABLE, std::process::id().to_string())
            // These describe the job of rank 0's launcher, not this one.
            .env_remove("TORCHELASTIC_USE_AGENT_STORE")
            .env_remove("GLOO_SOCKET_IFNAME")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let (closing, ended) = bounded(0);
        let pipe = child.stderr.take();
        let worker = Worker {
            rank: job.rank,
            child,
            stderr: Arc::new(Mutex::new(Vec::new())),
            ended,
        };
        if let Some(mut pipe) = pipe {
            let kept = Arc::clone(&worker.stderr);
            std::thread::Builder::new()
                .name(format!("tinygate-rank-{}", job.rank))
                .spawn(move || {
                    keep_end(&mut pipe, &kept);
                    drop(closing);
                })?;
        }
        Ok(worker)
    }

    /// Its exit status, if it exits within `patience`.
    pub fn ended(&mut self, patience: Duration) -> Option<ExitStatus> {
        match self.ended.recv_timeout(patience) {
            // Its standard error is closed, so it is about to exit.
            Err(crossbeam_channel::RecvTimeoutError::Disconnected) | Ok(()) => {
                self.child.wait().ok()
            }
            Err(crossbeam_channel::RecvTimeoutError::Timeout) => None,
        }
    }

    /// Its rank and process id, for messages.
    pub fn name(&self) -> String {
        format!("rank {} (pid {})", self.rank, self.child.id())
    }

    /// The end of what it wrote to standard error.
    pub fn stderr(&self) -> String {
        let kept = self.stderr.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&kept).trim().to_owned()
    }
}

/// Kills the worker if it still runs, and waits for it.
impl Drop for Worker {
    fn drop(&mut self) {
        // Both fail only for a process that exited and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits up to `patience` in total for all of them to exit.
pub(super) fn all_ended(workers: &mut [Worker], patience: Duration) {
    let until = Instant::now() + patience;
    for worker in workers {
        worker.ended(until.saturating_duration_since(Instant::now()));
    }
}

fn keep_end(pipe: &mut impl Read, kept: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 4096];
    loop {
        match pipe.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend_from_slice(buffer.get(..count).unwrap_or_default());
                let surplus = kept.len().saturating_sub(STDERR_MOST);
                kept.drain(..surplus);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}
