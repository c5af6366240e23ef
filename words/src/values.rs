//! Values of events as text.

use tinygate_events::{Scalar, SettingValue};

use crate::numbers::number;

/// A measured value, or `none`.
pub(crate) fn optional_number(value: Option<Scalar>) -> String {
    value.map_or("none".to_owned(), |value| number(value.get()))
}

/// A setting with every digit, as a config takes it.
pub fn setting(value: SettingValue) -> String {
    match value {
        SettingValue::Count(count) => count.to_string(),
        SettingValue::Real(real) => real.to_string(),
    }
}
