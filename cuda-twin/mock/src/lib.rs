//! A CUDA driver and a run-time compiler over the emulator of `cuda-twin`.
//!
//! `scripts/cuda-mock.sh` links this into a `libcuda.so.1` and a `libnvrtc.so.13`. A program that is linked with CUDA, such
//! as a test of candle operations, then finds one device: its memory is the host's, NVRTC's machine code is the source
//! itself, and a launch runs it in the checked emulator. What a kernel does wrong goes to standard error, and the launch
//! fails. Functions that are not here answer "success" and do nothing (the script makes them): cuBLAS computes nothing, and
//! candle's own kernels are not found.

mod compiler;
mod driver;
