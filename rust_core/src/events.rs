//! Events as the log keeps them: blobs that concatenate to the `events` of a `WatchEventsResponse`.
//!
//! It decides nothing; `settle.rs` and the stages tell what happened.

use std::collections::BTreeMap;

use prost::Message as _;

use crate::ids::{inbound_name, message_name};
use crate::message::{Held, Micros};
use crate::registry::Registry;
use crate::settle::Told;
use crate::state::{Reason, State};
use crate::telnyx::InboundText;
use crate::view::history_entry;
use crate::wire::{Event, EventKind, InboundMessage, Timestamp, WatchEventsResponse, push_event};

fn campaign_name(registry: &Registry, key: u32) -> String {
    registry
        .campaign(key)
        .map_or_else(String::new, |campaign| format!("campaigns/{}", campaign.id))
}

/// A row of the log holds so much and one event more. A store's statement holds 1 MiB, and bytes twice: a group of
/// thousands of one tenant makes several rows.
pub const BLOB_BYTES_MAX: usize = 128 * 1024;

/// Rows of the log in the making: the events of each tenant, in order.
#[derive(Default)]
pub(crate) struct Blobs {
    of: BTreeMap<u32, Vec<Vec<u8>>>,
}

impl Blobs {
    pub(crate) fn push(&mut self, tenant: u32, event: &Event) {
        let blobs = self.of.entry(tenant).or_default();
        match blobs.last_mut() {
            Some(blob) if blob.len() < BLOB_BYTES_MAX => push_event(blob, event),
            _ => {
                let mut blob = Vec::new();
                push_event(&mut blob, event);
                blobs.push(blob);
            }
        }
    }

    /// (tenant, blob), by tenant.
    pub(crate) fn rows(self) -> Vec<(u32, Vec<u8>)> {
        let rows = self
            .of
            .into_iter()
            .flat_map(|(tenant, blobs)| blobs.into_iter().map(move |blob| (tenant, blob)));
        rows.collect()
    }
}

/// Blobs per tenant of what was told, in order.
#[must_use]
pub fn told<'a>(
    events: impl IntoIterator<Item = &'a Told>,
    registry: &Registry,
) -> Vec<(u32, Vec<u8>)> {
    let mut blobs = Blobs::default();
    for event in events {
        let kind = if event.conflict {
            EventKind::StatusConflict
        } else {
            EventKind::Message
        };
        let encoded = Event {
            kind: kind as i32,
            message: message_name(event.id),
            seq: event.seq,
            state: i32::from(event.state),
            reason: i32::from(event.reason),
            event_time: Some(Timestamp::from_micros(event.at_us)),
            attempt: u32::from(event.attempt),
            generation: u32::from(event.generation),
            code: event.code.clone(),
            campaign: campaign_name(registry, event.campaign),
            previous_state: i32::from(event.previous),
            ..Event::default()
        };
        blobs.push(event.tenant, &encoded);
    }
    blobs.rows()
}

/// What these events append to the history column of their message.
#[must_use]
pub fn history_of(events: &[Told]) -> Vec<u8> {
    let mut history = Vec::new();
    for event in events {
        history.extend(history_entry(
            State::from_number(i64::from(event.state)).unwrap_or(State::Queued),
            Reason::from_number(i64::from(event.reason)).unwrap_or(Reason::Accepted),
            event.attempt,
            event.generation,
            event.at_us,
            &event.code,
        ));
    }
    history
}

/// The event of an attempt that was written down.
#[must_use]
pub fn intended(held: &Held, now_us: Micros) -> Told {
    Told {
        id: held.id,
        tenant: held.tenant,
        campaign: held.campaign,
        conflict: false,
        seq: held.seq + 1,
        previous: State::Queued as u8,
        state: State::Dispatching as u8,
        reason: Reason::Attempt as u8,
        at_us: now_us,
        attempt: held.attempt.saturating_add(1),
        generation: held.generation,
        code: String::new(),
    }
}

/// A consent event's blob.
#[must_use]
pub fn consent(kind: EventKind, recipient: u64, at_us: Micros) -> Vec<u8> {
    let mut blob = Vec::new();
    let event = Event {
        kind: kind as i32,
        recipient: format!("+{recipient}"),
        event_time: Some(Timestamp::from_micros(at_us)),
        ..Event::default()
    };
    push_event(&mut blob, &event);
    blob
}

/// Short codes have no plus sign.
fn address(digits: u64) -> String {
    if digits < 100_000_000 {
        digits.to_string()
    } else {
        format!("+{digits}")
    }
}

/// An inbound message as it is stored and shown.
#[must_use]
pub fn inbound_message(id: u64, text: &InboundText, at_us: Micros) -> InboundMessage {
    InboundMessage {
        name: inbound_name(id),
        sender: address(text.sender),
        recipient: address(text.recipient),
        text: text.text.clone(),
        media_urls: text.media_urls.clone(),
        receive_time: Some(Timestamp::from_micros(at_us)),
    }
}

/// An inbound message's event blob.
#[must_use]
pub fn inbound(id: u64, text: &InboundText, campaign: &str, at_us: Micros) -> Vec<u8> {
    let mut blob = Vec::new();
    let event = Event {
        kind: EventKind::Inbound as i32,
        message: inbound_name(id),
        event_time: Some(Timestamp::from_micros(at_us)),
        campaign: campaign.to_owned(),
        recipient: address(text.sender),
        inbound: Some(inbound_message(id, text, at_us)),
        ..Event::default()
    };
    push_event(&mut blob, &event);
    blob
}

/// A `WatchEventsResponse` of log rows. With campaigns (`campaigns/…` names) only their events stay.
#[must_use]
pub fn watch_response(rows: &[Vec<u8>], cursor: &str, campaigns: &[String]) -> Vec<u8> {
    let mut out: Vec<u8> = Vec::with_capacity(rows.iter().map(Vec::len).sum::<usize>() + 64);
    for row in rows {
        if campaigns.is_empty() {
            out.extend_from_slice(row);
        } else if let Ok(decoded) = WatchEventsResponse::decode(row.as_slice()) {
            for event in decoded
                .events
                .iter()
                .filter(|event| campaigns.contains(&event.campaign))
            {
                push_event(&mut out, event);
            }
        }
    }
    let tail = WatchEventsResponse {
        events: Vec::new(),
        cursor: cursor.to_owned(),
    };
    out.extend_from_slice(&tail.encode_to_vec());
    out
}
