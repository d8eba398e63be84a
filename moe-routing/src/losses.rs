//! Router losses: load balance and z-loss, with their gradients to the logits.
//!
//! The load-balance loss is linear in the probabilities, so everything that implementations differ in lies in
//! **which counts they hand it**: a layer's own or those of all layers ([`AuxPooling`]), natural or executed
//! ones ([`AuxCounts`]), a micro-batch's or the merged ones of the whole batch.

use crate::Result;
use crate::float::Float;
use crate::load::ExpertCounts;
use crate::router::{Router, check_rows, max, sigmoid};

/// Which of the two published scalings of the load-balance loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuxForm {
    /// `E · Σ_i c_i/(T·K) · P̄_i`: 1 at balance (Switch Transformer, arXiv 2101.03961 eq. 4).
    Switch,
    /// `E · Σ_i c_i/T · P̄_i`: `K` at balance (transformers).
    Hf,
}

impl AuxForm {
    /// What multiplies the mean probability of each expert, but for `E`: its share of all pairs, times the loss at balance.
    pub fn shares(self, counts: &ExpertCounts, top_k: usize) -> Vec<f64> {
        let at_balance = match self {
            Self::Switch => 1.0,
            Self::Hf => top_k as f64,
        };
        let share = |count: &u64| *count as f64 / counts.total().max(1) as f64 * at_balance;
        counts.as_slice().iter().map(share).collect()
    }
}

/// Whose counts a layer's load-balance loss uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuxPooling {
    /// Its own: the mean of the layers' losses.
    #[default]
    PerLayerMean,
    /// The sum over layers. The mean of the layers' losses is then the loss of all layers' rows as one layer
    /// (transformers).
    Pooled,
}

impl AuxPooling {
    /// What each layer's loss uses, from the layers' own counts.
    pub fn apply(self, layers: Vec<ExpertCounts>) -> Result<Vec<ExpertCounts>> {
        let Some((first, rest)) = layers.split_first() else { return Ok(layers) };
        if self == Self::PerLayerMean {
            return Ok(layers);
        }
        let mut sum = first.clone();
        rest.iter().try_for_each(|layer| sum.merge(layer))?;
        Ok(vec![sum; layers.len()])
    }
}

/// Which choice is counted when recorded experts run. Probabilities are of the current logits either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuxCounts {
    /// What the current logits would choose: what mainstream trainers do.
    #[default]
    Natural,
    /// What ran.
    Replayed,
}

impl AuxCounts {
    /// The ids to count.
    pub fn pick<'a>(self, natural: &'a [u32], executed: &'a [u32]) -> &'a [u32] {
        match self {
            Self::Natural => natural,
            Self::Replayed => executed,
        }
    }
}

/// The load-balance loss of one layer and its gradient to `logits` `[tokens, E]`; 0 for no tokens.
///
/// `counts` are a constant and say how the experts share `Σ_i c_i = T · K` pairs; they may be of more tokens
/// than `logits` holds. The probabilities are [`Router::probabilities`].
pub fn load_balance<F: Float>(
    logits: &[F],
    counts: &ExpertCounts,
    top_k: usize,
    router: &Router,
    form: AuxForm,
) -> Result<(F, Vec<F>)> {
    let experts = counts.as_slice().len();
    router.validate(experts, top_k)?;
    let tokens = check_rows(logits, experts)?;
    let share: Vec<F> = form.shares(counts, top_k).into_iter().map(F::of).collect();
    let scale = F::of(experts as f64 / tokens.max(1) as f64);
    let sigmoid_router = matches!(router.family(), Router::SigmoidTopK { .. });
    let (mut loss, mut gradient) = (F::of(0.0), Vec::with_capacity(logits.len()));
    for row in logits.chunks_exact(experts) {
        let p = router.probabilities(row);
        let inner = p.iter().zip(&share).fold(F::of(0.0), |a, (p, f)| a + *p * *f);
        loss = loss + scale * inner;
        gradient.extend(p.iter().zip(&share).zip(row).map(|((p, f), s)| {
            // For p = σ/Σσ, d log σ / ds = 1 − σ; for a soft-max the score is s itself.
            let slope = if sigmoid_router { F::of(1.0) - sigmoid(*s) } else { F::of(1.0) };
            scale * *p * slope * (*f - inner)
        }));
    }
    Ok((loss, gradient))
}

/// `mean_t (log Σ exp s_t)²` and its gradient to `logits` `[tokens, E]` (arXiv 2202.08906 eq. 5); 0 for no
/// tokens.
pub fn z_loss<F: Float>(logits: &[F], experts: usize) -> Result<(F, Vec<F>)> {
    let scale = F::of(1.0 / check_rows(logits, experts)?.max(1) as f64);
    let (mut loss, mut gradient) = (F::of(0.0), Vec::with_capacity(logits.len()));
    for row in logits.chunks_exact(experts) {
        let top = max(row.iter().copied());
        let lse = top + row.iter().fold(F::of(0.0), |sum, s| sum + (*s - top).exp()).ln();
        loss = loss + scale * lse * lse;
        gradient.extend(row.iter().map(|s| F::of(2.0) * scale * lse * (*s - lse).exp()));
    }
    Ok((loss, gradient))
}
