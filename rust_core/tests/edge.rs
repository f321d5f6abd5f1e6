//! The edge's connection, spoken to in frames: whatever the pieces, the windows and the order, no call is lost.

use std::collections::HashSet;
use std::sync::Arc;

use _core::edge::{Connection, Event, Rules, Value};
use proptest::prelude::*;

const SUBMIT: &str = "/s/Submit";
const WATCH: &str = "/s/Watch";
const STREAM: &str = "/s/Stream";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const WINDOW: usize = 65_535;

fn rules(traced: bool) -> Arc<Rules> {
    Arc::new(Rules {
        submit: SUBMIT.to_owned(),
        unary: HashSet::from([WATCH.to_owned()]),
        message_bytes_max: 1 << 20,
        calls_max: 128,
        given_up_a_second: 256,
        submit_us_max: 30_000_000,
        traced,
    })
}

fn connection() -> Connection {
    Connection::new(rules(false), 256, 0)
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}

fn opening() -> Vec<u8> {
    [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
        &frame(SETTINGS, 0, 0, &[]),
    ]
    .concat()
}

fn field(name: &str, value: &[u8]) -> Vec<u8> {
    let length = |text: &[u8]| u8::try_from(text.len()).unwrap();
    [
        &[0x10, length(name.as_bytes())],
        name.as_bytes(),
        &[length(value)],
        value,
    ]
    .concat()
}

fn call(stream: u32, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let mut block = [
        field(":method", b"POST"),
        field(":scheme", b"http"),
        field(":path", path.as_bytes()),
        field(":authority", b"10.0.0.1:1,10.0.0.2:2"),
        field("content-type", b"application/grpc"),
    ]
    .concat();
    for (name, value) in more {
        block.extend(field(name, value.as_bytes()));
    }
    frame(HEADERS, 4, stream, &block)
}

fn message(payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&[0], &length[..], payload].concat()
}

fn asked(stream: u32, path: &str, payload: &[u8]) -> Vec<u8> {
    [
        call(stream, path, &[("authorization", "Bearer k")]),
        frame(DATA, 1, stream, &message(payload)),
    ]
    .concat()
}

/// Frames of an answer: (kind, flags, stream, payload).
fn frames(mut data: &[u8]) -> Vec<(u8, u8, u32, Vec<u8>)> {
    let mut found = Vec::new();
    while data.len() >= 9 {
        let length = usize::from(data[0]) << 16 | usize::from(data[1]) << 8 | usize::from(data[2]);
        let stream = u32::from_be_bytes([data[5], data[6], data[7], data[8]]);
        found.push((data[3], data[4], stream, data[9..9 + length].to_vec()));
        data = &data[9 + length..];
    }
    assert!(data.is_empty(), "a frame is cut");
    found
}

fn data_bytes(output: &[u8], of: u32) -> usize {
    let each = frames(output).into_iter();
    each.filter(|(kind, _, stream, _)| (*kind, *stream) == (DATA, of))
        .map(|(_, _, _, payload)| payload.len())
        .sum()
}

fn submits(events: &[Event]) -> Vec<u32> {
    let each = events.iter().filter_map(|event| match event {
        Event::Submits { streams, .. } => Some(streams.clone()),
        _ => None,
    });
    each.flatten().collect()
}

