//! Router families: the choice of experts, their gates, and the exact gradient of the gates.

use crate::{Error, Result};

/// The two element types routing runs in: `f32` in models, `f64` as the definition.
pub trait Float:
    Copy
    + PartialOrd
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Div<Output = Self>
    + Into<f64>
    + Send
    + Sync
    + 'static
{
    /// From a constant.
    fn of(value: f64) -> Self;
    /// `e^self`.
    fn exp(self) -> Self;
    /// Natural logarithm.
    fn ln(self) -> Self;
}

macro_rules! float {
    ($t:ty) => {
        impl Float for $t {
            #[allow(clippy::cast_possible_truncation, trivial_numeric_casts)]
            fn of(value: f64) -> Self {
                value as $t
            }
            fn exp(self) -> Self {
                <$t>::exp(self)
            }
            fn ln(self) -> Self {
                <$t>::ln(self)
            }
        }
    };
}
float!(f32);
float!(f64);

/// How logits become a choice and gates.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Router {
    /// Qwen3-MoE, Mixtral: the `K` largest logits; gates are their soft-max probabilities over all experts,
    /// divided by their sum when `renorm` (`norm_topk_prob`).
    SoftmaxTopK {
        /// Whether the gates of a token add up to 1.
        renorm: bool,
    },
    /// DeepSeek-V3: the `K` largest `σ(s) + bias`; gates are `σ(s)` without the bias, divided by their sum when
    /// `renorm`, times `scale`.
    SigmoidTopK {
        /// Whether the gates of a token add up to `scale`.
        renorm: bool,
        /// One selection bias an expert; empty for none.
        bias: Vec<f32>,
        /// Multiplies the gates.
        scale: f32,
    },
}

fn sigmoid<F: Float>(x: F) -> F {
    F::of(1.0) / (F::of(1.0) + (F::of(0.0) - x).exp())
}

fn check_rows<F>(logits: &[F], experts: usize, top_k: usize) -> Result<usize> {
    if top_k == 0 || top_k > experts {
        return Err(Error::TopK { top_k, experts });
    }
    if !logits.len().is_multiple_of(experts) {
        let expected = logits.len() / experts * experts;
        return Err(Error::Shape { what: "router_logits", found: logits.len(), expected });
    }
    Ok(logits.len() / experts)
}

/// The `K` experts of each token, best first; equals by lower id: `[tokens, E]` to `[tokens · K]`.
///
/// Selection is on logits, never on probabilities: distinct logits can round to equal `f32` probabilities.
/// `-inf` disables an expert; `NaN` and `+inf` are errors.
pub fn top_k<F: Float>(logits: &[F], experts: usize, top_k: usize, router: &Router) -> Result<Vec<u32>> {
    let tokens = check_rows(logits, experts, top_k)?;
    let mut ids = Vec::with_capacity(tokens * top_k);
    let mut scores = Vec::with_capacity(experts);
    for (token, row) in logits.chunks_exact(experts).enumerate() {
        if let Some((expert, bad)) =
            row.iter().enumerate().find(|(_, s)| (**s).into().is_nan() || (**s).into() == f64::INFINITY)
        {
            return Err(Error::Logit { token, expert, value: (*bad).into() });
        }
        let enabled = row.iter().filter(|s| (**s).into() > f64::NEG_INFINITY).count();
        if enabled < top_k {
            return Err(Error::TooFewExperts { token, enabled, top_k });
        }
        scores.clear();
        match router {
            Router::SigmoidTopK { bias, .. } if !bias.is_empty() => {
                if bias.len() != experts {
                    return Err(Error::Shape { what: "bias", found: bias.len(), expected: experts });
                }
                scores.extend(row.iter().zip(bias).map(|(s, b)| {
                    let disabled = (*s).into() == f64::NEG_INFINITY;
                    if disabled { F::of(f64::NEG_INFINITY) } else { sigmoid(*s) + F::of(f64::from(*b)) }
                }));
            }
            _ => scores.extend_from_slice(row),
        }
        let first = ids.len();
        for _ in 0..top_k {
            let mut best: Option<usize> = None;
            for (expert, score) in scores.iter().enumerate() {
                let taken = ids[first..].contains(&(expert as u32));
                if !taken && best.is_none_or(|b| *score > scores[b]) {
                    best = Some(expert);
                }
            }
            ids.extend(best.map(|b| b as u32));
        }
    }
    Ok(ids)
}

/// The ids of one token, checked.
fn check_ids(token: usize, ids: &[u32], experts: usize) -> Result<()> {
    let distinct = ids.iter().enumerate().all(|(i, id)| (*id as usize) < experts && !ids[..i].contains(id));
    if distinct { Ok(()) } else { Err(Error::Ids { token, ids: ids.to_vec(), experts }) }
}

