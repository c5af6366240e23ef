//! Damage to the files of a real sled folder. Each case is opened in its own process, so that
//! crashes and hangs of sled are visible.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use tinygate::events::Seq;
use tinygate::store::disk::{Disk, JOURNAL, SLED};
use tinygate::store::{EventLog, OpenError, RealDisk, RepairOptions, Store};

use crate::Share;
use crate::outcome::{Damaged, Judged, Outcome, Table};
use crate::truth::{self, Sled, truth};

/// Environment variable with the run directory that a child opens.
pub const CHILD: &str = "TINYGATE_DAMAGE_CHILD";

/// Time limit of a child, which normally takes a few hundredths of a second.
const PATIENCE: Duration = Duration::from_secs(120);
const PAGE: usize = 4096;
const STRIDE: usize = 37;

/// Opens the run and prints what it found.
pub fn child(folder: &Path) -> ExitCode {
    println!("{}", found(folder));
    ExitCode::SUCCESS
}

fn found(folder: &Path) -> String {
    match Store::open(folder) {
        Ok((store, repairs)) => match sound_events(&store) {
            Some(kept) => {
                let short = kept < truth().len() as u64;
                let lost = repairs
                    .iter()
                    .any(|repair| repair.detail.contains("are lost"));
                let repaired = if short {
                    usize::from(lost)
                } else {
                    repairs.len()
                };
                format!("opened {kept} {repaired}")
            }
            None => "wrong after opening".to_owned(),
        },
        Err(OpenError::Damaged { sound, what }) => {
            let wishes = RepairOptions {
                accept_loss: true,
                keep: None,
            };
            let kept = match Store::repair(folder, wishes) {
                Ok((store, _)) => sound_events(&store),
                // Nothing is readable.
                Err(OpenError::Damaged { .. }) if sound == Seq::FIRST => Some(0),
                Err(other) => return format!("wrong after a repair: {other}"),
            };
            match kept {
                Some(kept) if kept == sound.get() => format!("refused {kept} {what}"),
                other => format!("wrong: {sound} events were sound, {other:?} were kept"),
            }
        }
        // Without a journal and without sled's data, nothing shows that there was an event.
        Err(error @ OpenError::NotALog { .. })
            if fs::metadata(folder.join(SLED).join("db")).map_or(0, |db| db.len()) == 0 =>
        {
            format!("refused 0 {error}")
        }
        Err(other) => format!("wrong: {other}"),
    }
}

/// The number of events. `None`: they are not those that were written.
fn sound_events(store: &Store) -> Option<u64> {
    let truth = truth();
    let mut kept = 0;
    for record in store.read(Seq::FIRST).ok()? {
        if truth.get(kept) != Some(&record.ok()?) {
            return None;
        }
        kept += 1;
    }
    Some(kept as u64)
}

/// What happens to one file.
#[derive(Clone, Debug)]
enum Harm {
    Removed,
    Cut(usize),
    PageZeroed(usize),
    Flipped(usize),
}

impl Harm {
    fn group(&self) -> &'static str {
        match self {
            Harm::Removed => "file removed",
            Harm::Cut(_) => "file cut",
            Harm::PageZeroed(_) => "page zeroed",
            Harm::Flipped(_) => "byte flipped",
        }
    }
}

/// The files of a folder, by their names relative to it.
type Files = Vec<(PathBuf, Vec<u8>)>;

struct Case {
    file: usize,
    harm: Harm,
    journal: bool,
}

pub fn every_case(table: &mut Table, share: Share) {
    let place = tempfile::tempdir().unwrap();
    let whole = place.path().join("whole");
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(&whole));
    truth::write(&disk, Sled::Level, 7);
    drop(disk);
    let files = files_of(&whole);
    let sled = |name: &Path| name.starts_with(SLED);
    let mut cases = Vec::new();
    for journal in [true, false] {
        for (index, (_, bytes)) in files.iter().enumerate().filter(|(_, (name, _))| sled(name)) {
            let one = |harm| Case {
                file: index,
                harm,
                journal,
            };
            let pages = || (0..bytes.len()).step_by(PAGE);
            cases.push(one(Harm::Removed));
            cases.extend(pages().map(|at| one(Harm::Cut(at))));
            cases.extend(pages().map(|at| one(Harm::PageZeroed(at))));
            cases.extend(spread(bytes.len(), share).map(|at| one(Harm::Flipped(at))));
        }
    }
    if share == Share::Small {
        // Alternate between the kinds of harm, so that a share includes all of them.
        cases.sort_by_key(|case| (case.journal, case.harm.group()));
        let step = (cases.len() / 120).max(1);
        let mut at = 0;
        cases.retain(|case| {
            at += 1;
            at % step == 0 || matches!(case.harm, Harm::Removed)
        });
    } else {
        cases.sort_by_key(|case| (case.journal, case.harm.group()));
    }
    println!(
        "damage: {} files of {} bytes in sled, {} cases in processes",
        files.iter().filter(|(name, _)| sled(name)).count(),
        files
            .iter()
            .filter(|(name, _)| sled(name))
            .map(|(_, bytes)| bytes.len())
            .sum::<usize>(),
        cases.len()
    );
    for (case, judged) in cases.iter().zip(judge_all(&cases, &files, place.path())) {
        let group = format!(
            "sled {}, {}",
            case.harm.group(),
            if case.journal {
                "journal whole"
            } else {
                "no journal"
            }
        );
        let damaged = if case.journal {
            Damaged::OneOfTwo
        } else {
            Damaged::TheOnly
        };
        table.add(&group, damaged, judged);
    }
}

