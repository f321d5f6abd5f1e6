//! Reads phone numbers: strict North American ones to send between, and any address an inbound
//! message may come from.
//!
//! It does not say whether a number is in service, mobile or whose it is: only a look-up can. It
//! keeps no text: a number is its digits as an integer, 8 bytes.
//!
//! Invariants: a `Phone` is always `1NXXNXXXXXX` and sendable by form; `Display` gives E.164 that
//! parses back to the same value; `Debug` and `masked` show the last four digits only, so that a
//! log line cannot leak one.

use std::fmt;

/// `+1` and ten digits.
const NANP_BYTES: usize = 12;
/// E.164 allows 15 digits, country code included.
const E164_DIGITS_MAX: usize = 15;
/// The shortest full international numbers in use have 7 digits (small islands: country code of 3,
/// number of 4).
const E164_DIGITS_MIN: usize = 7;
/// Short codes: 5 or 6 digits in North America, 3 to 8 elsewhere.
const SHORT_CODE_DIGITS_MIN: usize = 3;
const SHORT_CODE_DIGITS_MAX: usize = 8;

/// A North American number that may send and be sent to, as its eleven digits: `12025550123`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Phone(u64);

impl Phone {
    /// The digits as an integer, `1` first: what stores and tables keep.
    #[must_use]
    pub const fn digits(self) -> u64 {
        self.0
    }

    /// The number of an integer that `digits` gave.
    ///
    /// # Errors
    /// As `parse_nanp`: what a store hands back is checked like what a caller writes.
    pub const fn from_digits(digits: u64) -> Result<Self, PhoneError> {
        if digits < 10_000_000_000 {
            return Err(PhoneError::TooShort);
        }
        if digits >= 1_000_000_000_000_000 {
            return Err(PhoneError::TooLong);
        }
        if digits / 10_000_000_000 != 1 {
            return Err(PhoneError::NotNorthAmerican);
        }
        let area_code = digits / 10_000_000 % 1000;
        let exchange = digits / 10_000 % 1000;
        match refusal(area_code, exchange) {
            Some(error) => Err(error),
            None => Ok(Self(digits)),
        }
    }

    /// The area code, 201 to 989.
    #[must_use]
    pub const fn area_code(self) -> u64 {
        self.0 / 10_000_000 % 1000
    }

    /// The last four digits behind stars, for logs: `+1******0123`.
    #[must_use]
    pub fn masked(self) -> String {
        format!("+1******{:04}", self.0 % 10_000)
    }
}

impl fmt::Display for Phone {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "+{}", self.0)
    }
}

impl fmt::Debug for Phone {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Phone({})", self.masked())
    }
}

/// Why a number was refused. The list is closed; the numbers are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PhoneError {
    /// Nothing was given.
    Empty = 1,
    /// No plus sign in front.
    MissingPlus = 2,
    /// Something other than digits after the plus sign.
    NotDigits = 3,
    /// Too few digits.
    TooShort = 4,
    /// Too many digits.
    TooLong = 5,
    /// The country code is not 1.
    NotNorthAmerican = 6,
    /// The area code begins with 0 or 1.
    AreaCodeForm = 7,
    /// The area code is N11, a service code.
    AreaCodeService = 8,
    /// The area code has 9 in the middle: held until numbers grow longer.
    AreaCodeExpansion = 9,
    /// The area code is 37X, 96X or 822: set aside, never assigned.
    AreaCodeReserved = 10,
    /// The area code is 900: the caller pays a premium.
    AreaCodePremium = 11,
    /// The area code is 710: United States government, emergencies.
    AreaCodeGovernment = 12,
    /// The area code is 5XX personal or a non-geographic one of Canada or of the long-distance
    /// carriers.
    AreaCodeNonGeographic = 13,
    /// The exchange begins with 0 or 1.
    ExchangeForm = 14,
    /// The exchange is N11, a service code.
    ExchangeService = 15,
    /// A country code or a short code cannot begin with 0.
    LeadingZero = 16,
}

