//! Log-probabilities under the gated distribution, from logits and a recorded mask, with their gradient.
//!
//! The gated policy is the policy: what a rollout drew from is `softmax` over the tokens that were not denied, and a trainer
//! that scores with the full softmax is wrong by the allowed mass, at equal weights. So masks are replayed, not recomputed.

use std::borrow::Cow;

use crate::error::{Error, Result};
use crate::family::FamilySet;
use crate::table::View;

/// A softmax over some tokens of a row: `Σ exp((z − top)/T)`, summed in f64 in index order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Softmax {
    top: f32,
    inv_temperature: f32,
    log_sum: f64,
}

impl Softmax {
    /// Over all logits of a row; −∞ adds nothing.
    pub fn of_row(logits: &[f32], inv_temperature: f32) -> Self {
        let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        Self::above(top, logits.iter().copied(), inv_temperature)
    }

    /// Over these logits.
    pub fn of(logits: impl Iterator<Item = f32>, inv_temperature: f32) -> Self {
        let kept: Vec<f32> = logits.collect();
        Self::of_row(&kept, inv_temperature)
    }

    fn above(top: f32, logits: impl Iterator<Item = f32>, inv_temperature: f32) -> Self {
        let term = |z: f32| {
            if z == f32::NEG_INFINITY { 0.0 } else { f64::from(((z - top) * inv_temperature).exp()) }
        };
        Self { top, inv_temperature, log_sum: logits.map(term).sum::<f64>().ln() }
    }

    /// The log-probability of a logit.
    pub fn log_prob(&self, logit: f32) -> f64 {
        match logit {
            f32::NEG_INFINITY => f64::NEG_INFINITY,
            z => f64::from((z - self.top) * self.inv_temperature) - self.log_sum,
        }
    }
}

/// The tokens that a recorded mask leaves at one position.
#[derive(Clone, Debug)]
pub struct RowMask<'a> {
    /// The families of tokens there.
    pub view: View<'a>,
    /// The recorded denied families; empty for no intervention.
    pub denied: FamilySet,
    /// What the engine's own truncation kept, ascending, where there was one; widening included.
    pub kept: Option<Cow<'a, [u32]>>,
}

impl RowMask<'_> {
    /// Whether a token is in the support.
    pub fn allows(&self, token: u32) -> bool {
        (self.denied.is_empty() || !self.view.denies(self.denied, token as usize))
            && self.kept.as_ref().is_none_or(|kept| kept.binary_search(&token).is_ok())
    }

    fn softmax(&self, logits: &[f32], inv_temperature: f32) -> Softmax {
        let logits = logits.iter().enumerate();
        Softmax::of(logits.filter(|(v, _)| self.allows(*v as u32)).map(|(_, z)| *z), inv_temperature)
    }

    /// Over the allowed tokens, and over all.
    #[cfg(feature = "candle")]
    pub(crate) fn softmaxes(&self, logits: &[f32], temperature: f32) -> (Softmax, Softmax) {
        let inv_temperature = 1.0 / temperature;
        (self.softmax(logits, inv_temperature), Softmax::of_row(logits, inv_temperature))
    }

    fn check(&self, row: usize, logits: &[f32], token: u32) -> Result<()> {
        let table = self.view.table().len();
        if logits.len() != table {
            return Err(Error::VocabMismatch { logits: logits.len(), table });
        }
        self.check_token(row, token)
    }

    pub(crate) fn check_token(&self, row: usize, token: u32) -> Result<()> {
        let table = self.view.table().len();
        if token as usize >= table {
            return Err(Error::TokenOutOfRange { token, vocab_size: table });
        }
        if !self.allows(token) {
            return Err(Error::SampledTokenDenied { row, token, denied: self.denied.0 });
        }
        Ok(())
    }

    /// `z_a/T − log Σ_allowed exp(z_v/T)`, to the last bit what [`sample`](crate::sample) recorded for the same logits.
    ///
    /// # Errors
    /// [`Error::SampledTokenDenied`] for a token outside its own support; [`Error::VocabMismatch`],
    /// [`Error::TokenOutOfRange`].
    pub fn logprob(&self, row: usize, logits: &[f32], token: u32, temperature: f32) -> Result<f32> {
        self.check(row, logits, token)?;
        let softmax = self.softmax(logits, 1.0 / temperature);
        Ok(softmax.log_prob(logits[token as usize]) as f32)
    }

    /// Adds `upstream · ∂logprob/∂z` to `gradient` `[V]`: `([v = a] − π̃(v))/T` for allowed tokens, nothing elsewhere.
    ///
    /// # Errors
    /// As [`Self::logprob`].
    pub fn add_gradient(
        &self,
        row: usize,
        logits: &[f32],
        token: u32,
        temperature: f32,
        upstream: f32,
        gradient: &mut [f32],
    ) -> Result<()> {
        self.check(row, logits, token)?;
        let inv_temperature = 1.0 / temperature;
        let softmax = self.softmax(logits, inv_temperature);
        for (v, d) in gradient.iter_mut().enumerate().filter(|(v, _)| self.allows(*v as u32)) {
            let hit = f64::from(u8::from(v == token as usize));
            let p = softmax.log_prob(logits[v]).exp();
            *d += (f64::from(upstream * inv_temperature) * (hit - p)) as f32;
        }
        Ok(())
    }

    /// `−log Σ_allowed π(v)`: the mass that the gate has to remove, as a loss; 0 where nothing is denied.
    ///
    /// # Errors
    /// [`Error::VocabMismatch`].
    pub fn leak(&self, logits: &[f32], temperature: f32) -> Result<f32> {
        let table = self.view.table().len();
        if logits.len() != table {
            return Err(Error::VocabMismatch { logits: logits.len(), table });
        }
        if self.denied.is_empty() {
            return Ok(0.0);
        }
        let all = Softmax::of_row(logits, 1.0 / temperature);
        let allowed = self.softmax(logits, 1.0 / temperature);
        // Both relative to one token, whose logit cancels.
        let of = |s: &Softmax| f64::from((s.top - all.top) * all.inv_temperature) + s.log_sum;
        Ok((of(&all) - of(&allowed)) as f32)
    }

    /// Adds `upstream · ∂leak/∂z` to `gradient` `[V]`: `(π(v) − π̃(v))/T` for allowed tokens, `π(v)/T` for denied ones.
    ///
    /// # Errors
    /// As [`Self::leak`].
    pub fn add_leak_gradient(
        &self,
        logits: &[f32],
        temperature: f32,
        upstream: f32,
        gradient: &mut [f32],
    ) -> Result<()> {
        self.leak(logits, temperature)?;
        if self.denied.is_empty() {
            return Ok(());
        }
        let inv_temperature = 1.0 / temperature;
        let (all, allowed) =
            (Softmax::of_row(logits, inv_temperature), self.softmax(logits, inv_temperature));
        for (v, d) in gradient.iter_mut().enumerate() {
            let gated = if self.allows(v as u32) { allowed.log_prob(logits[v]).exp() } else { 0.0 };
            *d += (f64::from(upstream * inv_temperature) * (all.log_prob(logits[v]).exp() - gated)) as f32;
        }
        Ok(())
    }
}
