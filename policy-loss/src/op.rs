//! Losses as candle operations, differentiable in log-probabilities or in logits.

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::aggregation::Normalizer;
use crate::batch::TokenBatch;
use crate::evaluate::PolicyLoss;
use crate::metrics::Metrics;

/// The loss as a scalar tensor, differentiable in `logp` `[tokens]` and, when given, `entropy` `[tokens]` (both
/// contiguous `f32`), and its metrics. The slices `batch.logp` and `batch.entropy` are replaced by the tensors'
/// values.
pub fn policy_loss(
    loss: &PolicyLoss,
    batch: &TokenBatch<'_, f32>,
    normalizer: &Normalizer,
    logp: &Tensor,
    entropy: Option<&Tensor>,
) -> Result<(Tensor, Metrics)> {
    let values = logp.detach().flatten_all()?.to_vec1::<f32>()?;
    let entropies = entropy.map(|h| h.detach().flatten_all()?.to_vec1::<f32>()).transpose()?;
    let batch = TokenBatch { logp: &values, entropy: entropies.as_deref().or(batch.entropy), ..*batch };
    let out = loss.evaluate(&batch, normalizer)?;
    // The gradients are known, so the loss is linear in them: its value is put right by a constant.
    let device = logp.device();
    let mut graph =
        (logp.flatten_all()? * Tensor::from_vec(out.grad_logp, values.len(), device)?)?.sum_all()?;
    if let Some(entropy) = entropy {
        let h = Tensor::from_vec(out.grad_entropy, values.len(), device)?;
        graph = (graph + (entropy.flatten_all()? * h)?.sum_all()?)?;
    }
    let value = Tensor::new(out.loss as f32, device)?;
    Ok(((&graph - graph.detach())?.add(&value)?, out.metrics))
}

/// Log-probability of one target and entropy for each row of logits: `[rows, vocabulary]` to `[rows, 2]`, of
/// `softmax(logits / temperature)`, in nats.
///
/// `-inf` logits are banned tokens; a banned target gives `-inf`. The backward is the formula that all objectives
/// share: `da_v = (g·(1{v=y} − p_v) − h·p_v·(log p_v + H)) / T`.
pub fn log_probs(logits: &Tensor, targets: &[u32], temperature: f64) -> Result<Tensor> {
    logits.apply_op1(LogProbs {
        targets: targets.to_vec(),
        temperature: temperature as f32,
        saved: Mutex::default(),
    })
}

struct LogProbs {
    targets: Vec<u32>,
    temperature: f32,
    /// Log-sum-exp and entropy of each row, for the backward.
    saved: Mutex<Vec<[f32; 2]>>,
}

/// Log-sum-exp and entropy of `row / temperature` in one pass, rescaled when the maximum grows.
fn row_stats(row: &[f32], temperature: f32) -> [f32; 2] {
    let (mut top, mut sum, mut weighted) = (f32::NEG_INFINITY, 0f32, 0f32);
    for logit in row {
        let z = logit / temperature;
        if z == f32::NEG_INFINITY {
            continue;
        }
        if z > top {
            if sum > 0.0 {
                let shrink = (top - z).exp();
                weighted = shrink * (weighted + (top - z) * sum);
                sum *= shrink;
            }
            top = z;
        }
        let e = (z - top).exp();
        sum += e;
        weighted += e * (z - top);
    }
    [top + sum.ln(), sum.ln() - weighted / sum]
}

fn rows<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(data), Some((start, end))) => Ok(&data[start..end]),
        _ => bail!("logits must be contiguous f32 on the CPU"),
    }
}

impl CustomOp1 for LogProbs {
    fn name(&self) -> &'static str {
        "log-probs"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (count, vocabulary) = layout.shape().dims2()?;
        if self.targets.len() != count {
            bail!("{} targets for {count} rows of logits", self.targets.len());
        }
        if let Some(bad) = self.targets.iter().find(|t| **t as usize >= vocabulary) {
            bail!("target token {bad} is outside the vocabulary of {vocabulary}");
        }
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            bail!("temperature is {}, expected a positive number", self.temperature);
        }
        let logits = rows(logits, layout)?;
        let stats: Vec<[f32; 2]> =
            logits.par_chunks(vocabulary.max(1)).map(|row| row_stats(row, self.temperature)).collect();
        let mut out = Vec::with_capacity(2 * count);
        for (i, [lse, entropy]) in stats.iter().enumerate() {
            out.push(logits[i * vocabulary + self.targets[i] as usize] / self.temperature - lse);
            out.push(*entropy);
        }
        *self.saved.lock().unwrap_or_else(PoisonError::into_inner) = stats;
        Ok((CpuStorage::F32(out), (count, 2).into()))
    }

    fn bwd(&self, logits: &Tensor, _out: &Tensor, d_out: &Tensor) -> Result<Option<Tensor>> {
        let (_, vocabulary) = logits.dims2()?;
        let mut d = logits.flatten_all()?.to_vec1::<f32>()?;
        let upstream = d_out.to_vec2::<f32>()?;
        let saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        d.par_chunks_mut(vocabulary.max(1)).enumerate().for_each(|(i, row)| {
            let ([lse, entropy], g, h) = (saved[i], upstream[i][0], upstream[i][1]);
            for z in row.iter_mut() {
                let log_p = *z / self.temperature - lse;
                let p = log_p.exp();
                *z = if p > 0.0 { -p * (g + h * (log_p + entropy)) / self.temperature } else { 0.0 };
            }
            row[self.targets[i] as usize] += g / self.temperature;
        });
        Ok(Some(Tensor::from_vec(d, logits.shape(), logits.device())?))
    }
}
