//! What an error tells a reader, without the words of the program.

use tinygate::advice::{Advice, Hint};

/// The hints joined as a reader gets them; one about the program is its name.
pub fn hints(advice: &impl Advice) -> String {
    let word = |hint: &Hint| {
        if let Hint::Text(text) = hint {
            text.to_string()
        } else {
            format!("{hint:?}")
        }
    };
    let words: Vec<String> = advice.hints().iter().map(word).collect();
    words.join("; ")
}
