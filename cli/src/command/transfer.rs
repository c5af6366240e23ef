//! `export` and `import`: a log as one file.

use anyhow::bail;
use tinygate::run::{EmptyLog, check_run};
use tinygate::store::{self, OpenError, ReadError, ReadErrorKind, TransferError};

use crate::args::{ExportArgs, ImportArgs};
use crate::exit::Exit;
use crate::output::{Advise, Advised, advised, bytes, count, say};

pub fn export(args: &ExportArgs) -> anyhow::Result<Exit> {
    check_run(&args.dir)?;
    let exported = store::export(&args.dir, &args.file, args.force)?;
    let file = args.file.display();
    let events = count(exported.events);
    if let Some(fault) = exported.fault {
        return Err(fault).advise(
            || format!("only {events} events could be exported"),
            &format!("those before the fault are in `{file}`"),
        );
    }
    if exported.events == 0 {
        return Err(EmptyLog::at(&args.dir).into());
    }
    say(&format!(
        "{events} events in `{file}` ({})",
        bytes(exported.bytes)
    ));
    if let Some(tail) = exported.tail {
        let left = bytes(tail.bytes);
        say(&format!(
            "{left} at the end were left out: they are not a complete append"
        ));
    }
    Ok(Exit::Done)
}

pub fn import(args: &ImportArgs) -> anyhow::Result<Exit> {
    let file = args.file.display();
    if args.file.is_dir() {
        bail!(advised(
            format!("`{file}` is a directory, and `import` takes one file"),
            format!("`tinygate export {file} FILE` writes the log of a run directory to a file"),
        ));
    }
    let events = store::import(&args.file, &args.dir).map_err(|error| {
        let hint = match &error {
            TransferError::Log(ReadError {
                kind: ReadErrorKind::NotALog { .. } | ReadErrorKind::Empty,
                ..
            }) => Some("name a file that `tinygate export` wrote"),
            TransferError::Open(OpenError::Exists) => Some("name another directory"),
            TransferError::Log(_)
            | TransferError::Open(_)
            | TransferError::FileExists { .. }
            | TransferError::Read { .. }
            | TransferError::Write { .. }
            | TransferError::Rename { .. } => None,
        };
        let what = format!("cannot import `{file}` as `{}`", args.dir.display());
        match hint {
            Some(hint) => Advised::new(what, hint, error).into(),
            None => anyhow::Error::new(error).context(what),
        }
    })?;
    if events == 0 {
        return Err(EmptyLog::at(&args.file).into());
    }
    say(&format!(
        "{} events in `{}`; an exported log has no checkpoints: to resume, copy the folders of the stages into it",
        count(events),
        args.dir.display()
    ));
    Ok(Exit::Done)
}
