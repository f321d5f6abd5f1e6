//! Targets: each takes any bytes and holds the core to what it says of itself. A panic is a finding.

mod choices;
mod life;
mod schedule;
mod state_machine;
mod submission;

use std::sync::Arc;

use _core::admit::{Call, CallKind, Door, Limits, admit, held_from_row};
use _core::consent::Consent;
use _core::ids::{IdMint, parse_message_name, parse_short_id, short_id};
use _core::outcome::Phase;
use _core::phone::{Phone, parse_inbound_address, parse_nanp};
use _core::registry::{Campaign, CampaignState, OnUnknown, Registry, Tenant};
use _core::state::State;
use _core::telnyx::{
    RawWebhook, WebhookKeys, WebhookVerdict, classify, lookup_receipt, read_webhooks,
};
use _core::text::{
    Encoding, NationalShift, ReferenceSize, UserDataHeader, decode_septets, encode_septets,
    measure, opt_keyword, pack, split, unpack,
};
use _core::view::{StoredRow, history_events, message};
use bytes::Bytes;
use ed25519_dalek::{Signer as _, SigningKey};
pub use schedule::schedule;
pub use state_machine::state_machine;
pub use submission::submission;

const NOW_US: i64 = 1_790_000_000_000_000;
const ID: u64 = 360_428_367_398_309_895;

/// What a target does with its bytes.
pub type Target = fn(&[u8]);

/// Name and body of each target.
pub const ALL: [(&str, Target); 11] = [
    ("request", request),
    ("text", text),
    ("phone", phone),
    ("webhook", webhook),
    ("answer", answer),
    ("stored_row", stored_row),
    ("ids", ids),
    ("septets", septets),
    ("state_machine", state_machine),
    ("schedule", schedule),
    ("submission", submission),
];

fn registry() -> Registry {
    let tenants = vec![Tenant {
        key: 1,
        active: true,
    }];
    let campaigns = [(10, "a"), (11, "b")].map(|(key, id)| Campaign {
        key,
        tenant: 1,
        brand: 7,
        id: id.to_owned(),
        state: CampaignState::Active,
        on_unknown: OnUnknown::ByClass,
        messaging_profile: String::new(),
        numbers: vec![12_025_550_100, 12_025_550_101],
    });
    Registry::new(1, tenants, campaigns.to_vec(), vec![])
}

/// A call as it comes off the wire: every submission gets exactly one answer, and what is accepted can be loaded again.
pub fn request(data: &[u8]) {
    let Some((&kind, rest)) = data.split_first() else {
        return;
    };
    let kind = match kind % 3 {
        0 => CallKind::Unary,
        1 => CallKind::Batch,
        _ => CallKind::Stream,
    };
    let Some(mut mint) = IdMint::new(1, 0) else {
        return;
    };
    let call = Call {
        kind,
        tenant: 1,
        request: Bytes::copy_from_slice(rest),
    };
    let admission = admit(
        &[call],
        &registry(),
        &Consent::default(),
        &Limits::default(),
        &mut mint,
        NOW_US,
        Door::open(10),
    );
    for accepted in admission.accepted() {
        let held = &accepted.held;
        assert!(held.id > 0 && held.segments > 0);
        assert!(held.expires_us > NOW_US && held.due_us <= held.expires_us);
        let row = StoredRow {
            id: held.id,
            tenant: held.tenant,
            campaign: held.campaign,
            sender: held.sender,
            recipient: held.recipient,
            class: held.class as u8,
            kind: held.kind as u8,
            encoding: held.encoding,
            segments: held.segments,
            seq: held.seq,
            generation: held.generation,
            flags: held.flags,
            due_us: held.due_us,
            expires_us: held.expires_us,
            ..StoredRow::default()
        };
        let again = held_from_row(&row, Arc::clone(&held.body)).expect("stored rows are sound");
        assert_eq!(&again, held);
    }
    assert_eq!(admission.replies().len(), 1);
}

/// A text: its parts, put together, are the text; their count is what was measured; no part is over-long.
pub fn text(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let _ = opt_keyword(text);
    let measured = measure(text);
    match split(text, ReferenceSize::Bits8) {
        Ok(parts) => {
            assert_eq!(
                parts.len(),
                usize::try_from(measured.segments).unwrap_or(0).max(1)
            );
            let joined: String = parts.iter().map(|part| part.text).collect();
            assert_eq!(joined, text);
        }
        Err(_) => assert!(measured.segments > 1),
    }
    let ucs2 = text.encode_utf16().count();
    if measured.encoding == Encoding::Ucs2 && ucs2 <= 70 {
        assert_eq!(measured.segments, 1);
    }
}

/// A number: what parses is eleven digits that begin with 1, and parses to itself again.
pub fn phone(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let _ = parse_inbound_address(&text);
    if let Ok(phone) = parse_nanp(&text) {
        let digits = phone.digits();
        assert!((12_000_000_000..=19_999_999_999).contains(&digits));
        assert_eq!(
            parse_nanp(&format!("+{digits}")).map(Phone::digits),
            Ok(digits)
        );
        assert!(!phone.masked().contains(&digits.to_string()));
    }
}

