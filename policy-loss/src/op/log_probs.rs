//! From logits to log-probabilities and entropies, and back.

use candle_core::{CpuStorage, CustomOp1, InplaceOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::logits::{Logit, RowStats};
use crate::vector::{row_grad, row_stats};

#[cfg(feature = "candle-cuda")]
mod cuda;
#[cfg(all(test, feature = "candle-cuda"))]
mod on_gpu;

/// Log-probability of one target and entropy for each row of logits: `[rows, vocabulary]` in `f32` or `bf16` to
/// `[rows, 2]` in `f32`, of `softmax(logits / temperature)`, in nats.
///
/// `-inf` logits are banned tokens; a banned target gives `-inf`. The backward is the formula that all objectives
/// share: `da_v = (g·(1{v=y} − p_v) − h·p_v·(log p_v + H)) / T`.
///
/// # Errors
/// When sizes, types or the temperature do not fit, or a target is outside the vocabulary.
pub fn log_probs(logits: &Tensor, targets: &[u32], temperature: f64) -> Result<Tensor> {
    masked_log_probs(logits, targets, None, temperature)
}

/// As [`log_probs`], where rows with a `mask` `[rows]` of `false` are not read: their scores and gradients are `+0.0`,
/// whatever is in them and in their targets.
///
/// # Errors
/// As [`log_probs`].
pub fn masked_log_probs(
    logits: &Tensor,
    targets: &[u32],
    mask: Option<&[bool]>,
    temperature: f64,
) -> Result<Tensor> {
    let (_, vocabulary) = logits.dims2()?;
    let op = LogProbs::new(targets, mask, vocabulary, temperature)?;
    logits.apply_op1(op)?.narrow(1, 0, 2)
}

/// Log-probability of the target, entropy, and `top` and `log_sum` of [`RowStats`].
type Scores = [f32; 4];

/// `[rows, vocabulary]` to [`Scores`] of each row: what the backward needs rides along.
#[derive(Clone)]
pub(super) struct LogProbs {
    /// Negative where the row is masked.
    targets: Vec<i32>,
    temperature: f64,
}

impl LogProbs {
    pub(super) fn new(
        targets: &[u32],
        mask: Option<&[bool]>,
        vocabulary: usize,
        temperature: f64,
    ) -> Result<Self> {
        if let Some(mask) = mask.filter(|m| m.len() != targets.len()) {
            bail!("mask has {} elements, there are {} targets", mask.len(), targets.len());
        }
        if !(temperature > 0.0 && temperature.is_finite()) {
            bail!("temperature is {temperature}, expected a positive number");
        }
        let target = |(i, target): (usize, &u32)| match i32::try_from(*target) {
            _ if mask.is_some_and(|m| !m[i]) => Ok(-1),
            Ok(y) if (*target as usize) < vocabulary => Ok(y),
            _ => bail!("target token {target} is outside the vocabulary of {vocabulary}"),
        };
        let targets = targets.iter().enumerate().map(target).collect::<Result<Vec<i32>>>()?;
        Ok(Self { targets, temperature })
    }

    /// The same for rows `start..start + len`.
    pub(super) fn part(&self, start: usize, len: usize) -> Self {
        Self { targets: self.targets[start..start + len].to_vec(), temperature: self.temperature }
    }

    fn inv_temperature(&self) -> f32 {
        (1.0 / self.temperature) as f32
    }

    /// Rows and columns of the logits, and where they lie.
    fn shape(&self, layout: &Layout) -> Result<(usize, usize, std::ops::Range<usize>)> {
        let (rows, vocabulary) = layout.shape().dims2()?;
        if self.targets.len() != rows {
            bail!("{} targets for {rows} rows of logits", self.targets.len());
        }
        let Some((start, end)) = layout.contiguous_offsets() else { bail!("logits must be contiguous") };
        Ok((rows, vocabulary, start..end))
    }

    fn stats<T: Logit>(&self, logits: &[T], vocabulary: usize) -> Vec<f32> {
        let row = |(row, target): (&[T], &i32)| match usize::try_from(*target) {
            Ok(target) => {
                let stats = row_stats(row, self.inv_temperature());
                [stats.log_prob(row[target].wide()), stats.entropy, stats.top, stats.log_sum]
            }
            Err(_) => [0.0; 4],
        };
        let rows = logits.par_chunks(vocabulary.max(1)).zip(&self.targets);
        rows.map(row).collect::<Vec<Scores>>().concat()
    }

    fn gradient<T: Logit>(&self, logits: &mut [T], vocabulary: usize, scores: &[f32], upstream: &[f32]) {
        let rows = logits.par_chunks_mut(vocabulary.max(1)).zip(&self.targets).enumerate();
        rows.for_each(|(i, (row, target))| {
            let (target, upstream) = match usize::try_from(*target) {
                Ok(target) => (target, [upstream[2 * i], upstream[2 * i + 1]]),
                Err(_) => (0, [0.0; 2]),
            };
            let [entropy, top, log_sum] = [1, 2, 3].map(|k| scores[4 * i + k]);
            let stats = RowStats { top, log_sum, entropy, inv_temperature: self.inv_temperature() };
            row_grad(row, target, &stats, upstream);
        });
    }

    /// Replaces `logits`, which nothing else may hold, by the gradient of a loss with `upstream` `[rows, 2]`.
    pub(super) fn replace_by_gradient(
        &self,
        logits: &Tensor,
        scores: &Tensor,
        upstream: &Tensor,
    ) -> Result<()> {
        logits.inplace_op3(scores, upstream, self)
    }
}

impl CustomOp1 for LogProbs {
    fn name(&self) -> &'static str {
        "log-probs"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, vocabulary, range) = self.shape(layout)?;
        let scores = match logits {
            CpuStorage::F32(a) => self.stats(&a[range], vocabulary),
            CpuStorage::BF16(a) => self.stats(&a[range], vocabulary),
            _ => bail!("logits must be f32 or bf16"),
        };
        Ok((CpuStorage::F32(scores), (rows, 4).into()))
    }

    #[cfg(feature = "candle-cuda")]
    fn cuda_fwd(
        &self,
        logits: &candle_core::CudaStorage,
        layout: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        self.stats_on_gpu(logits, layout)
    }

    fn bwd(&self, logits: &Tensor, scores: &Tensor, d_scores: &Tensor) -> Result<Option<Tensor>> {
        let gradient = logits.force_contiguous()?;
        self.replace_by_gradient(&gradient, scores, &d_scores.narrow(1, 0, 2)?.contiguous()?)?;
        Ok(Some(gradient))
    }
}

