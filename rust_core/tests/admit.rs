//! Admit: every verdict it gives, what it accepts, and how request ids tie answers together.

use std::sync::Arc;

use _core::admit::{
    Admission, Ahead, Bound, Call, CallKind, Door, Existing, Limits, Refusal, Reply, RowError,
    admit, held_from_row, urgency,
};
use _core::consent::Consent;
use _core::ids::{EPOCH_US, IdMint, message_name, short_id};
use _core::message::{Carrier, Class, Kind, flags};
use _core::registry::{Campaign, CampaignState, OnUnknown, Quota, Registry, Scope, Tenant, Unit};
use _core::verdict::Verdict;
use _core::view::{StoredRow, history_events};
use _core::wire::{
    Duration, StreamMessagesRequest, StreamMessagesResponse, Submission, SubmitMessageRequest,
    SubmitMessageResponse, SubmitMessagesRequest, SubmitMessagesResponse, SubmitResult, Timestamp,
    WatchEventsResponse,
};
use bytes::Bytes;
use proptest::prelude::*;
use prost::Message as _;

const NOW_US: i64 = EPOCH_US + 86_400_000_000;
const NOW_SECONDS: i64 = NOW_US / 1_000_000;
const NUMBERS: [u64; 3] = [12_025_550_100, 12_025_550_101, 12_025_550_102];
const RECIPIENT: u64 = 12_025_550_123;

fn campaign(key: u32, tenant: u32, id: &str, state: CampaignState, numbers: &[u64]) -> Campaign {
    Campaign {
        key,
        tenant,
        brand: 7,
        id: id.to_owned(),
        state,
        on_unknown: OnUnknown::ByClass,
        messaging_profile: String::new(),
        numbers: numbers.to_vec(),
    }
}

fn registry(quotas: Vec<Quota>) -> Registry {
    let tenants = vec![
        Tenant {
            key: 1,
            active: true,
        },
        Tenant {
            key: 2,
            active: true,
        },
        Tenant {
            key: 3,
            active: false,
        },
    ];
    let campaigns = vec![
        campaign(10, 1, "alerts", CampaignState::Active, &NUMBERS),
        campaign(11, 1, "paused", CampaignState::Paused, &[12_025_550_110]),
        campaign(12, 1, "stopped", CampaignState::Stopped, &[12_025_550_111]),
        campaign(13, 1, "bare", CampaignState::Active, &[]),
        campaign(20, 2, "theirs", CampaignState::Active, &[12_025_550_120]),
    ];
    Registry::new(1, tenants, campaigns, quotas)
}

fn plain() -> Submission {
    Submission {
        campaign: "campaigns/alerts".into(),
        recipient: format!("+{RECIPIENT}"),
        text: "Your canary is ready".into(),
        request_id: "r-1".into(),
        ..Submission::default()
    }
}

fn picture() -> Submission {
    Submission {
        media_urls: vec!["https://example.com/a.png".into()],
        ..plain()
    }
}

fn batch_of(tenant: u32, submissions: &[Submission]) -> Call {
    let submissions = submissions
        .iter()
        .map(|submission| submission.encode_to_vec().into())
        .collect();
    let request = SubmitMessagesRequest { submissions }.encode_to_vec().into();
    Call {
        kind: CallKind::Batch,
        tenant,
        request,
    }
}

fn unary_of(tenant: u32, submission: &Submission) -> Call {
    let request = SubmitMessageRequest {
        submission: vec![submission.encode_to_vec().into()],
    };
    Call {
        kind: CallKind::Unary,
        tenant,
        request: request.encode_to_vec().into(),
    }
}

fn judged(calls: &[Call], registry: &Registry, consent: &Consent, room: usize) -> Admission {
    let mut mint = IdMint::new(1, 0).expect("a node");
    admit(
        calls,
        registry,
        consent,
        &Limits::default(),
        &mut mint,
        NOW_US,
        Door::open(room),
    )
}

fn group(submissions: &[Submission]) -> Admission {
    judged(
        &[batch_of(1, submissions)],
        &registry(vec![]),
        &Consent::default(),
        1000,
    )
}

fn results(admission: &Admission) -> Vec<SubmitResult> {
    let [Reply::Ok(bytes)] = &admission.replies()[..] else {
        panic!("one answered batch")
    };
    SubmitMessagesResponse::decode(&bytes[..])
        .expect("a response")
        .results
}

fn verdicts(admission: &Admission) -> Vec<Verdict> {
    results(admission)
        .iter()
        .map(|result| Verdict::from_number(i64::from(result.verdict)).expect("listed"))
        .collect()
}

/// Verdict and field of the answer to one submission, which must not be accepted.
fn refused(submission: &Submission) -> (Verdict, String) {
    let admission = group(std::slice::from_ref(submission));
    assert!(admission.accepted().is_empty());
    let result = results(&admission).swap_remove(0);
    assert!(
        !result.detail.is_empty()
            && !result.detail.contains("canary")
            && !result.detail.contains("555")
    );
    assert_eq!(
        (result.message.as_str(), result.segments, result.retry_safe),
        ("", 0, false)
    );
    (
        Verdict::from_number(i64::from(result.verdict)).expect("listed"),
        result.field,
    )
}

