//! Matrix products over the `gemm` crate, split so that a result never depends on its neighbours.
//!
//! Cost of `[m, k] · [k, n]`: `2 m n k` FLOP. What limits it: the FMA units for `m` above some tens of rows,
//! the bandwidth of reading the weight below that.
//!
//! `gemm` computes each output element by one chain of fused multiply-adds over the inner dimension, cut into
//! blocks whose length it picks from the matrix sizes, and by other routines altogether when a side is a single
//! row or column, when the output is small, or when the inner dimension is 1 or 2 (there even the alignment of
//! the output decides how an element is rounded). All of these would let the size of a batch leak into the bits
//! of a row. So the inner dimension is cut here, at `INNER_BLOCK`, and the shapes that `gemm` treats apart are
//! brought into the common form or computed by a plain loop.

mod packed;

use gemm::Parallelism;
use rayon::prelude::*;

use super::SharedMut;
use crate::buffer::Buffer;
pub(crate) use packed::{Packed, times_once};

/// Inner-dimension block: the longest that `gemm` never cuts again.
const INNER_BLOCK: usize = 512;
/// Outputs of at most this size `gemm` computes by dot products when both inner strides are 1.
const SMALL_OUTPUT: usize = 256;
/// Output tile of one task.
const TILE_ROWS: usize = 128;
const TILE_COLS: usize = 128;
/// Products below this many multiply-adds run on the calling thread: waking another costs more.
const PARALLEL_FROM: usize = 1 << 18;

/// A read-only strided matrix.
#[derive(Clone, Copy)]
pub(crate) struct View {
    data: *const f32,
    row_stride: usize,
    col_stride: usize,
}
// SAFETY: only read through, while the slice it came from is borrowed by the caller.
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

impl View {
    pub(crate) fn rows(data: &[f32], stride: usize) -> Self {
        Self { data: data.as_ptr(), row_stride: stride, col_stride: 1 }
    }

    fn transposed(data: &[f32], stride: usize) -> Self {
        Self { data: data.as_ptr(), row_stride: 1, col_stride: stride }
    }

    pub(crate) fn transpose(self) -> Self {
        Self { row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }

    pub(crate) fn at(self, row: usize, col: usize) -> *const f32 {
        self.data.wrapping_add(row * self.row_stride + col * self.col_stride)
    }

    /// Whether neighbours in a row are neighbours in memory; if not, neighbours in a column are.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn inner_is_contiguous(self) -> bool {
        self.col_stride == 1
    }

    /// Its `[rows, cols]` elements as the nearest bf16, in row order.
    ///
    /// # Safety
    /// The view must cover them.
    pub(crate) unsafe fn rounded(self, rows: usize, cols: usize) -> Vec<f32> {
        let at = |i: usize, j: usize| {
            // SAFETY: the caller's promise.
            let value = unsafe { *self.at(i, j) };
            f32::from_bits(super::bf16::round(value) << 16)
        };
        (0..rows).flat_map(|i| (0..cols).map(move |j| at(i, j))).collect()
    }

    fn from(self, row: usize, col: usize) -> Self {
        Self { data: self.at(row, col), ..self }
    }
}

/// `y[m, n] = x[m, k] · w[n, k]ᵀ`: a linear layer with the weight as it is stored. With `accumulate`, adds to `y`.
///
/// # Panics
/// When a slice is shorter than its shape.
pub fn matmul_nt(x: &[f32], w: &[f32], y: &mut [f32], m: usize, n: usize, k: usize, accumulate: bool) {
    assert!(x.len() >= m * k && w.len() >= n * k && y.len() >= m * n, "matmul_nt: slices too short");
    product::<true>(View::rows(x, k), View::transposed(w, k), y, m, n, k, accumulate);
}

/// `dx[m, k] = dy[m, n] · w[n, k]`: the gradient of a linear layer to its input. With `accumulate`, adds.
///
/// # Panics
/// When a slice is shorter than its shape.
pub fn matmul_nn(dy: &[f32], w: &[f32], dx: &mut [f32], m: usize, n: usize, k: usize, accumulate: bool) {
    assert!(dy.len() >= m * n && w.len() >= n * k && dx.len() >= m * k, "matmul_nn: slices too short");
    product::<false>(View::rows(dy, n), View::rows(w, k), dx, m, k, n, accumulate);
}

