//! The differences between versions of the rules.

/// The version of the rules, for functions whose behaviour depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Edition {
    One,
    /// If no checkpoint of the stage has passed a gate, a restart starts from the checkpoint that the
    /// user gave. Missing structure has its own reason, and a finding reports gates where skill cannot
    /// be measured.
    Two,
}

impl Edition {
    /// The edition of the rules with this number. Unknown later rules have the newest.
    pub const fn of(number: u32) -> Edition {
        match number {
            0 | 1 => Edition::One,
            _ => Edition::Two,
        }
    }
}
