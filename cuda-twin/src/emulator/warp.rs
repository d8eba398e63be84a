//! Warp operations: the lanes of a mask meet, and each sees what the others gave.

use super::block::{Block, State};

/// `twin::Gathered`: which lanes took part, then the bytes of each.
#[repr(C, align(16))]
pub(crate) struct Gathered {
    lanes: u32,
    unused: [u32; 3],
    bytes: [u8; 32 * Self::LARGEST],
}

impl Gathered {
    /// Bytes that a lane can give; a pair of tensor-core fragments has 24.
    pub(crate) const LARGEST: usize = 64;
}

/// Results that lanes have not read yet. A slow lane may still need an old one when others are operations ahead.
#[derive(Default)]
pub(crate) struct Buffers {
    buffers: Vec<(Box<Gathered>, u32)>,
    free: Vec<usize>,
}

impl Buffers {
    fn take(&mut self, lanes: u32) -> usize {
        let index = self.free.pop().unwrap_or_else(|| {
            let empty = Gathered { lanes: 0, unused: [0; 3], bytes: [0; 32 * Gathered::LARGEST] };
            self.buffers.push((Box::new(empty), 0));
            self.buffers.len() - 1
        });
        self.buffers[index].0.lanes = lanes;
        self.buffers[index].1 = lanes.count_ones();
        index
    }

    fn release(&mut self, index: usize) {
        self.buffers[index].1 -= 1;
        if self.buffers[index].1 == 0 {
            self.free.push(index);
        }
    }

    pub(crate) fn address(&self, index: usize) -> *const Gathered {
        &raw const *self.buffers[index].0
    }
}

/// Lanes of a warp, as bits.
pub(crate) struct Warp {
    /// Those that it was started with.
    all: u32,
    live: u32,
    waiting: u32,
}

/// A warp operation that is complete.
pub(crate) struct Met {
    /// Lanes that took part.
    pub(crate) lanes: u32,
    /// Whether that is every lane that the warp was started with.
    pub(crate) whole: bool,
}

impl Warp {
    pub(crate) fn new(lanes: usize) -> Self {
        let all = if lanes == 32 { u32::MAX } else { (1 << lanes) - 1 };
        Self { all, live: all, waiting: 0 }
    }
}

impl Block {
    /// A thread has finished reading what its last warp operation got.
    pub(crate) fn release(&mut self, lane: usize) {
        if let Some(index) = self.lanes[lane].got.take() {
            self.buffers.release(index);
        }
    }

    /// A thread waits at a warp operation; what it gives is set.
    pub(crate) fn arrive_warp(&mut self, lane: usize) {
        self.lanes[lane].state = State::Warp;
        self.warps[lane / 32].waiting |= 1 << (lane % 32);
        self.runnable -= 1;
    }

    /// A thread has ended.
    pub(crate) fn end(&mut self, lane: usize) {
        self.release(lane);
        self.lanes[lane].state = State::Done;
        self.warps[lane / 32].live &= !(1 << (lane % 32));
        self.runnable -= 1;
        self.done += 1;
    }

    /// The lowest waiting lane of a warp.
    pub(crate) fn waiting_lanes(&self, warp: usize) -> u32 {
        self.warps[warp].waiting
    }

    /// Completes the operation that `lane` waits at, if all live lanes of its mask are there.
    pub(crate) fn complete_warp(&mut self, lane: usize) -> Option<Met> {
        let (base, warp) = (lane / 32 * 32, &self.warps[lane / 32]);
        let (mask, at, bytes) = (self.lanes[lane].mask, self.lanes[lane].at, self.lanes[lane].bytes);
        let named = mask & warp.live;
        if named & !warp.waiting != 0 {
            return None;
        }
        let members = (0..32).filter(move |i| named >> i & 1 == 1);
        let together = |i: u32| {
            let l = &self.lanes[base + i as usize];
            l.mask == mask && l.at == at && l.bytes == bytes
        };
        if !members.clone().all(together) {
            return None;
        }
        let whole = named == warp.all;
        self.warps[lane / 32].waiting &= !named;
        let buffer = (bytes > 0).then(|| self.buffers.take(named));
        for i in members {
            let lane = &mut self.lanes[base + i as usize];
            lane.state = State::Ready;
            lane.got = buffer;
            if let Some(buffer) = buffer {
                let at = i as usize * bytes;
                self.buffers.buffers[buffer].0.bytes[at..at + bytes].copy_from_slice(&lane.given[..bytes]);
            }
        }
        self.runnable += named.count_ones() as usize;
        Some(Met { lanes: named, whole })
    }
}
