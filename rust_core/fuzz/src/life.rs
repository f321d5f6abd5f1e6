//! A message's life as the design's text tells it (sections 4, 2.2, 2.6, 2.8, 2.9): what each fact may make of it.
//!
//! Written from the text alone and without a word of `settle.rs`. Where the text leaves a choice, every choice is given;
//! whoever compares takes those that were not seen away.

use _core::outcome::{NotTaken, Outcome};
use _core::settle::{Fact, Gate, ReceiptStatus};
use _core::state::State;

/// What a provider's final failure is retried for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A cap or a rate: once it has reset.
    Held,
    /// It may do better next time; counts.
    Retry,
    /// It will not.
    Final,
}

/// The recipient has opted out with the provider.
pub const OPTED_OUT_CODE: &str = "40300";

/// The codes a target chooses from, by what the outcome table says of them.
pub const CODES: [(&str, Failure); 9] = [
    ("", Failure::Final),
    ("40001", Failure::Final),
    ("40300", Failure::Final),
    ("40006", Failure::Retry),
    ("40008", Failure::Retry),
    ("40016", Failure::Held),
    ("40018", Failure::Held),
    ("10011", Failure::Held),
    ("40318", Failure::Held),
];

/// The arrows of section 4 and its listed upgrades.
pub fn is_listed(from: State, to: State) -> bool {
    use State::{
        Blocked, Cancelled, Dead, Delivered, Dispatching, Expired, Failed, NoReceipt, Queued, Sent,
        Submitted, Undelivered, Unknown, Unresolved,
    };
    match from {
        // From `Submitted` on: only of a copy that waits again after `Unknown`.
        Queued => !matches!(to, Queued | Failed | Unresolved),
        Dispatching => matches!(to, Submitted | Queued | Unknown | Failed | Dead),
        Submitted => matches!(to, Sent | Delivered | Undelivered | NoReceipt | Queued),
        Sent => matches!(to, Delivered | Undelivered | NoReceipt | Queued),
        Unknown => !matches!(
            to,
            Unknown | Dispatching | Cancelled | Expired | Blocked | Dead
        ),
        Unresolved | NoReceipt => matches!(to, Delivered | Undelivered),
        Undelivered => to == Delivered,
        Dead => to == Queued,
        Delivered | Failed | Cancelled | Expired | Blocked => false,
    }
}

/// What is true around a message while a fact comes in.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::struct_excessive_bools)] // each is a question of its own
pub struct Around {
    /// The policy for what stays unknown, for this message: send again.
    pub resend: bool,
    /// The provider keeps its keys, and this generation's is young enough.
    pub key_holds: bool,
    /// Valid, not opted out, campaign not stopped.
    pub gates_open: bool,
    /// Validity has ended.
    pub expired: bool,
    /// Its timer has run out.
    pub timer_out: bool,
    /// `attempts_max`.
    pub attempts_max: u16,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    /// Where it stands.
    pub state: State,
    /// Attempts started.
    pub attempt: u16,
    /// The key's generation.
    pub generation: u16,
    /// Attempts that count.
    pub counted: u16,
    /// Attempts of which nobody knows.
    pub open: Vec<u16>,
    /// Attempts that ended without an answer, whatever came to be known of them.
    pub silent: u16,
    /// One of the generation's attempts stayed silent for a while: a row does not say which, nor that it is settled.
    pub was_open: bool,
    /// No bytes may go any more.
    pub closed: bool,
    /// Crashes of its processing.
    pub crashes: u8,
    /// Receipts that came while an attempt was open: (generation, status, failure).
    pub kept: Vec<(u16, ReceiptStatus, Failure)>,
}

impl Life {
    /// As it was accepted.
    pub fn new() -> Self {
        Self {
            state: State::Queued,
            attempt: 0,
            generation: 1,
            counted: 0,
            open: Vec::new(),
            silent: 0,
            was_open: false,
            closed: false,
            crashes: 0,
            kept: Vec::new(),
        }
    }

    fn to(&self, state: State) -> Self {
        let mut next = self.clone();
        next.state = state;
        next
    }

    fn is_over(&self) -> bool {
        self.state.is_terminal()
    }

