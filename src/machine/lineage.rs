//! The checkpoints of a stage, and which of them led to the current weights.
//!
//! Checkpoints are kept in the order in which they were written. The present lineage is the
//! chain that training went through, up to the newest; a retry or a restart cuts it back.
//! Checkpoints outside the lineage are kept too, since one of them may still be the best.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use tinygate_events::{
    CheckpointGivenUp, CheckpointRef, CheckpointWritten, ChunkNumber, FileRecord, Rejection,
    Scalar, Step,
};

/// All checkpoints of a stage, and the present lineage among them.
///
/// Invariant: no two checkpoints have the same reference, and every index in `present` is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lineage {
    /// In the order in which they were written.
    checkpoints: Vec<Checkpoint>,
    /// Indices in `checkpoints` of those that led to the current weights, oldest first.
    present: Vec<usize>,
    /// Chunks that led to the current weights; a restart lists those that it abandons.
    chunks: Vec<ChunkNumber>,
    /// Once any checkpoint is in use, only such a checkpoint can be the best.
    prefer_in_use: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    pub reference: CheckpointRef,
    pub samples_seen: u64,
    /// `None`: given by the user.
    pub chunk: Option<ChunkNumber>,
    pub files: Vec<FileRecord>,
    pub judgement: Judgement,
    /// Set when this is the checkpoint of a gate.
    pub gate: Option<CheckpointGate>,
    /// A chunk started from it.
    pub resumed: bool,
    pub deleted: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    Pending,
    Accepted,
    Rejected(Rejection),
}

/// The result of a gate for its checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointGate {
    pub gate_loss: Option<Scalar>,
    pub passed: bool,
    /// The policy's `in_use` is satisfied or not set.
    pub in_use: bool,
}

/// What retention must keep.
#[derive(Clone, Copy, Debug)]
pub struct Retention<'a> {
    /// How many accepted checkpoints to keep, besides those that are never deleted.
    pub keep_last: u32,
    /// The checkpoint that the next step needs.
    pub needed: Option<&'a CheckpointRef>,
    /// Whether checkpoints that were not judged yet may be deleted.
    pub unjudged: bool,
}

impl Checkpoint {
    pub fn is_usable(&self) -> bool {
        self.judgement == Judgement::Accepted && !self.deleted
    }

    fn has_passed(&self) -> bool {
        self.gate.is_some_and(|gate| gate.passed)
    }

    /// Whether retention never deletes it.
    fn is_protected(&self) -> bool {
        self.chunk.is_none() || self.has_passed() || self.resumed
    }
}

impl Lineage {
    /// An empty lineage. With `prefer_in_use`, a checkpoint that is in use is better than any
    /// that is not.
    pub const fn new(prefer_in_use: bool) -> Lineage {
        Lineage {
            checkpoints: Vec::new(),
            present: Vec::new(),
            chunks: Vec::new(),
            prefer_in_use,
        }
    }

    /// Every checkpoint, in the order in which they were written.
    pub fn all(&self) -> impl DoubleEndedIterator<Item = &Checkpoint> {
        self.checkpoints.iter()
    }

    /// The checkpoints that led to the current weights, oldest first.
    pub fn present(&self) -> impl DoubleEndedIterator<Item = &Checkpoint> {
        self.present
            .iter()
            .filter_map(|index| self.checkpoints.get(*index))
    }

    pub fn find(&self, reference: &CheckpointRef) -> Option<&Checkpoint> {
        self.all()
            .find(|checkpoint| checkpoint.reference == *reference)
    }

    /// The newest accepted checkpoint of the present lineage.
    pub fn newest_accepted(&self) -> Option<&Checkpoint> {
        self.present().rfind(|checkpoint| checkpoint.is_usable())
    }

    /// The reference of [`Lineage::newest_accepted`].
    pub fn newest_reference(&self) -> Option<CheckpointRef> {
        Some(self.newest_accepted()?.reference.clone())
    }

    /// The step of the newest accepted checkpoint, or the first step if there is none.
    pub fn newest_step(&self) -> Step {
        step_of(
            self.newest_accepted()
                .map(|checkpoint| &checkpoint.reference),
        )
    }

    /// The checkpoint with the lowest finite gate loss; of equal ones, the earlier.
    pub fn best(&self) -> Option<&Checkpoint> {
        self.lowest(self.all().map(|checkpoint| (checkpoint, checkpoint.gate)))
    }

    /// The best checkpoint that passed its gate, in the present lineage or not.
    pub fn best_passed(&self) -> Option<&Checkpoint> {
        let passed = self.all().filter(|checkpoint| checkpoint.has_passed());
        self.lowest(passed.map(|checkpoint| (checkpoint, checkpoint.gate)))
    }

    /// The best checkpoint of the present lineage, if the one at `step` had the result `gate`.
    pub fn best_present_with(&self, step: Step, gate: CheckpointGate) -> Option<&Checkpoint> {
        let here = self.index_at(step);
        let with_gates = self.present.iter().filter_map(|index| {
            let checkpoint = self.checkpoints.get(*index)?;
            let noted = (Some(*index) == here).then_some(gate);
            Some((checkpoint, noted.or(checkpoint.gate)))
        });
        self.lowest(with_gates)
    }

