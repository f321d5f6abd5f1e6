//! The first stage: request bytes of many calls in, messages to store and a verdict on each submission out.
//!
//! It stores nothing, knows no clock and spends no quota: the picture of rights, the opt-outs and the time come in.
//!
//! Order of checks, the first that fails answers: the call (tenant, framing, count), the submission by itself, its request id
//! within the group, then what changes with time (campaign, sender, consent, quotas, room). So a refusal of the second kind
//! holds for good, one of the last kind is judged afresh, and only what is accepted is remembered.

mod admission;
mod ceiling;
mod check;
mod held;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use sha2::{Digest, Sha256};

pub use admission::{Accepted, Admission, CONTENT_HASH_BYTES, Existing, Reply};
pub use check::Refusal;
pub use held::{RowError, held_from_row};

use admission::{Answer, Found, Item, JudgedCall, Outcome, RequestKey};
use ceiling::Ceilings;
use check::{Checked, check};

use crate::consent::Consent;
use crate::ids::IdMint;
use crate::message::{Class, Held, Kind, Micros, flags};
use crate::registry::{Campaign, CampaignState, Registry};
use crate::state::{Reason, State};
use crate::verdict::Verdict;
use crate::view::history_entry;
use crate::wire::{ClassOnly, RequestError, Submission, split_batch, split_stream, split_unary};

const SECOND_US: Micros = 1_000_000;
const DAY_US: Micros = 24 * 3600 * SECOND_US;

/// What is allowed at the door. Lengths that the contract fixes are not here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Submissions in a batch or stream request.
    pub batch_messages_max: usize,
    /// Bytes of one encoded submission.
    pub submission_bytes_max: usize,
    /// Segments of a text.
    pub segments_max: u16,
    /// Media URLs of a submission.
    pub media_urls_max: usize,
    /// How far ahead a schedule time may lie.
    pub schedule_ahead_max_us: Micros,
    /// The longest validity.
    pub validity_max_us: Micros,
    /// Validity where none is given, by class, most urgent first.
    pub validity_default_us: [Micros; Class::ALL.len()],
    /// When to come back after a refusal for want of room.
    pub retry_delay_us: Micros,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            batch_messages_max: 1000,
            // Ten segments of text are 6 KB at most, ten URLs 20 KB, sixteen labels 5 KB: twice that.
            submission_bytes_max: 64 * 1024,
            segments_max: 10,
            media_urls_max: 10,
            schedule_ahead_max_us: 35 * DAY_US,
            validity_max_us: 14 * DAY_US,
            validity_default_us: [15 * 60 * SECOND_US, DAY_US, 3 * DAY_US],
            retry_delay_us: SECOND_US,
        }
    }
}

/// Which method a call is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallKind {
    /// `SubmitMessage`.
    Unary,
    /// `SubmitMessages`.
    Batch,
    /// One request of `StreamMessages`.
    Stream,
}

/// A call, authenticated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its method.
    pub kind: CallKind,
    /// Key of the tenant that its credential belongs to.
    pub tenant: u32,
    /// Its encoded request.
    pub request: Bytes,
}

/// Levels of urgency within a class: shedding begins with a sixteenth of the least urgent one.
pub const LEVELS: u8 = 16;

fn lowest_level(class: Class) -> u8 {
    (Class::Bulk as u8 - class as u8) * LEVELS
}

/// The lowest level of the most urgent submission in a request, without judging any; what cannot be read is least urgent.
#[must_use]
pub fn urgency(kind: CallKind, request: &Bytes) -> u8 {
    let submissions = match kind {
        CallKind::Unary => split_unary(request).map(|submission| vec![submission]),
        CallKind::Batch => split_batch(request, usize::MAX),
        CallKind::Stream => split_stream(request, usize::MAX).map(|(_, submissions)| submissions),
    };
    let mut most = 0;
    for submission in submissions.unwrap_or_default() {
        let class = ClassOnly::decode(submission)
            .ok()
            .and_then(|only| Class::from_number(i64::from(only.message_class)));
        most = most.max(class.map_or(0, lowest_level));
        if class == Some(Class::Critical) {
            break;
        }
    }
    most
}

