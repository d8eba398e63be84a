//! The loss of hidden states: output head, log-probabilities, objective and gradients in one pass over parts of the batch.
//!
//! Cost for `R` rows, hidden size `D`, vocabulary `V`: `6·R·D·V` flops, the products that any gradient takes, for parts whose
//! logits fit into a chunk; `8·R·D·V` for longer ones, since then the logits are computed twice. No more than `chunk · V` logits
//! exist. Products are the caller's ([`Products`]).

use std::borrow::Cow;

use crate::aggregation::{Mode, Normalizer};
use crate::batch::{Advantages, TokenBatch};
use crate::error::{Error, Result};
use crate::evaluate::{LossOutput, PolicyLoss};
use crate::head::{LinearHead, Products, Rows};
use crate::metrics::Metrics;
use crate::penalty::EntropyAggregation;

/// What a head and a loss give together.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearOutput {
    /// Loss, its gradients to log-probabilities and entropies, and metrics.
    pub loss: LossOutput<f32>,
    /// `log π_θ`: `[tokens]`, 0 at masked positions.
    pub logp: Vec<f32>,
    /// Entropy: `[tokens]`, 0 at masked positions.
    pub entropy: Vec<f32>,
    /// `∂L/∂hidden`: `[tokens, size]`, 0 at masked positions.
    pub grad_hidden: Vec<f32>,
}

impl PolicyLoss {
    /// [`evaluate`](Self::evaluate) from hidden states. `batch.logp` and `batch.entropy` are computed here and not read, so
    /// they may be empty. `∂L/∂weight` is added to `grad_weight` `[vocabulary, size]`. Masked rows take no part in products.
    ///
    /// The batch is worked through in parts of whole sequences where the loss of a part needs no more of the rest than
    /// `normalizer` says: its counts, and what [`evaluate`](Self::evaluate) asks for with them. A part has as many sequences
    /// as fit into a chunk; the logits of a longer sequence, and of a batch whose counts are not given, are computed twice.
    ///
    /// # Errors
    /// As [`evaluate`](Self::evaluate), and when slices do not fit, the temperature is not positive, the chunk is 0, or a
    /// target is outside the vocabulary.
    pub fn evaluate_linear(
        &self,
        head: &LinearHead<'_>,
        batch: &TokenBatch<'_, f32>,
        normalizer: &Normalizer,
        products: &impl Products,
        grad_weight: &mut [f32],
    ) -> Result<LinearOutput> {
        let tokens = head.targets.len();
        batch.check_tokens(tokens)?;
        head.check(batch.mask)?;
        head.check_gradient(grad_weight)?;
        let mut out = LinearOutput {
            loss: LossOutput {
                loss: 0.0,
                grad_logp: vec![0.0; tokens],
                grad_entropy: vec![0.0; tokens],
                metrics: Metrics::default(),
                warnings: Vec::new(),
            },
            logp: vec![0.0; tokens],
            entropy: vec![0.0; tokens],
            grad_hidden: vec![0.0; tokens * head.size],
        };
        let longest = if self.is_separable(normalizer) { head.chunk } else { usize::MAX };
        let mut logits = Vec::new();
        for [first, last] in parts(batch.offsets, longest) {
            let (start, end) = (batch.offsets[first], batch.offsets[last]);
            let kept: Vec<usize> = (start..end).filter(|t| batch.mask.is_none_or(|m| m[*t])).collect();
            let of = |token: usize| &head.hidden[token * head.size..][..head.size];
            let hidden = match kept.len() == end - start {
                true => Cow::Borrowed(&head.hidden[start * head.size..end * head.size]),
                false => kept.iter().flat_map(|t| of(*t)).copied().collect(),
            };
            let rows = Rows { head, products, tokens: kept, hidden, hold: true };
            let stats = rows.scores(&mut logits, |token, logp, entropy| {
                (out.logp[token], out.entropy[token]) = (logp, entropy);
            });
            let (logp, entropy) = (&out.logp[start..end], &out.entropy[start..end]);
            let offsets: Vec<usize> = batch.offsets[first..=last].iter().map(|o| o - start).collect();
            let batch = batch.part([first, last], &offsets, logp, entropy);
            let loss = self.evaluate(&batch, normalizer).map_err(|e| e.behind(first))?;
            let upstream = |token: usize| [loss.grad_logp[token - start], loss.grad_entropy[token - start]];
            let grad = rows.gradients(&mut logits, &stats, upstream, grad_weight);
            for (token, grad) in rows.tokens.iter().zip(grad.chunks(head.size)) {
                out.grad_hidden[token * head.size..][..head.size].copy_from_slice(grad);
            }
            out.loss.add(loss, start);
        }
        Ok(out)
    }

