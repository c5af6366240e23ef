//! A disk in memory with planned faults.
//!
//! Each file has pristine content, which survives a power cut, and on top of it changes that
//! were not synced yet and bits that flipped. The second copy of the log, which is sled in a
//! real run, is a map with the same layers. sled itself cannot run here; other tests damage
//! its real files.
//!
//! A fault happens at the first matching operation from its position on. After
//! [`Trouble::Death`] every operation fails until [`SimDisk::kill`] or
//! [`SimDisk::power_cut`] decides what is left.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tinygate::store::disk::{Disk, DiskFile, JOURNAL, Mirror, MirrorError, MirrorKey};

use crate::rng::Rng;

pub type MirrorMap = BTreeMap<MirrorKey, Vec<u8>>;

/// Bytes of a sector, which a power cut keeps or loses as a whole.
const SECTOR: usize = 512;

#[derive(Clone, Default)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Default)]
pub struct State {
    names: BTreeMap<String, FileId>,
    /// Files by number, since a handle stays with its file when that is renamed or replaced.
    files: BTreeMap<FileId, File>,
    next_file: FileId,
    /// The content of the second copy, and the synced part of it.
    pub mirror: Option<MirrorMap>,
    pub mirror_synced: Option<MirrorMap>,
    /// Changes to the second copy since the last sync.
    unsynced: Vec<(u64, MirrorKey, Option<Vec<u8>>)>,
    /// Flipped bits of the second copy, by key, byte and mask, until that key is written again.
    rot: BTreeMap<MirrorKey, (usize, u8)>,
    /// The second copy cannot be opened until it is set aside.
    unreadable: bool,
    /// Second copies that were set aside, by their new names.
    pub aside: BTreeMap<String, MirrorMap>,
    pub faults: Faults,
    /// Operations so far.
    operations: u64,
    /// Changes so far, which orders the changes of all files.
    changes: u64,
    death: Option<Death>,
}

type FileId = u64;

#[derive(Clone, Default)]
struct File {
    /// Survives a power cut.
    pristine: Vec<u8>,
    /// Including what was not synced yet.
    now: Vec<u8>,
    unsynced: Vec<(u64, Change)>,
    /// Flipped bits, as masks by offset, until they are overwritten.
    flips: BTreeMap<usize, u8>,
    /// Bytes read so far, including repeated reads.
    read: u64,
}

#[derive(Clone)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Length(usize),
}

#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Capacity of the disk in bytes.
    pub capacity: Option<usize>,
    /// Reads and writes are cut short after this many bytes.
    pub short: Option<usize>,
    pub sync_fails: bool,
    pub set_len_fails: bool,
    pub write_fails: bool,
    pub mirror_fails: Option<MirrorError>,
    pub mirror_does_not_open: Option<MirrorError>,
    /// Changes that still succeed; every later one fails.
    pub changes_left: Option<u32>,
    /// Faults that happen once, each at the first matching operation from the given one on.
    pub planned: Vec<(u64, Trouble)>,
    /// The disk claims to sync but does not: a bug that is added on purpose.
    pub sync_lies: bool,
    /// How many times each kind of fault happened.
    pub hits: BTreeMap<&'static str, u64>,
}

/// A fault that happens once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The process or the machine dies at an operation that changes something.
    Death(Moment),
    ReadError,
    ShortRead,
    WriteError,
    ShortWrite,
    /// Interrupted by a signal; the call can be retried.
    Interrupted,
    DiskFull,
    SyncError,
    /// Truncating a file fails.
    CutError,
    RenameError,
    MirrorError,
    MirrorFull,
    MirrorInUse,
}

/// When, relative to an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    Before,
    Within,
    After,
}

/// The operation at which a process died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Death {
    pub operation: Operation,
    pub moment: Moment,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Open,
    Create,
    Rename,
    Names,
    Read,
    Write,
    Cut,
    Sync,
    MirrorOpen,
    MirrorAside,
    MirrorRead,
    MirrorPut,
    MirrorSync,
    /// Not at an operation: the caller killed the process.
    Outside,
}

