//! A weight matrix in the order in which a product reads it.

use std::ops::Range;

use rayon::prelude::*;

use super::{COLS, portable, round};
#[cfg(target_arch = "x86_64")]
use super::{INNER, ROWS, TASK_COLS, is_native, pack, pack_all, tile};
#[cfg(target_arch = "x86_64")]
use crate::buffer::Buffer;
#[cfg(target_arch = "x86_64")]
use crate::kernel::SharedMut;
use crate::kernel::matmul::View;

/// Two neighbours of the inner dimension, the first in the low half.
#[inline(always)]
fn pair(low: f32, high: f32) -> u32 {
    round(low) | round(high) << 16
}

/// A weight matrix rounded once, in the order in which a product reads it: half the memory of f32, and read once, in
/// order, whatever the number of rows it is multiplied with.
pub(crate) struct Packed {
    /// Rows of a part; parts are multiplied one at a time.
    part: usize,
    k: usize,
    /// `[part, panel, pair, row]`, zeros beyond the ends.
    panels: Vec<u32>,
}

impl Packed {
    /// Rounds `w` `[parts · part, k]`.
    pub(crate) fn new(w: &[f32], part: usize, k: usize) -> Self {
        let (part, k) = (part.max(1), k.max(1));
        let pairs = k.div_ceil(2);
        let mut panels = vec![0u32; w.len() / (part * k) * part.div_ceil(COLS) * COLS * pairs];
        let of_part = panels.par_chunks_mut(part.div_ceil(COLS) * COLS * pairs).zip(w.par_chunks(part * k));
        of_part.for_each(|(panels, w)| {
            #[cfg(target_arch = "x86_64")]
            if is_native() {
                let each = panels.par_chunks_mut(COLS * pairs).zip(w.par_chunks(COLS * k));
                each.for_each(|(panel, rows)| {
                    // SAFETY: the rows cover the panel; the processor has the instructions.
                    unsafe { pack::<COLS>(View::rows(rows, k), 0, rows.len() / k, 0, k, panel) };
                });
                return;
            }
            panels.par_chunks_mut(COLS * pairs).zip(w.par_chunks(COLS * k)).for_each(|(panel, rows)| {
                for (lane, row) in rows.chunks(k).enumerate() {
                    for (p, two) in row.chunks(2).enumerate() {
                        panel[p * COLS + lane] = pair(two[0], two.get(1).copied().unwrap_or(0.0));
                    }
                }
            });
        });
        Self { part, k, panels }
    }

    /// Writes row `row` to `out` `[k]`.
    pub(crate) fn row(&self, row: usize, out: &mut [f32]) {
        let pairs = self.k.div_ceil(2);
        let (part, row) = (row / self.part, row % self.part);
        let panel = (part * self.part.div_ceil(COLS) + row / COLS) * COLS * pairs + row % COLS;
        for (p, two) in out[..self.k].chunks_mut(2).enumerate() {
            let both = self.panels[panel + p * COLS];
            two[0] = f32::from_bits(both << 16);
            if let [_, second] = two {
                *second = f32::from_bits(both & 0xffff_0000);
            }
        }
    }

    /// Numbers in it, those beyond the ends left out.
    pub(crate) fn len(&self) -> usize {
        let of_part = self.part.div_ceil(COLS) * COLS * self.k.div_ceil(2);
        self.panels.len() / of_part * self.part * self.k
    }

    /// `y[m, part] = x[m, k] · w[rows]ᵀ`, of `x` rounded to bf16 and the rows of one part. The bits are those of [`matmul_nt`](super::matmul_nt).
    pub(crate) fn times(&self, x: &[f32], y: &mut [f32], m: usize, rows: Range<usize>) {
        let (n, k, part) = (self.part, self.k, rows.start / self.part);
        assert!(rows == (part * n..(part + 1) * n), "times: rows {rows:?} are no part of {n}");
        assert!(x.len() >= m * k && y.len() >= m * n, "times: slices too short");
        #[cfg(target_arch = "x86_64")]
        if is_native() {
            return self.native(x, y, m, part);
        }
        let mut w = vec![0f32; n * k];
        for (i, w) in w.chunks_exact_mut(k).enumerate() {
            self.row(part * n + i, w);
        }
        portable::<true>(View::rows(x, k), View::rows(&w, k).transpose(), y, [m, n, k], false);
    }

    #[cfg(target_arch = "x86_64")]
    fn native(&self, x: &[f32], y: &mut [f32], m: usize, part: usize) {
        let (n, k) = (self.part, self.k);
        let (pairs, panels) = (k.div_ceil(2), n.div_ceil(COLS));
        let mut left = Buffer::of(m.next_multiple_of(ROWS) * pairs);
        pack_all::<ROWS>(View::rows(x, k), 0, m, 0, k, &mut left);
        let right = &self.panels[part * panels * COLS * pairs..][..panels * COLS * pairs];
        let out = SharedMut::new(y);
        let task = |index: usize| {
            for panel in index * TASK_COLS..((index + 1) * TASK_COLS).min(panels) {
                let (col, b) = (panel * COLS, &right[panel * COLS * pairs..][..COLS * pairs]);
                // A part of the panel that stays in the first cache, for all rows.
                for first in (0..pairs).step_by(INNER / 2) {
                    let some = (INNER / 2).min(pairs - first);
                    for row in (0..m).step_by(ROWS) {
                        let a = &left[row * pairs + first * ROWS..][..some * ROWS];
                        let b = &b[first * COLS..][..some * COLS];
                        let (rows, cols) = (ROWS.min(m - row), COLS.min(n - col));
                        // SAFETY: tiles are disjoint parts of `y`, which covers `[m, n]`; the processor has the
                        // instructions.
                        unsafe { tile(a, b, out.at(row * n + col), n, rows, cols, first > 0) };
                    }
                }
            }
        };
        let tasks = panels.div_ceil(TASK_COLS);
        if m * n * k < 1 << 16 {
            (0..tasks).for_each(task);
        } else {
            (0..tasks).into_par_iter().for_each(task);
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;
    use proptest::prelude::*;

    use super::super::matmul_nt;
    use super::super::tests::numbers;
    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn packed_weights_give_the_bits_of_the_product(
            m in 1usize..40, n in 1usize..80, k in prop_oneof![1usize..40, 1000usize..1100], parts in 1usize..4,
        ) {
            let (x, w) = (numbers(m * k, 7), numbers(parts * n * k, 8));
            let packed = Packed::new(&w, n, k);
            for part in 0..parts {
                let w = &w[part * n * k..][..n * k];
                let (mut found, mut wanted) = (vec![f32::NAN; m * n], vec![0f32; m * n]);
                packed.times(&x, &mut found, m, part * n..(part + 1) * n);
                matmul_nt(&x, w, &mut wanted, m, n, k, false);
                prop_assert_eq!(found, wanted);
                let mut row = vec![f32::NAN; k];
                packed.row(part * n + n / 2, &mut row);
                let rounded = w[n / 2 * k..][..k].iter().map(|v| bf16::from_f32(*v).to_f32());
                prop_assert_eq!(row, rounded.collect::<Vec<f32>>());
            }
        }
    }
}
