//! A block of CUDA threads: one coroutine for each.

use super::runtime::{At, Thread};
use super::warp::{Buffers, Gathered, Warp};
use corosensei::stack::{DefaultStack, Stack};
use corosensei::{Coroutine, Yielder};
use std::collections::BTreeMap;
use std::ops::Range;
use std::ptr::null;
use std::sync::{Mutex, PoisonError};

/// Bytes of a thread's stack. The system gives memory to the pages that are used.
const STACK: usize = 64 * 1024;
/// Stacks that are kept for later launches.
const KEPT: usize = 4096;

static STACKS: Mutex<Vec<DefaultStack>> = Mutex::new(Vec::new());

pub(crate) type Body = Coroutine<(), (), (), DefaultStack>;

/// `count` stacks, used ones first.
pub(crate) fn stacks(count: usize) -> std::io::Result<Vec<DefaultStack>> {
    let mut stacks = {
        let mut kept = STACKS.lock().unwrap_or_else(PoisonError::into_inner);
        let rest = kept.len().saturating_sub(count);
        kept.split_off(rest)
    };
    while stacks.len() < count {
        stacks.push(DefaultStack::new(STACK)?);
    }
    Ok(stacks)
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    Ready,
    Block,
    Warp,
    Done,
}

/// How often a thread has looked at memory that did not change.
#[derive(Clone, Copy, Default)]
pub(crate) struct Poll {
    pub(crate) address: usize,
    pub(crate) same: u32,
    pub(crate) any: u32,
    pub(crate) code: u32,
}

impl Poll {
    /// A thread that asks one address again and again waits for another to change it.
    pub(crate) fn waits(&self) -> bool {
        self.same >= 32 || self.any >= 4096
    }
}

/// One CUDA thread.
pub(crate) struct Lane {
    pub(crate) body: Option<Body>,
    pub(crate) yielder: *const Yielder<(), ()>,
    pub(crate) stack: Range<usize>,
    pub(crate) thread: Thread,
    pub(crate) fuel: i64,
    pub(crate) state: State,
    pub(crate) at: At,
    pub(crate) poll: Poll,
    /// Of a warp operation: the mask, what it gives, and what it got.
    pub(crate) mask: u32,
    pub(crate) given: [u8; Gathered::LARGEST],
    pub(crate) bytes: usize,
    pub(crate) got: Option<usize>,
}

impl Lane {
    pub(crate) fn new(
        stack: DefaultStack,
        thread: Thread,
        fuel: i64,
        body: impl FnOnce(DefaultStack) -> Body,
    ) -> Self {
        Self {
            stack: stack.limit().get()..stack.base().get(),
            body: Some(body(stack)),
            yielder: null(),
            thread,
            fuel,
            state: State::Ready,
            at: At::NOWHERE,
            poll: Poll::default(),
            mask: 0,
            given: [0; Gathered::LARGEST],
            bytes: 0,
            got: None,
        }
    }
}

/// A resident block.
pub(crate) struct Block {
    pub(crate) lanes: Vec<Lane>,
    pub(crate) warps: Vec<Warp>,
    pub(crate) buffers: Buffers,
    /// Threads that neither wait at a barrier nor have ended.
    pub(crate) runnable: usize,
    pub(crate) done: usize,
    pub(crate) arrived: usize,
    pub(crate) votes: u32,
    /// Votes of the barrier that completed last.
    pub(crate) counted: u32,
    /// Shared memory: by key of the declaration, offset in the arena.
    pub(crate) declared: Vec<(usize, usize)>,
    pub(crate) arena: Vec<u128>,
    /// Bytes of the arena, and of shared memory as CUDA counts it.
    pub(crate) used: usize,
    pub(crate) counted_bytes: usize,
}

impl Block {
    pub(crate) fn new(lanes: Vec<Lane>, mut arena: Vec<u128>, arena_bytes: usize) -> Self {
        arena.resize(arena_bytes / 16, 0);
        let n = lanes.len();
        Self {
            warps: (0..n.div_ceil(32)).map(|w| Warp::new((n - w * 32).min(32))).collect(),
            lanes,
            buffers: Buffers::default(),
            runnable: n,
            done: 0,
            arrived: 0,
            votes: 0,
            counted: 0,
            declared: Vec::new(),
            arena,
            used: 0,
            counted_bytes: 0,
        }
    }

    /// Where threads wait and how many, for a report.
    pub(crate) fn waiting(&self) -> (String, Vec<At>) {
        let mut groups: BTreeMap<(i32, Option<u32>), (usize, At)> = BTreeMap::new();
        for lane in self.lanes.iter().filter(|l| matches!(l.state, State::Block | State::Warp)) {
            let mask = (lane.state == State::Warp).then_some(lane.mask);
            groups.entry((lane.at.line, mask)).or_insert((0, lane.at)).0 += 1;
        }
        let words = groups.iter().map(|((line, mask), (n, at))| {
            let file = at.file().unwrap_or_default();
            match mask {
                Some(mask) => format!("{n} at the warp operation {file}:{line} (mask {mask:#x})"),
                None => format!("{n} at the barrier {file}:{line}"),
            }
        });
        let mut words: Vec<_> = words.collect();
        if self.done > 0 {
            words.push(format!("{} have ended", self.done));
        }
        (words.join(", "), groups.values().map(|(_, at)| *at).collect())
    }

    /// Gives the stacks back. Threads that have not ended never will.
    pub(crate) fn retire(self) -> Vec<u128> {
        let mut kept = STACKS.lock().unwrap_or_else(PoisonError::into_inner);
        for mut body in self.lanes.into_iter().filter_map(|lane| lane.body) {
            if !body.done() {
                // SAFETY: the frames on the stack are C++ code that owns nothing, and our own functions at a point where
                // they own nothing; the body of one that has not begun owns nothing either.
                unsafe { body.force_reset() };
            }
            let stack = body.into_stack();
            if kept.len() < KEPT {
                kept.push(stack);
            }
        }
        self.arena
    }
}
