//! What happens to a stored message after its first attempt was written down: outcomes, receipts, look-ups, timers,
//! cancellations, closed gates and recovery all come here as facts, and leave as guarded row updates with their events.
//!
//! It reads no store: the rows as they stand come in within the writing transaction, so that decision and write are one.
//! Invariants: every state change is in `state::TRANSITIONS`, has exactly one event, and raises `seq` by one.

use std::collections::HashMap;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::message::{Carrier, Class, Micros, flags};
use crate::outcome::{NotTaken, Outcome};
use crate::registry::{OnUnknown, Registry};
use crate::state::{Reason, State};
use crate::telnyx::{CodeClass, class_of};

/// What waits for one moment comes back over so long at most. The scheduler paces what comes back; a tenth of a day
/// instead would take hours off a message's validity.
const SPREAD_MAX_US: i64 = 60_000_000;

/// A lane whose provider says "too fast" without saying for how long is held so long at most.
const LANE_HOLD_MAX_US: i64 = 5_000_000;

/// So often a message that was "too fast" comes back when the provider said.
const QUICK_TRIES_MAX: u16 = 3;

/// An urgent message that was "too fast" comes back within so long: of its 15 minutes that is some hundred tries.
const URGENT_WAIT_MAX_US: i64 = 10_000_000;

/// What a receipt or look-up says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReceiptStatus {
    /// The provider has it.
    Queued,
    /// The carrier has it.
    Sent,
    /// On the handset.
    Delivered,
    /// It will not arrive.
    Undelivered,
    /// The carrier never said.
    Unconfirmed,
}

impl ReceiptStatus {
    /// The meaning of Telnyx's word, older words included; `None` for a word we do not know.
    #[must_use]
    pub fn from_telnyx(status: &str) -> Option<Self> {
        Some(match status {
            "scheduled" | "queued" | "sending" => Self::Queued,
            "sent" => Self::Sent,
            "delivered" | "read" => Self::Delivered,
            "sending_failed" | "delivery_failed" | "expired" | "failed" | "gw_timeout" => {
                Self::Undelivered
            }
            "delivery_unconfirmed" | "dlr_timeout" => Self::Unconfirmed,
            _ => return None,
        })
    }
}

/// A receipt, or a look-up's answer. Also the form in which early receipts are stored (JSON).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Of which generation; 0 when only the provider's id is known.
    pub generation: u16,
    /// What it says.
    pub status: ReceiptStatus,
    /// The provider's error code, or empty.
    pub code: String,
    /// `Carrier` number.
    pub carrier: u8,
    /// Segments by the provider's count.
    pub parts: Option<u32>,
    /// The provider's id.
    pub provider_id: String,
    /// From a look-up.
    pub lookup: bool,
}

/// Why no bytes may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Validity ended.
    Expired,
    /// The recipient opted out.
    OptedOut,
    /// The campaign was stopped or its number taken away.
    CampaignStopped,
}

/// Something that is known of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// What became of this attempt.
    Outcome(u16, Outcome),
    /// A receipt or look-up.
    Receipt(Receipt),
    /// The engine ended with this attempt open.
    Recovered,
    /// Its timer ran out.
    Due,
    /// The caller cancels.
    Cancel,
    /// No bytes may go.
    GateClosed(Gate),
    /// Processing it crashed.
    Crashed,
    /// Nothing happened; what was kept for it is to be looked at.
    Kept,
}

/// A row of `messages` as it stands in the writing transaction: in JSON an array of these columns in this order.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[allow(missing_docs)] // the columns' names, as in the store's schema
pub struct Row {
    pub id: u64,
    pub tenant: u32,
    pub campaign: u32,
    pub recipient: u64,
    #[serde(deserialize_with = "class_column")]
    pub class: Class,
    pub segments: u16,
    #[serde(deserialize_with = "state_column")]
    pub state: State,
    pub reason: u8,
    pub code: String,
    pub seq: u32,
    pub attempt: u16,
    pub generation: u16,
    pub counted: u16,
    pub flags: u32,
    pub due_us: Micros,
    pub accept_us: Micros,
    pub expires_us: Micros,
    pub updated_us: Micros,
    pub started_us: Micros,
    pub provider: u32,
    #[serde(deserialize_with = "text_or_null_column")]
    pub provider_id: String,
    pub carrier: u8,
    pub crashes: u8,
    /// The recipient is in the opt-out list now.
    #[serde(deserialize_with = "truth_column")]
    pub opted_out: bool,
}

