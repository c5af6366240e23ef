//! `export` and `import`: a log in one file.

use tinygate::store;

use super::expect_run;
use crate::args::{ExportArgs, ImportArgs};
use crate::exit::{EmptyLog, Exit};
use crate::output::{bytes, count, say};

pub fn export(args: &ExportArgs) -> anyhow::Result<Exit> {
    expect_run(&args.dir)?;
    let exported = store::export(&args.dir, &args.file)?;
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
