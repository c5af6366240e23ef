//! How the ranks of a run are started.

use std::path::PathBuf;

use super::job::Job;

/// The ranks of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// This process is the only one.
    Alone,
    /// This process leads others.
    Several(Launch),
}

/// Who starts the ranks that this process leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Launch {
    /// This process, on this machine and with this program.
    Local { size: u32, program: PathBuf },
    /// A launcher started all of them; this one is rank 0 of its job.
    External(Job),
}

impl Plan {
    /// Number of ranks on this machine.
    pub fn local_size(&self) -> u32 {
        match self {
            Plan::Alone => 1,
            Plan::Several(Launch::Local { size, .. }) => *size,
            Plan::Several(Launch::External(job)) => job.local_size,
        }
    }

    /// The index of this process among the ranks on its machine.
    pub fn local_rank(&self) -> u32 {
        match self {
            Plan::Alone | Plan::Several(Launch::Local { .. }) => 0,
            Plan::Several(Launch::External(job)) => job.local_rank,
        }
    }
}

impl Launch {
    /// Number of all ranks.
    pub fn size(&self) -> u32 {
        match self {
            Launch::Local { size, .. } => *size,
            Launch::External(job) => job.size,
        }
    }

    pub(super) fn is_external(&self) -> bool {
        matches!(self, Launch::External(_))
    }
}