/// Where a message would wait.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// Key of the tenant.
    pub tenant: u32,
    /// Key of the campaign.
    pub campaign: u32,
    /// Digits of the sender.
    pub sender: u64,
    /// Digits of the recipient.
    pub recipient: u64,
    /// Its class.
    pub class: Class,
    /// Its kind.
    pub kind: Kind,
}

/// What lies between a message that is accepted now and its turn.
pub trait Ahead {
    /// It cannot leave before so long has passed; 0 when nothing says so.
    fn wait_at_least_us(&self, bound: &Bound) -> Micros;
}

impl Ahead for () {
    fn wait_at_least_us(&self, _bound: &Bound) -> Micros {
        0
    }
}

/// What the door lets through now, beside what is sound and entitled.
#[derive(Clone, Copy)]
pub struct Door<'a> {
    /// So many messages for a later time; what comes after them is answered `QUEUE_FULL`.
    pub room: usize,
    /// Of 48 levels, least urgent first, so many are answered `OVERLOADED`: sixteen for each class. Of a class that is
    /// shed in part, chance decides about the messages of a stream, and whoever let the call in about other calls'. 0
    /// sheds nothing.
    pub floor: u8,
    /// When to come back after `OVERLOADED`; each is told between half and one and a half of it.
    pub overloaded_retry_us: Micros,
    /// What waits already; what could not leave within its validity is answered `BACKLOG_TOO_LONG`.
    pub ahead: &'a dyn Ahead,
}

impl Door<'_> {
    /// Open to everything, with room for so many messages for a later time.
    #[must_use]
    pub fn open(room: usize) -> Self {
        Self {
            room,
            floor: 0,
            overloaded_retry_us: 0,
            ahead: &(),
        }
    }
}

/// Judges a group of calls that will share one transaction. `now_us` is wall-clock time.
#[must_use]
pub fn admit(
    calls: &[Call],
    registry: &Registry,
    consent: &Consent,
    limits: &Limits,
    mint: &mut IdMint,
    now_us: Micros,
    door: Door<'_>,
) -> Admission {
    let mut stage = Stage {
        registry,
        consent,
        limits,
        ceilings: Ceilings::new(registry, limits.segments_max),
        mint,
        now_us,
        door,
        floor: 0,
        group: HashMap::new(),
        last_campaign: None,
        scratch: Vec::new(),
        admission: Admission {
            calls: Vec::with_capacity(calls.len()),
            items: Vec::with_capacity(calls.len()),
            accepted: Vec::with_capacity(calls.len()),
            retry_delay_us: limits.retry_delay_us,
            found: Found::default(),
        },
    };
    for call in calls {
        stage.take_call(call);
    }
    stage.admission
}

/// What the judging of a group carries along.
struct Stage<'a> {
    registry: &'a Registry,
    consent: &'a Consent,
    limits: &'a Limits,
    ceilings: Ceilings,
    mint: &'a mut IdMint,
    now_us: Micros,
    /// Its room is what is left of it.
    door: Door<'a>,
    /// Of the call that is being judged.
    floor: u8,
    /// The place of the accepted item of each (tenant, request id).
    group: HashMap<(u32, Arc<str>), usize>,
    /// Neighbours mostly share a campaign: one comparison instead of a look-up.
    last_campaign: Option<&'a Campaign>,
    /// Holds an encoded submission while it is hashed or copied.
    scratch: Vec<u8>,
    admission: Admission,
}

