//! Calls into c10d that may never return.
//!
//! A store that accepts a connection and never answers blocks its client forever: c10d reads without a time limit. So
//! each call runs on its own thread, and the caller stops waiting when the call's time limit is over. An abandoned thread
//! ends with its connection or with the process.
//!
//! Invariant: the calls on one connection run one at a time, in order.

use std::convert::Infallible;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};

/// Polled while a call runs: whether to stop waiting for it.
pub type Cancel = Arc<dyn Fn() -> bool + Send + Sync>;

/// How often [`Cancel`] is polled.
const POLL: Duration = Duration::from_millis(100);
/// Added to each limit: most calls have a time limit inside c10d, whose errors say more than ours.
const GRACE: Duration = Duration::from_millis(500);
/// One poll counts as at most this much waiting. While a process is stopped or suspended it does not wait: any answer
/// is there when it continues.
const POLL_MOST: Duration = Duration::from_secs(1);

/// The calls of one connection.
#[derive(Clone, Default)]
pub(crate) struct Calls {
    /// Closes when the call that was abandoned last returns.
    abandoned: Arc<Mutex<Option<Receiver<Infallible>>>>,
    cancel: Option<Cancel>,
}

impl Calls {
    pub fn new(cancel: Option<&Cancel>) -> Calls {
        Calls {
            abandoned: Arc::default(),
            cancel: cancel.cloned(),
        }
    }

    /// The same connection, whose calls cannot be cancelled.
    pub fn without_cancel(&self) -> Calls {
        Calls {
            abandoned: Arc::clone(&self.abandoned),
            cancel: None,
        }
    }

    /// Calls `work`, which should return within `limit`.
    ///
    /// # Errors
    /// Those of `work`; [`ErrorKind::TimedOut`] or [`ErrorKind::Cancelled`] if the call is abandoned.
    pub fn call<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let mut left = limit + GRACE;
        let mut abandoned = self
            .abandoned
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(earlier) = abandoned.as_ref() {
            match self.wait(earlier, &mut left) {
                Err(Waited::Ended) => *abandoned = None,
                Err(Waited::Abandoned(kind)) => return Err(abandoned_error(kind, limit)),
                Ok(never) => match never {},
            }
        }
        let (ending, ended) = channel();
        let (answering, answer) = channel();
        let thread = thread::Builder::new().name("tinygate-c10d".to_owned());
        let spawned = thread.spawn(move || {
            // An abandoned call has no receiver.
            let _ = answering.send(work());
            drop(ending);
        });
        spawned.map_err(|error| other(error.to_string()))?;
        match self.wait(&answer, &mut left) {
            Ok(result) => result,
            Err(Waited::Ended) => Err(other("bug: a call of c10d panicked".to_owned())),
            Err(Waited::Abandoned(kind)) => {
                *abandoned = Some(ended);
                Err(abandoned_error(kind, limit))
            }
        }
    }

    fn wait<T>(
        &self,
        receiver: &Receiver<T>,
        left: &mut Duration,
    ) -> std::result::Result<T, Waited> {
        loop {
            let begun = Instant::now();
            let received = receiver.recv_timeout((*left).min(POLL));
            *left = left.saturating_sub(counted(begun.elapsed()));
            match received {
                Ok(value) => return Ok(value),
                Err(RecvTimeoutError::Disconnected) => return Err(Waited::Ended),
                Err(RecvTimeoutError::Timeout) if left.is_zero() => {
                    return Err(Waited::Abandoned(ErrorKind::TimedOut));
                }
                Err(RecvTimeoutError::Timeout) => {
                    if self.cancel.as_ref().is_some_and(|cancel| cancel()) {
                        return Err(Waited::Abandoned(ErrorKind::Cancelled));
                    }
                }
            }
        }
    }
}

/// How much of a time limit a poll uses up.
fn counted(elapsed: Duration) -> Duration {
    elapsed.min(POLL_MOST)
}

enum Waited {
    Ended,
    Abandoned(ErrorKind),
}

fn abandoned_error(kind: ErrorKind, limit: Duration) -> Error {
    let text = if kind == ErrorKind::Cancelled {
        "cancelled".to_owned()
    } else {
        format!("no answer within {} s", limit.as_secs_f64())
    };
    Error { kind, text }
}

fn other(text: String) -> Error {
    Error {
        kind: ErrorKind::Other,
        text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suspended_process_does_not_use_up_its_limit() {
        assert_eq!(
            counted(Duration::from_millis(100)),
            Duration::from_millis(100)
        );
        assert_eq!(counted(Duration::from_secs(3600)), POLL_MOST);
    }
}
