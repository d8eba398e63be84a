use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::{read, rows_of, slice};
use crate::kernel::activation::exp;
use crate::kernel::attention::{HeadShape, Run, attend_row, axpy, score_keys};
use crate::kernel::{ROW_CHUNK, SharedMut};

/// Causal grouped-query attention over packed sequences: prepared `[rows, (q + 2 kv) · d]` (see
/// [`super::QkNormRope`]) to `[rows, q · d]`. Row `i` sees row `j` when both lie in the same segment of
/// `cu_seqlens` and `j <= i`.
///
/// Keeps one log-sum-exp a row and query head; probabilities are computed again in the backward.
#[derive(Debug)]
pub struct CausalAttention {
    shape: HeadShape,
    cu_seqlens: Arc<[u32]>,
    log_sum_exp: OnceLock<Vec<f32>>,
}

impl CausalAttention {
    /// `cu_seqlens` starts at 0, rises, and ends at the number of rows.
    pub fn new(shape: HeadShape, cu_seqlens: Arc<[u32]>) -> Self {
        Self { shape, cu_seqlens, log_sum_exp: OnceLock::new() }
    }

    fn width(&self) -> usize {
        self.shape.query_width() + 2 * self.shape.kv_width()
    }

    /// Every row's first visible row.
    fn starts(&self) -> Vec<u32> {
        self.cu_seqlens.windows(2).flat_map(|w| std::iter::repeat_n(w[0], (w[1] - w[0]) as usize)).collect()
    }

    /// Runs of whole segments, each of about [`ROW_CHUNK`] rows or one longer segment.
    fn segment_tasks(&self) -> Vec<std::ops::Range<usize>> {
        let mut tasks = Vec::new();
        let mut first = 0;
        for i in 1..self.cu_seqlens.len() {
            let rows = self.cu_seqlens[i] - self.cu_seqlens[first];
            if rows as usize >= ROW_CHUNK || i + 1 == self.cu_seqlens.len() {
                tasks.push(first..i);
                first = i;
            }
        }
        tasks
    }

    fn backward_segment(
        &self,
        x: &[f32],
        dy: &[f32],
        lse: &[f32],
        kv_head: usize,
        rows: (usize, usize),
        dx: SharedMut<f32>,
    ) {
        let (shape, d, width) = (self.shape, self.shape.head_dim, self.width());
        let (keys_at, values_at) =
            (shape.query_width() + kv_head * d, shape.query_width() + shape.kv_width() + kv_head * d);
        let (start, end) = rows;
        let (mut probs, mut d_scores) = (Vec::new(), Vec::new());
        for row in start..end {
            let seen = row + 1 - start;
            for head in kv_head * shape.group()..(kv_head + 1) * shape.group() {
                let query = &x[row * width + head * d..][..d];
                let d_out = &dy[row * shape.query_width() + head * d..][..d];
                probs.resize(seen, 0.0);
                d_scores.resize(seen, 0.0);
                score_keys(query, &x[start * width..], width, keys_at, shape.scale(), &mut probs);
                score_keys(d_out, &x[start * width..], width, values_at, 1.0, &mut d_scores);
                let row_lse = lse[row * shape.query_heads + head];
                let mut mean = 0f32;
                for (p, d) in probs.iter_mut().zip(&d_scores) {
                    *p = exp(*p - row_lse);
                    mean += *p * d;
                }
                // SAFETY: this task owns the segment's rows, and in them the query heads of the group and
                // this key/value head.
                let d_query = unsafe { dx.range(row * width + head * d, d) };
                for (i, (p, d_p)) in probs.iter().zip(&d_scores).enumerate() {
                    let source = (start + i) * width;
                    let d_score = p * (d_p - mean) * shape.scale();
                    axpy(d_score, &x[source + keys_at..][..d], d_query);
                    // SAFETY: as above.
                    unsafe {
                        axpy(d_score, query, dx.range(source + keys_at, d));
                        axpy(*p, d_out, dx.range(source + values_at, d));
                    }
                }
            }
        }
    }
}

impl CustomOp1 for CausalAttention {
    fn name(&self) -> &'static str {
        "causal-attention"
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, width) = rows_of(xl, "qkv")?;
        let last = self.cu_seqlens.last().copied().unwrap_or(0) as usize;
        if width != self.width() || rows != last || self.cu_seqlens.windows(2).any(|w| w[0] > w[1]) {
            bail!(
                "qkv is [{rows}, {width}], but the heads make rows of {} and cu_seqlens ends at {last}",
                self.width()
            );
        }
        let x = slice(x, xl, "qkv")?;
        let (shape, starts) = (self.shape, self.starts());
        let out_width = shape.query_width();
        let mut y = vec![0f32; rows * out_width];
        let mut lse = vec![0f32; rows * shape.query_heads];
        y.par_chunks_mut(out_width * ROW_CHUNK)
            .zip(lse.par_chunks_mut(shape.query_heads * ROW_CHUNK))
            .enumerate()
            .for_each(|(chunk, (y, lse))| {
                let mut scratch = Vec::new();
                let each = y.chunks_exact_mut(out_width).zip(lse.chunks_exact_mut(shape.query_heads));
                for (i, (y, lse)) in each.enumerate() {
                    let row = chunk * ROW_CHUNK + i;
                    let start = starts[row] as usize;
                    let run = Run {
                        keys: &x[start * width + out_width..],
                        values: &x[start * width + out_width + shape.kv_width()..],
                        stride: width,
                        len: row + 1 - start,
                    };
                    attend_row(shape, &x[row * width..][..out_width], &[run], y, Some(lse), &mut scratch);
                }
            });
        // A second forward of the same operation would see the same input, so the first value stands.
        let _ = self.log_sum_exp.set(lse);
        Ok((CpuStorage::F32(y), (rows, out_width).into()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dy = dy.contiguous()?;
        let (xr, dyr) = (read(x), read(&dy));
        let (xs, dys) = (xr.slice("qkv")?, dyr.slice("dy")?);
        let Some(lse) = self.log_sum_exp.get() else { bail!("attention: backward before forward") };
        let mut dx = vec![0f32; xs.len()];
        let out = SharedMut::new(&mut dx);
        let tasks = self.segment_tasks();
        let kv_heads = self.shape.kv_heads;
        (0..tasks.len() * kv_heads).into_par_iter().for_each(|task| {
            for segment in tasks[task / kv_heads].clone() {
                let rows = (self.cu_seqlens[segment] as usize, self.cu_seqlens[segment + 1] as usize);
                self.backward_segment(xs, dys, lse, task % kv_heads, rows, out);
            }
        });
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}
