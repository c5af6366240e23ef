//! An event of the log on one line.

use tinygate::events::Record;
use tinygate_replay::describe;

use super::timestamp;

/// Sequence number, time (UTC), kind, and what it says.
pub fn event_line(record: &Record) -> String {
    format!(
        "{:>6}  {}  {:<18}  {}",
        record.seq.get(),
        timestamp(record.time_ms),
        record.event.kind(),
        describe(&record.event)
    )
}
