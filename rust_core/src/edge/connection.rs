//! One connection: its calls, and `h2` polled by hand.
//!
//! Bounds, each for one connection: calls at once and header bytes (`h2` holds them), request bytes that are not handed out
//! ([`HELD_BYTES_MAX`]), a stream's messages that nobody took (a window of [`STREAM_WINDOW`] and one more), answers that the
//! peer takes no part of (one message a call; whoever writes waits for [`Event::Room`]).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use h2::server::{Builder, Handshake, SendResponse};
use h2::{Ping, PingPong, Reason, RecvStream};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};

use super::call::{self, Call, Kind, Stage, head};
use super::frames::{Abuse, Frames, Seen};
use super::message::{self, Part, Value};
use super::pipe::Pipe;

/// What a call's client may send unasked.
const STREAM_WINDOW: u32 = 256 * 1024;
/// All calls of a connection together: no call that nobody reads keeps another one waiting.
const CONNECTION_WINDOW: u32 = 128 * STREAM_WINDOW;
/// Requests that have not come whole: two of the largest.
const HELD_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Of one call's headers, counted as HTTP/2 does: what gRPC's own servers take.
const HEADER_BYTES_MAX: usize = 16 * 1024;
/// Up to here more is refused with gRPC's status, which `h2` cannot: it answers 431, and ends the connection beyond four
/// times as many.
const HEADER_BYTES_REFUSED_MAX: u32 = 64 * 1024;
/// Calls that break a rule, or are beyond the bound, are reset: so many of a connection, before `h2` ends it.
const LOCAL_RESETS_MAX: usize = 1024;

/// A call's only answer up to here waits in `h2` for its client; a longer one is counted while it waits.
const SHORT_BYTES: usize = 4096;

/// How long the end of a stream waits for the first that its client writes.
const COURTESY_US: u64 = 50_000;
/// How long a stream's client may take to see that its call is over.
const LINGER_US: u64 = 1_000_000;

const INTERNAL: u32 = 13;
const RESOURCE_EXHAUSTED: u32 = 8;
const DEADLINE_EXCEEDED: u32 = 4;
const OK: u32 = 0;

const HOLDS_TOO_MUCH: &str =
    "the requests of all connections that have not come whole are too many bytes";

const CREDENTIALS: [&str; 2] = ["authorization", "x-api-key"];

/// What all connections of a server have in common.
#[derive(Debug)]
pub struct Rules {
    /// The method whose calls are handed out together.
    pub submit: String,
    /// Other methods that take one request; any other is handed out before its requests.
    pub unary: HashSet<String>,
    /// Of one message, as it comes.
    pub message_bytes_max: usize,
    /// Calls at once.
    pub calls_max: u32,
    /// Calls given up in a second.
    pub given_up_a_second: u64,
    /// How long a call of `submit` may take, whatever its client says; microseconds.
    pub submit_us_max: u64,
    /// Whether a call of `submit` that brings a trace goes its own way: its handler reads what the others' drop.
    pub traced: bool,
}

/// What a turn brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// Calls of `submit` with the same credentials, each with its request.
    Submits {
        /// Their credentials.
        metadata: Vec<(String, Value)>,
        /// The calls.
        streams: Vec<u32>,
        /// Their requests, in the same order.
        requests: Vec<Bytes>,
        /// When each is to end.
        deadlines_us: Vec<u64>,
    },
    /// Another call; a unary one with its request.
    Call {
        /// Names the call from now on.
        stream: u32,
        /// The method.
        path: String,
        /// What came with it.
        metadata: Vec<(String, Value)>,
        /// When its client gives up.
        deadline_us: Option<u64>,
        /// The request, and how it is compressed.
        request: Option<(Bytes, Option<String>)>,
    },
    /// One more request of a call, and how it is compressed.
    Message(u32, Bytes, Option<String>),
    /// The last request has come.
    HalfClosed(u32),
    /// The client gave the call up.
    Gone(u32),
    /// The call's deadline passed, and its client was told so.
    Late(u32),
    /// A call of `submit` took as long as the server lets one; its client waits for an answer.
    TooLong(u32),
    /// What was sent has left.
    Room(u32),
    /// The connection ended, with all its calls; `true`: it was a flood.
    Ended(bool),
}

enum State {
    Opening(Box<Handshake<Pipe, Bytes>>),
    Open(Box<h2::server::Connection<Pipe, Bytes>>),
    Ended,
}

