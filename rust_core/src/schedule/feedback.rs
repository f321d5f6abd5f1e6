//! What the rest of the engine tells the scheduler: outcomes, carriers, days, the provider's "too fast", another registry.
//!
//! It hands out no messages; whoever may go because of it goes at the next pop.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Scheduler;
use super::meters::Limit;
use crate::budget::Wanted;
use crate::message::{Carrier, Held, Micros};
use crate::registry::{Registry, Scope};
use crate::settle::Fate;
use crate::shards::shard_of;

/// What a message has reserved of a day's ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// Of the message.
    pub id: u64,
    /// Key of the quota.
    pub quota: u32,
    /// Ordinal, in the quota's own zone.
    pub day: i32,
    /// So many.
    pub units: u64,
    /// How far the message's class may fill the day.
    pub cap: u64,
}

/// What the provider refused for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParkKind {
    /// Too fast.
    Rate,
    /// A cap is reached.
    Cap,
}

impl Scheduler {
    /// Another picture of the registry. Unchanged rates go on, changed and new ones start empty, ledgers keep their day's
    /// counts; a new ledger refuses until [`Scheduler::set_days`]. Campaigns and tenants that moved take effect at the next
    /// pop. Costs a look at every lane.
    pub fn set_registry(&mut self, registry: Arc<Registry>, mono_us: Micros) {
        self.mono_us = self.mono_us.max(mono_us);
        let empty = self.meters.empty();
        let meters = std::mem::replace(&mut self.meters, empty);
        let (meters, retired) = meters.rebuilt(&registry, self.config.provider, self.mono_us);
        self.meters = meters;
        for ledger in &retired {
            self.charges.retire(ledger);
        }
        let before = std::mem::replace(&mut self.registry, registry);
        if self.config.leased_budgets {
            self.empty_moved_numbers(&before);
        }
        self.reconsider();
    }

    /// A number that another shard's campaign had may have been used just now, by another node.
    fn empty_moved_numbers(&mut self, before: &Registry) {
        let now = &self.registry;
        self.meters.empty_rates(self.mono_us, |quota| {
            let shard_in = |registry: &Registry| {
                let campaign = registry.campaign_of_number(quota.subject);
                campaign.map(|campaign| shard_of(campaign.key))
            };
            quota.scope == Scope::Number && shard_in(before) != shard_in(now)
        });
    }

    /// The days that day quotas count now: (quota, day in its own zone, end of that day on the wall clock). At start, after
    /// a registry with new ones, and whenever a day ends; until then a ledger whose day is over refuses.
    pub fn set_days(&mut self, days: &[(u32, i32, Micros)]) {
        for &(quota, day, resets_at_us) in days {
            if let Some(meter) = self
                .charges
                .roll(&mut self.meters, (quota, day), resets_at_us)
            {
                self.wake(meter);
            }
        }
    }

    /// The store's ledger rows at start: (quota, day, spent, reserved). What was reserved counts as spent from now on,
    /// since attempts that were open are of unknown outcome. Before or after [`Scheduler::set_days`], once.
    pub fn restore_ledger(&mut self, rows: &[(u32, i32, u64, u64)]) {
        for &(quota, day, spent, reserved) in rows {
            self.charges
                .restore(&mut self.meters, (quota, day), spent, reserved);
        }
    }

    /// Ledger rows that changed since the last call: (quota, day, spent, reserved), for the transaction that writes the
    /// intents or outcomes they come from.
    pub fn ledger_changes(&mut self) -> Vec<(u32, i32, u64, u64)> {
        self.charges.take_changes(&self.meters)
    }

    /// What the attempts of these messages, whose outcome is open, have reserved: by (quota, day).
    #[must_use]
    pub fn reserved_by(&self, ids: impl Iterator<Item = u64>) -> BTreeMap<(u32, i32), u64> {
        self.charges.reserved_by(ids)
    }

    /// What these messages, which were popped and are to be written down, have reserved; for rows that other nodes charge
    /// too. By message, and in the order of ledgers.
    #[must_use]
    pub fn reservations(&self, batch: &[Held]) -> Vec<Reservation> {
        let of = |held: &Held| {
            let (id, class) = (held.id, held.class);
            self.charges.open_days(id).map(move |day| Reservation {
                id,
                quota: day.quota,
                day: day.day,
                units: u64::from(day.cost),
                cap: match self.meters.ledger(day.quota) {
                    Some(ledger) => ledger.share(class),
                    // A limit that is no more. As much as a store's signed integer holds.
                    None => u64::MAX >> 1,
                },
            })
        };
        batch.iter().flat_map(of).collect()
    }

    /// The store has these reservations now. From here on what becomes of them is told by [`Scheduler::take_deltas`].
    pub fn reserved(&mut self, reservations: &[Reservation]) {
        for of_message in reservations.chunk_by(|one, next| one.id == next.id) {
            let rows: Vec<((u32, i32), u64)> = of_message
                .iter()
                .map(|of| ((of.quota, of.day), of.units))
                .collect();
            self.charges.told(of_message[0].id, &rows);
        }
    }

