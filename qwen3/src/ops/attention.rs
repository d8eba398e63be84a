use std::ops::Range;
use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::{read, rows_of, slice, span};
use crate::kernel::activation::exp;
use crate::kernel::attention::{HeadShape, Run, attend_row, axpy, score_keys};
use crate::kernel::{ROW_CHUNK, SharedMut};

/// How packed rows form sequences: segments, each of which may continue an earlier one, its prefix.
#[derive(Clone, Debug)]
pub struct Segments(Arc<[Segment]>);

#[derive(Clone, Debug)]
struct Segment {
    /// Rows that its own rows see before themselves; empty without a prefix.
    prefix: Range<usize>,
    rows: Range<usize>,
}

impl Segments {
    /// `cu_seqlens` `[segments + 1]` starts at 0, rises, and ends at the number of rows. `prefixes` `[segments]`
    /// (or empty: none) names the segment that each one continues; a prefix continues none and stands right before
    /// the segments that continue it.
    pub fn new(cu_seqlens: &[u32], prefixes: &[Option<u32>]) -> Self {
        let rows = |i: usize| cu_seqlens[i] as usize..cu_seqlens[i + 1] as usize;
        let known = |p: usize| if p + 1 < cu_seqlens.len() { rows(p) } else { usize::MAX - 1..usize::MAX };
        let prefix = |i: usize| prefixes.get(i).copied().flatten().map_or(0..0, |p| known(p as usize));
        let segments =
            (0..cu_seqlens.len().saturating_sub(1)).map(|i| Segment { prefix: prefix(i), rows: rows(i) });
        Self(segments.collect())
    }

    fn rows(&self) -> usize {
        self.0.last().map_or(0, |segment| segment.rows.end)
    }

    /// Whether they are as [`Segments::new`] wants them. The backward relies on it: segments that share rows are
    /// neighbours.
    fn in_order(&self) -> bool {
        let (mut end, mut root) = (0, 0..0);
        self.0.iter().all(|Segment { prefix, rows }| {
            let follows = rows.start == end && rows.end >= end;
            end = rows.end;
            if prefix.is_empty() {
                root = rows.clone();
            }
            follows && (prefix.is_empty() || *prefix == root)
        })
    }

    /// Pairs of a row and one that it sees.
    fn pairs(&self) -> usize {
        let of = |s: &Segment| s.rows.len() * s.prefix.len() + s.rows.len() * (s.rows.len() + 1) / 2;
        self.0.iter().map(of).sum()
    }

    /// The segment of each row.
    fn of_rows(&self) -> Vec<&Segment> {
        self.0.iter().flat_map(|segment| std::iter::repeat_n(segment, segment.rows.len())).collect()
    }

    /// Runs of segments that share no row with those of another run, each of about [`ROW_CHUNK`] rows or longer.
    fn tasks(&self) -> Vec<&[Segment]> {
        let mut tasks = Vec::new();
        let mut first = 0;
        for end in 1..=self.0.len() {
            let rows = self.0[end - 1].rows.end - self.0[first].rows.start;
            let next = self.0.get(end);
            if next.is_none_or(|next| rows >= ROW_CHUNK && next.prefix.is_empty()) {
                tasks.push(&self.0[first..end]);
                first = end;
            }
        }
        tasks
    }
}

/// Causal grouped-query attention over packed sequences: prepared `[rows, (q + 2 kv) · d]` (see
/// [`super::QkNormRope`]) to `[rows, q · d]`. A row sees the rows of its segment's prefix, those before it in its own
/// segment, and itself.
///
/// Keeps one log-sum-exp a row and query head; probabilities are computed again in the backward.
#[derive(Debug)]
pub struct CausalAttention {
    shape: HeadShape,
    segments: Segments,
    log_sum_exp: OnceLock<Vec<f32>>,
}

impl CausalAttention {
    /// Attention of these heads within these sequences.
    pub fn new(shape: HeadShape, segments: Segments) -> Self {
        Self { shape, segments, log_sum_exp: OnceLock::new() }
    }

    fn width(&self) -> usize {
        self.shape.query_width() + 2 * self.shape.kv_width()
    }

    fn backward_segment(
        &self,
        x: &[f32],
        dy: &[f32],
        lse: &[f32],
        kv_head: usize,
        Segment { prefix, rows }: &Segment,
        dx: SharedMut<f32>,
    ) {
        let (shape, d, width) = (self.shape, self.shape.head_dim, self.width());
        let (keys_at, values_at) =
            (shape.query_width() + kv_head * d, shape.query_width() + shape.kv_width() + kv_head * d);
        let (mut probs, mut d_scores) = (Vec::new(), Vec::new());
        for row in rows.clone() {
            let own = rows.start..row + 1;
            let (before, seen) = (prefix.len(), prefix.len() + own.len());
            for head in kv_head * shape.group()..(kv_head + 1) * shape.group() {
                let query = &x[row * width + head * d..][..d];
                let d_out = &dy[row * shape.query_width() + head * d..][..d];
                probs.resize(seen, 0.0);
                d_scores.resize(seen, 0.0);
                for (run, first) in [(prefix.clone(), 0), (own.clone(), before)] {
                    let (x, out) = (&x[run.start * width..], first..first + run.len());
                    score_keys(query, x, width, keys_at, shape.scale(), &mut probs[out.clone()]);
                    score_keys(d_out, x, width, values_at, 1.0, &mut d_scores[out]);
                }
                let row_lse = lse[row * shape.query_heads + head];
                let mut mean = 0f32;
                for (p, d) in probs.iter_mut().zip(&d_scores) {
                    *p = exp(*p - row_lse);
                    mean += *p * d;
                }
                // SAFETY: this task owns the rows of the segment and of its prefix, and in them the query heads of
                // the group and this key/value head.
                let d_query = unsafe { dx.range(row * width + head * d, d) };
                for (key, (p, d_p)) in prefix.clone().chain(own.clone()).zip(probs.iter().zip(&d_scores)) {
                    let source = key * width;
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
        let last = self.segments.rows();
        if width != self.width() || rows != last || !self.segments.in_order() {
            bail!(
                "qkv is [{rows}, {width}], but the heads make rows of {} and the segments end at {last} (or are not in order)",
                self.width()
            );
        }
        let x = slice(x, xl, "qkv")?;
        let _span = span!("attention", flops = 4 * self.segments.pairs() * self.shape.query_width());
        let (shape, segments) = (self.shape, self.segments.of_rows());
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
                    let run = |rows: Range<usize>| Run {
                        keys: &x[rows.start * width + out_width..],
                        values: &x[rows.start * width + out_width + shape.kv_width()..],
                        stride: width,
                        len: rows.len(),
                    };
                    let Segment { prefix, rows } = segments[row];
                    let runs = [run(prefix.clone()), run(rows.start..row + 1)];
                    attend_row(shape, &x[row * width..][..out_width], &runs, y, Some(lse), &mut scratch);
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
        let _span = span!("attention", flops = 10 * self.segments.pairs() * self.shape.query_width());
        let mut dx = vec![0f32; xs.len()];
        let out = SharedMut::new(&mut dx);
        let tasks = self.segments.tasks();
        let kv_heads = self.shape.kv_heads;
        (0..tasks.len() * kv_heads).into_par_iter().for_each(|task| {
            for segment in tasks[task / kv_heads] {
                self.backward_segment(xs, dys, lse, task % kv_heads, segment, out);
            }
        });
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}
