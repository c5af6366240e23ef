//! `export` and `import`: a log in one file.

use tinygate::store;

use crate::args::{ExportArgs, ImportArgs};
use crate::exit::{EmptyLog, Exit};
use crate::output::{bytes, count, say};

pub fn export(args: &ExportArgs) -> anyhow::Result<Exit> {
    let exported = store::export(&args.dir, &args.file)?;
    say(&format!(
        "{} events in `{}` ({})",
        count(exported.events),
        args.file.display(),
        bytes(exported.bytes)
    ));
    if let Some(tail) = exported.tail {
        let left = bytes(tail.bytes);
        say(&format!(
            "{left} at the end are no whole append and were left out"
        ));
    }
    match exported.fault {
        Some(fault) => Err(anyhow::Error::new(fault).context("the log ends with a fault")),
        None if exported.events == 0 => {
            let place = args.dir.display().to_string();
            Err(EmptyLog { place }.into())
        }
        None => Ok(Exit::Done),
    }
}

pub fn import(args: &ImportArgs) -> anyhow::Result<Exit> {
    let events = store::import(&args.file, &args.dir)?;
    say(&format!(
        "{} events in `{}`",
        count(events),
        args.dir.display()
    ));
    if events == 0 {
        let place = args.file.display().to_string();
        return Err(EmptyLog { place }.into());
    }
    Ok(Exit::Done)
}
