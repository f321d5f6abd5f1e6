//! The hot path's statements for MySQL and MariaDB, rendered whole: one a batch, split only by its bounds.
//!
//! It runs nothing and keeps nothing; what the statements mean is what `engine/stores/sql.py` says of SQLite's.
//!
//! Invariants: within a batch rows are touched in ascending order of the key they can be contended by, so that two
//! transactions never wait for each other crosswise; a guard that fails leaves its row alone and fails no other; each
//! accepted row is in exactly one statement. Every statement runs alike on MySQL 8 and MariaDB 10.6: no `VALUES(column)`
//! and no alias of a row, of which each server has only one; no `INSERT IGNORE`, which hides what it drops.
//!
//! Why an update lists its ids and is no join with rows of values: `id IN (…)` is a range scan of the primary key in its
//! order, which is the order of the locks; `FORCE INDEX (PRIMARY)` keeps it so when statistics prefer another index. The
//! intents' `ORDER BY id` keeps MySQL from rewriting their gates into joins that start elsewhere. Assignments of a
//! single-table update run from left to right; those of a join have no order.

mod literals;
mod select;

use literals::{Cell, Piece, about, insert};
pub use literals::{IDS_MAX, RenderError, STATEMENT_BYTES_MAX, Statement};
pub use select::{select_closed_gates, select_intended, select_rows};

use crate::admit::Accepted;
use crate::message::{Held, Micros};
use crate::settle::{Row, Told};
use crate::shards::Epochs;
use crate::state::{Reason, State};
use crate::view::history_entry;

const INSERT_MESSAGES: &str = "INSERT INTO messages (id, tenant, campaign, sender, recipient, class, kind, encoding, \
    segments, state, reason, seq, attempt, generation, counted, flags, due_us, accept_us, expires_us, updated_us, \
    history) VALUES ";

const INSERT_BODIES: &str = "INSERT INTO bodies (id, record) VALUES ";

const INSERT_REQUEST_IDS: &str =
    "INSERT INTO request_ids (tenant, request_id, id, content_hash) VALUES ";

/// Of a row whose key is there already: changes nothing, so the row counts as not affected.
const KEEP_FIRST: &str = " ON DUPLICATE KEY UPDATE tenant = tenant";

const UPDATE_MESSAGES: &str = "UPDATE messages FORCE INDEX (PRIMARY) SET ";

/// Not opted out, campaign active and still owner of the number.
const GATES_OPEN: &str = " AND NOT EXISTS (SELECT 1 FROM opt_outs AS o WHERE o.tenant = messages.tenant \
    AND o.recipient = messages.recipient) \
    AND EXISTS (SELECT 1 FROM campaigns AS c WHERE c.`key` = messages.campaign AND c.state = 1) \
    AND EXISTS (SELECT 1 FROM numbers AS n WHERE n.number = messages.sender AND n.campaign = messages.campaign) \
    ORDER BY id";

/// What all attempts of one dispatch share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// When they start, wall clock.
    pub now_us: Micros,
    /// When an attempt without outcome becomes due.
    pub due_us: Micros,
    /// Each is written under the epoch of its shard.
    pub epochs: Epochs,
    /// Key of the provider.
    pub provider: u32,
    /// Recipe of attempts whose generation has none yet.
    pub recipe: u32,
}

fn number(value: impl Into<i64>) -> Cell<'static> {
    Cell::Signed(value.into())
}

fn state(state: State) -> Cell<'static> {
    number(state as u8)
}

/// The rows by rising id, each with its place in the batch.
fn by_id<T>(rows: &[T], id: impl Fn(&T) -> u64) -> Vec<(usize, &T)> {
    let mut sorted: Vec<(usize, &T)> = rows.iter().enumerate().collect();
    sorted.sort_by_key(|&(_, row)| id(row));
    sorted
}

/// A value of a row whose columns the caller names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// `NULL`.
    Null,
    /// Any integer of 64 bits, with or without sign.
    Integer(i128),
    /// A text.
    Text(String),
    /// Bytes.
    Blob(Vec<u8>),
}