impl PhoneError {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 16] = [
        Self::Empty,
        Self::MissingPlus,
        Self::NotDigits,
        Self::TooShort,
        Self::TooLong,
        Self::NotNorthAmerican,
        Self::AreaCodeForm,
        Self::AreaCodeService,
        Self::AreaCodeExpansion,
        Self::AreaCodeReserved,
        Self::AreaCodePremium,
        Self::AreaCodeGovernment,
        Self::AreaCodeNonGeographic,
        Self::ExchangeForm,
        Self::ExchangeService,
        Self::LeadingZero,
    ];

    /// The stable number of the reason.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// What is wrong and what to do; never the number itself.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::Empty => "the number is empty: give it as +1 and ten digits",
            Self::MissingPlus => "the number has no plus sign: write +1 and ten digits",
            Self::NotDigits => {
                "only digits may follow the plus sign: remove blanks, brackets, dashes and letters"
            }
            Self::TooShort => "the number has too few digits: write it in full, country code first",
            Self::TooLong => {
                "the number has too many digits: write +1 and ten digits, without an extension"
            }
            Self::NotNorthAmerican => {
                "the country code is not 1: only North American numbers can be used here"
            }
            Self::AreaCodeForm => "an area code begins with 2 to 9: check the number",
            Self::AreaCodeService => {
                "the area code is a service code such as 911: check the number"
            }
            Self::AreaCodeExpansion => {
                "area codes with 9 in the middle are not in use: check the number"
            }
            Self::AreaCodeReserved => "area codes 37X, 96X and 822 are set aside: check the number",
            Self::AreaCodePremium => {
                "900 numbers charge a premium and take no messages: use another number"
            }
            Self::AreaCodeGovernment => {
                "710 is kept for government emergency calls: use another number"
            }
            Self::AreaCodeNonGeographic => {
                "5XX, 600, 622, 633 and 700 numbers are not people's phones: use a geographic or toll-free one"
            }
            Self::ExchangeForm => {
                "the three digits after the area code begin with 2 to 9: check the number"
            }
            Self::ExchangeService => {
                "the three digits after the area code are a service code: check the number"
            }
            Self::LeadingZero => {
                "an address does not begin with 0: write the country code or the short code"
            }
        }
    }
}

impl fmt::Display for PhoneError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.message())
    }
}

impl std::error::Error for PhoneError {}

/// Reads `+1NXXNXXXXXX`, the one form accepted for senders and recipients alike.
///
/// Toll-free codes and the fictitious numbers 555-0100 to 555-0199 of any area code pass. Whether
/// +1 means the United States, whether the area code is assigned yet and whether the number can be
/// reached is not decided here: overlays open every year.
///
/// # Errors
/// The first reason found, reading from left to right.
pub fn parse_nanp(text: &str) -> Result<Phone, PhoneError> {
    let digits = international_digits(text)?;
    if !digits.starts_with('1') {
        return Err(PhoneError::NotNorthAmerican);
    }
    match text.len() {
        ..NANP_BYTES => Err(PhoneError::TooShort),
        NANP_BYTES => Phone::from_digits(value_of(digits)),
        _ => Err(PhoneError::TooLong),
    }
}

/// What kind of address an inbound message came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum AddressKind {
    /// A full international number, of any country.
    International = 1,
    /// A short code.
    ShortCode = 2,
}

/// The sender of an inbound message: its kind, and its digits as an integer. Neither begins with 0,
/// so no digit is lost.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InboundAddress {
    kind: AddressKind,
    digits: u64,
}

impl InboundAddress {
    /// Its kind.
    #[must_use]
    pub const fn kind(self) -> AddressKind {
        self.kind
    }

    /// Its digits as an integer, country code first.
    #[must_use]
    pub const fn digits(self) -> u64 {
        self.digits
    }

    /// The last four digits behind stars, for logs; of a short code, which names no person, all of
    /// them.
    #[must_use]
    pub fn masked(self) -> String {
        match self.kind {
            AddressKind::International => format!("+******{:04}", self.digits % 10_000),
            AddressKind::ShortCode => self.digits.to_string(),
        }
    }
}

impl fmt::Display for InboundAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            AddressKind::International => write!(formatter, "+{}", self.digits),
            AddressKind::ShortCode => write!(formatter, "{}", self.digits),
        }
    }
}

impl fmt::Debug for InboundAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "InboundAddress({})", self.masked())
    }
}

