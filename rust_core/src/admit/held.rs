//! A held message from its stored row, and the hash that ties messages of one ordering key together.
//!
//! It reads no store: columns and record come in.

use std::fmt;
use std::sync::Arc;

use prost::Message as _;
use sha2::{Digest, Sha256};

use crate::message::{Class, Held, Kind, flags};
use crate::view::StoredRow;
use crate::wire::OrderingKeyOnly;

/// What a row holds that no version of this program wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowError {
    /// A class that is not 1 to 3.
    Class,
    /// A kind that is not 1 or 2.
    Kind,
    /// A record that cannot be decoded.
    Record,
}

impl fmt::Display for RowError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Class => "the row's class is none of 1, 2, 3",
            Self::Kind => "the row's kind is neither 1 nor 2",
            Self::Record => "the row's record is not an encoded submission",
        })
    }
}

impl std::error::Error for RowError {}

/// The message as it waits. The ordering hash is computed anew from the record: it has no column.
///
/// # Errors
/// See [`RowError`].
pub fn held_from_row(row: &StoredRow, record: Arc<[u8]>) -> Result<Held, RowError> {
    let class = match row.class {
        0 => None,
        number => Class::from_number(i64::from(number)),
    };
    let kind = match row.kind {
        1 => Kind::Sms,
        2 => Kind::Mms,
        _ => return Err(RowError::Kind),
    };
    // Most messages have no ordering key, and then a restart decodes nothing.
    let ordering = if row.flags & flags::ORDERED == 0 {
        0
    } else {
        let key = OrderingKeyOnly::decode(&*record)
            .map_err(|_| RowError::Record)?
            .ordering_key;
        ordering_of(row.campaign, &key)
    };
    Ok(Held {
        id: row.id,
        tenant: row.tenant,
        campaign: row.campaign,
        sender: row.sender,
        recipient: row.recipient,
        class: class.ok_or(RowError::Class)?,
        kind,
        encoding: row.encoding,
        segments: row.segments,
        seq: row.seq,
        attempt: row.attempt,
        generation: row.generation,
        counted: row.counted,
        flags: row.flags,
        due_us: row.due_us,
        expires_us: row.expires_us,
        ordering,
        recipe: row.recipe,
        body: record,
    })
}

/// A hash of campaign and ordering key, the same in every process and version; never 0, which means no key.
pub(super) fn ordering_of(campaign: u32, ordering_key: &str) -> u64 {
    let digest = Sha256::new()
        .chain_update(campaign.to_be_bytes())
        .chain_update(ordering_key)
        .finalize();
    digest
        .iter()
        .take(8)
        .fold(0, |hash, &byte| hash << 8 | u64::from(byte))
        .max(1)
}
