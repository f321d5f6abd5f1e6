//! Any sequence of facts on two messages, against `life.rs`, which knows the design's text and not the code.
//!
//! The driver is the rest of the engine: it writes attempts down under their guard, keeps early receipts, moves the clock
//! both ways, changes campaigns and consent. After each step the rows must be where the text allows, with the events that
//! led there; at the end everything heals, and every message must come to its end in time.

use _core::message::{Class, flags};
use _core::outcome::{NotTaken, Outcome};
use _core::registry::{Campaign, CampaignState, OnUnknown, Registry, Tenant};
use _core::settle::{Changes, Fact, Fate, Gate, Policy, Receipt, ReceiptStatus, Row, settle};
use _core::state::{Reason, State};

use super::choices::Choices;
use super::life::{Around, CODES, Failure, Life, OPTED_OUT_CODE, is_listed, outcome};

const START_US: i64 = 1_790_000_000_000_000;
const SECOND_US: i64 = 1_000_000;
const HOUR_US: i64 = 3_600 * SECOND_US;
const STEPS_MAX: usize = 200;
const MESSAGES: usize = 2;
/// Every open message ends within so many timers once nothing else happens.
const TIMERS_MAX: usize = 300;
const STATUSES: [ReceiptStatus; 5] = [
    ReceiptStatus::Queued,
    ReceiptStatus::Sent,
    ReceiptStatus::Delivered,
    ReceiptStatus::Undelivered,
    ReceiptStatus::Unconfirmed,
];

struct World {
    now_us: i64,
    /// The latest the clock ever said.
    latest_us: i64,
    seed: u64,
    policy: Policy,
    on_unknown: OnUnknown,
    campaign: CampaignState,
    rows: Vec<Row>,
    /// What each may be by the text.
    lives: Vec<Vec<Life>>,
    /// When the generation's key was first used.
    key_from_us: Vec<i64>,
    early: Vec<(u64, Receipt)>,
    /// Attempts whose outcome was told: it is told once.
    answered: Vec<(usize, u16)>,
    last: Option<(usize, Receipt, Failure)>,
}

impl World {
    fn new(choices: &mut Choices<'_>) -> Self {
        let validity_us = choices.of(&[HOUR_US / 4, 24 * HOUR_US, 72 * HOUR_US]);
        let rows = (0..MESSAGES)
            .map(|place| Row {
                id: 77 + place as u64,
                tenant: 2,
                campaign: 3,
                recipient: 12_025_550_123,
                class: choices.of(&Class::ALL),
                segments: 1,
                state: State::Queued,
                reason: Reason::Accepted as u8,
                code: String::new(),
                seq: 1,
                attempt: 0,
                generation: 1,
                counted: 0,
                flags: flags::ORDERED,
                due_us: START_US,
                accept_us: START_US,
                expires_us: START_US + validity_us,
                updated_us: START_US,
                started_us: 0,
                provider: 1,
                provider_id: String::new(),
                carrier: 0,
                crashes: 0,
                opted_out: false,
            })
            .collect();
        Self {
            now_us: START_US,
            latest_us: START_US,
            seed: u64::from(choices.byte()),
            policy: Policy {
                attempts_max: choices.of(&[1, 2, 8]),
                reconcile_wait_us: 60 * SECOND_US,
                no_receipt_after_us: 72 * HOUR_US,
                lookup_after_us: HOUR_US / 2,
                backoff_base_us: SECOND_US / 2,
                backoff_cap_us: 300 * SECOND_US,
                honours_keys: choices.one_in(3),
                key_window_us: 23 * HOUR_US,
                day_reset_us: START_US + 10 * HOUR_US,
                spend_reset_us: START_US + 5 * HOUR_US,
            },
            on_unknown: choices.of(&[OnUnknown::ByClass, OnUnknown::Resend, OnUnknown::Unresolved]),
            campaign: CampaignState::Active,
            rows,
            lives: vec![vec![Life::new()]; MESSAGES],
            key_from_us: vec![i64::MAX; MESSAGES],
            early: Vec::new(),
            answered: Vec::new(),
            last: None,
        }
    }

