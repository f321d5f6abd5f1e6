//! From a turn to a message: pop, its timers, and the check of all limits before any is taken.
//!
//! It does not say whose turn it is (`turns.rs`) nor what a limit counts (`meters.rs`).
//!
//! Invariants: nothing is taken unless everything can be. A refused lane waits at the limit that takes longest, claims it,
//! and is woken by it; so a pop meets a waiting lane only when that limit has room for it.

use super::charges::Days;
use super::lanes::Status;
use super::meters::{Need, Wait};
use super::order::Key;
use super::slab::{Place, Slab};
use super::turns::TURN_SEGMENTS_MAX;
use super::{Popped, Scheduler, TOUCHED_MESSAGES};
use crate::message::{Carrier, Held, Kind, Micros};

/// What came of a turn.
enum Turn {
    /// Go on with the next.
    Done,
    /// Something was moved aside, which counts as work.
    Worked,
    /// The provider's own limit: nothing goes before this time, `Micros::MAX` if the store is to say.
    Closed(Micros),
}

impl Scheduler {
    /// What may go now, at most `room` messages; what expired, also if it waits deep in a parked lane; what is blocked.
    /// Messages that are given out are not here any more; those with an ordering key hold it until
    /// [`Scheduler::ordering_released`], those that charged a day's ledger hold the charge until [`Scheduler::settled`].
    pub fn pop(&mut self, now_us: Micros, mono_us: Micros, room: usize) -> Popped {
        self.now_us = now_us;
        self.mono_us = self.mono_us.max(mono_us);
        let mut popped = Popped::default();
        let mut work = self.config.pop_work_max.max(1);
        self.fire_due(&mut popped, &mut work);
        let mut expiry_work = self.config.pop_work_max.max(1);
        self.fire_expiry(&mut popped, &mut expiry_work);
        self.hand_out_stopped(&mut popped);
        while let Some(meter) = self.meters.take_alarm(self.now_us, self.mono_us) {
            self.wake(meter);
        }
        let mut closed_until = None;
        while self.leaving.len() < room && work > 0 {
            let segments_of = |lanes: &super::Lanes, lane: u32| {
                lanes
                    .at(lane)
                    .first(&self.slab)
                    .map_or(1, |slot| turn_segments(&self.slab, slot))
            };
            let Some(lane) = self.turns.pick(&mut self.lanes, segments_of) else {
                break;
            };
            match self.turn(lane, &mut popped) {
                Turn::Done => {}
                Turn::Worked => work -= 1,
                Turn::Closed(until_us) => {
                    closed_until = Some(until_us);
                    break;
                }
            }
        }
        popped.ready = self.give_out();
        popped.more_ready = closed_until.is_none() && self.turns.any_ready();
        popped.wake_after_us = if work == 0 || expiry_work == 0 || !self.stopped.is_empty() {
            Some(0)
        } else {
            self.wake_after_us(closed_until)
        };
        popped
    }

    fn wake_after_us(&self, closed_until: Option<Micros>) -> Option<Micros> {
        let timers = [self.due.next_us(), self.expiry.next_us()];
        let timers = timers
            .into_iter()
            .flatten()
            .map(|at_us| at_us.saturating_sub(self.now_us).max(0));
        // At the end of time for a budget that the store is asked for: its answer is what wakes.
        let closed = closed_until.filter(|&at_us| at_us < Micros::MAX);
        let closed = closed.map(|at_us| at_us.saturating_sub(self.mono_us).max(0));
        timers
            .chain(closed)
            .chain(self.meters.alarm_after_us(self.now_us, self.mono_us))
            .min()
    }

    fn fire_due(&mut self, popped: &mut Popped, work: &mut usize) {
        let time_of = |slab: &Slab, slot: u32| slab.at(slot).due_us.min(slab.at(slot).expires_us);
        while let Some(slot) = self.due.fire(&mut self.slab, self.now_us, work, time_of) {
            if self.slab.at(slot).expires_us <= self.now_us {
                popped.expired.push(self.take_out(slot, true));
            } else {
                self.counts.due -= 1;
                self.enter(slot);
            }
        }
    }

    fn fire_expiry(&mut self, popped: &mut Popped, work: &mut usize) {
        let time_of = |slab: &Slab, slot: u32| slab.at(slot).expires_us;
        while let Some(slot) = self.expiry.fire(&mut self.slab, self.now_us, work, time_of) {
            let expires_us = self.slab.at(slot).expires_us;
            if expires_us <= self.now_us {
                popped.expired.push(self.take_out(slot, true));
            } else {
                self.set_timer(slot, expires_us, false);
            }
        }
    }