/// `head`, a parenthesis a row in the order given, `tail`, as many rows to a statement as its bound lets in. For tables
/// with few rows a batch (events, ledgers, webhooks); `head` and `tail` are constants of the caller.
///
/// # Errors
/// When one row alone passes `statement_bytes_max`.
pub fn insert_rows(
    head: &str,
    rows: &[Vec<Value>],
    tail: &str,
    statement_bytes_max: usize,
) -> Result<Vec<Statement>, RenderError> {
    let cells = rows.iter().enumerate().map(|(place, row)| {
        let cells = row.iter().map(|value| match value {
            Value::Null => Cell::Null,
            Value::Integer(value) => match u64::try_from(*value) {
                Ok(unsigned) => Cell::Unsigned(unsigned),
                Err(_) => Cell::Signed(i64::try_from(*value).unwrap_or(i64::MIN)),
            },
            Value::Text(text) => Cell::Text(text),
            Value::Blob(bytes) => Cell::Blob(bytes),
        });
        (place, cells)
    });
    insert(head, cells, tail, statement_bytes_max)
}

/// New rows of `messages`, ascending by id.
///
/// # Errors
/// When one row alone passes `statement_bytes_max`.
pub fn insert_messages(
    rows: &[Accepted],
    statement_bytes_max: usize,
) -> Result<Vec<Statement>, RenderError> {
    let rows = by_id(rows, |row| row.held.id).into_iter();
    let cells = rows.map(|(place, row)| {
        let held = &row.held;
        let cells = [
            Cell::Unsigned(held.id),
            number(held.tenant),
            number(held.campaign),
            Cell::Unsigned(held.sender),
            Cell::Unsigned(held.recipient),
            number(held.class as u8),
            number(held.kind as u8),
            number(held.encoding),
            number(held.segments),
            state(State::Queued),
            number(row.reason() as u8),
            number(held.seq),
            number(held.attempt),
            number(held.generation),
            number(held.counted),
            number(held.flags),
            number(held.due_us),
            number(row.accept_us),
            number(held.expires_us),
            number(row.accept_us),
            Cell::Blob(&row.history),
        ];
        (place, cells)
    });
    insert(INSERT_MESSAGES, cells, "", statement_bytes_max)
}

/// Their records, ascending by id.
///
/// # Errors
/// When one row alone passes `statement_bytes_max`.
pub fn insert_bodies(
    rows: &[Accepted],
    statement_bytes_max: usize,
) -> Result<Vec<Statement>, RenderError> {
    let rows = by_id(rows, |row| row.held.id).into_iter();
    let cells = rows.map(|(place, row)| {
        (
            place,
            [Cell::Unsigned(row.held.id), Cell::Blob(&row.held.body)],
        )
    });
    insert(INSERT_BODIES, cells, "", statement_bytes_max)
}

/// The request ids of those that have one, ascending by tenant and request id: two nodes that are handed the same
/// submissions have other message ids, and meet in this key alone. What came before stays as it is, and is seen by the
/// number of affected rows.
///
/// # Errors
/// When one row alone passes `statement_bytes_max`.
pub fn insert_request_ids(
    rows: &[Accepted],
    statement_bytes_max: usize,
) -> Result<Vec<Statement>, RenderError> {
    let mut keyed: Vec<(u32, &str, usize, &Accepted)> = rows
        .iter()
        .enumerate()
        .filter_map(|(place, row)| Some((row.held.tenant, row.request_id.as_deref()?, place, row)))
        .collect();
    keyed.sort_by_key(|&(tenant, request_id, place, _)| (tenant, request_id, place));
    let cells = keyed.into_iter().map(|(tenant, request_id, place, row)| {
        let cells = [
            number(tenant),
            Cell::Text(request_id),
            Cell::Unsigned(row.held.id),
            Cell::Blob(&row.content_hash),
        ];
        (place, cells)
    });
    insert(INSERT_REQUEST_IDS, cells, KEEP_FIRST, statement_bytes_max)
}