fn class_column<'de, D: Deserializer<'de>>(column: D) -> Result<Class, D::Error> {
    let number = i64::deserialize(column)?;
    Class::from_number(number).ok_or_else(|| D::Error::custom(format!("unknown class {number}")))
}

fn state_column<'de, D: Deserializer<'de>>(column: D) -> Result<State, D::Error> {
    let number = i64::deserialize(column)?;
    State::from_number(number).ok_or_else(|| D::Error::custom(format!("unknown state {number}")))
}

fn text_or_null_column<'de, D: Deserializer<'de>>(column: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(column)?.unwrap_or_default())
}

fn truth_column<'de, D: Deserializer<'de>>(column: D) -> Result<bool, D::Error> {
    Ok(i64::deserialize(column)? != 0)
}

/// The rows of `engine.stores.sql.SELECT_ROWS`: a JSON array with an array for each.
///
/// # Errors
///
/// When one of them cannot be a row.
pub fn rows_from_json(rows: &str) -> serde_json::Result<Vec<Row>> {
    serde_json::from_str(rows)
}

/// The numbers decisions depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the configuration's names
pub struct Policy {
    pub attempts_max: u16,
    pub reconcile_wait_us: i64,
    pub no_receipt_after_us: i64,
    pub lookup_after_us: i64,
    pub backoff_base_us: i64,
    pub backoff_cap_us: i64,
    /// The provider keeps its idempotency keys.
    pub honours_keys: bool,
    /// How long it keeps them, less a margin.
    pub key_window_us: i64,
    /// Next midnight of the carriers' day.
    pub day_reset_us: Micros,
    /// Next midnight of the provider's spend limit.
    pub spend_reset_us: Micros,
}

/// What a fate means for the ledgers and for the messages behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Taken, with the provider's count.
    Taken(Option<u32>),
    /// Proved not taken.
    NotTaken,
    /// Unknown.
    Unknown,
}

/// What to hold back after a provider's "too fast" or "cap reached".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Park {
    /// Whose lanes.
    pub campaign: u32,
    /// Of which carrier; 0 all.
    pub carrier: u8,
    /// A cap that resets at `until_us`, or a rate.
    pub cap: bool,
    /// Until then.
    pub until_us: Micros,
}

/// An event before it is encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the proto's names
pub struct Told {
    pub id: u64,
    pub tenant: u32,
    pub campaign: u32,
    pub conflict: bool,
    pub seq: u32,
    pub previous: u8,
    pub state: u8,
    pub reason: u8,
    pub at_us: Micros,
    pub attempt: u16,
    pub generation: u16,
    pub code: String,
}

/// All that a batch of facts changes.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Rows to write, each with the `seq` it had: (row after, seq before, its new events).
    pub updates: Vec<(Row, u32, Vec<Told>)>,
    /// Rows whose timer or flags move without an event.
    pub quiet: Vec<Row>,
    /// Conflicts: events that change no state.
    pub conflicts: Vec<Told>,
    /// Receipts to keep until the attempt settles.
    pub keep: Vec<(u64, Receipt)>,
    /// Messages whose kept receipts are used up.
    pub joined: Vec<u64>,
    /// Messages to load into the scheduler, if they still wait.
    pub requeue: Vec<u64>,
    /// How many of them the provider is offered again for reasons of its own or of the way to it, not of a campaign or a
    /// number.
    pub offered_again: usize,
    /// Messages whose waiting copy must go.
    pub drop: Vec<u64>,
    /// Messages behind which the next of an ordering key may start.
    pub released: Vec<u64>,
    /// For the ledgers.
    pub fates: Vec<(u64, Fate)>,
    /// Carriers learned: recipient, carrier number.
    pub learned: Vec<(u64, u8)>,
    /// To look up: id, provider's id, generation.
    pub lookups: Vec<(u64, String, u16)>,
    /// To hold back.
    pub parks: Vec<Park>,
    /// Opt-outs the provider told us: tenant, recipient, code.
    pub opt_outs: Vec<(u32, u64, String)>,
    /// Cancellations that came too late.
    pub too_late: Vec<u64>,
}

