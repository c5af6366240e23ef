//! The values of one metric over a chunk.
//!
//! Uses only `+ - * /`, so a recorded log can be reproduced on any machine.

/// A shape with noise and exceptions.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    shape: Shape,
    noise: f64,
    except: Vec<(u64, f64)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Shape {
    Flat(f64),
    /// From the first update of the chunk to the last.
    Line {
        from: f64,
        to: f64,
    },
    /// `start * half / (half + update)`, over the whole stage.
    Decay {
        start: f64,
        half: f64,
    },
}

/// An update, as a position in its stage and in its chunk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// Update of the stage, counted from 1.
    pub update: u64,
    /// Update of the chunk, counted from 1.
    pub offset: u64,
    /// Updates of the chunk.
    pub length: u64,
}

impl Curve {
    /// The same value at every update.
    pub fn flat(value: f64) -> Curve {
        Curve::of(Shape::Flat(value))
    }

    /// A straight line over the chunk.
    pub fn line(from: f64, to: f64) -> Curve {
        Curve::of(Shape::Line { from, to })
    }

    /// Falls over the whole stage: `start` before the first update, half of that after `half` updates.
    pub fn decay(start: f64, half: f64) -> Curve {
        Curve::of(Shape::Decay { start, half })
    }

    /// Adds noise of up to `share` of each value, up or down.
    #[must_use]
    pub fn noisy(mut self, share: f64) -> Curve {
        self.noise = share;
        self
    }

    /// Replaces the value at one update of the chunk, counted from 1, for example by a spike or NaN.
    #[must_use]
    pub fn but(mut self, offset: u64, value: f64) -> Curve {
        self.except.push((offset, value));
        self
    }

    fn of(shape: Shape) -> Curve {
        Curve {
            shape,
            noise: 0.0,
            except: Vec::new(),
        }
    }

    /// `noise` is in `[-1, 1]`.
    pub(crate) fn at(&self, moment: Moment, noise: f64) -> f64 {
        let exception = self
            .except
            .iter()
            .rfind(|(offset, _)| *offset == moment.offset);
        if let Some((_, value)) = exception {
            return *value;
        }
        let plain = match self.shape {
            Shape::Flat(value) => value,
            Shape::Line { from, to } => {
                let steps = moment.length.saturating_sub(1).max(1) as f64;
                from + (to - from) * (moment.offset.saturating_sub(1) as f64 / steps)
            }
            Shape::Decay { start, half } => start * half / (half + moment.update as f64),
        };
        plain + plain * self.noise * noise
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, curve: &Curve, offset: u64, want: f64) {
        let moment = Moment {
            update: 100 + offset,
            offset,
            length: 11,
        };
        assert_eq!(curve.at(moment, 0.5), want, "{name}");
    }

    #[test]
    fn shapes() {
        let line = Curve::line(1.0, 2.0);
        check("flat is flat", &Curve::flat(3.0), 7, 3.0);
        check("a line begins at its start", &line, 1, 1.0);
        check("is half-way in the middle", &line, 6, 1.5);
        check("and ends at its end", &line, 11, 2.0);
        check(
            "a decay depends on the stage's updates",
            &Curve::decay(8.0, 104.0),
            4,
            4.0,
        );
        check(
            "noise is a share of the value",
            &Curve::flat(2.0).noisy(0.1),
            1,
            2.1,
        );
        check("a spike is exact", &line.but(6, 9.0), 6, 9.0);
    }
}
