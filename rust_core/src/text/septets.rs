//! GSM-7 text to septets, septets to octets, and back (3GPP TS 23.038, 6.1.2.1).
//!
//! It knows nothing of parts: give it the text of one. Septets are packed least significant bit
//! first, after `fill_bits` zero bits; unused bits of the last octet are zero, which is why
//! unpacking asks for the number of septets.

use super::alphabet::{Code, ESCAPE};
use super::{NationalShift, TextError};

const SEPTET_MAX: u8 = 0x7F;
const FILL_BITS_MAX: u8 = 6;

/// The septets of a text, escapes included, one in each byte.
///
/// # Errors
/// `NotInAlphabet` with the first character the tables cannot carry.
pub fn encode_septets(text: &str, shift: NationalShift) -> Result<Vec<u8>, TextError> {
    let mut septets = Vec::with_capacity(text.len());
    for (byte_offset, character) in text.char_indices() {
        match shift.code_of(character) {
            Some(Code::Plain(code)) => septets.push(code),
            Some(Code::Escaped(code)) => septets.extend([ESCAPE, code]),
            None => {
                return Err(TextError::NotInAlphabet {
                    character,
                    byte_offset,
                });
            }
        }
    }
    Ok(septets)
}

/// The text a receiver shows for septets.
///
/// An escape pair without an entry shows the plain character of its second code; an escape before
/// another, or at the end, shows a space. A code without any character, or above 0x7F, shows
/// U+FFFD.
#[must_use]
pub fn decode_septets(septets: &[u8], shift: NationalShift) -> String {
    let mut text = String::with_capacity(septets.len());
    let mut rest = septets.iter().copied();
    while let Some(septet) = rest.next() {
        let shown = if septet == ESCAPE {
            match rest.next() {
                None | Some(ESCAPE) => Some(' '),
                Some(second) => shift
                    .escaped_character_of(second)
                    .or_else(|| shift.character_of(second)),
            }
        } else {
            shift.character_of(septet)
        };
        text.push(shown.unwrap_or(char::REPLACEMENT_CHARACTER));
    }
    text
}

/// Packs septets into octets after so many zero bits (`fill_bits` of the header before them; 0
/// without a header).
///
/// # Errors
/// `NotASeptet` for a value above 0x7F, `FillBits` above 6.
pub fn pack(septets: &[u8], fill_bits: u8) -> Result<Vec<u8>, TextError> {
    if fill_bits > FILL_BITS_MAX {
        return Err(TextError::FillBits { fill_bits });
    }
    let mut octets = Vec::with_capacity(octets_for(septets.len(), fill_bits));
    // Bits wait here until eight are full; at most 7 + 7 of them.
    let mut pending = 0_u16;
    let mut pending_bits = fill_bits;
    for (index, &value) in septets.iter().enumerate() {
        if value > SEPTET_MAX {
            return Err(TextError::NotASeptet { value, index });
        }
        pending |= u16::from(value) << pending_bits;
        pending_bits += 7;
        if pending_bits >= 8 {
            let [low, high] = pending.to_le_bytes();
            octets.push(low);
            pending = u16::from(high);
            pending_bits -= 8;
        }
    }
    if pending_bits > 0 && !septets.is_empty() {
        octets.push(pending.to_le_bytes()[0]);
    }
    Ok(octets)
}

/// Takes `count` septets out of octets, after so many fill bits; further octets are left alone.
///
/// # Errors
/// `TooFewOctets` if they do not hold that many, `FillBits` above 6.
pub fn unpack(octets: &[u8], fill_bits: u8, count: usize) -> Result<Vec<u8>, TextError> {
    if fill_bits > FILL_BITS_MAX {
        return Err(TextError::FillBits { fill_bits });
    }
    let needed_octets = octets_for(count, fill_bits);
    if needed_octets > octets.len() {
        return Err(TextError::TooFewOctets {
            needed_octets,
            given_octets: octets.len(),
        });
    }
    let octet_at = |index: usize| octets.get(index).copied().unwrap_or(0);
    let septet_at = |index: usize| {
        let bit = usize::from(fill_bits) + 7 * index;
        let pair = u16::from_le_bytes([octet_at(bit / 8), octet_at(bit / 8 + 1)]);
        (pair >> (bit % 8)).to_le_bytes()[0] & SEPTET_MAX
    };
    Ok((0..count).map(septet_at).collect())
}

/// Octets for so many septets after the fill bits; none for no septets. Saturates, so that an
/// absurd count is too many.
fn octets_for(septets: usize, fill_bits: u8) -> usize {
    if septets == 0 {
        0
    } else {
        septets
            .saturating_mul(7)
            .saturating_add(usize::from(fill_bits))
            .div_ceil(8)
    }
}
