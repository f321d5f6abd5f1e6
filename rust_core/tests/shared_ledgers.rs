//! Day ledgers that several nodes charge: the store's row is exact whatever is undone, lost or learned meanwhile.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use _core::message::{Carrier, Class, Held, Kind, Micros};
use _core::owned::{Owned, guarded};
use _core::registry::{Campaign, CampaignState, OnUnknown, Quota, Registry, Scope, Tenant, Unit};
use _core::schedule::{Config, Reservation, Scheduler};
use _core::settle::{Changes, Fate};
use _core::shards::{ShardSet, shard_of};
use proptest::prelude::*;

const SECOND_US: i64 = 1_000_000;
const START_US: Micros = 1_750_000_000 * SECOND_US;
const END_US: Micros = START_US + 1_000_000 * SECOND_US;
const DAY: i32 = 5;
const CAMPAIGNS: [u32; 3] = [10, 11, 12];
const TMOBILE: u32 = 1;
const ATT: u32 = 2;
const CAPS: [(u32, u64); 2] = [(TMOBILE, 40), (ATT, 60)];

type Row = (i64, i64);

fn quota(key: u32, carrier: Carrier, amount: u64, reserved_percent: u8) -> Quota {
    Quota {
        key,
        scope: Scope::BrandCarrierDay,
        subject: 1,
        carrier,
        unit: Unit::Segments,
        amount,
        window_us: 1,
        burst: 1,
        reserved_percent,
        reserved_class: Class::Critical,
    }
}

fn node(campaigns: &[u32]) -> Owned {
    let tenant = Tenant {
        key: 1,
        active: true,
    };
    let of = CAMPAIGNS.map(|key| Campaign {
        key,
        tenant: 1,
        brand: 1,
        id: format!("c{key}"),
        state: CampaignState::Active,
        on_unknown: OnUnknown::ByClass,
        messaging_profile: String::new(),
        numbers: vec![12_025_550_000 + u64::from(key)],
    });
    let quotas = vec![
        quota(TMOBILE, Carrier::TMobile, 40, 25),
        quota(ATT, Carrier::Att, 60, 0),
    ];
    let registry = Arc::new(Registry::new(1, vec![tenant], of.to_vec(), quotas));
    let mut node = Owned::new(Scheduler::new(Config::default(), registry, 0), 1_000_000);
    node.schedule
        .set_days(&[(TMOBILE, DAY, END_US), (ATT, DAY, END_US)]);
    node.disown(ShardSet::ALL);
    for &campaign in campaigns {
        assert!(node.own(shard_of(campaign), 1, 0));
    }
    node
}

fn held(id: u64, campaign: u32, segments: u16, class: Class) -> Held {
    Held {
        id,
        tenant: 1,
        campaign,
        sender: 12_025_550_000 + u64::from(campaign),
        recipient: 13_035_550_100 + id % 7,
        class,
        kind: Kind::Sms,
        encoding: 1,
        segments,
        seq: 1,
        attempt: 0,
        generation: 1,
        counted: 0,
        flags: 0,
        due_us: START_US,
        expires_us: END_US,
        ordering: 0,
        recipe: 0,
        body: Arc::from([1_u8].as_slice()),
    }
}

/// The store, and what is known of every attempt.
struct Cluster {
    nodes: Vec<Owned>,
    rows: BTreeMap<u32, Row>,
    next_id: u64,
    /// Written down, without outcome: node and message.
    out: BTreeMap<u64, (usize, Held)>,
    /// Of unknown outcome; they may be corrected.
    unknown: BTreeMap<u64, usize>,
    /// What attempts charge by (message, quota), as it should be.
    owed: BTreeMap<(u64, u32), i64>,
    /// Whose carrier is open, by recipient.
    open: BTreeMap<u64, u64>,
    learned: HashMap<u64, Carrier>,
    refused: usize,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Push {
        node: usize,
        count: u64,
        dice: u64,
    },
    /// Pop and write down; the transaction may be undone and run again, or come to nothing.
    Dispatch {
        node: usize,
        room: usize,
        undone: u8,
    },
    /// A carrier is learned between a batch's two halves of a transaction, or at any other time.
    Learn {
        recipient: u64,
        carrier: bool,
    },
    Settle {
        pick: usize,
        fate: u8,
        undone: bool,
    },
    See {
        node: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_usize..3, 1_u64..8, any::<u64>()).prop_map(|(node, count, dice)| Step::Push { node, count, dice }),
        6 => (0_usize..3, 1_usize..8, 0_u8..6).prop_map(|(node, room, undone)| Step::Dispatch { node, room, undone }),
        1 => (0_u64..7, any::<bool>()).prop_map(|(recipient, carrier)| Step::Learn { recipient, carrier }),
        5 => (0_usize..1_000, 0_u8..4, any::<bool>())
            .prop_map(|(pick, fate, undone)| Step::Settle { pick, fate, undone }),
        2 => (0_usize..3).prop_map(|node| Step::See { node }),
    ]
}

