//! One CUDA source, two places to run it: a GPU, and a CPU emulator that checks every memory access.
//!
//! A kernel is text in CUDA C++. On a machine with a GPU, [`Gpu::compile`] gives it to NVRTC and the driver runs it. Anywhere
//! else the system's C++ compiler turns the same text into a library, and an emulator runs it: one coroutine for each CUDA
//! thread, in an order that a seed picks. Tests written over [`devices`] therefore execute the real kernels on a laptop, and
//! run unchanged where there is a GPU.
//!
//! The one design decision: **the compiler's own sanitizer instrumentation calls our runtime instead of the sanitizers'
//! libraries**. So the kernel's text is neither parsed nor changed, every load and store asks first, and no mistake gets as
//! far as memory. What is found carries its line, thread and block ([`Fault`]):
//!
//! | [`FaultKind`] | found |
//! |---|---|
//! | `Race` | accesses that no barrier, `__syncwarp`, or fence with an atomic orders, within a block or between blocks |
//! | `Uninitialised` | reads of shared memory, or of a [`Gpu::uninit`] buffer, that nothing has written |
//! | `OutOfBounds`, `Index`, `ConstWrite`, `Misaligned` | accesses outside an argument, outside an array, to const, off alignment |
//! | `Barrier`, `Lane`, `NeverEnds` | barriers that a block's threads do not all reach, wrong lane masks, waits without end |
//! | `Assert`, `Arithmetic`, `SharedMemory` | `assert`, overflow of `int` and division by zero, more shared memory than there is |
//!
//! Orders are decided by vector clocks over CUDA's memory model, not by luck: a race is reported even when the emulated
//! order happened to be harmless.
//!
//! ```
//! use cuda_twin::{FaultKind, Launch, args, devices, mutants};
//!
//! const SOURCE: &str = r#"
//! #include "twin.cuh"
//! extern "C" __global__ void reverse(const float* x, float* y, int n) {
//!   TWIN_DYN_SHARED(float, buffer);
//!   buffer[threadIdx.x] = x[threadIdx.x];
//!   __syncthreads();
//!   y[threadIdx.x] = buffer[n - 1 - threadIdx.x];
//! }"#;
//!
//! for gpu in devices()? {
//!     let run = |source: &str| {
//!         let module = gpu.compile("reverse.cu", source)?;
//!         let (x, y) = (gpu.upload(&[1.0f32, 2.0, 3.0])?, gpu.uninit::<f32>(3)?);
//!         // SAFETY: x, y and the buffer hold a float for each of the 3 threads.
//!         unsafe { module.launch("reverse", Launch::linear(1, 3).shared(3 * 4), &args![&x, &y, 3i32]) }?;
//!         y.read()
//!     };
//!     assert_eq!(run(SOURCE)?, [3.0, 2.0, 1.0]);
//!     // In emulation: without its barrier the kernel is wrong, and that is noticed in every order.
//!     if gpu.emulation().is_some() {
//!         for mutant in mutants(SOURCE) {
//!             let fault = run(&mutant.source).expect_err("no barrier");
//!             let kind = fault.fault().map(|f| f.kind);
//!             assert!(matches!(kind, Some(FaultKind::Race | FaultKind::Uninitialised)), "{fault}");
//!         }
//!     }
//! }
//! # Ok::<(), cuda_twin::Error>(())
//! ```
//!
//! Kernels include `twin.cuh` and keep to its subset of CUDA; the README of this crate has the rules, and the list of what
//! emulation cannot show. The emulator needs Linux, `g++` 11 or newer, and `addr2line` of binutils for the lines of reports.

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
pub mod testing;

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

/// The examples of the README compile and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
