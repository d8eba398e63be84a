//! The CUDA kernels and how they are launched, on a GPU or in the emulator of `cuda-twin`.
//!
//! Grid, block and arguments of a launch are made here and nowhere else: the operations of a candle graph and the tests
//! over emulated kernels call the same functions. Buffers are [`Arg`]s, so that memory of another library does
//! ([`Arg::device_address`]). Nothing is launched for no tokens.

mod norm;
mod rotary;
#[cfg(test)]
mod tests;

pub use cuda_twin::Arg;
use cuda_twin::{Error, Launch, Result};

pub use norm::{NormKernels, NormShape};
pub use rotary::{Dtype, HeadStrides, RotaryKernels, Rotation, TableShape};

fn refused(kernel: &str, what: &'static str, found: impl ToString, expected: impl ToString) -> Error {
    let (kernel, found, expected) = (kernel.to_string(), found.to_string(), expected.to_string());
    Error::Launch { kernel, what, found, expected }
}

/// A size as a kernel takes it.
fn int(kernel: &str, what: &'static str, n: usize) -> Result<i32> {
    i32::try_from(n).map_err(|_| refused(kernel, what, n, format!("at most {}", i32::MAX)))
}

/// A thread for each of some things, numbered in 32 bits; `None` for none. The room above is for the last block.
fn threads(kernel: &str, what: &'static str, count: usize, block: u32) -> Result<Option<Launch>> {
    const MOST: usize = u32::MAX as usize - 1024;
    if count > MOST {
        return Err(refused(kernel, what, count, format!("at most {MOST}")));
    }
    let blocks = (count as u32).div_ceil(block);
    Ok((blocks > 0).then(|| Launch::linear(blocks, block)))
}