impl Trouble {
    const fn name(self) -> &'static str {
        match self {
            Trouble::Death(_) => "death at a disk operation",
            Trouble::ReadError => "read error",
            Trouble::ShortRead => "short read",
            Trouble::WriteError => "write error",
            Trouble::ShortWrite => "short write",
            Trouble::Interrupted => "interrupted call",
            Trouble::DiskFull => "full disk",
            Trouble::SyncError => "sync error",
            Trouble::CutError => "cut error",
            Trouble::RenameError => "rename error",
            Trouble::MirrorError => "sled error",
            Trouble::MirrorFull => "full disk in sled",
            Trouble::MirrorInUse => "sled in use",
        }
    }

    fn fits(self, operation: Operation) -> bool {
        use Operation::*;
        match self {
            Trouble::Death(_) => {
                !matches!(operation, Open | Names | Read | MirrorOpen | MirrorRead)
            }
            Trouble::ReadError | Trouble::ShortRead => operation == Read,
            Trouble::WriteError | Trouble::ShortWrite | Trouble::DiskFull => operation == Write,
            Trouble::Interrupted => matches!(operation, Read | Write),
            Trouble::SyncError => operation == Sync,
            Trouble::CutError => operation == Cut,
            Trouble::RenameError => operation == Rename,
            Trouble::MirrorError => matches!(operation, MirrorRead | MirrorPut | MirrorSync),
            Trouble::MirrorFull => matches!(operation, MirrorPut | MirrorSync),
            Trouble::MirrorInUse => operation == MirrorOpen,
        }
    }
}

impl Faults {
    pub fn hit(&mut self, fault: &'static str) {
        *self.hits.entry(fault).or_default() += 1;
    }
}

/// The result of attempting an operation.
enum Outcome {
    Nothing,
    Trouble(Trouble),
    Gone,
}

impl State {
    fn attempt(&mut self, operation: Operation) -> Outcome {
        if self.death.is_some() {
            return Outcome::Gone;
        }
        if Trouble::Death(Moment::Before).fits(operation)
            && let Some(left) = &mut self.faults.changes_left
        {
            if *left == 0 {
                self.faults.hit("stopped");
                return Outcome::Trouble(Trouble::WriteError);
            }
            *left -= 1;
        }
        self.operations += 1;
        let now = self.operations;
        let fits = |(at, trouble): &(u64, Trouble)| *at <= now && trouble.fits(operation);
        let Some(index) = self.faults.planned.iter().position(fits) else {
            return Outcome::Nothing;
        };
        let (_, trouble) = self.faults.planned.swap_remove(index);
        if let Trouble::Death(moment) = trouble {
            self.death = Some(Death { operation, moment });
        } else {
            self.faults.hit(trouble.name());
        }
        Outcome::Trouble(trouble)
    }

    fn file(&mut self, id: FileId) -> &mut File {
        self.files.entry(id).or_default()
    }

    fn named(&self, name: &str) -> Option<&File> {
        self.files.get(self.names.get(name)?)
    }

    fn put_file(&mut self, name: &str, bytes: &[u8]) -> FileId {
        let id = self.next_file;
        self.next_file += 1;
        let file = File {
            pristine: bytes.to_vec(),
            now: bytes.to_vec(),
            ..File::default()
        };
        self.files.insert(id, file);
        self.names.insert(name.to_owned(), id);
        id
    }

    fn change(&mut self, id: FileId, change: Change) {
        self.changes += 1;
        let place = self.changes;
        let file = self.file(id);
        change.apply(&mut file.now);
        file.flips.retain(|offset, _| !change.covers(*offset));
        file.unsynced.push((place, change));
    }

    fn used(&self) -> usize {
        let files = self.names.values().filter_map(|id| self.files.get(id));
        files.map(|file| file.now.len()).sum()
    }

