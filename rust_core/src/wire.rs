//! The hot messages of the contract as structs, field for field as in `messaging.proto`.
//!
//! It judges no content. Requests keep each submission as bytes, cut from the request without copying, so that one that
//! cannot be decoded spoils itself and not its neighbours; enumerations stay integers, so that an unknown value can be refused
//! by name. Decoding copies strings once; unknown fields are dropped, so re-encoding is canonical: fields by number, map
//! entries by key.

use std::collections::BTreeMap;

use bytes::{Buf, Bytes, BytesMut};
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use prost::{DecodeError, Message as _};

use crate::message::Micros;

/// Encoders write a single field once; middle boxes that merge write it a few times.
pub const UNARY_PARTS_MAX: usize = 16;

const NANOS_IN_SECOND: i32 = 1_000_000_000;
const MICROS_IN_SECOND: i64 = 1_000_000;
/// 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z: what a `Timestamp` may hold.
const TIMESTAMP_SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
/// 10,000 years: what a `Duration` may hold.
const DURATION_SECONDS_MAX: i64 = 315_576_000_000;

/// `google.protobuf.Timestamp`.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Timestamp {
    /// Since the Unix epoch.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// 0 to 999,999,999, counted forward.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

impl Timestamp {
    /// The timestamp of a wall-clock time.
    #[must_use]
    pub fn from_micros(time_us: Micros) -> Self {
        let nanos = i32::try_from(time_us.rem_euclid(MICROS_IN_SECOND) * 1000).unwrap_or(0);
        Self {
            seconds: time_us.div_euclid(MICROS_IN_SECOND),
            nanos,
        }
    }

    /// Wall-clock time, nanoseconds cut off; `None` outside of what a timestamp may hold.
    #[must_use]
    pub fn to_micros(self) -> Option<Micros> {
        let valid =
            TIMESTAMP_SECONDS.contains(&self.seconds) && (0..NANOS_IN_SECOND).contains(&self.nanos);
        valid.then(|| self.seconds * MICROS_IN_SECOND + i64::from(self.nanos / 1000))
    }
}

/// `google.protobuf.Duration`.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Duration {
    /// Whole seconds.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// Of the same sign as `seconds`.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

impl Duration {
    /// The duration of so many microseconds.
    #[must_use]
    pub fn from_micros(duration_us: Micros) -> Self {
        let nanos = i32::try_from(duration_us % MICROS_IN_SECOND * 1000).unwrap_or(0);
        Self {
            seconds: duration_us / MICROS_IN_SECOND,
            nanos,
        }
    }

    /// Microseconds, rounded up so that a positive duration stays positive; `None` outside of what a duration may hold.
    #[must_use]
    pub fn to_micros(self) -> Option<Micros> {
        let same_sign =
            self.seconds == 0 || self.nanos == 0 || (self.seconds < 0) == (self.nanos < 0);
        let in_range = self.seconds.unsigned_abs() <= DURATION_SECONDS_MAX.unsigned_abs()
            && self.nanos.unsigned_abs() < NANOS_IN_SECOND.unsigned_abs();
        (same_sign && in_range).then(|| {
            let nanos = i64::from(self.nanos);
            self.seconds * MICROS_IN_SECOND
                + nanos.div_euclid(1000)
                + i64::from(nanos.rem_euclid(1000) > 0)
        })
    }
}

/// A message as handed in; with its sender filled in and its text as it is to be sent, also the stored record.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Submission {
    /// `campaigns/{campaign}`.
    #[prost(string, tag = "1")]
    pub campaign: String,
    /// E.164, or empty.
    #[prost(string, tag = "2")]
    pub sender: String,
    /// E.164.
    #[prost(string, tag = "3")]
    pub recipient: String,
    /// Text.
    #[prost(string, tag = "4")]
    pub text: String,
    /// Makes it an MMS.
    #[prost(string, repeated, tag = "5")]
    pub media_urls: Vec<String>,
    /// MMS subject.
    #[prost(string, tag = "6")]
    pub subject: String,
    /// `MessageClass`.
    #[prost(int32, tag = "7")]
    pub message_class: i32,
    /// Idempotency key of the caller.
    #[prost(string, tag = "8")]
    pub request_id: String,
    /// Not before.
    #[prost(message, optional, tag = "9")]
    pub schedule_time: Option<Timestamp>,
    /// From max(accept, `schedule_time`).
    #[prost(message, optional, tag = "10")]
    pub validity: Option<Duration>,
    /// Start order.
    #[prost(string, tag = "11")]
    pub ordering_key: String,
    /// The caller's.
    #[prost(string, tag = "12")]
    pub client_reference: String,
    /// The caller's.
    #[prost(btree_map = "string, string", tag = "13")]
    pub labels: BTreeMap<String, String>,
    /// May look-alikes replace what costs GSM-7.
    #[prost(bool, tag = "14")]
    pub smart_encoding: bool,
}

