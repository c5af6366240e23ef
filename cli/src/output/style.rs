//! Colours, if the terminal supports them and the user has not disabled them.

use std::io::{self, IsTerminal};

use tinygate_words::{Line, Tone};

#[derive(Clone, Copy, Debug)]
pub struct Style {
    colours: bool,
}

impl Style {
    pub fn of_stderr() -> Style {
        Style::when(io::stderr().is_terminal())
    }

    pub fn of_stdout() -> Style {
        Style::when(io::stdout().is_terminal())
    }

    fn when(terminal: bool) -> Style {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Style {
            colours: terminal && !unwanted,
        }
    }

    pub fn colours(self) -> bool {
        self.colours
    }

    pub fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    pub fn bad(self, text: &str) -> String {
        self.paint("31", text)
    }

    pub fn strong(self, text: &str) -> String {
        self.paint("1", text)
    }

    pub fn faint(self, text: &str) -> String {
        self.paint("2", text)
    }

    /// A line in the colours of its tones.
    pub fn line(self, line: &Line) -> String {
        let part = |(tone, text): (Tone, &str)| match tone {
            Tone::Plain => text.to_owned(),
            Tone::Good => self.good(text),
            Tone::Bad => self.bad(text),
            Tone::Notable => self.paint("33", text),
            Tone::Strong => self.strong(text),
            Tone::Faint => self.faint(text),
        };
        line.parts().map(part).collect()
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colours {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }
}
