//! The order of picture names, and gaps in their numbering.
//!
//! Numbers in a name compare by value, everything else letter by letter, ignoring case. The extension is ignored. Names
//! that are equal by these rules (`1`, `01`) compare as bytes, so the order is total.
//!
//! - A point or comma between two runs of digits is a decimal point (`0.25` before `0.5`). But if some names of the folder
//!   have more digits after it than others and one of two or more ends in 0 (`1.9`, `1.10`), or the numbers after it have a
//!   constant step as whole numbers (`1.7`, `1.9`, `1.11`), these are two counters.
//!   Three runs (`1.2.3`) are never a decimal number.
//! - A `-` or `+` at the beginning, or after one of `_=([,`, is a sign. If every name has a `-` there and numbers are
//!   padded (`-001`), it is a separator.
//! - `1e-05`, as Python prints it, is a number.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::iter::Peekable;
use std::path::{Path, PathBuf};
use std::str::CharIndices;

/// Characters after which a `-` is a sign.
const BEFORE_A_SIGN: &str = "_=([,";

/// Sorts the paths of one folder by their names. Returns how many numbers are missing between them.
pub(super) fn sort<P: AsRef<Path>>(paths: &mut Vec<P>) -> u64 {
    let names = paths.iter().map(|path| stem(path.as_ref())).collect();
    sort_by(paths, names)
}

/// Sorts folders, whose names have no extension.
pub(super) fn sort_folders(paths: &mut Vec<PathBuf>) {
    let names = paths.iter().map(|path| {
        path.file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default()
    });
    let names = names.collect();
    sort_by(paths, names);
}

/// Sorts paths of arrays in one file, including their groups.
pub(super) fn sort_paths(paths: &mut Vec<String>) {
    let names = paths.clone();
    sort_by(paths, names);
}

fn sort_by<P: AsRef<Path>>(paths: &mut Vec<P>, names: Vec<String>) -> u64 {
    let rules = Rules::of(&names);
    let mut keyed: Vec<(Key, P)> = paths
        .drain(..)
        .zip(&names)
        .map(|(path, name)| (rules.key(name), path))
        .collect();
    keyed.sort_by(|(key_a, a), (key_b, b)| {
        key_a.cmp(key_b).then_with(|| {
            let bytes = |path: &P| path.as_ref().as_os_str().as_encoded_bytes().to_vec();
            bytes(a).cmp(&bytes(b))
        })
    });
    let keys: Vec<&Key> = keyed.iter().map(|(key, _)| key).collect();
    let missing = missing(&keys);
    paths.extend(keyed.into_iter().map(|(_, path)| path));
    missing
}

fn stem(path: &Path) -> String {
    path.file_stem()
        .map(|stem| stem.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// A name, split into numbers and single characters.
type Key = Vec<Token>;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Number(Number),
    Letter(char),
}

impl Ord for Token {
    /// Compared with letters, a number sorts where digits do.
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Number(a), Self::Number(b)) => a.cmp(b),
            (Self::Letter(a), Self::Letter(b)) => a.cmp(b),
            (Self::Number(_), Self::Letter(b)) => '0'.cmp(b),
            (Self::Letter(a), Self::Number(_)) => a.cmp(&'0'),
        }
    }
}

impl PartialOrd for Token {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// `0.digits` times ten to the power of `exponent`, with any number of digits; zero has none.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Number {
    negative: bool,
    exponent: i64,
    digits: String,
}

impl Number {
    fn new(negative: bool, whole: &str, fraction: &str, power: i64) -> Self {
        let all = format!("{whole}{fraction}");
        let significant = all.trim_start_matches('0');
        let leading = all.len() - significant.len();
        let digits = significant.trim_end_matches('0').to_owned();
        if digits.is_empty() {
            return Self {
                negative: false,
                exponent: 0,
                digits,
            };
        }
        let point = whole.len() as i64 - leading as i64;
        Self {
            negative,
            exponent: point.saturating_add(power),
            digits,
        }
    }

