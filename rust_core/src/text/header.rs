//! The user data header that ties parts together and names shift tables (3GPP TS 23.040, 9.2.3.24).
//!
//! It does not hold the text. Layout: length octet, then elements of identifier, length, data:
//! - `00 03 rr tt ss`: concatenation by an 8-bit reference, total, sequence;
//! - `08 04 rr rr tt ss`: the same by a 16-bit reference;
//! - `24 01 ll` single shift, `25 01 ll` locking shift, by language identifier.

use super::{Encoding, Language, NationalShift, ReferenceSize, TextError};

/// Octets of user data in one part, header included.
const USER_DATA_OCTETS: usize = 140;
const CONCATENATION_8: u8 = 0x00;
const CONCATENATION_16: u8 = 0x08;
const SINGLE_SHIFT: u8 = 0x24;
const LOCKING_SHIFT: u8 = 0x25;

/// The number all parts of one message share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reference {
    /// In one octet.
    Bits8(u8),
    /// In two octets, high one first.
    Bits16(u16),
}

impl ReferenceSize {
    /// Octets of the concatenation element: 5 or 6.
    #[must_use]
    pub const fn element_octets(self) -> usize {
        match self {
            Self::Bits8 => 5,
            Self::Bits16 => 6,
        }
    }
}

/// One part's place in its message; `1 <= sequence <= total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Concatenation {
    reference: Reference,
    total: u8,
    sequence: u8,
}

impl Concatenation {
    /// The place of part `sequence` (from 1) among `total`.
    ///
    /// # Errors
    /// `PartNumber` if the sequence is 0 or above the total.
    pub const fn new(reference: Reference, total: u8, sequence: u8) -> Result<Self, TextError> {
        if sequence == 0 || sequence > total {
            return Err(TextError::PartNumber { sequence, total });
        }
        Ok(Self {
            reference,
            total,
            sequence,
        })
    }

    /// The number all parts share.
    #[must_use]
    pub const fn reference(self) -> Reference {
        self.reference
    }

    /// Parts of the message.
    #[must_use]
    pub const fn total(self) -> u8 {
        self.total
    }

    /// This part's number, from 1.
    #[must_use]
    pub const fn sequence(self) -> u8 {
        self.sequence
    }
}

/// What stands before the text of a part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct UserDataHeader {
    /// The part's place, where the message has several.
    pub concatenation: Option<Concatenation>,
    /// The tables its septets are read with.
    pub shift: NationalShift,
}

impl UserDataHeader {
    /// Its octets, length octet first; none where it says nothing.
    #[must_use]
    pub fn octets(&self) -> Vec<u8> {
        let mut elements = Vec::new();
        if let Some(Concatenation {
            reference,
            total,
            sequence,
        }) = self.concatenation
        {
            match reference {
                Reference::Bits8(number) => {
                    elements.extend([CONCATENATION_8, 3, number, total, sequence]);
                }
                Reference::Bits16(number) => {
                    let [high, low] = number.to_be_bytes();
                    elements.extend([CONCATENATION_16, 4, high, low, total, sequence]);
                }
            }
        }
        if let Some(language) = self.shift.single() {
            elements.extend([SINGLE_SHIFT, 1, language.id()]);
        }
        if let Some(language) = self.shift.locking() {
            elements.extend([LOCKING_SHIFT, 1, language.id()]);
        }
        // 6 + 3 + 3 octets at most, so the length fits its octet.
        if let Ok(length @ 1..) = u8::try_from(elements.len()) {
            elements.insert(0, length);
        }
        elements
    }

    /// Reads the header at the start of a part's user data; gives it with the octets it took.
    ///
    /// As receivers must, it skips unknown elements, reserved languages and part numbers outside
    /// `1..=total`; of an element that comes twice the last counts.
    ///
    /// # Errors
    /// `HeaderCutShort` if a length points past the end.
    pub fn parse(user_data: &[u8]) -> Result<(Self, usize), TextError> {
        let (&length, rest) = user_data.split_first().ok_or(TextError::HeaderCutShort)?;
        let mut elements = rest
            .get(..usize::from(length))
            .ok_or(TextError::HeaderCutShort)?;
        let mut concatenation = None;
        let mut locking = None;
        let mut single = None;
        while let [identifier, data_octets, tail @ ..] = elements {
            let (data, next) = tail
                .split_at_checked(usize::from(*data_octets))
                .ok_or(TextError::HeaderCutShort)?;
            match (*identifier, data) {
                (CONCATENATION_8, &[number, total, sequence]) => {
                    let place = Concatenation::new(Reference::Bits8(number), total, sequence);
                    concatenation = place.ok().or(concatenation);
                }
                (CONCATENATION_16, &[high, low, total, sequence]) => {
                    let number = u16::from_be_bytes([high, low]);
                    let place = Concatenation::new(Reference::Bits16(number), total, sequence);
                    concatenation = place.ok().or(concatenation);
                }
                (SINGLE_SHIFT, &[id]) => single = Language::from_id(id).or(single),
                (LOCKING_SHIFT, &[id]) => {
                    let language = Language::from_id(id)
                        .filter(|&l| NationalShift::new(Some(l), None).is_ok());
                    locking = language.or(locking);
                }
                _ => {}
            }
            elements = next;
        }
        if !elements.is_empty() {
            return Err(TextError::HeaderCutShort);
        }
        let shift = NationalShift::new(locking, single)?;
        Ok((
            Self {
                concatenation,
                shift,
            },
            1 + usize::from(length),
        ))
    }
}

/// Bits between a header of so many octets (length octet included) and the septet border after it:
/// 6 give 1, 7 give 0.
#[must_use]
pub const fn fill_bits(header_octets: usize) -> u8 {
    match 8 * (header_octets % 7) % 7 {
        0 => 0,
        // Below 7, so the cast keeps the value.
        #[allow(clippy::cast_possible_truncation)]
        over => 7 - over as u8,
    }
}

/// Septets or UTF-16 units that fit a part beside a header of so many octets (length octet
/// included).
///
/// 140 octets hold 160 septets or 70 units; beside 6 octets 153 or 67, beside 7 octets 152 or 66.
#[must_use]
pub fn part_room(encoding: Encoding, header_octets: usize) -> u32 {
    let octets = USER_DATA_OCTETS.saturating_sub(header_octets);
    let room = match encoding {
        Encoding::Gsm7 => octets * 8 / 7,
        Encoding::Ucs2 => octets / 2,
    };
    u32::try_from(room).unwrap_or(u32::MAX)
}
