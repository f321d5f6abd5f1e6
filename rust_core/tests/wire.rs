//! Requests are taken apart item by item, and times survive their protobuf forms.

use std::collections::BTreeMap;

use _core::wire::{
    Duration, Event, RequestError, StreamMessagesRequest, Submission, SubmitMessageRequest,
    SubmitMessagesRequest, Timestamp, UNARY_PARTS_MAX, WatchEventsResponse, push_event,
    split_batch, split_stream, split_unary,
};
use bytes::Bytes;
use proptest::prelude::*;
use prost::Message as _;

fn batch(submissions: &[&'static [u8]]) -> Bytes {
    let submissions = submissions
        .iter()
        .map(|&bytes| Bytes::from_static(bytes))
        .collect();
    SubmitMessagesRequest { submissions }.encode_to_vec().into()
}

#[test]
fn a_broken_item_leaves_its_neighbours_whole() {
    let request = batch(&[b"\x22\x01a", b"\x22\x01\xff", b"\x22\x09a"]);
    let items = split_batch(&request, 1000).expect("the framing is whole");
    let texts: Vec<Option<String>> = items
        .into_iter()
        .map(|item| {
            Submission::decode(item)
                .ok()
                .map(|submission| submission.text)
        })
        .collect();
    assert_eq!(texts, [Some("a".to_owned()), None, None]);
}

#[test]
fn items_are_cut_without_copying() {
    let request = batch(&[b"\x22\x03abc"]);
    let items = split_batch(&request, 1).expect("an item");
    assert!(request.as_ptr_range().contains(&items[0].as_ptr()));
}

#[test]
fn counts_are_bounded_before_anything_is_kept() {
    assert_eq!(split_batch(&batch(&[]), 2), Err(RequestError::Empty));
    assert_eq!(
        split_batch(&batch(&[b"", b""]), 2).map(|items| items.len()),
        Ok(2)
    );
    assert_eq!(
        split_batch(&batch(&[b"", b"", b""]), 2),
        Err(RequestError::TooMany)
    );
    assert_eq!(
        split_unary(&batch(&[b"".as_slice(); UNARY_PARTS_MAX + 1])),
        Err(RequestError::TooMany)
    );
}

#[test]
fn broken_framing_is_the_requests_fault() {
    for broken in [
        &b"\x0a\x05ab"[..],
        b"\x0a",
        b"\x0b",
        b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x0a\xff\xff\xff\xff\x0f",
    ] {
        let request = Bytes::copy_from_slice(broken);
        assert_eq!(
            split_batch(&request, 10),
            Err(RequestError::Undecodable),
            "{broken:x?}"
        );
        assert_eq!(
            split_unary(&request),
            Err(RequestError::Undecodable),
            "{broken:x?}"
        );
    }
}

#[test]
fn a_single_field_written_twice_is_merged() {
    let parts = [
        Submission {
            text: "a".into(),
            subject: "s".into(),
            ..Submission::default()
        },
        Submission {
            text: "b".into(),
            media_urls: vec!["u".into()],
            ..Submission::default()
        },
    ];
    let request = SubmitMessageRequest {
        submission: parts
            .iter()
            .map(|part| part.encode_to_vec().into())
            .collect(),
    };
    let merged = split_unary(&request.encode_to_vec().into()).expect("two parts");
    let merged = Submission::decode(merged).expect("a submission");
    assert_eq!(
        (
            merged.text.as_str(),
            merged.subject.as_str(),
            merged.media_urls.len()
        ),
        ("b", "s", 1)
    );
    assert_eq!(split_unary(&Bytes::new()), Err(RequestError::Empty));
}

#[test]
fn a_stream_request_has_its_sequence_and_unknown_fields_are_skipped() {
    let mut request = StreamMessagesRequest {
        sequence: 9,
        submissions: vec![Bytes::from_static(b"")],
    }
    .encode_to_vec();
    request.extend_from_slice(b"\xfa\x01\x03abc");
    assert_eq!(
        split_stream(&request.into(), 5),
        Ok((9, vec![Bytes::new()]))
    );
}

#[test]
fn event_blobs_concatenate_to_a_response() {
    let events = [
        Event {
            seq: 1,
            ..Event::default()
        },
        Event {
            seq: 2,
            code: "x".into(),
            ..Event::default()
        },
    ];
    let mut blob = Vec::new();
    for event in &events {
        push_event(&mut blob, event);
    }
    assert_eq!(
        WatchEventsResponse::decode(&*blob)
            .expect("a response")
            .events,
        events
    );
}

#[test]
fn times_outside_of_their_range_are_none() {
    for (seconds, nanos) in [
        (0, -1),
        (0, 1_000_000_000),
        (253_402_300_800, 0),
        (-62_135_596_801, 0),
        (i64::MAX, 0),
    ] {
        assert_eq!(
            Timestamp { seconds, nanos }.to_micros(),
            None,
            "{seconds} {nanos}"
        );
    }
    for (seconds, nanos) in [
        (1, -1),
        (-1, 1),
        (0, i32::MIN),
        (0, 1_000_000_000),
        (i64::MIN, 0),
        (315_576_000_001, 0),
    ] {
        assert_eq!(
            Duration { seconds, nanos }.to_micros(),
            None,
            "{seconds} {nanos}"
        );
    }
    assert_eq!(
        Duration {
            seconds: 0,
            nanos: 1
        }
        .to_micros(),
        Some(1),
        "positive stays positive"
    );
    assert_eq!(
        Duration {
            seconds: 0,
            nanos: -1
        }
        .to_micros(),
        Some(0)
    );
    assert_eq!(
        Timestamp {
            seconds: -1,
            nanos: 999_999_999
        }
        .to_micros(),
        Some(-1)
    );
}

fn submissions() -> impl Strategy<Value = Submission> {
    (
        [
            "\\PC{0,20}",
            "\\PC{0,20}",
            "\\PC{0,20}",
            "\\PC{0,20}",
            "\\PC{0,20}",
            "\\PC{0,20}",
        ],
        prop::collection::vec("\\PC{0,20}", 0..3),
        any::<i32>(),
        prop::option::of((any::<i64>(), any::<i32>())),
        prop::option::of((any::<i64>(), any::<i32>())),
        prop::collection::btree_map("\\PC{0,9}", "\\PC{0,9}", 0..4),
        any::<bool>(),
    )
        .prop_map(
            |(texts, media_urls, message_class, schedule, validity, labels, smart_encoding)| {
                let [campaign, recipient, text, subject, request_id, ordering_key] = texts;
                let labels: BTreeMap<String, String> = labels;
                Submission {
                    campaign,
                    sender: String::new(),
                    recipient,
                    text,
                    media_urls,
                    subject,
                    message_class,
                    request_id,
                    schedule_time: schedule.map(|(seconds, nanos)| Timestamp { seconds, nanos }),
                    validity: validity.map(|(seconds, nanos)| Duration { seconds, nanos }),
                    ordering_key,
                    client_reference: String::new(),
                    labels,
                    smart_encoding,
                }
            },
        )
}

proptest! {
    #[test]
    fn submissions_round_trip(submission in submissions()) {
        let encoded = submission.encode_to_vec();
        prop_assert_eq!(Submission::decode(&*encoded).expect("our own bytes"), submission);
    }

    #[test]
    fn times_round_trip(time_us in -62_135_596_800_000_000_i64..253_402_300_799_000_000) {
        prop_assert_eq!(Timestamp::from_micros(time_us).to_micros(), Some(time_us));
        prop_assert_eq!(Duration::from_micros(time_us).to_micros(), Some(time_us));
    }

    #[test]
    fn any_bytes_are_split_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let request = Bytes::from(bytes);
        let _ = split_unary(&request);
        let _ = split_stream(&request, 3);
        if let Ok(items) = split_batch(&request, 3) {
            prop_assert!((1..=3).contains(&items.len()));
        }
    }

    #[test]
    fn any_times_convert_or_are_none(seconds in any::<i64>(), nanos in any::<i32>()) {
        if let Some(time_us) = (Timestamp { seconds, nanos }).to_micros() {
            prop_assert_eq!(time_us.div_euclid(1_000_000), seconds);
        }
        if let Some(duration_us) = (Duration { seconds, nanos }).to_micros() {
            prop_assert_eq!(duration_us > 0, seconds > 0 || nanos > 0);
        }
    }
}
