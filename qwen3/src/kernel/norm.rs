//! RMS normalisation: `y = w · x / sqrt(mean(x²) + ε)`.

use super::multiversion;
use super::softmax::dot;

multiversion! {
    /// One row. Returns `1 / sqrt(mean(x²) + ε)`, which the backward needs.
    pub fn rms_norm_row(x: &[f32], w: &[f32], eps: f32, y: &mut [f32]) -> f32 {
        let rstd = 1.0 / (dot(x, x) / x.len() as f32 + eps).sqrt();
        for ((y, &x), &w) in y.iter_mut().zip(x).zip(w) {
            *y = x * rstd * w;
        }
        rstd
    }

    /// The gradient of one row: overwrites `dx`, adds to `dw`.
    pub fn rms_norm_row_backward(x: &[f32], w: &[f32], rstd: f32, dy: &[f32], dx: &mut [f32], dw: &mut [f32]) {
        let n = x.len();
        let mut lanes = [0f32; 8];
        let whole = n / 8 * 8;
        for start in (0..whole).step_by(8) {
            for lane in 0..8 {
                let i = start + lane;
                lanes[lane] += dy[i] * w[i] * x[i];
            }
        }
        let mut sum = 0f32;
        for i in whole..n {
            sum += dy[i] * w[i] * x[i];
        }
        for lane in lanes {
            sum += lane;
        }
        let shared = sum * rstd * rstd * rstd / n as f32;
        for i in 0..n {
            dx[i] = dy[i] * w[i] * rstd - x[i] * shared;
            dw[i] += dy[i] * x[i] * rstd;
        }
    }
}
