//! Which accesses are ordered: vector clocks, folded along the grid.
//!
//! Each thread has a clock that grows at every synchronisation. A thread *knows* another's accesses up to some clock.
//! A full vector for each thread would be threads squared; but barriers of a block teach all the same, so knowledge is
//! kept in layers: a floor for the block, a floor for the warp, a few lanes after `__syncwarp` with a partial mask, and
//! what came from elsewhere through fences and atomics.
//!
//! Fences and atomics follow CUDA's memory model: what a thread knew at a `__threadfence` is handed on by its later atomic
//! operations (and volatile writes); who reads that value knows it from the next fence or barrier on.

use super::shadow::Stamp;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::rc::Rc;

/// What is known of any threads: for each block of the grid a floor for all its threads, and more for some.
#[derive(Clone, Default, Debug)]
pub(crate) struct Known(BTreeMap<u32, (u32, BTreeMap<u32, u32>)>);

impl Known {
    fn covers(&self, stamp: Stamp) -> bool {
        let Some((floor, threads)) = self.0.get(&(stamp.who >> 10)) else { return false };
        stamp.clock < *floor || threads.get(&(stamp.who & 1023)).is_some_and(|known| stamp.clock < *known)
    }

    fn join(&mut self, other: &Self) {
        for (block, (floor, threads)) in &other.0 {
            let mine = self.0.entry(*block).or_default();
            mine.0 = mine.0.max(*floor);
            for (thread, known) in threads {
                let mine = mine.1.entry(*thread).or_default();
                *mine = (*mine).max(*known);
            }
        }
    }
}

type Shared = Option<Rc<Known>>;

fn join(into: &mut Shared, other: &Shared) {
    match (into.as_mut(), other) {
        (_, None) => {}
        (None, Some(_)) => into.clone_from(other),
        (Some(mine), Some(theirs)) if Rc::ptr_eq(mine, theirs) => {}
        (Some(mine), Some(theirs)) => Rc::make_mut(mine).join(theirs),
    }
}

#[derive(Clone, Default)]
struct Lane {
    clock: u32,
    /// Of the lanes of its warp, by `__syncwarp` with a partial mask.
    peers: Option<Box<[u32; 32]>>,
    /// Of other threads, through atomics.
    foreign: Shared,
    /// Seen at an atomic, known from the next fence or barrier on.
    seen: Shared,
    /// What its atomics hand on: after `__threadfence`, and after any fence within the block.
    handed: [Shared; 2],
}

struct Block {
    index: u32,
    floor: u32,
    highest: u32,
    warps: Vec<u32>,
    lanes: Vec<Lane>,
    /// Whether any lane has foreign knowledge.
    mixed: bool,
}

/// What a thread needs to know most orders by itself.
#[derive(Clone, Copy, Default)]
pub(crate) struct View {
    pub(crate) who: u32,
    pub(crate) clock: u32,
    block_floor: u32,
    warp_floor: u32,
    /// There is more in [`Clocks`].
    more: bool,
}

impl View {
    /// Whether an access is ordered before what the thread does now.
    #[inline]
    pub(crate) fn ordered(&self, stamp: Stamp, clocks: &Clocks, place: (usize, usize)) -> bool {
        stamp.clock == 0
            || stamp.who == self.who
            || (stamp.who ^ self.who) < 1024
                && (stamp.clock < self.block_floor
                    || (stamp.who ^ self.who) < 32 && stamp.clock < self.warp_floor)
            || self.more && clocks.covers(place, stamp)
    }
}

/// What an address hands on.
#[derive(Default)]
struct Relay {
    device: Shared,
    block: Option<(u32, Shared)>,
}

/// The clocks of all resident blocks. A place is a slot and the number of a thread in its block.
#[derive(Default)]
pub(crate) struct Clocks {
    slots: Vec<Option<Block>>,
    relays: HashMap<usize, Relay>,
}

impl Clocks {
    /// A block begins in a slot, with fresh shared memory at `shared`.
    pub(crate) fn begin(&mut self, slot: usize, index: u32, threads: usize, shared: Range<usize>) {
        if self.slots.len() <= slot {
            self.slots.resize_with(slot + 1, || None);
        }
        if !self.relays.is_empty() {
            self.relays.retain(|address, _| !shared.contains(address));
        }
        let lanes = vec![Lane { clock: 1, ..Lane::default() }; threads];
        let warps = vec![1; threads.div_ceil(32)];
        self.slots[slot] = Some(Block { index, floor: 1, highest: 1, warps, lanes, mixed: false });
    }

