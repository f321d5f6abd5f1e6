//! Shards that come and go: nodes over a naive store, driven by random hand-overs, and each rule by itself.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use _core::message::{Class, Held, Kind, Micros, flags};
use _core::owned::Owned;
use _core::registry::{Campaign, CampaignState, OnUnknown, Quota, Registry, Scope, Tenant, Unit};
use _core::schedule::{Config, Scheduler};
use _core::settle::Fate;
use _core::shards::{Epochs, SHARDS, ShardSet, shard_of};
use _core::spill::{Away, Stream, StreamKind};
use proptest::prelude::*;

const SECOND_US: i64 = 1_000_000;
const START_US: Micros = 1_750_000_000 * SECOND_US;
const CAMPAIGNS: [u32; 4] = [10, 11, 12, 10 + SHARDS];

fn held(id: u64, campaign: u32) -> Held {
    Held {
        id,
        tenant: 1,
        campaign,
        sender: 12_025_550_000 + u64::from(campaign),
        recipient: 13_035_550_100 + id % 3,
        class: Class::Transactional,
        kind: Kind::Sms,
        encoding: 1,
        segments: 1,
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

fn ordered(id: u64, campaign: u32, key: u64) -> Held {
    Held {
        ordering: u64::from(campaign) << 8 | key,
        flags: flags::ORDERED,
        ..held(id, campaign)
    }
}

fn owned(quotas: Vec<Quota>, messages_max: usize) -> Owned {
    let tenant = Tenant {
        key: 1,
        active: true,
    };
    let campaigns = CAMPAIGNS.map(|key| Campaign {
        key,
        tenant: 1,
        brand: 1,
        id: format!("c{key}"),
        state: CampaignState::Active,
        on_unknown: OnUnknown::ByClass,
        messaging_profile: String::new(),
        numbers: vec![12_025_550_000 + u64::from(key)],
    });
    let registry = Arc::new(Registry::new(1, vec![tenant], campaigns.to_vec(), quotas));
    let config = Config {
        held_messages_max: messages_max,
        ..Config::default()
    };
    Owned::new(Scheduler::new(config, registry, 0), messages_max)
}

fn quota(key: u32, scope: Scope, subject: u64) -> Quota {
    Quota {
        key,
        scope,
        subject,
        carrier: _core::message::Carrier::Unknown,
        unit: Unit::Messages,
        amount: 10,
        window_us: 10 * SECOND_US.cast_unsigned(),
        burst: 5,
        reserved_percent: 0,
        reserved_class: Class::Bulk,
    }
}

fn one(shard: u32) -> ShardSet {
    ShardSet::of(&[shard]).expect("a shard")
}

fn popped(node: &mut Owned, after_us: i64) -> Vec<u64> {
    let popped = node.pop(START_US + after_us, after_us, 100);
    let mut ids: Vec<u64> = popped.ready.iter().map(|held| held.id).collect();
    ids.sort_unstable();
    ids
}

// ------------------------------------------------------------------------------------------------- nodes over a store

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Queued,
    /// Written down; its send may be on its way.
    Out,
    Done,
}

/// What the database has: rows, and who owns which shard.
struct Cluster {
    nodes: Vec<Owned>,
    rows: BTreeMap<u64, (Held, State)>,
    owners: HashMap<u32, (usize, u64)>,
    /// Sends on their way: (node, id). Some outlive their node's ownership.
    sends: BTreeSet<(usize, u64)>,
    started: HashMap<u64, usize>,
    next_id: u64,
    now: i64,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Accept { count: u64, dice: u64 },
    Move { campaign: usize, to: usize },
    Pop { node: usize, room: usize },
    Answer { pick: usize, taken: bool },
    Cancel { pick: usize },
    Wait,
}

fn step() -> impl Strategy<Value = Step> {
    let pick = 0_usize..1_000;
    prop_oneof![
        4 => (1_u64..8, any::<u64>()).prop_map(|(count, dice)| Step::Accept { count, dice }),
        4 => (0_usize..4, 0_usize..3).prop_map(|(campaign, to)| Step::Move { campaign, to }),
        6 => (0_usize..3, 0_usize..6).prop_map(|(node, room)| Step::Pop { node, room }),
        6 => (pick.clone(), any::<bool>()).prop_map(|(pick, taken)| Step::Answer { pick, taken }),
        1 => pick.prop_map(|pick| Step::Cancel { pick }),
        1 => Just(Step::Wait),
    ]
}

impl Cluster {
    fn new(messages_max: usize) -> Self {
        let mut cluster = Self {
            nodes: (0..3).map(|_| owned(Vec::new(), messages_max)).collect(),
            rows: BTreeMap::new(),
            owners: HashMap::new(),
            sends: BTreeSet::new(),
            started: HashMap::new(),
            next_id: 1,
            now: 0,
        };
        for node in &mut cluster.nodes {
            assert!(node.disown(ShardSet::ALL).is_empty());
        }
        for campaign in CAMPAIGNS {
            cluster.take_over(shard_of(campaign), 0);
        }
        cluster
    }

    fn now_us(&self) -> Micros {
        START_US + self.now
    }

    fn queued(&self, of: impl Fn(&Held) -> bool) -> Vec<Held> {
        let rows = self.rows.values();
        rows.filter(|(held, state)| *state == State::Queued && of(held))
            .map(|(held, _)| held.clone())
            .collect()
    }

    fn accept(&mut self, count: u64, dice: u64) {
        let mut batch = Vec::new();
        for n in 0..count {
            let chance = (dice.rotate_left(u32::try_from(n * 5 % 64).expect("small"))) >> 3;
            let campaign = CAMPAIGNS[usize::try_from(chance % 4).expect("small")];
            let id = self.next_id;
            self.next_id += 1;
            let message = if chance % 3 == 0 {
                ordered(id, campaign, chance / 16 % 2 + 1)
            } else {
                held(id, campaign)
            };
            self.rows.insert(id, (message.clone(), State::Queued));
            batch.push(message);
        }
        // At any node; what is another's is handed over, or found by its sweep.
        let at = usize::try_from(dice % 3).expect("small");
        let now_us = self.now_us();
        let elsewhere = self.nodes[at].push_fresh(batch.clone(), now_us);
        let mut told = BTreeSet::new();
        for (shard, ids) in elsewhere {
            assert_ne!(self.owners[&shard].0, at);
            let rows: Vec<Held> = ids.iter().map(|id| self.rows[id].0.clone()).collect();
            assert!(rows.iter().all(|held| shard_of(held.campaign) == shard));
            told.extend(ids);
            let owner = self.owners[&shard].0;
            let (_, ignored) = self.nodes[owner].load(rows, now_us);
            assert_eq!(ignored, 0);
        }
        for held in batch {
            let own = self.owners[&shard_of(held.campaign)].0 == at;
            assert_eq!(told.contains(&held.id), !own, "each at its owner's");
        }
    }

    /// The lease row is won: the old owner has been told, or finds out at its next write.
    fn take_over(&mut self, shard: u32, to: usize) {
        let epoch = self.owners.get(&shard).map_or(1, |(_, epoch)| epoch + 1);
        if let Some((from, _)) = self.owners.insert(shard, (to, epoch)) {
            let waited: BTreeSet<u64> = self.nodes[from].disown(one(shard)).into_iter().collect();
            for id in &waited {
                let (held, state) = &self.rows[id];
                assert_eq!((shard_of(held.campaign), *state), (shard, State::Queued));
            }
            assert!(self.nodes[from].disown(one(shard)).is_empty());
        }
        let now_us = self.now_us();
        assert!(self.nodes[to].own(shard, epoch, self.now));
        // Its recovery: what the store has of the shard.
        for (id, (held, state)) in &self.rows {
            if shard_of(held.campaign) == shard && matches!(state, State::Out) {
                let (tenant, campaign, ordering) = (held.tenant, held.campaign, held.ordering);
                self.nodes[to].hold_key(tenant, campaign, ordering, *id);
            }
        }
        let rows = self.queued(|held| shard_of(held.campaign) == shard);
        let (_, ignored) = self.nodes[to].load(rows, now_us);
        assert_eq!(ignored, 0);
    }

    fn pop(&mut self, node: usize, room: usize) -> usize {
        let (now_us, mono_us) = (self.now_us(), self.now);
        let popped = self.nodes[node].pop(now_us, mono_us, room);
        assert!(popped.expired.is_empty() && popped.blocked.is_empty());
        let epochs = self.nodes[node].epochs();
        let count = popped.ready.len();
        for held in popped.ready {
            let shard = shard_of(held.campaign);
            let (owner, epoch) = self.owners[&shard];
            assert_eq!(owner, node, "only what is owned goes");
            assert_eq!(epochs.of_campaign(held.campaign), epoch);
            let out = self.rows.values().filter(|(other, state)| {
                matches!(state, State::Out) && other.ordering == held.ordering
            });
            assert!(
                held.ordering == 0 || out.count() == 0,
                "two of a key are out"
            );
            let earlier = self.rows.values().filter(|(other, state)| {
                *state == State::Queued && other.ordering == held.ordering && other.id < held.id
            });
            assert!(held.ordering == 0 || earlier.count() == 0, "a key's order");
            let row = self.rows.get_mut(&held.id).expect("accepted");
            assert_eq!(row.1, State::Queued);
            row.1 = State::Out;
            *self.started.entry(held.id).or_default() += 1;
            self.sends.insert((node, held.id));
            self.nodes[node].intended(&[held.id]);
        }
        count
    }

    /// The provider answers one of the sends; the answer of one whose shard went is evidence, settled all the same.
    fn answer(&mut self, pick: usize, taken: bool) {
        let Some(&(node, id)) = self.sends.iter().nth(pick % self.sends.len().max(1)) else {
            return;
        };
        self.sends.remove(&(node, id));
        let (held, state) = self.rows[&id].clone();
        assert!(matches!(state, State::Out), "one attempt at a time");
        let fate = if taken {
            Fate::Taken(None)
        } else {
            Fate::NotTaken
        };
        self.nodes[node].settle(id, fate);
        let owner = self.owners[&shard_of(held.campaign)].0;
        assert_eq!(self.nodes[node].foreign_ended(&[id]), 0, "it was told");
        self.rows.get_mut(&id).expect("accepted").1 =
            if taken { State::Done } else { State::Queued };
        // Whoever owns the shard now reads it in the log of what happened; a retry keeps its key until it is back.
        let now_us = self.now_us();
        for (at, other) in self.nodes.iter_mut().enumerate() {
            if !taken {
                let (loaded, ignored) = other.load(vec![held.clone()], now_us);
                assert_eq!((loaded, ignored), if at == owner { (1, 0) } else { (0, 1) });
            }
            other.schedule.ordering_released(id);
        }
    }

    fn cancel(&mut self, pick: usize) {
        let queued = self.queued(|_| true);
        if let Some(held) = queued.get(pick % queued.len().max(1)) {
            let removed: Vec<bool> = self
                .nodes
                .iter_mut()
                .map(|node| node.remove(held.id))
                .collect();
            let owner = self.owners[&shard_of(held.campaign)].0;
            assert!(
                removed
                    .iter()
                    .enumerate()
                    .all(|(at, &was)| was == (at == owner))
            );
            self.rows.get_mut(&held.id).expect("accepted").1 = State::Done;
        }
    }

    fn check(&self) {
        for (at, node) in self.nodes.iter().enumerate() {
            let mine = self.queued(|held| self.owners[&shard_of(held.campaign)].0 == at);
            for held in &mine {
                let is_away = node.spill().is_any_away();
                assert!(
                    node.schedule.contains(held.id) || is_away || node.held() > node.schedule.len()
                );
            }
            let counts = node.schedule.counts();
            let waits = [counts.ready, counts.due, counts.quota, counts.ordering];
            assert_eq!(waits.iter().sum::<usize>(), node.schedule.len());
            assert!(node.held() <= mine.len(), "nothing of another's");
            let out: Vec<&(usize, u64)> = self.sends.iter().filter(|send| send.0 == at).collect();
            assert_eq!(node.outstanding(), out.len());
            for recipient in 13_035_550_100..13_035_550_103 {
                let to = out
                    .iter()
                    .filter(|(_, id)| self.rows[id].0.recipient == recipient);
                assert_eq!(node.outstanding_to(1, recipient) as usize, to.count());
            }
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Accept { count, dice } => self.accept(count, dice),
            Step::Move { campaign, to } => {
                let shard = shard_of(CAMPAIGNS[campaign]);
                self.take_over(shard, to);
            }
            Step::Pop { node, room } => {
                self.pop(node, room);
            }
            Step::Answer { pick, taken } => self.answer(pick, taken),
            Step::Cancel { pick } => self.cancel(pick),
            Step::Wait => self.now += SECOND_US,
        }
    }

    /// Everything goes, at its owner's.
    fn drain(&mut self) {
        for _ in 0..10_000 {
            while !self.sends.is_empty() {
                self.answer(0, true);
            }
            let mut went = 0;
            for node in 0..3 {
                went += self.pop(node, 10);
            }
            if went == 0 {
                break;
            }
        }
        assert_eq!(self.queued(|_| true), [], "left behind");
        for node in &self.nodes {
            assert_eq!((node.held(), node.outstanding()), (0, 0));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_message_goes_once_from_its_owner_in_order(steps in prop::collection::vec(step(), 1..120)) {
        let mut cluster = Cluster::new(10_000);
        for step in steps {
            cluster.step(step);
            cluster.check();
        }
        cluster.drain();
    }
}

// ------------------------------------------------------------------------------------------------------ each by itself

#[test]
fn a_campaign_has_one_shard() {
    assert_eq!(shard_of(10), shard_of(10 + SHARDS));
    assert_ne!(shard_of(10), shard_of(11));
    assert_eq!(
        ShardSet::of(&[0, 63]).map(|set| set.iter().collect()),
        Some(vec![0, 63])
    );
    assert_eq!(ShardSet::of(&[64]), None);
    assert_eq!(ShardSet::ALL.iter().count(), 64);
    assert!(!ShardSet::ALL.has(64));
}

#[test]
fn a_batch_names_its_shards_and_their_epochs_ascending() {
    let mut epochs = Epochs::all(3);
    epochs.own(11, 7);
    epochs.own(64, 9);
    let batch = [11, 10, 75, 12, 11];
    assert_eq!(
        epochs.of_campaigns(batch.into_iter()),
        [(10, 3), (11, 7), (12, 3)]
    );
    assert_eq!(epochs.owned(), ShardSet::ALL);
}

#[test]
fn a_node_alone_owns_everything() {
    let mut node = owned(Vec::new(), 100);
    let batch = CAMPAIGNS.map(|campaign| held(u64::from(campaign), campaign));
    assert!(node.push_fresh(batch.to_vec(), START_US).is_empty());
    assert_eq!(popped(&mut node, 0).len(), 4);
}

#[test]
fn what_is_known_already_is_ignored_until_its_shard_went_and_came_back() {
    let mut node = owned(Vec::new(), 1);
    let rows = vec![held(1, 10), held(2, 10)];
    assert_eq!(
        node.load(rows.clone(), START_US),
        (2, 0),
        "one of them overflows"
    );
    assert_eq!(node.load(rows.clone(), START_US), (0, 0));
    assert_eq!(popped(&mut node, 0), [1]);
    assert_eq!(node.load(rows.clone(), START_US), (0, 0), "out, or waiting");
    assert_eq!(node.disown(one(10)), [2]);
    assert_eq!((node.held(), node.outstanding()), (0, 1));
    assert_eq!(node.load(rows.clone(), START_US), (0, 2));
    assert!(node.own(10, 2, 0));
    // The other owner gave the first one up, and it is to be sent again.
    assert_eq!(node.load(rows, START_US), (2, 0));
    assert_eq!(node.outstanding_to(1, 13_035_550_101), 1);
    assert_eq!(popped(&mut node, 1), [1]);
    assert_eq!(
        node.outstanding_to(1, 13_035_550_101),
        2,
        "both may be on their way"
    );
    assert_eq!(node.foreign_ended(&[1, 2]), 1);
    assert_eq!(node.outstanding_to(1, 13_035_550_101), 1);
    node.settle(1, Fate::Taken(None));
    assert_eq!(node.outstanding(), 0);
    // Twice, and of what was never here.
    node.settle(1, Fate::Taken(None));
    assert_eq!(node.foreign_ended(&[1, 7]), 0);
    assert_eq!(node.outstanding(), 0);
}

#[test]
fn what_a_shard_has_in_the_store_goes_with_it() {
    let mut node = owned(Vec::new(), 4);
    let batch: Vec<Held> = (1..=20).map(|id| held(id, 10)).collect();
    node.push_fresh(batch, START_US);
    let scheduled = Held {
        flags: flags::SCHEDULED,
        due_us: START_US + SECOND_US,
        ..held(21, 10)
    };
    node.push_fresh(vec![scheduled, held(22, 11)], START_US);
    let away = node.spill().away();
    assert_eq!(away.len(), 1);
    assert_eq!(node.spill().schedule_room(), 1);
    let left = node.disown(one(10));
    assert!(left.contains(&1) && left.contains(&21) && !left.contains(&22));
    assert!(!node.spill().is_any_away());
    assert_eq!(node.spill().schedule_room(), 2);
    assert!(!node.put_away(away[0]));
    // A piece that was asked for before.
    let rows = (3..=6).map(|id| held(id, 10)).collect();
    assert_eq!(node.read_back(rows, away[0].stream, 7, START_US), 4);
    assert!(node.own(10, 2, 0));
    assert!(node.put_away(Away { from: 3, ..away[0] }));
    assert_eq!(node.spill().wanted(node.held())[0].away.from, 3);
    assert_eq!(
        away[0].stream,
        Stream {
            campaign: 10,
            kind: StreamKind::Transactional
        }
    );
}

#[test]
fn an_ordering_key_goes_with_its_shard_also_of_one_that_is_out() {
    let mut node = owned(Vec::new(), 100);
    let rows: Vec<Held> = (1..=3).map(|id| ordered(id, 10, 5)).collect();
    node.load(rows.clone(), START_US);
    node.load(vec![ordered(9, 11, 5)], START_US);
    assert_eq!(popped(&mut node, 0), [1, 9]);
    assert_eq!(node.disown(one(10)), [2, 3]);
    assert!(node.own(10, 2, 0));
    // The store says that the first is through.
    assert_eq!(node.load(rows[1..].to_vec(), START_US), (2, 0));
    assert_eq!(popped(&mut node, 1), [2]);
    node.schedule.ordering_released(1);
    assert_eq!(popped(&mut node, 2), [0_u64; 0], "the second is out");
    node.load(vec![ordered(10, 11, 5)], START_US);
    assert_eq!(
        popped(&mut node, 3),
        [0_u64; 0],
        "the other shard's key is held still"
    );
    node.hold_key(1, 12, 99, 50);
    node.schedule.ordering_released(9);
    assert_eq!(popped(&mut node, 4), [10]);
}

#[test]
fn a_shard_that_comes_starts_with_empty_rates_and_leaves_the_others_alone() {
    let own = [
        quota(1, Scope::Campaign, 10),
        quota(2, Scope::Number, 12_025_550_010),
        quota(3, Scope::Campaign, 11),
    ];
    let mut node = owned(own.to_vec(), 100);
    let late = 100 * SECOND_US;
    node.disown(one(10));
    assert!(node.own(10, 2, late));
    let rows = (1..=6).map(|id| held(id, 10));
    node.load(
        rows.chain((7..=12).map(|id| held(id, 11))).collect(),
        START_US,
    );
    assert_eq!(
        popped(&mut node, late),
        [7, 8, 9, 10, 11],
        "the other's burst"
    );
    // Five in ten seconds.
    assert_eq!(popped(&mut node, late + 2 * SECOND_US), [1, 12]);
    // Owned already: a lease that is taken anew changes no rate.
    assert!(node.own(10, 3, late + 3 * SECOND_US));
    assert_eq!(popped(&mut node, late + 4 * SECOND_US), [2]);
    assert!(!node.own(64, 1, late));
}

#[test]
fn a_batch_that_was_not_written_down_before_its_shard_went_charges_nothing() {
    let mut node = owned(Vec::new(), 100);
    node.load(vec![held(1, 10)], START_US);
    assert_eq!(popped(&mut node, 0), [1]);
    node.disown(one(10));
    node.settle(1, Fate::NotTaken);
    assert_eq!(
        (node.outstanding(), node.outstanding_to(1, 13_035_550_101)),
        (0, 0)
    );
    assert_eq!(node.load(vec![held(1, 10)], START_US), (0, 1));
}
