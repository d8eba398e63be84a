use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use policy_loss::logits::BLOCK;
use rayon::prelude::*;

use super::{read, slice, span};
use crate::buffer::Buffer;
use crate::kernel::MatmulPrecision;
use crate::kernel::softmax::{Partial, RowStats, columns_grad, with_columns};
use crate::sink::accumulate;

/// Takes tokens out of the distributions of rows, as the sampler that drew their targets did.
pub trait LogitMask: Send + Sync {
    /// Puts at `-inf` the logits of what row `row` may not draw, among those of the tokens from `first` on. At least one token
    /// of a row must stay.
    fn ban(&self, row: usize, first: usize, logits: &mut [f32]);
}

/// Log-probability of one target and entropy for each row, without the logits: hidden states `[rows, n]` and
/// head `[vocabulary, n]` to `[rows, 2]`, columns `(log_prob, entropy)`, in nats, of `softmax(y·wᵀ / T)`.
///
/// Works on tiles of `chunk` rows by some columns of logits, which stay in the processor's cache. The backward takes those of the
/// first rows from memory, as many as [`HeadLogProbs::keep`] says, computes the others again (one more projection), and adds the
/// gradients of a tile in order.
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
    /// Logits that may be kept.
    keep: usize,
    /// Tiles of the first rows, in their order.
    kept: Arc<Mutex<Vec<f32>>>,
}

/// Columns of a tile.
const COLUMNS: usize = 2 * BLOCK;

impl HeadLogProbs {
    /// `targets` are the tokens that rows are scored on, `temperature` divides the logits, `chunk` is the number of rows in
    /// a tile and `precision` that of the products.
    pub fn new(targets: Arc<[u32]>, temperature: f32, chunk: usize, precision: MatmulPrecision) -> Self {
        Self {
            targets,
            temperature,
            chunk,
            precision,
            mask: None,
            stats: OnceLock::new(),
            keep: 0,
            kept: Arc::default(),
        }
    }

    /// The same over the tokens that `mask` leaves of each row: the others have no probability and no gradient.
    #[must_use]
    pub fn masked(self, mask: Option<Arc<dyn LogitMask>>) -> Self {
        Self { mask, ..self }
    }

    /// Keeps up to so many logits from the forward for the backward, 4 bytes each: a pass whose logits fit multiplies with the head once.
    /// The bits are the same.
    #[must_use]
    pub fn keep(self, logits: usize) -> Self {
        Self { keep: logits, ..self }
    }

    /// Runs `f` on every tile: its logits, first row and first column. Those that are `known` come first; the others are
    /// computed, and the first of them appended to `known` as long as it has no more than `room`.
    fn tiles(
        &self,
        y: &[f32],
        w: &[f32],
        [rows, vocabulary, n]: [usize; 3],
        known: &mut Vec<f32>,
        room: usize,
        mut f: impl FnMut(&mut [f32], usize, usize),
    ) {
        let (mut z, mut at) = (Buffer::of(self.chunk.min(rows) * COLUMNS.min(vocabulary)), 0);
        for first in (0..rows).step_by(self.chunk) {
            let count = self.chunk.min(rows - first);
            for column in (0..vocabulary).step_by(COLUMNS) {
                let width = COLUMNS.min(vocabulary - column);
                let place = at..at + count * width;
                at = place.end;
                if at <= known.len() {
                    f(&mut known[place], first, column);
                    continue;
                }
                let (y, w) = (&y[first * n..][..count * n], &w[column * n..][..width * n]);
                let z = &mut z[..count * width];
                self.precision.nt(y, w, z, [count, width, n], false);
                if let Some(mask) = &self.mask {
                    let rows = z.par_chunks_mut(width).enumerate();
                    rows.for_each(|(i, z)| mask.ban(first + i, column, z));
                }
                if at <= room && place.start == known.len() {
                    known.extend_from_slice(z);
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
        let mut kept = Vec::with_capacity(self.keep.min(rows * vocabulary));
        self.tiles(y, w, [rows, vocabulary, n], &mut kept, self.keep, |z, first, column| {
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
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = kept;
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
        let mut kept = std::mem::take(&mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner));
        let _span = span!("head", flops = 6 * rows * vocabulary * n - 2 * kept.len() * n);
        let dw = accumulate(w, |dw| {
            self.tiles(ys, ws, [rows, vocabulary, n], &mut kept, 0, |z, first, column| {
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
