//! Rungs as text, such as `learning_rate *= 0.5`.
//!
//! [`parse`] and [`render`] are inverses, bit for bit. A rung may only change a setting
//! that has a bound, and only towards the bound, so repeating it must end.

use crate::events::{Rung, Scalar, SettingKey};
use crate::presets;

/// The valid forms of a rung, as a hint.
pub(super) const FORMS: &str = "a rung is `learning_rate *= X`, `gradient_accumulation_steps += N` or `-= N`, \
`log_interval /= X`, `chunk_size /= X`, `extend_target` or `defer_fewer_actions`";

const EXTEND: &str = "extend_target";
const FEWER_ACTIONS: &str = "defer_fewer_actions";

/// Parses one rung. `knobs` are the stage's knobs, each with whether it is an integer.
pub(super) fn parse(text: &str, knobs: &[(String, bool)]) -> Result<Rung, String> {
    let mut words = text.split_whitespace();
    match (words.next(), words.next(), words.next(), words.next()) {
        (Some(EXTEND), None, ..) => Ok(Rung::ExtendTarget),
        (Some(FEWER_ACTIONS), None, ..) => Ok(presets::defer_fewer_actions()),
        (Some(key), Some(operator), Some(number), None) => {
            let (key, knob) = changed_key(key, knobs)?;
            match operator {
                "*=" | "/=" => multiply(key, operator, number, knob),
                "+=" | "-=" => add(key, operator, number, knob),
                _ => Err(format!(
                    "unknown operator `{operator}`, expected `*=`, `/=`, `+=` or `-=`"
                )),
            }
        }
        _ => Err("it is neither `KEY OPERATOR NUMBER` nor the name of a rung".to_owned()),
    }
}

/// Formats one rung, so that [`parse`] returns the same rung.
pub(super) fn render(rung: &Rung) -> String {
    match rung {
        Rung::ExtendTarget => EXTEND.to_owned(),
        Rung::DeferPowerOfTwo { .. } => FEWER_ACTIONS.to_owned(),
        Rung::Add { key, amount } => {
            let operator = if *amount < 0 { "-=" } else { "+=" };
            format!("{} {operator} {}", key.as_str(), amount.unsigned_abs())
        }
        Rung::Multiply { key, factor } => {
            let factor = factor.get();
            let divisor = (1.0 / factor).round();
            // Counts are written as a division where that is exact.
            let is_count = matches!(key, SettingKey::LogInterval | SettingKey::ChunkSize);
            if is_count && (1.0 / divisor).to_bits() == factor.to_bits() {
                format!("{} /= {divisor}", key.as_str())
            } else {
                format!("{} *= {factor:?}", key.as_str())
            }
        }
    }
}

/// The setting that a rung changes, and for a knob whether it is an integer.
fn changed_key(name: &str, knobs: &[(String, bool)]) -> Result<(SettingKey, Option<bool>), String> {
    if let Some((_, integer)) = knobs.iter().find(|(knob, _)| knob == name) {
        return Ok((SettingKey::knob(name), Some(*integer)));
    }
    [
        SettingKey::LearningRate,
        SettingKey::GradientAccumulationSteps,
        SettingKey::LogInterval,
        SettingKey::ChunkSize,
    ]
    .into_iter()
    .find(|key| key.as_str() == name)
    .map(|key| (key, None))
    .ok_or_else(|| format!("a rung cannot change `{name}`"))
}

fn multiply(
    key: SettingKey,
    operator: &str,
    number: &str,
    knob: Option<bool>,
) -> Result<Rung, String> {
    let number: f64 = number
        .parse()
        .map_err(|_| format!("`{number}` is not a number"))?;
    let factor = if operator == "/=" {
        1.0 / number
    } else {
        number
    };
    if key == SettingKey::GradientAccumulationSteps {
        return Err("use `+=` or `-=` to change accumulation".to_owned());
    }
    // A knob has bounds on both sides, so it may also rise.
    if knob.is_some() {
        if !(factor > 0.0 && factor.is_finite() && factor != 1.0) {
            return Err(format!(
                "its factor is {factor:?}, but must be above 0 and not 1"
            ));
        }
    } else if !(factor > 0.0 && factor < 1.0) {
        return Err(format!(
            "its factor is {factor:?}, but must be between 0 and 1"
        ));
    }
    Ok(Rung::Multiply {
        key,
        factor: Scalar::new(factor),
    })
}