#[test]
fn calls_of_a_turn_with_the_same_credentials_come_out_together() {
    let mut edge = connection();
    let said = [
        opening(),
        asked(1, SUBMIT, b"a"),
        asked(3, SUBMIT, b"b"),
        call(
            5,
            SUBMIT,
            &[("authorization", "Bearer other"), ("grpc-timeout", "1S")],
        ),
        frame(DATA, 1, 5, &message(b"c")),
        call(7, SUBMIT, &[("grpc-timeout", "1n")]),
        frame(DATA, 1, 7, &message(b"late")),
    ]
    .concat();
    let events = edge.receive(&said, 10);
    let [first, second, late] = &events[..] else {
        panic!("{events:?}");
    };
    assert!(
        matches!(first, Event::Submits { streams, requests, deadlines_us, .. }
        if streams == &[1, 3] && requests == &["a", "b"] && deadlines_us == &[30_000_010; 2])
    );
    assert!(
        matches!(second, Event::Submits { streams, deadlines_us, .. }
        if streams == &[5] && deadlines_us == &[1_000_010])
    );
    assert!(matches!(
        late,
        Event::Call {
            stream: 7,
            deadline_us: Some(10),
            ..
        }
    ));
    edge.finish(3, b"answer");
    edge.turn(20);
    let output = edge.output();
    assert_eq!(data_bytes(&output, 3), 11);
    assert_eq!(edge.calls(), 3);
}

#[test]
fn a_call_that_brings_a_trace_goes_its_own_way_where_calls_are_traced() {
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let said = [
        opening(),
        asked(1, SUBMIT, b"a"),
        call(3, SUBMIT, &[("traceparent", parent)]),
        frame(DATA, 1, 3, &message(b"b")),
        asked(5, SUBMIT, b"c"),
    ]
    .concat();
    assert_eq!(submits(&connection().receive(&said, 10)), [1, 3, 5]);

    let events = Connection::new(rules(true), 256, 0).receive(&said, 10);
    assert_eq!(submits(&events), [1, 5]);
    let brought = ("traceparent".to_owned(), Value::Text(parent.to_owned()));
    assert!(events.iter().any(|event| matches!(
        event,
        Event::Call { stream: 3, metadata, .. } if *metadata == [brought.clone()]
    )));
}

#[test]
fn a_deadline_ends_a_call_and_the_servers_own_is_told() {
    let mut edge = connection();
    let timed = call(3, SUBMIT, &[("grpc-timeout", "1S")]);
    let said = [
        opening(),
        asked(1, SUBMIT, b"a"),
        timed,
        frame(DATA, 1, 3, &message(b"b")),
    ]
    .concat();
    edge.receive(&said, 0);
    assert_eq!(edge.due_us(), 1_000_000);
    assert_eq!(edge.expire(999_999), []);
    assert_eq!(edge.expire(1_000_000), [Event::Late(3)]);
    assert_eq!(edge.expire(30_000_000), [Event::TooLong(1)]);
    assert_eq!(edge.expire(90_000_000), []);
    assert_eq!(edge.calls(), 1);
    edge.finish(1, b"answer");
    edge.receive(&asked(5, SUBMIT, b"c"), 90_000_000);
    assert_eq!(edge.due_us(), 120_000_000);
    edge.finish(5, b"answer");
    edge.turn(90_000_000);
    assert_eq!(edge.due_us(), u64::MAX, "there is no call");
}

#[test]
fn what_the_client_gives_up_is_told_once_and_its_answer_is_left_out() {
    let mut edge = connection();
    edge.receive(&[opening(), asked(1, SUBMIT, b"a")].concat(), 0);
    let reset = frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes());
    assert_eq!(edge.receive(&reset, 0), [Event::Gone(1)]);
    edge.finish(1, b"answer");
    edge.turn(0);
    assert_eq!(data_bytes(&edge.output(), 1), 0);
}

#[test]
fn calls_reset_by_the_hundred_in_one_breath_are_a_flood() {
    let mut edge = connection();
    let reset = |stream| frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
    let each = (1..1000).step_by(2);
    let flood: Vec<u8> = each
        .flat_map(|stream| [call(stream, SUBMIT, &[]), reset(stream)].concat())
        .collect();
    let events = edge.receive(&[opening(), flood].concat(), 0);
    assert_eq!(events, [Event::Ended(true)]);
    assert_eq!(edge.receive(&asked(9999, SUBMIT, b""), 0), []);
}

