//! What admit found out about a group of calls, until each is answered: what to store, what the store changed, the replies.
//!
//! It judges no submission. Order of use: `lookups` and `accepted` feed the transaction, `resolve` and `refuse_rest` tell what
//! it found, then `first_events` inside the transaction, and after the commit `replies`, `counts` and at last `take_held`.
//!
//! Invariants: every item has exactly one outcome; an item is in `accepted` exactly while its outcome is `Fresh`, and repeats
//! of it in the same group follow it wherever it goes; what a transaction found is taken back with it, so that nobody is
//! answered with a message that only an undone one had seen.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use prost::Message as _;

use super::CallKind;
use super::check::Refusal;
use crate::events::Blobs;
use crate::ids::{IdMint, message_name, short_id};
use crate::message::{Held, Micros, flags};
use crate::state::{Reason, State};
use crate::verdict::Verdict;
use crate::wire::{
    Duration, Event, EventKind, StreamMessagesResponse, Submission, SubmitMessageResponse,
    SubmitMessagesResponse, SubmitResult, Timestamp,
};

/// Bytes of a content hash: the first half of SHA-256.
pub const CONTENT_HASH_BYTES: usize = 16;

/// A message to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The message as it will wait.
    pub held: Held,
    /// The caller's id, for the table of request ids; `None` when it gave none.
    pub request_id: Option<Arc<str>>,
    /// Hash of the decoded submission without its request id.
    pub content_hash: [u8; CONTENT_HASH_BYTES],
    /// When it was accepted.
    pub accept_us: Micros,
    /// True when its schedule time lies ahead.
    pub scheduled: bool,
    /// The caller's.
    pub client_reference: String,
    /// The part after `campaigns/`.
    pub campaign_id: String,
    /// First entry of the history column.
    pub history: Vec<u8>,
    pub(super) item: usize,
}

impl Accepted {
    /// Why it is queued: the reason of its first event.
    #[must_use]
    pub fn reason(&self) -> Reason {
        if self.scheduled {
            Reason::Scheduled
        } else {
            Reason::Accepted
        }
    }

    fn first_event(&self) -> Event {
        Event {
            kind: EventKind::Message as i32,
            message: message_name(self.held.id),
            seq: self.held.seq,
            state: State::Queued as i32,
            reason: self.reason() as i32,
            event_time: Some(Timestamp::from_micros(self.accept_us)),
            attempt: u32::from(self.held.attempt),
            generation: u32::from(self.held.generation),
            campaign: format!("campaigns/{}", self.campaign_id),
            client_reference: self.client_reference.clone(),
            ..Event::default()
        }
    }
}

/// A request id that the store knows, with the message it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Existing {
    /// Key of the tenant.
    pub tenant: u32,
    /// The caller's id.
    pub request_id: String,
    /// The message.
    pub id: u64,
    /// Hash of its content.
    pub content_hash: [u8; CONTENT_HASH_BYTES],
    /// Segments it counts.
    pub segments: u16,
    /// 1 GSM-7, 2 UCS-2.
    pub encoding: u8,
}

/// The answer to one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Bytes of the response.
    Ok(Vec<u8>),
    /// The call fails with this.
    Refused(Refusal),
}

/// An admitted group.
#[derive(Debug)]
pub struct Admission {
    pub(super) calls: Vec<JudgedCall>,
    pub(super) items: Vec<Item>,
    pub(super) accepted: Vec<Accepted>,
    pub(super) retry_delay_us: Micros,
    pub(super) found: Found,
}

/// What the transaction under way changed, as it was before.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Places in `items`, each with its outcome before, in the order of the changes.
    outcomes: Vec<(usize, Outcome)>,
    /// Left `accepted`.
    dropped: Vec<Accepted>,
}

#[derive(Debug)]
pub(super) struct JudgedCall {
    pub kind: CallKind,
    /// Of a stream request.
    pub sequence: u64,
    /// Places in `items`.
    pub items: Range<usize>,
    /// When the call was refused as a whole; then it has no items.
    pub refusal: Option<Refusal>,
}

#[derive(Debug)]
pub(super) struct Item {
    pub tenant: u32,
    /// Key; 0 when it was refused before its campaign was found.
    pub campaign: u32,
    /// Where the caller gave a request id and the submission is sound in itself.
    pub key: Option<RequestKey>,
    pub outcome: Outcome,
}

