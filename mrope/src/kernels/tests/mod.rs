#![allow(clippy::unwrap_used)]

mod norm;
mod rotary;

use bytemuck::Pod;
use cuda_twin::testing::noise;
use half::{bf16, f16};

use super::Dtype;

trait Element: Pod + PartialEq + std::fmt::Debug {
    const DTYPE: Dtype;
    /// Of a value rounded to it, relative.
    const ROUNDING: f64;
    fn of(value: f64) -> Self;
    fn wide(self) -> f64;
}

macro_rules! element {
    ($($t:ty, $dtype:ident, $rounding:expr, $of:expr;)*) => {$(
        impl Element for $t {
            const DTYPE: Dtype = Dtype::$dtype;
            const ROUNDING: f64 = $rounding;
            fn of(value: f64) -> Self {
                $of(value)
            }
            fn wide(self) -> f64 {
                self.into()
            }
        }
    )*};
}
element! {
    f32, F32, 0.0, |v| v as f32;
    bf16, Bf16, 1.0 / 256.0, bf16::from_f64;
    f16, F16, 1.0 / 2048.0, f16::from_f64;
}

fn elements<T: Element>(n: usize, seed: u64) -> Vec<T> {
    noise(n, seed).into_iter().map(T::of).collect()
}

/// Within f32 arithmetic and one rounding to the element type.
fn close<T: Element>(who: &str, found: &[T], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{who}");
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let size = T::ROUNDING * expected.abs() + 2e-6 * expected.abs().max(1.0);
        assert!(
            (found.wide() - expected).abs() <= size,
            "{who}: element {i}: {found:?}, expected {expected}"
        );
    }
}