    fn registry(&self) -> Registry {
        let tenant = Tenant {
            key: 2,
            active: true,
        };
        let campaign = Campaign {
            key: 3,
            tenant: 2,
            brand: 1,
            id: "notices".into(),
            state: self.campaign,
            on_unknown: self.on_unknown,
            messaging_profile: String::new(),
            numbers: vec![12_025_550_100],
        };
        Registry::new(1, vec![tenant], vec![campaign], Vec::new())
    }

    fn gates_open(&self, row: &Row) -> bool {
        !row.opted_out && row.expires_us > self.now_us && self.campaign != CampaignState::Stopped
    }

    fn around(&self, place: usize) -> Around {
        let row = &self.rows[place];
        let resend = match self.on_unknown {
            OnUnknown::ByClass => row.class == Class::Critical,
            OnUnknown::Resend => true,
            OnUnknown::Unresolved => false,
        };
        let key_age_us = self.now_us.saturating_sub(self.key_from_us[place]);
        Around {
            resend,
            key_holds: self.policy.honours_keys && key_age_us < self.policy.key_window_us,
            gates_open: self.gates_open(row),
            expired: row.expires_us <= self.now_us,
            timer_out: self.now_us >= row.due_us,
            attempts_max: self.policy.attempts_max,
        }
    }

    /// Writes an attempt down, as dispatch does, under its guard.
    fn dispatch(&mut self, place: usize) {
        let open = self.gates_open(&self.rows[place]) && self.campaign == CampaignState::Active;
        let row = &mut self.rows[place];
        if row.state != State::Queued || !open || row.due_us > self.now_us {
            return;
        }
        let forbidden = flags::NO_RESEND | flags::CANCEL_REQUESTED;
        assert_eq!(row.flags & forbidden, 0, "a closed message would be sent");
        row.state = State::Dispatching;
        row.reason = Reason::Attempt as u8;
        row.code.clear();
        row.seq += 1;
        row.attempt += 1;
        row.started_us = self.now_us;
        row.updated_us = self.now_us;
        row.due_us = self.now_us + 15 * SECOND_US;
        self.key_from_us[place] = self.key_from_us[place].min(self.now_us);
        for life in &mut self.lives[place] {
            assert!(!life.closed, "a closed message is sent");
            life.state = State::Dispatching;
            life.attempt += 1;
        }
    }

    /// An operator takes a dead message up again.
    fn take_up(&mut self, place: usize) {
        let row = &mut self.rows[place];
        if row.state != State::Dead {
            return;
        }
        row.state = State::Queued;
        row.seq += 1;
        row.crashes = 0;
        row.due_us = self.now_us;
        for life in &mut self.lives[place] {
            life.state = State::Queued;
            life.crashes = 0;
            life.closed = false;
        }
    }

    fn receipt(&self, place: usize, choices: &mut Choices<'_>) -> (Receipt, Failure) {
        let row = &self.rows[place];
        let status = choices.of(&STATUSES);
        let (code, failure) = choices.of(&CODES);
        let (mut generation, mut provider_id) = (row.generation, "p-0".to_owned());
        let started = self.key_from_us[place] != i64::MAX;
        match choices.below(8) {
            // No attempt of a generation: no receipt of it, but of one that ended.
            _ if !started && generation > 1 => generation -= 1,
            0 => generation += 1,
            1 => generation = generation.saturating_sub(1).max(1),
            2 if !row.provider_id.is_empty() => {
                generation = 0;
                provider_id.clone_from(&row.provider_id);
            }
            _ => {}
        }
        let receipt = Receipt {
            generation,
            status,
            code: code.to_owned(),
            carrier: choices.byte() % 7,
            parts: choices.one_in(2).then_some(2),
            provider_id,
            lookup: choices.one_in(4),
        };
        (receipt, failure)
    }

