//! Rate buckets and day ledgers: no window ever holds more than its amount, and little of it is wasted.

use _core::ledger::Ledger;
use _core::message::{Class, Micros};
use _core::quota::{Bucket, Refusal, default_burst};
use proptest::prelude::*;

/// The most that any half-open window of this length holds.
fn fullest_window(taken: &[(Micros, u64)], window_us: u64) -> u64 {
    let mut fullest = 0;
    let mut sum = 0;
    let mut first = 0;
    for &(at, cost) in taken {
        sum += cost;
        while (at - taken[first].0).cast_unsigned() >= window_us {
            sum -= taken[first].1;
            first += 1;
        }
        fullest = fullest.max(sum);
    }
    fullest
}

#[derive(Clone, Debug)]
enum Step {
    /// Wait, then try this cost.
    Take {
        wait_us: i64,
        cost: u64,
    },
    /// Come back exactly when the refusal said.
    Insist {
        cost: u64,
    },
    /// The clock reads less for one call.
    Back {
        by_us: i64,
        cost: u64,
    },
    Park {
        for_us: i64,
    },
    Restart,
}

fn steps(burst: u64, window_us: u64) -> impl Strategy<Value = Vec<Step>> {
    let wait = 0..=i64::try_from(window_us).unwrap() / 4 + 1;
    let cost = 1..=burst + 1;
    prop::collection::vec(
        prop_oneof![
            4 => (wait.clone(), cost.clone()).prop_map(|(wait_us, cost)| Step::Take { wait_us, cost }),
            8 => cost.clone().prop_map(|cost| Step::Insist { cost }),
            1 => (wait.clone(), cost).prop_map(|(by_us, cost)| Step::Back { by_us, cost }),
            1 => wait.prop_map(|for_us| Step::Park { for_us }),
            1 => Just(Step::Restart),
        ],
        1..200,
    )
}

