//! The log on disk, open for writing.
//!
//! Appends are checked against the head and encoded on the caller's thread, then sent to
//! the [`Worker`] over a channel. It writes all appends that have arrived as one group,
//! syncs once and replies to all. In a simulation the caller's thread does the worker's
//! part, with a simulated clock ([`Store::create_in_steps`]).

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::block::FileHeader;
use super::compare::Loss;
use super::disk::{Disk, JOURNAL};
use super::error::{OpenError, ReadError, ReadErrorKind, Repair};
use super::event_log::{AppendError, Durability, EventLog, Records};
use super::folder::Moved;
use super::lock::RunLock;
use super::presence::content_on;
use super::reader::{LogFile, RecordFeed};
use super::repair::{RepairOptions, repair};
use super::worker::{Message, Now, Shared, Worker};
use super::writer::{EncodedAppend, Writer};
use tinygate_events::{Event, Record, Seq};

/// Bytes in the queue to the worker. Beyond that a lazy append waits like a durable one.
const IN_FLIGHT: usize = 32 << 20;

/// The log of a run, open for writing. Dropping it writes pending appends.
pub struct Store {
    disk: Arc<dyn Disk>,
    header: FileHeader,
    sender: Sender<Message>,
    shared: Arc<Shared>,
    executor: Executor,
    /// Released last.
    lock: Option<RunLock>,
}

/// Where the worker runs.
enum Executor {
    /// `None` after it was joined.
    Thread(Option<JoinHandle<()>>),
    /// On the thread that sends a message, before the call returns. `None` after closing.
    Caller(Mutex<Option<Box<Stepped>>>),
}

/// A worker and its inbox.
type Stepped = (Worker, Receiver<Message>);

impl Store {
    /// Like [`Store::create`], on the given disk and without a lock.
    pub fn create_on(disk: Arc<dyn Disk>, name: &str, nonce: [u8; 16]) -> Result<Store, OpenError> {
        let writer = Writer::create(&disk, name, nonce)?;
        Store::threaded(disk, writer, None)
    }

    /// Like [`Store::open`], on the given disk and without a lock.
    pub fn open_on(disk: Arc<dyn Disk>) -> Result<(Store, Vec<Repair>), OpenError> {
        let (writer, repairs) = Writer::open(&disk)?;
        Ok((Store::threaded(disk, writer, None)?, repairs))
    }

    /// Like [`Store::open_and_read`], on the given disk and without a lock.
    pub fn open_and_read_on(
        disk: Arc<dyn Disk>,
        visit: impl FnMut(Result<Record, ReadError>),
    ) -> Result<(Store, Vec<Repair>), OpenError> {
        let content = content_on(disk.as_ref())?;
        content.expect_log()?;
        let mut feed = RecordFeed::new(visit);
        let (writer, repairs) =
            Writer::open_content(&disk, content, Loss::Refused, |header, block, closed| {
                feed.push(header, block, closed);
            })?;
        Ok((Store::threaded(disk, writer, None)?, repairs))
    }

    /// Like [`Store::repair`], on the given disk and without a lock.
    pub fn repair_on(
        disk: Arc<dyn Disk>,
        options: RepairOptions,
    ) -> Result<(Store, Vec<Repair>), OpenError> {
        let content = content_on(disk.as_ref())?;
        content.expect_log()?;
        let (writer, repairs) = repair(&disk, content, options)?;
        Ok((Store::threaded(disk, writer, None)?, repairs))
    }

    /// Like [`Store::create_on`], without a thread and with the clock `now`. The caller's
    /// thread performs each append, and [`Store::step`] performs what is due by the clock, so
    /// that a simulation controls the order of everything.
    pub fn create_in_steps(
        disk: Arc<dyn Disk>,
        name: &str,
        nonce: [u8; 16],
        now: impl Fn() -> Instant + Send + 'static,
    ) -> Result<Store, OpenError> {
        let writer = Writer::create(&disk, name, nonce)?;
        Ok(Store::stepped(disk, writer, Box::new(now)))
    }

    /// Like [`Store::open_on`], without a thread: see [`Store::create_in_steps`].
    pub fn open_in_steps(
        disk: Arc<dyn Disk>,
        now: impl Fn() -> Instant + Send + 'static,
    ) -> Result<(Store, Vec<Repair>), OpenError> {
        let (writer, repairs) = Writer::open(&disk)?;
        Ok((Store::stepped(disk, writer, Box::new(now)), repairs))
    }

    pub(super) fn threaded(
        disk: Arc<dyn Disk>,
        writer: Writer,
        lock: Option<RunLock>,
    ) -> Result<Store, OpenError> {
        let header = writer.header().clone();
        let shared = Shared::at(writer.head());
        let (sender, inbox) = unbounded();
        let worker = Worker::new(writer, Arc::clone(&shared), Box::new(Instant::now));
        let thread = std::thread::Builder::new()
            .name("tinygate-log".to_owned())
            .spawn(move || worker.run(&inbox))
            .map_err(|source| OpenError::disk("start the writer of", JOURNAL, source))?;
        Ok(Store {
            disk,
            header,
            sender,
            shared,
            executor: Executor::Thread(Some(thread)),
            lock,
        })
    }

