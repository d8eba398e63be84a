//! What can go wrong.

use std::fmt;
use std::path::PathBuf;

/// A place in a kernel's source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// File name without folders: `row_ops.cu`.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// The kinds of mistake that the emulator finds in a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// Two threads access the same bytes, one of them writes, and nothing orders the two.
    Race,
    /// Memory is read that nobody has written.
    Uninitialised,
    /// An access outside the kernel's arguments and shared memory.
    OutOfBounds,
    /// A write to memory that was passed for a pointer to const, or to a constant of the source.
    ConstWrite,
    /// Threads of a block wait at different barriers, or for threads that never come.
    Barrier,
    /// A lane is not in its own mask, or reads from a lane that does not take part.
    Lane,
    /// An address that is no multiple of the size of what is accessed there.
    Misaligned,
    /// Threads wait for something that no thread can bring about, or run longer than [`crate::Options::fuel`].
    NeverEnds,
    /// `assert` or `__trap`.
    Assert,
    /// Division by zero, signed overflow, or a shift by more than the width.
    Arithmetic,
    /// An array of known size is indexed outside it.
    Index,
    /// More shared memory than a block can have.
    SharedMemory,
}

/// A mistake in a kernel, with the thread that was caught at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Which kernel.
    pub kernel: String,
    /// What kind of mistake.
    pub kind: FaultKind,
    /// What happened, in words.
    pub message: String,
    /// `threadIdx` of the thread.
    pub thread: [u32; 3],
    /// `blockIdx` of the thread.
    pub block: [u32; 3],
    /// The line of the access, then those of what it collides with or of who else waits. Empty when `addr2line` is missing.
    pub at: Vec<Location>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kernel, message, thread: [x, y, z], block: [i, j, k], .. } = self;
        write!(f, "{kernel}: {message}, in thread ({x}, {y}, {z}) of block ({i}, {j}, {k})")?;
        for (n, location) in self.at.iter().enumerate() {
            write!(f, "{}{location}", if n == 0 { ", at " } else { ", " })?;
        }
        if self.at.is_empty() {
            write!(f, " (install binutils for the line: `addr2line` is missing)")?;
        }
        Ok(())
    }
}

/// An error of this crate.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The emulator found a mistake in the kernel.
    #[error("{0}")]
    Fault(Box<Fault>),
    /// The compiler refused the source.
    #[error("`{name}` does not compile with {compiler}:\n{log}")]
    Compile {
        /// Name of the source.
        name: String,
        /// `c++`, `$CXX`, or `NVRTC for sm_90`.
        compiler: String,
        /// What the compiler said.
        log: String,
    },
    /// A program that the emulator needs cannot be run.
    #[error("`{program}` cannot be run ({cause}); {remedy}")]
    Program {
        /// Which program.
        program: String,
        /// Why not.
        cause: String,
        /// What to install or set.
        remedy: &'static str,
    },
    /// A source or header name that is no plain file name.
    #[error(
        "`{name}` cannot name a source: letters, digits, `_`, `-` and `.` are allowed (headers may have `/`)"
    )]
    Name {
        /// The name given.
        name: String,
    },
    /// No such kernel in the module.
    #[error("`{module}` has no kernel `{kernel}` (it has: {known})")]
    UnknownKernel {
        /// Name of the source.
        module: String,
        /// The kernel asked for.
        kernel: String,
        /// Those there are.
        known: String,
    },
    /// More or fewer arguments than the kernel has parameters.
    #[error("{kernel}: launched with {found} arguments, it has {expected} parameters, at {at}")]
    ArgumentCount {
        /// Which kernel.
        kernel: String,
        /// Number of arguments.
        found: usize,
        /// Number of parameters.
        expected: usize,
        /// Where the kernel is declared.
        at: Location,
    },
    /// An argument of another kind or size than the parameter.
    #[error("{kernel}: argument {index} is {found}, the parameter is {expected}, at {at}")]
    Argument {
        /// Which kernel.
        kernel: String,
        /// From 0.
        index: usize,
        /// What was passed.
        found: String,
        /// What the kernel declares.
        expected: String,
        /// Where the kernel is declared.
        at: Location,
    },
    /// A launch that no device can do.
    #[error("{kernel}: {what} is {found}, expected {expected}")]
    Launch {
        /// Which kernel.
        kernel: String,
        /// Which part of the launch.
        what: &'static str,
        /// The value found.
        found: String,
        /// What would do.
        expected: String,
    },
    /// A part of a buffer that does not lie in it.
    #[error("elements {start}..{end} of a buffer of {len}")]
    Range {
        /// First element.
        start: usize,
        /// One past the last.
        end: usize,
        /// Elements of the buffer.
        len: usize,
    },
    /// Values written to a buffer of another length.
    #[error("{found} values for a buffer of {expected} elements")]
    Length {
        /// Number of values.
        found: usize,
        /// Elements of the buffer.
        expected: usize,
    },
    /// A buffer is read back of which an element was never written.
    #[error("element {element} of a buffer of {len} was read back, but nothing has written it")]
    Unwritten {
        /// The first such element.
        element: usize,
        /// Elements of the buffer.
        len: usize,
    },
    /// A buffer of more bytes than there is memory.
    #[error("no memory for {bytes} bytes")]
    Memory {
        /// Size asked for.
        bytes: usize,
    },
    /// A file operation failed.
    #[error("{}: {cause}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        cause: String,
    },
    /// The GPU is asked for where there is none.
    #[error("no GPU: {cause}")]
    NoGpu {
        /// What is missing.
        cause: String,
    },
    /// A call into a CUDA library failed.
    #[error("{call}: {cause}")]
    Cuda {
        /// The call.
        call: &'static str,
        /// What the library said.
        cause: String,
    },
}

impl Error {
    /// The fault, if this is one.
    pub fn fault(&self) -> Option<&Fault> {
        match self {
            Self::Fault(fault) => Some(fault),
            _ => None,
        }
    }

    /// The first line of the kernel's source that the error speaks of.
    pub fn location(&self) -> Option<&Location> {
        match self {
            Self::Fault(fault) => fault.at.first(),
            Self::ArgumentCount { at, .. } | Self::Argument { at, .. } => Some(at),
            _ => None,
        }
    }

    pub(crate) fn io(path: &std::path::Path, cause: impl fmt::Display) -> Self {
        Self::Io { path: path.to_path_buf(), cause: cause.to_string() }
    }
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
