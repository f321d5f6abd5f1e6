//! The limits of all lanes in force: rate buckets, leased budgets, day ledgers and holds, who claims them, and when to look again.
//!
//! It takes no messages. Which meters a lane needs follows from the registry and the lane's key; a lane whose carrier is
//! not known needs those of every carrier.
//!
//! Invariants: among claims on a meter the smallest (class, ticket) goes first, so a cheap message cannot starve a dear
//! or urgent one that waits for the same tokens; tickets are a total order, so waiting has no circles. Of what passes a
//! meter while a less urgent lane waits for it, that lane gets `floor_percent`.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};

use super::hash::Seeded;
use super::lanes::LaneKey;
use crate::budget::{Budget, Terms, Wanted};
use crate::ledger::Ledger;
use crate::message::{Carrier, Class, Kind, Micros};
use crate::quota::{Bucket, Refusal};
use crate::registry::{Quota, Registry, Scope, Unit};

/// Carriers by their numbers, `Unknown` first.
const CARRIERS: usize = 6;
/// The floor's debt stays below so many segments, in percent.
const DEBT_MAX: i64 = 100 * 1024;

/// (class, ticket, lane): the order in which a meter is served.
pub(super) type Claim = (Class, u64, u32);

/// What a head needs.
#[derive(Clone, Copy)]
pub(super) struct Need {
    pub segments: u64,
    pub class: Class,
    pub carrier: Carrier,
}

impl Need {
    pub(super) fn new(segments: u16, key: &LaneKey) -> Self {
        let segments = if key.kind == Kind::Mms {
            1
        } else {
            u64::from(segments.max(1))
        };
        Self {
            segments,
            class: key.class,
            carrier: key.carrier,
        }
    }
}

/// Why a meter refuses, the longer wait last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wait {
    /// Others claimed it first.
    Behind,
    /// Until the store leases more: nobody is asked before this monotonic time, `Micros::MAX` when it is to be asked.
    Budget(Micros),
    /// Until a monotonic time.
    Rate(Micros),
    /// Until a monotonic time, by the provider's word.
    Hold(Micros),
    /// Until a wall time.
    Day(Micros),
    /// For ever.
    Never,
}

pub(super) enum Limit {
    Rate(Bucket),
    /// A rate that others share. Boxed: it is the largest, and a node alone has none.
    Leased(Box<Budget>),
    Day(Ledger),
    /// Parked by the provider's answer, by carrier number; monotonic.
    Hold([Micros; CARRIERS]),
}

pub(super) struct Meter {
    /// The row it comes from; holds have none.
    terms: Option<Quota>,
    pub limit: Limit,
    pub claims: BTreeSet<Claim>,
    armed: Option<Micros>,
    /// Owed to the least urgent claim, in percent of a segment.
    debt: i64,
}

impl Meter {
    fn cost(&self, need: Need) -> u64 {
        match &self.terms {
            Some(terms) if terms.unit == Unit::Messages => 1,
            _ => need.segments,
        }
    }

    /// Holds cost nothing, and are not asked what.
    #[inline]
    fn check(
        &self,
        cost: impl FnOnce() -> u64,
        need: Need,
        now_us: Micros,
        mono_us: Micros,
    ) -> Result<(), Wait> {
        match &self.limit {
            Limit::Rate(bucket) => bucket
                .check(cost(), mono_us)
                .map_err(|refusal| match refusal {
                    Refusal::Until(at_us) => Wait::Rate(at_us),
                    Refusal::Never => Wait::Never,
                }),
            Limit::Leased(budget) => {
                budget
                    .check(cost(), mono_us)
                    .map_err(|refusal| match refusal {
                        Refusal::Until(at_us) => Wait::Budget(at_us),
                        Refusal::Never => Wait::Never,
                    })
            }
            Limit::Day(ledger) => {
                ledger
                    .check(cost(), need.class, now_us)
                    .map_err(|refusal| match refusal {
                        Refusal::Until(at_us) => Wait::Day(at_us),
                        Refusal::Never => Wait::Never,
                    })
            }
            Limit::Hold(until) => {
                let all = until[Carrier::Unknown as usize];
                let own = if need.carrier == Carrier::Unknown {
                    until.iter().copied().max().unwrap_or(all)
                } else {
                    until[need.carrier as usize].max(all)
                };
                if mono_us < own {
                    Err(Wait::Hold(own))
                } else {
                    Ok(())
                }
            }
        }
    }
}