/// `dw[n, k] = dy[m, n]ᵀ · x[m, k]`: the gradient of a linear layer to its weight. With `accumulate`, adds.
///
/// # Panics
/// When a slice is shorter than its shape.
pub fn matmul_tn(dy: &[f32], x: &[f32], dw: &mut [f32], m: usize, n: usize, k: usize, accumulate: bool) {
    assert!(dy.len() >= m * n && x.len() >= m * k && dw.len() >= n * k, "matmul_tn: slices too short");
    product::<false>(View::transposed(dy, n), View::rows(x, k), dw, n, k, m, accumulate);
}

/// An output tile of `product`: `c[rows, cols] (+)= a[rows, depth] · b[depth, cols]`, rows of `c` `stride` apart.
pub(crate) struct Tile {
    rows: usize,
    cols: usize,
    depth: usize,
    c: *mut f32,
    stride: usize,
    read: bool,
}

impl Tile {
    /// # Safety
    /// `a`, `b` and `c` must cover the tile, and nothing else may touch the tile of `c`.
    pub(crate) unsafe fn gemm(&self, a: View, b: View) {
        // SAFETY: the caller's promise.
        unsafe {
            gemm::gemm(
                self.rows,
                self.cols,
                self.depth,
                self.c,
                1,
                self.stride as isize,
                self.read,
                a.data,
                a.col_stride as isize,
                a.row_stride as isize,
                b.data,
                b.col_stride as isize,
                b.row_stride as isize,
                1f32,
                1f32,
                false,
                false,
                false,
                Parallelism::None,
            );
        }
    }

    /// # Safety
    /// As [`Tile::gemm`].
    unsafe fn plain(&self, a: View, b: View) {
        for row in 0..self.rows {
            for col in 0..self.cols {
                // SAFETY: the caller's promise.
                unsafe {
                    let c = self.c.add(row * self.stride + col);
                    let mut sum = if self.read { *c } else { 0.0 };
                    for i in 0..self.depth {
                        sum += *a.at(row, i) * *b.at(i, col);
                    }
                    *c = sum;
                }
            }
        }
    }

    /// As [`Tile::gemm`], but with `a` in inner-major order and at least two rows, which `gemm` treats as it
    /// does large tiles.
    ///
    /// # Safety
    /// As [`Tile::gemm`].
    unsafe fn packed(&self, a: View, b: View) {
        let rows = self.rows.max(2);
        let mut packed = Buffer::of(rows * self.depth);
        for (i, packed) in packed.chunks_exact_mut(rows).enumerate() {
            for (row, packed) in packed.iter_mut().enumerate() {
                // SAFETY: the caller's promise; a second row beside a single one is a copy of it.
                *packed = unsafe { *a.at(row.min(self.rows - 1), i) };
            }
        }
        let mut out = Buffer::of(rows * self.cols);
        // SAFETY: the caller's promise.
        let c =
            |row: usize| unsafe { std::slice::from_raw_parts_mut(self.c.add(row * self.stride), self.cols) };
        if self.read {
            for (row, out) in out.chunks_exact_mut(self.cols).enumerate().take(self.rows) {
                out.copy_from_slice(c(row));
            }
        }
        let tile = Self { rows, c: out.as_mut_ptr(), stride: self.cols, ..*self };
        // SAFETY: both buffers have the sizes said; `b` by the caller's promise.
        unsafe { tile.gemm(View::transposed(&packed, rows), b) };
        for (row, out) in out.chunks_exact(self.cols).enumerate().take(self.rows) {
            c(row).copy_from_slice(out);
        }
    }
}

