//! Measures how fast texts are segmented: plain, with an extension character, UCS-2, and long ones of several parts.
//!
//! It proves nothing. Run it with `cargo run --release --example text_speed [rounds]`.

mod timing;

use std::hint::black_box;

use _core::text::{SmartTable, measure, smart_encode};

const TEXTS: u32 = 10_000;
const ROUNDS: u32 = 50;
const PLAIN: &str =
    "Your order is on its way and arrives today between two and four in the afternoon";

fn main() {
    let rounds = timing::rounds(ROUNDS);
    let long = format!("{PLAIN}. ").repeat(4);
    let texts = [
        ("segment, 80 GSM-7", PLAIN.to_owned(), 1),
        (
            "segment, 80 GSM-7 with extension",
            PLAIN.replacen("order", "€rder", 1),
            1,
        ),
        (
            "segment, 80 UCS-2",
            PLAIN.replacen("order", "\u{43e}rder", 1),
            2,
        ),
        ("segment, 328 GSM-7", long, 3),
    ];
    for (name, text, segments) in &texts {
        assert_eq!(measure(text).segments, *segments, "{name}");
        let round = |_| {
            let all = || {
                (0..TEXTS)
                    .map(|_| measure(black_box(text)).segments)
                    .sum::<u32>()
            };
            timing::timed(all).0
        };
        timing::print_ns(name, TEXTS, (0..rounds).map(round).collect());
    }
    let curly = PLAIN.replacen("order", "\u{201c}order\u{201d}", 1);
    let round = |_| {
        let all = || {
            (0..TEXTS).fold(0, |sum, _| {
                sum + smart_encode(black_box(&curly), SmartTable::Telnyx)
                    .map_or(0, |text| text.len())
            })
        };
        timing::timed(all).0
    };
    timing::print_ns(
        "smart encoding, 82 characters",
        TEXTS,
        (0..rounds).map(round).collect(),
    );
}