#[derive(Debug)]
pub(super) struct RequestKey {
    pub request_id: Arc<str>,
    pub content_hash: [u8; CONTENT_HASH_BYTES],
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub id: u64,
    pub segments: u16,
    pub encoding: u8,
}

#[derive(Debug)]
pub(super) enum Outcome {
    /// To be stored.
    Fresh(Answer),
    /// Stored before.
    Known(Answer),
    /// The same request id and content as this item, which was fresh.
    Repeat(usize),
    /// The same request id as an item of this group, other content.
    Contradicts,
    /// Not stored.
    Refused(Refusal),
}

/// The request id of a submission that came with none.
pub(super) fn own_request_id(id: u64) -> String {
    format!("lw-{}", short_id(id))
}

fn named_anew(body: &Arc<[u8]>, before: u64, id: u64) -> Arc<[u8]> {
    match Submission::decode(body.as_ref()) {
        Ok(mut submission) if submission.request_id == own_request_id(before) => {
            submission.request_id = own_request_id(id);
            Arc::from(submission.encode_to_vec())
        }
        _ => Arc::clone(body),
    }
}

impl Admission {
    /// What is to be stored, in call order.
    #[must_use]
    pub fn accepted(&self) -> &[Accepted] {
        &self.accepted
    }

    /// The (tenant, request id) pairs to look up before storing: of what is accepted, and of what was refused for a reason
    /// that may have come after its first try was stored. That one is answered as it was then, whatever has changed since.
    #[must_use]
    pub fn lookups(&self) -> Vec<(u32, &str)> {
        let asked = self.items.iter().filter(|item| match &item.outcome {
            Outcome::Fresh(_) => true,
            Outcome::Refused(refusal) => depends_on_state(refusal.verdict),
            Outcome::Known(_) | Outcome::Repeat(_) | Outcome::Contradicts => false,
        });
        asked
            .filter_map(|item| Some((item.tenant, &*item.key.as_ref()?.request_id)))
            .collect()
    }

    /// Settles the items whose request id the store knows: with the same content they get the original's answer, with other
    /// content `REQUEST_ID_REUSED`. Either way they leave `accepted`, and ids minted for them are never used.
    pub fn resolve(&mut self, existing: &[Existing]) {
        if existing.is_empty() {
            return;
        }
        let known: HashMap<(u32, &str), &Existing> = existing
            .iter()
            .map(|row| ((row.tenant, row.request_id.as_str()), row))
            .collect();
        for (place, item) in self.items.iter_mut().enumerate() {
            let Some(key) = &item.key else { continue };
            let Some(row) = known.get(&(item.tenant, &*key.request_id)) else {
                continue;
            };
            let outcome = if row.content_hash == key.content_hash {
                Outcome::Known(Answer {
                    id: row.id,
                    segments: row.segments,
                    encoding: row.encoding,
                })
            } else {
                Outcome::Refused(Refusal::new(Verdict::RequestIdReused, "request_id"))
            };
            let before = std::mem::replace(&mut item.outcome, outcome);
            self.found.outcomes.push((place, before));
        }
        self.drop_settled();
    }

    /// Tenants whose order is kept by key, each with the lowest id and the highest that is to be in order.
    #[must_use]
    pub fn ordered(&self) -> BTreeMap<u32, (u64, u64)> {
        let mut tenants = BTreeMap::new();
        for Accepted { held, .. } in &self.accepted {
            if held.flags & flags::ORDERED != 0 {
                let (lowest, highest) = tenants.entry(held.tenant).or_insert((held.id, held.id));
                *lowest = held.id.min(*lowest);
                *highest = held.id.max(*highest);
            }
        }
        tenants
    }

    /// Gives everything accepted another id, above this one: another node's clock is ahead of ours, and has put a message
    /// before these.
    pub fn renumber(&mut self, mint: &mut IdMint, above: u64, now_us: Micros) {
        mint.go_above(above);
        for accepted in &mut self.accepted {
            let before = std::mem::replace(&mut accepted.held.id, mint.mint(now_us));
            if let Outcome::Fresh(answer) = &mut self.items[accepted.item].outcome {
                answer.id = accepted.held.id;
            }
            if accepted.request_id.is_none() {
                accepted.held.body = named_anew(&accepted.held.body, before, accepted.held.id);
            }
        }
    }

