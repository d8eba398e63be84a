//! Intervals and tests on stored scores. All of it is seeded and draws nothing but integers.

use crate::key::DetRng;

/// Resamples of a bootstrap and draws of a permutation test.
const DRAWS: usize = 10_000;

/// Differences up to which the sign-flip test is exact.
const EXACT: usize = 16;

/// The arithmetic mean; 0 of nothing.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// The 95 % percentile bootstrap interval of the mean of cell means. `cells` holds, for each cell and instance, the
/// scores of its samples; instances are drawn within cells, samples within instances.
pub fn bootstrap(cells: &[Vec<Vec<f64>>], seed: [u8; 32]) -> (f64, f64) {
    let mut rng = DetRng::from_seed(seed);
    let mut cell_mean = |instances: &Vec<Vec<f64>>| {
        let mut sum = 0.0;
        for _ in 0..instances.len() {
            let samples = rng.pick(instances);
            sum += match samples.len() {
                0 => 0.0,
                1 => samples[0],
                k => (0..k).map(|_| *rng.pick(samples)).sum::<f64>() / k as f64,
            };
        }
        sum / instances.len().max(1) as f64
    };
    let mut means: Vec<f64> = (0..DRAWS)
        .map(|_| cells.iter().map(&mut cell_mean).sum::<f64>() / cells.len().max(1) as f64)
        .collect();
    means.sort_by(f64::total_cmp);
    (means[DRAWS / 40], means[DRAWS - 1 - DRAWS / 40])
}

/// Wilson's 95 % interval of a share of `right` among `total`; from 0 to 1 for none.
pub fn wilson(right: usize, total: usize) -> (f64, f64) {
    if total == 0 {
        return (0.0, 1.0);
    }
    const Z: f64 = 1.959_963_984_540_054;
    let (n, p) = (total as f64, right as f64 / total as f64);
    let (centre, scale) = (p + Z * Z / (2.0 * n), 1.0 + Z * Z / n);
    let spread = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    (((centre - spread) / scale).max(0.0), ((centre + spread) / scale).min(1.0))
}

/// The two-sided p of a sign-flip permutation test on paired differences: exact up to 16 of them, else by 10,000 draws.
pub fn sign_flip(differences: &[f64], seed: [u8; 32]) -> f64 {
    let observed = differences.iter().sum::<f64>().abs();
    // Sums in another order differ by rounding; equal ones must count.
    let as_extreme = |sum: f64| sum.abs() >= observed - 1e-12 * (1.0 + observed);
    let flipped = |flip: &dyn Fn(usize) -> bool| -> f64 {
        differences.iter().enumerate().map(|(i, d)| if flip(i) { -d } else { *d }).sum()
    };
    if differences.len() <= EXACT {
        let all = 1u32 << differences.len();
        let extreme = (0..all).filter(|bits| as_extreme(flipped(&|i| bits >> i & 1 == 1))).count();
        return extreme as f64 / f64::from(all);
    }
    let mut rng = DetRng::from_seed(seed);
    let mut extreme = 0;
    for _ in 0..DRAWS {
        let bits: Vec<u64> = (0..differences.len().div_ceil(64)).map(|_| rng.next_u64()).collect();
        extreme += usize::from(as_extreme(flipped(&|i| bits[i / 64] >> (i % 64) & 1 == 1)));
    }
    (extreme + 1) as f64 / (DRAWS + 1) as f64
}

/// Holm's correction for several tests, in the order given.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let mut adjusted = vec![0.0; p.len()];
    let mut highest = 0.0f64;
    for (rank, &i) in order.iter().enumerate() {
        highest = highest.max(((p.len() - rank) as f64 * p[i]).min(1.0));
        adjusted[i] = highest;
    }
    adjusted
}

/// The least-squares slope of scores on `log2(out_tokens)`: what a doubling of the length costs. 0 for one length.
pub fn length_decay(points: &[(u32, f64)]) -> f64 {
    let x: Vec<f64> = points.iter().map(|p| f64::from(p.0).log2()).collect();
    let y: Vec<f64> = points.iter().map(|p| p.1).collect();
    let (x_mean, y_mean) = (mean(&x), mean(&y));
    let spread: f64 = x.iter().map(|x| (x - x_mean).powi(2)).sum();
    let shared: f64 = x.iter().zip(&y).map(|(x, y)| (x - x_mean) * (y - y_mean)).sum();
    if spread == 0.0 { 0.0 } else { shared / spread }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: [u8; 32] = [3; 32];

    fn near(found: f64, expected: f64, by: f64) {
        assert!((found - expected).abs() <= by, "{found} for {expected}");
    }

    #[test]
    fn check_values() {
        assert_eq!(sign_flip(&[0.1, 0.2, -0.05, 0.3, 0.0], SEED), 0.25);
        for (found, expected) in holm(&[0.001, 0.02, 0.03, 0.2]).into_iter().zip([0.004, 0.06, 0.06, 0.2]) {
            near(found, expected, 1e-12);
        }
        let points: Vec<(u32, f64)> =
            [1024, 2048, 4096, 8192].into_iter().zip([0.9, 0.8, 0.65, 0.4]).collect();
        near(length_decay(&points), -0.165, 1e-12);
        assert_eq!(length_decay(&points[..1]), 0.0);
    }

    /// Half-widths for scores of standard deviation 0.25.
    #[test]
    fn bootstrap_has_the_normal_width() {
        for (n, expected) in [(50, 0.069), (200, 0.035)] {
            let scores: Vec<Vec<f64>> = (0..n).map(|i| vec![if i % 2 == 0 { 0.25 } else { 0.75 }]).collect();
            let (low, high) = bootstrap(&[scores], SEED);
            near((high - low) / 2.0, expected, 0.006);
            near(f64::midpoint(low, high), 0.5, 0.01);
        }
        let one = |samples: Vec<f64>| bootstrap(&[vec![samples]], SEED);
        assert_eq!(one(vec![0.5]), (0.5, 0.5));
        let (low, high) = one(vec![0.0, 1.0]);
        assert!(low == 0.0 && high == 1.0);
    }

    /// Values of the closed form: (2np + z² ± z √(z² + 4np(1 − p))) / (2 (n + z²)).
    #[test]
    fn wilson_values() {
        assert_eq!(wilson(0, 0), (0.0, 1.0));
        for ((right, total), (low, high)) in
            [((0, 20), (0.0, 0.161_125)), ((1, 20), (0.008_881, 0.236_131)), ((20, 20), (0.838_875, 1.0))]
        {
            let found = wilson(right, total);
            near(found.0, low, 1e-6);
            near(found.1, high, 1e-6);
        }
    }

    #[test]
    fn drawn_test_agrees_with_the_exact_one() {
        let differences: Vec<f64> = (0..16).map(|i| f64::from(i % 5) * 0.1 - 0.12).collect();
        let exact = sign_flip(&differences, SEED);
        let mut longer = differences.clone();
        longer.push(0.0);
        near(sign_flip(&longer, SEED), exact, 0.02);
    }
}
