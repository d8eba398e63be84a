//! Weight matrices as a decoder stores them: in `f32`, in bf16 as products read them, or in 8 bits and widened tile
//! by tile when they are used.

use std::ops::Range;

use policy_loss::Products;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::matmul::matmul_nt;
use super::{MatmulPrecision, SharedMut, matmul};
use crate::buffer::Buffer;

/// The numbers that a decoder computes with.
///
/// With anything but [`Precision::F32`] a decoder's log-probabilities differ from those of the training forward, as
/// they do between an inference engine and a trainer; sums are `f32` in all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// The training forward's numbers, bit for bit, whatever its [`MatmulPrecision`].
    #[default]
    F32,
    /// Weights, the residual stream, what goes into products, keys and values in bfloat16, rounded to nearest even.
    Bf16,
    /// Weights as 8-bit integers in blocks of 32 with an `f32` scale, symmetric; activations, norms and routers in
    /// `f32`.
    Q8,
}

impl Precision {
    /// How matrices are stored for a model whose products have the precision given.
    pub(crate) fn format(self, products: MatmulPrecision) -> Format {
        match (self, products) {
            (Self::F32, MatmulPrecision::F32) => Format::F32,
            (Self::F32, MatmulPrecision::Bf16) | (Self::Bf16, _) => Format::Bf16,
            (Self::Q8, _) => Format::Q8,
        }
    }

    /// Rounds activations to what is stored between operations.
    pub(crate) fn round(self, values: &mut [f32]) {
        if self == Self::Bf16 {
            super::bf16::round_all(values);
        }
    }
}

/// A weight matrix `[rows, k]` that can multiply.
pub(crate) trait Matrix: Sync {
    /// `y[m, n] = x[m, k] · w[rows]ᵀ`, where `n` counts `rows`: a part, such as an expert, or a matrix of one part. The
    /// bits of a row of `y` depend on that row of `x` alone.
    fn times(&self, x: &[f32], y: &mut [f32], m: usize, rows: Range<usize>, k: usize);
}

/// Weights that are being trained: `f32` by rows.
pub(crate) struct Trained<'a> {
    pub(crate) data: &'a [f32],
    /// Of products with them.
    pub(crate) precision: MatmulPrecision,
}

impl Matrix for Trained<'_> {
    fn times(&self, x: &[f32], y: &mut [f32], m: usize, rows: Range<usize>, k: usize) {
        let w = &self.data[rows.start * k..rows.end * k];
        self.precision.nt(x, w, y, [m, rows.len(), k], false);
    }
}

/// How a matrix is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    F32,
    Bf16,
    Q8,
}

/// A matrix in memory.
pub(crate) enum Stored {
    /// By rows.
    Rows(Vec<f32>),
    F32(matmul::Packed),
    Bf16(super::bf16::Packed),
    /// One scale for each [`BLOCK`] of a row; the last block of a row may be shorter.
    Q8 {
        values: Vec<i8>,
        scales: Vec<f32>,
        width: usize,
    },
}

/// Weights that share a scale.
const BLOCK: usize = 32;
/// Weight rows that are widened at one time: `TILE · k` floats of scratch.
const TILE: usize = 128;
/// Products below this many multiply-adds run on the calling thread.
const PARALLEL_FROM: usize = 1 << 18;

impl Stored {
    /// Takes `data`, parts of `part` rows of `width`.
    pub(crate) fn new(data: Vec<f32>, part: usize, width: usize, format: Format) -> Self {
        match format {
            Format::F32 => matmul::Packed::new(data, part, width).map_or_else(Self::Rows, Self::F32),
            Format::Bf16 => Self::Bf16(super::bf16::Packed::new(&data, part, width)),
            Format::Q8 => {
                let (mut values, mut scales) = (Vec::with_capacity(data.len()), Vec::new());
                for block in data.chunks_exact(width).flat_map(|row| row.chunks(BLOCK)) {
                    let scale = block.iter().fold(0f32, |m, v| m.max(v.abs())) / 127.0;
                    // A block of zeros has no scale to divide by; values that are not finite stay visible.
                    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
                    values.extend(block.iter().map(|v| (v * inverse).round() as i8));
                    scales.push(if block.iter().all(|v| v.is_finite()) { scale } else { f32::NAN });
                }
                Self::Q8 { values, scales, width }
            }
        }
    }

    /// Numbers in it.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Rows(data) => data.len(),
            Self::F32(packed) => packed.len(),
            Self::Bf16(packed) => packed.len(),
            Self::Q8 { values, .. } => values.len(),
        }
    }

    /// Bytes that reading all of it takes.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Rows(_) | Self::F32(_) => 4 * self.len(),
            Self::Bf16(_) => 2 * self.len(),
            Self::Q8 { values, scales, .. } => values.len() + 4 * scales.len(),
        }
    }

    /// Writes the numbers of some rows of `width` to `out`.
    pub(crate) fn widen(&self, rows: Range<usize>, width: usize, out: &mut [f32]) {
        let range = rows.start * width..rows.end * width;
        match self {
            Self::Rows(data) => out.copy_from_slice(&data[range]),
            Self::F32(packed) => {
                for (row, out) in rows.zip(out.chunks_exact_mut(width)) {
                    packed.row(row, out);
                }
            }
            Self::Bf16(packed) => {
                for (row, out) in rows.zip(out.chunks_exact_mut(width)) {
                    packed.row(row, out);
                }
            }
            Self::Q8 { values, scales, width } => {
                let blocks = width.div_ceil(BLOCK);
                let stored = values[range].chunks_exact(*width).zip(out.chunks_exact_mut(*width));
                for ((values, out), scales) in stored.zip(scales[rows.start * blocks..].chunks_exact(blocks))
                {
                    for ((values, out), scale) in values.chunks(BLOCK).zip(out.chunks_mut(BLOCK)).zip(scales)
                    {
                        out.iter_mut().zip(values).for_each(|(out, v)| *out = f32::from(*v) * scale);
                    }
                }
            }
        }
    }
}

