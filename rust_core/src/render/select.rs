//! What the writing transaction reads of `messages`: rows to settle, intents that were granted, and why others were not.
//!
//! Reads outside of a writing transaction are not here. Invariant: rows are visited, and locked where they are locked, in
//! ascending order of their id.

use super::literals::{Cell, Piece, RenderError, Statement, about};
use super::{by_id, ids_of, number, state};
use crate::message::Micros;
use crate::state::State;

const SELECT_ROWS: &str = "SELECT m.id, m.tenant, m.campaign, m.recipient, m.class, m.segments, m.state, m.reason, \
    m.code, m.seq, m.attempt, m.generation, m.counted, m.flags, m.due_us, m.accept_us, m.expires_us, m.updated_us, \
    m.started_us, m.provider, m.provider_id, m.carrier, m.crashes, \
    EXISTS (SELECT 1 FROM opt_outs AS o WHERE o.tenant = m.tenant AND o.recipient = m.recipient) \
    FROM messages AS m FORCE INDEX (PRIMARY) WHERE m.id IN (";

/// Why an intent was not granted: 1 expired, 2 opted out, 3 stopped; 0: paused, or no longer the row that was popped.
/// The value between the two halves is the time.
const SELECT_CLOSED_GATES: [&str; 2] = [
    "SELECT m.id, CASE WHEN m.state <> 1 THEN 0 WHEN m.expires_us <= ",
    " THEN 1 WHEN EXISTS (SELECT 1 FROM opt_outs AS o WHERE o.tenant = m.tenant AND o.recipient = m.recipient) THEN 2 \
    WHEN EXISTS (SELECT 1 FROM campaigns AS c WHERE c.`key` = m.campaign AND c.state = 2) THEN 0 \
    WHEN NOT EXISTS (SELECT 1 FROM campaigns AS c WHERE c.`key` = m.campaign AND c.state = 1) THEN 3 \
    WHEN NOT EXISTS (SELECT 1 FROM numbers AS n WHERE n.number = m.sender AND n.campaign = m.campaign) THEN 3 \
    ELSE 0 END FROM messages AS m FORCE INDEX (PRIMARY) WHERE m.id IN (",
];

/// A statement about each of these ids once, ascending.
fn select(
    ids: &[u64],
    pieces: &[Piece<'_>],
    statement_bytes_max: usize,
) -> Result<Vec<Statement>, RenderError> {
    let mut sorted = by_id(ids, |&id| id);
    sorted.dedup_by_key(|&mut (_, id)| id);
    let (ids, places) = ids_of(&sorted, |&id| id)?;
    about(&ids, &places, pieces, statement_bytes_max)
}

/// The rows of these ids for `settle`, locked in the order in which `update_messages` will write them; columns as
/// `SELECT_ROWS` of `engine/stores/sql.py`. An id asked for twice comes once.
///
/// # Errors
/// When one id alone passes `statement_bytes_max`.
pub fn select_rows(ids: &[u64], statement_bytes_max: usize) -> Result<Vec<Statement>, RenderError> {
    let pieces = [
        Piece::Fixed(SELECT_ROWS),
        Piece::Ids,
        Piece::Fixed(") ORDER BY m.id FOR UPDATE"),
    ];
    select(ids, &pieces, statement_bytes_max)
}

/// Which of these attempts, (id, epoch of its shard), `update_intents` wrote: asked in its transaction when fewer rows
/// matched than it held.
///
/// # Errors
/// When one id alone passes `statement_bytes_max`, or an id is there twice.
pub fn select_intended(
    attempts: &[(u64, u64)],
    started_us: Micros,
    statement_bytes_max: usize,
) -> Result<Vec<Statement>, RenderError> {
    let sorted = by_id(attempts, |&(id, _)| id);
    let (ids, places) = ids_of(&sorted, |&(id, _)| id)?;
    let epochs = sorted.iter().map(|(_, attempt)| Cell::Unsigned(attempt.1));
    let pieces = [
        Piece::Fixed("SELECT m.id FROM messages AS m FORCE INDEX (PRIMARY) WHERE m.id IN ("),
        Piece::Ids,
        Piece::Fixed(") AND m.state = "),
        Piece::Same(state(State::Dispatching)),
        Piece::Fixed(" AND m.started_us = "),
        Piece::Same(number(started_us)),
        Piece::Fixed(" AND m.epoch = "),
        Piece::Each(epochs.collect()),
        Piece::Fixed(" ORDER BY m.id"),
    ];
    about(&ids, &places, &pieces, statement_bytes_max)
}

/// Why the others were not granted: (id, 1 expired, 2 opted out, 3 stopped; 0 paused, or no longer the row that was
/// popped).
///
/// # Errors
/// When one id alone passes `statement_bytes_max`.
pub fn select_closed_gates(
    ids: &[u64],
    now_us: Micros,
    statement_bytes_max: usize,
) -> Result<Vec<Statement>, RenderError> {
    let [before, after] = SELECT_CLOSED_GATES;
    let pieces = [
        Piece::Fixed(before),
        Piece::Same(number(now_us)),
        Piece::Fixed(after),
        Piece::Ids,
        Piece::Fixed(") ORDER BY m.id"),
    ];
    select(ids, &pieces, statement_bytes_max)
}
