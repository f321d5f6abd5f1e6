//! Telnyx v2: the bytes of a send, the meaning of an answer, the meaning of a webhook. No I/O.
//!
//! Source: `POST /v2/messages`, webhooks of API version 2 and the error tables of Telnyx's documentation, 2026-04-10.

mod answer;
mod render;
mod signatures;
mod webhook;

pub use answer::{classify, lookup_receipt};
pub use render::{RENDERER, Recipe, SendConfig, callback_mac, render_lookup, render_send};
pub use webhook::{
    InboundText, RawWebhook, ReceivedWebhook, WebhookKeys, WebhookVerdict, read_webhooks,
};

/// What our table says about a code of Telnyx.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeClass {
    /// T-Mobile's daily cap.
    CapDay,
    /// AT&T's per-minute cap.
    CapMinute,
    /// The profile's daily spend limit.
    CapSpend,
    /// Too fast.
    Rate,
    /// Refused for now.
    Retry,
    /// Refused for a while.
    Hold,
    /// Credentials, funds or account.
    Account,
    /// The recipient has opted out at the provider.
    OptedOut,
    /// Refused for good.
    Final,
}

static TABLE: &str = include_str!("../../data/telnyx_errors.tsv");

/// The class of a code; a code that is not in the table is `None`.
#[must_use]
pub fn class_of(code: &str) -> Option<CodeClass> {
    use std::collections::HashMap;
    use std::sync::OnceLock;
    static CLASSES: OnceLock<HashMap<&'static str, CodeClass>> = OnceLock::new();
    CLASSES
        .get_or_init(|| {
            TABLE
                .lines()
                .skip(1)
                .filter_map(|line| {
                    let mut cells = line.split('\t');
                    let code = cells.next()?;
                    let class = match cells.nth(1)? {
                        "cap_day" => CodeClass::CapDay,
                        "cap_minute" => CodeClass::CapMinute,
                        "cap_spend" => CodeClass::CapSpend,
                        "rate" => CodeClass::Rate,
                        "retry" => CodeClass::Retry,
                        "hold" => CodeClass::Hold,
                        "auth" => CodeClass::Account,
                        "opted_out" => CodeClass::OptedOut,
                        _ => CodeClass::Final,
                    };
                    Some((code, class))
                })
                .collect()
        })
        .get(code)
        .copied()
}
