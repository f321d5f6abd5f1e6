//! The answer to a send or a look-up: HTTP status × code × phase → outcome.

use serde::Deserialize;

use super::{CodeClass, class_of};
use crate::message::Carrier;
use crate::outcome::{NotTaken, Outcome, Phase};
use crate::settle::{Receipt, ReceiptStatus};

/// Traffic-pumping blocks last 24 h, pending numbers less; half an hour finds both ends without hammering.
const HOLD_US: i64 = 30 * 60 * 1_000_000;

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    data: Option<Data<'a>>,
    #[serde(default, borrow)]
    errors: Vec<ErrorItem<'a>>,
}

#[derive(Deserialize)]
struct Data<'a> {
    #[serde(default, borrow)]
    id: Option<std::borrow::Cow<'a, str>>,
    #[serde(default, borrow)]
    to: Vec<To<'a>>,
    #[serde(default)]
    parts: Option<u32>,
    #[serde(default, borrow)]
    errors: Vec<ErrorItem<'a>>,
}

#[derive(Deserialize)]
pub(super) struct To<'a> {
    #[serde(default, borrow)]
    pub status: Option<std::borrow::Cow<'a, str>>,
    #[serde(default, borrow)]
    pub carrier: Option<std::borrow::Cow<'a, str>>,
}

#[derive(Deserialize)]
pub(super) struct ErrorItem<'a> {
    #[serde(default, borrow)]
    pub code: Option<std::borrow::Cow<'a, str>>,
}

/// Telnyx ids are UUIDs; anything else of sane length is taken as it comes.
const PROVIDER_ID_BYTES_MAX: usize = 100;

fn good_id(id: &str) -> bool {
    !id.is_empty()
        && id.len() <= PROVIDER_ID_BYTES_MAX
        && id.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Codes go into rows, events and metrics: digits only, or what we name ourselves.
pub(super) fn good_code(code: &str) -> Option<&str> {
    (!code.is_empty() && code.len() <= 10 && code.bytes().all(|byte| byte.is_ascii_digit()))
        .then_some(code)
}

/// What became of a send.
///
/// `tries_of_generation`: attempts already made with this idempotency key, this one included; 422 after the first may
/// mean "key reused with other bytes", which says nothing about the message.
#[must_use]
pub fn classify(
    phase: Phase,
    status: u16,
    retry_after_us: Option<i64>,
    body: &[u8],
    tries_of_generation: u16,
) -> Outcome {
    let unknown = |code: &str| Outcome::Unknown {
        code: code.to_owned(),
    };
    match phase {
        Phase::NotConnected | Phase::NotFlushed => {
            return Outcome::NotTaken {
                why: NotTaken::NotConnected,
                retry_after_us: None,
                code: String::new(),
            };
        }
        Phase::Reset => return unknown("reset"),
        Phase::Timeout => return unknown("timeout"),
        Phase::Malformed => return unknown("malformed"),
        Phase::Answered => {}
    }
    let answer: Option<Answer<'_>> = serde_json::from_slice(body).ok();
    if (200..300).contains(&status) {
        let Some(data) = answer.and_then(|answer| answer.data) else {
            return unknown("no-id");
        };
        let Some(id) = data.id.as_deref().filter(|id| good_id(id)) else {
            return unknown("no-id");
        };
        let carrier = data
            .to
            .first()
            .and_then(|to| to.carrier.as_deref())
            .map_or(Carrier::Unknown, Carrier::from_name);
        return Outcome::Taken {
            provider_id: id.to_owned(),
            carrier,
            parts: data.parts,
        };
    }
    if status == 408 || status == 409 || !(400..500).contains(&status) {
        return unknown(&format!("http-{status}"));
    }
    let code = answer
        .as_ref()
        .and_then(|answer| answer.errors.first())
        .and_then(|item| item.code.as_deref())
        .and_then(good_code)
        .map_or_else(|| format!("http-{status}"), str::to_owned);
    if status == 422 && tries_of_generation > 1 {
        return Outcome::Unknown { code };
    }
    let not_taken = |why: NotTaken, code: String| Outcome::NotTaken {
        why,
        retry_after_us,
        code,
    };
    match (class_of(&code), status) {
        (Some(CodeClass::CapDay), _) => not_taken(NotTaken::CapDay, code),
        (Some(CodeClass::CapMinute), _) => not_taken(NotTaken::CapMinute, code),
        (Some(CodeClass::CapSpend), _) => not_taken(NotTaken::CapSpend, code),
        (Some(CodeClass::Account), _) | (None, 401..=403) => not_taken(NotTaken::Account, code),
        (Some(CodeClass::Rate), _) | (_, 429) => not_taken(NotTaken::Throttled, code),
        (Some(CodeClass::Retry), _) => Outcome::RefusedForNow { code, hold_us: 0 },
        (Some(CodeClass::Hold), _) => Outcome::RefusedForNow {
            code,
            hold_us: HOLD_US,
        },
        (Some(CodeClass::OptedOut), _) => Outcome::RefusedForGood {
            code,
            opted_out: true,
        },
        (Some(CodeClass::Final) | None, _) => Outcome::RefusedForGood {
            code,
            opted_out: false,
        },
    }
}

/// The receipt that `GET /v2/messages/{id}` amounts to; `None` when it says nothing.
#[must_use]
pub fn lookup_receipt(phase: Phase, status: u16, body: &[u8], generation: u16) -> Option<Receipt> {
    if phase != Phase::Answered || !(200..300).contains(&status) {
        return None;
    }
    let data = serde_json::from_slice::<Answer<'_>>(body).ok()?.data?;
    let to = data.to.first()?;
    let code = data
        .errors
        .first()
        .and_then(|item| item.code.as_deref())
        .and_then(good_code)
        .unwrap_or_default();
    Some(Receipt {
        generation,
        status: ReceiptStatus::from_telnyx(to.status.as_deref()?)?,
        code: code.to_owned(),
        carrier: to
            .carrier
            .as_deref()
            .map_or(Carrier::Unknown, Carrier::from_name) as u8,
        parts: data.parts,
        provider_id: data
            .id
            .as_deref()
            .filter(|id| good_id(id))
            .unwrap_or_default()
            .to_owned(),
        lookup: true,
    })
}
