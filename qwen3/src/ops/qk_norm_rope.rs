use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::{read, rows_of, slice, span, sum_over_row_chunks};
use crate::kernel::attention::HeadShape;
use crate::kernel::norm::{rms_norm_row, rms_norm_row_backward};
use crate::kernel::rope::RopeTable;
use crate::kernel::softmax::dot;
use crate::kernel::{ROW_CHUNK, SharedMut};

/// Prepares packed projections `[rows, (q + 2 kv) · d]` for attention: queries and keys are normalised by head
/// (Qwen3; weights `[d]` shared by all heads) and rotated to their positions; values pass through.
///
/// Applied to three arguments `(qkv, q_norm, k_norm)`; with one argument it only rotates (Llama).
#[derive(Clone, Debug)]
pub struct QkNormRope {
    /// Heads and their width.
    pub shape: HeadShape,
    /// Added to the mean square.
    pub eps: f32,
    /// Angles; must cover every position.
    pub table: Arc<RopeTable>,
    /// The position of each row.
    pub positions: Arc<[u32]>,
}

/// Norm weights of queries and keys.
type Norms<'a> = Option<(&'a [f32], &'a [f32])>;

impl QkNormRope {
    fn width(&self) -> usize {
        self.shape.query_width() + 2 * self.shape.kv_width()
    }

    /// The key/value head of a query head, or of a key head behind them.
    fn kv_head(&self, head: usize) -> usize {
        let queries = self.shape.query_heads;
        if head < queries { head / self.shape.group() } else { head - queries }
    }

    fn check(&self, qkv: &Layout, norms: &[&Layout]) -> Result<()> {
        let (rows, width) = rows_of(qkv, "qkv")?;
        if width != self.width() || rows != self.positions.len() {
            bail!(
                "qkv is [{rows}, {width}], expected [{}, {}] from the positions and heads",
                self.positions.len(),
                self.width()
            );
        }
        for norm in norms {
            if norm.dims() != [self.shape.head_dim] {
                bail!("a q/k norm weight is {:?}, expected [{}]", norm.dims(), self.shape.head_dim);
            }
        }
        if let Some(&far) = self.positions.iter().find(|p| **p as usize >= self.table.len()) {
            bail!("position {far} is beyond the rotary table of {} positions", self.table.len());
        }
        Ok(())
    }

    /// One row of queries, keys and values, in place of what attention reads.
    pub(crate) fn row(&self, x: &[f32], norms: Norms<'_>, position: usize, y: &mut [f32]) {
        let (heads, d) = (self.shape, self.shape.head_dim);
        for head in 0..heads.query_heads + heads.kv_heads {
            let (from, to) = (&x[head * d..][..d], &mut y[head * d..][..d]);
            match norms {
                Some((q, k)) => {
                    let w = if head < heads.query_heads { q } else { k };
                    rms_norm_row(from, w, self.eps, to);
                }
                None => to.copy_from_slice(from),
            }
            self.table.rotate(to, position, self.kv_head(head));
        }
        let values = heads.query_width() + heads.kv_width();
        y[values..].copy_from_slice(&x[values..]);
    }

    pub(crate) fn forward(&self, x: &[f32], norms: Norms<'_>) -> Vec<f32> {
        let _span = span!("norm and rope", bytes = 8 * x.len());
        let width = self.width();
        let mut y = vec![0f32; x.len()];
        y.par_chunks_mut(width * ROW_CHUNK).enumerate().for_each(|(chunk, y)| {
            for (i, y) in y.chunks_exact_mut(width).enumerate() {
                let row = chunk * ROW_CHUNK + i;
                self.row(&x[row * width..][..width], norms, self.positions[row] as usize, y);
            }
        });
        y
    }

    /// Returns `dx` and the gradients of both norm weights, one after the other (zero without norms, when `x` is not
    /// read).
    pub(crate) fn backward(&self, x: &[f32], norms: Norms<'_>, dy: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let _span = span!("norm and rope", bytes = 12 * dy.len());
        let (heads, d, width) = (self.shape, self.shape.head_dim, self.width());
        let mut dx = vec![0f32; dy.len()];
        let out = SharedMut::new(&mut dx);
        let dw = sum_over_row_chunks(dy.len() / width, 2 * d, |first, rows, dw| {
            let (dq, dk) = dw.split_at_mut(d);
            let mut turned = vec![0f32; d];
            for row in first..first + rows {
                // SAFETY: each row belongs to one chunk.
                let dx = unsafe { out.range(row * width, width) };
                let dy = &dy[row * width..][..width];
                for head in 0..heads.query_heads + heads.kv_heads {
                    turned.copy_from_slice(&dy[head * d..][..d]);
                    self.table.rotate_back(&mut turned, self.positions[row] as usize, self.kv_head(head));
                    let dx = &mut dx[head * d..][..d];
                    match norms {
                        Some((q, k)) => {
                            let x = &x[row * width + head * d..][..d];
                            let rstd = 1.0 / (dot(x, x) / d as f32 + self.eps).sqrt();
                            let is_query = head < heads.query_heads;
                            let (w, dw) = if is_query { (q, &mut *dq) } else { (k, &mut *dk) };
                            rms_norm_row_backward(x, w, rstd, &turned, dx, dw);
                        }
                        None => dx.copy_from_slice(&turned),
                    }
                }
                let values = heads.query_width() + heads.kv_width();
                dx[values..].copy_from_slice(&dy[values..]);
            }
        });
        (dx, dw)
    }
}

impl CustomOp3 for QkNormRope {
    fn name(&self) -> &'static str {
        "qk-norm-rope"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        q: &CpuStorage,
        ql: &Layout,
        k: &CpuStorage,
        kl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.check(xl, &[ql, kl])?;
        let norms = (slice(q, ql, "q_norm")?, slice(k, kl, "k_norm")?);
        Ok((CpuStorage::F32(self.forward(slice(x, xl, "qkv")?, Some(norms))), xl.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        q: &Tensor,
        k: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let (xr, qr, kr, dyr) = (read(x), read(q), read(k), read(&dy));
        let norms = (qr.slice("q_norm")?, kr.slice("k_norm")?);
        let (dx, mut dq) = self.backward(xr.slice("qkv")?, Some(norms), dyr.slice("dy")?);
        let dk = dq.split_off(self.shape.head_dim);
        let d = self.shape.head_dim;
        Ok((
            Some(Tensor::from_vec(dx, x.shape(), x.device())?),
            Some(Tensor::from_vec(dq, d, x.device())?),
            Some(Tensor::from_vec(dk, d, x.device())?),
        ))
    }
}

impl CustomOp1 for QkNormRope {
    fn name(&self) -> &'static str {
        "qk-rope"
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout) -> Result<(CpuStorage, Shape)> {
        self.check(xl, &[])?;
        Ok((CpuStorage::F32(self.forward(slice(x, xl, "qkv")?, None)), xl.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dy = dy.contiguous()?;
        let (xr, dyr) = (read(x), read(&dy));
        let (dx, _) = self.backward(xr.slice("qkv")?, None, dyr.slice("dy")?);
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}