    /// Keeps, drops or tears each unsynced change at a power cut.
    fn lose_power(&mut self, rng: &mut Rng) {
        let mut lost = BTreeSet::new();
        let mut kept = BTreeSet::new();
        let mut torn = false;
        for file in self.files.values_mut() {
            for (place, change) in std::mem::take(&mut file.unsynced) {
                match (rng.below(3), change) {
                    (0, _) => {
                        lost.insert(place);
                    }
                    (1, Change::Write { offset, bytes }) => {
                        tear(&mut file.pristine, offset, &bytes, rng);
                        torn = true;
                    }
                    (_, change) => {
                        change.apply(&mut file.pristine);
                        kept.insert(place);
                    }
                }
            }
            file.now = file.pristine.clone();
        }
        let mut synced = self.mirror_synced.take();
        for (place, key, value) in std::mem::take(&mut self.unsynced) {
            let Some(map) = synced.as_mut() else { continue };
            if rng.one_in(2) {
                lost.insert(place);
                continue;
            }
            kept.insert(place);
            set(map, key, value);
        }
        self.mirror_synced = synced;
        self.mirror = self.mirror_synced.clone();
        if torn {
            self.faults.hit("torn write");
        }
        if !lost.is_empty() {
            self.faults.hit("lost unsynced write");
        }
        if lost.first().is_some_and(|first| kept.last() > Some(first)) {
            self.faults.hit("reordered writes");
        }
    }
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Change::Write { offset, bytes } => {
                let end = offset + bytes.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                if let Some(place) = content.get_mut(*offset..end) {
                    place.copy_from_slice(bytes);
                }
            }
            Change::Length(length) => content.resize(*length, 0),
        }
    }

    fn covers(&self, at: usize) -> bool {
        match self {
            Change::Write { offset, bytes } => (*offset..offset + bytes.len()).contains(&at),
            Change::Length(length) => *length <= at,
        }
    }
}

/// Applies part of a write: its first bytes, or some of its sectors.
fn tear(content: &mut Vec<u8>, offset: usize, bytes: &[u8], rng: &mut Rng) {
    let write = |content: &mut Vec<u8>, from: usize, to: usize| {
        let bytes = bytes.get(from..to).unwrap_or_default().to_vec();
        let offset = offset + from;
        Change::Write { offset, bytes }.apply(content);
    };
    if rng.one_in(2) {
        let length = rng.below(bytes.len() as u64 + 1) as usize;
        return write(content, 0, length);
    }
    let mut from = 0;
    while from < bytes.len() {
        let to = (from + SECTOR - (offset + from) % SECTOR).min(bytes.len());
        if rng.one_in(2) {
            write(content, from, to);
        }
        from = to;
    }
}

fn set(map: &mut MirrorMap, key: MirrorKey, value: Option<Vec<u8>>) {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
}

fn gone() -> io::Error {
    io::Error::other("the process is gone")
}

fn planned_fault() -> io::Error {
    io::Error::other("planned fault")
}

impl SimDisk {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy that shares nothing with this disk.
    #[must_use]
    pub fn copy(&self) -> SimDisk {
        SimDisk {
            state: Arc::new(Mutex::new(self.state().clone())),
        }
    }

    pub fn arc(&self) -> Arc<dyn Disk> {
        Arc::new(self.clone())
    }

    /// The content of a file as a process reads it.
    pub fn file(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        let file = state.named(name)?;
        let mut bytes = file.now.clone();
        for (offset, mask) in &file.flips {
            if let Some(byte) = bytes.get_mut(*offset) {
                *byte ^= mask;
            }
        }
        Some(bytes)
    }

    /// The part of a file that survives a power cut, without flipped bits.
    pub fn pristine(&self, name: &str) -> Option<Vec<u8>> {
        self.state().named(name).map(|file| file.pristine.clone())
    }

    /// The journal's bytes; empty if there is none.
    pub fn journal(&self) -> Vec<u8> {
        self.file(JOURNAL).unwrap_or_default()
    }

    pub fn set_journal(&self, bytes: &[u8]) {
        self.put(JOURNAL, bytes);
    }

