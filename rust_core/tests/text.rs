//! Text against golden vectors and properties; the vectors in `tests/golden` are shared with the Python tests.

use std::collections::BTreeSet;
use std::fs;

use _core::text::{
    Concatenation, Encoding, Language, NationalShift, OptKeyword, PARTS_MAX, Part, Reference,
    ReferenceSize, SmartTable, TextError, UserDataHeader, costly_characters, decode_septets,
    encode_septets, fill_bits, measure, measure_with_shift, opt_keyword, pack, part_room,
    smart_encode, split, split_with_shift, unpack,
};
use proptest::prelude::*;

/// The rows of a golden file, without its heading, as columns.
fn golden(name: &str) -> Vec<Vec<String>> {
    let path = format!("{}/../tests/golden/{name}", env!("CARGO_MANIFEST_DIR"));
    let content = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let rows: Vec<Vec<String>> = content
        .lines()
        .skip(1)
        .map(|line| line.split('\t').map(str::to_owned).collect())
        .collect();
    assert!(!rows.is_empty(), "{path} has no rows");
    rows
}

fn code_point(hex: &str) -> char {
    char::from_u32(u32::from_str_radix(hex, 16).expect("hexadecimal")).expect("a scalar value")
}

/// `U+0061*3 U+20AC*1` is `aaa€`; `-` is the empty text.
fn text_of(pieces: &str) -> String {
    let mut text = String::new();
    for piece in pieces.split(' ').filter(|piece| *piece != "-") {
        let (point, count) = piece.split_once('*').expect("U+XXXX*n");
        let character = code_point(point.strip_prefix("U+").expect("U+"));
        text.extend(std::iter::repeat_n(
            character,
            count.parse().expect("a count"),
        ));
    }
    text
}

fn numbers(list: &str) -> Vec<usize> {
    list.split(',')
        .map(|number| number.parse().expect("a number"))
        .collect()
}

