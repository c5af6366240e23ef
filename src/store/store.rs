//! The log on the disk, with the thread that writes it.
//!
//! Appends are checked against the head by the caller's thread and handed over
//! a channel. The writer thread takes what has come together, writes it as one
//! group, syncs once and answers all. It alone touches journal and mirror, and
//! its clock is the only one: within [`LAZY_COMMIT`] lazy appends reach the disk,
//! and within [`LAZY`] the mirror follows. A simulation does the thread's work itself, by a clock of
//! its own ([`Store::create_in_steps`]).

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};

use super::block::FileHeader;
use super::disk::{Disk, JOURNAL, RealDisk};
use super::error::{AppendError, OpenError, ReadError, ReadErrorKind, Repair};
use super::folder::Moved;
use super::lock::RunLock;
use super::presence::{Presence, presence};
use super::reader::LogFile;
use super::repair::{Wishes, repair};
use super::writer::{Failure, Unit, Writer};
use super::{Durability, EventLog, Records};
use crate::events::{Event, Seq};

/// How long the mirror may wait.
pub const LAZY: Duration = Duration::from_secs(1);
/// How long a lazy append may wait. Samples have waited in the trainer before, and both waits together stay below a
/// second.
pub const LAZY_COMMIT: Duration = Duration::from_millis(400);
/// Blocks that the mirror may be behind by.
pub const MIRROR_BLOCKS: usize = 64;
/// Bytes of one group, about.
const GROUP: usize = 1 << 20;
/// Bytes on their way to the writer; past them a lazy append waits as a durable one does.
const IN_FLIGHT: usize = 32 << 20;

/// The log of a run, open for writing. Dropping it writes what is waiting.
pub struct Store {
    disk: Arc<dyn Disk>,
    header: FileHeader,
    sender: Sender<Message>,
    shared: Arc<Shared>,
    hands: Hands,
    /// Freed last.
    lock: Option<RunLock>,
}

/// A writer and where its messages come in.
type Desk = (WriterThread, Receiver<Message>);

/// Who does the writer's work.
enum Hands {
    /// `None` once it was joined.
    Thread(Option<JoinHandle<()>>),
    /// Whoever sends: each message is worked off before its sender goes on. `None` once closed.
    Caller(Mutex<Option<Box<Desk>>>),
}

type Now = Box<dyn Fn() -> Instant + Send>;

enum Message {
    Append {
        unit: Unit,
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

type Reply = Sender<Result<Seq, AppendError>>;

struct Shared {
    state: Mutex<State>,
    in_flight: AtomicUsize,
}

struct State {
    next: Seq,
    /// Why nothing is taken any more.
    refused: Option<String>,
    /// A lazy append was lost to this; told to the next one that asks.
    lost: Option<Failure>,
}

impl Shared {
    fn at(next: Seq) -> Arc<Shared> {
        Arc::new(Shared {
            state: Mutex::new(State {
                next,
                refused: None,
                lost: None,
            }),
            in_flight: AtomicUsize::new(0),
        })
    }

    /// The state is plain data: whole whatever thread died.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// Makes the log of a new run in the run directory `run`, and the directory.
    pub fn create(run: &Path, name: &str) -> Result<Store, OpenError> {
        check_clock(SystemTime::now())?;
        if presence(run)? == Presence::Log {
            RunLock::refuse_held(run)?;
            return Err(OpenError::Exists);
        }
        let lock = RunLock::take(run)?;
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(run));
        let writer = Writer::create(&disk, name, nonce(run))?;
        Store::threaded(disk, writer, Some(lock))
    }

    /// Opens the log of a run for writing. What had to be put right is returned:
    /// the caller appends it as [`crate::events::StoreRepaired`].
    pub fn open(run: &Path) -> Result<(Store, Vec<Repair>), OpenError> {
        expect_log(run)?;
        let lock = RunLock::take(run)?;
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(run));
        let (writer, repairs) = Writer::open(&disk).map_err(no_event_left)?;
        Ok((Store::threaded(disk, writer, Some(lock))?, repairs))
    }

