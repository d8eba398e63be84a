//! One CUDA source, two places to run it.
mod arg;
mod buf;
#[cfg(feature = "cuda")]
mod cuda;
mod emulator;
mod error;
mod gpu;
mod module;
mod mutants;
#[cfg(feature = "cuda")]
pub mod nvrtc;
mod options;

pub use arg::Arg;
pub use buf::Buf;
pub use emulator::capture_printf;
pub use error::{Error, Fault, FaultKind, Location, Result};
pub use gpu::{Gpu, devices};
pub use module::{Launch, Module, Param};
pub use mutants::{Mutant, mutants};
pub use options::Options;

/// The headers that a kernel's `#include "twin.cuh"` needs, `(name, text)`: for compilers that [`Gpu::compile`] does not
/// call, such as `nvcc`, which want them in a folder.
pub fn headers() -> &'static [(&'static str, &'static str)] {
    emulator::HEADERS
}
