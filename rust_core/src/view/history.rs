//! The compact timeline of a message: what its `history` column holds.
//!
//! It checks no transition (`state.rs` does). Entries are appended, never changed, so the writer of one needs no other:
//! times are whole, and a column grows by concatenation.
//!
//! Layout of an entry, little-endian: state 1, reason 1, attempt 2, generation 2, time in µs 8, bytes of the code 1, code.

use std::fmt;

use crate::message::Micros;
use crate::state::{Reason, State};
use crate::wire::{Event, EventKind, Timestamp};

/// Bytes of an entry without its code.
const HEAD_BYTES: usize = 15;

/// A history that ends within an entry, or whose code is not UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryError;

impl fmt::Display for HistoryError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the history is not a row of whole entries")
    }
}

impl std::error::Error for HistoryError {}

/// An entry, to be appended to the column. Of a code only the first 255 bytes are kept, whole characters: codes are short
/// words or numbers, and a provider that sends more may not grow a row at will.
#[must_use]
pub fn history_entry(
    state: State,
    reason: Reason,
    attempt: u16,
    generation: u16,
    time_us: Micros,
    code: &str,
) -> Vec<u8> {
    let code_bytes = (0..=code.len().min(usize::from(u8::MAX)))
        .rev()
        .find(|&end| code.is_char_boundary(end))
        .unwrap_or(0);
    let mut entry = Vec::with_capacity(HEAD_BYTES + code_bytes);
    entry.extend_from_slice(&[state as u8, reason as u8]);
    entry.extend_from_slice(&attempt.to_le_bytes());
    entry.extend_from_slice(&generation.to_le_bytes());
    entry.extend_from_slice(&time_us.to_le_bytes());
    entry.push(u8::try_from(code_bytes).unwrap_or(u8::MAX));
    entry.extend_from_slice(&code.as_bytes()[..code_bytes]);
    entry
}

/// The events of a history, in order; `seq` is an event's place, from 1. `name` is `messages/…`, `campaign` is
/// `campaigns/…`.
///
/// # Errors
/// When the bytes are no history.
pub fn history_events(
    history: &[u8],
    name: &str,
    campaign: &str,
    client_reference: &str,
) -> Result<Vec<Event>, HistoryError> {
    let mut events: Vec<Event> = Vec::new();
    let mut rest = history;
    while !rest.is_empty() {
        let (head, tail) = rest.split_first_chunk::<HEAD_BYTES>().ok_or(HistoryError)?;
        let &[
            state,
            reason,
            a0,
            a1,
            g0,
            g1,
            t0,
            t1,
            t2,
            t3,
            t4,
            t5,
            t6,
            t7,
            code_bytes,
        ] = head;
        let (code, tail) = tail
            .split_at_checked(usize::from(code_bytes))
            .ok_or(HistoryError)?;
        rest = tail;
        let previous = events.last();
        events.push(Event {
            kind: EventKind::Message as i32,
            message: name.to_owned(),
            seq: previous.map_or(1, |event| event.seq + 1),
            state: i32::from(state),
            reason: i32::from(reason),
            event_time: Some(Timestamp::from_micros(i64::from_le_bytes([
                t0, t1, t2, t3, t4, t5, t6, t7,
            ]))),
            attempt: u32::from(u16::from_le_bytes([a0, a1])),
            generation: u32::from(u16::from_le_bytes([g0, g1])),
            code: str::from_utf8(code).map_err(|_| HistoryError)?.to_owned(),
            campaign: campaign.to_owned(),
            client_reference: client_reference.to_owned(),
            previous_state: previous.map_or(0, |event| event.state),
            recipient: String::new(),
            inbound: None,
        });
    }
    Ok(events)
}
