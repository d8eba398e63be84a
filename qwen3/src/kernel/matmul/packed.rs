//! A weight matrix in the order in which a product reads it.

use std::ops::Range;

use rayon::prelude::*;

use super::INNER_BLOCK;
#[cfg(target_arch = "x86_64")]
use crate::buffer::Buffer;
#[cfg(target_arch = "x86_64")]
use crate::kernel::SharedMut;
#[cfg(target_arch = "x86_64")]
use crate::kernel::attention::{PANEL, Rows, pack_panels};

/// Columns of a panel: two vectors.
const COLS: usize = 32;
/// Rows that share one reading of a panel.
#[cfg(target_arch = "x86_64")]
const ROWS: usize = 12;
/// Panels of a task.
#[cfg(target_arch = "x86_64")]
const TASK_COLS: usize = 4;

/// A weight matrix laid out once for many products with few rows each: `gemm` would pack it anew for each of them, which costs more
/// than the product. The bits are those of [`matmul_nt`](super::matmul_nt).
pub(crate) struct Packed {
    /// Rows of a part; parts are multiplied one at a time.
    part: usize,
    k: usize,
    /// `[part, panel, k, row]`, zeros beyond the ends.
    panels: Vec<f32>,
}

impl Packed {
    /// Lays out `w` `[parts · part, k]`; gives it back where this processor has no AVX-512, and for the shapes that
    /// [`product`](super::product) rounds in another way.
    pub(crate) fn new(w: Vec<f32>, part: usize, k: usize) -> Result<Self, Vec<f32>> {
        if !is_native() || part * k == 0 || part % super::TILE_COLS == 1 || matches!(k % INNER_BLOCK, 1 | 2) {
            return Err(w);
        }
        let of_part = part.div_ceil(COLS) * COLS * k;
        let mut panels = vec![0f32; w.len() / (part * k) * of_part];
        panels.par_chunks_mut(of_part).zip(w.par_chunks(part * k)).for_each(|(panels, w)| {
            panels.par_chunks_mut(COLS * k).zip(w.par_chunks(COLS * k)).for_each(|(panel, rows)| {
                // A piece of the panel that stays in the first cache.
                for (piece, panel) in panel.chunks_mut(16 * COLS).enumerate() {
                    for (lane, row) in rows.chunks_exact(k).enumerate() {
                        for (line, value) in panel.chunks_exact_mut(COLS).zip(&row[16 * piece..]) {
                            line[lane] = *value;
                        }
                    }
                }
            });
        });
        Ok(Self { part, k, panels })
    }

    /// Writes row `row` to `out` `[k]`.
    pub(crate) fn row(&self, row: usize, out: &mut [f32]) {
        let (part, row) = (row / self.part, row % self.part);
        let panel = (part * self.part.div_ceil(COLS) + row / COLS) * COLS * self.k + row % COLS;
        for (i, value) in out[..self.k].iter_mut().enumerate() {
            *value = self.panels[panel + i * COLS];
        }
    }

    /// Numbers in it, those beyond the ends left out.
    pub(crate) fn len(&self) -> usize {
        self.panels.len() / (self.part.div_ceil(COLS) * COLS) * self.part
    }

    /// `y[m, part] = x[m, k] · w[rows]ᵀ`, of the rows of one part.
    pub(crate) fn times(&self, x: &[f32], y: &mut [f32], m: usize, rows: Range<usize>) {
        let (n, k, part) = (self.part, self.k, rows.start / self.part);
        assert!(rows == (part * n..(part + 1) * n), "times: rows {rows:?} are no part of {n}");
        assert!(x.len() >= m * k && y.len() >= m * n, "times: slices too short");
        #[cfg(target_arch = "x86_64")]
        self.native(x, y, m, part);
    }

    #[cfg(target_arch = "x86_64")]
    fn native(&self, x: &[f32], y: &mut [f32], m: usize, part: usize) {
        let (n, k) = (self.part, self.k);
        let panels = n.div_ceil(COLS);
        let right = &self.panels[part * panels * COLS * k..][..panels * COLS * k];
        let out = SharedMut::new(y);
        let task = |index: usize| {
            let first = index * TASK_COLS;
            let some = TASK_COLS.min(panels - first);
            let right = &right[first * COLS * k..][..some * COLS * k];
            let cols = (some * COLS).min(n - first * COLS);
            // SAFETY: tasks are disjoint columns of `y`, which covers `[m, n]`; the processor has the instructions, or there would be
            // no panels.
            unsafe { columns(x, right, out.at(first * COLS), n, [m, cols, k]) };
        };
        let tasks = panels.div_ceil(TASK_COLS);
        if m * n * k < 1 << 16 {
            (0..tasks).for_each(task);
        } else {
            (0..tasks).into_par_iter().for_each(task);
        }
    }
}

