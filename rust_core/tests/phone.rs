//! Phone numbers: the strict form for sending, the lax one for inbound senders.

use std::collections::BTreeSet;

use _core::phone::{
    AddressKind, InboundAddress, Phone, PhoneError, parse_inbound_address, parse_nanp,
};
use proptest::prelude::*;

#[test]
fn numbers_that_pass() {
    for text in [
        "+12025550123",
        "+12125550100",
        "+19175550199",
        "+14155550142",
        "+18005550123", // toll-free
        "+18335550123",
        "+18445550123",
        "+18555550123",
        "+18665550123",
        "+18775550123",
        "+18885550123",
        "+18004110123", // toll-free numbers use N11 exchanges
        "+15015550123", // geographic, though it begins with 5
        "+17295550123", // an overlay younger than most tables
        "+14165550123", // Canada
        "+18765550123", // Jamaica
        "+12022000000",
        "+19899999999",
    ] {
        let phone = parse_nanp(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(phone.to_string(), text);
    }
}

#[test]
fn numbers_that_are_refused() {
    use PhoneError::{
        AreaCodeExpansion, AreaCodeForm, AreaCodeGovernment, AreaCodeNonGeographic,
        AreaCodePremium, AreaCodeReserved, AreaCodeService, Empty, ExchangeForm, ExchangeService,
        LeadingZero, MissingPlus, NotDigits, NotNorthAmerican, TooLong, TooShort,
    };
    let cases = [
        ("", Empty),
        ("12025550123", MissingPlus),
        ("2025550123", MissingPlus),
        ("0012025550123", MissingPlus),
        (" +12025550123", MissingPlus),
        ("stop", MissingPlus),
        ("＋12025550123", MissingPlus),
        ("+1 202 555 0123", NotDigits),
        ("+1-202-555-0123", NotDigits),
        ("+1(202)5550123", NotDigits),
        ("+1202555012x", NotDigits),
        ("+12025550123\n", NotDigits),
        ("+12025550123\0", NotDigits),
        ("++2025550123", NotDigits),
        ("+１２０２５５５０１２３", NotDigits),
        ("+1202555٠١٢٣", NotDigits),
        ("+", TooShort),
        ("+1", TooShort),
        ("+1202555012", TooShort),
        ("+120255501234", TooLong),
        ("+1202555012345678", TooLong),
        ("+442071838750", NotNorthAmerican),
        ("+52555555550", NotNorthAmerican),
        ("+02025550123", NotNorthAmerican),
        ("+10025550123", AreaCodeForm),
        ("+11235550123", AreaCodeForm),
        ("+12115550123", AreaCodeService),
        ("+19115550123", AreaCodeService),
        ("+12905550123", AreaCodeExpansion),
        ("+15995550123", AreaCodeExpansion),
        ("+19905550123", AreaCodeExpansion),
        ("+13705550123", AreaCodeReserved),
        ("+13795550123", AreaCodeReserved),
        ("+19605550123", AreaCodeReserved),
        ("+19695550123", AreaCodeReserved),
        ("+18225550123", AreaCodeReserved),
        ("+19005550123", AreaCodePremium),
        ("+17105550123", AreaCodeGovernment),
        ("+15005550123", AreaCodeNonGeographic),
        ("+15215550123", AreaCodeNonGeographic),
        ("+15295550123", AreaCodeNonGeographic),
        ("+15325550123", AreaCodeNonGeographic),
        ("+15335550123", AreaCodeNonGeographic),
        ("+15445550123", AreaCodeNonGeographic),
        ("+15665550123", AreaCodeNonGeographic),
        ("+15775550123", AreaCodeNonGeographic),
        ("+15885550123", AreaCodeNonGeographic),
        ("+16005550123", AreaCodeNonGeographic),
        ("+16225550123", AreaCodeNonGeographic),
        ("+16335550123", AreaCodeNonGeographic),
        ("+17005550123", AreaCodeNonGeographic),
        ("+12020550123", ExchangeForm),
        ("+12021550123", ExchangeForm),
        ("+18001550123", ExchangeForm),
        ("+12022110123", ExchangeService),
        ("+12029110123", ExchangeService),
        ("+18009110123", ExchangeService),
    ];
    let mut provoked: BTreeSet<u8> = BTreeSet::new();
    for (text, error) in cases {
        assert_eq!(parse_nanp(text), Err(error), "{text:?}");
        provoked.insert(error.number());
    }
    assert_eq!(parse_inbound_address("+02025550123"), Err(LeadingZero));
    provoked.insert(LeadingZero.number());
    let all: BTreeSet<u8> = PhoneError::ALL.iter().map(|error| error.number()).collect();
    assert_eq!(provoked, all, "every reason is provoked above");
}

#[test]
fn reasons_are_numbered_and_say_what_to_do() {
    let numbers: Vec<u8> = PhoneError::ALL.iter().map(|error| error.number()).collect();
    assert_eq!(numbers, (1..=16).collect::<Vec<u8>>());
    let messages: BTreeSet<String> = PhoneError::ALL.iter().map(ToString::to_string).collect();
    assert_eq!(
        messages.len(),
        PhoneError::ALL.len(),
        "each has its own message"
    );
    for message in messages {
        assert!(
            message.contains(": "),
            "{message} names the fault, then the remedy"
        );
    }
}

#[test]
fn a_number_is_hidden_in_logs() {
    let phone = parse_nanp("+12025550103").expect("a number");
    assert_eq!(phone.masked(), "+1******0103");
    assert_eq!(format!("{phone:?}"), "Phone(+1******0103)");
    assert_eq!(phone.digits(), 12_025_550_103);
    assert_eq!(phone.area_code(), 202);
    let address = parse_inbound_address("+4420718387003").expect("an address");
    assert_eq!(format!("{address:?}"), "InboundAddress(+******7003)");
    assert_eq!(size_of::<Phone>(), 8);
}

#[test]
fn numbers_come_back_from_their_digits() {
    assert_eq!(
        Phone::from_digits(12_025_550_123).map(|p| p.to_string()),
        Ok("+12025550123".into())
    );
    for (digits, error) in [
        (0, PhoneError::TooShort),
        (2_025_550_123, PhoneError::TooShort),
        (22_025_550_123, PhoneError::NotNorthAmerican),
        (120_255_501_230, PhoneError::NotNorthAmerican),
        (u64::MAX, PhoneError::TooLong),
        (19_005_550_123, PhoneError::AreaCodePremium),
        (12_021_550_123, PhoneError::ExchangeForm),
    ] {
        assert_eq!(Phone::from_digits(digits), Err(error), "{digits}");
    }
}

#[test]
fn inbound_addresses() {
    let read = |text| parse_inbound_address(text).map(|a| (a.kind(), a.digits(), a.to_string()));
    let international =
        |text: &str, digits| Ok((AddressKind::International, digits, text.to_owned()));
    let short_code = |text: &str, digits| Ok((AddressKind::ShortCode, digits, text.to_owned()));
    assert_eq!(
        read("+12025550123"),
        international("+12025550123", 12_025_550_123)
    );
    assert_eq!(
        read("+442071838750"),
        international("+442071838750", 442_071_838_750)
    );
    assert_eq!(read("+6834000"), international("+6834000", 6_834_000));
    assert_eq!(
        read("+123456789012345"),
        international("+123456789012345", 123_456_789_012_345)
    );
    // Numbers we would not send to may still tell us to stop.
    assert_eq!(
        read("+19005550123"),
        international("+19005550123", 19_005_550_123)
    );
    assert_eq!(read("123"), short_code("123", 123));
    assert_eq!(read("40404"), short_code("40404", 40_404));
    assert_eq!(read("12345678"), short_code("12345678", 12_345_678));
    for (text, error) in [
        ("", PhoneError::Empty),
        ("12", PhoneError::TooShort),
        ("123456789", PhoneError::MissingPlus),
        ("12025550123", PhoneError::MissingPlus),
        ("1234567890123456", PhoneError::TooLong),
        ("+683400", PhoneError::TooShort),
        ("+", PhoneError::TooShort),
        ("+1234567890123456", PhoneError::TooLong),
        ("BANK", PhoneError::NotDigits),
        ("+1202555O123", PhoneError::NotDigits),
        ("404 04", PhoneError::NotDigits),
        ("01234", PhoneError::LeadingZero),
        ("+0442071838", PhoneError::LeadingZero),
    ] {
        assert_eq!(read(text), Err(error), "{text:?}");
    }
    let code = parse_inbound_address("40404").expect("a short code");
    assert_eq!(code.masked(), "40404");
}

/// The rule told anew, as a pattern over the digits.
fn has_strict_form(text: &str) -> bool {
    let bytes = text.as_bytes();
    let digit = |at: usize, least: u8| bytes[at].is_ascii_digit() && bytes[at] >= least;
    bytes.len() == 12
        && bytes.starts_with(b"+1")
        && (2..12).all(|at| digit(at, if at == 2 || at == 5 { b'2' } else { b'0' }))
}

fn round_trip(address: InboundAddress) -> Result<InboundAddress, PhoneError> {
    parse_inbound_address(&address.to_string())
}

proptest! {
    #[test]
    fn whatever_passes_has_the_strict_form_and_round_trips(text in "\\+1[2-9][0-9]{2}[2-9][0-9]{6}|\\+1[0-9]{10}|\\+[0-9]{1,17}") {
        if let Ok(phone) = parse_nanp(&text) {
            prop_assert!(has_strict_form(&text));
            prop_assert_eq!(phone.to_string(), text.clone());
            prop_assert_eq!(Phone::from_digits(phone.digits()), Ok(phone));
            let address = parse_inbound_address(&text).expect("the lax form holds the strict one");
            prop_assert_eq!(address.digits(), phone.digits());
            prop_assert!(phone.masked().ends_with(&text[8..]));
            prop_assert!(!phone.masked().contains(&text[2..8]));
        }
    }

    #[test]
    fn geographic_fiction_passes(area in 200..990_u64, line in 100..200_u64) {
        let barred = area % 100 == 11 || area / 10 % 10 == 9 || area / 10 == 37 || area / 10 == 96
            || [500, 532, 533, 544, 566, 577, 588, 600, 622, 633, 700, 710, 822, 900].contains(&area)
            || (521..=529).contains(&area);
        prop_assert_eq!(parse_nanp(&format!("+1{area}5550{line}")).is_ok(), !barred);
    }

    #[test]
    fn order_is_the_order_of_digits(left in 0..10_000_000_u64, right in 0..10_000_000_u64) {
        let phone = |rest: u64| Phone::from_digits(12_020_000_000 + rest);
        if let (Ok(first), Ok(second)) = (phone(left), phone(right)) {
            prop_assert_eq!(first.cmp(&second), left.cmp(&right));
        }
    }

    #[test]
    fn inbound_addresses_round_trip(text in "\\+?[0-9]{1,17}") {
        if let Ok(address) = parse_inbound_address(&text) {
            prop_assert_eq!(address.to_string(), text);
            prop_assert_eq!(round_trip(address), Ok(address));
        }
    }

    #[test]
    fn no_text_and_no_number_makes_it_panic(text in any::<String>(), digits in any::<u64>()) {
        prop_assert!(parse_nanp(&text).is_err() || has_strict_form(&text));
        let marked = format!("+{text}");
        prop_assert!(parse_nanp(&marked).is_err() || has_strict_form(&marked));
        if let Ok(address) = parse_inbound_address(&text) {
            prop_assert_eq!(round_trip(address), Ok(address));
        }
        if let Ok(phone) = Phone::from_digits(digits) {
            prop_assert_eq!(parse_nanp(&phone.to_string()), Ok(phone));
        }
    }
}
