//! The states of a message and the only list of transitions between them.
//!
//! It does not decide when a transition happens (`settle.rs` does). SQL, proto and docs/STATES.md use these words and
//! numbers; non-terminal states are below 16, which the store's partial indexes rely on.

/// Where a message stands. The proto's `MessageState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum State {
    /// Waits.
    Queued = 1,
    /// An attempt is committed and may be on the wire.
    Dispatching = 2,
    /// The provider took it.
    Submitted = 3,
    /// The carrier took it.
    Sent = 4,
    /// An attempt left no answer.
    Unknown = 5,
    /// On the handset.
    Delivered = 16,
    /// Could not be delivered.
    Undelivered = 17,
    /// Taken, but no receipt came.
    NoReceipt = 18,
    /// An attempt's outcome stayed unknown.
    Unresolved = 19,
    /// Refused for good, or attempts used up.
    Failed = 20,
    /// Cancelled before it left.
    Cancelled = 21,
    /// Validity ended before it left.
    Expired = 22,
    /// Opted out, or the campaign was stopped.
    Blocked = 23,
    /// Its processing crashed twice.
    Dead = 24,
}

impl State {
    /// Every state, by number.
    pub const ALL: [Self; 14] = [
        Self::Queued,
        Self::Dispatching,
        Self::Submitted,
        Self::Sent,
        Self::Unknown,
        Self::Delivered,
        Self::Undelivered,
        Self::NoReceipt,
        Self::Unresolved,
        Self::Failed,
        Self::Cancelled,
        Self::Expired,
        Self::Blocked,
        Self::Dead,
    ];

    /// The state with this number.
    #[must_use]
    pub fn from_number(number: i64) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|state| i64::from(*state as u8) == number)
    }

    /// The word used everywhere.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "QUEUED",
            Self::Dispatching => "DISPATCHING",
            Self::Submitted => "SUBMITTED",
            Self::Sent => "SENT",
            Self::Unknown => "UNKNOWN",
            Self::Delivered => "DELIVERED",
            Self::Undelivered => "UNDELIVERED",
            Self::NoReceipt => "NO_RECEIPT",
            Self::Unresolved => "UNRESOLVED",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELLED",
            Self::Expired => "EXPIRED",
            Self::Blocked => "BLOCKED",
            Self::Dead => "DEAD",
        }
    }

    /// True when nothing more happens but a listed upgrade.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        self as u8 >= 16
    }

    /// May a message go from `self` to `to`.
    #[must_use]
    pub fn may_become(self, to: Self) -> bool {
        TRANSITIONS
            .iter()
            .any(|&(from, targets)| from == self && targets.contains(&to))
    }
}

/// Every transition there is. Queued → Submitted … Unresolved are for a copy queued again after UNKNOWN only: evidence
/// settles it, or a gate closed and it waits for evidence again.
pub const TRANSITIONS: &[(State, &[State])] = &[
    (
        State::Queued,
        &[
            State::Dispatching,
            State::Cancelled,
            State::Expired,
            State::Blocked,
            State::Dead,
            State::Unknown,
            State::Submitted,
            State::Sent,
            State::Delivered,
            State::Undelivered,
            State::NoReceipt,
        ],
    ),
    (
        State::Dispatching,
        &[
            State::Queued,
            State::Submitted,
            State::Unknown,
            State::Failed,
            State::Dead,
        ],
    ),
    (
        State::Submitted,
        &[
            State::Sent,
            State::Delivered,
            State::Undelivered,
            State::NoReceipt,
            State::Queued,
        ],
    ),
    (
        State::Sent,
        &[
            State::Delivered,
            State::Undelivered,
            State::NoReceipt,
            State::Queued,
        ],
    ),
    (
        State::Unknown,
        &[
            State::Submitted,
            State::Sent,
            State::Delivered,
            State::Undelivered,
            State::NoReceipt,
            State::Failed,
            State::Queued,
            State::Unresolved,
        ],
    ),
    (State::Unresolved, &[State::Delivered, State::Undelivered]),
    (State::NoReceipt, &[State::Delivered, State::Undelivered]),
    (State::Undelivered, &[State::Delivered]),
    (State::Dead, &[State::Queued]),
];

/// Why a message is where it is. The proto's `Reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Reason {
    /// Accepted.
    Accepted = 1,
    /// Held until its schedule time.
    Scheduled = 2,
    /// An attempt was written down.
    Attempt = 3,
    /// The provider took it.
    ProviderTook = 4,
    /// The provider refused it for good.
    ProviderRefused = 5,
    /// Refused for now.
    Retry = 6,
    /// Too fast.
    Throttled = 7,
    /// A cap is reached.
    CapReached = 8,
    /// No answer, or one that does not say.
    Silence = 9,
    /// The engine ended between attempt and outcome.
    Recovered = 10,
    /// A receipt.
    Receipt = 11,
    /// The provider was asked.
    Lookup = 12,
    /// Sent again.
    Resend = 13,
    /// Reconciliation ended without evidence.
    NoEvidence = 14,
    /// Validity ended.
    Expired = 15,
    /// Cancelled.
    Cancelled = 16,
    /// Opted out.
    OptedOut = 17,
    /// Campaign stopped.
    CampaignStopped = 18,
    /// Attempts used up.
    AttemptsUsedUp = 19,
    /// No receipt in time.
    ReceiptOverdue = 20,
    /// Processing crashed twice.
    Poison = 21,
    /// Not connected; nothing left.
    NotConnected = 22,
}

impl Reason {
    /// The reason with this number.
    #[must_use]
    pub fn from_number(number: i64) -> Option<Self> {
        const ALL: [Reason; 22] = [
            Reason::Accepted,
            Reason::Scheduled,
            Reason::Attempt,
            Reason::ProviderTook,
            Reason::ProviderRefused,
            Reason::Retry,
            Reason::Throttled,
            Reason::CapReached,
            Reason::Silence,
            Reason::Recovered,
            Reason::Receipt,
            Reason::Lookup,
            Reason::Resend,
            Reason::NoEvidence,
            Reason::Expired,
            Reason::Cancelled,
            Reason::OptedOut,
            Reason::CampaignStopped,
            Reason::AttemptsUsedUp,
            Reason::ReceiptOverdue,
            Reason::Poison,
            Reason::NotConnected,
        ];
        ALL.into_iter()
            .find(|reason| i64::from(*reason as u8) == number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_states_change_only_by_the_listed_upgrades() {
        let upgrades: Vec<(State, State)> = TRANSITIONS
            .iter()
            .filter(|(from, _)| from.is_terminal())
            .flat_map(|(from, targets)| targets.iter().map(move |to| (*from, *to)))
            .collect();
        assert_eq!(
            upgrades,
            [
                (State::Unresolved, State::Delivered),
                (State::Unresolved, State::Undelivered),
                (State::NoReceipt, State::Delivered),
                (State::NoReceipt, State::Undelivered),
                (State::Undelivered, State::Delivered),
                (State::Dead, State::Queued),
            ]
        );
    }

    #[test]
    fn every_state_is_reached_and_numbers_are_the_protos() {
        for state in State::ALL {
            let reached = state == State::Queued
                || TRANSITIONS
                    .iter()
                    .any(|(_, targets)| targets.contains(&state));
            assert!(reached, "{} is never entered", state.name());
            let line = format!("MESSAGE_STATE_{} = {};", state.name(), state as u8);
            assert!(
                include_str!("../../proto/longwave/v1/messaging.proto").contains(&line),
                "{line}"
            );
        }
    }
}
