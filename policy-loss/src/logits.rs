//! A row of logits on the CPU: the fast path that the candle operations run.

use half::bf16;

/// The element types of logits. Arithmetic is f32, rounded once.
pub(crate) trait Logit: Copy + Send + Sync {
    fn wide(self) -> f32;
    fn round(value: f32) -> Self;
}

impl Logit for f32 {
    fn wide(self) -> f32 {
        self
    }
    fn round(value: f32) -> Self {
        value
    }
}

impl Logit for bf16 {
    fn wide(self) -> f32 {
        self.to_f32()
    }
    fn round(value: f32) -> Self {
        Self::from_f32(value)
    }
}

/// Log-probability of the target, entropy, largest logit, and the logarithm of the sum of exponentials relative to it.
/// The last two are kept apart because their sum has lost the digits of the second where logits are large.
pub(crate) type Scores = [f32; 4];

/// Scores of `softmax(row / temperature)` in one pass, rescaled when the maximum grows.
pub(crate) fn row_stats<T: Logit>(row: &[T], target: usize, inv_temperature: f32) -> Scores {
    let (mut top, mut sum, mut weighted) = (f32::NEG_INFINITY, 0f32, 0f32);
    for logit in row.iter().map(|a| a.wide()) {
        if logit == f32::NEG_INFINITY {
            continue;
        }
        if logit > top {
            if sum > 0.0 {
                let x = (top - logit) * inv_temperature;
                let shrink = x.exp();
                weighted = shrink * (weighted + x * sum);
                sum *= shrink;
            }
            top = logit;
        }
        let x = (logit - top) * inv_temperature;
        let e = x.exp();
        sum += e;
        weighted += e * x;
    }
    let log_sum = sum.ln();
    [(row[target].wide() - top) * inv_temperature - log_sum, log_sum - weighted / sum, top, log_sum]
}

/// Replaces a row of logits by the gradient of a loss with `∂L/∂logp = g` and `∂L/∂entropy = h`.
pub(crate) fn row_grad<T: Logit>(
    row: &mut [T],
    target: usize,
    inv_temperature: f32,
    [_, entropy, top, log_sum]: Scores,
    [g, h]: [f32; 2],
) {
    if g == 0.0 && h == 0.0 {
        row.fill(T::round(0.0));
        return;
    }
    for (v, a) in row.iter_mut().enumerate() {
        let log_p = (a.wide() - top) * inv_temperature - log_sum;
        let p = log_p.exp();
        let hit = if v == target { g } else { 0.0 };
        // Where p is 0, log_p may be -inf, and 0·log 0 is 0.
        let rest = if p > 0.0 { p * (g + h * (log_p + entropy)) } else { 0.0 };
        *a = T::round((hit - rest) * inv_temperature + 0.0);
    }
}