fn units_of(parts: &[Part<'_>]) -> u32 {
    parts.iter().map(|part| part.units).sum()
}

#[test]
fn segment_vectors() {
    for row in golden("segment_vectors.tsv") {
        let [case, pieces, bits, encoding, segments, characters, units] = &row[..] else {
            panic!("seven columns: {row:?}");
        };
        let text = text_of(pieces);
        let reference = if bits == "16" {
            ReferenceSize::Bits16
        } else {
            ReferenceSize::Bits8
        };
        let parts = split(&text, reference).expect(case);
        assert_eq!(parts.len().to_string(), *segments, "{case}");
        let part_characters: Vec<usize> =
            parts.iter().map(|part| part.text.chars().count()).collect();
        assert_eq!(part_characters, numbers(characters), "{case}");
        let part_units: Vec<usize> = parts.iter().map(|part| part.units as usize).collect();
        assert_eq!(part_units, numbers(units), "{case}");
        let measured = measure(&text);
        assert_eq!(measured.encoding.name(), encoding, "{case}");
        assert_eq!(measured.units, units_of(&parts), "{case}");
        if reference == ReferenceSize::Bits8 {
            assert_eq!(measured.segments.to_string(), *segments, "{case}");
        }
    }
}

#[test]
fn packing_vectors() {
    for row in golden("gsm_packing.tsv") {
        let [pieces, count, fill, octets] = &row[..] else {
            panic!("four columns: {row:?}");
        };
        let text = text_of(pieces);
        let fill: u8 = fill.parse().expect("fill bits");
        let septets = encode_septets(&text, NationalShift::NONE).expect("GSM-7");
        assert_eq!(septets.len().to_string(), *count, "{text}");
        let packed = pack(&septets, fill).expect("septets");
        let expected: Vec<u8> = octets
            .trim_start_matches('-')
            .as_bytes()
            .chunks(2)
            .map(|pair| {
                u8::from_str_radix(str::from_utf8(pair).expect("ASCII"), 16).expect("hexadecimal")
            })
            .collect();
        assert_eq!(packed, expected, "{text} after {fill}");
        assert_eq!(
            unpack(&packed, fill, septets.len()).expect("octets"),
            septets
        );
        assert_eq!(decode_septets(&septets, NationalShift::NONE), text);
    }
}

#[test]
fn alphabets_are_the_golden_ones() {
    let mut members = 0;
    for row in golden("gsm_alphabets.tsv") {
        let [table, language, first, cells] = &row[..] else {
            panic!("four columns: {row:?}");
        };
        let language = Language::from_id(language.parse().expect("an identifier"));
        let escaped = matches!(table.as_str(), "single" | "extension");
        let shift = if table == "locking" {
            NationalShift::new(language, None).expect("a locking table")
        } else {
            NationalShift::new(None, language).expect("a single shift table")
        };
        let first = u8::from_str_radix(&first[2..], 16).expect("a code");
        for (code, cell) in (first..).zip(cells.split(' ')) {
            let septets: &[u8] = if escaped { &[0x1B, code] } else { &[code] };
            let shown = decode_septets(septets, shift);
            let place = format!("{table} {language:?} 0x{code:02X}");
            if code == 0x1B {
                assert_eq!(shown, " ", "{place}");
            } else if cell == "-" && escaped {
                assert_eq!(shown, decode_septets(&[code], shift), "{place} falls back");
            } else if cell == "-" {
                assert_eq!(shown, "\u{FFFD}", "{place} is unassigned");
            } else {
                assert_eq!(shown, code_point(cell).to_string(), "{place}");
                let back = encode_septets(&shown, shift).expect("a member");
                assert_eq!(
                    decode_septets(&back, shift),
                    shown,
                    "{place} there and back"
                );
                assert!(
                    back.len() <= septets.len(),
                    "{place} has a shorter code at most"
                );
                members += 1;
            }
        }
    }
    // 127 + 10 of the default alphabet, 1,430 of twelve locking tables, 864 of thirteen single shift
    // tables.
    assert_eq!(members, 127 + 10 + 1_430 + 864);
}

#[test]
fn letters_the_standard_has_and_has_not() {
    for text in [
        "Ç",
        "ΓΔΘΛΞΠΣΦΨΩ",
        "à è é ì ò ù É",
        "ÄÖÑÜ§äöñü¿¡",
        "\n\r",
        "_@£$¥",
        "ß Æ æ Å å Ø ø ¤",
    ] {
        assert_eq!(measure(text).encoding, Encoding::Gsm7, "{text}");
    }
    for text in [
        "ç", "á", "í", "ó", "ú", "â", "ê", "Α", "`", "“", "–", "…", "\u{A0}", "\t", "\0",
    ] {
        assert_eq!(measure(text).encoding, Encoding::Ucs2, "{text}");
    }
    assert_eq!((Encoding::Gsm7 as u8, Encoding::Ucs2 as u8), (1, 2));
    assert_eq!(
        format!("{} {}", Encoding::Gsm7, Encoding::Ucs2),
        "GSM-7 UCS-2"
    );
}

#[test]
fn every_ascii_byte_costs_the_same_alone_and_in_a_long_run() {
    // Sixteen and more take the chunked path, one takes the table.
    for character in (0..128_u8).map(char::from) {
        let alone = measure(&character.to_string());
        let run = measure(&character.to_string().repeat(48));
        assert_eq!(run.encoding, alone.encoding, "{character:?}");
        assert_eq!(run.units, 48 * alone.units, "{character:?}");
    }
}

#[test]
fn costly_characters_come_once_and_in_order() {
    assert_eq!(
        costly_characters("“Hi” – “ça” 😀 €"),
        ['“', '”', '–', 'ç', '😀']
    );
    assert_eq!(costly_characters("plain {text} €"), []);
}

#[test]
fn more_than_255_parts_are_refused_with_their_number() {
    assert_eq!(
        split(&"a".repeat(39_015), ReferenceSize::Bits8).map(|parts| parts.len()),
        Ok(255)
    );
    let refused = Err(TextError::TooManyParts { parts: 256 });
    assert_eq!(split(&"a".repeat(39_016), ReferenceSize::Bits8), refused);
    assert_eq!(measure(&"a".repeat(39_016)).segments, PARTS_MAX + 1);
    assert_eq!(split(&"ж".repeat(17_086), ReferenceSize::Bits8), refused);
    assert_eq!(
        split(&"a".repeat(152 * 255 + 1), ReferenceSize::Bits16),
        refused
    );
    assert_eq!(
        split(&"€".repeat(76 * 300), ReferenceSize::Bits8).map_err(|e| e.to_string()),
        { Err("the text needs 300 parts, at most 255 can be sent: shorten it".to_owned()) }
    );
}

#[test]
fn room_and_fill_bits_by_header() {
    let rooms: Vec<(u32, u32)> = [0, 6, 7, 4, 9, 12, 140, 200]
        .map(|octets| {
            (
                part_room(Encoding::Gsm7, octets),
                part_room(Encoding::Ucs2, octets),
            )
        })
        .into();
    let expected = [
        (160, 70),
        (153, 67),
        (152, 66),
        (155, 68),
        (149, 65),
        (146, 64),
        (0, 0),
        (0, 0),
    ];
    assert_eq!(rooms, expected);
    assert_eq!(
        [0, 1, 2, 3, 4, 5, 6, 7, 13, usize::MAX].map(fill_bits),
        [0, 6, 5, 4, 3, 2, 1, 0, 1, 6]
    );
}

#[test]
fn headers_are_built_and_read() {
    let place = Concatenation::new(Reference::Bits8(0xAB), 3, 2).expect("a place");
    let header = UserDataHeader {
        concatenation: Some(place),
        ..UserDataHeader::default()
    };
    assert_eq!(header.octets(), [0x05, 0x00, 0x03, 0xAB, 3, 2]);
    let wide = Concatenation::new(Reference::Bits16(0xABCD), 255, 255).expect("a place");
    let header = UserDataHeader {
        concatenation: Some(wide),
        ..UserDataHeader::default()
    };
    assert_eq!(header.octets(), [0x06, 0x08, 0x04, 0xAB, 0xCD, 255, 255]);
    let shift = NationalShift::new(Some(Language::Turkish), Some(Language::Spanish)).expect("both");
    let header = UserDataHeader {
        concatenation: Some(place),
        shift,
    };
    assert_eq!(
        header.octets(),
        [11, 0, 3, 0xAB, 3, 2, 0x24, 1, 2, 0x25, 1, 1]
    );
    assert_eq!(UserDataHeader::parse(&header.octets()), Ok((header, 12)));
    assert_eq!(UserDataHeader::default().octets(), [0_u8; 0]);
    assert_eq!(
        (place.reference(), place.total(), place.sequence()),
        (Reference::Bits8(0xAB), 3, 2)
    );
}

#[test]
fn headers_with_faults() {
    let nothing = UserDataHeader::default();
    for (octets, why) in [
        (&[3, 0x70, 1, 9][..], "an unknown element"),
        (&[5, 0, 3, 1, 2, 3], "part 3 of 2"),
        (&[5, 0, 3, 1, 2, 0], "part 0"),
        (&[3, 0x24, 1, 14], "a reserved language"),
        (&[3, 0x25, 1, 2], "a locking table Spanish has not"),
        (
            &[4, 0, 2, 1, 2],
            "a concatenation element too short to be one",
        ),
        (&[0], "no element"),
    ] {
        assert_eq!(
            UserDataHeader::parse(octets),
            Ok((nothing, octets.len())),
            "{why}"
        );
    }
    for octets in [
        &[][..],
        &[1],
        &[5, 0, 3, 1, 2],
        &[1, 0],
        &[4, 0, 3, 1, 2],
        &[4, 0x24, 1, 1, 0],
    ] {
        let refused = Err(TextError::HeaderCutShort);
        assert_eq!(UserDataHeader::parse(octets), refused, "{octets:?}");
    }
    // A faulty element does not undo a sound one before it; of two sound ones the last counts.
    let place = |sequence| Concatenation::new(Reference::Bits8(1), 2, sequence).expect("a place");
    for (octets, sequence) in [
        (&[10, 0, 3, 1, 2, 1, 0, 3, 1, 2, 9][..], 1),
        (&[10, 0, 3, 1, 2, 1, 0, 3, 1, 2, 2], 2),
    ] {
        let (header, taken) = UserDataHeader::parse(octets).expect("a header");
        assert_eq!((header.concatenation, taken), (Some(place(sequence)), 11));
    }
    for (total, sequence) in [(2, 0), (2, 3), (0, 0)] {
        let refused = Err(TextError::PartNumber { sequence, total });
        assert_eq!(
            Concatenation::new(Reference::Bits8(0), total, sequence),
            refused
        );
    }
}

#[test]
fn receivers_rules_for_escapes() {
    let plain = NationalShift::NONE;
    assert_eq!(decode_septets(&[0x1B, 0x65], plain), "€");
    assert_eq!(
        decode_septets(&[0x1B, 0x41], plain),
        "A",
        "no entry: the plain character"
    );
    assert_eq!(
        decode_septets(&[0x1B, 0x1B, 0x41], plain),
        " A",
        "escape escape is a space"
    );
    assert_eq!(
        decode_septets(&[0x41, 0x1B], plain),
        "A ",
        "an escape at the end"
    );
    assert_eq!(decode_septets(&[0x1B, 0x0D], plain), "\r");
    assert_eq!(
        decode_septets(&[0x80, 0x1B, 0xFF], plain),
        "\u{FFFD}\u{FFFD}"
    );
    let turkish = NationalShift::new(Some(Language::Turkish), None).expect("Turkish");
    assert_eq!(
        decode_septets(&[0x1B, 0x07], turkish),
        "ı",
        "of the locking table in force"
    );
    assert_eq!(decode_septets(&[0x04, 0x1B, 0x65], turkish), "€€");
}

#[test]
fn national_shift_takes_room_and_saves_ucs2() {
    let turkish = NationalShift::new(None, Some(Language::Turkish)).expect("Turkish");
    let measured = |text: &str, shift| {
        let counted = measure_with_shift(text, shift);
        (counted.encoding, counted.segments, counted.units)
    };
    // 4 octets of header leave 155 septets; with the concatenation 9 leave 149.
    assert_eq!(
        measured(&"a".repeat(155), turkish),
        (Encoding::Gsm7, 1, 155)
    );
    assert_eq!(
        measured(&"a".repeat(156), turkish),
        (Encoding::Gsm7, 2, 156)
    );
    assert_eq!(
        measured(&"a".repeat(299), turkish),
        (Encoding::Gsm7, 3, 299)
    );
    assert_eq!(measured("ş", turkish), (Encoding::Gsm7, 1, 2));
    let locking = NationalShift::new(Some(Language::Turkish), None).expect("Turkish");
    assert_eq!(measured("ş", locking), (Encoding::Gsm7, 1, 1));
    // What the tables cannot carry goes without their elements.
    assert_eq!(measured(&"ж".repeat(70), turkish), (Encoding::Ucs2, 1, 70));
    assert_eq!(
        measured(&"a".repeat(160), NationalShift::NONE),
        (Encoding::Gsm7, 1, 160)
    );
    let spanish = NationalShift::new(Some(Language::Spanish), None);
    assert_eq!(
        spanish,
        Err(TextError::NoLockingTable {
            language: Language::Spanish
        })
    );
    assert_eq!(
        (turkish.locking(), turkish.single()),
        (None, Some(Language::Turkish))
    );
    assert_eq!(
        Language::ALL.map(Language::id),
        [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]
    );
    assert_eq!(
        [0, 13, 14, 255].map(Language::from_id),
        [None, Some(Language::Urdu), None, None]
    );
}

#[test]
fn table_marks_are_no_characters() {
    for language in Language::ALL {
        for shift in [
            NationalShift::new(None, Some(language)),
            NationalShift::new(Some(language), None),
        ] {
            for mark in ["\u{1B}", "\u{FFFF}"] {
                let shift = shift.unwrap_or(NationalShift::NONE);
                assert_eq!(
                    measure_with_shift(mark, shift).encoding,
                    Encoding::Ucs2,
                    "{shift:?}"
                );
                let character = mark.chars().next().expect("one character");
                let refused = Err(TextError::NotInAlphabet {
                    character,
                    byte_offset: 0,
                });
                assert_eq!(encode_septets(mark, shift), refused, "{shift:?}");
            }
        }
    }
}

#[test]
fn smart_tables_are_the_golden_ones() {
    for row in golden("smart_encoding.tsv") {
        let [source, twilio, telnyx] = &row[..] else {
            panic!("three columns: {row:?}");
        };
        let text = format!("<{}>", code_point(source));
        for (table, cell) in [(SmartTable::Twilio, twilio), (SmartTable::Telnyx, telnyx)] {
            let expected = match cell.as_str() {
                "-" => None,
                "()" => Some("<>".to_owned()),
                points => Some(format!(
                    "<{}>",
                    points.split(' ').map(code_point).collect::<String>()
                )),
            };
            assert_eq!(smart_encode(&text, table), expected, "U+{source} {table:?}");
        }
    }
}

#[test]
fn smart_encoding_is_all_or_nothing() {
    let telnyx = |text| smart_encode(text, SmartTable::Telnyx);
    assert_eq!(telnyx("“Hi” – it’s…").as_deref(), Some("\"Hi\" - it's..."));
    assert_eq!(telnyx("“Hi” 😀"), None, "the emoji keeps it UCS-2");
    assert_eq!(telnyx("Hi €"), None, "GSM-7 already");
    assert_eq!(telnyx(""), None);
    assert_eq!(telnyx("\u{200B}\u{FEFF}"), None, "nothing would be left");
    assert_eq!(telnyx("a\u{A0}b").as_deref(), Some("a b"));
    assert_eq!(
        smart_encode("a\u{A0}b", SmartTable::Twilio).as_deref(),
        Some("a  b")
    );
}

#[test]
fn keywords() {
    let stops = [
        "STOP",
        "stop",
        "Stop.",
        " \t stop!!\r\n",
        "“STOP”",
        "(stop)",
        "ＳＴＯＰ",
        "ｓｔｏｐ！",
        "\u{200B}STOP\u{FEFF}",
        "STOP 🛑",
    ];
    for text in stops {
        assert_eq!(opt_keyword(text), Some(OptKeyword::Stop), "{text:?}");
    }
    for text in ["START", "start", "  Start?", "ＳＴＡＲＴ"] {
        assert_eq!(opt_keyword(text), Some(OptKeyword::Start), "{text:?}");
    }
    let others = [
        "",
        " ",
        "...",
        "STOP IT",
        "please stop",
        "STOPPED",
        "STO",
        "S TOP",
        "1 STOP",
        "ЅТОР",
        "RESTART",
        "STOP START",
        "\u{17F}top",
    ];
    for text in others {
        assert_eq!(opt_keyword(text), None, "{text:?}");
    }
}

#[test]
fn refusals_say_what_is_wrong() {
    let refused = encode_septets("ab😀", NationalShift::NONE).expect_err("an emoji");
    assert_eq!(
        refused,
        TextError::NotInAlphabet {
            character: '😀',
            byte_offset: 2
        }
    );
    assert!(
        refused
            .to_string()
            .starts_with("U+1F600 at byte 2 is not in the GSM-7 alphabet")
    );
    let refused = pack(&[0, 0x80], 0).expect_err("eight bits");
    assert_eq!(
        refused,
        TextError::NotASeptet {
            value: 0x80,
            index: 1
        }
    );
    assert_eq!(refused.to_string(), "septet 1 is 0x80, above 0x7F");
    assert_eq!(pack(&[], 7), Err(TextError::FillBits { fill_bits: 7 }));
    assert_eq!(unpack(&[], 7, 0), Err(TextError::FillBits { fill_bits: 7 }));
    assert_eq!(pack(&[], 3), Ok(Vec::new()), "no text, no octets");
    let refused = unpack(&[0; 7], 1, 8).expect_err("57 bits");
    assert_eq!(
        refused,
        TextError::TooFewOctets {
            needed_octets: 8,
            given_octets: 7
        }
    );
    assert_eq!(refused.to_string(), "8 octets are needed, 7 were given");
    assert!(unpack(&[0; 7], 0, usize::MAX).is_err());
    assert_eq!(
        TextError::FillBits { fill_bits: 7 }.to_string(),
        "7 fill bits: there are 0 to 6"
    );
    let message = TextError::PartNumber {
        sequence: 3,
        total: 2,
    }
    .to_string();
    assert_eq!(
        message,
        "part 3 of 2: parts are numbered from 1 to their total"
    );
    let message = TextError::NoLockingTable {
        language: Language::Spanish,
    }
    .to_string();
    assert!(message.starts_with("Spanish has no locking shift table"));
    assert!(TextError::HeaderCutShort.to_string().contains("cut short"));
}

/// Characters of every cost: plain, extension, one unit, surrogate pair, and any at all.
fn any_character() -> impl Strategy<Value = char> {
    prop_oneof![
        8 => prop::char::range(' ', 'Z'),
        3 => prop::sample::select(vec!['€', '[', '\\', '~', '\u{C}', 'Ω', 'é', '\n', '\r', '@']),
        1 => prop::sample::select(vec!['ж', '`', '😀', '\u{200D}', '\u{FFFF}', '\u{10FFFF}', '\0']),
        1 => any::<char>(),
    ]
}

fn gsm_character() -> impl Strategy<Value = char> {
    prop_oneof![
        6 => prop::char::range('a', 'z'),
        2 => prop::sample::select(vec!['€', '[', ']', '{', '}', '\\', '~', '|', '^', '\u{C}']),
        1 => prop::sample::select(vec!['Ω', 'é', '\n', '\r', '@', '_', '§', 'ß', ' ']),
    ]
}

fn text_from(character: impl Strategy<Value = char>) -> impl Strategy<Value = String> {
    prop::collection::vec(character, 0..700).prop_map(String::from_iter)
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => text_from(any_character()),
        2 => text_from(gsm_character()),
        1 => text_from(prop::sample::select(vec!['ж', '😀'])),
        1 => any::<String>(),
    ]
}