#[test]
fn requests_longer_than_is_taken_are_refused_before_they_have_come() {
    let mut edge = connection();
    let head = [0, 0xff, 0xff, 0xff, 0xff];
    let said = [opening(), call(1, SUBMIT, &[]), frame(DATA, 0, 1, &head)].concat();
    assert_eq!(edge.receive(&said, 0), []);
    assert_eq!(edge.calls(), 0);
}

#[test]
fn a_stream_sends_on_when_its_requests_are_taken() {
    let mut edge = connection();
    let events = edge.receive(&[opening(), call(1, STREAM, &[])].concat(), 0);
    assert!(matches!(
        &events[..],
        [Event::Call {
            stream: 1,
            request: None,
            ..
        }]
    ));
    edge.turn(0);
    edge.output();
    edge.receive(&frame(SETTINGS, 1, 0, &[]), 0); // from here on the window is the one we told
    let one = frame(DATA, 0, 1, &message(&[7; 16_000]));
    let (mut opened, mut came) = (0, 0);
    for _ in 0..8 {
        came += edge.receive(&one, 0).len();
        edge.turn(0);
        opened += frames(&edge.output())
            .iter()
            .filter(|(kind, _, stream, _)| (*kind, *stream) == (WINDOW_UPDATE, 1))
            .count();
    }
    assert_eq!((came, opened), (8, 0));
    for _ in 0..8 {
        edge.took(1);
    }
    edge.turn(0);
    let after = frames(&edge.output());
    assert!(
        after
            .iter()
            .any(|(kind, _, stream, _)| (*kind, *stream) == (WINDOW_UPDATE, 1))
    );
}

/// A window that opens while the transport is full, between the look at it and the wait for it, or long before.
#[test]
fn a_window_that_opens_at_any_moment_is_used() {
    for moment in 0..4 {
        let mut edge = connection();
        edge.receive(&[opening(), asked(1, WATCH, b"")].concat(), 0);
        edge.turn(0);
        edge.output();
        let open = [
            frame(WINDOW_UPDATE, 0, 1, &200_000_u32.to_be_bytes()),
            frame(WINDOW_UPDATE, 0, 0, &200_000_u32.to_be_bytes()),
        ]
        .concat();
        let mut events = Vec::new();
        let mut sent = 0;
        if moment == 0 {
            events.extend(edge.receive(&open, 0));
        }
        if moment == 1 {
            edge.set_full(true);
        }
        let blocked = edge.send(1, &vec![7; 150_000]);
        assert!(blocked || moment == 0);
        if moment == 1 {
            events.extend(edge.receive(&open, 0));
            edge.set_full(false);
        }
        if moment == 2 {
            events.extend(edge.receive(&open, 0)); // before any turn
        }
        events.extend(edge.turn(0));
        sent += data_bytes(&edge.output(), 1);
        if moment == 3 {
            assert_eq!((sent, events.len()), (WINDOW, 0));
            events.extend(edge.receive(&open, 0));
        }
        events.extend(edge.turn(0));
        sent += data_bytes(&edge.output(), 1);
        assert_eq!(sent, 150_005, "moment {moment}");
        let told = events
            .iter()
            .filter(|event| **event == Event::Room(1))
            .count();
        assert_eq!(told, usize::from(blocked), "moment {moment}");
    }
}

#[test]
fn an_end_waits_behind_what_was_sent() {
    let mut edge = connection();
    edge.receive(&[opening(), asked(1, WATCH, b"")].concat(), 0);
    assert!(edge.send(1, &vec![7; 100_000]));
    edge.end(1, 8, "too slow", &[]);
    edge.turn(0);
    let before = edge.output();
    assert_eq!(data_bytes(&before, 1), WINDOW);
    assert!(
        !frames(&before)
            .iter()
            .any(|(kind, flags, ..)| *kind == HEADERS && flags & 1 == 1)
    );
    let open = |of: u32| frame(WINDOW_UPDATE, 0, of, &100_000_u32.to_be_bytes());
    edge.receive(&[open(0), open(1)].concat(), 0);
    edge.turn(0);
    let after = edge.output();
    assert_eq!(data_bytes(&after, 1), 100_005 - WINDOW);
    assert!(
        frames(&after)
            .iter()
            .any(|(kind, flags, ..)| *kind == HEADERS && flags & 1 == 1)
    );
    assert_eq!(edge.calls(), 0);
}

