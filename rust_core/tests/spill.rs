//! What memory does not take in: a model of store and memory, driven by random arrivals, departures and reading back.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use _core::message::{Class, Held, Kind, flags};
use _core::spill::{Away, Spill, Stream, StreamKind};
use proptest::prelude::*;

fn held(id: u64, campaign: u32, class: Class, flags: u32) -> Held {
    Held {
        id,
        tenant: 1,
        campaign,
        sender: 12_025_550_100,
        recipient: 12_025_550_123,
        class,
        kind: Kind::Sms,
        encoding: 1,
        segments: 1,
        seq: 1,
        attempt: 0,
        generation: 1,
        counted: 0,
        flags,
        due_us: 0,
        expires_us: 1,
        ordering: u64::from(flags & flags::ORDERED),
        recipe: 0,
        body: Arc::from(&[][..]),
    }
}

fn bulk(id: u64, campaign: u32) -> Held {
    held(id, campaign, Class::Bulk, 0)
}

#[test]
fn half_of_memory_is_anyones_and_of_the_rest_a_quarter() {
    let mut spill = Spill::new(100);
    let mut len = 0;
    for id in 1..=200 {
        len += usize::from(spill.take_in(&bulk(id, 1), len));
    }
    assert_eq!(len, 50, "the first backlog stops at half");
    for id in 201..=300 {
        len += usize::from(spill.take_in(&bulk(id, 2), len));
    }
    assert_eq!(
        len, 60,
        "the next takes what is a quarter of the rest when it has it"
    );
    assert!(
        spill.take_in(&bulk(301, 3), len),
        "and leaves room for another"
    );
    for id in 302..=400 {
        len += usize::from(spill.take_in(&held(id, 1, Class::Critical, 0), len));
    }
    assert_eq!(len, 100, "urgent ones use what is left");
    assert!(!spill.take_in(&held(401, 9, Class::Critical, 0), len));
}

#[test]
fn the_kind_of_a_stream_is_settled_at_acceptance() {
    let kind = |class, flags| Stream::of(&held(1, 1, class, flags)).kind;
    assert_eq!(kind(Class::Critical, 0), StreamKind::Critical);
    assert_eq!(kind(Class::Transactional, 0), StreamKind::Transactional);
    assert_eq!(kind(Class::Bulk, 0), StreamKind::Bulk);
    assert_eq!(kind(Class::Bulk, flags::SCHEDULED), StreamKind::Scheduled);
    assert_eq!(
        kind(Class::Critical, flags::SCHEDULED | flags::ORDERED),
        StreamKind::Ordered
    );
    assert_eq!(
        kind(Class::Critical, flags::MAYBE_SENT),
        StreamKind::Critical
    );
}

#[test]
fn scheduled_messages_get_half_of_memory_and_never_keep_a_class_out() {
    let mut spill = Spill::new(8);
    for id in 1..=4 {
        assert_eq!(spill.schedule_room(), 5 - usize::try_from(id).unwrap());
        assert!(spill.take_in(&held(id, 1, Class::Bulk, flags::SCHEDULED), 0));
    }
    assert_eq!(spill.schedule_room(), 0);
    assert!(spill.take_in(&bulk(5, 1), 4));
    spill.left(&held(1, 1, Class::Bulk, flags::SCHEDULED));
    assert_eq!(spill.schedule_room(), 1);
}

#[test]
fn urgent_ones_are_read_back_first_and_a_piece_that_ends_clears_the_stream() {
    let mut spill = Spill::new(100);
    for (kind, from) in [
        (StreamKind::Bulk, 1),
        (StreamKind::Critical, 50),
        (StreamKind::Ordered, 20),
    ] {
        let stream = Stream { campaign: 1, kind };
        spill.put_away(Away {
            stream,
            from,
            upto: 99,
        });
    }
    let kinds = |spill: &Spill| -> Vec<StreamKind> {
        let wanted = spill.wanted(0);
        wanted.iter().map(|one| one.away.stream.kind).collect()
    };
    // The first piece takes all that is free.
    assert_eq!(kinds(&spill), [StreamKind::Critical]);
    assert_eq!(spill.wanted(100), []);
    let critical = Stream {
        campaign: 1,
        kind: StreamKind::Critical,
    };
    spill.read_back(critical, 100);
    assert_eq!(kinds(&spill), [StreamKind::Ordered]);
    // A later one of a stream that came home is taken in at once.
    assert!(spill.take_in(&held(100, 1, Class::Critical, 0), 0));
    assert!(!spill.take_in(&bulk(101, 1), 0));
    assert_eq!(spill.away().last().map(|away| away.upto), Some(101));
}

