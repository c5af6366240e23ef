//! What to do about an array that does not hold frames: a NumPy expression that converts it to frames.
//!
//! The expression depends on the type, the shape and the values, because the wrong one gives black or wrapped frames.
//! In it `frames` is the array as it was read.

use std::fmt;

use crate::float16::half;

/// What kind of values an array has.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    Uint8,
    Bool,
    Integer {
        bits: u64,
        signed: bool,
    },
    Float,
    /// NumPy's pickled objects.
    Object,
    /// Lists of different lengths, mostly compressed pictures.
    Lists,
    Text,
    /// A record with these fields.
    Record(Vec<String>),
    Other,
}

/// The range of an array's values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Range {
    pub low: f64,
    pub high: f64,
    /// Every value is a whole number.
    pub whole: bool,
    /// NaN or infinite ones.
    pub non_finite: u64,
    /// Only some of the values were read.
    pub partial: bool,
}

impl Range {
    pub const NONE: Self = Self {
        low: f64::INFINITY,
        high: f64::NEG_INFINITY,
        whole: true,
        non_finite: 0,
        partial: false,
    };

    pub fn add(&mut self, value: f64) {
        if !value.is_finite() {
            self.non_finite += 1;
            return;
        }
        self.low = self.low.min(value);
        self.high = self.high.max(value);
        self.whole &= value.fract() == 0.0;
    }

    /// Adds numbers of `size` bytes each, which are converted to little-endian in place; `None` if the kind has no such
    /// numbers.
    pub fn add_all(&mut self, kind: &Kind, size: usize, big: bool, bytes: &mut [u8]) -> Option<()> {
        let decode = decoder(kind, size)?;
        for value in bytes.chunks_exact_mut(size) {
            if big {
                value.reverse();
            }
            self.add(decode(value));
        }
        Some(())
    }

    fn is_empty(&self) -> bool {
        self.high < self.low
    }

    fn within(&self, low: f64, high: f64) -> bool {
        low <= self.low && self.high <= high
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return write!(f, "no finite values");
        }
        if self.low < self.high {
            write!(f, "values from {} to {}", self.low, self.high)?;
        } else {
            write!(f, "every value {}", self.low)?;
        }
        if 0 < self.non_finite {
            write!(f, " and {} that are NaN or infinite", self.non_finite)?;
        }
        if self.partial {
            write!(f, " in the part that was read")?;
        }
        Ok(())
    }
}

/// A function that decodes a number from little-endian bytes.
fn decoder(kind: &Kind, size: usize) -> Option<fn(&[u8]) -> f64> {
    fn wide<const N: usize>(bytes: &[u8]) -> [u8; N] {
        let mut wide = [0; N];
        let end = N.min(bytes.len());
        wide[..end].copy_from_slice(&bytes[..end]);
        wide
    }
    Some(match (kind, size) {
        (Kind::Integer { signed: false, .. }, 1..=8) => {
            |bytes| u64::from_le_bytes(wide(bytes)) as f64
        }
        (Kind::Integer { signed: true, .. }, 1..=8) => |bytes| {
            let unused = 64 - 8 * bytes.len().min(8) as u32;
            (i64::from_le_bytes(wide(bytes)) << unused >> unused) as f64
        },
        (Kind::Float, 2) => |bytes| half(u16::from_le_bytes(wide(bytes))).into(),
        (Kind::Float, 4) => |bytes| f64::from(f32::from_le_bytes(wide(bytes))),
        (Kind::Float, 8) => |bytes| f64::from_le_bytes(wide(bytes)),
        _ => return None,
    })
}

/// Whether the shape is `[frames, height, width, 3]`, without a 0.
pub(super) fn shape_fits(shape: &[u64]) -> bool {
    matches!(shape, [count, height, width, 3] if 0 < *count && 0 < *height && 0 < *width)
}

/// The hint for a uint8 array whose shape is not that of frames.
pub(super) fn for_shape(shape: &[u64], frame_size: usize) -> String {
    match arrange(shape, frame_size) {
        Arranged::Fits => "save the array again".to_owned(),
        Arranged::As(expression, why) => format!("{why}; with NumPy: `{expression}`"),
        Arranged::Not(why) => why,
    }
}

