//! Simulates many seeds, or one with its story:
//! `sim [--seeds N] [--from SEED] [--jobs N]` or `sim --seed SEED [--keep FAULTS]`.
//!
//! Exits with 1 if an invariant is violated, or if a fault or a transition never happens in
//! 300 seeds or more.

use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use tinygate_sim::{Case, Keep, check, shrink, sweep};

/// With fewer seeds, some faults and transitions may not happen.
const ENOUGH: u64 = 300;

/// Only the first failing seeds are shrunk.
const SHRUNK_MAX: usize = 3;

const USAGE: &str = "usage: sim [--seeds N] [--from SEED] [--jobs N] | --seed SEED [--keep FAULTS]";

struct Args {
    seeds: u64,
    from: u64,
    seed: Option<u64>,
    keep: Option<Keep>,
    jobs: usize,
}

fn main() -> ExitCode {
    let mut out = std::io::stdout().lock();
    let done = match arguments() {
        Ok(Args {
            seed: Some(seed),
            keep,
            ..
        }) => one(
            &Case {
                keep,
                ..Case::new(seed)
            },
            &mut out,
        ),
        Ok(args) => many(&args, &mut out),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(_) => ExitCode::from(2),
    }
}

fn arguments() -> Result<Args, String> {
    let mut args = Args {
        seeds: ENOUGH,
        from: 0,
        seed: None,
        keep: None,
        jobs: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
    };
    let mut given = std::env::args().skip(1);
    while let Some(name) = given.next() {
        let value = given.next().ok_or(USAGE)?;
        if name == "--keep" {
            args.keep = Some(value.parse().map_err(|error| format!("{error}\n{USAGE}"))?);
            continue;
        }
        let number: u64 = value
            .parse()
            .map_err(|_| format!("`{value}` is not a number\n{USAGE}"))?;
        match name.as_str() {
            "--seeds" => args.seeds = number,
            "--from" => args.from = number,
            "--seed" => args.seed = Some(number),
            "--jobs" => args.jobs = usize::try_from(number).unwrap_or(1).max(1),
            _ => return Err(format!("unknown option `{name}`\n{USAGE}")),
        }
    }
    match (&args.keep, args.seed) {
        (Some(_), None) => return Err(format!("`--keep` needs `--seed`\n{USAGE}")),
        (Some(keep), Some(seed)) => {
            let drawn = Case::new(seed).faults();
            keep.fits(&drawn)
                .map_err(|error| format!("seed {seed}: {error}"))?;
        }
        (None, _) => {}
    }
    Ok(args)
}

/// Simulates one seed and prints its faults and its story; shrinks it if it fails.
fn one(case: &Case, out: &mut impl Write) -> std::io::Result<bool> {
    writeln!(out, "seed {}", case.seed)?;
    for fault in case.kept_faults() {
        writeln!(out, "  {fault}")?;
    }
    let done = check(case);
    let tally = &done.tally;
    writeln!(out, "story")?;
    for (number, line) in done.story.iter().enumerate() {
        writeln!(out, "{:>4}  {line}", number + 1)?;
    }
    for (name, times) in &tally.faults {
        writeln!(out, "  {name:<36} {times:>9}")?;
    }
    writeln!(
        out,
        "{} events, {} processes, {:?}, digest {}",
        tally.events,
        tally.processes,
        tally.endings,
        done.digest()
    )?;
    let Some(violation) = &done.violation else {
        writeln!(
            out,
            "every invariant held, and a second run gave the same log"
        )?;
        return Ok(true);
    };
    writeln!(out, "violated: {violation}")?;
    if case.keep.is_none()
        && let Some(smallest) = shrink(case)
    {
        writeln!(out, "{smallest}")?;
    }
    Ok(false)
}

fn many(args: &Args, out: &mut impl Write) -> std::io::Result<bool> {
    let end = args.from.saturating_add(args.seeds);
    writeln!(out, "seeds {}..{end}, {} threads", args.from, args.jobs)?;
    out.flush()?;
    let started = Instant::now();
    let swept = sweep(args.from..end, args.jobs);
    let seconds = started.elapsed().as_secs_f64();
    for (place, (seed, violation)) in swept.violations.iter().enumerate() {
        writeln!(out, "seed {seed}: {violation}")?;
        let smallest = (place < SHRUNK_MAX).then(|| shrink(&Case::new(*seed)));
        match smallest.flatten() {
            Some(smallest) => writeln!(out, "{smallest}")?,
            None => writeln!(out, "to reproduce: make sim SEED={seed}")?,
        }
    }
    writeln!(out, "{}", swept.tally)?;
    writeln!(
        out,
        "{} seeds, each run twice, in {seconds:.1} s, {} violations",
        args.seeds,
        swept.violations.len()
    )?;
    let mut missing = swept.tally.unlisted();
    for name in &missing {
        writeln!(out, "not in the lists: {name}")?;
    }
    if ENOUGH <= args.seeds {
        for name in swept.tally.never() {
            writeln!(out, "never happened: {name}")?;
            missing.push(name);
        }
    }
    Ok(swept.violations.is_empty() && missing.is_empty())
}
