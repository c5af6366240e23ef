//! Runs the simulation over many seeds: `sim [--seeds N] [--from SEED] [--seed SEED] [--jobs N]`.
//!
//! Exit code 1 when an invariant did not hold, or when a fault or a transition
//! never happened in 300 seeds or more.

use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use tinygate_sim::{Simulated, simulate, sweep};

/// Fewer seeds need not show everything.
const ENOUGH: u64 = 300;

struct Args {
    seeds: u64,
    from: u64,
    seed: Option<u64>,
    jobs: usize,
}

fn main() -> ExitCode {
    let mut out = std::io::stdout().lock();
    let done = match arguments() {
        Ok(Args {
            seed: Some(seed), ..
        }) => one(seed, &mut out),
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
        jobs: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
    };
    let mut words = std::env::args().skip(1);
    while let Some(name) = words.next() {
        let usage = "usage: sim [--seeds N] [--from SEED] [--seed SEED] [--jobs N]";
        let word = words.next().ok_or(usage)?;
        let number: u64 = word
            .parse()
            .map_err(|_| format!("`{word}` is no number\n{usage}"))?;
        match name.as_str() {
            "--seeds" => args.seeds = number,
            "--from" => args.from = number,
            "--seed" => args.seed = Some(number),
            "--jobs" => args.jobs = usize::try_from(number).unwrap_or(1).max(1),
            _ => return Err(format!("`{name}` is not known\n{usage}")),
        }
    }
    Ok(args)
}

/// One seed, with its story.
fn one(seed: u64, out: &mut impl Write) -> std::io::Result<bool> {
    writeln!(out, "seed {seed}")?;
    let Simulated {
        tally,
        violation,
        story,
        digest,
    } = simulate(seed, None);
    for (number, line) in story.iter().enumerate() {
        writeln!(out, "{:>4}  {line}", number + 1)?;
    }
    for (name, times) in &tally.faults {
        writeln!(out, "  {name:<36} {times:>9}")?;
    }
    writeln!(
        out,
        "{} events, {} processes, {:?}, digest {digest}",
        tally.events, tally.processes, tally.endings
    )?;
    match &violation {
        Some(violation) => writeln!(out, "violated: {violation}")?,
        None => writeln!(out, "every invariant held")?,
    }
    Ok(violation.is_none())
}

fn many(args: &Args, out: &mut impl Write) -> std::io::Result<bool> {
    let end = args.from.saturating_add(args.seeds);
    writeln!(out, "seeds {}..{end}, {} threads", args.from, args.jobs)?;
    out.flush()?;
    let started = Instant::now();
    let swept = sweep(args.from..end, args.jobs);
    let seconds = started.elapsed().as_secs_f64();
    for (seed, violation) in &swept.violations {
        writeln!(
            out,
            "seed {seed}: {violation}\n  run it alone: make sim SEED={seed}"
        )?;
    }
    writeln!(out, "{}", swept.tally)?;
    writeln!(
        out,
        "{} seeds in {seconds:.1} s, {} violations",
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
