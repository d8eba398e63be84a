//! Matrix products of operands rounded to bf16, summed in f32.
//!
//! Cost of `[m, k] · [k, n]`: `2 m n k` FLOP, at twice the rate of f32 where the processor multiplies bf16 pairs
//! (AVX512-BF16), and `m k + k n` roundings to pack both operands. Every element of the result is one chain of
//! multiply-adds over the inner dimension in its order, so its bits depend on its row and its column alone.
//!
//! Elsewhere the rounded operands go through the f32 product: the same numbers up to the order of sums.

mod packed;

use rayon::prelude::*;

use super::matmul::{View, product};
use super::{SharedMut, multiversion};
pub(crate) use packed::Packed;

/// Rows of a panel of the left side.
const ROWS: usize = 12;
/// Columns of a panel of the right side: two vectors.
const COLS: usize = 32;
/// Inner elements that are packed at one time: a panel of the right side stays in the second cache.
const INNER: usize = 1024;
/// Columns that are packed at one time.
const WIDE: usize = 4096;
/// Panels of a task.
const TASK_ROWS: usize = 8;
const TASK_COLS: usize = 4;

/// Whether this processor multiplies bf16 itself.
pub fn is_native() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512bw")
            && std::arch::is_x86_feature_detected!("avx512bf16")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// As [`matmul_nt`](super::matmul::matmul_nt), of operands rounded to bf16.
///
/// # Panics
/// When a slice is shorter than its shape.
pub fn matmul_nt(x: &[f32], w: &[f32], y: &mut [f32], m: usize, n: usize, k: usize, accumulate: bool) {
    assert!(x.len() >= m * k && w.len() >= n * k && y.len() >= m * n, "matmul_nt: slices too short");
    rounded::<true>(View::rows(x, k), View::rows(w, k).transpose(), y, [m, n, k], accumulate);
}

/// As [`matmul_nn`](super::matmul::matmul_nn), of operands rounded to bf16.
///
/// # Panics
/// When a slice is shorter than its shape.
pub fn matmul_nn(dy: &[f32], w: &[f32], dx: &mut [f32], m: usize, n: usize, k: usize, accumulate: bool) {
    assert!(dy.len() >= m * n && w.len() >= n * k && dx.len() >= m * k, "matmul_nn: slices too short");
    rounded::<false>(View::rows(dy, n), View::rows(w, k), dx, [m, k, n], accumulate);
}

/// As [`matmul_tn`](super::matmul::matmul_tn), of operands rounded to bf16.
///
/// # Panics
/// When a slice is shorter than its shape.
pub fn matmul_tn(dy: &[f32], x: &[f32], dw: &mut [f32], m: usize, n: usize, k: usize, accumulate: bool) {
    assert!(dy.len() >= m * n && x.len() >= m * k && dw.len() >= n * k, "matmul_tn: slices too short");
    rounded::<false>(View::rows(dy, n).transpose(), View::rows(x, k), dw, [n, k, m], accumulate);
}

fn rounded<const ROWS_ALONE: bool>(a: View, b: View, c: &mut [f32], [m, n, k]: [usize; 3], accumulate: bool) {
    #[cfg(target_arch = "x86_64")]
    if is_native() && m * n * k > 0 {
        return packed_product(a, b, c, [m, n, k], accumulate);
    }
    portable::<ROWS_ALONE>(a, b, c, [m, n, k], accumulate);
}

fn portable<const ROWS_ALONE: bool>(
    a: View,
    b: View,
    c: &mut [f32],
    [m, n, k]: [usize; 3],
    accumulate: bool,
) {
    // SAFETY: the public functions have checked that their slices cover the shapes.
    let (a, b) = unsafe { (a.rounded(m, k), b.rounded(k, n)) };
    product::<ROWS_ALONE>(View::rows(&a, k), View::rows(&b, n), c, m, n, k, accumulate);
}

/// `f32` to the nearest bf16, ties to even; `NaN` stays one.
#[inline(always)]
pub(crate) fn round(value: f32) -> u32 {
    let bits = value.to_bits();
    let near = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    if bits & 0x7fff_ffff > 0x7f80_0000 { (bits >> 16) | 0x40 } else { near }
}

multiversion! {
    /// Every value as the nearest bf16.
    pub fn round_all(values: &mut [f32]) {
        for v in values {
            *v = f32::from_bits(round(*v) << 16);
        }
    }
}