    /// Whether a part of a batch can be evaluated with the given denominators without looking at the rest.
    fn is_separable(&self, given: &Normalizer) -> bool {
        let config = self.config();
        let tokens_for_entropy =
            config.entropy.is_some_and(|e| e.aggregation != EntropyAggregation::SameAsPolicy);
        let counted = match config.aggregation.mode {
            Mode::TokenMean => given.tokens.is_some(),
            Mode::GroupTokenMean => given.group_tokens.is_some(),
            Mode::SeqMeanTokenMean | Mode::SeqMeanTokenSum | Mode::SeqMeanTokenSumNorm { .. } => {
                given.seqs.is_some()
            }
            Mode::TokenSum => true,
        };
        counted
            && (given.tokens.is_some() || !tokens_for_entropy)
            && (given.entropy_threshold.is_some() || config.entropy_top_share.is_none())
            && (given.mean_weight.is_some() || !config.correction.is_some_and(|c| c.batch_normalize))
    }
}

/// Ranges of sequences with at most `longest` tokens together; a longer sequence is its own. At least one.
fn parts(offsets: &[usize], longest: usize) -> Vec<[usize; 2]> {
    let mut parts = vec![[0, 0]];
    for sequence in 0..offsets.len() - 1 {
        match parts.last_mut() {
            Some([first, last]) if *last == *first || offsets[sequence + 1] - offsets[*first] <= longest => {
                *last = sequence + 1;
            }
            _ => parts.push([sequence, sequence + 1]),
        }
    }
    parts
}

impl Error {
    /// Of a part of a batch, with `first` sequences before it.
    fn behind(self, first: usize) -> Self {
        match self {
            Self::NonFinite { what, sequence, token, value } => {
                Self::NonFinite { what, sequence: sequence + first, token, value }
            }
            Self::TokenAdvantages { sequence, objective } => {
                Self::TokenAdvantages { sequence: sequence + first, objective }
            }
            other => other,
        }
    }
}

impl LossOutput<f32> {
    /// Adds what a part of the batch gave, whose tokens begin at `start`.
    fn add(&mut self, part: Self, start: usize) {
        self.loss += part.loss;
        self.grad_logp[start..][..part.grad_logp.len()].copy_from_slice(&part.grad_logp);
        self.grad_entropy[start..][..part.grad_entropy.len()].copy_from_slice(&part.grad_entropy);
        self.metrics.merge(&part.metrics);
        for warning in part.warnings {
            if !self.warnings.contains(&warning) {
                self.warnings.push(warning);
            }
        }
    }
}

impl<'a> TokenBatch<'a, f32> {
    /// Sequences `first..last` with other log-probabilities and entropies; `offsets` are theirs, from 0.
    fn part<'b>(
        &self,
        [first, last]: [usize; 2],
        offsets: &'b [usize],
        logp: &'b [f32],
        entropy: &'b [f32],
    ) -> TokenBatch<'b, f32>
    where
        'a: 'b,
    {
        let (start, end) = (self.offsets[first], self.offsets[last]);
        let tokens = |values: Option<&'a [f32]>| values.map(|v| &v[start..end]);
        TokenBatch {
            offsets,
            logp,
            logp_old: tokens(self.logp_old),
            logp_mu: tokens(self.logp_mu),
            logp_ref: tokens(self.logp_ref),
            entropy: Some(entropy),
            mask: self.mask.map(|m| &m[start..end]),
            advantages: match self.advantages {
                Advantages::PerSequence(a) => Advantages::PerSequence(&a[first..last]),
                Advantages::PerToken(a) => Advantages::PerToken(&a[start..end]),
            },
            groups: self.groups.map(|g| &g[first..last]),
            log_kept_mass: tokens(self.log_kept_mass),
        }
    }
}