/// A charge on a day's ledger.
#[derive(Clone, Copy, Debug)]
pub(super) struct DayCharge {
    pub quota: u32,
    pub day: i32,
    pub cost: u32,
    pub carrier: Carrier,
    pub in_segments: bool,
}

/// All meters.
pub(super) struct Meters {
    all: Vec<Meter>,
    by_subject: HashMap<(Scope, u64, Carrier), Vec<u32>>,
    by_key: HashMap<u32, u32, Seeded>,
    holds: HashMap<u32, u32>,
    provider: Vec<u32>,
    rate_alarms: BinaryHeap<Reverse<(Micros, u32)>>,
    day_alarms: BinaryHeap<Reverse<(Micros, u32)>>,
    floor_percent: i64,
    /// Rates wider than a shard are shared with other nodes.
    leases: bool,
    /// Those that are.
    leased: Vec<u32>,
}

impl Meters {
    pub(super) fn new(floor_percent: i64, seeded: Seeded, leases: bool) -> Self {
        Self {
            all: Vec::new(),
            by_subject: HashMap::new(),
            by_key: HashMap::with_hasher(seeded),
            holds: HashMap::new(),
            provider: Vec::new(),
            rate_alarms: BinaryHeap::new(),
            day_alarms: BinaryHeap::new(),
            floor_percent,
            leases,
            leased: Vec::new(),
        }
    }

    /// No meters, under the same terms.
    pub(super) fn empty(&self) -> Self {
        Self::new(self.floor_percent, *self.by_key.hasher(), self.leases)
    }

    /// The meters of another picture: unchanged quotas keep their state, ledgers their counts, the rest starts empty.
    /// Also the ledgers that are in it no more. No claims are left: all lanes are to be looked at again.
    pub(super) fn rebuilt(
        mut self,
        registry: &Registry,
        provider: u32,
        mono_us: Micros,
    ) -> (Self, Vec<Ledger>) {
        let mut next = self.empty();
        let mut old: HashMap<u32, (Quota, Limit)> = HashMap::new();
        let mut old_holds: HashMap<u32, u32> = std::mem::take(&mut self.holds);
        old_holds.retain(|_, at| match self.all[*at as usize].limit {
            Limit::Hold(until) => until.iter().any(|&us| us > mono_us),
            _ => false,
        });
        for (campaign, at) in old_holds {
            if let Limit::Hold(until) = self.all[at as usize].limit {
                let hold = next.push(None, Limit::Hold(until));
                next.holds.insert(campaign, hold);
            }
        }
        for meter in std::mem::take(&mut self.all) {
            if let Some(terms) = meter.terms {
                old.insert(terms.key, (terms, meter.limit));
            }
        }
        for quota in registry.quotas() {
            let limit = match (old.remove(&quota.key), self.fresh(quota, mono_us)) {
                (Some((terms, Limit::Rate(bucket))), Limit::Rate(_)) if terms == *quota => {
                    Limit::Rate(bucket)
                }
                (Some((terms, Limit::Leased(budget))), Limit::Leased(_)) if terms == *quota => {
                    Limit::Leased(budget)
                }
                (Some((_, Limit::Day(ledger))), Limit::Day(terms)) => {
                    Limit::Day(ledger.with_terms_of(&terms))
                }
                (gone, limit) => {
                    if let Some(gone) = gone {
                        old.insert(quota.key, gone);
                    }
                    limit
                }
            };
            let is_leased = matches!(limit, Limit::Leased(_));
            let at = next.push(Some(quota.clone()), limit);
            next.leased.extend(is_leased.then_some(at));
            next.by_key.insert(quota.key, at);
            next.by_subject
                .entry((quota.scope, quota.subject, quota.carrier))
                .or_default()
                .push(at);
        }
        next.provider = next
            .by_subject
            .get(&(Scope::Provider, u64::from(provider), Carrier::Unknown))
            .cloned()
            .unwrap_or_default();
        let ledgers = old.into_values().filter_map(|(_, limit)| match limit {
            Limit::Day(ledger) => Some(ledger),
            _ => None,
        });
        (next, ledgers.collect())
    }

