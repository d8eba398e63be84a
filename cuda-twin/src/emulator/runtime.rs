//! The interface between a kernel library and the emulator, and the functions behind it.

use super::checker::{Access, Finding};
use super::print;
use super::run::Run;
use crate::FaultKind;
use corosensei::Yielder;
use std::cell::Cell;
use std::ffi::{CStr, c_char, c_void};
use std::ptr::null;

/// `twin::Thread` of `runtime.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct Thread {
    pub(crate) thread: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) block_dim: [u32; 3],
    pub(crate) grid_dim: [u32; 3],
    pub(crate) lane: u32,
}

/// `twin::Runtime` of `runtime.cuh`.
#[repr(C)]
pub(crate) struct Runtime {
    pub(crate) thread: Thread,
    pub(crate) fuel: i64,
    shared: extern "C" fn(*const c_void, *const c_char, usize, usize, usize) -> *mut c_void,
    warp: extern "C" fn(u32, *const u8, usize, *const c_char, i32) -> *const c_void,
    block: extern "C" fn(i32, *const c_char, i32) -> u32,
    access: extern "C" fn(usize, usize, i32, usize),
    settled: extern "C" fn(usize, i32, usize),
    fence: extern "C" fn(i32),
    pause: extern "C" fn(usize),
    fail: extern "C" fn(i32, *const c_char, *const c_char, i32, usize),
    print: extern "C" fn(*const u8, usize),
    exhausted: extern "C" fn(usize),
}

impl Runtime {
    pub(crate) fn new() -> Self {
        let thread = Thread::default();
        Self { thread, fuel: 0, shared, warp, block, access, settled, fence, pause, fail, print, exhausted }
    }
}

thread_local!(static RUN: Cell<*const Run<'static>> = const { Cell::new(null()) });

/// Makes `run` the one that a kernel on this OS thread belongs to; returns the one before.
pub(crate) fn enter(run: *const Run<'_>) -> *const Run<'static> {
    RUN.replace(run.cast())
}

/// The launch that the calling kernel belongs to.
fn run() -> &'static Run<'static> {
    // SAFETY: kernels run within `scheduler::launch` alone, which has set it and outlives them. `Run` is used through
    // shared references only; what changes in it is in cells.
    unsafe { &*RUN.get() }
}

/// A thread of the launch has begun on its own stack.
pub(crate) fn begin(yielder: *const Yielder<(), ()>) {
    run().begin(yielder);
}

/// A place in the source, as the compiler's `__builtin_FILE` and `__builtin_LINE` give it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct At {
    file: *const c_char,
    pub(crate) line: i32,
}

impl At {
    pub(crate) const NOWHERE: Self = Self { file: null(), line: 0 };

    /// File name without folders.
    pub(crate) fn file(self) -> Option<String> {
        if self.file.is_null() {
            return None;
        }
        // SAFETY: a string constant of the library.
        let path = unsafe { CStr::from_ptr(self.file) }.to_string_lossy().into_owned();
        Some(path.rsplit('/').next().unwrap_or_default().to_string())
    }
}

extern "C" fn shared(
    key: *const c_void,
    name: *const c_char,
    bytes: usize,
    element: usize,
    code: usize,
) -> *mut c_void {
    // SAFETY: TWIN_SHARED passes a string constant.
    let name = unsafe { CStr::from_ptr(name) };
    match run().shared(key as usize, name, bytes, element, code) {
        Ok(address) => address as *mut c_void,
        Err(finding) => run().stop(finding, At::NOWHERE),
    }
}

extern "C" fn warp(
    mask: u32,
    mine: *const u8,
    bytes: usize,
    file: *const c_char,
    line: i32,
) -> *const c_void {
    // SAFETY: `mine` is a variable of that size, or null and 0 bytes.
    let mine = if bytes == 0 { &[] } else { unsafe { std::slice::from_raw_parts(mine, bytes) } };
    run().meet_warp(mask, mine, At { file, line }).cast()
}

extern "C" fn block(vote: i32, file: *const c_char, line: i32) -> u32 {
    run().meet_block(vote != 0, At { file, line })
}

extern "C" fn access(address: usize, bytes: usize, kind: i32, code: usize) {
    run().access(address, bytes, Access::of(kind), code);
}

extern "C" fn settled(address: usize, changed: i32, code: usize) {
    run().settled(address, changed != 0, code);
}

extern "C" fn fence(scope: i32) {
    run().fence(scope > 0);
}

extern "C" fn pause(code: usize) {
    run().pause(code);
}

extern "C" fn fail(kind: i32, what: *const c_char, file: *const c_char, line: i32, code: usize) {
    let kind = match kind {
        0 => FaultKind::Lane,
        1 => FaultKind::Misaligned,
        2 => FaultKind::Assert,
        3 => FaultKind::Arithmetic,
        _ => FaultKind::Index,
    };
    // SAFETY: a string of the library or of the failing thread's stack.
    let message = unsafe { CStr::from_ptr(what) }.to_string_lossy().into_owned();
    let at = At { file, line };
    // Lines of our headers say nothing: then the code's own chain of inlined lines does.
    let ours = at.file().is_none_or(|file| super::HEADERS.iter().any(|(name, _)| name.ends_with(&file)));
    let code = if ours { vec![run().offset(code)] } else { Vec::new() };
    run().stop(Finding { kind, message, code }, if ours { At::NOWHERE } else { at })
}

extern "C" fn print(text: *const u8, bytes: usize) {
    // SAFETY: a buffer of that size on the caller's stack.
    print::print(unsafe { std::slice::from_raw_parts(text, bytes) });
}

extern "C" fn exhausted(code: usize) {
    let message = format!("the thread has run {} basic blocks without an end", run().options.fuel);
    run().stop(Finding { kind: FaultKind::NeverEnds, message, code: vec![run().offset(code)] }, At::NOWHERE)
}