/// A webhook: unsigned it is refused whatever it says; signed, any body is read or refused, never believed without a MAC.
pub fn webhook(data: &[u8]) {
    let signing = SigningKey::from_bytes(&[7; 32]);
    let keys = WebhookKeys {
        public: vec![signing.verifying_key()],
        mac: vec![("k".to_owned(), vec![1; 32])],
        window_us: 300_000_000,
    };
    let (query, body) = data.split_at(data.len().min(data.first().map_or(0, |&at| at as usize)));
    let stamp = (NOW_US / 1_000_000).to_string();
    let timestamp = stamp.as_bytes();
    let raw = |signature| RawWebhook {
        query,
        signature,
        timestamp,
        body,
    };
    let unsigned = raw(data);
    let mut signed = stamp.clone().into_bytes();
    signed.push(b'|');
    signed.extend_from_slice(body);
    let signature = base64::Engine::encode(
        &base64::engine::general_purpose::STANDARD,
        signing.sign(&signed).to_bytes(),
    );
    let good = raw(signature.as_bytes());
    // Alone, among their like, and beside each other: what is believed of one is nobody else's matter.
    for webhooks in [
        vec![good],
        vec![unsigned],
        vec![good; 5],
        vec![good, good, unsigned, good, good],
    ] {
        let read = read_webhooks(&webhooks, &keys, NOW_US);
        for (webhook, read) in webhooks.iter().zip(&read) {
            let believed = read.verdict != WebhookVerdict::BadSignature;
            assert_eq!(believed, webhook.signature == signature.as_bytes());
            // The MAC key is 32 ones: no input holds a MAC made with it, so no receipt names a message of ours.
            if let WebhookVerdict::Receipt { message, .. } = read.verdict {
                assert_eq!(message, 0);
            }
        }
    }
    // A replay outside the window is refused, however well signed.
    let late_us = NOW_US + 301_000_000;
    let late = read_webhooks(&[good], &keys, late_us);
    assert_eq!(late[0].verdict, WebhookVerdict::Stale);
}

/// A provider's answer: any status and body gives an outcome; without a whole answer there is no receipt.
pub fn answer(data: &[u8]) {
    let (head, body) = data.split_at(data.len().min(3));
    let byte = |at: usize| head.get(at).copied().unwrap_or(0);
    let phase = [
        Phase::NotConnected,
        Phase::NotFlushed,
        Phase::Answered,
        Phase::Reset,
        Phase::Timeout,
        Phase::Malformed,
    ][usize::from(byte(0) % 6)];
    let status = u16::from(byte(1)) * 3;
    let _ = classify(phase, status, None, body, u16::from(byte(2) % 4));
    if lookup_receipt(phase, status, body, 1).is_some() {
        assert!(phase == Phase::Answered && (200..300).contains(&status));
    }
}

/// A row as a damaged store may hold it: read or refused.
pub fn stored_row(data: &[u8]) {
    let (head, record) = data.split_at(data.len().min(8));
    let byte = |at: usize| head.get(at).copied().unwrap_or(0);
    let row = StoredRow {
        id: ID,
        tenant: 1,
        campaign: 10,
        sender: 12_025_550_100,
        recipient: 12_025_550_123,
        class: byte(0),
        kind: byte(1),
        encoding: byte(2),
        segments: u16::from(byte(3)),
        seq: u32::from(byte(4)),
        flags: u32::from(byte(5)),
        ..StoredRow::default()
    };
    let _ = held_from_row(&row, Arc::from(record));
    let _ = message(&row, record, "a");
    let _ = history_events(record, "m", "a", "");
}

/// Names: what parses is written the same again, but for the case of its letters.
pub fn ids(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Some(id) = parse_short_id(&text) {
        assert_eq!(short_id(id), text.to_ascii_lowercase());
    }
    let _ = parse_message_name(&text);
    for pair in data.windows(2) {
        let (from, to) = (
            State::from_number(pair[0].into()),
            State::from_number(pair[1].into()),
        );
        if let (Some(from), Some(to)) = (from, to) {
            // A final state changes into final states only, or is taken up again by hand.
            if from.is_terminal() && from.may_become(to) {
                assert!(to.is_terminal() || from == State::Dead);
            }
        }
    }
}

/// Septets: packing and unpacking give back what was packed; any octets unpack or are refused.
pub fn septets(data: &[u8]) {
    let Some((&fill, rest)) = data.split_first() else {
        return;
    };
    let fill = fill % 7;
    let septets: Vec<u8> = rest.iter().map(|octet| octet & 0x7f).collect();
    if let Ok(packed) = pack(&septets, fill) {
        assert_eq!(unpack(&packed, fill, septets.len()).as_ref(), Ok(&septets));
    }
    let _ = unpack(rest, fill, rest.len());
    let _ = UserDataHeader::parse(rest);
    let decoded = decode_septets(&septets, NationalShift::NONE);
    if let Ok(encoded) = encode_septets(&decoded, NationalShift::NONE) {
        assert_eq!(decode_septets(&encoded, NationalShift::NONE), decoded);
    }
}
