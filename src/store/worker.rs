//! Handles the messages to a log: groups appends, commits them, replies.
//!
//! Only the worker writes to the journal and the mirror, with one clock: lazy appends are
//! committed within [`LAZY_COMMIT`], and the mirror follows within [`LAZY`]. It runs on a
//! separate thread, or step by step on its caller's.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::event_log::AppendError;
use super::writer::{EncodedAppend, Failure, Writer};
use tinygate_events::Seq;

/// How long the mirror may lag behind.
pub const LAZY: Duration = Duration::from_secs(1);
/// How long a lazy append may wait until it is committed. Metric samples were delayed in the trainer before; both
/// delays together stay below a second.
pub const LAZY_COMMIT: Duration = Duration::from_millis(400);
/// How many blocks the mirror may lag behind.
pub const MIRROR_BLOCKS: usize = 64;
/// Approximate number of bytes that are committed together.
const GROUP: usize = 1 << 20;

/// The clock that determines when commits are due.
pub type Now = Box<dyn Fn() -> Instant + Send>;

/// A request to the worker.
pub enum Message {
    Append {
        append: EncodedAppend,
        reply: Option<Reply>,
    },
    Sync {
        reply: Reply,
    },
    /// Also brings the mirror up to the head.
    Close {
        reply: Reply,
    },
}

/// Where a reply is sent.
pub type Reply = Sender<Result<Seq, AppendError>>;

/// What the worker and its callers share.
pub struct Shared {
    state: Mutex<State>,
    /// Bytes in the queue to the worker.
    pub in_flight: AtomicUsize,
}

pub struct State {
    /// The number of the next event that is accepted.
    pub next: Seq,
    /// Why no more appends are accepted.
    pub refused: Option<String>,
    /// Why a lazy append was lost; the next caller gets it as an error.
    pub lost: Option<Failure>,
}

impl Shared {
    pub fn at(next: Seq) -> Arc<Shared> {
        Arc::new(Shared {
            state: Mutex::new(State {
                next,
                refused: None,
                lost: None,
            }),
            in_flight: AtomicUsize::new(0),
        })
    }

    /// The state is plain data and stays consistent if a thread panics.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Handles the messages, one group of appends after another.
pub struct Worker {
    writer: Writer,
    shared: Arc<Shared>,
    /// Replies that wait for the next commit.
    waiting: Vec<Reply>,
    /// There were appends without a reply since the last commit.
    lazy: bool,
    /// There were decisions since the last sync of sled.
    decision: bool,
    commit_at: Option<Instant>,
    follow_at: Option<Instant>,
    /// Why the last commit failed; the reply to appends that were sent before it was known.
    failure: Option<Failure>,
    now: Now,
}

impl Worker {
    pub fn new(writer: Writer, shared: Arc<Shared>, now: Now) -> Worker {
        Worker {
            now,
            writer,
            shared,
            waiting: Vec::new(),
            lazy: false,
            decision: false,
            commit_at: None,
            follow_at: None,
            failure: None,
        }
    }

