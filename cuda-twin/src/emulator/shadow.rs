//! For every few bytes of memory: who wrote them last, and who read them since.

use bytemuck::{Pod, Zeroable};

/// An access: by whom, when, and from which code. All zero: none.
#[derive(Clone, Copy, Zeroable, Pod, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Stamp {
    /// Number of the block in its grid, times 1024, plus number of the thread in its block.
    pub(crate) who: u32,
    /// The thread's clock, from 1.
    pub(crate) clock: u32,
    /// Offset of the code in its library, and the flags.
    code: u32,
}

impl Stamp {
    const ATOMIC: u32 = 1 << 31;
    const WRITE: u32 = 1 << 30;
    /// Blocks that `who` has room for.
    pub(crate) const MAX_BLOCKS: u64 = 1 << 22;

    pub(crate) fn new(who: u32, clock: u32, offset: usize, atomic: bool, write: bool) -> Self {
        let flags = if atomic { Self::ATOMIC } else { 0 } | if write { Self::WRITE } else { 0 };
        Self { who, clock, code: offset as u32 & (Self::WRITE - 1) | flags }
    }

    pub(crate) fn atomic(self) -> bool {
        self.code & Self::ATOMIC != 0
    }

    pub(crate) fn write(self) -> bool {
        self.code & Self::WRITE != 0
    }

    pub(crate) fn offset(self) -> u32 {
        self.code & (Self::WRITE - 1)
    }
}

/// The history of one granule. Two readers are enough to notice a writer that is not ordered after the readers of one
/// phase: one of them is not the writer itself.
#[derive(Clone, Copy, Zeroable, Pod, Default)]
#[repr(C)]
struct Cell {
    write: Stamp,
    reads: [Stamp; 2],
}

impl Cell {
    /// Enters an access, or returns the earlier one that it races with.
    #[inline]
    fn enter(&mut self, me: Stamp, ordered: &impl Fn(Stamp) -> bool) -> Result<(), Stamp> {
        let races = |s: Stamp| !(s.atomic() && me.atomic() || ordered(s));
        if races(self.write) {
            return Err(self.write);
        }
        if me.write() {
            if let Some(reader) = self.reads.into_iter().find(|s| races(*s)) {
                return Err(reader);
            }
            // An atomic write that is not ordered before this one must still be ordered before plain accesses to come.
            let other = if me.atomic() && !ordered(self.write) { self.write } else { Stamp::default() };
            *self = Self { write: me, reads: [other, Stamp::default()] };
            return Ok(());
        }
        for earlier in self.reads {
            if earlier.write() && races(earlier) {
                return Err(earlier);
            }
        }
        // Replace a reader that is ordered before this one; else keep it and the newest.
        let place = usize::from(!ordered(self.reads[0]));
        self.reads[place] = me;
        Ok(())
    }
}

/// What went wrong with an access.
pub(crate) enum Conflict {
    /// Nothing has written there.
    Unwritten,
    /// This access came before.
    Race(Stamp),
}

/// The history of a stretch of memory.
pub(crate) struct Shadow {
    start: usize,
    len: usize,
    /// Granule: `1 << shift` bytes. Halved when an access is smaller or not aligned to it.
    shift: u32,
    cells: Vec<Cell>,
    /// For each byte whether it was written; `None`: all.
    pub(crate) written: Option<Box<[bool]>>,
}

impl Shadow {
    /// `element`: bytes of what the memory will most likely be accessed in.
    pub(crate) fn new(start: usize, len: usize, element: usize, written: Option<Box<[bool]>>) -> Self {
        let shift = element.trailing_zeros().min(3);
        let shift = if element == 0 { 0 } else { shift };
        // From the system's zeroed pages: memory that is not accessed costs nothing.
        let cells = bytemuck::zeroed_vec(len.div_ceil(1 << shift));
        Self { start, len, shift, cells, written }
    }

    #[inline]
    pub(crate) fn access(
        &mut self,
        address: usize,
        n: usize,
        me: Stamp,
        reads: bool,
        ordered: impl Fn(Stamp) -> bool,
    ) -> Result<(), Conflict> {
        let offset = address - self.start;
        if (offset | n) & ((1 << self.shift) - 1) != 0 {
            self.refine((offset | n).trailing_zeros());
        }
        if let Some(written) = &mut self.written {
            let bytes = &mut written[offset..offset + n];
            if !reads {
                bytes.fill(true);
            } else if bytes.contains(&false) {
                return Err(Conflict::Unwritten);
            }
        }
        let (first, last) = (offset >> self.shift, (offset + n - 1) >> self.shift);
        for cell in &mut self.cells[first..=last] {
            cell.enter(me, &ordered).map_err(Conflict::Race)?;
        }
        Ok(())
    }

    #[cold]
    fn refine(&mut self, shift: u32) {
        let copies = 1 << (self.shift - shift);
        let mut cells = Vec::with_capacity(self.len.div_ceil(1 << shift));
        cells.extend(self.cells.iter().flat_map(|cell| std::iter::repeat_n(*cell, copies)));
        (self.shift, self.cells) = (shift, cells);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(who: u32, clock: u32, write: bool) -> Stamp {
        Stamp::new(who, clock, 7, false, write)
    }

    #[test]
    fn an_unordered_write_after_reads_of_others_is_a_race() {
        let mut shadow = Shadow::new(4096, 16, 4, None);
        let same = |who| move |s: Stamp| s.clock == 0 || s.who == who;
        for reader in [1, 2, 3] {
            assert!(shadow.access(4100, 4, stamp(reader, 1, false), true, same(reader)).is_ok());
        }
        for writer in [1, 2, 3, 4] {
            let found = shadow.access(4100, 4, stamp(writer, 1, true), false, same(writer));
            assert!(matches!(found, Err(Conflict::Race(_))), "writer {writer}");
        }
        assert!(
            shadow.access(4104, 4, stamp(4, 1, true), false, same(4)).is_ok(),
            "other bytes are untouched"
        );
    }

    #[test]
    fn small_accesses_to_a_coarse_granule_are_told_apart() {
        let mut shadow = Shadow::new(0, 8, 4, None);
        let same = |who| move |s: Stamp| s.clock == 0 || s.who == who;
        assert!(shadow.access(0, 4, stamp(1, 1, true), false, same(1)).is_ok());
        assert!(shadow.access(4, 2, stamp(1, 1, true), false, same(1)).is_ok());
        assert!(shadow.access(6, 2, stamp(2, 1, true), false, same(2)).is_ok(), "the other half of a word");
        assert!(
            shadow.access(3, 1, stamp(2, 1, true), false, same(2)).is_err(),
            "history is kept when granules shrink"
        );
    }

    #[test]
    fn an_unordered_atomic_is_remembered_behind_a_later_one() {
        let mut shadow = Shadow::new(0, 4, 4, None);
        let same = |who| move |s: Stamp| s.clock == 0 || s.who == who;
        for who in [1, 2] {
            let atomic = Stamp::new(who, 1, 7, true, true);
            assert!(shadow.access(0, 4, atomic, true, same(who)).is_ok());
        }
        assert!(shadow.access(0, 4, stamp(2, 1, false), true, same(2)).is_err(), "2 has not waited for 1");
    }
}