/// Reads the sender of an inbound message: `+` and 7 to 15 digits of any country, or a short code
/// of 3 to 8 digits.
///
/// Laxer than `parse_nanp` on purpose: whoever could reach us may also tell us to stop.
///
/// # Errors
/// `Empty`, `NotDigits`, `LeadingZero`, `TooShort`, `TooLong`; `MissingPlus` for bare digits longer
/// than a short code.
pub fn parse_inbound_address(text: &str) -> Result<InboundAddress, PhoneError> {
    let (kind, digits) = if text.starts_with('+') {
        (AddressKind::International, international_digits(text)?)
    } else {
        (AddressKind::ShortCode, short_code_digits(text)?)
    };
    if digits.starts_with('0') {
        return Err(PhoneError::LeadingZero);
    }
    let digits_min = match kind {
        AddressKind::International => E164_DIGITS_MIN,
        AddressKind::ShortCode => SHORT_CODE_DIGITS_MIN,
    };
    if digits.len() < digits_min {
        return Err(PhoneError::TooShort);
    }
    Ok(InboundAddress {
        kind,
        digits: value_of(digits),
    })
}

/// The 1 to 15 digits after the plus sign.
fn international_digits(text: &str) -> Result<&str, PhoneError> {
    if text.is_empty() {
        return Err(PhoneError::Empty);
    }
    let digits = text.strip_prefix('+').ok_or(PhoneError::MissingPlus)?;
    // Before the digits are read: an endless text costs nothing.
    if digits.len() > E164_DIGITS_MAX
        && digits.as_bytes()[..E164_DIGITS_MAX]
            .iter()
            .all(u8::is_ascii_digit)
    {
        return Err(PhoneError::TooLong);
    }
    if digits.is_empty() {
        return Err(PhoneError::TooShort);
    }
    if digits.bytes().all(|byte| byte.is_ascii_digit()) {
        Ok(digits)
    } else {
        Err(PhoneError::NotDigits)
    }
}

/// The 1 to 8 digits of a short code.
fn short_code_digits(text: &str) -> Result<&str, PhoneError> {
    if text.is_empty() {
        return Err(PhoneError::Empty);
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(PhoneError::NotDigits);
    }
    if text.len() > E164_DIGITS_MAX {
        return Err(PhoneError::TooLong);
    }
    if text.len() > SHORT_CODE_DIGITS_MAX {
        return Err(PhoneError::MissingPlus);
    }
    Ok(text)
}

/// At most 15 ASCII digits, below 2^50.
fn value_of(digits: &str) -> u64 {
    digits
        .bytes()
        .fold(0, |value, byte| 10 * value + u64::from(byte - b'0'))
}

/// Why no message goes to or from a number of this area code and exchange (each 0 to 999), if so.
const fn refusal(area_code: u64, exchange: u64) -> Option<PhoneError> {
    if let Some(error) = area_code_refusal(area_code) {
        return Some(error);
    }
    if exchange < 200 {
        return Some(PhoneError::ExchangeForm);
    }
    // The bar on N11 is for geographic codes; 911 is barred in any.
    if exchange % 100 == 11 && (exchange == 911 || !is_toll_free(area_code)) {
        return Some(PhoneError::ExchangeService);
    }
    None
}

/// Barred beside what the numbering plan leaves unused: premium numbers, which no one may be made
/// to pay for, and the personal (5XX listed) and non-geographic codes. Those are no area codes of
/// people: they forward calls or stand for a service, have no time zone to keep quiet hours by, and
/// no campaign can own one as its sender.
const fn area_code_refusal(area_code: u64) -> Option<PhoneError> {
    match area_code {
        ..200 => Some(PhoneError::AreaCodeForm),
        900 => Some(PhoneError::AreaCodePremium),
        710 => Some(PhoneError::AreaCodeGovernment),
        370..=379 | 960..=969 | 822 => Some(PhoneError::AreaCodeReserved),
        500 | 521..=529 | 532 | 533 | 544 | 566 | 577 | 588 | 600 | 622 | 633 | 700 => {
            Some(PhoneError::AreaCodeNonGeographic)
        }
        _ if area_code % 100 == 11 => Some(PhoneError::AreaCodeService),
        _ if area_code / 10 % 10 == 9 => Some(PhoneError::AreaCodeExpansion),
        _ => None,
    }
}

const fn is_toll_free(area_code: u64) -> bool {
    matches!(area_code, 800 | 833 | 844 | 855 | 866 | 877 | 888)
}
