//! Measures admit alone: groups of 500 plain messages of 80 characters, from request bytes to what the store needs.
//!
//! It proves nothing. Run it with `cargo run --release --example admit_speed [rounds]`.

mod timing;

use _core::admit::{Call, CallKind, Door, Limits, admit};
use _core::consent::Consent;
use _core::ids::{EPOCH_US, IdMint};
use _core::registry::{Campaign, CampaignState, OnUnknown, Registry, Tenant};
use _core::wire::{Submission, SubmitMessagesRequest};
use prost::Message as _;

const GROUP_MESSAGES: u32 = 500;
const ROUNDS: u32 = 400;
const TEXT: &str =
    "Your order is on its way and arrives today between two and four in the afternoon";

fn registry() -> Registry {
    let campaign = Campaign {
        key: 1,
        tenant: 1,
        brand: 1,
        id: "speed".to_owned(),
        state: CampaignState::Active,
        on_unknown: OnUnknown::ByClass,
        messaging_profile: String::new(),
        numbers: (100..120).map(|line| 12_025_550_000 + line).collect(),
    };
    let tenant = Tenant {
        key: 1,
        active: true,
    };
    Registry::new(1, vec![tenant], vec![campaign], vec![])
}

fn request() -> Vec<u8> {
    let submissions = (0..GROUP_MESSAGES).map(|place| {
        let submission = Submission {
            campaign: "campaigns/speed".to_owned(),
            recipient: format!("+{}", 13_125_550_100_u64 + u64::from(place % 100)),
            text: TEXT.to_owned(),
            request_id: format!("speed-{place:08}"),
            ..Submission::default()
        };
        submission.encode_to_vec().into()
    });
    SubmitMessagesRequest {
        submissions: submissions.collect(),
    }
    .encode_to_vec()
}

fn main() {
    let registry = registry();
    let calls = [Call {
        kind: CallKind::Batch,
        tenant: 1,
        request: request().into(),
    }];
    let (consent, limits) = (Consent::default(), Limits::default());
    let mut mint = IdMint::new(1, 0).expect("node 1");
    let (mut admitting, mut answering) = (Vec::new(), Vec::new());
    for round in 0..timing::rounds(ROUNDS) {
        let now_us = EPOCH_US + i64::from(round) * 10_000;
        let (time, admission) = timing::timed(|| {
            admit(
                &calls,
                &registry,
                &consent,
                &limits,
                &mut mint,
                now_us,
                Door::open(10_000),
            )
        });
        admitting.push(time);
        let (time, (events, replies)) =
            timing::timed(|| (admission.first_events(), admission.replies()));
        answering.push(time);
        assert_eq!(
            (admission.accepted().len(), events.len(), replies.len()),
            (GROUP_MESSAGES as usize, 1, 1)
        );
    }
    timing::print_ns("admit", GROUP_MESSAGES, admitting);
    timing::print_ns("first events and replies", GROUP_MESSAGES, answering);
}
