//! Limits how long a trainer may be silent.
//!
//! A trainer that hangs sends no updates, checkpoints or scores. The user sets the limit, or it is
//! learned: a multiple of the longest silence of the stage so far, but at least a floor. Silence is
//! counted in ticks for which the host waited without a report. A tick that took longer, because the
//! machine was busy or the process was stopped, still counts as one, so that load does not look like
//! a hang.
//!
//! Only the host knows about this. The result is recorded in an event; no decision reads a clock.

use std::time::Duration;

use crate::events::StageName;

/// How long the host waits for one report at a time.
pub const TICK: Duration = Duration::from_secs(1);

/// Smallest learned limit in seconds until the stage has finished a chunk. Until then data and
/// libraries are loaded, and the time for a checkpoint and a gate's scores is unknown.
const FIRST: u64 = 3600;
/// Smallest learned limit in seconds once the stage has finished a chunk.
const FLOOR: u64 = 600;
/// The learned limit is this many times the longest silence so far.
const FACTOR: u64 = 20;

/// A trainer was silent for longer than the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoProgress {
    pub silence_seconds: u64,
    pub limit_seconds: u64,
}

/// Measures a trainer's silence.
#[derive(Debug)]
pub struct Patience {
    /// The user's limit, in seconds.
    set: Option<u64>,
    stage: Option<StageName>,
    /// Smallest limit in seconds, unless the user set one.
    floor: u64,
    /// Longest silence that ended with a report, in ticks.
    longest: u64,
    /// Whether the stage has finished a chunk, so that each kind of work was timed.
    finished_chunk: bool,
    silence: u64,
}

impl Patience {
    /// `set` is the user's limit in seconds; with `None` the limit is learned.
    pub fn new(set: Option<u32>) -> Patience {
        Patience {
            set: set.map(u64::from),
            stage: None,
            floor: FLOOR,
            longest: 0,
            finished_chunk: false,
            silence: 0,
        }
    }

    /// Raises the floor to at least `seconds`, for a trainer that may itself wait that long.
    #[must_use]
    pub fn with_floor(mut self, seconds: u64) -> Patience {
        self.floor = self.floor.max(seconds);
        self
    }

    /// Call when a command is sent. The limit is learned separately for each stage.
    pub fn begin(&mut self, stage: &StageName) {
        if self.stage.as_ref() != Some(stage) {
            self.stage = Some(stage.clone());
            self.longest = 0;
            self.finished_chunk = false;
        }
        self.silence = 0;
    }

    /// Call for each report of the trainer.
    pub fn reported(&mut self) {
        self.longest = self.longest.max(std::mem::take(&mut self.silence));
    }

    /// Call when the trainer has finished a chunk of the stage.
    pub fn finished_chunk(&mut self) {
        self.finished_chunk = true;
    }

    /// Call after each tick without a report.
    ///
    /// # Errors
    /// The silence has reached the limit.
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

    /// The current limit, in seconds.
    pub fn limit(&self) -> u64 {
        let learned = FACTOR.saturating_mul(self.longest * TICK.as_secs());
        match self.set {
            Some(set) => set,
            None if self.finished_chunk => self.floor.max(learned),
            None => self.floor.max(learned).max(FIRST),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits `seconds` without a report.
    fn wait(patience: &mut Patience, seconds: u64) -> Option<NoProgress> {
        (0..seconds).find_map(|_| patience.waited().err())
    }

    fn begun(set: Option<u32>) -> Patience {
        let mut patience = Patience::new(set);
        patience.begin(&StageName::new("dynamics"));
        patience
    }

    #[test]
    fn a_set_limit_applies_from_the_first_command() {
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
            patience.reported();
        }
    }

    #[test]
    fn the_limit_is_learned_from_the_longest_silence() {
        let mut patience = begun(None);
        assert_eq!(patience.limit(), FIRST, "nothing is known yet");
        patience.reported();
        assert_eq!(
            patience.limit(),
            FIRST,
            "updates do not show how long a gate takes"
        );
        patience.finished_chunk();
        assert_eq!(patience.limit(), FLOOR, "quick reports");
        assert_eq!(wait(&mut patience, 40), None);
        patience.reported();
        assert_eq!(patience.limit(), 800, "a checkpoint took 40 s");
        patience.reported();
        assert_eq!(patience.limit(), 800, "the longest counts");
        patience.begin(&StageName::new("dynamics"));
        assert_eq!(patience.limit(), 800, "the same stage");
        patience.begin(&StageName::new("latent_actions"));
        assert_eq!(patience.limit(), FIRST, "another stage");
    }

    #[test]
    fn a_learned_limit_is_reached() {
        let mut patience = begun(None);
        patience.finished_chunk();
        let silent = NoProgress {
            silence_seconds: FLOOR,
            limit_seconds: FLOOR,
        };
        assert_eq!(wait(&mut patience, FLOOR), Some(silent));
    }

    #[test]
    fn the_floor_can_be_raised() {
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
