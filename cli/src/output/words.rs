//! Words for states that are no events.

use tinygate::events::SettingValue;
use tinygate::machine::Phase;

/// A setting's value with every digit, as a config takes it.
pub fn setting(value: SettingValue) -> String {
    match value {
        SettingValue::Count(value) => value.to_string(),
        SettingValue::Real(value) => value.to_string(),
    }
}

/// Where a stage stands.
pub fn phase(phase: &Phase) -> &'static str {
    match phase {
        Phase::Pending => "waiting",
        Phase::Measuring => "measuring",
        Phase::Recording { .. } => "between chunks",
        Phase::Training => "training",
        Phase::Rewinding => "rewinding",
        Phase::Gating => "at a gate",
        Phase::Failed { .. } => "after a failed chunk",
        Phase::Ending { .. } | Phase::Stopping { .. } => "stopping",
        Phase::Stopped { .. } => "stopped",
        Phase::Reopening { .. } => "reopening",
        Phase::Passed { .. } => "passed",
    }
}