impl Cluster {
    fn new() -> Self {
        Self {
            nodes: CAMPAIGNS.map(|campaign| node(&[campaign])).into(),
            rows: CAPS.map(|(quota, _)| (quota, (0, 0))).into(),
            next_id: 1,
            out: BTreeMap::new(),
            unknown: BTreeMap::new(),
            owed: BTreeMap::new(),
            open: BTreeMap::new(),
            learned: HashMap::new(),
            refused: 0,
        }
    }

    fn seen(&mut self, node: usize) {
        let unsigned = |units: i64| u64::try_from(units).expect("never below 0");
        let rows: Vec<(u32, i32, u64, u64)> = self
            .rows
            .iter()
            .map(|(&quota, &(spent, reserved))| (quota, DAY, unsigned(spent), unsigned(reserved)))
            .collect();
        self.nodes[node].ledgers_seen(&rows);
    }

    fn dispatch(&mut self, at: usize, room: usize, undone: u8) {
        let popped = self.nodes[at].pop(START_US, 0, room);
        let mut batch = popped.ready;
        if undone == 1 {
            // Never written down.
            self.put_back(at, &batch);
            return;
        }
        let mut rows = self.rows.clone();
        let mut reservations: Vec<Reservation>;
        loop {
            reservations = self.nodes[at].schedule.reservations(&batch);
            rows.clone_from(&self.rows);
            let Some((quota, cap)) = add(&mut rows, &guarded(&reservations)) else {
                break;
            };
            self.refused += 1;
            let charging: BTreeSet<u64> = reservations
                .iter()
                .filter(|of| of.quota == quota && of.cap <= cap)
                .map(|of| of.id)
                .collect();
            let (dropped, kept) = batch
                .into_iter()
                .partition(|held| charging.contains(&held.id));
            batch = kept;
            self.seen(at);
            self.put_back(at, &dropped);
        }
        if undone == 2 {
            // Learned while the transaction is under way.
            self.learn(13_035_550_100 + u64::from(undone), Carrier::TMobile);
        }
        self.rows = rows;
        for of in &reservations {
            self.owed
                .insert((of.id, of.quota), i64::try_from(of.units).expect("small"));
        }
        for held in &batch {
            // What is known by now counts: the rest of what the store was told is owed back.
            match self.learned.get(&held.recipient) {
                Some(&carrier) => self.keep_only(held.id, carrier),
                None => {
                    self.open.insert(held.id, held.recipient);
                }
            }
        }
        let ids: Vec<u64> = batch.iter().map(|held| held.id).collect();
        self.nodes[at].reserved(&ids, &reservations);
        for held in batch {
            self.out.insert(held.id, (at, held));
        }
        self.check();
    }

    fn put_back(&mut self, at: usize, batch: &[Held]) {
        for held in batch {
            self.nodes[at].settle(held.id, Fate::NotTaken);
        }
        let (loaded, _) = self.nodes[at].load(batch.to_vec(), START_US);
        assert_eq!(loaded, batch.len());
    }

    fn keep_only(&mut self, id: u64, carrier: Carrier) {
        let other = if carrier == Carrier::TMobile {
            ATT
        } else {
            TMOBILE
        };
        if let Some(units) = self.owed.get_mut(&(id, other)) {
            *units = 0;
        }
    }

    fn learn(&mut self, recipient: u64, carrier: Carrier) {
        if self.learned.contains_key(&recipient) {
            return;
        }
        self.learned.insert(recipient, carrier);
        for node in &mut self.nodes {
            node.schedule.learn(recipient, carrier);
        }
        let of_recipient = self.open.iter().filter(|(_, of)| **of == recipient);
        let ids: Vec<u64> = of_recipient.map(|(&id, _)| id).collect();
        for id in ids {
            self.open.remove(&id);
            self.keep_only(id, carrier);
        }
    }