/// Lines `first..first + count` (rows of the left side, columns of the right one) as panels of `W` lines, elements
/// `inner..inner + depth` of each in pairs: `[panel, pair, line]`, zeros beyond the ends. `line(l, i)` is where
/// element `i` of line `l` is.
///
/// # Safety
/// The lines must cover the elements.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn pack<const W: usize>(
    lines: View,
    first: usize,
    count: usize,
    inner: usize,
    depth: usize,
    out: &mut [u32],
) {
    use std::arch::x86_64::*;
    let pairs = depth.div_ceil(2);
    let mask = |lanes: usize| ((1u32 << lanes.min(16)) - 1) as __mmask16;
    if !count.is_multiple_of(W) {
        out[count / W * W * pairs..].fill(0);
    }
    for panel in 0..count.div_ceil(W) {
        let out = &mut out[panel * W * pairs..][..W * pairs];
        let (first, width) = (first + panel * W, W.min(count - panel * W));
        if lines.inner_is_contiguous() {
            for start in (0..depth).step_by(32) {
                let left = depth - start;
                let masks = (mask(left), mask(left.saturating_sub(16)));
                for lane in (0..width).step_by(16) {
                    let lanes = 16.min(width - lane);
                    let mut square = [_mm512_setzero_si512(); 16];
                    for (line, pairs) in square.iter_mut().enumerate().take(lanes) {
                        let from = lines.at(first + lane + line, inner + start);
                        // SAFETY: the caller's promise; nothing beyond the elements is read. A vector of 512 bits is
                        // sixteen pairs.
                        *pairs = unsafe {
                            let low = _mm512_maskz_loadu_ps(masks.0, from);
                            let high = _mm512_maskz_loadu_ps(masks.1, from.wrapping_add(16));
                            std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low))
                        };
                    }
                    for (p, of_lines) in transpose(square).into_iter().enumerate().take(left.div_ceil(2)) {
                        let to = out[(start / 2 + p) * W + lane..].as_mut_ptr();
                        // SAFETY: lanes beyond the panel are not written.
                        unsafe { _mm512_mask_storeu_epi32(to.cast(), mask(lanes), of_lines) };
                    }
                }
            }
            continue;
        }
        for (p, out) in out.chunks_exact_mut(W).enumerate() {
            for start in (0..width).step_by(16) {
                let lanes = mask(width - start);
                let half = |i: usize| {
                    let lanes = if i < depth { lanes } else { 0 };
                    // SAFETY: the caller's promise; the elements of neighbouring lines are neighbours. Sixteen bf16 are
                    // as many 16-bit integers.
                    unsafe {
                        let values = _mm512_maskz_loadu_ps(lanes, lines.at(first + start, inner + i));
                        _mm512_cvtepu16_epi32(std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(
                            values,
                        )))
                    }
                };
                let both = _mm512_or_si512(half(2 * p), _mm512_slli_epi32::<16>(half(2 * p + 1)));
                // SAFETY: lanes beyond the panel are not written.
                unsafe { _mm512_mask_storeu_epi32(out.as_mut_ptr().add(start).cast(), lanes, both) };
            }
        }
    }
}

/// Sixteen lines of sixteen numbers to sixteen columns.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn transpose(lines: [std::arch::x86_64::__m512i; 16]) -> [std::arch::x86_64::__m512i; 16] {
    use std::arch::x86_64::*;
    // Of four lines, in every quarter of a vector: one column of that quarter.
    let mut fours = lines;
    for (four, lines) in fours.chunks_exact_mut(4).zip(lines.chunks_exact(4)) {
        let low = [0, 2].map(|i| _mm512_unpacklo_epi32(lines[i], lines[i + 1]));
        let high = [0, 2].map(|i| _mm512_unpackhi_epi32(lines[i], lines[i + 1]));
        four[0] = _mm512_unpacklo_epi64(low[0], low[1]);
        four[1] = _mm512_unpackhi_epi64(low[0], low[1]);
        four[2] = _mm512_unpacklo_epi64(high[0], high[1]);
        four[3] = _mm512_unpackhi_epi64(high[0], high[1]);
    }
    // Quarters of four such vectors change places.
    let mut columns = fours;
    for j in 0..4 {
        let [a, b, c, d] = [0, 4, 8, 12].map(|i| fours[i + j]);
        let near = (_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0x44>(c, d));
        let far = (_mm512_shuffle_i32x4::<0xee>(a, b), _mm512_shuffle_i32x4::<0xee>(c, d));
        columns[j] = _mm512_shuffle_i32x4::<0x88>(near.0, near.1);
        columns[4 + j] = _mm512_shuffle_i32x4::<0xdd>(near.0, near.1);
        columns[8 + j] = _mm512_shuffle_i32x4::<0x88>(far.0, far.1);
        columns[12 + j] = _mm512_shuffle_i32x4::<0xdd>(far.0, far.1);
    }
    columns
}

