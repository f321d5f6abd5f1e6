//! gRPC's own framing over HTTP/2: messages with their length, deadlines, statuses, metadata.
//!
//! It unpacks no compressed message: what that costs is for whoever showed a key.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

pub(super) const HEAD_BYTES: usize = 5;
/// A deadline has at most eight digits; of the largest unit that is 11,000 years.
const TIMEOUT_DIGITS_MAX: usize = 8;
const BINARY: &str = "-bin";
/// Headers of HTTP and of gRPC itself, which are no metadata.
const OURS: [&str; 7] = [
    "te",
    "content-type",
    "grpc-timeout",
    "grpc-encoding",
    "grpc-accept-encoding",
    "content-length",
    "host",
];

/// A value of metadata: text, or bytes where the key ends in `-bin` (or the text is none).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Text.
    Text(String),
    /// Bytes.
    Binary(Vec<u8>),
}

/// The beginning of what came of a message.
pub(super) enum Part {
    /// Whole, and whether it is compressed.
    Whole(Bytes, bool),
    /// Longer than is taken: so many bytes.
    TooLong(usize),
    /// Neither compressed nor not.
    Malformed,
    /// There is more to come.
    More,
}

/// Take the first message off what came.
pub(super) fn take(input: &mut BytesMut, bytes_max: usize) -> Part {
    let Some(head) = input.get(..HEAD_BYTES) else {
        return Part::More;
    };
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if length > bytes_max {
        return Part::TooLong(length);
    }
    let compressed = match head[0] {
        0 => false,
        1 => true,
        _ => return Part::Malformed,
    };
    if input.len() < HEAD_BYTES + length {
        return Part::More;
    }
    input.advance(HEAD_BYTES);
    Part::Whole(input.split_to(length).freeze(), compressed)
}

/// A message with its head, not compressed. Longer ones than 4 GiB are never made.
pub(super) fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEAD_BYTES + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(message);
    frame.freeze()
}

/// Microseconds of a `grpc-timeout`; None for what is none.
pub(super) fn timeout_us(value: &[u8]) -> Option<u64> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > TIMEOUT_DIGITS_MAX {
        return None;
    }
    let amount: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    match unit {
        b'H' => Some(amount * 3_600_000_000),
        b'M' => Some(amount * 60_000_000),
        b'S' => Some(amount * 1_000_000),
        b'm' => Some(amount * 1000),
        b'u' => Some(amount),
        b'n' => Some(amount / 1000),
        _ => None,
    }
}

/// What a caller sends beside its request.
pub(super) fn metadata(headers: &HeaderMap) -> Vec<(String, Value)> {
    headers
        .iter()
        .filter(|(name, _)| !OURS.contains(&name.as_str()))
        .map(|(name, value)| (name.as_str().to_owned(), value_of(name, value)))
        .collect()
}

/// Padding is optional in metadata.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

fn value_of(name: &HeaderName, value: &HeaderValue) -> Value {
    if name.as_str().ends_with(BINARY) {
        let decoded = LENIENT.decode(value.as_bytes());
        return Value::Binary(decoded.unwrap_or_else(|_| value.as_bytes().to_vec()));
    }
    text_of(value)
}

/// A value whose key does not end in `-bin`.
pub(super) fn text_of(value: &HeaderValue) -> Value {
    match std::str::from_utf8(value.as_bytes()) {
        Ok(text) => Value::Text(text.to_owned()),
        Err(_) => Value::Binary(value.as_bytes().to_vec()),
    }
}

/// Trailers of a call that ended so. What is no header is left out.
pub(super) fn trailers(code: u32, detail: &str, more: &[(String, Value)]) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2 + more.len());
    trailers.insert("grpc-status", HeaderValue::from(code));
    if !detail.is_empty()
        && let Ok(value) = HeaderValue::try_from(percent_encoded(detail))
    {
        trailers.insert("grpc-message", value);
    }
    for (name, value) in more {
        let text = match value {
            Value::Text(text) => HeaderValue::try_from(text.as_str()),
            Value::Binary(bytes) => HeaderValue::try_from(STANDARD_NO_PAD.encode(bytes)),
        };
        if let (Ok(name), Ok(text)) = (HeaderName::try_from(name.as_str()), text) {
            trailers.append(name, text);
        }
    }
    trailers
}

fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if (b' '..=b'~').contains(&byte) && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String does not fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_read_as_grpc_writes_them() {
        for (text, wanted) in [
            (&b"1S"[..], Some(1_000_000)),
            (b"20m", Some(20_000)),
            (b"7u", Some(7)),
            (b"1500n", Some(1)),
            (b"2M", Some(120_000_000)),
            (b"99999999H", Some(99_999_999 * 3_600_000_000)),
            (b"123456789S", None),
            (b"-1S", None),
            (b"+1S", None),
            (b"S", None),
            (b"1", None),
            (b"1x", None),
            (b"", None),
        ] {
            assert_eq!(timeout_us(text), wanted, "{text:?}");
        }
    }

    #[test]
    fn a_message_comes_out_when_it_is_whole() {
        let frame = framed(b"hello");
        let mut input = BytesMut::new();
        for byte in &frame {
            assert!(matches!(take(&mut input, 5), Part::More));
            input.put_u8(*byte);
        }
        assert!(matches!(take(&mut input.clone(), 4), Part::TooLong(5)));
        assert!(matches!(take(&mut input, 5), Part::Whole(whole, false) if whole == "hello"));
        assert!(input.is_empty());
        let mut strange = BytesMut::from(&b"\x02\0\0\0\0"[..]);
        assert!(matches!(take(&mut strange, 5), Part::Malformed));
    }

    #[test]
    fn statuses_are_written_as_headers_can_be() {
        let more = [
            ("details-bin".to_owned(), Value::Binary(vec![0xff, 0])),
            ("pushback".to_owned(), Value::Text("12".to_owned())),
            ("no header".to_owned(), Value::Text("x".to_owned())),
        ];
        let made = trailers(3, "50 % of \u{e9}", &more);
        let said = |name| made.get(name).map(|value| value.to_str().unwrap());
        assert_eq!(said("grpc-status"), Some("3"));
        assert_eq!(said("grpc-message"), Some("50 %25 of %C3%A9"));
        assert_eq!(said("details-bin"), Some("/wA"));
        assert_eq!(said("pushback"), Some("12"));
        assert_eq!(made.len(), 4);
    }

    #[test]
    fn metadata_is_what_is_not_https_or_grpcs_own() {
        let mut headers = HeaderMap::new();
        headers.insert("te", HeaderValue::from_static("trailers"));
        headers.insert("x-bin", HeaderValue::from_static("/wA="));
        headers.insert("y-bin", HeaderValue::from_static("!!"));
        headers.insert("z", HeaderValue::from_bytes(b"\xff").unwrap());
        headers.insert("authorization", HeaderValue::from_static("Bearer x"));
        let mut found = metadata(&headers);
        found.sort_by(|one, other| one.0.cmp(&other.0));
        let wanted = [
            ("authorization", Value::Text("Bearer x".to_owned())),
            ("x-bin", Value::Binary(vec![0xff, 0])),
            ("y-bin", Value::Binary(b"!!".to_vec())),
            ("z", Value::Binary(vec![0xff])),
        ];
        assert_eq!(found, wanted.map(|(name, value)| (name.to_owned(), value)));
    }
}
