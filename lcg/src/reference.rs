//! The definitions, in f64 and to be read: what the fast paths and the kernels are tested against.

use crate::family::FamilySet;
use crate::labels::{LabelRule, NormScale};
use crate::rules::{HIGH, PassReason, Widen};
use crate::table::View;

/// `softmax(x)`; −∞ has no mass.
pub fn softmax(x: &[f64]) -> Vec<f64> {
    let top = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = x.iter().map(|x| (x - top).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|w| w / sum).collect()
}

/// `S(k, p)`: rank `r` stays if `r < k` (0 is no limit) and the mass before it is below `p` (1 is no limit); rank 0 always.
pub fn support(x: &[f64], k: usize, p: f64) -> Vec<bool> {
    let probabilities = softmax(x);
    let mut order: Vec<usize> = (0..x.len()).filter(|v| x[*v] > f64::NEG_INFINITY).collect();
    order.sort_by(|a, b| x[*b].total_cmp(&x[*a]).then(a.cmp(b)));
    let (mut kept, mut before) = (vec![false; x.len()], 0.0);
    for (rank, v) in order.into_iter().enumerate() {
        kept[v] = rank == 0 || (k == 0 || rank < k) && (p == 1.0 || before < p);
        before += probabilities[v];
    }
    kept
}

/// `ẑ`: raw logits `z = h·e_v` adjusted by the norms `n` of the output rows. `text` marks the tokens that the mean is of,
/// `takes_part` those that are not −∞.
pub fn adjusted(z: &[f64], n: &[f64], text: &[bool], takes_part: &[bool], scale: NormScale) -> Vec<f64> {
    let norms: Vec<f64> = (0..n.len()).filter(|v| text[*v] && takes_part[*v]).map(|v| n[v]).collect();
    let mean = norms.iter().sum::<f64>() / norms.len() as f64;
    let one = |v: usize| match scale {
        _ if !takes_part[v] => f64::NEG_INFINITY,
        NormScale::Unadjusted => z[v],
        NormScale::None => z[v] / n[v],
        NormScale::Mean => z[v] * mean / n[v],
    };
    (0..z.len()).map(one).collect()
}

/// The label of adjusted logits, of tokens of these families.
pub fn label(adjusted: &[f64], families: &[FamilySet], k: usize, p: f64, rule: LabelRule) -> FamilySet {
    let (probabilities, kept) = (softmax(adjusted), support(adjusted, k, p));
    let mass: Vec<f64> = (0..32)
        .map(|f| {
            let of = (0..kept.len()).filter(|v| kept[*v] && families[*v].contains(f));
            of.map(|v| probabilities[v]).sum()
        })
        .collect();
    let least = match rule {
        LabelRule::Presence => f64::MIN_POSITIVE,
        LabelRule::Mass(min) => min,
    };
    let largest = (0..32).fold(0, |best, f| if mass[f] > mass[best] { f } else { best });
    (0..32).filter(|f| mass[*f] >= least).collect::<FamilySet>() | FamilySet::one(largest)
}

/// Gate logits `W₂·relu(W₁·h)`.
pub fn gate(w1: &[f64], w2: &[f64], h: &[f64]) -> Vec<f64> {
    let times = |w: &[f64], x: &[f64]| -> Vec<f64> {
        w.chunks(x.len()).map(|row| row.iter().zip(x).map(|(a, b)| a * b).sum()).collect()
    };
    let inner: Vec<f64> = times(w1, h).iter().map(|x| x.max(0.0)).collect();
    times(w2, &inner)
}

/// `Σ_f w_f·BCE(σ(g_f), y_f) / F` of one position, and `∂/∂g`.
pub fn bce(g: &[f64], y: FamilySet, w: &[f64]) -> (f64, Vec<f64>) {
    let target = |f: usize| f64::from(u8::from(y.contains(f)));
    let count = g.len() as f64;
    let term = |f: usize| w[f] * (g[f].max(0.0) - target(f) * g[f] + (-g[f].abs()).exp().ln_1p());
    let slope = |f: usize| w[f] * (1.0 / (1.0 + (-g[f]).exp()) - target(f)) / count;
    ((0..g.len()).map(term).sum::<f64>() / count, (0..g.len()).map(slope).collect())
}

/// Lines 5 to 9 of the algorithm: why the step passes, or the support `S*` that is left. `x` are processed logits, `user` the
/// engine's support.
pub fn decide(
    x: &[f64],
    user: &[bool],
    view: &View<'_>,
    predicted: FamilySet,
    denied: FamilySet,
    widen: Widen,
) -> Result<Vec<bool>, PassReason> {
    let tokens = 0..x.len();
    let denies = |v: usize| view.denies(denied, v);
    let families = |v: usize| match view.signature(v).families() {
        FamilySet::EMPTY => FamilySet::one(view.table().taxonomy().symbols()),
        families => families,
    };
    if denied.is_empty() {
        return Err(PassReason::NothingDenied);
    }
    if !tokens.clone().any(|v| user[v] && denies(v)) {
        return Err(PassReason::NoEffect);
    }
    let supports = HIGH.map(|(k, p)| support(x, k, p));
    let high = |v: usize| supports.iter().any(|s| s[v]);
    if !tokens.clone().any(|v| high(v) && families(v).meets(predicted) && !denies(v)) {
        return Err(PassReason::Contradicted);
    }
    let survives = tokens.clone().any(|v| user[v] && !denies(v));
    let widened = widen == Widen::Always || !survives;
    Ok(tokens.map(|v| (user[v] || widened && high(v)) && !denies(v)).collect())
}

/// Log-probability of a token under the softmax of `z/T` over `allowed`, and its gradient.
pub fn masked_logprob(z: &[f64], allowed: &[bool], token: usize, temperature: f64) -> (f64, Vec<f64>) {
    let masked = |v: usize| if allowed[v] { z[v] / temperature } else { f64::NEG_INFINITY };
    let probabilities = softmax(&(0..z.len()).map(masked).collect::<Vec<_>>());
    let slope = |v: usize| (f64::from(u8::from(v == token)) - probabilities[v]) / temperature;
    let gradient = (0..z.len()).map(|v| if allowed[v] { slope(v) } else { 0.0 }).collect();
    (probabilities[token].ln(), gradient)
}

/// `−log Σ_allowed π(v)` and its gradient.
pub fn leak(z: &[f64], allowed: &[bool], temperature: f64) -> (f64, Vec<f64>) {
    let full = softmax(&z.iter().map(|z| z / temperature).collect::<Vec<_>>());
    let mass: f64 = (0..z.len()).filter(|v| allowed[*v]).map(|v| full[v]).sum();
    let slope = |v: usize| full[v] - if allowed[v] { full[v] / mass } else { 0.0 };
    (-mass.ln(), (0..z.len()).map(|v| slope(v) / temperature).collect())
}