    fn push(&mut self, terms: Option<Quota>, limit: Limit) -> u32 {
        self.all.push(Meter {
            terms,
            limit,
            claims: BTreeSet::new(),
            armed: None,
            debt: 0,
        });
        u32::try_from(self.all.len() - 1).unwrap_or(u32::MAX)
    }

    pub(super) fn at(&self, meter: u32) -> &Meter {
        &self.all[meter as usize]
    }

    pub(super) fn at_mut(&mut self, meter: u32) -> &mut Meter {
        &mut self.all[meter as usize]
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// What this need takes of a meter.
    pub(super) fn cost(&self, at: u32, need: Need) -> u64 {
        self.at(at).cost(need)
    }

    pub(super) fn provider(&self) -> &[u32] {
        &self.provider
    }

    /// Lends the provider's meters out while all are taken; put back with `put_provider`.
    pub(super) fn take_provider(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.provider)
    }

    pub(super) fn put_provider(&mut self, provider: Vec<u32>) {
        self.provider = provider;
    }

    /// Every meter of a lane.
    pub(super) fn of_lane(&mut self, key: &LaneKey, brand: Option<u32>) -> Vec<u32> {
        let mut found = vec![self.hold_of(key.campaign)];
        let campaign = u64::from(key.campaign);
        let plain = [
            (Scope::Number, key.sender),
            (Scope::Campaign, campaign),
            (Scope::Tenant, u64::from(key.tenant)),
        ];
        for (scope, subject) in plain {
            found.extend(self.of_subject(scope, subject, Carrier::Unknown));
        }
        found.extend(self.of_carriers(Scope::CampaignCarrier, campaign, key.carrier));
        if let Some(brand) = brand {
            found.extend(self.of_carriers(Scope::BrandCarrierDay, u64::from(brand), key.carrier));
        }
        found
    }

    /// The meters of this carrier and those for any; of all carriers when it is not known.
    pub(super) fn of_carriers(&self, scope: Scope, subject: u64, carrier: Carrier) -> Vec<u32> {
        let mut found: Vec<u32> = self.of_subject(scope, subject, Carrier::Unknown).to_vec();
        for number in 1..CARRIERS {
            let of = Carrier::from_number(i64::try_from(number).unwrap_or(0));
            if carrier == Carrier::Unknown || carrier == of {
                found.extend(self.of_subject(scope, subject, of));
            }
        }
        found
    }

    pub(super) fn of_subject(&self, scope: Scope, subject: u64, carrier: Carrier) -> &[u32] {
        self.by_subject
            .get(&(scope, subject, carrier))
            .map_or(&[], Vec::as_slice)
    }

    /// The hold of a campaign, open when it is new.
    pub(super) fn hold_of(&mut self, campaign: u32) -> u32 {
        if let Some(&hold) = self.holds.get(&campaign) {
            return hold;
        }
        let hold = self.push(None, Limit::Hold([Micros::MIN; CARRIERS]));
        self.holds.insert(campaign, hold);
        hold
    }

    pub(super) fn ledger(&self, quota: u32) -> Option<&Ledger> {
        match &self.at(*self.by_key.get(&quota)?).limit {
            Limit::Day(ledger) => Some(ledger),
            _ => None,
        }
    }

    /// A quota's ledger and its meter.
    pub(super) fn ledger_mut(&mut self, quota: u32) -> Option<(&mut Ledger, u32)> {
        let at = *self.by_key.get(&quota)?;
        match &mut self.at_mut(at).limit {
            Limit::Day(ledger) => Some((ledger, at)),
            _ => None,
        }
    }

    /// These rates have nothing in them at `mono_us`.
    pub(super) fn empty_rates(&mut self, mono_us: Micros, is_one: impl Fn(&Quota) -> bool) {
        for meter in &mut self.all {
            if let (Some(terms), Limit::Rate(bucket)) = (&meter.terms, &mut meter.limit)
                && is_one(terms)
            {
                *bucket = bucket.clone().empty_at(mono_us);
            }
        }
    }