    /// Runs until the log is closed or all senders are dropped.
    pub fn run(mut self, inbox: &Receiver<Message>) {
        loop {
            let deadline = [self.commit_at, self.follow_at].into_iter().flatten().min();
            let first = match deadline {
                Some(deadline) => inbox.recv_deadline(deadline),
                None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let first = match first {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if self.turn(first, inbox) {
                return;
            }
        }
    }

    /// Handles the messages that have arrived and what is due. Returns whether the log is closed.
    pub fn turn(&mut self, first: Option<Message>, inbox: &Receiver<Message>) -> bool {
        let mut close = None;
        if let Some(message) = first {
            close = self.take(message);
            while close.is_none() && self.writer.waiting() < GROUP {
                match inbox.try_recv() {
                    Ok(message) => close = self.take(message),
                    Err(_) => break,
                }
            }
        }
        self.commit_if_due();
        self.follow_if_due(close.is_some());
        let Some(reply) = close else { return false };
        let _ = reply.send(self.answer());
        true
    }

    /// Handles a message. Returns whom to reply to if the log is to be closed.
    fn take(&mut self, message: Message) -> Option<Reply> {
        match message {
            Message::Append { append, reply } => {
                self.shared
                    .in_flight
                    .fetch_sub(append.size(), Ordering::Relaxed);
                if append.first() != self.writer.next() {
                    self.stale(reply);
                    return None;
                }
                self.writer.add(&append);
                self.decision |= append.has_decision();
                match reply {
                    Some(reply) => self.waiting.push(reply),
                    None => {
                        self.lazy = true;
                        self.commit_at
                            .get_or_insert_with(|| (self.now)() + LAZY_COMMIT);
                    }
                }
                None
            }
            Message::Sync { reply } => {
                match self.take_lost() {
                    // Not everything before this call is durable.
                    Some(error) => {
                        let _ = reply.send(Err(error));
                    }
                    None => self.waiting.push(reply),
                }
                None
            }
            Message::Close { reply } => {
                // Makes a commit due; the close itself is answered at the end.
                self.waiting.push(bounded(1).0);
                Some(reply)
            }
        }
    }

    /// Refuses an append that follows one that was lost.
    fn stale(&mut self, reply: Option<Reply>) {
        let failure = self
            .failure
            .clone()
            .unwrap_or_else(|| Failure::Refused("events arrived out of order".to_owned()));
        match reply {
            Some(reply) => {
                let _ = reply.send(Err(failure.at(self.writer.head())));
            }
            None => self.shared.lock().lost = Some(failure),
        }
    }

    fn commit_if_due(&mut self) {
        let due = self.commit_at.is_some_and(|at| at <= (self.now)());
        if !due && self.waiting.is_empty() && self.writer.waiting() < GROUP {
            return;
        }
        self.commit_at = None;
        let lazy = std::mem::take(&mut self.lazy);
        let result = self.writer.commit();
        if let Err(failure) = &result {
            self.failed(failure, lazy);
        }
        let head = self.writer.head();
        for reply in self.waiting.drain(..) {
            let answer = result
                .clone()
                .map(|()| head)
                .map_err(|failure| failure.at(head));
            let _ = reply.send(answer);
        }
    }

    /// Resets the head to what is durable; the next append, if one is accepted, begins there.
    fn failed(&mut self, failure: &Failure, lazy: bool) {
        let mut state = self.shared.lock();
        state.next = self.writer.head();
        match failure {
            Failure::Refused(why) => state.refused = Some(why.clone()),
            Failure::DiskFull if lazy => state.lost = Some(failure.clone()),
            Failure::DiskFull => {}
        }
        drop(state);
        self.decision = false;
        self.failure = Some(failure.clone());
    }

    fn follow_if_due(&mut self, closing: bool) {
        let due = self.follow_at.is_some_and(|at| at <= (self.now)());
        let decision = self.writer.waiting() == 0 && std::mem::take(&mut self.decision);
        let sync = closing || due || decision;
        if sync {
            self.follow_at = None;
        } else if self.writer.mirror_behind() > 0 {
            self.follow_at.get_or_insert_with(|| (self.now)() + LAZY);
        }
        if !sync && self.writer.mirror_behind() < MIRROR_BLOCKS {
            return;
        }
        if let Err(failure) = self.writer.follow(sync) {
            self.failed(&failure, false);
        }
    }

    /// The reply to a close, which includes a loss that was not reported yet.
    fn answer(&self) -> Result<Seq, AppendError> {
        if let Some(error) = self.take_lost() {
            return Err(error);
        }
        let head = self.writer.head();
        match self.writer.refusal() {
            Some(why) => Err(AppendError::Refused {
                head,
                why: why.to_owned(),
            }),
            None => Ok(head),
        }
    }

    /// The loss that was not reported yet.
    fn take_lost(&self) -> Option<AppendError> {
        let lost = self.shared.lock().lost.take();
        lost.map(|failure| failure.at(self.writer.head()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Disk;
    use crate::real_disk::RealDisk;
    use crossbeam_channel::unbounded;
    use tinygate_events::{Event, PruneRequested};

    fn append(first: u64, inbox: &Sender<Message>) -> Receiver<Result<Seq, AppendError>> {
        let event = Event::PruneRequested(PruneRequested {
            keep_last: 1,
            who: "test".to_owned(),
        });
        let (reply, replies) = bounded(1);
        let append = EncodedAppend::encode(Seq::new(first), &[(0, event)]).unwrap();
        let reply = Some(reply);
        inbox.send(Message::Append { append, reply }).unwrap();
        replies
    }

    #[test]
    fn appends_that_have_arrived_are_committed_together() {
        let folder = tempfile::tempdir().unwrap();
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(folder.path()));
        let writer = Writer::create(&disk, "run", [0; 16]).unwrap();
        let shared = Shared::at(writer.head());
        let mut worker = Worker::new(writer, shared, Box::new(Instant::now));
        let (sender, inbox) = unbounded();
        let replies: Vec<_> = (0..3).map(|first| append(first, &sender)).collect();
        let first = inbox.recv().ok();
        assert!(!worker.turn(first, &inbox), "the log stays open");
        for reply in replies {
            assert_eq!(reply.try_recv().unwrap().unwrap(), Seq::new(3));
        }
    }
}
