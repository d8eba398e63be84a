//! SwiGLU and the vectorisable exponential.

use super::multiversion;

/// `exp(x)` with relative error below 4e-7 on `[-87, 88]`; saturates outside, and gives `NaN` for `NaN`.
///
/// Cephes-style: `2ⁿ · p(r)`. Written with comparisons and the add-1.5·2²³ rounding trick, because `clamp`,
/// `round_ties_even` and a saturating cast keep a loop scalar.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
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

multiversion! {
    /// `y = silu(gate) · up` for one row laid out `[gate | up]`, each half as long as `y`.
    pub fn swiglu_row(gate_up: &[f32], y: &mut [f32]) {
        let (gate, up) = gate_up.split_at(y.len());
        for ((y, &g), &u) in y.iter_mut().zip(gate).zip(up) {
            *y = g / (1.0 + exp(-g)) * u;
        }
    }

    /// The gradient of [`swiglu_row`]: from `dy` to `d_gate_up`, laid out as `gate_up`.
    pub fn swiglu_row_backward(gate_up: &[f32], dy: &[f32], d_gate_up: &mut [f32]) {
        let (gate, up) = gate_up.split_at(dy.len());
        let (d_gate, d_up) = d_gate_up.split_at_mut(dy.len());
        for i in 0..dy.len() {
            let sigmoid = 1.0 / (1.0 + exp(-gate[i]));
            let silu = gate[i] * sigmoid;
            d_up[i] = dy[i] * silu;
            d_gate[i] = dy[i] * up[i] * (sigmoid + silu * (1.0 - sigmoid));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_its_stated_error() {
        let mut x = -86.9f32;
        while x < 87.9 {
            let want = f64::from(x).exp();
            let relative = (f64::from(exp(x)) - want).abs() / want;
            assert!(relative < 4e-7, "exp({x}) is off by {relative:e}");
            x += 0.0371;
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(f32::NEG_INFINITY) < 1.7e-38);
        assert!(exp(f32::INFINITY).is_finite());
    }
}
