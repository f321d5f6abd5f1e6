//! A webhook's HTTP/1.1 request in the form in which carriers write it: come whole, with one of each header that counts.
//!
//! It refuses nothing. Whatever has another form is `None`, and is read by whoever judges every form there is
//! (`server/webhook_connection.py`); what is `Some` here, that one would read alike.

use httparse::{EMPTY_HEADER, Request, Status};

const HEADERS_MAX: usize = 32;
const PATH: &str = "/webhooks/";
/// Of a request with one of these, more is to be judged.
const OTHER_FORMS: [&str; 5] = [
    "connection",
    "expect",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A provider, and in lower case the headers that sign its webhooks.
#[derive(Debug)]
pub struct Provider {
    /// As the path has it.
    pub name: String,
    /// Header of the signature.
    pub signature: String,
    /// Header of the time that is signed.
    pub timestamp: String,
}

/// What a provider's webhooks may look like.
#[derive(Debug)]
pub struct Form {
    /// Whose are taken.
    pub providers: Vec<Provider>,
    /// Of the request line and all headers.
    pub head_bytes_max: usize,
    /// Of the body.
    pub body_bytes_max: usize,
}

/// A request as it came.
#[derive(Debug, PartialEq, Eq)]
pub struct Plain<'a> {
    /// Its provider's place.
    pub provider: usize,
    /// What follows `?` in the request line.
    pub query: &'a [u8],
    /// As its header has it.
    pub signature: &'a [u8],
    /// As its header has it.
    pub timestamp: &'a [u8],
    /// All of it.
    pub body: &'a [u8],
}

impl Form {
    /// The one request that these bytes are; None when they are more, less or anything else.
    #[must_use]
    pub fn plain<'a>(&self, data: &'a [u8]) -> Option<Plain<'a>> {
        let mut headers = [EMPTY_HEADER; HEADERS_MAX];
        let mut request = Request::new(&mut headers);
        let Ok(Status::Complete(head_bytes)) = request.parse(data) else {
            return None;
        };
        if head_bytes > self.head_bytes_max
            || request.method != Some("POST")
            || request.version != Some(1)
        {
            return None;
        }
        let target = request.path.filter(|path| path.is_ascii())?;
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let name = path.strip_prefix(PATH)?;
        let provider = self.providers.iter().position(|each| each.name == name)?;
        let known = &self.providers[provider];
        let (mut host, mut length, mut signature, mut timestamp) = (None, None, None, None);
        for header in request.headers.iter() {
            let is = |name: &str| header.name.eq_ignore_ascii_case(name);
            let slot = if is("host") {
                &mut host
            } else if is("content-length") {
                &mut length
            } else if is(&known.signature) {
                &mut signature
            } else if is(&known.timestamp) {
                &mut timestamp
            } else if OTHER_FORMS.into_iter().any(is) {
                return None;
            } else {
                continue;
            };
            if slot.replace(header.value).is_some() {
                return None;
            }
        }
        let body = &data[head_bytes..];
        let (signature, timestamp) = (signature?, timestamp?);
        let plain = host.is_some()
            && digits(length?) == Some(body.len())
            && body.len() <= self.body_bytes_max
            && !signature.is_empty()
            && !timestamp.is_empty();
        plain.then_some(Plain {
            provider,
            query: query.as_bytes(),
            signature,
            timestamp,
            body,
        })
    }
}

fn digits(value: &[u8]) -> Option<usize> {
    if value.is_empty() || value.len() > 9 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REQUEST: &str = "POST /webhooks/telnyx?m=1&g=2 HTTP/1.1\r\nHost: x\r\ncontent-type: application/json\r\n\
        Telnyx-Timestamp: 17\r\ntelnyx-signature-ed25519: c2ln\r\nContent-Length: 4\r\n\r\nbody";

    fn form() -> Form {
        Form {
            providers: vec![Provider {
                name: "telnyx".to_owned(),
                signature: "telnyx-signature-ed25519".to_owned(),
                timestamp: "telnyx-timestamp".to_owned(),
            }],
            head_bytes_max: 400,
            body_bytes_max: 10,
        }
    }

    #[test]
    fn an_ordinary_webhook_is_read_raw() {
        let wanted = Plain {
            provider: 0,
            query: b"m=1&g=2",
            signature: b"c2ln",
            timestamp: b"17",
            body: b"body",
        };
        assert_eq!(form().plain(REQUEST.as_bytes()), Some(wanted));
    }

    #[test]
    fn any_other_form_is_left_to_others() {
        for (from, to) in [
            ("POST", "GET"),
            ("HTTP/1.1", "HTTP/1.0"),
            ("telnyx?", "nobody?"),
            ("/webhooks/", "/webhook/"),
            ("m=1", "m=\u{e9}"),
            ("Host: x\r\n", ""),
            ("Host: x\r\n", "Host: x\r\nhost: x\r\n"),
            ("Host: x\r\n", "Host: x\r\nConnection: close\r\n"),
            ("Host: x\r\n", "Host: x\r\nExpect: 100-continue\r\n"),
            ("Host: x\r\n", "Host: x\r\nTransfer-Encoding: chunked\r\n"),
            ("Host: x\r\n", "Host: x\r\ntelnyx-timestamp: 18\r\n"),
            ("Telnyx-Timestamp: 17\r\n", ""),
            (": 17", ":"),
            (": c2ln", ":"),
            ("Length: 4", "Length: 3"),
            ("Length: 4", "Length: 5"),
            ("Length: 4", "Length: +4"),
            ("Length: 4", "Length:"),
            ("Content-Length: 4\r\n", ""),
            ("Length: 4\r\n\r\nbody", "Length: 11\r\n\r\nbody of 11b"),
            ("\r\n\r\nbody", "\r\n"),
            ("application/json", &"x".repeat(400)),
            ("body", "body\r\n"),
        ] {
            let other = REQUEST.replacen(from, to, 1);
            assert_ne!(other, REQUEST);
            assert_eq!(form().plain(other.as_bytes()), None, "{to}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics_and_only_whole_requests_are_taken(
            changes in proptest::collection::vec((any::<u16>(), any::<u8>()), 0..4),
            cut in any::<u16>(),
        ) {
            let mut data = REQUEST.as_bytes().to_vec();
            for (at, byte) in &changes {
                let at = usize::from(*at) % data.len();
                data[at] = *byte;
            }
            if let Some(plain) = form().plain(&data) {
                prop_assert_eq!(plain.body.len(), 4);
            }
            data.truncate(usize::from(cut) % data.len());
            // A cut may have made a shorter length true, but only where a digit was changed.
            if changes.is_empty() {
                prop_assert_eq!(form().plain(&data), None);
            }
        }
    }
}