/// Every 37th byte; for a share, some of them spread over the file.
fn spread(length: usize, share: Share) -> impl Iterator<Item = usize> {
    let stride = match share {
        Share::Full => STRIDE,
        Share::Small => STRIDE * (1 + length / STRIDE / 400),
    };
    (0..length).step_by(stride)
}

fn files_of(folder: &Path) -> Files {
    fn below(folder: &Path, root: &Path, files: &mut Files) {
        let entries = fs::read_dir(folder).unwrap();
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        for path in paths {
            if path.is_dir() {
                below(&path, root, files);
            } else {
                let name = path.strip_prefix(root).unwrap().to_owned();
                files.push((name, fs::read(&path).unwrap()));
            }
        }
    }
    let mut files = Files::new();
    below(folder, folder, &mut files);
    files
}

/// Judges as many cases in parallel as there are cores.
fn judge_all(cases: &[Case], files: &Files, place: &Path) -> Vec<Judged> {
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let next = AtomicUsize::new(0);
    let judged = Mutex::new(vec![None; cases.len()]);
    std::thread::scope(|scope| {
        for worker in 0..workers {
            let (next, judged) = (&next, &judged);
            scope.spawn(move || {
                let folder = place.join(format!("worker-{worker}"));
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = cases.get(at) else { break };
                    let result = judge(case, files, &folder);
                    judged.lock().unwrap()[at] = Some(result);
                    if at > 0 && at % 5000 == 0 {
                        println!("damage: {at} of {}", cases.len());
                    }
                }
            });
        }
    });
    let judged = judged.into_inner().unwrap();
    judged.into_iter().map(Option::unwrap).collect()
}

fn judge(case: &Case, files: &Files, folder: &Path) -> Judged {
    if folder.exists() {
        fs::remove_dir_all(folder).unwrap();
    }
    for (index, (name, bytes)) in files.iter().enumerate() {
        if !case.journal && name == Path::new(JOURNAL) {
            continue;
        }
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut bytes = bytes.clone();
        if index == case.file {
            match case.harm {
                Harm::Removed => continue,
                Harm::Cut(length) => bytes.truncate(length),
                Harm::PageZeroed(at) => {
                    let end = (at + PAGE).min(bytes.len());
                    bytes[at..end].fill(0);
                }
                Harm::Flipped(at) => bytes[at] ^= 0xff,
            }
        }
        fs::write(path, bytes).unwrap();
    }
    let name = format!("{}: {:?}", files[case.file].0.display(), case.harm);
    let all = truth().len() as u64;
    let judged = |outcome, why: &str| Judged::new(&name, outcome, why);
    let Some((code, stdout, stderr)) = run_child(folder) else {
        return judged(Outcome::Hang, "no answer");
    };
    if code != Some(0) || stderr.contains("panicked") {
        let why = format!("code {code:?}: {stderr}");
        return judged(Outcome::Panic, &why);
    }
    let mut words = stdout.split_whitespace();
    let (how, kept) = (words.next(), words.next());
    let kept: u64 = kept.and_then(|kept| kept.parse().ok()).unwrap_or(0);
    let covered = if case.journal { all } else { 0 };
    let is_repaired = words.next() != Some("0");
    let outcome = match how {
        Some("opened") if kept == all && !is_repaired => Outcome::Unaffected,
        Some("opened") if kept == all => Outcome::Recovered,
        // sled returned an older consistent state; the loss of newer events is reported.
        Some("opened") if !case.journal && is_repaired => Outcome::CutOff,
        Some("opened") => Outcome::SilentLoss,
        Some("refused") => Outcome::Refused,
        Some(_) | None => return judged(Outcome::WrongAnswer, &stdout),
    };
    judged(outcome, &stdout).losing(all, kept, covered)
}

/// The child's exit code and output. `None`: it had to be killed.
fn run_child(folder: &Path) -> Option<(Option<i32>, String, String)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .env(CHILD, folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let (sender, answer) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let (mut out, mut err) = (String::new(), String::new());
        let _ = stdout.read_to_string(&mut out);
        let _ = stderr.read_to_string(&mut err);
        // After a hang nobody receives this.
        let _ = sender.send((out, err));
    });
    let answer = answer.recv_timeout(PATIENCE);
    if answer.is_err() {
        child.kill().unwrap();
    }
    let status = child.wait().unwrap();
    reader.join().unwrap();
    let (out, err) = answer.ok()?;
    Some((status.code(), out, err))
}