    /// Creates a durable file with this content.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        self.state().put_file(name, bytes);
    }

    pub fn remove_journal(&self) {
        self.state().names.remove(JOURNAL);
    }

    pub fn file_names(&self) -> Vec<String> {
        self.state().names.keys().cloned().collect()
    }

    /// Bytes that were read from a file, including repeated reads.
    pub fn bytes_read(&self, name: &str) -> u64 {
        self.state().named(name).map_or(0, |file| file.read)
    }

    /// Number of operations so far, for planning faults.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Where the process died, if it did.
    pub fn death(&self) -> Option<Death> {
        self.state().death
    }

    /// Makes every later operation fail.
    pub fn die(&self) {
        let outside = Death {
            operation: Operation::Outside,
            moment: Moment::Before,
        };
        self.state().death.get_or_insert(outside);
    }

    /// The process was killed, but the machine keeps running: everything that was written is kept.
    pub fn kill(&self) {
        let mut state = self.state();
        state.death = None;
        state.faults.planned.clear();
    }

    /// The power was cut: unsynced changes are kept, lost or torn.
    pub fn power_cut(&self, rng: &mut Rng) {
        let mut state = self.state();
        state.lose_power(rng);
        state.death = None;
        state.faults.planned.clear();
    }

    /// A power cut that loses everything unsynced except the next `kept` bytes of each file.
    pub fn crash(&self, kept: usize) {
        let mut state = self.state();
        for file in state.files.values_mut() {
            let keep = (file.pristine.len() + kept).min(file.now.len());
            let more = file.now.get(file.pristine.len()..keep).unwrap_or_default();
            file.pristine.extend_from_slice(more);
            file.now = file.pristine.clone();
            file.unsynced.clear();
        }
        state.mirror = state.mirror_synced.clone();
        state.unsynced.clear();
    }

    /// Flips bits of a file for all later reads.
    pub fn flip(&self, name: &str, offset: usize, mask: u8) {
        let mut state = self.state();
        if let Some(id) = state.names.get(name).copied() {
            state.file(id).flips.insert(offset, mask);
        }
    }

    /// Flips bits of a value of the second copy.
    pub fn flip_mirror(&self, key: MirrorKey, offset: usize, mask: u8) {
        self.state().rot.insert(key, (offset, mask));
    }

    /// Removes one value, or all values, from the second copy.
    pub fn lose_mirror(&self, key: Option<MirrorKey>) {
        let mut state = self.state();
        state.unsynced.clear();
        match key {
            Some(key) => {
                if let Some(map) = &mut state.mirror {
                    map.remove(&key);
                }
                state.mirror_synced = state.mirror.clone();
            }
            None => {
                state.mirror = None;
                state.mirror_synced = None;
                state.rot.clear();
            }
        }
    }

    /// Makes opening the second copy fail until a new one is created.
    pub fn break_mirror(&self) {
        self.state().unreadable = true;
    }

    fn handle(&self, id: FileId) -> Box<dyn DiskFile> {
        Box::new(Handle {
            disk: self.clone(),
            id,
        })
    }
}

/// Does `work` unless the operation fails. If the process dies during an operation, it has
/// been done or not.
fn changing<T>(
    state: &mut State,
    operation: Operation,
    work: impl FnOnce(&mut State) -> T,
) -> io::Result<T> {
    match state.attempt(operation) {
        Outcome::Nothing => Ok(work(state)),
        Outcome::Trouble(Trouble::Death(Moment::Before)) | Outcome::Gone => Err(gone()),
        Outcome::Trouble(Trouble::Death(Moment::Within)) => {
            if state.changes.is_multiple_of(2) {
                work(state);
            }
            Err(gone())
        }
        Outcome::Trouble(Trouble::Death(Moment::After)) => {
            work(state);
            Err(gone())
        }
        Outcome::Trouble(_) => Err(planned_fault()),
    }
}

impl Disk for SimDisk {
    fn open(&self, name: &str) -> io::Result<Option<Box<dyn DiskFile>>> {
        let mut state = self.state();
        if matches!(state.attempt(Operation::Open), Outcome::Gone) {
            return Err(gone());
        }
        let found = state.names.get(name).copied();
        drop(state);
        Ok(found.map(|id| self.handle(id)))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        let id = changing(&mut state, Operation::Create, |state| {
            state.put_file(name, &[])
        })?;
        drop(state);
        Ok(self.handle(id))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        if !state.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        changing(&mut state, Operation::Rename, |state| {
            if let Some(id) = state.names.remove(from) {
                state.names.insert(to.to_owned(), id);
            }
        })
    }

    fn names(&self, folder: &str) -> io::Result<Vec<String>> {
        let prefix = format!("{folder}/");
        let mut state = self.state();
        if matches!(state.attempt(Operation::Names), Outcome::Gone) {
            return Err(gone());
        }
        let names = state.names.keys().chain(state.aside.keys());
        Ok(names
            .filter_map(|name| name.strip_prefix(&prefix))
            .map(str::to_owned)
            .collect())
    }

