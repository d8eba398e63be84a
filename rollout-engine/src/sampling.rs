//! From one row of logits to one token.

use std::ops::Range;

use qwen3::Buffer;
use qwen3::kernel::activation::exp;
use qwen3::kernel::softmax::{
    BLOCK, Partial, RowStats, block_stats, block_stats_and_left, first_place, probabilities,
};
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
    /// Of each [`BLOCK`] of the row.
    blocks: Buffer<Partial>,
}

impl<'a> Distribution<'a> {
    pub(crate) fn new(logits: &'a [f32], params: &'a SamplingParams) -> Result<Self> {
        let mut blocks = Buffer::of(logits.len().div_ceil(BLOCK));
        let stats = block_stats(logits, inverse_temperature(params), &mut blocks);
        Self { logits, banned: None, params, stats, blocks }.checked()
    }

    /// That of the row, and that of what `banned` leaves of it, which has the bits of the row whose banned logits are −∞.
    pub(crate) fn and_left(
        logits: &'a [f32],
        banned: &'a [bool],
        params: &'a SamplingParams,
    ) -> Result<[Self; 2]> {
        let [mut blocks, mut of_left] = [(); 2].map(|()| Buffer::of(logits.len().div_ceil(BLOCK)));
        let both: [&mut [Partial]; 2] = [&mut blocks, &mut of_left];
        let [stats, left] = block_stats_and_left(logits, banned, inverse_temperature(params), both);
        let all = Self { logits, banned: None, params, stats, blocks }.checked()?;
        Ok([all, Self { logits, banned: Some(banned), params, stats: left, blocks: of_left }])
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

    /// [`pick`] from the whole row: the block at whose end the sum passes `uniform`, then the token within it.
    fn pick_of_all(&self, uniform: f64) -> usize {
        let mut before = 0.0;
        for (i, block) in self.blocks.iter().enumerate() {
            let after = before + f64::from(block.probability(&self.stats, exp));
            if after > uniform {
                return self.pick_of_block(i, uniform - before);
            }
            before = after;
        }
        self.likeliest()
    }

    /// The token of a block at which the sum of their probabilities passes `target`. Where rounding leaves that short of the
    /// block's, its last token that has any.
    fn pick_of_block(&self, block: usize, target: f64) -> usize {
        let (tokens, mut left, mut p) = (self.tokens_of(block), [0f32; BLOCK], [0f32; BLOCK]);
        let (left, p) = (&mut left[..tokens.len()], &mut p[..tokens.len()]);
        left.iter_mut().zip(tokens.clone()).for_each(|(z, token)| *z = self.logit(token));
        probabilities(left, &self.stats, p);
        let mut sum = 0.0;
        let passes = |p: &f32| {
            sum += f64::from(*p);
            *p > 0.0 && sum > target
        };
        let place = p.iter().position(passes).or_else(|| p.iter().rposition(|p| *p > 0.0));
        tokens.start + place.unwrap_or(0)
    }

    fn tokens_of(&self, block: usize) -> Range<usize> {
        BLOCK * block..self.logits.len().min(BLOCK * (block + 1))
    }

    /// The lowest id of equals.
    pub(crate) fn likeliest(&self) -> usize {
        let block = self.blocks.iter().position(|b| b.top() == self.stats.top).unwrap_or(0);
        let mut tokens = self.tokens_of(block);
        match self.banned {
            None => tokens.start + first_place(&self.logits[tokens], self.stats.top),
            Some(_) => tokens.find(|v| self.logit(*v) == self.stats.top).unwrap_or(0),
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
        for length in [1usize, 7, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5] {
            let logit = |v: usize| match v * 7919 % 11 {
                0 if v > 0 => f32::NEG_INFINITY,
                n => n as f32 * 0.7 - 3.0,
            };
            let (logits, params) = ((0..length).map(logit).collect::<Vec<f32>>(), SamplingParams::default());
            // Nothing banned, and a third with a whole block.
            for banned in [vec![false; length], (0..length).map(|v| v % 3 == 1 || v / BLOCK == 1).collect()] {
                let [row, left] = Distribution::and_left(&logits, &banned, &params).unwrap();
                let alone = Distribution::new(&logits, &params).unwrap();
                for (row, i) in [alone, row, left].iter().flat_map(|row| (0..200).map(move |i| (row, i))) {
                    let uniform = (f64::from(i) + 0.5) / 200.0;
                    let expected = pick(0..length, |t| row.probability(t), uniform, 1.0);
                    assert_eq!(row.pick_of_all(uniform), expected, "{uniform} of {length} tokens");
                }
                let top = |row: &Distribution<'_>| pick(0..length, |t| row.probability(t), 2.0, 1.0);
                let [row, left] = Distribution::and_left(&logits, &banned, &params).unwrap();
                assert_eq!([row.likeliest(), left.likeliest()], [top(&row), top(&left)]);
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