/// The ids of a sorted batch and their places in the caller's, when no id is there twice.
fn ids_of<T>(
    sorted: &[(usize, &T)],
    id: impl Fn(&T) -> u64,
) -> Result<(Vec<u64>, Vec<usize>), RenderError> {
    let ids: Vec<u64> = sorted.iter().map(|&(_, row)| id(row)).collect();
    if let Some(pair) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(RenderError::RepeatedId { id: pair[0] });
    }
    Ok((ids, sorted.iter().map(|&(place, _)| place).collect()))
}

/// The attempts of a dispatch, each written only where its guard holds: queued, unchanged since it was popped, still
/// valid, not opted out, campaign active and still owner of the number. Every row written changes, so the affected rows
/// are those that may be sent; which ones they are, [`select_intended`] tells.
///
/// # Errors
/// When one row alone passes `statement_bytes_max`, or an id is there twice.
pub fn update_intents(
    rows: &[Held],
    intent: &Intent,
    statement_bytes_max: usize,
) -> Result<Vec<Statement>, RenderError> {
    let sorted = by_id(rows, |held| held.id);
    let (ids, places) = ids_of(&sorted, |held| held.id)?;
    let histories: Vec<Vec<u8>> = sorted
        .iter()
        .map(|(_, held)| {
            let (attempt, generation) = (held.attempt.saturating_add(1), held.generation);
            let now_us = intent.now_us;
            history_entry(
                State::Dispatching,
                Reason::Attempt,
                attempt,
                generation,
                now_us,
                "",
            )
        })
        .collect();
    let recipes = sorted.iter().map(|(_, held)| match held.recipe {
        0 => number(intent.recipe),
        // Within a generation the bytes stay those of its first attempt.
        recipe => number(recipe),
    });
    let epochs = sorted
        .iter()
        .map(|(_, held)| Cell::Unsigned(intent.epochs.of_campaign(held.campaign)));
    let pieces = [
        Piece::Fixed(UPDATE_MESSAGES),
        Piece::Fixed("state = "),
        Piece::Same(state(State::Dispatching)),
        Piece::Fixed(", reason = "),
        Piece::Same(number(Reason::Attempt as u8)),
        Piece::Fixed(", code = "),
        Piece::Same(Cell::Text("")),
        Piece::Fixed(", seq = seq + 1, attempt = LEAST(attempt + 1, 65535), started_us = "),
        Piece::Same(number(intent.now_us)),
        Piece::Fixed(", epoch = "),
        Piece::Each(epochs.collect()),
        Piece::Fixed(", provider = "),
        Piece::Same(number(intent.provider)),
        Piece::Fixed(", recipe = "),
        Piece::Each(recipes.collect()),
        Piece::Fixed(", due_us = "),
        Piece::Same(number(intent.due_us)),
        Piece::Fixed(", updated_us = "),
        Piece::Same(number(intent.now_us)),
        Piece::Fixed(", history = CONCAT(history, "),
        Piece::Each(
            histories
                .iter()
                .map(|history| Cell::Blob(history))
                .collect(),
        ),
        Piece::Fixed(") WHERE id IN ("),
        Piece::Ids,
        Piece::Fixed(") AND seq = "),
        Piece::Each(sorted.iter().map(|(_, held)| number(held.seq)).collect()),
        Piece::Fixed(" AND state = "),
        Piece::Same(state(State::Queued)),
        Piece::Fixed(" AND expires_us > "),
        Piece::Same(number(intent.now_us)),
        Piece::Fixed(GATES_OPEN),
    ];
    about(&ids, &places, &pieces, statement_bytes_max)
}

/// What an update's rows append to their history.
fn provider_id(row: &Row) -> Cell<'_> {
    if row.provider_id.is_empty() {
        Cell::Null
    } else {
        Cell::Text(&row.provider_id)
    }
}

