//! SIGINT and SIGTERM: the first asks, the second goes at once.

use std::io;
use std::sync::Arc;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level;
use tinygate::controller::StopRequest;

use crate::exit::Exit;
use crate::output;

/// Listens from here on, on a thread of its own.
pub fn listen(quiet: bool) -> io::Result<Arc<StopRequest>> {
    on_each(move |stop, signal| {
        if stop.requested().is_some() {
            // What was acknowledged is durable, and the next process cleans up.
            low_level::exit(i32::from(Exit::Interrupted.code()));
        }
        stop.request(signal);
        if !quiet {
            output::say("stopping at the next update; once more stops at once");
        }
    })
}

/// Notes signals and goes on, however many come: for a rank that rank 0 ends.
pub fn note() -> io::Result<Arc<StopRequest>> {
    on_each(StopRequest::request)
}

fn on_each(react: impl Fn(&StopRequest, &str) + Send + 'static) -> io::Result<Arc<StopRequest>> {
    let stop = Arc::new(StopRequest::default());
    let asked = Arc::clone(&stop);
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    std::thread::Builder::new()
        .name("tinygate-signals".to_owned())
        .spawn(move || {
            for signal in signals.forever() {
                react(&asked, name(signal));
            }
        })?;
    Ok(stop)
}

fn name(signal: i32) -> &'static str {
    match signal {
        SIGINT => "SIGINT",
        _ => "SIGTERM",
    }
}
