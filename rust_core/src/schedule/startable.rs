//! How many of the messages that wait could leave at one moment if nothing but limits held them: the work more processes
//! could take over. A backlog that a limit holds back is none.
//!
//! It takes nothing and changes nothing, and pops do not pay for it: everything is counted when it is asked for, in one
//! pass over the lanes that hold messages.
//!
//! Invariants: what is counted could leave together, within every limit, the provider's included. A lane counts from its
//! head until a limit refuses one; from there on that limit is closed for the lanes behind, which would stand behind its
//! claim. Of a paced lane it is never more than what its tightest limit has now, at most the limit's burst. Where limits
//! nest and messages cost the same it is what a pop with room for all takes. Lanes come in the order of claims, a pop takes
//! turns by tenants: where messages differ in segments, what is left of a limit may be too little for one and enough for
//! another. After `LOOKED_AT_MAX` messages each counts as one segment: more than could leave, never fewer. Due times, ends
//! and carriers are those of the last pop.

use super::lanes::{Gate, Lane};
use super::meters::{Need, Wait};
use super::{Micros, Scheduler};

/// Messages whose segments are looked at, of all lanes together: some 2 ms, when none is near the processor.
const LOOKED_AT_MAX: usize = 1 << 14;
/// Of a limit that lets nothing more pass.
const CLOSED: u64 = u64::MAX;

/// One count.
struct Count<'a> {
    scheduler: &'a Scheduler,
    now_us: Micros,
    mono_us: Micros,
    /// By meter: what those counted would take.
    used: Vec<u64>,
    /// Messages that may still be looked at.
    looks: usize,
}

impl Scheduler {
    /// Messages that could leave now, were there a free slot for each.
    #[must_use]
    pub fn startable(&self, now_us: Micros, mono_us: Micros) -> usize {
        let open = self
            .lanes
            .filled()
            .filter(|(_, lane)| lane.gate == Gate::Open);
        let mut lanes: Vec<_> = open
            .map(|(at, lane)| {
                let ticket = if lane.ticket == 0 {
                    u64::MAX
                } else {
                    lane.ticket
                };
                (lane.key.class, ticket, at)
            })
            .collect();
        lanes.sort_unstable();
        let mut count = Count {
            scheduler: self,
            now_us,
            mono_us: self.mono_us.max(mono_us),
            used: vec![0; self.meters.len()],
            looks: LOOKED_AT_MAX,
        };
        lanes
            .into_iter()
            .map(|(_, _, at)| count.of_lane(self.lanes.at(at)))
            .sum()
    }
}

impl<'a> Count<'a> {
    fn of_lane(&mut self, lane: &'a Lane) -> usize {
        if self
            .meters_of(lane)
            .all(|meter| self.scheduler.meters.is_hold(meter))
        {
            let held = self.refusing(lane, Need::new(1, &lane.key)).is_some();
            return if held { 0 } else { lane.len };
        }
        let slab = &self.scheduler.slab;
        let mut counted = 0;
        for (looked_at, slot) in lane.slots(slab).enumerate() {
            if self.looks == 0 {
                return counted + self.of_rest(lane, lane.len - looked_at);
            }
            self.looks -= 1;
            let need = Need::new(slab.at(slot).segments, &lane.key);
            match self.refusing(lane, need) {
                None => {
                    self.take(lane, need, 1);
                    counted += 1;
                }
                // It would be set aside, and hold up nobody.
                Some(meter) if self.never(meter, need) => {}
                Some(meter) => {
                    self.close(lane, meter);
                    break;
                }
            }
        }
        counted
    }

    /// The most of so many that could pass, were each of one segment.
    fn of_rest(&mut self, lane: &'a Lane, rest: usize) -> usize {
        let need = Need::new(1, &lane.key);
        let (mut pass, mut refused) = (0, rest + 1);
        while refused - pass > 1 {
            let middle = pass + (refused - pass) / 2;
            if self.refusing_times(lane, need, middle as u64).is_none() {
                pass = middle;
            } else {
                refused = middle;
            }
        }
        self.take(lane, need, pass as u64);
        pass
    }

    fn meters_of(&self, lane: &'a Lane) -> impl Iterator<Item = u32> + use<'a> {
        let provider = self.scheduler.meters.provider();
        lane.meters.iter().chain(provider).copied()
    }

    fn refusing(&self, lane: &'a Lane, need: Need) -> Option<u32> {
        self.refusing_times(lane, need, 1)
    }

    /// A limit that does not let so many of this need pass beside what is counted.
    fn refusing_times(&self, lane: &'a Lane, need: Need, times: u64) -> Option<u32> {
        let meters = &self.scheduler.meters;
        self.meters_of(lane).find(|&meter| {
            let cost = meters.cost(meter, need).saturating_mul(times);
            let cost = cost.saturating_add(self.used[meter as usize]);
            meters
                .check_cost(meter, cost, need, self.now_us, self.mono_us)
                .is_err()
        })
    }

    fn never(&self, meter: u32, need: Need) -> bool {
        let meters = &self.scheduler.meters;
        meters.check(meter, need, self.now_us, self.mono_us) == Err(Wait::Never)
    }

    fn take(&mut self, lane: &'a Lane, need: Need, times: u64) {
        for meter in self.meters_of(lane) {
            let cost = self.scheduler.meters.cost(meter, need);
            let used = &mut self.used[meter as usize];
            *used = used.saturating_add(cost.saturating_mul(times));
        }
    }

    /// The lane waits for this limit, and what it claims is not for those behind it. Holds are not used up.
    fn close(&mut self, lane: &'a Lane, meter: u32) {
        for &claimed in lane.claims.iter().chain([&meter]) {
            if !self.scheduler.meters.is_hold(claimed) {
                self.used[claimed as usize] = CLOSED;
            }
        }
    }
}
