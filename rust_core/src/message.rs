//! The words every part of the core shares: message, class, kind, carrier, and the row a store keeps.
//!
//! It decides nothing. Numbers here are the numbers of the proto, of SQL columns and of docs/STATES.md.

use std::sync::Arc;

/// Microseconds since the Unix epoch, or of a monotonic clock where a name says so. Always an argument, never read.
pub type Micros = i64;

/// How urgent a message is; lower is more urgent. The proto's `MessageClass`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Class {
    /// One-time passwords, alerts.
    Critical = 1,
    /// The default.
    Transactional = 2,
    /// Campaign traffic.
    Bulk = 3,
}

impl Class {
    /// All classes, most urgent first.
    pub const ALL: [Self; 3] = [Self::Critical, Self::Transactional, Self::Bulk];

    /// The class with this number; 0 (unspecified) is `Transactional`.
    #[must_use]
    pub fn from_number(number: i64) -> Option<Self> {
        match number {
            1 => Some(Self::Critical),
            0 | 2 => Some(Self::Transactional),
            3 => Some(Self::Bulk),
            _ => None,
        }
    }
}

/// SMS or MMS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Text only.
    Sms = 1,
    /// With media.
    Mms = 2,
}

/// A recipient's carrier as quotas know it. The proto's `Carrier`; 0 is not known yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Carrier {
    /// Not known yet: reserves from every carrier's quota.
    Unknown = 0,
    /// AT&T.
    Att = 1,
    /// T-Mobile with Metro and the former Sprint.
    TMobile = 2,
    /// Verizon.
    Verizon = 3,
    /// US Cellular.
    UsCellular = 4,
    /// Any other.
    Other = 5,
}

impl Carrier {
    /// The carrier with this number; unknown numbers are `Unknown`.
    #[must_use]
    pub fn from_number(number: i64) -> Self {
        match number {
            1 => Self::Att,
            2 => Self::TMobile,
            3 => Self::Verizon,
            4 => Self::UsCellular,
            5 => Self::Other,
            _ => Self::Unknown,
        }
    }

    /// The carrier a provider's free-text name means, such as `T-MOBILE USA, INC.`; empty names are `Unknown`.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        let folded: String = name
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .collect::<String>()
            .to_ascii_lowercase();
        if folded.is_empty() {
            Self::Unknown
        } else if folded.contains("tmobile")
            || folded.contains("metropcs")
            || folded.contains("sprint")
        {
            Self::TMobile
        } else if folded.contains("uscellular") || folded.contains("unitedstatescellular") {
            Self::UsCellular
        } else if folded.contains("verizon") || folded.contains("cellcopartnership") {
            Self::Verizon
        } else if folded.starts_with("att")
            || folded.contains("cingular")
            || folded.contains("cricket")
        {
            Self::Att
        } else {
            Self::Other
        }
    }
}

/// Bits of the `flags` column.
pub mod flags {
    /// It has an ordering key.
    pub const ORDERED: u32 = 1;
    /// An attempt of unknown outcome came before: copies may exist.
    pub const POSSIBLE_DUPLICATE: u32 = 2;
    /// Cancelled while an attempt was under way, taken or of unknown outcome: no other follows.
    pub const CANCEL_REQUESTED: u32 = 4;
    /// An attempt of unknown outcome came before, so a closed gate cannot end it: it waits for evidence.
    pub const MAYBE_SENT: u32 = 8;
    /// A gate closed after an attempt of unknown outcome: no bytes go any more, only evidence counts.
    pub const NO_RESEND: u32 = 16;
    /// Submitted for a later time.
    pub const SCHEDULED: u32 = 32;
    /// One attempt of unknown outcome: the highest eight bits count them, up to 255.
    pub const SILENT_ONE: u32 = 1 << 24;

    /// Attempts of unknown outcome, whatever became known of them later.
    #[must_use]
    pub const fn silent(flags: u32) -> u16 {
        (flags >> 24) as u16
    }
}

/// A message that waits in memory, ready to be dispatched. `body` is the stored record (an encoded `Submission` with
/// its sender filled in and its text as it is to be sent).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// 64-bit, time-ordered; fits a positive i64.
    pub id: u64,
    /// Key of the tenant.
    pub tenant: u32,
    /// Key of the campaign.
    pub campaign: u32,
    /// Digits of the sender's number.
    pub sender: u64,
    /// Digits of the recipient's number.
    pub recipient: u64,
    /// How urgent.
    pub class: Class,
    /// SMS or MMS.
    pub kind: Kind,
    /// 1 GSM-7, 2 UCS-2.
    pub encoding: u8,
    /// Segments; 1 for MMS.
    pub segments: u16,
    /// Sequence number of the last event; the guard of the next write.
    pub seq: u32,
    /// Attempts started so far.
    pub attempt: u16,
    /// Generation of the provider's idempotency key.
    pub generation: u16,
    /// Attempts that count towards `attempts_max`.
    pub counted: u16,
    /// See [`flags`].
    pub flags: u32,
    /// Not before, wall clock.
    pub due_us: Micros,
    /// Not after, wall clock.
    pub expires_us: Micros,
    /// 64-bit hash of (campaign, ordering key); 0 without one.
    pub ordering: u64,
    /// Recipe of the generation's bytes when a former attempt used one; 0 without.
    pub recipe: u32,
    /// The stored record.
    pub body: Arc<[u8]>,
}
