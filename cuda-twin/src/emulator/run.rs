//! A launch in progress, and what its kernel calls: memory accesses, barriers, warp operations, shared memory.

use super::block::{Block, Poll, State};
use super::checker::{Access, Checker, Finding, Region};
use super::library::{Kernel, Library};
use super::runtime::{At, Runtime, Thread};
use super::shadow::Shadow;
use super::warp::Gathered;
use crate::module::{Launch, MAX_SHARED_BYTES};
use crate::{FaultKind, Options};
use corosensei::Yielder;
use std::cell::{Cell, RefCell, UnsafeCell};
use std::ffi::{CStr, c_void};
use std::ptr::null;

/// Unused bytes between declarations of shared memory, so that small overruns are seen.
const GAP: usize = 256;
/// Declarations of shared memory that the gaps are reserved for.
const DECLARATIONS: usize = 64;
/// Bytes of a block's arena.
pub(crate) const ARENA: usize = MAX_SHARED_BYTES as usize + GAP * DECLARATIONS;
/// Static shared memory of a block, by CUDA's rules.
const MAX_STATIC_BYTES: usize = 48 * 1024;

/// xorshift64*.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((u128::from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)) * n as u128) >> 64) as usize
    }
}

/// Slot of a block and number of a thread in it.
pub(crate) type Place = (usize, usize);

/// Who can run.
pub(crate) struct Scheduler {
    pub(crate) random: Random,
    /// Resident blocks, by slot.
    pub(crate) slots: Vec<Option<Block>>,
    pub(crate) resident: usize,
    /// Blocks to come, last first.
    pub(crate) pending: Vec<u32>,
    pub(crate) ready: Vec<Place>,
    /// Threads that can run but wait for memory to change.
    pub(crate) polling: Vec<Place>,
    /// Turns of polling threads since memory changed last.
    pub(crate) idle_turns: u64,
    pub(crate) changes_seen: u64,
    pub(crate) spare_arenas: Vec<Vec<u128>>,
}

/// A launch in progress. Kernels call into it while the scheduler waits for them, so everything that changes is in cells,
/// and no borrow lasts while a thread runs or waits.
pub(crate) struct Run<'a> {
    pub(crate) options: Options,
    pub(crate) library: &'a Library,
    pub(crate) kernel: &'a Kernel,
    pub(crate) launch: Launch,
    pub(crate) arguments: *mut *mut c_void,
    pub(crate) runtime: UnsafeCell<Runtime>,
    pub(crate) place: Cell<Place>,
    pub(crate) yielder: Cell<*const Yielder<(), ()>>,
    pub(crate) poll: Cell<Poll>,
    /// Checked accesses until another thread goes first.
    pub(crate) until_yield: Cell<u32>,
    pub(crate) scheduler: RefCell<Scheduler>,
    pub(crate) checker: RefCell<Checker>,
    pub(crate) finding: RefCell<Option<(Finding, Vec<At>, Thread)>>,
}

