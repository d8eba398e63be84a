//! Grouped-query attention, a few query rows of one head at a time.
//!
//! Cost of a row that sees `n` keys: `4 n d` FLOP per query head. Keys come in panels, lane by lane, so that the scores of a
//! whole panel are made at once without sums across lanes; values come as rows. What limits it is the FMA units; for one
//! row, the bandwidth of reading keys and values.
//!
//! A score is one chain of fused multiply-adds over the lanes of a head, an output one over the keys in order. So the bits of
//! a row depend neither on the rows beside it nor on how keys are cut into panels, and a decoder's rows are those of
//! training.

use std::ops::Range;

use super::activation::exp;
use super::lanes::{LANES, Simd, with_simd};
use super::multiversion;
use super::softmax::{dot, softmax_row};

/// Keys of a panel.
pub const PANEL: usize = 32;
/// Rows that share a pass over a panel.
const ROWS: usize = 4;

/// Up to [`PANEL`] consecutive keys and values, as one key/value head has them.
#[derive(Clone, Copy)]
pub struct Panel<'a> {
    /// `[d, PANEL]`: lane `l` of key `j` at `l · PANEL + j`. Keys behind `len` may be anything.
    pub keys: &'a [f32],
    /// One row a key, `d` lanes.
    pub values: Rows<'a>,
    /// Keys.
    pub len: usize,
}

/// The sizes of an attention layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadShape {
    /// Query heads.
    pub query_heads: usize,
    /// Key/value heads; query head `h` reads key/value head `h / (query_heads / kv_heads)`.
    pub kv_heads: usize,
    /// Lanes of a head.
    pub head_dim: usize,
}

impl HeadShape {
    /// `1 / sqrt(d)`.
    pub fn scale(self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    /// Floats of one row of keys (or of values).
    pub fn kv_width(self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Floats of one row of queries.
    pub fn query_width(self) -> usize {
        self.query_heads * self.head_dim
    }

    /// Query heads per key/value head.
    pub fn group(self) -> usize {
        self.query_heads / self.kv_heads
    }
}

/// A matrix of `rows` rows, `stride` floats apart.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// From the first number on.
    pub data: &'a [f32],
    /// Floats from one row to the next.
    pub stride: usize,
}

impl<'a> Rows<'a> {
    #[inline(always)]
    fn row(self, row: usize, len: usize) -> &'a [f32] {
        &self.data[row * self.stride..][..len]
    }
}