/// Settled rows: (row after, `seq` before, its new events), as `Changes::updates` has them, after [`select_rows`] locked
/// them in the same transaction. A row is written only while its `seq` is the one before. Every row written changes: fewer
/// affected rows than asked for mean that one moved.
///
/// # Errors
/// When one row alone passes `statement_bytes_max`, or an id is there twice.
pub fn update_messages(
    updates: &[(Row, u32, Vec<Told>)],
    statement_bytes_max: usize,
) -> Result<Vec<Statement>, RenderError> {
    let sorted = by_id(updates, |(row, ..)| row.id);
    let (ids, places) = ids_of(&sorted, |(row, ..)| row.id)?;
    let histories: Vec<Vec<u8>> = sorted
        .iter()
        .map(|(_, (_, _, events))| crate::events::history_of(events))
        .collect();
    let rows: Vec<&Row> = sorted.iter().map(|(_, (row, ..))| row).collect();
    let each = |cell: fn(&Row) -> Cell<'_>| Piece::Each(rows.iter().map(|row| cell(row)).collect());
    let generations = || each(|row| number(row.generation));
    let pieces = [
        Piece::Fixed(UPDATE_MESSAGES),
        Piece::Fixed("state = "),
        each(|row| state(row.state)),
        Piece::Fixed(", reason = "),
        each(|row| number(row.reason)),
        Piece::Fixed(", code = "),
        each(|row| Cell::Text(&row.code)),
        Piece::Fixed(", seq = "),
        each(|row| number(row.seq)),
        Piece::Fixed(", counted = "),
        each(|row| number(row.counted)),
        Piece::Fixed(", flags = "),
        each(|row| number(row.flags)),
        Piece::Fixed(", due_us = "),
        each(|row| number(row.due_us)),
        // Before `generation`: a later assignment sees the value that an earlier one left.
        Piece::Fixed(", recipe = CASE WHEN generation = "),
        generations(),
        Piece::Fixed(" THEN recipe ELSE 0 END, generation = "),
        generations(),
        Piece::Fixed(", updated_us = "),
        each(|row| number(row.updated_us)),
        Piece::Fixed(", provider_id = "),
        each(provider_id),
        Piece::Fixed(", carrier = "),
        each(|row| number(row.carrier)),
        Piece::Fixed(", crashes = "),
        each(|row| number(row.crashes)),
        Piece::Fixed(", history = CONCAT(history, "),
        Piece::Each(
            histories
                .iter()
                .map(|history| Cell::Blob(history))
                .collect(),
        ),
        Piece::Fixed(") WHERE id IN ("),
        Piece::Ids,
        Piece::Fixed(") AND seq = "),
        Piece::Each(sorted.iter().map(|(_, (_, seq, _))| number(*seq)).collect()),
    ];
    about(&ids, &places, &pieces, statement_bytes_max)
}

/// Rows whose timer or flags move without an event, as `Changes::quiet` has them; guarded by their `seq`, which stays. A
/// row that already is as asked counts as not affected.
///
/// # Errors
/// When one row alone passes `statement_bytes_max`, or an id is there twice.
pub fn update_quiet(
    rows: &[Row],
    statement_bytes_max: usize,
) -> Result<Vec<Statement>, RenderError> {
    let sorted = by_id(rows, |row| row.id);
    let (ids, places) = ids_of(&sorted, |row| row.id)?;
    let each =
        |cell: fn(&Row) -> Cell<'_>| Piece::Each(sorted.iter().map(|(_, row)| cell(row)).collect());
    let pieces = [
        Piece::Fixed(UPDATE_MESSAGES),
        Piece::Fixed("flags = "),
        each(|row| number(row.flags)),
        Piece::Fixed(", due_us = "),
        each(|row| number(row.due_us)),
        Piece::Fixed(", carrier = "),
        each(|row| number(row.carrier)),
        Piece::Fixed(", crashes = "),
        each(|row| number(row.crashes)),
        Piece::Fixed(", provider_id = "),
        each(provider_id),
        Piece::Fixed(" WHERE id IN ("),
        Piece::Ids,
        Piece::Fixed(") AND seq = "),
        each(|row| number(row.seq)),
    ];
    about(&ids, &places, &pieces, statement_bytes_max)
}
