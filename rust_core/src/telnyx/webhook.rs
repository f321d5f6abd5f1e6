//! A webhook: signature over the raw bytes first, then the window, then the JSON, then the MAC of the callback URL.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, VerifyingKey};
use serde::Deserialize;

use super::answer::{ErrorItem, To, good_code};
use super::render::callback_mac;
use super::signatures::{Signed, held};
use crate::ids::parse_short_id;
use crate::message::{Carrier, Micros};
use crate::settle::{Receipt, ReceiptStatus};

/// Keys that count now; two of each are valid while one replaces the other.
#[derive(Clone, Debug, Default)]
pub struct WebhookKeys {
    /// Telnyx's public keys.
    pub public: Vec<VerifyingKey>,
    /// Names and bytes of our MAC keys.
    pub mac: Vec<(String, Vec<u8>)>,
    /// How far a timestamp may be off, both directions.
    pub window_us: i64,
}

impl WebhookKeys {
    /// Adds a public key in base64.
    ///
    /// # Errors
    /// Says what is wrong with the key.
    pub fn add_public(&mut self, base64: &str) -> Result<(), String> {
        let bytes = STANDARD
            .decode(base64.trim())
            .map_err(|_| "public key is not base64".to_owned())?;
        let bytes: [u8; 32] = bytes
            .try_into()
            .map_err(|_| "public key is not 32 bytes".to_owned())?;
        let key = VerifyingKey::from_bytes(&bytes)
            .map_err(|_| "public key is not a point of Ed25519".to_owned())?;
        self.public.push(key);
        Ok(())
    }
}

/// A webhook as it came.
#[derive(Clone, Copy, Debug)]
pub struct RawWebhook<'a> {
    /// The query string of the callback URL.
    pub query: &'a [u8],
    /// As its header has it.
    pub signature: &'a [u8],
    /// As its header has it.
    pub timestamp: &'a [u8],
    /// All of it.
    pub body: &'a [u8],
}

/// A text from a handset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundText {
    /// Digits of the other party; 0 when it is not a number we can keep.
    pub sender: u64,
    /// Digits of our number; 0 when it is not one.
    pub recipient: u64,
    /// Its text.
    pub text: String,
    /// Its media.
    pub media_urls: Vec<String>,
}

/// What a webhook of good standing says.
#[derive(Clone, Debug, PartialEq)]
pub enum WebhookVerdict {
    /// A receipt for our message id (the MAC held), or, with id 0, for a provider's id only.
    Receipt {
        /// Our id or 0.
        message: u64,
        /// What it says.
        receipt: Receipt,
    },
    /// A text from a handset.
    Inbound(InboundText),
    /// A type we do not know: stored as it is.
    Other,
    /// Signed, but its MAC is wrong: changes nothing.
    WrongMac,
    /// No or a wrong signature.
    BadSignature,
    /// Outside the window.
    Stale,
    /// Signed, but not a webhook.
    Garbage,
}

/// A webhook that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct ReceivedWebhook {
    /// What it says.
    pub verdict: WebhookVerdict,
    /// The provider's event id; empty unless the signature held.
    pub event_id: String,
    /// When it happened by the provider's clock; 0 when not told.
    pub occurred_us: Micros,
    /// The provider's message id.
    pub provider_id: String,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    data: Data<'a>,
}

#[derive(Deserialize)]
struct Data<'a> {
    #[serde(borrow)]
    event_type: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    id: std::borrow::Cow<'a, str>,
    #[serde(default, borrow)]
    occurred_at: Option<std::borrow::Cow<'a, str>>,
    #[serde(default, borrow)]
    payload: Option<Payload<'a>>,
}

#[derive(Deserialize, Default)]
struct Payload<'a> {
    #[serde(default, borrow)]
    id: Option<std::borrow::Cow<'a, str>>,
    #[serde(default, borrow)]
    to: Vec<ToNumber<'a>>,
    #[serde(default, borrow)]
    from: Option<Party<'a>>,
    #[serde(default, borrow)]
    text: Option<std::borrow::Cow<'a, str>>,
    #[serde(default)]
    media: Option<Vec<Media>>,
    #[serde(default)]
    parts: Option<u32>,
    #[serde(default, borrow)]
    errors: Option<Vec<ErrorItem<'a>>>,
}