    fn stepped(disk: Arc<dyn Disk>, writer: Writer, now: Now) -> Store {
        let header = writer.header().clone();
        let shared = Shared::at(writer.head());
        let (sender, inbox) = unbounded();
        let worker = Worker::new(writer, Arc::clone(&shared), now);
        Store {
            disk,
            header,
            sender,
            shared,
            executor: Executor::Caller(Mutex::new(Some(Box::new((worker, inbox))))),
            lock: None,
        }
    }

    /// Performs what is due, if there is no worker thread.
    pub fn step(&self) {
        if let Executor::Caller(worker) = &self.executor {
            let mut worker = worker.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((thread, inbox)) = worker.as_deref_mut()
                && thread.turn(inbox.try_recv().ok(), inbox)
            {
                *worker = None;
            }
        }
    }

    pub fn header(&self) -> &FileHeader {
        &self.header
    }

    /// Writes everything, brings both copies to the same head and stops the worker.
    pub fn close(mut self) -> Result<Seq, AppendError> {
        self.shut()
    }

    fn shut(&mut self) -> Result<Seq, AppendError> {
        let thread = match &mut self.executor {
            Executor::Thread(thread) => thread.take(),
            Executor::Caller(_) => None,
        };
        if thread.is_none() && !self.is_stepped() {
            return Ok(self.head());
        }
        let (reply, answer) = bounded(1);
        let _ = self.sender.send(Message::Close { reply });
        let result = self.wait(&answer);
        if let Some(thread) = thread {
            // A panic of the worker was reported as an error above.
            let _ = thread.join();
        }
        result
    }

    /// # Errors
    /// The run's directory is no longer at its path.
    fn in_place(&self) -> Result<(), Moved> {
        match &self.lock {
            Some(lock) => lock.folder().check(),
            None => Ok(()),
        }
    }

    /// The caller does the worker's part, and has not closed the log yet.
    fn is_stepped(&self) -> bool {
        match &self.executor {
            Executor::Thread(_) => false,
            Executor::Caller(worker) => worker
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .is_some(),
        }
    }

    fn wait(&self, answer: &Receiver<Result<Seq, AppendError>>) -> Result<Seq, AppendError> {
        self.step();
        answer.recv().unwrap_or_else(|_| {
            Err(AppendError::Refused {
                head: self.head(),
                why: "its writer ended".to_owned(),
            })
        })
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Err(error) = self.shut() {
            tracing::warn!(%error, "the log could not be closed");
        }
    }
}

impl EventLog for Store {
    fn append(
        &self,
        expected_next: Seq,
        events: &[(u64, Event)],
        durability: Durability,
    ) -> Result<Seq, AppendError> {
        self.in_place()?;
        let append = EncodedAppend::encode(expected_next, events)?;
        let mut state = self.shared.lock();
        let head = state.next;
        if let Some(why) = &state.refused {
            let why = why.clone();
            return Err(AppendError::Refused { head, why });
        }
        if let Some(failure) = state.lost.take() {
            return Err(failure.at(head));
        }
        if expected_next != head {
            return Err(AppendError::Conflict {
                expected: expected_next,
                actual: head,
            });
        }
        let Some(next) = head.get().checked_add(append.count()) else {
            return Err(AppendError::Exhausted { head });
        };
        let in_flight = self
            .shared
            .in_flight
            .fetch_add(append.size(), Ordering::Relaxed);
        let waits = durability == Durability::Durable || in_flight > IN_FLIGHT;
        let (reply, answer) = if waits {
            let (reply, answer) = bounded(1);
            (Some(reply), Some(answer))
        } else {
            (None, None)
        };
        // Sent under the lock, so that the worker gets appends in sequence.
        if self.sender.send(Message::Append { append, reply }).is_err() {
            let why = "its writer ended".to_owned();
            return Err(AppendError::Refused { head, why });
        }
        state.next = Seq::new(next);
        drop(state);
        match answer {
            Some(answer) => self.wait(&answer),
            None => {
                self.step();
                Ok(Seq::new(next))
            }
        }
    }

    fn head(&self) -> Seq {
        self.shared.lock().next
    }

    fn sync(&self) -> Result<Seq, AppendError> {
        self.in_place()?;
        let (reply, answer) = bounded(1);
        let _ = self.sender.send(Message::Sync { reply });
        self.wait(&answer)
    }

    fn read(&self, from: Seq) -> Result<Records<'_>, ReadError> {
        let broken = |kind| ReadError {
            seq: from,
            offset: 0,
            kind,
        };
        let end = self
            .sync()
            .map_err(|error| broken(ReadErrorKind::Io(std::io::Error::other(error))))?;
        let file = self
            .disk
            .open(JOURNAL)
            .map_err(|error| broken(ReadErrorKind::Io(error)))?;
        let Some(file) = file else {
            if end == Seq::FIRST {
                // A new log gets its journal with its first event.
                return Ok(Box::new(std::iter::empty()));
            }
            return Err(broken(ReadErrorKind::NotALog {
                what: "the journal is gone".to_owned(),
            }));
        };
        let mut records = LogFile::new(file)?.records();
        records.skip_to(from)?;
        Ok(Box::new(
            records
                .filter(move |record| match record {
                    Ok(record) => record.seq >= from,
                    Err(_) => true,
                })
                .take_while(move |record| match record {
                    Ok(record) => record.seq < end,
                    Err(_) => true,
                }),
        ))
    }
}
