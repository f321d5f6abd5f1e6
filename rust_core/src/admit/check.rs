//! What a submission must be like whoever sends it: numbers, text, media, times, keys.
//!
//! It looks at nothing but the submission, the limits and the time: campaigns, consent and quotas come after it, so that what
//! can never pass is refused first and its `request_id` never looked up. No detail repeats text or a number.

use std::borrow::Cow;

use super::Limits;
use crate::message::{Class, Kind, Micros};
use crate::phone::{Phone, parse_nanp};
use crate::text::{Encoding, SmartTable, measure, smart_encode};
use crate::verdict::Verdict;
use crate::wire::Submission;

/// The contract's lengths, in bytes unless named otherwise.
const REQUEST_ID_BYTES_MAX: usize = 64;
const ORDERING_KEY_BYTES_MAX: usize = 64;
const CLIENT_REFERENCE_BYTES_MAX: usize = 128;
const LABELS_MAX: usize = 16;
const LABEL_KEY_BYTES_MAX: usize = 63;
const LABEL_VALUE_BYTES_MAX: usize = 255;
const MEDIA_URL_BYTES_MAX: usize = 2000;
/// A subject is a heading, not a second text: as long as a label's value. Handsets show about 40 characters.
const SUBJECT_BYTES_MAX: usize = 255;

/// Why a submission, or a whole call, was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The reason.
    pub verdict: Verdict,
    /// Path of the field at fault inside the submission; empty where none is.
    pub field: Cow<'static, str>,
    /// What to do.
    pub detail: Cow<'static, str>,
    /// When to come back; 0 where that would not help.
    pub retry_delay_us: Micros,
}

impl Refusal {
    /// A refusal that a later try would meet again, with the verdict's own advice.
    pub(super) fn new(verdict: Verdict, field: &'static str) -> Self {
        Self::with_detail(verdict, field, verdict.advice())
    }

    pub(super) fn with_detail(
        verdict: Verdict,
        field: impl Into<Cow<'static, str>>,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            verdict,
            field: field.into(),
            detail: detail.into(),
            retry_delay_us: 0,
        }
    }

    /// A refusal without a field; retryable verdicts say when to come back.
    pub(super) fn passing(verdict: Verdict, retry_delay_us: Micros) -> Self {
        Self {
            retry_delay_us: if verdict.retryable() {
                retry_delay_us
            } else {
                0
            },
            ..Self::new(verdict, "")
        }
    }
}

/// What the checks learned.
pub(super) struct Checked {
    pub class: Class,
    pub kind: Kind,
    pub sender: Option<Phone>,
    pub recipient: Phone,
    pub encoding: Encoding,
    /// 1 for MMS.
    pub segments: u16,
    /// The text to send, where smart encoding replaced something.
    pub replaced_text: Option<String>,
    /// Not before `now`.
    pub due_us: Micros,
    pub expires_us: Micros,
}

/// Checks a submission by itself.
pub(super) fn check(
    submission: &Submission,
    limits: &Limits,
    now_us: Micros,
) -> Result<Checked, Refusal> {
    check_keys(submission)?;
    let recipient = parse_nanp(&submission.recipient).map_err(|error| {
        Refusal::with_detail(Verdict::InvalidRecipient, "recipient", error.message())
    })?;
    let sender = (!submission.sender.is_empty())
        .then(|| parse_nanp(&submission.sender))
        .transpose()
        .map_err(|error| Refusal::with_detail(Verdict::InvalidSender, "sender", error.message()))?;
    let class = Class::from_number(i64::from(submission.message_class))
        .ok_or_else(|| Refusal::new(Verdict::InvalidEnum, "message_class"))?;
    check_media(submission, limits)?;
    let (replaced_text, encoding, segments) = check_text(submission, limits)?;
    let (due_us, expires_us) = check_times(submission, class, limits, now_us)?;
    let kind = if submission.media_urls.is_empty() {
        Kind::Sms
    } else {
        Kind::Mms
    };
    Ok(Checked {
        class,
        kind,
        sender,
        recipient,
        encoding,
        segments,
        replaced_text,
        due_us,
        expires_us,
    })
}