    /// What this fact may make of it.
    pub fn after(&self, fact: &Fact, failure: Failure, around: Around) -> Vec<Self> {
        match fact {
            Fact::Outcome(attempt, outcome) => {
                if self.state == State::Dispatching && *attempt == self.attempt {
                    self.after_outcome(outcome, around)
                } else {
                    self.after_late_outcome(*attempt, outcome, around)
                }
            }
            Fact::Receipt(receipt) => {
                let generation = if receipt.generation == 0 {
                    self.generation
                } else {
                    receipt.generation
                };
                self.after_receipt(generation, receipt.status, failure, around)
            }
            Fact::Recovered if self.state == State::Dispatching => {
                let mut next = self.to(State::Unknown);
                next.open.push(self.attempt);
                next.silent += 1;
                next.was_open = true;
                vec![next]
            }
            // Nobody had it out, or nothing of it was done.
            Fact::Recovered | Fact::Kept => vec![self.clone()],
            Fact::Due => self.after_timer(around),
            Fact::Cancel => {
                let mut all = self.after_close(State::Cancelled);
                // Too late for the attempt that is under way or taken: no other follows it.
                if matches!(
                    self.state,
                    State::Dispatching | State::Submitted | State::Sent
                ) {
                    all[0].closed = true;
                }
                all
            }
            Fact::GateClosed(Gate::Expired) if !around.expired => vec![self.clone()],
            Fact::GateClosed(gate) => {
                let end = if *gate == Gate::Expired {
                    State::Expired
                } else {
                    State::Blocked
                };
                let mut all = self.after_close(end);
                if self.state == State::Unknown {
                    // A gate may open again: it is asked when bytes are about to go.
                    all.push(self.clone());
                }
                all
            }
            Fact::Crashed => self.after_crash(around),
        }
    }

    /// Back in line. With a gate closed it may be ended, or set to wait for evidence, at once.
    fn back_in_line(&self, around: Around) -> Vec<Self> {
        let queued = self.to(State::Queued);
        if !self.closed && around.gates_open {
            return vec![queued];
        }
        let ends: &[State] = if self.open.is_empty() {
            &[State::Cancelled, State::Expired, State::Blocked]
        } else {
            &[State::Unknown]
        };
        let mut all: Vec<Self> = ends.iter().map(|&end| self.to(end)).collect();
        if !self.closed {
            // The attempt's guard will stop it.
            all.push(queued);
        }
        all
    }

    fn after_outcome(&self, outcome: &Outcome, around: Around) -> Vec<Self> {
        match outcome {
            Outcome::Taken { .. } => vec![self.to(State::Submitted)],
            Outcome::NotTaken { .. } => self.back_in_line(around),
            Outcome::RefusedForNow { .. } => {
                let mut next = self.clone();
                next.counted += 1;
                if next.counted < around.attempts_max {
                    return next.back_in_line(around);
                }
                next.ended_by_refusal()
            }
            Outcome::RefusedForGood { .. } => self.ended_by_refusal(),
            Outcome::Unknown { .. } => {
                let mut next = self.to(State::Unknown);
                next.open.push(self.attempt);
                next.silent += 1;
                next.was_open = true;
                vec![next]
            }
        }
    }

    /// Refused for good, or used up: an earlier attempt that may be out is still waited for.
    fn ended_by_refusal(&self) -> Vec<Self> {
        if self.open.is_empty() {
            return vec![self.to(State::Failed)];
        }
        let mut waits = self.to(State::Unknown);
        waits.closed = true;
        vec![waits]
    }

    /// Late truth: evidence for its attempt.
    fn after_late_outcome(&self, attempt: u16, outcome: &Outcome, around: Around) -> Vec<Self> {
        let was_open = self.open.contains(&attempt);
        let mut known = self.clone();
        known.open.retain(|&open| open != attempt);
        if !was_open || self.is_over() {
            return vec![self.clone()];
        }
        match (self.state, outcome) {
            (_, Outcome::Unknown { .. }) => vec![self.clone()],
            (State::Unknown | State::Queued, Outcome::Taken { .. }) => {
                vec![known.to(State::Submitted)]
            }
            (State::Unknown, Outcome::NotTaken { .. } | Outcome::RefusedForNow { .. })
                if self.closed =>
            {
                vec![self.clone(), known]
            }
            (State::Unknown, Outcome::NotTaken { .. } | Outcome::RefusedForNow { .. }) => {
                // That it may have left can be forgotten now, or not: then evidence is waited for in vain, which is safe.
                let last = known.open.is_empty();
                let mut all = Vec::new();
                for mut next in [known, self.clone()] {
                    if !last {
                        all.push(next.clone());
                    }
                    if matches!(outcome, Outcome::RefusedForNow { .. }) {
                        next.counted += 1;
                        if next.counted >= around.attempts_max {
                            if last {
                                all.push(next.to(State::Failed));
                                all.extend(next.waits_as_one_of_several());
                            } else {
                                next.closed = true;
                                all.push(next);
                            }
                            continue;
                        }
                    }
                    all.extend(next.back_in_line(around));
                }
                all
            }
            (State::Unknown, Outcome::RefusedForGood { .. }) if known.open.is_empty() => {
                let mut all = vec![known.to(State::Failed)];
                all.extend(self.waits_as_one_of_several());
                all
            }
            (State::Unknown, Outcome::RefusedForGood { .. }) => {
                let mut closed = self.clone();
                closed.closed = true;
                known.closed = true;
                vec![closed, known]
            }
            // Nothing is proved of the others; of this one it may be remembered or not.
            _ => vec![self.clone(), known],
        }
    }

