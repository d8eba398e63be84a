//! One row of logits to one token, gated.

use crate::error::{Error, Result};
use crate::family::FamilySet;
use crate::logprob::Softmax;
use crate::noise::{Noise, gumbel};
use crate::rules::{Decision, HIGH, Plan, Support, Widen};
use crate::support::{Truncation, check_row};
use crate::table::View;

/// How tokens are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the likeliest token (the lowest id of equals).
    pub temperature: f32,
    /// Keeps the `top_k` likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps tokens until their mass reaches `top_p`; 1 keeps all.
    pub top_p: f64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 1.0, top_k: 0, top_p: 1.0 }
    }
}

impl Sampling {
    /// Refuses values without a meaning.
    ///
    /// # Errors
    /// [`Error::InvalidSampling`].
    pub fn validate(&self) -> Result<()> {
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            let (value, expected) = (f64::from(self.temperature), "0 (greedy) or a positive number");
            return Err(Error::InvalidSampling { field: "temperature", value, expected });
        }
        Truncation::new(self.top_k, self.top_p).map(drop)
    }
}

/// What is recorded of a step. Logarithms in nats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepRecord {
    /// The denied families; empty where the gate let the step pass.
    pub denied: FamilySet,
    /// Whether the gate intervened.
    pub intervened: bool,
    /// Whether the same noise, ungated, would have drawn a denied token.
    pub flipped: bool,
    /// The mass of the ungated distribution that the gate removed.
    pub denied_mass: f32,
    /// Log-probability of the token under the distribution that it was drawn from.
    pub logprob: f32,
}

/// A drawn token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// The token.
    pub token: u32,
    /// What the gate did, and why.
    pub decision: Decision,
    /// What is recorded.
    pub record: StepRecord,
}

/// Draws from a row of logits `[V]` (after grammar masks, penalties and biases), gated by `plan`. `row` is its number in
/// errors.
///
/// # Errors
/// [`Error::VocabMismatch`], [`Error::NonFiniteLogits`], [`Error::EmptySupport`], [`Error::InvalidSampling`].
pub fn sample(
    row: usize,
    logits: &[f32],
    sampling: &Sampling,
    widen: Widen,
    plan: &Plan,
    view: &View<'_>,
    noise: &Noise,
) -> Result<Step> {
    sampling.validate()?;
    check(row, logits, view)?;
    let mut order = likeliest(logits, HIGH.iter().map(|h| h.0).max().unwrap_or(1));
    if sampling.temperature == 0.0 {
        let greedy = [order[0]];
        return draw(row, logits, 0.0, Support::Tokens(&greedy), widen, plan, view, noise);
    }
    let truncation = Truncation::new(sampling.top_k, sampling.top_p)?;
    if truncation.is_off() {
        return draw(row, logits, sampling.temperature, Support::All, widen, plan, view, noise);
    }
    let softmax = Softmax::of_row(logits, 1.0 / sampling.temperature);
    let limit = truncation.limit(logits.len());
    if limit > order.len() {
        order = likeliest(logits, limit);
    }
    let kept = truncation.keep(order.iter().map(|v| softmax.log_prob(logits[*v as usize])));
    draw(row, logits, sampling.temperature, Support::Tokens(&order[..kept]), widen, plan, view, noise)
}

