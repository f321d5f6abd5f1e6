//! Submissions put together field by field, so that most are whole: what was accepted is judged by its fields alone.
//!
//! The same fields in another order on the wire, said twice, or between fields nobody knows are the same submission, with
//! the same content hash; one field changed is another.

use _core::admit::{Call, CallKind, Door, Limits, admit};
use _core::consent::Consent;
use _core::ids::IdMint;
use bytes::Bytes;

use super::choices::Choices;

const NOW_US: i64 = 1_790_000_000_000_000;
const TEXTS: [&str; 9] = [
    "Hi",
    "",
    "Your code is 123456",
    "€[]{}~^|\\",
    "naïve café",
    "Привет",
    "🎉🎉",
    "a\u{301}\u{200d}",
    "\0\x1b\u{feff}",
];

/// An encoded field; its number is in its tag.
type Field = Vec<u8>;

fn varint(mut value: u64, into: &mut Field) {
    while value >= 0x80 {
        into.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    into.push(value.to_le_bytes()[0]);
}

fn number(tag: u64, value: u64) -> Field {
    let mut field = Field::new();
    varint(tag << 3, &mut field);
    varint(value, &mut field);
    field
}

fn bytes(tag: u64, content: &[u8]) -> Field {
    let mut field = Field::new();
    varint(tag << 3 | 2, &mut field);
    varint(content.len() as u64, &mut field);
    field.extend_from_slice(content);
    field
}

fn time(tag: u64, seconds: i64, nanos: u64) -> Field {
    let inner = [number(1, seconds.cast_unsigned()), number(2, nanos)].concat();
    bytes(tag, &inner)
}

fn label(key: &str, value: &str) -> Field {
    bytes(
        13,
        &[bytes(1, key.as_bytes()), bytes(2, value.as_bytes())].concat(),
    )
}

/// A text of up to some thousand characters.
fn text(choices: &mut Choices<'_>) -> String {
    let mut text = choices.of(&TEXTS).repeat(choices.below(64) + 1);
    if choices.one_in(3) {
        text.push_str(choices.of(&TEXTS));
    }
    text
}

/// The singular fields of a submission, each at most once, the repeated ones in their order, and its text.
fn fields(choices: &mut Choices<'_>) -> (Vec<Field>, Vec<Field>, String) {
    let campaign = choices.of(&["campaigns/a", "campaigns/a", "campaigns/a", "a", ""]);
    let recipient = choices.of(&[
        "+12025550123",
        "+12125550199",
        "2025550123",
        "+442071838750",
        "",
    ]);
    let body = text(choices);
    let mut once = vec![
        bytes(1, campaign.as_bytes()),
        bytes(3, recipient.as_bytes()),
        bytes(4, body.as_bytes()),
    ];
    let has = choices.wide();
    let mut add = |bit: u16, field: Field| {
        if has & 1 << bit != 0 {
            once.push(field);
        }
    };
    add(
        0,
        bytes(2, choices.of(&["+12025550100", "+12025550999"]).as_bytes()),
    );
    add(1, bytes(6, text(choices).as_bytes()));
    add(2, number(7, u64::from(choices.byte() % 5)));
    add(3, bytes(8, format!("r-{}", choices.byte()).as_bytes()));
    let ahead_s = i64::from(choices.wide()) * 60 - 3_600;
    add(
        4,
        time(9, NOW_US / 1_000_000 + ahead_s, u64::from(choices.byte())),
    );
    add(5, time(10, i64::from(choices.wide()), 0));
    add(6, bytes(11, choices.of(&["k", "key-2"]).as_bytes()));
    add(7, bytes(12, choices.of(&TEXTS).as_bytes()));
    add(8, number(14, 1));
    let mut many = Vec::new();
    if has & 1 << 9 != 0 {
        many.extend(
            (0..choices.below(4)).map(|n| bytes(5, format!("https://x.example/{n}").as_bytes())),
        );
    }
    if has & 1 << 10 != 0 {
        many.extend((0..choices.below(6)).map(|n| label(&format!("l{n}"), choices.of(&["", "v"]))));
    }
    (once, many, body)
}

/// Is it accepted, and with which hash.
fn judged(fields: &[Field], mint: &mut IdMint) -> Option<Vec<u8>> {
    let call = Call {
        kind: CallKind::Unary,
        tenant: 1,
        request: Bytes::from(bytes(1, &fields.concat())),
    };
    let admission = admit(
        &[call],
        &super::registry(),
        &Consent::default(),
        &Limits::default(),
        mint,
        NOW_US,
        Door::open(10),
    );
    assert_eq!(admission.replies().len(), 1);
    let accepted = admission.accepted().first()?;
    assert!(accepted.held.expires_us > NOW_US && accepted.held.segments > 0);
    Some(accepted.content_hash.to_vec())
}

/// A submission as the bytes say, and its like.
pub fn submission(data: &[u8]) {
    let mut choices = Choices::new(data);
    let Some(mut mint) = IdMint::new(1, 0) else {
        return;
    };
    let (once, many, body) = fields(&mut choices);
    let plain = [once.clone(), many.clone()].concat();
    let first = judged(&plain, &mut mint);
    assert_eq!(judged(&plain, &mut mint), first, "the same twice");

    // Another order of what may be in any order, a value that a later one replaces, and what nobody knows between.
    let mut turned = once.clone();
    let by = choices.below(turned.len());
    turned.rotate_left(by);
    let mut strange = vec![number(14, 0), bytes(3, b"replaced"), bytes(900, b"?")];
    if !once.iter().any(|field| field[0] == 14 << 3) {
        strange[0] = number(901, 7);
    }
    let likewise = [strange, many.clone(), turned].concat();
    assert_eq!(judged(&likewise, &mut mint), first, "the same fields");

    // One field changed; the request id is none of the content.
    let Some(first) = first else {
        return;
    };
    let other = [plain.clone(), vec![bytes(8, b"another")]].concat();
    assert_eq!(
        judged(&other, &mut mint).as_ref(),
        Some(&first),
        "the request id counts"
    );
    let number_of = |field: &Field| field[0] >> 3;
    let smart = once.iter().any(|field| number_of(field) == 14);
    for changed in [
        bytes(1, b"campaigns/b"),
        bytes(2, b"+12025550101"),
        bytes(3, b"+13125550147"),
        bytes(4, format!("{}.", choices.of(&TEXTS)).as_bytes()),
        bytes(4, format!("{body} ").as_bytes()),
        bytes(5, b"https://x.example/new"),
        bytes(6, b"another subject"),
        number(7, 1),
        number(7, 2),
        time(9, NOW_US / 1_000_000 + 7_777, 0),
        time(10, 3_599, 0),
        bytes(11, b"another key"),
        bytes(12, b"another reference"),
        label("l-new", "x"),
        number(14, u64::from(!smart)),
    ] {
        let same = plain.contains(&changed);
        if let Some(hash) = judged(&[plain.clone(), vec![changed]].concat(), &mut mint) {
            assert!(same || hash != first, "two contents, one hash");
        }
    }
}
