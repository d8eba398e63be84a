//! Runs a launch: which thread goes next, and what to do when none can.

use super::block::{self, Block, Body, Lane, Poll, State};
use super::checker::{Checker, Finding, Region};
use super::library::{Kernel, Library};
use super::memory::Memory;
use super::run::{ARENA, Place, Random, Run, Scheduler};
use super::runtime::{self, At, Runtime, Thread};
use super::shadow::{Shadow, Stamp};
use crate::arg::{Arg, Kind};
use crate::buf::Storage;
use crate::module::{Launch, ParamKind};
use crate::{Error, Fault, FaultKind, Location, Options, Result};
use std::cell::{Cell, RefCell, UnsafeCell};
use std::ffi::c_void;
use std::ptr::null;

/// Runs a kernel to its end.
///
/// # Safety
/// The arguments are what the kernel declares, in number, kind and size. In unchecked mode the kernel accesses only what it
/// is given.
pub(crate) unsafe fn launch(
    library: &Library,
    kernel: &Kernel,
    launch: Launch,
    args: &[Arg<'_>],
    options: Options,
) -> Result<()> {
    let wrong = |what, found: String, expected: String| Error::Launch {
        kernel: kernel.name.clone(),
        what,
        found,
        expected,
    };
    let blocks = launch.grid.iter().map(|n| u64::from(*n)).product::<u64>();
    if blocks > Stamp::MAX_BLOCKS {
        return Err(wrong(
            "grid",
            format!("{blocks} blocks"),
            format!("at most {} in emulation", Stamp::MAX_BLOCKS),
        ));
    }
    let Memories { regions, shadows, histories, mut values } = memories(kernel, args, options.checked)?;
    let mut arguments: Vec<*mut c_void> = values.iter_mut().map(|v| (&raw mut *v).cast()).collect();
    let mut random = Random(options.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut pending: Vec<u32> = (0..blocks as u32).collect();
    for i in (1..pending.len()).rev() {
        pending.swap(i, random.below(i + 1));
    }
    let run = Run {
        options,
        library,
        kernel,
        launch,
        arguments: arguments.as_mut_ptr(),
        runtime: UnsafeCell::new(Runtime::new()),
        place: Cell::new((0, 0)),
        yielder: Cell::new(null()),
        poll: Cell::new(Poll::default()),
        until_yield: Cell::new(0),
        scheduler: RefCell::new(Scheduler {
            random,
            slots: Vec::new(),
            resident: 0,
            pending,
            ready: Vec::new(),
            polling: Vec::new(),
            idle_turns: 0,
            changes_seen: 0,
            spare_arenas: Vec::new(),
        }),
        checker: RefCell::new(Checker::new(library.image.clone(), regions, shadows)),
        finding: RefCell::new(None),
    };
    let outer = runtime::enter(&run);
    // SAFETY: the library's runtime pointer is this thread's own; it is reset below.
    let before = unsafe { (library.bind)(run.runtime.get()) };
    let done = run.all_blocks();
    // SAFETY: as above.
    unsafe { (library.bind)(before) };
    runtime::enter(outer);
    for (memory, shadow) in histories {
        memory.put_written(run.checker.borrow_mut().shadows[shadow].written.take());
    }
    done.map_err(|e| {
        wrong("block", format!("{:?}", launch.block), format!("threads with a stack each ({e})"))
    })?;
    match run.finding.take() {
        Some((finding, places, thread)) => Err(run.fault(finding, &places, thread)),
        None => Ok(()),
    }
}

/// The arguments as memory and as values.
struct Memories<'a> {
    regions: Vec<Region>,
    shadows: Vec<Shadow>,
    /// Memory whose record of what was written is on loan to a shadow.
    histories: Vec<(&'a Memory, usize)>,
    values: Vec<u64>,
}

fn memories<'a>(kernel: &Kernel, args: &[Arg<'a>], checked: bool) -> Result<Memories<'a>> {
    let mut all =
        Memories { regions: Vec::new(), shadows: Vec::new(), histories: Vec::new(), values: Vec::new() };
    let mut shadowed: Vec<(usize, usize)> = Vec::new();
    // A buffer needs a history if any parameter may write it, or if it is not all written.
    let start_of = |arg: &Arg<'a>| match &arg.0 {
        Kind::Memory { storage: Storage::Emulated(memory), .. } => Some(memory.start()),
        _ => None,
    };
    let written_to: Vec<usize> = (kernel.params.iter().zip(args))
        .filter(|(param, _)| param.kind == ParamKind::Pointer)
        .filter_map(|(_, arg)| start_of(arg))
        .collect();
    for (index, (param, arg)) in kernel.params.iter().zip(args).enumerate() {
        let (memory, bytes, element): (&'a Memory, _, _) = match &arg.0 {
            Kind::Memory { storage: Storage::Emulated(memory), bytes, element } => (memory, bytes, element),
            Kind::Value { bits, .. } => {
                all.values.push(*bits);
                continue;
            }
            _ => {
                let at = Location { file: String::new(), line: kernel.line };
                let (found, expected) =
                    ("in the memory of a GPU".to_string(), "in emulated memory".to_string());
                return Err(Error::Argument { kernel: kernel.name.clone(), index, found, expected, at });
            }
        };
        let start = memory.start();
        all.values.push((start + bytes.start) as u64);
        if !checked {
            if param.kind == ParamKind::Pointer {
                memory.put_written(None); // what it writes is not seen
            }
            continue;
        }
        let known = shadowed.iter().find(|(s, _)| *s == start).map(|(_, shadow)| *shadow);
        let shadow = known.or_else(|| {
            let written = memory.take_written();
            if written.is_none() && !written_to.contains(&start) {
                return None;
            }
            if written.is_some() {
                all.histories.push((memory, all.shadows.len()));
            }
            all.shadows.push(Shadow::new(start, memory.len(), element.bytes, written));
            shadowed.push((start, all.shadows.len() - 1));
            Some(all.shadows.len() - 1)
        });
        all.regions.push(Region {
            name: format!("argument {index}"),
            bytes: start + bytes.start..start + bytes.end,
            writable: param.kind == ParamKind::Pointer,
            shadow,
        });
    }
    Ok(all)
}

