//! Row reductions with a fixed order: dot, maximum, soft-max, log-probabilities and entropy.

use super::activation::exp;
use super::multiversion;

/// `Σ a·b` in eight lanes, then the lanes in order: the same bits on every call with the same rows.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; 8];
    let (a_chunks, b_chunks) = (a.chunks_exact(8), b.chunks_exact(8));
    let mut sum = 0f32;
    for (x, y) in a_chunks.remainder().iter().zip(b_chunks.remainder()) {
        sum += x * y;
    }
    for (x, y) in a_chunks.zip(b_chunks) {
        for lane in 0..8 {
            lanes[lane] += x[lane] * y[lane];
        }
    }
    for lane in lanes {
        sum += lane;
    }
    sum
}

/// The largest element; `-inf` for an empty row. `NaN` elements are ignored.
#[inline(always)]
pub fn max(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 8];
    let chunks = row.chunks_exact(8);
    let mut top = f32::NEG_INFINITY;
    for &v in chunks.remainder() {
        top = if v > top { v } else { top };
    }
    for chunk in chunks {
        for lane in 0..8 {
            lanes[lane] = if chunk[lane] > lanes[lane] { chunk[lane] } else { lanes[lane] };
        }
    }
    for v in lanes {
        top = if v > top { v } else { top };
    }
    top
}

/// The statistics of one row of logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowStats {
    /// `log Σ exp(z)`.
    pub log_sum_exp: f32,
    /// `-Σ p log p`, in nats.
    pub entropy: f32,
}

impl RowStats {
    /// The log-probability of a token with logit `z`.
    #[inline]
    pub fn log_prob(&self, z: f32) -> f32 {
        z - self.log_sum_exp
    }
}

multiversion! {
    /// Scales a row of logits by `1 / temperature` in place.
    pub fn scale_row(row: &mut [f32], factor: f32) {
        for v in row {
            *v *= factor;
        }
    }

    /// Log-sum-exp and entropy of a row of (already scaled) logits, in one pass after the maximum. A logit of
    /// `-inf` has probability 0 and adds nothing to the entropy; at least one must be finite.
    pub fn row_stats(row: &[f32]) -> RowStats {
        let top = max(row);
        let (mut sums, mut weighted) = ([0f32; 8], [0f32; 8]);
        let chunks = row.chunks_exact(8);
        let (mut sum, mut weight) = (0f32, 0f32);
        for &v in chunks.remainder() {
            let e = exp(v - top);
            sum += e;
            weight += if v > f32::NEG_INFINITY { e * (v - top) } else { 0.0 };
        }
        for chunk in chunks {
            for lane in 0..8 {
                let e = exp(chunk[lane] - top);
                sums[lane] += e;
                let term = e * (chunk[lane] - top);
                weighted[lane] += if chunk[lane] > f32::NEG_INFINITY { term } else { 0.0 };
            }
        }
        for lane in 0..8 {
            sum += sums[lane];
            weight += weighted[lane];
        }
        let log_sum = sum.ln();
        RowStats { log_sum_exp: top + log_sum, entropy: log_sum - weight / sum }
    }

    /// Turns scores into probabilities in place; returns the log-sum-exp.
    pub fn softmax_row(row: &mut [f32]) -> f32 {
        let top = max(row);
        let mut lanes = [0f32; 8];
        let mut sum = 0f32;
        let mut chunks = row.chunks_exact_mut(8);
        for chunk in &mut chunks {
            for lane in 0..8 {
                let e = exp(chunk[lane] - top);
                chunk[lane] = e;
                lanes[lane] += e;
            }
        }
        for v in chunks.into_remainder() {
            *v = exp(*v - top);
            sum += *v;
        }
        for lane in lanes {
            sum += lane;
        }
        let factor = 1.0 / sum;
        for v in row {
            *v *= factor;
        }
        top + sum.ln()
    }

    /// The gradient of `(log_prob of target, entropy)` to a row of logits, in place over the logits.
    ///
    /// `dz = d_logp · (onehot − p) − d_entropy · p · (log p + entropy)`; 0 for a logit of `-inf`.
    pub fn log_prob_row_backward(row: &mut [f32], target: usize, stats: RowStats, d_logp: f32, d_entropy: f32) {
        for z in row.iter_mut() {
            let log_p = *z - stats.log_sum_exp;
            let p = exp(log_p);
            let d = -p * (d_logp + d_entropy * (log_p + stats.entropy));
            *z = if *z > f32::NEG_INFINITY { d } else { 0.0 };
        }
        row[target] += d_logp;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_masked_logit_is_as_good_as_absent() {
        for n in [2usize, 7, 8, 9, 30] {
            let all: Vec<f32> = (0..n).map(|i| ((i * 5) % 7) as f32 * 0.7 - 2.0).collect();
            let masked = |i: usize| i % 3 == 1;
            let with: Vec<f32> =
                all.iter().enumerate().map(|(i, z)| if masked(i) { f32::NEG_INFINITY } else { *z }).collect();
            let without: Vec<f32> =
                all.iter().enumerate().filter(|(i, _)| !masked(*i)).map(|(_, z)| *z).collect();
            let (a, b) = (row_stats(&with), row_stats(&without));
            assert!((a.log_sum_exp - b.log_sum_exp).abs() < 1e-6);
            assert!((a.entropy - b.entropy).abs() < 1e-6, "length {n}: {} and {}", a.entropy, b.entropy);
            for d_entropy in [0.0, 0.5] {
                let (mut dz, mut want) = (with.clone(), without.clone());
                log_prob_row_backward(&mut dz, 0, a, 1.0, d_entropy);
                log_prob_row_backward(&mut want, 0, b, 1.0, d_entropy);
                let mut want = want.into_iter();
                for (i, d) in dz.into_iter().enumerate() {
                    let want = if masked(i) { 0.0 } else { want.next().unwrap() };
                    assert!((d - want).abs() < 1e-6, "length {n}, logit {i}: {d} and {want}");
                }
            }
        }
    }

    #[test]
    fn row_stats_match_f64_at_every_length() {
        for n in 1..40usize {
            let row: Vec<f32> = (0..n).map(|i| ((i * 7919) % 23) as f32 * 0.9 - 8.0).collect();
            let top = row.iter().copied().fold(f32::MIN, f32::max);
            let sum: f64 = row.iter().map(|v| f64::from(v - top).exp()).sum();
            let lse = f64::from(top) + sum.ln();
            let entropy: f64 = row
                .iter()
                .map(|v| {
                    let l = f64::from(*v) - lse;
                    -l.exp() * l
                })
                .sum();
            let stats = row_stats(&row);
            assert!((f64::from(stats.log_sum_exp) - lse).abs() < 2e-6 * (1.0 + lse.abs()), "length {n}");
            assert!((f64::from(stats.entropy) - entropy).abs() < 1e-5, "length {n}");
            let mut p = row.clone();
            let also = softmax_row(&mut p);
            assert!((also - stats.log_sum_exp).abs() < 2e-6 * (1.0 + lse.abs() as f32));
            assert!((p.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        }
    }
}