impl<'a> Stage<'a> {
    fn take_call(&mut self, call: &Call) {
        let first = self.admission.items.len();
        let (sequence, refusal) = match self.open(call) {
            Ok((sequence, submissions)) => {
                // Other calls were let in by the level of their most urgent message; only whole classes are shed of them.
                self.floor = match call.kind {
                    CallKind::Stream => self.door.floor,
                    CallKind::Unary | CallKind::Batch => self.door.floor / LEVELS * LEVELS,
                };
                for submission in submissions {
                    self.take_item(call.tenant, submission);
                }
                (sequence, None)
            }
            Err(refusal) => (0, Some(refusal)),
        };
        let items = first..self.admission.items.len();
        self.admission.calls.push(JudgedCall {
            kind: call.kind,
            sequence,
            items,
            refusal,
        });
    }

    /// The submissions of a call, still encoded, with its sequence.
    fn open(&self, call: &Call) -> Result<(u64, Vec<Bytes>), Refusal> {
        // A tenant that the picture does not show is treated as suspended: rights fail closed.
        if !self
            .registry
            .tenant(call.tenant)
            .is_some_and(|tenant| tenant.active)
        {
            return Err(Refusal::new(Verdict::TenantSuspended, ""));
        }
        let messages_max = self.limits.batch_messages_max;
        match call.kind {
            CallKind::Unary => split_unary(&call.request).map(|submission| (0, vec![submission])),
            CallKind::Batch => {
                split_batch(&call.request, messages_max).map(|submissions| (0, submissions))
            }
            CallKind::Stream => split_stream(&call.request, messages_max),
        }
        .map_err(|error| match (error, call.kind) {
            (RequestError::Undecodable, _) => {
                let detail = "the request is not valid protobuf: encode it by the published proto";
                Refusal::with_detail(Verdict::Undecodable, "", detail)
            }
            (_, CallKind::Unary) => Refusal::with_detail(
                Verdict::InvalidBatch,
                "submission",
                "give exactly one submission",
            ),
            (RequestError::Empty, _) => Refusal::with_detail(
                Verdict::InvalidBatch,
                "submissions",
                "give at least one submission",
            ),
            (RequestError::TooMany, _) => {
                let detail =
                    format!("more than {messages_max} submissions are given: split the batch");
                Refusal::with_detail(Verdict::InvalidBatch, "submissions", detail)
            }
        })
    }

    fn take_item(&mut self, tenant: u32, encoded: Bytes) {
        let place = self.admission.items.len();
        self.admission.items.push(Item {
            tenant,
            campaign: 0,
            key: None,
            outcome: Outcome::Contradicts,
        });
        let outcome = self
            .judge(place, tenant, encoded)
            .unwrap_or_else(Outcome::Refused);
        self.admission.items[place].outcome = outcome;
    }

    /// Judges the item at `place`, which learns its key and campaign on the way.
    fn judge(&mut self, place: usize, tenant: u32, encoded: Bytes) -> Result<Outcome, Refusal> {
        if encoded.len() > self.limits.submission_bytes_max {
            let detail = format!(
                "the submission has {} bytes, {} are allowed: shorten it",
                encoded.len(),
                self.limits.submission_bytes_max
            );
            return Err(Refusal::with_detail(Verdict::Undecodable, "", detail));
        }
        let mut submission =
            Submission::decode(encoded).map_err(|_| Refusal::new(Verdict::Undecodable, ""))?;
        let checked = check(&submission, self.limits, self.now_us)?;
        self.shed(place, checked.class)?;

        let request_id = std::mem::take(&mut submission.request_id);
        let content_hash = self.content_hash(&submission);
        let request_id: Option<Arc<str>> = (!request_id.is_empty()).then(|| request_id.into());
        if let Some(request_id) = &request_id {
            let key = RequestKey {
                request_id: Arc::clone(request_id),
                content_hash,
            };
            self.admission.items[place].key = Some(key);
            if let Some(&first) = self.group.get(&(tenant, Arc::clone(request_id))) {
                let same = self.admission.items[first]
                    .key
                    .as_ref()
                    .is_some_and(|key| key.content_hash == content_hash);
                return Ok(if same {
                    Outcome::Repeat(first)
                } else {
                    Outcome::Contradicts
                });
            }
        }

        let campaign = self.campaign(tenant, &submission.campaign)?;
        self.admission.items[place].campaign = campaign.key;
        let sender = self.entitled_sender(campaign, &checked)?;
        if checked.due_us > self.now_us {
            if self.door.room == 0 {
                return Err(Refusal::passing(
                    Verdict::QueueFull,
                    self.limits.retry_delay_us,
                ));
            }
            self.door.room -= 1;
        } else {
            self.fits_its_validity(campaign, sender, &checked)?;
        }

        if let Some(request_id) = &request_id {
            self.group.insert((tenant, Arc::clone(request_id)), place);
        }
        let answer = self.accept(
            place,
            campaign,
            sender,
            submission,
            checked,
            request_id,
            content_hash,
        );
        Ok(Outcome::Fresh(answer))
    }

