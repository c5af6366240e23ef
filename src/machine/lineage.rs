//! The checkpoints of a stage, and which of them lead to the present weights.
//!
//! Checkpoints are kept in the order in which they were written. The lineage is the chain of
//! those that training continued from, up to the newest; a retry or a restart cuts it back.
//! Checkpoints that it leaves behind stay known, since one of them may still be the best.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use tinygate_events::{
    CheckpointGivenUp, CheckpointRef, CheckpointWritten, ChunkNumber, FileRecord, Rejection,
    Scalar, Step,
};

/// Every checkpoint of a stage, and the present lineage among them.
///
/// Invariant: no two checkpoints have the same reference, and every place is one of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lineage {
    /// In the order in which they were written.
    checkpoints: Vec<Checkpoint>,
    /// Places in `checkpoints` that lead to the present weights, oldest first.
    places: Vec<usize>,
    /// Chunks that lead to the present weights, for a restart to name.
    chunks: Vec<ChunkNumber>,
    /// While a checkpoint's actions are in use, only such a one is the best.
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

/// What a gate said of its checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointGate {
    pub gate_loss: Option<Scalar>,
    pub passed: bool,
    /// What the policy's `in_use` asks for holds, or it asks for nothing.
    pub in_use: bool,
}

/// What retention is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Retention<'a> {
    /// How many accepted checkpoints stay besides those that are never deleted.
    pub keep_last: u32,
    /// The checkpoint that comes next needs.
    pub needed: Option<&'a CheckpointRef>,
    /// Whether checkpoints that nobody has judged yet may go.
    pub unjudged: bool,
}

impl Checkpoint {
    pub fn is_usable(&self) -> bool {
        self.judgement == Judgement::Accepted && !self.deleted
    }

    fn has_passed(&self) -> bool {
        self.gate.is_some_and(|gate| gate.passed)
    }

    /// Retention never deletes it.
    fn is_protected(&self) -> bool {
        self.chunk.is_none() || self.has_passed() || self.resumed
    }
}

impl Lineage {
    /// No checkpoint. With `prefer_in_use`, a checkpoint whose actions are in use is better
    /// than any whose are not.
    pub const fn new(prefer_in_use: bool) -> Lineage {
        Lineage {
            checkpoints: Vec::new(),
            places: Vec::new(),
            chunks: Vec::new(),
            prefer_in_use,
        }
    }

    /// Every checkpoint, in the order in which they were written.
    pub fn all(&self) -> impl DoubleEndedIterator<Item = &Checkpoint> {
        self.checkpoints.iter()
    }

    /// The checkpoints that lead to the present weights, oldest first.
    pub fn present(&self) -> impl DoubleEndedIterator<Item = &Checkpoint> {
        self.places
            .iter()
            .filter_map(|place| self.checkpoints.get(*place))
    }

    pub fn find(&self, reference: &CheckpointRef) -> Option<&Checkpoint> {
        self.all()
            .find(|checkpoint| checkpoint.reference == *reference)
    }

    /// The newest accepted checkpoint of the present lineage.
    pub fn newest_accepted(&self) -> Option<&Checkpoint> {
        self.present().rfind(|checkpoint| checkpoint.is_usable())
    }

    /// [`Lineage::newest_accepted`], as events name it.
    pub fn newest_reference(&self) -> Option<CheckpointRef> {
        Some(self.newest_accepted()?.reference.clone())
    }

    /// The step of the newest accepted checkpoint; the first without one.
    pub fn newest_step(&self) -> Step {
        step_of(
            self.newest_accepted()
                .map(|checkpoint| &checkpoint.reference),
        )
    }

    /// The checkpoint with the lowest finite gate loss, the earlier of two equal ones.
    pub fn best(&self) -> Option<&Checkpoint> {
        self.lowest(self.all().map(|checkpoint| (checkpoint, checkpoint.gate)))
    }

    /// The best checkpoint whose own gate passed, of any lineage.
    pub fn best_passed(&self) -> Option<&Checkpoint> {
        let passed = self.all().filter(|checkpoint| checkpoint.has_passed());
        self.lowest(passed.map(|checkpoint| (checkpoint, checkpoint.gate)))
    }

    /// The best checkpoint of the present lineage, once `gate` is noted on the one at `step`.
    pub fn best_present_with(&self, step: Step, gate: CheckpointGate) -> Option<&Checkpoint> {
        let here = self.place_at(step);
        let with_gates = self.places.iter().filter_map(|place| {
            let checkpoint = self.checkpoints.get(*place)?;
            let noted = (Some(*place) == here).then_some(gate);
            Some((checkpoint, noted.or(checkpoint.gate)))
        });
        self.lowest(with_gates)
    }

    /// The newest checkpoint of the present lineage whose own gate passed.
    pub fn newest_passed(&self) -> Option<&Checkpoint> {
        self.present()
            .rfind(|checkpoint| checkpoint.is_usable() && checkpoint.has_passed())
    }

    /// The checkpoint that the user gave the stage to begin from, while it can be used.
    pub fn given(&self) -> Option<&Checkpoint> {
        self.all()
            .find(|checkpoint| checkpoint.chunk.is_none() && checkpoint.is_usable())
    }

    /// The checkpoint of the gate at `step`: the last the lineage has there.
    pub fn at_gate(&self, step: Step) -> Option<&Checkpoint> {
        self.checkpoints.get(self.place_at(step)?)
    }

