//! How the emulator runs a kernel.

/// Settings of the emulator. The same options run a kernel in the same order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Picks the order of threads and blocks.
    pub seed: u64,
    /// Whether memory accesses are checked. Unchecked is some ten times faster, and then a wrong kernel can do anything to
    /// the process.
    pub checked: bool,
    /// At so many of a thousand checked memory accesses another thread goes first; 0 to 1000.
    pub yield_per_mille: u32,
    /// Blocks that run side by side from the start. More are added when all threads that can run only wait for a change of
    /// memory.
    pub resident_blocks: u32,
    /// Most blocks side by side; a grid barrier needs all of them.
    pub max_resident_blocks: u32,
    /// Basic blocks of code that one thread may run in checked mode before its kernel is said never to end.
    pub fuel: u64,
}

impl Default for Options {
    /// Checked, seed 1, other threads first at 20 of a thousand accesses, one block after another where the kernel allows.
    fn default() -> Self {
        Self {
            seed: 1,
            checked: true,
            yield_per_mille: 20,
            resident_blocks: 1,
            max_resident_blocks: 132,
            fuel: 1 << 28,
        }
    }
}

impl Options {
    /// Unchecked, for larger sizes after the checked tests pass.
    pub fn unchecked() -> Self {
        Self { checked: false, ..Self::default() }
    }

    /// The three orders that [`crate::devices`] tests in: runs of a thread as long as they can be; some switches and two
    /// blocks side by side; many switches and four blocks.
    pub fn orders() -> [Self; 3] {
        let order = |seed, yield_per_mille, resident_blocks| Self {
            seed,
            yield_per_mille,
            resident_blocks,
            ..Self::default()
        };
        [order(1, 0, 1), order(2, 20, 2), order(3, 300, 4)]
    }
}