/// The caller's own strings; the request id first, since every later answer leans on it.
fn check_keys(submission: &Submission) -> Result<(), Refusal> {
    let request_id = submission.request_id.as_bytes();
    // Empty is absent: proto3 cannot tell the two apart.
    if request_id.len() > REQUEST_ID_BYTES_MAX
        || !request_id.iter().all(|byte| matches!(byte, b' '..=b'~'))
    {
        return Err(Refusal::new(Verdict::InvalidRequestId, "request_id"));
    }
    for (verdict, field, value, bytes_max) in [
        (
            Verdict::InvalidOrderingKey,
            "ordering_key",
            &submission.ordering_key,
            ORDERING_KEY_BYTES_MAX,
        ),
        (
            Verdict::InvalidClientReference,
            "client_reference",
            &submission.client_reference,
            CLIENT_REFERENCE_BYTES_MAX,
        ),
    ] {
        if let Some(detail) = unfit(field, value, bytes_max) {
            return Err(Refusal::with_detail(verdict, field, detail));
        }
    }
    if submission.labels.len() > LABELS_MAX {
        let detail = format!(
            "{} labels are given, {LABELS_MAX} are allowed: give fewer",
            submission.labels.len()
        );
        return Err(Refusal::with_detail(
            Verdict::InvalidLabels,
            "labels",
            detail,
        ));
    }
    for (key, value) in &submission.labels {
        let detail = if key.is_empty() {
            Some("a label has an empty key: give each a key".into())
        } else {
            unfit("a label's key", key, LABEL_KEY_BYTES_MAX)
                .or_else(|| unfit("a label's value", value, LABEL_VALUE_BYTES_MAX))
        };
        if let Some(detail) = detail {
            return Err(Refusal::with_detail(
                Verdict::InvalidLabels,
                "labels",
                detail,
            ));
        }
    }
    Ok(())
}

/// What is wrong with a string of the caller's, if anything is. Many who read it later take NUL for its end.
fn unfit(name: &str, value: &str, bytes_max: usize) -> Option<String> {
    if value.len() > bytes_max {
        return Some(too_long(name, value.len(), bytes_max));
    }
    value
        .contains('\0')
        .then(|| format!("{name} holds a NUL character: remove it"))
}

fn check_media(submission: &Submission, limits: &Limits) -> Result<(), Refusal> {
    let refused = |field: Cow<'static, str>, detail: Cow<'static, str>| {
        Err(Refusal::with_detail(Verdict::InvalidMedia, field, detail))
    };
    let urls = &submission.media_urls;
    if urls.len() > limits.media_urls_max {
        let detail = format!(
            "{} media URLs are given, {} are allowed: give fewer",
            urls.len(),
            limits.media_urls_max
        );
        return refused("media_urls".into(), detail.into());
    }
    for (place, url) in urls.iter().enumerate() {
        if let Err(detail) = check_url(url) {
            return refused(format!("media_urls[{place}]").into(), detail.into());
        }
    }
    let subject = &submission.subject;
    if urls.is_empty() && !subject.is_empty() {
        return refused(
            "subject".into(),
            "only media messages have a subject: add media or remove it".into(),
        );
    }
    if subject.len() > SUBJECT_BYTES_MAX {
        return refused(
            "subject".into(),
            too_long("the subject", subject.len(), SUBJECT_BYTES_MAX).into(),
        );
    }
    if subject.chars().any(char::is_control) {
        return refused(
            "subject".into(),
            "the subject is one line: remove line breaks and control characters".into(),
        );
    }
    Ok(())
}

/// Is this a URL the provider could fetch. Whether anything is there shows only when it tries.
fn check_url(url: &str) -> Result<(), &'static str> {
    if url.len() > MEDIA_URL_BYTES_MAX {
        return Err("the URL is longer than 2000 bytes: shorten it");
    }
    if url
        .chars()
        .any(|character| character.is_control() || character.is_whitespace())
    {
        return Err("the URL holds a blank or a control character: percent-encode it");
    }
    let (scheme, rest) = url
        .split_once("://")
        .ok_or("the URL has no scheme: begin with https:// or http://")?;
    if !scheme.eq_ignore_ascii_case("https") && !scheme.eq_ignore_ascii_case("http") {
        return Err("the URL's scheme is neither http nor https: use one of them");
    }
    let authority = rest.split(['/', '?', '#', '\\']).next().unwrap_or_default();
    let address = authority
        .rsplit_once('@')
        .map_or(authority, |(_, address)| address);
    // An IPv6 address has colons of its own, inside brackets.
    let host = match address.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once(']').map_or("", |(host, _)| host),
        None => address.split(':').next().unwrap_or_default(),
    };
    if host.is_empty() {
        Err("the URL has no host: give it in full")
    } else {
        Ok(())
    }
}

