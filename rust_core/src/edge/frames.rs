//! Looks at what a peer sends, frame by frame, before `h2` does: which calls it concerns, and whether it is too much.
//!
//! It checks no rule of HTTP/2 (`h2` does) and holds back nothing but a HEADERS frame that has not come whole, which
//! `authority` must see whole.
//!
//! A budget bounds frames that carry next to nothing: what belongs to calls and answers is earned by them, the rest is so many a
//! second. Another one bounds calls given up.

use bytes::{Buf, BytesMut};

use super::authority;

const PREFACE_BYTES: usize = 24;
const HEAD_BYTES: usize = 9;
/// What we let a peer send, the smallest that HTTP/2 has. A longer one is passed on in pieces, and refused by `h2`.
const FRAME_BYTES_MAX: usize = 16_384;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const PING: u8 = 6;
const ACK: u8 = 1;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

/// Of DATA: below it a frame costs more than what it carries. One submission has some hundred bytes.
const SHORT_BYTES: usize = 256;

const SECOND_US: u64 = 1_000_000;
/// Frames of nothing a second: ten times what one busy client's settings, pings and windows come to between calls.
const IDLE_A_SECOND: u64 = 1000;
/// Of a burst, and what calls can save up for their windows.
const IDLE_MAX: u64 = 20_000;
/// A call and its answer come with a window's opening or two, a reset, an acknowledgement.
pub(super) const EARNED_BY_A_FRAME: u64 = 8;
/// Clients may ping every 30 s; a little less, or an early timer counts as abuse.
const PING_US: u64 = 25 * SECOND_US;
/// As gRPC has it: a third one that comes early ends the connection.
const EARLY_PINGS_MAX: u32 = 2;

/// What fills with time, up to a second's worth or a bound, and is spent.
struct Budget {
    left: u64, // in millionths
    a_second: u64,
    max: u64,
    at_us: u64,
}

impl Budget {
    fn new(a_second: u64, max: u64, now_us: u64) -> Self {
        Self {
            left: max * SECOND_US,
            a_second,
            max,
            at_us: now_us,
        }
    }

    fn pass(&mut self, now_us: u64) {
        let passed_us = now_us.saturating_sub(self.at_us);
        self.at_us = self.at_us.max(now_us);
        self.left = (self
            .left
            .saturating_add(passed_us.saturating_mul(self.a_second)))
        .min(self.max * SECOND_US);
    }

    fn earn(&mut self, count: u64) {
        self.left = (self.left + count * SECOND_US).min(self.max * SECOND_US);
    }

    /// False when there is none left.
    fn spend(&mut self) -> bool {
        let enough = self.left >= SECOND_US;
        self.left = self.left.saturating_sub(SECOND_US);
        enough
    }
}

/// Why a connection is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Abuse {
    /// Frames of nothing, or calls given up, beyond the bound.
    Flood,
    /// Pings beyond what keeps a connection alive.
    Pings,
}

/// What is to be looked at when a frame has come whole; before, `h2` knows nothing of it.
enum Concern {
    Nothing,
    Touched(u32),
    Reset(u32),
}

/// What came in a turn.
#[derive(Default)]
pub(super) struct Seen {
    /// Calls with more of their request, or reset; neighbours differ.
    pub touched: Vec<u32>,
    /// Calls that the peer gave up.
    pub reset: Vec<u32>,
}

/// The state between two turns.
pub(super) struct Frames {
    waiting: BytesMut,
    passing: usize,
    concerns: Concern, // of the frame that passes
    idle: Budget,
    given_up: Budget,
    pinged_us: Option<u64>,
    early_pings: u32,
    leaving: usize,        // bytes of the frame that goes out
    leaving_head: Vec<u8>, // the beginning of the next one
}

impl Frames {
    pub fn new(given_up_a_second: u64, now_us: u64) -> Self {
        Self {
            waiting: BytesMut::new(),
            passing: PREFACE_BYTES,
            concerns: Concern::Nothing,
            idle: Budget::new(IDLE_A_SECOND, IDLE_MAX, now_us),
            given_up: Budget::new(given_up_a_second, given_up_a_second, now_us),
            pinged_us: None,
            early_pings: 0,
            leaving: 0,
            leaving_head: Vec::with_capacity(HEAD_BYTES),
        }
    }

    /// An answer of so many bytes is on its way: the windows and acknowledgements of its frames are earned.
    pub fn answered(&mut self, bytes: usize) {
        let frames = 1 + bytes / FRAME_BYTES_MAX;
        self.idle.earn(EARNED_BY_A_FRAME * frames as u64);
    }