/// `c[m, n] (+)= a[m, k] · b[k, n]`, `c` contiguous. With `ROWS_ALONE`, the bits of a row of `c` depend on that
/// row of `a` alone.
pub(crate) fn product<const ROWS_ALONE: bool>(
    a: View,
    b: View,
    c: &mut [f32],
    m: usize,
    n: usize,
    k: usize,
    accumulate: bool,
) {
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        if !accumulate {
            c[..m * n].fill(0.0);
        }
        return;
    }
    let out = SharedMut::new(c);
    let row_tiles = m.div_ceil(TILE_ROWS);
    let col_tiles = n.div_ceil(TILE_COLS);
    let run = |index: usize| {
        let (row, col) = (index / col_tiles * TILE_ROWS, index % col_tiles * TILE_COLS);
        let (rows, cols) = (TILE_ROWS.min(m - row), TILE_COLS.min(n - col));
        for inner in (0..k).step_by(INNER_BLOCK) {
            let depth = INNER_BLOCK.min(k - inner);
            let read = accumulate || inner > 0;
            let tile = Tile { rows, cols, depth, c: out.at(row * n + col), stride: n, read };
            let (a, b) = (a.from(row, inner), b.from(inner, col));
            // SAFETY: tiles are disjoint parts of `c`; both inputs cover `[m, k]` and `[k, n]`, checked by
            // the public functions.
            unsafe {
                if depth <= 2 || (ROWS_ALONE && cols == 1) {
                    tile.plain(a, b);
                } else if ROWS_ALONE && (rows == 1 || rows * cols <= SMALL_OUTPUT) {
                    tile.packed(a, b);
                } else {
                    tile.gemm(a, b);
                }
            }
        }
    };
    let tiles = row_tiles * col_tiles;
    if tiles > 1 && m * n * k >= PARALLEL_FROM {
        (0..tiles).into_par_iter().for_each(run);
    } else {
        (0..tiles).for_each(run);
    }
}

#[cfg(test)]
mod tests {
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

    fn naive(
        m: usize,
        n: usize,
        k: usize,
        a: impl Fn(usize, usize) -> f32,
        b: impl Fn(usize, usize) -> f32,
    ) -> Vec<f64> {
        let mut c = Vec::with_capacity(m * n);
        for i in 0..m {
            for j in 0..n {
                c.push((0..k).map(|l| f64::from(a(i, l)) * f64::from(b(l, j))).sum());
            }
        }
        c
    }

    fn close(got: &[f32], want: &[f64], k: usize) {
        for (i, (g, w)) in got.iter().zip(want).enumerate() {
            let tolerance = 2e-6 * (k as f64).sqrt().max(1.0) * (1.0 + w.abs());
            assert!((f64::from(*g) - w).abs() <= tolerance, "element {i}: {g} against {w}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn all_three_forms_match_a_naive_f64_loop(
            m in 0usize..150, n in 0usize..150, k in 0usize..700, accumulate: bool,
        ) {
            let x = numbers(m * k, 1);
            let w = numbers(n * k, 2);
            let dy = numbers(m * n, 3);
            let start = |len| if accumulate { numbers(len, 4) } else { vec![f32::NAN; len] };
            let base = |want: Vec<f64>, y0: &[f32]| -> Vec<f64> {
                want.iter().zip(y0).map(|(w, y)| if accumulate { w + f64::from(*y) } else { *w }).collect()
            };

            let mut y = start(m * n);
            let want = base(naive(m, n, k, |i, l| x[i * k + l], |l, j| w[j * k + l]), &y);
            matmul_nt(&x, &w, &mut y, m, n, k, accumulate);
            close(&y, &want, k);

            let mut dx = start(m * k);
            let want = base(naive(m, k, n, |i, l| dy[i * n + l], |l, j| w[l * k + j]), &dx);
            matmul_nn(&dy, &w, &mut dx, m, n, k, accumulate);
            close(&dx, &want, n);

            let mut dw = start(n * k);
            let want = base(naive(n, k, m, |i, l| dy[l * n + i], |l, j| x[l * k + j]), &dw);
            matmul_tn(&dy, &x, &mut dw, m, n, k, accumulate);
            close(&dw, &want, m);
        }

        #[test]
        fn a_row_does_not_know_how_many_rows_are_beside_it(
            m in prop_oneof![1usize..6, 1usize..300], n in prop_oneof![1usize..6, 1usize..300],
            k in prop_oneof![1usize..6, 1usize..1100], row in 0usize..300,
        ) {
            let row = row % m;
            let x = numbers(m * k, 5);
            let w = numbers(n * k, 6);
            let mut whole = vec![0f32; m * n];
            matmul_nt(&x, &w, &mut whole, m, n, k, false);
            let mut alone = vec![0f32; n];
            matmul_nt(&x[row * k..][..k], &w, &mut alone, 1, n, k, false);
            prop_assert_eq!(&whole[row * n..][..n], &alone[..]);
        }
    }
}
