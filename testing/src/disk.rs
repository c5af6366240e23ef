//! A disk in memory that fails as it is told to.
//!
//! What was written and what was synced are kept apart: [`SimDisk::crash`]
//! forgets the difference, or a part of it.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use tinygate::store::disk::{Disk, DiskFile, JOURNAL, Mirror, MirrorError, MirrorKey};

pub type MirrorMap = BTreeMap<MirrorKey, Vec<u8>>;

#[derive(Clone, Default)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Default)]
pub struct State {
    files: BTreeMap<String, File>,
    /// What the second copy holds, and what of it was synced.
    pub mirror: Option<MirrorMap>,
    pub mirror_synced: Option<MirrorMap>,
    pub aside: Vec<String>,
    pub faults: Faults,
}

#[derive(Clone, Default)]
struct File {
    now: Vec<u8>,
    synced: Vec<u8>,
}

#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Bytes that all files together may hold.
    pub capacity: Option<usize>,
    /// Reads and writes end after this many bytes.
    pub short: Option<usize>,
    pub sync_fails: bool,
    pub set_len_fails: bool,
    pub write_fails: bool,
    pub mirror_fails: Option<MirrorError>,
    pub mirror_does_not_open: Option<MirrorError>,
    /// How often each kind of fault happened.
    pub hits: BTreeMap<&'static str, u32>,
}

impl Faults {
    fn hit(&mut self, fault: &'static str) {
        *self.hits.entry(fault).or_default() += 1;
    }
}

impl SimDisk {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The same content on a disk of its own.
    pub fn copy(&self) -> SimDisk {
        SimDisk {
            state: Arc::new(Mutex::new(self.state().clone())),
        }
    }

    pub fn arc(&self) -> Arc<dyn Disk> {
        Arc::new(self.clone())
    }

    pub fn journal(&self) -> Vec<u8> {
        self.state().files[JOURNAL].now.clone()
    }

    pub fn set_journal(&self, bytes: &[u8]) {
        let file = File {
            now: bytes.to_vec(),
            synced: bytes.to_vec(),
        };
        self.state().files.insert(JOURNAL.to_owned(), file);
    }

    pub fn remove_journal(&self) {
        self.state().files.remove(JOURNAL);
    }

    pub fn file_names(&self) -> Vec<String> {
        self.state().files.keys().cloned().collect()
    }

    pub fn file(&self, name: &str) -> Option<Vec<u8>> {
        self.state().files.get(name).map(|file| file.now.clone())
    }

    /// A power cut: what was not synced is gone, but for `kept` bytes more of each file.
    pub fn crash(&self, kept: usize) {
        let mut state = self.state();
        for file in state.files.values_mut() {
            let keep = (file.synced.len() + kept).min(file.now.len());
            let mut after = file.synced.clone();
            if keep > after.len() {
                after.extend_from_slice(&file.now[after.len()..keep]);
            }
            *file = File {
                now: after.clone(),
                synced: after,
            };
        }
        state.mirror = state.mirror_synced.clone();
    }
}

