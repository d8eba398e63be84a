//! The CUDA kernels and how they are launched, on a GPU or in the emulator of `cuda-twin`.
//!
//! Grid, block and arguments of a launch are made here and nowhere else. Buffers are [`Arg`]s, so that memory of another
//! library does ([`Arg::device_address`]). Nothing is launched for no rows. A kernel cannot return an error, so those that
//! read logits write a status for each row.

mod gate;
mod logprob;
mod sample;
#[cfg(test)]
mod tests;

pub use cuda_twin::Arg;
use cuda_twin::{Buf, Error, Gpu, Module, Result};

pub use gate::GateKernels;
pub use logprob::{KeptTokens, LogprobKernels};
pub use sample::{SampleKernels, SampleShape, Workspace};

use crate::sources::HEADERS;
use crate::table::{FamilyTable, View};

/// The element type of logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// `f32`
    F32,
    /// `bf16`
    Bf16,
}

impl Dtype {
    fn pick(self, f32: &'static str, bf16: &'static str) -> &'static str {
        match self {
            Self::F32 => f32,
            Self::Bf16 => bf16,
        }
    }
}

fn compile(gpu: &Gpu, name: &str, source: &str) -> Result<Module> {
    gpu.compile_with(name, source, HEADERS)
}

fn refused(kernel: &str, what: &'static str, found: impl ToString, expected: impl ToString) -> Error {
    let (kernel, found, expected) = (kernel.to_string(), found.to_string(), expected.to_string());
    Error::Launch { kernel, what, found, expected }
}

/// A size as a kernel takes it. The room above is for a thread's last step past the end.
fn int(kernel: &str, what: &'static str, n: usize) -> Result<i32> {
    const MOST: i32 = i32::MAX - (1 << 16);
    let fits = i32::try_from(n).ok().filter(|n| *n <= MOST);
    fits.ok_or_else(|| refused(kernel, what, n, format!("at most {MOST}")))
}

/// A family table on a device.
pub struct DeviceTable {
    /// `[V]`
    class_of: Buf<u16>,
    /// `[classes, 2]`
    signatures: Buf<u32>,
    vocabulary: usize,
    classes: i32,
    symbols: u32,
}

impl DeviceTable {
    /// Classes that fit a block's bits.
    const MOST: usize = 1024;

    /// Uploads it.
    ///
    /// # Errors
    /// [`Error::Launch`] for more than 1,024 classes, and as [`Gpu::upload`].
    pub fn new(gpu: &Gpu, table: &FamilyTable) -> Result<Self> {
        let classes = table.classes();
        if classes.len() > Self::MOST {
            return Err(refused("lcg_scan", "signature classes", classes.len(), Self::MOST));
        }
        let pairs: Vec<u32> = classes.iter().flat_map(|s| [s.any.0, s.all.0]).collect();
        Ok(Self {
            class_of: gpu.upload(table.class_of())?,
            signatures: gpu.upload(&pairs)?,
            vocabulary: table.len(),
            classes: int("lcg_scan", "classes", classes.len())?,
            symbols: 1 << table.taxonomy().symbols(),
        })
    }
}

/// The masks of a batch of rows on a device: denied families, and tokens that finish a pending character.
pub struct RowMasks {
    rows: usize,
    denied: Buf<u32>,
    first: Buf<i32>,
    tokens: Buf<i32>,
    signatures: Buf<u32>,
}

impl RowMasks {
    /// Uploads them: the view and the denied families of each row.
    ///
    /// # Errors
    /// As [`Gpu::upload`].
    pub fn new(gpu: &Gpu, rows: &[(View<'_>, crate::FamilySet)]) -> Result<Self> {
        let (mut first, mut tokens, mut signatures) = (vec![0], Vec::new(), Vec::new());
        for (view, _) in rows {
            for (token, signature) in view.overrides() {
                tokens.push(int("lcg_scan", "token", *token as usize)?);
                signatures.extend([signature.any.0, signature.all.0]);
            }
            first.push(int("lcg_scan", "overrides", tokens.len())?);
        }
        // A device has no empty buffers.
        if tokens.is_empty() {
            (tokens, signatures) = (vec![0], vec![0, 0]);
        }
        Ok(Self {
            rows: rows.len(),
            denied: gpu.upload(&rows.iter().map(|(_, denied)| denied.0).collect::<Vec<_>>())?,
            first: gpu.upload(&first)?,
            tokens: gpu.upload(&tokens)?,
            signatures: gpu.upload(&signatures)?,
        })
    }

    /// `class_of`, `signatures`, `first`, `tokens`, `dynamic`, `denied`: as every kernel takes them.
    fn args<'a>(&'a self, table: &'a DeviceTable) -> [Arg<'a>; 6] {
        cuda_twin::args![
            &table.class_of,
            &table.signatures,
            &self.first,
            &self.tokens,
            &self.signatures,
            &self.denied
        ]
    }
}
