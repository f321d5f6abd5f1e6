//! A frozen picture of who may send what from where, replaced as a whole when the registry's version moves.
//!
//! It does not load or refresh itself: rows come in, look-ups go out.

use std::collections::HashMap;

use crate::message::{Carrier, Class};

/// A tenant, by its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// Integer key of the row.
    pub key: u32,
    /// False: suspended.
    pub active: bool,
}

/// May a campaign send. The proto's `CampaignState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum CampaignState {
    /// Yes.
    Active = 1,
    /// Accepts, but holds.
    Paused = 2,
    /// No.
    Stopped = 3,
}

/// What to do with an attempt whose outcome stays unknown. The proto's `OnUnknown`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum OnUnknown {
    /// CRITICAL resends, the others end UNRESOLVED.
    ByClass = 0,
    /// Send again.
    Resend = 1,
    /// Never.
    Unresolved = 2,
}

/// A campaign with its numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Campaign {
    /// Integer key of the row.
    pub key: u32,
    /// Its tenant.
    pub tenant: u32,
    /// Its brand.
    pub brand: u32,
    /// The part after `campaigns/`.
    pub id: String,
    /// May it send.
    pub state: CampaignState,
    /// Policy.
    pub on_unknown: OnUnknown,
    /// The provider's messaging profile; empty without.
    pub messaging_profile: String,
    /// Digits of its numbers, ascending.
    pub numbers: Vec<u64>,
}

/// What a quota counts by. The proto's `QuotaScope`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Scope {
    /// Subject: digits of the number.
    Number = 1,
    /// Subject: campaign key.
    Campaign = 2,
    /// Subject: campaign key; `carrier` set.
    CampaignCarrier = 3,
    /// Subject: brand key; `carrier` set; a calendar ledger.
    BrandCarrierDay = 4,
    /// Subject: provider key.
    Provider = 5,
    /// Subject: tenant key.
    Tenant = 6,
}

/// What a quota counts. The proto's `QuotaUnit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Unit {
    /// Segments; an MMS counts one.
    Segments = 1,
    /// Messages.
    Messages = 2,
}

/// A limit. For a rate: burst + rate × window ≤ amount. For a ledger: amount per calendar day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Integer key of the row.
    pub key: u32,
    /// What it counts by.
    pub scope: Scope,
    /// Key of the subject, see [`Scope`].
    pub subject: u64,
    /// For scopes with a carrier; otherwise `Unknown`.
    pub carrier: Carrier,
    /// What it counts.
    pub unit: Unit,
    /// So many per window.
    pub amount: u64,
    /// Window in microseconds; ignored by ledgers.
    pub window_us: u64,
    /// So many at once; 1 ≤ burst < amount (burst = amount = 1 is kept as one per window).
    pub burst: u64,
    /// Share of a ledger, in percent, for classes up to `reserved_class` only.
    pub reserved_percent: u8,
    /// The lowest class that may spend the reserve.
    pub reserved_class: Class,
}

/// The picture.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    /// Version of the registry in the store.
    pub version: u64,
    tenants: HashMap<u32, Tenant>,
    campaigns: HashMap<u32, Campaign>,
    campaign_ids: HashMap<(u32, String), u32>,
    numbers: HashMap<u64, u32>,
    quotas: Vec<Quota>,
}

impl Registry {
    /// A picture of these rows.
    #[must_use]
    pub fn new(
        version: u64,
        tenants: Vec<Tenant>,
        campaigns: Vec<Campaign>,
        quotas: Vec<Quota>,
    ) -> Self {
        let mut picture = Self {
            version,
            quotas,
            ..Self::default()
        };
        for tenant in tenants {
            picture.tenants.insert(tenant.key, tenant);
        }
        for mut campaign in campaigns {
            campaign.numbers.sort_unstable();
            for &number in &campaign.numbers {
                picture.numbers.insert(number, campaign.key);
            }
            picture
                .campaign_ids
                .insert((campaign.tenant, campaign.id.clone()), campaign.key);
            picture.campaigns.insert(campaign.key, campaign);
        }
        picture
    }

    /// The tenant with this key.
    #[must_use]
    pub fn tenant(&self, key: u32) -> Option<&Tenant> {
        self.tenants.get(&key)
    }

    /// The campaign with this key.
    #[must_use]
    pub fn campaign(&self, key: u32) -> Option<&Campaign> {
        self.campaigns.get(&key)
    }

    /// The tenant's campaign with this id (without `campaigns/`).
    #[must_use]
    pub fn campaign_of(&self, tenant: u32, id: &str) -> Option<&Campaign> {
        // The map owns its keys; one small allocation here is cheaper than a second index.
        self.campaign_ids
            .get(&(tenant, id.to_owned()))
            .and_then(|key| self.campaigns.get(key))
    }

    /// The campaign that a number belongs to.
    #[must_use]
    pub fn campaign_of_number(&self, number: u64) -> Option<&Campaign> {
        self.numbers
            .get(&number)
            .and_then(|key| self.campaigns.get(key))
    }

    /// All quotas.
    #[must_use]
    pub fn quotas(&self) -> &[Quota] {
        &self.quotas
    }
}
