//! An `f64` that is compared by its bits and never rounded.
//!
//! `f64` has no `Eq`, and NaN is unequal to itself, so a log could not be compared with
//! its replay. In JSON, finite values are numbers with the shortest digits that round-trip;
//! the others are `"nan"`, `"inf"` and `"-inf"`.

use core::fmt;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

#[derive(Clone, Copy)]
pub struct Scalar(f64);

impl Scalar {
    pub const fn new(value: f64) -> Scalar {
        Scalar(value)
    }

    pub const fn get(self) -> f64 {
        self.0
    }

    pub const fn from_bits(bits: u64) -> Scalar {
        Scalar(f64::from_bits(bits))
    }

    pub const fn to_bits(self) -> u64 {
        self.0.to_bits()
    }

    /// The value, if it is finite.
    pub fn finite(self) -> Option<f64> {
        self.0.is_finite().then_some(self.0)
    }
}

impl From<f64> for Scalar {
    fn from(value: f64) -> Scalar {
        Scalar(value)
    }
}

impl PartialEq for Scalar {
    fn eq(&self, other: &Scalar) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Eq for Scalar {}

impl fmt::Debug for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Serialize for Scalar {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_nan() {
            serializer.serialize_str("nan")
        } else if self.0.is_infinite() {
            serializer.serialize_str(if self.0 < 0.0 { "-inf" } else { "inf" })
        } else {
            serializer.serialize_f64(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Scalar, D::Error> {
        struct ScalarVisitor;

        impl Visitor<'_> for ScalarVisitor {
            type Value = Scalar;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, \"nan\", \"inf\" or \"-inf\"")
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Scalar, E> {
                Ok(Scalar(value))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Scalar, E> {
                Ok(Scalar(value as f64))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Scalar, E> {
                Ok(Scalar(value as f64))
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Scalar, E> {
                match value {
                    "nan" => Ok(Scalar(f64::NAN)),
                    "inf" => Ok(Scalar(f64::INFINITY)),
                    "-inf" => Ok(Scalar(f64::NEG_INFINITY)),
                    other => Err(E::invalid_value(de::Unexpected::Str(other), &self)),
                }
            }
        }

        deserializer.deserialize_any(ScalarVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, value: f64, json: &str) {
        let written = serde_json::to_string(&Scalar::new(value)).unwrap();
        assert_eq!(written, json, "{name}");
        let read: Scalar = serde_json::from_str(&written).unwrap();
        assert_eq!(read.get().is_nan(), value.is_nan(), "{name}");
        if !value.is_nan() {
            assert_eq!(read.to_bits(), value.to_bits(), "{name}");
        }
    }

    #[test]
    fn json_form() {
        check(
            "a third has all its digits",
            1.0 / 3.0,
            "0.3333333333333333",
        );
        check("the smallest subnormal survives", 5e-324, "5e-324");
        check("minus zero keeps its sign", -0.0, "-0.0");
        check("NaN has a name", f64::NAN, "\"nan\"");
        check("infinity has a name", f64::INFINITY, "\"inf\"");
        check("minus infinity has a name", f64::NEG_INFINITY, "\"-inf\"");
    }

    #[test]
    fn values_are_compared_by_their_bits() {
        assert_eq!(Scalar::new(f64::NAN), Scalar::new(f64::NAN));
        assert_ne!(Scalar::new(0.0), Scalar::new(-0.0));
    }
}