fn bucket_and_steps() -> impl Strategy<Value = (u64, u64, u64, Vec<Step>)> {
    (1_u64..60, 1_u64..500)
        .prop_flat_map(|(amount, window_us)| {
            let bursts = 1..=(amount - 1).max(1);
            (Just(amount), bursts, Just(window_us))
        })
        .prop_flat_map(|(amount, burst, window_us)| {
            (
                Just(amount),
                Just(burst),
                Just(window_us),
                steps(burst, window_us),
            )
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn no_window_holds_more_than_the_amount((amount, burst, window_us, steps) in bucket_and_steps()) {
        let mut bucket = Bucket::new(amount, burst, window_us);
        let mut now = -1000;
        let (mut seen, mut parked_until) = (Micros::MIN, Micros::MIN);
        let mut taken: Vec<(Micros, u64)> = Vec::new();
        for step in steps {
            let (at, cost) = match step {
                Step::Take { wait_us, cost } => {
                    now += wait_us;
                    (now, cost)
                }
                Step::Insist { cost } => {
                    if let Err(Refusal::Until(ready)) = bucket.check(cost, now) {
                        prop_assert!(ready > now);
                        prop_assert!(bucket.check(cost, ready - 1).is_err(), "{ready} is not the earliest");
                        now = ready;
                        prop_assert_eq!(bucket.check(cost, now), Ok(()));
                    }
                    (now, cost)
                }
                Step::Back { by_us, cost } => (now - by_us, cost),
                Step::Park { for_us } => {
                    parked_until = parked_until.max(now + for_us);
                    bucket.park_until(now + for_us);
                    continue;
                }
                Step::Restart => {
                    bucket = Bucket::new(amount, burst, window_us).empty_at(now);
                    seen = seen.max(now);
                    parked_until = Micros::MIN;
                    continue;
                }
            };
            let before = bucket.clone();
            match bucket.take(cost, at) {
                Ok(()) => {
                    prop_assert!(cost <= burst);
                    // The bucket's time is the latest it saw.
                    seen = seen.max(at);
                    prop_assert!(seen >= parked_until);
                    taken.push((seen, cost));
                }
                Err(refusal) => {
                    prop_assert_eq!(&bucket, &before);
                    prop_assert_eq!(refusal == Refusal::Never, cost > burst);
                }
            }
        }
        prop_assert!(fullest_window(&taken, window_us) <= amount);
    }

    #[test]
    fn any_input_is_answered(
        amount: u64, burst: u64, window_us: u64, cost: u64, mono: i64, later: i64, park: i64, empty: i64,
    ) {
        let mut bucket = Bucket::new(amount, burst, window_us).empty_at(empty);
        let _ = bucket.take(cost, mono);
        bucket.park_until(park);
        if let Err(Refusal::Until(ready)) = bucket.take(cost, later) {
            prop_assert!(ready > later || ready == Micros::MAX);
        }
    }

    #[test]
    fn default_bursts_use_most_of_the_amount(amount in 200_u64..20_000, cost in 1_u64..=3) {
        let window_us = 60_000_000;
        let burst = default_burst(amount);
        prop_assert!(burst < amount);
        let mut bucket = Bucket::new(amount, burst, window_us).empty_at(0);
        let windows = 2;
        let end = windows * window_us.cast_signed();
        let (mut now, mut sum) = (0, 0);
        while now < end {
            match bucket.take(cost, now) {
                Ok(()) => sum += cost,
                Err(Refusal::Until(ready)) => now = ready,
                Err(Refusal::Never) => prop_assert!(false),
            }
        }
        // The last message of a cost above one may fall behind the end.
        prop_assert!((sum + cost) * 100 >= amount * windows.cast_unsigned() * 95, "{sum} of {amount} a window");
    }
}

#[test]
fn the_checker_sees_one_too_many() {
    assert_eq!(fullest_window(&[(0, 1), (9, 1), (10, 1)], 10), 2);
    assert_eq!(fullest_window(&[(0, 1), (9, 1), (9, 3)], 10), 5);
}

#[test]
fn seventy_five_a_minute_is_one_every_eight_tenths_not_one_a_second() {
    let mut bucket = Bucket::new(75, 1, 60_000_000).empty_at(0);
    let mut at = Vec::new();
    let mut now = 0;
    while at.len() < 75 {
        match bucket.take(1, now) {
            Ok(()) => at.push(now),
            Err(Refusal::Until(ready)) => now = ready,
            Err(Refusal::Never) => panic!("a cost of one passes"),
        }
    }
    // 74 tokens a minute beside the burst of one, each at the next whole microsecond.
    assert!((60_000_000..60_000_074).contains(&at[73]), "{}", at[73]);
    assert_eq!(at[0], 810_811);
}

#[test]
fn one_a_window_keeps_a_whole_window_between() {
    let mut bucket = Bucket::new(1, 1, 1_000);
    assert_eq!(bucket.take(1, 5), Ok(()));
    assert_eq!(bucket.check(1, 1_004), Err(Refusal::Until(1_005)));
    assert_eq!(bucket.take(1, 1_005), Ok(()));
}

#[test]
fn what_can_never_pass_says_so() {
    assert_eq!(Bucket::new(10, 3, 1_000).check(4, 0), Err(Refusal::Never));
    assert_eq!(Bucket::new(0, 1, 1_000).check(1, 0), Err(Refusal::Never));
}

#[test]
fn bursts_by_default() {
    let bursts = [1, 2, 3, 10, 19, 20, 75, 200, 240, 4500].map(default_burst);
    assert_eq!(bursts, [1, 1, 1, 5, 9, 10, 10, 10, 12, 225]);
}

#[test]
fn a_parked_bucket_starts_with_one() {
    let mut bucket = Bucket::new(100, 10, 90);
    bucket.park_until(1_000);
    assert_eq!(bucket.check(1, 999), Err(Refusal::Until(1_000)));
    assert_eq!(bucket.take(1, 1_000), Ok(()));
    assert_eq!(bucket.check(1, 1_000), Err(Refusal::Until(1_001)));
}

const DAY_US: Micros = 86_400_000_000;

fn ledger(cap: u64, percent: u8) -> Ledger {
    let mut ledger = Ledger::new(7, cap, percent, Class::Transactional);
    assert!(ledger.roll(100, DAY_US, 0, 0));
    ledger
}

#[test]
fn a_ledger_without_a_day_and_after_its_day_refuses() {
    let mut ledger = Ledger::new(7, 10, 0, Class::Bulk);
    assert_eq!(
        ledger.check(1, Class::Bulk, 0),
        Err(Refusal::Until(Micros::MAX))
    );
    assert!(ledger.roll(100, DAY_US, 4, 1));
    assert_eq!((ledger.spent(), ledger.reserved()), (4, 1));
    assert_eq!(ledger.check(5, Class::Bulk, 0), Ok(()));
    assert_eq!(
        ledger.check(5, Class::Bulk, DAY_US),
        Err(Refusal::Until(Micros::MAX))
    );
    assert!(ledger.roll(101, 2 * DAY_US, 0, 0));
    assert_eq!((ledger.spent(), ledger.reserved()), (0, 0));
    assert_eq!(ledger.reserve(10, Class::Bulk, DAY_US), Ok(()));
    assert!(!ledger.roll(100, 3 * DAY_US, 0, 0));
    assert_eq!(ledger.day(), Some(101));
}

#[test]
fn bulk_cannot_spend_the_urgent_share() {
    let mut ledger = ledger(10, 25);
    // A quarter of ten, rounded up, is kept.
    assert_eq!(ledger.reserve(7, Class::Bulk, 0), Ok(()));
    assert_eq!(ledger.check(1, Class::Bulk, 0), Err(Refusal::Until(DAY_US)));
    assert_eq!(ledger.check(8, Class::Bulk, 0), Err(Refusal::Never));
    assert_eq!(ledger.reserve(3, Class::Transactional, 0), Ok(()));
    assert_eq!(
        ledger.check(1, Class::Critical, 0),
        Err(Refusal::Until(DAY_US))
    );
}

#[test]
fn a_correction_past_the_cap_stops_the_ledger() {
    let mut ledger = ledger(10, 0);
    assert_eq!(ledger.reserve(5, Class::Bulk, 0), Ok(()));
    ledger.spend(5);
    ledger.correct(7);
    assert_eq!((ledger.spent(), ledger.reserved()), (12, 0));
    assert_eq!(
        ledger.check(1, Class::Critical, 0),
        Err(Refusal::Until(DAY_US))
    );
    ledger.correct(-4);
    assert_eq!(ledger.reserve(2, Class::Bulk, 0), Ok(()));
    ledger.release(2);
    assert_eq!(ledger.reserved(), 0);
}

#[test]
fn the_providers_word_stops_a_ledger_that_has_room() {
    let mut ledger = ledger(10, 0);
    ledger.stop_until(500);
    assert_eq!(
        ledger.check(1, Class::Critical, 499),
        Err(Refusal::Until(500))
    );
    assert_eq!(ledger.check(1, Class::Critical, 500), Ok(()));
}

proptest! {
    #[test]
    fn a_ledger_never_grants_above_its_cap(
        cap in 0_u64..50, percent in 0_u8..=120, steps in prop::collection::vec((0_u8..4, 1_u64..10, 1_i64..=3), 0..100),
    ) {
        let mut ledger = ledger(cap, percent);
        let (mut open, mut bulk): (Vec<u64>, u64) = (Vec::new(), 0);
        for (step, cost, class) in steps {
            let class = Class::from_number(class).unwrap();
            match step {
                0 | 1 => {
                    if ledger.reserve(cost, class, 0).is_ok() {
                        open.push(cost);
                        bulk += if class == Class::Bulk { cost } else { 0 };
                    }
                }
                2 => open.pop().into_iter().for_each(|cost| ledger.spend(cost)),
                _ => open.pop().into_iter().for_each(|cost| ledger.release(cost)),
            }
            prop_assert!(ledger.reserved() + ledger.spent() <= cap);
            prop_assert_eq!(ledger.reserved(), open.iter().sum::<u64>());
        }
        if percent >= 100 {
            prop_assert_eq!(bulk, 0);
        }
    }
}