#[derive(Clone, Debug)]
enum Step {
    Accept {
        campaign: u32,
        class: Class,
        ordered: bool,
        scheduled: bool,
        count: u64,
    },
    /// The message at this place of memory leaves, or one of the store alone is cancelled.
    Leave(usize),
    Cancel(usize),
    Refill,
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let class = prop_oneof![
        Just(Class::Critical),
        Just(Class::Transactional),
        Just(Class::Bulk)
    ];
    let accept = (
        1_u32..4,
        class,
        prop::bool::weighted(0.3),
        prop::bool::weighted(0.1),
        1_u64..20,
    )
        .prop_map(
            |(campaign, class, ordered, scheduled, count)| Step::Accept {
                campaign,
                class,
                ordered,
                scheduled,
                count,
            },
        );
    let step = prop_oneof![
        6 => accept,
        8 => (0_usize..64).prop_map(Step::Leave),
        1 => (0_usize..64).prop_map(Step::Cancel),
        4 => Just(Step::Refill),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..120)
}

const MEMORY: usize = 24;

/// Store: all that waits, by stream. Memory: what is there, in the order of coming in.
#[derive(Default)]
struct Model {
    store: BTreeMap<u64, Held>,
    memory: Vec<Held>,
    last_of: HashMap<Stream, u64>,
    left: BTreeSet<u64>,
}

impl Model {
    fn bring_in(&mut self, held: &Held) {
        let stream = Stream::of(held);
        let last = self.last_of.insert(stream, held.id).unwrap_or(0);
        assert!(
            last < held.id,
            "{stream:?}: {} came in after {last}",
            held.id
        );
        self.memory.push(held.clone());
    }

    fn refill(&mut self, spill: &mut Spill) {
        for wanted in spill.wanted(self.memory.len()) {
            let away = wanted.away;
            let rows: Vec<Held> = self
                .store
                .range(away.from..=away.upto)
                .map(|(_, held)| held.clone())
                .filter(|held| Stream::of(held) == away.stream)
                .take(wanted.messages_max)
                .collect();
            let next = match rows.last() {
                Some(last) if rows.len() == wanted.messages_max => last.id + 1,
                _ => away.upto + 1,
            };
            for held in &rows {
                spill.entered(held);
                self.bring_in(held);
            }
            spill.read_back(away.stream, next);
            assert!(self.memory.len() <= MEMORY);
        }
    }

    fn restart(&mut self, spill: &mut Spill) {
        *spill = Spill::new(MEMORY);
        self.memory.clear();
        self.last_of.clear();
        let mut bounds: HashMap<Stream, (u64, u64)> = HashMap::new();
        for held in self.store.values() {
            let ends = bounds.entry(Stream::of(held)).or_insert((held.id, held.id));
            ends.1 = held.id;
        }
        for (stream, (from, upto)) in bounds {
            spill.put_away(Away { stream, from, upto });
        }
    }

    fn leave(&mut self, spill: &mut Spill, place: usize) {
        if self.memory.is_empty() {
            return;
        }
        let held = self.memory.remove(place % self.memory.len());
        spill.left(&held);
        self.store.remove(&held.id);
        assert!(self.left.insert(held.id), "{} left twice", held.id);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn each_message_comes_in_once_in_the_order_of_its_stream_and_memory_is_never_exceeded(steps in steps()) {
        let (mut spill, mut model) = (Spill::new(MEMORY), Model::default());
        let mut id = 0;
        for step in steps {
            match step {
                Step::Accept { campaign, class, ordered, scheduled, count } => {
                    for _ in 0..count {
                        if scheduled && spill.schedule_room() == 0 {
                            break;
                        }
                        id += 1;
                        let bits = u32::from(ordered) * flags::ORDERED + u32::from(scheduled) * flags::SCHEDULED;
                        let held = held(id, campaign, class, bits);
                        model.store.insert(id, held.clone());
                        if spill.take_in(&held, model.memory.len()) {
                            model.bring_in(&held);
                        }
                        prop_assert!(model.memory.len() <= MEMORY);
                    }
                }
                Step::Leave(place) => model.leave(&mut spill, place),
                Step::Cancel(place) => {
                    let inside: BTreeSet<u64> = model.memory.iter().map(|held| held.id).collect();
                    let alone: Vec<u64> = model.store.keys().filter(|id| !inside.contains(id)).copied().collect();
                    if !alone.is_empty() {
                        model.store.remove(&alone[place % alone.len()]);
                    }
                }
                Step::Refill => model.refill(&mut spill),
                Step::Restart => model.restart(&mut spill),
            }
            let inside: BTreeSet<u64> = model.memory.iter().map(|held| held.id).collect();
            for held in model.store.values().filter(|held| !inside.contains(&held.id)) {
                let found = spill.away().into_iter().any(|away| {
                    away.stream == Stream::of(held) && away.from <= held.id && held.id <= away.upto
                });
                prop_assert!(found, "{} waits in the store and nobody knows", held.id);
            }
        }
        // Nothing comes in any more: all goes out.
        for _ in 0..10_000 {
            model.refill(&mut spill);
            if model.memory.is_empty() {
                break;
            }
            model.leave(&mut spill, 0);
        }
        prop_assert!(model.store.is_empty(), "{:?} never came in", model.store.keys());
        model.refill(&mut spill);
        prop_assert!(!spill.is_any_away());
    }
}