    /// The newest checkpoint of the present lineage that passed its gate.
    pub fn newest_passed(&self) -> Option<&Checkpoint> {
        self.present()
            .rfind(|checkpoint| checkpoint.is_usable() && checkpoint.has_passed())
    }

    /// The usable checkpoint that the user gave the stage to start from.
    pub fn given(&self) -> Option<&Checkpoint> {
        self.all()
            .find(|checkpoint| checkpoint.chunk.is_none() && checkpoint.is_usable())
    }

    /// The checkpoint of the gate at `step`: the last one of the lineage at that step.
    pub fn at_gate(&self, step: Step) -> Option<&Checkpoint> {
        self.checkpoints.get(self.index_at(step)?)
    }

    /// The first checkpoint of the lineage that was not judged yet, for example after a crash.
    pub fn unjudged(&self) -> Option<&Checkpoint> {
        self.present()
            .find(|checkpoint| checkpoint.judgement == Judgement::Pending)
    }

    /// Paths of checkpoints past `resume_from`. A new checkpoint at the same step needs another
    /// name.
    pub fn taken_after(&self, resume_from: Option<&CheckpointRef>) -> Vec<String> {
        let start = step_of(resume_from);
        let after = self.all().map(|checkpoint| &checkpoint.reference);
        after
            .filter(|reference| start < reference.step)
            .map(|reference| reference.path.clone())
            .collect()
    }

    /// The chunks of the lineage, including the newest, `chunk`, that do not lead to `resume_from`.
    pub fn abandoned_by(
        &self,
        chunk: ChunkNumber,
        resume_from: Option<&CheckpointRef>,
    ) -> Vec<ChunkNumber> {
        let mut chunks = self.chunks.clone();
        if !chunks.contains(&chunk) {
            chunks.push(chunk);
        }
        let kept = leading_to(&chunks, self.chunk_of(resume_from));
        chunks.split_off(kept)
    }

    /// The next checkpoint that retention may delete: first those that were not accepted, then
    /// the oldest, except the newest `keep_last`.
    pub fn expendable(&self, retention: Retention<'_>) -> Option<&Checkpoint> {
        let best = self.best().map(|checkpoint| &checkpoint.reference);
        let is_free = |checkpoint: &&Checkpoint| {
            let reference = Some(&checkpoint.reference);
            let judged = checkpoint.judgement != Judgement::Pending;
            !checkpoint.deleted
                && !checkpoint.is_protected()
                && reference != best
                && reference != retention.needed
                && (judged || retention.unjudged)
        };
        let (accepted, others): (Vec<&Checkpoint>, Vec<&Checkpoint>) = self
            .all()
            .filter(is_free)
            .partition(|checkpoint| checkpoint.judgement == Judgement::Accepted);
        let surplus = accepted.len().saturating_sub(retention.keep_last as usize);
        let old = accepted.into_iter().take(surplus);
        others.into_iter().chain(old).next()
    }

    /// Adds a checkpoint given by the user, unless it is already known.
    pub fn give(&mut self, reference: &CheckpointRef) {
        self.push(Checkpoint {
            reference: reference.clone(),
            samples_seen: 0,
            chunk: None,
            files: Vec::new(),
            judgement: Judgement::Accepted,
            gate: None,
            resumed: true,
            deleted: false,
        });
    }

    /// Adds a checkpoint, unless it is already known, since a fact may be repeated.
    pub fn write(&mut self, written: &CheckpointWritten) {
        self.push(Checkpoint {
            reference: written.checkpoint.clone(),
            samples_seen: written.samples_seen,
            chunk: Some(written.chunk),
            files: written.files.clone(),
            judgement: Judgement::Pending,
            gate: None,
            resumed: false,
            deleted: false,
        });
    }

    /// Records a verdict. An accepted checkpoint may be rejected later, but not the reverse.
    pub fn judge(&mut self, reference: &CheckpointRef, rejected: Option<&Rejection>) {
        let Some(checkpoint) = self.find_mut(reference) else {
            return;
        };
        match (&checkpoint.judgement, rejected) {
            (Judgement::Pending, None) => checkpoint.judgement = Judgement::Accepted,
            (Judgement::Pending | Judgement::Accepted, Some(rejection)) => {
                checkpoint.judgement = Judgement::Rejected(rejection.clone());
            }
            (Judgement::Accepted, None) | (Judgement::Rejected(_), _) => {}
        }
    }

    /// Rejects a checkpoint that a person gave up. `false`: there is no such checkpoint.
    pub fn give_up(&mut self, given_up: &CheckpointGivenUp) -> bool {
        let rejection = Rejection {
            code: "given_up".to_owned(),
            text: format!("given up by {}: {}", given_up.who, given_up.why),
        };
        self.judge(&given_up.checkpoint, Some(&rejection));
        self.find(&given_up.checkpoint).is_some()
    }

