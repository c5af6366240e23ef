//! The hints of an error as text.

use tinygate::advice::{Advice, Hint};

/// The hints joined by `; `. A hint about the program is given by its name.
pub fn joined(advice: &impl Advice) -> String {
    let text = |hint: &Hint| {
        if let Hint::Text(text) = hint {
            text.to_string()
        } else {
            format!("{hint:?}")
        }
    };
    let texts: Vec<String> = advice.hints().iter().map(text).collect();
    texts.join("; ")
}