    /// The latest day that any ledger counts.
    pub(super) fn newest_day(&self) -> Option<i32> {
        let days = self.all.iter().filter_map(|meter| match &meter.limit {
            Limit::Day(ledger) => ledger.day(),
            _ => None,
        });
        days.max()
    }

    /// The least time before one more passes behind so many messages of a lane: each counts one at least.
    pub(super) fn passing_us(&self, at: u32, carrier: Carrier, messages: u64) -> Micros {
        match &self.at(at).limit {
            Limit::Rate(bucket) => bucket.passing_us(messages),
            Limit::Leased(budget) => budget.passing_us(messages),
            // What is reserved until the carrier is known may be given back.
            Limit::Day(ledger) if carrier != Carrier::Unknown => ledger.passing_us(messages),
            Limit::Day(_) | Limit::Hold(_) => 0,
        }
    }

    /// Would this meter let the need pass now, claims aside?
    pub(super) fn check(
        &self,
        at: u32,
        need: Need,
        now_us: Micros,
        mono_us: Micros,
    ) -> Result<(), Wait> {
        let meter = self.at(at);
        meter.check(|| meter.cost(need), need, now_us, mono_us)
    }

    /// As `check`, of what would take so much of this meter.
    pub(super) fn check_cost(
        &self,
        at: u32,
        cost: u64,
        need: Need,
        now_us: Micros,
        mono_us: Micros,
    ) -> Result<(), Wait> {
        self.at(at).check(|| cost, need, now_us, mono_us)
    }

    /// Takes what `check` allowed in the same moment; a ledger's share of it is to be settled later.
    pub(super) fn take(
        &mut self,
        at: u32,
        need: Need,
        now_us: Micros,
        mono_us: Micros,
    ) -> Option<DayCharge> {
        self.owe(at, need);
        let meter = self.at_mut(at);
        let cost = meter.cost(need);
        match &mut meter.limit {
            Limit::Rate(bucket) => {
                let taken = bucket.take(cost, mono_us);
                debug_assert!(taken.is_ok());
                None
            }
            Limit::Leased(budget) => {
                let taken = budget.take(cost, mono_us);
                debug_assert!(taken.is_ok());
                None
            }
            Limit::Day(ledger) => {
                let reserved = ledger.reserve(cost, need.class, now_us);
                debug_assert!(reserved.is_ok());
                let terms = meter.terms.as_ref()?;
                Some(DayCharge {
                    quota: ledger.quota,
                    day: ledger.day()?,
                    cost: u32::try_from(cost).unwrap_or(u32::MAX),
                    carrier: terms.carrier,
                    in_segments: terms.unit == Unit::Segments,
                })
            }
            Limit::Hold(_) => None,
        }
    }

    /// Counts what the floor owes to the least urgent claim.
    fn owe(&mut self, at: u32, need: Need) {
        let floor = self.floor_percent;
        let meter = self.at_mut(at);
        let segments = i64::try_from(need.segments)
            .unwrap_or(i64::MAX)
            .min(DEBT_MAX / 100);
        match (meter.claims.first(), meter.claims.last()) {
            (_, Some(last)) if last.0 > need.class => {
                meter.debt = (meter.debt + floor * segments).min(DEBT_MAX);
            }
            (Some(first), _) if first.0 < need.class => meter.debt -= (100 - floor) * segments,
            _ => meter.debt = 0,
        }
    }

    /// The claim that the floor puts first, if it is owed so much.
    fn favoured(&self, at: u32) -> Option<Claim> {
        let meter = self.at(at);
        let (first, last) = (meter.claims.first()?, meter.claims.last()?);
        if self.floor_percent == 0 || first.0 == last.0 || meter.debt < 100 - self.floor_percent {
            return None;
        }
        meter.claims.range((last.0, 0, 0)..).next().copied()
    }

    pub(super) fn is_hold(&self, at: u32) -> bool {
        matches!(self.at(at).limit, Limit::Hold(_))
    }

    /// Did another lane claim this meter before? A hold is not used up, so nobody stands behind another there.
    pub(super) fn is_behind(&self, at: u32, claim: Claim) -> bool {
        if self.is_hold(at) {
            return false;
        }
        let first = self.at(at).claims.first();
        first.is_some_and(|first| *first < claim)
            && self.favoured(at).is_none_or(|favoured| favoured != claim)
    }