    /// A row does not say which of its attempts stayed silent: evidence is waited for in vain, which is safe.
    fn waits_as_one_of_several(&self) -> Option<Self> {
        (self.attempt > 1).then(|| {
            let mut waits = self.clone();
            waits.closed = true;
            waits
        })
    }

    fn after_receipt(
        &self,
        generation: u16,
        status: ReceiptStatus,
        failure: Failure,
        around: Around,
    ) -> Vec<Self> {
        use ReceiptStatus::{Delivered, Queued, Sent, Unconfirmed, Undelivered};
        let same = || vec![self.clone()];
        if generation > self.generation || self.attempt == 0 {
            return same(); // of no attempt there was
        }
        if self.state == State::Dispatching {
            let mut next = self.clone();
            next.kept.push((generation, status, failure));
            return vec![next];
        }
        let former = generation < self.generation;
        if former && status != Delivered {
            return same(); // that generation has failed for good already
        }
        match (self.state, status) {
            (State::Queued, Delivered) if former => vec![self.to(State::Delivered)],
            // A receipt of what was answered "not taken" contradicts, yet is evidence, and nobody wants a second copy.
            (State::Queued, _) if self.open.is_empty() => {
                let mut waits = self.clone();
                waits.open.push(self.attempt);
                let mut all = waits.after_receipt(generation, status, failure, around);
                all.push(self.clone());
                all
            }
            (State::Unknown | State::Queued, Queued) => vec![self.to(State::Submitted)],
            (State::Unknown | State::Queued | State::Submitted, Sent) => vec![self.to(State::Sent)],
            (
                State::Unknown
                | State::Queued
                | State::Submitted
                | State::Sent
                | State::Undelivered
                | State::NoReceipt
                | State::Unresolved,
                Delivered,
            ) => vec![self.to(State::Delivered)],
            (State::NoReceipt | State::Unresolved, Undelivered) => {
                vec![self.to(State::Undelivered)]
            }
            // It settles the message; no third copy.
            (State::Queued, Undelivered) => vec![self.to(State::Undelivered)],
            (State::Unknown | State::Submitted | State::Sent, Undelivered) => {
                self.after_failure(failure, around)
            }
            (State::Unknown | State::Queued | State::Submitted | State::Sent, Unconfirmed) => {
                vec![self.to(State::NoReceipt)]
            }
            _ => same(),
        }
    }

    /// The provider's final failure, which may be retried in a new generation.
    fn after_failure(&self, failure: Failure, around: Around) -> Vec<Self> {
        let ended = self.to(State::Undelivered);
        let mut again = self.to(State::Queued);
        again.generation += 1;
        let used_up = match failure {
            Failure::Final => return vec![ended],
            Failure::Held => false,
            Failure::Retry => {
                again.counted += 1;
                again.counted >= around.attempts_max
            }
        };
        if used_up || self.closed || around.expired {
            return vec![ended];
        }
        let alone = self.attempt == 1 || !self.was_open;
        let certain = self.open.is_empty() && alone && around.gates_open;
        again.open.clear();
        again.was_open = false;
        if certain {
            return vec![again];
        }
        // Another copy may be out, or the attempt's guard will stop it: both are sound.
        vec![ended, again]
    }

