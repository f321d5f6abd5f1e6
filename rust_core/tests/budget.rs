//! Limits shared by nodes: what all of them spend in any window, and how much of the amount a calm cluster uses.

use std::sync::Arc;

use _core::budget::{Ask, Budget, Shared, SharedRow, Terms, Wanted, lease_together};
use _core::message::{Carrier, Class, Held, Kind, Micros};
use _core::quota::{Bucket, Refusal, default_burst};
use _core::registry::{Campaign, CampaignState, OnUnknown, Quota, Registry, Scope, Tenant, Unit};
use _core::schedule::{Config, Popped, Scheduler};
use proptest::prelude::*;

const SECOND_US: i64 = 1_000_000;
const DAY_US: u64 = 86_400_000_000;
const START_US: Micros = 1_750_000_000 * SECOND_US;

/// The most that any half-open window of this length holds; `spent` rises in time.
fn fullest_window(spent: &[(Micros, u64)], window_us: u64) -> u64 {
    let (mut fullest, mut sum, mut first) = (0, 0, 0);
    for &(at, cost) in spent {
        sum += cost;
        while (at - spent[first].0).cast_unsigned() >= window_us {
            sum -= spent[first].1;
            first += 1;
        }
        fullest = fullest.max(sum);
    }
    fullest
}

fn signed(us: u64) -> Micros {
    Micros::try_from(us).expect("small")
}

/// A node and the answers on their way to it: (when, tokens, end, again).
struct Node {
    budget: Budget,
    answers: Vec<(Micros, u64, Micros, Micros)>,
}

impl Node {
    fn new(terms: Terms) -> Self {
        Self {
            budget: Budget::new(terms),
            answers: Vec::new(),
        }
    }

    fn hear(&mut self, now: Micros) {
        for (_, tokens, until, again) in self.answers.extract_if(.., |answer| answer.0 <= now) {
            self.budget.grant(tokens, until, again, now);
        }
    }
}

/// The row and the clock of the store, which may stand or go back but not ahead of time.
struct Store {
    terms: Terms,
    row: Option<SharedRow>,
    behind_us: i64,
}

