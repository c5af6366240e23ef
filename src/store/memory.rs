//! A log in memory, for tests and simulations that need no disk.
//!
//! It fulfils the contract of [`EventLog`], except that nothing survives the process.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::error::ReadError;
use super::event_log::{AppendError, Durability, EventLog, Records};
use tinygate_events::{Event, Record, Seq};

#[derive(Debug, Default)]
pub struct MemoryLog {
    records: Mutex<Vec<Record>>,
}

impl MemoryLog {
    pub fn new() -> MemoryLog {
        MemoryLog {
            records: Mutex::new(Vec::new()),
        }
    }

    /// A log that already holds `events`.
    pub fn with(events: impl IntoIterator<Item = (u64, Event)>) -> MemoryLog {
        let records = (0..)
            .zip(events)
            .map(|(seq, (time_ms, event))| Record {
                seq: Seq::new(seq),
                time_ms,
                event,
            })
            .collect();
        MemoryLog {
            records: Mutex::new(records),
        }
    }

    /// All events.
    pub fn records(&self) -> Vec<Record> {
        self.lock().clone()
    }

    /// The vector stays consistent if a thread panics while holding it.
    fn lock(&self) -> MutexGuard<'_, Vec<Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EventLog for MemoryLog {
    fn append(
        &self,
        expected_next: Seq,
        events: &[(u64, Event)],
        _durability: Durability,
    ) -> Result<Seq, AppendError> {
        let mut records = self.lock();
        let actual = Seq::new(records.len() as u64);
        if actual != expected_next {
            return Err(AppendError::Conflict {
                expected: expected_next,
                actual,
            });
        }
        for (time_ms, event) in events {
            let seq = Seq::new(records.len() as u64);
            records.push(Record {
                seq,
                time_ms: *time_ms,
                event: event.clone(),
            });
        }
        Ok(Seq::new(records.len() as u64))
    }

    fn head(&self) -> Seq {
        Seq::new(self.lock().len() as u64)
    }

    fn sync(&self) -> Result<Seq, AppendError> {
        Ok(self.head())
    }

    fn read(&self, from: Seq) -> Result<Records<'_>, ReadError> {
        let records = self.lock();
        let start = usize::try_from(from.get()).unwrap_or(usize::MAX);
        let rest: Vec<Record> = records.get(start..).unwrap_or_default().to_vec();
        Ok(Box::new(rest.into_iter().map(Ok)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tinygate_events::RunFinished;

    fn finished(stages: u32) -> (u64, Event) {
        (7, Event::RunFinished(RunFinished { stages }))
    }

    #[test]
    fn an_append_at_the_head_is_read_back() {
        let log = MemoryLog::new();
        let head = log
            .append(Seq::FIRST, &[finished(1), finished(2)], Durability::Durable)
            .unwrap();
        assert_eq!(head, Seq::new(2));
        let read: Vec<Record> = log.read(Seq::new(1)).unwrap().map(Result::unwrap).collect();
        assert_eq!(read.len(), 1);
        assert_eq!(read[0].seq, Seq::new(1));
        assert_eq!(read[0].event, finished(2).1);
        assert!(log.read(Seq::new(9)).unwrap().next().is_none());
    }

    #[test]
    fn an_append_elsewhere_conflicts_and_changes_nothing() {
        let log = MemoryLog::with([finished(1)]);
        for expected in [0, 2, u64::MAX] {
            let answer = log.append(Seq::new(expected), &[finished(2)], Durability::Lazy);
            assert!(matches!(
                answer,
                Err(AppendError::Conflict { expected: e, actual })
                    if e == Seq::new(expected) && actual == Seq::new(1)
            ));
        }
        assert_eq!(log.head(), Seq::new(1));
    }
}
