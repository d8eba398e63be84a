use std::ops::Range;
use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::{read, rows_of, slice, span};
use crate::kernel::attention::{
    HeadShape, PANEL, Panel, Rows, attend, mix_columns, mix_panel, pack_panels, row_dots, score_panel,
    scores_backward,
};
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

    /// Blocks of [`ROW_CHUNK`] rows of a segment or less, neighbours together until they have as many.
    fn blocks(&self) -> Vec<Vec<(&Segment, Range<usize>)>> {
        let mut tasks = vec![Vec::new()];
        let mut held = 0;
        for segment in self.0.iter() {
            for block in chunks(segment.rows.clone(), ROW_CHUNK) {
                if held + block.len() > ROW_CHUNK {
                    tasks.push(Vec::new());
                    held = 0;
                }
                held += block.len();
                tasks.last_mut().expect("never empty").push((segment, block));
            }
        }
        tasks
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

/// Grouped-query attention over packed sequences: prepared `[rows, (q + 2 kv) · d]` (queries, keys, values; see
/// [`super::QkNormRope`]) to `[rows, q · d]`.
///
/// Keeps one log-sum-exp a row and query head; probabilities are computed again in the backward.
#[derive(Debug)]
pub struct Attention {
    shape: HeadShape,
    segments: Segments,
    causal: bool,
    log_sum_exp: OnceLock<Vec<f32>>,
}

impl Attention {
    /// A row sees the rows of its segment's prefix, those before it in its own segment, and itself.
    pub fn causal(shape: HeadShape, segments: Segments) -> Self {
        Self { shape, segments, causal: true, log_sum_exp: OnceLock::new() }
    }

    /// A row sees all rows of its segment, as in a vision tower.
    pub fn full(shape: HeadShape, segments: Segments) -> Self {
        Self { causal: false, ..Self::causal(shape, segments) }
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

    /// Pairs of a row and one that it sees.
    fn pairs(&self) -> usize {
        let of = |Segment { prefix, rows }: &Segment| {
            let (all, n) = (rows.len() * prefix.len(), rows.len());
            all + if self.causal { n * (n + 1) / 2 } else { n * n }
        };
        self.segments.0.iter().map(of).sum()
    }

    /// Of a segment's own rows, those that its rows `block` see.
    fn seen_by(&self, rows: &Range<usize>, block: &Range<usize>) -> Range<usize> {
        rows.start..if self.causal { block.end } else { rows.end }
    }

    /// How many of `keys` each row of `block` sees, if they are in its own segment.
    fn sight(&self, block: &Range<usize>, keys: &Range<usize>) -> Vec<usize> {
        let of = |row: usize| if self.causal { (row + 1).saturating_sub(keys.start) } else { keys.len() };
        block.clone().map(|row| of(row).min(keys.len())).collect()
    }

    /// The output, and a log-sum-exp a row and query head.
    pub(crate) fn forward(&self, x: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let _span = span!("attention", flops = 4 * self.pairs() * self.shape.query_width());
        let (shape, width) = (self.shape, self.width());
        let (d, heads, out_width) = (shape.head_dim, shape.query_heads, shape.query_width());
        let rows = x.len() / width;
        let (mut y, mut lse) = (vec![0f32; rows * out_width], vec![0f32; rows * heads]);
        let (to_y, to_lse) = (SharedMut::new(&mut y), SharedMut::new(&mut lse));
        let tasks = self.segments.blocks();
        (0..tasks.len() * shape.kv_heads).into_par_iter().for_each_init(Buffers::default, |buffers, task| {
            let kv_head = task % shape.kv_heads;
            let (keys_at, values_at) = (out_width + kv_head * d, out_width + shape.kv_width() + kv_head * d);
            let mut packed = 0..0;
            for (Segment { prefix, rows }, block) in &tasks[task / shape.kv_heads] {
                let Buffers { prefix: shared, own, out, lse, scores } = buffers;
                if packed != *prefix {
                    pack(x, width, keys_at, prefix, d, shared);
                    packed = prefix.clone();
                }
                let seen_rows = self.seen_by(rows, block);
                pack(x, width, keys_at, &seen_rows, d, own);
                let values =
                    |keys: &Range<usize>| Rows { data: &x[keys.start * width + values_at..], stride: width };
                let mut panels = Vec::new();
                for (packed, keys) in [(&*shared, prefix), (&*own, &seen_rows)] {
                    let each = chunks(keys.clone(), PANEL).zip(packed.chunks_exact(d * PANEL));
                    panels.extend(each.map(|(keys, packed)| Panel {
                        keys: packed,
                        values: values(&keys),
                        len: keys.len(),
                    }));
                }
                let seen: Vec<usize> =
                    self.sight(block, &seen_rows).into_iter().map(|n| prefix.len() + n).collect();
                out.resize(block.len() * d, 0.0);
                lse.resize(block.len(), 0.0);
                for head in kv_head * shape.group()..(kv_head + 1) * shape.group() {
                    let queries = Rows { data: &x[block.start * width + head * d..], stride: width };
                    attend(queries, panels.iter().copied(), &seen, shape.scale(), out, lse, scores);
                    for ((row, out), lse) in block.clone().zip(out.chunks_exact(d)).zip(&*lse) {
                        // SAFETY: this task owns the rows of its blocks, and in them the query heads of the group.
                        unsafe {
                            to_y.range(row * out_width + head * d, d).copy_from_slice(out);
                            *to_lse.at(row * heads + head) = *lse;
                        }
                    }
                }
            }
        });
        (y, lse)
    }

    /// The gradient of `x`, from what [`Attention::forward`] took and gave and the gradient of its output.
    pub(crate) fn backward(&self, inputs: &Attended<'_>) -> Vec<f32> {
        let _span = span!("attention", flops = 10 * self.pairs() * self.shape.query_width());
        let mut dx = vec![0f32; inputs.x.len()];
        let out = SharedMut::new(&mut dx);
        let tasks = self.segments.tasks();
        let kv_heads = self.shape.kv_heads;
        (0..tasks.len() * kv_heads).into_par_iter().for_each_init(Gradients::default, |buffers, task| {
            for segment in tasks[task / kv_heads] {
                self.backward_segment(inputs, task % kv_heads, segment, buffers, out);
            }
        });
        dx
    }

    /// The gradient of a segment's rows, and its part of those of the rows that they see, for one key/value head: in
    /// tiles of [`ROW_CHUNK`] rows by [`TILE_KEYS`] keys, so that its memory does not depend on the length.
    fn backward_segment(
        &self,
        Attended { x, y, dy, lse }: &Attended<'_>,
        kv_head: usize,
        Segment { prefix, rows }: &Segment,
        buffers: &mut Gradients,
        dx: SharedMut<f32>,
    ) {
        let (shape, d, width, out_width) =
            (self.shape, self.shape.head_dim, self.width(), self.shape.query_width());
        let (keys_at, values_at) = (out_width + kv_head * d, out_width + shape.kv_width() + kv_head * d);
        let Gradients {
            keys: key_panels,
            values: value_panels,
            probs,
            d_scores,
            d_queries,
            d_keys,
            d_values,
        } = buffers;
        // SAFETY, of all uses: this task owns the rows of the segment and of its prefix, and in them the query heads of the
        // group and this key/value head.
        let add = |row: usize, at: usize, found: &[f32]| {
            for (sum, found) in unsafe { dx.range(row * width + at, d) }.iter_mut().zip(found) {
                *sum += found;
            }
        };
        let heads = kv_head * shape.group()..(kv_head + 1) * shape.group();
        for tile in chunks(rows.clone(), ROW_CHUNK) {
            let mut means = vec![0f32; shape.group() * tile.len()];
            for (head, means) in heads.clone().zip(means.chunks_exact_mut(tile.len())) {
                let [y, dy] = [y, dy]
                    .map(|x| Rows { data: &x[tile.start * out_width + head * d..], stride: out_width });
                row_dots(y, dy, d, means);
            }
            let own = chunks(self.seen_by(rows, &tile), TILE_KEYS).map(|keys| (keys, true));
            for (keys, own) in chunks(prefix.clone(), TILE_KEYS).map(|keys| (keys, false)).chain(own) {
                let (count, n) = (tile.len(), keys.len());
                let (seen, ahead) = match own && self.causal {
                    true => (self.sight(&tile, &keys), tile.start - keys.start),
                    false => (vec![n; count], usize::MAX),
                };
                pack(x, width, keys_at, &keys, d, key_panels);
                pack(x, width, values_at, &keys, d, value_panels);
                for (sums, len) in [(&mut *d_keys, n * d), (d_values, n * d)] {
                    sums.clear();
                    sums.resize(len, 0.0);
                }
                probs.resize(count * n, 0.0);
                d_scores.resize(count * n, 0.0);
                for (index, head) in heads.clone().enumerate() {
                    let queries = Rows { data: &x[tile.start * width + head * d..], stride: width };
                    let d_out = Rows { data: &dy[tile.start * out_width + head * d..], stride: out_width };
                    let panels = key_panels.chunks_exact(d * PANEL).zip(value_panels.chunks_exact(d * PANEL));
                    for (i, (k, v)) in panels.enumerate() {
                        let (start, len) = (i * PANEL, PANEL.min(n - i * PANEL));
                        score_panel(queries, k, len, start, &seen, shape.scale(), probs, n);
                        score_panel(d_out, v, len, start, &seen, 1.0, d_scores, n);
                    }
                    let each = probs.chunks_exact_mut(n).zip(d_scores.chunks_exact_mut(n)).zip(&seen);
                    for (((probs, d_scores), seen), (row, mean)) in
                        each.zip(tile.clone().zip(&means[index * count..]))
                    {
                        let lse = lse[row * shape.query_heads + head];
                        scores_backward(probs, d_scores, *seen, shape.scale(), lse, *mean);
                    }
                    d_queries.clear();
                    d_queries.resize(count * d, 0.0);
                    let k = Rows { data: &x[keys.start * width + keys_at..], stride: width };
                    mix_panel(d_scores, n, k, n, 0, &seen, d_queries, d);
                    mix_columns(d_scores, n, ahead, queries, d_keys, d);
                    mix_columns(probs, n, ahead, d_out, d_values, d);
                    for (row, found) in tile.clone().zip(d_queries.chunks_exact(d)) {
                        add(row, head * d, found);
                    }
                }
                for ((row, d_key), d_value) in keys.zip(d_keys.chunks_exact(d)).zip(d_values.chunks_exact(d))
                {
                    add(row, keys_at, d_key);
                    add(row, values_at, d_value);
                }
            }
        }
    }
}

/// Keys of a tile of scores in the backward.
const TILE_KEYS: usize = 4 * ROW_CHUNK;

/// What a task of the forward fills for each block of rows.
#[derive(Default)]
struct Buffers {
    prefix: Vec<f32>,
    own: Vec<f32>,
    out: Vec<f32>,
    lse: Vec<f32>,
    scores: Vec<f32>,
}

/// What a task of the backward fills for each tile.
#[derive(Default)]
struct Gradients {
    keys: Vec<f32>,
    values: Vec<f32>,
    probs: Vec<f32>,
    d_scores: Vec<f32>,
    d_queries: Vec<f32>,
    d_keys: Vec<f32>,
    d_values: Vec<f32>,
}

/// The `d` lanes from `at` on of `rows` of `x`, as panels.
fn pack(x: &[f32], width: usize, at: usize, rows: &Range<usize>, d: usize, panels: &mut Vec<f32>) {
    panels.resize(rows.len().div_ceil(PANEL) * PANEL * d, 0.0);
    if !rows.is_empty() {
        let rows_of_x = Rows { data: &x[rows.start * width + at..], stride: width };
        pack_panels(rows_of_x, rows.len(), d, panels);
    }
}

fn chunks(rows: Range<usize>, len: usize) -> impl Iterator<Item = Range<usize>> {
    let end = rows.end;
    rows.step_by(len).map(move |start| start..(start + len).min(end))
}

/// What the backward reads: the prepared projections, the output, its gradient, and a log-sum-exp a row and head.
pub(crate) struct Attended<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) y: &'a [f32],
    pub(crate) dy: &'a [f32],
    pub(crate) lse: &'a [f32],
}

impl CustomOp1 for Attention {
    fn name(&self) -> &'static str {
        if self.causal { "causal-attention" } else { "full-attention" }
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