impl Store {
    fn lease(&mut self, wanted: (u64, u64), now: Micros) -> Result<u64, Micros> {
        let clock = now - self.behind_us;
        let mut shared = match self.row {
            Some(row) => Shared::restored(self.terms, row, clock),
            None => Shared::new(self.terms, clock),
        };
        let leased = shared.lease(wanted.0, wanted.1, clock);
        self.row = Some(shared.row());
        match leased {
            Ok(tokens) => {
                assert!(wanted.1 <= tokens && tokens <= wanted.0.max(wanted.1));
                Ok(tokens)
            }
            Err(Refusal::Until(at)) => {
                assert!(at > clock);
                Err(at - clock)
            }
            Err(Refusal::Never) => panic!("below the burst"),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A node asks; its question takes so long, and the answer as well.
    Ask {
        node: usize,
        there_us: i64,
        back_us: i64,
        greedy: bool,
    },
    Spend {
        node: usize,
        cost: u64,
        times: u64,
    },
    Wait {
        us: i64,
    },
    /// It dies with what it has and starts anew.
    Lose {
        node: usize,
    },
    /// The store's clock is set back.
    Back {
        us: i64,
    },
    Park {
        node: usize,
        us: i64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let node = 0_usize..3;
    prop_oneof![
        8 => (node.clone(), 0_i64..60_000, 0_i64..60_000, any::<bool>())
            .prop_map(|(node, there_us, back_us, greedy)| Step::Ask { node, there_us, back_us, greedy }),
        12 => (node.clone(), 1_u64..4, 1_u64..30).prop_map(|(node, cost, times)| Step::Spend { node, cost, times }),
        6 => (0_i64..400_000).prop_map(|us| Step::Wait { us }),
        1 => node.clone().prop_map(|node| Step::Lose { node }),
        1 => (0_i64..500_000).prop_map(|us| Step::Back { us }),
        1 => (node, 0_i64..100_000).prop_map(|(node, us)| Step::Park { node, us }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn no_window_holds_more_than_the_amount_over_all_nodes(
        (amount, burst) in (2_u64..80).prop_flat_map(|amount| (Just(amount), 1..amount)),
        window_us in prop_oneof![1_000_u64..100_000, 100_000_u64..3_000_000],
        steps in prop::collection::vec(step(), 1..400),
    ) {
        let terms = Terms { amount, burst, window_us };
        let mut store = Store { terms, row: None, behind_us: 0 };
        let mut nodes: Vec<Node> = (0..3).map(|_| Node::new(terms)).collect();
        let mut spent: Vec<(Micros, u64)> = Vec::new();
        // The store answers in the order of questions' arrivals; here a question moves the clock on.
        let mut now = START_US;
        for step in steps {
            match step {
                Step::Ask { node, there_us, back_us, greedy } => {
                    let asked = now;
                    let wanted = if greedy { Some((burst, 1)) } else { nodes[node].budget.wanted(now) };
                    let Some(wanted) = wanted else { continue };
                    now += there_us;
                    let until = asked + signed(terms.block_us());
                    let answer = match store.lease(wanted, now) {
                        Ok(tokens) => (now + back_us, tokens, until, now),
                        Err(wait) => (now + back_us, 0, until, asked + wait),
                    };
                    nodes[node].answers.push(answer);
                }
                Step::Spend { node, cost, times } => {
                    nodes[node].hear(now);
                    for _ in 0..times {
                        match nodes[node].budget.take(cost, now) {
                            Ok(()) => spent.push((now, cost)),
                            Err(Refusal::Until(_)) => nodes[node].budget.refused(cost),
                            Err(Refusal::Never) => prop_assert!(cost > burst),
                        }
                    }
                }
                Step::Wait { us } => now += us,
                Step::Lose { node } => nodes[node] = Node::new(terms),
                Step::Back { us } => store.behind_us += us,
                Step::Park { node, us } => nodes[node].budget.park_until(now + us),
            }
        }
        let fullest = fullest_window(&spent, window_us);
        prop_assert!(fullest <= amount, "{fullest} of {amount}");
    }

    /// The worst that holders can do: all there is is leased at once, and each block spent at its end or at its beginning.
    #[test]
    fn no_window_holds_more_however_late_blocks_are_spent(
        amount in 30_u64..3_000, part in 1_u64..100, window_us in 1_000_000_u64..4_000_000,
        leases in prop::collection::vec((0_i64..20_000, 0_u8..8, any::<bool>()), 200..800),
    ) {
        let terms = Terms { amount, burst: (amount * part / 100).max(1), window_us };
        let mut shared = Shared::new(terms, START_US);
        let block_us = signed(terms.block_us());
        let mut now = START_US;
        let mut spent: Vec<(Micros, u64)> = Vec::new();
        let (mut late, mut full) = (false, true);
        for (after_us, turn, again) in leases {
            // Long stretches of one habit: to hoard, and then to spend at once, is what fills a window.
            if turn == 0 {
                (late, full) = (again, !full);
            }
            now += if full { after_us } else { 20 * after_us };
            if let Ok(tokens) = shared.lease(terms.burst, 1, now) {
                spent.push((now + if late { block_us - 1 } else { 0 }, tokens));
            }
        }
        spent.sort_unstable();
        let fullest = fullest_window(&spent, window_us);
        prop_assert!(fullest <= amount, "{fullest} of {amount}");
    }

    #[test]
    fn a_row_is_the_same_bucket(
        (amount, burst) in (1_u64..1_000_000).prop_flat_map(|amount| (Just(amount), 1..=amount)),
        window_us in 1..DAY_US, asks in prop::collection::vec((0_i64..10_000_000, 1_u64..100), 1..50),
    ) {
        let terms = Terms { amount, burst, window_us };
        let mut kept = Shared::new(terms, START_US);
        let mut now = START_US;
        for (after_us, wanted) in asks {
            now += after_us;
            let mut restored = Shared::restored(terms, kept.row(), now);
            prop_assert_eq!(&restored, &kept);
            prop_assert_eq!(restored.lease(wanted, 1, now), kept.lease(wanted, 1, now));
        }
        let other = Terms { amount: amount + 1, ..terms };
        let earlier = START_US - SECOND_US;
        let mut anew = Shared::restored(other, kept.row(), earlier);
        let (.., latest_us) = kept.row();
        let empty = matches!(anew.lease(1, 1, latest_us.max(earlier)), Err(Refusal::Until(_)));
        prop_assert!(empty, "other terms start with nothing");
    }
}

/// Nodes that always have more to send, for so many windows or tokens; what they spent, in
/// thousandths of what one bucket alone lets pass.
fn used(terms: Terms, nodes: u8, turn_us: i64) -> u64 {
    let mut store = Store {
        terms,
        row: None,
        behind_us: 0,
    };
    let mut all: Vec<Node> = (0..nodes).map(|_| Node::new(terms)).collect();
    let mut alone = Bucket::new(terms.amount, terms.burst, terms.window_us).empty_at(START_US);
    let mut next: Vec<Micros> = (0..nodes)
        .map(|node| START_US + i64::from(node) * 137)
        .collect();
    let rate = terms.amount - terms.burst.min(terms.amount - 1);
    let for_tokens_us = |tokens: u64| signed(tokens.saturating_mul(terms.window_us) / rate);
    // Several turns of the store and some thousand tokens, but no end of them.
    let blocks_us = signed(200 * terms.block_us());
    let end = START_US
        + for_tokens_us(1_000)
            .max(blocks_us)
            .min(for_tokens_us(50_000));
    let mut spent = 0_u64;
    loop {
        let (node, &now) = next
            .iter()
            .enumerate()
            .min_by_key(|&(_, at)| *at)
            .expect("some nodes");
        if now >= end {
            break;
        }
        let one = &mut all[node];
        one.hear(now);
        while one.budget.take(1, now).is_ok() {
            spent += 1;
        }
        one.budget.refused(1);
        if let Some(wanted) = one.budget.wanted(now) {
            let until = now + signed(terms.block_us());
            let answer = match store.lease(wanted, now + turn_us / 2) {
                Ok(tokens) => (now + turn_us, tokens, until, now),
                Err(wait) => (now + turn_us, 0, until, now + turn_us / 2 + wait),
            };
            one.answers.push(answer);
            next[node] = now + turn_us;
        } else {
            let Err(Refusal::Until(again)) = one.budget.check(1, now) else {
                panic!("it was refused");
            };
            next[node] = again.min(end);
        }
    }
    let mut alone_spent = 0_u64;
    let mut now = START_US;
    while now < end {
        match alone.take(1, now) {
            Ok(()) => alone_spent += 1,
            Err(Refusal::Until(at)) => now = at,
            Err(Refusal::Never) => panic!("one passes"),
        }
    }
    spent * 1_000 / alone_spent
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_calm_cluster_uses_nearly_all(
        amount in prop_oneof![10_u64..100, 100_u64..10_000, 10_000_u64..=100_000],
        window_us in prop_oneof![SECOND_US.cast_unsigned()..60_000_000, 60_000_000..=DAY_US],
        nodes in 1_u8..6, turn_us in 500_i64..4_000,
    ) {
        let terms = Terms { amount, burst: default_burst(amount), window_us };
        let used = used(terms, nodes, turn_us);
        prop_assert!((950..=1_000).contains(&used), "{used}");
    }
}

// ------------------------------------------------------------------------------------------------- in the scheduler

fn quota(key: u32, scope: Scope, subject: u64, amount: u64, burst: u64) -> Quota {
    Quota {
        key,
        scope,
        subject,
        carrier: Carrier::Unknown,
        unit: Unit::Segments,
        amount,
        window_us: 10 * SECOND_US.cast_unsigned(),
        burst,
        reserved_percent: 0,
        reserved_class: Class::Bulk,
    }
}

fn registry(quotas: Vec<Quota>) -> Arc<Registry> {
    let tenant = Tenant {
        key: 1,
        active: true,
    };
    let campaigns = [10, 11].map(|key| Campaign {
        key,
        tenant: 1,
        brand: 1,
        id: format!("c{key}"),
        state: CampaignState::Active,
        on_unknown: OnUnknown::ByClass,
        messaging_profile: String::new(),
        numbers: vec![12_025_550_100 + u64::from(key)],
    });
    Arc::new(Registry::new(1, vec![tenant], campaigns.to_vec(), quotas))
}

fn node(quotas: Vec<Quota>) -> Scheduler {
    let config = Config {
        leased_budgets: true,
        ..Config::default()
    };
    Scheduler::new(config, registry(quotas), 0)
}

fn held(id: u64, campaign: u32, segments: u16) -> Held {
    Held {
        id,
        tenant: 1,
        campaign,
        sender: 12_025_550_100 + u64::from(campaign),
        recipient: 13_035_550_100 + id % 100,
        class: Class::Transactional,
        kind: Kind::Sms,
        encoding: 1,
        segments,
        seq: 1,
        attempt: 0,
        generation: 1,
        counted: 0,
        flags: 0,
        due_us: START_US,
        expires_us: START_US + 1_000_000 * SECOND_US,
        ordering: 0,
        recipe: 0,
        body: Arc::from([1_u8].as_slice()),
    }
}

fn push(scheduler: &mut Scheduler, messages: Vec<Held>) {
    assert_eq!(scheduler.push(messages, START_US), []);
}

fn pop(scheduler: &mut Scheduler, after_us: i64) -> Popped {
    scheduler.pop(START_US + after_us, after_us, 100)
}

fn ids(popped: &Popped) -> Vec<u64> {
    popped.ready.iter().map(|held| held.id).collect()
}

fn wanted(quota: u32, tokens: u64, least: u64) -> Wanted {
    Wanted {
        quota,
        tokens,
        least,
    }
}

#[test]
fn nothing_passes_a_shared_limit_but_what_was_leased_and_while_it_lasts() {
    for scope in [Scope::Tenant, Scope::Provider] {
        let mut node = node(vec![quota(1, scope, 1, 100, 20)]);
        push(&mut node, (1..=6).map(|id| held(id, 10, 1)).collect());
        assert_eq!(node.budgets_wanted(0), [], "nobody waits yet");
        let first = pop(&mut node, 0);
        assert_eq!((ids(&first), first.more_ready), (vec![], false));
        assert!(
            first.wake_after_us > Some(SECOND_US),
            "the store's answer wakes"
        );
        assert_eq!(node.budgets_wanted(0), [wanted(1, 1, 1)]);
        assert_eq!(node.budgets_wanted(0), [], "asked already");
        node.grant(1, 3, 400_000, 0);
        assert_eq!(ids(&pop(&mut node, 100)), [1, 2, 3]);
        // Twice what went of late; it lasts until half a second, and two are never spent.
        assert_eq!(node.budgets_wanted(100), [wanted(1, 6, 1)]);
        node.grant(1, 1, 500_000, 0);
        assert_eq!(ids(&pop(&mut node, 499_999)), [4]);
        assert_eq!(node.budgets_wanted(499_999).len(), 1);
        node.grant(1, 5, 600_000, 0);
        assert_eq!(ids(&pop(&mut node, 600_000)), [0_u64; 0], "ended unspent");
        assert_eq!(node.budgets_wanted(600_000).len(), 1);
        // Nothing to be had before a second: told once, waited for, and asked again.
        node.grant(1, 0, 0, SECOND_US);
        let refused = pop(&mut node, 700_000);
        assert_eq!(
            (ids(&refused), refused.wake_after_us),
            (vec![], Some(300_000))
        );
        assert_eq!(node.budgets_wanted(999_999), []);
        pop(&mut node, SECOND_US);
        assert_eq!(node.budgets_wanted(SECOND_US).len(), 1);
        node.grant(1, 20, 2 * SECOND_US, 0);
        assert_eq!(ids(&pop(&mut node, SECOND_US)), [5, 6]);
        assert_eq!(node.counts(), _core::schedule::Counts::default());
    }
}

#[test]
fn a_dear_head_is_asked_for_whole_and_not_starved_by_cheap_ones() {
    let mut node = node(vec![quota(1, Scope::Tenant, 1, 100, 20)]);
    push(&mut node, vec![held(1, 10, 5)]);
    pop(&mut node, 0);
    assert_eq!(node.budgets_wanted(0), [wanted(1, 5, 5)]);
    push(&mut node, (2..=9).map(|id| held(id, 11, 1)).collect());
    pop(&mut node, 0);
    // Less than was asked for, as after a lost answer.
    node.grant(1, 4, 400_000, 0);
    assert_eq!(ids(&pop(&mut node, 1)), [0_u64; 0], "kept for the first");
    assert_eq!(node.budgets_wanted(1), [wanted(1, 5, 5)]);
    node.grant(1, 5, 400_000, 0);
    let mut went = ids(&pop(&mut node, 2));
    went.sort_unstable();
    assert_eq!(went, [1, 2, 3, 4, 5]);
}

#[test]
fn before_it_runs_out_it_asks_for_what_half_a_block_will_miss() {
    let mut node = node(vec![quota(1, Scope::Tenant, 1, 1_000, 400)]);
    push(&mut node, (1..=10).map(|id| held(id, 10, 1)).collect());
    pop(&mut node, 0);
    assert_eq!(node.budgets_wanted(0).len(), 1);
    node.grant(1, 20, 200_000, 0);
    assert_eq!(pop(&mut node, 0).ready.len(), 10);
    // Ten left at ten a block: a whole one's worth, but it ends with the block.
    assert_eq!(node.budgets_wanted(100_000), []);
    assert_eq!(node.budgets_wanted(100_001), [wanted(1, 6, 1)]);
    node.grant(1, 0, 0, 0);
    // Nobody sent for two blocks, and nobody waits.
    assert_eq!(node.budgets_wanted(900_000), []);
}

#[test]
fn what_a_budget_can_never_let_pass_waits_beside_its_lane() {
    let mut node = node(vec![quota(1, Scope::Tenant, 1, 100, 3)]);
    push(&mut node, vec![held(1, 10, 4), held(2, 10, 1)]);
    pop(&mut node, 0);
    assert_eq!(node.budgets_wanted(0), [wanted(1, 1, 1)]);
    node.grant(1, 3, 400_000, 0);
    assert_eq!(ids(&pop(&mut node, 0)), [2]);
    node.set_registry(registry(vec![quota(1, Scope::Tenant, 1, 0, 1)]), 0);
    pop(&mut node, 0);
    assert_eq!(node.budgets_wanted(0), [], "nothing is ever to be had");
    node.set_registry(registry(vec![quota(1, Scope::Tenant, 1, 100, 5)]), 0);
    pop(&mut node, 0);
    assert_eq!(node.budgets_wanted(0), [wanted(1, 4, 4)]);
}

#[test]
fn unchanged_terms_keep_their_tokens_and_others_begin_without() {
    let quotas = |amount| vec![quota(1, Scope::Tenant, 1, amount, 20)];
    let mut node = node(quotas(100));
    push(&mut node, (1..=9).map(|id| held(id, 10, 1)).collect());
    pop(&mut node, 0);
    assert_eq!(node.budgets_wanted(0).len(), 1);
    node.grant(1, 5, 400_000, 0);
    node.set_registry(registry(quotas(100)), 0);
    assert_eq!(node.pop(START_US, 0, 2).ready.len(), 2);
    node.set_registry(registry(quotas(99)), 0);
    assert_eq!(pop(&mut node, 0).ready.len(), 0);
    // An answer for what is there no more.
    node.set_registry(registry(Vec::new()), 0);
    node.grant(1, 5, 400_000, 0);
    assert_eq!(pop(&mut node, 0).ready.len(), 7);
}

#[test]
fn a_node_alone_leases_nothing_and_other_scopes_are_its_own() {
    let wide = vec![quota(1, Scope::Tenant, 1, 100, 20)];
    let mut alone = Scheduler::new(Config::default(), registry(wide), 0);
    push(&mut alone, vec![held(1, 10, 1)]);
    assert_eq!(ids(&pop(&mut alone, SECOND_US)), [1]);
    let mut node = node(vec![quota(1, Scope::Campaign, 10, 100, 20)]);
    push(&mut node, (1..=9).map(|id| held(id, 10, 1)).collect());
    assert_eq!(ids(&pop(&mut node, SECOND_US)).len(), 8);
    assert_eq!(
        (alone.budgets_wanted(0), node.budgets_wanted(0)),
        (vec![], vec![])
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Whole nodes with lanes and messages of any cost, woken by their own word and the store's alone.
    #[test]
    fn nodes_send_all_and_no_window_holds_more_than_the_amount(
        messages in prop::collection::vec((0_usize..3, 0_u32..2, 1_u16..5, 0_u8..3), 1..150),
        amount in 8_u64..60, provider_amount in 8_u64..60, turn_us in 0_i64..100_000, answers in any::<u64>(),
    ) {
        let quotas = vec![
            quota(1, Scope::Tenant, 1, amount, 4),
            quota(2, Scope::Provider, 1, provider_amount, 4),
        ];
        let mut nodes: Vec<Scheduler> = (0..3).map(|_| node(quotas.clone())).collect();
        for (id, &(at, campaign, segments, class)) in (1..).zip(&messages) {
            let class = Class::ALL[usize::from(class)];
            push(&mut nodes[at], vec![Held { class, ..held(id, 10 + campaign, segments) }]);
        }
        let mut stores: Vec<Store> = quotas.iter().map(|quota| {
            Store { terms: Terms::of(quota), row: None, behind_us: 0 }
        }).collect();
        let mut next = [0_i64; 3];
        let mut asks: Vec<(Micros, usize, Vec<Wanted>, Micros)> = Vec::new();
        let mut spent: Vec<(Micros, u64)> = Vec::new();
        let (mut left, mut turns) = (messages.len(), 0);
        while left > 0 {
            turns += 1;
            prop_assert!(turns < 50_000, "{left} never leave");
            // The next of: a node that wakes, a question that is answered.
            asks.sort_by_key(|&(at, node, ..)| (at, node));
            let (node, &now) = next.iter().enumerate().min_by_key(|&(_, at)| *at).expect("nodes");
            if asks.first().is_some_and(|ask| ask.0 <= now) {
                let (at, of, wanted, asked) = asks.remove(0);
                // Some answers are lost on their way back.
                let lost = answers.rotate_left(u32::try_from(turns % 64).expect("small")) % 8 == 0;
                let mut together: Vec<Ask> = wanted.iter().map(|wanted| {
                    let store = &stores[wanted.quota as usize - 1];
                    let shared = match store.row {
                        Some(row) => Shared::restored(store.terms, row, at),
                        None => Shared::new(store.terms, at),
                    };
                    Ask { shared, by_all: wanted.quota == 2, tokens: wanted.tokens, least: wanted.least }
                }).collect();
                let leased = lease_together(&mut together, at);
                for ((wanted, ask), leased) in wanted.iter().zip(together).zip(leased) {
                    let store = &mut stores[wanted.quota as usize - 1];
                    store.row = Some(ask.shared.row());
                    let until = asked + signed(store.terms.block_us());
                    match leased {
                        Ok(tokens) if !lost => nodes[of].grant(wanted.quota, tokens, until, 0),
                        Ok(_) => nodes[of].grant(wanted.quota, 0, 0, at + 10_000),
                        Err(Refusal::Until(again)) => nodes[of].grant(wanted.quota, 0, 0, again),
                        Err(Refusal::Never) => panic!("below the burst"),
                    }
                }
                next[of] = next[of].min(at.max(0));
                continue;
            }
            let popped = nodes[node].pop(START_US + now, now, 100);
            left -= popped.ready.len();
            spent.extend(popped.ready.iter().map(|held| (now, u64::from(held.segments))));
            let wanted = nodes[node].budgets_wanted(now);
            if !wanted.is_empty() {
                asks.push((now + turn_us, node, wanted, now));
            }
            next[node] = now + popped.wake_after_us.unwrap_or(i64::MAX / 4).max(1);
        }
        spent.sort_unstable();
        for quota in &quotas {
            let fullest = fullest_window(&spent, quota.window_us);
            prop_assert!(fullest <= quota.amount, "{fullest} of {}", quota.amount);
        }
    }
}

#[test]
fn what_is_asked_for_together_is_leased_where_it_can_be_used() {
    let terms = |amount| Terms {
        amount,
        burst: 5,
        window_us: 10 * SECOND_US.cast_unsigned(),
    };
    let full_at = START_US + 100 * SECOND_US;
    let ask = |by_all, least, since_us| Ask {
        shared: Shared::new(terms(15), since_us),
        by_all,
        tokens: 5,
        least,
    };
    let lease = |asks: &mut [Ask]| lease_together(asks, full_at);
    let mut both = [ask(false, 2, START_US), ask(true, 2, START_US)];
    assert_eq!(lease(&mut both), [Ok(5), Ok(5)]);
    // The provider's has nothing yet: a tenant's tokens would end unspent.
    let mut closed = [ask(false, 2, START_US), ask(true, 2, full_at)];
    let before = closed[0].shared.row();
    let answers = lease(&mut closed);
    assert!(matches!(answers[0], Err(Refusal::Until(at)) if at > full_at));
    assert_eq!(answers[0], answers[1]);
    assert_eq!(closed[0].shared.row(), before);
    // No tenant has any: nobody could use the provider's.
    let mut idle = [
        ask(false, 3, full_at),
        ask(false, 2, full_at),
        ask(true, 2, START_US),
    ];
    let answers = lease(&mut idle);
    assert_eq!(answers[2], answers[1], "when the first of them can");
    assert!(late_of(&answers[0]) > late_of(&answers[1]));
    // One of them has.
    let mut one = [
        ask(false, 3, full_at),
        ask(false, 2, START_US),
        ask(true, 2, START_US),
    ];
    let answers = lease(&mut one);
    assert!(answers[0].is_err());
    assert_eq!(answers[1..], [Ok(5), Ok(5)]);
    // Alone, and never.
    assert_eq!(lease(&mut [ask(true, 1, START_US)]), [Ok(5)]);
    assert_eq!(lease(&mut [ask(false, 6, START_US)]), [Err(Refusal::Never)]);
    assert_eq!(lease(&mut []), []);
}

fn late_of(answer: &Result<u64, Refusal>) -> Micros {
    match answer {
        Err(Refusal::Until(at)) => *at,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_number_that_comes_from_another_shard_starts_with_an_empty_rate() {
    let number = 12_025_550_110;
    let of = |campaign: u32| {
        let limit = quota(1, Scope::Number, number, 15, 5);
        let tenant = Tenant {
            key: 1,
            active: true,
        };
        let campaigns = [10, 11].map(|key| Campaign {
            key,
            tenant: 1,
            brand: 1,
            id: format!("c{key}"),
            state: CampaignState::Active,
            on_unknown: OnUnknown::ByClass,
            messaging_profile: String::new(),
            numbers: if key == campaign {
                vec![number]
            } else {
                vec![]
            },
        });
        Arc::new(Registry::new(
            1,
            vec![tenant],
            campaigns.to_vec(),
            vec![limit],
        ))
    };
    let late = 100 * SECOND_US;
    let passes = |leased_budgets: bool, before: u32| {
        let config = Config {
            leased_budgets,
            ..Config::default()
        };
        let mut node = Scheduler::new(config, of(before), 0);
        node.set_registry(of(11), late);
        let from_number = |id| Held {
            sender: number,
            ..held(id, 11, 1)
        };
        push(&mut node, (1..=5).map(from_number).collect());
        pop(&mut node, late).ready.len()
    };
    assert_eq!(passes(true, 10), 0, "its last owner may have sent just now");
    assert_eq!(passes(true, 11), 5);
    assert_eq!(passes(false, 10), 5, "a node alone knows what was sent");
}
