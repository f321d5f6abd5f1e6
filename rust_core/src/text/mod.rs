//! How SMS text is counted, split, replaced and turned into octets (3GPP TS 23.038, TS 23.040).
//!
//! It never normalises, truncates or substitutes on its own: what an alphabet cannot carry changes
//! the encoding of the whole message or is refused.
//!
//! Invariants:
//! - all parts have one encoding: GSM-7 if every character is in the alphabet, else UCS-2;
//! - an escape pair (2 septets) and a surrogate pair (2 units) never straddle two parts;
//! - `measure(text)` gives the sum and the number of `split(text, ReferenceSize::Bits8)`.
//!
//! Text arrives as `&str`, so a lone surrogate cannot: it is refused where bytes become text.

mod alphabet;
mod header;
mod keyword;
mod measure;
mod national;
mod national_tables;
mod septets;
mod smart;
mod split;

use std::fmt;

pub use header::{Concatenation, Reference, UserDataHeader, fill_bits, part_room};
pub use keyword::{OptKeyword, opt_keyword};
pub use measure::{costly_characters, measure, measure_with_shift};
pub use national::{Language, NationalShift};
pub use septets::{decode_septets, encode_septets, pack, unpack};
pub use smart::{SmartTable, smart_encode};
pub use split::{Part, split, split_with_shift};

/// Parts one message may have: the concatenation element counts them in one octet, whichever
/// reference it carries.
pub const PARTS_MAX: u32 = 255;

/// The encoding of a whole message; the numbers are stable on the wire and in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Encoding {
    /// Seven bits a character, 160 to a part.
    Gsm7 = 1,
    /// UTF-16, two octets a unit, 70 to a part.
    Ucs2 = 2,
}

impl Encoding {
    /// The name carriers use: `GSM-7` or `UCS-2`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gsm7 => "GSM-7",
            Self::Ucs2 => "UCS-2",
        }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// How wide the reference number is that ties the parts of one message together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReferenceSize {
    /// One octet: a header of 6 octets, parts of 153 septets or 67 units.
    Bits8,
    /// Two octets: a header of 7 octets, parts of 152 septets or 66 units.
    Bits16,
}

/// What a text costs on the air.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Segmentation {
    /// The encoding of every part.
    pub encoding: Encoding,
    /// Parts, at least 1; an empty text counts as one. May pass `PARTS_MAX`: then `split` refuses.
    pub segments: u32,
    /// Septets with their escapes, or UTF-16 units; headers are not counted.
    pub units: u32,
}

/// Why a text, an octet string or a header was refused. The list is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextError {
    /// The text needs more parts than the concatenation element can count.
    TooManyParts {
        /// Parts the text would need.
        parts: u32,
    },
    /// The alphabet in force has no code for this character.
    NotInAlphabet {
        /// The first such character.
        character: char,
        /// Where it begins in the text, in bytes.
        byte_offset: usize,
    },
    /// A septet above 0x7F.
    NotASeptet {
        /// The value found.
        value: u8,
        /// Its place among the septets.
        index: usize,
    },
    /// Fill bits bring a header to a septet border, so there are 0 to 6 of them.
    FillBits {
        /// The number asked for.
        fill_bits: u8,
    },
    /// Fewer octets than the fill bits and septets need.
    TooFewOctets {
        /// Octets needed.
        needed_octets: usize,
        /// Octets given.
        given_octets: usize,
    },
    /// The language has a single shift table only.
    NoLockingTable {
        /// The language asked for.
        language: Language,
    },
    /// A part number of 0, or above the total.
    PartNumber {
        /// The part's number, from 1.
        sequence: u8,
        /// Parts of the message.
        total: u8,
    },
    /// A user data header whose lengths do not add up.
    HeaderCutShort,
}

impl fmt::Display for TextError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooManyParts { parts } => {
                write!(
                    formatter,
                    "the text needs {parts} parts, at most {PARTS_MAX} can be sent: shorten it"
                )
            }
            Self::NotInAlphabet {
                character,
                byte_offset,
            } => write!(
                formatter,
                "U+{:04X} at byte {byte_offset} is not in the GSM-7 alphabet in force: send as UCS-2 or replace it",
                u32::from(character)
            ),
            Self::NotASeptet { value, index } => {
                write!(formatter, "septet {index} is 0x{value:02X}, above 0x7F")
            }
            Self::FillBits { fill_bits } => {
                write!(formatter, "{fill_bits} fill bits: there are 0 to 6")
            }
            Self::TooFewOctets {
                needed_octets,
                given_octets,
            } => {
                write!(
                    formatter,
                    "{needed_octets} octets are needed, {given_octets} were given"
                )
            }
            Self::NoLockingTable { language } => {
                write!(
                    formatter,
                    "{language:?} has no locking shift table: use it as single shift only"
                )
            }
            Self::PartNumber { sequence, total } => {
                write!(
                    formatter,
                    "part {sequence} of {total}: parts are numbered from 1 to their total"
                )
            }
            Self::HeaderCutShort => formatter
                .write_str("the user data header is cut short: a length in it points past its end"),
        }
    }
}

impl std::error::Error for TextError {}
