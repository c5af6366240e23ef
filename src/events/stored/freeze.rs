//! Converts live values to plain stored ones and back.
//!
//! Only text, integers, bits of floats, numbers of enum variants, and lists and options of
//! them are stored, so rkyv never sees a type that may change.

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::convert::Infallible;

use super::document::{self, DocumentError};
use super::error::StoredError;
use crate::{
    Attempt, ChunkNumber, KnobName, ModelName, Policy, Restart, Scalar, Seq, SettingKey, StageName,
    Step,
};

/// A stored form of `Live`.
pub trait Freeze<Live>: Sized {
    fn freeze(live: &Live) -> Result<Self, Unfit>;
    fn thaw(self) -> Result<Live, Unfit>;
}

/// Why a value cannot be converted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("unknown number {found} of `{what}`, the largest known is {known}")]
    UnknownNumber {
        what: &'static str,
        found: u16,
        known: u16,
    },
    #[error(transparent)]
    Document(#[from] DocumentError),
    #[error("{0}")]
    Other(String),
}

/// Lets conversions that cannot fail be used like those that can.
impl From<Infallible> for Unfit {
    fn from(never: Infallible) -> Unfit {
        match never {}
    }
}

impl Unfit {
    /// The error for an event of this kind and version.
    pub fn of(self, kind: &'static str, version: u16) -> StoredError {
        match self {
            Unfit::UnknownNumber { what, found, known } if found != 0 => {
                StoredError::NewerVersion {
                    what: format!("number of `{what}` in `{kind}`"),
                    found: u32::from(found),
                    known: u32::from(known),
                }
            }
            Unfit::Document(DocumentError::Newer { name, found, known }) => {
                StoredError::NewerVersion {
                    what: format!("version of the {name} in `{kind}`"),
                    found,
                    known,
                }
            }
            unfit @ (Unfit::UnknownNumber { .. } | Unfit::Document(_) | Unfit::Other(_)) => {
                StoredError::Malformed {
                    kind,
                    version,
                    what: unfit.to_string(),
                }
            }
        }
    }
}

/// Types that are stored as themselves.
macro_rules! plain {
    ($($stored:ty),+) => {$(
        impl Freeze<$stored> for $stored {
            fn freeze(live: &$stored) -> Result<$stored, Unfit> {
                Ok(live.clone())
            }

            fn thaw(self) -> Result<$stored, Unfit> {
                Ok(self)
            }
        }
    )+};
}

plain!(String, u32, u64, bool);

/// Newtypes, stored as the type they wrap.
macro_rules! wrapped {
    ($($live:ident($stored:ty) = $get:ident, $new:ident;)+) => {$(
        impl Freeze<$live> for $stored {
            fn freeze(live: &$live) -> Result<$stored, Unfit> {
                Ok(live.$get().into())
            }

            fn thaw(self) -> Result<$live, Unfit> {
                Ok($live::$new(self))
            }
        }
    )+};
}

wrapped! {
    Seq(u64) = get, new;
    Step(u64) = get, new;
    ChunkNumber(u32) = get, new;
    Attempt(u32) = get, new;
    Restart(u32) = get, new;
    StageName(String) = as_str, new;
    KnobName(String) = as_str, new;
    ModelName(String) = as_str, new;
    Scalar(u64) = to_bits, from_bits;
}

impl<Live, Stored: Freeze<Live>> Freeze<Vec<Live>> for Vec<Stored> {
    fn freeze(live: &Vec<Live>) -> Result<Vec<Stored>, Unfit> {
        live.iter().map(Stored::freeze).collect()
    }

    fn thaw(self) -> Result<Vec<Live>, Unfit> {
        self.into_iter().map(Stored::thaw).collect()
    }
}

impl<Live, Stored: Freeze<Live>> Freeze<Option<Live>> for Option<Stored> {
    fn freeze(live: &Option<Live>) -> Result<Option<Stored>, Unfit> {
        live.as_ref().map(Stored::freeze).transpose()
    }

    fn thaw(self) -> Result<Option<Live>, Unfit> {
        self.map(Stored::thaw).transpose()
    }
}

impl<Live, Stored: Freeze<Live>> Freeze<Box<Live>> for Stored {
    fn freeze(live: &Box<Live>) -> Result<Stored, Unfit> {
        Stored::freeze(live.as_ref())
    }

    fn thaw(self) -> Result<Box<Live>, Unfit> {
        self.thaw().map(Box::new)
    }
}

/// Documents, stored as versioned JSON text.
macro_rules! documents {
    ($($live:ty),+) => {$(
        impl Freeze<$live> for String {
            fn freeze(live: &$live) -> Result<String, Unfit> {
                Ok(document::write(live)?)
            }

            fn thaw(self) -> Result<$live, Unfit> {
                Ok(document::read(&self)?)
            }
        }
    )+};
}

documents!(serde_json::Value, Policy);

impl Freeze<SettingKey> for String {
    fn freeze(live: &SettingKey) -> Result<String, Unfit> {
        Ok(live.as_str().to_owned())
    }

    fn thaw(self) -> Result<SettingKey, Unfit> {
        Ok(SettingKey::of_name(&self))
    }
}

/// Enums without fields: each variant is stored as a number that never changes.
macro_rules! numbers {
    ($($live:ident { $($variant:ident = $number:literal),+ $(,)? })+) => {$(
        impl $crate::stored::freeze::Freeze<$live> for u16 {
            fn freeze(live: &$live) -> Result<u16, $crate::stored::freeze::Unfit> {
                Ok(match live {
                    $($live::$variant => $number,)+
                })
            }

            fn thaw(self) -> Result<$live, $crate::stored::freeze::Unfit> {
                match self {
                    $($number => Ok($live::$variant),)+
                    found => Err($crate::stored::freeze::Unfit::UnknownNumber {
                        what: stringify!($live),
                        found,
                        known: [$($number),+].into_iter().fold(0, u16::max),
                    }),
                }
            }
        }
    )+};
}

/// Frozen structs, field by field. Fields are stored in this order.
macro_rules! frozen {
    ($($(#[$doc:meta])* $frozen:ident of $live:ident { $($field:ident: $stored:ty),* $(,)? })+) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
        pub struct $frozen {
            $(pub $field: $stored,)*
        }

        impl $crate::stored::freeze::Freeze<$live> for $frozen {
            fn freeze(live: &$live) -> Result<$frozen, $crate::stored::freeze::Unfit> {
                Ok($frozen {
                    $($field: $crate::stored::freeze::Freeze::freeze(&live.$field)?,)*
                })
            }

            fn thaw(self) -> Result<$live, $crate::stored::freeze::Unfit> {
                Ok($live {
                    $($field: $crate::stored::freeze::Freeze::thaw(self.$field)?,)*
                })
            }
        }
    )+};
}

/// Structs of older versions, which are only read and are upgraded by `From` or `TryFrom`.
macro_rules! replaced {
    ($($frozen:ident { $($field:ident: $stored:ty),* $(,)? })+) => {$(
        #[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
        pub struct $frozen {
            $(pub $field: $stored,)*
        }
    )+};
}

pub(super) use {frozen, numbers, replaced};