fn refusals(reply: &Reply) -> &Refusal {
    let Reply::Refused(refusal) = reply else {
        panic!("refused")
    };
    refusal
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table of cases")]
fn each_fault_of_a_submission_has_its_verdict_and_field() {
    let labels = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();
    let cases: Vec<(Verdict, &str, Submission)> = vec![
        (
            Verdict::InvalidRecipient,
            "recipient",
            Submission {
                recipient: "2025550123".into(),
                ..plain()
            },
        ),
        (
            Verdict::InvalidRecipient,
            "recipient",
            Submission {
                recipient: String::new(),
                ..plain()
            },
        ),
        (
            Verdict::InvalidSender,
            "sender",
            Submission {
                sender: "12345".into(),
                ..plain()
            },
        ),
        (
            Verdict::EmptyContent,
            "text",
            Submission {
                text: String::new(),
                ..plain()
            },
        ),
        (
            Verdict::EmptyContent,
            "text",
            Submission {
                text: " \n\u{a0}\u{3000}".into(),
                ..plain()
            },
        ),
        (
            Verdict::InvalidText,
            "text",
            Submission {
                text: "a\0canary".into(),
                ..plain()
            },
        ),
        (
            Verdict::InvalidText,
            "text",
            Submission {
                text: "a\0canary".into(),
                ..picture()
            },
        ),
        (
            Verdict::TextTooLong,
            "text",
            Submission {
                text: "a".repeat(1531),
                ..plain()
            },
        ),
        (
            Verdict::TextTooLong,
            "text",
            Submission {
                text: "я".repeat(671),
                ..plain()
            },
        ),
        (
            Verdict::InvalidMedia,
            "media_urls",
            Submission {
                media_urls: vec!["http://a/".into(); 11],
                ..plain()
            },
        ),
        (
            Verdict::InvalidMedia,
            "subject",
            Submission {
                subject: "s".into(),
                ..plain()
            },
        ),
        (
            Verdict::InvalidMedia,
            "subject",
            Submission {
                subject: "s".repeat(256),
                ..picture()
            },
        ),
        (
            Verdict::InvalidMedia,
            "subject",
            Submission {
                subject: "a\r\nb".into(),
                ..picture()
            },
        ),
        (
            Verdict::InvalidScheduleTime,
            "schedule_time",
            Submission {
                schedule_time: Some(Timestamp {
                    seconds: NOW_SECONDS + 35 * 86_400,
                    nanos: 1_000,
                }),
                ..plain()
            },
        ),
        (
            Verdict::InvalidScheduleTime,
            "schedule_time",
            Submission {
                schedule_time: Some(Timestamp {
                    seconds: 1,
                    nanos: -1,
                }),
                ..plain()
            },
        ),
        (
            Verdict::InvalidValidity,
            "validity",
            Submission {
                validity: Some(Duration {
                    seconds: 0,
                    nanos: 0,
                }),
                ..plain()
            },
        ),
        (
            Verdict::InvalidValidity,
            "validity",
            Submission {
                validity: Some(Duration {
                    seconds: 14 * 86_400,
                    nanos: 1,
                }),
                ..plain()
            },
        ),
        (
            Verdict::InvalidRequestId,
            "request_id",
            Submission {
                request_id: "r".repeat(65),
                ..plain()
            },
        ),
        (
            Verdict::InvalidRequestId,
            "request_id",
            Submission {
                request_id: "a\tb".into(),
                ..plain()
            },
        ),
        (
            Verdict::InvalidRequestId,
            "request_id",
            Submission {
                request_id: "é".into(),
                ..plain()
            },
        ),
        (
            Verdict::InvalidOrderingKey,
            "ordering_key",
            Submission {
                ordering_key: "k".repeat(65),
                ..plain()
            },
        ),
        (
            Verdict::InvalidClientReference,
            "client_reference",
            Submission {
                client_reference: "c".repeat(129),
                ..plain()
            },
        ),
        (
            Verdict::InvalidLabels,
            "labels",
            Submission {
                labels: (0..17)
                    .map(|key| (key.to_string(), String::new()))
                    .collect(),
                ..plain()
            },
        ),
        (
            Verdict::InvalidLabels,
            "labels",
            Submission {
                labels: labels("", "v"),
                ..plain()
            },
        ),
        (
            Verdict::InvalidLabels,
            "labels",
            Submission {
                labels: labels(&"k".repeat(64), "v"),
                ..plain()
            },
        ),
        (
            Verdict::InvalidLabels,
            "labels",
            Submission {
                labels: labels("k", &"v".repeat(256)),
                ..plain()
            },
        ),
        (
            Verdict::InvalidEnum,
            "message_class",
            Submission {
                message_class: 4,
                ..plain()
            },
        ),
        (
            Verdict::InvalidEnum,
            "message_class",
            Submission {
                message_class: -1,
                ..plain()
            },
        ),
    ];
    for (verdict, field, submission) in &cases {
        assert_eq!(
            refused(submission),
            (*verdict, (*field).to_owned()),
            "{submission:?}"
        );
    }
}

#[test]
fn a_media_url_must_be_one_that_can_be_fetched() {
    let too_long = format!("https://example.com/{}", "a".repeat(1981));
    let wrong = [
        "",
        "example.com/a",
        "ftp://example.com/a",
        "https:///a",
        "https://",
        "https://user@/a",
        "https://:8080/a",
        "https://?a",
        "https://[]/a",
        "https://exa mple.com",
        "https://example.com/\u{7f}",
        "https://example.com/\u{2028}",
        too_long.as_str(),
    ];
    for url in wrong {
        let media_urls = vec!["https://example.com/".to_owned(), url.to_owned()];
        let answer = refused(&Submission {
            media_urls,
            ..plain()
        });
        assert_eq!(
            answer,
            (Verdict::InvalidMedia, "media_urls[1]".to_owned()),
            "{url}"
        );
    }
    let right = [
        "http://a",
        "HTTPS://example.com:8080?x#y",
        "https://u:p@example.com/é",
        "https://[2001:db8::1]:80/",
    ];
    let media_urls = right.map(str::to_owned).to_vec();
    let admission = group(&[Submission {
        media_urls,
        ..plain()
    }]);
    assert_eq!(verdicts(&admission), [Verdict::Accepted]);
}

#[test]
fn rights_have_their_verdicts_and_foreign_things_look_missing() {
    let with = |campaign: &str, sender: &str| Submission {
        campaign: campaign.into(),
        sender: sender.into(),
        ..plain()
    };
    for missing in [
        "",
        "alerts",
        "campaigns/",
        "campaigns/none",
        "campaigns/alerts/x",
        "campaigns/theirs",
    ] {
        assert_eq!(
            refused(&with(missing, "")),
            (Verdict::CampaignNotFound, "campaign".into()),
            "{missing}"
        );
    }
    let foreign = results(&group(&[with("campaigns/theirs", "")]));
    assert_eq!(
        foreign,
        results(&group(&[with("campaigns/none", "")])),
        "answers alike"
    );
    assert_eq!(
        refused(&with("campaigns/stopped", "")),
        (Verdict::CampaignStopped, "campaign".into())
    );
    assert_eq!(
        refused(&with("campaigns/bare", "")),
        (Verdict::NoSender, "campaign".into())
    );
    // One of another campaign, of another tenant, of nobody.
    let strangers = ["+12025550110", "+12025550120", "+12025550199"];
    for sender in strangers {
        assert_eq!(
            refused(&with("campaigns/alerts", sender)),
            (Verdict::SenderNotInCampaign, "sender".into())
        );
    }
    let answers: Vec<_> = strangers
        .iter()
        .map(|sender| results(&group(&[with("campaigns/alerts", sender)])))
        .collect();
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(
        verdicts(&group(&[with("campaigns/paused", "")])),
        [Verdict::Accepted],
        "held, not refused"
    );
}

#[test]
fn neighbours_of_several_tenants_and_campaigns_do_not_mix() {
    let theirs = Submission {
        campaign: "campaigns/theirs".into(),
        request_id: "r-2".into(),
        ..plain()
    };
    let calls = [
        batch_of(1, &[plain()]),
        batch_of(2, &[plain(), theirs.clone()]),
        batch_of(1, &[theirs]),
    ];
    let admission = judged(&calls, &registry(vec![]), &Consent::default(), 10);
    let found: Vec<(u32, u32)> = admission
        .accepted()
        .iter()
        .map(|accepted| (accepted.held.tenant, accepted.held.campaign))
        .collect();
    assert_eq!(found, [(1, 10), (2, 20)]);
    assert_eq!(
        admission.counts(),
        [
            (0, Verdict::CampaignNotFound, 2),
            (10, Verdict::Accepted, 1),
            (20, Verdict::Accepted, 1)
        ]
    );
}

#[test]
fn an_opt_out_forbids_its_tenant_only() {
    let mut consent = Consent::default();
    assert!(consent.is_empty() && consent.insert(1, RECIPIENT) && !consent.insert(1, RECIPIENT));
    let theirs = Submission {
        campaign: "campaigns/theirs".into(),
        ..plain()
    };
    let calls = [batch_of(1, &[plain()]), batch_of(2, &[theirs])];
    let counts = judged(&calls, &registry(vec![]), &consent, 10).counts();
    assert_eq!(
        counts,
        [
            (10, Verdict::RecipientOptedOut, 1),
            (20, Verdict::Accepted, 1)
        ]
    );
    assert!(consent.remove(1, RECIPIENT) && !consent.remove(1, RECIPIENT));
    assert_eq!(consent.len(), 0);
}

fn quota(scope: Scope, subject: u64, unit: Unit, amount: u64, burst: u64) -> Quota {
    Quota {
        key: 1,
        scope,
        subject,
        carrier: Carrier::Unknown,
        unit,
        amount,
        window_us: 60_000_000,
        burst,
        reserved_percent: 0,
        reserved_class: Class::Critical,
    }
}

#[test]
fn a_message_that_a_quota_can_never_pass_is_refused() {
    let three_segments = Submission {
        text: "a".repeat(400),
        sender: "+12025550100".into(),
        ..plain()
    };
    let answer = |submission: &Submission, quotas: Vec<Quota>| {
        let calls = [batch_of(1, std::slice::from_ref(submission))];
        verdicts(&judged(&calls, &registry(quotas), &Consent::default(), 10))[0]
    };
    let subjects = [
        (Scope::Number, 12_025_550_100),
        (Scope::Campaign, 10),
        (Scope::CampaignCarrier, 10),
        (Scope::Provider, 1),
        (Scope::Tenant, 1),
    ];
    for (scope, subject) in subjects {
        let low = quota(scope, subject, Unit::Segments, 100, 2);
        assert_eq!(
            answer(&three_segments, vec![low.clone()]),
            Verdict::ExceedsQuota,
            "{scope:?}"
        );
        assert_eq!(
            answer(
                &Submission {
                    text: "a".repeat(306),
                    ..three_segments.clone()
                },
                vec![low.clone()]
            ),
            Verdict::Accepted
        );
        assert_eq!(
            answer(
                &Submission {
                    text: three_segments.text.clone(),
                    ..picture()
                },
                vec![low]
            ),
            Verdict::Accepted
        );
        assert_eq!(
            answer(
                &three_segments,
                vec![quota(scope, subject, Unit::Segments, 100, 3)]
            ),
            Verdict::Accepted
        );
        assert_eq!(
            answer(
                &three_segments,
                vec![quota(scope, subject, Unit::Messages, 100, 1)]
            ),
            Verdict::Accepted
        );
        assert_eq!(
            answer(
                &three_segments,
                vec![quota(scope, subject, Unit::Messages, 0, 0)]
            ),
            Verdict::ExceedsQuota
        );
        if scope != Scope::Provider {
            let other = quota(scope, subject + 1, Unit::Segments, 100, 2);
            assert_eq!(
                answer(&three_segments, vec![other]),
                Verdict::Accepted,
                "{scope:?} binds another"
            );
        }
    }
    let either = vec![
        quota(Scope::Provider, 1, Unit::Segments, 9, 2),
        quota(Scope::Provider, 2, Unit::Segments, 9, 3),
    ];
    assert_eq!(
        answer(&three_segments, either),
        Verdict::Accepted,
        "another provider passes it"
    );

    let ledger = Quota {
        reserved_percent: 50,
        reserved_class: Class::Transactional,
        ..quota(Scope::BrandCarrierDay, 7, Unit::Segments, 5, 0)
    };
    assert_eq!(
        answer(&three_segments, vec![ledger.clone()]),
        Verdict::Accepted
    );
    let bulk = Submission {
        message_class: 3,
        ..three_segments
    };
    assert_eq!(
        answer(&bulk, vec![ledger]),
        Verdict::ExceedsQuota,
        "half is reserved, rounded up"
    );
}

#[test]
fn a_full_schedule_refuses_the_rest_and_says_when_to_come_back() {
    let later = Timestamp {
        seconds: NOW_US / 1_000_000 + 3600,
        nanos: 0,
    };
    let submissions: Vec<Submission> = (0..4)
        .map(|place| Submission {
            request_id: format!("r-{}", place % 3),
            schedule_time: Some(later),
            ..plain()
        })
        .collect();
    let admission = judged(
        &[batch_of(1, &submissions)],
        &registry(vec![]),
        &Consent::default(),
        2,
    );
    let answers = results(&admission);
    assert_eq!(
        verdicts(&admission),
        [
            Verdict::Accepted,
            Verdict::Accepted,
            Verdict::QueueFull,
            Verdict::Accepted
        ]
    );
    assert_eq!(
        answers[2].retry_delay,
        Some(Duration {
            seconds: 1,
            nanos: 0
        })
    );
    assert_eq!(answers[3], answers[0], "a repeat takes no room");
    assert_eq!(admission.accepted().len(), 2);
}

#[test]
fn whole_calls_are_refused_for_their_own_faults() {
    let call = |kind, tenant, request: &[u8]| Call {
        kind,
        tenant,
        request: Bytes::copy_from_slice(request),
    };
    let too_many = batch_of(1, &vec![plain(); 1001]);
    let cases = [
        (
            call(CallKind::Batch, 1, b""),
            Verdict::InvalidBatch,
            "submissions",
        ),
        (
            call(CallKind::Stream, 1, b"\x08\x01"),
            Verdict::InvalidBatch,
            "submissions",
        ),
        (
            call(CallKind::Unary, 1, b""),
            Verdict::InvalidBatch,
            "submission",
        ),
        (too_many, Verdict::InvalidBatch, "submissions"),
        (
            call(CallKind::Batch, 1, b"\x0a\x09"),
            Verdict::Undecodable,
            "",
        ),
        (call(CallKind::Stream, 1, b"\xff"), Verdict::Undecodable, ""),
        (
            call(CallKind::Unary, 1, b"\x0a\x09"),
            Verdict::Undecodable,
            "",
        ),
        (unary_of(3, &plain()), Verdict::TenantSuspended, ""),
        (unary_of(9, &plain()), Verdict::TenantSuspended, ""),
    ];
    for (call, verdict, field) in cases {
        let admission = judged(&[call], &registry(vec![]), &Consent::default(), 10);
        let replies = admission.replies();
        assert_eq!(
            (refusals(&replies[0]).verdict, &*refusals(&replies[0]).field),
            (verdict, field)
        );
        assert_eq!(admission.counts(), [(0, verdict, 1)]);
        assert!(admission.accepted().is_empty() && admission.lookups().is_empty());
    }
    assert_eq!(
        verdicts(&group(&vec![
            Submission {
                request_id: String::new(),
                ..plain()
            };
            1000
        ]))
        .len(),
        1000
    );
}

#[test]
fn a_broken_or_oversized_item_spoils_itself_only() {
    let mut broken = plain().encode_to_vec();
    broken.extend_from_slice(b"\x22\x02\xff\xfe");
    let submissions = vec![
        broken.into(),
        plain().encode_to_vec().into(),
        Submission {
            client_reference: "x".repeat(70_000),
            ..plain()
        }
        .encode_to_vec()
        .into(),
    ];
    let request = SubmitMessagesRequest { submissions }.encode_to_vec().into();
    let call = Call {
        kind: CallKind::Batch,
        tenant: 1,
        request,
    };
    let admission = judged(&[call], &registry(vec![]), &Consent::default(), 10);
    assert_eq!(
        verdicts(&admission),
        [
            Verdict::Undecodable,
            Verdict::Accepted,
            Verdict::Undecodable
        ]
    );
}

#[test]
fn what_is_accepted_is_ready_to_store() {
    let submission = Submission {
        client_reference: "ref".into(),
        ordering_key: "k".into(),
        ..plain()
    };
    let admission = group(std::slice::from_ref(&submission));
    let accepted = &admission.accepted()[0];
    let held = &accepted.held;
    assert_eq!(
        (held.tenant, held.campaign, held.recipient),
        (1, 10, RECIPIENT)
    );
    assert_eq!(
        (held.class, held.kind, held.encoding, held.segments),
        (Class::Transactional, Kind::Sms, 1, 1)
    );
    assert_eq!(
        (
            held.seq,
            held.attempt,
            held.generation,
            held.counted,
            held.recipe
        ),
        (1, 0, 1, 0, 0)
    );
    assert_eq!(
        (held.flags, held.due_us, held.expires_us),
        (flags::ORDERED, NOW_US, NOW_US + 86_400_000_000)
    );
    assert!(NUMBERS.contains(&held.sender));
    let record = Submission::decode(&*held.body).expect("a record");
    assert_eq!(
        record,
        Submission {
            sender: format!("+{}", held.sender),
            ..submission
        }
    );
    assert_eq!(accepted.request_id.as_deref(), Some("r-1"));
    assert_eq!((accepted.accept_us, accepted.scheduled), (NOW_US, false));
    assert_eq!(
        (
            accepted.client_reference.as_str(),
            accepted.campaign_id.as_str()
        ),
        ("ref", "alerts")
    );

    let result = &results(&admission)[0];
    assert_eq!(
        (result.message.as_str(), result.segments, result.encoding),
        (&*message_name(held.id), 1, 1)
    );
    assert!(result.retry_safe);

    let [(1, blob)] = &admission.first_events()[..] else {
        panic!("one tenant")
    };
    let events = WatchEventsResponse::decode(&blob[..])
        .expect("a response")
        .events;
    let (name, campaign) = (message_name(held.id), "campaigns/alerts");
    assert_eq!(
        history_events(&accepted.history, &name, campaign, "ref").expect("a history"),
        events
    );
    assert_eq!(
        (
            events[0].seq,
            events[0].state,
            events[0].reason,
            events[0].generation
        ),
        (1, 1, 1, 1)
    );
    assert_eq!(events[0].event_time, Some(Timestamp::from_micros(NOW_US)));
}

#[test]
fn without_a_request_id_one_is_minted_that_no_retry_can_use() {
    let nameless = Submission {
        request_id: String::new(),
        ..plain()
    };
    let admission = group(&[nameless.clone(), nameless]);
    assert_eq!(admission.accepted().len(), 2, "two messages");
    assert!(results(&admission).iter().all(|result| !result.retry_safe));
    assert!(admission.lookups().is_empty());
    for accepted in admission.accepted() {
        assert_eq!(accepted.request_id, None);
        let record = Submission::decode(&*accepted.held.body).expect("a record");
        assert_eq!(
            format!("messages/{}", record.request_id.trim_start_matches("lw-")),
            message_name(accepted.held.id)
        );
    }
}

#[test]
fn ids_given_anew_are_above_another_nodes_and_are_what_is_told() {
    let keyed = Submission {
        ordering_key: "door-12".to_owned(),
        ..plain()
    };
    let nameless = Submission {
        request_id: String::new(),
        ..keyed.clone()
    };
    let free = Submission {
        request_id: "free".to_owned(),
        ..plain()
    };
    let mut mint = IdMint::new(1, 0).expect("a node");
    let mut admission = admit(
        &[batch_of(1, &[keyed.clone(), nameless, keyed, free])],
        &registry(vec![]),
        &Consent::default(),
        &Limits::default(),
        &mut mint,
        NOW_US,
        Door::open(1000),
    );
    let before: Vec<u64> = admission.accepted().iter().map(|one| one.held.id).collect();
    assert_eq!(before.len(), 3, "one is a repeat");
    assert_eq!(
        admission.ordered().into_iter().collect::<Vec<_>>(),
        [(1, (before[0], before[1]))]
    );
    let ahead = IdMint::new(9, 0).expect("a node").mint(NOW_US + 60_000_000);
    admission.renumber(&mut mint, ahead, NOW_US);
    let ids: Vec<u64> = admission.accepted().iter().map(|one| one.held.id).collect();
    assert!(ids.iter().all(|&id| id > ahead));
    assert!(ids.is_sorted(), "in call order");
    let told: Vec<String> = results(&admission)
        .into_iter()
        .map(|result| result.message)
        .collect();
    let names = [0, 1, 0, 2].map(|place| message_name(ids[place]));
    assert_eq!(told, names);
    let record = Submission::decode(&*admission.accepted()[1].held.body).expect("a record");
    assert_eq!(record.request_id, format!("lw-{}", short_id(ids[1])));
    assert!(mint.mint(NOW_US) > ids[2], "what comes later is above, too");
}

#[test]
fn validity_counts_from_the_later_of_acceptance_and_schedule() {
    let hour = Some(Timestamp {
        seconds: NOW_SECONDS + 3600,
        nanos: 0,
    });
    let past = Some(Timestamp {
        seconds: 0,
        nanos: 0,
    });
    let minute = Some(Duration {
        seconds: 60,
        nanos: 0,
    });
    let cases = [
        (1, None, None, 0, 900, false),
        (0, None, None, 0, 86_400, false),
        (3, None, None, 0, 3 * 86_400, false),
        (3, past, minute, 0, 60, false),
        (2, hour, None, 3600, 3600 + 86_400, true),
        (2, hour, minute, 3600, 3660, true),
    ];
    for (message_class, schedule_time, validity, due_s, expires_s, scheduled) in cases {
        let admission = group(&[Submission {
            message_class,
            schedule_time,
            validity,
            ..plain()
        }]);
        let accepted = &admission.accepted()[0];
        assert_eq!(accepted.held.due_us, NOW_US + due_s * 1_000_000);
        assert_eq!(accepted.held.expires_us, NOW_US + expires_s * 1_000_000);
        assert_eq!(accepted.scheduled, scheduled);
        let blob = &admission.first_events()[0].1;
        let events = WatchEventsResponse::decode(&blob[..])
            .expect("a response")
            .events;
        assert_eq!(events[0].reason, if scheduled { 2 } else { 1 });
    }
    let limits = [
        Submission {
            schedule_time: Some(Timestamp {
                seconds: NOW_SECONDS + 35 * 86_400,
                nanos: 0,
            }),
            ..plain()
        },
        Submission {
            validity: Some(Duration {
                seconds: 14 * 86_400,
                nanos: 0,
            }),
            ..plain()
        },
    ];
    for submission in limits {
        assert_eq!(
            verdicts(&group(&[submission])),
            [Verdict::Accepted],
            "the bound itself is allowed"
        );
    }
}

#[test]
fn a_bound_of_whole_days_is_said_in_days() {
    let far = Submission {
        schedule_time: Some(Timestamp {
            seconds: NOW_SECONDS + 36 * 86_400,
            nanos: 0,
        }),
        ..plain()
    };
    let long = Submission {
        validity: Some(Duration {
            seconds: 15 * 86_400,
            nanos: 0,
        }),
        ..plain()
    };
    for (submission, said) in [(far, "35 d (3024000 s)"), (long, "14 d (1209600 s)")] {
        let detail = results(&group(&[submission]))[0].detail.clone();
        assert!(detail.contains(said), "{detail}");
    }
}

#[test]
fn smart_encoding_replaces_only_where_it_is_asked_for_and_pays() {
    let stored = |submission: Submission| {
        let admission = group(&[submission]);
        let held = admission.accepted()[0].held.clone();
        (
            Submission::decode(&*held.body).expect("a record").text,
            held.encoding,
            held.segments,
        )
    };
    let curly = Submission {
        text: format!("\u{201c}{}\u{201d}", "a".repeat(100)),
        ..plain()
    };
    assert_eq!(stored(curly.clone()), (curly.text.clone(), 2, 2));
    let smart = Submission {
        smart_encoding: true,
        ..curly
    };
    assert_eq!(
        stored(smart.clone()),
        (format!("\"{}\"", "a".repeat(100)), 1, 1)
    );
    assert_eq!(
        stored(Submission {
            media_urls: picture().media_urls,
            ..smart.clone()
        }),
        (smart.text.clone(), 2, 1)
    );
    let tabs = Submission {
        text: "\t".repeat(69) + "a",
        smart_encoding: true,
        ..plain()
    };
    assert_eq!(
        stored(tabs.clone()),
        (tabs.text, 2, 1),
        "seven spaces each would be four segments"
    );
    let invisible = Submission {
        text: "\u{200b}".into(),
        smart_encoding: true,
        ..plain()
    };
    assert_eq!(stored(invisible.clone()).0, invisible.text);
}

#[test]
fn a_sender_is_chosen_by_recipient_and_stays() {
    let to = |line: u64| Submission {
        recipient: format!("+{}", 13_125_550_100 + line),
        request_id: String::new(),
        ..plain()
    };
    let submissions: Vec<Submission> = (0..100).map(to).collect();
    let chosen = |submissions: &[Submission]| -> Vec<u64> {
        group(submissions)
            .accepted()
            .iter()
            .map(|accepted| accepted.held.sender)
            .collect()
    };
    let senders = chosen(&submissions);
    for number in NUMBERS {
        let share = senders.iter().filter(|&&sender| sender == number).count();
        assert!((20..=50).contains(&share), "{share} of 100");
    }
    let mut reversed: Vec<Submission> = submissions;
    reversed.reverse();
    let mut again = chosen(&reversed);
    again.reverse();
    assert_eq!(again, senders);
}

#[test]
fn ordering_is_by_campaign_and_key() {
    let with = |campaign: &str, key: &str| Submission {
        campaign: campaign.into(),
        ordering_key: key.into(),
        request_id: String::new(),
        ..plain()
    };
    let admission = group(&[
        with("campaigns/alerts", "a"),
        with("campaigns/alerts", "a"),
        with("campaigns/alerts", "b"),
        with("campaigns/paused", "a"),
        with("campaigns/alerts", ""),
    ]);
    let ordering: Vec<u64> = admission
        .accepted()
        .iter()
        .map(|accepted| accepted.held.ordering)
        .collect();
    // The first eight bytes of SHA-256 over 00 00 00 0a 61: other versions must find the same.
    assert_eq!(ordering[0], 0x8f0c_c4b5_f6b4_0e30);
    assert_eq!(ordering[0], ordering[1]);
    assert!(ordering[0] != ordering[2] && ordering[0] != ordering[3] && ordering[2] != ordering[3]);
    assert_eq!((ordering[4], admission.accepted()[4].held.flags), (0, 0));
}

#[test]
fn a_held_message_is_rebuilt_from_its_row() {
    for ordering_key in ["", "k"] {
        let admission = group(&[Submission {
            ordering_key: ordering_key.into(),
            ..picture()
        }]);
        let accepted = &admission.accepted()[0];
        let held = &accepted.held;
        let row = StoredRow {
            id: held.id,
            tenant: held.tenant,
            campaign: held.campaign,
            sender: held.sender,
            recipient: held.recipient,
            class: held.class as u8,
            kind: held.kind as u8,
            encoding: held.encoding,
            segments: held.segments,
            seq: held.seq,
            generation: held.generation,
            flags: held.flags,
            due_us: held.due_us,
            expires_us: held.expires_us,
            ..StoredRow::default()
        };
        assert_eq!(
            held_from_row(&row, Arc::clone(&held.body)).as_ref(),
            Ok(held)
        );
        let broken: Arc<[u8]> = Arc::from(&b"\x5a\x7f"[..]);
        assert_eq!(
            held_from_row(&row, broken).is_err(),
            !ordering_key.is_empty(),
            "decoded only for its key"
        );
        for class in [0, 4] {
            let row = StoredRow {
                class,
                ..row.clone()
            };
            assert_eq!(
                held_from_row(&row, Arc::clone(&held.body)),
                Err(RowError::Class)
            );
        }
        let row = StoredRow { kind: 3, ..row };
        assert_eq!(
            held_from_row(&row, Arc::clone(&held.body)),
            Err(RowError::Kind)
        );
    }
}

#[test]
fn a_request_id_twice_in_a_group_is_one_message_or_a_contradiction() {
    let other = Submission {
        text: "Other".into(),
        ..plain()
    };
    let explicit_class = Submission {
        message_class: 2,
        ..plain()
    };
    let theirs = Submission {
        campaign: "campaigns/theirs".into(),
        ..plain()
    };
    let calls = [
        unary_of(1, &plain()),
        batch_of(1, &[plain(), other, explicit_class]),
        unary_of(1, &plain()),
        unary_of(2, &theirs),
    ];
    let mut admission = judged(&calls, &registry(vec![]), &Consent::default(), 10);
    assert_eq!(admission.accepted().len(), 2, "ids are per tenant");
    assert_eq!(admission.lookups(), [(1, "r-1"), (2, "r-1")]);
    let replies = admission.replies();
    assert_eq!(replies[0], replies[2]);
    let [Reply::Ok(first), Reply::Ok(batch), ..] = &replies[..] else {
        panic!("answered")
    };
    let first = SubmitMessageResponse::decode(&first[..])
        .expect("a response")
        .result
        .expect("a result");
    let batch = SubmitMessagesResponse::decode(&batch[..])
        .expect("a response")
        .results;
    assert_eq!(batch[0], first);
    assert_eq!(
        (batch[1].verdict, batch[1].field.as_str()),
        (30, "request_id")
    );
    assert_eq!(batch[2].verdict, 30, "an unset class counts as given");
    assert_eq!(
        admission.counts(),
        [
            (0, Verdict::RequestIdReused, 2),
            (10, Verdict::Accepted, 1),
            (20, Verdict::Accepted, 1)
        ]
    );
    let held = admission.take_held();
    assert_eq!(held.len(), 2);
    assert_eq!(
        admission.replies(),
        replies,
        "answers outlive the hand-over"
    );
    assert!(admission.accepted().is_empty());
}

/// What the store knows after this admission.
fn stored(admission: &Admission) -> Vec<Existing> {
    let rows = admission.accepted().iter().filter_map(|accepted| {
        Some(Existing {
            tenant: accepted.held.tenant,
            request_id: accepted.request_id.as_deref()?.to_owned(),
            id: accepted.held.id,
            content_hash: accepted.content_hash,
            segments: accepted.held.segments,
            encoding: accepted.held.encoding,
        })
    });
    rows.collect()
}

#[test]
fn a_stored_request_id_answers_as_the_first_time() {
    let before = group(&[plain()]);
    let existing = stored(&before);
    let other = Submission {
        text: "Other".into(),
        ..plain()
    };
    let fresh = Submission {
        request_id: "r-2".into(),
        ..plain()
    };

    let mut mint = IdMint::new(2, 0).expect("a node");
    let calls = [batch_of(1, &[plain(), fresh.clone(), plain()])];
    let (registry, consent) = (registry(vec![]), Consent::default());
    let mut again = admit(
        &calls,
        &registry,
        &consent,
        &Limits::default(),
        &mut mint,
        NOW_US + 9_000_000,
        Door::open(10),
    );
    again.resolve(&existing);
    let answers = results(&again);
    assert_eq!(answers[0], results(&before)[0]);
    assert_eq!(answers[2], answers[0], "repeats follow");
    assert_eq!(again.accepted().len(), 1);
    assert_eq!(again.accepted()[0].request_id.as_deref(), Some("r-2"));
    assert_eq!(
        again.counts(),
        [(10, Verdict::Accepted, 1)],
        "a known answer is not counted again"
    );

    again.take_back();
    assert_eq!(
        again.accepted().len(),
        2,
        "nobody knows what an undone transaction saw"
    );
    assert_ne!(results(&again)[0].message, results(&before)[0].message);
    again.resolve(&existing);
    again.refuse_all_open(Verdict::NotReady, "nothing was stored", 0);
    assert_eq!(verdicts(&again), [Verdict::NotReady; 3]);

    let mut reused = group(&[other.clone(), fresh]);
    reused.resolve(&existing);
    assert_eq!(
        verdicts(&reused),
        [Verdict::RequestIdReused, Verdict::Accepted]
    );

    let mut mixed = group(&[other, plain()]);
    mixed.resolve(&existing);
    assert_eq!(
        verdicts(&mixed),
        [Verdict::RequestIdReused, Verdict::Accepted],
        "the store decides, not the order"
    );
    assert_eq!(results(&mixed)[1], results(&before)[0]);
    assert!(mixed.accepted().is_empty() && mixed.first_events().is_empty());
}

#[test]
fn what_was_accepted_once_is_answered_so_whatever_changed_since() {
    let before = group(&[plain()]);
    let mut consent = Consent::default();
    consent.insert(1, RECIPIENT);
    let registry = registry(vec![]);
    let mut opted_out = judged(&[batch_of(1, &[plain()])], &registry, &consent, 10);
    let scheduled = Submission {
        schedule_time: Some(Timestamp {
            seconds: NOW_US / 1_000_000 + 3600,
            nanos: 0,
        }),
        ..plain()
    };
    let timed = group(std::slice::from_ref(&scheduled));
    let mut full = judged(
        &[batch_of(1, &[scheduled])],
        &registry,
        &Consent::default(),
        0,
    );
    for (admission, first) in [(&mut opted_out, &before), (&mut full, &timed)] {
        assert_eq!(admission.lookups(), [(1, "r-1")]);
        assert_ne!(verdicts(admission), [Verdict::Accepted]);
        admission.resolve(&stored(first));
        assert_eq!(results(admission), results(first));
    }
    let unsound = group(&[Submission {
        text: String::new(),
        ..plain()
    }]);
    assert!(
        unsound.lookups().is_empty(),
        "never stored, so never looked up"
    );
}

#[test]
fn the_store_may_refuse_some_after_all() {
    let nth = |place: u32| Submission {
        request_id: format!("r-{place}"),
        ..plain()
    };
    let mut admission = group(&[nth(0), nth(1), nth(2), nth(1)]);
    admission.refuse_rest(&[1], Verdict::StoreUnavailable);
    let accepted = [
        Verdict::Accepted,
        Verdict::StoreUnavailable,
        Verdict::Accepted,
        Verdict::StoreUnavailable,
    ];
    assert_eq!(verdicts(&admission), accepted);
    assert!(results(&admission)[1].retry_delay.is_some());
    assert_eq!(admission.accepted().len(), 2);
    admission.refuse_rest(&[1], Verdict::Internal);
    assert_eq!(verdicts(&admission)[2], Verdict::Internal);
    assert_eq!(admission.take_held().len(), 1);
}

#[test]
fn a_store_that_took_nothing_leaves_nothing_refused_for_good() {
    let first = Submission {
        request_id: "r-1".into(),
        ..plain()
    };
    let other = Submission {
        text: "something else".into(),
        ..first.clone()
    };
    let closed = Submission {
        campaign: "campaigns/stopped".into(),
        request_id: "r-2".into(),
        ..plain()
    };
    // Without a request id there is no earlier try to ask for.
    let nameless = Submission {
        request_id: String::new(),
        ..closed.clone()
    };
    let mut admission = group(&[first, other, closed, nameless]);
    admission.refuse_all_open(Verdict::StoreFull, "the disk is full", 1_000_000);
    let answers = [
        Verdict::StoreFull,
        Verdict::StoreFull,
        Verdict::StoreFull,
        Verdict::CampaignStopped,
    ];
    assert_eq!(verdicts(&admission), answers);
    assert!(admission.accepted().is_empty());
}

#[test]
fn replies_have_the_form_of_their_call() {
    let wrong = Submission {
        recipient: "1".into(),
        ..plain()
    };
    let submissions: Vec<Bytes> =
        vec![plain().encode_to_vec().into(), wrong.encode_to_vec().into()];
    let request = StreamMessagesRequest {
        sequence: 42,
        submissions,
    }
    .encode_to_vec()
    .into();
    let stream = Call {
        kind: CallKind::Stream,
        tenant: 1,
        request,
    };
    let calls = [stream, unary_of(1, &wrong), unary_of(1, &plain())];
    let replies = judged(&calls, &registry(vec![]), &Consent::default(), 10).replies();
    let [Reply::Ok(stream), refused, Reply::Ok(unary)] = &replies[..] else {
        panic!("three replies")
    };
    let stream = StreamMessagesResponse::decode(&stream[..]).expect("a response");
    assert_eq!(
        (stream.credit, stream.sequence, stream.results.len()),
        (2, 42, 2)
    );
    assert_eq!(stream.results[1].field, "recipient");
    assert_eq!(
        (refusals(refused).verdict, &*refusals(refused).field),
        (Verdict::InvalidRecipient, "submission.recipient")
    );
    let unary = SubmitMessageResponse::decode(&unary[..])
        .expect("a response")
        .result
        .expect("a result");
    assert_eq!(
        unary, stream.results[0],
        "the same request id, the same answer"
    );
}

/// The fields of a message as they stand on the wire: tag, wire type and payload together.
fn fields(encoded: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = encoded;
    let mut found = Vec::new();
    while !rest.is_empty() {
        let before = rest;
        let (tag, wire_type) = prost::encoding::decode_key(&mut rest).expect("our own bytes");
        prost::encoding::skip_field(
            wire_type,
            tag,
            &mut rest,
            prost::encoding::DecodeContext::default(),
        )
        .expect("a field");
        found.push(before[..before.len() - rest.len()].to_vec());
    }
    found
}

fn hash_of(encoded: Vec<u8>) -> [u8; 16] {
    let request = SubmitMessageRequest {
        submission: vec![encoded.into()],
    }
    .encode_to_vec()
    .into();
    let call = Call {
        kind: CallKind::Unary,
        tenant: 1,
        request,
    };
    judged(&[call], &registry(vec![]), &Consent::default(), 1).accepted()[0].content_hash
}

proptest! {
    #[test]
    fn the_hash_ignores_field_order_unknown_fields_and_request_id(
        order in Just((0..9).collect::<Vec<usize>>()).prop_shuffle(),
        unknown in prop::collection::vec(any::<u8>(), 0..20),
        request_id in "[ -~]{0,64}",
    ) {
        let full = Submission {
            ordering_key: "k".into(),
            client_reference: "c".into(),
            message_class: 3,
            labels: [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())].into(),
            validity: Some(Duration { seconds: 60, nanos: 0 }),
            ..plain()
        };
        let expected = hash_of(full.encode_to_vec());
        let parts = fields(&Submission { request_id: String::new(), ..full.clone() }.encode_to_vec());
        prop_assert_eq!(parts.len(), order.len());
        let mut shuffled: Vec<u8> = order.iter().flat_map(|&place| parts[place].clone()).collect();
        prost::encoding::bytes::encode(500, &unknown, &mut shuffled);
        prost::encoding::string::encode(8, &request_id, &mut shuffled);
        prop_assert_eq!(hash_of(shuffled), expected);
        prop_assert_ne!(hash_of(Submission { client_reference: "d".into(), ..full }.encode_to_vec()), expected);
    }

    #[test]
    fn any_bytes_get_an_answer(
        requests in prop::collection::vec((0..3_usize, prop::collection::vec(any::<u8>(), 0..80)), 0..5),
        items in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 1..5),
    ) {
        let kinds = [CallKind::Unary, CallKind::Batch, CallKind::Stream];
        let mut calls: Vec<Call> = requests
            .into_iter()
            .map(|(kind, request)| Call { kind: kinds[kind], tenant: 1, request: request.into() })
            .collect();
        let submissions = items.into_iter().map(Bytes::from).collect();
        calls.push(Call { kind: CallKind::Batch, tenant: 1, request: SubmitMessagesRequest { submissions }.encode_to_vec().into() });
        let admission = judged(&calls, &registry(vec![]), &Consent::default(), 2);
        prop_assert_eq!(admission.replies().len(), calls.len());
    }

    #[test]
    fn any_strings_get_a_verdict_and_only_sound_records_are_kept(
        texts in prop::collection::vec(("\\PC{0,60}", any::<bool>(), "\\PC{0,8}", any::<i64>(), any::<i32>()), 1..8),
    ) {
        let submissions: Vec<Submission> = texts
            .into_iter()
            .map(|(text, smart_encoding, request_id, seconds, nanos)| Submission {
                text,
                smart_encoding,
                request_id,
                schedule_time: Some(Timestamp { seconds, nanos }),
                validity: Some(Duration { seconds: seconds / 2, nanos }),
                ..plain()
            })
            .collect();
        let admission = group(&submissions);
        prop_assert_eq!(results(&admission).len(), submissions.len());
        for accepted in admission.accepted() {
            prop_assert!(Submission::decode(&*accepted.held.body).is_ok());
            prop_assert!(accepted.held.expires_us > accepted.held.due_us && accepted.held.due_us >= NOW_US);
        }
    }
}