with_simd! {
    /// `scores[i, start + j] = q_i · k_j · scale` for the keys `j` of a panel, of which row `i` sees the first `seen[i]` of all:
    /// rows that see none of the panel are left out. `scores` is `[seen.len(), n]`, `keys` as [`Panel::keys`].
    pub fn score_panel[simd](
        queries: Rows<'_>, keys: &[f32], len: usize, start: usize, seen: &[usize], scale: f32, scores: &mut [f32], n: usize,
    ) {
        let keys = keys.as_chunks::<PANEL>().0;
        for (block, (seen, scores)) in seen.chunks(ROWS).zip(scores.chunks_mut(ROWS * n)).enumerate() {
            if seen.iter().all(|seen| *seen <= start) {
                continue;
            }
            let queries = Rows { data: &queries.data[block * ROWS * queries.stride..], ..queries };
            let scores = &mut scores[start..];
            // Half of a panel is enough for few keys.
            match (seen.len(), len <= LANES) {
                (4, false) => score_rows::<S, 4, 2>(simd, queries, keys, len, scale, scores, n),
                (3, false) => score_rows::<S, 3, 2>(simd, queries, keys, len, scale, scores, n),
                (2, false) => score_rows::<S, 2, 2>(simd, queries, keys, len, scale, scores, n),
                (_, false) => score_rows::<S, 1, 2>(simd, queries, keys, len, scale, scores, n),
                (4, true) => score_rows::<S, 4, 1>(simd, queries, keys, len, scale, scores, n),
                (3, true) => score_rows::<S, 3, 1>(simd, queries, keys, len, scale, scores, n),
                (2, true) => score_rows::<S, 2, 1>(simd, queries, keys, len, scale, scores, n),
                (_, true) => score_rows::<S, 1, 1>(simd, queries, keys, len, scale, scores, n),
            }
        }
    }

    /// `out[i] += Σ_j weights[i, start + j] · values_j` over the `len` values from key `start` on, in order, of which row `i` sees
    /// the first `seen[i]`. `weights` is `[seen.len(), n]`, `out` `[seen.len(), d]`.
    pub fn mix_panel[simd](
        weights: &[f32], n: usize, values: Rows<'_>, len: usize, start: usize, seen: &[usize], out: &mut [f32], d: usize,
    ) {
        let each = seen.chunks(ROWS).zip(weights.chunks(ROWS * n)).zip(out.chunks_mut(ROWS * d));
        for ((seen, weights), out) in each {
            let mut all = 0;
            if let [a, b, c, e] = seen {
                all = (*a).min(*b).min(*c).min(*e).saturating_sub(start).min(len);
                let rows: [&[f32]; ROWS] = std::array::from_fn(|row| &weights[row * n + start..][..len]);
                mix(simd, rows, 1, values, 0..all, out, d);
            }
            for (row, seen) in seen.iter().enumerate() {
                let seen = seen.saturating_sub(start).min(len);
                if all < seen {
                    let weights = &weights[row * n + start..][..len];
                    mix(simd, [weights], 1, values, all..seen, &mut out[row * d..][..d], d);
                }
            }
        }
    }

    /// `out[j] += Σ_i weights[i, j] · rows_i` over the rows that see key `j`, those from `j − ahead` on, in order.
    /// `weights` is `[count, n]`, `out` `[n, d]`.
    pub fn mix_columns[simd](weights: &[f32], n: usize, ahead: usize, rows: Rows<'_>, out: &mut [f32], d: usize) {
        let count = weights.len() / n;
        for (block, out) in out.chunks_mut(ROWS * d).enumerate() {
            let key = block * ROWS;
            let seeing = key.saturating_sub(ahead).min(count)..count;
            if out.len() == ROWS * d {
                let columns: [&[f32]; ROWS] = std::array::from_fn(|i| &weights[key + i..]);
                mix(simd, columns, n, rows, seeing, out, d);
            } else {
                for (i, out) in out.chunks_mut(d).enumerate() {
                    mix(simd, [&weights[key + i..]], n, rows, seeing.clone(), out, d);
                }
            }
        }
    }
}

multiversion! {
    /// From scores `q·k · scale` of one row and `d_out·v` to probabilities and the gradient of the scores, in place: of the keys
    /// that the row sees, the first `seen`; 0 of the others. `mean` is `d_out · out`.
    pub fn scores_backward(
        scores: &mut [f32], d_scores: &mut [f32], seen: usize, scale: f32, log_sum_exp: f32, mean: f32,
    ) {
        for (p, d) in scores[..seen].iter_mut().zip(&mut d_scores[..seen]) {
            *p = exp(*p - log_sum_exp);
            *d = *p * (*d - mean) * scale;
        }
        scores[seen..].fill(0.0);
        d_scores[seen..].fill(0.0);
    }

    /// `a_i · b_i` of rows of `d` lanes.
    pub fn row_dots(a: Rows<'_>, b: Rows<'_>, d: usize, out: &mut [f32]) {
        for (row, out) in out.iter_mut().enumerate() {
            *out = dot(a.row(row, d), b.row(row, d));
        }
    }
}

/// Lays rows of `d` lanes out as panels, `[panels, d, PANEL]`; what is behind the last row stays.
pub fn pack_panels(rows: Rows<'_>, count: usize, d: usize, panels: &mut [f32]) {
    for (panel, out) in panels.chunks_exact_mut(d * PANEL).enumerate() {
        let first = panel * PANEL;
        let len = PANEL.min(count - first);
        let (out, _) = out.as_chunks_mut::<PANEL>();
        let whole = [len / 4 * 4, d / 4 * 4];
        for j in (0..whole[0]).step_by(4) {
            let rows: [&[f32]; 4] = std::array::from_fn(|i| rows.row(first + j + i, d));
            for lane in (0..whole[1]).step_by(4) {
                let square = transposed(rows.map(|row| &row[lane..][..4]));
                for (out, square) in out[lane..lane + 4].iter_mut().zip(square) {
                    out[j..j + 4].copy_from_slice(&square);
                }
            }
        }
        for j in 0..len {
            let from = if j < whole[0] { whole[1] } else { 0 };
            for (out, x) in out[from..].iter_mut().zip(&rows.row(first + j, d)[from..]) {
                out[j] = *x;
            }
        }
    }
}

