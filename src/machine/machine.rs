//! A run's state, folded and decided by the rules that its log names.

use super::command::{Command, Decision, Idle};
use super::rules::{KNOWN, Known, Rules};
use super::run::RunState;
use tinygate_events::Event;

/// The state of a run, and the versions of the rules it may be decided by.
///
/// The state is plain data. The rules are those whose number stands in the log's first event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    known: Known,
    state: RunState,
}

impl Default for Machine {
    /// A machine that knows the rules of this build.
    fn default() -> Machine {
        Machine::new(KNOWN)
    }
}

impl Machine {
    /// A machine before the first event.
    pub const fn new(known: Known) -> Machine {
        Machine::at(known, RunState::empty())
    }

    /// A machine that continues from a state.
    pub const fn at(known: Known, state: RunState) -> Machine {
        Machine { known, state }
    }

    pub const fn state(&self) -> &RunState {
        &self.state
    }

    pub fn into_state(self) -> RunState {
        self.state
    }

    pub const fn known(&self) -> Known {
        self.known
    }

    /// Folds an event into the state. Total: whatever arrives, there is a state after it. Where
    /// the log's rules are not known it is folded by the newest, so that people can read it.
    pub fn apply(&mut self, event: &Event) {
        let first = if let Event::RunCreated(created) = event {
            Some(created.rules)
        } else {
            None
        };
        let rules = self
            .number()
            .or(first)
            .and_then(|number| self.known.find(number))
            .unwrap_or(self.known.newest);
        (rules.apply)(&mut self.state, event);
    }

    /// What comes next. By rules that are not known nothing is decided.
    pub fn decide(&self) -> Decision {
        match self.rules() {
            None => Decision::Idle(Idle::NoRun),
            Some(Ok(rules)) => (rules.decide)(&self.state),
            Some(Err(rules)) => Decision::Idle(Idle::UnknownRules { rules }),
        }
    }

    /// The command that waits for facts, if one is due.
    pub fn command(&self) -> Option<Command> {
        match self.decide() {
            Decision::Act(command) => Some(command),
            Decision::Record(_) | Decision::Idle(_) => None,
        }
    }

    /// The number of the log's rules, where they are not known.
    pub fn unknown_rules(&self) -> Option<u32> {
        self.rules()?.err()
    }

    /// The log's rules, or their number where they are not known. `None`: the log is empty.
    fn rules(&self) -> Option<Result<Rules, u32>> {
        let number = self.number()?;
        Some(self.known.find(number).ok_or(number))
    }

    fn number(&self) -> Option<u32> {
        Some(self.state.created.as_ref()?.rules)
    }
}