/// The hint for a type that is not uint8.
pub(super) fn for_type(
    kind: &Kind,
    shape: &[u64],
    range: Option<&Range>,
    frame_size: usize,
) -> String {
    let (frames, arranged) = match arrange(shape, frame_size) {
        Arranged::Fits => ("frames".to_owned(), None),
        Arranged::As(expression, why) => (expression, Some(why)),
        Arranged::Not(why) if matches!(kind, Kind::Object | Kind::Lists | Kind::Text) => {
            ("frames".to_owned(), Some(why))
        }
        Arranged::Not(why) => return why,
    };
    let converted = match kind {
        Kind::Uint8 => Ok(frames),
        Kind::Bool => Ok(format!("{frames}.astype(\"uint8\") * 255")),
        Kind::Integer { bits, signed } => integers(&frames, *bits, *signed, range),
        Kind::Float => floats(&frames, range),
        Kind::Object => {
            return "an object array is a pickle, which is never loaded; if its elements are frames of one size, \
                    save `np.stack(list(frames)).astype(\"uint8\")`"
                .to_owned();
        }
        Kind::Lists | Kind::Text => {
            return "if they are compressed pictures (JPEG, PNG), decode each and save one uint8 array \
                    [frames, height, width, 3], or write them as a folder of PNGs"
                .to_owned();
        }
        Kind::Record(fields) => return record(fields),
        Kind::Other => Err("save them as uint8, 0 to 255".to_owned()),
    };
    match (converted, arranged) {
        (Ok(expression), None) => format!("with NumPy: `{expression}`"),
        (Ok(expression), Some(why)) => format!("{why}; with NumPy: `{expression}`"),
        (Err(why), _) => why,
    }
}

fn floats(frames: &str, range: Option<&Range>) -> Result<String, String> {
    let Some(range) = range.filter(|range| !range.is_empty()) else {
        return Err("scale the values to 0..255 and save them as uint8".to_owned());
    };
    if 0 < range.non_finite {
        return Err(
            "find out where the NaN or infinite values come from; then scale to 0..255 and save as uint8".to_owned(),
        );
    }
    if range.low == range.high {
        return Err(
            "nothing can be learnt from one value; check how the array was created".to_owned(),
        );
    }
    // Resizing with a smooth filter overshoots a little.
    Ok(if range.within(0.0, 1.0) {
        format!("({frames} * 255).round().astype(\"uint8\")")
    } else if range.within(-0.5, 0.5) {
        format!("(({frames} + 0.5) * 255).round().astype(\"uint8\")")
    } else if range.within(-1.0, 1.0) {
        if range.within(-0.1, 1.0) {
            format!("({frames}.clip(0, 1) * 255).round().astype(\"uint8\")")
        } else {
            format!("(({frames} + 1) * 127.5).round().astype(\"uint8\")")
        }
    } else if range.within(-0.1, 1.1) {
        format!("({frames}.clip(0, 1) * 255).round().astype(\"uint8\")")
    } else if range.within(-1.1, 1.1) {
        format!("(({frames}.clip(-1, 1) + 1) * 127.5).round().astype(\"uint8\")")
    } else if range.within(0.0, 255.0) && 2.0 <= range.high {
        if range.whole {
            format!("{frames}.astype(\"uint8\")")
        } else {
            format!("{frames}.round().astype(\"uint8\")")
        }
    } else if range.within(-25.0, 280.0) && 200.0 <= range.high {
        format!("{frames}.clip(0, 255).round().astype(\"uint8\")")
    } else {
        linear(frames, range)
    })
}

fn integers(
    frames: &str,
    bits: u64,
    signed: bool,
    range: Option<&Range>,
) -> Result<String, String> {
    let Some(range) = range.filter(|range| !range.is_empty()) else {
        return Err("scale the values to 0..255 and save them as uint8".to_owned());
    };
    if range.low == range.high {
        return Err(
            "nothing can be learnt from one value; check how the array was created".to_owned(),
        );
    }
    Ok(if range.within(0.0, 1.0) {
        format!("{frames}.astype(\"uint8\") * 255")
    } else if range.within(0.0, 255.0) {
        format!("{frames}.astype(\"uint8\")")
    } else if signed && bits == 8 {
        // Bytes with the wrong type can also have all of these values; this assumes signed ones.
        format!("({frames}.astype(\"int16\") + 128).astype(\"uint8\")")
    } else if range.within(0.0, 1023.0) {
        format!("({frames} >> 2).astype(\"uint8\")")
    } else if range.within(0.0, 4095.0) {
        format!("({frames} >> 4).astype(\"uint8\")")
    } else if range.within(0.0, 65535.0) {
        format!("({frames} >> 8).astype(\"uint8\")")
    } else {
        // An integer type may be too narrow for the sum.
        linear(&format!("{frames}.astype(\"float64\")"), range)
    })
}

