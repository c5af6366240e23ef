//! Decides which log the two copies hold together, and what each copy lacks.
//!
//! [`judge`] is a pure function of what was read from both: no disk, no clock.
//! [`compare`] reads them and judges.
//!
//! Invariant: a block that was durable according to either copy is never dropped,
//! unless a person accepts the loss. An error states how far the log is sound.

use std::fmt;

use super::block::{Block, FileHeader, Link};
use super::chain::{Chains, Fault, Fork, JournalChain, Row};
use super::disk::{DiskFile, Mirror, MirrorError};
use super::error::OpenError;
use tinygate_events::Seq;

/// What to do about durable events that neither copy has intact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Return an error.
    Refused,
    /// A person accepted that the log continues without them and all later events.
    Accepted,
}

/// The log that both copies hold together, and what each needs to hold exactly that.
#[derive(Clone, Debug)]
pub struct Verdict {
    pub header: FileHeader,
    /// The end of the log, after the last complete append.
    pub end: Link,
    /// The events after the end that are given up, if that was accepted.
    pub given_up: Option<GivenUp>,
    /// The last block is in the journal. The journal is never behind sled, so any later block
    /// was torn.
    pub journal_has_end: bool,
    pub journal: JournalVerdict,
    pub sled: SledVerdict,
}

/// What the journal needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JournalVerdict {
    /// There is no file.
    Missing,
    /// It holds the log and nothing else.
    Sound,
    /// It holds the log, and other bytes after `good`.
    Longer {
        good: u64,
        length: u64,
        fault: Option<Fault>,
    },
    /// It lacks blocks of the log after `good`, which is 0 if its file header is damaged.
    Incomplete {
        good: u64,
        length: u64,
        fault: Option<Fault>,
        /// Events before `good`.
        events: u64,
    },
}

/// What sled needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SledVerdict {
    /// There is no folder.
    Missing,
    Sound,
    /// Its part of the log is sound. It lacks later blocks, or has others after the end.
    Behind(Row),
    /// It is moved to quarantine as a whole.
    Damaged(String),
}

impl Verdict {
    /// For a journal without sled: it holds no complete append, and nothing but an unfinished
    /// write follows its header.
    pub fn is_unfinished_start(&self) -> bool {
        let fault = match &self.journal {
            JournalVerdict::Missing | JournalVerdict::Sound => None,
            JournalVerdict::Longer { fault, .. } | JournalVerdict::Incomplete { fault, .. } => {
                fault.as_ref()
            }
        };
        self.end.seq == 0 && matches!(fault, None | Some(Fault::Unfinished))
    }

    /// What is wrong with the bytes of the copies.
    pub fn fault(&self) -> Option<String> {
        let journal = match &self.journal {
            JournalVerdict::Longer {
                good,
                length,
                fault: Some(Fault::Damage(what)),
            }
            | JournalVerdict::Incomplete {
                good,
                length,
                fault: Some(Fault::Damage(what)),
                ..
            } if good < length => Some(what.clone()),
            JournalVerdict::Missing
            | JournalVerdict::Sound
            | JournalVerdict::Longer { .. }
            | JournalVerdict::Incomplete { .. } => None,
        };
        journal.or(match &self.sled {
            SledVerdict::Damaged(fault) => Some(fault.clone()),
            SledVerdict::Missing | SledVerdict::Sound | SledVerdict::Behind(_) => None,
        })
    }
}

/// Events after the end that were durable according to one of the copies.
#[derive(Clone, Debug)]
pub struct GivenUp {
    /// The first missing block, and its expected offset in the journal.
    missing: u64,
    offset: u64,
    /// Events in the log.
    kept: u64,
    /// Later events that are known to have existed.
    lost: u64,
    shown_by: &'static str,
    journal: String,
    sled: String,
}

impl GivenUp {
    /// The text for the record of a repair.
    pub fn on_request(&self) -> String {
        format!(
            "{} events from event {} on, as counted from later blocks, were given up on request",
            self.lost, self.kept
        )
    }
}