// What the door lets through.

/// A thousand submissions of each class, judged with this floor: how many of each class were told to come back.
fn shed_by(floor: u8, kind: CallKind) -> [usize; 3] {
    let registry = registry(vec![]);
    Class::ALL.map(|class| {
        let submissions: Vec<Bytes> = (0..1000)
            .map(|number| Submission {
                request_id: format!("r-{number}"),
                message_class: class as i32,
                ..plain()
            })
            .map(|submission| submission.encode_to_vec().into())
            .collect();
        let request = match kind {
            CallKind::Stream => StreamMessagesRequest {
                sequence: 1,
                submissions,
            }
            .encode_to_vec(),
            _ => SubmitMessagesRequest { submissions }.encode_to_vec(),
        };
        let mut mint = IdMint::new(1, 0).expect("a node");
        let door = Door {
            floor,
            overloaded_retry_us: 1_000_000,
            ..Door::open(1000)
        };
        let call = Call {
            kind,
            tenant: 1,
            request: request.into(),
        };
        let admission = admit(
            &[call],
            &registry,
            &Consent::default(),
            &Limits::default(),
            &mut mint,
            NOW_US,
            door,
        );
        let [Reply::Ok(bytes)] = &admission.replies()[..] else {
            panic!("one answer")
        };
        let results = match kind {
            CallKind::Stream => {
                StreamMessagesResponse::decode(&bytes[..])
                    .expect("a response")
                    .results
            }
            _ => {
                SubmitMessagesResponse::decode(&bytes[..])
                    .expect("a response")
                    .results
            }
        };
        let shed: Vec<SubmitResult> = results
            .into_iter()
            .filter(|result| result.verdict == Verdict::Overloaded as i32)
            .collect();
        assert_eq!(admission.accepted().len() + shed.len(), 1000);
        for result in &shed {
            let delay = result.retry_delay.as_ref().expect("a delay");
            let delay_us = delay.seconds * 1_000_000 + i64::from(delay.nanos) / 1000;
            assert!((500_000..1_500_000).contains(&delay_us), "{delay_us} us");
        }
        shed.len()
    })
}