    fn fact(&mut self, place: usize, choices: &mut Choices<'_>) -> (usize, Fact, Failure) {
        let row = &self.rows[place];
        let none = Failure::Final;
        match choices.below(13) {
            0..=3 => {
                let late = if choices.one_in(4) {
                    u16::from(choices.byte() % 4)
                } else {
                    0
                };
                let attempt = row.attempt.saturating_sub(late);
                let told = outcome(choices.byte(), i64::from(choices.byte()) * SECOND_US);
                if self.answered.contains(&(place, attempt)) {
                    return (place, Fact::Recovered, none);
                }
                if !matches!(told, Outcome::Unknown { .. }) {
                    self.answered.push((place, attempt));
                }
                (place, Fact::Outcome(attempt, told), none)
            }
            4..=6 => {
                let (receipt, failure) = self.receipt(place, choices);
                self.last = Some((place, receipt.clone(), failure));
                (place, Fact::Receipt(receipt), failure)
            }
            7 => match self.last.clone() {
                // By the provider's id alone it finds only the row that has it.
                Some((of, receipt, failure))
                    if receipt.generation > 0
                        || receipt.provider_id == self.rows[of].provider_id =>
                {
                    (of, Fact::Receipt(receipt), failure)
                }
                _ => (place, Fact::Recovered, none),
            },
            8 => {
                self.move_clock((self.rows[place].due_us - self.now_us).max(0));
                (place, Fact::Due, none)
            }
            9 => (place, Fact::Cancel, none),
            10 => {
                let gate = choices.of(&[Gate::Expired, Gate::OptedOut, Gate::CampaignStopped]);
                (place, Fact::GateClosed(gate), none)
            }
            11 => {
                if row.state == State::Dispatching {
                    // It never left: nobody will answer it.
                    self.answered.push((place, row.attempt));
                }
                (place, Fact::Crashed, none)
            }
            _ => (place, Fact::Recovered, none),
        }
    }

    fn move_clock(&mut self, by_us: i64) {
        self.now_us = self.now_us.saturating_add(by_us).max(START_US - HOUR_US);
        self.latest_us = self.latest_us.max(self.now_us);
        while self.policy.day_reset_us <= self.now_us {
            self.policy.day_reset_us += 24 * HOUR_US;
        }
        while self.policy.spend_reset_us <= self.now_us {
            self.policy.spend_reset_us += 24 * HOUR_US;
        }
    }

    fn step(&mut self, choices: &mut Choices<'_>) {
        let place = choices.below(MESSAGES);
        match choices.below(16) {
            0..=4 => {
                if choices.one_in(2) {
                    self.move_clock((self.rows[place].due_us - self.now_us).max(0));
                }
                self.dispatch(place);
            }
            5 => {
                let by_us = i64::from(choices.wide()) * SECOND_US;
                self.move_clock(if choices.one_in(4) { -by_us } else { by_us });
            }
            6 => match choices.below(5) {
                0 => self.campaign = CampaignState::Active,
                1 => {
                    self.campaign = choices.of(&[CampaignState::Paused, CampaignState::Stopped]);
                }
                2 => {
                    self.on_unknown =
                        choices.of(&[OnUnknown::ByClass, OnUnknown::Resend, OnUnknown::Unresolved]);
                }
                3 => {
                    let opted_out = !self.rows[place].opted_out;
                    self.rows[place].opted_out = opted_out;
                }
                _ => self.take_up(place),
            },
            7 => {
                // Several facts at once, as the outcomes and receipts of a busy moment; timers come by themselves.
                let facts: Vec<_> = (0..=choices.below(4))
                    .map(|_| {
                        let place = choices.below(MESSAGES);
                        self.fact(place, choices)
                    })
                    .filter(|(_, fact, _)| *fact != Fact::Due)
                    .collect();
                self.tell(&facts);
            }
            _ => {
                let fact = self.fact(place, choices);
                self.tell(&[fact]);
            }
        }
    }

