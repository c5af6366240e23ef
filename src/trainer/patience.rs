//! How long a trainer may say nothing.
//!
//! A trainer that hangs says nothing at all: no update, no checkpoint, no score. How long that may
//! last is set by the user, or learnt from the longest silence that the stage itself needed
//! so far, times a factor and never below a floor. Silence is counted in ticks that the host waited
//! in vain. A tick that took longer, because the whole machine was busy or the process was stopped,
//! counts as one tick, so that load beside the trainer does not look like a trainer that hangs.
//!
//! Only the host knows any of this. What it found stands in an event; no decision reads a clock.

use std::time::Duration;

use crate::events::StageName;

/// How long the host waits for one report at a time.
pub const TICK: Duration = Duration::from_secs(1);

/// Seconds that a trainer may say nothing before the stage has finished a chunk: data are read and
/// libraries are loaded, and nobody knows how long a checkpoint and the scores of a gate take.
const FIRST: u64 = 3600;
/// Seconds that it may say nothing at least, once the stage has shown how long all of it takes.
const FLOOR: u64 = 600;
/// How many times the longest silence so far may last.
const FACTOR: u64 = 20;

/// A trainer said nothing for longer than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoProgress {
    pub silence_seconds: u64,
    pub limit_seconds: u64,
}

/// Counts a trainer's silence.
#[derive(Debug)]
pub struct Patience {
    /// The user's limit, in seconds.
    set: Option<u64>,
    stage: Option<StageName>,
    /// Seconds that the limit never falls below, unless the user set it.
    floor: u64,
    /// Longest silence that ended with a report, in ticks.
    longest: u64,
    /// The stage has finished a chunk, so all that it does was seen.
    whole: bool,
    silence: u64,
}

impl Patience {
    /// With the limit that the user set, in seconds; `None`: it is learnt.
    pub fn new(set: Option<u32>) -> Patience {
        Patience {
            set: set.map(u64::from),
            stage: None,
            floor: FLOOR,
            longest: 0,
            whole: false,
            silence: 0,
        }
    }

    /// With a floor of at least so many seconds, where the trainer itself may wait that long for something.
    #[must_use]
    pub fn with_floor(mut self, seconds: u64) -> Patience {
        self.floor = self.floor.max(seconds);
        self
    }

    /// A command is given. What was learnt of another stage says nothing of this one.
    pub fn begin(&mut self, stage: &StageName) {
        if self.stage.as_ref() != Some(stage) {
            self.stage = Some(stage.clone());
            self.longest = 0;
            self.whole = false;
        }
        self.silence = 0;
    }

    /// The trainer said something.
    pub fn heard(&mut self) {
        self.longest = self.longest.max(std::mem::take(&mut self.silence));
    }

    /// It finished a chunk of the stage.
    pub fn finished_chunk(&mut self) {
        self.whole = true;
    }

    /// It said nothing for another tick.
    ///
    /// # Errors
    /// That is longer than it may.
    pub fn waited(&mut self) -> Result<(), NoProgress> {
        self.silence = self.silence.saturating_add(1);
        let (silence_seconds, limit_seconds) = (self.silence * TICK.as_secs(), self.limit());
        if silence_seconds < limit_seconds {
            return Ok(());
        }
        Err(NoProgress {
            silence_seconds,
            limit_seconds,
        })
    }

    /// Seconds that the trainer may say nothing now.
    pub fn limit(&self) -> u64 {
        let learnt = FACTOR.saturating_mul(self.longest * TICK.as_secs());
        match self.set {
            Some(set) => set,
            None if self.whole => self.floor.max(learnt),
            None => self.floor.max(learnt).max(FIRST),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits `seconds` in vain.
    fn wait(patience: &mut Patience, seconds: u64) -> Option<NoProgress> {
        (0..seconds).find_map(|_| patience.waited().err())
    }

    fn begun(set: Option<u32>) -> Patience {
        let mut patience = Patience::new(set);
        patience.begin(&StageName::new("dynamics"));
        patience
    }

    #[test]
    fn a_set_limit_holds_from_the_first_command_on() {
        let mut patience = begun(Some(5));
        assert_eq!(wait(&mut patience, 4), None);
        let silent = NoProgress {
            silence_seconds: 5,
            limit_seconds: 5,
        };
        assert_eq!(wait(&mut patience, 1), Some(silent));
    }

    #[test]
    fn a_report_ends_the_silence() {
        let mut patience = begun(Some(5));
        for _ in 0..3 {
            assert_eq!(wait(&mut patience, 4), None);
            patience.heard();
        }
    }

    #[test]
    fn the_limit_is_learnt_from_the_longest_silence() {
        let mut patience = begun(None);
        assert_eq!(patience.limit(), FIRST, "nothing is known yet");
        patience.heard();
        assert_eq!(
            patience.limit(),
            FIRST,
            "updates alone say nothing of a gate"
        );
        patience.finished_chunk();
        assert_eq!(patience.limit(), FLOOR, "quick reports");
        assert_eq!(wait(&mut patience, 40), None);
        patience.heard();
        assert_eq!(patience.limit(), 800, "a checkpoint took 40 s");
        patience.heard();
        assert_eq!(patience.limit(), 800, "the longest counts");
        patience.begin(&StageName::new("dynamics"));
        assert_eq!(patience.limit(), 800, "the same stage");
        patience.begin(&StageName::new("latent_actions"));
        assert_eq!(patience.limit(), FIRST, "another stage");
    }

    #[test]
    fn a_learnt_limit_is_reached() {
        let mut patience = begun(None);
        patience.finished_chunk();
        let silent = NoProgress {
            silence_seconds: FLOOR,
            limit_seconds: FLOOR,
        };
        assert_eq!(wait(&mut patience, FLOOR), Some(silent));
    }

    #[test]
    fn a_trainer_that_may_wait_itself_has_a_higher_floor() {
        let mut patience = begun(None).with_floor(1200);
        patience.finished_chunk();
        assert_eq!(patience.limit(), 1200);
        assert_eq!(
            begun(Some(5)).with_floor(1200).limit(),
            5,
            "a set value wins"
        );
    }
}
