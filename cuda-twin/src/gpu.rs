//! A device: the emulator or a GPU.

use crate::buf::{Buf, Storage};
use crate::emulator::{self, Memory};
use crate::module::{Compiled, Module};
use crate::{Error, Options, Result};
use bytemuck::Pod;

/// A device to run kernels on. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Gpu(pub(crate) Backend);

#[derive(Debug, Clone)]
pub(crate) enum Backend {
    Emulated(Options),
    #[cfg(feature = "cuda")]
    Cuda(crate::cuda::Device),
}

impl Gpu {
    /// The CPU emulator. It needs a C++17 compiler when [`Gpu::compile`] is called, not before.
    pub fn emulated(options: Options) -> Self {
        Self(Backend::Emulated(options))
    }

    /// The GPU with this number, from 0.
    ///
    /// # Errors
    /// [`Error::NoGpu`] without the feature `cuda`, without a driver, or without such a device.
    pub fn cuda(ordinal: usize) -> Result<Self> {
        #[cfg(feature = "cuda")]
        return crate::cuda::Device::new(ordinal).map(|device| Self(Backend::Cuda(device)));
        #[cfg(not(feature = "cuda"))]
        {
            let cause = format!("device {ordinal} needs the feature `cuda` of cuda-twin, which is off");
            Err(Error::NoGpu { cause })
        }
    }

    /// The GPU that a stream belongs to, for work in that stream, such as candle's.
    ///
    /// # Errors
    /// [`Error::Cuda`] where the device does not say its compute capability.
    #[cfg(feature = "cuda")]
    pub fn from_stream(stream: std::sync::Arc<cudarc::driver::CudaStream>) -> Result<Self> {
        crate::cuda::Device::from_stream(stream).map(|device| Self(Backend::Cuda(device)))
    }

    /// The emulator's options; `None` on a GPU.
    pub fn emulation(&self) -> Option<Options> {
        match &self.0 {
            Backend::Emulated(options) => Some(*options),
            #[cfg(feature = "cuda")]
            Backend::Cuda(_) => None,
        }
    }

    /// A copy of `values` in the device's memory.
    ///
    /// # Errors
    /// [`Error::Memory`] or [`Error::Cuda`] where it does not fit.
    pub fn upload<T: Pod>(&self, values: &[T]) -> Result<Buf<T>> {
        let mut buf = self.uninit(values.len())?;
        buf.write(values)?;
        Ok(buf)
    }

    /// `len` elements, all bits 0.
    ///
    /// # Errors
    /// As [`Gpu::upload`].
    pub fn zeros<T: Pod>(&self, len: usize) -> Result<Buf<T>> {
        let bytes = bytes_of::<T>(len)?;
        let storage = match &self.0 {
            Backend::Emulated(_) => Storage::Emulated(Memory::zeros(bytes)?),
            #[cfg(feature = "cuda")]
            Backend::Cuda(device) => Storage::Cuda(device.zeros(bytes)?),
        };
        Ok(Buf::new(storage, len))
    }

    /// `len` elements that hold nothing yet. The checked emulator reports reads of them before they are written.
    ///
    /// # Errors
    /// As [`Gpu::upload`].
    pub fn uninit<T: Pod>(&self, len: usize) -> Result<Buf<T>> {
        let bytes = bytes_of::<T>(len)?;
        let storage = match &self.0 {
            Backend::Emulated(options) => Storage::Emulated(Memory::uninit(bytes, options.checked)?),
            #[cfg(feature = "cuda")]
            Backend::Cuda(device) => Storage::Cuda(device.uninit(bytes)?),
        };
        Ok(Buf::new(storage, len))
    }

    /// Compiles CUDA source, or takes it from the cache. `name` is what errors call it, such as `row_ops.cu`; the source
    /// starts with `#include "twin.cuh"`.
    ///
    /// # Errors
    /// [`Error::Compile`] with the compiler's words, [`Error::Program`] where there is no C++ compiler,
    /// [`Error::Cuda`] where there is no NVRTC, [`Error::Name`], [`Error::Io`] of the cache.
    pub fn compile(&self, name: &str, source: &str) -> Result<Module> {
        self.compile_with(name, source, &[])
    }

    /// As [`Gpu::compile`], with headers `(name, text)` that the source may include.
    ///
    /// # Errors
    /// As [`Gpu::compile`].
    pub fn compile_with(&self, name: &str, source: &str, headers: &[(&str, &str)]) -> Result<Module> {
        check_names(name, headers)?;
        let compiled = match &self.0 {
            Backend::Emulated(options) => Compiled::Emulated(
                emulator::Library::compile(name, source, headers, options.checked)?,
                *options,
            ),
            #[cfg(feature = "cuda")]
            Backend::Cuda(device) => Compiled::Cuda(device.compile(name, source, headers)?),
        };
        Ok(Module { name: name.to_string(), compiled })
    }
}

fn bytes_of<T>(len: usize) -> Result<usize> {
    len.checked_mul(size_of::<T>()).ok_or(Error::Memory { bytes: usize::MAX })
}

pub(crate) fn check_names(name: &str, headers: &[(&str, &str)]) -> Result<()> {
    let plain = |name: &str, slash: bool| {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.') || slash && c == '/';
        !name.is_empty()
            && name.chars().all(good)
            && !name.starts_with(['.', '-', '/'])
            && !name.contains("..")
    };
    let bad = std::iter::once((name, false)).chain(headers.iter().map(|(h, _)| (*h, true)));
    match bad.into_iter().find(|(name, slash)| !plain(name, *slash)) {
        Some((name, _)) => Err(Error::Name { name: name.to_string() }),
        None => Ok(()),
    }
}

/// The devices that a kernel's tests run on: the emulator in the three orders of [`Options::orders`], and GPU 0 where there
/// is one and the feature `cuda` is on. Without a GPU a line on standard error says so.
///
/// # Errors
/// [`Error::NoGpu`] where the variable `REQUIRE_GPU` is set and there is no GPU; [`Error::Cuda`] where there is one that
/// fails.
pub fn devices() -> Result<Vec<Gpu>> {
    let mut devices = Options::orders().map(Gpu::emulated).to_vec();
    match Gpu::cuda(0) {
        Ok(gpu) => devices.push(gpu),
        Err(error @ Error::NoGpu { .. }) if std::env::var_os("REQUIRE_GPU").is_none() => {
            eprintln!("{error}; emulation only");
        }
        Err(error) => return Err(error),
    }
    Ok(devices)
}
