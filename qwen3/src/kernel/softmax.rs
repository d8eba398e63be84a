//! Row reductions with a fixed order: dot, maximum, soft-max, log-probabilities and entropy.

use policy_loss::logits::{self, exp, max};
pub use policy_loss::logits::{BLOCK, Partial, RowStats};

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

/// By parts, since a search that may end anywhere is compiled without wide instructions.
#[inline(always)]
fn place_of(row: &[f32], value: f32) -> usize {
    const PART: usize = 256;
    for (i, part) in row.chunks(PART).enumerate() {
        let mut found = false;
        for z in part {
            found |= *z == value;
        }
        if let (true, Some(place)) = (found, part.iter().position(|z| *z == value)) {
            return PART * i + place;
        }
    }
    0
}

multiversion! {
    /// [`policy_loss::logits::row_stats`] with an exponential that vectorises: what training and sampling take from a row of
    /// logits, so that a log-probability has the same bits in both.
    pub fn row_stats(row: &[f32], inv_temperature: f32) -> RowStats {
        logits::row_stats(row, inv_temperature, exp)
    }

    /// [`row_stats`] of a row, with those of each of its blocks of [`BLOCK`] columns.
    pub fn block_stats(row: &[f32], inv_temperature: f32, blocks: &mut [Partial]) -> RowStats {
        let mut all = Partial::NONE;
        for (columns, block) in row.chunks(BLOCK).zip(blocks) {
            *block = Partial::of_block(columns, inv_temperature, &exp);
            all = all.merge(*block, inv_temperature, &exp);
        }
        all.stats(inv_temperature)
    }

    /// [`block_stats`] of a row and of what `banned` leaves of it, in one pass: the latter with the bits of the row whose banned
    /// logits are `-inf`.
    pub fn block_stats_and_left(
        row: &[f32],
        banned: &[bool],
        inv_temperature: f32,
        blocks: [&mut [Partial]; 2]
    ) -> [RowStats; 2] {
        let ([mut all, mut left], [of_all, of_left]) = ([Partial::NONE; 2], blocks);
        let columns = row.chunks(BLOCK).zip(banned.chunks(BLOCK));
        for ((columns, banned), (in_all, in_left)) in columns.zip(of_all.iter_mut().zip(of_left)) {
            [*in_all, *in_left] = Partial::of_block_and_left(columns, banned, inv_temperature, &exp);
            all = all.merge(*in_all, inv_temperature, &exp);
            left = left.merge(*in_left, inv_temperature, &exp);
        }
        [all.stats(inv_temperature), left.stats(inv_temperature)]
    }

    /// The place of the largest number, the first of equals; 0 where none is a number.
    pub fn argmax(row: &[f32]) -> usize {
        place_of(row, max(row))
    }

    /// The first place of a number that is in the row; 0 where it is not.
    pub fn first_place(row: &[f32], value: f32) -> usize {
        place_of(row, value)
    }

    /// `exp(log_prob(z))` of some logits of a row whose statistics are known; 0 for −∞.
    pub fn probabilities(logits: &[f32], stats: &RowStats, out: &mut [f32]) {
        for (p, z) in out.iter_mut().zip(logits) {
            let of_finite = exp(stats.log_prob(*z));
            *p = if *z == f32::NEG_INFINITY { 0.0 } else { of_finite };
        }
    }

    /// Turns scores into probabilities in place; returns the log-sum-exp.
    pub fn softmax_row(row: &mut [f32]) -> f32 {
        let top = max(row);
        for v in row.iter_mut() {
            *v = exp(*v - top);
        }
        let (eights, rest) = row.as_chunks::<8>();
        let mut lanes = [0f32; 8];
        for eight in eights {
            for lane in 0..8 {
                lanes[lane] += eight[lane];
            }
        }
        let mut sum = 0f32;
        for v in rest {
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
            let (a, b) = (row_stats(&with, 1.25), row_stats(&without, 1.25));
            assert!((a.log_sum - b.log_sum).abs() < 1e-6);
            assert!((a.entropy - b.entropy).abs() < 1e-6, "length {n}: {} and {}", a.entropy, b.entropy);
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
            let stats = row_stats(&row, 1.0);
            let found = stats.top + stats.log_sum;
            assert!((f64::from(found) - lse).abs() < 2e-6 * (1.0 + lse.abs()), "length {n}");
            assert!((f64::from(stats.entropy) - entropy).abs() < 1e-5, "length {n}");
            let mut p = row.clone();
            let also = softmax_row(&mut p);
            assert!((also - found).abs() < 2e-6 * (1.0 + lse.abs() as f32));
            assert!((p.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        }
    }
}