/// `y[m, n] = x[m, k] · wᵀ`, rows of `y` `stride` apart, for weights in rows that are laid out for this product alone; false, and
/// nothing done, where the processor lacks the instructions.
///
/// # Safety
/// `y` must cover the columns and be touched by nothing else.
pub(crate) unsafe fn times_once(
    x: &[f32],
    w: &[f32],
    y: *mut f32,
    stride: usize,
    [m, n, k]: [usize; 3],
) -> bool {
    #[cfg(target_arch = "x86_64")]
    if is_native() {
        assert!(x.len() >= m * k && w.len() >= n * k, "times_once: slices too short");
        let mut panels = Buffer::of(n.next_multiple_of(COLS) * k);
        const { assert!(COLS == PANEL, "a panel of keys is one of weights") };
        pack_panels(Rows { data: w, stride: k }, n, k, &mut panels);
        // SAFETY: the caller's promise.
        unsafe { columns(x, &panels, y, stride, [m, n, k]) };
        return true;
    }
    false
}

/// # Safety
/// `y` must cover `[m, n]`, rows `stride` apart, and be touched by nothing else; the processor must have AVX-512.
#[cfg(target_arch = "x86_64")]
unsafe fn columns(x: &[f32], panels: &[f32], y: *mut f32, stride: usize, [m, n, k]: [usize; 3]) {
    for (panel, b) in panels.chunks_exact(COLS * k).enumerate() {
        let col = panel * COLS;
        for first in (0..k).step_by(INNER_BLOCK) {
            let b = &b[first * COLS..][..INNER_BLOCK.min(k - first) * COLS];
            for row in (0..m).step_by(ROWS) {
                let (rows, cols) = (ROWS.min(m - row), COLS.min(n - col));
                let a = &x[row * k + first..];
                // SAFETY: the caller's promise.
                unsafe { tile(a, k, b, y.add(row * stride + col), stride, rows, cols, first > 0) };
            }
        }
    }
}

fn is_native() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("avx512f")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// `c[rows, cols] (+)= a · b`: rows of `a` `depth` apart, `b` a panel, rows of `c` `stride` apart.
///
/// # Safety
/// `c` must cover the tile and be touched by nothing else; the processor must have AVX-512.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn tile(
    a: &[f32],
    depth: usize,
    b: &[f32],
    c: *mut f32,
    stride: usize,
    rows: usize,
    cols: usize,
    add: bool,
) {
    macro_rules! by_rows {
        ($($rows:literal)*) => {
            match rows {
                // SAFETY: the caller's promise.
                $($rows => unsafe { tile_of::<$rows>(a, depth, b, c, stride, cols, add) },)*
                _ => unreachable!("a tile has 1 to 12 rows"),
            }
        };
    }
    by_rows!(1 2 3 4 5 6 7 8 9 10 11 12);
}

/// # Safety
/// As [`tile`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn tile_of<const R: usize>(
    a: &[f32],
    depth: usize,
    b: &[f32],
    c: *mut f32,
    stride: usize,
    cols: usize,
    add: bool,
) {
    use std::arch::x86_64::*;
    let b = b.as_chunks::<COLS>().0;
    let a: [&[f32]; R] = std::array::from_fn(|row| &a[row * depth..][..b.len()]);
    let mut sums = [[_mm512_setzero_ps(); 2]; R];
    for (i, b) in b.iter().enumerate() {
        // SAFETY: 32 numbers.
        let b = unsafe { [_mm512_loadu_ps(b.as_ptr()), _mm512_loadu_ps(b.as_ptr().add(16))] };
        for (a, sums) in a.iter().zip(&mut sums) {
            let a = _mm512_set1_ps(a[i]);
            for half in 0..2 {
                sums[half] = _mm512_fmadd_ps(a, b[half], sums[half]);
            }
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        for (half, sum) in sums.iter().enumerate() {
            let lanes = cols.saturating_sub(16 * half).min(16);
            let mask = ((1u32 << lanes) - 1) as __mmask16;
            let to = c.wrapping_add(row * stride + 16 * half);
            // SAFETY: lanes beyond the tile are neither read nor written.
            unsafe {
                let sum = if add { _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to), *sum) } else { *sum };
                _mm512_mask_storeu_ps(to, mask, sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::matmul_nt;
    use super::super::tests::numbers;
    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        #[test]
        fn packed_weights_give_the_bits_of_the_product(
            m in 1usize..40, n in 1usize..300, k in prop_oneof![1usize..40, 500usize..1100], parts in 1usize..4,
        ) {
            let (x, w) = (numbers(m * k, 7), numbers(parts * n * k, 8));
            match Packed::new(w.clone(), n, k) {
                Err(same) => prop_assert_eq!(same, w),
                Ok(packed) => {
                    prop_assert_eq!(packed.len(), w.len());
                    for part in 0..parts {
                        let w = &w[part * n * k..][..n * k];
                        let (mut found, mut wanted) = (vec![f32::NAN; m * n], vec![0f32; m * n]);
                        packed.times(&x, &mut found, m, part * n..(part + 1) * n);
                        matmul_nt(&x, w, &mut wanted, m, n, k, false);
                        prop_assert_eq!(found, wanted);
                        let mut row = vec![f32::NAN; k];
                        packed.row(part * n + n / 2, &mut row);
                        prop_assert_eq!(&row[..], &w[n / 2 * k..][..k]);
                    }
                }
            }
        }
    }
}
