//! What callers see of a stored message: the `Message` of the contract from a row, its record and its history.
//!
//! It reads no store and checks no rights: whoever asks has been found entitled to the row.

mod history;

use prost::{DecodeError, Message as _};

pub use history::{HistoryError, history_entry, history_events};

use crate::ids::message_name;
use crate::message::{Carrier, Micros, flags};
use crate::state::State;
use crate::wire::{
    Event, GetMessageResponse, ListMessagesResponse, Message, Submission, Timestamp,
};

/// The columns of a message, numbers as stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredRow {
    /// 64-bit, time-ordered.
    pub id: u64,
    /// Key of the tenant.
    pub tenant: u32,
    /// Key of the campaign.
    pub campaign: u32,
    /// Digits of the sender's number.
    pub sender: u64,
    /// Digits of the recipient's number.
    pub recipient: u64,
    /// [`crate::message::Class`].
    pub class: u8,
    /// [`crate::message::Kind`].
    pub kind: u8,
    /// 1 GSM-7, 2 UCS-2.
    pub encoding: u8,
    /// Segments counted.
    pub segments: u16,
    /// [`State`].
    pub state: u8,
    /// [`crate::state::Reason`].
    pub reason: u8,
    /// The provider's or carrier's code; empty without.
    pub code: String,
    /// Sequence number of the last event.
    pub seq: u32,
    /// Attempts started.
    pub attempt: u16,
    /// Generation of the provider's idempotency key.
    pub generation: u16,
    /// Attempts that count towards `attempts_max`.
    pub counted: u16,
    /// [`flags`].
    pub flags: u32,
    /// When the next attempt is due.
    pub due_us: Micros,
    /// When it was accepted.
    pub accept_us: Micros,
    /// When its validity ends.
    pub expires_us: Micros,
    /// When its state last changed.
    pub updated_us: Micros,
    /// Recipe of the generation's bytes; 0 without.
    pub recipe: u32,
    /// Name of the provider of the last attempt; empty without.
    pub provider: String,
    /// The provider's id; empty without.
    pub provider_id: String,
    /// [`Carrier`].
    pub carrier: u8,
}

/// The message of a row; `campaign_id` is the part after `campaigns/`.
///
/// # Errors
/// When the record is not an encoded submission.
pub fn message(row: &StoredRow, record: &[u8], campaign_id: &str) -> Result<Message, DecodeError> {
    let submission = Submission::decode(record)?;
    let queued = row.state == State::Queued as u8;
    Ok(Message {
        name: message_name(row.id),
        campaign: format!("campaigns/{campaign_id}"),
        sender: format!("+{}", row.sender),
        recipient: format!("+{}", row.recipient),
        text: submission.text,
        media_urls: submission.media_urls,
        subject: submission.subject,
        message_class: i32::from(row.class),
        request_id: submission.request_id,
        schedule_time: submission.schedule_time,
        expire_time: Some(Timestamp::from_micros(row.expires_us)),
        ordering_key: submission.ordering_key,
        client_reference: submission.client_reference,
        labels: submission.labels,
        state: i32::from(row.state),
        reason: i32::from(row.reason),
        code: row.code.clone(),
        segments: i32::from(row.segments),
        encoding: i32::from(row.encoding),
        accept_time: Some(Timestamp::from_micros(row.accept_us)),
        update_time: Some(Timestamp::from_micros(row.updated_us)),
        next_attempt_time: queued.then(|| Timestamp::from_micros(row.due_us)),
        attempts: i32::from(row.attempt),
        generation: i32::from(row.generation),
        provider: row.provider.clone(),
        provider_message: row.provider_id.clone(),
        carrier: carrier_name(row.carrier).to_owned(),
        possible_duplicate: row.flags & flags::POSSIBLE_DUPLICATE != 0,
        cancel_requested: row.flags & flags::CANCEL_REQUESTED != 0,
    })
}

/// The bytes of a `GetMessageResponse`; without a timeline also those of a `CancelMessageResponse`.
#[must_use]
pub fn get_response(message: Message, timeline: Vec<Event>) -> Vec<u8> {
    GetMessageResponse {
        message: Some(message),
        timeline,
    }
    .encode_to_vec()
}

/// The bytes of a `ListMessagesResponse`.
#[must_use]
pub fn list_response(messages: Vec<Message>, next_page_token: String) -> Vec<u8> {
    ListMessagesResponse {
        messages,
        next_page_token,
    }
    .encode_to_vec()
}

/// The proto's word for a carrier, without `CARRIER_`; empty while it is not known.
fn carrier_name(number: u8) -> &'static str {
    match Carrier::from_number(i64::from(number)) {
        Carrier::Unknown => "",
        Carrier::Att => "ATT",
        Carrier::TMobile => "TMOBILE",
        Carrier::Verizon => "VERIZON",
        Carrier::UsCellular => "USCELLULAR",
        Carrier::Other => "OTHER",
    }
}
