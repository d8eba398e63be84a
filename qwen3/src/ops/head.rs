use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::{read, slice, span};
use crate::kernel::MatmulPrecision;
use crate::kernel::softmax::{row_grad, row_stats};

/// Log-probability of one target and entropy for each row, without the logits: hidden states `[rows, n]` and
/// head `[vocabulary, n]` to `[rows, 2]`, columns `(log_prob, entropy)`, in nats, of `softmax(y·wᵀ / T)`.
///
/// Works on `chunk` rows at a time, so that at most `chunk · vocabulary` logits exist; the backward computes
/// them again (one more projection) and adds the chunks' weight gradients in order.
///
/// What a row of logits gives is `policy_loss::logits`. The chunks are cut here and not by
/// `policy_loss::op::linear_log_probs`, because that multiplies with candle, whose bits of a row depend on the rows beside
/// it; here they are the decoder's, so training finds the log-probabilities of generation bit for bit.
#[derive(Clone, Debug)]
pub struct HeadLogProbs {
    /// The token each row is scored on.
    pub targets: Arc<[u32]>,
    /// Divides the logits.
    pub temperature: f32,
    /// Rows of logits held at once.
    pub chunk: usize,
    /// Of the products.
    pub precision: MatmulPrecision,
}

impl HeadLogProbs {
    fn chunk_logits(&self, y: &[f32], w: &[f32], rows: usize, vocabulary: usize, n: usize, z: &mut Vec<f32>) {
        z.resize(rows * vocabulary, 0.0);
        self.precision.nt(y, w, z, [rows, vocabulary, n], false);
    }
}

impl CustomOp2 for HeadLogProbs {
    fn name(&self) -> &'static str {
        "head-log-probs"
    }

    fn cpu_fwd(
        &self,
        y: &CpuStorage,
        yl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let ((rows, n), (vocabulary, inner)) = (yl.shape().dims2()?, wl.shape().dims2()?);
        if inner != n || rows != self.targets.len() {
            bail!(
                "head: states [{rows}, {n}], weight [{vocabulary}, {inner}], {} targets",
                self.targets.len()
            );
        }
        if let Some(row) = self.targets.iter().position(|t| *t as usize >= vocabulary) {
            bail!("row {row}: target token {} is outside the vocabulary of {vocabulary}", self.targets[row]);
        }
        if !(self.temperature > 0.0 && self.temperature.is_finite()) || self.chunk == 0 {
            bail!("head: temperature {} and chunk {} must be positive", self.temperature, self.chunk);
        }
        let (y, w) = (slice(y, yl, "hidden states")?, slice(w, wl, "the head")?);
        let _span = span!("head", flops = 2 * rows * vocabulary * n);
        let mut out = vec![0f32; rows * 2];
        let mut z = Vec::new();
        for first in (0..rows).step_by(self.chunk) {
            let count = self.chunk.min(rows - first);
            self.chunk_logits(&y[first * n..][..count * n], w, count, vocabulary, n, &mut z);
            out[first * 2..][..count * 2]
                .par_chunks_mut(2)
                .zip(z.par_chunks(vocabulary))
                .enumerate()
                .for_each(|(i, (out, z))| {
                    let stats = row_stats(z, 1.0 / self.temperature);
                    out[0] = stats.log_prob(z[self.targets[first + i] as usize]);
                    out[1] = stats.entropy;
                });
        }
        Ok((CpuStorage::F32(out), (rows, 2).into()))
    }

    fn bwd(
        &self,
        y: &Tensor,
        w: &Tensor,
        _out: &Tensor,
        d_out: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let d_out = d_out.contiguous()?;
        let ((rows, n), vocabulary) = (y.dims2()?, w.dim(0)?);
        let (yr, wr, dr) = (read(y), read(w), read(&d_out));
        let (ys, ws, ds) = (yr.slice("y")?, wr.slice("w")?, dr.slice("d_out")?);
        let _span = span!("head", flops = 6 * rows * vocabulary * n);
        let (mut dy, mut dw) = (vec![0f32; rows * n], vec![0f32; vocabulary * n]);
        let mut z = Vec::new();
        for first in (0..rows).step_by(self.chunk) {
            let count = self.chunk.min(rows - first);
            let y = &ys[first * n..][..count * n];
            self.chunk_logits(y, ws, count, vocabulary, n, &mut z);
            z.par_chunks_mut(vocabulary).enumerate().for_each(|(i, z)| {
                let (row, stats) = (first + i, row_stats(z, 1.0 / self.temperature));
                row_grad(z, self.targets[row] as usize, &stats, [ds[2 * row], ds[2 * row + 1]]);
            });
            self.precision.nn(&z, ws, &mut dy[first * n..][..count * n], [count, vocabulary, n], false);
            self.precision.tn(&z, y, &mut dw, [count, vocabulary, n], true);
        }
        Ok((
            Some(Tensor::from_vec(dy, (rows, n), y.device())?),
            Some(Tensor::from_vec(dw, (vocabulary, n), w.device())?),
        ))
    }
}
