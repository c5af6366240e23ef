//! The state of the chunk in training: its range, samples and scores.
//!
//! Samples arrive in blocks, possibly twice, late, or for steps that a resume has
//! superseded. A column keeps one sample per step in increasing order, so an interrupted
//! chunk folds to the same state as an uninterrupted one.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use tinygate_events::{
    Attempt, CheckpointRef, ChunkNumber, ChunkStarted, Column, FailureCause, HeldOutScored,
    PictureScored, Restart, Scalar, Settings, Step,
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkState {
    pub number: ChunkNumber,
    pub attempt: Attempt,
    pub restart: Restart,
    /// The chunk is `(from, to]`.
    pub from: Step,
    pub to: Step,
    pub settings: Settings,
    /// Where training resumes: at the start, or at a checkpoint inside the range.
    pub resume_from: Option<CheckpointRef>,
    /// The gate loss that this chunk is compared with.
    pub previous: Previous,
    /// Paths of recorded checkpoints past the start, which new checkpoints cannot use.
    pub taken: Vec<String>,
    pub held_out: Option<HeldOutScored>,
    pub picture: Option<PictureScored>,
    /// Why it failed without a gate, until its next attempt starts.
    pub failed: Option<FailureCause>,
    columns: BTreeMap<String, Vec<(Step, Scalar)>>,
}

/// The gate with which a chunk's loss is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Previous {
    /// There is none: fresh weights, a checkpoint given by the user, or the first gate after a restart.
    None,
    GateLoss(Option<Scalar>),
}

impl ChunkState {
    /// Starts a chunk, or its next attempt, which keeps the samples up to its resume
    /// point.
    pub fn begin(
        started: &ChunkStarted,
        previous: Previous,
        taken: Vec<String>,
        before: Option<ChunkState>,
    ) -> ChunkState {
        let mut chunk = ChunkState {
            number: started.chunk,
            attempt: started.attempt,
            restart: started.restart,
            from: started.from,
            to: started.to,
            settings: started.settings.clone(),
            resume_from: started.resume_from.clone(),
            previous,
            taken: Vec::new(),
            held_out: None,
            picture: None,
            failed: None,
            columns: BTreeMap::new(),
        };
        if let Some(before) = before.filter(|before| before.number == started.chunk) {
            chunk.previous = before.previous;
            chunk.columns = before.columns;
        }
        chunk.supersede(started.resume_from.clone(), taken);
        chunk
    }

    /// Resumes from `resume_from` and drops later samples.
    pub fn supersede(&mut self, resume_from: Option<CheckpointRef>, taken: Vec<String>) {
        self.resume_from = resume_from;
        self.taken = taken;
        let start = self.start();
        for samples in self.columns.values_mut() {
            samples.retain(|(step, _)| *step <= start);
        }
        self.held_out = None;
        self.picture = None;
    }

    /// Forgets where it was resumed, so that a finished chunk does not depend on interruptions.
    pub fn forget_resumes(&mut self) {
        self.resume_from = None;
        self.taken = Vec::new();
    }

    /// The step at which training resumes.
    pub fn start(&self) -> Step {
        self.resume_from
            .as_ref()
            .map_or(Step::FIRST, |checkpoint| checkpoint.step)
    }

    /// Adds the samples that are new and inside the chunk.
    pub fn add(&mut self, column: &Column) {
        let samples = self.columns.entry(column.name.clone()).or_default();
        for (index, value) in column.values.iter().enumerate() {
            let Some(step) = column.steps.at(index) else {
                return;
            };
            let newest = samples.last().map_or(self.from, |(step, _)| *step);
            if newest < step && step <= self.to {
                samples.push((step, *value));
            }
        }
    }

    pub fn samples(&self, name: &str) -> &[(Step, Scalar)] {
        self.columns.get(name).map_or(&[], Vec::as_slice)
    }

    pub fn values(&self, name: &str) -> Vec<f64> {
        self.samples(name)
            .iter()
            .map(|(_, value)| value.get())
            .collect()
    }

    /// Pairs of two metrics at the steps where both were logged.
    pub fn pairs(&self, a: &str, b: &str) -> Vec<(f64, f64)> {
        let others: BTreeMap<Step, Scalar> = self.samples(b).iter().copied().collect();
        self.samples(a)
            .iter()
            .filter_map(|(step, value)| others.get(step).map(|other| (value.get(), other.get())))
            .collect()
    }
}
