//! Device memory in emulation.

use crate::{Error, Result};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::cell::Cell;
use std::ptr::NonNull;

/// Unused zeroed bytes on both sides, so that an overrun which is not checked meets no other buffer. The system gives them
/// no memory until they are touched.
const GUARD: usize = 1 << 20;
/// Alignment of device memory, as cudaMalloc's.
const ALIGN: usize = 256;

/// Some bytes that kernels may read and write. Kernels write through a shared reference, so nothing here lends a reference
/// to the bytes; a `Memory` is not `Sync`, so no two launches use it at once.
pub(crate) struct Memory {
    allocation: NonNull<u8>,
    layout: Layout,
    len: usize,
    /// For each byte whether it was written; `None` when all were. A launch takes it for as long as it runs.
    written: Cell<Option<Box<[bool]>>>,
}

// SAFETY: it owns its allocation.
unsafe impl Send for Memory {}

impl Memory {
    pub(crate) fn zeros(len: usize) -> Result<Self> {
        let error = Error::Memory { bytes: len };
        let padded = len.checked_add(2 * GUARD).ok_or_else(|| error.clone())?;
        let layout = Layout::from_size_align(padded, ALIGN).map_err(|_| error.clone())?;
        // SAFETY: the layout is not empty.
        let allocation = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(error)?;
        Ok(Self { allocation, layout, len, written: Cell::new(None) })
    }

    /// Bytes of 0xff, NaN in every float format; whether they were written is kept if `checked`.
    pub(crate) fn uninit(len: usize, checked: bool) -> Result<Self> {
        let memory = Self::zeros(len)?;
        // SAFETY: `len` bytes from `start` are ours, and nobody else has the address yet.
        unsafe { std::ptr::write_bytes(memory.start() as *mut u8, 0xff, len) };
        memory.written.set((checked && len > 0).then(|| vec![false; len].into_boxed_slice()));
        Ok(memory)
    }

    /// Address of the first byte.
    pub(crate) fn start(&self) -> usize {
        self.allocation.as_ptr() as usize + GUARD
    }

    /// Number of bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn read(&self, bytes: &mut [u8]) {
        let n = bytes.len().min(self.len);
        // SAFETY: `n` bytes from `start` are ours; no launch runs, since it would hold this thread.
        unsafe { std::ptr::copy_nonoverlapping(self.start() as *const u8, bytes.as_mut_ptr(), n) };
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        let n = bytes.len().min(self.len);
        // SAFETY: as in `read`.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start() as *mut u8, n) };
        self.written.set(None);
    }

    /// The first byte that nothing has written.
    pub(crate) fn first_unwritten(&self) -> Option<usize> {
        let written = self.written.take();
        let first = written.as_ref().and_then(|w| w.iter().position(|w| !w));
        self.written.set(if first.is_some() { written } else { None });
        first
    }

    pub(crate) fn take_written(&self) -> Option<Box<[bool]>> {
        self.written.take()
    }

    pub(crate) fn put_written(&self, written: Option<Box<[bool]>>) {
        self.written.set(written);
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeros` with this layout.
        unsafe { dealloc(self.allocation.as_ptr(), self.layout) };
    }
}