    fn hand_out_stopped(&mut self, popped: &mut Popped) {
        while popped.blocked.len() < self.config.pop_work_max.max(1)
            && let Some(&lane) = self.stopped.first()
        {
            let Some(slot) = self.lanes.at(lane).first(&self.slab) else {
                self.stopped.remove(&lane);
                continue;
            };
            popped.blocked.push(self.take_out(slot, true));
        }
    }

    /// The lane's turn: its head goes, or the lane waits, or what stands in the way is moved aside.
    fn turn(&mut self, at: u32, popped: &mut Popped) -> Turn {
        let Some(slot) = self.lanes.at(at).first(&self.slab) else {
            self.set_status(at, Status::Idle);
            return Turn::Worked;
        };
        let (recipient, expires_us) = (self.slab.at(slot).recipient, self.slab.at(slot).expires_us);
        if expires_us <= self.now_us {
            popped.expired.push(self.take_out(slot, true));
            return Turn::Worked;
        }
        let key = self.lanes.at(at).key;
        let carrier = self.carriers.get(recipient);
        if carrier != key.carrier && carrier != Carrier::Unknown {
            self.leave_lane(slot);
            self.enter_lane(slot);
            return Turn::Worked;
        }
        let need = Need::new(self.slab.at(slot).segments, &key);
        if let Some((wait, meter)) = self.refusal(at, need) {
            if wait == Wait::Never {
                self.set_aside(slot);
                return Turn::Worked;
            }
            if matches!(wait, Wait::Budget(_)) {
                self.note_refused(at, need);
            }
            self.wait_at(at, meter, wait);
            return Turn::Done;
        }
        match self.provider_refusal(need) {
            Some(Wait::Never) => {
                self.set_aside(slot);
                return Turn::Worked;
            }
            Some(Wait::Rate(until_us)) => return Turn::Closed(until_us),
            Some(Wait::Budget(until_us)) => {
                self.note_refused(at, need);
                return Turn::Closed(until_us);
            }
            _ => {}
        }
        self.take(at, slot, need);
        Turn::Done
    }

    /// The longest wait that any of the lane's limits asks for.
    fn refusal(&self, at: u32, need: Need) -> Option<(Wait, u32)> {
        let lane = self.lanes.at(at);
        let claim = (
            lane.key.class,
            if lane.ticket == 0 {
                u64::MAX
            } else {
                lane.ticket
            },
            at,
        );
        let mut longest: Option<(Wait, u32)> = None;
        for &meter in &lane.meters {
            let wait = match self.meters.check(meter, need, self.now_us, self.mono_us) {
                Err(wait) => wait,
                Ok(()) if self.meters.is_behind(meter, claim) => Wait::Behind,
                Ok(()) => continue,
            };
            if longest.is_none_or(|(other, _)| wait > other) {
                longest = Some((wait, meter));
            }
        }
        longest
    }

    fn provider_refusal(&self, need: Need) -> Option<Wait> {
        let waits = self.meters.provider().iter();
        waits
            .filter_map(|&meter| {
                self.meters
                    .check(meter, need, self.now_us, self.mono_us)
                    .err()
            })
            .max()
    }

    /// A budget refused this lane's head: it asks for all that it needs together, since each lasts for a short time.
    fn note_refused(&mut self, at: u32, need: Need) {
        for &meter in &self.lanes.at(at).meters {
            self.meters.note_refused(meter, need);
        }
        for meter in self.meters.provider().to_vec() {
            self.meters.note_refused(meter, need);
        }
    }

    /// All limits let it pass: takes them, and the message.
    fn take(&mut self, at: u32, slot: u32, need: Need) {
        let meters = std::mem::take(&mut self.lanes.at_mut(at).meters);
        let provider = self.meters.take_provider();
        let mut days = Days::default();
        for &meter in meters.iter().chain(&provider) {
            if let Some(day) = self.meters.take(meter, need, self.now_us, self.mono_us) {
                days.push(day);
            }
        }
        self.meters.put_provider(provider);
        let lane = self.lanes.at_mut(at);
        lane.meters = meters;
        let (tenant, campaign) = (lane.key.tenant, lane.key.campaign);
        let mms = lane.key.kind == Kind::Mms;
        self.turns
            .served(&self.lanes, at, turn_segments(&self.slab, slot));
        self.leave_lane(slot);
        self.clear_timer(slot);
        let waiting = self.slab.at(slot);
        let (id, recipient) = (waiting.id, waiting.recipient);
        if waiting.is_ordered() {
            let key = Key {
                tenant,
                campaign,
                ordering: waiting.ordering,
            };
            self.leave_key(key, id, true);
        }
        if days.is_empty() {
            if self.charges.any() && self.slab.at(slot).is_again() {
                // What is told of this attempt is none of a former one's.
                self.charges.forget(id);
            }
        } else {
            self.charges.opened(id, recipient, need.carrier, mms, days);
        }
        self.leaving.push(slot);
    }

