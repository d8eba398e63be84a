//! Judges memory accesses.

use super::clocks::{Clocks, View};
use super::shadow::{Conflict, Shadow, Stamp};
use crate::FaultKind;
use std::ops::Range;

/// `twin::Access`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    Read,
    Write,
    Atomic,
    VolatileRead,
    VolatileWrite,
}

impl Access {
    pub(crate) fn of(kind: i32) -> Self {
        match kind {
            0 => Self::Read,
            1 => Self::Write,
            2 => Self::Atomic,
            3 => Self::VolatileRead,
            _ => Self::VolatileWrite,
        }
    }

    pub(crate) fn writes(self) -> bool {
        matches!(self, Self::Write | Self::Atomic | Self::VolatileWrite)
    }

    fn reads(self) -> bool {
        matches!(self, Self::Read | Self::Atomic | Self::VolatileRead)
    }

    /// Never races with others of its kind.
    fn strong(self) -> bool {
        !matches!(self, Self::Read | Self::Write)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Read | Self::VolatileRead => "read",
            Self::Write | Self::VolatileWrite => "write",
            Self::Atomic => "atomic operation",
        }
    }
}

/// Something wrong, and the code that it is about.
pub(crate) struct Finding {
    pub(crate) kind: FaultKind,
    pub(crate) message: String,
    /// Offsets of return addresses in the library.
    pub(crate) code: Vec<u32>,
}

/// Memory that a kernel may access.
pub(crate) struct Region {
    pub(crate) name: String,
    pub(crate) bytes: Range<usize>,
    pub(crate) writable: bool,
    /// None where nothing can be written, so nothing can race.
    pub(crate) shadow: Option<usize>,
}

impl Region {
    fn holds(&self, address: usize, n: usize) -> bool {
        address >= self.bytes.start && n <= self.bytes.end.wrapping_sub(address) && address < self.bytes.end
    }

    fn distance(&self, address: usize) -> usize {
        if address < self.bytes.start {
            self.bytes.start - address
        } else {
            address - address.min(self.bytes.end.saturating_sub(1).max(self.bytes.start))
        }
    }
}

/// The thread that runs.
#[derive(Default)]
pub(crate) struct Me {
    pub(crate) place: (usize, usize),
    pub(crate) view: View,
    pub(crate) stack: Range<usize>,
}

/// All that is known of the launch's memory.
pub(crate) struct Checker {
    pub(crate) me: Me,
    pub(crate) clocks: Clocks,
    /// Arguments.
    pub(crate) regions: Vec<Region>,
    pub(crate) shadows: Vec<Shadow>,
    /// Shared memory of the block in each slot.
    pub(crate) shared: Vec<Vec<(Region, Shadow)>>,
    /// The library: constants lie there, and code.
    pub(crate) image: Range<usize>,
    /// Counts changes of memory that were seen.
    pub(crate) changes: u64,
    /// For some code, the region that it accessed last.
    hints: Box<[u8; 256]>,
}

impl Checker {
    pub(crate) fn new(image: Range<usize>, regions: Vec<Region>, shadows: Vec<Shadow>) -> Self {
        Self {
            me: Me::default(),
            clocks: Clocks::default(),
            regions,
            shadows,
            shared: Vec::new(),
            image,
            changes: 0,
            hints: Box::new([0; 256]),
        }
    }

    /// The thread's clocks may have changed.
    pub(crate) fn refresh(&mut self) {
        self.me.view = self.clocks.view(self.me.place);
    }

    /// Offset in the library of the code that called.
    pub(crate) fn offset(&self, code: usize) -> u32 {
        code.wrapping_sub(self.image.start) as u32
    }