    fn settle(&mut self, pick: usize, fate: u8, undone: bool) {
        let all: Vec<(u64, usize)> = self
            .out
            .iter()
            .map(|(&id, &(at, _))| (id, at))
            .chain(self.unknown.iter().map(|(&id, &at)| (id, at)))
            .collect();
        let Some(&(id, at)) = all.get(pick % all.len().max(1)) else {
            return;
        };
        let fate = [
            Fate::Taken(None),
            Fate::Taken(Some(1)),
            Fate::NotTaken,
            Fate::Unknown,
        ][usize::from(fate)];
        let changes = Changes {
            fates: vec![(id, fate)],
            ..Changes::default()
        };
        self.nodes[at].charge(&changes);
        let mut rows = self.nodes[at].schedule.take_deltas();
        if undone {
            self.nodes[at].schedule.owe_deltas(&rows);
            self.nodes[at].charge(&changes);
            rows = self.nodes[at].schedule.take_deltas();
        }
        self.write(&rows);
        self.nodes[at].apply(&changes, START_US, 0);
        assert!(
            self.nodes[at].schedule.take_deltas().is_empty(),
            "charged twice"
        );
        self.out.remove(&id);
        self.unknown.remove(&id);
        for quota in [TMOBILE, ATT] {
            if let Some(units) = self.owed.get_mut(&(id, quota)).filter(|units| **units > 0) {
                match fate {
                    Fate::Taken(Some(parts)) => *units = i64::from(parts),
                    Fate::NotTaken => *units = 0,
                    Fate::Taken(None) | Fate::Unknown => {}
                }
            }
        }
        match fate {
            Fate::Unknown => {
                self.unknown.insert(id, at);
            }
            Fate::NotTaken => {
                self.open.remove(&id);
            }
            Fate::Taken(_) => {}
        }
        self.check();
    }

    fn write(&mut self, rows: &[(u32, i32, i64, i64)]) {
        for &(quota, day, spent, reserved) in rows {
            assert_eq!(day, DAY);
            let row = self.rows.get_mut(&quota).expect("a row");
            row.0 += spent;
            row.1 += reserved;
        }
    }

    fn check(&self) {
        for (quota, cap) in CAPS {
            let (spent, reserved) = self.rows[&quota];
            assert!(
                spent >= 0 && reserved >= 0,
                "{quota}: {spent} and {reserved}"
            );
            assert!(spent + reserved <= i64::try_from(cap).expect("small"));
            let of = self.owed.iter().filter(|((_, of), _)| *of == quota);
            let owed: i64 = of.map(|(_, units)| units).sum();
            assert!(
                spent + reserved >= owed,
                "{quota}: {owed} owed, {spent} and {reserved} said"
            );
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Push { node, count, dice } => {
                for n in 0..count {
                    let chance = dice.rotate_left(u32::try_from(n * 9 % 64).expect("small"));
                    let class = Class::ALL[usize::try_from(chance % 3).expect("small")];
                    let segments = u16::try_from(chance / 3 % 3).expect("small") + 1;
                    let message = held(self.next_id, CAMPAIGNS[node], segments, class);
                    self.next_id += 1;
                    assert!(
                        self.nodes[node]
                            .push_fresh(vec![message], START_US)
                            .is_empty()
                    );
                }
            }
            Step::Dispatch { node, room, undone } => self.dispatch(node, room, undone),
            Step::Learn { recipient, carrier } => {
                let carrier = if carrier {
                    Carrier::TMobile
                } else {
                    Carrier::Att
                };
                self.learn(13_035_550_100 + recipient, carrier);
            }
            Step::Settle { pick, fate, undone } => self.settle(pick, fate, undone),
            Step::See { node } => self.seen(node),
        }
    }
}

/// Adds what the batch reserves, each only within its guard; the first that is refused.
fn add(rows: &mut BTreeMap<u32, Row>, deltas: &[(u32, i32, u64, u64)]) -> Option<(u32, u64)> {
    for &(quota, day, units, cap) in deltas {
        assert_eq!(day, DAY);
        let (spent, reserved) = rows
            .get_mut(&quota)
            .map(|row| (row.0, &mut row.1))
            .expect("a row");
        let units = i64::try_from(units).expect("small");
        if spent + *reserved + units > i64::try_from(cap).expect("small") {
            return Some((quota, cap));
        }
        *reserved += units;
    }
    None
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_shared_row_is_what_attempts_charge_and_never_passes_its_cap(
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let mut cluster = Cluster::new();
        for step in steps {
            cluster.step(step);
            cluster.check();
        }
        while !cluster.out.is_empty() {
            cluster.settle(0, 0, false);
        }
        for at in 0..3 {
            let rows = cluster.nodes[at].schedule.take_deltas();
            cluster.write(&rows);
        }
        for (quota, _) in CAPS {
            let of = cluster.owed.iter().filter(|((_, of), _)| *of == quota);
            let owed: i64 = of.map(|(_, units)| units).sum();
            prop_assert_eq!(cluster.rows[&quota], (owed, 0), "{}", quota);
        }
        // Who has seen the rows refuses by itself.
        for at in 0..3 {
            cluster.seen(at);
            let refused = cluster.refused;
            cluster.dispatch(at, 100, 0);
            prop_assert_eq!(cluster.refused, refused);
        }
    }
}