    /// Look at what goes out: whoever is sent answers may ping, as gRPC's clients do to learn what their way holds.
    pub fn sent(&mut self, mut output: &[u8]) {
        loop {
            let payload = self.leaving.min(output.len());
            self.leaving -= payload;
            output = &output[payload..];
            let wanted = (HEAD_BYTES - self.leaving_head.len()).min(output.len());
            if wanted == 0 {
                return;
            }
            self.leaving_head.extend_from_slice(&output[..wanted]);
            output = &output[wanted..];
            if let [high, middle, low, kind, ..] = self.leaving_head[..]
                && self.leaving_head.len() == HEAD_BYTES
            {
                self.leaving =
                    usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
                self.leaving_head.clear();
                if kind == DATA || kind == HEADERS {
                    self.early_pings = 0;
                    self.pinged_us = None;
                }
            }
        }
    }

    /// Take what came, and move what may go on to the end of `ready`.
    pub fn pass(
        &mut self,
        data: &[u8],
        ready: &mut BytesMut,
        seen: &mut Seen,
        now_us: u64,
    ) -> Result<(), Abuse> {
        self.idle.pass(now_us);
        self.given_up.pass(now_us);
        self.waiting.extend_from_slice(data);
        let mut at = 0;
        let length = self.waiting.len();
        while at < length {
            if self.passing > 0 {
                let piece = self.passing.min(length - at);
                self.passing -= piece;
                at += piece;
                if self.passing == 0 {
                    self.passed(seen);
                }
                continue;
            }
            let Some(head) = self.waiting.get(at..at + HEAD_BYTES) else {
                break;
            };
            let payload =
                usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let (kind, flags) = (head[3], head[4]);
            let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
            if kind == HEADERS && payload <= FRAME_BYTES_MAX {
                let body = at + HEAD_BYTES..at + HEAD_BYTES + payload;
                let Some(body) = self.waiting.get_mut(body) else {
                    break; // the rest is on its way
                };
                if let Some(block) = block_of(body, flags) {
                    authority::mask(block);
                }
            }
            self.concerns = self.judge(kind, flags, stream, payload, now_us)?;
            at += HEAD_BYTES;
            self.passing = payload;
            if payload == 0 {
                self.passed(seen);
            }
        }
        if ready.is_empty() {
            *ready = self.waiting.split_to(at);
        } else {
            ready.extend_from_slice(&self.waiting[..at]);
            self.waiting.advance(at);
        }
        Ok(())
    }

    fn passed(&mut self, seen: &mut Seen) {
        match std::mem::replace(&mut self.concerns, Concern::Nothing) {
            Concern::Touched(stream) if seen.touched.last() != Some(&stream) => {
                seen.touched.push(stream);
            }
            Concern::Reset(stream) => seen.reset.push(stream),
            Concern::Touched(_) | Concern::Nothing => {}
        }
    }

    fn judge(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: usize,
        now_us: u64,
    ) -> Result<Concern, Abuse> {
        let concern = match kind {
            HEADERS => {
                self.idle.earn(EARNED_BY_A_FRAME);
                return Ok(Concern::Touched(stream));
            }
            DATA if payload >= SHORT_BYTES => return Ok(Concern::Touched(stream)),
            RST_STREAM => {
                if !self.given_up.spend() {
                    return Err(Abuse::Flood);
                }
                Concern::Reset(stream)
            }
            PING if flags & ACK == 0 => {
                self.ping(now_us)?;
                Concern::Nothing
            }
            // A short request, or its end: earned by its call, or its answer. Or what breaks a rule, for which `h2` resets the call.
            _ if stream > 0 => Concern::Touched(stream),
            _ => Concern::Nothing,
        };
        if self.idle.spend() {
            Ok(concern)
        } else {
            Err(Abuse::Flood)
        }
    }

    fn ping(&mut self, now_us: u64) -> Result<(), Abuse> {
        let early = self
            .pinged_us
            .is_some_and(|before_us| now_us.saturating_sub(before_us) < PING_US);
        self.pinged_us = Some(now_us);
        self.early_pings += u32::from(early);
        if self.early_pings > EARLY_PINGS_MAX {
            return Err(Abuse::Pings);
        }
        Ok(())
    }
}

