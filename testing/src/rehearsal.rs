//! A possible next version of the rules and of the policy, to rehearse that a new version works next to
//! the older ones. No build knows it; tests pass it to a controller or an auditor.
//!
//! It differs from the newest rules in one decision and in one detail of the fold: the latest loss is
//! the median of at least [`LATEST_WINDOW_MIN`] samples, whatever the policy says; and a passing gate
//! resets the stage's failures.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tinygate::events::stored::document::{Document, DocumentError};
use tinygate::events::{Action, Applies, CriterionTest, Event, Policy, Rung, Scalar};
use tinygate::machine::rules::{KNOWN, KnownRules, ONE, Rules, TWO};
use tinygate::machine::{Decision, RunState};

/// The rules of a build that knows this version too.
pub const REHEARSED: KnownRules = KnownRules {
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

/// A possible next version of the policy, with a new required field, a new kind of criterion and a new kind
/// of rung. Everything else is kept as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NextPolicy {
    /// Largest number of updates of all stages together.
    pub updates_max: u64,
    pub stages: Vec<NextStage>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NextStage {
    pub criteria: Vec<NextCriterion>,
    pub ladder: Vec<NextRung>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NextCriterion {
    pub name: String,
    pub applies: Applies,
    pub test: NextTest,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum NextTest {
    Known(CriterionTest),
    New(NewTest),
}

/// A kind of criterion that no build knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum NewTest {
    GradNormAtMost { limit: Scalar },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum NextRung {
    Known(Rung),
    New(NewRung),
}

/// A kind of rung that no build knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum NewRung {
    SwapOptimizer { to: String },
}

/// The limit of an older policy, which has none.
pub const UPDATES_MAX: u64 = u64::MAX;

impl Document for NextPolicy {
    const NAME: &'static str = Policy::NAME;
    const VERSION: u32 = Policy::VERSION + 1;

    fn read_older(version: u32, document: Value) -> Result<NextPolicy, DocumentError> {
        let policy = if version == Policy::VERSION {
            serde_json::from_value(document)
                .map_err(|error| DocumentError::malformed(Policy::NAME, error))?
        } else {
            Policy::read_older(version, document)?
        };
        NextPolicy::of(&policy)
    }
}

impl NextPolicy {
    /// A policy of the newest version, upgraded.
    ///
    /// # Errors
    /// The policy is not a JSON object; does not happen.
    pub fn of(policy: &Policy) -> Result<NextPolicy, DocumentError> {
        let malformed = |error| DocumentError::malformed(Policy::NAME, error);
        let mut value = serde_json::to_value(policy).map_err(malformed)?;
        if let Some(fields) = value.as_object_mut() {
            fields.insert("updates_max".to_owned(), UPDATES_MAX.into());
        }
        serde_json::from_value(value).map_err(malformed)
    }
}
