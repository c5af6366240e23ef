//! `run`: a new run in a new directory.

use crate::args::RunArgs;
use crate::exit::Exit;

use super::prepare::{self, Prepared};

pub fn perform(args: &RunArgs) -> anyhow::Result<Exit> {
    let prepared = prepare::prepare(args)?;
    begin(args, prepared)
}

#[cfg(feature = "train")]
fn begin(args: &RunArgs, prepared: Prepared) -> anyhow::Result<Exit> {
    use super::{drive, dry_run};
    match &args.dir {
        Some(dir) if !args.dry_run => drive::begin(dir, prepared, args.json, args.quiet),
        Some(_) | None => dry_run::perform(&prepared, args.json, args.quiet),
    }
}

#[cfg(not(feature = "train"))]
fn begin(_: &RunArgs, _: Prepared) -> anyhow::Result<Exit> {
    Err(super::no_trainer())
}