fn add(key: SettingKey, operator: &str, number: &str, knob: Option<bool>) -> Result<Rung, String> {
    let number: u32 = number
        .parse()
        .map_err(|_| format!("`{number}` is not a whole number"))?;
    if key != SettingKey::GradientAccumulationSteps && knob != Some(true) {
        return Err(format!("use `*=` or `/=` to change `{}`", key.as_str()));
    }
    if number == 0 {
        return Err("it changes nothing".to_owned());
    }
    let amount = i64::from(number);
    Ok(Rung::Add {
        key,
        amount: if operator == "-=" { -amount } else { amount },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presets::ModelKind;

    #[test]
    fn the_rungs_of_presets_survive_a_round_trip() {
        for rung in ModelKind::ALL.into_iter().flat_map(presets::ladder) {
            assert_eq!(parse(&render(&rung), &[]), Ok(rung.clone()), "{rung:?}");
        }
    }

    #[track_caller]
    fn check(name: &str, text: &str, want: &str) {
        let found = match parse(text, &[]) {
            Ok(rung) => render(&rung),
            Err(why) => format!("error: {why}"),
        };
        assert_eq!(found, want, "{name}");
    }

    #[test]
    fn rungs_as_text() {
        check("a rate", "learning_rate *= 0.5", "learning_rate *= 0.5");
        check(
            "a divided rate",
            "learning_rate /= 4",
            "learning_rate *= 0.25",
        );
        check("a divided count", "log_interval /= 2", "log_interval /= 2");
        check(
            "a multiplied count",
            "log_interval *= 0.5",
            "log_interval /= 2",
        );
        check("an odd factor", "chunk_size *= 0.75", "chunk_size *= 0.75");
        check("a third", "chunk_size /= 3", "chunk_size /= 3");
        check(
            "a step up",
            "gradient_accumulation_steps += 2",
            "gradient_accumulation_steps += 2",
        );
        check("a name", "extend_target", "extend_target");
        check("another name", "defer_fewer_actions", "defer_fewer_actions");
        check(
            "an empty text",
            "",
            "error: it is neither `KEY OPERATOR NUMBER` nor the name of a rung",
        );
        check(
            "a name and more",
            "extend_target += 1",
            "error: a rung cannot change `extend_target`",
        );
        check(
            "a foreign key",
            "seed += 1",
            "error: a rung cannot change `seed`",
        );
        check(
            "an operator of another language",
            "learning_rate ^= 2",
            "error: unknown operator `^=`, expected `*=`, `/=`, `+=` or `-=`",
        );
        check(
            "a rate that rises",
            "learning_rate *= 2",
            "error: its factor is 2.0, but must be between 0 and 1",
        );
        check(
            "a factor of one",
            "log_interval *= 1",
            "error: its factor is 1.0, but must be between 0 and 1",
        );
        check(
            "a factor that is not a number",
            "log_interval *= nan",
            "error: its factor is NaN, but must be between 0 and 1",
        );
        check(
            "a division by zero",
            "log_interval /= 0",
            "error: its factor is inf, but must be between 0 and 1",
        );
        check(
            "a word instead of a number",
            "chunk_size /= two",
            "error: `two` is not a number",
        );
        check(
            "half a step",
            "gradient_accumulation_steps += 0.5",
            "error: `0.5` is not a whole number",
        );
        check(
            "a step of zero",
            "gradient_accumulation_steps -= 0",
            "error: it changes nothing",
        );
        check(
            "accumulation by a factor",
            "gradient_accumulation_steps *= 0.5",
            "error: use `+=` or `-=` to change accumulation",
        );
        check(
            "a rate by a step",
            "learning_rate -= 1",
            "error: use `*=` or `/=` to change `learning_rate`",
        );
    }
}