/// gRPC's clients ping while they read, to learn how much the way holds, and open windows as they read.
#[test]
fn whoever_reads_long_answers_may_ping_meanwhile() {
    let mut edge = connection();
    edge.receive(&[opening(), asked(1, WATCH, b"")].concat(), 0);
    edge.finish(1, &vec![7; 1 << 20]);
    let mut read = 0;
    while read < 1 << 20 {
        edge.turn(0);
        let came = data_bytes(&edge.output(), 1);
        assert!(came > 0, "{read} bytes were read");
        read += came;
        let open = |of: u32| frame(WINDOW_UPDATE, 0, of, &30_000_u32.to_be_bytes());
        let said = [open(0), open(1), frame(PING, 0, 0, &[0; 8])].concat();
        assert_eq!(edge.receive(&said, 0), []);
    }
}

#[test]
fn windows_opened_for_long_answers_are_no_flood() {
    let mut edge = connection();
    edge.receive(&opening(), 0);
    for stream in (1..600).step_by(2) {
        edge.receive(&asked(stream, WATCH, b""), 0);
        edge.finish(stream, &vec![7; 1 << 20]);
        let mut read = 0;
        while read < 1 << 20 {
            edge.turn(0);
            read += data_bytes(&edge.output(), stream);
            let open = |of: u32| frame(WINDOW_UPDATE, 0, of, &16_384_u32.to_be_bytes());
            assert_eq!(
                edge.receive(&[open(0), open(stream)].concat(), 0),
                [],
                "{stream}"
            );
        }
    }
}

#[test]
fn what_waits_for_its_rest_or_its_reader_is_counted_and_may_be_ended() {
    let mut edge = connection();
    let cut = &message(&[7; 1000])[..500];
    let said = [
        opening(),
        asked(1, WATCH, b""),
        call(3, SUBMIT, &[]),
        frame(DATA, 0, 3, cut),
        asked(5, WATCH, b""),
    ]
    .concat();
    edge.receive(&said, 100);
    assert_eq!((edge.held_bytes(), edge.held_since_us()), (500, 100));
    edge.turn(200);
    edge.finish(1, &vec![7; 100_000]);
    assert_eq!(edge.held_bytes(), 500 + 100_005 - WINDOW);
    edge.receive(&frame(DATA, 0, 3, &[7; 505]), 300);
    assert_eq!(edge.held_since_us(), 200);
    edge.turn(300);
    assert_eq!(data_bytes(&edge.output(), 1), WINDOW);
    assert_eq!(edge.refuse_held(400), []);
    let ended = frames(&edge.output());
    let calm = 11_u32.to_be_bytes().to_vec();
    assert_eq!(ended, [(RST_STREAM, 0, 1, calm)]);
    assert_eq!((edge.held_bytes(), edge.calls()), (0, 2));
}

#[test]
fn a_request_has_a_minute_to_come_whole_from_its_first_byte_on() {
    let mut edge = connection();
    edge.receive(&[opening(), call(1, SUBMIT, &[])].concat(), 0);
    edge.receive(&frame(DATA, 0, 1, b"\0"), 30_000_000);
    assert_eq!(edge.expire(60_000_000), []);
    assert_eq!((edge.calls(), edge.due_us()), (1, 90_000_000));
    edge.receive(&frame(DATA, 0, 1, b"\0"), 80_000_000);
    edge.expire(90_000_000);
    assert_eq!(edge.calls(), 0);
}

