//! From one row of logits to one token.

use qwen3::kernel::activation::exp;
use qwen3::kernel::softmax::{max, row_stats, scale_row};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How tokens are drawn: temperature, then top-k, top-p and min-p, in this order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SamplingParams {
    /// Divides the logits. 0 takes the likeliest token (the lowest id of equals).
    pub temperature: f32,
    /// Keeps the `top_k` likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the fewest likeliest tokens whose share of what top-k kept reaches `top_p`; 1 keeps all.
    pub top_p: f32,
    /// Drops tokens less likely than `min_p` times the likeliest; 0 drops none.
    pub min_p: f32,
    /// The longest response, stop token included.
    pub max_new_tokens: usize,
    /// A response ends after one of these, which is its last token.
    pub stop_tokens: Vec<u32>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            max_new_tokens: 16,
            stop_tokens: Vec::new(),
        }
    }
}

impl SamplingParams {
    /// Refuses values without a meaning.
    pub fn validate(&self) -> Result<()> {
        let bad = |name: &'static str, value: f64, expected: &'static str| {
            Err(Error::Parameter { name, value, expected })
        };
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return bad("temperature", self.temperature.into(), "a finite number, 0 or more");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return bad("top_p", self.top_p.into(), "above 0, at most 1");
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return bad("min_p", self.min_p.into(), "from 0 to 1");
        }
        if self.max_new_tokens == 0 {
            return bad("max_new_tokens", 0.0, "1 or more");
        }
        Ok(())
    }

    /// Whether some tokens may be cut from the distribution.
    pub fn truncates(&self) -> bool {
        self.temperature == 0.0 || self.top_k > 0 || self.top_p < 1.0 || self.min_p > 0.0
    }
}

/// A drawn token and what is known of the distribution it came from. Logarithms in nats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    /// The token.
    pub token: u32,
    /// Its log-probability under the whole vocabulary at the sampling temperature (at 1 when greedy): what a
    /// training forward computes.
    pub logp: f32,
    /// Its log-probability under the distribution it was drawn from, after truncation.
    pub truncated_logp: f32,
    /// Entropy of the whole distribution that `logp` belongs to.
    pub entropy: f32,
}

/// Draws from a row of logits, which is used as scratch. `uniform` in `[0, 1)` decides.
///
/// Errors when the row holds `NaN` or `+inf`, or nothing finite.
pub fn draw(logits: &mut [f32], params: &SamplingParams, uniform: f64) -> Result<Draw> {
    if logits.iter().any(|z| z.is_nan() || *z == f32::INFINITY) || max(logits) == f32::NEG_INFINITY {
        return Err(Error::NonFiniteLogits);
    }
    let greedy = params.temperature == 0.0;
    if !greedy && params.temperature != 1.0 {
        scale_row(logits, 1.0 / params.temperature);
    }
    let stats = row_stats(logits);
    let done = |token: usize, kept_mass: f64| {
        let logp = stats.log_prob(logits[token]);
        let truncated_logp = if kept_mass == 1.0 { logp } else { (f64::from(logp) - kept_mass.ln()) as f32 };
        Draw { token: token as u32, logp, truncated_logp, entropy: stats.entropy }
    };
    if greedy {
        let top = max(logits);
        let token = logits.iter().position(|z| *z == top).unwrap_or(0);
        return Ok(Draw { truncated_logp: 0.0, ..done(token, 1.0) });
    }
    let probability = |token: usize| f64::from(exp(stats.log_prob(logits[token])));
    if !params.truncates() {
        return Ok(done(pick(0..logits.len(), probability, uniform, 1.0), 1.0));
    }
    let (kept, mass) = truncate(logits, params, probability);
    let token = pick(kept.iter().map(|t| *t as usize), probability, uniform, mass);
    Ok(done(token, if kept.len() == logits.len() { 1.0 } else { mass }))
}

/// The kept tokens, likeliest first (equals by id), and their probability together.
fn truncate(logits: &[f32], params: &SamplingParams, probability: impl Fn(usize) -> f64) -> (Vec<u32>, f64) {
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    let by_rank = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    if params.top_k > 0 && params.top_k < order.len() {
        order.select_nth_unstable_by(params.top_k - 1, by_rank);
        order.truncate(params.top_k);
    }
    order.sort_unstable_by(by_rank);
    if params.top_p < 1.0 {
        let total: f64 = order.iter().map(|t| probability(*t as usize)).sum();
        let mut sum = 0.0;
        let reached = order.iter().position(|t| {
            sum += probability(*t as usize);
            sum >= f64::from(params.top_p) * total
        });
        order.truncate(reached.map_or(order.len(), |last| last + 1));
    }
    if params.min_p > 0.0 {
        let floor = f64::from(params.min_p) * probability(order[0] as usize);
        let keep = order.iter().take_while(|t| probability(**t as usize) >= floor).count();
        order.truncate(keep.max(1));
    }
    let mass = order.iter().map(|t| probability(*t as usize)).sum();
    (order, mass)
}

/// Inverse CDF: the first token at which the running sum passes `uniform · mass`. When rounding leaves the sum
/// short of that, the last token of positive probability.
fn pick(
    tokens: impl Iterator<Item = usize>,
    probability: impl Fn(usize) -> f64,
    uniform: f64,
    mass: f64,
) -> usize {
    let target = uniform * mass;
    let (mut sum, mut last) = (0.0, 0);
    for token in tokens {
        let p = probability(token);
        sum += p;
        if p > 0.0 {
            last = token;
            if sum > target {
                break;
            }
        }
    }
    last
}
