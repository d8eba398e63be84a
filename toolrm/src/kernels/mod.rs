//! The CUDA kernels and how they are launched, on a GPU or in the emulator of `cuda-twin`.
//!
//! What they compute is defined by [`farthest_first`](crate::farthest_first()) and [`WinMatrix`](crate::WinMatrix) on the CPU. Rankings agree with
//! these to f64's rounding; cosines are summed in another order, so that a choice between rows differs where cosines are nearer than
//! 1e-5. Inputs smaller than [`WORTHWHILE`] are sooner done on the CPU.

mod similarity;
#[cfg(test)]
mod tests;
mod wins;

use std::time::Duration;

use cuda_twin::{Error, Result};

pub use similarity::{Chooser, SimilarityKernels};
pub use wins::WinKernels;

/// Numbers over which work is worth its way to a GPU: 20,000 embeddings of 256, or 2,262 items that met.
pub const WORTHWHILE: usize = 20_000 * 256;

/// Where the time went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timing {
    /// Memory made on the device and inputs copied to it.
    pub transfer: Duration,
    /// Kernels, and their results, which are few numbers, copied back.
    pub device: Duration,
}

fn refused(kernel: &str, what: &'static str, found: impl ToString, expected: impl ToString) -> Error {
    let (kernel, found, expected) = (kernel.to_string(), found.to_string(), expected.to_string());
    Error::Launch { kernel, what, found, expected }
}

/// A size as a kernel takes it. The room above is for a thread's last step past the end.
fn int(kernel: &str, what: &'static str, n: usize) -> Result<i32> {
    const MOST: i32 = i32::MAX - (1 << 16);
    let fits = i32::try_from(n).ok().filter(|n| *n <= MOST);
    fits.ok_or_else(|| refused(kernel, what, n, format!("at most {MOST}")))
}