    /// Tells the core, and holds what it changes to the text.
    fn tell(&mut self, facts: &[(usize, Fact, Failure)]) {
        let mut lives = self.lives.clone();
        for (place, fact, failure) in facts {
            let around = self.around(*place);
            lives[*place] = lives[*place]
                .iter()
                .flat_map(|life| life.after(fact, *failure, around))
                .collect();
        }
        let told: Vec<usize> = (0..MESSAGES)
            .filter(|place| facts.iter().any(|(of, _, _)| of == place))
            .collect();
        for &place in &told {
            let around = self.around(place);
            lives[place] = std::mem::take(&mut lives[place])
                .into_iter()
                .flat_map(|life| life.after_kept(around))
                .collect();
        }
        let changes = self.settle(&told, facts);
        let before = self.rows.clone();
        let before_lives = self.lives.clone();
        self.apply(&changes);
        for &place in &told {
            let row = &self.rows[place];
            let known = |life: &Life| {
                (life.state, life.attempt, life.generation, life.counted)
                    == (row.state, row.attempt, row.generation, row.counted)
            };
            assert!(
                lives[place].iter().any(known),
                "{facts:?} on {:?}\nmade {row:?}\nthe text allows {:?}\nit was {:?}",
                before[place],
                lives[place],
                self.lives[place],
            );
            let mut kept: Vec<Life> = Vec::new();
            for life in lives[place].drain(..).filter(known) {
                if !kept.contains(&life) {
                    kept.push(life);
                }
            }
            self.lives[place] = kept;
            self.check(place, &before[place], facts, &changes);
        }
        if let [(place, fact, failure)] = facts {
            let open = before_lives[*place]
                .iter()
                .all(|life| life.open.contains(&before[*place].attempt));
            self.check_told(&before[*place], *place, fact, *failure, open, &changes);
        }
        self.check_repeats(facts);
    }

    fn settle(&self, told: &[usize], facts: &[(usize, Fact, Failure)]) -> Changes {
        let rows = told.iter().map(|&place| self.rows[place].clone()).collect();
        let ids: Vec<u64> = told.iter().map(|&place| self.rows[place].id).collect();
        let facts = facts
            .iter()
            .map(|(place, fact, _)| (self.rows[*place].id, fact.clone()))
            .collect();
        let early = self.early.iter().filter(|(id, _)| ids.contains(id));
        settle(
            rows,
            facts,
            early.cloned().collect(),
            &self.policy,
            &self.registry(),
            self.now_us,
            self.seed,
        )
    }

    /// As the store does.
    fn apply(&mut self, changes: &Changes) {
        let written = changes.updates.iter().map(|(row, _, _)| row);
        for row in written.chain(&changes.quiet) {
            let place = self.rows.iter().position(|old| old.id == row.id);
            let place = place.expect("a row that was read");
            if row.generation != self.rows[place].generation {
                self.key_from_us[place] = i64::MAX;
            }
            self.rows[place] = row.clone();
        }
        self.early.retain(|(id, _)| !changes.joined.contains(id));
        self.early.extend(changes.keep.iter().cloned());
    }

