//! Documents inside events: JSON text with a version that is read first.
//!
//! A document without a `version` has version 1. A newer document than this build knows is not
//! damaged: [`DocumentError::Newer`]. An older one is read by its own frozen types and upgraded.

use alloc::format;
use alloc::string::{String, ToString};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::policy_v1;
use crate::Policy;

/// Largest document (config, policy) inside an event: 4 MiB. A parsed document takes about
/// 30 times as much memory.
pub const MAX_DOCUMENT: usize = 4 << 20;

const VERSION: &str = "version";

/// A document that is stored as versioned JSON.
pub trait Document: Sized + Serialize + DeserializeOwned + PartialEq {
    /// Name in messages, such as `policy`.
    const NAME: &'static str;
    /// The version that is written, whose form is `Self`'s serde form.
    const VERSION: u32;

    /// Reads a document of a version below [`Document::VERSION`], after its `version` was removed.
    fn read_older(version: u32, document: Value) -> Result<Self, DocumentError>;
}

/// Why a document cannot be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// A newer build wrote it.
    #[error("the version of the {name} is {found}, but this build knows only up to {known}")]
    Newer {
        name: &'static str,
        found: u32,
        known: u32,
    },
    #[error("{0}")]
    Malformed(String),
}

impl DocumentError {
    /// The document `name` is invalid.
    pub fn malformed(name: &str, why: impl core::fmt::Display) -> DocumentError {
        DocumentError::Malformed(format!("the document `{name}`: {why}"))
    }
}

/// A document as text: canonical JSON, keys sorted, no spaces.
///
/// # Errors
/// It is too large, or does not survive a round trip.
pub fn write<D: Document>(document: &D) -> Result<String, DocumentError> {
    let mut value =
        serde_json::to_value(document).map_err(|error| DocumentError::malformed(D::NAME, error))?;
    if 1 < D::VERSION {
        let Value::Object(fields) = &mut value else {
            return Err(DocumentError::malformed(D::NAME, "it is not a JSON object"));
        };
        fields.insert(VERSION.to_string(), D::VERSION.into());
    }
    let text = value.to_string();
    // For example, a document that is nested too deeply can be written but not read.
    if read::<D>(&text)? == *document {
        Ok(text)
    } else {
        Err(DocumentError::malformed(
            D::NAME,
            "it does not survive a round trip through JSON",
        ))
    }
}

/// Reads a document of any version.
///
/// # Errors
/// [`DocumentError::Newer`] before anything else is checked, else
/// [`DocumentError::Malformed`].
pub fn read<D: Document>(text: &str) -> Result<D, DocumentError> {
    if MAX_DOCUMENT < text.len() {
        return Err(DocumentError::malformed(
            D::NAME,
            format!(
                "it has {} bytes, but at most {MAX_DOCUMENT} can be stored",
                text.len()
            ),
        ));
    }
    let mut value: Value =
        serde_json::from_str(text).map_err(|error| DocumentError::malformed(D::NAME, error))?;
    let version = take_version(D::NAME, &mut value)?;
    if D::VERSION < version {
        return Err(DocumentError::Newer {
            name: D::NAME,
            found: version,
            known: D::VERSION,
        });
    }
    if version < D::VERSION {
        return D::read_older(version, value);
    }
    serde_json::from_value(value).map_err(|error| DocumentError::malformed(D::NAME, error))
}

fn take_version(name: &'static str, document: &mut Value) -> Result<u32, DocumentError> {
    let Some(version) = document
        .as_object_mut()
        .and_then(|fields| fields.remove(VERSION))
    else {
        return Ok(1);
    };
    let number = version
        .as_u64()
        .and_then(|number| u32::try_from(number).ok());
    number.filter(|number| 1 <= *number).ok_or_else(|| {
        DocumentError::malformed(
            name,
            format!("its version is {version}, expected an integer of at least 1"),
        )
    })
}

impl Document for Policy {
    const NAME: &'static str = "policy";
    const VERSION: u32 = 2;

    fn read_older(_: u32, document: Value) -> Result<Policy, DocumentError> {
        let policy: policy_v1::Policy = serde_json::from_value(document)
            .map_err(|error| DocumentError::malformed(Policy::NAME, error))?;
        Ok(policy.into())
    }
}

/// The config. Here it can be any JSON; the engine checks it.
impl Document for Value {
    const NAME: &'static str = "config";
    const VERSION: u32 = 1;

    fn read_older(_: u32, document: Value) -> Result<Value, DocumentError> {
        Ok(document)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, text: &str, want: Result<Value, DocumentError>) {
        assert_eq!(read::<Value>(text), want, "{name}");
    }

    fn malformed(why: &str) -> Result<Value, DocumentError> {
        Err(DocumentError::malformed("config", why))
    }

    #[test]
    fn versions_are_read_first() {
        check(
            "no version means 1",
            r#"{"seed":1}"#,
            Ok(serde_json::json!({"seed": 1})),
        );
        check(
            "version 1 may be given",
            r#"{"seed":1,"version":1}"#,
            Ok(serde_json::json!({"seed": 1})),
        );
        check(
            "anything but an object has version 1",
            "null",
            Ok(Value::Null),
        );
        check(
            "a newer version is reported whatever else the document has",
            r#"{"version":2,"seed":{}}"#,
            Err(DocumentError::Newer {
                name: "config",
                found: 2,
                known: 1,
            }),
        );
        check(
            "0 is not a version",
            r#"{"version":0}"#,
            malformed("its version is 0, expected an integer of at least 1"),
        );
        check(
            "a string is not a version",
            r#"{"version":"two"}"#,
            malformed("its version is \"two\", expected an integer of at least 1"),
        );
        check(
            "a fraction is not a version",
            r#"{"version":1.5}"#,
            malformed("its version is 1.5, expected an integer of at least 1"),
        );
    }

    #[test]
    fn a_newer_policy_is_not_damage() {
        let text = r#"{"version":3,"preset":"seed","a_new_field":[]}"#;
        let newer = DocumentError::Newer {
            name: "policy",
            found: 3,
            known: 2,
        };
        assert_eq!(read::<Policy>(text), Err(newer));
    }
}
