//! A row of logits with an exponential that vectorises, compiled for the instructions that processors have.

use crate::logits::{self, Logit, RowStats};

/// `exp(x)` with relative error below 4e-7 for `x` of -87 to 0, which is all that rows of logits ask for; saturates below,
/// and gives `NaN` for `NaN`.
///
/// `2ⁿ · p(r)` after Cephes. Comparisons and the addition of 1.5·2²³ instead of `clamp`, `round` and a cast, which keep a
/// loop scalar.
#[inline(always)]
fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    let clipped = if x < -87.0 { -87.0 } else { x };
    let clipped = if clipped > 88.0 { 88.0 } else { clipped };
    let shifted = clipped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = clipped - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let p = 1.987_569_1e-4f32;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let p = p * r * r + r + 1.0;
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    p * f32::from_bits(exponent)
}

/// Compiles a body for AVX-512, for AVX2 and for the baseline, and picks one at run time. No multiply-add is fused in any of
/// them, so the bits are the same.
macro_rules! multiversion {
    ($($(#[$meta:meta])* fn $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? $body:block)*) => { $(
        $(#[$meta])*
        pub(crate) fn $name<T: Logit>($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body<T: Logit>($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
                fn avx512<T: Logit>($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                #[target_feature(enable = "avx2")]
                fn avx2<T: Logit>($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                let has = (
                    std::arch::is_x86_feature_detected!("avx512f")
                        && std::arch::is_x86_feature_detected!("avx512bw")
                        && std::arch::is_x86_feature_detected!("avx512vl"),
                    std::arch::is_x86_feature_detected!("avx2"),
                );
                match has {
                    // SAFETY: the features the function is compiled for were just detected.
                    (true, _) => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    (_, true) => return unsafe { avx2($($arg),*) },
                    _ => {}
                }
            }
            body($($arg),*)
        }
    )* };
}

multiversion! {
    /// [`logits::row_stats`].
    fn row_stats(row: &[T], inv_temperature: f32) -> RowStats {
        logits::row_stats(row, inv_temperature, exp)
    }

    /// [`logits::row_grad`].
    fn row_grad(row: &mut [T], target: usize, stats: &RowStats, upstream: [f32; 2]) {
        logits::row_grad(row, target, stats, upstream, exp);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_its_stated_error() {
        let mut x = -87.0f32;
        while x <= 0.0 {
            let want = f64::from(x).exp();
            let relative = (f64::from(exp(x)) - want).abs() / want;
            assert!(relative < 4e-7, "exp({x}) is off by {relative:e}");
            x += 0.0037;
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(f32::NEG_INFINITY) < 1.7e-38);
    }

    #[test]
    fn every_version_has_the_same_bits() {
        for n in [1usize, 7, 16, 33, 1000] {
            let row: Vec<f32> = (0..n).map(|i| ((i * 7919) % 41) as f32 * 0.37 - 8.0).collect();
            let (found, plain) = (row_stats(&row, 0.8), logits::row_stats(&row, 0.8, exp));
            assert_eq!(found, plain, "{n} logits");
            let (mut dz, mut want) = (row.clone(), row);
            row_grad(&mut dz, n / 2, &found, [0.7, -0.2]);
            logits::row_grad(&mut want, n / 2, &plain, [0.7, -0.2], exp);
            assert_eq!(dz, want, "{n} logits");
        }
    }
}