    fn mirror(&self, create: bool) -> Result<Option<Box<dyn Mirror>>, MirrorError> {
        let mut state = self.state();
        match state.attempt(Operation::MirrorOpen) {
            Outcome::Nothing => {}
            Outcome::Gone => return Err(MirrorError::Failed("the process is gone".to_owned())),
            Outcome::Trouble(_) => return Err(MirrorError::InUse),
        }
        if let Some(error) = state.faults.mirror_does_not_open.clone()
            && !create
        {
            state.faults.hit("mirror does not open");
            return Err(error);
        }
        if state.unreadable && state.mirror.is_some() {
            return Err(MirrorError::Failed("it panicked".to_owned()));
        }
        if state.mirror.is_none() {
            if !create {
                return Ok(None);
            }
            state.mirror = Some(MirrorMap::new());
            state.unreadable = false;
            // Its folder is created durably, and is empty.
            state.mirror_synced = Some(MirrorMap::new());
        }
        drop(state);
        Ok(Some(Box::new(SimMirror { disk: self.clone() })))
    }

    fn set_mirror_aside(&self, to: &str) -> io::Result<bool> {
        let mut state = self.state();
        changing(&mut state, Operation::MirrorAside, |state| {
            let moved = state.mirror.take();
            state.mirror_synced = None;
            state.unsynced.clear();
            state.rot.clear();
            state.unreadable = false;
            let was_there = moved.is_some();
            state
                .aside
                .extend(moved.map(|mirror| (to.to_owned(), mirror)));
            was_there
        })
    }
}

struct Handle {
    disk: SimDisk,
    id: FileId,
}

impl DiskFile for Handle {
    fn len(&self) -> io::Result<u64> {
        let mut state = self.disk.state();
        if state.death.is_some() {
            return Err(gone());
        }
        Ok(state.file(self.id).now.len() as u64)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.state();
        let mut most = state.faults.short.unwrap_or(usize::MAX);
        match state.attempt(Operation::Read) {
            Outcome::Nothing => {}
            Outcome::Gone => return Err(gone()),
            Outcome::Trouble(Trouble::Interrupted) => return Err(io::ErrorKind::Interrupted.into()),
            Outcome::Trouble(Trouble::ShortRead) => most = most.min(7),
            Outcome::Trouble(_) => return Err(planned_fault()),
        }
        if state.faults.short.is_some() {
            state.faults.hit("short read");
        }
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let file = state.file(self.id);
        let rest = file.now.get(offset..).unwrap_or_default();
        let read = rest.len().min(bytes.len()).min(most);
        if let (Some(to), Some(from)) = (bytes.get_mut(..read), rest.get(..read)) {
            to.copy_from_slice(from);
        }
        file.read += read as u64;
        for (at, mask) in file.flips.range(offset..offset.saturating_add(read)) {
            if let Some(byte) = bytes.get_mut(at - offset) {
                *byte ^= mask;
            }
        }
        Ok(read)
    }

    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.state();
        if state.faults.write_fails {
            state.faults.hit("write error");
            return Err(planned_fault());
        }
        let mut most = state.faults.short.unwrap_or(usize::MAX);
        let mut after = Ok(());
        match state.attempt(Operation::Write) {
            Outcome::Nothing => {}
            Outcome::Gone | Outcome::Trouble(Trouble::Death(Moment::Before)) => return Err(gone()),
            Outcome::Trouble(Trouble::Death(moment)) => {
                if moment == Moment::Within {
                    most = state.changes as usize % bytes.len().max(1);
                }
                after = Err(gone());
            }
            Outcome::Trouble(Trouble::Interrupted) => return Err(io::ErrorKind::Interrupted.into()),
            Outcome::Trouble(Trouble::ShortWrite) => {
                most = most.min((state.changes as usize % bytes.len().max(1)).max(1));
            }
            Outcome::Trouble(Trouble::DiskFull) => {
                // Part of it still fits.
                most = state.changes as usize % bytes.len().max(1);
                after = Err(io::ErrorKind::StorageFull.into());
            }
            Outcome::Trouble(_) => return Err(planned_fault()),
        }
        let room = match state.faults.capacity {
            Some(all) => all.saturating_sub(state.used()),
            None => usize::MAX,
        };
        let wrote = bytes.len().min(most).min(room);
        if wrote == 0 && after.is_ok() {
            state.faults.hit("disk full");
            return Err(io::ErrorKind::StorageFull.into());
        }
        if wrote < bytes.len() && after.is_ok() {
            state.faults.hit("short write");
        }
        let change = Change::Write {
            offset: usize::try_from(offset).unwrap_or(usize::MAX),
            bytes: bytes.get(..wrote).unwrap_or_default().to_vec(),
        };
        state.change(self.id, change);
        after.map(|()| wrote)
    }

    fn set_len(&mut self, length: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        if state.faults.set_len_fails {
            state.faults.hit("cut fails");
            return Err(io::Error::other("planned failure to truncate"));
        }
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        changing(&mut state, Operation::Cut, |state| {
            state.change(self.id, Change::Length(length));
        })
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.disk.state();
        if state.faults.sync_fails {
            state.faults.hit("sync fails");
            return Err(io::Error::other("planned sync failure"));
        }
        if state.faults.sync_lies {
            return changing(&mut state, Operation::Sync, |_| ());
        }
        changing(&mut state, Operation::Sync, |state| {
            let file = state.file(self.id);
            file.pristine = file.now.clone();
            file.unsynced.clear();
        })
    }
}

