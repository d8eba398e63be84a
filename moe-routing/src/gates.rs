//! The weights of given experts and their exact gradient. The choice of experts is a constant.

use crate::float::Float;
use crate::router::{Router, check_logits, max, sigmoid};
use crate::{Error, Result};

/// Refuses logits and ids that do not make gates; the number of tokens.
///
/// Ids may be recorded ones, chosen under other logits: each row needs one expert that is still enabled.
pub(crate) fn check_choice<F: Float>(
    logits: &[F],
    experts: usize,
    ids: &[u32],
    top_k: usize,
) -> Result<usize> {
    let tokens = check_logits(logits, experts)?;
    if top_k == 0 || top_k > experts {
        return Err(Error::TopK { top_k, experts });
    }
    if ids.len() != tokens * top_k {
        return Err(Error::Shape { what: "ids", found: ids.len(), expected: tokens * top_k });
    }
    for (token, (row, ids)) in logits.chunks_exact(experts).zip(ids.chunks_exact(top_k)).enumerate() {
        check_ids(token, ids, experts)?;
        if ids.iter().all(|id| row[*id as usize].into() == f64::NEG_INFINITY) {
            return Err(Error::Disabled { token, ids: ids.to_vec() });
        }
    }
    Ok(tokens)
}

/// The ids of one token in one layer, checked.
pub(crate) fn check_ids(token: usize, ids: &[u32], experts: usize) -> Result<()> {
    let distinct = ids.iter().enumerate().all(|(i, id)| (*id as usize) < experts && !ids[..i].contains(id));
    if distinct { Ok(()) } else { Err(Error::Ids { token, ids: ids.to_vec(), experts }) }
}

/// `max` and `Σ exp(s − max)` over some logits.
fn exp_sum<F: Float>(row: impl Iterator<Item = F> + Clone) -> (F, F) {
    let top = max(row.clone());
    let sum = row.fold(F::of(0.0), |sum, s| sum + (s - top).exp());
    (top, sum)
}

/// What multiplies the gates of a family.
fn scale_of<F: Float>(router: &Router) -> F {
    match router.family() {
        Router::SigmoidTopK { scale, .. } => F::of(f64::from(*scale)),
        _ => F::of(1.0),
    }
}

/// Gates before the family's scale, in place of `gates`, with memory for the ids of a token.
fn unscaled<F: Float>(
    logits: &[F],
    experts: usize,
    ids: &[u32],
    top_k: usize,
    router: &Router,
    ascending: &mut Vec<u32>,
    gates: &mut Vec<F>,
) -> Result<()> {
    router.validate(experts, top_k)?;
    check_choice(logits, experts, ids, top_k)?;
    gates.clear();
    gates.reserve(ids.len());
    for (row, ids) in logits.chunks_exact(experts).zip(ids.chunks_exact(top_k)) {
        let chosen = ids.iter().map(|id| row[*id as usize]);
        // Sums run by ascending id, so that a trace in another slot order gives the same bits.
        ascending.clear();
        ascending.extend_from_slice(ids);
        ascending.sort_unstable();
        let in_order = ascending.iter().map(|id| row[*id as usize]);
        match router.family() {
            Router::SoftmaxTopK { renorm: false } => {
                let (top, sum) = exp_sum(row.iter().copied());
                gates.extend(chosen.map(|s| (s - top).exp() / sum));
            }
            // DeepSeek-V3 adds 1e-20, so that gates which all underflow are 0 and not NaN.
            Router::SigmoidTopK { renorm: true, .. } => {
                let sum = in_order.fold(F::of(1e-20), |sum, s| sum + sigmoid(s));
                gates.extend(chosen.map(|s| sigmoid(s) / sum));
            }
            Router::SigmoidTopK { renorm: false, .. } => gates.extend(chosen.map(sigmoid)),
            _ => {
                let (top, sum) = exp_sum(in_order);
                gates.extend(chosen.map(|s| (s - top).exp() / sum));
            }
        }
    }
    Ok(())
}

/// The gates of given experts under the current logits: `[tokens, E]` and `[tokens · K]` to `[tokens · K]`.
///
/// The ids may be the router's own ([`top_k`](crate::top_k())) or recorded ones (replay). A row of which every
/// expert is disabled is an error, as are `NaN` and `+inf` anywhere in the logits.
pub fn gates<F: Float>(
    logits: &[F],
    experts: usize,
    ids: &[u32],
    top_k: usize,
    router: &Router,
) -> Result<Vec<F>> {
    let mut gates = Vec::new();
    gates_into(logits, experts, ids, top_k, router, &mut Vec::new(), &mut gates)?;
    Ok(gates)
}

/// [`gates`] in place of `out`, with memory for the ids of a token.
pub(crate) fn gates_into<F: Float>(
    logits: &[F],
    experts: usize,
    ids: &[u32],
    top_k: usize,
    router: &Router,
    ascending: &mut Vec<u32>,
    out: &mut Vec<F>,
) -> Result<()> {
    unscaled(logits, experts, ids, top_k, router, ascending, out)?;
    let scale = scale_of::<F>(router);
    out.iter_mut().for_each(|g| *g = scale * *g);
    Ok(())
}

/// From the gradient of the gates `[tokens · K]` to that of the logits `[tokens, E]`.
pub fn gates_backward<F: Float>(
    logits: &[F],
    experts: usize,
    ids: &[u32],
    top_k: usize,
    router: &Router,
    d_gates: &[F],
) -> Result<Vec<F>> {
    let mut gates = Vec::new();
    unscaled(logits, experts, ids, top_k, router, &mut Vec::new(), &mut gates)?;
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
        match router.family() {
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
            Router::SigmoidTopK { renorm, .. } => {
                let (scale, mean) = (scale_of::<F>(router), if *renorm { inner } else { F::of(0.0) });
                for ((id, g), d) in ids.iter().zip(g).zip(d) {
                    let shrink = F::of(1.0) - sigmoid(row[*id as usize]);
                    d_row[*id as usize] = scale * *g * shrink * (*d - mean);
                }
            }
            _ => {
                for ((id, g), d) in ids.iter().zip(g).zip(d) {
                    d_row[*id as usize] = *g * (*d - inner);
                }
            }
        }
    }
    Ok(d_logits)
}
