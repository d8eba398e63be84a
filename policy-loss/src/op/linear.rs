//! The output head in chunks of rows: `[rows, vocabulary]` logits never exist.

use candle_core::{CpuStorage, CustomOp2, DType, Layout, Result, Shape, Tensor, bail};

use super::log_probs::LogProbs;

/// Log-probability of one target and entropy for each row of the head `hidden · weightᵀ`: `hidden`
/// `[rows, hidden size]` and `weight` `[vocabulary, hidden size]` to `[rows, 2]` in `f32`, as
/// [`masked_log_probs`](super::masked_log_probs) of the logits gives. Gradients flow to both.
///
/// No more than `chunk` rows of logits exist at a time: the backward computes them again, so that forward and backward
/// take `8·rows·hidden size·vocabulary` flops. Masked rows take no part in the products. Logits have the type of
/// `hidden`; the gradient of the weight is summed over chunks in `f32`.
///
/// Products are candle's, on whatever device the tensors are: the head for a model of any candle code. What a row of logits
/// gives is [`logits`](crate::logits), as for a model that has its own chunks over its own products, for example because
/// the bits of a row must not depend on the batch, which those of candle's products do.
///
/// # Errors
/// As [`masked_log_probs`](super::masked_log_probs), and for a `chunk` of 0.
pub fn linear_log_probs(
    hidden: &Tensor,
    weight: &Tensor,
    targets: &[u32],
    mask: Option<&[bool]>,
    temperature: f64,
    chunk: usize,
) -> Result<Tensor> {
    let ((rows, _), (vocabulary, _)) = (hidden.dims2()?, weight.dims2()?);
    if targets.len() != rows {
        bail!("{} targets for {rows} rows of hidden states", targets.len());
    }
    if chunk == 0 {
        bail!("chunk is 0, expected at least one row");
    }
    let all = LogProbs::new(targets, mask, vocabulary, temperature)?;
    let kept: Vec<u32> = (0..rows).filter(|i| mask.is_none_or(|m| m[*i])).map(|i| i as u32).collect();
    let valid: Vec<u32> = kept.iter().map(|i| targets[*i as usize]).collect();
    let head = Head {
        op: if kept.len() == rows { all } else { LogProbs::new(&valid, None, vocabulary, temperature)? },
        count: kept.len(),
        kept: Tensor::new(kept, hidden.device())?,
        chunk,
    };
    let scores = head.scores(&hidden.detach(), &weight.detach())?;
    let values = head.spread(&scores.narrow(1, 0, 2)?, rows)?.flatten_all()?.to_vec1()?;
    hidden.apply_op2(weight, LinearLogProbs { head, scores, values })
}

struct Head {
    op: LogProbs,
    count: usize,
    /// The rows that are not masked.
    kept: Tensor,
    chunk: usize,
}

impl Head {
    fn chunks(&self) -> impl Iterator<Item = (usize, usize)> {
        let (count, chunk) = (self.count, self.chunk);
        (0..count).step_by(chunk).map(move |start| (start, chunk.min(count - start)))
    }

    fn scores(&self, hidden: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let hidden = hidden.index_select(&self.kept, 0)?;
        let parts = self.chunks().map(|(start, len)| {
            let logits = hidden.narrow(0, start, len)?.matmul(&weight.t()?)?;
            logits.apply_op1_no_bwd(&self.op.part(start, len))
        });
        let parts = parts.collect::<Result<Vec<Tensor>>>()?;
        if parts.is_empty() {
            return Tensor::zeros((0, 4), DType::F32, hidden.device());
        }
        Tensor::cat(&parts, 0)
    }

    /// Rows that are not masked in their places, zeros between them.
    fn spread(&self, of: &Tensor, rows: usize) -> Result<Tensor> {
        let zeros = Tensor::zeros((rows, of.dim(1)?), of.dtype(), of.device())?;
        if self.count == 0 { Ok(zeros) } else { zeros.index_add(&self.kept, &of.contiguous()?, 0) }
    }
}

struct LinearLogProbs {
    head: Head,
    /// Of the rows that are not masked.
    scores: Tensor,
    values: Vec<f32>,
}

impl CustomOp2 for LinearLogProbs {
    fn name(&self) -> &'static str {
        "linear-log-probs"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(self.values.clone()), (self.values.len() / 2, 2).into()))
    }

    #[cfg(feature = "candle-cuda")]
    fn cuda_fwd(
        &self,
        hidden: &candle_core::CudaStorage,
        _: &Layout,
        _: &candle_core::CudaStorage,
        _: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        use candle_core::backend::{BackendDevice, BackendStorage};
        let device = hidden.device();
        let scores = device.storage_from_slice(&self.values)?;
        Ok((scores, (self.values.len() / 2, 2).into()))
    }

    fn bwd(
        &self,
        hidden: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        upstream: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (rows, size) = hidden.dims2()?;
        let (hidden, weight) = (hidden.detach().index_select(&self.head.kept, 0)?, weight.detach());
        let upstream = upstream.index_select(&self.head.kept, 0)?;
        let mut d_weight = Tensor::zeros(weight.shape(), DType::F32, weight.device())?;
        let mut d_hidden = Vec::new();
        for (start, len) in self.head.chunks() {
            let x = hidden.narrow(0, start, len)?;
            let logits = x.matmul(&weight.t()?)?;
            let part = |t: &Tensor| t.narrow(0, start, len)?.contiguous();
            let op = self.head.op.part(start, len);
            op.replace_by_gradient(&logits, &part(&self.scores)?, &part(&upstream)?)?;
            d_hidden.push(logits.matmul(&weight)?);
            d_weight = (d_weight + logits.t()?.matmul(&x)?.to_dtype(DType::F32)?)?;
        }
        let d_hidden = match d_hidden.is_empty() {
            true => Tensor::zeros((0, size), hidden.dtype(), hidden.device())?,
            false => Tensor::cat(&d_hidden, 0)?,
        };
        Ok((Some(self.head.spread(&d_hidden, rows)?), Some(d_weight.to_dtype(weight.dtype())?)))
    }
}