/// The same for the support of an engine with truncations of its own. At a `temperature` of 0 the likeliest survivor is taken.
///
/// # Errors
/// As [`sample`]; [`Error::EmptySupport`] for a support without a finite logit.
pub fn draw(
    row: usize,
    logits: &[f32],
    temperature: f32,
    user: Support<'_>,
    widen: Widen,
    plan: &Plan,
    view: &View<'_>,
    noise: &Noise,
) -> Result<Step> {
    check(row, logits, view)?;
    let finite = |v: &u32| logits[*v as usize] > f32::NEG_INFINITY;
    if let Support::Tokens(tokens) = user
        && !(tokens.iter().all(|v| (*v as usize) < logits.len())
            && tokens.iter().all(finite)
            && !tokens.is_empty())
    {
        return Err(Error::EmptySupport { row });
    }
    let greedy = temperature == 0.0;
    let inv_temperature = if greedy { 1.0 } else { 1.0 / temperature };
    let all = Softmax::of_row(logits, inv_temperature);
    let high = high_confidence(logits, |z| all.log_prob(z));
    let decision = plan.decide(widen, view, logits, user, &high);
    let denied = decision.denied();
    let survives = |v: &u32| denied.is_empty() || !view.denies(denied, *v as usize);

    // The ungated and the gated draw share their noise.
    let score = |v: u32| match greedy {
        true => logits[v as usize],
        false => logits[v as usize] * inv_temperature + noise.gumbel(v),
    };
    let mut extra: Vec<u32> = Vec::new();
    if let (Support::Tokens(tokens), Decision::Intervene { widened: true, .. }) = (user, decision) {
        extra.extend(high.iter().filter(|v| !tokens.contains(v)));
    }
    let (ungated, gated) = match user {
        Support::All => best_of_all(logits, inv_temperature, noise, survives),
        Support::Tokens(tokens) => {
            let ungated = best(tokens.iter().copied(), score);
            let kept = tokens.iter().chain(&extra).copied().filter(|v| survives(v));
            (ungated, best(kept, score))
        }
    };
    // Rule 2's witness survives, so there is a gated draw.
    let (Some(ungated), Some(token)) = (ungated, gated) else { return Err(Error::EmptySupport { row }) };
    let support = |with_denied: bool| {
        let of = |tokens: &mut dyn Iterator<Item = u32>| {
            let kept = tokens.filter(|v| with_denied || survives(v)).map(|v| logits[v as usize]);
            Softmax::of(kept, inv_temperature)
        };
        match user {
            Support::All => of(&mut (0..logits.len() as u32)),
            // By id, as a replay sums.
            Support::Tokens(tokens) => {
                let mut ids: Vec<u32> = tokens.iter().chain(&extra).copied().collect();
                ids.sort_unstable();
                of(&mut ids.into_iter())
            }
        }
    };
    let intervened = !denied.is_empty();
    let logprob = if greedy { 0.0 } else { support(!intervened).log_prob(logits[token as usize]) as f32 };
    let denied_mass = match user {
        _ if !intervened => 0.0,
        _ if greedy => f32::from(u8::from(!survives(&ungated))),
        Support::All => denied_share(0..logits.len() as u32, logits, inv_temperature, survives),
        Support::Tokens(tokens) => denied_share(tokens.iter().copied(), logits, inv_temperature, survives),
    };
    let record =
        StepRecord { denied, intervened, flipped: intervened && !survives(&ungated), denied_mass, logprob };
    Ok(Step { token, decision, record })
}

fn check(row: usize, logits: &[f32], view: &View<'_>) -> Result<()> {
    if logits.len() != view.table().len() {
        return Err(Error::VocabMismatch { logits: logits.len(), table: view.table().len() });
    }
    check_row(row, logits)
}

/// The `count` likeliest finite tokens, by rank.
fn likeliest(logits: &[f32], count: usize) -> Vec<u32> {
    if count <= 64 {
        return few_likeliest(logits, count);
    }
    // Signed zeros are equal as logits, not as numbers in a total order.
    let by_rank = |a: &u32, b: &u32| match (logits[*a as usize], logits[*b as usize]) {
        (x, y) if x == y => a.cmp(b),
        (x, y) => y.total_cmp(&x),
    };
    let mut order: Vec<u32> =
        (0..logits.len() as u32).filter(|v| logits[*v as usize] > f32::NEG_INFINITY).collect();
    if count < order.len() {
        order.select_nth_unstable_by(count - 1, by_rank);
        order.truncate(count);
    }
    order.sort_unstable_by(by_rank);
    order
}

/// The same by insertion: parts of a row without a logit above the last of the list are passed over.
fn few_likeliest(logits: &[f32], count: usize) -> Vec<u32> {
    const PART: usize = 64;
    let (mut top, mut floor): (Vec<(f32, u32)>, f32) = (Vec::with_capacity(count + 1), f32::NEG_INFINITY);
    for (part, row) in logits.chunks(PART).enumerate() {
        if !row.iter().fold(false, |found, z| found | (*z > floor)) {
            continue;
        }
        for (i, z) in row.iter().enumerate() {
            // Of equals the lower id is there already.
            if *z > floor {
                let at = top.partition_point(|(other, _)| *other >= *z);
                top.insert(at, (*z, (part * PART + i) as u32));
                if top.len() >= count {
                    top.truncate(count);
                    floor = top.last().map_or(floor, |(z, _)| *z);
                }
            }
        }
    }
    top.into_iter().map(|(_, v)| v).collect()
}

