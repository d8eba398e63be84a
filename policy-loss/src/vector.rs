//! A row of logits with an exponential that vectorises, compiled for the instructions that processors have.

use crate::logits::{self, Logit, Partial, RowStats, exp};

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

    /// [`Partial::with`].
    fn with_columns(partial: Partial, columns: &[T], inv_temperature: f32) -> Partial {
        partial.with(columns, inv_temperature, exp)
    }

    /// [`logits::columns_grad`].
    fn columns_grad(columns: &mut [T], target: Option<usize>, stats: &RowStats, upstream: [f32; 2]) {
        logits::columns_grad(columns, target, stats, upstream, exp);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