    /// Refuses what is below the door's floor. By chance, since whoever was refused once is not to be refused again.
    fn shed(&self, place: usize, class: Class) -> Result<(), Refusal> {
        if self.door.floor == 0 {
            return Ok(());
        }
        let chance = scatter(self.now_us.unsigned_abs() ^ scatter(place as u64));
        let chosen = u8::try_from(chance & u64::from(LEVELS - 1)).unwrap_or(0);
        if lowest_level(class) + chosen >= self.floor {
            return Ok(());
        }
        // Spread, or what was refused together would come back together.
        let delay_us = self.door.overloaded_retry_us;
        let spread_us = (i64::try_from(chance >> 32).unwrap_or(0) * delay_us) >> 32;
        Err(Refusal::passing(
            Verdict::Overloaded,
            delay_us / 2 + spread_us,
        ))
    }

    /// Refuses what could not leave in time, now rather than when it expires.
    fn fits_its_validity(
        &self,
        campaign: &Campaign,
        sender: u64,
        checked: &Checked,
    ) -> Result<(), Refusal> {
        let wait_us = self.door.ahead.wait_at_least_us(&Bound {
            tenant: campaign.tenant,
            campaign: campaign.key,
            sender,
            recipient: checked.recipient.digits(),
            class: checked.class,
            kind: checked.kind,
        });
        let late_us = self.now_us.saturating_add(wait_us) - checked.expires_us;
        if late_us <= 0 {
            return Ok(());
        }
        Err(Refusal::passing(
            Verdict::BacklogTooLong,
            late_us.max(self.limits.retry_delay_us),
        ))
    }

    /// Hash of the decoded fields: an unset class differs from a given one, the order on the wire and unknown fields do not
    /// count. The request id must have been taken out.
    fn content_hash(&mut self, submission: &Submission) -> [u8; CONTENT_HASH_BYTES] {
        self.encode(submission);
        let mut hash = [0; CONTENT_HASH_BYTES];
        hash.copy_from_slice(&Sha256::digest(&self.scratch)[..CONTENT_HASH_BYTES]);
        hash
    }

    fn encode(&mut self, submission: &Submission) {
        self.scratch.clear();
        self.scratch.reserve(submission.encoded_len());
        submission.encode_raw(&mut self.scratch);
    }

