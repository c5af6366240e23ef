//! Assembles the events of one append from the blocks that hold it.

use super::block::Block;
use tinygate_events::Seq;
use tinygate_events::stored::frame::{Assembler, Frame, FrameError, StoredEvent};
use tinygate_events::stored::{MAX_BODY, StoredError};

/// The frames of an append that were read so far.
pub struct Append {
    first: u64,
    frames: Vec<u8>,
}

impl Append {
    /// `first` is the sequence number of its first event.
    pub fn new(first: u64) -> Append {
        Append {
            first,
            frames: Vec::new(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub fn push(&mut self, block: &Block<'_>) {
        self.frames.extend_from_slice(block.payload());
    }

    /// # Errors
    /// [`FrameError::TooLarge`] if the append is larger than the limit, frame headers included.
    pub fn check_size(&self) -> Result<(), (Seq, FrameError)> {
        if self.frames.len() <= 2 * MAX_BODY {
            return Ok(());
        }
        let error = FrameError::TooLarge { limit: MAX_BODY };
        Err((Seq::new(self.first), error))
    }

    /// Calls `visit` with each event and its sequence number.
    ///
    /// # Errors
    /// The first event that cannot be read, with its number.
    pub fn each_event(
        &self,
        mut visit: impl FnMut(Seq, &StoredEvent<'_>) -> Result<(), StoredError>,
    ) -> Result<(), (Seq, FrameError)> {
        let mut assembler = Assembler::default();
        let mut rest = self.frames.as_slice();
        let mut seq = self.first;
        while !rest.is_empty() {
            let here = |error| (Seq::new(seq), error);
            let (frame, after) = Frame::read(rest).map_err(here)?;
            rest = after;
            if let Some(stored) = assembler.push(&frame).map_err(here)? {
                visit(Seq::new(seq), &stored).map_err(|error| here(error.into()))?;
                seq = seq.saturating_add(1);
            }
        }
        Ok(())
    }
}