    /// An access outside the thread's own stack.
    #[inline]
    pub(crate) fn access(
        &mut self,
        address: usize,
        n: usize,
        access: Access,
        code: usize,
    ) -> Result<(), Finding> {
        if n == 0 {
            return Ok(());
        }
        if access.writes() && access != Access::Atomic {
            self.changes += 1; // an atomic operation tells afterwards whether it changed anything
        }
        let (me, clocks) = (&self.me, &self.clocks);
        let offset = code.wrapping_sub(self.image.start);
        let stamp = Stamp::new(me.view.who, me.view.clock, offset, access.strong(), access.writes());
        let ordered = |s: Stamp| me.view.ordered(s, clocks, me.place);
        let shared = self.shared.get_mut(me.place.0).map_or(&mut [][..], |s| &mut s[..]);
        let hint = &mut self.hints[offset >> 1 & 255];
        let arguments = self.regions.len();
        let fits = |r: &Region| r.holds(address, n) && (r.writable || !access.writes());
        let find = |regions: &[Region], shared: &[(Region, Shadow)]| {
            let at = regions.iter().position(&fits);
            at.or_else(|| shared.iter().position(|(r, _)| fits(r)).map(|i| arguments + i))
        };
        let mut index = usize::from(*hint);
        let hinted = if index < arguments {
            self.regions.get(index)
        } else {
            shared.get(index - arguments).map(|s| &s.0)
        };
        if !hinted.is_some_and(&fits) {
            let Some(found) = find(&self.regions, shared) else {
                return self.outside(address, n, access, offset as u32);
            };
            index = found;
            *hint = index.min(255) as u8;
        }
        let conflict = if index < arguments {
            let Some(shadow) = self.regions[index].shadow else { return Ok(()) };
            self.shadows[shadow].access(address, n, stamp, access.reads(), ordered)
        } else {
            shared[index - arguments].1.access(address, n, stamp, access.reads(), ordered)
        };
        if let Err(conflict) = conflict {
            return Err(self.conflict(index, address, access, offset as u32, &conflict));
        }
        if access.strong() {
            self.clocks.atomic(self.me.place, address, access.reads(), access.writes());
        }
        Ok(())
    }

    #[cold]
    fn conflict(
        &self,
        index: usize,
        address: usize,
        access: Access,
        code: u32,
        conflict: &Conflict,
    ) -> Finding {
        let region = match self.regions.get(index) {
            Some(region) => region,
            None => &self.shared[self.me.place.0][index - self.regions.len()].0,
        };
        let (name, what, offset) = (&region.name, access.name(), address.wrapping_sub(region.bytes.start));
        match conflict {
            Conflict::Unwritten => {
                let message = format!("{what} of {name} at byte {offset}, which nothing has written");
                Finding { kind: FaultKind::Uninitialised, message, code: vec![code] }
            }
            Conflict::Race(other) => {
                let before = if other.write() { "write" } else { "read" };
                let (block, thread) = (other.who >> 10, other.who & 1023);
                let message = format!(
                    "race: {what} of {name} at byte {offset}, not ordered after a {before} by thread {thread} of block {block}"
                );
                Finding { kind: FaultKind::Race, message, code: vec![code, other.offset()] }
            }
        }
    }

    /// An access to no memory that allows it.
    #[cold]
    fn outside(&self, address: usize, n: usize, access: Access, code: u32) -> Result<(), Finding> {
        let shared = self.shared.get(self.me.place.0).map_or(&[][..], |s| &s[..]);
        let all = || self.regions.iter().chain(shared.iter().map(|s| &s.0));
        let what = access.name();
        let found = |kind, message| Err(Finding { kind, message, code: vec![code] });
        if let Some(region) = all().find(|r| r.holds(address, n)) {
            return found(FaultKind::ConstWrite, format!("{what} to {}, which is const", region.name));
        }
        if self.image.contains(&address) {
            let message = "write to a variable of the source that is no kernel memory".to_string();
            return if access.writes() { found(FaultKind::ConstWrite, message) } else { Ok(()) };
        }
        // Of equally near ones the largest: empty memory lies beside others.
        let nearest = all().min_by_key(|r| (r.distance(address), usize::MAX - r.bytes.len()));
        let message = match nearest.filter(|r| r.distance(address) < 1 << 20) {
            Some(r) => {
                let offset = address.wrapping_sub(r.bytes.start) as isize;
                format!(
                    "out-of-bounds {what} of {n} bytes at byte {offset} of {} ({} bytes)",
                    r.name,
                    r.bytes.len()
                )
            }
            None => format!(
                "out-of-bounds {what} of {n} bytes at address {address:#x}, far from all the kernel's memory"
            ),
        };
        found(FaultKind::OutOfBounds, message)
    }
}
