//! The forms of events on disk: one frozen struct per kind and version.
//!
//! A body is the rkyv bytes of a struct in [`v1`] or a later module; the frame header
//! ([`frame`]), parsed by hand, says which. rkyv has no schema evolution, so a struct never
//! changes once a log has been written with it. A kind that needs another field gets a new
//! version: a new struct, and a `From` or `TryFrom` from the old one, which then loses its
//! `freeze` and is only read. Kinds, versions and enum numbers are never reused.
//!
//! Invariant: any bytes give an event or a [`StoredError`], using memory that is at most a
//! small multiple of their length.

pub mod document;
mod error;
pub mod frame;
mod freeze;
mod policy_v1;
pub mod v1;
pub mod v2;
pub mod v3;

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

use super::event::Event;
use super::kinds::event_kinds;
pub use document::MAX_DOCUMENT;
pub use error::StoredError;
use freeze::{Freeze, Unfit};
use v1::*;
use v2::*;
use v3::*;

/// Largest body of an event, and largest total of one append: 64 MiB.
pub const MAX_BODY: usize = 64 << 20;

/// The stored form of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Form {
    pub kind: u16,
    pub version: u16,
}

/// A kind of event as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    pub number: u16,
    /// As in the JSON form.
    pub name: &'static str,
    /// The version that is written. All versions from 1 on can be read.
    pub newest: u16,
}

macro_rules! stored {
    ($($number:literal $name:literal $source:ident $live:ident($($type:tt)+): $newest:literal => $newest_form:ident $(, $old:literal => $old_form:ident)*;)+) => {
        /// Every kind that this build reads and writes.
        pub const KINDS: &[Kind] = &[$(Kind { number: $number, name: $name, newest: $newest }),+];

        /// Appends the newest stored form of an event to `out`.
        ///
        /// # Errors
        /// [`StoredError::TooLarge`] and [`StoredError::Malformed`]. The contents of `out` are then unspecified.
        pub fn encode_into(event: &Event, out: &mut Vec<u8>) -> Result<Form, StoredError> {
            let start = out.len();
            let form = match event {
                $(Event::$live(live) => {
                    let form = Form { kind: $number, version: $newest };
                    let frozen: $newest_form = Freeze::freeze(live).map_err(|what| {
                        StoredError::Malformed { kind: $name, version: $newest, what: what.to_string() }
                    })?;
                    let written = rkyv::api::high::to_bytes_in::<_, rkyv::rancor::Error>(&frozen, core::mem::take(out));
                    *out = written.map_err(|error| {
                        StoredError::Malformed { kind: $name, version: $newest, what: error.to_string() }
                    })?;
                    form
                })+
            };
            let bytes = out.len() - start;
            if bytes > MAX_BODY {
                out.truncate(start);
                return Err(StoredError::TooLarge { kind: name_of(form.kind), bytes, limit: MAX_BODY });
            }
            Ok(form)
        }

        /// Reads a body of any version.
        ///
        /// # Errors
        /// [`StoredError::NewerVersion`] for a kind, version or enum number that
        /// this build does not know, else [`StoredError::Malformed`].
        pub fn decode(form: Form, body: &[u8]) -> Result<Event, StoredError> {
            match (form.kind, form.version) {
                $(
                    ($number, $newest) => {
                        let frozen = rkyv::from_bytes::<$newest_form, rkyv::rancor::Failure>(body)
                            .map_err(|_| malformed($name, $newest))?;
                        Ok(Event::$live(Freeze::thaw(frozen).map_err(|why| why.of($name, $newest))?))
                    }
                    $(
                        ($number, $old) => {
                            let frozen = rkyv::from_bytes::<$old_form, rkyv::rancor::Failure>(body)
                                .map_err(|_| malformed($name, $old))?;
                            let newest = $newest_form::try_from(frozen).map_err(|why| Unfit::from(why).of($name, $old))?;
                            Ok(Event::$live(Freeze::thaw(newest).map_err(|why| why.of($name, $old))?))
                        }
                    )*
                    ($number, 1..) => Err(StoredError::NewerVersion {
                        what: format!("version of `{}`", $name),
                        found: u32::from(form.version),
                        known: $newest,
                    }),
                )+
                (kind, version) => Err(unknown_kind(kind, version)),
            }
        }
    };
}

event_kinds!(stored);

fn name_of(kind: u16) -> &'static str {
    KINDS
        .iter()
        .find(|known| known.number == kind)
        .map_or("unknown", |known| known.name)
}

/// rkyv's own message has addresses, and an audit must be the same each time.
fn malformed(kind: &'static str, version: u16) -> StoredError {
    StoredError::Malformed {
        kind,
        version,
        what: "its bytes do not have the form of this version".to_owned(),
    }
}

/// The error for a kind that this build does not know. No kind or version has the number 0, so that
/// is damage.
fn unknown_kind(kind: u16, version: u16) -> StoredError {
    if kind == 0 || version == 0 {
        return StoredError::Malformed {
            kind: name_of(kind),
            version,
            what: "kinds and versions start at 1".to_owned(),
        };
    }
    StoredError::NewerVersion {
        what: "event kind".to_owned(),
        found: u32::from(kind),
        known: KINDS
            .iter()
            .map(|known| u32::from(known.number))
            .max()
            .unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RunFinished;

    #[track_caller]
    fn check(name: &str, form: (u16, u16), body: &[u8], newer: Option<(u32, u32)>) {
        let (kind, version) = form;
        match decode(Form { kind, version }, body) {
            Err(StoredError::NewerVersion { found, known, .. }) => {
                assert_eq!(Some((found, known)), newer, "{name}");
            }
            Err(StoredError::Malformed { .. }) => assert_eq!(None, newer, "{name}"),
            other => panic!("{name}: {other:?}"),
        }
    }

    #[test]
    fn unreadable_forms() {
        check("a kind of a newer build", (114, 1), &[], Some((114, 113)));
        check(
            "a kind between the known ones",
            (50, 1),
            &[],
            Some((50, 113)),
        );
        check(
            "a version of a newer build",
            (112, 2),
            &[1; 4],
            Some((2, 1)),
        );
        check("kind 0", (0, 1), &[], None);
        check("version 0", (112, 0), &[0; 4], None);
        check("a body that is too short", (112, 1), &[0; 3], None);
        check("an empty body", (1, 1), &[], None);
    }

    #[test]
    fn numbers_and_names_are_unique() {
        for (index, kind) in KINDS.iter().enumerate() {
            for other in &KINDS[index + 1..] {
                assert_ne!(kind.number, other.number);
                assert_ne!(kind.name, other.name);
            }
        }
    }

    #[test]
    fn a_body_is_appended_after_other_bytes() {
        let event = Event::RunFinished(RunFinished { stages: 3 });
        let mut out = vec![9; 5];
        let form = encode_into(&event, &mut out).unwrap();
        assert_eq!(out[..5], [9; 5]);
        assert_eq!(decode(form, &out[5..]).unwrap(), event);
    }
}