fn learned(node: &mut Owned, id: u64, carrier: Carrier) {
    node.schedule.learn(13_035_550_100 + id % 7, carrier);
}

fn popped(node: &mut Owned) -> Vec<Held> {
    node.pop(START_US, 0, 100).ready
}

#[test]
fn the_guard_sees_each_class_within_its_share() {
    let mut node = node(&[10]);
    for id in 1..=3 {
        learned(&mut node, id, Carrier::TMobile);
    }
    let classes = [Class::Critical, Class::Bulk, Class::Transactional];
    let batch = (1..).zip(classes).map(|(id, class)| held(id, 10, 2, class));
    node.push_fresh(batch.collect(), START_US);
    let batch = popped(&mut node);
    let rows = guarded(&node.schedule.reservations(&batch));
    assert_eq!(rows, [(TMOBILE, DAY, 4, 30), (TMOBILE, DAY, 2, 40)]);
}

#[test]
fn what_others_have_reserved_is_refused_before_anything_is_written() {
    let mut node = node(&[10]);
    for id in 1..=3 {
        learned(&mut node, id, Carrier::Att);
    }
    node.push_fresh(
        (1..=3).map(|id| held(id, 10, 1, Class::Bulk)).collect(),
        START_US,
    );
    node.ledgers_seen(&[(ATT, DAY, 50, 9), (99, DAY, 1, 1), (ATT, DAY - 1, 60, 0)]);
    let batch = popped(&mut node);
    assert_eq!(batch.len(), 1);
    // Read while it is not written down: it counts beside the row.
    node.ledgers_seen(&[(ATT, DAY, 50, 9)]);
    assert_eq!(popped(&mut node).len(), 0);
    let reservations = node.schedule.reservations(&batch);
    node.reserved(&[batch[0].id], &reservations);
    node.ledgers_seen(&[(ATT, DAY, 50, 8)]);
    assert_eq!(popped(&mut node).len(), 2, "others gave two back");
    // The next day's row comes before the day.
    node.ledgers_seen(&[(ATT, DAY + 1, 60, 0)]);
    node.schedule.set_days(&[(ATT, DAY + 1, END_US)]);
    node.push_fresh(vec![held(8, 10, 1, Class::Bulk)], START_US);
    assert_eq!(popped(&mut node).len(), 0);
}

#[test]
fn a_late_outcome_of_a_shard_that_went_is_charged_once_and_one_that_never_comes_stays_reserved() {
    let mut node = node(&[10]);
    for id in 1..=2 {
        learned(&mut node, id, Carrier::Att);
    }
    node.push_fresh(
        (1..=2).map(|id| held(id, 10, 2, Class::Bulk)).collect(),
        START_US,
    );
    let batch = popped(&mut node);
    let reservations = node.schedule.reservations(&batch);
    node.reserved(&[1, 2], &reservations);
    node.disown(ShardSet::ALL);
    let changes = Changes {
        fates: vec![(1, Fate::NotTaken)],
        ..Changes::default()
    };
    node.charge(&changes);
    node.charge(&changes);
    assert_eq!(node.schedule.take_deltas(), [(ATT, DAY, 0, -2)]);
    node.apply(&changes, START_US, 0);
    assert_eq!(node.foreign_ended(&[1, 2]), 1);
    node.settle(2, Fate::Taken(None));
    assert_eq!(node.schedule.take_deltas(), []);
    assert_eq!(node.outstanding(), 0);
}

#[test]
fn a_node_alone_is_told_absolute_rows_and_no_differences() {
    let mut node = node(&CAMPAIGNS);
    learned(&mut node, 1, Carrier::Att);
    node.push_fresh(vec![held(1, 10, 2, Class::Bulk)], START_US);
    popped(&mut node);
    assert_eq!(node.intended(&[1]), [(ATT, DAY, 0, 2)]);
    node.settle(1, Fate::Taken(None));
    assert_eq!(node.ledger_rows(), [(ATT, DAY, 2, 0)]);
    assert_eq!(node.schedule.take_deltas(), []);
}