    /// The number in units of `10^-places`, if that is a whole number and not too large.
    fn scaled(&self, places: i64) -> Option<i128> {
        if self.digits.is_empty() {
            return Some(0);
        }
        let zeros = self
            .exponent
            .checked_add(places)?
            .checked_sub(self.digits.len() as i64)?;
        let zeros = u32::try_from(zeros).ok()?;
        let digits: i128 = self.digits.parse().ok()?;
        let value = digits.checked_mul(10_i128.checked_pow(zeros)?)?;
        Some(if self.negative { -value } else { value })
    }

    /// Digits after the decimal point.
    fn places(&self) -> i64 {
        (self.digits.len() as i64)
            .saturating_sub(self.exponent)
            .max(0)
    }
}

impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        let sign = |number: &Self| match (number.digits.is_empty(), number.negative) {
            (true, _) => 0,
            (false, false) => 1,
            (false, true) => -1,
        };
        let by_size = || {
            let sizes = self.exponent.cmp(&other.exponent);
            sizes.then_with(|| self.digits.cmp(&other.digits))
        };
        sign(self).cmp(&sign(other)).then_with(|| {
            if self.negative {
                by_size().reverse()
            } else {
                by_size()
            }
        })
    }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// What a point and a minus mean in the names of one folder.
struct Rules {
    decimals: bool,
    /// The text before each `-` that is a separator, with digits masked.
    separators: BTreeSet<String>,
}

impl Rules {
    fn of(names: &[String]) -> Self {
        let (mut signed, mut unsigned, mut padded) =
            (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let mut lengths = BTreeSet::new();
        let mut counters = false;
        let mut fractions: BTreeMap<(String, &str), BTreeSet<&str>> = BTreeMap::new();
        for name in names {
            for run in runs(name) {
                let digits = run.parts.first().copied().unwrap_or_default();
                if let [whole, fraction] = *run.parts.as_slice() {
                    let after = fractions.entry((run.before.clone(), whole));
                    after.or_default().insert(fraction);
                    lengths.insert(fraction.len());
                    counters |= 1 < fraction.len() && fraction.ends_with('0');
                }
                if run.sign.is_some() {
                    if 1 < digits.len() && digits.starts_with('0') {
                        padded.insert(run.before.clone());
                    }
                    signed.insert(run.before);
                } else {
                    unsigned.insert(run.before);
                }
            }
        }
        let separators = signed
            .into_iter()
            .filter(|before| !unsigned.contains(before) && padded.contains(before))
            .collect();
        counters |= have_one_step(&fractions);
        Self {
            decimals: !(counters && 1 < lengths.len()),
            separators,
        }
    }

    fn key(&self, name: &str) -> Key {
        let mut key = Vec::new();
        let mut at = 0;
        for run in runs(name) {
            let letters = name.get(at..run.start).unwrap_or_default();
            key.extend(
                letters
                    .chars()
                    .flat_map(char::to_lowercase)
                    .map(Token::Letter),
            );
            let mut negative = run.sign.is_some_and(|sign| sign != '+');
            if negative && self.separators.contains(&run.before) {
                key.push(Token::Letter('-'));
                negative = false;
            }
            match run.parts.as_slice() {
                [whole] => key.push(Token::Number(Number::new(negative, whole, "", run.power))),
                [whole, fraction] if self.decimals => key.push(Token::Number(Number::new(
                    negative, whole, fraction, run.power,
                ))),
                several => {
                    for (place, part) in several.iter().enumerate() {
                        if 0 < place {
                            key.push(Token::Letter('.'));
                        }
                        key.push(Token::Number(Number::new(
                            negative && place == 0,
                            part,
                            "",
                            0,
                        )));
                    }
                }
            }
            at = run.end;
        }
        let letters = name.get(at..).unwrap_or_default();
        key.extend(
            letters
                .chars()
                .flat_map(char::to_lowercase)
                .map(Token::Letter),
        );
        key
    }
}

/// Whether the digits after the points, as whole numbers, have one constant step and pass a power of ten.
fn have_one_step(fractions: &BTreeMap<(String, &str), BTreeSet<&str>>) -> bool {
    let mut steps = BTreeSet::new();
    let mut are_counters = false;
    for after in fractions.values() {
        let padded = |digits: &&str| 1 < digits.len() && digits.starts_with('0');
        if after.iter().any(padded) {
            return false;
        }
        let numbers: Option<BTreeSet<u64>> = after.iter().map(|part| part.parse().ok()).collect();
        let Some(numbers) = numbers else {
            return false;
        };
        let next = numbers.iter().skip(1);
        steps.extend(numbers.iter().zip(next).map(|(one, next)| next - one));
        let lengths: BTreeSet<usize> = after.iter().map(|part| part.len()).collect();
        are_counters |= 2 < numbers.len() && 1 < lengths.len();
    }
    are_counters && steps.len() == 1
}

/// A number in a name: runs of digits with points or commas between them, a sign and a power.
struct Run<'a> {
    sign: Option<char>,
    /// The runs of digits between the points.
    parts: Vec<&'a str>,
    /// From `e-05`.
    power: i64,
    /// Byte range in the name, including sign and power.
    start: usize,
    end: usize,
    /// The text before it, in lower case with digits masked.
    before: String,
}

