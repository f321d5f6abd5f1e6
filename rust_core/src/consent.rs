//! Who must not be sent to, in memory.
//!
//! It may only forbid, never permit: the store has the last word at every intent. It knows no scopes but the tenant.

use std::collections::HashSet;

/// Rows that stand for all recipients where a store locks what is not there yet: a shared table of 4,096 keeps two
/// recipients of one batch of 500 apart as often as not, and is read as one page or few.
pub const SLOTS: u64 = 4096;

/// The row that stands for a tenant's recipient. Kept in stores' habits, not in their rows: it may change with a release
/// that no older node runs beside.
#[must_use]
pub fn slot(tenant: u32, recipient: u64) -> u16 {
    let spread = recipient.wrapping_add(u64::from(tenant).wrapping_mul(31));
    u16::try_from(spread % SLOTS).unwrap_or_default()
}

/// The opted-out recipients of every tenant.
#[derive(Clone, Debug, Default)]
pub struct Consent {
    opted_out: HashSet<(u32, u64)>,
}

impl Consent {
    /// Forbids sending to a recipient (digits of the number) for a tenant (key). True when that is new.
    pub fn insert(&mut self, tenant: u32, recipient: u64) -> bool {
        self.opted_out.insert((tenant, recipient))
    }

    /// Lifts it. True when there was something to lift.
    pub fn remove(&mut self, tenant: u32, recipient: u64) -> bool {
        self.opted_out.remove(&(tenant, recipient))
    }

    /// Is sending forbidden.
    #[must_use]
    pub fn contains(&self, tenant: u32, recipient: u64) -> bool {
        self.opted_out.contains(&(tenant, recipient))
    }

    /// How many pairs of tenant and recipient are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.opted_out.len()
    }

    /// True without any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.opted_out.is_empty()
    }
}
