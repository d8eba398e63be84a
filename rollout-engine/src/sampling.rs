//! From one row of logits to one token.

use qwen3::Buffer;
use qwen3::kernel::activation::exp;
use qwen3::kernel::softmax::{RowStats, first_place, probabilities, row_stats, row_stats_and_left};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How tokens are drawn: temperature, then top-k, top-p and min-p, in this order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SamplingParams {
    /// Divides the logits: 0, which takes the likeliest token (the lowest id of equals), or from 1e-4 to 1e4.
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
        // Below this, differences of logits over the temperature could leave the range of f32.
        if !(self.temperature == 0.0 || (1e-4..=1e4).contains(&self.temperature)) {
            return bad("temperature", self.temperature.into(), "0 (greedy), or from 1e-4 to 1e4");
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
    /// Its log-probability under the whole vocabulary at the sampling temperature (at 1 when greedy), but for tokens that a
    /// [`Gate`](crate::Gate) denied, and those that truncation cut where that is recorded
    /// ([`Gate::record_supports`](crate::Gate::record_supports)): what a training forward computes, under the same mask.
    pub logp: f32,
    /// Its log-probability under the distribution it was drawn from, after truncation.
    pub truncated_logp: f32,
    /// Entropy of the whole distribution that `logp` belongs to.
    pub entropy: f32,
}

/// Draws from a row of logits. `uniform` in `[0, 1)` decides.
///
/// Errors when the row holds `NaN` or `+inf`, or nothing finite.
pub fn draw(logits: &[f32], params: &SamplingParams, uniform: f64) -> Result<Draw> {
    let row = Distribution::new(logits, params)?;
    Ok(row.draw(row.kept().as_ref(), uniform))
}

/// The tokens that a truncation kept, and their probability together.
pub(crate) struct Kept {
    pub(crate) tokens: Buffer<u32>,
    pub(crate) mass: f64,
}

/// The distribution of a row of logits, or of what a gate left of it.
pub(crate) struct Distribution<'a> {
    pub(crate) logits: &'a [f32],
    banned: Option<&'a [bool]>,
    params: &'a SamplingParams,
    /// At the sampling temperature, or 1 when greedy.
    pub(crate) stats: RowStats,
}

impl<'a> Distribution<'a> {
    pub(crate) fn new(logits: &'a [f32], params: &'a SamplingParams) -> Result<Self> {
        let stats = row_stats(logits, inverse_temperature(params));
        Self { logits, banned: None, params, stats }.checked()
    }

    /// That of the row, and that of what `banned` leaves of it, which has the bits of the row whose banned logits are −∞.
    pub(crate) fn and_left(
        logits: &'a [f32],
        banned: &'a [bool],
        params: &'a SamplingParams,
    ) -> Result<[Self; 2]> {
        let [of_all, of_left] = row_stats_and_left(logits, banned, inverse_temperature(params));
        let all = Self { logits, banned: None, params, stats: of_all }.checked()?;
        Ok([all, Self { logits, banned: Some(banned), params, stats: of_left }])
    }

    /// Where one logit is NaN or +inf, or none is finite, no sum is a number.
    fn checked(self) -> Result<Self> {
        if self.stats.log_sum.is_finite() { Ok(self) } else { Err(Error::NonFiniteLogits) }
    }

    /// −∞ for a banned token.
    pub(crate) fn logit(&self, token: usize) -> f32 {
        match self.banned {
            Some(banned) if banned[token] => f32::NEG_INFINITY,
            _ => self.logits[token],
        }
    }

    /// The kernel's `exp` never reaches 0, so a banned token is told apart by its logit.
    pub(crate) fn probability(&self, token: usize) -> f64 {
        match self.logit(token) {
            f32::NEG_INFINITY => 0.0,
            z => f64::from(exp(self.stats.log_prob(z))),
        }
    }

    /// What the parameters keep; `None` for everything.
    pub(crate) fn kept(&self) -> Option<Kept> {
        if self.params.temperature == 0.0 {
            let mut tokens = Buffer::of(1);
            tokens[0] = self.likeliest() as u32;
            return Some(Kept { tokens, mass: 1.0 });
        }
        let (tokens, mass) = match self.params.truncates() {
            true => truncate(self.logits, self.params, |token| self.probability(token)),
            false => return None,
        };
        Some(Kept { mass: if tokens.len() == self.logits.len() { 1.0 } else { mass }, tokens })
    }

    /// A draw from what was kept.
    pub(crate) fn draw(&self, kept: Option<&Kept>, uniform: f64) -> Draw {
        let probability = |token: usize| self.probability(token);
        let token = match kept {
            None => self.pick_of_all(uniform),
            Some(Kept { tokens, .. }) if self.params.temperature == 0.0 => tokens[0] as usize,
            Some(Kept { tokens, mass }) => {
                pick(tokens.iter().map(|t| *t as usize), probability, uniform, *mass)
            }
        };
        self.drawn(token, kept)
    }

