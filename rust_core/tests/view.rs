//! A stored message is shown as it stands, and its compact history gives back its events.

use _core::message::flags;
use _core::state::{Reason, State};
use _core::view::{
    HistoryError, StoredRow, get_response, history_entry, history_events, list_response, message,
};
use _core::wire::{GetMessageResponse, ListMessagesResponse, Submission, Timestamp};
use proptest::prelude::*;
use prost::Message as _;

fn row() -> StoredRow {
    StoredRow {
        id: 32,
        tenant: 1,
        campaign: 2,
        sender: 12_025_550_100,
        recipient: 12_025_550_123,
        class: 3,
        kind: 1,
        encoding: 1,
        segments: 2,
        state: State::Queued as u8,
        reason: Reason::Retry as u8,
        code: "10011".into(),
        seq: 3,
        attempt: 1,
        generation: 1,
        flags: flags::POSSIBLE_DUPLICATE,
        due_us: 5_000_001,
        accept_us: 1_000_000,
        expires_us: 9_000_000,
        updated_us: 2_000_000,
        provider: "telnyx".into(),
        provider_id: "p-1".into(),
        carrier: 2,
        ..StoredRow::default()
    }
}

#[test]
fn a_row_and_its_record_make_the_message() {
    let record = Submission {
        text: "hi".into(),
        request_id: "r".into(),
        ..Submission::default()
    }
    .encode_to_vec();
    let shown = message(&row(), &record, "alerts").expect("a record");
    assert_eq!(shown.name, "messages/0000000000010");
    assert_eq!(shown.campaign, "campaigns/alerts");
    assert_eq!(
        (shown.sender.as_str(), shown.recipient.as_str()),
        ("+12025550100", "+12025550123")
    );
    assert_eq!(
        (
            shown.text.as_str(),
            shown.request_id.as_str(),
            shown.code.as_str()
        ),
        ("hi", "r", "10011")
    );
    assert_eq!(
        (
            shown.message_class,
            shown.segments,
            shown.attempts,
            shown.generation
        ),
        (3, 2, 1, 1)
    );
    assert_eq!((shown.state, shown.reason, shown.encoding), (1, 6, 1));
    assert_eq!(
        shown.next_attempt_time,
        Some(Timestamp {
            seconds: 5,
            nanos: 1000
        })
    );
    assert_eq!(
        shown.accept_time,
        Some(Timestamp {
            seconds: 1,
            nanos: 0
        })
    );
    assert_eq!(
        shown.expire_time,
        Some(Timestamp {
            seconds: 9,
            nanos: 0
        })
    );
    assert_eq!(
        shown.update_time,
        Some(Timestamp {
            seconds: 2,
            nanos: 0
        })
    );
    assert_eq!(
        (
            shown.provider.as_str(),
            shown.provider_message.as_str(),
            shown.carrier.as_str()
        ),
        ("telnyx", "p-1", "TMOBILE")
    );
    assert!(shown.possible_duplicate && !shown.cancel_requested);

    let sent = StoredRow {
        state: State::Sent as u8,
        flags: flags::CANCEL_REQUESTED,
        ..row()
    };
    let shown_sent = message(&sent, &record, "alerts").expect("a record");
    assert_eq!(shown_sent.next_attempt_time, None, "nothing is due");
    assert!(shown_sent.cancel_requested && !shown_sent.possible_duplicate);

    assert!(message(&row(), b"\x0a\x7f", "alerts").is_err());
    let page = ListMessagesResponse::decode(&*list_response(
        vec![shown.clone(), shown_sent],
        "next".into(),
    ))
    .expect("a page");
    assert_eq!(
        (page.messages.len(), page.next_page_token.as_str()),
        (2, "next")
    );
    assert_eq!(page.messages[0], shown);
}

#[test]
fn a_history_gives_back_its_events() {
    let mut history = history_entry(State::Queued, Reason::Accepted, 0, 1, 1_000_000, "");
    history.extend(history_entry(
        State::Dispatching,
        Reason::Attempt,
        1,
        1,
        2_000_000,
        "",
    ));
    history.extend(history_entry(
        State::Failed,
        Reason::ProviderRefused,
        1,
        1,
        -1,
        "40300",
    ));
    let events = history_events(&history, "messages/x", "campaigns/y", "ref").expect("a history");
    let shown: Vec<_> = events
        .iter()
        .map(|event| (event.seq, event.previous_state, event.state, event.attempt))
        .collect();
    assert_eq!(shown, [(1, 0, 1, 0), (2, 1, 2, 1), (3, 2, 20, 1)]);
    assert_eq!(events[2].code, "40300");
    assert_eq!(
        events[2].event_time.and_then(Timestamp::to_micros),
        Some(-1)
    );
    assert!(events.iter().all(|event| event.kind == 1
        && event.message == "messages/x"
        && event.client_reference == "ref"));

    let shown = message(&row(), b"", "y").expect("an empty record");
    let response = GetMessageResponse::decode(&*get_response(shown.clone(), events.clone()))
        .expect("a response");
    assert_eq!((response.message, response.timeline), (Some(shown), events));
    assert_eq!(
        history_events(&history[..20], "", "", ""),
        Err(HistoryError)
    );
}

#[test]
fn a_long_code_is_cut_between_characters() {
    let code = format!("{}é", "x".repeat(254));
    let history = history_entry(State::Failed, Reason::ProviderRefused, 1, 1, 0, &code);
    let events = history_events(&history, "", "", "").expect("a history");
    assert_eq!(events[0].code, "x".repeat(254));
}

proptest! {
    #[test]
    fn any_bytes_are_a_history_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(events) = history_events(&bytes, "", "", "") {
            let seqs: Vec<u32> = events.iter().map(|event| event.seq).collect();
            prop_assert_eq!(seqs, (1..=u32::try_from(events.len()).expect("few")).collect::<Vec<_>>());
        }
        let _ = message(&row(), &bytes, "");
    }

    #[test]
    fn entries_round_trip(attempt in any::<u16>(), generation in any::<u16>(), time_us in any::<i64>(), code in "\\PC{0,40}") {
        let history = history_entry(State::Unknown, Reason::Silence, attempt, generation, time_us, &code);
        let events = history_events(&history, "", "", "").expect("an entry");
        prop_assert_eq!((events[0].attempt, events[0].generation), (u32::from(attempt), u32::from(generation)));
        prop_assert_eq!(&events[0].code, &code);
        prop_assert_eq!(events[0].event_time, Some(Timestamp::from_micros(time_us)));
    }
}
