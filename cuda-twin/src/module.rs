//! Compiled source and its launches.

use crate::arg::{Arg, Element, Kind};
use crate::{Error, Location, Options, Result, emulator};
use std::fmt;

/// The size of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    /// Blocks along x, y, z; none may be 0.
    pub grid: [u32; 3],
    /// Threads of a block along x, y, z; their product is 1 to 1024.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory of a block (`TWIN_DYN_SHARED`).
    pub shared_bytes: u32,
}

impl Launch {
    /// A one-dimensional launch without dynamic shared memory.
    pub fn linear(blocks: u32, threads: u32) -> Self {
        Self { grid: [blocks, 1, 1], block: [threads, 1, 1], shared_bytes: 0 }
    }

    /// The same with this much dynamic shared memory.
    pub fn shared(self, bytes: u32) -> Self {
        Self { shared_bytes: bytes, ..self }
    }

    fn check(&self, kernel: &str) -> Result<()> {
        let wrong = |what, found: String, expected: &str| {
            Err(Error::Launch { kernel: kernel.to_string(), what, found, expected: expected.to_string() })
        };
        let ([x, y, z], threads) = (self.block, self.block.iter().map(|n| u64::from(*n)).product::<u64>());
        if !(1..=1024).contains(&threads) || z > 64 {
            return wrong("block", format!("{x} x {y} x {z}"), "1 to 1024 threads, at most 64 along z");
        }
        let [x, y, z] = self.grid;
        if x == 0 || y == 0 || z == 0 || x > 0x7fff_ffff || y > 65_535 || z > 65_535 {
            return wrong("grid", format!("{x} x {y} x {z}"), "1 to 2147483647 x 65535 x 65535 blocks");
        }
        if self.shared_bytes > MAX_SHARED_BYTES {
            return wrong(
                "shared_bytes",
                self.shared_bytes.to_string(),
                "at most 232448 (227 KiB, compute capability 9.0)",
            );
        }
        Ok(())
    }
}

/// The most shared memory that a block can have on compute capability 9.0 and 10.0: 227 KiB.
pub(crate) const MAX_SHARED_BYTES: u32 = 227 * 1024;

/// A parameter of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Param {
    pub(crate) kind: ParamKind,
    pub(crate) element: Element,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ParamKind {
    ConstPointer,
    Pointer,
    Value,
}

impl Param {
    /// Whether it is a pointer.
    pub fn is_pointer(&self) -> bool {
        self.kind != ParamKind::Value
    }

    /// Bytes that are passed: 8 for a pointer.
    pub fn bytes(&self) -> usize {
        if self.is_pointer() { 8 } else { self.element.bytes }
    }

    fn takes(&self, arg: &Arg<'_>) -> bool {
        match &arg.0 {
            Kind::Memory { element, .. } => self.is_pointer() && element.fits(self.element),
            Kind::Address(_) => self.is_pointer(),
            Kind::Value { element, .. } => {
                let same =
                    element.code == self.element.code || [element.code, self.element.code].contains(&b'?');
                !self.is_pointer() && element.bytes == self.element.bytes && element.bytes <= 8 && same
            }
        }
    }
}

impl fmt::Display for Param {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            ParamKind::ConstPointer => write!(f, "a pointer to const, {}", self.element),
            ParamKind::Pointer => write!(f, "a pointer, {}", self.element),
            ParamKind::Value => write!(f, "a value, {}", self.element),
        }
    }
}

/// Compiled kernels of one source on one device.
pub struct Module {
    pub(crate) name: String,
    pub(crate) compiled: Compiled,
}

pub(crate) enum Compiled {
    Emulated(emulator::Library, Options),
    #[cfg(feature = "cuda")]
    Cuda(crate::cuda::Compiled),
}

impl Module {
    /// The names of the kernels, in the order of the source. Empty on a GPU, where nothing lists them.
    pub fn kernels(&self) -> Vec<String> {
        match &self.compiled {
            Compiled::Emulated(library, _) => library.kernels().map(str::to_string).collect(),
            #[cfg(feature = "cuda")]
            Compiled::Cuda(_) => Vec::new(),
        }
    }

    /// The parameters of a kernel, as the emulator's compiler saw them.
    ///
    /// # Errors
    /// [`Error::UnknownKernel`], also on a GPU, which does not tell.
    pub fn params(&self, kernel: &str) -> Result<Vec<Param>> {
        match &self.compiled {
            Compiled::Emulated(library, _) => {
                library.kernel(kernel).map(|k| k.params.clone()).ok_or_else(|| self.unknown(kernel))
            }
            #[cfg(feature = "cuda")]
            Compiled::Cuda(_) => Err(self.unknown(kernel)),
        }
    }

    /// Runs a kernel and waits for its end.
    ///
    /// # Safety
    /// On a GPU, and in unchecked emulation, nothing stops a kernel from writing anywhere: the caller must know that with
    /// these arguments it accesses only what it is given. Checked emulation stops it at the first access that is wrong; only
    /// what the compiler does not instrument (inline assembly, overruns of a thread's own arrays through pointers) goes
    /// unseen.
    ///
    /// # Errors
    /// [`Error::Fault`] for a mistake in the kernel (emulation); [`Error::ArgumentCount`], [`Error::Argument`] and
    /// [`Error::Launch`] for one in the call; [`Error::UnknownKernel`]; [`Error::Cuda`] from a GPU.
    pub unsafe fn launch(&self, kernel: &str, launch: Launch, args: &[Arg<'_>]) -> Result<()> {
        launch.check(kernel)?;
        match &self.compiled {
            Compiled::Emulated(library, options) => {
                let found = library.kernel(kernel).ok_or_else(|| self.unknown(kernel))?;
                let at = Location { file: self.name.clone(), line: found.line };
                if args.len() != found.params.len() {
                    let (found, expected) = (args.len(), found.params.len());
                    return Err(Error::ArgumentCount { kernel: kernel.to_string(), found, expected, at });
                }
                let pairs = found.params.iter().zip(args);
                if let Some((index, (param, arg))) = pairs.enumerate().find(|(_, (p, a))| !p.takes(a)) {
                    let (found, expected) = (format!("{arg:?}"), param.to_string());
                    return Err(Error::Argument { kernel: kernel.to_string(), index, found, expected, at });
                }
                // SAFETY: the arguments are what the kernel declares; the rest is the caller's promise.
                unsafe { emulator::launch(library, found, launch, args, *options) }
            }
            #[cfg(feature = "cuda")]
            // SAFETY: the caller's promise.
            Compiled::Cuda(module) => unsafe { module.launch(&self.name, kernel, launch, args) },
        }
    }

    fn unknown(&self, kernel: &str) -> Error {
        let known = self.kernels().join(", ");
        Error::UnknownKernel { module: self.name.clone(), kernel: kernel.to_string(), known }
    }
}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Module({})", self.name)
    }
}
