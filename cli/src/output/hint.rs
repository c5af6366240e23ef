//! Finds the hint of an error. The wording is in `tinygate_words`.

use std::error::Error;

use tinygate::advice::Advice;
use tinygate::checkpoint::RejectReason;
use tinygate::config::{ConfigError, Problem};
use tinygate::controller::ControlError;
use tinygate::data::still::StillError;
use tinygate::data::{DataError, WindowError};
use tinygate::picture::png::PictureError;
#[cfg(feature = "train")]
use tinygate::run::builtin::FormError;
use tinygate::run::dry_run::DryRunError;
use tinygate::run::retrain::RetrainError;
use tinygate::run::{
    EmptyLog, GivenError, LostError, NewRunError, NextCycleError, ReadRunError, ResumeError,
    StoppedRun, UnknownModel,
};
use tinygate::setup::SetupError;
use tinygate::store::{AppendError, Moved, OpenError, ReadError, ReadErrorKind, TransferError};
#[cfg(feature = "train")]
use tinygate::train::{
    DeviceError,
    actor::fit::Misfit,
    ranks::{FollowError, JobError, RendezvousError},
};
use tinygate_replay::places::WalkError;
use tinygate_words::hint;

/// A problem of a config with its hint below it.
pub fn problem(problem: &Problem) -> String {
    match hint(&problem.fault) {
        Some(hint) => format!("{problem}\n  hint: {hint}"),
        None => problem.to_string(),
    }
}

/// The hint of a cause of an error.
pub fn of_cause(cause: &(dyn Error + 'static)) -> Option<String> {
    fn of<E: Error + Advice + 'static>(cause: &(dyn Error + 'static)) -> Option<String> {
        cause.downcast_ref::<E>().and_then(hint)
    }
    let known = [
        of::<ConfigError>,
        of::<ControlError>,
        of::<DataError>,
        of::<WindowError>,
        of::<StillError>,
        of::<SetupError>,
        of::<PictureError>,
        of::<RejectReason>,
        of::<OpenError>,
        of::<AppendError>,
        of::<Moved>,
        of::<ReadError>,
        of::<ReadErrorKind>,
        of::<TransferError>,
        of::<WalkError>,
        of::<NewRunError>,
        of::<GivenError>,
        of::<UnknownModel>,
        of::<ReadRunError>,
        of::<NextCycleError>,
        of::<ResumeError>,
        of::<LostError>,
        of::<StoppedRun>,
        of::<EmptyLog>,
        of::<RetrainError>,
        of::<DryRunError>,
        #[cfg(feature = "train")]
        of::<FormError>,
        #[cfg(feature = "train")]
        of::<Misfit>,
        #[cfg(feature = "train")]
        of::<DeviceError>,
        #[cfg(feature = "train")]
        of::<JobError>,
        #[cfg(feature = "train")]
        of::<RendezvousError>,
        #[cfg(feature = "train")]
        of::<FollowError>,
    ];
    known.into_iter().find_map(|of| of(cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_found_by_its_type() {
        let missing = DataError::Missing { path: "a".into() };
        let hint = of_cause(&SetupError::Data(missing));
        assert!(hint.is_some_and(|hint| hint.contains("`--set`")));
        assert_eq!(of_cause(&std::io::Error::other("no")), None);
    }
}