    /// [`pick`] from the whole row: the block of tokens at whose end the sum passes `uniform`, then the token within it.
    fn pick_of_all(&self, uniform: f64) -> usize {
        const BLOCK: usize = 256;
        let (mut before, mut block, mut left) = (0.0, [0f32; BLOCK], [0f32; BLOCK]);
        for (i, logits) in self.logits.chunks(BLOCK).enumerate() {
            let block = &mut block[..logits.len()];
            let logits = match self.banned {
                None => logits,
                Some(banned) => {
                    let banned = banned[BLOCK * i..].iter();
                    for ((left, z), banned) in left.iter_mut().zip(logits).zip(banned) {
                        *left = if *banned { f32::NEG_INFINITY } else { *z };
                    }
                    &left[..logits.len()]
                }
            };
            let after = before + probabilities(logits, &self.stats, block);
            if after > uniform {
                let passes = |p: &f32| {
                    before += f64::from(*p);
                    *p > 0.0 && before > uniform
                };
                // Where rounding leaves the sum of the block's tokens short of the sum of its lanes, its last token.
                let place = block.iter().position(passes).or_else(|| block.iter().rposition(|p| *p > 0.0));
                if let Some(place) = place {
                    return BLOCK * i + place;
                }
            }
            before = after;
        }
        self.likeliest()
    }

    /// The lowest id of equals.
    pub(crate) fn likeliest(&self) -> usize {
        match self.banned {
            None => first_place(self.logits, self.stats.top),
            Some(_) => (0..self.logits.len()).find(|v| self.logit(*v) == self.stats.top).unwrap_or(0),
        }
    }

    /// What is known of a token drawn from what was kept.
    pub(crate) fn drawn(&self, token: usize, kept: Option<&Kept>) -> Draw {
        let logp = self.stats.log_prob(self.logit(token));
        let truncated_logp = match kept {
            Some(_) if self.params.temperature == 0.0 => 0.0,
            Some(Kept { mass, .. }) if *mass != 1.0 => (f64::from(logp) - mass.ln()) as f32,
            _ => logp,
        };
        Draw { token: token as u32, logp, truncated_logp, entropy: self.stats.entropy }
    }
}

/// 1 when greedy.
fn inverse_temperature(params: &SamplingParams) -> f32 {
    if params.temperature == 0.0 { 1.0 } else { 1.0 / params.temperature }
}

/// The kept tokens, likeliest first (equals by id), and their probability together.
fn truncate(
    logits: &[f32],
    params: &SamplingParams,
    probability: impl Fn(usize) -> f64,
) -> (Buffer<u32>, f64) {
    let mut order = Buffer::of(logits.len());
    order.iter_mut().zip(0..).for_each(|(token, id)| *token = id);
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
        if let Some(last) = reached {
            order.truncate(last + 1);
        }
    }
    if params.min_p > 0.0 {
        let floor = f64::from(params.min_p) * probability(order[0] as usize);
        let keep = order.iter().take_while(|t| probability(**t as usize) >= floor).count();
        order.truncate(keep.max(1));
    }
    let mass = order.iter().map(|t| probability(*t as usize)).sum();
    (order, mass)
}

/// Inverse CDF: the first token at which the running sum passes `uniform · mass`. When rounding leaves the whole sum
/// short of that, the likeliest token.
fn pick(
    tokens: impl Iterator<Item = usize>,
    probability: impl Fn(usize) -> f64,
    uniform: f64,
    mass: f64,
) -> usize {
    let target = uniform * mass;
    let (mut sum, mut likeliest, mut top) = (0.0, 0, 0.0);
    for token in tokens {
        let p = probability(token);
        sum += p;
        if p > 0.0 && sum > target {
            return token;
        }
        if p > top {
            (likeliest, top) = (token, p);
        }
    }
    likeliest
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn rounding_at_the_end_of_the_distribution_never_draws_an_unlikely_or_banned_token() {
        let probabilities = [0.25, 0.5, 0.25 - 1e-7, 0.0];
        assert_eq!(pick(0..4, |t| probabilities[t], 1.0 - 1e-12, 1.0), 1);
        let logits = [0.0, 1.0, f32::NEG_INFINITY, f32::NEG_INFINITY];
        for uniform in [0.0, 0.5, 1.0 - f64::EPSILON] {
            let draw = draw(&logits, &SamplingParams::default(), uniform).unwrap();
            assert!(draw.token < 2 && draw.logp.is_finite());
        }
        // The same, where a truncation keeps more than the tokens that are left.
        let params = SamplingParams { top_k: 3, ..SamplingParams::default() };
        assert!(draw(&logits, &params, 1.0 - f64::EPSILON).unwrap().token < 2);
    }

    /// Rows around a block, with bans: blocks draw what one sum over the row draws.
    #[test]
    fn blocks_of_a_row_draw_what_the_row_draws() {
        for length in [1usize, 7, 255, 256, 257, 900] {
            let logit = |v: usize| match v * 7919 % 11 {
                0 if v > 0 => f32::NEG_INFINITY,
                n => n as f32 * 0.7 - 3.0,
            };
            let (logits, params) = ((0..length).map(logit).collect::<Vec<f32>>(), SamplingParams::default());
            let row = Distribution::new(&logits, &params).unwrap();
            for i in 0..200 {
                let uniform = f64::from(i) / 199.0 * (1.0 - f64::EPSILON);
                let expected = pick(0..length, |t| row.probability(t), uniform, 1.0);
                assert_eq!(row.pick_of_all(uniform), expected, "{uniform} of {length} tokens");
            }
        }
    }

    #[test]
    fn a_temperature_that_overflows_is_refused() {
        for (temperature, accepted) in [(0.0, true), (1e-4, true), (1.0, true), (1e-40, false), (-1.0, false)]
        {
            let params = SamplingParams { temperature, ..SamplingParams::default() };
            assert_eq!(params.validate().is_ok(), accepted, "{temperature}");
        }
        let params = SamplingParams { temperature: f32::NAN, ..SamplingParams::default() };
        assert!(params.validate().is_err());
    }
}