    fn check(
        &self,
        place: usize,
        before: &Row,
        facts: &[(usize, Fact, Failure)],
        changes: &Changes,
    ) {
        let (row, id) = (&self.rows[place], before.id);
        let of = |list: &[u64]| list.contains(&id);
        // What no fact may touch.
        let fixed = |row: &Row| {
            (
                (row.tenant, row.campaign, row.recipient, row.class),
                (row.segments, row.attempt, row.accept_us, row.expires_us),
                (row.started_us, row.provider),
            )
        };
        assert_eq!(fixed(row), fixed(before));
        let updates: Vec<_> = changes
            .updates
            .iter()
            .filter(|(row, _, _)| row.id == id)
            .collect();
        assert!(updates.len() <= 1, "a row is written twice");
        let mut passed = vec![before.state];
        if let Some((after, seq_before, events)) = updates.first() {
            assert_eq!(*seq_before, before.seq, "the guard of the write");
            assert!(!events.is_empty());
            for (event, seq) in events.iter().zip(before.seq + 1..) {
                assert_eq!(event.seq, seq, "a gap in the events");
                assert_eq!(event.previous, *passed.last().expect("the first") as u8);
                let state = State::from_number(event.state.into()).expect("a state");
                assert!(
                    is_listed(*passed.last().expect("the first"), state),
                    "{passed:?} to {state:?} is not listed: {facts:?}"
                );
                assert!(!event.conflict && event.id == id && event.at_us == self.now_us);
                passed.push(state);
            }
            assert_eq!(after.state, *passed.last().expect("the last"));
            assert_eq!(
                after.seq,
                before.seq + u32::try_from(events.len()).expect("few")
            );
        } else {
            assert_eq!((row.state, row.seq), (before.state, before.seq));
            assert_eq!(row.generation, before.generation);
        }
        for conflict in changes.conflicts.iter().filter(|told| told.id == id) {
            assert!(conflict.conflict && conflict.seq == 0 && conflict.previous == 0);
        }
        // Memory follows: a copy that waits goes when its row no longer waits, and comes when it waits again.
        let waited = before.state == State::Queued;
        let waits = row.state == State::Queued;
        if waited && !waits {
            assert!(of(&changes.drop), "a copy stays in line: {facts:?}");
        }
        if waits && !waited {
            assert!(of(&changes.requeue), "nobody puts it in line: {facts:?}");
        }
        if of(&changes.requeue) {
            // Or whoever found it expired let it go, and by the clock of now it was not: what still waits is loaded again.
            let let_go = facts
                .iter()
                .any(|(told, fact, _)| (*told, fact) == (place, &Fact::GateClosed(Gate::Expired)));
            assert!(
                passed[1..].contains(&State::Queued) || let_go,
                "in line though it never waited"
            );
        }
        let blocks = |state| matches!(state, State::Queued | State::Dispatching | State::Unknown);
        if blocks(before.state) && !blocks(row.state) {
            assert!(of(&changes.released), "its key stays held: {facts:?}");
        }
        if blocks(row.state) && passed.iter().all(|&state| blocks(state)) {
            assert!(!of(&changes.released), "the next of its key overtakes it");
        }
        let forbidden = flags::NO_RESEND | flags::CANCEL_REQUESTED;
        assert!(
            !waits || row.flags & forbidden == 0,
            "a closed message waits to be sent: {facts:?}"
        );
        let surely_open = self.lives[place].iter().all(|life| !life.open.is_empty());
        assert!(
            !(waits && surely_open) || row.flags & flags::MAYBE_SENT != 0,
            "a copy may be out and nobody knows: {facts:?} {:?}",
            self.lives[place]
        );
        if of(&changes.too_late) {
            assert!(facts.iter().any(|(_, fact, _)| *fact == Fact::Cancel));
        }
        let timed = facts
            .iter()
            .any(|(of, fact, _)| (*of, fact) == (place, &Fact::Due));
        if timed && matches!(row.state, State::Unknown | State::Submitted | State::Sent) {
            assert!(row.due_us > self.now_us, "a timer that spins: {row:?}");
        }
    }