/// The one field of a [`Submission`] that restart needs; the others are skipped, not copied.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct OrderingKeyOnly {
    #[prost(string, tag = "11")]
    pub ordering_key: String,
}

/// The one field of a [`Submission`] that the door asks for under pressure; the others are skipped, not copied.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ClassOnly {
    #[prost(int32, tag = "7")]
    pub message_class: i32,
}

/// The verdict on one submission.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SubmitResult {
    /// `Verdict`.
    #[prost(int32, tag = "1")]
    pub verdict: i32,
    /// `messages/{message}` when accepted.
    #[prost(string, tag = "2")]
    pub message: String,
    /// How many segments it counts.
    #[prost(int32, tag = "3")]
    pub segments: i32,
    /// `Encoding`.
    #[prost(int32, tag = "4")]
    pub encoding: i32,
    /// False when no request id was given.
    #[prost(bool, tag = "5")]
    pub retry_safe: bool,
    /// When refused: the field at fault.
    #[prost(string, tag = "6")]
    pub field: String,
    /// When refused: what to do.
    #[prost(string, tag = "7")]
    pub detail: String,
    /// When refused for now.
    #[prost(message, optional, tag = "8")]
    pub retry_delay: Option<Duration>,
}

/// Request of `SubmitMessage`. A repeated element here where the proto has a single one: protobuf says that several are
/// merged, and merging is what decoding their bytes one after the other does.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SubmitMessageRequest {
    /// The parts of the encoded [`Submission`]; nearly always one.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub submission: Vec<Bytes>,
}

/// Response of `SubmitMessage`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SubmitMessageResponse {
    /// Always ACCEPTED.
    #[prost(message, optional, tag = "1")]
    pub result: Option<SubmitResult>,
}

/// Request of `SubmitMessages`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SubmitMessagesRequest {
    /// Encoded [`Submission`]s.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub submissions: Vec<Bytes>,
}

/// Response of `SubmitMessages`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SubmitMessagesResponse {
    /// One for each submission.
    #[prost(message, repeated, tag = "1")]
    pub results: Vec<SubmitResult>,
}

/// A batch on the stream.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StreamMessagesRequest {
    /// Chosen by the client.
    #[prost(uint64, tag = "1")]
    pub sequence: u64,
    /// Encoded [`Submission`]s.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub submissions: Vec<Bytes>,
}

/// An answer on the stream.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StreamMessagesResponse {
    /// So many more messages may be sent.
    #[prost(uint32, tag = "1")]
    pub credit: u32,
    /// Which request this answers.
    #[prost(uint64, tag = "2")]
    pub sequence: u64,
    /// One for each submission.
    #[prost(message, repeated, tag = "3")]
    pub results: Vec<SubmitResult>,
}