/// Scales from the lowest value to the highest.
fn linear(frames: &str, range: &Range) -> String {
    let Range { low, high, .. } = range;
    let shifted = if *low < 0.0 {
        format!("({frames} + {})", -low)
    } else if *low == 0.0 {
        frames.to_owned()
    } else {
        format!("({frames} - {low})")
    };
    format!(
        "({shifted} * (255 / {})).round().astype(\"uint8\")",
        high - low
    )
}

fn record(fields: &[String]) -> String {
    let colours: Vec<String> = ["r", "g", "b"]
        .iter()
        .filter_map(|colour| {
            let named = |field: &&String| field.to_lowercase().starts_with(colour);
            fields
                .iter()
                .find(named)
                .map(|field| format!("\"{field}\""))
        })
        .collect();
    if colours.len() == 3 {
        return format!(
            "with NumPy: `np.stack([frames[name] for name in ({})], axis=-1)`",
            colours.join(", ")
        );
    }
    "save the field with the frames as a separate array".to_owned()
}

/// How an array becomes one of `[frames, height, width, 3]`.
enum Arranged {
    Fits,
    /// The expression, and what it fixes.
    As(String, String),
    Not(String),
}

fn arrange(shape: &[u64], frame_size: usize) -> Arranged {
    let side = frame_size as u64;
    let to = |expression: &str, why: &str| Arranged::As(expression.to_owned(), why.to_owned());
    let gray = "gray becomes RGB by repeating it";
    if shape.contains(&0) {
        return Arranged::Not("the array is empty; check how it was created".to_owned());
    }
    match shape {
        [_, _, _, 3] => Arranged::Fits,
        &[a, b, c, d] if channels(a, b, c, d).is_some() => four(a, b, c, d, side),
        [_, _, _, 2] => Arranged::Not(
            "two channels are not colours; save the original pictures as RGB".to_owned(),
        ),
        [1, _, _, _, _] => match arrange(&shape[1..], frame_size) {
            Arranged::Fits => to("frames[0]", "the first dimension is 1"),
            Arranged::As(expression, why) => Arranged::As(
                expression.replacen("frames", "frames[0]", 1),
                format!("the first dimension is 1, and {why}"),
            ),
            Arranged::Not(why) => Arranged::Not(why),
        },
        [_, _, _, _, channels] => clips(match channels {
            3 => "clip",
            4 => "clip[..., :3]",
            1 => "np.repeat(clip, 3, axis=-1)",
            _ if shape[2] == 3 => "clip.transpose(0, 2, 3, 1)",
            _ if shape[1] == 3 => "clip.transpose(1, 2, 3, 0)",
            _ => {
                return Arranged::Not(
                    "save an array [frames, height, width, 3]; save several clips to several files"
                        .to_owned(),
                );
            }
        }),
        [height, width, 3 | 4] if 4 < *height && 4 < *width => Arranged::Not(
            "this is one picture; combine all frames with `np.stack([...])`".to_owned(),
        ),
        [3, height, width] if 4 < *height && 4 < *width => Arranged::Not(
            "this is one picture; combine all frames with `np.stack([...])` and put RGB last"
                .to_owned(),
        ),
        [_, _, _] => to("np.repeat(frames[..., None], 3, axis=-1)", gray),
        [_, length] if *length == side.saturating_mul(side).saturating_mul(3) => Arranged::As(
            format!("frames.reshape(-1, {side}, {side}, 3)"),
            "the pixels of each frame are in one row".to_owned(),
        ),
        [_, length] if *length == side.saturating_mul(side) => Arranged::As(
            format!("np.repeat(frames.reshape(-1, {side}, {side}, 1), 3, axis=-1)"),
            "the pixels of each frame are in one row, and gray becomes RGB by repeating it"
                .to_owned(),
        ),
        [length] if length.is_multiple_of(side.saturating_mul(side).saturating_mul(3).max(1)) => {
            Arranged::As(
                format!("frames.reshape(-1, {side}, {side}, 3)"),
                "all pixels are in one row".to_owned(),
            )
        }
        [] => Arranged::Not("this is not an array; save one [frames, height, width, 3]".to_owned()),
        [..] => Arranged::Not("save an array [frames, height, width, 3]".to_owned()),
    }
}

