use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::{read, rows_of, slice, span, sum_over_row_chunks};
use crate::kernel::norm::{rms_norm_row, rms_norm_row_backward};
use crate::kernel::softmax::dot;
use crate::kernel::{ROW_CHUNK, SharedMut};
use crate::sink::deposit;

/// `y = w · x / sqrt(mean(x²) + eps)` over the last dimension: `x` `[.., n]`, `w` `[n]`.
#[derive(Clone, Copy, Debug)]
pub struct RmsNorm {
    /// Added to the mean square.
    pub eps: f32,
}

impl RmsNorm {
    pub(crate) fn forward(self, x: &[f32], w: &[f32]) -> Vec<f32> {
        let _span = span!("norm", bytes = 8 * x.len());
        let n = w.len();
        let mut y = vec![0f32; x.len()];
        y.par_chunks_mut(n * ROW_CHUNK).zip(x.par_chunks(n * ROW_CHUNK)).for_each(|(y, x)| {
            for (y, x) in y.chunks_exact_mut(n).zip(x.chunks_exact(n)) {
                rms_norm_row(x, w, self.eps, y);
            }
        });
        y
    }

    /// The gradients of `x` and `w`.
    pub(crate) fn backward(self, x: &[f32], w: &[f32], dy: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let _span = span!("norm", bytes = 12 * x.len());
        let n = w.len();
        let mut dx = vec![0f32; x.len()];
        let out = SharedMut::new(&mut dx);
        let dw = sum_over_row_chunks(x.len() / n, n, |first, rows, dw| {
            for row in first..first + rows {
                let x = &x[row * n..][..n];
                let rstd = 1.0 / (dot(x, x) / n as f32 + self.eps).sqrt();
                // SAFETY: each row belongs to one chunk.
                let dx = unsafe { out.range(row * n, n) };
                rms_norm_row_backward(x, w, rstd, &dy[row * n..][..n], dx, dw);
            }
        });
        (dx, dw)
    }
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (_, n) = rows_of(xl, "the input of rms-norm")?;
        if wl.dims() != [n] || n == 0 {
            bail!("rms-norm: the input has {n} features, the weight is {:?}", wl.dims());
        }
        let (x, w) = (slice(x, xl, "the input of rms-norm")?, slice(w, wl, "the weight")?);
        Ok((CpuStorage::F32(self.forward(x, w)), xl.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let (xr, wr, dyr) = (read(x), read(w), read(&dy));
        let (dx, dw) = self.backward(xr.slice("x")?, wr.slice("w")?, dyr.slice("dy")?);
        Ok((Some(Tensor::from_vec(dx, x.shape(), x.device())?), deposit(w, dw)?))
    }
}