/// Counts the text, after smart encoding where that is asked for and cheaper: replaced text, encoding, segments.
fn check_text(
    submission: &Submission,
    limits: &Limits,
) -> Result<(Option<String>, Encoding, u16), Refusal> {
    let text = &submission.text;
    let is_mms = !submission.media_urls.is_empty();
    if text.contains('\0') {
        return Err(Refusal::new(Verdict::InvalidText, "text"));
    }
    // Blank counts as empty: a handset would show an empty bubble, carriers refuse it, and the segment is paid all the same.
    if !is_mms && is_blank(text) {
        return Err(Refusal::new(Verdict::EmptyContent, "text"));
    }
    let given = measure(text);
    if is_mms {
        // An MMS has no segments to save, so nothing is replaced in it.
        return Ok((None, given.encoding, 1));
    }
    // A replacement may be longer (a tab is seven spaces) or blank (from invisible characters): then the text stays.
    let smart = (submission.smart_encoding && given.encoding == Encoding::Ucs2)
        .then(|| smart_encode(text, SmartTable::Telnyx))
        .flatten()
        .map(|replaced| (measure(&replaced), replaced))
        .filter(|(measured, replaced)| measured.segments <= given.segments && !is_blank(replaced));
    let (measured, replaced_text) = smart.map_or((given, None), |(measured, replaced)| {
        (measured, Some(replaced))
    });
    let segments = u16::try_from(measured.segments).unwrap_or(u16::MAX);
    if segments > limits.segments_max {
        let detail = format!(
            "the text needs {} segments, {} are allowed: shorten it",
            measured.segments, limits.segments_max
        );
        return Err(Refusal::with_detail(Verdict::TextTooLong, "text", detail));
    }
    Ok((replaced_text, measured.encoding, segments))
}

fn is_blank(text: &str) -> bool {
    text.chars().all(char::is_whitespace)
}

/// When it is due and when it expires.
fn check_times(
    submission: &Submission,
    class: Class,
    limits: &Limits,
    now_us: Micros,
) -> Result<(Micros, Micros), Refusal> {
    let schedule_us = match submission.schedule_time {
        None => now_us,
        Some(time) => time.to_micros().ok_or_else(|| {
            Refusal::with_detail(
                Verdict::InvalidScheduleTime,
                "schedule_time",
                "schedule_time is not a valid timestamp: give seconds since 1970 and 0 to 999999999 nanos",
            )
        })?,
    };
    // A time that has passed means now: clocks differ, and a retry comes later than its first try.
    let due_us = schedule_us.max(now_us);
    if due_us.saturating_sub(now_us) > limits.schedule_ahead_max_us {
        let detail = format!(
            "schedule_time lies more than {} ahead: choose an earlier one",
            span(limits.schedule_ahead_max_us)
        );
        return Err(Refusal::with_detail(
            Verdict::InvalidScheduleTime,
            "schedule_time",
            detail,
        ));
    }
    let validity_us = match submission.validity {
        None => limits.validity_default_us[class as usize - 1],
        Some(validity) => validity
            .to_micros()
            .filter(|validity_us| (1..=limits.validity_max_us).contains(validity_us))
            .ok_or_else(|| {
                let detail = format!(
                    "validity is not above 0 and at most {}: choose one in between",
                    span(limits.validity_max_us)
                );
                Refusal::with_detail(Verdict::InvalidValidity, "validity", detail)
            })?,
    };
    Ok((due_us, due_us.saturating_add(validity_us)))
}

/// A time as people say it: in days where it is whole days, else in seconds.
fn span(span_us: Micros) -> String {
    const DAY_S: Micros = 86_400;
    let seconds = span_us / 1_000_000;
    if seconds > 0 && seconds % DAY_S == 0 {
        format!("{} d ({seconds} s)", seconds / DAY_S)
    } else {
        format!("{seconds} s")
    }
}

fn too_long(what: &str, found_bytes: usize, allowed_bytes: usize) -> String {
    format!("{what} has {found_bytes} bytes, {allowed_bytes} are allowed: shorten it")
}
