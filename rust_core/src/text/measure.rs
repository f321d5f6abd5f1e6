//! Counts encoding, parts and units of a text without allocating; it runs once for every message
//! admitted.
//!
//! It does not cut the text: `split` does, and by the same rules. Plain ASCII is classed sixteen
//! bytes at a time, which the compiler turns into vector instructions; everything else goes through
//! the reverse table.

use std::collections::BTreeSet;

use super::alphabet::{Code, code_of};
use super::{Encoding, NationalShift, ReferenceSize, Segmentation, part_room};

/// Bytes classed at once: one 128-bit register.
const CHUNK_BYTES: usize = 16;

/// Room of a message's parts: `one` when it fits a single part, `several` of each when it does not.
#[derive(Clone, Copy)]
pub(super) struct Room {
    pub(super) one: u32,
    pub(super) several: u32,
}

impl Room {
    pub(super) fn of(encoding: Encoding, shift: NationalShift, reference: ReferenceSize) -> Self {
        let elements = match encoding {
            Encoding::Gsm7 => shift.element_octets(),
            Encoding::Ucs2 => 0,
        };
        // The length octet stands there only when an element follows it.
        let single_header = if elements == 0 { 0 } else { 1 + elements };
        Self {
            one: part_room(encoding, single_header),
            several: part_room(encoding, 1 + elements + reference.element_octets()),
        }
    }
}

/// Encoding, parts and units of a text, with an 8-bit reference should it need one. Equal to what
/// `split` makes of it.
#[must_use]
pub fn measure(text: &str) -> Segmentation {
    let shift = NationalShift::NONE;
    match gsm_count(text) {
        Some(Count {
            units,
            pairs: false,
        }) => even_parts(Encoding::Gsm7, units),
        Some(Count { units, pairs: true }) => {
            let room = Room::of(Encoding::Gsm7, shift, ReferenceSize::Bits8);
            let costs = text
                .chars()
                .map(|character| code_of(character).map_or(0, Code::septets));
            Segmentation {
                encoding: Encoding::Gsm7,
                segments: parts_of(costs, units, room),
                units,
            }
        }
        None => measure_ucs2(text),
    }
}

/// As `measure`, under national shift tables: for a provider and a route that are known to carry
/// them.
///
/// The header elements count even where the plain alphabet would do: compare with `measure` and
/// take the cheaper. A text the tables cannot carry is counted as UCS-2, which needs no elements.
#[must_use]
pub fn measure_with_shift(text: &str, shift: NationalShift) -> Segmentation {
    if shift == NationalShift::NONE {
        return measure(text);
    }
    let Some(units) = shifted_units(text, shift) else {
        return measure_ucs2(text);
    };
    let room = Room::of(Encoding::Gsm7, shift, ReferenceSize::Bits8);
    let costs = text
        .chars()
        .map(|character| shift.code_of(character).map_or(0, Code::septets));
    Segmentation {
        encoding: Encoding::Gsm7,
        segments: parts_of(costs, units, room),
        units,
    }
}

/// The distinct characters, in order of appearance, that keep the text out of GSM-7 and so force
/// UCS-2.
#[must_use]
pub fn costly_characters(text: &str) -> Vec<char> {
    let mut seen = BTreeSet::new();
    text.chars()
        .filter(|&character| code_of(character).is_none() && seen.insert(character))
        .collect()
}

/// Whether the default alphabet and its extension table carry the text.
pub(super) fn is_gsm(text: &str) -> bool {
    gsm_count(text).is_some()
}

/// Septets of a text under shift tables, or `None` where they cannot carry it.
pub(super) fn shifted_units(text: &str, shift: NationalShift) -> Option<u32> {
    text.chars().try_fold(0_u32, |units, character| {
        shift
            .code_of(character)
            .map(|code| units.saturating_add(code.septets()))
    })
}

struct Count {
    /// Septets, or UTF-16 units.
    units: u32,
    /// Whether some character costs two, so that parts may stay one short.
    pairs: bool,
}

fn gsm_count(text: &str) -> Option<Count> {
    let mut units = 0_usize;
    let mut pairs = false;
    let mut rest = text;
    while !rest.is_empty() {
        // The prefix is ASCII, so it ends on a character border.
        let plain_bytes = plain_prefix(rest.as_bytes());
        units += plain_bytes;
        rest = &rest[plain_bytes..];
        let mut characters = rest.chars();
        for character in characters.by_ref().take(CHUNK_BYTES) {
            match code_of(character)? {
                Code::Plain(_) => units += 1,
                Code::Escaped(_) => {
                    units += 2;
                    pairs = true;
                }
            }
        }
        rest = characters.as_str();
    }
    Some(Count {
        units: clamp(units),
        pairs,
    })
}

/// Bytes, in whole chunks, that are all characters of one septet each.
fn plain_prefix(bytes: &[u8]) -> usize {
    let (chunks, _) = bytes.as_chunks::<CHUNK_BYTES>();
    // Arithmetic and no branch inside a chunk, so that it stays a few vector comparisons.
    let is_plain_chunk =
        |chunk: &[u8; CHUNK_BYTES]| chunk.iter().fold(1, |all, &byte| all & plainness(byte)) == 1;
    CHUNK_BYTES
        * chunks
            .iter()
            .take_while(|chunk| is_plain_chunk(chunk))
            .count()
}

/// 1 for ASCII of the default alphabet, which is all printables but the grave accent and the eight
/// of the extension table, and LF and CR; else 0.
const fn plainness(byte: u8) -> u8 {
    (byte.wrapping_sub(b' ') <= b'Z' - b' ') as u8
        | (byte.wrapping_sub(b'a') <= b'z' - b'a') as u8
        | (byte == b'_') as u8
        | (byte == b'\n') as u8
        | (byte == b'\r') as u8
}

fn measure_ucs2(text: &str) -> Segmentation {
    let characters = text.chars().count();
    // A four-byte sequence is a code point above U+FFFF: a surrogate pair.
    let pairs = text.bytes().filter(|&byte| byte >= 0xF0).count();
    let units = clamp(characters + pairs);
    if pairs == 0 {
        return even_parts(Encoding::Ucs2, units);
    }
    let room = Room::of(Encoding::Ucs2, NationalShift::NONE, ReferenceSize::Bits8);
    let costs = text
        .chars()
        .map(|character| if character > '\u{FFFF}' { 2 } else { 1 });
    Segmentation {
        encoding: Encoding::Ucs2,
        segments: parts_of(costs, units, room),
        units,
    }
}

/// Every character costs one, so every part but the last is full.
fn even_parts(encoding: Encoding, units: u32) -> Segmentation {
    let room = Room::of(encoding, NationalShift::NONE, ReferenceSize::Bits8);
    let segments = if units <= room.one {
        1
    } else {
        units.div_ceil(room.several)
    };
    Segmentation {
        encoding,
        segments,
        units,
    }
}

/// Fills parts in order; a pair that would straddle begins the next part.
fn parts_of(costs: impl Iterator<Item = u32>, units: u32, room: Room) -> u32 {
    if units <= room.one {
        return 1;
    }
    let mut parts = 1_u32;
    let mut used = 0;
    for cost in costs {
        if used + cost > room.several {
            parts += 1;
            used = 0;
        }
        used += cost;
    }
    parts
}

/// Counts are 32 bits; a text of 4 GiB never gets here, its request is refused long before.
fn clamp(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
