//! Message ids: 64-bit, positive, time-ordered; their short strings and resource names.
//!
//! It reads no clock and keeps nothing across restarts: the caller passes the time, and the highest id stored.
//!
//! Layout, most significant bit first, 63 bits so that an id is a positive `BIGINT` in every store:
//!
//! | bits | what                      | why so many                                                                |
//! |------|---------------------------|----------------------------------------------------------------------------|
//! | 41   | milliseconds since 2024   | 69 years; coarser time would make lists by id visibly unordered            |
//! | 10   | node                      | 1,024 writers at once, far above what one database takes                   |
//! | 12   | sequence in a millisecond | 4,096,000 ids a second and node; the fastest group commit needs 1/20 of it |
//!
//! Invariants: a mint's ids strictly rise whatever the clock does. Where the sequence overflows or the clock steps back the
//! mint runs ahead of the clock until it catches up. Thirteen characters of fixed width sort as the ids do, and an id has
//! one spelling but for the case of its letters.

use crate::message::Micros;

/// 2024-01-01T00:00:00Z.
pub const EPOCH_US: Micros = 1_704_067_200_000_000;
/// The highest node number.
pub const NODE_MAX: u16 = (1 << NODE_BITS) - 1;
/// Characters of a short string.
pub const SHORT_ID_CHARACTERS: usize = 13;

const NODE_BITS: u32 = 10;
const SEQUENCE_BITS: u32 = 12;
const SEQUENCE_MAX: u64 = (1 << SEQUENCE_BITS) - 1;
const STAMP_SHIFT: u32 = NODE_BITS + SEQUENCE_BITS;
/// Where a clock gone mad is held: 2^32 ms before the stamp overflows, which leaves 1.7 × 10^13 ids to count through.
const STAMP_MAX: u64 = (1 << 41) - 1 - (1 << 32);

/// Crockford's alphabet: no i, l, o, u. His aliases (o for 0, i and l for 1) are refused: one id, one spelling.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const NO_DIGIT: u8 = 0xFF;
const DIGITS: [u8; 256] = digits();

const MESSAGE_PREFIX: &str = "messages/";
const INBOUND_PREFIX: &str = "inbound/";

/// Makes the ids of one node.
#[derive(Clone, Debug)]
pub struct IdMint {
    node: u64,
    stamp_ms: u64,
    sequence: u64,
}

impl IdMint {
    /// A mint whose ids are all above `last_id`, the highest id stored by any node (0 without one).
    ///
    /// `None` when `node` is above [`NODE_MAX`] or `last_id` is not an id that a mint can go on from.
    #[must_use]
    pub fn new(node: u16, last_id: u64) -> Option<Self> {
        let stamp_ms = last_id >> STAMP_SHIFT;
        // The sequence counts as used up: the next id is in a later millisecond, above every node's id of this one.
        (node <= NODE_MAX && stamp_ms <= STAMP_MAX).then_some(Self {
            node: u64::from(node),
            stamp_ms,
            sequence: SEQUENCE_MAX,
        })
    }

    /// From here on ids are above this one, whoever made it.
    pub fn go_above(&mut self, id: u64) {
        let stamp_ms = (id >> STAMP_SHIFT).min(STAMP_MAX);
        if stamp_ms >= self.stamp_ms {
            self.stamp_ms = stamp_ms;
            self.sequence = SEQUENCE_MAX;
        }
    }

    /// The next id. `now_us` is wall-clock time.
    pub fn mint(&mut self, now_us: Micros) -> u64 {
        let clock_ms = u64::try_from(now_us.saturating_sub(EPOCH_US) / 1000)
            .unwrap_or(0)
            .min(STAMP_MAX);
        if clock_ms > self.stamp_ms {
            self.stamp_ms = clock_ms;
            self.sequence = 0;
        } else if self.sequence < SEQUENCE_MAX {
            self.sequence += 1;
        } else {
            self.stamp_ms += 1;
            self.sequence = 0;
        }
        self.stamp_ms << STAMP_SHIFT | self.node << SEQUENCE_BITS | self.sequence
    }
}

/// When an id was minted, to the millisecond, by the mint's own count: it may run ahead of the clock.
#[must_use]
pub fn time_of(id: u64) -> Micros {
    let stamp_us = (id >> STAMP_SHIFT) * 1000;
    EPOCH_US.saturating_add_unsigned(stamp_us)
}

/// The lowest id that could have been minted at this time or later by a clock that was right.
#[must_use]
pub fn first_at(at_us: Micros) -> u64 {
    let stamp_ms = u64::try_from(at_us.saturating_sub(EPOCH_US) / 1000)
        .unwrap_or(0)
        .min(STAMP_MAX);
    stamp_ms << STAMP_SHIFT
}

/// An id as thirteen characters.
#[must_use]
pub fn short_id(id: u64) -> String {
    let mut text = String::with_capacity(SHORT_ID_CHARACTERS);
    push_short_id(&mut text, id);
    text
}

/// The id of a short string; `None` for another length, an alias, zero, or more than 63 bits.
#[must_use]
pub fn parse_short_id(text: &str) -> Option<u64> {
    if text.len() != SHORT_ID_CHARACTERS {
        return None;
    }
    let mut id = 0_u128;
    for byte in text.bytes() {
        let digit = DIGITS[usize::from(byte)];
        if digit == NO_DIGIT {
            return None;
        }
        id = id << 5 | u128::from(digit);
    }
    i64::try_from(id)
        .ok()
        .filter(|&id| id > 0)
        .map(i64::cast_unsigned)
}

/// `messages/<id>`.
#[must_use]
pub fn message_name(id: u64) -> String {
    name(MESSAGE_PREFIX, id)
}

/// The id of `messages/<id>`.
#[must_use]
pub fn parse_message_name(name: &str) -> Option<u64> {
    parse_short_id(name.strip_prefix(MESSAGE_PREFIX)?)
}

/// `inbound/<id>`.
#[must_use]
pub fn inbound_name(id: u64) -> String {
    name(INBOUND_PREFIX, id)
}

/// The id of `inbound/<id>`.
#[must_use]
pub fn parse_inbound_name(name: &str) -> Option<u64> {
    parse_short_id(name.strip_prefix(INBOUND_PREFIX)?)
}

fn name(prefix: &str, id: u64) -> String {
    let mut text = String::with_capacity(prefix.len() + SHORT_ID_CHARACTERS);
    text.push_str(prefix);
    push_short_id(&mut text, id);
    text
}

fn push_short_id(text: &mut String, id: u64) {
    // Thirteen digits of five bits are 65: the first carries the upper four.
    for shift in (0..13).rev().map(|digit| digit * 5) {
        text.push(char::from(ALPHABET[(id >> shift & 31) as usize]));
    }
}

const fn digits() -> [u8; 256] {
    let mut table = [NO_DIGIT; 256];
    let mut digit = 0;
    while digit < 32 {
        table[ALPHABET[digit as usize] as usize] = digit;
        table[ALPHABET[digit as usize].to_ascii_uppercase() as usize] = digit;
        digit += 1;
    }
    table
}