    /// As [`Store::open`], doing also what somebody wishes for where opening would refuse.
    ///
    /// # Errors
    /// Where something is lost or disagrees that no wish speaks of, nothing was changed.
    pub fn repair(run: &Path, wishes: Wishes) -> Result<(Store, Vec<Repair>), OpenError> {
        expect_log(run)?;
        let lock = RunLock::take(run)?;
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(run));
        let (writer, repairs) = repair(&disk, wishes).map_err(no_event_left)?;
        Ok((Store::threaded(disk, writer, Some(lock))?, repairs))
    }

    /// As [`Store::create`], on a disk of the caller's and without a lock.
    pub fn create_on(disk: Arc<dyn Disk>, name: &str, nonce: [u8; 16]) -> Result<Store, OpenError> {
        let writer = Writer::create(&disk, name, nonce)?;
        Store::threaded(disk, writer, None)
    }

    /// As [`Store::open`], on a disk of the caller's and without a lock.
    pub fn open_on(disk: Arc<dyn Disk>) -> Result<(Store, Vec<Repair>), OpenError> {
        let (writer, repairs) = Writer::open(&disk)?;
        Ok((Store::threaded(disk, writer, None)?, repairs))
    }

    /// As [`Store::repair`], on a disk of the caller's and without a lock.
    pub fn repair_on(
        disk: Arc<dyn Disk>,
        wishes: Wishes,
    ) -> Result<(Store, Vec<Repair>), OpenError> {
        let (writer, repairs) = repair(&disk, wishes)?;
        Ok((Store::threaded(disk, writer, None)?, repairs))
    }

    /// As [`Store::create_on`], without a thread, by the clock `now`. The caller's
    /// thread works off each append, and with [`Store::step`] what the clock makes
    /// due: in a simulation nothing happens but in its own order.
    pub fn create_in_steps(
        disk: Arc<dyn Disk>,
        name: &str,
        nonce: [u8; 16],
        now: impl Fn() -> Instant + Send + 'static,
    ) -> Result<Store, OpenError> {
        let writer = Writer::create(&disk, name, nonce)?;
        Ok(Store::stepped(disk, writer, Box::new(now)))
    }

    /// As [`Store::open_on`], without a thread: see [`Store::create_in_steps`].
    pub fn open_in_steps(
        disk: Arc<dyn Disk>,
        now: impl Fn() -> Instant + Send + 'static,
    ) -> Result<(Store, Vec<Repair>), OpenError> {
        let (writer, repairs) = Writer::open(&disk)?;
        Ok((Store::stepped(disk, writer, Box::new(now)), repairs))
    }

    fn threaded(
        disk: Arc<dyn Disk>,
        writer: Writer,
        lock: Option<RunLock>,
    ) -> Result<Store, OpenError> {
        let header = writer.header().clone();
        let shared = Shared::at(writer.head());
        let (sender, inbox) = unbounded();
        let worker = WriterThread::new(writer, Arc::clone(&shared), Box::new(Instant::now));
        let thread = std::thread::Builder::new()
            .name("tinygate-log".to_owned())
            .spawn(move || worker.run(&inbox))
            .map_err(|source| OpenError::disk("start the writer of", JOURNAL, source))?;
        Ok(Store {
            disk,
            header,
            sender,
            shared,
            hands: Hands::Thread(Some(thread)),
            lock,
        })
    }

    fn stepped(disk: Arc<dyn Disk>, writer: Writer, now: Now) -> Store {
        let header = writer.header().clone();
        let shared = Shared::at(writer.head());
        let (sender, inbox) = unbounded();
        let worker = WriterThread::new(writer, Arc::clone(&shared), now);
        Store {
            disk,
            header,
            sender,
            shared,
            hands: Hands::Caller(Mutex::new(Some(Box::new((worker, inbox))))),
            lock: None,
        }
    }

    /// Does what is due, where no thread does.
    pub fn step(&self) {
        if let Hands::Caller(worker) = &self.hands {
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

    /// Writes everything, brings both copies to the same head and ends the writer.
    pub fn close(mut self) -> Result<Seq, AppendError> {
        self.shut()
    }

    fn shut(&mut self) -> Result<Seq, AppendError> {
        let thread = match &mut self.hands {
            Hands::Thread(thread) => thread.take(),
            Hands::Caller(_) => None,
        };
        if thread.is_none() && !self.is_stepped() {
            return Ok(self.head());
        }
        let (reply, answer) = bounded(1);
        let _ = self.sender.send(Message::Close { reply });
        let result = self.wait(&answer);
        if let Some(thread) = thread {
            // a panic of the writer was answered with an error above
            let _ = thread.join();
        }
        result
    }

    /// # Errors
    /// Where the run's directory is no longer at its path.
    fn in_place(&self) -> Result<(), Moved> {
        match &self.lock {
            Some(lock) => lock.folder().check(),
            None => Ok(()),
        }
    }

    /// The caller does the writer's work, and has not closed the log yet.
    fn is_stepped(&self) -> bool {
        match &self.hands {
            Hands::Thread(_) => false,
            Hands::Caller(worker) => worker
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
        let unit = Unit::encode(expected_next, events)?;
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
        let Some(next) = head.get().checked_add(unit.len()) else {
            return Err(AppendError::Exhausted { head });
        };
        let in_flight = self
            .shared
            .in_flight
            .fetch_add(unit.size(), Ordering::Relaxed);
        let waits = durability == Durability::Durable || in_flight > IN_FLIGHT;
        let (reply, answer) = if waits {
            let (reply, answer) = bounded(1);
            (Some(reply), Some(answer))
        } else {
            (None, None)
        };
        // sent under the lock: the writer gets units in the order of their numbers
        if self.sender.send(Message::Append { unit, reply }).is_err() {
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
        let Some(file) = file.filter(|_| end > Seq::FIRST) else {
            if end == Seq::FIRST {
                // a new log gets its journal with its first event
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

/// Events carry times since 1970, and sled takes none before it.
///
/// # Errors
/// [`OpenError::Clock`].
pub fn check_clock(now: SystemTime) -> Result<(), OpenError> {
    match now.duration_since(UNIX_EPOCH) {
        Ok(_) => Ok(()),
        Err(_) => Err(OpenError::Clock),
    }
}

/// Of a directory that [`expect_log`] let pass: its checkpoints say that there was a log.
fn no_event_left(error: OpenError) -> OpenError {
    if matches!(error, OpenError::NotALog { .. }) {
        OpenError::NoEventLeft
    } else {
        error
    }
}

/// Refuses a directory without a log, and leaves nothing there.
pub(super) fn expect_log(run: &Path) -> Result<(), OpenError> {
    check_clock(SystemTime::now())?;
    let missing = presence(run)?.expect_log();
    if missing.is_err() {
        // whoever makes one at this moment has it open
        RunLock::refuse_held(run)?;
    }
    missing
}

/// What the writer thread does with its messages.
struct WriterThread {
    writer: Writer,
    shared: Arc<Shared>,
    /// Replies that wait for the next commit.
    waiting: Vec<Reply>,
    /// Appends since the last commit that nobody waits for.
    lazy: bool,
    decision: bool,
    commit_at: Option<Instant>,
    follow_at: Option<Instant>,
    /// Why the last commit failed; the answer to units sent before anybody knew.
    failure: Option<Failure>,
    now: Now,
}

impl WriterThread {
    fn new(writer: Writer, shared: Arc<Shared>, now: Now) -> WriterThread {
        WriterThread {
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

    fn run(mut self, inbox: &Receiver<Message>) {
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

    /// Takes what has come together and does what is due. Whether the log is closed now.
    fn turn(&mut self, first: Option<Message>, inbox: &Receiver<Message>) -> bool {
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

    /// Takes a message in; returns whom to answer when the log is to be closed.
    fn take(&mut self, message: Message) -> Option<Reply> {
        match message {
            Message::Append { unit, reply } => {
                self.shared
                    .in_flight
                    .fetch_sub(unit.size(), Ordering::Relaxed);
                if unit.first() != self.writer.next() {
                    self.stale(reply);
                    return None;
                }
                self.writer.add(&unit);
                self.decision |= unit.has_decision();
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
                    // what is asked for is not all there, whatever else is durable
                    Some(error) => {
                        let _ = reply.send(Err(error));
                    }
                    None => self.waiting.push(reply),
                }
                None
            }
            Message::Close { reply } => {
                // nobody gets this one's answer: the close does
                self.waiting.push(bounded(1).0);
                Some(reply)
            }
        }
    }

    /// A unit that follows one that was lost.
    fn stale(&mut self, reply: Option<Reply>) {
        let failure = self
            .failure
            .clone()
            .unwrap_or_else(|| Failure::Refused("events came out of order".to_owned()));
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

    /// Appends go on from what is durable, if they go on.
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

    /// The answer to a close: also what nobody was told of yet.
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

    /// The loss that nobody was told of yet.
    fn take_lost(&self) -> Option<AppendError> {
        let lost = self.shared.lock().lost.take();
        lost.map(|failure| failure.at(self.writer.head()))
    }
}

/// Makes two logs of the same name differ.
fn nonce(run: &Path) -> [u8; 16] {
    use std::hash::{BuildHasher, RandomState};
    let mut hasher = blake3::Hasher::new();
    hasher.update(&RandomState::new().hash_one(run).to_le_bytes());
    hasher.update(&std::process::id().to_le_bytes());
    if let Ok(now) = SystemTime::now().duration_since(UNIX_EPOCH) {
        hasher.update(&now.as_nanos().to_le_bytes());
    }
    let mut nonce = [0; 16];
    hasher.finalize_xof().fill(&mut nonce);
    nonce
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_before_1970_is_named() {
        assert!(check_clock(UNIX_EPOCH).is_ok());
        let before = check_clock(UNIX_EPOCH - Duration::from_secs(1)).unwrap_err();
        assert!(before.to_string().contains("clock"), "{before}");
    }
}
