use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::{read, rows_of, slice};
use crate::kernel::SharedMut;
use crate::kernel::activation::exp;
use crate::kernel::attention::{HeadShape, Run, attend_row, axpy, score_keys};

/// Attention without a mask inside each segment of `cu_seqlens`, as a vision tower has it: rotated
/// `[rows, 3 · heads · d]` (queries, keys, values) to `[rows, heads · d]`.
///
/// Keeps one log-sum-exp a row and head; probabilities are computed again in the backward.
#[derive(Debug)]
pub struct FullAttention {
    shape: HeadShape,
    cu_seqlens: Arc<[u32]>,
    log_sum_exp: OnceLock<Vec<f32>>,
}

impl FullAttention {
    /// `cu_seqlens` starts at 0, rises, and ends at the number of rows.
    pub fn new(heads: usize, head_dim: usize, cu_seqlens: Arc<[u32]>) -> Self {
        let shape = HeadShape { query_heads: heads, kv_heads: heads, head_dim };
        Self { shape, cu_seqlens, log_sum_exp: OnceLock::new() }
    }

    /// Every row's segment.
    fn segments(&self) -> Vec<(usize, usize)> {
        let rows = |w: &[u32]| std::iter::repeat_n((w[0] as usize, w[1] as usize), (w[1] - w[0]) as usize);
        self.cu_seqlens.windows(2).flat_map(rows).collect()
    }

    /// The gradients of one head in one segment, rows in order.
    fn backward_head(
        &self,
        x: &[f32],
        dy: &[f32],
        lse: &[f32],
        head: usize,
        rows: (usize, usize),
        dx: SharedMut<f32>,
    ) {
        let (d, out) = (self.shape.head_dim, self.shape.query_width());
        let (width, scale) = (3 * out, self.shape.scale());
        let (start, end) = rows;
        let mut probs = vec![0f32; end - start];
        let mut d_probs = probs.clone();
        for row in start..end {
            let query = &x[row * width + head * d..][..d];
            let d_out = &dy[row * out + head * d..][..d];
            score_keys(query, &x[start * width..], width, out + head * d, scale, &mut probs);
            score_keys(d_out, &x[start * width..], width, 2 * out + head * d, 1.0, &mut d_probs);
            let row_lse = lse[row * self.shape.query_heads + head];
            let mut mean = 0f32;
            for (p, d) in probs.iter_mut().zip(&d_probs) {
                *p = exp(*p - row_lse);
                mean += *p * d;
            }
            // SAFETY: this task owns the segment's rows, and in them this head's query, key and value.
            let d_query = unsafe { dx.range(row * width + head * d, d) };
            for (i, (p, d_p)) in probs.iter().zip(&d_probs).enumerate() {
                let source = (start + i) * width + head * d;
                let d_score = p * (d_p - mean) * scale;
                axpy(d_score, &x[source + out..][..d], d_query);
                // SAFETY: as above; keys and values lie behind all queries of their row.
                unsafe {
                    axpy(d_score, query, dx.range(source + out, d));
                    axpy(*p, d_out, dx.range(source + 2 * out, d));
                }
            }
        }
    }
}

impl CustomOp1 for FullAttention {
    fn name(&self) -> &'static str {
        "full-attention"
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, width) = rows_of(xl, "qkv")?;
        let (shape, out) = (self.shape, self.shape.query_width());
        let last = self.cu_seqlens.last().copied().unwrap_or(0) as usize;
        if width != 3 * out || rows != last || self.cu_seqlens.windows(2).any(|w| w[0] > w[1]) {
            bail!(
                "qkv is [{rows}, {width}], but the heads make rows of {} and cu_seqlens ends at {last}",
                3 * out
            );
        }
        let (x, segments) = (slice(x, xl, "qkv")?, self.segments());
        let mut y = vec![0f32; rows * out];
        let mut lse = vec![0f32; rows * shape.query_heads];
        y.par_chunks_mut(out).zip(lse.par_chunks_mut(shape.query_heads)).enumerate().for_each_init(
            Vec::new,
            |scratch, (row, (y, lse))| {
                let (start, end) = segments[row];
                let run = Run {
                    keys: &x[start * width + out..],
                    values: &x[start * width + 2 * out..],
                    stride: width,
                    len: end - start,
                };
                attend_row(shape, &x[row * width..][..out], &[run], y, Some(lse), scratch);
            },
        );
        // A second forward of the same operation would see the same input, so the first value stands.
        let _ = self.log_sum_exp.set(lse);
        Ok((CpuStorage::F32(y), (rows, out).into()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dy = dy.contiguous()?;
        let (xr, dyr) = (read(x), read(&dy));
        let (xs, dys) = (xr.slice("qkv")?, dyr.slice("dy")?);
        let Some(lse) = self.log_sum_exp.get() else { bail!("attention: backward before forward") };
        let mut dx = vec![0f32; xs.len()];
        let out = SharedMut::new(&mut dx);
        let heads = self.shape.query_heads;
        (0..(self.cu_seqlens.len() - 1) * heads).into_par_iter().for_each(|task| {
            let segment = task / heads;
            let rows = (self.cu_seqlens[segment] as usize, self.cu_seqlens[segment + 1] as usize);
            self.backward_head(xs, dys, lse, task % heads, rows, out);
        });
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}