impl Matrix for Stored {
    fn times(&self, x: &[f32], y: &mut [f32], m: usize, rows: Range<usize>, k: usize) {
        let n = rows.len();
        match self {
            Self::Rows(data) => {
                return matmul_nt(x, &data[rows.start * k..rows.end * k], y, m, n, k, false);
            }
            Self::F32(packed) => return packed.times(x, y, m, rows),
            Self::Bf16(packed) => return packed.times(x, y, m, rows),
            Self::Q8 { .. } => {}
        }
        let out = SharedMut::new(y);
        let tile = |index: usize| {
            let first = index * TILE;
            let cols = TILE.min(n - first);
            let mut w = Buffer::of(cols * k);
            self.widen(rows.start + first..rows.start + first + cols, k, &mut w);
            // SAFETY: tiles are disjoint columns of `y`, which has `m` rows of `n`.
            if unsafe { matmul::times_once(x, &w, out.at(first), n, [m, cols, k]) } {
                return;
            }
            let mut part = Buffer::of(m * cols);
            matmul_nt(x, &w, &mut part, m, cols, k, false);
            for (row, part) in part.chunks_exact(cols).enumerate() {
                // SAFETY: tiles are disjoint columns of `y`, which has `m` rows of `n`.
                unsafe { out.range(row * n + first, cols) }.copy_from_slice(part);
            }
        };
        let tiles = n.div_ceil(TILE);
        if tiles > 1 && m * n * k >= PARALLEL_FROM {
            (0..tiles).into_par_iter().for_each(tile);
        } else {
            (0..tiles).for_each(tile);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn numbers(len: usize, salt: u64) -> Vec<f32> {
        (0..len as u64)
            .map(|i| {
                let hash = (i + salt).wrapping_mul(0x9E37_79B9_7F4A_7C15);
                (hash >> 40) as f32 / (1u64 << 23) as f32 - 1.0
            })
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn stored_weights_are_within_half_a_step(rows in 1usize..40, width in 1usize..100, salt: u16) {
            let data = numbers(rows * width, salt.into());
            for format in [Format::F32, Format::Bf16, Format::Q8] {
                let stored = Stored::new(data.clone(), rows, width, format);
                prop_assert_eq!(stored.len(), data.len());
                let mut found = vec![f32::NAN; data.len()];
                stored.widen(0..rows, width, &mut found);
                let largest = |i: usize| {
                    let (row, at) = (i / width, i % width / BLOCK * BLOCK);
                    let block = &data[row * width + at..row * width + width.min(at + BLOCK)];
                    block.iter().fold(0f32, |m, v| m.max(v.abs()))
                };
                for (i, (found, v)) in found.iter().zip(&data).enumerate() {
                    let step = match format {
                        Format::F32 => 0.0,
                        Format::Bf16 => v.abs() / 256.0,
                        Format::Q8 => largest(i) / 254.0 * 1.0001,
                    };
                    prop_assert!((found - v).abs() <= step, "{:?}: {} for {}", format, found, v);
                }
            }
        }

        #[test]
        fn a_product_is_that_of_the_widened_weights_and_a_row_stands_alone(
            m in 1usize..20, n in 1usize..150, k in 1usize..80, parts in 1usize..4, row in 0usize..20,
        ) {
            let row = row % m;
            let (x, w) = (numbers(m * k, 1), numbers(parts * n * k, 2));
            for (format, precision) in
                [(Format::F32, Precision::F32), (Format::Bf16, Precision::Bf16), (Format::Q8, Precision::Q8)]
            {
                let stored = Stored::new(w.clone(), n, k, format);
                let mut wide = vec![0f32; parts * n * k];
                stored.widen(0..parts * n, k, &mut wide);
                let mut input = x.clone();
                precision.round(&mut input);
                for rows in (0..parts).map(|part| part * n..(part + 1) * n) {
                    let mut y = vec![f32::NAN; m * n];
                    stored.times(&x, &mut y, m, rows.clone(), k);
                    for (i, y) in y.iter().enumerate() {
                        let (a, b) = (&input[i / n * k..][..k], &wide[(rows.start + i % n) * k..][..k]);
                        let want: f64 = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                        prop_assert!((f64::from(*y) - want).abs() < 2e-5 * (1.0 + want.abs()));
                    }
                    let mut alone = vec![0f32; n];
                    stored.times(&x[row * k..][..k], &mut alone, 1, rows, k);
                    prop_assert_eq!(&alone[..], &y[row * n..][..n]);
                }
            }
        }
    }

    #[test]
    fn weights_that_are_not_finite_are_not_hidden() {
        for bad in [f32::NAN, f32::INFINITY] {
            for format in [Format::Bf16, Format::Q8] {
                let mut out = [0f32; 2];
                Stored::new(vec![1.0, bad], 1, 2, format).widen(0..1, 2, &mut out);
                assert!(!out[1].is_finite(), "{format:?}");
            }
        }
        let mut out = [1f32; 2];
        Stored::new(vec![0.0; 2], 1, 2, Format::Q8).widen(0..1, 2, &mut out);
        assert_eq!(out, [0.0; 2]);
    }
}