fn runs(name: &str) -> Vec<Run<'_>> {
    let mut found = Vec::new();
    let mut before = String::new();
    let mut last = None;
    let mut chars = name.char_indices().peekable();
    while let Some((start, letter)) = chars.next() {
        let signs = matches!(letter, '-' | '+' | '\u{2212}')
            && last.is_none_or(|last| BEFORE_A_SIGN.contains(last))
            && chars.peek().is_some_and(|(_, next)| next.is_ascii_digit());
        if !signs && !letter.is_ascii_digit() {
            before.extend(letter.to_lowercase());
            last = Some(letter);
            continue;
        }
        let digits_start = if signs {
            start + letter.len_utf8()
        } else {
            start
        };
        let mut parts = vec![digits(name, digits_start, &mut chars)];
        let mut end = position(name, &mut chars);
        while let Some(rest) = name.get(end..)
            && rest.starts_with(['.', ','])
            && rest[1..].starts_with(|c: char| c.is_ascii_digit())
        {
            chars.next();
            parts.push(digits(name, end + 1, &mut chars));
            end = position(name, &mut chars);
        }
        let power = power(&name[end..]).filter(|_| parts.len() < 3);
        if let Some((_, length)) = power {
            while chars.peek().is_some_and(|&(at, _)| at < end + length) {
                chars.next();
            }
            end += length;
        }
        found.push(Run {
            sign: signs.then_some(letter),
            parts,
            power: power.map_or(0, |(power, _)| power),
            start,
            end,
            before: before.clone(),
        });
        before.push('#');
        last = Some('0');
    }
    found
}

fn position(name: &str, chars: &mut Peekable<CharIndices<'_>>) -> usize {
    chars.peek().map_or(name.len(), |&(at, _)| at)
}

/// The digits from `start` on. Moves `chars` past them.
fn digits<'a>(name: &'a str, start: usize, chars: &mut Peekable<CharIndices<'_>>) -> &'a str {
    while chars.next_if(|(_, c)| c.is_ascii_digit()).is_some() {}
    let end = position(name, chars);
    name.get(start..end).unwrap_or_default()
}

/// The power and its length in bytes, if `text` begins with one such as `e-05` or `e+16`.
fn power(text: &str) -> Option<(i64, usize)> {
    let rest = text.strip_prefix(['e', 'E'])?;
    if !rest.starts_with(['+', '-']) {
        return None;
    }
    let digits = rest[1..]
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len() - 1);
    let end = 1 + digits;
    let ends = !rest[end..].starts_with(char::is_alphanumeric);
    let power = rest[..end].parse().ok()?;
    ends.then_some((power, 1 + end))
}

