//! Writes a long scripted run, and checks what a power cut left of one. Used by `tools/powercut.sh`.
//!
//! `powercut write DIR` prints each sequence number once it is durable. `powercut verify DIR SEQ`
//! opens the log as resuming would, and fails unless every event up to SEQ is there and all events are
//! the ones that were written, which it knows since the same script gives the same run.

#![allow(clippy::print_stdout, reason = "the script reads the output")]

use std::io::Write;
use std::path::Path;

use tinygate::controller::Observer;
use tinygate::events::{Record, Seq};
use tinygate::machine::RunState;
use tinygate::store::{EventLog, Store};
use tinygate::trainer::Progress;
use tinygate_testing::{Script, ScriptedTrainer, Ticks, created, live, lived, short_policy};

type Failure = Box<dyn std::error::Error>;

const SEED: u64 = 1;
const START_MS: u64 = 1_700_000_000_000;
/// Updates of the first stage: more than can be written before the power cut.
const UPDATES: u64 = 20_000;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["write", dir] => write(Path::new(dir)),
        ["verify", dir, acknowledged] => verify(Path::new(dir), acknowledged.parse()?),
        _ => Err("usage: powercut write DIR | powercut verify DIR SEQ".into()),
    }
}

fn first() -> tinygate::events::Event {
    let mut policy = short_policy();
    if let Some(stage) = policy.stages.first_mut() {
        stage.settings.n_updates = UPDATES;
        stage.settings.schedule_updates = UPDATES;
    }
    created(policy, SEED)
}

/// Prints the number of each durable event.
struct Acknowledge;

impl Observer for Acknowledge {
    fn recorded(&mut self, record: &Record, _: &RunState) {
        let mut out = std::io::stdout().lock();
        // Nobody may be reading any more.
        let _ = writeln!(out, "{}", record.seq).and_then(|()| out.flush());
    }

    fn progressed(&mut self, _: &Progress) {}
}

fn write(dir: &Path) -> Result<(), Failure> {
    let store = Store::create(dir, "powercut")?;
    let trainer = ScriptedTrainer::new(Script::new(SEED));
    let clock = Ticks::from(START_MS);
    live(
        &store,
        dir,
        &clock,
        vec![first()],
        trainer,
        &mut Acknowledge,
    )?
    .ending?;
    store.close()?;
    Ok(())
}

fn verify(dir: &Path, acknowledged: u64) -> Result<(), Failure> {
    let (store, repairs) = Store::open(dir)?;
    let head = store.head().get();
    if head <= acknowledged {
        return Err(format!(
            "event {acknowledged} was acknowledged, but the log ends before {head}"
        )
        .into());
    }
    let whole = written()?;
    let mut count = 0;
    for (record, want) in store.read(Seq::FIRST)?.zip(&whole) {
        let record = record?;
        if record.seq != want.seq || record.event != want.event {
            return Err(format!("event {} is not what was written", record.seq).into());
        }
        count += 1;
    }
    if count != head {
        return Err(format!("only {count} of {head} events were read").into());
    }
    println!("{head} events, {} repairs", repairs.len());
    Ok(())
}

/// The same run, in memory.
fn written() -> Result<Vec<Record>, Failure> {
    let lived = lived(&[], vec![first()], Script::new(SEED))?;
    Ok(lived.records)
}
