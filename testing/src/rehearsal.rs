//! Rules 2 as they might be, to rehearse that a second version of the rules lives beside
//! the first. No build knows them: they are given to a controller or an auditor by hand.
//!
//! They differ from rules 1 in one thing that is decided, and in one that is folded:
//! the latest loss is the median of at least [`LATEST_WINDOW_MIN`] samples, whatever the
//! policy says; and a gate that passes makes the stage's failures forgotten.

use tinygate::events::{Action, Event};
use tinygate::machine::rules::{Known, ONE, Rules};
use tinygate::machine::{Decision, RunState};

/// What a build knows that has both.
pub const REHEARSED: Known = Known {
    older: &[ONE],
    newest: TWO,
};

pub const TWO: Rules = Rules {
    number: 2,
    apply,
    decide,
};

pub const LATEST_WINDOW_MIN: u32 = 25;

fn apply(state: &mut RunState, event: &Event) {
    (ONE.apply)(state, event);
    if let Event::GateDecided(gate) = event
        && gate.decision == Action::Continue
        && let Some(stage) = state
            .stages
            .iter_mut()
            .find(|stage| *stage.name() == gate.stage)
    {
        stage.failures = 0;
    }
}

fn decide(state: &RunState) -> Decision {
    let mut state = state.clone();
    if let Some(created) = &mut state.created {
        let window = &mut created.policy.latest_window;
        *window = LATEST_WINDOW_MIN.max(*window);
    }
    (ONE.decide)(&state)
}