/// One connection.
pub struct Connection {
    rules: Arc<Rules>,
    pipe: Pipe,
    state: State,
    ping: Option<PingPong>,
    pinged: bool,
    frames: Frames,
    seen: Seen,
    calls: HashMap<u32, Call>,
    blocked: BTreeSet<u32>,
    held_bytes: usize,
    due_us: u64,
    now_us: u64,
    events: Vec<Event>,
    leaving: bool,
    told: bool,
}

fn context() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

impl Connection {
    /// A connection that has said nothing.
    #[must_use]
    pub fn new(rules: Arc<Rules>, given_up_a_second: u64, now_us: u64) -> Self {
        let pipe = Pipe::default();
        let given_up = usize::try_from(given_up_a_second).unwrap_or(usize::MAX);
        let handshake = Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEADER_BYTES_REFUSED_MAX)
            .max_concurrent_streams(rules.calls_max)
            .max_pending_accept_reset_streams(given_up)
            .max_local_error_reset_streams(Some(LOCAL_RESETS_MAX))
            .handshake(pipe.clone());
        Self {
            frames: Frames::new(given_up_a_second, now_us),
            rules,
            pipe,
            state: State::Opening(Box::new(handshake)),
            ping: None,
            pinged: false,
            seen: Seen::default(),
            calls: HashMap::new(),
            blocked: BTreeSet::new(),
            held_bytes: 0,
            due_us: u64::MAX,
            now_us,
            events: Vec::new(),
            leaving: false,
            told: false,
        }
    }

    /// Take what came from the peer.
    pub fn receive(&mut self, data: &[u8], now_us: u64) -> Vec<Event> {
        let passed = {
            let mut both = self.pipe.lock();
            self.frames
                .pass(data, &mut both.inbound, &mut self.seen, now_us)
        };
        match passed {
            Ok(()) => self.turn(now_us),
            Err(abuse) => {
                self.end_abuse(abuse);
                std::mem::take(&mut self.events)
            }
        }
    }

    /// Go on with whatever can: after answers, when the transport takes bytes again.
    pub fn turn(&mut self, now_us: u64) -> Vec<Event> {
        self.now_us = now_us;
        loop {
            self.accept(now_us);
            let read = self.read_touched(now_us);
            let sent = self.send_blocked();
            if !(read || sent) || matches!(self.state, State::Ended) {
                break;
            }
        }
        if self.calls.is_empty() {
            self.due_us = u64::MAX;
        }
        std::mem::take(&mut self.events)
    }

    /// What is to be sent to the peer.
    pub fn output(&mut self) -> BytesMut {
        let output = self.pipe.lock().outbound.split();
        self.frames.sent(&output);
        output
    }

    /// Whether the transport takes nothing for now.
    pub fn set_full(&mut self, full: bool) {
        self.pipe.lock().full = full;
    }

    /// The earliest deadline, or an earlier time; `u64::MAX` without any.
    #[must_use]
    pub fn due_us(&self) -> u64 {
        self.due_us
    }

    /// Calls that are open.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.calls.len()
    }

    /// Bytes of requests that have not come whole, and of answers that their clients do not take.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        let blocked = self
            .blocked
            .iter()
            .filter_map(|stream| self.calls.get(stream));
        let answers: usize = blocked
            .flat_map(|call| call.outbox.iter().map(Bytes::len))
            .sum();
        self.held_bytes + answers
    }

    /// Since when the oldest of these waits; `u64::MAX` without any.
    #[must_use]
    pub fn held_since_us(&self) -> u64 {
        let held = self.calls.values().filter(|call| call.held_bytes() > 0);
        held.map(|call| call.since_us).min().unwrap_or(u64::MAX)
    }

    /// End these calls: all connections together hold more than they may.
    pub fn refuse_held(&mut self, now_us: u64) -> Vec<Event> {
        let held = self.calls.iter().filter(|(_, call)| call.held_bytes() > 0);
        let held: Vec<u32> = held.map(|(stream, _)| *stream).collect();
        for stream in held {
            match self.calls.get_mut(&stream) {
                Some(call) if !call.outbox.is_empty() => {
                    // No status passes by what waits.
                    call.respond.send_reset(Reason::ENHANCE_YOUR_CALM);
                    self.gone(stream);
                }
                _ => self.refuse(stream, RESOURCE_EXHAUSTED, HOLDS_TOO_MUCH),
            }
        }
        self.turn(now_us)
    }

    /// Whether the peer has said what HTTP/2 begins with.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    /// End the calls whose time is up.
    pub fn expire(&mut self, now_us: u64) -> Vec<Event> {
        let late: Vec<u32> = self
            .calls
            .iter()
            .filter(|(_, call)| call.due_us() <= now_us)
            .map(|(stream, _)| *stream)
            .collect();
        for stream in late {
            let Some(call) = self.calls.get_mut(&stream) else {
                continue;
            };
            let passed = call.deadline_us <= now_us;
            call.deadline_us = u64::MAX;
            if call.is_over() {
                self.drop_call(stream);
                continue;
            }
            if call.outbox.is_empty()
                && let Some(trailers) = call.take_ending()
            {
                call.end_now(trailers);
                self.close(stream);
                continue;
            }
            if call.is_handled() && call.bounded {
                self.events.push(Event::TooLong(stream));
                continue;
            }
            if call.is_handled() {
                self.events.push(Event::Late(stream));
            }
            call.heard = true;
            call.outbox.clear();
            call.stage = Stage::Going;
            let detail = if passed {
                "Deadline Exceeded"
            } else {
                "the request did not come whole in time"
            };
            self.end(stream, DEADLINE_EXCEEDED, detail, &[]);
        }
        self.due_us = self
            .calls
            .values()
            .map(Call::due_us)
            .min()
            .unwrap_or(u64::MAX);
        self.turn(now_us)
    }

    /// Send a message; returns whether the call has to wait for [`Event::Room`] before the next one.
    pub fn send(&mut self, stream: u32, message: &[u8]) -> bool {
        let Some(call) = self.calls.get_mut(&stream) else {
            return false;
        };
        if !call.is_handled() || call.begin().is_err() {
            return false;
        }
        call.outbox.push_back(message::framed(message));
        self.frames.answered(message.len());
        if call.pump().1 {
            return false;
        }
        call.waited_for = true;
        self.block(stream);
        true
    }

    fn block(&mut self, stream: u32) {
        if self.blocked.insert(stream)
            && let Some(call) = self.calls.get_mut(&stream)
        {
            call.since_us = self.now_us;
        }
    }

    /// Answer a call by one message and its end.
    pub fn finish(&mut self, stream: u32, message: &[u8]) {
        if let Some(call) = self.calls.get_mut(&stream)
            && call.begin().is_ok()
            && let Some(send) = &mut call.send
        {
            let frame = message::framed(message);
            if frame.len() <= SHORT_BYTES {
                // An error: the peer is gone, which the next turn tells.
                let _ = send.send_data(frame, false);
            } else {
                call.outbox.push_back(frame);
                if !call.pump().1 {
                    self.block(stream);
                }
            }
        }
        self.end_behind(message.len(), stream, message::trailers(OK, "", &[]));
    }

    /// End a call, behind what was sent.
    pub fn end(&mut self, stream: u32, code: u32, detail: &str, metadata: &[(String, Value)]) {
        self.end_behind(0, stream, message::trailers(code, detail, metadata));
    }

    /// With an answer of so many bytes just before.
    fn end_behind(&mut self, bytes: usize, stream: u32, trailers: HeaderMap) {
        let Some(call) = self.calls.get_mut(&stream).filter(|call| !call.is_over()) else {
            return;
        };
        self.frames.answered(bytes);
        if !call.outbox.is_empty() {
            call.stage = Stage::Ending(trailers);
            return;
        }
        if call.kind == Kind::Stream && !call.heard && call.recv.is_some() {
            // gRPC's Python client that is about to write its first request fails at that, and never looks at trailers.
            call.stage = Stage::Ending(trailers);
            call.deadline_us = self.now_us.saturating_add(COURTESY_US);
            self.due_us = self.due_us.min(call.deadline_us);
            return;
        }
        call.end_now(trailers);
        self.close(stream);
    }
    /// A call whose trailers were sent is gone, but for the requests of a stream that may be on their way: a reset that
    /// overtakes the client's own end fails what it writes, and it may never look at the trailers.
    fn close(&mut self, stream: u32) {
        let lingers_until_us = self.now_us.saturating_add(LINGER_US);
        match self.calls.get_mut(&stream) {
            Some(call) if call.kind == Kind::Stream && call.recv.is_some() => {
                call.stage = Stage::Over;
                call.deadline_us = lingers_until_us;
                self.due_us = self.due_us.min(lingers_until_us);
                self.seen.touched.push(stream);
            }
            _ => self.drop_call(stream),
        }
    }

    /// A message of a call was taken; the client may send another one.
    pub fn took(&mut self, stream: u32) {
        if let Some(call) = self.calls.get_mut(&stream) {
            call.untaken = call.untaken.saturating_sub(1);
            call.release();
        }
    }

    /// Ask the peer whether it is there; `false`: it has not answered the last time.
    pub fn ping(&mut self) -> bool {
        if self.pinged {
            return false;
        }
        if let Some(ping) = &mut self.ping {
            self.pinged = ping.send_ping(Ping::opaque()).is_ok();
        }
        true
    }

    /// Take no more calls; the connection ends when those that are open have.
    pub fn leave(&mut self) {
        self.leaving = true;
        if let State::Open(connection) = &mut self.state {
            connection.graceful_shutdown();
        }
    }

    fn accept(&mut self, now_us: u64) {
        if let State::Opening(handshake) = &mut self.state {
            match Pin::new(handshake.as_mut()).poll(&mut context()) {
                Poll::Ready(Ok(mut connection)) => {
                    self.ping = connection.ping_pong();
                    if self.leaving {
                        connection.graceful_shutdown();
                    }
                    self.state = State::Open(Box::new(connection));
                }
                Poll::Ready(Err(error)) => self.end_connection(is_flood(&error)),
                Poll::Pending => return,
            }
        }
        loop {
            let State::Open(connection) = &mut self.state else {
                return;
            };
            match connection.poll_accept(&mut context()) {
                Poll::Ready(Some(Ok((request, respond)))) => self.open(request, respond, now_us),
                Poll::Ready(Some(Err(error))) => self.end_connection(is_flood(&error)),
                Poll::Ready(None) => self.end_connection(false),
                Poll::Pending => break,
            }
        }
        if self.pinged
            && let Some(ping) = &mut self.ping
            && ping.poll_pong(&mut context()).is_ready()
        {
            self.pinged = false;
        }
    }

    fn open(
        &mut self,
        request: Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
        now_us: u64,
    ) {
        let stream = respond.stream_id().as_u32();
        let (parts, recv) = request.into_parts();
        let content = parts.headers.get("content-type").map(HeaderValue::as_bytes);
        if parts.method != Method::POST
            || !content.is_some_and(|kind| kind.starts_with(b"application/grpc"))
        {
            let status = if parts.method == Method::POST {
                StatusCode::UNSUPPORTED_MEDIA_TYPE
            } else {
                StatusCode::METHOD_NOT_ALLOWED
            };
            let _ = respond.send_response(head(status), true);
            return;
        }
        let header_bytes = header_bytes(&parts);
        if header_bytes > HEADER_BYTES_MAX {
            let detail = format!(
                "received metadata size exceeds hard limit ({header_bytes} vs. {HEADER_BYTES_MAX})"
            );
            let trailers = message::trailers(RESOURCE_EXHAUSTED, &detail, &[]);
            let _ = respond.send_response(call::ended(trailers), true);
            return;
        }
        let timeout = parts.headers.get("grpc-timeout");
        if timeout.is_some_and(|value| message::timeout_us(value.as_bytes()).is_none()) {
            let trailers =
                message::trailers(INTERNAL, "Error parsing 'grpc-timeout' metadata", &[]);
            let _ = respond.send_response(call::ended(trailers), true);
            return;
        }
        // With a query there is no such method.
        let path = parts.uri.path_and_query().map_or("", PathAndQuery::as_str);
        let path = path.to_owned();
        let kind = if path == self.rules.submit {
            Kind::Submit
        } else if self.rules.unary.contains(&path) {
            Kind::Unary
        } else {
            Kind::Stream
        };
        let mut call = Call::new(respond, recv, path, parts.headers, kind, now_us);
        if kind == Kind::Stream {
            self.events.push(handed(stream, &mut call, None));
        }
        self.due_us = self.due_us.min(call.due_us());
        self.calls.insert(stream, call);
        self.seen.touched.push(stream);
    }

    /// Whether something was released, which `h2` has to tell the peer.
    fn read_touched(&mut self, now_us: u64) -> bool {
        if self.seen.touched.is_empty() && self.seen.reset.is_empty() {
            return false;
        }
        let seen = std::mem::take(&mut self.seen);
        for stream in &seen.touched {
            self.read(*stream, now_us);
        }
        for stream in &seen.reset {
            self.gone(*stream);
        }
        // Kept waiting, `h2` has not read to the end: what they have may come out in a later turn only.
        let waited = std::mem::take(&mut self.pipe.lock().waited);
        if waited {
            self.seen = seen;
        }
        !waited
    }

    fn read(&mut self, stream: u32, now_us: u64) {
        let Some(call) = self.calls.get_mut(&stream) else {
            return;
        };
        let held_before = call.input.len();
        if held_before == 0 {
            call.since_us = now_us;
        }
        let mut ended = false;
        while let Some(recv) = &mut call.recv {
            match recv.poll_data(&mut context()) {
                Poll::Ready(Some(Ok(data))) => {
                    call.heard = true;
                    call.unreleased += data.len();
                    if matches!(call.stage, Stage::Going) {
                        call.input.extend_from_slice(&data);
                    }
                }
                Poll::Ready(Some(Err(_))) => {
                    self.gone(stream);
                    return;
                }
                Poll::Ready(None) => {
                    ended = true;
                    call.heard = true;
                    break;
                }
                Poll::Pending => break,
            }
        }
        if call.outbox.is_empty()
            && call.heard
            && let Some(trailers) = call.take_ending()
        {
            call.end_now(trailers);
            self.close(stream);
            return;
        }
        if call.is_over() {
            call.release();
            if ended {
                self.drop_call(stream);
            }
            return;
        }
        let refused = self.hand_out(stream, now_us);
        let Some(call) = self.calls.get_mut(&stream) else {
            return;
        };
        self.held_bytes = (self.held_bytes + call.input.len()).saturating_sub(held_before);
        call.release();
        let refused = refused.or_else(|| {
            if self.held_bytes > HELD_BYTES_MAX {
                let detail =
                    "the requests of this connection that have not come whole are too many bytes";
                return Some((RESOURCE_EXHAUSTED, detail.to_owned()));
            }
            if !ended {
                return None;
            }
            call.recv = None;
            if !call.input.is_empty() || (call.kind != Kind::Stream && call.headers.is_some()) {
                return Some((INTERNAL, "the request did not come whole".to_owned()));
            }
            if call.kind == Kind::Stream {
                self.events.push(Event::HalfClosed(stream));
            }
            None
        });
        if let Some((code, detail)) = refused {
            self.refuse(stream, code, &detail);
        }
    }

    /// Hand out what came whole; returns why the call is to be refused.
    fn hand_out(&mut self, stream: u32, now_us: u64) -> Option<(u32, String)> {
        let bytes_max = self.rules.message_bytes_max;
        let call = self.calls.get_mut(&stream)?;
        loop {
            let (message, compressed) = match message::take(&mut call.input, bytes_max) {
                Part::More => return None,
                Part::TooLong(length) => {
                    let detail = format!(
                        "SERVER: Received message larger than max ({length} vs. {bytes_max})"
                    );
                    return Some((RESOURCE_EXHAUSTED, detail));
                }
                Part::Malformed => {
                    return Some((INTERNAL, "a message begins as none does".to_owned()));
                }
                Part::Whole(message, compressed) => (message, compressed),
            };
            call.since_us = now_us;
            let encoding = compressed.then(|| call.encoding.clone().unwrap_or_default());
            call.untaken += 1;
            if call.kind == Kind::Stream {
                self.events.push(Event::Message(stream, message, encoding));
            } else if call.headers.is_none() {
                return Some((INTERNAL, "a method of one request was sent two".to_owned()));
            } else if call.kind == Kind::Submit
                && encoding.is_none()
                && call.deadline_us > now_us
                && !(self.rules.traced && call.brings(TRACE))
            {
                let bound_us = now_us.saturating_add(self.rules.submit_us_max);
                hand_submit(&mut self.events, stream, call, message, bound_us);
                self.due_us = self.due_us.min(call.deadline_us);
            } else {
                call.kind = Kind::Unary;
                self.events
                    .push(handed(stream, call, Some((message, encoding))));
            }
        }
    }

    /// End a call by ourselves.
    fn refuse(&mut self, stream: u32, code: u32, detail: &str) {
        if let Some(call) = self.calls.get_mut(&stream) {
            if call.is_handled() {
                self.events.push(Event::Gone(stream));
            }
            call.outbox.clear();
            let held = std::mem::take(&mut call.input);
            self.held_bytes = self.held_bytes.saturating_sub(held.len());
        }
        self.end(stream, code, detail, &[]);
    }

    fn gone(&mut self, stream: u32) {
        if let Some(call) = self.calls.get(&stream) {
            if call.is_handled() {
                self.events.push(Event::Gone(stream));
            }
            self.drop_call(stream);
        }
    }

    fn drop_call(&mut self, stream: u32) {
        self.blocked.remove(&stream);
        if let Some(call) = self.calls.remove(&stream) {
            self.held_bytes = self.held_bytes.saturating_sub(call.input.len());
        }
    }

    /// Whether anything was sent. Each is asked for its window anew: one may have opened at any time since.
    fn send_blocked(&mut self) -> bool {
        let mut sent_any = false;
        for stream in self.blocked.clone() {
            let Some(call) = self.calls.get_mut(&stream) else {
                continue;
            };
            let (sent, all) = call.pump();
            sent_any |= sent;
            if !all {
                continue;
            }
            self.blocked.remove(&stream);
            if std::mem::take(&mut call.waited_for) && call.is_handled() {
                self.events.push(Event::Room(stream));
            }
            if let Some(trailers) = call.take_ending() {
                call.end_now(trailers);
                self.close(stream);
                sent_any = true;
            }
        }
        sent_any
    }

    fn end_abuse(&mut self, abuse: Abuse) {
        if abuse == Abuse::Pings {
            // gRPC's clients ping less often when they are told so in these words, which `h2` cannot send.
            let mut both = self.pipe.lock();
            if !both.full {
                both.outbound.extend_from_slice(TOO_MANY_PINGS);
            }
        }
        self.end_connection(abuse == Abuse::Flood);
    }

    fn end_connection(&mut self, flood: bool) {
        self.state = State::Ended;
        self.ping = None;
        self.calls.clear();
        self.blocked.clear();
        self.held_bytes = 0;
        self.due_us = u64::MAX;
        if !self.told {
            self.told = true;
            self.events.push(Event::Ended(flood));
        }
    }
}

