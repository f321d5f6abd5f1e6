//! Recognises an inbound text that is, as a whole, STOP or START.
//!
//! It does not search inside sentences and knows no other words. Blanks, punctuation, symbols and
//! invisible characters around the word do not count, nor does letter case; full-width letters
//! count as the plain ones.

/// What the sender of an inbound text asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OptKeyword {
    /// No more messages.
    Stop,
    /// Messages again.
    Start,
}

/// The keyword a text consists of, if it does.
#[must_use]
pub fn opt_keyword(text: &str) -> Option<OptKeyword> {
    let word = text.trim_matches(|character: char| !character.is_alphanumeric());
    if is_word(word, "STOP") {
        Some(OptKeyword::Stop)
    } else if is_word(word, "START") {
        Some(OptKeyword::Start)
    } else {
        None
    }
}

fn is_word(text: &str, word: &str) -> bool {
    text.chars()
        .map(|character| plain(character).to_ascii_uppercase())
        .eq(word.chars())
}

/// Full-width forms stand in the order of ASCII, 0xFEE0 above it.
fn plain(character: char) -> char {
    match character {
        '\u{FF01}'..='\u{FF5E}' => {
            char::from_u32(u32::from(character) - 0xFEE0).unwrap_or(character)
        }
        _ => character,
    }
}