impl Run<'_> {
    /// Runs every block, or until there is a finding.
    fn all_blocks(&self) -> std::io::Result<()> {
        let mut done = Ok(());
        while done.is_ok() && self.finding.borrow().is_none() {
            let resident = self.scheduler.borrow().resident;
            if resident < self.options.resident_blocks.max(1) as usize && self.has_pending() {
                done = self.admit();
                continue;
            }
            let Some(place) = self.next() else {
                if resident == 0 {
                    break;
                }
                // All that could run waits for memory to change: another block might do that.
                if !self.has_pending() || resident >= self.options.max_resident_blocks as usize {
                    self.never_ends();
                    break;
                }
                done = self.admit();
                continue;
            };
            self.turn(place);
        }
        let blocks: Vec<_> = self.scheduler.borrow_mut().slots.drain(..).flatten().collect();
        for block in blocks {
            block.retire();
        }
        done
    }

    fn has_pending(&self) -> bool {
        !self.scheduler.borrow().pending.is_empty()
    }

    /// The thread to run, at random. `None` when nothing can run, or when those that can have waited long for nothing.
    fn next(&self) -> Option<Place> {
        let mut scheduler = self.scheduler.borrow_mut();
        let Scheduler { random, ready, polling, idle_turns, changes_seen, pending, resident, .. } =
            &mut *scheduler;
        let prefer_polling = !polling.is_empty() && (ready.is_empty() || random.below(16) == 0);
        if !prefer_polling {
            *idle_turns = 0;
            let n = ready.len();
            return (n > 0).then(|| ready.swap_remove(random.below(n)));
        }
        if ready.is_empty() {
            let changes = self.checker.borrow().changes;
            *idle_turns = if changes == *changes_seen { *idle_turns + 1 } else { 0 };
            *changes_seen = changes;
            let others = !pending.is_empty() && *resident < self.options.max_resident_blocks as usize;
            let patience = if others { 4 * polling.len() + 64 } else { 200 * polling.len() + 20_000 };
            if *idle_turns > patience as u64 {
                *idle_turns = 0;
                return None;
            }
        }
        let n = polling.len();
        Some(polling.swap_remove(random.below(n)))
    }

    /// Runs a thread until it waits, gives way or ends.
    fn turn(&self, place: Place) {
        let (slot, lane) = place;
        let body = {
            let mut scheduler = self.scheduler.borrow_mut();
            let Some(block) = &mut scheduler.slots[slot] else { return };
            let own = &mut block.lanes[lane];
            self.place.set(place);
            self.yielder.set(own.yielder);
            self.poll.set(own.poll);
            // SAFETY: no kernel runs now.
            let runtime = unsafe { &mut *self.runtime.get() };
            (runtime.thread, runtime.fuel) = (own.thread, own.fuel);
            if self.options.checked {
                let mut checker = self.checker.borrow_mut();
                checker.me.place = place;
                checker.me.stack = own.stack.clone();
                checker.refresh();
            }
            own.body.take()
        };
        let Some(mut body) = body else { return };
        let ended = body.resume(()).as_return().is_some();
        let mut scheduler = self.scheduler.borrow_mut();
        let Scheduler { slots, ready, polling, resident, spare_arenas, .. } = &mut *scheduler;
        let Some(block) = &mut slots[slot] else { return };
        let own = &mut block.lanes[lane];
        own.body = Some(body);
        own.poll = self.poll.get();
        // SAFETY: no kernel runs now.
        own.fuel = unsafe { (*self.runtime.get()).fuel };
        if !ended {
            if own.state == State::Ready {
                if own.poll.waits() { polling.push(place) } else { ready.push(place) }
            }
            return;
        }
        block.end(lane);
        self.checker.borrow_mut().changes += 1;
        // Its warp may have waited for this lane only.
        let warp = lane / 32;
        let mut waiting = block.waiting_lanes(warp);
        while waiting != 0 {
            let first = waiting.trailing_zeros() as usize;
            waiting &= waiting - 1;
            if let Some(met) = block.complete_warp(warp * 32 + first) {
                waiting &= !met.lanes;
                super::run::wake(ready, slot, warp, met.lanes);
                let orders = block.lanes[warp * 32 + first].bytes == 0;
                self.warp_has_met(slot, warp, orders, met.lanes, met.whole);
            }
        }
        if block.done == block.lanes.len() {
            *resident -= 1;
            if let Some(block) = slots[slot].take() {
                spare_arenas.push(block.retire());
            }
        } else if block.runnable == 0 {
            let (words, places) = block.waiting();
            // SAFETY: no kernel runs now.
            let thread = unsafe { (*self.runtime.get()).thread };
            *self.finding.borrow_mut() = Some((super::run::never_meet(&words), places, thread));
        }
    }

    /// Makes the next block resident.
    fn admit(&self) -> std::io::Result<()> {
        let mut scheduler = self.scheduler.borrow_mut();
        let Some(index) = scheduler.pending.pop() else { return Ok(()) };
        let Launch { grid: grid_dim, block: block_dim, .. } = self.launch;
        let threads = block_dim.iter().product::<u32>();
        let place = |i: u32, [x, y, _]: [u32; 3]| [i % x, i / x % y, i / x / y];
        let block_index = place(index, grid_dim);
        let (entry, arguments) = (self.kernel.entry, self.arguments as usize);
        let lanes = block::stacks(threads as usize)?.into_iter().zip(0..threads).map(|(stack, i)| {
            let thread =
                Thread { thread: place(i, block_dim), block: block_index, block_dim, grid_dim, lane: i % 32 };
            let fuel = i64::try_from(self.options.fuel).unwrap_or(i64::MAX);
            Lane::new(stack, thread, fuel, |stack| {
                Body::with_stack(stack, move |yielder, ()| {
                    runtime::begin(yielder);
                    // SAFETY: the caller of `launch` promises that the arguments fit.
                    unsafe { entry(arguments as *mut *mut c_void) };
                })
            })
        });
        let lanes: Vec<_> = lanes.collect();
        let arena = scheduler.spare_arenas.pop().unwrap_or_default();
        let block = Block::new(lanes, arena, ARENA);
        let slot = scheduler.slots.iter().position(Option::is_none).unwrap_or(scheduler.slots.len());
        if slot == scheduler.slots.len() {
            scheduler.slots.push(None);
        }
        if self.options.checked {
            let mut checker = self.checker.borrow_mut();
            let start = block.arena.as_ptr() as usize;
            checker.clocks.begin(slot, index, threads as usize, start..start + ARENA);
            if checker.shared.len() <= slot {
                checker.shared.resize_with(slot + 1, Vec::new);
            }
            checker.shared[slot].clear();
        }
        scheduler.slots[slot] = Some(block);
        scheduler.resident += 1;
        scheduler.ready.extend((0..threads as usize).map(|i| (slot, i)));
        Ok(())
    }

    /// Every thread that could run waits for a change of memory that no thread will make.
    fn never_ends(&self) {
        let scheduler = self.scheduler.borrow();
        let mut code: Vec<u32> = Vec::new();
        let mut first = None;
        for (slot, lane) in &scheduler.polling {
            let Some(block) = &scheduler.slots[*slot] else { continue };
            let lane = &block.lanes[*lane];
            first.get_or_insert(lane.thread);
            if code.len() < 4 && !code.contains(&lane.poll.code) {
                code.push(lane.poll.code);
            }
        }
        let (waiting, blocks) = (scheduler.polling.len(), self.launch.grid.iter().product::<u32>());
        let barred: Vec<_> = scheduler.slots.iter().flatten().flat_map(|b| b.waiting().1).take(4).collect();
        let message = format!(
            "{waiting} threads wait for memory to change, and no thread will change it ({} of {blocks} blocks are resident)",
            scheduler.resident
        );
        let finding = Finding { kind: FaultKind::NeverEnds, message, code };
        *self.finding.borrow_mut() = Some((finding, barred, first.unwrap_or_default()));
    }

    fn fault(&self, finding: Finding, places: &[At], thread: Thread) -> Error {
        let Finding { kind, message, code } = finding;
        let mut at: Vec<Location> = code.into_iter().filter_map(|offset| self.library.line(offset)).collect();
        at.extend(places.iter().filter_map(|at| Some(Location { file: at.file()?, line: at.line as u32 })));
        let Thread { thread, block, .. } = thread;
        Error::Fault(Box::new(Fault { kernel: self.kernel.name.clone(), kind, message, thread, block, at }))
    }
}
