use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use candle_core::{CpuStorage, CustomOp2, Error, Layout, Result, Shape, Tensor, bail};
use policy_loss::{LinearHead, LinearScores, LogitMask};

use super::{read, slice, span};
use crate::kernel::MatmulPrecision;
use crate::sink::{accumulate, deposit};

/// Log-probability of one target and entropy for each row, without the logits: hidden states `[rows, n]` and
/// head `[vocabulary, n]` to `[rows, 2]`, columns `(log_prob, entropy)`, in nats, of `softmax(y·wᵀ / T)`.
///
/// [`LinearHead::scores`] with the decoder's products: training finds the log-probabilities of generation bit for bit. The backward
/// computes logits again (one more projection). For a loss of these alone
/// [`PolicyLoss::evaluate_linear`](policy_loss::PolicyLoss::evaluate_linear) needs no second projection.
#[derive(Clone)]
pub struct HeadLogProbs {
    targets: Arc<[u32]>,
    temperature: f32,
    chunk: usize,
    precision: MatmulPrecision,
    mask: Option<Arc<dyn LogitMask>>,
    scores: OnceLock<LinearScores>,
}

impl HeadLogProbs {
    /// `targets` are the tokens that rows are scored on, `temperature` divides the logits, `chunk` is the number of rows that
    /// are worked on at a time and `precision` that of the products.
    pub fn new(targets: Arc<[u32]>, temperature: f32, chunk: usize, precision: MatmulPrecision) -> Self {
        Self { targets, temperature, chunk, precision, mask: None, scores: OnceLock::new() }
    }

    /// The same over the tokens that `mask` leaves of each row: the others have no probability and no gradient.
    #[must_use]
    pub fn masked(self, mask: Option<Arc<dyn LogitMask>>) -> Self {
        Self { mask, ..self }
    }

    fn head<'a>(&'a self, hidden: &'a [f32], weight: &'a [f32], size: usize) -> LinearHead<'a> {
        LinearHead {
            hidden,
            weight,
            size,
            targets: &self.targets,
            temperature: self.temperature.into(),
            chunk: self.chunk,
            banned: self.mask.as_deref(),
        }
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
        let (y, w) = (slice(y, yl, "hidden states")?, slice(w, wl, "the head")?);
        let _span = span!("head", flops = 2 * rows * vocabulary * n);
        let scores = self.head(y, w, n).scores(&self.precision).map_err(Error::wrap)?;
        let out =
            scores.logp.iter().zip(&scores.entropy).flat_map(|(logp, entropy)| [*logp, *entropy]).collect();
        // A second forward of the same operation would see the same input, so the first value stands.
        let _ = self.scores.set(scores);
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
        let Some(scores) = self.scores.get() else { bail!("head: backward before forward") };
        let _span = span!("head", flops = 6 * rows * vocabulary * n);
        let upstream = |row: usize| [ds[2 * row], ds[2 * row + 1]];
        let mut dy = Ok(Vec::new());
        let dw =
            accumulate(w, |dw| dy = self.head(ys, ws, n).gradients(&self.precision, scores, upstream, dw))?;
        Ok((Some(Tensor::from_vec(dy.map_err(Error::wrap)?, (rows, n), y.device())?), dw))
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
