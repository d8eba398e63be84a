//! The rotation as candle operations.
//!
//! Cost: every rotated lane is read and written once, and each token's cosines and sines are read once for each of its
//! heads (from cache, in token-major tensors): `2·heads·d·sizeof` bytes a token, six flops a pair. A composition of
//! tensor operations (slice, negate, concatenate, two products, a sum) moves about five times as much. candle's own
//! `rope` functions have no backward and detach silently.
//!
//! The forward pass copies a head into the output and turns it there while it is in cache, so in place and out of place
//! are one kernel and give the same bits. The backward pass is the same kernel with the sine's sign flipped; it needs
//! the table and nothing of the input.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, DType, InplaceOp1, Layout, Shape, Tensor};
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::rotate::{Direction, Lane};
use crate::rows::{HeadRows, MemoryOrder};
use crate::table::{Angles, RotaryTable};

#[cfg(feature = "candle-cuda")]
mod cuda;
#[cfg(all(test, feature = "candle-cuda"))]
mod on_gpu;

/// Lanes for one task of the thread pool: 64 KiB of `f32`. Smaller tensors stay on the calling thread.
const TASK_LANES: usize = 1 << 14;

/// The heads of a packed projection, in this order: query heads, key heads and, if the tensor has them, as many value
/// heads, which are not rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub query: usize,
    /// Key/value heads, which must divide the query heads; 0 for a tensor of queries alone.
    pub kv: usize,
}

/// Rotates queries or keys, `f32`, `bf16` or `f16`: token-major `[tokens, heads, d]` or head-major
/// `[batch, heads, seq, d]` (tokens in the order `batch · seq`), any strides but a contiguous last dimension.
///
/// Differentiable; the output is contiguous. Sixteen-bit elements are rotated in `f32` and rounded once.
pub fn apply(x: &Tensor, table: &RotaryTable) -> Result<Tensor> {
    let rows = HeadRows::of(x.layout())?;
    let planes = table.head_planes(rows.heads())?;
    Ok(x.apply_op1(Rotate::checked(x, &rows, planes, table)?)?)
}

/// Rotates the queries and keys of a packed `[tokens, heads, d]` or `[batch, heads, seq, d]`, where `heads` is
/// `query + kv`, or `query + 2·kv` with values, which pass through. Otherwise as [`apply`].
pub fn apply_packed_qk(qk: &Tensor, heads: Heads, table: &RotaryTable) -> Result<Tensor> {
    let rows = HeadRows::of(qk.layout())?;
    let planes = packed_planes(&rows, heads, table)?;
    Ok(qk.apply_op1(Rotate::checked(qk, &rows, planes, table)?)?)
}

/// [`apply_packed_qk`] in the tensor's own memory. Autograd does not see it, so a tracked tensor is an error: for
/// inference. The tensor may be a view (the queries and keys of a wider projection), but not one that overlaps itself.
pub fn apply_inplace(qkv: &Tensor, heads: Heads, table: &RotaryTable) -> Result<()> {
    if qkv.track_op() {
        return Err(Error::Tracked);
    }
    let rows = HeadRows::of(qkv.layout())?;
    let planes = packed_planes(&rows, heads, table)?;
    let rotate = Rotate::checked(qkv, &rows, planes, table)?;
    if rows.count() == 0 {
        return Ok(());
    }
    rows.memory_order(qkv.layout())?;
    Ok(qkv.inplace_op1(&rotate)?)
}

fn packed_planes(rows: &HeadRows, heads: Heads, table: &RotaryTable) -> Result<Vec<Option<usize>>> {
    let Heads { query, kv } = heads;
    if kv > 0 && !query.is_multiple_of(kv) {
        return Err(Error::HeadGroups { heads: query, kv_heads: kv });
    }
    if let (true, Some(kv_heads)) = (kv > 0, table.kv_heads().filter(|planned| *planned != kv)) {
        return Err(Error::HeadGroups { heads: kv, kv_heads });
    }
    let rotated = query.saturating_add(kv);
    if rows.heads() != rotated && rows.heads() != rotated.saturating_add(kv) {
        let expected = format!("{query} query heads and {kv} key heads, with or without {kv} value heads");
        return Err(Error::Shape { found: rows.shape(), expected });
    }
    let mut planes = table.head_planes(query)?;
    if kv > 0 {
        planes.extend(table.head_planes(kv)?);
    }
    planes.resize(rows.heads(), None);
    Ok(planes)
}

/// The operation. The table is on the tensor's device.
#[derive(Clone)]
struct Rotate {
    table: RotaryTable,
    /// The table's plane for each head; `None` passes through.
    planes: Arc<[Option<usize>]>,
    direction: Direction,
}

