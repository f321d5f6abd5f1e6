//! One call: what came of its requests, what is left of its answers, and how far it is.
//!
//! It decides nothing about other calls of its connection.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::message;

/// The only request of a call comes within it: one of the largest at 300 KB/s. What has come waits in memory.
const REQUEST_US_MAX: u64 = 60_000_000;

/// How a method's requests are handed out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// One, together with those of other calls.
    Submit,
    /// One, with its call.
    Unary,
    /// Each when it has come, behind its call.
    Stream,
}

/// How far a call is.
pub(super) enum Stage {
    /// Nobody ended it.
    Going,
    /// It ends with these trailers, when what was sent has left, or the client was heard.
    Ending(HeaderMap),
    /// Its trailers were sent; its client may not know yet.
    Over,
}

pub(super) struct Call {
    pub respond: SendResponse<Bytes>,
    pub send: Option<SendStream<Bytes>>,
    pub recv: Option<RecvStream>, // until the last request has come
    pub input: BytesMut,
    pub headers: Option<HeaderMap>, // until it is handed out
    pub path: String,
    pub encoding: Option<String>,
    pub kind: Kind,
    pub stage: Stage,
    pub since_us: u64,    // when what is held of it began to be, or the call
    pub deadline_us: u64, // u64::MAX: none
    pub bounded: bool,    // by the server's own maximum, which is the nearer one
    pub heard: bool,      // something of its requests has come
    pub untaken: usize,   // messages handed out and not taken
    pub unreleased: usize,
    pub outbox: VecDeque<Bytes>,
    pub waited_for: bool, // whoever writes waits for room
}

impl Call {
    pub fn new(
        respond: SendResponse<Bytes>,
        recv: RecvStream,
        path: String,
        headers: HeaderMap,
        kind: Kind,
        now_us: u64,
    ) -> Self {
        let deadline_us = headers
            .get("grpc-timeout")
            .and_then(|value| message::timeout_us(value.as_bytes()))
            .map_or(u64::MAX, |timeout_us| now_us.saturating_add(timeout_us));
        let encoding = headers
            .get("grpc-encoding")
            .and_then(|value| value.to_str().ok())
            .map(ToOwned::to_owned);
        Self {
            respond,
            send: None,
            recv: Some(recv),
            input: BytesMut::new(),
            headers: Some(headers),
            path,
            encoding,
            kind,
            stage: Stage::Going,
            since_us: now_us,
            deadline_us,
            bounded: false,
            heard: false,
            untaken: 0,
            unreleased: 0,
            outbox: VecDeque::new(),
            waited_for: false,
        }
    }

    /// Whether it was not handed out yet and has such a header.
    pub fn brings(&self, header: &str) -> bool {
        self.headers
            .as_ref()
            .is_some_and(|headers| headers.contains_key(header))
    }

    /// Whether it was handed out and its handler has not ended it.
    pub fn is_handled(&self) -> bool {
        self.headers.is_none() && matches!(self.stage, Stage::Going)
    }

    /// When it is to be looked at for its time; its only request has to come within its own.
    pub fn due_us(&self) -> u64 {
        if self.headers.is_none() {
            return self.deadline_us;
        }
        self.deadline_us
            .min(self.since_us.saturating_add(REQUEST_US_MAX))
    }

    /// Bytes that wait: of a request for the rest of it, of answers for the client.
    pub fn held_bytes(&self) -> usize {
        self.input.len() + self.outbox.iter().map(Bytes::len).sum::<usize>()
    }

    pub fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Over)
    }

    /// Its trailers, when it is ending; it is nobody's then.
    pub fn take_ending(&mut self) -> Option<HeaderMap> {
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Ending(trailers) => Some(trailers),
            other => {
                self.stage = other;
                None
            }
        }
    }

    /// Send the head of the answer, once.
    pub fn begin(&mut self) -> Result<(), h2::Error> {
        if self.send.is_none() {
            let mut response = head(StatusCode::OK);
            let headers = response.headers_mut();
            headers.insert("content-type", HeaderValue::from_static("application/grpc"));
            headers.insert(
                "grpc-accept-encoding",
                HeaderValue::from_static("identity,deflate,gzip"),
            );
            self.send = Some(self.respond.send_response(response, false)?);
        }
        Ok(())
    }

    /// Send the end of the answer; its head, too, where there was none. An error: the peer is gone, which is told apart.
    pub fn end_now(&mut self, trailers: HeaderMap) {
        if let Some(send) = &mut self.send {
            let _ = send.send_trailers(trailers);
        } else {
            let _ = self.respond.send_response(ended(trailers), true);
        }
    }

    /// Send as much as the windows allow: whether anything was sent, and whether all is.
    ///
    /// The window is looked at each time, and never waited for: `h2` tells of one that opens only whoever waited before.
    pub fn pump(&mut self) -> (bool, bool) {
        let Some(send) = &mut self.send else {
            return (false, self.outbox.is_empty());
        };
        let mut some = false;
        while let Some(front) = self.outbox.front_mut() {
            send.reserve_capacity(front.len());
            let piece = send.capacity().min(front.len());
            if piece == 0 {
                return (some, false);
            }
            if send.send_data(front.split_to(piece), false).is_err() {
                return (some, false); // the peer is gone, which is told apart
            }
            some = true;
            if front.is_empty() {
                self.outbox.pop_front();
            }
        }
        (some, true)
    }

    /// Let the client send on, unless messages wait to be taken.
    pub fn release(&mut self) {
        if self.unreleased > 0 && (self.kind != Kind::Stream || self.is_over() || self.untaken <= 1)
        {
            if let Some(recv) = &mut self.recv {
                // An error: nothing more is expected.
                let _ = recv.flow_control().release_capacity(self.unreleased);
            }
            self.unreleased = 0;
        }
    }
}

/// An answer that is its end.
pub(super) fn ended(mut trailers: HeaderMap) -> Response<()> {
    trailers.insert("content-type", HeaderValue::from_static("application/grpc"));
    let mut response = head(StatusCode::OK);
    *response.headers_mut() = trailers;
    response
}

/// An answer without anything.
pub(super) fn head(status: StatusCode) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    response
}