#[derive(Deserialize)]
struct ToNumber<'a> {
    #[serde(default, borrow)]
    phone_number: Option<std::borrow::Cow<'a, str>>,
    #[serde(flatten, borrow)]
    to: To<'a>,
}

#[derive(Deserialize)]
struct Party<'a> {
    #[serde(default, borrow)]
    phone_number: Option<std::borrow::Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Media {
    #[serde(default)]
    url: Option<String>,
}

fn refused(verdict: WebhookVerdict) -> ReceivedWebhook {
    ReceivedWebhook {
        verdict,
        event_id: String::new(),
        occurred_us: 0,
        provider_id: String::new(),
    }
}

fn digits(number: Option<&str>) -> u64 {
    number
        .map(|number| number.strip_prefix('+').unwrap_or(number))
        .filter(|number| (3..=15).contains(&number.len()))
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

fn micros_of(rfc3339: &str) -> Micros {
    time::OffsetDateTime::parse(rfc3339, &time::format_description::well_known::Rfc3339)
        .ok()
        .and_then(|at| i64::try_from(at.unix_timestamp_nanos() / 1_000).ok())
        .unwrap_or(0)
}

/// What is to be judged of a webhook's signature, or why it need not be.
fn signed(
    webhook: &RawWebhook<'_>,
    window_us: i64,
    now_us: Micros,
) -> Result<Signed, WebhookVerdict> {
    let stamp_us = std::str::from_utf8(webhook.timestamp)
        .ok()
        .and_then(|text| text.parse::<i64>().ok())
        .and_then(|seconds| seconds.checked_mul(1_000_000))
        .ok_or(WebhookVerdict::BadSignature)?;
    // The cheap check goes first: a replayed flood costs no curve arithmetic. The answer is the same either way.
    if now_us.saturating_sub(stamp_us).saturating_abs() > window_us {
        return Err(WebhookVerdict::Stale);
    }
    let signature = STANDARD
        .decode(webhook.signature)
        .ok()
        .and_then(|raw| Signature::from_slice(&raw).ok())
        .ok_or(WebhookVerdict::BadSignature)?;
    let mut message = Vec::with_capacity(webhook.timestamp.len() + 1 + webhook.body.len());
    message.extend_from_slice(webhook.timestamp);
    message.push(b'|');
    message.extend_from_slice(webhook.body);
    Ok(Signed { message, signature })
}

/// The callback's message id and generation: `None` without them, an error when they are there and the MAC is wrong.
fn callback(query: &[u8], keys: &WebhookKeys) -> Result<Option<(u64, u16)>, ()> {
    let Ok(query) = std::str::from_utf8(query) else {
        return Err(());
    };
    let value = |name: &str| {
        query.split('&').find_map(|pair| {
            pair.split_once('=')
                .filter(|(key, _)| *key == name)
                .map(|(_, value)| value)
        })
    };
    let (message, generation, key_name, mac) =
        match (value("m"), value("g"), value("k"), value("s")) {
            (None, _, _, None) => return Ok(None),
            (Some(message), Some(generation), Some(key_name), Some(mac)) => {
                (message, generation, key_name, mac)
            }
            _ => return Err(()),
        };
    let message = parse_short_id(message).ok_or(())?;
    let generation: u16 = generation.parse().map_err(|_| ())?;
    let key = keys
        .mac
        .iter()
        .find(|(name, _)| name == key_name)
        .ok_or(())?;
    let expected = callback_mac(&key.1, message, generation);
    // Constant time over the bytes; the length is public.
    let same = expected.len() == mac.len()
        && expected
            .bytes()
            .zip(mac.bytes())
            .fold(0_u8, |difference, (a, b)| difference | (a ^ b))
            == 0;
    if same {
        Ok(Some((message, generation)))
    } else {
        Err(())
    }
}

/// Reads webhooks that came together: their signatures cost less than each by itself.
#[must_use]
pub fn read_webhooks(
    webhooks: &[RawWebhook<'_>],
    keys: &WebhookKeys,
    now_us: Micros,
) -> Vec<ReceivedWebhook> {
    let mut to_judge = Vec::with_capacity(webhooks.len());
    let refusals: Vec<Option<WebhookVerdict>> = webhooks
        .iter()
        .map(|webhook| match signed(webhook, keys.window_us, now_us) {
            Ok(signed) => {
                to_judge.push(signed);
                None
            }
            Err(verdict) => Some(verdict),
        })
        .collect();
    let mut held = held(&to_judge, &keys.public).into_iter();
    webhooks
        .iter()
        .zip(refusals)
        .map(|(webhook, refusal)| match refusal {
            Some(verdict) => refused(verdict),
            None if held.next() == Some(true) => read_body(webhook, keys),
            None => refused(WebhookVerdict::BadSignature),
        })
        .collect()
}

/// What a webhook says whose signature holds.
fn read_body(webhook: &RawWebhook<'_>, keys: &WebhookKeys) -> ReceivedWebhook {
    let Ok(envelope) = serde_json::from_slice::<Envelope<'_>>(webhook.body) else {
        return refused(WebhookVerdict::Garbage);
    };
    let data = envelope.data;
    if data.id.is_empty() || data.id.len() > 100 {
        return refused(WebhookVerdict::Garbage);
    }
    let payload = data.payload.unwrap_or_default();
    let provider_id = payload
        .id
        .as_deref()
        .filter(|id| id.len() <= 100)
        .unwrap_or_default()
        .to_owned();
    let occurred_us = data.occurred_at.as_deref().map_or(0, micros_of);
    let verdict = match data.event_type.as_ref() {
        "message.sent" | "message.finalized" => match callback(webhook.query, keys) {
            Err(()) => WebhookVerdict::WrongMac,
            Ok(known) => receipt_of(known, &payload, &provider_id),
        },
        "message.received" => WebhookVerdict::Inbound(InboundText {
            sender: digits(
                payload
                    .from
                    .as_ref()
                    .and_then(|from| from.phone_number.as_deref()),
            ),
            recipient: digits(payload.to.first().and_then(|to| to.phone_number.as_deref())),
            text: payload.text.as_deref().unwrap_or_default().to_owned(),
            media_urls: payload
                .media
                .unwrap_or_default()
                .into_iter()
                .filter_map(|media| media.url)
                .take(20)
                .collect(),
        }),
        _ => WebhookVerdict::Other,
    };
    ReceivedWebhook {
        verdict,
        event_id: data.id.into_owned(),
        occurred_us,
        provider_id,
    }
}

fn receipt_of(
    known: Option<(u64, u16)>,
    payload: &Payload<'_>,
    provider_id: &str,
) -> WebhookVerdict {
    let Some(to) = payload.to.first() else {
        return WebhookVerdict::Garbage;
    };
    let Some(status) = to.to.status.as_deref().and_then(ReceiptStatus::from_telnyx) else {
        return WebhookVerdict::Other;
    };
    let (message, generation) = known.unwrap_or((0, 0));
    if message == 0 && provider_id.is_empty() {
        return WebhookVerdict::Garbage;
    }
    let code = payload
        .errors
        .as_ref()
        .and_then(|errors| errors.first())
        .and_then(|item| item.code.as_deref())
        .and_then(good_code)
        .unwrap_or_default();
    WebhookVerdict::Receipt {
        message,
        receipt: Receipt {
            generation,
            status,
            code: code.to_owned(),
            carrier: to
                .to
                .carrier
                .as_deref()
                .map_or(Carrier::Unknown, Carrier::from_name) as u8,
            parts: payload.parts,
            provider_id: provider_id.to_owned(),
            lookup: false,
        },
    }
}