    /// What the rest of the engine is told of a lone fact: ledgers, limits, carriers, opt-outs, look-ups, callers.
    fn check_told(
        &self,
        before: &Row,
        place: usize,
        fact: &Fact,
        failure: Failure,
        surely_open: bool,
        changes: &Changes,
    ) {
        let (row, id, was) = (&self.rows[place], before.id, before.state);
        let in_flight = was == State::Dispatching;
        let counts = in_flight || (was == State::Unknown && surely_open);
        let outcome = match fact {
            Fact::Outcome(attempt, outcome) if *attempt == before.attempt => Some(outcome),
            _ => None,
        };
        // Ledgers: what became of the attempt, once it is known.
        let fate = match (fact, outcome) {
            (_, Some(Outcome::Taken { parts, .. })) => Some(Fate::Taken(*parts)),
            (_, Some(Outcome::Unknown { .. })) | (Fact::Recovered, _) => {
                in_flight.then_some(Fate::Unknown)
            }
            (Fact::Crashed, _) => in_flight.then_some(Fate::NotTaken),
            (_, Some(_)) => Some(Fate::NotTaken),
            _ => None,
        };
        let fates: Vec<_> = fate.map(|fate| (id, fate)).into_iter().collect();
        if counts || outcome.is_none() {
            assert_eq!(changes.fates, fates, "{fact:?} on {before:?}");
        }
        // Kept receipts say something of their own.
        let alone = changes.joined.is_empty();
        // Limits that the provider named.
        let (until_us, cap) = match outcome {
            Some(Outcome::NotTaken { why, .. }) => match why {
                NotTaken::CapDay => (Some(self.policy.day_reset_us), true),
                NotTaken::CapSpend => (Some(self.policy.spend_reset_us), true),
                NotTaken::CapMinute => (Some(self.now_us + 60 * SECOND_US), true),
                NotTaken::Throttled => (None, false),
                _ => (Some(i64::MIN), false),
            },
            _ => (Some(i64::MIN), false),
        };
        if in_flight && alone {
            let parks = &changes.parks;
            let named = until_us != Some(i64::MIN);
            assert_eq!(parks.len(), usize::from(named), "{fact:?} parks {parks:?}");
            for park in parks {
                assert_eq!((park.campaign, park.cap), (before.campaign, cap));
                assert!(park.until_us > self.now_us);
                assert!(until_us.is_none_or(|until_us| park.until_us == until_us));
            }
        } else if matches!(fact, Fact::Receipt(_)) && row.generation > before.generation {
            let held = usize::from(failure == Failure::Held);
            assert_eq!(changes.parks.len(), held, "{fact:?}");
        }
        if let Some(Outcome::Taken { carrier, .. }) = outcome
            && counts
            && alone
        {
            let known = *carrier as u8;
            let learned = known != 0 && known != before.carrier;
            let expected: Vec<_> = learned
                .then_some((before.recipient, known))
                .into_iter()
                .collect();
            assert_eq!(changes.learned, expected);
            assert!(!learned || row.carrier == known);
        }
        // Opt-outs that the provider knew of.
        let opted_out = match (fact, outcome) {
            (_, Some(Outcome::RefusedForGood { opted_out, .. })) => counts && *opted_out,
            (Fact::Receipt(receipt), _) => {
                row.state == State::Undelivered
                    && matches!(was, State::Submitted | State::Sent | State::Unknown)
                    && receipt.code == OPTED_OUT_CODE
            }
            _ => false,
        };
        if opted_out {
            let opt_out = |(tenant, recipient, _): &(u32, u64, String)| {
                (*tenant, *recipient) == (before.tenant, before.recipient)
            };
            assert!(changes.opt_outs.iter().any(opt_out), "{fact:?}");
        }
        if *fact == Fact::Due {
            let looks =
                matches!(row.state, State::Submitted | State::Sent) && !row.provider_id.is_empty();
            let lookup = (id, row.provider_id.clone(), row.generation);
            let lookups: Vec<_> = looks.then_some(lookup).into_iter().collect();
            assert_eq!(changes.lookups, lookups, "{before:?}");
            let again = was == State::Unknown && row.state == State::Queued;
            assert!(
                !again
                    || self.around(place).key_holds
                    || row.flags & flags::POSSIBLE_DUPLICATE != 0,
                "sent again, and nobody says that it may come twice"
            );
        }
        let too_late = *fact == Fact::Cancel
            && !matches!(was, State::Queued | State::Unknown | State::Cancelled);
        let told: &[u64] = if too_late { &[id] } else { &[] };
        assert_eq!(changes.too_late, told, "{before:?}");
    }

