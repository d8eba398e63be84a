//! Router losses: load balance and z-loss, with their gradients to the logits.

use crate::router::Float;
use crate::{Error, Result};

/// Which of the two published scalings of the load-balance loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuxForm {
    /// `E · Σ_i c_i/(T·K) · P̄_i`: 1 at balance (Switch Transformer, arXiv 2101.03961 eq. 4).
    Switch,
    /// `E · Σ_i c_i/T · P̄_i`: `K` at balance (transformers).
    Hf,
}

fn softmax_row<F: Float>(row: &[F]) -> (Vec<F>, F) {
    let top = row.iter().copied().fold(F::of(f64::NEG_INFINITY), |a, b| if b > a { b } else { a });
    let exps: Vec<F> = row.iter().map(|s| (*s - top).exp()).collect();
    let sum = exps.iter().fold(F::of(0.0), |a, b| a + *b);
    (exps.into_iter().map(|e| e / sum).collect(), top + sum.ln())
}

/// The load-balance loss of one layer and its gradient to `logits` `[tokens, E]`. `counts` `[E]` says how many
/// (token, slot) pairs chose each expert; it is a constant. Returns 0 for no tokens.
pub fn load_balance<F: Float>(
    logits: &[F],
    experts: usize,
    counts: &[u32],
    top_k: usize,
    form: AuxForm,
) -> Result<(F, Vec<F>)> {
    if counts.len() != experts {
        return Err(Error::Shape { what: "counts", found: counts.len(), expected: experts });
    }
    let tokens = logits.len() / experts;
    let per_count = match form {
        AuxForm::Switch => 1.0 / (tokens * top_k).max(1) as f64,
        AuxForm::Hf => 1.0 / tokens.max(1) as f64,
    };
    let share: Vec<F> = counts.iter().map(|c| F::of(f64::from(*c) * per_count)).collect();
    let scale = F::of(experts as f64 / tokens.max(1) as f64);
    let (mut loss, mut gradient) = (F::of(0.0), Vec::with_capacity(logits.len()));
    for row in logits.chunks_exact(experts) {
        let (p, _) = softmax_row(row);
        let inner = p.iter().zip(&share).fold(F::of(0.0), |a, (p, f)| a + *p * *f);
        loss = loss + scale * inner;
        gradient.extend(p.iter().zip(&share).map(|(p, f)| scale * *p * (*f - inner)));
    }
    Ok((loss, gradient))
}

/// `mean_t (log Σ exp s_t)²` and its gradient to `logits` `[tokens, E]` (arXiv 2202.08906 eq. 5).
pub fn z_loss<F: Float>(logits: &[F], experts: usize) -> (F, Vec<F>) {
    let scale = F::of(1.0 / (logits.len() / experts).max(1) as f64);
    let (mut loss, mut gradient) = (F::of(0.0), Vec::with_capacity(logits.len()));
    for row in logits.chunks_exact(experts) {
        let (p, lse) = softmax_row(row);
        loss = loss + scale * lse * lse;
        gradient.extend(p.iter().map(|p| F::of(2.0) * scale * lse * *p));
    }
    (loss, gradient)
}