// What kernels call.
impl Run<'_> {
    /// A thread has begun on its own stack.
    pub(crate) fn begin(&self, yielder: *const Yielder<(), ()>) {
        let (slot, lane) = self.place.get();
        self.yielder.set(yielder);
        if let Some(block) = &mut self.scheduler.borrow_mut().slots[slot] {
            block.lanes[lane].yielder = yielder;
        }
    }

    fn suspend(&self) {
        // SAFETY: the yielder of the thread that runs, which calls this on its own stack.
        unsafe { (*self.yielder.get()).suspend(()) };
    }

    /// Ends the launch with a finding; the thread never runs again.
    pub(crate) fn stop(&self, finding: Finding, at: At) -> ! {
        let places = if at == At::NOWHERE { Vec::new() } else { vec![at] };
        self.stop_at(finding, places)
    }

    fn stop_at(&self, finding: Finding, places: Vec<At>) -> ! {
        // SAFETY: the kernel that may access it is this one, which waits here.
        let thread = unsafe { (*self.runtime.get()).thread };
        *self.finding.borrow_mut() = Some((finding, places, thread));
        loop {
            self.suspend();
        }
    }

    pub(crate) fn offset(&self, code: usize) -> u32 {
        self.checker.borrow().offset(code)
    }

    #[inline]
    pub(crate) fn access(&self, address: usize, bytes: usize, access: Access, code: usize) {
        if !self.options.checked || self.checker.borrow().me.stack.contains(&address) {
            return;
        }
        if self.options.yield_per_mille > 0 {
            match self.until_yield.get() {
                0 => {
                    let most = 2000 / self.options.yield_per_mille.min(1000);
                    let next = self.scheduler.borrow_mut().random.below(most as usize);
                    self.until_yield.set(next as u32);
                    self.suspend();
                }
                n => self.until_yield.set(n - 1),
            }
        }
        let result = self.checker.borrow_mut().access(address, bytes, access, code);
        if let Err(finding) = result {
            self.stop(finding, At::NOWHERE);
        }
        match access {
            Access::VolatileRead => self.settled(address, false, code),
            Access::Write | Access::VolatileWrite => self.moved(),
            Access::Read | Access::Atomic => {}
        }
    }

    /// The thread changed something, so it is not just waiting.
    fn moved(&self) {
        if self.poll.get().any > 0 {
            self.poll.set(Poll::default());
        }
    }

    /// After an atomic operation or a volatile read.
    pub(crate) fn settled(&self, address: usize, changed: bool, code: usize) {
        if changed {
            self.checker.borrow_mut().changes += 1;
            return self.moved();
        }
        let mut poll = self.poll.get();
        poll.same = if poll.address == address { poll.same.saturating_add(1) } else { 1 };
        poll.address = address;
        poll.any = poll.any.saturating_add(1);
        if poll.waits() {
            poll.code = self.offset(code);
        }
        self.poll.set(poll);
        if poll.waits() {
            self.suspend();
        }
    }

    /// The thread sleeps: others go first. It waits for something, most likely for what it looked at last.
    pub(crate) fn pause(&self, code: usize) {
        let mut poll = self.poll.get();
        poll.any = poll.any.saturating_add(1);
        poll.code = self.offset(code);
        self.poll.set(poll);
        self.suspend();
    }

    pub(crate) fn fence(&self, wide: bool) {
        let mut checker = self.checker.borrow_mut();
        if self.options.checked {
            checker.clocks.fence(self.place.get(), wide);
            checker.refresh();
        }
    }

    pub(crate) fn meet_block(&self, vote: bool, at: At) -> u32 {
        let (slot, lane) = self.place.get();
        let mut scheduler = self.scheduler.borrow_mut();
        let Scheduler { slots, ready, .. } = &mut *scheduler;
        let Some(block) = &mut slots[slot] else { return 0 };
        block.lanes[lane].state = State::Block;
        block.lanes[lane].at = at;
        block.arrived += 1;
        block.votes += u32::from(vote);
        block.runnable -= 1;
        if block.runnable == 0 {
            let together = block.lanes.iter().all(|l| l.state == State::Block && l.at == at);
            if !together {
                let (words, places) = block.waiting();
                drop(scheduler);
                self.stop_at(never_meet(&words), places);
            }
            for other in &mut block.lanes {
                other.state = State::Ready;
            }
            ready.extend((0..block.lanes.len()).filter(|i| *i != lane).map(|i| (slot, i)));
            block.runnable = block.lanes.len();
            (block.counted, block.votes, block.arrived) = (block.votes, 0, 0);
            let counted = block.counted;
            drop(scheduler);
            let mut checker = self.checker.borrow_mut();
            checker.changes += 1;
            if self.options.checked {
                checker.clocks.barrier(slot);
                checker.refresh();
            }
            drop(checker);
            self.moved();
            return counted;
        }
        drop(scheduler);
        self.moved();
        self.suspend();
        self.scheduler.borrow().slots[slot].as_ref().map_or(0, |block| block.counted)
    }

    pub(crate) fn meet_warp(&self, mask: u32, mine: &[u8], at: At) -> *const Gathered {
        let (slot, lane) = self.place.get();
        if mask >> (lane % 32) & 1 == 0 {
            let message = format!("lane {} is not in its own mask {mask:#x}", lane % 32);
            self.stop(Finding { kind: FaultKind::Lane, message, code: Vec::new() }, at);
        }
        let mut scheduler = self.scheduler.borrow_mut();
        let Scheduler { slots, ready, .. } = &mut *scheduler;
        let Some(block) = &mut slots[slot] else { return null() };
        block.release(lane);
        let own = &mut block.lanes[lane];
        (own.mask, own.at, own.bytes) = (mask, at, mine.len().min(Gathered::LARGEST));
        own.given[..own.bytes].copy_from_slice(&mine[..own.bytes]);
        block.arrive_warp(lane);
        let met = block.complete_warp(lane);
        if met.is_none() && block.runnable == 0 {
            let (words, places) = block.waiting();
            drop(scheduler);
            self.stop_at(never_meet(&words), places);
        }
        if let Some(met) = &met {
            wake(ready, slot, lane / 32, met.lanes & !(1 << (lane % 32)));
        }
        drop(scheduler);
        self.moved();
        match met {
            Some(met) => self.warp_has_met(slot, lane / 32, mine.is_empty(), met.lanes, met.whole),
            None => self.suspend(),
        }
        let scheduler = self.scheduler.borrow();
        let Some(block) = &scheduler.slots[slot] else { return null() };
        block.lanes[lane].got.map_or(null(), |got| block.buffers.address(got))
    }

    /// Shuffles and votes order nothing; only `__syncwarp`, which exchanges no bytes, does.
    pub(crate) fn warp_has_met(&self, slot: usize, warp: usize, orders: bool, lanes: u32, whole: bool) {
        let mut checker = self.checker.borrow_mut();
        checker.changes += 1;
        if orders && self.options.checked {
            checker.clocks.warp(slot, warp, lanes, whole);
            checker.refresh();
        }
    }

    /// The address of a declaration of shared memory in this block; key 0 is the dynamic one.
    pub(crate) fn shared(
        &self,
        key: usize,
        name: &CStr,
        bytes: usize,
        element: usize,
        code: usize,
    ) -> std::result::Result<usize, Finding> {
        let slot = self.place.get().0;
        let mut scheduler = self.scheduler.borrow_mut();
        let Some(block) = &mut scheduler.slots[slot] else { return Ok(0) };
        let start = block.arena.as_ptr() as usize;
        if let Some((_, offset)) = block.declared.iter().find(|(k, _)| *k == key) {
            return Ok(start + offset);
        }
        let (bytes, most, what) = match key {
            0 => (self.launch.shared_bytes as usize, MAX_SHARED_BYTES as usize, "shared memory"),
            _ => (bytes, MAX_STATIC_BYTES, "static shared memory"),
        };
        let dynamic = if key == 0 { 0 } else { self.launch.shared_bytes as usize };
        let statics = block.counted_bytes + if key == 0 { 0 } else { bytes };
        let offset = block.used.next_multiple_of(GAP);
        let all = statics + self.launch.shared_bytes as usize;
        let too_much = statics > MAX_STATIC_BYTES || all > MAX_SHARED_BYTES as usize;
        if too_much || offset + bytes > block.arena.len() * 16 {
            let message =
                format!("{what} of {} bytes besides {dynamic} dynamic ones exceeds {most}", all - dynamic);
            let code = vec![self.checker.borrow().offset(code)];
            return Err(Finding { kind: FaultKind::SharedMemory, message, code });
        }
        block.counted_bytes = statics;
        block.used = offset + bytes + GAP;
        block.declared.push((key, offset));
        let address = start + offset;
        // SAFETY: these bytes of the arena are given out for the first time. NaN in every float format.
        unsafe { std::ptr::write_bytes(address as *mut u8, 0xff, bytes) };
        if self.options.checked {
            let name = format!("shared memory `{}`", name.to_string_lossy());
            let region = Region { name, bytes: address..address + bytes, writable: true, shadow: None };
            let shadow = Shadow::new(address, bytes, element, Some(vec![false; bytes].into_boxed_slice()));
            self.checker.borrow_mut().shared[slot].push((region, shadow));
        }
        Ok(address)
    }
}

pub(crate) fn wake(ready: &mut Vec<Place>, slot: usize, warp: usize, lanes: u32) {
    ready.extend((0..32).filter(|i| lanes >> i & 1 == 1).map(|i| (slot, warp * 32 + i)));
}

pub(crate) fn never_meet(words: &str) -> Finding {
    let message = format!("divergent barrier: the threads of the block never meet ({words})");
    Finding { kind: FaultKind::Barrier, message, code: Vec::new() }
}
