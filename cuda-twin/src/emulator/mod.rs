//! Runs kernels on the CPU: every CUDA thread is a coroutine, every memory access of the kernel asks first.
//!
//! The kernel's source is compiled by the system's C++ compiler ([`compiler`]) into a library ([`library`]). Its
//! instrumentation calls `hooks.cc`, which calls [`runtime`], which calls [`run`]; that asks [`checker`], which keeps who touched which byte last
//! ([`shadow`]) and which accesses are ordered ([`clocks`]). [`scheduler`] runs the coroutines of [`block`]s.

mod block;
mod cache;
mod checker;
mod clocks;
mod compiler;
mod library;
mod memory;
mod print;
mod run;
mod runtime;
mod scan;
mod scheduler;
mod shadow;
mod warp;

pub(crate) use compiler::HEADERS;
pub(crate) use library::Library;
pub(crate) use memory::Memory;
pub use print::capture_printf;
pub(crate) use scheduler::launch;