#[cfg(target_arch = "x86_64")]
fn packed_product(a: View, b: View, c: &mut [f32], [m, n, k]: [usize; 3], accumulate: bool) {
    let out = SharedMut::new(c);
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for first in (0..n).step_by(WIDE) {
        let cols = WIDE.min(n - first);
        for inner in (0..k).step_by(INNER) {
            let depth = INNER.min(k - inner);
            let pairs = depth.div_ceil(2);
            pack_all::<ROWS>(a, 0, m, inner, depth, &mut left);
            pack_all::<COLS>(b.transpose(), first, cols, inner, depth, &mut right);
            let read = accumulate || inner > 0;
            let (row_tasks, col_tasks) = (m.div_ceil(ROWS * TASK_ROWS), cols.div_ceil(COLS * TASK_COLS));
            let (left, right) = (&left, &right);
            let task = |index: usize| {
                let (row, col) = (index % row_tasks * ROWS * TASK_ROWS, index / row_tasks * COLS * TASK_COLS);
                for col in (col..(col + COLS * TASK_COLS).min(cols)).step_by(COLS) {
                    for row in (row..(row + ROWS * TASK_ROWS).min(m)).step_by(ROWS) {
                        let (a, b) =
                            (&left[row * pairs..][..ROWS * pairs], &right[col * pairs..][..COLS * pairs]);
                        let (rows, cols) = (ROWS.min(m - row), COLS.min(cols - col));
                        // SAFETY: tiles are disjoint parts of `c`, which covers `[m, n]`; the processor has the
                        // instructions, or this function would not run.
                        unsafe { tile(a, b, out.at(row * n + first + col), n, rows, cols, read) };
                    }
                }
            };
            if m * cols * depth < 1 << 18 {
                (0..row_tasks * col_tasks).for_each(task);
            } else {
                (0..row_tasks * col_tasks).into_par_iter().for_each(task);
            }
        }
    }
}

/// [`pack`] by threads, into a buffer that is made large enough.
#[cfg(target_arch = "x86_64")]
fn pack_all<const W: usize>(
    lines: View,
    first: usize,
    count: usize,
    inner: usize,
    depth: usize,
    out: &mut Vec<u32>,
) {
    let pairs = depth.div_ceil(2);
    out.resize(count.next_multiple_of(W) * pairs, 0);
    let some = 4 * W;
    let task = |(task, out): (usize, &mut [u32])| {
        let count = some.min(count - task * some);
        // SAFETY: the views of the public functions cover their shapes; the processor has the instructions.
        unsafe { pack::<W>(lines, first + task * some, count, inner, depth, out) };
    };
    if count * depth < 1 << 15 {
        out.chunks_mut(some * pairs).enumerate().for_each(task);
    } else {
        out.par_chunks_mut(some * pairs).enumerate().for_each(task);
    }
}

/// `c[rows, cols] (+)= a · b` of one panel each, rows of `c` `stride` apart.
///
/// # Safety
/// `c` must cover the tile and be touched by nothing else; the processor must have AVX512-BF16.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn tile(a: &[u32], b: &[u32], c: *mut f32, stride: usize, rows: usize, cols: usize, read: bool) {
    macro_rules! by_rows {
        ($($rows:literal)*) => {
            match rows {
                // SAFETY: the caller's promise.
                $($rows => unsafe { tile_of::<$rows>(a, b, c, stride, cols, read) },)*
                _ => unreachable!("a panel has 1 to 12 rows"),
            }
        };
    }
    by_rows!(1 2 3 4 5 6 7 8 9 10 11 12);
}

