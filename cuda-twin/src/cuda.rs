//! The GPU: memory and launches through the CUDA driver.

use crate::arg::{Arg, Kind};
use crate::buf::Storage;
use crate::emulator::HEADERS;
use crate::module::Launch;
use crate::{Error, Location, Result, nvrtc};
use cudarc::driver::sys::{self, CUfunction_attribute_enum as Attribute};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, CudaSlice, CudaStream, DevicePtr, DriverError, LaunchConfig,
    PushKernelArg,
};
use cudarc::nvrtc::Ptx;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

fn failed(call: &'static str) -> impl Fn(DriverError) -> Error {
    move |error| Error::Cuda { call, cause: error.to_string() }
}

/// A GPU and the stream that work goes to.
#[derive(Debug, Clone)]
pub(crate) struct Device {
    stream: Arc<CudaStream>,
    /// `sm_90`.
    arch: String,
}

/// Modules that were compiled, by context and content. A module holds its context, so an address in use is that context's.
type Modules = Mutex<HashMap<(usize, [u8; 32]), Arc<CudaModule>>>;
static MODULES: OnceLock<Modules> = OnceLock::new();

impl Device {
    pub(crate) fn new(ordinal: usize) -> Result<Self> {
        // cudarc panics in its first call where the library is missing, so ask before.
        // SAFETY: it only tries to open the library.
        if !unsafe { is_present() } {
            return Err(Error::NoGpu {
                cause: "libcuda, part of NVIDIA's driver, is not installed".to_string(),
            });
        }
        let context = CudaContext::new(ordinal).map_err(|e| Error::NoGpu { cause: e.to_string() })?;
        Self::from_stream(context.default_stream())
    }

    pub(crate) fn from_stream(stream: Arc<CudaStream>) -> Result<Self> {
        let (major, minor) =
            stream.context().compute_capability().map_err(failed("read the compute capability"))?;
        Ok(Self { stream, arch: format!("sm_{major}{minor}") })
    }

    pub(crate) fn zeros(&self, bytes: usize) -> Result<Memory> {
        // The driver refuses empty allocations.
        let slice = self.stream.alloc_zeros(bytes.max(1)).map_err(failed("allocate zeroed memory"))?;
        Ok(Memory { slice, stream: self.stream.clone() })
    }

    pub(crate) fn uninit(&self, bytes: usize) -> Result<Memory> {
        // SAFETY: `Gpu::uninit` says that it holds nothing yet; any bytes are valid elements.
        let slice = unsafe { self.stream.alloc(bytes.max(1)) }.map_err(failed("allocate memory"))?;
        Ok(Memory { slice, stream: self.stream.clone() })
    }

    pub(crate) fn compile(&self, name: &str, source: &str, headers: &[(&str, &str)]) -> Result<Compiled> {
        let context = self.stream.context();
        let mut sha = Sha256::new();
        for text in headers.iter().chain(HEADERS).flat_map(|(n, t)| [*n, *t]).chain([name, source]) {
            sha.update((text.len() as u64).to_le_bytes());
            sha.update(text);
        }
        let key = (context.cu_ctx() as usize, sha.finalize().into());
        let modules = MODULES.get_or_init(Mutex::default);
        let known = modules.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        let module = match known {
            Some(module) => module,
            None => {
                let cubin = nvrtc::cubin(name, source, headers, &self.arch)?;
                let module = context.load_module(Ptx::from_binary(cubin)).map_err(failed("load a cubin"))?;
                modules.lock().unwrap_or_else(PoisonError::into_inner).insert(key, module.clone());
                module
            }
        };
        Ok(Compiled { module, stream: self.stream.clone() })
    }
}

/// Bytes on a GPU.
pub(crate) struct Memory {
    slice: CudaSlice<u8>,
    stream: Arc<CudaStream>,
}

