//! Compares a chunk in the log with the same chunk trained again.

use crate::events::Scalar;
use serde::Serialize;

use super::recorded::Found;

/// How much of a chunk is the same when it is trained again.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Comparison {
    pub samples: u64,
    pub samples_equal: u64,
    pub files: u64,
    pub files_equal: u64,
    /// By update, then by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_difference: Option<Difference>,
}

#[derive(Debug, PartialEq, Serialize)]
pub struct Difference {
    pub update: u64,
    /// Of a metric, or of a file.
    pub name: String,
    /// `None`: not there.
    pub recorded: Option<String>,
    pub retrained: Option<String>,
    /// Of two numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub off_by: Option<f64>,
}

impl Comparison {
    /// Compares every sample of either side, and every file of the second training: an interrupted one
    /// has more checkpoints.
    pub fn of(recorded: &Found, retrained: &Found) -> Comparison {
        let mut comparison = Comparison::default();
        let mut first: Option<Difference> = None;
        let mut note = |difference: Difference| {
            if first.as_ref().is_none_or(|f| difference.update < f.update) {
                first = Some(difference);
            }
        };
        let keys = recorded.samples.keys().chain(retrained.samples.keys());
        let keys: std::collections::BTreeSet<_> = keys.collect();
        for key in keys {
            let (theirs, ours) = (recorded.samples.get(key), retrained.samples.get(key));
            comparison.samples += 1;
            // `Scalar` compares bits.
            if theirs == ours {
                comparison.samples_equal += 1;
                continue;
            }
            let off_by = theirs.zip(ours).map(|(a, b)| (a.get() - b.get()).abs());
            note(Difference {
                update: key.0.get(),
                name: key.1.clone(),
                recorded: theirs.copied().map(digits),
                retrained: ours.copied().map(digits),
                off_by: off_by.filter(|off| off.is_finite()),
            });
        }
        for (key, ours) in &retrained.files {
            let theirs = recorded.files.get(key);
            comparison.files += 1;
            let beside = theirs.map(|theirs| theirs.beside(ours));
            if beside.is_some_and(|(theirs, ours)| theirs == ours) {
                comparison.files_equal += 1;
                continue;
            }
            let retrained = beside.map_or(ours.bytes.as_str(), |(_, ours)| ours);
            note(Difference {
                update: key.0.get(),
                name: key.1.clone(),
                recorded: beside.map(|(theirs, _)| theirs.to_owned()),
                retrained: Some(retrained.to_owned()),
                off_by: None,
            });
        }
        comparison.first_difference = first;
        comparison
    }

    pub fn is_equal(&self) -> bool {
        self.samples == self.samples_equal && self.files == self.files_equal
    }
}

/// Shortest digits that give the same bits back.
fn digits(value: Scalar) -> String {
    value.get().to_string()
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let side = |value: &Option<String>| value.clone().unwrap_or_else(|| "nothing".to_owned());
        write!(
            f,
            "first difference at update {}, {}: recorded {}, trained again {}",
            self.update,
            self.name,
            side(&self.recorded),
            side(&self.retrained)
        )?;
        match self.off_by {
            Some(off) => write!(f, ", off by {off:e}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::recorded::FileHash;
    use super::*;
    use crate::events::Step;

    fn found(samples: &[(u64, &str, f64)], files: &[(u64, &str, &str)]) -> Found {
        let sample = |&(step, name, value): &(u64, &str, f64)| {
            ((Step::new(step), name.to_owned()), Scalar::new(value))
        };
        let file = |&(step, name, hash): &(u64, &str, &str)| {
            let hash = FileHash {
                bytes: hash.to_owned(),
                pixels: None,
            };
            ((Step::new(step), name.to_owned()), hash)
        };
        Found {
            samples: samples.iter().map(sample).collect(),
            files: files.iter().map(file).collect(),
        }
    }

    #[track_caller]
    fn check(
        name: &str,
        recorded: &Found,
        retrained: &Found,
        counts: [u64; 4],
        first: Option<&str>,
    ) {
        let comparison = Comparison::of(recorded, retrained);
        let Comparison {
            samples,
            samples_equal,
            files,
            files_equal,
            ..
        } = comparison;
        assert_eq!(
            [samples, samples_equal, files, files_equal],
            counts,
            "{name}"
        );
        let text = comparison
            .first_difference
            .as_ref()
            .map(ToString::to_string);
        assert_eq!(text.as_deref(), first, "{name}");
        assert_eq!(comparison.is_equal(), first.is_none(), "{name}");
    }

    #[test]
    fn samples_and_files_side_by_side() {
        let loss = |value| found(&[(1, "train/loss", 0.5), (2, "train/loss", value)], &[]);
        check("alike", &loss(0.25), &loss(0.25), [2, 2, 0, 0], None);
        check(
            "a NaN is itself",
            &loss(f64::NAN),
            &loss(f64::NAN),
            [2, 2, 0, 0],
            None,
        );
        check(
            "one bit",
            &loss(0.25),
            &loss(0.250_000_000_000_000_06),
            [2, 1, 0, 0],
            Some(
                "first difference at update 2, train/loss: recorded 0.25, trained again \
                 0.25000000000000006, off by 5.551115123125783e-17",
            ),
        );
        check(
            "a zero's sign",
            &loss(0.0),
            &loss(-0.0),
            [2, 1, 0, 0],
            Some(
                "first difference at update 2, train/loss: recorded 0, trained again -0, off by 0e0",
            ),
        );
        check(
            "a sample that was not recorded",
            &found(&[], &[]),
            &loss(0.25),
            [2, 0, 0, 0],
            Some("first difference at update 1, train/loss: recorded nothing, trained again 0.5"),
        );
        check(
            "a sample that is missing the second time",
            &loss(0.25),
            &found(&[], &[]),
            [2, 0, 0, 0],
            Some("first difference at update 1, train/loss: recorded 0.5, trained again nothing"),
        );
        let file = |step, hash| found(&[], &[(step, "model_state_dict.pt", hash)]);
        check(
            "other weights",
            &file(4, "aa"),
            &file(4, "bb"),
            [0, 0, 1, 0],
            Some(
                "first difference at update 4, model_state_dict.pt: recorded aa, trained again bb",
            ),
        );
        check(
            "the checkpoint of an interruption",
            &file(3, "aa"),
            &found(&[], &[]),
            [0, 0, 0, 0],
            None,
        );
    }

    #[test]
    fn pictures_are_compared_by_their_pixels_where_both_sides_have_them() {
        let picture = |bytes: &str, pixels: Option<&str>| {
            let hash = FileHash {
                bytes: bytes.to_owned(),
                pixels: pixels.map(str::to_owned),
            };
            let mut found = found(&[], &[]);
            found
                .files
                .insert((Step::new(4), "picture".to_owned()), hash);
            found
        };
        let now = picture("bytes", Some("pixels"));
        check(
            "compressed otherwise",
            &picture("other bytes", Some("pixels")),
            &now,
            [0, 0, 1, 1],
            None,
        );
        check(
            "other pixels",
            &picture("bytes", Some("other")),
            &now,
            [0, 0, 1, 0],
            Some("first difference at update 4, picture: recorded other, trained again pixels"),
        );
        check(
            "a log of an older build",
            &picture("bytes", None),
            &now,
            [0, 0, 1, 1],
            None,
        );
        check(
            "a log of an older build, compressed otherwise",
            &picture("old", None),
            &now,
            [0, 0, 1, 0],
            Some("first difference at update 4, picture: recorded old, trained again bytes"),
        );
    }
}