/// How many names are missing between the first and the last.
///
/// The counter is the number in which neighbours differ most often, and the step is the most frequent difference. If fewer
/// than half of the differences equal the step, nothing counts as missing.
fn missing(keys: &[&Key]) -> u64 {
    let steps: Vec<(usize, &Number, &Number)> = keys
        .windows(2)
        .filter_map(|pair| match pair {
            [a, b] => step(a, b),
            _ => None,
        })
        .collect();
    let Some(counter) = most_frequent(steps.iter().map(|(place, ..)| *place)) else {
        return 0;
    };
    let counted = || steps.iter().filter(move |(place, ..)| *place == counter);
    let places = counted()
        .map(|(_, a, b)| a.places().max(b.places()))
        .max()
        .unwrap_or(0);
    let differences: Vec<i128> = counted()
        .filter_map(|(_, a, b)| b.scaled(places)?.checked_sub(a.scaled(places)?))
        .collect();
    let Some(usual) = most_frequent(differences.iter().copied()) else {
        return 0;
    };
    let regular = differences.iter().filter(|&&found| found == usual).count();
    if regular * 2 < differences.len() {
        return 0;
    }
    let missing: i128 = differences
        .iter()
        .filter(|_| 0 < usual)
        .map(|&found| found.saturating_add(usual / 2) / usual - 1)
        .filter(|&missing| 0 < missing)
        .fold(0, i128::saturating_add);
    u64::try_from(missing).unwrap_or(u64::MAX)
}

/// Where two names of the same structure first differ in a number.
fn step<'a>(a: &'a Key, b: &'a Key) -> Option<(usize, &'a Number, &'a Number)> {
    if a.len() != b.len() {
        return None;
    }
    let mut first = None;
    for (place, tokens) in a.iter().zip(b).enumerate() {
        match tokens {
            (Token::Number(a), Token::Number(b)) if a != b => {
                first.get_or_insert((place, a, b));
            }
            (a, b) if a == b => {}
            (Token::Number(_), Token::Number(_)) => {}
            (Token::Number(_) | Token::Letter(_), Token::Number(_) | Token::Letter(_)) => {
                return None;
            }
        }
    }
    first
}