    pub(crate) fn view(&self, (slot, lane): (usize, usize)) -> View {
        let Some(Some(block)) = self.slots.get(slot) else { return View::default() };
        let own = &block.lanes[lane];
        View {
            who: block.index << 10 | lane as u32,
            clock: own.clock,
            block_floor: block.floor,
            warp_floor: block.warps[lane / 32],
            more: own.peers.is_some() || own.foreign.is_some(),
        }
    }

    #[cold]
    fn covers(&self, (slot, lane): (usize, usize), stamp: Stamp) -> bool {
        let Some(Some(block)) = self.slots.get(slot) else { return false };
        let (own, other) = (&block.lanes[lane], (stamp.who & 1023) as usize);
        let same_warp = stamp.who >> 10 == block.index && other / 32 == lane / 32;
        same_warp && own.peers.as_ref().is_some_and(|p| stamp.clock < p[other % 32])
            || own.foreign.as_ref().is_some_and(|f| f.covers(stamp))
    }

    /// All threads of a block have met.
    pub(crate) fn barrier(&mut self, slot: usize) {
        let Some(Some(block)) = self.slots.get_mut(slot) else { return };
        block.highest += 1;
        block.floor = block.highest;
        for lane in &mut block.lanes {
            lane.clock = block.highest;
        }
        if block.mixed {
            let all = 0..block.lanes.len();
            block.exchange(all);
        }
    }

    /// The lanes of `mask` have met at a `__syncwarp`; `whole`: they are all that the warp was started with.
    pub(crate) fn warp(&mut self, slot: usize, warp: usize, mask: u32, whole: bool) {
        let Some(Some(block)) = self.slots.get_mut(slot) else { return };
        let lanes = warp * 32..block.lanes.len().min(warp * 32 + 32);
        let named = |i: &usize| mask >> (i - warp * 32) & 1 == 1;
        let highest = lanes.clone().map(|i| block.lanes[i].clock).max().unwrap_or(0) + 1;
        block.highest = block.highest.max(highest);
        if whole {
            block.warps[warp] = highest;
            for lane in &mut block.lanes[lanes.clone()] {
                lane.clock = highest;
            }
        } else {
            let mut known = [0; 32];
            for i in lanes.clone().filter(named) {
                let lane = &block.lanes[i];
                for (known, theirs) in known.iter_mut().zip(lane.peers.iter().flat_map(|p| p.iter())) {
                    *known = (*known).max(*theirs);
                }
                known[i % 32] = lane.clock + 1;
            }
            for i in lanes.clone().filter(named) {
                block.lanes[i].peers = Some(Box::new(known));
                block.lanes[i].clock += 1;
            }
        }
        if block.mixed {
            block.exchange(lanes.filter(named));
        }
    }

    /// `__threadfence` (`wide`) or `__threadfence_block`.
    pub(crate) fn fence(&mut self, (slot, lane): (usize, usize), wide: bool) {
        let Some(Some(block)) = self.slots.get_mut(slot) else { return };
        let (index, floor, warp_floor) = (block.index, block.floor, block.warps[lane / 32]);
        let warp = lane / 32 * 32..block.lanes.len().min(lane / 32 * 32 + 32);
        block.mixed = true;
        let own = &mut block.lanes[lane];
        let seen = own.seen.take();
        join(&mut own.foreign, &seen);
        let mut known = own.foreign.as_deref().cloned().unwrap_or_default();
        let mine = known.0.entry(index).or_default();
        mine.0 = mine.0.max(floor);
        let mut learn = |i: usize, clock: u32| {
            if clock > floor {
                let known = mine.1.entry(i as u32).or_default();
                *known = (*known).max(clock);
            }
        };
        for i in warp {
            learn(i, warp_floor.max(own.peers.as_ref().map_or(0, |p| p[i % 32])));
        }
        own.clock += 1;
        learn(lane, own.clock);
        let known = Some(Rc::new(known));
        if wide {
            own.handed[0].clone_from(&known);
        }
        own.handed[1] = known;
        block.highest = block.highest.max(own.clock);
    }

