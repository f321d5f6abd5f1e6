//! Shards: a fixed share of the campaigns each, with one owner at a time.
//!
//! It takes and renews no lease (the store does). An *epoch* counts a shard's owners: it rises at each takeover, and every
//! attempt is written down under the epoch of its shard. One node alone owns every shard under the same epoch.

/// A message belongs to the shard of its campaign. A constant of the store's rows: it never changes.
pub const SHARDS: u32 = 64;
/// As a length.
const COUNT: usize = SHARDS as usize;

/// The shard of a campaign.
#[must_use]
pub fn shard_of(campaign: u32) -> u32 {
    campaign % SHARDS
}

/// Some of the shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardSet(u64);

impl ShardSet {
    /// Every shard.
    pub const ALL: Self = Self(u64::MAX);
    /// None.
    pub const NONE: Self = Self(0);

    /// These shards; `None` when one of them is none.
    #[must_use]
    pub fn of(shards: &[u32]) -> Option<Self> {
        let mut set = Self::NONE;
        for &shard in shards {
            if shard >= SHARDS {
                return None;
            }
            set.0 |= 1 << shard;
        }
        Some(set)
    }

    /// Is it one of them?
    #[must_use]
    pub fn has(self, shard: u32) -> bool {
        shard < SHARDS && self.0 >> shard & 1 == 1
    }

    /// Is this campaign's one of them?
    #[must_use]
    pub fn has_campaign(self, campaign: u32) -> bool {
        self.has(shard_of(campaign))
    }

    /// All of them, ascending.
    pub fn iter(self) -> impl Iterator<Item = u32> {
        (0..SHARDS).filter(move |&shard| self.has(shard))
    }

    /// Those of both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Those that the other has not.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

/// Which shards a node owns, and under which epochs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Epochs {
    owned: ShardSet,
    of: [u64; COUNT],
}

impl Epochs {
    /// Every shard under one epoch: a node alone.
    #[must_use]
    pub fn all(epoch: u64) -> Self {
        Self {
            owned: ShardSet::ALL,
            of: [epoch; COUNT],
        }
    }

    /// The owned shards.
    #[must_use]
    pub fn owned(&self) -> ShardSet {
        self.owned
    }

    /// The epoch of a campaign's shard: the last one it was owned under, 0 if it never was.
    #[must_use]
    pub fn of_campaign(&self, campaign: u32) -> u64 {
        self.of[shard_of(campaign) as usize]
    }

    /// A shard is owned now, under this epoch. A number that is no shard changes nothing.
    pub fn own(&mut self, shard: u32, epoch: u64) {
        if let Some(of) = self.of.get_mut(shard as usize) {
            *of = epoch;
            self.owned.0 |= 1 << shard;
        }
    }

    /// These are owned no more.
    pub fn disown(&mut self, shards: ShardSet) {
        self.owned = self.owned.without(shards);
    }

    /// The distinct shards of these campaigns with their epochs, ascending: the order in which lease rows are read.
    #[must_use]
    pub fn of_campaigns(&self, campaigns: impl Iterator<Item = u32>) -> Vec<(u32, u64)> {
        let mut shards = ShardSet::NONE;
        for campaign in campaigns {
            shards.0 |= 1 << shard_of(campaign);
        }
        shards
            .iter()
            .map(|shard| (shard, self.of[shard as usize]))
            .collect()
    }
}
