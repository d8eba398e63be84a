//! SwiGLU, with the exponential of `policy-loss`.

pub use policy_loss::logits::exp;

use super::multiversion;

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
