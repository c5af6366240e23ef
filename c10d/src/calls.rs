//! Calls into c10d that may never return.
//!
//! A store that accepts a connection and does not answer blocks its client for ever: c10d reads without a time limit. So
//! each call runs on a thread of its own, and its caller waits no longer than it wants to. A thread that is given up
//! ends with its connection, or with the process.
//!
//! Invariant: calls of one connection follow one another; none begins while an earlier one is unanswered.

use std::convert::Infallible;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::{Error, ErrorKind, Result};

/// Asked while a call is waited for: whether to give it up.
pub type Cut = Arc<dyn Fn() -> bool + Send + Sync>;

/// How often [`Cut`] is asked.
const LOOK: Duration = Duration::from_millis(100);
/// c10d has time limits of its own in most places, and says more when they are reached first.
const GRACE: Duration = Duration::from_millis(500);
/// What one look counts at most. A process that was stopped or suspended meanwhile did not wait: what was
/// answered to it is there when it continues.
const LOOK_MOST: Duration = Duration::from_secs(1);

/// The calls of one connection.
#[derive(Clone, Default)]
pub(crate) struct Calls {
    /// Closed when the call that was given up last has returned.
    unanswered: Arc<Mutex<Option<Receiver<Infallible>>>>,
    cut: Option<Cut>,
}

impl Calls {
    pub fn cut_by(cut: Option<&Cut>) -> Calls {
        Calls {
            unanswered: Arc::default(),
            cut: cut.cloned(),
        }
    }

    /// The same calls, which nothing ends early.
    pub fn uncut(&self) -> Calls {
        Calls {
            unanswered: Arc::clone(&self.unanswered),
            cut: None,
        }
    }

    /// Calls `work`, which should return within `limit`.
    ///
    /// # Errors
    /// Those of `work`; [`ErrorKind::TimedOut`] and [`ErrorKind::Cut`] where it is given up.
    pub fn call<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let mut left = limit + GRACE;
        let mut unanswered = self
            .unanswered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(earlier) = unanswered.as_ref() {
            match self.wait(earlier, &mut left) {
                Err(Waited::Ended) => *unanswered = None,
                Err(Waited::GivenUp(kind)) => return Err(given_up(kind, limit)),
                Ok(never) => match never {},
            }
        }
        let (ending, ended) = channel();
        let (answering, answer) = channel();
        let thread = thread::Builder::new().name("tinygate-c10d".to_owned());
        let spawned = thread.spawn(move || {
            // Nobody listens to a call that was given up.
            let _ = answering.send(work());
            drop(ending);
        });
        spawned.map_err(|error| other(error.to_string()))?;
        match self.wait(&answer, &mut left) {
            Ok(result) => result,
            Err(Waited::Ended) => Err(other("bug: a call of c10d panicked".to_owned())),
            Err(Waited::GivenUp(kind)) => {
                *unanswered = Some(ended);
                Err(given_up(kind, limit))
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
            let received = receiver.recv_timeout((*left).min(LOOK));
            *left = left.saturating_sub(counted(begun.elapsed()));
            match received {
                Ok(value) => return Ok(value),
                Err(RecvTimeoutError::Disconnected) => return Err(Waited::Ended),
                Err(RecvTimeoutError::Timeout) if left.is_zero() => {
                    return Err(Waited::GivenUp(ErrorKind::TimedOut));
                }
                Err(RecvTimeoutError::Timeout) => {
                    if self.cut.as_ref().is_some_and(|cut| cut()) {
                        return Err(Waited::GivenUp(ErrorKind::Cut));
                    }
                }
            }
        }
    }
}

/// How much of a time limit a look takes.
fn counted(elapsed: Duration) -> Duration {
    elapsed.min(LOOK_MOST)
}

enum Waited {
    Ended,
    GivenUp(ErrorKind),
}

fn given_up(kind: ErrorKind, limit: Duration) -> Error {
    let text = if kind == ErrorKind::Cut {
        "given up".to_owned()
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
    fn a_process_that_was_stopped_did_not_wait() {
        assert_eq!(
            counted(Duration::from_millis(100)),
            Duration::from_millis(100)
        );
        assert_eq!(counted(Duration::from_secs(3600)), LOOK_MOST);
    }
}
