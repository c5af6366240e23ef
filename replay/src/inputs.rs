//! The inputs of a decision, short enough to read.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tinygate_events::{Scalar, StagePolicy, metric};
use tinygate_machine::stage::PhaseKind;
use tinygate_machine::{
    Checkpoint, CheckpointGate, ChunkState, Edition, Judgement, Phase, Previous, RunState,
    StageState, gate,
};

/// How many losses of a chunk are shown.
const LATEST: usize = 5;
/// How many checkpoints of a lineage are shown.
const CANDIDATES: usize = 8;

/// The part of the state that determines what is due, as JSON.
pub fn inputs(state: &RunState) -> Value {
    let Some(stage) = state.stage() else {
        return json!({ "phase": format!("{:?}", state.phase).to_lowercase() });
    };
    let mut inputs = json!({
        "stage": stage.name(),
        "phase": phase_name(stage.phase.kind()),
        "settings": stage.settings,
        "failures": stage.failures,
        "max_retries": stage.max_retries,
        "chunk_failures": stage.chunk_failures,
        "cursor": stage.cursor,
        "extensions": stage.extensions,
        "restart": stage.restart,
        "visual_streak": stage.visual_streak,
        "interruptions": state.process.interruptions,
        "resume_candidates": candidates(stage),
    });
    if let (Some(chunk), Some(fields)) = (&stage.chunk, inputs.as_object_mut()) {
        fields.insert("chunk".to_owned(), of_chunk(&stage.policy, chunk));
        if matches!(stage.phase, Phase::Gating | Phase::Reopening { .. })
            && let Some(created) = &state.created
        {
            let edition = Edition::of(created.rules);
            let window = created.policy.latest_window;
            let seen = stage.gate_inputs(chunk, window, edition);
            let evaluation = gate::evaluate(&stage.policy, &seen);
            fields.insert("criteria".to_owned(), json!(evaluation.criteria));
        }
    }
    inputs
}

fn of_chunk(policy: &StagePolicy, chunk: &ChunkState) -> Value {
    let losses = chunk.samples(&policy.loss);
    let broken = losses
        .iter()
        .filter(|(_, loss)| loss.finite().is_none())
        .count();
    let latest = |name: &str| chunk.samples(name).last().map(|(_, value)| *value);
    let mut fields = json!({
        "chunk": chunk.number,
        "attempt": chunk.attempt,
        "from": chunk.from,
        "to": chunk.to,
        "resume_from": chunk.resume_from,
        "previous_gate": match chunk.previous {
            Previous::None => Value::Null,
            Previous::GateLoss(gate_loss) => json!({ "gate_loss": gate_loss }),
        },
        "losses": losses.len(),
        "losses_not_finite": broken,
        "latest_losses": losses.iter().rev().take(LATEST).rev().map(|(_, loss)| *loss).collect::<Vec<Scalar>>(),
        "unique_actions": latest(metric::UNIQUE_ACTIONS),
        "action_entropy": latest(metric::ACTION_ENTROPY),
        "held_out": chunk.held_out.as_ref().map(|scored| &scored.values),
        "picture": chunk.picture.as_ref().map(|picture| picture.pooled),
    });
    let named = [
        metric::LEARNING_RATE,
        metric::UNIQUE_ACTIONS,
        metric::ACTION_ENTROPY,
    ];
    let others = policy.metrics.iter().map(String::as_str);
    let others: BTreeMap<&str, Option<Scalar>> = others
        .filter(|name| !named.contains(name))
        .map(|name| (name, latest(name)))
        .collect();
    if let (false, Some(fields)) = (others.is_empty(), fields.as_object_mut()) {
        fields.insert("metrics".to_owned(), json!(others));
    }
    fields
}

/// The newest checkpoints of the lineage in ascending order, and the best known.
fn candidates(stage: &StageState) -> Value {
    let newest: Vec<Value> = stage
        .lineage
        .present()
        .rev()
        .take(CANDIDATES)
        .map(of_checkpoint)
        .collect();
    json!({
        "newest_accepted": stage.lineage.newest_accepted().map(|checkpoint| &checkpoint.reference.path),
        "best_known": stage.lineage.best().map(|checkpoint| &checkpoint.reference.path),
        "lineage": newest.into_iter().rev().collect::<Vec<Value>>(),
    })
}

fn of_checkpoint(checkpoint: &Checkpoint) -> Value {
    let judgement = match &checkpoint.judgement {
        Judgement::Pending => "not judged".to_owned(),
        Judgement::Accepted if checkpoint.deleted => "deleted".to_owned(),
        Judgement::Accepted => "accepted".to_owned(),
        Judgement::Rejected(rejection) => format!("rejected: {}", rejection.code),
    };
    let gate = checkpoint.gate.map(
        |CheckpointGate {
             gate_loss, passed, ..
         }| json!({ "gate_loss": gate_loss, "passed": passed }),
    );
    json!({
        "path": checkpoint.reference.path,
        "step": checkpoint.reference.step,
        "judgement": judgement,
        "gate": gate,
    })
}

const fn phase_name(kind: PhaseKind) -> &'static str {
    match kind {
        PhaseKind::Pending => "pending",
        PhaseKind::Measuring => "measuring",
        PhaseKind::Recording => "recording",
        PhaseKind::Training => "training",
        PhaseKind::Rewinding => "rewinding",
        PhaseKind::Gating => "gating",
        PhaseKind::Failed => "failed",
        PhaseKind::Ending => "ending",
        PhaseKind::Stopping => "stopping",
        PhaseKind::Stopped => "stopped",
        PhaseKind::Reopening => "reopening",
        PhaseKind::Passed => "passed",
    }
}