    /// The transaction that told what is stored was undone: everything is as it was judged. The next one may find other
    /// rows, or none of those that it would have stored itself.
    pub fn take_back(&mut self) {
        let Found { outcomes, dropped } = std::mem::take(&mut self.found);
        for (place, before) in outcomes.into_iter().rev() {
            self.items[place].outcome = before;
        }
        if !dropped.is_empty() {
            self.accepted.extend(dropped);
            self.accepted.sort_by_key(|accepted| accepted.item);
        }
    }

    fn refuse_item(&mut self, item: usize, refusal: Refusal) {
        let before = std::mem::replace(&mut self.items[item].outcome, Outcome::Refused(refusal));
        self.found.outcomes.push((item, before));
    }

    /// Refuses accepted messages after all: places in [`Self::accepted`] as it stands now.
    ///
    /// # Panics
    /// When a place is not in `accepted`: going on would answer `ACCEPTED` for something that is not stored.
    pub fn refuse_rest(&mut self, places: &[usize], verdict: Verdict) {
        for &place in places {
            let item = self.accepted[place].item;
            self.refuse_item(item, Refusal::passing(verdict, self.retry_delay_us));
        }
        self.drop_settled();
    }

    /// Submissions in all calls.
    #[must_use]
    pub fn items_total(&self) -> usize {
        self.items.len()
    }

    /// Refuses accepted messages after all, in words that say what happened: places in [`Self::accepted`] as it stands now.
    ///
    /// # Panics
    /// When a place is not in `accepted`: going on would answer `ACCEPTED` for something that is not stored.
    pub fn refuse_with(
        &mut self,
        places: &[usize],
        verdict: Verdict,
        detail: &str,
        retry_delay_us: Micros,
    ) {
        for &place in places {
            let item = self.accepted[place].item;
            let mut refusal = Refusal::with_detail(verdict, "", detail.to_owned());
            refusal.retry_delay_us = retry_delay_us;
            self.refuse_item(item, refusal);
        }
        self.drop_settled();
    }

    /// Refuses, in words that say what happened, whatever only the store could have decided: nothing of the group was
    /// stored, and whether an earlier try of what was refused at the door was, nobody knows. What the transaction found
    /// is taken back first: it may have been another one's of the same group, which was not stored either.
    pub fn refuse_all_open(&mut self, verdict: Verdict, detail: &str, retry_delay_us: Micros) {
        self.take_back();
        for item in &mut self.items {
            let open = match &item.outcome {
                Outcome::Fresh(_) | Outcome::Contradicts => true,
                Outcome::Refused(refusal) => {
                    item.key.is_some() && depends_on_state(refusal.verdict)
                }
                Outcome::Known(_) | Outcome::Repeat(_) => false,
            };
            if open {
                let mut refusal = Refusal::with_detail(verdict, "", detail.to_owned());
                refusal.retry_delay_us = retry_delay_us;
                item.outcome = Outcome::Refused(refusal);
            }
        }
        self.drop_settled();
    }

    /// The first events of what is accepted: for each tenant blobs of `WatchEventsResponse.events` elements.
    #[must_use]
    pub fn first_events(&self) -> Vec<(u32, Vec<u8>)> {
        let mut blobs = Blobs::default();
        for accepted in &self.accepted {
            blobs.push(accepted.held.tenant, &accepted.first_event());
        }
        blobs.rows()
    }

    /// The answers, in call order.
    #[must_use]
    pub fn replies(&self) -> Vec<Reply> {
        self.calls.iter().map(|call| self.reply(call)).collect()
    }

    /// New answers by (campaign key, verdict), for metrics; key 0 where no campaign was found, which counts a call refused as
    /// a whole as one. A repeated answer to a known request id is not new and counts nothing.
    #[must_use]
    pub fn counts(&self) -> Vec<(u32, Verdict, u64)> {
        let calls = self
            .calls
            .iter()
            .filter_map(|call| Some((0, call.refusal.as_ref()?.verdict)));
        let items = self.items.iter().filter_map(|item| match &item.outcome {
            Outcome::Fresh(_) => Some((item.campaign, Verdict::Accepted)),
            Outcome::Contradicts => Some((item.campaign, Verdict::RequestIdReused)),
            Outcome::Refused(refusal) => Some((item.campaign, refusal.verdict)),
            Outcome::Known(_) | Outcome::Repeat(_) => None,
        });
        let mut counts: BTreeMap<(u32, Verdict), u64> = BTreeMap::new();
        for key in calls.chain(items) {
            *counts.entry(key).or_default() += 1;
        }
        counts
            .into_iter()
            .map(|((campaign, verdict), count)| (campaign, verdict, count))
            .collect()
    }

