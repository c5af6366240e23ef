//! The second copy of the log, in sled 0.34.7.
//!
//! On damaged data sled panics, skips values or hangs. So it runs on a separate thread:
//! a panic or a late reply there becomes an error here. Its data is never trusted; the
//! caller checks the chain.
//!
//! sled's `flush` does not fsync: [`Mirror::sync`] adds an fsync of its `db` file.

use std::any::Any;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::disk::{Mirror, MirrorError, MirrorKey};

/// Bytes. A larger cache was not faster.
const CACHE: u64 = 16 << 20;
/// Bytes. A leaf of sled's tree grows to 17 values, and moves to a separate file, which
/// sled never syncs, once it exceeds a quarter of a segment. 17 blocks of 8 KB exceed a
/// quarter of sled's default.
const SEGMENT: usize = 1 << 20;
/// How long opening is retried: sled may hold its lock briefly after it was closed.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// How long one reply of sled may take.
pub const PATIENCE: Duration = Duration::from_secs(60);
const THREAD: &str = "tinygate-sled";

pub struct SledMirror {
    calls: Option<Sender<Call>>,
    ended: Receiver<()>,
    patience: Duration,
    /// Why it stopped replying.
    dead: Option<MirrorError>,
}

type Call = Box<dyn FnOnce(&mut Opened) + Send>;

struct Opened {
    path: PathBuf,
    db: Option<sled::Db>,
}

impl SledMirror {
    /// Opens or creates a database. One reply may take up to `patience`.
    pub fn open(path: &Path, patience: Duration) -> Result<SledMirror, MirrorError> {
        quiet_panics();
        let (calls, inbox) = bounded::<Call>(1);
        let (end, ended) = bounded::<()>(0);
        let path = path.to_owned();
        thread::Builder::new()
            .name(THREAD.to_owned())
            .spawn(move || serve(path, &inbox, end))
            .map_err(|error| MirrorError::Failed(error.to_string()))?;
        let mut mirror = SledMirror {
            calls: Some(calls),
            ended,
            patience,
            dead: None,
        };
        mirror.call(|opened| {
            opened.db = Some(open(&opened.path)?);
            // The names of the files that sled created.
            File::open(&opened.path)
                .and_then(|folder| folder.sync_all())
                .map_err(|error| failed(sled::Error::Io(error)))
        })?;
        Ok(mirror)
    }

    fn call<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Opened) -> Result<T, MirrorError> + Send + 'static,
    ) -> Result<T, MirrorError> {
        if let Some(why) = &self.dead {
            return Err(why.clone());
        }
        let (reply, answer) = bounded(1);
        let call: Call = Box::new(move |opened| {
            let result = catch_unwind(AssertUnwindSafe(|| work(opened)));
            let result = result.unwrap_or_else(|panic| {
                // A database that panicked may panic again when it is dropped.
                std::mem::forget(opened.db.take());
                Err(MirrorError::Failed(panic_text(panic.as_ref())))
            });
            // The caller may have stopped waiting.
            let _ = reply.send(result);
        });
        let sent = self.calls.as_ref().map(|calls| calls.send(call));
        let result = match sent {
            Some(Ok(())) => answer
                .recv_timeout(self.patience)
                .unwrap_or_else(|_| Err(self.silent())),
            Some(Err(_)) | None => Err(self.silent()),
        };
        if let Err(why) = &result {
            self.dead = Some(why.clone());
        }
        result
    }

    fn silent(&self) -> MirrorError {
        MirrorError::Failed(format!("sled gave no answer in {:?}", self.patience))
    }
}

impl Drop for SledMirror {
    fn drop(&mut self) {
        self.calls = None;
        if self.dead.is_none() {
            // Waits until the database is closed, so that it can be reopened.
            let _ = self.ended.recv_timeout(self.patience);
        }
    }
}

impl Mirror for SledMirror {
    fn get(&mut self, key: MirrorKey) -> Result<Option<Vec<u8>>, MirrorError> {
        self.call(move |opened| {
            let value = opened.db()?.get(key_bytes(key)).map_err(failed)?;
            Ok(value.map(|value| value.to_vec()))
        })
    }

