//! What waits in the store alone: which accepted messages memory does not take in, and what is to be read back next.
//!
//! It reads no store and holds no message. A *stream* is what memory takes in by order of ids: the messages of a campaign
//! with one class, those of the campaign with an ordering key whatever their class, and those submitted for a later time.
//! Once a message of a stream stays away, all later ones do until reading back has caught up, so that none of a lane or of
//! an ordering key goes before an earlier one of its stream.
//!
//! Who may come in: anyone while less than half of memory is used; above that a stream whose own share is under a quarter
//! of what is free, so that one campaign's backlog always leaves room for the next (dynamic thresholds: Choudhury and
//! Hahne, IEEE/ACM Transactions on Networking 6(2), 1998); CRITICAL while there is any room.

use std::collections::HashMap;

use crate::message::{Class, Held, flags};
use crate::shards::ShardSet;

/// What a stream that was away holds in memory at most: some seconds of the fastest sending, read back in pieces.
const WINDOW_MESSAGES: usize = 16_384;
/// Messages read back at once.
const READ_MESSAGES_MAX: usize = 2_048;
/// Of the free half, the share a stream may take.
const SHARE: usize = 4;

/// What memory takes in by order of ids. Numbers are those of the index `messages_waiting`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum StreamKind {
    /// With an ordering key.
    Ordered = 0,
    /// Of this class, to be sent at once.
    Critical = 1,
    /// Of this class, to be sent at once.
    Transactional = 2,
    /// Of this class, to be sent at once.
    Bulk = 3,
    /// Submitted for a later time, without ordering key.
    Scheduled = 4,
}

impl StreamKind {
    /// Most urgent first: the order of reading back.
    const ALL: [Self; 5] = [
        Self::Critical,
        Self::Ordered,
        Self::Scheduled,
        Self::Transactional,
        Self::Bulk,
    ];

    /// The kind with this number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|&kind| kind as u8 == number)
    }

    fn rank(self) -> usize {
        Self::ALL
            .iter()
            .position(|&kind| kind == self)
            .unwrap_or_default()
    }
}

/// A campaign's messages of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stream {
    /// Key of the campaign.
    pub campaign: u32,
    /// Which of its messages.
    pub kind: StreamKind,
}

impl Stream {
    /// The stream of a message; the same for all its life.
    #[must_use]
    pub fn of(held: &Held) -> Self {
        let kind = if held.flags & flags::ORDERED != 0 {
            StreamKind::Ordered
        } else if held.flags & flags::SCHEDULED != 0 {
            StreamKind::Scheduled
        } else {
            match held.class {
                Class::Critical => StreamKind::Critical,
                Class::Transactional => StreamKind::Transactional,
                Class::Bulk => StreamKind::Bulk,
            }
        };
        Self {
            campaign: held.campaign,
            kind,
        }
    }
}

/// Ids between which messages of a stream may wait in the store alone, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Away {
    /// Whose.
    pub stream: Stream,
    /// Everything below is in memory or beyond waiting.
    pub from: u64,
    /// The last one that stayed away.
    pub upto: u64,
}

/// One piece to read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// What to read.
    pub away: Away,
    /// How many at most.
    pub messages_max: usize,
}

#[derive(Debug, Default)]
struct State {
    /// In memory, those for a later time not counted: they leave by the clock, and must not keep others out.
    held: usize,
    /// First and last id that may be away.
    away: Option<(u64, u64)>,
}

/// Who is in memory and who is not, by stream.
#[derive(Debug)]
pub struct Spill {
    messages_max: usize,
    streams: HashMap<Stream, State>,
    scheduled: usize,
    away: usize,
}

impl Spill {
    /// For a memory of so many messages.
    #[must_use]
    pub fn new(messages_max: usize) -> Self {
        Self {
            messages_max,
            streams: HashMap::new(),
            scheduled: 0,
            away: 0,
        }
    }

    /// Messages for a later time that may still be accepted: half of memory is theirs at most. They wait by time, not by
    /// order of ids, so they never stay away.
    #[must_use]
    pub fn schedule_room(&self) -> usize {
        (self.messages_max / 2).saturating_sub(self.scheduled)
    }

