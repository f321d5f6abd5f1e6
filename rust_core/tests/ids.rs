//! Ids rise whatever the clock does, and their strings sort and parse as they do.

use _core::ids::{
    EPOCH_US, IdMint, NODE_MAX, inbound_name, message_name, parse_inbound_name, parse_message_name,
    parse_short_id, short_id, time_of,
};
use proptest::prelude::*;

const SOON_US: i64 = EPOCH_US + 86_400_000_000;

#[test]
fn an_id_is_its_millisecond_then_its_node_then_its_place() {
    let mut mint = IdMint::new(5, 0).expect("a node");
    let first = mint.mint(SOON_US + 999);
    assert_eq!(first, 86_400_000 << 22 | 5 << 12);
    assert_eq!(mint.mint(SOON_US), first + 1, "the same millisecond");
    assert_eq!(
        mint.mint(SOON_US + 1000),
        (86_400_001 << 22) | 5 << 12,
        "the sequence starts anew"
    );
    assert_eq!(time_of(first), SOON_US);
}

#[test]
fn a_full_millisecond_runs_ahead_of_the_clock() {
    let mut mint = IdMint::new(0, 0).expect("a node");
    let ids: Vec<u64> = (0..10_000).map(|_| mint.mint(SOON_US)).collect();
    assert!(ids.is_sorted_by(|a, b| a < b));
    assert_eq!(time_of(ids[4095]), SOON_US);
    assert_eq!(time_of(ids[4096]), SOON_US + 1000);
}

#[test]
fn a_mint_goes_on_above_the_last_id_of_any_node() {
    let last = IdMint::new(NODE_MAX, 0).expect("a node").mint(SOON_US);
    let next = IdMint::new(0, last)
        .expect("a node")
        .mint(SOON_US - 5_000_000);
    assert!(next > last);
}

#[test]
fn a_mint_goes_above_an_id_that_it_hears_of_and_never_back() {
    let mut mint = IdMint::new(3, 0).expect("a node");
    let own = mint.mint(SOON_US);
    let heard = IdMint::new(NODE_MAX, 0)
        .expect("a node")
        .mint(SOON_US + 7_000);
    mint.go_above(heard);
    let next = mint.mint(SOON_US);
    assert!(next > heard);
    mint.go_above(own);
    assert_eq!(mint.mint(SOON_US), next + 1);
}

#[test]
fn an_unusable_node_or_last_id_makes_no_mint() {
    assert!(IdMint::new(NODE_MAX + 1, 0).is_none());
    assert!(IdMint::new(0, u64::MAX).is_none());
    assert!(IdMint::new(0, u64::MAX >> 1).is_none());
}

#[test]
fn a_string_has_one_spelling_but_for_case() {
    let id = 0x0123_4567_89AB_CDEF;
    let text = short_id(id);
    assert_eq!(text, "028t5cy4tqkff");
    assert_eq!(parse_short_id(&text.to_uppercase()), Some(id));
    assert_eq!(short_id(u64::MAX >> 1), "7zzzzzzzzzzzz");
    for wrong in [
        "",
        "0",
        "0000000000000",
        "8000000000000",
        "zzzzzzzzzzzzz",
        "00000000000001",
        "000000000001",
    ] {
        assert_eq!(parse_short_id(wrong), None, "{wrong}");
    }
    for alias in ["o", "O", "i", "I", "l", "L", "u", "U", "-", " ", "+"] {
        assert_eq!(
            parse_short_id(&format!("00000000000{alias}1")),
            None,
            "{alias}"
        );
    }
    assert_eq!(parse_short_id("00000000000é"), None, "thirteen bytes");
}

#[test]
fn names_carry_their_collection() {
    assert_eq!(message_name(1), "messages/0000000000001");
    assert_eq!(inbound_name(1), "inbound/0000000000001");
    assert_eq!(parse_message_name(&message_name(77)), Some(77));
    assert_eq!(parse_inbound_name(&inbound_name(77)), Some(77));
    assert_eq!(parse_message_name(&inbound_name(77)), None);
    assert_eq!(parse_message_name("messages/0000000000001/"), None);
}

proptest! {
    #[test]
    fn ids_rise_under_any_clock(node in 0..=NODE_MAX, clock in prop::collection::vec(any::<i64>(), 1..200)) {
        let mut mint = IdMint::new(node, 0).expect("a node");
        let mut last = 0;
        for now_us in clock {
            let id = mint.mint(now_us);
            prop_assert!(id > last && i64::try_from(id).is_ok());
            prop_assert_eq!(id >> 12 & u64::from(NODE_MAX), u64::from(node));
            last = id;
        }
    }

    #[test]
    fn ids_rise_under_a_clock_that_steps_a_little(steps in prop::collection::vec(-3_000_i64..3_000, 1..5_000)) {
        let mut mint = IdMint::new(1, 0).expect("a node");
        let (mut now_us, mut last) = (SOON_US, 0);
        for step in steps {
            now_us += step;
            let id = mint.mint(now_us);
            prop_assert!(id > last);
            last = id;
        }
    }

    #[test]
    fn strings_round_trip_and_sort_as_ids(a in 1..u64::MAX >> 1, b in 1..u64::MAX >> 1) {
        prop_assert_eq!(parse_short_id(&short_id(a)), Some(a));
        prop_assert_eq!(short_id(a).cmp(&short_id(b)), a.cmp(&b));
    }

    #[test]
    fn what_parses_is_spelled_that_way(text in "[0-9a-zA-Z]{13}|\\PC{0,14}") {
        if let Some(id) = parse_short_id(&text) {
            prop_assert_eq!(short_id(id), text.to_ascii_lowercase());
        }
    }
}