    fn after_timer(&self, around: Around) -> Vec<Self> {
        match self.state {
            State::Unknown => {
                let mut all = vec![self.clone()];
                if !around.timer_out {
                    return all;
                }
                let may_send =
                    !self.closed && around.gates_open && (around.resend || around.key_holds);
                if may_send {
                    let again = self.to(State::Queued);
                    if !around.key_holds {
                        let mut renewed = again.clone();
                        renewed.generation += 1;
                        all.push(renewed);
                    }
                    all.push(again);
                }
                if !around.gates_open {
                    let mut closed = self.clone();
                    closed.closed = true;
                    all.push(closed);
                }
                // So many copies are enough, whatever the policy.
                if !may_send || !around.resend || self.silent >= around.attempts_max {
                    all.push(self.to(State::Unresolved));
                }
                all
            }
            State::Submitted | State::Sent => vec![self.clone(), self.to(State::NoReceipt)],
            _ => vec![self.clone()],
        }
    }

    /// Cancelled, expired or blocked: at once where nothing can be out, else no bytes go and evidence is waited for.
    fn after_close(&self, end: State) -> Vec<Self> {
        let mut closed = self.clone();
        closed.closed = true;
        match self.state {
            State::Queued if self.open.is_empty() => vec![closed.to(end)],
            State::Queued => vec![closed.to(State::Unknown)],
            State::Unknown => vec![closed],
            _ => vec![self.clone()],
        }
    }

    fn after_crash(&self, around: Around) -> Vec<Self> {
        let mut next = self.clone();
        next.crashes += 1;
        match self.state {
            // What may be out is not given up as dead: only evidence counts from here on.
            State::Queued | State::Dispatching if next.crashes >= 2 && !next.open.is_empty() => {
                next.closed = true;
                vec![next.to(State::Unknown)]
            }
            State::Queued | State::Dispatching if next.crashes >= 2 => {
                // Cancelled too late for the attempt that never left: it is over without an operator.
                let mut all = if next.closed && self.state == State::Dispatching {
                    next.back_in_line(around)
                } else {
                    vec![next.to(State::Dead)]
                };
                if next.was_open {
                    // A row does not say that its silent attempt is known by now: it may wait in vain.
                    next.closed = true;
                    all.push(next.to(State::Unknown));
                }
                all
            }
            State::Dispatching => next.back_in_line(around),
            State::Queued => vec![next],
            _ => vec![self.clone()],
        }
    }

    /// The receipts that were kept, now that no attempt is open: as they came, or the best rank last.
    pub fn after_kept(self, around: Around) -> Vec<Self> {
        let mut start = self;
        if start.state == State::Dispatching {
            return vec![start];
        }
        let as_they_came = std::mem::take(&mut start.kept);
        let mut by_rank = as_they_came.clone();
        by_rank.sort_by_key(|&(_, status, _)| rank(status));
        let mut all = Vec::new();
        for kept in [as_they_came, by_rank] {
            let mut ends = vec![start.clone()];
            for (generation, status, failure) in kept {
                ends = ends
                    .iter()
                    .flat_map(|life| life.after_receipt(generation, status, failure, around))
                    .collect();
            }
            all.extend(ends);
        }
        all
    }
}

fn rank(status: ReceiptStatus) -> u8 {
    match status {
        ReceiptStatus::Queued => 0,
        ReceiptStatus::Sent => 1,
        ReceiptStatus::Unconfirmed => 2,
        ReceiptStatus::Undelivered => 3,
        ReceiptStatus::Delivered => 4,
    }
}

/// Every outcome there is, by number.
pub fn outcome(number: u8, hold_us: i64) -> Outcome {
    let not_taken = |why| Outcome::NotTaken {
        why,
        retry_after_us: (hold_us > 0).then_some(hold_us),
        code: "x".into(),
    };
    match number % 12 {
        0 | 1 => Outcome::Taken {
            provider_id: format!("p-{number}"),
            carrier: _core::message::Carrier::from_number(i64::from(number % 7)),
            parts: (number.is_multiple_of(3)).then_some(u32::from(number)),
        },
        2 | 3 => Outcome::Unknown {
            code: "timeout".into(),
        },
        4 => not_taken(NotTaken::NotConnected),
        5 => not_taken(NotTaken::Throttled),
        6 => not_taken(NotTaken::CapDay),
        7 => not_taken(NotTaken::CapMinute),
        8 => not_taken(NotTaken::CapSpend),
        9 => not_taken(NotTaken::Account),
        10 => Outcome::RefusedForNow {
            code: "y".into(),
            hold_us,
        },
        _ => Outcome::RefusedForGood {
            code: "z".into(),
            opted_out: number > 200,
        },
    }
}