impl Memory {
    pub(crate) fn read(&self, bytes: &mut [u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let view = self.slice.slice(..bytes.len());
        self.stream.memcpy_dtoh(&view, bytes).map_err(failed("copy from the device"))?;
        self.stream.synchronize().map_err(failed("wait for the device"))
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.stream.memcpy_htod(bytes, &mut self.slice).map_err(failed("copy to the device"))?;
        self.stream.synchronize().map_err(failed("wait for the device"))
    }

    pub(crate) fn address(&self) -> u64 {
        self.slice.device_ptr(&self.stream).0
    }
}

/// A loaded cubin.
pub(crate) struct Compiled {
    module: Arc<CudaModule>,
    stream: Arc<CudaStream>,
}

impl Compiled {
    /// # Safety
    /// As [`crate::Module::launch`].
    pub(crate) unsafe fn launch(
        &self,
        name: &str,
        kernel: &str,
        launch: Launch,
        args: &[Arg<'_>],
    ) -> Result<()> {
        let unknown = || Error::UnknownKernel {
            module: name.to_string(),
            kernel: kernel.to_string(),
            known: "the driver does not list them".to_string(),
        };
        if kernel.contains('\0') {
            return Err(unknown());
        }
        let function = self.module.load_function(kernel).map_err(|e| match e.0 {
            sys::CUresult::CUDA_ERROR_NOT_FOUND => unknown(),
            _ => failed("find a kernel")(e),
        })?;
        check_sizes(name, kernel, &function, args)?;
        if launch.shared_bytes > 48 * 1024 {
            let most = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function
                .set_attribute(most, launch.shared_bytes as i32)
                .map_err(failed("allow more shared memory"))?;
        }
        let values = args.iter().enumerate().map(|(index, arg)| match &arg.0 {
            Kind::Memory { storage: Storage::Cuda(memory), bytes, .. } => {
                Ok(memory.address() + bytes.start as u64)
            }
            Kind::Memory { .. } => Err(Error::Argument {
                kernel: kernel.to_string(),
                index,
                found: "in emulated memory".to_string(),
                expected: "in the memory of the GPU".to_string(),
                at: Location { file: name.to_string(), line: 0 },
            }),
            Kind::Address(address) => Ok(*address),
            Kind::Value { bits, .. } => Ok(*bits),
        });
        let values = values.collect::<Result<Vec<u64>>>()?;
        let mut builder = self.stream.launch_builder(&function);
        for value in &values {
            builder.arg(value); // the driver reads as many bytes as the parameter has
        }
        let ([gx, gy, gz], [bx, by, bz]) = (launch.grid, launch.block);
        let config = LaunchConfig {
            grid_dim: (gx, gy, gz),
            block_dim: (bx, by, bz),
            shared_mem_bytes: launch.shared_bytes,
        };
        // SAFETY: number and sizes were compared; the rest is the caller's promise.
        unsafe { builder.launch(config) }.map_err(failed("launch a kernel"))?;
        self.stream.synchronize().map_err(failed("run a kernel"))
    }
}

/// Compares number and sizes of arguments with what the driver knows of the kernel; drivers before 12.4 know nothing.
fn check_sizes(name: &str, kernel: &str, function: &CudaFunction, args: &[Arg<'_>]) -> Result<()> {
    let mut version = 0;
    // SAFETY: a valid place for the answer.
    let asked = unsafe { sys::cuDriverGetVersion(&mut version) };
    if asked.result().is_err() || version < 12_040 {
        return Ok(());
    }
    let at = Location { file: name.to_string(), line: 0 };
    let size = |index: usize| {
        let (mut offset, mut bytes) = (0, 0);
        // SAFETY: a loaded function, and places for the answers.
        let known =
            unsafe { sys::cuFuncGetParamInfo(function.cu_function(), index, &mut offset, &mut bytes) };
        known.result().is_ok().then_some(bytes)
    };
    let expected = (0..).map_while(size).count();
    if expected != args.len() {
        return Err(Error::ArgumentCount { kernel: kernel.to_string(), found: args.len(), expected, at });
    }
    for (index, (arg, expected)) in args.iter().zip((0..).map_while(size)).enumerate() {
        let bytes = match &arg.0 {
            Kind::Value { element, .. } => element.bytes,
            Kind::Memory { .. } | Kind::Address(_) => 8,
        };
        if bytes != expected {
            let (found, expected) = (format!("{arg:?}"), format!("of {expected} bytes"));
            return Err(Error::Argument { kernel: kernel.to_string(), index, found, expected, at });
        }
    }
    Ok(())
}

/// Whether there is a driver. Linked libraries are there, or the program would not have started.
///
/// # Safety
/// As of loading a library: its initialisation runs.
unsafe fn is_present() -> bool {
    #[cfg(feature = "linked")]
    return true;
    #[cfg(not(feature = "linked"))]
    // SAFETY: the caller's promise.
    unsafe {
        sys::is_culib_present()
    }
}
