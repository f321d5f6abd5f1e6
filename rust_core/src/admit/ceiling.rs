//! The most segments that a message's quotas can ever pass at once, so that one which could never leave is refused at the
//! door rather than held until it expires.
//!
//! It spends nothing and knows no levels: only bursts and daily amounts. Only quotas that some message could exceed are kept,
//! so that the index of thousands of ordinary quotas is empty.

use std::collections::HashMap;

use crate::message::Class;
use crate::registry::{Campaign, Quota, Registry, Scope, Unit};

/// The most segments that pass, by class (most urgent first).
type Ceiling = [u64; Class::ALL.len()];

/// Ceilings by scope and subject.
pub(super) struct Ceilings {
    narrow: HashMap<(Scope, u64), Ceiling>,
    /// Which provider will carry a message is not known at the door: the one that passes most counts.
    provider: Option<Ceiling>,
}

impl Ceilings {
    /// Reads the registry's quotas; `segments_max` is the most a message may have.
    pub fn new(registry: &Registry, segments_max: u16) -> Self {
        let mut narrow: HashMap<(Scope, u64), Ceiling> = HashMap::new();
        let mut providers: HashMap<u64, Ceiling> = HashMap::new();
        for quota in registry.quotas() {
            let ceiling = ceiling_of(quota);
            if quota.scope == Scope::Provider {
                lower(providers.entry(quota.subject).or_insert(ceiling), &ceiling);
            } else if ceiling
                .iter()
                .any(|&segments| segments < u64::from(segments_max))
            {
                lower(
                    narrow
                        .entry((quota.scope, quota.subject))
                        .or_insert(ceiling),
                    &ceiling,
                );
            }
        }
        let provider = providers.into_values().reduce(|mut best, ceiling| {
            best.iter_mut()
                .zip(ceiling)
                .for_each(|(most, segments)| *most = segments.max(*most));
            best
        });
        Self { narrow, provider }
    }

    /// The most segments of a message of this campaign, sender and class that can pass at once; `u64::MAX` unless bound.
    ///
    /// The recipient's carrier may be unknown, and then every carrier's quota is reserved from: all of them count.
    pub fn of(&self, campaign: &Campaign, sender: u64, class: Class) -> u64 {
        let place = class as usize - 1;
        let provider = self.provider.map_or(u64::MAX, |ceiling| ceiling[place]);
        if self.narrow.is_empty() {
            return provider;
        }
        let subjects = [
            (Scope::Number, sender),
            (Scope::Campaign, u64::from(campaign.key)),
            (Scope::CampaignCarrier, u64::from(campaign.key)),
            (Scope::BrandCarrierDay, u64::from(campaign.brand)),
            (Scope::Tenant, u64::from(campaign.tenant)),
        ];
        subjects
            .iter()
            .filter_map(|subject| self.narrow.get(subject))
            .map(|ceiling| ceiling[place])
            .fold(provider, u64::min)
    }
}

fn ceiling_of(quota: &Quota) -> Ceiling {
    Class::ALL.map(|class| {
        let amount = match quota.scope {
            Scope::BrandCarrierDay if class > quota.reserved_class => {
                // Rounded up, as the ledger itself does.
                let reserve = (u128::from(quota.amount)
                    * u128::from(quota.reserved_percent.min(100)))
                .div_ceil(100);
                quota.amount - u64::try_from(reserve).unwrap_or(quota.amount)
            }
            Scope::BrandCarrierDay => quota.amount,
            _ => quota.burst,
        };
        match quota.unit {
            Unit::Segments => amount,
            // A message counts one, however long.
            Unit::Messages if amount == 0 => 0,
            Unit::Messages => u64::MAX,
        }
    })
}

fn lower(ceiling: &mut Ceiling, other: &Ceiling) {
    ceiling
        .iter_mut()
        .zip(other)
        .for_each(|(segments, &other)| *segments = other.min(*segments));
}