/// A message as it stands.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Message {
    /// `messages/{message}`.
    #[prost(string, tag = "1")]
    pub name: String,
    /// `campaigns/{campaign}`.
    #[prost(string, tag = "2")]
    pub campaign: String,
    /// E.164.
    #[prost(string, tag = "3")]
    pub sender: String,
    /// E.164.
    #[prost(string, tag = "4")]
    pub recipient: String,
    /// As it is sent.
    #[prost(string, tag = "5")]
    pub text: String,
    /// MMS.
    #[prost(string, repeated, tag = "6")]
    pub media_urls: Vec<String>,
    /// MMS.
    #[prost(string, tag = "7")]
    pub subject: String,
    /// `MessageClass`.
    #[prost(int32, tag = "8")]
    pub message_class: i32,
    /// As given, or minted.
    #[prost(string, tag = "9")]
    pub request_id: String,
    /// As given.
    #[prost(message, optional, tag = "10")]
    pub schedule_time: Option<Timestamp>,
    /// When its validity ends.
    #[prost(message, optional, tag = "11")]
    pub expire_time: Option<Timestamp>,
    /// As given.
    #[prost(string, tag = "12")]
    pub ordering_key: String,
    /// As given.
    #[prost(string, tag = "13")]
    pub client_reference: String,
    /// As given.
    #[prost(btree_map = "string, string", tag = "14")]
    pub labels: BTreeMap<String, String>,
    /// `MessageState`.
    #[prost(int32, tag = "15")]
    pub state: i32,
    /// `Reason`.
    #[prost(int32, tag = "16")]
    pub reason: i32,
    /// The provider's or carrier's code.
    #[prost(string, tag = "17")]
    pub code: String,
    /// Segments counted.
    #[prost(int32, tag = "18")]
    pub segments: i32,
    /// `Encoding`.
    #[prost(int32, tag = "19")]
    pub encoding: i32,
    /// When it was accepted.
    #[prost(message, optional, tag = "20")]
    pub accept_time: Option<Timestamp>,
    /// When its state last changed.
    #[prost(message, optional, tag = "21")]
    pub update_time: Option<Timestamp>,
    /// When the next attempt is due.
    #[prost(message, optional, tag = "22")]
    pub next_attempt_time: Option<Timestamp>,
    /// Attempts started.
    #[prost(int32, tag = "23")]
    pub attempts: i32,
    /// Generation.
    #[prost(int32, tag = "24")]
    pub generation: i32,
    /// Name of the provider.
    #[prost(string, tag = "25")]
    pub provider: String,
    /// The provider's id.
    #[prost(string, tag = "26")]
    pub provider_message: String,
    /// The recipient's carrier.
    #[prost(string, tag = "27")]
    pub carrier: String,
    /// An attempt of unknown outcome was followed by another.
    #[prost(bool, tag = "28")]
    pub possible_duplicate: bool,
    /// Cancelled while its outcome was unknown.
    #[prost(bool, tag = "29")]
    pub cancel_requested: bool,
}

/// What an event tells. The proto's `Event.Kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EventKind {
    /// A message changed its state.
    Message = 1,
    /// A receipt contradicted the state.
    StatusConflict = 2,
    /// An inbound message came.
    Inbound = 3,
    /// An opt-out is stored.
    OptOut = 4,
    /// The opt-out's barrier holds.
    OptOutEffective = 5,
    /// An opt-out was lifted.
    OptIn = 6,
}

/// Something that happened.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Event {
    /// [`EventKind`].
    #[prost(int32, tag = "1")]
    pub kind: i32,
    /// `messages/{message}` or `inbound/{id}`.
    #[prost(string, tag = "2")]
    pub message: String,
    /// Per message 1, 2, 3 …
    #[prost(uint32, tag = "3")]
    pub seq: u32,
    /// `MessageState` entered.
    #[prost(int32, tag = "4")]
    pub state: i32,
    /// `Reason`.
    #[prost(int32, tag = "5")]
    pub reason: i32,
    /// When.
    #[prost(message, optional, tag = "6")]
    pub event_time: Option<Timestamp>,
    /// Attempts so far.
    #[prost(uint32, tag = "7")]
    pub attempt: u32,
    /// Generation.
    #[prost(uint32, tag = "8")]
    pub generation: u32,
    /// The provider's or carrier's code.
    #[prost(string, tag = "9")]
    pub code: String,
    /// `campaigns/{campaign}`.
    #[prost(string, tag = "10")]
    pub campaign: String,
    /// As submitted.
    #[prost(string, tag = "11")]
    pub client_reference: String,
    /// `MessageState` left.
    #[prost(int32, tag = "12")]
    pub previous_state: i32,
    /// Consent and inbound events: the other party.
    #[prost(string, tag = "13")]
    pub recipient: String,
    /// Inbound events.
    #[prost(message, optional, tag = "14")]
    pub inbound: Option<InboundMessage>,
}

/// A message from a handset.
#[derive(Clone, PartialEq, prost::Message)]
pub struct InboundMessage {
    /// `inbound/{id}`.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Who sent it.
    #[prost(string, tag = "2")]
    pub sender: String,
    /// Our number.
    #[prost(string, tag = "3")]
    pub recipient: String,
    /// Its text.
    #[prost(string, tag = "4")]
    pub text: String,
    /// Its media.
    #[prost(string, repeated, tag = "5")]
    pub media_urls: Vec<String>,
    /// When it came in.
    #[prost(message, optional, tag = "6")]
    pub receive_time: Option<Timestamp>,
}