    /// The first of the lineage that nobody has judged: its writer went away, or was faster.
    pub fn unjudged(&self) -> Option<&Checkpoint> {
        self.present()
            .find(|checkpoint| checkpoint.judgement == Judgement::Pending)
    }

    /// Paths of checkpoints past `resume_from`: a new checkpoint at the same step takes
    /// another name.
    pub fn taken_after(&self, resume_from: Option<&CheckpointRef>) -> Vec<String> {
        let start = step_of(resume_from);
        let after = self.all().map(|checkpoint| &checkpoint.reference);
        after
            .filter(|reference| start < reference.step)
            .map(|reference| reference.path.clone())
            .collect()
    }

    /// Chunks of the lineage, `chunk` being its newest, that do not lead to `resume_from`.
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

    /// The next checkpoint that retention lets go, besides those that are never deleted: one
    /// that was not accepted, then the oldest but the newest `keep_last`.
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

    /// Begins with a checkpoint that the user gave, unless it is known.
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

    /// Adds a checkpoint, unless it is known: a fact may be told twice.
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

    /// An accepted checkpoint may turn out damaged later; a rejected one stays rejected.
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

    /// Rejects a checkpoint that a person gave up. `false`: it is not known.
    pub fn give_up(&mut self, given_up: &CheckpointGivenUp) -> bool {
        let rejection = Rejection {
            code: "given_up".to_owned(),
            text: format!("given up by {}: {}", given_up.who, given_up.why),
        };
        self.judge(&given_up.checkpoint, Some(&rejection));
        self.find(&given_up.checkpoint).is_some()
    }

    /// Its files are deleted.
    pub fn delete(&mut self, reference: &CheckpointRef) {
        if let Some(checkpoint) = self.find_mut(reference) {
            checkpoint.deleted = true;
        }
    }

    /// Notes what a gate at `step` said of its checkpoint.
    pub fn note_gate(&mut self, step: Step, gate: Option<CheckpointGate>) {
        let place = self.place_at(step);
        if let Some(checkpoint) = place.and_then(|place| self.checkpoints.get_mut(place)) {
            checkpoint.gate = gate;
        }
    }

    /// A chunk starts from `resume_from`: what came after it leads nowhere any more. Without
    /// one the lineage is empty again.
    pub fn start_chunk(&mut self, chunk: ChunkNumber, resume_from: Option<&CheckpointRef>) {
        self.cut_back_to(resume_from);
        if let Some(checkpoint) = resume_from.and_then(|reference| self.find_mut(reference)) {
            checkpoint.resumed = true;
        }
        self.note_chunk(chunk);
    }

    /// An interrupted chunk continues from `resume_from`. The checkpoints that it will write
    /// again, none of them accepted, are forgotten, as its samples are: a run that was
    /// interrupted folds to what one that was not does.
    pub fn rewind_chunk(&mut self, chunk: ChunkNumber, resume_from: Option<&CheckpointRef>) {
        let before = self.places.clone();
        self.cut_back_to(resume_from);
        while let Some(last) = self.checkpoints.len().checked_sub(1)
            && before.contains(&last)
            && !self.places.contains(&last)
        {
            self.checkpoints.pop();
        }
        self.note_chunk(chunk);
    }

    /// A restart leaves these chunks behind.
    pub fn abandon(&mut self, chunks: &[ChunkNumber]) {
        self.chunks.retain(|chunk| !chunks.contains(chunk));
    }

    fn push(&mut self, checkpoint: Checkpoint) {
        if self.find(&checkpoint.reference).is_none() {
            self.places.push(self.checkpoints.len());
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
            self.places.clear();
            return;
        };
        let found = self.place_of(reference);
        let within = self.places.iter().position(|place| Some(*place) == found);
        match within {
            Some(last) => self.places.truncate(last + 1),
            None => self.places = found.into_iter().collect(),
        }
    }

    fn find_mut(&mut self, reference: &CheckpointRef) -> Option<&mut Checkpoint> {
        let place = self.place_of(reference)?;
        self.checkpoints.get_mut(place)
    }

    fn place_of(&self, reference: &CheckpointRef) -> Option<usize> {
        self.checkpoints
            .iter()
            .position(|checkpoint| checkpoint.reference == *reference)
    }

    fn place_at(&self, step: Step) -> Option<usize> {
        let is_at = |place: &&usize| {
            self.checkpoints
                .get(**place)
                .is_some_and(|checkpoint| checkpoint.reference.step == step)
        };
        self.places.iter().rfind(is_at).copied()
    }

    /// The chunk that wrote a checkpoint.
    fn chunk_of(&self, reference: Option<&CheckpointRef>) -> Option<ChunkNumber> {
        self.find(reference?)?.chunk
    }

    /// The usable checkpoint with the lowest finite gate loss among these and their gates.
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

/// How many of `chunks` lead to what `chunk` wrote.
fn leading_to(chunks: &[ChunkNumber], chunk: Option<ChunkNumber>) -> usize {
    chunk
        .and_then(|chunk| chunks.iter().position(|number| *number == chunk))
        .map_or(0, |place| place + 1)
}

fn step_of(reference: Option<&CheckpointRef>) -> Step {
    reference.map_or(Step::FIRST, |reference| reference.step)
}
