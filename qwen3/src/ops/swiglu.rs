use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::{read, rows_of, slice, span};
use crate::kernel::ROW_CHUNK;
use crate::kernel::activation::{swiglu_row, swiglu_row_backward};

/// `y = silu(gate) · up`: `[.., 2n]` laid out `[gate | up]` to `[.., n]`.
#[derive(Clone, Copy, Debug)]
pub struct SwiGlu;

impl SwiGlu {
    /// `x` `[rows, 2n]`.
    pub(crate) fn forward(self, x: &[f32], n: usize) -> Vec<f32> {
        let _span = span!("swiglu", bytes = 6 * x.len());
        let mut y = vec![0f32; x.len() / 2];
        y.par_chunks_mut(n * ROW_CHUNK).zip(x.par_chunks(2 * n * ROW_CHUNK)).for_each(|(y, x)| {
            for (y, x) in y.chunks_exact_mut(n).zip(x.chunks_exact(2 * n)) {
                swiglu_row(x, y);
            }
        });
        y
    }

    /// The gradient of `x`.
    pub(crate) fn backward(self, x: &[f32], dy: &[f32], n: usize) -> Vec<f32> {
        let _span = span!("swiglu", bytes = 20 * dy.len());
        let mut dx = vec![0f32; x.len()];
        let chunk = 2 * n * ROW_CHUNK;
        dx.par_chunks_mut(chunk).zip(x.par_chunks(chunk)).zip(dy.par_chunks(n * ROW_CHUNK)).for_each(
            |((dx, x), dy)| {
                let rows = dx.chunks_exact_mut(2 * n).zip(x.chunks_exact(2 * n)).zip(dy.chunks_exact(n));
                for ((dx, x), dy) in rows {
                    swiglu_row_backward(x, dy, dx);
                }
            },
        );
        dx
    }
}

impl CustomOp1 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, width) = rows_of(xl, "the input of swiglu")?;
        if width % 2 != 0 || width == 0 {
            bail!("swiglu: the last dimension must be even, got {width}");
        }
        let (x, n) = (slice(x, xl, "the input of swiglu")?, width / 2);
        let y = self.forward(x, n);
        let mut dims = xl.dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last = n;
        }
        Ok((CpuStorage::F32(y), dims.into()))
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let n = y.dims()[y.rank() - 1];
        let dy = dy.contiguous()?;
        let (xr, dyr) = (read(x), read(&dy));
        let dx = self.backward(xr.slice("x")?, dyr.slice("dy")?, n);
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}