/// Response of `GetMessage`; without a timeline it has the bytes of a `CancelMessageResponse` too.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GetMessageResponse {
    /// The message.
    #[prost(message, optional, tag = "1")]
    pub message: Option<Message>,
    /// Every transition.
    #[prost(message, repeated, tag = "2")]
    pub timeline: Vec<Event>,
}

/// Response of `ListMessages`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListMessagesResponse {
    /// Newest first.
    #[prost(message, repeated, tag = "1")]
    pub messages: Vec<Message>,
    /// Empty on the last page.
    #[prost(string, tag = "2")]
    pub next_page_token: String,
}

/// Events in order.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WatchEventsResponse {
    /// May be empty.
    #[prost(message, repeated, tag = "1")]
    pub events: Vec<Event>,
    /// Resume after these.
    #[prost(string, tag = "2")]
    pub cursor: String,
}

/// Appends an event as one element of `WatchEventsResponse.events`: such blobs concatenate to a response.
pub fn push_event(blob: &mut Vec<u8>, event: &Event) {
    prost::encoding::message::encode(1, event, blob);
}

/// Why a request could not be taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// Its outer framing is broken.
    Undecodable,
    /// It holds no submission.
    Empty,
    /// It holds more submissions than allowed.
    TooMany,
}

impl From<DecodeError> for RequestError {
    fn from(_: DecodeError) -> Self {
        Self::Undecodable
    }
}

/// The submission of a `SubmitMessageRequest`.
///
/// # Errors
/// See [`RequestError`]; `TooMany` for one in more than [`UNARY_PARTS_MAX`] parts.
pub fn split_unary(request: &Bytes) -> Result<Bytes, RequestError> {
    check_count(request, 1, UNARY_PARTS_MAX)?;
    let mut parts = SubmitMessageRequest::decode(request.clone())?.submission;
    match parts.len() {
        0 => Err(RequestError::Empty),
        1 => Ok(parts.swap_remove(0)),
        _ => Ok(parts
            .into_iter()
            .fold(BytesMut::new(), |mut whole, part| {
                whole.extend_from_slice(&part);
                whole
            })
            .freeze()),
    }
}

/// The submissions of a `SubmitMessagesRequest`, at most `messages_max`.
///
/// # Errors
/// See [`RequestError`].
pub fn split_batch(request: &Bytes, messages_max: usize) -> Result<Vec<Bytes>, RequestError> {
    check_count(request, 1, messages_max)?;
    Ok(SubmitMessagesRequest::decode(request.clone())?.submissions)
}

/// Sequence and submissions of a `StreamMessagesRequest`, at most `messages_max`.
///
/// # Errors
/// See [`RequestError`].
pub fn split_stream(
    request: &Bytes,
    messages_max: usize,
) -> Result<(u64, Vec<Bytes>), RequestError> {
    check_count(request, 2, messages_max)?;
    let request = StreamMessagesRequest::decode(request.clone())?;
    Ok((request.sequence, request.submissions))
}

/// Counts before anything is kept: an empty submission is 2 bytes on the wire and 32 in memory, so that a request of 4 MiB
/// would otherwise become 64 MiB.
fn check_count(request: &[u8], items_tag: u32, messages_max: usize) -> Result<(), RequestError> {
    let mut rest = request;
    let mut count = 0;
    while rest.has_remaining() {
        let (tag, wire_type) = decode_key(&mut rest)?;
        if tag == items_tag && wire_type == WireType::LengthDelimited {
            let item_bytes = usize::try_from(decode_varint(&mut rest)?)
                .map_err(|_| RequestError::Undecodable)?;
            rest = rest.get(item_bytes..).ok_or(RequestError::Undecodable)?;
            count += 1;
            if count > messages_max {
                return Err(RequestError::TooMany);
            }
        } else {
            skip_field(wire_type, tag, &mut rest, DecodeContext::default())?;
        }
    }
    if count == 0 {
        Err(RequestError::Empty)
    } else {
        Ok(())
    }
}
