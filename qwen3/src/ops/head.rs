use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use policy_loss::logits::BLOCK;
use policy_loss::{LogitMask, Products};
use rayon::prelude::*;

use super::{read, slice, span};
use crate::buffer::Buffer;
use crate::kernel::MatmulPrecision;
use crate::kernel::softmax::{Partial, RowStats, columns_grad, with_columns};
use crate::sink::{accumulate, deposit};

/// Log-probability of one target and entropy for each row, without the logits: hidden states `[rows, n]` and
/// head `[vocabulary, n]` to `[rows, 2]`, columns `(log_prob, entropy)`, in nats, of `softmax(y·wᵀ / T)`.
///
/// Works on tiles of `chunk` rows by some columns of logits, which stay in the processor's cache. The backward computes them again
/// (one more projection), and adds the gradients of a tile in order. For a loss of these alone
/// [`PolicyLoss::evaluate_linear`](policy_loss::PolicyLoss::evaluate_linear) needs no second projection.
///
/// What a row of logits gives is `policy_loss::logits`. The tiles are cut here and not by
/// `policy_loss::op::linear_log_probs`, because that multiplies with candle, whose bits of a row depend on the rows beside
/// it; here they are the decoder's, so training finds the log-probabilities of generation bit for bit.
#[derive(Clone)]
pub struct HeadLogProbs {
    targets: Arc<[u32]>,
    temperature: f32,
    chunk: usize,
    precision: MatmulPrecision,
    mask: Option<Arc<dyn LogitMask>>,
    stats: OnceLock<Vec<RowStats>>,
}

/// Columns of a tile.
const COLUMNS: usize = 2 * BLOCK;

impl HeadLogProbs {
    /// `targets` are the tokens that rows are scored on, `temperature` divides the logits, `chunk` is the number of rows in
    /// a tile and `precision` that of the products.
    pub fn new(targets: Arc<[u32]>, temperature: f32, chunk: usize, precision: MatmulPrecision) -> Self {
        Self { targets, temperature, chunk, precision, mask: None, stats: OnceLock::new() }
    }

    /// The same over the tokens that `mask` leaves of each row: the others have no probability and no gradient.
    #[must_use]
    pub fn masked(self, mask: Option<Arc<dyn LogitMask>>) -> Self {
        Self { mask, ..self }
    }

    /// Runs `f` on every tile: its logits, first row and first column.
    fn tiles(
        &self,
        y: &[f32],
        w: &[f32],
        [rows, vocabulary, n]: [usize; 3],
        mut f: impl FnMut(&mut [f32], usize, usize),
    ) {
        let mut z = Buffer::of(self.chunk.min(rows) * COLUMNS.min(vocabulary));
        for first in (0..rows).step_by(self.chunk) {
            let count = self.chunk.min(rows - first);
            for column in (0..vocabulary).step_by(COLUMNS) {
                let width = COLUMNS.min(vocabulary - column);
                let (y, w) = (&y[first * n..][..count * n], &w[column * n..][..width * n]);
                let z = &mut z[..count * width];
                self.precision.nt(y, w, z, [count, width, n], false);
                if let Some(mask) = &self.mask {
                    let rows = z.par_chunks_mut(width).enumerate();
                    rows.for_each(|(i, z)| mask.ban(first + i, column, z));
                }
                f(z, first, column);
            }
        }
    }

    /// The target of a row among the columns of a tile, if it is there.
    fn target_in(&self, row: usize, column: usize, width: usize) -> Option<usize> {
        (self.targets[row] as usize).checked_sub(column).filter(|place| *place < width)
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
        let inverse = 1.0 / self.temperature;
        let mut found = vec![(Partial::NONE, 0f32); rows];
        self.tiles(y, w, [rows, vocabulary, n], |z, first, column| {
            let width = COLUMNS.min(vocabulary - column);
            let found = &mut found[first..][..z.len() / width];
            found.par_iter_mut().zip(z.par_chunks(width)).enumerate().for_each(|(i, ((partial, own), z))| {
                *partial = with_columns(*partial, z, inverse);
                if let Some(place) = self.target_in(first + i, column, width) {
                    *own = z[place];
                }
            });
        });
        let (mut out, mut stats) = (Vec::with_capacity(rows * 2), Vec::with_capacity(rows));
        for (partial, own) in found {
            let row = partial.stats(inverse);
            out.extend([row.log_prob(own), row.entropy]);
            stats.push(row);
        }
        // A second forward of the same operation would see the same input, so the first value stands.
        let _ = self.stats.set(stats);
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
        let Some(stats) = self.stats.get() else { bail!("head: backward before forward") };
        let mut dy = vec![0f32; rows * n];
        let _span = span!("head", flops = 6 * rows * vocabulary * n);
        let dw = accumulate(w, |dw| {
            self.tiles(ys, ws, [rows, vocabulary, n], |z, first, column| {
                let width = COLUMNS.min(vocabulary - column);
                let count = z.len() / width;
                z.par_chunks_mut(width).enumerate().for_each(|(i, z)| {
                    let (row, target) = (first + i, self.target_in(first + i, column, width));
                    columns_grad(z, target, &stats[row], [ds[2 * row], ds[2 * row + 1]]);
                });
                let (y, dy) = (&ys[first * n..][..count * n], &mut dy[first * n..][..count * n]);
                let sizes = [count, width, n];
                self.precision.nn(z, &ws[column * n..][..width * n], dy, sizes, column > 0);
                self.precision.tn(z, y, &mut dw[column * n..][..width * n], sizes, true);
            });
        })?;
        Ok((Some(Tensor::from_vec(dy, (rows, n), y.device())?), dw))
    }
}

/// A loss of hidden states and the head that was evaluated with its gradients: passes them on.
pub(crate) struct HeadLoss {
    pub(crate) value: f64,
    /// `[rows, n]` and `[vocabulary, n]`; taken by the backward.
    pub(crate) gradients: Mutex<Option<[Vec<f32>; 2]>>,
}

impl CustomOp2 for HeadLoss {
    fn name(&self) -> &'static str {
        "head-loss"
    }

    fn cpu_fwd(
        &self,
        _y: &CpuStorage,
        _yl: &Layout,
        _w: &CpuStorage,
        _wl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![self.value as f32]), Shape::from(())))
    }

    fn bwd(
        &self,
        y: &Tensor,
        w: &Tensor,
        _out: &Tensor,
        d_out: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let mut gradients = self.gradients.lock().unwrap_or_else(PoisonError::into_inner);
        let Some([mut dy, mut dw]) = gradients.take() else { bail!("head loss: a second backward") };
        let scale = d_out.to_scalar::<f32>()?;
        if scale != 1.0 {
            dy.iter_mut().chain(&mut dw).for_each(|d| *d *= scale);
        }
        Ok((Some(Tensor::from_vec(dy, y.shape(), y.device())?), deposit(w, dw)?))
    }
}
