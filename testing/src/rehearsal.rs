//! The next rules as they might be, to rehearse that another version of the rules lives beside
//! those before it. No build knows them: they are given to a controller or an auditor by hand.
//!
//! They differ from the newest rules in one thing that is decided, and in one that is folded:
//! the latest loss is the median of at least [`LATEST_WINDOW_MIN`] samples, whatever the
//! policy says; and a gate that passes makes the stage's failures forgotten.

use tinygate::events::{Action, Event};
use tinygate::machine::rules::{KNOWN, Known, ONE, Rules, TWO};
use tinygate::machine::{Decision, RunState};

/// What a build knows that has all of them.
pub const REHEARSED: Known = Known {
    older: &[ONE, TWO],
    newest: NEXT,
};

pub const NEXT: Rules = Rules {
    number: KNOWN.newest.number + 1,
    apply,
    decide,
};

pub const LATEST_WINDOW_MIN: u32 = 25;

fn apply(state: &mut RunState, event: &Event) {
    (KNOWN.newest.apply)(state, event);
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
    (KNOWN.newest.decide)(&state)
}