    /// Claims in the order in which this meter would wake them: the favoured, then the first.
    pub(super) fn next_claims(&self, at: u32) -> [Option<Claim>; 2] {
        [self.favoured(at), self.at(at).claims.first().copied()]
    }

    /// Wakes `take_alarm` at this time, unless it wakes earlier anyway.
    pub(super) fn arm(&mut self, at: u32, wait: Wait) {
        let (alarms, at_us) = match wait {
            Wait::Rate(at_us) | Wait::Hold(at_us) => (&mut self.rate_alarms, at_us),
            Wait::Budget(at_us) if at_us < Micros::MAX => (&mut self.rate_alarms, at_us),
            Wait::Day(at_us) if at_us < Micros::MAX => (&mut self.day_alarms, at_us),
            Wait::Behind | Wait::Never | Wait::Day(_) | Wait::Budget(_) => return,
        };
        let meter = &mut self.all[at as usize];
        if meter.armed.is_none_or(|armed| at_us < armed) {
            meter.armed = Some(at_us);
            alarms.push(Reverse((at_us, at)));
        }
    }

    /// A meter whose time has come.
    pub(super) fn take_alarm(&mut self, now_us: Micros, mono_us: Micros) -> Option<u32> {
        for (alarms, time_us) in [
            (&mut self.rate_alarms, mono_us),
            (&mut self.day_alarms, now_us),
        ] {
            if alarms
                .peek()
                .is_some_and(|Reverse((at_us, _))| *at_us <= time_us)
                && let Some(Reverse((_, meter))) = alarms.pop()
            {
                self.all[meter as usize].armed = None;
                return Some(meter);
            }
        }
        None
    }

    /// Time until the next alarm.
    pub(super) fn alarm_after_us(&self, now_us: Micros, mono_us: Micros) -> Option<Micros> {
        let rate = self
            .rate_alarms
            .peek()
            .map(|Reverse((at_us, _))| at_us.saturating_sub(mono_us).max(0));
        let day = self
            .day_alarms
            .peek()
            .map(|Reverse((at_us, _))| at_us.saturating_sub(now_us).max(0));
        rate.into_iter().chain(day).min()
    }

    /// A limit as it begins: with nothing in it.
    fn fresh(&self, quota: &Quota, mono_us: Micros) -> Limit {
        match quota.scope {
            Scope::BrandCarrierDay => Limit::Day(Ledger::new(
                quota.key,
                quota.amount,
                quota.reserved_percent,
                quota.reserved_class,
            )),
            Scope::Provider | Scope::Tenant if self.leases => {
                Limit::Leased(Box::new(Budget::new(Terms::of(quota))))
            }
            _ => Limit::Rate(
                Bucket::new(quota.amount, quota.burst, quota.window_us).empty_at(mono_us),
            ),
        }
    }

    /// What to ask the store for now.
    pub(super) fn budgets_wanted(&mut self, mono_us: Micros) -> Vec<Wanted> {
        let all = &mut self.all;
        let wanted = self.leased.iter().filter_map(|&at| {
            let meter = &mut all[at as usize];
            let (Some(terms), Limit::Leased(budget)) = (&meter.terms, &mut meter.limit) else {
                return None;
            };
            let (tokens, least) = budget.wanted(mono_us)?;
            Some(Wanted {
                quota: terms.key,
                tokens,
                least,
            })
        });
        wanted.collect()
    }

    /// A quota's budget and its meter.
    pub(super) fn budget_mut(&mut self, quota: u32) -> Option<(&mut Budget, u32)> {
        let at = *self.by_key.get(&quota)?;
        match &mut self.at_mut(at).limit {
            Limit::Leased(budget) => Some((budget, at)),
            _ => None,
        }
    }

    /// Somebody waits for this meter; a budget asks for as much.
    pub(super) fn note_refused(&mut self, at: u32, need: Need) {
        let meter = self.at_mut(at);
        let cost = meter.cost(need);
        if let Limit::Leased(budget) = &mut meter.limit {
            budget.refused(cost);
        }
    }
}