    /// An atomic or volatile access to `address`, which reads, writes or does both.
    pub(crate) fn atomic(&mut self, (slot, lane): (usize, usize), address: usize, reads: bool, writes: bool) {
        let Some(Some(block)) = self.slots.get_mut(slot) else { return };
        let own = &mut block.lanes[lane];
        let hands = writes && own.handed.iter().any(Option::is_some);
        if !hands && self.relays.is_empty() {
            return;
        }
        let relay = self.relays.get_mut(&address);
        if reads && let Some(relay) = &relay {
            join(&mut own.seen, &relay.device);
            if let Some((index, known)) = &relay.block
                && *index == block.index
            {
                join(&mut own.seen, known);
            }
            block.mixed |= own.seen.is_some();
        }
        if hands {
            let relay = self.relays.entry(address).or_default();
            join(&mut relay.device, &own.handed[0]);
            match &mut relay.block {
                Some((index, known)) if *index == block.index => join(known, &own.handed[1]),
                other => *other = Some((block.index, own.handed[1].clone())),
            }
        }
    }
}

impl Block {
    /// Threads that have met share what they know of others, and what they may hand on: CUDA's fences are cumulative over
    /// barriers.
    fn exchange(&mut self, lanes: impl Iterator<Item = usize> + Clone) {
        let (mut foreign, mut handed) = (None, [None, None]);
        for i in lanes.clone() {
            let lane = &mut self.lanes[i];
            join(&mut foreign, &lane.foreign);
            join(&mut foreign, &lane.seen.take());
            for (all, own) in handed.iter_mut().zip(&lane.handed) {
                join(all, own);
            }
        }
        for i in lanes {
            self.lanes[i].foreign.clone_from(&foreign);
            self.lanes[i].handed.clone_from(&handed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(block: u32, thread: u32, clock: u32) -> Stamp {
        Stamp::new(block << 10 | thread, clock, 0, false, true)
    }

    fn ordered(clocks: &Clocks, place: (usize, usize), stamp: Stamp) -> bool {
        clocks.view(place).ordered(stamp, clocks, place)
    }

    fn two_blocks() -> Clocks {
        let mut clocks = Clocks::default();
        for slot in 0..2 {
            clocks.begin(slot, slot as u32, 64, 0..0);
        }
        clocks
    }

    #[test]
    fn a_barrier_orders_what_came_before_it_and_nothing_after() {
        let mut clocks = two_blocks();
        let before = clocks.view((0, 40)).clock;
        assert!(!ordered(&clocks, (0, 1), stamp(0, 40, before)));
        clocks.barrier(0);
        assert!(ordered(&clocks, (0, 1), stamp(0, 40, before)));
        assert!(!ordered(&clocks, (0, 1), stamp(0, 40, clocks.view((0, 40)).clock)));
        assert!(!ordered(&clocks, (1, 1), stamp(0, 40, before)), "the other block was not there");
    }

    #[test]
    fn a_partial_syncwarp_orders_its_lanes_alone() {
        let mut clocks = two_blocks();
        clocks.warp(0, 0, 0b0110, false);
        assert!(ordered(&clocks, (0, 1), stamp(0, 2, 1)));
        assert!(!ordered(&clocks, (0, 0), stamp(0, 2, 1)));
        clocks.warp(0, 0, 0b0011, false);
        assert!(ordered(&clocks, (0, 0), stamp(0, 2, 1)), "through lane 1");
        assert!(!ordered(&clocks, (0, 0), stamp(0, 2, 2)));
    }

    #[test]
    fn fence_and_atomic_hand_on_what_was_known_at_the_fence() {
        for fenced in [true, false] {
            let mut clocks = two_blocks();
            let write = stamp(0, 3, clocks.view((0, 3)).clock);
            clocks.barrier(0); // thread 0 knows thread 3's write
            if fenced {
                clocks.fence((0, 0), true);
            }
            let late = stamp(0, 0, clocks.view((0, 0)).clock);
            clocks.atomic((0, 0), 64, true, true);
            clocks.atomic((1, 0), 64, true, true);
            assert!(!ordered(&clocks, (1, 0), write), "not before a fence or barrier of the reader");
            clocks.barrier(1);
            for reader in [0, 63] {
                assert_eq!(ordered(&clocks, (1, reader), write), fenced);
                assert!(!ordered(&clocks, (1, reader), late), "written after the fence");
            }
        }
    }

    #[test]
    fn a_fence_of_the_block_hands_nothing_to_other_blocks() {
        let mut clocks = two_blocks();
        let write = stamp(0, 0, clocks.view((0, 0)).clock);
        clocks.fence((0, 0), false);
        clocks.atomic((0, 0), 64, false, true);
        for (place, expected) in [((1, 0), false), ((0, 40), true)] {
            clocks.atomic(place, 64, true, false);
            clocks.fence(place, true);
            assert_eq!(ordered(&clocks, place, write), expected, "{place:?}");
        }
    }
}