    /// True if a newly accepted message comes into memory, which then holds it; `len` messages are there. Called in the
    /// order of ids.
    pub fn take_in(&mut self, held: &Held, len: usize) -> bool {
        let stream = Stream::of(held);
        let messages_max = self.messages_max;
        let state = self.streams.entry(stream).or_default();
        if let Some((from, upto)) = &mut state.away {
            *from = (*from).min(held.id);
            *upto = (*upto).max(held.id);
            return false;
        }
        let fits = match stream.kind {
            StreamKind::Critical | StreamKind::Scheduled => len < messages_max,
            _ => state.held < share(messages_max, len),
        };
        if fits {
            self.entered(held);
        } else {
            state.away = Some((held.id, held.id));
            self.away += 1;
        }
        fits
    }

    /// A message is in memory now.
    pub fn entered(&mut self, held: &Held) {
        if held.flags & flags::SCHEDULED == 0 {
            self.streams.entry(Stream::of(held)).or_default().held += 1;
        } else {
            self.scheduled += 1;
        }
    }

    /// A message has left memory.
    pub fn left(&mut self, held: &Held) {
        if held.flags & flags::SCHEDULED != 0 {
            self.scheduled = self.scheduled.saturating_sub(1);
            return;
        }
        let stream = Stream::of(held);
        if let Some(state) = self.streams.get_mut(&stream) {
            state.held = state.held.saturating_sub(1);
            if state.held == 0 && state.away.is_none() {
                self.streams.remove(&stream);
            }
        }
    }

    /// For recovery: messages of a stream wait in the store, the first and the last of them with these ids.
    pub fn put_away(&mut self, away: Away) {
        let state = self.streams.entry(away.stream).or_default();
        if state.away.replace((away.from, away.upto)).is_none() {
            self.away += 1;
        }
    }

    /// What these shards have in the store alone is another's to read back. Their messages must have left.
    pub fn disown(&mut self, shards: ShardSet) {
        let away = &mut self.away;
        self.streams.retain(|stream, state| {
            if !shards.has_campaign(stream.campaign) {
                return true;
            }
            *away -= usize::from(state.away.take().is_some());
            state.held > 0
        });
    }

    /// True if anything may be in the store alone.
    #[must_use]
    pub fn is_any_away(&self) -> bool {
        self.away > 0
    }

    /// What may be in the store alone.
    #[must_use]
    pub fn away(&self) -> Vec<Away> {
        let mut away: Vec<Away> = self
            .streams
            .iter()
            .filter_map(|(&stream, state)| {
                state.away.map(|(from, upto)| Away { stream, from, upto })
            })
            .collect();
        away.sort_unstable_by_key(|away| (away.stream.kind.rank(), away.from));
        away
    }

    /// What to read back now, most urgent first, then the oldest; `len` messages are in memory.
    #[must_use]
    pub fn wanted(&self, len: usize) -> Vec<Wanted> {
        if self.away == 0 || len >= self.messages_max {
            return Vec::new();
        }
        let mut free = self.messages_max - len;
        let mut wanted = Vec::new();
        for away in self.away() {
            let held = self.streams[&away.stream].held;
            let window = match away.stream.kind {
                StreamKind::Critical | StreamKind::Scheduled => WINDOW_MESSAGES,
                _ => WINDOW_MESSAGES.min(share(self.messages_max, len)).max(1),
            };
            // Half a window at a time, so that a stream that drains is read in pieces worth reading.
            if held > window / 2 || free == 0 {
                continue;
            }
            let messages_max = (window - held).min(READ_MESSAGES_MAX).min(free);
            if messages_max > 0 {
                free -= messages_max;
                wanted.push(Wanted { away, messages_max });
            }
        }
        wanted
    }

    /// A piece was read: everything of the stream below `next` is in memory or beyond waiting.
    pub fn read_back(&mut self, stream: Stream, next: u64) {
        let Some(state) = self.streams.get_mut(&stream) else {
            return;
        };
        let Some((from, upto)) = &mut state.away else {
            return;
        };
        *from = (*from).max(next);
        if *from <= *upto {
            return;
        }
        state.away = None;
        self.away -= 1;
        if state.held == 0 {
            self.streams.remove(&stream);
        }
    }
}

/// What a stream may hold when `len` messages are in memory.
fn share(messages_max: usize, len: usize) -> usize {
    if len < messages_max / 2 {
        messages_max
    } else {
        (messages_max.saturating_sub(len)).div_ceil(SHARE)
    }
}