/// One interpretation of a shape: height and width, the expression for it, and what that fixes.
type Reading = ((u64, u64), &'static str, &'static str);

/// Where the channels of a shape of four dimensions may be; `None` if nowhere.
fn channels(a: u64, b: u64, c: u64, d: u64) -> Option<Vec<Reading>> {
    let last = "RGB comes last";
    let gray = "gray becomes RGB by repeating it";
    let alpha = "an alpha channel is dropped";
    let mut readings = Vec::new();
    let mut read = |fits: bool, sides, expression, why| {
        if fits {
            readings.push((sides, expression, why));
        }
    };
    read(d == 4, (b, c), "frames[..., :3]", alpha);
    read(d == 1, (b, c), "np.repeat(frames, 3, axis=-1)", gray);
    read(b == 3, (c, d), "frames.transpose(0, 2, 3, 1)", last);
    read(b == 4, (c, d), "frames[:, :3].transpose(0, 2, 3, 1)", last);
    read(
        b == 1,
        (c, d),
        "np.repeat(frames.transpose(0, 2, 3, 1), 3, axis=-1)",
        gray,
    );
    read(a == 3, (c, d), "frames.transpose(1, 2, 3, 0)", last);
    read(
        c == 3,
        (a, b),
        "frames.transpose(3, 0, 1, 2)",
        "frames come first and RGB last",
    );
    (!readings.is_empty()).then_some(readings)
}

/// The interpretation with frames of the expected size, else one with square frames; the first of several.
fn four(a: u64, b: u64, c: u64, d: u64, side: u64) -> Arranged {
    let readings = channels(a, b, c, d).unwrap_or_default();
    let expected = readings.iter().find(|(sides, ..)| *sides == (side, side));
    let square = || {
        readings
            .iter()
            .find(|((height, width), ..)| height == width)
    };
    let best = expected.or_else(square).or(readings.first());
    best.map_or(Arranged::Fits, |(_, expression, why)| {
        Arranged::As((*expression).to_owned(), (*why).to_owned())
    })
}

