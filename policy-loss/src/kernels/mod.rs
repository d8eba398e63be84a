//! The CUDA kernels and how they are launched, on a GPU or in the emulator of `cuda-twin`.
//!
//! Grid, block and arguments of a launch are made here and nowhere else: the operations of a candle graph and the tests
//! over emulated kernels call the same functions. Buffers are [`Arg`]s, so that memory of another library does
//! ([`Arg::device_address`]).

mod logits;
mod objective;
#[cfg(test)]
mod tests;

pub use cuda_twin::Arg;
pub use logits::{Dtype, LogitKernels, Rows};
pub use objective::{ObjectiveKernels, TokenArgs};
