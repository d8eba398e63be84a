//! The loss as a node of a candle graph, and the one operation that leads from logits to what it reads.
//!
//! ```
//! use candle_core::{Device, Var};
//! use policy_loss::{Advantages, LossConfig, Normalizer, TokenBatch, op};
//! let logits = Var::new(&[[2.0f32, 1.0, 0.0], [0.0, 1.0, -1.0]], &Device::Cpu)?;
//! let scores = op::log_probs(&logits, &[0, 1], 1.0)?;
//! let (logp, entropy) = (scores.narrow(1, 0, 1)?.flatten_all()?, scores.narrow(1, 1, 1)?.flatten_all()?);
//! let (values, old) = (logp.to_vec1::<f32>()?, [-0.5, -0.9]);
//! let batch = TokenBatch {
//!     logp_old: Some(&old),
//!     ..TokenBatch::new(&[0, 2], &values, Advantages::PerSequence(&[1.0]))
//! };
//! let out = LossConfig::preset("sapo", 8)?.0.validate()?.evaluate(&batch, &Normalizer::default())?;
//! let loss = op::loss_tensor(&out, &logp, Some(&entropy))?;
//! let gradient = loss.backward()?.get(&logits).unwrap().to_vec2::<f32>()?;
//! assert!(gradient[0][0] < 0.0 && gradient[1][1] < 0.0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::batch::Real;
use crate::evaluate::LossOutput;

/// An evaluated loss as a scalar tensor that passes its gradients back to `logp` and, when given, to `entropy`: tensors
/// of as many elements as the evaluated batch has tokens, in `f32` or `f64`, on the CPU. The values in them are not
/// read, so `NaN` at masked positions does no harm.
///
/// # Errors
/// When sizes or types do not fit.
pub fn loss_tensor<F: Real>(out: &LossOutput<F>, logp: &Tensor, entropy: Option<&Tensor>) -> Result<Tensor> {
    let wide = |gradient: &[F]| gradient.iter().map(|g| (*g).into()).collect::<Vec<f64>>();
    let tokens = out.grad_logp.len();
    for (name, tensor) in [("logp", Some(logp)), ("entropy", entropy)] {
        if let Some(found) = tensor.map(Tensor::elem_count).filter(|n| *n != tokens) {
            bail!("{name} has {found} elements, the evaluated batch {tokens} tokens");
        }
    }
    let op = Loss { loss: out.loss, grad_logp: wide(&out.grad_logp), grad_entropy: wide(&out.grad_entropy) };
    match entropy {
        // Nothing to pass back spares the backward of the entropy.
        Some(entropy) if op.grad_entropy.iter().any(|h| *h != 0.0) => logp.apply_op2(entropy, op),
        _ => logp.apply_op1(op),
    }
}

struct Loss {
    loss: f64,
    grad_logp: Vec<f64>,
    grad_entropy: Vec<f64>,
}

impl Loss {
    fn forward(&self, logp: &CpuStorage) -> Result<(CpuStorage, Shape)> {
        let loss = match logp {
            CpuStorage::F32(_) => CpuStorage::F32(vec![self.loss as f32]),
            CpuStorage::F64(_) => CpuStorage::F64(vec![self.loss]),
            _ => bail!("log-probabilities must be f32 or f64"),
        };
        Ok((loss, Shape::from(())))
    }

    /// Zeros are selected, so that they stay `+0.0` whatever comes from upstream.
    fn backward(gradient: &[f64], of: &Tensor, upstream: &Tensor) -> Result<Tensor> {
        let upstream = upstream.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        let scaled = gradient.iter().map(|g| if *g == 0.0 { 0.0 } else { g * upstream }).collect::<Vec<_>>();
        Tensor::from_vec(scaled, of.shape(), of.device())?.to_dtype(of.dtype())
    }
}

impl CustomOp1 for Loss {
    fn name(&self) -> &'static str {
        "policy-loss"
    }

    fn cpu_fwd(&self, logp: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.forward(logp)
    }

    fn bwd(&self, logp: &Tensor, _: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        Self::backward(&self.grad_logp, logp, upstream).map(Some)
    }
}

impl CustomOp2 for Loss {
    fn name(&self) -> &'static str {
        "policy-loss"
    }

    fn cpu_fwd(
        &self,
        logp: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward(logp)
    }

    fn bwd(
        &self,
        logp: &Tensor,
        entropy: &Tensor,
        _: &Tensor,
        upstream: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let logp = Self::backward(&self.grad_logp, logp, upstream)?;
        Ok((Some(logp), Some(Self::backward(&self.grad_entropy, entropy, upstream)?)))
    }
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
            if g == 0.0 && h == 0.0 {
                // A masked row, whatever is in it.
                row.fill(0.0);
                return;
            }
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
