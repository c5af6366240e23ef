//! Documents inside an event: JSON text whose version is read before anything else.
//!
//! A document without a `version` has version 1. One that is newer than this build knows is no
//! damage: [`DocumentError::Newer`]. An older one is read by the types that it was written with,
//! which are frozen, and upgraded.

use alloc::format;
use alloc::string::{String, ToString};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::policy_v1;
use crate::Policy;

/// Largest document (config, policy) inside an event: 4 MiB. A parsed document
/// takes some 30 times its text.
pub const MAX_DOCUMENT: usize = 4 << 20;

const VERSION: &str = "version";

/// A document that is kept as versioned JSON.
pub trait Document: Sized + Serialize + DeserializeOwned + PartialEq {
    /// For messages, such as `policy`.
    const NAME: &'static str;
    /// The version that is written: that of `Self`'s own serde form.
    const VERSION: u32;

    /// Reads a document of a version below [`Document::VERSION`], given without its `version`.
    fn read_older(version: u32, document: Value) -> Result<Self, DocumentError>;
}

/// Why a document cannot be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// A build that knows more wrote it.
    #[error("version {found} of the {name} is not known, this build knows up to {known}")]
    Newer {
        name: &'static str,
        found: u32,
        known: u32,
    },
    #[error("{0}")]
    Malformed(String),
}

impl DocumentError {
    /// Not a document of this name.
    pub fn malformed(name: &str, why: impl core::fmt::Display) -> DocumentError {
        DocumentError::Malformed(format!("the document `{name}`: {why}"))
    }
}

/// A document as text: canonical JSON, keys sorted, no spaces.
///
/// # Errors
/// When it would not be read back as it is, or is too large.
pub fn write<D: Document>(document: &D) -> Result<String, DocumentError> {
    let mut value =
        serde_json::to_value(document).map_err(|error| DocumentError::malformed(D::NAME, error))?;
    if 1 < D::VERSION {
        let Value::Object(fields) = &mut value else {
            return Err(DocumentError::malformed(D::NAME, "it is no JSON object"));
        };
        fields.insert(VERSION.to_string(), D::VERSION.into());
    }
    let text = value.to_string();
    // One nested too deeply can be written only.
    if read::<D>(&text)? == *document {
        Ok(text)
    } else {
        Err(DocumentError::malformed(
            D::NAME,
            "it does not survive its JSON form",
        ))
    }
}

/// Reads a document of any version.
///
/// # Errors
/// [`DocumentError::Newer`] before anything else of it is looked at, else
/// [`DocumentError::Malformed`].
pub fn read<D: Document>(text: &str) -> Result<D, DocumentError> {
    if MAX_DOCUMENT < text.len() {
        return Err(DocumentError::malformed(
            D::NAME,
            format!(
                "it has {} bytes, at most {MAX_DOCUMENT} are kept",
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
            format!("its version is {version}, not a number from 1 on"),
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

/// The config, which the engine reads: here it is any JSON.
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
            "none is version 1",
            r#"{"seed":1}"#,
            Ok(serde_json::json!({"seed": 1})),
        );
        check(
            "version 1 may be named",
            r#"{"seed":1,"version":1}"#,
            Ok(serde_json::json!({"seed": 1})),
        );
        check("no object has version 1", "null", Ok(Value::Null));
        check(
            "a newer one is said to be newer, whatever else it holds",
            r#"{"version":2,"seed":{}}"#,
            Err(DocumentError::Newer {
                name: "config",
                found: 2,
                known: 1,
            }),
        );
        check(
            "0 was never a version",
            r#"{"version":0}"#,
            malformed("its version is 0, not a number from 1 on"),
        );
        check(
            "a version is a number",
            r#"{"version":"two"}"#,
            malformed("its version is \"two\", not a number from 1 on"),
        );
        check(
            "nor is a half one a version",
            r#"{"version":1.5}"#,
            malformed("its version is 1.5, not a number from 1 on"),
        );
    }

    #[test]
    fn a_newer_policy_is_no_damage() {
        let text = r#"{"version":3,"preset":"seed","a_new_field":[]}"#;
        let newer = DocumentError::Newer {
            name: "policy",
            found: 3,
            known: 2,
        };
        assert_eq!(read::<Policy>(text), Err(newer));
    }
}
