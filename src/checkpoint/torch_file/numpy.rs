//! NumPy's scalars in a pickle: the code of a type and the bytes of a number. A learning
//! rate that was computed with NumPy is one.

/// The value of a NumPy scalar.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar {
    Bool(bool),
    Int(i64),
    Float(f64),
}

/// The value of little-endian `bytes` with the type `code` (`f8`, `i4`, `b1`).
pub fn scalar(code: &str, bytes: &[u8]) -> Option<Scalar> {
    fn array<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
        bytes.try_into().ok()
    }
    Some(match code {
        "b1" => Scalar::Bool(array::<1>(bytes)? != [0]),
        "i1" => Scalar::Int(i8::from_le_bytes(array(bytes)?).into()),
        "i2" => Scalar::Int(i16::from_le_bytes(array(bytes)?).into()),
        "i4" => Scalar::Int(i32::from_le_bytes(array(bytes)?).into()),
        "i8" => Scalar::Int(i64::from_le_bytes(array(bytes)?)),
        "u1" => Scalar::Int(u8::from_le_bytes(array(bytes)?).into()),
        "u2" => Scalar::Int(u16::from_le_bytes(array(bytes)?).into()),
        "u4" => Scalar::Int(u32::from_le_bytes(array(bytes)?).into()),
        "u8" => Scalar::Int(i64::try_from(u64::from_le_bytes(array(bytes)?)).ok()?),
        "f2" => Scalar::Float(crate::float16::half(u16::from_le_bytes(array(bytes)?)).into()),
        "f4" => Scalar::Float(f32::from_le_bytes(array(bytes)?).into()),
        "f8" => Scalar::Float(f64::from_le_bytes(array(bytes)?)),
        _ => return None,
    })
}

/// The bytes encoded by the characters of `text`, up to 17: a number has at most 16.
pub fn latin1(text: &str) -> Option<Vec<u8>> {
    let characters = text.chars().take(17);
    characters.map(|c| u8::try_from(c).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(code: &str, text: &str, want: Option<Scalar>) {
        let bytes = latin1(text).unwrap();
        assert_eq!(scalar(code, &bytes), want, "{code}");
    }

    #[test]
    fn numbers_of_every_type() {
        check("b1", "\u{1}", Some(Scalar::Bool(true)));
        check("i1", "\u{ff}", Some(Scalar::Int(-1)));
        check("i2", "\u{fe}\u{ff}", Some(Scalar::Int(-2)));
        check("u2", "\u{fe}\u{ff}", Some(Scalar::Int(65534)));
        check("u8", &"\u{ff}".repeat(8), None);
        check("f2", "\0\u{3c}", Some(Scalar::Float(1.0)));
        check("f4", "\0\0\u{80}\u{3f}", Some(Scalar::Float(1.0)));
        check("f8", "\0\0\0\0\0\0\u{f0}\u{3f}", Some(Scalar::Float(1.0)));
        check("f8", "\0\0", None);
        check("M8", "\0\0\0\0\0\0\0\0", None);
    }

    #[test]
    fn a_character_above_255_is_not_a_byte() {
        assert_eq!(latin1("a\u{100}"), None);
    }
}