    /// Empties the slots of all that were taken, the memory of many asked for at once.
    fn give_out(&mut self) -> Vec<Held> {
        let mut leaving = std::mem::take(&mut self.leaving);
        let mut ready = Vec::with_capacity(leaving.len());
        for near in leaving.chunks(TOUCHED_MESSAGES) {
            self.slab.touch(near);
            for &slot in near {
                ready.push(self.empty(slot));
            }
        }
        leaving.clear();
        self.leaving = leaving;
        ready
    }

    /// The lane waits at this meter, which refuses longest. It claims it, so that cheaper messages cannot use up what it
    /// waits for. Claims on rates last until the head goes; a wait for a day or by the provider's word is long, and holds
    /// up nothing but its own limit.
    fn wait_at(&mut self, at: u32, meter: u32, wait: Wait) {
        if matches!(wait, Wait::Hold(_) | Wait::Day(_)) {
            self.drop_claims(at, Some(meter));
        }
        let lane = self.lanes.at_mut(at);
        if lane.ticket == 0 {
            self.last_ticket += 1;
            lane.ticket = self.last_ticket;
        }
        if !lane.claims.contains(&meter) {
            lane.claims.push(meter);
            self.meters
                .at_mut(meter)
                .claims
                .insert((lane.key.class, lane.ticket, at));
        }
        let claims = lane.claims.clone();
        self.set_status(at, Status::Waiting(meter));
        for claimed in claims {
            self.wake(claimed);
        }
    }

    /// Looks who is next at this meter: ready if it has room, else an alarm for when it may have.
    pub(super) fn wake(&mut self, meter: u32) {
        if self.meters.is_hold(meter) {
            self.wake_held(meter);
            return;
        }
        for (_, _, at) in self.meters.next_claims(meter).into_iter().flatten() {
            let lane = self.lanes.at(at);
            match lane.status {
                Status::Waiting(other) if other == meter => {}
                // The favoured one is about to try: what is here is its.
                Status::Ready => return,
                _ => continue,
            }
            let Some(slot) = lane.first(&self.slab) else {
                return;
            };
            let need = Need::new(self.slab.at(slot).segments, &lane.key);
            match self.meters.check(meter, need, self.now_us, self.mono_us) {
                Ok(()) | Err(Wait::Never) => self.set_status(at, Status::Ready),
                Err(wait) => {
                    if matches!(wait, Wait::Budget(_)) {
                        self.note_refused(at, need);
                    }
                    self.meters.arm(meter, wait);
                }
            }
            return;
        }
    }

    /// A hold is not used up: every lane whose carrier it lets go is ready, at most all lanes of a campaign.
    fn wake_held(&mut self, meter: u32) {
        let claims: Vec<_> = self.meters.at(meter).claims.iter().copied().collect();
        for (_, _, at) in claims {
            let lane = self.lanes.at(at);
            if lane.status != Status::Waiting(meter) {
                continue;
            }
            match self
                .meters
                .check(meter, Need::new(1, &lane.key), self.now_us, self.mono_us)
            {
                Ok(()) => self.set_status(at, Status::Ready),
                Err(wait) => self.meters.arm(meter, wait),
            }
        }
    }

    /// A limit can never let this message pass, since limits changed after it was accepted. It waits beside its lane, for
    /// other limits or its end, and holds up nobody.
    fn set_aside(&mut self, slot: u32) {
        self.leave_lane(slot);
        self.slab.at_mut(slot).place = Place::Stuck;
        self.stuck.insert(slot);
        self.counts.quota += 1;
    }

    /// Lanes and messages set aside look at their limits again.
    pub(super) fn reconsider(&mut self) {
        for at in self.lanes.live() {
            let key = self.lanes.at(at).key;
            let (gate, meters) = self.terms_of(&key);
            let lane = self.lanes.at_mut(at);
            lane.gate = gate;
            lane.meters = meters;
            lane.claims.clear();
            lane.ticket = 0;
            if lane.len > 0 {
                let status = self.open_status(at);
                self.set_status(at, status);
            }
        }
        for slot in std::mem::take(&mut self.stuck) {
            self.counts.quota -= 1;
            self.enter_lane(slot);
        }
    }
}

fn turn_segments(slab: &Slab, slot: u32) -> i64 {
    i64::from(slab.at(slot).segments).clamp(1, TURN_SEGMENTS_MAX)
}