impl fmt::Display for GivenUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let GivenUp {
            missing,
            offset,
            lost,
            shown_by,
            journal,
            sled,
            ..
        } = self;
        write!(
            f,
            "block {missing} (byte {offset} of the journal) is intact in neither copy, but {shown_by} shows that it was \
             stored; {lost} later events are known; journal: {journal}; sled: {sled}"
        )
    }
}

/// Reads both copies, calls `visit` with each block of the log, and judges.
///
/// # Errors
/// Those of [`Chains::read`] and [`judge`].
pub fn compare(
    journal: Option<Box<dyn DiskFile>>,
    mirror: Result<Option<&mut (dyn Mirror + 'static)>, MirrorError>,
    loss: Loss,
    visit: impl FnMut(&FileHeader, &Block<'_>, bool),
) -> Result<Verdict, OpenError> {
    judge(Chains::read(journal, mirror, visit)?, loss)
}

/// Like [`compare`], without visiting the blocks.
///
/// # Errors
/// Those of [`compare`].
pub fn compare_only(
    journal: Option<Box<dyn DiskFile>>,
    mirror: Result<Option<&mut (dyn Mirror + 'static)>, MirrorError>,
    loss: Loss,
) -> Result<Verdict, OpenError> {
    compare(journal, mirror, loss, |_, _, _| {})
}

/// Judges what was read from the two copies.
///
/// # Errors
/// [`OpenError::Forked`] if both are sound but differ. [`OpenError::Damaged`] if neither has
/// some durable events intact and the loss was not accepted.
pub fn judge(chains: Chains, loss: Loss) -> Result<Verdict, OpenError> {
    if let Some(Fork { seq, journal, sled }) = chains.fork {
        return Err(OpenError::Forked { seq, journal, sled });
    }
    let given_up = given_up(&chains);
    if let (Some(given_up), Loss::Refused) = (&given_up, loss) {
        return Err(OpenError::Damaged {
            sound: Seq::new(chains.end.seq),
            what: given_up.to_string(),
        });
    }
    Ok(Verdict {
        sled: judge_sled(&chains, given_up.as_ref()),
        end: chains.end,
        journal_has_end: chains.journal_has_end,
        journal: judge_journal(chains.journal, &chains.end),
        given_up,
        header: chains.header,
    })
}

fn judge_journal(journal: JournalChain, end: &Link) -> JournalVerdict {
    let Some(length) = journal.length else {
        return JournalVerdict::Missing;
    };
    let fault = journal.header_fault.map(Fault::Damage);
    if fault.is_some() {
        return JournalVerdict::Incomplete {
            good: 0,
            length,
            fault,
            events: journal.row.link.seq,
        };
    }
    let (good, fault) = (journal.row.end, journal.fault);
    if journal.row.blocks() < end.number {
        JournalVerdict::Incomplete {
            good,
            length,
            fault,
            events: journal.row.link.seq,
        }
    } else if good == length {
        JournalVerdict::Sound
    } else {
        JournalVerdict::Longer {
            good,
            length,
            fault,
        }
    }
}

fn judge_sled(chains: &Chains, given_up: Option<&GivenUp>) -> SledVerdict {
    let (sled, end) = (&chains.sled, &chains.end);
    let has = sled.row.blocks();
    let empty = !sled.has_header && 0 < end.number;
    let hole = has < end.number && Some(has) <= sled.highest;
    let fault = if sled.failure.is_some() {
        sled.failure.clone()
    } else if sled.fault.is_some() {
        sled.fault.clone()
    } else if sled.missing {
        None
    } else if empty {
        Some("it is empty".to_owned())
    } else if hole {
        Some(format!("block {has} is missing"))
    } else {
        // Kept as a whole, since it may hold blocks that are given up.
        given_up.map(GivenUp::on_request)
    };
    if let Some(fault) = fault {
        return SledVerdict::Damaged(fault);
    }
    if sled.missing {
        return SledVerdict::Missing;
    }
    let marked = sled.has_header && sled.marker.is_some_and(|marker| marker.blocks == has);
    let has_more = Some(end.number) <= sled.highest;
    if has == end.number && marked && !has_more {
        SledVerdict::Sound
    } else {
        SledVerdict::Behind(sled.row)
    }
}

/// The events after the end, if one of the copies shows that they were durable.
fn given_up(chains: &Chains) -> Option<GivenUp> {
    let Chains {
        missing,
        journal,
        sled,
        ..
    } = chains;
    let marker = sled.marker.filter(|marker| *missing < marker.blocks);
    let mut last = journal.later_events.max(sled.later_events.unwrap_or(0));
    let shown_by = match (marker, sled.later_events, journal.shows_durable) {
        (Some(marker), ..) => {
            last = last.max(marker.seq.get());
            "sled's head"
        }
        (None, Some(_), _) => "a later block in sled",
        (None, None, true) => "a later block in the journal",
        (None, None, false) => return None,
    };
    let kept = chains.end.seq;
    Some(GivenUp {
        missing: *missing,
        offset: chains.missing_at,
        kept,
        lost: last.saturating_sub(kept),
        shown_by,
        journal: journal
            .fault
            .as_ref()
            .map_or("it ends there".to_owned(), Fault::to_string),
        sled: sled
            .fault
            .clone()
            .unwrap_or_else(|| "the block is missing".to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::super::block::HeadMarker;
    use super::super::chain::SledChain;
    use super::super::error::ChainHead;
    use super::*;

    /// The position after `blocks` blocks of one event and 1000 bytes each.
    fn row(blocks: u64) -> Row {
        Row {
            link: Link {
                number: blocks,
                seq: blocks,
                hash: [blocks as u8; 32],
            },
            end: 192 + 1000 * blocks,
        }
    }

    /// Both copies hold the same four blocks.
    fn level() -> Chains {
        let end = row(4);
        Chains {
            header: FileHeader::new("r", [1; 16]),
            end: end.link,
            journal_has_end: true,
            missing: 4,
            missing_at: end.end,
            journal: JournalChain {
                length: Some(end.end),
                header_fault: None,
                row: end,
                fault: None,
                shows_durable: false,
                later_events: 0,
            },
            sled: SledChain {
                missing: false,
                failure: None,
                has_header: true,
                marker: Some(HeadMarker {
                    blocks: 4,
                    seq: Seq::new(4),
                }),
                row: end,
                fault: None,
                highest: Some(3),
                later_events: None,
            },
            fork: None,
        }
    }

    /// Sled has the first `blocks` blocks.
    fn sled_has(chains: &mut Chains, blocks: u64) {
        chains.sled.row = row(blocks);
        chains.sled.highest = blocks.checked_sub(1);
        chains.sled.marker = Some(HeadMarker {
            blocks,
            seq: Seq::new(blocks),
        });
    }

    #[track_caller]
    fn check(
        name: &str,
        change: impl FnOnce(&mut Chains),
        journal: &JournalVerdict,
        sled: &SledVerdict,
    ) {
        let mut chains = level();
        change(&mut chains);
        let verdict = judge(chains, Loss::Refused).unwrap();
        assert_eq!((&verdict.journal, &verdict.sled), (journal, sled), "{name}");
        assert!(verdict.given_up.is_none(), "{name}");
    }

    #[test]
    fn each_copy_gets_what_it_lacks() {
        use JournalVerdict::{Incomplete, Longer, Missing, Sound};
        use SledVerdict::{Behind, Damaged};
        let (good, length) = (4192, 4200);
        check("the same", |_| {}, &Sound, &SledVerdict::Sound);
        check(
            "sled is behind, as it may be",
            |chains| sled_has(chains, 2),
            &Sound,
            &Behind(row(2)),
        );
        check(
            "sled's head is behind its blocks",
            |chains| {
                chains.sled.marker = Some(HeadMarker {
                    blocks: 3,
                    seq: Seq::new(3),
                });
            },
            &Sound,
            &Behind(row(4)),
        );
        check(
            "a write was not finished",
            |chains| {
                chains.journal.length = Some(length);
                chains.journal.fault = Some(Fault::Unfinished);
            },
            &Longer {
                good,
                length,
                fault: Some(Fault::Unfinished),
            },
            &SledVerdict::Sound,
        );
        check(
            "whole blocks of an append that was not finished",
            |chains| {
                chains.missing = 5;
                chains.journal.length = Some(length);
            },
            &Longer {
                good,
                length,
                fault: None,
            },
            &SledVerdict::Sound,
        );
        check(
            "a damaged block, whole in sled",
            |chains| {
                chains.journal.row = row(1);
                chains.journal.fault = Some(Fault::Damage("x".to_owned()));
            },
            &Incomplete {
                good: 1192,
                length: good,
                fault: Some(Fault::Damage("x".to_owned())),
                events: 1,
            },
            &SledVerdict::Sound,
        );
        check(
            "a damaged file header",
            |chains| chains.journal.header_fault = Some("x".to_owned()),
            &Incomplete {
                good: 0,
                length: good,
                fault: Some(Fault::Damage("x".to_owned())),
                events: 4,
            },
            &SledVerdict::Sound,
        );
        check(
            "no journal",
            |chains| chains.journal.length = None,
            &Missing,
            &SledVerdict::Sound,
        );
        check(
            "no sled",
            |chains| {
                sled_has(chains, 0);
                chains.sled.marker = None;
                chains.sled.has_header = false;
                chains.sled.missing = true;
            },
            &Sound,
            &SledVerdict::Missing,
        );
        check(
            "an empty sled",
            |chains| {
                sled_has(chains, 0);
                chains.sled.marker = None;
                chains.sled.has_header = false;
            },
            &Sound,
            &Damaged("it is empty".to_owned()),
        );
        check(
            "a hole in sled",
            |chains| chains.sled.row = row(2),
            &Sound,
            &Damaged("block 2 is missing".to_owned()),
        );
        check(
            "a damaged block in sled",
            |chains| {
                chains.sled.row = row(2);
                chains.sled.fault = Some("x".to_owned());
            },
            &Sound,
            &Damaged("x".to_owned()),
        );
        check(
            "sled that does not open",
            |chains| {
                sled_has(chains, 0);
                chains.sled.failure = Some("it panicked".to_owned());
            },
            &Sound,
            &Damaged("it panicked".to_owned()),
        );
    }

    #[track_caller]
    fn check_loss(name: &str, change: impl FnOnce(&mut Chains), lost: u64, shown_by: &str) {
        let mut chains = level();
        change(&mut chains);
        let refused = judge(chains.clone(), Loss::Refused).unwrap_err();
        let OpenError::Damaged { sound, what } = &refused else {
            panic!("{name}: {refused}");
        };
        assert_eq!(*sound, Seq::new(4), "{name}");
        assert!(what.contains(shown_by), "{name}: {what}");
        assert!(
            what.contains(&format!("{lost} later events")),
            "{name}: {what}"
        );
        let accepted = judge(chains, Loss::Accepted).unwrap();
        assert!(accepted.given_up.is_some(), "{name}");
        assert_eq!(accepted.end, row(4).link, "{name}");
        assert!(
            matches!(accepted.sled, SledVerdict::Damaged(_)),
            "{name}: sled is kept whole"
        );
    }

    #[test]
    fn durable_events_are_only_given_up_on_request() {
        check_loss(
            "sled's head is further",
            |chains| {
                chains.sled.marker = Some(HeadMarker {
                    blocks: 6,
                    seq: Seq::new(6),
                });
            },
            2,
            "sled's head shows",
        );
        check_loss(
            "sled has later blocks",
            |chains| {
                chains.sled.highest = Some(7);
                chains.sled.later_events = Some(8);
            },
            4,
            "a later block in sled shows",
        );
        check_loss(
            "the journal has later blocks",
            |chains| {
                chains.journal.shows_durable = true;
                chains.journal.later_events = 7;
            },
            3,
            "a later block in the journal shows",
        );
        // A later block proves nothing if it was written before the missing one was durable.
        let mut chains = level();
        chains.journal.later_events = 7;
        assert!(judge(chains, Loss::Refused).unwrap().given_up.is_none());
    }

    #[test]
    fn a_fork_is_not_decided() {
        let mut chains = level();
        chains.fork = Some(Fork {
            seq: Seq::new(2),
            journal: ChainHead::new(2, &[1; 32], 4),
            sled: ChainHead::new(2, &[2; 32], 3),
        });
        for loss in [Loss::Refused, Loss::Accepted] {
            assert!(matches!(
                judge(chains.clone(), loss),
                Err(OpenError::Forked { seq, .. }) if seq == Seq::new(2)
            ));
        }
    }
}
