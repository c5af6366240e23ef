//! The built-in trainer: libtorch in this process, and other ranks that it leads.
//!
//! [`form_group`] forms the group of ranks, [`BuiltinTrainer`] trains with it. What belongs to the
//! whole process is passed in: the launcher's job, the program that starts ranks, the request to stop.

mod hardware;
mod ranks;
mod trainer;

pub use ranks::{
    FormError, Formed, GroupRequest, Permission, form_group, ranks_of_new_run, turn_away,
};
pub use trainer::{BuiltinTrainer, StartError, TrainerSetup};