    /// The stored messages, for the scheduler; `accepted` is empty afterwards, replies stay.
    pub fn take_held(&mut self) -> Vec<Held> {
        std::mem::take(&mut self.accepted)
            .into_iter()
            .map(|accepted| accepted.held)
            .collect()
    }

    fn drop_settled(&mut self) {
        let items = &self.items;
        let settled =
            |accepted: &mut Accepted| !matches!(items[accepted.item].outcome, Outcome::Fresh(_));
        self.found
            .dropped
            .extend(self.accepted.extract_if(.., settled));
    }

    fn reply(&self, call: &JudgedCall) -> Reply {
        if let Some(refusal) = &call.refusal {
            return Reply::Refused(refusal.clone());
        }
        let items = &self.items[call.items.clone()];
        if call.kind == CallKind::Unary {
            return match items.iter().map(|item| self.judgement(item)).next() {
                Some(Ok(result)) => Reply::Ok(
                    SubmitMessageResponse {
                        result: Some(result),
                    }
                    .encode_to_vec(),
                ),
                Some(Err(mut refusal)) => {
                    if !refusal.field.is_empty() {
                        // A call's fields are named from its request, an item's from the submission.
                        refusal.field = format!("submission.{}", refusal.field).into();
                    }
                    Reply::Refused(refusal)
                }
                None => Reply::Refused(Refusal::new(Verdict::Internal, "")),
            };
        }
        let results: Vec<SubmitResult> = items
            .iter()
            .map(|item| self.judgement(item).unwrap_or_else(refused_result))
            .collect();
        Reply::Ok(if call.kind == CallKind::Batch {
            SubmitMessagesResponse { results }.encode_to_vec()
        } else {
            // Answered messages are no longer in flight: their credit goes back.
            let credit = u32::try_from(results.len()).unwrap_or(u32::MAX);
            StreamMessagesResponse {
                credit,
                sequence: call.sequence,
                results,
            }
            .encode_to_vec()
        })
    }

    fn judgement(&self, item: &Item) -> Result<SubmitResult, Refusal> {
        match &item.outcome {
            Outcome::Fresh(answer) | Outcome::Known(answer) => Ok(SubmitResult {
                verdict: i32::from(Verdict::Accepted.number()),
                message: message_name(answer.id),
                segments: i32::from(answer.segments),
                encoding: i32::from(answer.encoding),
                retry_safe: item.key.is_some(),
                ..SubmitResult::default()
            }),
            // One step only: a repeat points at an item that was fresh, and that never becomes a repeat.
            Outcome::Repeat(first) => self.judgement(&self.items[*first]),
            Outcome::Contradicts => Err(Refusal::new(Verdict::RequestIdReused, "request_id")),
            Outcome::Refused(refusal) => Err(refusal.clone()),
        }
    }
}

fn refused_result(refusal: Refusal) -> SubmitResult {
    SubmitResult {
        verdict: i32::from(refusal.verdict.number()),
        field: refusal.field.into_owned(),
        detail: refusal.detail.into_owned(),
        retry_delay: (refusal.retry_delay_us > 0)
            .then(|| Duration::from_micros(refusal.retry_delay_us)),
        ..SubmitResult::default()
    }
}

/// May the same submission have been accepted earlier: campaigns stop, recipients opt out, queues fill.
fn depends_on_state(verdict: Verdict) -> bool {
    matches!(
        verdict,
        Verdict::CampaignNotFound
            | Verdict::CampaignStopped
            | Verdict::SenderNotInCampaign
            | Verdict::NoSender
            | Verdict::RecipientOptedOut
            | Verdict::ExceedsQuota
            | Verdict::QueueFull
            | Verdict::BacklogTooLong
    )
}
