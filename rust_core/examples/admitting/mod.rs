//! A group of 500 plain messages of 80 characters, as a caller hands it in: what the speed and the instruction counts share.
//!
//! It measures nothing.

use _core::admit::{Call, CallKind};
use _core::registry::{Campaign, CampaignState, OnUnknown, Registry, Tenant};
use _core::wire::{Submission, SubmitMessagesRequest};
use prost::Message as _;

pub const GROUP_MESSAGES: u32 = 500;
const TEXT: &str =
    "Your order is on its way and arrives today between two and four in the afternoon";

/// One tenant with one campaign.
pub fn registry() -> Registry {
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

/// The group.
pub fn calls() -> [Call; 1] {
    [Call {
        kind: CallKind::Batch,
        tenant: 1,
        request: request().into(),
    }]
}
