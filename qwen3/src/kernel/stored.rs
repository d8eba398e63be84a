//! Weight matrices as a decoder stores them: in `f32`, or in fewer bits and widened tile by tile when they are used.

use std::ops::Range;

use half::bf16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::SharedMut;
use super::matmul::matmul_nt;

/// The numbers that a decoder computes with.
///
/// With anything but [`Precision::F32`] a decoder's log-probabilities differ from those of the training forward, as
/// they do between an inference engine and a trainer; sums are `f32` in all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// The training forward's numbers, bit for bit.
    #[default]
    F32,
    /// Weights, the residual stream, what goes into products, keys and values in bfloat16, rounded to nearest even.
    Bf16,
    /// Weights as 8-bit integers in blocks of 32 with an `f32` scale, symmetric; activations, norms and routers in
    /// `f32`.
    Q8,
}

impl Precision {
    /// Rounds activations to what is stored between operations.
    pub(crate) fn round(self, values: &mut [f32]) {
        if self == Self::Bf16 {
            values.iter_mut().for_each(|v| *v = bf16::from_f32(*v).to_f32());
        }
    }
}

/// A weight matrix `[rows, k]` that can multiply.
pub(crate) trait Matrix: Sync {
    /// `y[m, n] = x[m, k] · w[rows]ᵀ`, where `n` counts `rows`. The bits of a row of `y` depend on that row of `x`
    /// alone.
    fn times(&self, x: &[f32], y: &mut [f32], m: usize, rows: Range<usize>, k: usize);
}

impl Matrix for [f32] {
    fn times(&self, x: &[f32], y: &mut [f32], m: usize, rows: Range<usize>, k: usize) {
        let n = rows.len();
        matmul_nt(x, &self[rows.start * k..rows.end * k], y, m, n, k, false);
    }
}

/// A matrix in memory, by rows.
pub(crate) enum Stored {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
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
    /// Takes `data`, rows of `width`.
    pub(crate) fn new(data: Vec<f32>, width: usize, precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32(data),
            Precision::Bf16 => {
                let mut narrow = vec![bf16::ZERO; data.len()];
                narrow.convert_from_f32_slice(&data);
                Self::Bf16(narrow)
            }
            Precision::Q8 => {
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
            Self::F32(data) => data.len(),
            Self::Bf16(data) => data.len(),
            Self::Q8 { values, .. } => values.len(),
        }
    }

    /// Writes the numbers of some rows of `width` to `out`.
    pub(crate) fn widen(&self, rows: Range<usize>, width: usize, out: &mut [f32]) {
        let range = rows.start * width..rows.end * width;
        match self {
            Self::F32(data) => out.copy_from_slice(&data[range]),
            Self::Bf16(data) => data[range].convert_to_f32_slice(out),
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
        let rounded: Vec<f32>;
        let x = match self {
            Self::F32(data) => return data.times(x, y, m, rows, k),
            Self::Bf16(_) => {
                rounded = x[..m * k].iter().map(|v| bf16::from_f32(*v).to_f32()).collect();
                &rounded
            }
            Self::Q8 { .. } => x,
        };
        let n = rows.len();
        let out = SharedMut::new(y);
        let tile = |index: usize| {
            let first = index * TILE;
            let cols = TILE.min(n - first);
            let mut w = vec![0f32; cols * k];
            self.widen(rows.start + first..rows.start + first + cols, k, &mut w);
            let mut part = vec![0f32; m * cols];
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
            for precision in [Precision::F32, Precision::Bf16, Precision::Q8] {
                let stored = Stored::new(data.clone(), width, precision);
                prop_assert_eq!(stored.len(), data.len());
                let mut found = vec![f32::NAN; data.len()];
                stored.widen(0..rows, width, &mut found);
                let largest = |i: usize| {
                    let (row, at) = (i / width, i % width / BLOCK * BLOCK);
                    let block = &data[row * width + at..row * width + width.min(at + BLOCK)];
                    block.iter().fold(0f32, |m, v| m.max(v.abs()))
                };
                for (i, (found, v)) in found.iter().zip(&data).enumerate() {
                    let step = match precision {
                        Precision::F32 => 0.0,
                        Precision::Bf16 => v.abs() / 256.0,
                        Precision::Q8 => largest(i) / 254.0 * 1.0001,
                    };
                    prop_assert!((found - v).abs() <= step, "{:?}: {} for {}", precision, found, v);
                }
            }
        }

        #[test]
        fn a_product_is_that_of_the_widened_weights_and_a_row_stands_alone(
            m in 1usize..20, n in 1usize..300, k in 1usize..80, from in 0usize..300, row in 0usize..20,
        ) {
            let (from, row) = (from % n, row % m);
            let (x, w) = (numbers(m * k, 1), numbers(n * k, 2));
            for precision in [Precision::F32, Precision::Bf16, Precision::Q8] {
                let stored = Stored::new(w.clone(), k, precision);
                let mut wide = vec![0f32; n * k];
                stored.widen(0..n, k, &mut wide);
                let mut input = x.clone();
                precision.round(&mut input);
                let count = n - from;
                let mut y = vec![f32::NAN; m * count];
                stored.times(&x, &mut y, m, from..n, k);
                for (i, y) in y.iter().enumerate() {
                    let (a, b) = (&input[i / count * k..][..k], &wide[(from + i % count) * k..][..k]);
                    let want: f64 = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                    prop_assert!((f64::from(*y) - want).abs() < 2e-5 * (1.0 + want.abs()));
                }
                let mut alone = vec![0f32; count];
                stored.times(&x[row * k..][..k], &mut alone, 1, from..n, k);
                prop_assert_eq!(&alone[..], &y[row * count..][..count]);
            }
        }
    }

    #[test]
    fn weights_that_are_not_finite_are_not_hidden() {
        for bad in [f32::NAN, f32::INFINITY] {
            for precision in [Precision::Bf16, Precision::Q8] {
                let mut out = [0f32; 2];
                Stored::new(vec![1.0, bad], 2, precision).widen(0..1, 2, &mut out);
                assert!(!out[1].is_finite(), "{precision:?}");
            }
        }
        let mut out = [1f32; 2];
        Stored::new(vec![0.0; 2], 2, Precision::Q8).widen(0..1, 2, &mut out);
        assert_eq!(out, [0.0; 2]);
    }
}