fn check_choice<F>(logits: &[F], experts: usize, ids: &[u32], top_k: usize) -> Result<usize> {
    let tokens = check_rows(logits, experts, top_k)?;
    if ids.len() != tokens * top_k {
        return Err(Error::Shape { what: "ids", found: ids.len(), expected: tokens * top_k });
    }
    for (token, ids) in ids.chunks_exact(top_k).enumerate() {
        check_ids(token, ids, experts)?;
    }
    Ok(tokens)
}

/// `max` and `Σ exp(s − max)` over some logits.
fn exp_sum<F: Float>(row: impl Iterator<Item = F> + Clone) -> (F, F) {
    let top = row.clone().fold(F::of(f64::NEG_INFINITY), |a, b| if b > a { b } else { a });
    let sum = row.fold(F::of(0.0), |sum, s| sum + (s - top).exp());
    (top, sum)
}

/// The gates of given experts under the current logits: `[tokens, E]` and `[tokens · K]` to `[tokens · K]`.
///
/// The ids may be the router's own ([`top_k`]) or recorded ones (replay).
pub fn gates<F: Float>(
    logits: &[F],
    experts: usize,
    ids: &[u32],
    top_k: usize,
    router: &Router,
) -> Result<Vec<F>> {
    check_choice(logits, experts, ids, top_k)?;
    let mut gates = Vec::with_capacity(ids.len());
    let mut ascending = Vec::with_capacity(top_k);
    for (row, ids) in logits.chunks_exact(experts).zip(ids.chunks_exact(top_k)) {
        let chosen = ids.iter().map(|id| row[*id as usize]);
        // Sums run by ascending id, so that a trace in another slot order gives the same bits.
        ascending.clear();
        ascending.extend_from_slice(ids);
        ascending.sort_unstable();
        let in_order = ascending.iter().map(|id| row[*id as usize]);
        match router {
            Router::SoftmaxTopK { renorm } => {
                let (top, sum) = if *renorm { exp_sum(in_order) } else { exp_sum(row.iter().copied()) };
                gates.extend(chosen.map(|s| (s - top).exp() / sum));
            }
            Router::SigmoidTopK { renorm, scale, .. } => {
                let scale = F::of(f64::from(*scale));
                let sum = in_order.fold(F::of(1e-20), |sum, s| sum + sigmoid(s));
                let divisor = if *renorm { sum } else { F::of(1.0) };
                gates.extend(chosen.map(|s| scale * sigmoid(s) / divisor));
            }
        }
    }
    Ok(gates)
}

/// From the gradient of the gates `[tokens · K]` to that of the logits `[tokens, E]`. The choice is a constant.
pub fn gates_backward<F: Float>(
    logits: &[F],
    experts: usize,
    ids: &[u32],
    top_k: usize,
    router: &Router,
    d_gates: &[F],
) -> Result<Vec<F>> {
    let gates = gates(logits, experts, ids, top_k, router)?;
    if d_gates.len() != gates.len() {
        return Err(Error::Shape { what: "d_gates", found: d_gates.len(), expected: gates.len() });
    }
    let mut d_logits = vec![F::of(0.0); logits.len()];
    let mut order = Vec::with_capacity(top_k);
    for (token, d_row) in d_logits.chunks_exact_mut(experts).enumerate() {
        let slots = token * top_k..(token + 1) * top_k;
        let (row, ids) = (&logits[token * experts..][..experts], &ids[slots.clone()]);
        let (g, d) = (&gates[slots.clone()], &d_gates[slots]);
        order.clear();
        order.extend(0..top_k);
        order.sort_unstable_by_key(|slot| ids[*slot]);
        let inner = order.iter().fold(F::of(0.0), |sum, slot| sum + g[*slot] * d[*slot]);
        match router {
            Router::SoftmaxTopK { renorm: true } => {
                for ((id, g), d) in ids.iter().zip(g).zip(d) {
                    d_row[*id as usize] = *g * (*d - inner);
                }
            }
            Router::SoftmaxTopK { renorm: false } => {
                let (top, sum) = exp_sum(row.iter().copied());
                for (out, s) in d_row.iter_mut().zip(row) {
                    *out = F::of(0.0) - (*s - top).exp() / sum * inner;
                }
                for ((id, g), d) in ids.iter().zip(g).zip(d) {
                    let out = &mut d_row[*id as usize];
                    *out = *out + *g * *d;
                }
            }
            Router::SigmoidTopK { renorm, scale, .. } => {
                let scale = F::of(f64::from(*scale));
                for ((id, g), d) in ids.iter().zip(g).zip(d) {
                    let shrink = F::of(1.0) - sigmoid(row[*id as usize]);
                    let mean = if *renorm { inner / scale } else { F::of(0.0) };
                    d_row[*id as usize] = *g * shrink * (*d - mean);
                }
            }
        }
    }
    Ok(d_logits)
}