/// The header block in a HEADERS frame's payload; None when its padding contradicts its length.
fn block_of(payload: &mut [u8], flags: u8) -> Option<&mut [u8]> {
    let mut begins = 0;
    let mut ends = payload.len();
    if flags & PADDED != 0 {
        ends = ends.checked_sub(usize::from(*payload.first()?))?;
        begins = 1;
    }
    if flags & PRIORITY != 0 {
        begins += 5;
    }
    payload.get_mut(begins..ends)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        [&head, payload].concat()
    }

    fn opened() -> Frames {
        let mut frames = Frames::new(4, 0);
        let mut ready = BytesMut::new();
        frames
            .pass(&[0; PREFACE_BYTES], &mut ready, &mut Seen::default(), 0)
            .unwrap();
        frames
    }

    #[test]
    fn in_whatever_pieces_it_comes_it_goes_on_alike_and_masked() {
        let block = [&[0x41, 7][..], b"a:1,b:2", &[0x82]].concat();
        let padded = [&[2, 0, 0, 0, 0, 16][..], &block, &[0, 0]].concat();
        let said = [
            frame(HEADERS, 4, 1, &block),
            frame(DATA, 0, 1, &[7; 40]),
            frame(HEADERS, 4 | PADDED | PRIORITY, 3, &padded),
            frame(RST_STREAM, 0, 3, &[0; 4]),
        ]
        .concat();
        for piece in [1, 2, 7, 10, 1000] {
            let mut frames = opened();
            let (mut ready, mut seen) = (BytesMut::new(), Seen::default());
            for part in said.chunks(piece) {
                frames.pass(part, &mut ready, &mut seen, 0).unwrap();
            }
            assert_eq!(ready.len(), said.len());
            assert_eq!(
                ready.windows(7).filter(|part| part == b"a.1.b.2").count(),
                2
            );
            assert_eq!(
                (&seen.touched[..], &seen.reset[..]),
                (&[1, 3][..], &[3][..])
            );
        }
    }

    #[test]
    fn calls_given_up_beyond_the_bound_are_a_flood_and_a_second_later_are_not() {
        let (mut frames, mut ready, mut seen) = (opened(), BytesMut::new(), Seen::default());
        let reset = frame(RST_STREAM, 0, 1, &[0; 4]);
        frames
            .pass(&reset.repeat(4), &mut ready, &mut seen, 0)
            .unwrap();
        let again = frames.pass(&reset, &mut ready, &mut seen, 100);
        assert_eq!(again, Err(Abuse::Flood));
        let mut frames = opened();
        for second in 0..10 {
            frames
                .pass(&reset.repeat(4), &mut ready, &mut seen, second * SECOND_US)
                .unwrap();
        }
    }

    #[test]
    fn frames_of_nothing_are_bounded_and_those_of_calls_are_earned() {
        let window = frame(8, 0, 0, &[0, 0, 0, 1]);
        let (mut frames, mut ready, mut seen) = (opened(), BytesMut::new(), Seen::default());
        let flood = window.repeat(usize::try_from(IDLE_MAX).unwrap() + 1);
        assert_eq!(
            frames.pass(&flood, &mut ready, &mut seen, 0),
            Err(Abuse::Flood)
        );
        let mut frames = opened();
        let call = [frame(HEADERS, 4, 1, &[0x82]), window.repeat(8)].concat();
        for _ in 0..IDLE_MAX {
            frames.pass(&call, &mut ready, &mut seen, 0).unwrap();
        }
    }

    #[test]
    fn the_third_early_ping_is_one_too_many_unless_answers_were_sent() {
        let ping = frame(PING, 0, 0, &[0; 8]);
        let (mut frames, mut ready, mut seen) = (opened(), BytesMut::new(), Seen::default());
        for turn in 0..10 {
            frames
                .pass(&ping, &mut ready, &mut seen, turn * PING_US)
                .unwrap();
        }
        let now_us = 10 * PING_US;
        frames
            .pass(&ping.repeat(3), &mut ready, &mut seen, now_us)
            .unwrap();
        frames.sent(&frame(PING, ACK, 0, &[0; 8]));
        for piece in frame(DATA, 0, 1, &[0; 40]).chunks(7) {
            frames.sent(piece);
        }
        frames
            .pass(&ping.repeat(3), &mut ready, &mut seen, now_us)
            .unwrap();
        frames.sent(&frame(PING, ACK, 0, &[0; 8]).repeat(3));
        let more = frames.pass(&ping, &mut ready, &mut seen, now_us);
        assert_eq!(more, Err(Abuse::Pings));
    }
}