#[test]
fn a_request_of_many_bytes_in_frames_of_one_is_a_flood() {
    let mut edge = connection();
    let head = &message(&vec![7; 100_000])[..5];
    let begun = [
        opening(),
        call(1, SUBMIT, &[]),
        frame(DATA, 0, 1, head),
        frame(SETTINGS, 1, 0, &[]),
    ];
    edge.receive(&begun.concat(), 0);
    let some = frame(DATA, 0, 1, &[7]).repeat(1000);
    let ended = (0..30).any(|_| {
        edge.turn(0);
        edge.output();
        edge.receive(&some, 0) == [Event::Ended(true)]
    });
    assert!(ended);
}

#[test]
fn short_requests_that_are_answered_are_no_flood() {
    let mut edge = connection();
    let begun = [
        opening(),
        call(1, STREAM, &[]),
        frame(SETTINGS, 1, 0, &[]),
        frame(WINDOW_UPDATE, 0, 0, &0x3fff_ffff_u32.to_be_bytes()),
        frame(WINDOW_UPDATE, 0, 1, &0x3fff_ffff_u32.to_be_bytes()),
    ];
    edge.receive(&begun.concat(), 0);
    let some = frame(DATA, 0, 1, &message(&[7; 60])).repeat(100);
    for _ in 0..500 {
        assert_eq!(edge.receive(&some, 0).len(), 100);
        for _ in 0..100 {
            edge.took(1);
            edge.send(1, b"answer");
        }
        edge.turn(0);
        edge.output();
    }
}

#[test]
fn windows_opened_by_the_byte_are_a_flood() {
    let mut edge = connection();
    let narrow = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    edge.receive(&[opening(), narrow, asked(1, WATCH, b"")].concat(), 0);
    edge.finish(1, &vec![7; 1 << 16]);
    let open = frame(WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes());
    let ended = (0..30_000).any(|_| {
        let events = edge.receive(&open, 0);
        edge.turn(0);
        edge.output();
        events == [Event::Ended(true)]
    });
    assert!(ended);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_call_is_lost_whatever_the_pieces(pieces in proptest::collection::vec(1_usize..60, 1..40), full in any::<u64>()) {
        let mut edge = connection();
        let streams: Vec<u32> = (1..60).step_by(2).collect();
        let calls = streams.iter().flat_map(|stream| asked(*stream, SUBMIT, &[7; 50]));
        let said: Vec<u8> = opening().into_iter().chain(calls).collect();
        let (mut at, mut found) = (0, Vec::new());
        for (turn, piece) in pieces.iter().cycle().enumerate() {
            if at == said.len() {
                break;
            }
            let end = said.len().min(at + piece);
            edge.set_full(full >> (turn % 64) & 1 == 1);
            found.extend(submits(&edge.receive(&said[at..end], 0)));
            at = end;
            found.extend(submits(&edge.turn(0)));
            edge.output();
        }
        edge.set_full(false);
        found.extend(submits(&edge.turn(0)));
        prop_assert_eq!(found, streams);
    }
    #[test]
    fn nothing_a_peer_says_panics(noise in proptest::collection::vec((0_u8..12, any::<u8>(), 0_u32..8,
            proptest::collection::vec(any::<u8>(), 0..40)), 0..40)) {
        let mut edge = connection();
        let each = noise.iter().flat_map(|(kind, flags, stream, payload)| frame(*kind, *flags, *stream, payload));
        let said: Vec<u8> = opening().into_iter().chain(asked(1, STREAM, b"x")).chain(each).collect();
        for piece in said.chunks(100) {
            for event in edge.receive(piece, 0) {
                if let Event::Call { stream, .. } = event {
                    edge.send(stream, b"y");
                    edge.end(stream, 13, "no", &[]);
                }
            }
            edge.turn(0);
            frames(&edge.output());
        }
        edge.expire(u64::MAX / 2);
    }
}