#[test]
fn of_a_stream_the_less_urgent_are_shed_first_and_little_by_little() {
    assert_eq!(shed_by(0, CallKind::Stream), [0, 0, 0]);
    let [critical, transactional, bulk] = shed_by(4, CallKind::Stream);
    assert_eq!([critical, transactional], [0, 0]);
    assert!((150..350).contains(&bulk), "a quarter, not {bulk} of 1,000");
    let [critical, transactional, bulk] = shed_by(24, CallKind::Stream);
    assert_eq!([critical, bulk], [0, 1000]);
    assert!(
        (400..600).contains(&transactional),
        "half, not {transactional} of 1,000"
    );
    assert_eq!(shed_by(48, CallKind::Stream), [1000, 1000, 1000]);
}

#[test]
fn of_a_call_that_was_let_in_whole_classes_are_shed() {
    assert_eq!(shed_by(15, CallKind::Batch), [0, 0, 0]);
    assert_eq!(shed_by(16, CallKind::Batch), [0, 0, 1000]);
    assert_eq!(shed_by(47, CallKind::Batch), [0, 1000, 1000]);
    assert_eq!(shed_by(48, CallKind::Batch), [1000, 1000, 1000]);
}

#[test]
fn a_call_is_as_urgent_as_its_most_urgent_message() {
    let of = |classes: &[i32]| {
        let submissions: Vec<Submission> = classes
            .iter()
            .map(|&message_class| Submission {
                message_class,
                ..plain()
            })
            .collect();
        urgency(CallKind::Batch, &batch_of(1, &submissions).request)
    };
    assert_eq!(of(&[3, 3]), 0);
    assert_eq!(of(&[3, 0, 3]), 16, "unspecified is TRANSACTIONAL");
    assert_eq!(of(&[3, 2, 1, 3]), 32);
    assert_eq!(of(&[99]), 0);
    assert_eq!(urgency(CallKind::Unary, &unary_of(1, &plain()).request), 16);
    assert_eq!(urgency(CallKind::Batch, &Bytes::from_static(&[0xff])), 0);
    assert_eq!(urgency(CallKind::Batch, &Bytes::new()), 0);
}

