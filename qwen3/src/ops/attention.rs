use std::ops::Range;
use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::{read, rows_of, slice, span};
use crate::kernel::attention::{HeadShape, Run, attend_row, scores_backward};
use crate::kernel::matmul::{Tile, View};
use crate::kernel::softmax::dot;
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

    fn check(&self, rows: usize, width: usize) -> Result<()> {
        let last = self.segments.rows();
        if width != self.width() || rows != last || !self.segments.in_order() {
            bail!(
                "qkv is [{rows}, {width}], but the heads make rows of {} and the segments end at {last} (or are not in order)",
                self.width()
            );
        }
        Ok(())
    }

    /// The output, and a log-sum-exp a row and query head.
    pub(crate) fn forward(&self, x: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let _span = span!("attention", flops = 4 * self.segments.pairs() * self.shape.query_width());
        let (shape, segments, width) = (self.shape, self.segments.of_rows(), self.width());
        let (rows, out_width) = (x.len() / width, shape.query_width());
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
        (y, lse)
    }

    /// The gradient of `x`, from what [`CausalAttention::forward`] took and gave and the gradient of its output.
    pub(crate) fn backward(&self, inputs: &Attended<'_>) -> Vec<f32> {
        let _span = span!("attention", flops = 10 * self.segments.pairs() * self.shape.query_width());
        let mut dx = vec![0f32; inputs.x.len()];
        let out = SharedMut::new(&mut dx);
        let tasks = self.segments.tasks();
        let kv_heads = self.shape.kv_heads;
        (0..tasks.len() * kv_heads).into_par_iter().for_each(|task| {
            for segment in tasks[task / kv_heads] {
                self.backward_segment(inputs, task % kv_heads, segment, out);
            }
        });
        dx
    }

    /// The gradient of a segment's rows, and its part of those of the rows that they see, for one key/value head: in
    /// tiles of [`TILE_ROWS`] rows by [`TILE_KEYS`] keys, so that its memory does not depend on the length.
    fn backward_segment(
        &self,
        inputs: &Attended<'_>,
        kv_head: usize,
        Segment { prefix, rows }: &Segment,
        dx: SharedMut<f32>,
    ) {
        let Attended { x, y, dy, lse } = inputs;
        let (shape, d, width, out_width) =
            (self.shape, self.shape.head_dim, self.width(), self.shape.query_width());
        let (keys_at, values_at) = (out_width + kv_head * d, out_width + shape.kv_width() + kv_head * d);
        let most = TILE_ROWS.min(rows.len()) * TILE_KEYS.min(rows.len().max(prefix.len()));
        let (mut probs, mut d_scores) = (vec![0f32; most], vec![0f32; most]);
        for head in kv_head * shape.group()..(kv_head + 1) * shape.group() {
            for first in rows.clone().step_by(TILE_ROWS) {
                let tile = first..(first + TILE_ROWS).min(rows.end);
                let queries = View::rows(&x[first * width + head * d..], width);
                let d_out = View::rows(&dy[first * out_width + head * d..], out_width);
                let at = |row: usize| row * out_width + head * d;
                let means: Vec<f32> =
                    tile.clone().map(|r| dot(&y[at(r)..][..d], &dy[at(r)..][..d])).collect();
                for keys in tiles(prefix.clone()).chain(tiles(rows.start..tile.end)) {
                    let (count, n) = (tile.len(), keys.len());
                    let k = View::rows(&x[keys.start * width + keys_at..], width);
                    let v = View::rows(&x[keys.start * width + values_at..], width);
                    let square = |c: &mut [f32]| Tile::new([count, n, d], c.as_mut_ptr(), n, false);
                    let sum = |sizes, at| Tile::new(sizes, dx.at(at), width, true);
                    // SAFETY: the buffers hold a tile; the views lie in `x` and `dy`, whose rows and heads cover the
                    // segment and what it sees. This task owns the rows of the segment and of its prefix, and in
                    // them the query heads of the group and this key/value head.
                    unsafe {
                        square(&mut probs).gemm(queries, k.transpose());
                        square(&mut d_scores).gemm(d_out, v.transpose());
                        for (i, row) in tile.clone().enumerate() {
                            let seen = (row + 1).saturating_sub(keys.start).min(n);
                            scores_backward(
                                &mut probs[i * n..][..n],
                                &mut d_scores[i * n..][..n],
                                seen,
                                shape.scale(),
                                lse[row * shape.query_heads + head],
                                means[i],
                            );
                        }
                        let (probs, d_scores) = (View::rows(&probs, n), View::rows(&d_scores, n));
                        sum([count, d, n], first * width + head * d).gemm(d_scores, k);
                        sum([n, d, count], keys.start * width + keys_at).gemm(d_scores.transpose(), queries);
                        sum([n, d, count], keys.start * width + values_at).gemm(probs.transpose(), d_out);
                    }
                }
            }
        }
    }
}

/// Rows and keys of a tile of scores in the backward.
const TILE_ROWS: usize = 64;
const TILE_KEYS: usize = 256;

fn tiles(keys: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = keys.end;
    keys.step_by(TILE_KEYS).map(move |start| start..(start + TILE_KEYS).min(end))
}

/// What the backward reads: the prepared projections, the output, its gradient, and a log-sum-exp a row and head.
pub(crate) struct Attended<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) y: &'a [f32],
    pub(crate) dy: &'a [f32],
    pub(crate) lse: &'a [f32],
}

impl CustomOp1 for CausalAttention {
    fn name(&self) -> &'static str {
        "causal-attention"
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, width) = rows_of(xl, "qkv")?;
        self.check(rows, width)?;
        let (y, lse) = self.forward(slice(x, xl, "qkv")?);
        // A second forward of the same operation would see the same input, so the first value stands.
        let _ = self.log_sum_exp.set(lse);
        Ok((CpuStorage::F32(y), (rows, self.shape.query_width()).into()))
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dy = dy.contiguous()?;
        let (xr, yr, dyr) = (read(x), read(y), read(&dy));
        let Some(lse) = self.log_sum_exp.get() else { bail!("attention: backward before forward") };
        let inputs = Attended { x: xr.slice("qkv")?, y: yr.slice("y")?, dy: dyr.slice("dy")?, lse };
        let dx = self.backward(&inputs);
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}
