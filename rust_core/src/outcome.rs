//! What became of an attempt, told by how far the exchange came and what was answered. The provider's table is data.
//!
//! It does not touch the message's state (`settle.rs` does).

use crate::message::Carrier;

/// How far an exchange with a provider came. Numbers are those of `engine.http_client.Phase`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// DNS, connect or TLS failed.
    NotConnected = 1,
    /// The connection was dead before any byte left.
    NotFlushed = 2,
    /// A complete answer came.
    Answered = 3,
    /// Reset or end of stream after the first byte.
    Reset = 4,
    /// No complete answer in time.
    Timeout = 5,
    /// An answer that is not HTTP, or too long.
    Malformed = 6,
}

impl Phase {
    /// The phase with this number; anything else counts as `Reset`, whose outcome is unknown.
    #[must_use]
    pub fn from_number(number: i64) -> Self {
        match number {
            1 => Self::NotConnected,
            2 => Self::NotFlushed,
            3 => Self::Answered,
            5 => Self::Timeout,
            6 => Self::Malformed,
            _ => Self::Reset,
        }
    }
}

/// Why nothing was taken though nothing is wrong with the message. None of these counts towards `attempts_max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotTaken {
    /// Nothing left.
    NotConnected,
    /// Too fast.
    Throttled,
    /// Daily carrier cap.
    CapDay,
    /// Per-minute carrier cap.
    CapMinute,
    /// The provider's own spend limit; resets at midnight UTC.
    CapSpend,
    /// Credentials, funds or account: an operator must act.
    Account,
}

/// What became of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// 2xx with an id.
    Taken {
        /// The provider's id.
        provider_id: String,
        /// The recipient's carrier, if told.
        carrier: Carrier,
        /// Segments by the provider's count, if told.
        parts: Option<u32>,
    },
    /// Proved not taken; free to retry, same generation.
    NotTaken {
        /// Why.
        why: NotTaken,
        /// The provider's wish.
        retry_after_us: Option<i64>,
        /// The provider's code.
        code: String,
    },
    /// Refused for now; counts.
    RefusedForNow {
        /// The provider's code.
        code: String,
        /// Hold at least so long.
        hold_us: i64,
    },
    /// Refused for good.
    RefusedForGood {
        /// The provider's code.
        code: String,
        /// The provider's own block rule: add the opt-out to our list.
        opted_out: bool,
    },
    /// Nobody can know.
    Unknown {
        /// What was seen, such as `timeout` or `http-502`.
        code: String,
    },
}

impl Outcome {
    /// A short name for metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Taken { .. } => "taken",
            Self::NotTaken { .. } => "not_taken",
            Self::RefusedForNow { .. } => "refused_for_now",
            Self::RefusedForGood { .. } => "refused_for_good",
            Self::Unknown { .. } => "unknown",
        }
    }
}
