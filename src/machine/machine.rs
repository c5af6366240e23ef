//! Folds and decides a run by the rules that its log requires.

use super::command::{Command, Decision, Idle};
use super::rules::{KNOWN, KnownRules, Rules};
use super::run::RunState;
use tinygate_events::Event;

/// The state of a run, and the known versions of the rules.
///
/// The state is plain data. The log's first event gives the version of its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    known: KnownRules,
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
    pub const fn new(known: KnownRules) -> Machine {
        Machine::at(known, RunState::empty())
    }

    /// A machine with a given state.
    pub const fn at(known: KnownRules, state: RunState) -> Machine {
        Machine { known, state }
    }

    pub const fn state(&self) -> &RunState {
        &self.state
    }

    pub fn into_state(self) -> RunState {
        self.state
    }

    pub const fn known(&self) -> KnownRules {
        self.known
    }

    /// Folds an event into the state. Every sequence of events gives a state. If the log's rules
    /// are unknown, the newest fold it, so that people can still read it.
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

    /// What to do next. If the log's rules are unknown, nothing.
    pub fn decide(&self) -> Decision {
        match self.rules() {
            None => Decision::Idle(Idle::NoRun),
            Some(Ok(rules)) => (rules.decide)(&self.state),
            Some(Err(rules)) => Decision::Idle(Idle::UnknownRules { rules }),
        }
    }

    /// The command that is due, if any.
    pub fn command(&self) -> Option<Command> {
        match self.decide() {
            Decision::Act(command) => Some(command),
            Decision::Record(_) | Decision::Idle(_) => None,
        }
    }

    /// The version of the log's rules, if it is unknown.
    pub fn unknown_rules(&self) -> Option<u32> {
        self.rules()?.err()
    }

    /// The log's rules, or their version if it is unknown. `None`: the log is empty.
    fn rules(&self) -> Option<Result<Rules, u32>> {
        let number = self.number()?;
        Some(self.known.find(number).ok_or(number))
    }

    fn number(&self) -> Option<u32> {
        Some(self.state.created.as_ref()?.rules)
    }
}