struct SimMirror {
    disk: SimDisk,
}

impl SimMirror {
    fn work<T>(
        &self,
        operation: Operation,
        work: impl FnOnce(&mut State) -> T,
    ) -> Result<T, MirrorError> {
        let mut state = self.disk.state();
        if let Some(error) = state.faults.mirror_fails.clone() {
            state.faults.hit("mirror fails");
            return Err(error);
        }
        let full = |(at, trouble): &(u64, Trouble)| {
            *trouble == Trouble::MirrorFull
                && *at <= state.operations + 1
                && trouble.fits(operation)
        };
        let full = state.faults.planned.iter().any(full);
        changing(&mut state, operation, work).map_err(|error| {
            if full {
                MirrorError::DiskFull
            } else {
                MirrorError::Failed(error.to_string())
            }
        })
    }
}

impl State {
    fn value(&self, key: MirrorKey) -> Option<Vec<u8>> {
        let mut value = self.mirror.as_ref()?.get(&key)?.clone();
        if let Some((offset, mask)) = self.rot.get(&key)
            && let Some(byte) = value.get_mut(*offset)
        {
            *byte ^= mask;
        }
        Some(value)
    }
}

impl Mirror for SimMirror {
    fn get(&mut self, key: MirrorKey) -> Result<Option<Vec<u8>>, MirrorError> {
        self.work(Operation::MirrorRead, |state| state.value(key))
    }

    fn blocks(&mut self, from: u64, limit: usize) -> Result<Vec<(u64, Vec<u8>)>, MirrorError> {
        self.work(Operation::MirrorRead, |state| {
            let map = state.mirror.get_or_insert_default();
            let keys = map.range(MirrorKey::Block(from)..).map(|(key, _)| *key);
            let keys: Vec<MirrorKey> = keys.take(limit).collect();
            let blocks = keys.into_iter().filter_map(|key| match key {
                MirrorKey::Block(number) => Some((number, state.value(key)?)),
                MirrorKey::FileHeader | MirrorKey::Head => None,
            });
            blocks.collect()
        })
    }

    fn put(&mut self, changes: Vec<(MirrorKey, Option<Vec<u8>>)>) -> Result<(), MirrorError> {
        self.work(Operation::MirrorPut, |state| {
            for (key, value) in changes {
                state.changes += 1;
                state.unsynced.push((state.changes, key, value.clone()));
                state.rot.remove(&key);
                set(state.mirror.get_or_insert_default(), key, value);
            }
        })
    }

    fn sync(&mut self) -> Result<(), MirrorError> {
        self.work(Operation::MirrorSync, |state| {
            state.mirror_synced = state.mirror.clone();
            state.unsynced.clear();
        })
    }
}
