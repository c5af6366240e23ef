//! Where the versions of the rules differ.

/// Which version of the rules a function of the machine works by, where versions differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Edition {
    One,
    /// A restart goes back to the checkpoint that the stage was given, where no checkpoint of its
    /// own has passed a gate. Missing structure has a reason of its own, and a gate where no skill
    /// can be measured says so.
    Two,
}

impl Edition {
    /// The edition of rules with this number; of later rules, the newest.
    pub const fn of(number: u32) -> Edition {
        match number {
            0 | 1 => Edition::One,
            _ => Edition::Two,
        }
    }
}