    fn blocks(&mut self, from: u64, limit: usize) -> Result<Vec<(u64, Vec<u8>)>, MirrorError> {
        self.call(move |opened| {
            let mut blocks = Vec::new();
            for entry in opened
                .db()?
                .range(key_bytes(MirrorKey::Block(from))..)
                .take(limit)
            {
                let (key, value) = entry.map_err(failed)?;
                // Keys of another length are not ours.
                if let [b'b', number @ ..] = key.as_ref()
                    && let Ok(number) = <[u8; 8]>::try_from(number)
                {
                    blocks.push((u64::from_be_bytes(number), value.to_vec()));
                }
            }
            Ok(blocks)
        })
    }

    fn put(&mut self, changes: Vec<(MirrorKey, Option<Vec<u8>>)>) -> Result<(), MirrorError> {
        self.call(move |opened| {
            let mut batch = sled::Batch::default();
            for (key, value) in changes {
                match value {
                    Some(value) => batch.insert(key_bytes(key), value),
                    None => batch.remove(key_bytes(key)),
                }
            }
            opened.db()?.apply_batch(batch).map_err(failed)
        })
    }

    fn sync(&mut self) -> Result<(), MirrorError> {
        self.call(|opened| {
            opened.db()?.flush().map_err(failed)?;
            File::open(opened.path.join("db"))
                .and_then(|db| db.sync_data())
                .map_err(|error| failed(sled::Error::Io(error)))
        })
    }
}

impl Opened {
    fn db(&self) -> Result<&sled::Db, MirrorError> {
        self.db
            .as_ref()
            .ok_or_else(|| MirrorError::Failed("sled is not open".to_owned()))
    }
}

/// The thread that owns the database.
fn serve(path: PathBuf, inbox: &Receiver<Call>, end: Sender<()>) {
    let mut opened = Opened { path, db: None };
    for call in inbox {
        call(&mut opened);
    }
    // sled may panic while it closes; no caller is left to report that to.
    let _ = catch_unwind(AssertUnwindSafe(move || drop(opened)));
    drop(end);
}

fn open(path: &Path) -> Result<sled::Db, MirrorError> {
    let begun = Instant::now();
    loop {
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(CACHE)
            .segment_size(SEGMENT)
            // The store calls sync explicitly.
            .flush_every_ms(None);
        match config.open() {
            Err(sled::Error::Io(error)) if error.to_string().contains("could not acquire lock") => {
                if begun.elapsed() > LOCK_PATIENCE {
                    return Err(MirrorError::InUse);
                }
                thread::sleep(LOCK_PAUSE);
            }
            other => return other.map_err(failed),
        }
    }
}

/// Keys of blocks sort by number, after the other keys.
fn key_bytes(key: MirrorKey) -> Vec<u8> {
    match key {
        MirrorKey::FileHeader => b"a_file_header".to_vec(),
        MirrorKey::Head => b"a_head".to_vec(),
        MirrorKey::Block(number) => {
            let mut bytes = vec![b'b'];
            bytes.extend(number.to_be_bytes());
            bytes
        }
    }
}

fn failed(error: sled::Error) -> MirrorError {
    match &error {
        sled::Error::Io(io) if super::disk::is_full(io) => MirrorError::DiskFull,
        sled::Error::Io(_)
        | sled::Error::CollectionNotFound(_)
        | sled::Error::Unsupported(_)
        | sled::Error::ReportableBug(_)
        | sled::Error::Corruption { .. } => MirrorError::Failed(error.to_string()),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    let text = text.and_then(|text| text.lines().next());
    format!("sled panicked: {}", text.unwrap_or("it did not say why"))
}

/// Hides panics of sled's threads from the terminal; the previous hook handles all others.
fn quiet_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let current = thread::current();
            let name = current.name().unwrap_or_default();
            if name != THREAD && !name.starts_with("sled-") {
                previous(info);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Set in the child process, in which sled panics.
    const FOLDER: &str = "TINYGATE_TEST_SLED_FOLDER";

    #[test]
    fn a_panic_of_sled_is_an_error_and_is_not_shown() {
        if let Some(folder) = std::env::var_os(FOLDER) {
            let mut mirror = SledMirror::open(folder.as_ref(), Duration::from_secs(60)).unwrap();
            let answer = mirror.call(|_| -> Result<(), MirrorError> { panic!("as sled does") });
            let told = MirrorError::Failed("sled panicked: as sled does".to_owned());
            assert_eq!(answer, Err(told));
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let name = "sled_mirror::tests::a_panic_of_sled_is_an_error_and_is_not_shown";
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(FOLDER, folder.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}\n{said}");
        assert!(text.contains("1 passed"), "{text}");
        assert!(!said.contains("panicked at"), "{said}");
    }
}
