//! What is printed where.

use std::io::{self, IsTerminal, Write};

/// Prints one line of data.
pub fn data_line(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(line.as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Prints data that has its own line breaks.
pub fn data(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Prints a line for people. A closed stderr is not an error.
pub fn say(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

pub fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}