fn clips(clip: &str) -> Arranged {
    Arranged::Not(format!(
        "the array holds several clips, and no window may run from one into the next; save each to its own file \
         and list them all in `data.path`: `for n, clip in enumerate(frames): np.save(f\"clip{{n}}.npy\", {clip})`"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(low: f64, high: f64) -> Range {
        let mut range = Range::NONE;
        range.add(low);
        range.add(high);
        range
    }

    #[track_caller]
    fn check(name: &str, kind: &Kind, shape: &[u64], found: Range, want: &str) {
        let hint = for_type(kind, shape, Some(&found), 8);
        assert!(hint.contains(&format!("`{want}`")), "{name}: {hint}");
    }

    const RGB: [u64; 4] = [24, 8, 8, 3];
    const INT: Kind = Kind::Integer {
        bits: 64,
        signed: true,
    };

    #[test]
    fn the_hint_fits_the_range() {
        let float = |name, low, high, want| check(name, &Kind::Float, &RGB, range(low, high), want);
        float(
            "0 to 1",
            0.0,
            0.93,
            "(frames * 255).round().astype(\"uint8\")",
        );
        float(
            "-1 to 1",
            -0.9,
            0.8,
            "((frames + 1) * 127.5).round().astype(\"uint8\")",
        );
        float(
            "-0.5 to 0.5",
            -0.5,
            0.4,
            "((frames + 0.5) * 255).round().astype(\"uint8\")",
        );
        float(
            "0 to 1, with overshoot",
            -0.02,
            1.03,
            "(frames.clip(0, 1) * 255).round().astype(\"uint8\")",
        );
        float("whole bytes", 0.0, 255.0, "frames.astype(\"uint8\")");
        float(
            "bytes with fractions",
            0.5,
            254.5,
            "frames.round().astype(\"uint8\")",
        );
        float(
            "bytes, with overshoot",
            -4.5,
            259.0,
            "frames.clip(0, 255).round().astype(\"uint8\")",
        );
        float(
            "mean and deviation",
            -2.0,
            2.5,
            "((frames + 2) * (255 / 4.5)).round().astype(\"uint8\")",
        );
        let int = |name, low, high, want| check(name, &INT, &RGB, range(low, high), want);
        int("a mask", 0.0, 1.0, "frames.astype(\"uint8\") * 255");
        int("bytes", 3.0, 250.0, "frames.astype(\"uint8\")");
        int("ten bits", 0.0, 1023.0, "(frames >> 2).astype(\"uint8\")");
        int(
            "twelve bits",
            0.0,
            4000.0,
            "(frames >> 4).astype(\"uint8\")",
        );
        int(
            "sixteen bits",
            0.0,
            65535.0,
            "(frames >> 8).astype(\"uint8\")",
        );
        int(
            "negative",
            -100.0,
            155.0,
            "((frames.astype(\"float64\") + 100) * (255 / 255)).round().astype(\"uint8\")",
        );
        check(
            "bool",
            &Kind::Bool,
            &RGB,
            range(0.0, 1.0),
            "frames.astype(\"uint8\") * 255",
        );
    }

    #[test]
    fn ranges_that_scaling_cannot_fix_are_reported() {
        let hint = |range: Range| for_type(&Kind::Float, &RGB, Some(&range), 8);
        assert!(hint(range(0.5, 0.5)).contains("nothing can be learnt"));
        let mut broken = range(0.0, 1.0);
        broken.add(f64::NAN);
        assert!(hint(broken).contains("NaN"));
        assert_eq!(
            broken.to_string(),
            "values from 0 to 1 and 1 that are NaN or infinite"
        );
        assert!(hint(Range::NONE).contains("0..255"));
    }

    #[test]
    fn the_hint_fits_the_shape() {
        let check = |name: &str, shape: &[u64], want: &str| {
            let hint = for_shape(
                shape,
                if shape.contains(&4) && !shape.contains(&8) {
                    4
                } else {
                    8
                },
            );
            assert!(hint.contains(want), "{name}: {hint}");
        };
        check(
            "gray",
            &[24, 8, 8],
            "`np.repeat(frames[..., None], 3, axis=-1)`",
        );
        check(
            "gray with a channel",
            &[24, 8, 8, 1],
            "`np.repeat(frames, 3, axis=-1)`",
        );
        check("RGBA", &[24, 8, 8, 4], "`frames[..., :3]`");
        check(
            "channels first",
            &[24, 3, 8, 8],
            "`frames.transpose(0, 2, 3, 1)`",
        );
        check(
            "RGBA first",
            &[24, 4, 8, 8],
            "`frames[:, :3].transpose(0, 2, 3, 1)`",
        );
        check(
            "colours before all",
            &[3, 24, 8, 8],
            "`frames.transpose(1, 2, 3, 0)`",
        );
        check(
            "frames last",
            &[8, 8, 3, 24],
            "`frames.transpose(3, 0, 1, 2)`",
        );
        check("a batch of one", &[1, 24, 8, 8, 3], "`frames[0]`");
        check(
            "a batch of one, channels first",
            &[1, 24, 3, 8, 8],
            "`frames[0].transpose(0, 2, 3, 1)`",
        );
        check(
            "clips",
            &[4, 24, 8, 8, 3],
            "np.save(f\"clip{n}.npy\", clip)`",
        );
        check(
            "clips, channels first",
            &[4, 24, 3, 8, 8],
            "clip.transpose(0, 2, 3, 1))`",
        );
        check(
            "channels first, of a side that may be channels",
            &[5, 3, 4, 4],
            "`frames.transpose(0, 2, 3, 1)`",
        );
        check("one picture", &[8, 8, 3], "one picture");
        check("flat frames", &[24, 192], "`frames.reshape(-1, 8, 8, 3)`");
        check("flat", &[4608], "`frames.reshape(-1, 8, 8, 3)`");
        check("a scalar", &[], "not an array");
        check("empty", &[0, 8, 8, 3], "is empty");
    }

    #[test]
    fn shape_and_type_are_fixed_together() {
        let first = [24, 3, 8, 8];
        check(
            "a tensor of PyTorch",
            &Kind::Float,
            &first,
            range(0.0, 1.0),
            "(frames.transpose(0, 2, 3, 1) * 255).round().astype(\"uint8\")",
        );
        let fields: Vec<String> = ["r", "g", "b"].map(str::to_owned).to_vec();
        let hint = for_type(&Kind::Record(fields), &[24, 8, 8], None, 8);
        assert!(
            hint.contains("frames[name] for name in (\"r\", \"g\", \"b\")"),
            "{hint}"
        );
        for kind in [Kind::Object, Kind::Lists, Kind::Text] {
            assert!(!for_type(&kind, &[24], None, 8).contains("transposed"));
        }
    }
}
