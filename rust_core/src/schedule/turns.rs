//! Whose turn it is among ready lanes: class first with a floor, then tenants by deficit round robin, then lanes in the
//! order in which they became eligible.
//!
//! It knows no limits and takes no messages.
//!
//! Invariants: the work of a pick depends on ready lanes only. A tenant stands in its class's ring while it has queued
//! lanes. A class behind more urgent traffic is served at least `floor_percent` of the units while it has ready lanes.

use std::collections::{HashMap, VecDeque};

use super::lanes::{Lanes, Status};
use crate::message::Class;

/// A tenant's turn, in segments: several messages, so that turning costs little, and few enough to be fair at once.
const QUANTUM_SEGMENTS: i64 = 8;
/// A message counts at most so much in turns: more could only come from damaged input.
pub(super) const TURN_SEGMENTS_MAX: i64 = 255;

#[derive(Default)]
struct Queue {
    lanes: VecDeque<u32>,
    deficit: i64,
    in_ring: bool,
}

#[derive(Default)]
struct ClassTurn {
    /// Tenants with queued lanes.
    ring: VecDeque<u32>,
    /// Lanes that are ready.
    ready: usize,
    /// Owed by more urgent classes, in percent of a segment.
    credit: i64,
}

/// Turns of all classes.
pub(super) struct Turns {
    tenants: HashMap<u32, u32>,
    queues: Vec<[Queue; 3]>,
    classes: [ClassTurn; 3],
    floor_percent: i64,
}

fn rank(class: Class) -> usize {
    class as usize - 1
}

impl Turns {
    pub(super) fn new(floor_percent: i64) -> Self {
        Self {
            tenants: HashMap::new(),
            queues: Vec::new(),
            classes: Default::default(),
            floor_percent,
        }
    }

    /// The index of a tenant, made at its first message.
    pub(super) fn tenant(&mut self, key: u32) -> u32 {
        let next = u32::try_from(self.queues.len()).unwrap_or(u32::MAX);
        let at = *self.tenants.entry(key).or_insert(next);
        if at == next {
            self.queues.push(Default::default());
        }
        at
    }

    /// Counts a lane that became ready, and queues it.
    pub(super) fn ready(&mut self, lanes: &mut Lanes, at: u32) {
        let lane = lanes.at_mut(at);
        let class = &mut self.classes[rank(lane.key.class)];
        class.ready += 1;
        if lane.queued {
            return;
        }
        lane.queued = true;
        let queue = &mut self.queues[lane.tenant_at as usize][rank(lane.key.class)];
        queue.lanes.push_back(at);
        if !queue.in_ring {
            queue.in_ring = true;
            class.ring.push_back(lane.tenant_at);
        }
    }

    /// Counts a lane that is ready no more; it leaves the queue when its turn comes.
    pub(super) fn unready(&mut self, class: Class) {
        let class = &mut self.classes[rank(class)];
        class.ready = class.ready.saturating_sub(1);
    }

    pub(super) fn any_ready(&self) -> bool {
        self.classes.iter().any(|class| class.ready > 0)
    }

    /// The lane whose turn it is; the same again until something is served or changes. `cost_of` is in segments.
    pub(super) fn pick(
        &mut self,
        lanes: &mut Lanes,
        cost_of: impl Fn(&Lanes, u32) -> i64,
    ) -> Option<u32> {
        let class = self.choose()?;
        while let Some(&tenant_at) = self.classes[class].ring.front() {
            let queue = &mut self.queues[tenant_at as usize][class];
            let Some(&lane) = queue.lanes.front() else {
                queue.deficit = 0;
                queue.in_ring = false;
                self.classes[class].ring.pop_front();
                continue;
            };
            if lanes.at(lane).status != Status::Ready {
                queue.lanes.pop_front();
                lanes.at_mut(lane).queued = false;
                lanes.free_if_unused(lane);
                continue;
            }
            if queue.deficit >= cost_of(lanes, lane) {
                return Some(lane);
            }
            queue.deficit += QUANTUM_SEGMENTS;
            self.classes[class].ring.rotate_left(1);
        }
        None
    }

    /// The most urgent class with ready lanes, unless a lower one is owed its floor.
    fn choose(&self) -> Option<usize> {
        let urgent = self.classes.iter().position(|class| class.ready > 0)?;
        if self.floor_percent > 0 {
            for lower in ((urgent + 1)..3).rev() {
                if self.classes[lower].ready > 0
                    && self.classes[lower].credit >= 100 - self.floor_percent
                {
                    return Some(lower);
                }
            }
        }
        Some(urgent)
    }

    /// The picked lane was served: it goes behind its tenant's others.
    pub(super) fn served(&mut self, lanes: &Lanes, at: u32, cost: i64) {
        let lane = lanes.at(at);
        let class = rank(lane.key.class);
        let queue = &mut self.queues[lane.tenant_at as usize][class];
        queue.deficit -= cost;
        if queue.lanes.front() == Some(&at) {
            queue.lanes.rotate_left(1);
        }
        if (0..class).any(|urgent| self.classes[urgent].ready > 0) {
            self.classes[class].credit -= (100 - self.floor_percent) * cost;
        }
        for lower in &mut self.classes[class + 1..] {
            if lower.ready > 0 {
                // A floor is a share of what is served now, not a debt that grows for ever.
                lower.credit =
                    (lower.credit + self.floor_percent * cost).min(100 * TURN_SEGMENTS_MAX);
            }
        }
    }
}
