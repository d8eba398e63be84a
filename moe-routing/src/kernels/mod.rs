//! The CUDA kernels and how they are launched, on a GPU or in the emulator of `cuda-twin`.
//!
//! Grid, block and arguments of a launch are made here and nowhere else: the operations of a candle graph and the tests
//! over emulated kernels call the same functions. Buffers are [`Arg`]s, so that memory of another library does
//! ([`Arg::device_address`]). Nothing is launched for no tokens.
//!
//! A kernel cannot return an error, so the ones that read logits or ids write a status for each row; [`check`] turns them
//! into the error that the CPU gives.

mod dispatch;
mod gates;
mod losses;
mod permute;
mod router;
mod status;
#[cfg(test)]
mod tests;
mod trace;

pub use cuda_twin::Arg;
use cuda_twin::{Error, Gpu, Launch, Module, Result};

pub use dispatch::DispatchKernels;
pub use gates::GateKernels;
pub use losses::LossKernels;
pub use permute::{Dtype, PermuteKernels};
pub use router::RouterKernels;
pub use status::check;
pub use trace::TraceKernels;

use crate::sources::HEADERS;

fn compile(gpu: &Gpu, name: &str, source: &str) -> Result<Module> {
    gpu.compile_with(name, source, HEADERS)
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

/// Bytes of shared memory that every GPU has for a block without being asked.
const SHARED: usize = 48 * 1024;

/// A warp for each of `rows`, 4 warps a block or fewer, so that `bytes` of shared memory for each fit.
fn warps(kernel: &str, rows: usize, bytes: usize) -> Result<Option<Launch>> {
    let per_block = SHARED.checked_div(bytes).unwrap_or(4).min(4);
    if per_block == 0 {
        return Err(refused(kernel, "shared memory of a row", bytes, format!("at most {SHARED} bytes")));
    }
    let blocks = int(kernel, "rows", rows)? as usize;
    let launch = Launch::linear(blocks.div_ceil(per_block) as u32, per_block as u32 * 32);
    Ok((rows > 0).then(|| launch.shared((per_block * bytes) as u32)))
}