impl Disk for SimDisk {
    fn open(&self, name: &str) -> io::Result<Option<Box<dyn DiskFile>>> {
        let found = self.state().files.contains_key(name);
        Ok(found.then(|| self.handle(name)))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.state().files.insert(name.to_owned(), File::default());
        Ok(self.handle(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        let file = state.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.files.insert(to.to_owned(), file);
        Ok(())
    }

    fn names(&self, folder: &str) -> io::Result<Vec<String>> {
        let prefix = format!("{folder}/");
        let state = self.state();
        let names = state.files.keys().chain(&state.aside);
        Ok(names
            .filter_map(|name| name.strip_prefix(&prefix))
            .map(str::to_owned)
            .collect())
    }

    fn mirror(&self, create: bool) -> Result<Option<Box<dyn Mirror>>, MirrorError> {
        let mut state = self.state();
        if let Some(error) = state.faults.mirror_does_not_open.clone()
            && !create
        {
            state.faults.hit("mirror does not open");
            return Err(error);
        }
        if state.mirror.is_none() {
            if !create {
                return Ok(None);
            }
            state.mirror = Some(MirrorMap::new());
        }
        drop(state);
        Ok(Some(Box::new(SimMirror { disk: self.clone() })))
    }

    fn set_mirror_aside(&self, to: &str) -> io::Result<bool> {
        let mut state = self.state();
        let moved = state.mirror.take().is_some();
        state.mirror_synced = None;
        if moved {
            state.aside.push(to.to_owned());
        }
        Ok(moved)
    }
}

impl SimDisk {
    fn handle(&self, name: &str) -> Box<dyn DiskFile> {
        Box::new(Handle {
            disk: self.clone(),
            name: name.to_owned(),
        })
    }
}

/// Goes by name: a renamed file is written through the new name only.
struct Handle {
    disk: SimDisk,
    name: String,
}

impl Handle {
    fn name(&self, state: &State) -> String {
        // the handle that made the new journal follows it when it is renamed
        if state.files.contains_key(&self.name) {
            self.name.clone()
        } else {
            JOURNAL.to_owned()
        }
    }
}

impl DiskFile for Handle {
    fn len(&self) -> io::Result<u64> {
        let state = self.disk.state();
        Ok(state.files[&self.name(&state)].now.len() as u64)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.state();
        let name = self.name(&state);
        let rest = state.files[&name]
            .now
            .get(offset as usize..)
            .unwrap_or_default();
        let read = rest
            .len()
            .min(bytes.len())
            .min(state.faults.short.unwrap_or(usize::MAX));
        bytes[..read].copy_from_slice(&rest[..read]);
        if state.faults.short.is_some() {
            state.faults.hit("short read");
        }
        Ok(read)
    }

    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.state();
        if state.faults.write_fails {
            state.faults.hit("write error");
            return Err(io::Error::other("told to fail"));
        }
        let name = self.name(&state);
        let used: usize = state.files.values().map(|file| file.now.len()).sum();
        let room = state
            .faults
            .capacity
            .map_or(usize::MAX, |all| all.saturating_sub(used));
        let wrote = bytes
            .len()
            .min(state.faults.short.unwrap_or(usize::MAX))
            .min(room);
        if wrote == 0 {
            state.faults.hit("disk full");
            return Err(io::ErrorKind::StorageFull.into());
        }
        if wrote < bytes.len() {
            state.faults.hit("short write");
        }
        let file = state.files.get_mut(&name).unwrap();
        let end = offset as usize + wrote;
        if file.now.len() < end {
            file.now.resize(end, 0);
        }
        file.now[offset as usize..end].copy_from_slice(&bytes[..wrote]);
        Ok(wrote)
    }

    fn set_len(&mut self, length: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        if state.faults.set_len_fails {
            state.faults.hit("cut fails");
            return Err(io::Error::other("told not to cut"));
        }
        let name = self.name(&state);
        state
            .files
            .get_mut(&name)
            .unwrap()
            .now
            .resize(length as usize, 0);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.disk.state();
        if state.faults.sync_fails {
            state.faults.hit("sync fails");
            return Err(io::Error::other("told not to sync"));
        }
        let name = self.name(&state);
        let file = state.files.get_mut(&name).unwrap();
        file.synced = file.now.clone();
        Ok(())
    }
}

struct SimMirror {
    disk: SimDisk,
}

impl SimMirror {
    fn map<T>(&self, work: impl FnOnce(&mut MirrorMap) -> T) -> Result<T, MirrorError> {
        let mut state = self.disk.state();
        if let Some(error) = state.faults.mirror_fails.clone() {
            state.faults.hit("mirror fails");
            return Err(error);
        }
        Ok(work(state.mirror.get_or_insert_default()))
    }
}

impl Mirror for SimMirror {
    fn get(&mut self, key: MirrorKey) -> Result<Option<Vec<u8>>, MirrorError> {
        self.map(|map| map.get(&key).cloned())
    }

    fn blocks(&mut self, from: u64, limit: usize) -> Result<Vec<(u64, Vec<u8>)>, MirrorError> {
        self.map(|map| {
            map.range(MirrorKey::Block(from)..)
                .filter_map(|(key, value)| match key {
                    MirrorKey::Block(number) => Some((*number, value.clone())),
                    MirrorKey::FileHeader | MirrorKey::Head => None,
                })
                .take(limit)
                .collect()
        })
    }

    fn put(&mut self, changes: Vec<(MirrorKey, Option<Vec<u8>>)>) -> Result<(), MirrorError> {
        self.map(|map| {
            for (key, value) in changes {
                match value {
                    Some(value) => map.insert(key, value),
                    None => map.remove(&key),
                };
            }
        })
    }

    fn sync(&mut self) -> Result<(), MirrorError> {
        self.map(|_| ())?;
        let mut state = self.disk.state();
        state.mirror_synced = state.mirror.clone();
        Ok(())
    }
}