    /// What the store's shared rows lack: (quota, day, to be added to spent, to be added to reserved). Told once: if the
    /// transaction that writes them surely came to nothing, [`Scheduler::owe_deltas`] takes them back. Where that cannot be
    /// known they count as written: a release that is told twice would let too much pass, one that is lost only too little.
    pub fn take_deltas(&mut self) -> Vec<(u32, i32, i64, i64)> {
        self.charges.take_deltas(&self.meters)
    }

    /// See [`Scheduler::take_deltas`].
    pub fn owe_deltas(&mut self, rows: &[(u32, i32, i64, i64)]) {
        self.charges.owe_again(rows);
    }

    /// Shared rows as they were read: (quota, day, spent, reserved), of all nodes. `early` is what popped messages have
    /// reserved that the store does not know of. Before or after [`Scheduler::set_days`]; lanes that wait are looked at.
    pub fn ledgers_seen(
        &mut self,
        rows: &[(u32, i32, u64, u64)],
        early: &BTreeMap<(u32, i32), u64>,
    ) {
        for &(quota, day, spent, reserved) in rows {
            let early = early.get(&(quota, day)).copied().unwrap_or(0);
            let reserved = reserved.saturating_add(early);
            let seen = self
                .charges
                .seen(&mut self.meters, (quota, day), spent, reserved);
            if let Some(meter) = seen {
                self.wake(meter);
            }
        }
    }

    /// What became of the attempt that the last pop of this message allowed; also of one that left the batch before any
    /// byte (not taken). Rate tokens never come back. Ids without a charge change nothing.
    pub fn settled(&mut self, id: u64, fate: Fate) {
        for meter in self.charges.settle(&mut self.meters, id, fate) {
            self.wake(meter);
        }
    }

    /// Nothing that is told of this message's last attempt changes a ledger: what it reserved stays so.
    pub fn forget_charge(&mut self, id: u64) {
        self.charges.forget(id);
    }

    /// A recipient's carrier. Attempts in flight give back what they reserved from others; messages that wait move to
    /// that carrier's lane when their turn comes.
    pub fn learn(&mut self, recipient: u64, carrier: Carrier) {
        if carrier == Carrier::Unknown {
            return;
        }
        self.carriers.learn(recipient, carrier);
        for meter in self.charges.learn(&mut self.meters, recipient, carrier) {
            self.wake(meter);
        }
    }

    /// Which shared rates somebody waits for, or will within half a block at the pace of late: to be asked of the store
    /// after each pop. Each is told once, until [`Scheduler::grant`] answers it.
    pub fn budgets_wanted(&mut self, mono_us: Micros) -> Vec<Wanted> {
        self.mono_us = self.mono_us.max(mono_us);
        self.meters.budgets_wanted(self.mono_us)
    }

    /// What the store leased, which may be nothing: so many tokens until `until_mono_us`, which counts from before it was
    /// asked, and when it may have more. Whoever waited for them may go at the next pop. A quota that is no shared rate
    /// (any more) changes nothing.
    pub fn grant(
        &mut self,
        quota: u32,
        tokens: u64,
        until_mono_us: Micros,
        again_at_mono_us: Micros,
    ) {
        let mono_us = self.mono_us;
        if let Some((budget, meter)) = self.meters.budget_mut(quota) {
            budget.grant(tokens, until_mono_us, again_at_mono_us, mono_us);
            self.wake(meter);
        }
    }

    /// The provider said "too fast" or "cap reached" for a campaign to a carrier (`Unknown`: to any): nothing of it goes
    /// before `until_us` (wall clock). A rate empties its bucket, the carrier's or else the campaign's; a carrier's cap
    /// stops the brand's ledger of that carrier; where there is no such limit, the campaign's lanes are held.
    pub fn park(
        &mut self,
        campaign: u32,
        carrier: Carrier,
        kind: ParkKind,
        until_us: Micros,
        now_us: Micros,
        mono_us: Micros,
    ) {
        self.mono_us = self.mono_us.max(mono_us);
        let mono_until_us = self
            .mono_us
            .saturating_add(until_us.saturating_sub(now_us).max(0));
        let scope_and_subject = match kind {
            ParkKind::Rate if carrier == Carrier::Unknown => {
                Some((Scope::Campaign, u64::from(campaign)))
            }
            ParkKind::Rate => Some((Scope::CampaignCarrier, u64::from(campaign))),
            // A cap of nobody knows which carrier is no carrier's.
            ParkKind::Cap if carrier == Carrier::Unknown => None,
            ParkKind::Cap => self
                .registry
                .campaign(campaign)
                .map(|row| (Scope::BrandCarrierDay, u64::from(row.brand))),
        };
        let mut found = scope_and_subject.map_or_else(Vec::new, |(scope, subject)| {
            self.meters.of_subject(scope, subject, carrier).to_vec()
        });
        if found.is_empty() {
            found.push(self.meters.hold_of(campaign));
        }
        for meter in found {
            match &mut self.meters.at_mut(meter).limit {
                Limit::Rate(bucket) => bucket.park_until(mono_until_us),
                Limit::Leased(budget) => budget.park_until(mono_until_us),
                Limit::Day(ledger) => ledger.stop_until(until_us),
                Limit::Hold(until) => {
                    let held = &mut until[carrier as usize];
                    *held = (*held).max(mono_until_us);
                }
            }
        }
    }
}
