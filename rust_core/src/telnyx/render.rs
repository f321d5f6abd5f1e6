//! The bytes of a send and of a look-up. Within a generation the body is the same to the byte, whatever the configuration
//! became meanwhile: everything it depends on is the stored record, the campaign's fixed profile and the recipe.

use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::ids::short_id;
use crate::message::{Held, Kind};
use crate::wire::Submission;

/// Rises when the same inputs would give other bytes.
pub const RENDERER: u32 = 1;

/// What the bytes of a generation depend on beside the message; stored before the first attempt that uses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// Key of its row.
    pub key: u32,
    /// Base of the callback URL, no slash at the end.
    pub callback_base: String,
    /// Name of the MAC key.
    pub mac_key_name: String,
    /// The MAC key.
    pub mac_key: Vec<u8>,
}

/// What the request head depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendConfig {
    /// Path before `/messages`, such as `/v2`.
    pub path_prefix: String,
    /// Host header.
    pub host: String,
    /// Bearer token.
    pub api_key: String,
}

/// The MAC of a callback URL: HMAC-SHA-256 over `telnyx|<id>|<generation>`, 16 bytes in hex.
#[must_use]
pub fn callback_mac(key: &[u8], id: u64, generation: u16) -> String {
    // HMAC takes keys of any length: this cannot fail.
    let Ok(mut mac) = <Hmac<Sha256> as Mac>::new_from_slice(key) else {
        return String::new();
    };
    mac.update(b"telnyx|");
    mac.update(short_id(id).as_bytes());
    mac.update(b"|");
    mac.update(generation.to_string().as_bytes());
    let tag = mac.finalize().into_bytes();
    let mut hex = String::with_capacity(32);
    for byte in &tag[..16] {
        use std::fmt::Write as _;
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

fn json_text(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(if out.is_empty() { b"{" } else { b"," });
    out.push(b'"');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    // Writing a string to a Vec cannot fail.
    let _ = serde_json::to_writer(&mut *out, value);
}

/// The body of a send.
#[must_use]
pub fn render_body(
    held: &Held,
    submission: &Submission,
    messaging_profile: &str,
    recipe: &Recipe,
) -> Vec<u8> {
    let mut body = Vec::with_capacity(384 + submission.text.len());
    json_text(&mut body, "from", &format!("+{}", held.sender));
    json_text(&mut body, "to", &format!("+{}", held.recipient));
    if !submission.text.is_empty() {
        json_text(&mut body, "text", &submission.text);
    }
    if held.kind == Kind::Mms {
        if !submission.subject.is_empty() {
            json_text(&mut body, "subject", &submission.subject);
        }
        body.extend_from_slice(b",\"media_urls\":");
        let _ = serde_json::to_writer(&mut body, &submission.media_urls);
        json_text(&mut body, "type", "MMS");
    } else {
        json_text(&mut body, "type", "SMS");
    }
    // Explicit, so that no setting of the profile replaces characters.
    json_text(
        &mut body,
        "encoding",
        if held.encoding == 2 { "ucs2" } else { "gsm7" },
    );
    if !messaging_profile.is_empty() {
        json_text(&mut body, "messaging_profile_id", messaging_profile);
    }
    let url = format!(
        "{}/webhooks/telnyx?m={}&g={}&k={}&s={}",
        recipe.callback_base,
        short_id(held.id),
        held.generation,
        recipe.mac_key_name,
        callback_mac(&recipe.mac_key, held.id, held.generation)
    );
    json_text(&mut body, "webhook_url", &url);
    body.push(b'}');
    body
}

/// The whole request of a send, head and body.
#[must_use]
pub fn render_send(
    held: &Held,
    submission: &Submission,
    messaging_profile: &str,
    recipe: &Recipe,
    config: &SendConfig,
) -> Vec<u8> {
    let body = render_body(held, submission, messaging_profile, recipe);
    let mut request = format!(
        "POST {}/messages HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
         idempotency-key: {}:{}\r\ncontent-length: {}\r\n\r\n",
        config.path_prefix,
        config.host,
        config.api_key,
        short_id(held.id),
        held.generation,
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(&body);
    request
}

/// The whole request of a look-up.
#[must_use]
pub fn render_lookup(provider_id: &str, config: &SendConfig) -> Vec<u8> {
    let safe: String = provider_id
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
        .collect();
    format!(
        "GET {}/messages/{safe} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\n\r\n",
        config.path_prefix, config.host, config.api_key
    )
    .into_bytes()
}
