//! The loss of logits, which become their gradient: two reads and one write of a logit.

use rayon::prelude::*;

use crate::aggregation::Normalizer;
use crate::batch::TokenBatch;
use crate::error::{Error, Result};
use crate::evaluate::{LossOutput, PolicyLoss};
use crate::logits::{Logit, RowStats};
use crate::vector::{row_grad, row_stats};

/// What logits and a loss give together.
#[derive(Clone, Debug, PartialEq)]
pub struct LogitsOutput {
    /// Loss, its gradients to log-probabilities and entropies, and metrics.
    pub loss: LossOutput<f32>,
    /// `log π_θ`: `[tokens]`, 0 at masked positions.
    pub logp: Vec<f32>,
    /// Entropy: `[tokens]`, 0 at masked positions.
    pub entropy: Vec<f32>,
}

impl PolicyLoss {
    /// [`evaluate`](Self::evaluate) from `logits` `[tokens, vocabulary]`, which are replaced by `∂L/∂logits`: nothing else of
    /// their size is held. `batch.logp` and `batch.entropy` are computed here and not read, so they may be empty. Rows of
    /// masked tokens are not read; their gradient is `+0.0`.
    ///
    /// ```
    /// use policy_loss::{Advantages, LossConfig, Normalizer, TokenBatch};
    /// let loss = LossConfig::preset("sapo", 8)?.0.validate()?;
    /// let mut logits = [2.0f32, 1.0, 0.0, 0.0, 1.0, -1.0];
    /// let batch = TokenBatch {
    ///     logp_old: Some(&[-0.5, -0.9]),
    ///     ..TokenBatch::new(&[0, 2], &[], Advantages::PerSequence(&[1.0]))
    /// };
    /// let out = loss.evaluate_logits(&mut logits, &[0, 1], 1.0, &batch, &Normalizer::default())?;
    /// assert!(out.logp[0] > -0.5 && logits[0] < 0.0 && logits[4] < 0.0);
    /// # Ok::<(), policy_loss::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`evaluate`](Self::evaluate), and when slices do not fit, the temperature is not positive, or a target is outside
    /// the vocabulary. The logits are then as they were.
    pub fn evaluate_logits<T: Logit>(
        &self,
        logits: &mut [T],
        targets: &[u32],
        temperature: f64,
        batch: &TokenBatch<'_, f32>,
        normalizer: &Normalizer,
    ) -> Result<LogitsOutput> {
        let tokens = targets.len();
        let vocabulary = logits.len().checked_div(tokens).unwrap_or(0);
        if logits.len() != tokens * vocabulary || (tokens > 0 && vocabulary == 0) {
            return Err(Error::Shape {
                what: "logits",
                found: logits.len(),
                expected: tokens * vocabulary.max(1),
            });
        }
        batch.check_tokens(tokens)?;
        check_scoring(targets, batch.mask, vocabulary, temperature)?;
        let inv_temperature = (1.0 / temperature) as f32;
        let trains = |token: usize| batch.mask.is_none_or(|m| m[token]);
        let of_row = |(token, row): (usize, &[T])| {
            let stats = trains(token).then(|| row_stats(row, inv_temperature))?;
            Some((stats, stats.log_prob(row[targets[token] as usize].wide())))
        };
        let rows = logits.par_chunks(vocabulary.max(1)).enumerate();
        let scores: Vec<Option<(RowStats, f32)>> = rows.map(of_row).collect();
        let logp: Vec<f32> = scores.iter().map(|s| s.map_or(0.0, |(_, logp)| logp)).collect();
        let entropy: Vec<f32> = scores.iter().map(|s| s.map_or(0.0, |(stats, _)| stats.entropy)).collect();
        let batch = TokenBatch { logp: &logp, entropy: Some(&entropy), ..*batch };
        let loss = self.evaluate(&batch, normalizer)?;
        let rows = logits.par_chunks_mut(vocabulary.max(1)).zip(&scores).enumerate();
        rows.for_each(|(token, (row, score))| match score {
            Some((stats, _)) => {
                let upstream = [loss.grad_logp[token], loss.grad_entropy[token]];
                row_grad(row, targets[token] as usize, stats, upstream);
            }
            None => row.fill(T::round(0.0)),
        });
        Ok(LogitsOutput { loss, logp, entropy })
    }
}

/// Refuses a temperature that is none, and targets outside the vocabulary where tokens train.
pub(crate) fn check_scoring(
    targets: &[u32],
    mask: Option<&[bool]>,
    vocabulary: usize,
    temperature: f64,
) -> Result<()> {
    if !(temperature > 0.0 && temperature.is_finite()) {
        let name = "temperature";
        return Err(Error::Parameter { name, value: temperature, expected: "a positive number" });
    }
    let outside = |t: &usize| mask.is_none_or(|m| m[*t]) && targets[*t] as usize >= vocabulary;
    match (0..targets.len()).find(outside) {
        Some(token) => Err(Error::Target { token, target: targets[token], vocabulary }),
        None => Ok(()),
    }
}
