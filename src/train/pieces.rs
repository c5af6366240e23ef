//! How many samples are forwarded at once when a model is scored or predicts.
//!
//! A batch is forwarded whole. When memory runs out it is forwarded in smaller pieces, down to one sample. The caller
//! takes masks and batch statistics from the whole batch, so results do not depend on the size of the pieces.
//!
//! Invariant: each sample's result is returned exactly once, in the order of the samples.

use super::error::{Result, TrainError};

/// Consecutive samples of a batch: the index of the first, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub from: usize,
    pub length: usize,
}

/// The size limit of pieces. It shrinks when memory runs out, and stays small for later batches.
#[derive(Debug)]
pub struct Pieces {
    most: usize,
    #[cfg(test)]
    fits: usize,
}

impl Pieces {
    /// Whole batches, as long as they fit into memory.
    pub fn whole() -> Pieces {
        Pieces::of(usize::MAX)
    }

    /// At most `most` samples at once, and at least one.
    pub fn of(most: usize) -> Pieces {
        Pieces {
            most: most.max(1),
            #[cfg(test)]
            fits: usize::MAX,
        }
    }

    /// Whole batches; memory runs out for more than `fits` samples.
    #[cfg(test)]
    pub(crate) fn with_memory_for(fits: usize) -> Pieces {
        Pieces {
            most: usize::MAX,
            fits,
        }
    }

    /// Calls `forward` for consecutive pieces of a batch of `samples` until all are done.
    ///
    /// # Errors
    /// [`TrainError::OutOfMemory`] if a single sample does not fit. Other errors are returned at once.
    pub(crate) fn forward<T>(
        &mut self,
        samples: usize,
        mut forward: impl FnMut(Piece) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut done = Vec::new();
        let mut from = 0;
        while from < samples {
            let length = self.most.min(samples - from);
            let piece = Piece { from, length };
            match self.check(piece).and_then(|()| forward(piece)) {
                Ok(value) => {
                    done.push(value);
                    from += length;
                }
                Err(TrainError::OutOfMemory { .. }) if 1 < length => {
                    self.most = length.div_ceil(2);
                    tracing::debug!(
                        "out of memory: at most {} samples at once from now on",
                        self.most
                    );
                }
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    #[cfg(not(test))]
    #[allow(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "tests make memory run out here"
    )]
    fn check(&self, _: Piece) -> Result<()> {
        Ok(())
    }

    #[cfg(test)]
    fn check(&self, piece: Piece) -> Result<()> {
        if self.fits < piece.length {
            return Err(TrainError::OutOfMemory {
                message: format!("{} samples at once", piece.length),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, pieces: &mut Pieces, samples: usize, want: &[(usize, usize)]) {
        let found = pieces.forward(samples, |piece| Ok((piece.from, piece.length)));
        assert_eq!(found.unwrap(), want, "{name}");
    }

    #[test]
    fn pieces_shrink_until_they_fit_and_cover_every_sample_once() {
        check("whole", &mut Pieces::whole(), 5, &[(0, 5)]);
        check("limited", &mut Pieces::of(2), 5, &[(0, 2), (2, 2), (4, 1)]);
        check("no samples", &mut Pieces::whole(), 0, &[]);
        check("a limit of 0", &mut Pieces::of(0), 2, &[(0, 1), (1, 1)]);
        let mut small = Pieces::with_memory_for(2);
        let want = [(0, 2), (2, 2), (4, 1)];
        check("5, then 3, then 2", &mut small, 5, &want);
        check("the next batch", &mut small, 3, &[(0, 2), (2, 1)]);
        let mut one = Pieces::with_memory_for(1);
        check("one at a time", &mut one, 3, &[(0, 1), (1, 1), (2, 1)]);
    }

    #[test]
    fn finished_pieces_are_not_repeated_when_memory_runs_out() {
        let mut calls = Vec::new();
        let done = Pieces::whole().forward(4, |piece| {
            calls.push((piece.from, piece.length));
            match calls.len() {
                1 | 3 => Err(TrainError::OutOfMemory {
                    message: String::new(),
                }),
                _ => Ok(piece.length),
            }
        });
        assert_eq!(done.unwrap(), [2, 1, 1]);
        assert_eq!(calls, [(0, 4), (0, 2), (2, 2), (2, 1), (3, 1)]);
    }

    #[test]
    fn one_sample_that_does_not_fit_is_an_error() {
        let error = Pieces::with_memory_for(0).forward(4, Ok).unwrap_err();
        assert_eq!(error.to_string(), "out of memory: 1 samples at once");
    }

    #[test]
    fn other_errors_are_not_retried() {
        let mut calls = 0;
        let failed = Pieces::whole().forward(4, |_| {
            calls += 1;
            Err::<(), _>(TrainError::Tensor("wrong shape".to_owned()))
        });
        assert!(failed.is_err());
        assert_eq!(calls, 1);
    }
}
