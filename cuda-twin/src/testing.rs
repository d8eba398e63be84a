//! What tests of kernels share.

use crate::{Error, Gpu, Options, Result, devices, mutants};

/// `n` numbers in `[-1, 1)` that depend on `seed` alone: the same on every machine.
pub fn noise(n: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// Runs `test` on every device, and in the emulator without checks.
///
/// # Errors
/// The first of a test's.
pub fn everywhere(test: impl Fn(&Gpu) -> Result<()>) -> Result<()> {
    let unchecked = Gpu::emulated(Options::unchecked());
    devices()?.iter().chain([&unchecked]).try_for_each(test)
}

/// What `run` gives is the same in every order of the emulator; on a GPU bits may differ from it.
///
/// # Errors
/// The first of a run's.
///
/// # Panics
/// When two orders differ.
pub fn same_bits<T: PartialEq + std::fmt::Debug>(run: impl Fn(&Gpu) -> Result<T>) -> Result<()> {
    let runs = Options::orders().map(|options| run(&Gpu::emulated(options)));
    let found = runs.into_iter().collect::<Result<Vec<T>>>()?;
    assert!(found.windows(2).all(|two| two[0] == two[1]), "bits depend on the order: {found:?}");
    Ok(())
}

/// Each of the `count` barriers of `source` is needed: without it every order reports a fault.
///
/// # Errors
/// What `run` says of the source as it is.
///
/// # Panics
/// When there is another number of barriers, or a run without one reports nothing.
pub fn no_barrier_can_be_removed(
    source: &str,
    count: usize,
    run: impl Fn(&Gpu, &str) -> Result<()>,
) -> Result<()> {
    let found: Vec<_> = mutants(source).collect();
    assert_eq!(found.len(), count);
    for options in Options::orders() {
        let gpu = Gpu::emulated(options);
        run(&gpu, source)?;
        for mutant in &found {
            let done = run(&gpu, &mutant.source);
            assert!(matches!(done, Err(Error::Fault(_))), "without line {}: {done:?}", mutant.line);
        }
    }
    Ok(())
}