impl Rotate {
    fn checked(x: &Tensor, rows: &HeadRows, planes: Vec<Option<usize>>, table: &RotaryTable) -> Result<Self> {
        if !matches!(x.dtype(), DType::F32 | DType::BF16 | DType::F16) {
            return Err(Error::DType(x.dtype()));
        }
        if rows.head_dim() < table.rotary_dim() {
            return Err(Error::HeadDim { rotary_dim: table.rotary_dim(), head_dim: rows.head_dim() });
        }
        if rows.tokens() != table.tokens() {
            let expected = format!(
                "{} tokens as in the table (of shape [{}, {}])",
                table.tokens(),
                table.tokens(),
                table.rotary_dim() / 2
            );
            return Err(Error::Shape { found: rows.shape(), expected });
        }
        Ok(Self { table: table.clone(), planes: planes.into(), direction: Direction::Forward })
    }

    fn turn<T: Lane>(
        &self,
        angles: &Angles<'_>,
        lanes: &mut [T],
        token: usize,
        head: usize,
        scratch: &mut Vec<f32>,
    ) {
        if let Some(plane) = self.planes[head] {
            let (cos, sin) = angles.row(token, plane);
            T::turn(lanes, cos, sin, angles.pairing(), self.direction, scratch);
        }
    }

    fn forward<T: Lane>(&self, x: &[T], layout: &Layout) -> Result<Vec<T>> {
        let rows = HeadRows::of(layout)?;
        let d = rows.head_dim();
        let mut y = vec![T::default(); rows.count() * d];
        let per_task = (TASK_LANES / d).max(1);
        self.table.with_angles(|angles| {
            let task = |first: usize, y: &mut [T], scratch: &mut Vec<f32>| {
                for (i, y) in y.chunks_exact_mut(d).enumerate() {
                    let row = rows.row(first + i);
                    y.copy_from_slice(&x[row.offset..row.offset + d]);
                    self.turn(angles, y, row.token, row.head, scratch);
                }
            };
            if rows.count() <= per_task {
                task(0, &mut y, &mut Vec::new());
            } else {
                let tasks = y.par_chunks_mut(per_task * d).enumerate();
                tasks.for_each_init(Vec::new, |scratch, (i, y)| task(i * per_task, y, scratch));
            }
        })?;
        Ok(y)
    }

    fn in_place<T: Lane>(&self, x: &mut [T], layout: &Layout) -> Result<()> {
        let rows = HeadRows::of(layout)?;
        let MemoryOrder { start, extent, outer_stride, inner } = rows.memory_order(layout)?;
        let (x, d) = (&mut x[start..start + extent], rows.head_dim());
        self.table.with_angles(|angles| {
            let task = |outer: usize, x: &mut [T], scratch: &mut Vec<f32>| {
                for i in 0..inner {
                    let row = rows.row_in_memory(outer, i);
                    let offset = row.offset - start - outer * outer_stride;
                    self.turn(angles, &mut x[offset..offset + d], row.token, row.head, scratch);
                }
            };
            if rows.count() * d <= TASK_LANES {
                let mut scratch = Vec::new();
                x.chunks_mut(outer_stride).enumerate().for_each(|(outer, x)| task(outer, x, &mut scratch));
            } else {
                let tasks = x.par_chunks_mut(outer_stride).enumerate();
                tasks.for_each_init(Vec::new, |scratch, (outer, x)| task(outer, x, scratch));
            }
        })
    }
}

impl CustomOp1 for Rotate {
    fn name(&self) -> &'static str {
        "rotary"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let y = match x {
            CpuStorage::F32(x) => CpuStorage::F32(self.forward(x, layout)?),
            CpuStorage::BF16(x) => CpuStorage::BF16(self.forward(x, layout)?),
            CpuStorage::F16(x) => CpuStorage::F16(self.forward(x, layout)?),
            other => return Err(Error::DType(dtype(other)).into()),
        };
        Ok((y, layout.shape().clone()))
    }

    #[cfg(feature = "candle-cuda")]
    fn cuda_fwd(
        &self,
        x: &candle_core::CudaStorage,
        layout: &Layout,
    ) -> candle_core::Result<(candle_core::CudaStorage, Shape)> {
        self.forward_on_gpu(x, layout)
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, dy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        // Autograd may hand over a broadcast; its strides are not the caller's doing.
        let dy = if HeadRows::of(dy.layout()).is_ok() { dy.clone() } else { dy.contiguous()? };
        let adjoint = Self { direction: self.direction.flipped(), ..self.clone() };
        Ok(Some(dy.apply_op1(adjoint)?))
    }
}

impl InplaceOp1 for Rotate {
    fn name(&self) -> &'static str {
        "rotary-in-place"
    }

    fn cpu_fwd(&self, x: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        match x {
            CpuStorage::F32(x) => self.in_place(x, layout)?,
            CpuStorage::BF16(x) => self.in_place(x, layout)?,
            CpuStorage::F16(x) => self.in_place(x, layout)?,
            other => return Err(Error::DType(dtype(other)).into()),
        }
        Ok(())
    }

    #[cfg(feature = "candle-cuda")]
    fn cuda_fwd(&self, x: &mut candle_core::CudaStorage, layout: &Layout) -> candle_core::Result<()> {
        self.in_place_on_gpu(x, layout)
    }
}

fn dtype(storage: &CpuStorage) -> DType {
    use candle_core::backend::BackendStorage;
    storage.dtype()
}