#[inline(always)]
fn transposed(rows: [&[f32]; 4]) -> [[f32; 4]; 4] {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::*;
        let mut out = [[0f32; 4]; 4];
        assert!(rows.iter().all(|row| row.len() == 4));
        // SAFETY: SSE is part of the architecture; rows and outputs have four numbers.
        unsafe {
            let [mut a, mut b, mut c, mut d] = rows.map(|row| _mm_loadu_ps(row.as_ptr()));
            _MM_TRANSPOSE4_PS(&mut a, &mut b, &mut c, &mut d);
            for (out, row) in out.iter_mut().zip([a, b, c, d]) {
                _mm_storeu_ps(out.as_mut_ptr(), row);
            }
        }
        out
    }
    #[cfg(not(target_arch = "x86_64"))]
    std::array::from_fn(|lane| rows.map(|row| row[lane]))
}

/// `scores[i, j] = q_i · k_j · scale` of `R` rows, `n` numbers apart, and the first `len` keys of a panel, of which `V` vectors are
/// computed.
#[inline(always)]
fn score_rows<S: Simd, const R: usize, const V: usize>(
    simd: S,
    queries: Rows<'_>,
    keys: &[[f32; PANEL]],
    len: usize,
    scale: f32,
    scores: &mut [f32],
    n: usize,
) {
    let rows: [&[f32]; R] = std::array::from_fn(|row| queries.row(row, keys.len()));
    let mut sums = [[simd.splat(0.0); V]; R];
    for (lane, keys) in keys.iter().enumerate() {
        let keys = keys.as_chunks::<LANES>().0;
        let keys: [S::Vector; V] = std::array::from_fn(|v| simd.load(&keys[v]));
        for r in 0..R {
            let q = simd.splat(rows[r][lane]);
            for v in 0..V {
                sums[r][v] = simd.mul_add(q, keys[v], sums[r][v]);
            }
        }
    }
    for r in 0..R {
        let mut row = [0f32; PANEL];
        let to = row.as_chunks_mut::<LANES>().0;
        for v in 0..V {
            simd.store(sums[r][v], &mut to[v]);
        }
        for (score, sum) in scores[r * n..][..len].iter_mut().zip(&row) {
            *score = sum * scale;
        }
    }
}

/// `out[i] += Σ_j weights[i][j · step] · rows_j`, `j` in order; `out` is `[R, d]`.
#[inline(always)]
fn mix<S: Simd, const R: usize>(
    simd: S,
    weights: [&[f32]; R],
    step: usize,
    rows: Rows<'_>,
    range: Range<usize>,
    out: &mut [f32],
    d: usize,
) {
    let (mut lane, whole) = (0, d / LANES * LANES);
    while lane + 2 * LANES <= whole {
        mix_lanes::<S, R, 2>(simd, weights, step, rows, range.clone(), out, d, lane);
        lane += 2 * LANES;
    }
    if lane < whole {
        mix_lanes::<S, R, 1>(simd, weights, step, rows, range.clone(), out, d, lane);
    }
    if whole < d {
        for (weights, out) in weights.iter().zip(out.chunks_exact_mut(d)) {
            for j in range.clone() {
                let w = weights[j * step];
                for (sum, x) in out[whole..].iter_mut().zip(&rows.row(j, d)[whole..]) {
                    *sum = w.mul_add(*x, *sum);
                }
            }
        }
    }
}

