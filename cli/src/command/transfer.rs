//! `export` and `import`: a log in one file.

use anyhow::bail;
use tinygate::store::{self, OpenError, ReadError, ReadErrorKind, TransferError};

use super::expect_run;
use crate::args::{ExportArgs, ImportArgs};
use crate::exit::{EmptyLog, Exit};
use crate::output::{bytes, count, say};

pub fn export(args: &ExportArgs) -> anyhow::Result<Exit> {
    expect_run(&args.dir)?;
    let exported = store::export(&args.dir, &args.file, args.force)?;
    let file = args.file.display();
    let events = count(exported.events);
    if let Some(fault) = exported.fault {
        let what = format!(
            "only {events} events could be exported\nhint: those before the fault are in `{file}`"
        );
        return Err(anyhow::Error::new(fault).context(what));
    }
    if exported.events == 0 {
        let place = args.dir.display().to_string();
        return Err(EmptyLog { place }.into());
    }
    say(&format!(
        "{events} events in `{file}` ({})",
        bytes(exported.bytes)
    ));
    if let Some(tail) = exported.tail {
        let left = bytes(tail.bytes);
        say(&format!(
            "{left} at the end are no whole append and were left out"
        ));
    }
    Ok(Exit::Done)
}

pub fn import(args: &ImportArgs) -> anyhow::Result<Exit> {
    let file = args.file.display();
    if args.file.is_dir() {
        bail!(
            "`{file}` is a directory, and `import` takes one file\n\
             hint: `tinygate export {file} FILE` writes the log of a run directory to a file"
        );
    }
    let events = store::import(&args.file, &args.dir).map_err(|error| {
        let hint = match &error {
            TransferError::Log(ReadError {
                kind: ReadErrorKind::NotALog { .. } | ReadErrorKind::Empty,
                ..
            }) => "\nhint: name a file that `tinygate export` wrote",
            TransferError::Open(OpenError::Exists) => "\nhint: name another directory",
            TransferError::Log(_)
            | TransferError::Open(_)
            | TransferError::InTheWay { .. }
            | TransferError::Read { .. }
            | TransferError::Write { .. }
            | TransferError::Rename { .. } => "",
        };
        let what = format!("cannot import `{file}` as `{}`{hint}", args.dir.display());
        anyhow::Error::new(error).context(what)
    })?;
    if events == 0 {
        let place = args.file.display().to_string();
        return Err(EmptyLog { place }.into());
    }
    say(&format!(
        "{} events in `{}`; an exported log has no checkpoints: copy the stages' folders beside it to resume",
        count(events),
        args.dir.display()
    ));
    Ok(Exit::Done)
}
