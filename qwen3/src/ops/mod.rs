//! Differentiable operations for candle: one struct each, with a hand-written backward.
//!
//! candle has fused forms of most of these, but without a backward: they detach silently and everything
//! upstream stops learning. Each operation here is checked against the composition of plain candle operations
//! and against finite differences (`tests/ops.rs`).
//!
//! All of them take contiguous `f32` tensors on the CPU and say so when they are given something else.

mod attention;
mod experts;
mod gather_rows;
mod head;
mod layer_norm;
mod linear;
mod qk_norm_rope;
mod rms_norm;
mod swiglu;

pub use attention::{Attention, Segments};
pub use experts::{ExpertsDown, ExpertsUp};
pub use gather_rows::GatherRows;
pub use head::HeadLogProbs;
pub(crate) use head::HeadLoss;
pub use layer_norm::LayerNorm;
pub use linear::Linear;
pub use policy_loss::LogitMask;
pub use qk_norm_rope::QkNormRope;
pub use rms_norm::RmsNorm;
pub use swiglu::SwiGlu;

pub(crate) use attention::Attended;
pub(crate) use experts::{down_backward, up_backward};

use std::ops::Deref;

use candle_core::{CpuStorage, Layout, Result, Storage, Tensor, bail};
use rayon::prelude::*;

use crate::kernel::ROW_CHUNK;

/// A `tracing` span around the work of an operation, for profiles: its component of the model and its cost, `flops` or
/// `bytes` of memory read and written.
macro_rules! span {
    ($component:literal $(, $cost:ident = $count:expr)*) => {
        tracing::trace_span!($component $(, $cost = $count as u64)*).entered()
    };
}
pub(crate) use span;

/// The `f32` elements of a contiguous CPU argument.
fn slice<'a>(storage: &'a CpuStorage, layout: &Layout, what: &str) -> Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("{what} must be contiguous, got shape {:?} with strides {:?}", layout.shape(), layout.stride());
    };
    let CpuStorage::F32(data) = storage else {
        bail!("{what} must be f32");
    };
    Ok(&data[start..end])
}

/// A tensor held for reading while a backward runs.
pub(crate) struct Reader<'a, G> {
    storage: G,
    layout: &'a Layout,
}

pub(crate) fn read(tensor: &Tensor) -> Reader<'_, impl Deref<Target = Storage>> {
    let (storage, layout) = tensor.storage_and_layout();
    Reader { storage, layout }
}

impl<G: Deref<Target = Storage>> Reader<'_, G> {
    pub(crate) fn slice(&self, what: &str) -> Result<&[f32]> {
        match &*self.storage {
            Storage::Cpu(storage) => slice(storage, self.layout, what),
            _ => bail!("{what} must be on the CPU"),
        }
    }
}

/// The last dimension and the number of rows before it.
fn rows_of(layout: &Layout, what: &str) -> Result<(usize, usize)> {
    match layout.dims() {
        [] => bail!("{what} must have at least one dimension"),
        dims => Ok((dims[..dims.len() - 1].iter().product(), dims[dims.len() - 1])),
    }
}

/// Runs `f(first_row, rows)` over fixed chunks of rows in parallel; each call returns a partial sum of `len`
/// floats. The partial sums are added in row order.
fn sum_over_row_chunks(rows: usize, len: usize, f: impl Fn(usize, usize, &mut [f32]) + Sync) -> Vec<f32> {
    let partial = |chunk: usize| {
        let mut sum = vec![0f32; len];
        let first = chunk * ROW_CHUNK;
        f(first, ROW_CHUNK.min(rows - first), &mut sum);
        sum
    };
    let chunks = rows.div_ceil(ROW_CHUNK);
    let mut total = vec![0f32; len];
    let partials: Vec<Vec<f32>> = (0..chunks).into_par_iter().map(partial).collect();
    for partial in partials {
        for (t, p) in total.iter_mut().zip(partial) {
            *t += p;
        }
    }
    total
}