/// The most frequent value, and the smallest of several.
fn most_frequent<T: Ord + Copy>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut sorted: Vec<T> = values.collect();
    sorted.sort_unstable();
    let groups = sorted.chunk_by(|a, b| a == b);
    let mut best: Option<&[T]> = None;
    for group in groups {
        if best.is_none_or(|best| best.len() < group.len()) {
            best = Some(group);
        }
    }
    best.and_then(|group| group.first().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks that the names sort in this order from other orders.
    #[track_caller]
    fn check(name: &str, want: &[&str]) {
        let mut reversed: Vec<&str> = want.iter().rev().copied().collect();
        sort(&mut reversed);
        assert_eq!(reversed, want, "{name}");
        let mut rotated: Vec<&str> = want.to_vec();
        rotated.rotate_left(want.len() / 2);
        sort(&mut rotated);
        assert_eq!(rotated, want, "{name}, rotated");
    }

    #[test]
    fn names_sort_as_people_number_them() {
        check("nine before ten", &["frame_9.png", "frame_10.png"]);
        check("padded numbers", &["frame_0009.png", "frame_0010.png"]);
        check(
            "text before the number decides first",
            &["a_10.png", "b_9.png"],
        );
        check(
            "the second number decides last",
            &["1_2.png", "1_10.png", "2_1.png"],
        );
        check(
            "padding decides at the end",
            &["01.png", "1.png", "001_.png"],
        );
        check(
            "a number longer than any integer",
            &["1.png", "100000000000000000000000000.png"],
        );
        check("a prefix comes first", &["frame.png", "frame1.png"]);
        check(
            "case does not count",
            &["Frame1.png", "frame2.PNG", "FRAME3.png", "frame10.png"],
        );
        check("equal but for case", &["A1.png", "a1.png", "b1.png"]);
        check("equal but for the extension", &["1.PNG", "1.png", "2.PNG"]);
        check("letters beyond ASCII", &["Äpfel 2.png", "äpfel 10.png"]);
    }

    #[test]
    fn times_sort_by_value() {
        check("decimals", &["0.25.png", "0.5.png", "1.png", "10.png"]);
        check(
            "decimals after text",
            &["t0.05.png", "t0.5.png", "t1.25.png"],
        );
        check(
            "padded decimals",
            &["0.10.png", "0.20.png", "0.90.png", "1.00.png"],
        );
        check("decimal commas", &["0,25.png", "0,5.png", "10,0.png"]);
        check(
            "the same length decides nothing",
            &["1.05.png", "1.10.png", "1.50.png"],
        );
        check(
            "counters, not decimals",
            &["1.1.png", "1.2.png", "1.9.png", "1.10.png", "1.11.png"],
        );
        check(
            "every second of a counter",
            &[
                "1.5.png", "1.7.png", "1.9.png", "1.11.png", "2.1.png", "2.3.png",
            ],
        );
        check(
            "every fifth of a counter",
            &["1.1.png", "1.6.png", "1.11.png", "1.16.png"],
        );
        check(
            "quarters",
            &["0.25.png", "0.5.png", "0.75.png", "1.25.png", "1.5.png"],
        );
        check(
            "steps of a twentieth",
            &["0.05.png", "0.15.png", "0.25.png", "0.5.png"],
        );
        check("dates", &["2024.2.3.png", "2024.2.10.png", "2024.11.1.png"]);
        check(
            "powers",
            &[
                "0.0.png",
                "1e-05.png",
                "2e-05.png",
                "0.0001.png",
                "1.5e+16.png",
            ],
        );
        check("no power without a sign", &["1e3.png", "2.png"]);
        check(
            "stamps with a fraction",
            &["1699999999.25.png", "1699999999.5.png", "1700000000.0.png"],
        );
    }

    #[test]
    fn signs_are_distinguished_from_separators() {
        check(
            "signed",
            &["-10.png", "-2.png", "-1.png", "0.png", "+1.png", "2.png"],
        );
        check(
            "signed decimals after a name",
            &["t=-0.5.png", "t=-0.25.png", "t=0.0.png", "t=0.5.png"],
        );
        check(
            "signed after an underscore",
            &["x_-2.png", "x_-1.png", "x_0.png", "x_3.png"],
        );
        check("a true minus", &["\u{2212}2.png", "\u{2212}1.png", "0.png"]);
        check("all negative", &["-24.png", "-3.png", "-1.png"]);
        check(
            "a separator after a letter",
            &["frame-1.png", "frame-2.png", "frame-10.png"],
        );
        check(
            "a separator after a number",
            &["2024-01-05.png", "2024-01-12.png", "2024-02-01.png"],
        );
        check(
            "a separator at the beginning",
            &["-001.png", "-002.png", "-010.png"],
        );
    }

    #[track_caller]
    fn check_missing(name: &str, names: &[&str], want: u64) {
        assert_eq!(sort(&mut names.to_vec()), want, "{name}");
    }

    #[test]
    fn missing_numbers_are_counted_where_the_numbering_has_a_step() {
        check_missing("none", &["f0.png", "f1.png", "f2.png"], 0);
        check_missing("one name", &["f0.png"], 0);
        check_missing("no numbers", &["a.png", "b.png"], 0);
        check_missing(
            "one gap of six",
            &["f0.png", "f1.png", "f2.png", "f9.png", "f10.png"],
            6,
        );
        check_missing(
            "two",
            &["0.png", "1.png", "3.png", "4.png", "6.png", "7.png"],
            2,
        );
        check_missing("every fourth", &["0.png", "4.png", "8.png", "12.png"], 0);
        check_missing(
            "every fourth but one",
            &["0.png", "4.png", "8.png", "16.png", "20.png"],
            1,
        );
        check_missing(
            "decimals",
            &["0.25.png", "0.5.png", "0.75.png", "1.25.png", "1.5.png"],
            1,
        );
        check_missing(
            "the last digit of a sum",
            &["0.1.png", "0.2.png", "0.30000000000000004.png", "0.4.png"],
            0,
        );
        check_missing("signed", &["-2.png", "-1.png", "1.png", "2.png"], 1);
        check_missing(
            "irregular times",
            &["1.png", "4.png", "9.png", "20.png", "27.png"],
            0,
        );
        check_missing(
            "the last number counts",
            &["a1_0.png", "a1_1.png", "a1_3.png", "a2_0.png", "a2_1.png"],
            1,
        );
        check_missing(
            "beyond all integers",
            &["1.png", "9e+99999999999999999999.png"],
            0,
        );
    }
}