/// GOAWAY with `ENHANCE_YOUR_CALM` and gRPC's word for it. No stream above the highest was taken up by mistake: all end.
const TOO_MANY_PINGS: &[u8] = b"\0\0\x16\x07\0\0\0\0\0\x7f\xff\xff\xff\0\0\0\x0btoo_many_pings";

/// Names the caller's trace (W3C Trace Context).
const TRACE: &str = "traceparent";

/// A field's bytes beside its name and value (RFC 9113, 10.5.1).
const FIELD_BYTES: usize = 32;

fn header_bytes(parts: &Parts) -> usize {
    let fields = parts.headers.iter();
    let fields: usize = fields
        .map(|(name, value)| name.as_str().len() + value.len() + FIELD_BYTES)
        .sum();
    let path = parts
        .uri
        .path_and_query()
        .map_or(0, |path| path.as_str().len());
    fields + path + FIELD_BYTES
}

fn is_flood(error: &h2::Error) -> bool {
    error.is_library() && error.reason() == Some(Reason::ENHANCE_YOUR_CALM)
}

fn handed(stream: u32, call: &mut Call, request: Option<(Bytes, Option<String>)>) -> Event {
    let headers = call.headers.take().unwrap_or_default();
    Event::Call {
        stream,
        path: call.path.clone(),
        metadata: message::metadata(&headers),
        deadline_us: (call.deadline_us != u64::MAX).then_some(call.deadline_us),
        request,
    }
}

/// With the calls before it, when they show the same credentials.
fn hand_submit(
    events: &mut Vec<Event>,
    stream: u32,
    call: &mut Call,
    request: Bytes,
    bound_us: u64,
) {
    let headers = call.headers.take().unwrap_or_default();
    // A client's own deadline ends the call; past the server's, it is told.
    call.bounded = call.deadline_us > bound_us;
    call.deadline_us = call.deadline_us.min(bound_us);
    let shown: Vec<(String, Value)> = CREDENTIALS
        .iter()
        .flat_map(|name| headers.get_all(*name).iter().map(|value| (*name, value)))
        .map(|(name, value)| ((*name).to_owned(), message::text_of(value)))
        .collect();
    if let Some(Event::Submits {
        metadata,
        streams: calls,
        requests,
        deadlines_us,
    }) = events.last_mut()
        && *metadata == shown
    {
        calls.push(stream);
        requests.push(request);
        deadlines_us.push(call.deadline_us);
        return;
    }
    events.push(Event::Submits {
        metadata: shown,
        streams: vec![stream],
        requests: vec![request],
        deadlines_us: vec![call.deadline_us],
    });
}
