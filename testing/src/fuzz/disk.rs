//! A disk in memory, for a log that is opened once.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tinygate::store::disk::{Disk, DiskFile, JOURNAL, Mirror, MirrorError, MirrorKey};

type Blocks = BTreeMap<MirrorKey, Vec<u8>>;
type Shared<T> = Arc<Mutex<T>>;

fn lock<T>(shared: &Shared<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Clone, Default)]
pub struct MemoryDisk {
    files: Shared<BTreeMap<String, Shared<Vec<u8>>>>,
    mirror: Shared<Option<Shared<Blocks>>>,
}

impl MemoryDisk {
    pub fn with_journal(bytes: &[u8]) -> MemoryDisk {
        let disk = MemoryDisk::default();
        let file = Arc::new(Mutex::new(bytes.to_vec()));
        lock(&disk.files).insert(JOURNAL.to_owned(), file);
        disk
    }

    pub fn journal(&self) -> Vec<u8> {
        let files = lock(&self.files);
        files
            .get(JOURNAL)
            .map_or(Vec::new(), |file| lock(file).clone())
    }
}

impl Disk for MemoryDisk {
    fn open(&self, name: &str) -> io::Result<Option<Box<dyn DiskFile>>> {
        let file = lock(&self.files).get(name).cloned();
        Ok(file.map(|bytes| Box::new(MemoryFile(bytes)) as Box<dyn DiskFile>))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let file = Shared::<Vec<u8>>::default();
        lock(&self.files).insert(name.to_owned(), Arc::clone(&file));
        Ok(Box::new(MemoryFile(file)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = lock(&self.files);
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn names(&self, folder: &str) -> io::Result<Vec<String>> {
        let prefix = format!("{folder}/");
        let files = lock(&self.files);
        let names = files.keys().filter_map(|name| name.strip_prefix(&prefix));
        Ok(names.map(str::to_owned).collect())
    }

    fn mirror(&self, create: bool) -> Result<Option<Box<dyn Mirror>>, MirrorError> {
        let mut mirror = lock(&self.mirror);
        if mirror.is_none() && create {
            *mirror = Some(Shared::default());
        }
        let blocks = mirror.clone();
        Ok(blocks.map(|blocks| Box::new(MemoryMirror(blocks)) as Box<dyn Mirror>))
    }

    fn set_mirror_aside(&self, _: &str) -> io::Result<bool> {
        Ok(lock(&self.mirror).take().is_some())
    }
}

/// A file, which keeps its bytes when it is renamed.
pub struct MemoryFile(pub Shared<Vec<u8>>);

impl DiskFile for MemoryFile {
    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.0).len() as u64)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let file = lock(&self.0);
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = file.get(from..).unwrap_or_default();
        let pairs = bytes.iter_mut().zip(rest);
        Ok(pairs.map(|(to, from)| *to = *from).count())
    }

    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut file = lock(&self.0);
        let from = usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let end = from.saturating_add(bytes.len());
        if file.len() < end {
            file.resize(end, 0);
        }
        let place = file.get_mut(from..end).unwrap_or_default();
        place.copy_from_slice(bytes);
        Ok(bytes.len())
    }

    fn set_len(&mut self, length: u64) -> io::Result<()> {
        let length = usize::try_from(length).map_err(|_| io::ErrorKind::FileTooLarge)?;
        lock(&self.0).resize(length, 0);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct MemoryMirror(Shared<Blocks>);

impl Mirror for MemoryMirror {
    fn get(&mut self, key: MirrorKey) -> Result<Option<Vec<u8>>, MirrorError> {
        Ok(lock(&self.0).get(&key).cloned())
    }

    fn blocks(&mut self, from: u64, limit: usize) -> Result<Vec<(u64, Vec<u8>)>, MirrorError> {
        let blocks = lock(&self.0);
        let numbered =
            blocks
                .range(MirrorKey::Block(from)..)
                .filter_map(|(key, value)| match key {
                    MirrorKey::Block(number) => Some((*number, value.clone())),
                    MirrorKey::FileHeader | MirrorKey::Head => None,
                });
        Ok(numbered.take(limit).collect())
    }

    fn put(&mut self, changes: Vec<(MirrorKey, Option<Vec<u8>>)>) -> Result<(), MirrorError> {
        let mut blocks = lock(&self.0);
        for (key, value) in changes {
            match value {
                Some(value) => blocks.insert(key, value),
                None => blocks.remove(&key),
            };
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), MirrorError> {
        Ok(())
    }
}