/// The union of the supports of [`HIGH`], which is the longer one: both are the first tokens by rank. `log_prob` is that of a
/// logit under the softmax of the whole row, at the sampling temperature.
pub fn high_confidence(logits: &[f32], log_prob: impl Fn(f32) -> f64) -> Vec<u32> {
    let mut order = likeliest(logits, HIGH.iter().map(|h| h.0).max().unwrap_or(1));
    let keep = |(top_k, top_p): &(usize, f64)| {
        let truncation = Truncation::new(*top_k, *top_p).ok()?;
        Some(truncation.keep(order.iter().map(|v| log_prob(logits[*v as usize]))))
    };
    let longest = HIGH.iter().filter_map(keep).max().unwrap_or(0);
    order.truncate(longest);
    order
}

/// The token of largest score, the lowest of equals.
fn best(tokens: impl Iterator<Item = u32>, score: impl Fn(u32) -> f32) -> Option<u32> {
    let better = |(a, x): (u32, f32), (b, y): (u32, f32)| {
        if y > x || y == x && b < a { (b, y) } else { (a, x) }
    };
    tokens.map(|v| (v, score(v))).reduce(better).map(|(v, _)| v)
}

/// The best of all finite tokens and of those that survive, with one block of noise for four tokens.
fn best_of_all(
    logits: &[f32],
    inv_temperature: f32,
    noise: &Noise,
    survives: impl Fn(&u32) -> bool,
) -> (Option<u32>, Option<u32>) {
    let (mut all, mut gated) = ((None, f32::NEG_INFINITY), (None, f32::NEG_INFINITY));
    for (block, four) in logits.chunks(4).enumerate() {
        let bits = noise.bits(block as u32);
        for (i, z) in four.iter().enumerate().filter(|(_, z)| **z > f32::NEG_INFINITY) {
            let (v, score) = ((4 * block + i) as u32, z * inv_temperature + gumbel(bits[i]));
            if all.0.is_none() || score > all.1 {
                all = (Some(v), score);
            }
            if (gated.0.is_none() || score > gated.1) && survives(&v) {
                gated = (Some(v), score);
            }
        }
    }
    (all.0, gated.0)
}

/// The share of the mass that does not survive, summed by itself: a difference of sums would lose small ones.
fn denied_share(
    tokens: impl Iterator<Item = u32> + Clone,
    logits: &[f32],
    inv_temperature: f32,
    survives: impl Fn(&u32) -> bool,
) -> f32 {
    let all = Softmax::of(tokens.clone().map(|v| logits[v as usize]), inv_temperature);
    let lost = tokens.filter(|v| !survives(v)).map(|v| all.log_prob(logits[v as usize]).exp());
    lost.sum::<f64>() as f32
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// Ties, signed zeros and banned tokens, in rows of several parts.
    #[test]
    fn the_likeliest_are_first_by_logit_then_by_id() {
        for (seed, length) in [(1u64, 1usize), (2, 20), (3, 64), (4, 65), (5, 1000)] {
            let noise = Noise { seed, sequence: 0, position: 0 };
            let logit = |v: u32| match noise.bits(v)[0] % 40 {
                0 => f32::NEG_INFINITY,
                1 => -0.0,
                n => (n as f32 - 20.0) / 4.0,
            };
            let row: Vec<f32> = (0..length as u32).map(logit).collect();
            let mut order: Vec<u32> = (0..length as u32).filter(|v| row[*v as usize].is_finite()).collect();
            order.sort_by(|a, b| row[*b as usize].partial_cmp(&row[*a as usize]).unwrap().then(a.cmp(b)));
            for count in [1, 5, 20, 64, 65, 2000] {
                let expected = &order[..count.min(order.len())];
                assert_eq!(likeliest(&row, count), expected, "{count} of {length}");
            }
        }
    }
}