struct Settling<'a> {
    row: Row,
    events: Vec<Told>,
    touched: bool,
    now_us: Micros,
    random: u64,
    policy: &'a Policy,
    registry: &'a Registry,
    changes: &'a mut Changes,
}

/// `SplitMix64`: full jitter needs spread, not secrecy.
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Settles facts on the rows they concern. `early` are kept receipts of these messages; they are applied after the facts
/// once no attempt is open, and so are receipts among the facts that came before their attempt's outcome. Facts of ids without a row are ignored. `seed` makes jitter reproducible.
#[must_use]
pub fn settle(
    rows: Vec<Row>,
    facts: Vec<(u64, Fact)>,
    early: Vec<(u64, Receipt)>,
    policy: &Policy,
    registry: &Registry,
    now_us: Micros,
    seed: u64,
) -> Changes {
    let mut changes = Changes::default();
    let mut of: HashMap<u64, (Vec<Fact>, Vec<Receipt>)> = HashMap::with_capacity(rows.len());
    for (id, fact) in facts {
        of.entry(id).or_default().0.push(fact);
    }
    for (id, receipt) in early {
        of.entry(id).or_default().1.push(receipt);
    }
    for row in rows {
        let Some((facts, early)) = of.remove(&row.id) else {
            continue;
        };
        let (seq, id) = (row.seq, row.id);
        let random = mix(seed ^ id);
        let kept_before = changes.keep.len();
        let mut settling = Settling {
            row,
            events: Vec::new(),
            touched: false,
            now_us,
            random,
            policy,
            registry,
            changes: &mut changes,
        };
        for fact in facts {
            settling.apply(fact);
        }
        if settling.row.state != State::Dispatching {
            if !early.is_empty() {
                settling.changes.joined.push(id);
            }
            let just_kept = settling.changes.keep.split_off(kept_before);
            let just_kept = just_kept.into_iter().map(|(_, receipt)| receipt);
            for receipt in early.into_iter().chain(just_kept) {
                settling.receipt(&receipt);
            }
        }
        let Settling {
            row,
            events,
            touched,
            ..
        } = settling;
        if !events.is_empty() {
            changes.updates.push((row, seq, events));
        } else if touched {
            changes.quiet.push(row);
        }
    }
    changes
}