    /// The tenant's campaign of this name, if it may accept. A paused one may: its messages are held.
    fn campaign(&mut self, tenant: u32, name: &str) -> Result<&'a Campaign, Refusal> {
        let id = name.strip_prefix("campaigns/").unwrap_or_default();
        let last = self
            .last_campaign
            .filter(|last| last.tenant == tenant && last.id == id);
        // Look-ups are by tenant, so that another tenant's campaign is as missing as one that never was.
        let campaign = last
            .or_else(|| self.registry.campaign_of(tenant, id))
            .ok_or_else(|| Refusal::new(Verdict::CampaignNotFound, "campaign"))?;
        self.last_campaign = Some(campaign);
        match campaign.state {
            CampaignState::Active | CampaignState::Paused => Ok(campaign),
            CampaignState::Stopped => Err(Refusal::new(Verdict::CampaignStopped, "campaign")),
        }
    }

    /// The sender's digits, when this message may leave from there and may ever leave at all.
    fn entitled_sender(&self, campaign: &Campaign, checked: &Checked) -> Result<u64, Refusal> {
        let recipient = checked.recipient.digits();
        let sender = match checked.sender {
            Some(sender) if campaign.numbers.binary_search(&sender.digits()).is_ok() => {
                sender.digits()
            }
            Some(_) => return Err(Refusal::new(Verdict::SenderNotInCampaign, "sender")),
            None => choose_sender(recipient, &campaign.numbers)
                .ok_or_else(|| Refusal::new(Verdict::NoSender, "campaign"))?,
        };
        if self.consent.contains(campaign.tenant, recipient) {
            return Err(Refusal::new(Verdict::RecipientOptedOut, "recipient"));
        }
        let segments_passing = self.ceilings.of(campaign, sender, checked.class);
        if u64::from(checked.segments) > segments_passing {
            let detail = format!(
                "the message counts {} segments, a quota on its way passes at most {segments_passing} at once: shorten it, or \
                 have the quota raised",
                checked.segments
            );
            return Err(Refusal::with_detail(Verdict::ExceedsQuota, "text", detail));
        }
        Ok(sender)
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one caller; each is learned at another step of judging"
    )]
    fn accept(
        &mut self,
        item: usize,
        campaign: &Campaign,
        sender: u64,
        mut submission: Submission,
        checked: Checked,
        request_id: Option<Arc<str>>,
        content_hash: [u8; CONTENT_HASH_BYTES],
    ) -> Answer {
        let id = self.mint.mint(self.now_us);
        if let Some(text) = checked.replaced_text {
            submission.text = text;
        }
        if submission.sender.is_empty() {
            submission.sender = format!("+{sender}");
        }
        submission.request_id = match &request_id {
            Some(request_id) => request_id.as_ref().to_owned(),
            None => admission::own_request_id(id),
        };
        self.encode(&submission);
        let is_ordered = !submission.ordering_key.is_empty();
        let scheduled = checked.due_us > self.now_us;
        let reason = if scheduled {
            Reason::Scheduled
        } else {
            Reason::Accepted
        };
        let held = Held {
            id,
            tenant: campaign.tenant,
            campaign: campaign.key,
            sender,
            recipient: checked.recipient.digits(),
            class: checked.class,
            kind: checked.kind,
            encoding: checked.encoding as u8,
            segments: checked.segments,
            seq: 1,
            attempt: 0,
            generation: 1,
            counted: 0,
            flags: u32::from(is_ordered) * flags::ORDERED + u32::from(scheduled) * flags::SCHEDULED,
            due_us: checked.due_us,
            expires_us: checked.expires_us,
            ordering: if is_ordered {
                held::ordering_of(campaign.key, &submission.ordering_key)
            } else {
                0
            },
            recipe: 0,
            body: Arc::from(self.scratch.as_slice()),
        };
        let answer = Answer {
            id,
            segments: held.segments,
            encoding: held.encoding,
        };
        self.admission.accepted.push(Accepted {
            history: history_entry(
                State::Queued,
                reason,
                held.attempt,
                held.generation,
                self.now_us,
                "",
            ),
            held,
            request_id,
            content_hash,
            accept_us: self.now_us,
            scheduled,
            client_reference: submission.client_reference,
            campaign_id: campaign.id.clone(),
            item,
        });
        answer
    }
}

/// One of the numbers, the same for the same recipient, and each with its share of them. The highest of a hash for each
/// pair wins, so that a number that comes or goes moves only the recipients it gains or had.
fn choose_sender(recipient: u64, numbers: &[u64]) -> Option<u64> {
    numbers
        .iter()
        .copied()
        .max_by_key(|&number| scatter(recipient ^ scatter(number)))
}

/// The output function of the `SplitMix64` generator: every bit of the input moves half of the output's.
const fn scatter(value: u64) -> u64 {
    let value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let value = (value ^ value >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ value >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ value >> 31
}
