//! A fault as the report shows it.

/// A fault of a plan, as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub text: String,
    /// The number in it that may be lowered: an operation, a count or a time.
    pub number: Option<u64>,
}
