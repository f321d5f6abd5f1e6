//! A fixed piece of work for each thing that is counted, for a tool that counts instructions a function (callgrind).
//!
//! It measures nothing and proves nothing. Run it with `make bench-instructions`. It prints, a line each, how many items a
//! function of `work` handled; what is prepared lies outside of them. No input depends on time, chance or the machine. What
//! remains is the seed of std's hash tables: it moves a count by less than a hundredth.

mod admitting;
mod scheduling;

use std::hint::black_box;

use _core::admit::{Door, Limits};
use _core::consent::Consent;
use _core::ids::{EPOCH_US, IdMint};
use _core::quota::Bucket;
use _core::settle::Fate;
use scheduling::{BATCH_MESSAGES, START_US, batch, full};

const TEXTS: u32 = 200;
const GROUPS: u32 = 4;
const DECISIONS: u32 = 20_000;
const MINUTE_US: u64 = 60_000_000;
const WAITING: u64 = 5_000;
/// After the first so many rounds every place in memory was used once.
const WARM_ROUNDS: u64 = 10;
const ROUNDS: u64 = 10;
const PLAIN: &str =
    "Your order is on its way and arrives today between two and four in the afternoon";

/// What is counted, a function each. None is inlined, and no two have the same body (the compiler makes one of those), or
/// they would not be told apart.
mod work {
    use std::hint::black_box;

    use _core::admit::{Admission, Call, Door, Limits};
    use _core::consent::Consent;
    use _core::ids::IdMint;
    use _core::message::{Held, Micros};
    use _core::quota::Bucket;
    use _core::registry::Registry;
    use _core::schedule::{Popped, Scheduler};
    use _core::settle::Fate;
    use _core::text::{SmartTable, measure, smart_encode};

    #[inline(never)]
    pub fn segment_gsm7(text: &str) -> bool {
        measure(text).segments == 1
    }

    #[inline(never)]
    pub fn segment_ucs2(text: &str) -> bool {
        measure(text).segments == 2
    }

    #[inline(never)]
    pub fn smart_encoding(text: &str) -> Option<String> {
        smart_encode(text, SmartTable::Telnyx)
    }

    #[inline(never)]
    pub fn admit(
        calls: &[Call],
        registry: &Registry,
        consent: &Consent,
        limits: &Limits,
        mint: &mut IdMint,
        now_us: Micros,
        door: Door<'_>,
    ) -> Admission {
        _core::admit::admit(calls, registry, consent, limits, mint, now_us, door)
    }

    #[inline(never)]
    pub fn answer(admission: &Admission) -> usize {
        black_box(admission.first_events()).len() + black_box(admission.replies()).len()
    }

    #[inline(never)]
    pub fn schedule_push(scheduler: &mut Scheduler, messages: Vec<Held>, now_us: Micros) -> bool {
        scheduler.push(messages, now_us).is_empty()
    }

    #[inline(never)]
    pub fn schedule_pop(
        scheduler: &mut Scheduler,
        now_us: Micros,
        mono_us: Micros,
        room: usize,
    ) -> Popped {
        scheduler.pop(now_us, mono_us, room)
    }

    #[inline(never)]
    pub fn schedule_settled(scheduler: &mut Scheduler, id: u64, fate: Fate) {
        scheduler.settled(id, fate);
    }

    #[inline(never)]
    pub fn quota_passed(bucket: &mut Bucket, mono_us: Micros) -> bool {
        bucket.take(1, mono_us).is_ok()
    }

    #[inline(never)]
    pub fn quota_refused(bucket: &mut Bucket, mono_us: Micros) -> bool {
        bucket.take(1, mono_us).is_err()
    }
}

fn told(name: &str, items: u64) {
    println!("{{\"function\":\"{name}\",\"items\":{items}}}");
}

fn texts() {
    let cyrillic = PLAIN.replacen("order", "\u{43e}rder", 1);
    let curly = PLAIN.replacen("order", "\u{201c}order\u{201d}", 1);
    for _ in 0..TEXTS {
        assert!(work::segment_gsm7(black_box(PLAIN)));
        assert!(work::segment_ucs2(black_box(&cyrillic)));
        assert!(work::smart_encoding(black_box(&curly)).is_some());
    }
    for name in ["segment_gsm7", "segment_ucs2", "smart_encoding"] {
        told(name, TEXTS.into());
    }
}

fn groups() {
    let (registry, calls) = (admitting::registry(), admitting::calls());
    let (consent, limits) = (Consent::default(), Limits::default());
    let mut mint = IdMint::new(1, 0).expect("node 1");
    for round in 0..GROUPS {
        let now_us = EPOCH_US + i64::from(round) * 10_000;
        let admission = work::admit(
            &calls,
            &registry,
            &consent,
            &limits,
            &mut mint,
            now_us,
            Door::open(10_000),
        );
        assert_eq!(
            admission.accepted().len(),
            admitting::GROUP_MESSAGES as usize
        );
        assert_eq!(work::answer(&admission), 2);
    }
    for name in ["admit", "answer"] {
        told(
            name,
            u64::from(GROUPS) * u64::from(admitting::GROUP_MESSAGES),
        );
    }
}

fn turns() {
    let mut now_us = START_US;
    let mut scheduler = full(WAITING, &mut now_us);
    let room = BATCH_MESSAGES as usize;
    for round in 0..WARM_ROUNDS + ROUNDS {
        let from = WAITING + 1 + round * u64::from(BATCH_MESSAGES);
        let messages = batch(from, BATCH_MESSAGES.into(), now_us);
        let counted = round >= WARM_ROUNDS;
        if counted {
            assert!(work::schedule_push(&mut scheduler, messages, now_us));
        } else {
            assert!(scheduler.push(messages, now_us).is_empty());
        }
        now_us += 10_000;
        let mono_us = now_us - START_US;
        let popped = if counted {
            work::schedule_pop(&mut scheduler, now_us, mono_us, room)
        } else {
            scheduler.pop(now_us, mono_us, room)
        };
        assert_eq!(popped.ready.len(), room, "no limit binds");
        for message in &popped.ready {
            if counted {
                work::schedule_settled(&mut scheduler, message.id, Fate::Taken(Some(1)));
            } else {
                scheduler.settled(message.id, Fate::Taken(Some(1)));
            }
        }
    }
    for name in ["schedule_push", "schedule_pop", "schedule_settled"] {
        told(name, ROUNDS * u64::from(BATCH_MESSAGES));
    }
}

fn decisions() {
    // 4,500 a minute is one in 13,333 µs: every 20 ms always passes, every microsecond hardly ever.
    let (mut open, mut shut) = (
        Bucket::new(4_500, 225, MINUTE_US),
        Bucket::new(4_500, 225, MINUTE_US),
    );
    let (mut passed, mut refused) = (0, 0);
    for step in 1..=i64::from(DECISIONS) {
        passed += u32::from(work::quota_passed(&mut open, step * 20_000));
        refused += u32::from(work::quota_refused(&mut shut, step));
    }
    assert_eq!(passed, DECISIONS);
    assert!(refused > DECISIONS - DECISIONS / 50, "{refused} refused");
    for name in ["quota_passed", "quota_refused"] {
        told(name, DECISIONS.into());
    }
}

fn main() {
    texts();
    groups();
    turns();
    decisions();
}
