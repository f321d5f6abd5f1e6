//! National language shift: which tables a message names, and where a character sits in them (3GPP
//! TS 23.038, 6.2.1.2).
//!
//! It never picks a language by itself: a shift is used for decoding when the header names it, and
//! for encoding only when the caller passes it, because it needs a carrier and a handset that know
//! it.

use super::TextError;
use super::alphabet::{Code, DEFAULT, ESC, EXTENSION, NONE, code_of};
use super::national_tables;

/// Octets of one shift element in the header: identifier, length, language.
const SHIFT_ELEMENT_OCTETS: usize = 3;

/// A national language identifier; the number is the one of the header element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Language {
    /// Turkish.
    Turkish = 1,
    /// Spanish: single shift only.
    Spanish = 2,
    /// Portuguese.
    Portuguese = 3,
    /// Bengali and Assamese.
    Bengali = 4,
    /// Gujarati.
    Gujarati = 5,
    /// Hindi.
    Hindi = 6,
    /// Kannada.
    Kannada = 7,
    /// Malayalam.
    Malayalam = 8,
    /// Oriya.
    Oriya = 9,
    /// Punjabi.
    Punjabi = 10,
    /// Tamil.
    Tamil = 11,
    /// Telugu.
    Telugu = 12,
    /// Urdu.
    Urdu = 13,
}

impl Language {
    /// Every language, in the order of their identifiers.
    pub const ALL: [Self; 13] = [
        Self::Turkish,
        Self::Spanish,
        Self::Portuguese,
        Self::Bengali,
        Self::Gujarati,
        Self::Hindi,
        Self::Kannada,
        Self::Malayalam,
        Self::Oriya,
        Self::Punjabi,
        Self::Tamil,
        Self::Telugu,
        Self::Urdu,
    ];

    /// The language of an identifier; `None` for the default alphabet (0) and reserved values.
    #[must_use]
    pub fn from_id(id: u8) -> Option<Self> {
        Self::ALL.get(usize::from(id).checked_sub(1)?).copied()
    }

    /// The identifier in the header element.
    #[must_use]
    pub const fn id(self) -> u8 {
        self as u8
    }
}

/// The tables in force beside, or in place of, the default alphabet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct NationalShift {
    locking: Option<Language>,
    single: Option<Language>,
}

impl NationalShift {
    /// The default alphabet and its extension table.
    pub const NONE: Self = Self {
        locking: None,
        single: None,
    };

    /// A locking table in place of the default alphabet, a single shift table in place of the
    /// extension table.
    ///
    /// # Errors
    /// `NoLockingTable` for Spanish as locking shift.
    pub const fn new(
        locking: Option<Language>,
        single: Option<Language>,
    ) -> Result<Self, TextError> {
        match locking {
            Some(language) if national_tables::locking(language).is_none() => {
                Err(TextError::NoLockingTable { language })
            }
            _ => Ok(Self { locking, single }),
        }
    }

    /// The language of the locking table.
    #[must_use]
    pub const fn locking(self) -> Option<Language> {
        self.locking
    }

    /// The language of the single shift table.
    #[must_use]
    pub const fn single(self) -> Option<Language> {
        self.single
    }

    /// Octets its elements take in the header, without the header's length octet: 0, 3 or 6.
    #[must_use]
    pub fn element_octets(self) -> usize {
        SHIFT_ELEMENT_OCTETS
            * (usize::from(self.locking.is_some()) + usize::from(self.single.is_some()))
    }

    fn locking_table(self) -> &'static [char; 128] {
        self.locking
            .and_then(national_tables::locking)
            .unwrap_or(&DEFAULT)
    }

    fn single_table(self) -> &'static [(u8, char)] {
        self.single.map_or(&EXTENSION, national_tables::single)
    }

    /// The place of a character in these tables, the shorter code first. A table scan when a shift
    /// is in force.
    pub(super) fn code_of(self, character: char) -> Option<Code> {
        if self == Self::NONE {
            return code_of(character);
        }
        if character == ESC || character == NONE {
            return None;
        }
        let plain = self
            .locking_table()
            .iter()
            .zip(0_u8..)
            .find(|&(&member, _)| member == character);
        if let Some((_, code)) = plain {
            return Some(Code::Plain(code));
        }
        let escaped = self
            .single_table()
            .iter()
            .find(|&&(_, member)| member == character);
        escaped.map(|&(code, _)| Code::Escaped(code))
    }

    /// What a septet shows; `None` for an unassigned cell, the escape and values above 0x7F.
    pub(super) fn character_of(self, septet: u8) -> Option<char> {
        let character = *self.locking_table().get(usize::from(septet))?;
        (character != ESC && character != NONE).then_some(character)
    }

    /// What the second septet of an escape pair shows; `None` where the table has no entry.
    pub(super) fn escaped_character_of(self, septet: u8) -> Option<char> {
        let table = self.single_table();
        table
            .binary_search_by_key(&septet, |&(code, _)| code)
            .ok()
            .map(|row| table[row].1)
    }
}