fn f32s<'a>(what: &str, storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(data), Some((start, end))) => Ok(&data[start..end]),
        _ => bail!("{what} must be contiguous f32"),
    }
}

impl InplaceOp3 for LogProbs {
    fn name(&self) -> &'static str {
        "log-probs-backward"
    }

    fn cpu_fwd(
        &self,
        logits: &mut CpuStorage,
        layout: &Layout,
        scores: &CpuStorage,
        scores_layout: &Layout,
        upstream: &CpuStorage,
        upstream_layout: &Layout,
    ) -> Result<()> {
        let (_, vocabulary, range) = self.shape(layout)?;
        let scores = f32s("scores", scores, scores_layout)?;
        let upstream = f32s("upstream gradients", upstream, upstream_layout)?;
        match logits {
            CpuStorage::F32(a) => self.gradient(&mut a[range], vocabulary, scores, upstream),
            CpuStorage::BF16(a) => self.gradient(&mut a[range], vocabulary, scores, upstream),
            _ => bail!("logits must be f32 or bf16"),
        }
        Ok(())
    }

    #[cfg(feature = "candle-cuda")]
    fn cuda_fwd(
        &self,
        logits: &mut candle_core::CudaStorage,
        layout: &Layout,
        scores: &candle_core::CudaStorage,
        scores_layout: &Layout,
        upstream: &candle_core::CudaStorage,
        upstream_layout: &Layout,
    ) -> Result<()> {
        self.gradient_on_gpu(logits, layout, (scores, scores_layout), (upstream, upstream_layout))
    }
}