impl Settling<'_> {
    fn become_state(&mut self, to: State, reason: Reason, code: &str) {
        debug_assert!(
            self.row.state.may_become(to),
            "{:?} to {to:?}",
            self.row.state
        );
        let previous = self.row.state;
        self.row.seq += 1;
        self.row.state = to;
        self.row.reason = reason as u8;
        code.clone_into(&mut self.row.code);
        self.row.updated_us = self.now_us;
        self.events.push(Told {
            id: self.row.id,
            tenant: self.row.tenant,
            campaign: self.row.campaign,
            conflict: false,
            seq: self.row.seq,
            previous: previous as u8,
            state: to as u8,
            reason: reason as u8,
            at_us: self.now_us,
            attempt: self.row.attempt,
            generation: self.row.generation,
            code: code.to_owned(),
        });
        if previous == State::Queued && to != State::Dispatching {
            self.changes.drop.push(self.row.id);
        }
        if to.is_terminal() || to == State::Submitted || to == State::Sent {
            self.changes.released.push(self.row.id);
        }
    }

    fn conflict(&mut self, receipt: &Receipt) {
        self.changes.conflicts.push(Told {
            id: self.row.id,
            tenant: self.row.tenant,
            campaign: self.row.campaign,
            conflict: true,
            seq: 0,
            previous: 0,
            state: self.row.state as u8,
            reason: if receipt.lookup {
                Reason::Lookup as u8
            } else {
                Reason::Receipt as u8
            },
            at_us: self.now_us,
            attempt: self.row.attempt,
            generation: receipt.generation,
            code: receipt.code.clone(),
        });
    }

    fn has(&self, flag: u32) -> bool {
        self.row.flags & flag != 0
    }

    /// Full jitter: anything from a tenth to the whole of base · 2^n, capped.
    fn backoff(&mut self, exponent: u16, base_us: i64) -> i64 {
        let ceiling = base_us
            .saturating_mul(1_i64 << exponent.min(30))
            .clamp(1, self.policy.backoff_cap_us.max(1));
        self.jitter(ceiling).max(ceiling / 10)
    }

    fn jitter(&mut self, ceiling_us: i64) -> i64 {
        self.random = mix(self.random);
        let ceiling = u64::try_from(ceiling_us.max(1)).unwrap_or(1);
        i64::try_from(self.random % ceiling).unwrap_or(0)
    }

    /// So much after `until_us` a message comes back: up to a tenth of its wait.
    fn spread(&mut self, until_us: Micros) -> i64 {
        self.jitter(((until_us - self.now_us) / 10).min(SPREAD_MAX_US))
    }

    fn requeue(&mut self, due_us: Micros, reason: Reason, code: &str) {
        self.become_state(State::Queued, reason, code);
        self.row.due_us = due_us;
        if self.has(flags::CANCEL_REQUESTED) {
            self.cancel(); // it came too late for the attempt that ended here, not for another
        } else {
            self.changes.requeue.push(self.row.id);
            let of_the_provider = [Reason::NotConnected, Reason::Throttled, Reason::Resend];
            self.changes.offered_again += usize::from(of_the_provider.contains(&reason));
        }
    }

    fn apply(&mut self, fact: Fact) {
        match fact {
            Fact::Outcome(attempt, outcome) => self.outcome(attempt, outcome),
            Fact::Receipt(receipt) => {
                let open = self.row.state == State::Dispatching;
                if open && receipt.generation <= self.row.generation {
                    self.changes.keep.push((self.row.id, receipt));
                } else {
                    self.receipt(&receipt);
                }
            }
            Fact::Recovered => {
                if self.row.state == State::Dispatching {
                    self.silent(Reason::Recovered, "");
                }
            }
            Fact::Due => self.due(),
            Fact::Cancel => self.cancel(),
            Fact::GateClosed(gate) => self.gate_closed(gate),
            Fact::Crashed => self.crashed(),
            Fact::Kept => {}
        }
    }

    /// Enters UNKNOWN from an open attempt.
    fn silent(&mut self, reason: Reason, code: &str) {
        self.row.flags |= flags::MAYBE_SENT;
        if let Some(counted) = self.row.flags.checked_add(flags::SILENT_ONE) {
            self.row.flags = counted;
        }
        self.become_state(State::Unknown, reason, code);
        self.row.due_us = self.now_us + self.unknown_wait();
        self.changes.fates.push((self.row.id, Fate::Unknown));
    }

    fn outcome(&mut self, attempt: u16, outcome: Outcome) {
        let open = self.row.state == State::Dispatching;
        let closed = self.has(flags::CANCEL_REQUESTED | flags::NO_RESEND);
        // Late truth about the last attempt is evidence even when it was given up meanwhile, or a copy waits.
        let counts = match self.row.state {
            State::Dispatching | State::Unknown => true,
            // Only to be sent again while nobody knows; back in line for another reason, the last was not taken.
            State::Queued => {
                self.has(flags::MAYBE_SENT)
                    && self.row.reason == Reason::Resend as u8
                    && matches!(outcome, Outcome::Taken { .. })
            }
            _ => false,
        };
        if attempt != self.row.attempt || !counts {
            return;
        }
        match outcome {
            Outcome::Taken {
                provider_id,
                carrier,
                parts,
            } => {
                self.learn(carrier as u8);
                self.row.provider_id = provider_id;
                self.become_state(State::Submitted, Reason::ProviderTook, "");
                self.row.due_us = self.now_us + self.policy.lookup_after_us;
                self.changes.fates.push((self.row.id, Fate::Taken(parts)));
            }
            Outcome::NotTaken {
                why,
                retry_after_us,
                code,
            } => {
                self.changes.fates.push((self.row.id, Fate::NotTaken));
                if open || !closed {
                    self.not_taken(why, retry_after_us, &code);
                }
            }
            Outcome::RefusedForNow { code, hold_us } => {
                self.changes.fates.push((self.row.id, Fate::NotTaken));
                if closed && !open {
                    return; // no bytes go any more; its timer ends it
                }
                self.row.counted += 1;
                if self.row.counted >= self.policy.attempts_max {
                    self.refuse(Reason::AttemptsUsedUp, &code);
                } else {
                    let wait =
                        hold_us + self.backoff(self.row.counted, self.policy.backoff_base_us);
                    self.requeue(self.now_us + wait, Reason::Retry, &code);
                }
            }
            Outcome::RefusedForGood { code, opted_out } => {
                self.changes.fates.push((self.row.id, Fate::NotTaken));
                if opted_out {
                    self.changes
                        .opt_outs
                        .push((self.row.tenant, self.row.recipient, code.clone()));
                }
                self.refuse(Reason::ProviderRefused, &code);
            }
            Outcome::Unknown { code } => {
                if open {
                    self.silent(Reason::Silence, &code);
                }
            }
        }
    }

    fn not_taken(&mut self, why: NotTaken, retry_after_us: Option<i64>, code: &str) {
        let tries = self.row.attempt.saturating_sub(self.row.counted);
        let (reason, until) = match why {
            NotTaken::NotConnected => (
                Reason::NotConnected,
                self.now_us + self.backoff(tries, self.policy.backoff_base_us),
            ),
            NotTaken::Account => (
                Reason::NotConnected,
                self.now_us + self.backoff(tries, self.policy.backoff_base_us * 10),
            ),
            NotTaken::Throttled => {
                // The first times the provider's word is all; then the message waits ever longer, whatever it says.
                let mut own = match retry_after_us {
                    Some(_) if tries <= QUICK_TRIES_MAX => 0,
                    Some(_) => self.backoff(tries - QUICK_TRIES_MAX, self.policy.backoff_base_us),
                    None => self.backoff(tries, self.policy.backoff_base_us),
                };
                if self.row.class == Class::Critical {
                    // Urgent messages go first and so are refused most often: that is not to make them the last to go.
                    own = own.min(URGENT_WAIT_MAX_US);
                }
                let said = retry_after_us.map(|wait| wait.clamp(1, 3_600_000_000));
                // The lane waits as long as the provider says; where it says nothing, one message's many tries are not
                // to hold its neighbours for minutes.
                self.park(
                    false,
                    self.now_us + said.unwrap_or(own.min(LANE_HOLD_MAX_US)),
                );
                (Reason::Throttled, self.now_us + said.unwrap_or(0).max(own))
            }
            NotTaken::CapDay | NotTaken::CapSpend | NotTaken::CapMinute => {
                (Reason::CapReached, self.capped(why))
            }
        };
        let spread = self.spread(until);
        self.requeue(until + spread, reason, code);
    }

    fn capped(&mut self, why: NotTaken) -> Micros {
        let (until, carrier) = match why {
            NotTaken::CapDay => (self.policy.day_reset_us, Carrier::TMobile),
            NotTaken::CapSpend => (self.policy.spend_reset_us, Carrier::Unknown),
            _ => (self.now_us + 60_000_000, Carrier::Att),
        };
        if self.row.carrier == Carrier::Unknown as u8 {
            // The cap is one carrier's own: who meets it is that carrier's.
            self.learn(carrier as u8);
        }
        self.park(true, until);
        until
    }

    fn park(&mut self, cap: bool, until_us: Micros) {
        let (campaign, carrier) = (self.row.campaign, self.row.carrier);
        self.changes.parks.push(Park {
            campaign,
            carrier,
            cap,
            until_us,
        });
    }

    /// Refused for good. After an attempt of unknown outcome this refusal is only the copy's: the first may be out.
    fn refuse(&mut self, reason: Reason, code: &str) {
        let copy = self.has(flags::MAYBE_SENT);
        if copy && self.row.state == State::Dispatching {
            self.row.flags |= flags::NO_RESEND;
            self.become_state(State::Unknown, reason, code);
            self.row.due_us = self.now_us + self.policy.reconcile_wait_us;
        } else if copy && self.row.attempt > 1 {
            // Late truth about the last copy: an earlier one may still be out.
            self.row.flags |= flags::NO_RESEND;
            self.touched = true;
        } else {
            self.become_state(State::Failed, reason, code);
        }
    }

    fn learn(&mut self, carrier: u8) {
        if carrier != Carrier::Unknown as u8 && carrier != self.row.carrier {
            self.row.carrier = carrier;
            self.changes.learned.push((self.row.recipient, carrier));
        }
    }

    fn receipt(&mut self, receipt: &Receipt) {
        let older = if receipt.generation == 0 {
            receipt.provider_id != self.row.provider_id
        } else {
            receipt.generation < self.row.generation
        };
        if older && receipt.status != ReceiptStatus::Delivered {
            return; // of a generation that ended; only an arrival still matters
        }
        if receipt.generation > self.row.generation {
            self.conflict(receipt); // of an attempt that was never written down
            return;
        }
        self.learn(receipt.carrier);
        let reason = if receipt.lookup {
            Reason::Lookup
        } else {
            Reason::Receipt
        };
        let state = self.row.state;
        let open = matches!(state, State::Unknown | State::Submitted | State::Sent)
            || (state == State::Queued && self.row.attempt > 0);
        if open && self.row.provider_id.is_empty() && !receipt.provider_id.is_empty() {
            self.row.provider_id.clone_from(&receipt.provider_id);
        }
        match receipt.status {
            ReceiptStatus::Queued
                if state == State::Unknown || (open && state == State::Queued) =>
            {
                self.become_state(State::Submitted, reason, &receipt.code);
                self.row.due_us = self.now_us + self.policy.lookup_after_us;
            }
            ReceiptStatus::Sent if open && state != State::Sent => {
                self.become_state(State::Sent, reason, &receipt.code);
                self.row.due_us = self.now_us + self.policy.lookup_after_us;
            }
            ReceiptStatus::Delivered
                if open
                    || matches!(
                        state,
                        State::Unresolved | State::NoReceipt | State::Undelivered
                    ) =>
            {
                self.become_state(State::Delivered, reason, &receipt.code);
            }
            ReceiptStatus::Undelivered if open => self.failed_later(receipt, reason),
            ReceiptStatus::Undelivered if matches!(state, State::Unresolved | State::NoReceipt) => {
                self.become_state(State::Undelivered, reason, &receipt.code);
            }
            ReceiptStatus::Unconfirmed if open => {
                self.become_state(State::NoReceipt, reason, &receipt.code);
            }
            ReceiptStatus::Undelivered if state == State::Delivered => self.conflict(receipt),
            _ => {
                // Never sent by us, or refused: any receipt contradicts. Otherwise it only repeats a lower rank.
                let never_left = matches!(
                    state,
                    State::Failed
                        | State::Cancelled
                        | State::Expired
                        | State::Blocked
                        | State::Dead
                ) || (state == State::Queued && self.row.attempt == 0);
                if never_left {
                    self.conflict(receipt);
                }
            }
        }
    }

    /// A provider's final failure after it had taken the message.
    fn failed_later(&mut self, receipt: &Receipt, reason: Reason) {
        let class = class_of(&receipt.code);
        if class == Some(CodeClass::OptedOut) {
            self.changes
                .opt_outs
                .push((self.row.tenant, self.row.recipient, receipt.code.clone()));
        }
        let again = self.row.expires_us > self.now_us
            && !self.row.opted_out
            && !self.has(flags::NO_RESEND | flags::CANCEL_REQUESTED)
            // A copy queued again is settled by this receipt; it does not start a third.
            && self.row.state != State::Queued
            // Another attempt may still be out; the first was alone.
            && (self.row.attempt == 1 || !self.has(flags::MAYBE_SENT));
        let retry = match class {
            Some(CodeClass::CapDay) => Some((Reason::CapReached, NotTaken::CapDay)),
            Some(CodeClass::CapMinute) => Some((Reason::CapReached, NotTaken::CapMinute)),
            Some(CodeClass::CapSpend) => Some((Reason::CapReached, NotTaken::CapSpend)),
            Some(CodeClass::Rate) => Some((Reason::Throttled, NotTaken::Throttled)),
            Some(CodeClass::Retry) if self.row.counted + 1 < self.policy.attempts_max => {
                Some((Reason::Retry, NotTaken::NotConnected))
            }
            _ => None,
        };
        let Some((why, kind)) = retry.filter(|_| again) else {
            self.become_state(State::Undelivered, reason, &receipt.code);
            return;
        };
        let until = match kind {
            NotTaken::CapDay | NotTaken::CapMinute | NotTaken::CapSpend => self.capped(kind),
            NotTaken::Throttled => {
                let until =
                    self.now_us + self.backoff(self.row.generation, self.policy.backoff_base_us);
                self.park(false, until);
                until
            }
            _ => {
                self.row.counted += 1;
                self.now_us + self.backoff(self.row.counted, self.policy.backoff_base_us)
            }
        };
        // The body must change (its callback names the generation), and so must the provider's key.
        let spread = self.spread(until);
        self.requeue(until + spread, why, &receipt.code);
        self.row.generation += 1;
        self.row.provider_id.clear();
        self.row.flags &= !flags::MAYBE_SENT;
    }

    fn may_resend(&self) -> bool {
        let stopped = self
            .registry
            .campaign(self.row.campaign)
            .is_none_or(|campaign| campaign.state == crate::registry::CampaignState::Stopped);
        !stopped
            && !self.row.opted_out
            && self.row.expires_us > self.now_us
            && !self.has(flags::CANCEL_REQUESTED | flags::NO_RESEND)
            && flags::silent(self.row.flags) < self.policy.attempts_max
    }

    fn resend_by_policy(&self) -> bool {
        match self
            .registry
            .campaign(self.row.campaign)
            .map_or(OnUnknown::Unresolved, |campaign| campaign.on_unknown)
        {
            OnUnknown::Resend => true,
            OnUnknown::Unresolved => false,
            OnUnknown::ByClass => self.row.class == Class::Critical,
        }
    }

    /// The key of this generation is surely still remembered.
    fn key_holds(&self) -> bool {
        self.policy.honours_keys && self.now_us - self.row.accept_us < self.policy.key_window_us
    }

    /// How long to wait for evidence before the next step.
    fn unknown_wait(&mut self) -> i64 {
        if self.key_holds() && self.may_resend() {
            let tries = flags::silent(self.row.flags);
            self.backoff(tries, self.policy.backoff_base_us)
                .min(self.policy.reconcile_wait_us)
        } else {
            self.policy.reconcile_wait_us
        }
    }

    fn due(&mut self) {
        match self.row.state {
            State::Unknown => {
                let waited = self.now_us - self.row.updated_us >= self.policy.reconcile_wait_us;
                if self.may_resend() && self.key_holds() {
                    self.requeue(self.now_us, Reason::Resend, "");
                } else if !waited {
                    self.row.due_us = self.row.updated_us + self.policy.reconcile_wait_us;
                    self.touched = true;
                } else if self.may_resend() && self.resend_by_policy() {
                    self.row.flags |= flags::POSSIBLE_DUPLICATE;
                    self.requeue(self.now_us, Reason::Resend, "");
                } else {
                    self.become_state(State::Unresolved, Reason::NoEvidence, "");
                }
            }
            State::Submitted | State::Sent => {
                let end = self.row.started_us + self.policy.no_receipt_after_us;
                if self.now_us >= end {
                    self.become_state(State::NoReceipt, Reason::ReceiptOverdue, "");
                } else {
                    if !self.row.provider_id.is_empty() {
                        let lookup = (
                            self.row.id,
                            self.row.provider_id.clone(),
                            self.row.generation,
                        );
                        self.changes.lookups.push(lookup);
                    }
                    self.row.due_us = (self.now_us + self.policy.lookup_after_us).min(end);
                    self.touched = true;
                }
            }
            _ => {}
        }
    }

    fn cancel(&mut self) {
        match self.row.state {
            State::Queued if !self.has(flags::MAYBE_SENT) => {
                self.become_state(State::Cancelled, Reason::Cancelled, "");
            }
            State::Queued => {
                self.row.flags |= flags::CANCEL_REQUESTED;
                self.become_state(State::Unknown, Reason::Cancelled, "");
                self.row.due_us = self.now_us + self.policy.reconcile_wait_us;
            }
            State::Unknown => {
                self.row.flags |= flags::CANCEL_REQUESTED;
                self.touched = true;
            }
            State::Cancelled => {} // cancelling twice is cancelling once
            State::Dispatching | State::Submitted | State::Sent => {
                // Too late for this attempt, but no other follows it.
                self.row.flags |= flags::CANCEL_REQUESTED;
                self.touched = true;
                self.changes.too_late.push(self.row.id);
            }
            _ => self.changes.too_late.push(self.row.id),
        }
    }

    fn gate_closed(&mut self, gate: Gate) {
        if self.row.state != State::Queued {
            return;
        }
        if gate == Gate::Expired && self.row.expires_us > self.now_us {
            // The clock was set back since it was found expired, and whoever found it let it go.
            self.changes.requeue.push(self.row.id);
            return;
        }
        let (to, reason) = match gate {
            Gate::Expired => (State::Expired, Reason::Expired),
            Gate::OptedOut => (State::Blocked, Reason::OptedOut),
            Gate::CampaignStopped => (State::Blocked, Reason::CampaignStopped),
        };
        if self.has(flags::MAYBE_SENT) {
            self.row.flags |= flags::NO_RESEND;
            self.become_state(State::Unknown, reason, "");
            self.row.due_us = self.now_us + self.policy.reconcile_wait_us;
        } else {
            self.become_state(to, reason, "");
        }
    }

    fn crashed(&mut self) {
        if !matches!(self.row.state, State::Queued | State::Dispatching) {
            return;
        }
        self.row.crashes = self.row.crashes.saturating_add(1);
        if self.row.state == State::Dispatching {
            self.changes.fates.push((self.row.id, Fate::NotTaken));
        }
        if self.row.crashes >= 2 && self.has(flags::MAYBE_SENT) {
            // Dead, no receipt could settle it any more, and an earlier attempt may be out.
            self.row.flags |= flags::NO_RESEND;
            self.become_state(State::Unknown, Reason::Poison, "");
            self.row.due_us = self.now_us + self.policy.reconcile_wait_us;
        } else if self.row.crashes >= 2 && !self.has(flags::CANCEL_REQUESTED) {
            self.become_state(State::Dead, Reason::Poison, "");
        } else if self.row.state == State::Dispatching {
            let wait = self.backoff(1, self.policy.backoff_base_us);
            self.requeue(self.now_us + wait, Reason::Retry, "");
        } else {
            self.touched = true;
        }
    }
}
