//! The GSM 7-bit default alphabet and its extension table, both ways (3GPP TS 23.038, 6.2.1 and
//! 6.2.1.1).
//!
//! It knows nothing of national shift tables. Code 0x09 is the capital Ç of the standard; the small
//! one is no member.

/// The code that announces the second septet of a pair.
pub(super) const ESCAPE: u8 = 0x1B;
/// Stands in the tables where `ESCAPE` sits; never the code of a character of a text.
pub(super) const ESC: char = '\u{1B}';
/// An unassigned cell of a table; a noncharacter, and never the code of a character of a text.
pub(super) const NONE: char = '\u{FFFF}';

/// A character's place in an alphabet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    /// One septet.
    Plain(u8),
    /// `ESCAPE`, then this septet.
    Escaped(u8),
}

impl Code {
    /// Septets it takes.
    pub(super) const fn septets(self) -> u32 {
        match self {
            Self::Plain(_) => 1,
            Self::Escaped(_) => 2,
        }
    }
}

/// The default alphabet, indexed by code.
#[rustfmt::skip]
pub(super) const DEFAULT: [char; 128] = [
    '@', '£', '$', '¥', 'è', 'é', 'ù', 'ì',
    'ò', 'Ç', '\n', 'Ø', 'ø', '\r', 'Å', 'å',
    'Δ', '_', 'Φ', 'Γ', 'Λ', 'Ω', 'Π', 'Ψ',
    'Σ', 'Θ', 'Ξ', ESC, 'Æ', 'æ', 'ß', 'É',
    ' ', '!', '"', '#', '¤', '%', '&', '\'',
    '(', ')', '*', '+', ',', '-', '.', '/',
    '0', '1', '2', '3', '4', '5', '6', '7',
    '8', '9', ':', ';', '<', '=', '>', '?',
    '¡', 'A', 'B', 'C', 'D', 'E', 'F', 'G',
    'H', 'I', 'J', 'K', 'L', 'M', 'N', 'O',
    'P', 'Q', 'R', 'S', 'T', 'U', 'V', 'W',
    'X', 'Y', 'Z', 'Ä', 'Ö', 'Ñ', 'Ü', '§',
    '¿', 'a', 'b', 'c', 'd', 'e', 'f', 'g',
    'h', 'i', 'j', 'k', 'l', 'm', 'n', 'o',
    'p', 'q', 'r', 's', 't', 'u', 'v', 'w',
    'x', 'y', 'z', 'ä', 'ö', 'ñ', 'ü', 'à',
];

/// The extension table: codes after `ESCAPE`, ascending.
#[rustfmt::skip]
pub(super) const EXTENSION: [(u8, char); 10] = [
    (0x0A, '\u{C}'), (0x14, '^'), (0x28, '{'), (0x29, '}'), (0x2F, '\\'), (0x3C, '['), (0x3D, '~'),
    (0x3E, ']'), (0x40, '|'), (0x65, '€'),
];

/// First code point above every member but the euro sign.
const REVERSE_END: usize = 0x400;
const EURO: char = '€';
const EURO_CODE: u8 = 0x65;
/// No member: an escaped code is at most 0x80 | 0x65.
const ABSENT: u8 = 0xFF;
/// Set in the reverse table for a character of the extension table.
const ESCAPED: u8 = 0x80;

/// By code point: the code, with `ESCAPED` set for the extension table, or `ABSENT`. 1 KiB, so it
/// stays in the cache.
static REVERSE: [u8; REVERSE_END] = reverse();

const fn reverse() -> [u8; REVERSE_END] {
    let mut table = [ABSENT; REVERSE_END];
    let mut code = 0_u8;
    while code < 128 {
        let character = DEFAULT[code as usize];
        if character != ESC {
            table[character as usize] = code;
        }
        code += 1;
    }
    let mut row = 0;
    while row < EXTENSION.len() {
        let (code, character) = EXTENSION[row];
        if character == EURO {
            assert!(
                code == EURO_CODE,
                "the euro sign is looked up apart from the table"
            );
        } else {
            table[character as usize] = ESCAPED | code;
        }
        row += 1;
    }
    table
}

/// The place of a character in the default alphabet and its extension table.
#[inline]
pub(super) fn code_of(character: char) -> Option<Code> {
    match REVERSE.get(character as usize) {
        Some(&ABSENT) => None,
        Some(&code) if code & ESCAPED == 0 => Some(Code::Plain(code)),
        Some(&code) => Some(Code::Escaped(code & !ESCAPED)),
        None if character == EURO => Some(Code::Escaped(EURO_CODE)),
        None => None,
    }
}