    /// Marks a checkpoint as deleted.
    pub fn delete(&mut self, reference: &CheckpointRef) {
        if let Some(checkpoint) = self.find_mut(reference) {
            checkpoint.deleted = true;
        }
    }

    /// Sets the gate result of the checkpoint at `step`.
    pub fn note_gate(&mut self, step: Step, gate: Option<CheckpointGate>) {
        let index = self.index_at(step);
        if let Some(checkpoint) = index.and_then(|index| self.checkpoints.get_mut(index)) {
            checkpoint.gate = gate;
        }
    }

    /// Starts a chunk from `resume_from`. Later checkpoints leave the lineage; without
    /// `resume_from` all of them do.
    pub fn start_chunk(&mut self, chunk: ChunkNumber, resume_from: Option<&CheckpointRef>) {
        self.cut_back_to(resume_from);
        if let Some(checkpoint) = resume_from.and_then(|reference| self.find_mut(reference)) {
            checkpoint.resumed = true;
        }
        self.note_chunk(chunk);
    }

    /// Resumes an interrupted chunk from `resume_from`. Like its samples, later checkpoints, none
    /// of them accepted, are forgotten, since the chunk will write them again. So an interrupted
    /// run folds to the same state as an uninterrupted one.
    pub fn rewind_chunk(&mut self, chunk: ChunkNumber, resume_from: Option<&CheckpointRef>) {
        let before = self.present.clone();
        self.cut_back_to(resume_from);
        while let Some(last) = self.checkpoints.len().checked_sub(1)
            && before.contains(&last)
            && !self.present.contains(&last)
        {
            self.checkpoints.pop();
        }
        self.note_chunk(chunk);
    }

    /// Removes chunks that a restart abandons.
    pub fn abandon(&mut self, chunks: &[ChunkNumber]) {
        self.chunks.retain(|chunk| !chunks.contains(chunk));
    }

    fn push(&mut self, checkpoint: Checkpoint) {
        if self.find(&checkpoint.reference).is_none() {
            self.present.push(self.checkpoints.len());
            self.checkpoints.push(checkpoint);
        }
    }

    fn note_chunk(&mut self, chunk: ChunkNumber) {
        if !self.chunks.contains(&chunk) {
            self.chunks.push(chunk);
        }
    }

    fn cut_back_to(&mut self, resume_from: Option<&CheckpointRef>) {
        let kept = leading_to(&self.chunks, self.chunk_of(resume_from));
        self.chunks.truncate(kept);
        let Some(reference) = resume_from else {
            self.present.clear();
            return;
        };
        let found = self.index_of(reference);
        let within = self.present.iter().position(|index| Some(*index) == found);
        match within {
            Some(last) => self.present.truncate(last + 1),
            None => self.present = found.into_iter().collect(),
        }
    }

    fn find_mut(&mut self, reference: &CheckpointRef) -> Option<&mut Checkpoint> {
        let index = self.index_of(reference)?;
        self.checkpoints.get_mut(index)
    }

    fn index_of(&self, reference: &CheckpointRef) -> Option<usize> {
        self.checkpoints
            .iter()
            .position(|checkpoint| checkpoint.reference == *reference)
    }

    fn index_at(&self, step: Step) -> Option<usize> {
        let is_at = |index: &&usize| {
            self.checkpoints
                .get(**index)
                .is_some_and(|checkpoint| checkpoint.reference.step == step)
        };
        self.present.iter().rfind(is_at).copied()
    }

    /// The chunk that wrote a checkpoint.
    fn chunk_of(&self, reference: Option<&CheckpointRef>) -> Option<ChunkNumber> {
        self.find(reference?)?.chunk
    }

    /// Among these checkpoints with their gates, the usable one with the lowest finite gate loss.
    fn lowest<'a>(
        &self,
        with_gates: impl Iterator<Item = (&'a Checkpoint, Option<CheckpointGate>)>,
    ) -> Option<&'a Checkpoint> {
        let eligible: Vec<(&Checkpoint, f64, bool)> = with_gates
            .filter(|(checkpoint, _)| checkpoint.is_usable())
            .filter_map(|(checkpoint, gate)| {
                let gate = gate?;
                Some((checkpoint, gate.gate_loss?.finite()?, gate.in_use))
            })
            .collect();
        let in_use_only = self.prefer_in_use && eligible.iter().any(|(_, _, in_use)| *in_use);
        let mut lowest: Option<(&Checkpoint, f64)> = None;
        for (checkpoint, loss, in_use) in eligible {
            if (in_use || !in_use_only) && lowest.is_none_or(|(_, lowest)| loss < lowest) {
                lowest = Some((checkpoint, loss));
            }
        }
        lowest.map(|(checkpoint, _)| checkpoint)
    }
}

/// How many of `chunks` come up to and including `chunk`.
fn leading_to(chunks: &[ChunkNumber], chunk: Option<ChunkNumber>) -> usize {
    chunk
        .and_then(|chunk| chunks.iter().position(|number| *number == chunk))
        .map_or(0, |index| index + 1)
}

fn step_of(reference: Option<&CheckpointRef>) -> Step {
    reference.map_or(Step::FIRST, |reference| reference.step)
}
