use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::{read, rows_of, slice, sum_over_row_chunks};
use crate::kernel::{ROW_CHUNK, SharedMut};

/// `y = w · (x - mean) / sqrt(var + eps) + b` over the last dimension: `x` `[.., n]`, `w` and `b` `[n]`.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm {
    /// Added to the variance.
    pub eps: f32,
}

impl LayerNorm {
    /// Mean and `1 / sqrt(var + eps)` of one row.
    fn statistics(self, x: &[f32]) -> (f32, f32) {
        let n = x.len() as f64;
        let mean = x.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
        let variance = x.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n;
        (mean as f32, (1.0 / (variance + f64::from(self.eps)).sqrt()) as f32)
    }
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
        b: &CpuStorage,
        bl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (_, n) = rows_of(xl, "the input of layer-norm")?;
        if wl.dims() != [n] || bl.dims() != [n] || n == 0 {
            bail!(
                "layer-norm: the input has {n} features, the weight is {:?}, the bias {:?}",
                wl.dims(),
                bl.dims()
            );
        }
        let x = slice(x, xl, "the input of layer-norm")?;
        let (w, b) = (slice(w, wl, "the weight")?, slice(b, bl, "the bias")?);
        let mut y = vec![0f32; x.len()];
        y.par_chunks_mut(n * ROW_CHUNK).zip(x.par_chunks(n * ROW_CHUNK)).for_each(|(y, x)| {
            for (y, x) in y.chunks_exact_mut(n).zip(x.chunks_exact(n)) {
                let (mean, rstd) = self.statistics(x);
                for i in 0..n {
                    y[i] = (x[i] - mean) * rstd * w[i] + b[i];
                }
            }
        });
        Ok((CpuStorage::F32(y), xl.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let (xr, wr, dyr) = (read(x), read(w), read(&dy));
        let (xs, ws, dys) = (xr.slice("x")?, wr.slice("w")?, dyr.slice("dy")?);
        let n = ws.len();
        let mut dx = vec![0f32; xs.len()];
        let out = SharedMut::new(&mut dx);
        let mut dw = sum_over_row_chunks(xs.len() / n, 2 * n, |first, rows, sums| {
            let (dw, db) = sums.split_at_mut(n);
            for row in first..first + rows {
                let (x, dy) = (&xs[row * n..][..n], &dys[row * n..][..n]);
                let (mean, rstd) = self.statistics(x);
                let (mut plain, mut along) = (0f32, 0f32);
                for i in 0..n {
                    let unit = (x[i] - mean) * rstd;
                    plain += dy[i] * ws[i];
                    along += dy[i] * ws[i] * unit;
                    dw[i] += dy[i] * unit;
                    db[i] += dy[i];
                }
                let (plain, along) = (plain / n as f32, along / n as f32);
                // SAFETY: each row belongs to one chunk.
                let dx = unsafe { out.range(row * n, n) };
                for i in 0..n {
                    dx[i] = rstd * (dy[i] * ws[i] - plain - (x[i] - mean) * rstd * along);
                }
            }
        });
        let db = dw.split_off(n);
        Ok((
            Some(Tensor::from_vec(dx, x.shape(), x.device())?),
            Some(Tensor::from_vec(dw, n, w.device())?),
            Some(Tensor::from_vec(db, n, b.device())?),
        ))
    }
}
