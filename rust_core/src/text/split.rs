//! Cuts a text into the parts that go on the air.
//!
//! It neither encodes them nor builds their headers, and borrows from the text: parts joined are
//! the text again.

use super::alphabet::Code;
use super::measure::{Room, is_gsm, shifted_units};
use super::{Encoding, NationalShift, PARTS_MAX, ReferenceSize, TextError};

/// One part of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'text> {
    /// Its text.
    pub text: &'text str,
    /// Septets with their escapes, or UTF-16 units, without the header.
    pub units: u32,
}

/// The parts of a text, each within its room; one part, without a header, where it fits.
///
/// # Errors
/// `TooManyParts` past `PARTS_MAX`, with the number it would take.
pub fn split(text: &str, reference: ReferenceSize) -> Result<Vec<Part<'_>>, TextError> {
    split_with_shift(text, NationalShift::NONE, reference)
}

/// As `split`, under national shift tables, whose header elements take room in every part; UCS-2,
/// without them, where the tables cannot carry the text. `measure_with_shift` says which.
///
/// # Errors
/// `TooManyParts` past `PARTS_MAX`, with the number it would take.
pub fn split_with_shift(
    text: &str,
    shift: NationalShift,
    reference: ReferenceSize,
) -> Result<Vec<Part<'_>>, TextError> {
    let carried = if shift == NationalShift::NONE {
        is_gsm(text)
    } else {
        shifted_units(text, shift).is_some()
    };
    if carried {
        let room = Room::of(Encoding::Gsm7, shift, reference);
        cut(text, room, |character| {
            shift.code_of(character).map_or(0, Code::septets)
        })
    } else {
        let room = Room::of(Encoding::Ucs2, shift, reference);
        cut(
            text,
            room,
            |character| if character > '\u{FFFF}' { 2 } else { 1 },
        )
    }
}

fn cut(text: &str, room: Room, cost_of: impl Fn(char) -> u32) -> Result<Vec<Part<'_>>, TextError> {
    let units = text.chars().fold(0_u32, |units, character| {
        units.saturating_add(cost_of(character))
    });
    if units <= room.one {
        return Ok(vec![Part { text, units }]);
    }
    let mut parts = Vec::new();
    let mut count = 1_u32;
    let mut start = 0;
    let mut used = 0;
    for (at, character) in text.char_indices() {
        let cost = cost_of(character);
        if used + cost > room.several {
            // Past the most parts only the number grows, not the list.
            if count <= PARTS_MAX {
                parts.push(Part {
                    text: &text[start..at],
                    units: used,
                });
            }
            count += 1;
            start = at;
            used = 0;
        }
        used += cost;
    }
    if count > PARTS_MAX {
        return Err(TextError::TooManyParts { parts: count });
    }
    parts.push(Part {
        text: &text[start..],
        units: used,
    });
    Ok(parts)
}
