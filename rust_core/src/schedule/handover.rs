//! A shard comes or goes: whose messages wait here, and what may be assumed of its limits.
//!
//! It keeps no list of shards (`owned.rs` does), and takes no part in what is out: an attempt's charges stay until its
//! outcome is told.

use std::cmp::Reverse;

use super::Scheduler;
use crate::message::{Held, Micros};
use crate::registry::Scope;
use crate::shards::ShardSet;

impl Scheduler {
    /// These shards have an owner elsewhere: their messages leave, by ascending id, and with them the ordering keys that
    /// others of them hold which are out. Looks at every message once.
    pub fn disown(&mut self, shards: ShardSet) -> Vec<Held> {
        let is_one = |lane: u32| shards.has_campaign(self.lanes.at(lane).key.campaign);
        let mut slots = self.slab.of_lanes(is_one);
        // The last first: of a key or a lane none comes to the front that leaves next.
        slots.sort_unstable_by_key(|&slot| Reverse(self.slab.at(slot).id));
        let mut left: Vec<Held> = Vec::with_capacity(slots.len());
        for slot in slots {
            left.push(self.take_out(slot, false));
        }
        left.reverse();
        let of_shards = self
            .out
            .iter()
            .filter(|(_, key)| shards.has_campaign(key.campaign));
        let mut holders: Vec<u64> = of_shards.map(|(&id, _)| id).collect();
        holders.sort_unstable();
        for id in holders {
            self.ordering_released(id);
        }
        left
    }

    /// These shards come from another owner, who may have sent just now: the rates that are theirs alone start empty.
    pub fn own(&mut self, shards: ShardSet, mono_us: Micros) {
        self.mono_us = self.mono_us.max(mono_us);
        let registry = &self.registry;
        self.meters.empty_rates(self.mono_us, |quota| {
            let campaign = match quota.scope {
                Scope::Campaign | Scope::CampaignCarrier => u32::try_from(quota.subject).ok(),
                Scope::Number => registry
                    .campaign_of_number(quota.subject)
                    .map(|campaign| campaign.key),
                Scope::BrandCarrierDay | Scope::Provider | Scope::Tenant => None,
            };
            campaign.is_some_and(|campaign| shards.has_campaign(campaign))
        });
    }
}