fn any_shift() -> impl Strategy<Value = NationalShift> {
    let language = || prop::option::of(prop::sample::select(Language::ALL.to_vec()));
    (language(), language()).prop_filter_map("Spanish has no locking table", |(locking, single)| {
        NationalShift::new(locking, single).ok()
    })
}

fn any_reference() -> impl Strategy<Value = ReferenceSize> {
    prop::sample::select(vec![ReferenceSize::Bits8, ReferenceSize::Bits16])
}

/// Units a part may hold, told anew from the header's octets.
fn units_max(
    encoding: Encoding,
    shift: NationalShift,
    reference: ReferenceSize,
    parts: usize,
) -> u32 {
    let shift_octets = if encoding == Encoding::Gsm7 {
        shift.element_octets()
    } else {
        0
    };
    let header = shift_octets
        + if parts > 1 {
            reference.element_octets()
        } else {
            0
        };
    part_room(encoding, if header == 0 { 0 } else { 1 + header })
}

proptest! {
    #[test]
    fn parts_joined_are_the_text(text in any_text(), shift in any_shift(), reference in any_reference()) {
        let parts = split_with_shift(&text, shift, reference).expect("700 characters fit");
        let joined: String = parts.iter().map(|part| part.text).collect();
        prop_assert_eq!(joined, text);
    }

    #[test]
    fn parts_are_full_but_never_over_full(text in any_text(), shift in any_shift(), reference in any_reference()) {
        let parts = split_with_shift(&text, shift, reference).expect("700 characters fit");
        let encoding = measure_with_shift(&text, shift).encoding;
        let most = units_max(encoding, shift, reference, parts.len());
        for (at, part) in parts.iter().enumerate() {
            // Told anew: what the part costs by itself. A pair cut in two would show here.
            let units = match encoding {
                Encoding::Gsm7 => encode_septets(part.text, shift).expect("GSM-7").len(),
                Encoding::Ucs2 => part.text.encode_utf16().count(),
            };
            prop_assert_eq!(units, part.units as usize);
            prop_assert!(part.units <= most);
            // Only a pair that would straddle may leave one unit free.
            prop_assert!(at + 1 == parts.len() || part.units + 1 >= most);
        }
    }

    #[test]
    fn measuring_is_splitting(text in any_text(), shift in any_shift()) {
        for shift in [shift, NationalShift::NONE] {
            let counted = measure_with_shift(&text, shift);
            let parts = split_with_shift(&text, shift, ReferenceSize::Bits8).expect("700 characters fit");
            prop_assert_eq!(counted.segments as usize, parts.len());
            prop_assert_eq!(counted.units, units_of(&parts));
        }
        prop_assert_eq!(measure(&text), measure_with_shift(&text, NationalShift::NONE));
        prop_assert_eq!(split(&text, ReferenceSize::Bits8), split_with_shift(&text, NationalShift::NONE, ReferenceSize::Bits8));
    }

    #[test]
    fn encoding_is_told_by_the_characters(text in any_text()) {
        let costly = costly_characters(&text);
        prop_assert_eq!(measure(&text).encoding == Encoding::Gsm7, costly.is_empty());
        prop_assert_eq!(encode_septets(&text, NationalShift::NONE).is_ok(), costly.is_empty());
        let distinct: BTreeSet<char> = costly.iter().copied().collect();
        prop_assert_eq!(distinct.len(), costly.len());
        prop_assert!(costly.iter().all(|&character| text.contains(character)));
    }

    #[test]
    fn a_message_goes_over_the_air_and_back(text in text_from(gsm_character()), reference in any_reference()) {
        let parts = split(&text, reference).expect("700 characters fit");
        let total = u8::try_from(parts.len()).expect("few parts");
        let mut received = String::new();
        for (sequence, part) in (1..).zip(&parts) {
            let number = match reference {
                ReferenceSize::Bits8 => Reference::Bits8(7),
                ReferenceSize::Bits16 => Reference::Bits16(0x0107),
            };
            let concatenation = (total > 1).then(|| Concatenation::new(number, total, sequence).expect("a place"));
            let mut user_data = UserDataHeader { concatenation, shift: NationalShift::NONE }.octets();
            let fill = fill_bits(user_data.len());
            let septets = encode_septets(part.text, NationalShift::NONE).expect("GSM-7");
            user_data.extend(pack(&septets, fill).expect("septets"));
            prop_assert!(user_data.len() <= 140);

            let header_octets = if total > 1 {
                let (header, octets) = UserDataHeader::parse(&user_data).expect("our own header");
                prop_assert_eq!(header.concatenation, concatenation);
                octets
            } else {
                0
            };
            let unpacked = unpack(&user_data[header_octets..], fill, septets.len()).expect("our own octets");
            received.push_str(&decode_septets(&unpacked, NationalShift::NONE));
        }
        prop_assert_eq!(received, text);
    }

    #[test]
    fn septets_survive_packing(septets in prop::collection::vec(0..=0x7F_u8, 0..200), fill in 0..=6_u8) {
        let octets = pack(&septets, fill).expect("septets");
        prop_assert_eq!(unpack(&octets, fill, septets.len()).expect("octets"), septets);
    }

    #[test]
    fn shifted_text_survives_encoding(text in any_text(), shift in any_shift()) {
        if let Ok(septets) = encode_septets(&text, shift) {
            prop_assert_eq!(decode_septets(&septets, shift), text);
        }
    }

    #[test]
    fn smart_encoding_yields_gsm(text in any_text(), look_alikes in prop::collection::vec(prop::sample::select(vec!['“', '’', '…', '\t', '\u{A0}', 'Ａ', 'Α', '\u{200B}']), 0..20)) {
        let text = text + &String::from_iter(look_alikes);
        for table in [SmartTable::Telnyx, SmartTable::Twilio] {
            if let Some(encoded) = smart_encode(&text, table) {
                prop_assert_eq!(measure(&text).encoding, Encoding::Ucs2);
                prop_assert_eq!(measure(&encoded).encoding, Encoding::Gsm7);
                prop_assert_eq!(smart_encode(&encoded, table), None);
            }
        }
    }

    #[test]
    fn octets_from_anywhere_are_read_without_panic(octets in prop::collection::vec(any::<u8>(), 0..200), fill in any::<u8>(), count in any::<usize>(), shift in any_shift()) {
        let shown = decode_septets(&octets, shift);
        prop_assert!(shown.chars().count() <= octets.len());
        if let Ok(septets) = unpack(&octets, fill, count % 256) {
            prop_assert!(septets.iter().all(|&septet| septet <= 0x7F));
        }
        if let Ok((header, taken)) = UserDataHeader::parse(&octets) {
            prop_assert!(taken <= octets.len());
            prop_assert!(header.octets().len() <= 13);
        }
    }

    #[test]
    fn keywords_survive_any_frame(before in "[ .,!\"'()\\-\u{200B}]{0,6}", after in "[ .,!?\"'()\\-\n]{0,6}", upper in prop::collection::vec(any::<bool>(), 5)) {
        for (word, keyword) in [("stop", OptKeyword::Stop), ("start", OptKeyword::Start)] {
            let mixed: String = word.chars().zip(&upper).map(|(c, up)| if *up { c.to_ascii_uppercase() } else { c }).collect();
            prop_assert_eq!(opt_keyword(&format!("{before}{mixed}{after}")), Some(keyword));
            prop_assert_eq!(opt_keyword(&format!("{before}x{mixed}{after}")), None);
        }
    }
}
