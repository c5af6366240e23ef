//! Errors of libtorch.

/// An error of libtorch: its message and its kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Error {
    pub kind: ErrorKind,
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Another rank, or the store, did not answer in time.
    TimedOut,
    /// A connection was refused or broke.
    Network,
    /// The store sent an unexpected answer.
    Store,
    /// The caller cancelled the call.
    Cancelled,
    Other,
}

pub type Result<T> = std::result::Result<T, Error>;

impl ErrorKind {
    /// The kind by the message: a store reports time-outs like its other errors, and of Gloo's exceptions c10d passes on
    /// only the message.
    pub(crate) fn of_text(text: &str) -> Option<ErrorKind> {
        let text = text.to_ascii_lowercase();
        let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
        if says(&["timed out", "timeout", "time out"]) {
            Some(ErrorKind::TimedOut)
        } else if says(&["connect", "socket", "broken pipe"]) {
            Some(ErrorKind::Network)
        } else {
            None
        }
    }
}
