//! Emphasis in text, independent of how it is displayed.

use std::fmt;

/// The emphasis of a part of a line. It carries no information of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Plain,
    Good,
    Bad,
    Notable,
    Strong,
    Faint,
}

/// One line, in parts that each have a tone. [`fmt::Display`] is the text alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    parts: Vec<(Tone, String)>,
}

impl Line {
    pub fn plain(text: impl Into<String>) -> Line {
        Line::default().and(Tone::Plain, text)
    }

    /// The line with another part at its end.
    #[must_use]
    pub fn and(mut self, tone: Tone, text: impl Into<String>) -> Line {
        self.parts.push((tone, text.into()));
        self
    }

    pub fn parts(&self) -> impl Iterator<Item = (Tone, &str)> {
        self.parts.iter().map(|(tone, text)| (*tone, text.as_str()))
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts().try_for_each(|(_, text)| f.write_str(text))
    }
}