/// [`mix`] of `V` vectors of lanes from `lane` on, whose sums stay in registers.
#[inline(always)]
fn mix_lanes<S: Simd, const R: usize, const V: usize>(
    simd: S,
    weights: [&[f32]; R],
    step: usize,
    rows: Rows<'_>,
    range: Range<usize>,
    out: &mut [f32],
    d: usize,
    lane: usize,
) {
    let mut sums: [[S::Vector; V]; R] = std::array::from_fn(|r| {
        let from = out[r * d + lane..][..V * LANES].as_chunks::<LANES>().0;
        std::array::from_fn(|v| simd.load(&from[v]))
    });
    for j in range {
        let row = rows.data[j * rows.stride + lane..][..V * LANES].as_chunks::<LANES>().0;
        let row: [S::Vector; V] = std::array::from_fn(|v| simd.load(&row[v]));
        for r in 0..R {
            let w = simd.splat(weights[r][j * step]);
            for v in 0..V {
                sums[r][v] = simd.mul_add(w, row[v], sums[r][v]);
            }
        }
    }
    for r in 0..R {
        let to = out[r * d + lane..][..V * LANES].as_chunks_mut::<LANES>().0;
        for v in 0..V {
            simd.store(sums[r][v], &mut to[v]);
        }
    }
}

/// Query rows of one head over the keys of `panels`, of which row `i` sees the first `seen[i]`, at least one; overwrites
/// `out` `[seen.len(), d]` and `log_sum_exp` `[seen.len()]`. `scores` grows to the rows times the keys.
pub fn attend<'a>(
    queries: Rows<'_>,
    panels: impl Iterator<Item = Panel<'a>> + Clone,
    seen: &[usize],
    scale: f32,
    out: &mut [f32],
    log_sum_exp: &mut [f32],
    scores: &mut Vec<f32>,
) {
    let (n, d) = (panels.clone().map(|p| p.len).sum(), out.len() / seen.len());
    if scores.len() < n * seen.len() {
        scores.resize(n * seen.len(), 0.0);
    }
    let scores = &mut scores[..n * seen.len()];
    let starts = panels.scan(0, |next, panel| {
        let start = *next;
        *next += panel.len;
        Some((start, panel))
    });
    for (start, panel) in starts.clone() {
        score_panel(queries, &panel.keys[..d * PANEL], panel.len, start, seen, scale, scores, n);
    }
    for ((scores, seen), lse) in scores.chunks_exact_mut(n).zip(seen).zip(log_sum_exp) {
        *lse = softmax_row(&mut scores[..*seen]);
    }
    out.fill(0.0);
    for (start, panel) in starts {
        mix_panel(scores, n, panel.values, panel.len, start, seen, out, d);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::lanes::Portable;
    use super::*;

    /// Scores of a panel and their mixture with rows, by the instructions of `simd`.
    #[inline(always)]
    fn both<S: Simd>(simd: S, rows: &[f32], panel: &[f32], d: usize, len: usize) -> [Vec<f32>; 2] {
        let (rows, keys) = (Rows { data: rows, stride: d }, panel.as_chunks::<PANEL>().0);
        let (mut scores, mut out) = (vec![0f32; 4 * len], vec![0.5f32; 4 * d]);
        match len <= LANES {
            true => score_rows::<S, 4, 1>(simd, rows, keys, len, 0.3, &mut scores, len),
            false => score_rows::<S, 4, 2>(simd, rows, keys, len, 0.3, &mut scores, len),
        }
        let weights = std::array::from_fn::<_, 4, _>(|row| &scores[row * len..][..len]);
        mix(simd, weights, 1, Rows { data: panel, stride: d }, 0..len, &mut out, d);
        [scores, out]
    }

    proptest! {
        /// Every processor's instructions give the same bits.
        #[test]
        fn all_instructions_give_the_same_bits(
            d in 1usize..80, len in 1usize..=PANEL, numbers in prop::collection::vec(-2f32..2.0, 84 * 80),
        ) {
            let (rows, panel) = numbers.split_at(4 * d);
            let panel = &panel[..d * PANEL];
            let wanted = both(Portable, rows, panel, d, len);
            #[cfg(target_arch = "x86_64")]
            {
                use super::super::lanes::{Avx2, Avx512};
                if let Some(simd) = Avx2::detect() {
                    prop_assert_eq!(&both(simd, rows, panel, d, len), &wanted);
                }
                if let Some(simd) = Avx512::detect() {
                    prop_assert_eq!(&both(simd, rows, panel, d, len), &wanted);
                }
            }
            let plain: f32 = (0..d).fold(0.0, |sum, l| rows[l].mul_add(panel[l * PANEL + len - 1], sum));
            prop_assert_eq!(wanted[0][len - 1], plain * 0.3);
        }
    }
}
