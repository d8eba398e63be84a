use policy_loss::Products;
use serde::{Deserialize, Serialize};

use super::{bf16, matmul};

/// What matrix products of weights and activations round their operands to. Sums are in `f32`, and so are weights,
/// norms, attention, routers and the head's soft-max.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MatmulPrecision {
    /// Nothing.
    #[default]
    F32,
    /// bfloat16, to nearest even: twice as fast where the processor multiplies it ([`bf16::is_native`]).
    Bf16,
}

/// [`matmul`]'s and [`bf16`]'s.
impl Products for MatmulPrecision {
    fn nt(&self, x: &[f32], w: &[f32], y: &mut [f32], [m, n, k]: [usize; 3], accumulate: bool) {
        let product = if *self == Self::Bf16 { bf16::matmul_nt } else { matmul::matmul_nt };
        product(x, w, y, m, n, k, accumulate);
    }

    fn nn(&self, dy: &[f32], w: &[f32], dx: &mut [f32], [m, n, k]: [usize; 3], accumulate: bool) {
        let product = if *self == Self::Bf16 { bf16::matmul_nn } else { matmul::matmul_nn };
        product(dy, w, dx, m, n, k, accumulate);
    }

    fn tn(&self, dy: &[f32], x: &[f32], dw: &mut [f32], [m, n, k]: [usize; 3], accumulate: bool) {
        let product = if *self == Self::Bf16 { bf16::matmul_tn } else { matmul::matmul_tn };
        product(dy, x, dw, m, n, k, accumulate);
    }
}