/// # Safety
/// As [`tile`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn tile_of<const R: usize>(a: &[u32], b: &[u32], c: *mut f32, stride: usize, cols: usize, read: bool) {
    use std::arch::x86_64::*;
    let masks = [0, 16].map(|start: usize| {
        let lanes = cols.saturating_sub(start).min(16);
        ((1u32 << lanes) - 1) as __mmask16
    });
    let mut sums = [[_mm512_setzero_ps(); 2]; R];
    if read {
        for (row, sums) in sums.iter_mut().enumerate() {
            for half in 0..2 {
                // SAFETY: lanes beyond the tile are not read.
                sums[half] =
                    unsafe { _mm512_maskz_loadu_ps(masks[half], c.wrapping_add(row * stride + 16 * half)) };
            }
        }
    }
    for (a, b) in a.as_chunks::<ROWS>().0.iter().zip(b.as_chunks::<COLS>().0) {
        // SAFETY: 32 numbers.
        let b = unsafe { [_mm512_loadu_ps(b.as_ptr().cast()), _mm512_loadu_ps(b.as_ptr().add(16).cast())] };
        for (row, sums) in sums.iter_mut().enumerate() {
            let a = _mm512_set1_epi32(a[row] as i32);
            for half in 0..2 {
                // SAFETY: vectors of 512 bits, read as pairs of bf16.
                let (a, b) = unsafe {
                    (
                        std::mem::transmute::<__m512i, __m512bh>(a),
                        std::mem::transmute::<__m512, __m512bh>(b[half]),
                    )
                };
                sums[half] = _mm512_dpbf16_ps(sums[half], a, b);
            }
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        for half in 0..2 {
            // SAFETY: lanes beyond the tile are not written.
            unsafe {
                _mm512_mask_storeu_ps(c.wrapping_add(row * stride + 16 * half), masks[half], sums[half]);
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;
    use proptest::prelude::*;

    use super::*;

    pub(super) fn numbers(len: usize, salt: u64) -> Vec<f32> {
        let mut state = salt.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        (0..len)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
            })
            .collect()
    }

    #[test]
    fn rounding_is_that_of_half() {
        let special = [0.0, -0.0, 1.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE, 1e-45];
        for value in special
            .into_iter()
            .chain(numbers(4096, 9))
            .chain((0..4096).map(|i| f32::from_bits(i << 20 | 0x8000)))
        {
            if value.is_nan() {
                assert!(f32::from_bits(round(value) << 16).is_nan());
            } else {
                assert_eq!(round(value), u32::from(bf16::from_f32(value).to_bits()), "{value}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn all_three_forms_are_products_of_rounded_operands(
            m in 0usize..110, n in 0usize..150, k in prop_oneof![0usize..40, 1000usize..1100], accumulate: bool,
        ) {
            let (x, w, dy) = (numbers(m * k, 1), numbers(n * k, 2), numbers(m * n, 3));
            let start = |len| if accumulate { numbers(len, 4) } else { vec![f32::NAN; len] };
            let low = |v: f32| f64::from(bf16::from_f32(v).to_f32());
            let check = |got: &[f32], before: &[f32], width: usize, depth: usize, term: &dyn Fn(usize, usize, usize) -> f64| {
                for (at, found) in got.iter().enumerate() {
                    let base = if accumulate { f64::from(before[at]) } else { 0.0 };
                    let wanted = base + (0..depth).map(|l| term(at / width, at % width, l)).sum::<f64>();
                    let tolerance = 2e-6 * (depth as f64).sqrt().max(1.0) * (1.0 + wanted.abs());
                    assert!((f64::from(*found) - wanted).abs() <= tolerance, "element {at}: {found}, expected {wanted}");
                }
            };
            let mut y = start(m * n);
            let before = y.clone();
            matmul_nt(&x, &w, &mut y, m, n, k, accumulate);
            check(&y, &before, n.max(1), k, &|i, j, l| low(x[i * k + l]) * low(w[j * k + l]));
            y.copy_from_slice(&before);
            portable::<true>(View::rows(&x, k), View::rows(&w, k).transpose(), &mut y, [m, n, k], accumulate);
            check(&y, &before, n.max(1), k, &|i, j, l| low(x[i * k + l]) * low(w[j * k + l]));
            let mut dx = start(m * k);
            let before = dx.clone();
            matmul_nn(&dy, &w, &mut dx, m, n, k, accumulate);
            check(&dx, &before, k.max(1), n, &|i, j, l| low(dy[i * n + l]) * low(w[l * k + j]));
            let mut dw = start(n * k);
            let before = dw.clone();
            matmul_tn(&dy, &x, &mut dw, m, n, k, accumulate);
            check(&dw, &before, k.max(1), m, &|i, j, l| low(dy[l * n + i]) * low(x[l * k + j]));
        }

        #[test]
        fn a_row_does_not_know_how_many_rows_are_beside_it(
            m in 1usize..130, n in 1usize..150, k in prop_oneof![1usize..40, 1000usize..1100], row in 0usize..130,
        ) {
            let row = row % m;
            let (x, w) = (numbers(m * k, 5), numbers(n * k, 6));
            let (mut whole, mut alone) = (vec![0f32; m * n], vec![0f32; n]);
            matmul_nt(&x, &w, &mut whole, m, n, k, false);
            matmul_nt(&x[row * k..][..k], &w, &mut alone, 1, n, k, false);
            prop_assert_eq!(&whole[row * n..][..n], &alone[..]);
        }
    }
}