    /// The same receipts once more change nothing.
    fn check_repeats(&self, facts: &[(usize, Fact, Failure)]) {
        for (place, fact, failure) in facts {
            let row = &self.rows[*place];
            let Fact::Receipt(receipt) = fact else {
                continue;
            };
            let not_yet =
                receipt.generation == row.generation && self.key_from_us[*place] == i64::MAX;
            if row.state != State::Dispatching && !not_yet {
                let again = self.settle(&[*place], &[(*place, fact.clone(), *failure)]);
                assert!(
                    again.updates.is_empty() && again.requeue.is_empty() && again.drop.is_empty(),
                    "{fact:?} twice changed {row:?} {:?}",
                    again.updates
                );
            }
        }
    }

    /// A generation's receipts in any order and number come to the same.
    fn check_orders(&self, place: usize, choices: &mut Choices<'_>) {
        let row = &self.rows[place];
        if !matches!(row.state, State::Submitted | State::Unknown) || row.generation == 0 {
            return;
        }
        let end = choices.of(&STATUSES[2..]);
        let (code, _) = choices.of(&CODES);
        let receipts: Vec<Receipt> = [ReceiptStatus::Queued, ReceiptStatus::Sent, end]
            .into_iter()
            .map(|status| Receipt {
                generation: row.generation,
                status,
                code: if status == end { code } else { "" }.to_owned(),
                carrier: 0,
                parts: None,
                provider_id: "p-0".to_owned(),
                lookup: false,
            })
            .collect();
        let turned = choices.below(3);
        let mut other = receipts.clone();
        other.rotate_left(turned);
        if choices.one_in(2) {
            other.swap(0, 1);
        }
        other.push(other[0].clone());
        let ends: Vec<_> = [receipts, other]
            .into_iter()
            .map(|receipts| {
                let mut row = row.clone();
                for receipt in receipts {
                    let facts = vec![(row.id, Fact::Receipt(receipt))];
                    let (policy, registry) = (&self.policy, &self.registry());
                    let rows = vec![row.clone()];
                    let changes = settle(
                        rows,
                        facts,
                        vec![],
                        policy,
                        registry,
                        self.now_us,
                        self.seed,
                    );
                    if let Some((after, _, _)) = changes.updates.into_iter().next() {
                        row = after;
                    }
                }
                (row.state, row.generation, row.counted)
            })
            .collect();
        assert_eq!(ends[0], ends[1], "{row:?}: {end:?} {code}, turned {turned}");
    }

    /// Nothing more happens but time: every message comes to its end, within its validity and the receipts' time.
    fn heal(&mut self) {
        self.now_us = self.latest_us;
        for place in 0..MESSAGES {
            let row = &self.rows[place];
            let until_us = row.expires_us.max(self.now_us)
                + self.policy.no_receipt_after_us
                + self.policy.reconcile_wait_us
                + 300 * SECOND_US;
            let mut timers = 0;
            while !self.rows[place].state.is_terminal() {
                timers += 1;
                assert!(timers < TIMERS_MAX, "no end: {:?}", self.rows[place]);
                let row = &self.rows[place];
                let fact = match row.state {
                    State::Queued => {
                        self.move_clock((row.expires_us - self.now_us).max(0));
                        Fact::GateClosed(Gate::Expired)
                    }
                    State::Dispatching => Fact::Recovered,
                    _ => {
                        self.move_clock((row.due_us - self.now_us).max(0));
                        Fact::Due
                    }
                };
                self.tell(&[(place, fact, Failure::Final)]);
                let row = &self.rows[place];
                assert!(self.now_us <= until_us, "too late: {row:?}");
            }
        }
    }
}

/// Facts as the bytes say.
pub fn state_machine(data: &[u8]) {
    let mut choices = Choices::new(data);
    let mut world = World::new(&mut choices);
    for _ in 0..STEPS_MAX {
        if choices.used_up() {
            break;
        }
        world.step(&mut choices);
        if choices.one_in(8) {
            let place = choices.below(MESSAGES);
            world.check_orders(place, &mut choices);
        }
    }
    world.heal();
}