#[test]
fn what_was_shed_is_not_asked_for_in_the_store() {
    let mut mint = IdMint::new(1, 0).expect("a node");
    let door = Door {
        floor: 48,
        overloaded_retry_us: 1_000_000,
        ..Door::open(1000)
    };
    let admission = admit(
        &[batch_of(1, &[plain()])],
        &registry(vec![]),
        &Consent::default(),
        &Limits::default(),
        &mut mint,
        NOW_US,
        door,
    );
    assert!(admission.lookups().is_empty());
}

struct Line(i64);

impl Ahead for Line {
    fn wait_at_least_us(&self, bound: &Bound) -> i64 {
        assert_eq!(
            (bound.tenant, bound.campaign, bound.recipient),
            (1, 10, RECIPIENT)
        );
        self.0
    }
}

fn behind(line: &Line, submission: &Submission) -> SubmitResult {
    let mut mint = IdMint::new(1, 0).expect("a node");
    let door = Door {
        ahead: line,
        ..Door::open(1000)
    };
    let admission = admit(
        &[batch_of(1, std::slice::from_ref(submission))],
        &registry(vec![]),
        &Consent::default(),
        &Limits::default(),
        &mut mint,
        NOW_US,
        door,
    );
    assert_eq!(
        admission.lookups(),
        [(1, "r-1")],
        "it may have been accepted earlier"
    );
    results(&admission).remove(0)
}

#[test]
fn what_would_expire_in_line_is_refused_at_the_door() {
    let submission = Submission {
        validity: Some(Duration {
            seconds: 60,
            nanos: 0,
        }),
        ..plain()
    };
    assert_eq!(
        behind(&Line(60_000_000), &submission).verdict,
        Verdict::Accepted as i32
    );
    let refused = behind(&Line(75_000_000), &submission);
    assert_eq!(refused.verdict, Verdict::BacklogTooLong as i32);
    let delay = refused.retry_delay.expect("a delay");
    assert_eq!((delay.seconds, delay.nanos), (15, 0), "when it would fit");
    let scheduled = Submission {
        schedule_time: Some(Timestamp {
            seconds: NOW_SECONDS + 3600,
            nanos: 0,
        }),
        ..submission
    };
    assert_eq!(
        behind(&Line(75_000_000), &scheduled).verdict,
        Verdict::Accepted as i32
    );
}
