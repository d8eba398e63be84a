//! The loss as a node of a candle graph, and the operations that lead from logits, or from the hidden states
//! before them, to what it reads.
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

mod linear;
mod log_probs;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Device, Layout, Result, Shape, Tensor, bail};

use crate::batch::Real;
use crate::evaluate::LossOutput;

pub use linear::linear_log_probs;
pub use log_probs::{log_probs, masked_log_probs};

/// An evaluated loss as a scalar tensor that passes its gradients back to `logp` and, when given, to `entropy`: tensors
/// of as many elements as the evaluated batch has tokens, in `f32` or `f64`, on any device. The values in them are not
/// read, so `NaN` at masked positions does no harm.
///
/// # Errors
/// When sizes or types do not fit.
pub fn loss_tensor<F: Real>(out: &LossOutput<F>, logp: &Tensor, entropy: Option<&Tensor>) -> Result<Tensor> {
    let tokens = out.grad_logp.len();
    for (name, tensor) in [("logp", Some(logp)), ("entropy", entropy)] {
        if let Some(found) = tensor.map(Tensor::elem_count).filter(|n| *n != tokens) {
            bail!("{name} has {found} elements, the evaluated batch {tokens} tokens");
        }
    }
    let op = Loss::of(out);
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
    fn of<F: Real>(out: &LossOutput<F>) -> Self {
        let wide = |gradient: &[F]| gradient.iter().map(|g| (*g).into()).collect::<Vec<f64>>();
        Self { loss: out.loss, grad_logp: wide(&out.grad_logp), grad_entropy: wide(&out.grad_entropy) }
    }

    fn forward(&self, logp: &CpuStorage) -> Result<(CpuStorage, Shape)> {
        let loss = match logp {
            CpuStorage::F32(_) => CpuStorage::F32(vec![self.loss as f32]),
            CpuStorage::F64(_) => CpuStorage::F64(vec![self.loss]),
            _ => bail!("log-probabilities must be f32 or f64"),
        };
        Ok((loss, Shape::from(())))
    }

    #[cfg(feature = "candle-cuda")]
    fn on_gpu(&self, logp: &candle_core::CudaStorage) -> Result<(candle_core::CudaStorage, Shape)> {
        use candle_core::backend::{BackendDevice, BackendStorage};
        let here = match logp.dtype() {
            DType::F32 => CpuStorage::F32(vec![self.loss as f32]),
            DType::F64 => CpuStorage::F64(vec![self.loss]),
            _ => bail!("log-probabilities must be f32 or f64"),
        };
        Ok((logp.device().storage_from_cpu_storage(&here)?, Shape::from(())))
    }

    /// Zeros are selected, so that they stay `+0.0` whatever comes from upstream.
    fn backward(gradient: &[f64], of: &Tensor, upstream: &Tensor) -> Result<Tensor> {
        let upstream = upstream.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        let scaled = gradient.iter().map(|g| if *g == 0.0 { 0.0 } else { g * upstream }).collect::<Vec<_>>();
        Tensor::from_vec(scaled, of.shape(), &Device::Cpu)?.to_dtype(of.dtype())?.to_device(of.device())
    }
}

impl CustomOp1 for Loss {
    fn name(&self) -> &'static str {
        "policy-loss"
    }

    fn cpu_fwd(&self, logp: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.forward(logp)
    }

    #[cfg(feature = "candle-cuda")]
    fn cuda_fwd(
        &self,
        logp: &candle_core::CudaStorage,
        _: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        self.on_gpu(logp)
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

    #[cfg(feature = "candle-cuda")]
    fn cuda_fwd(
        &self,
        logp: &candle_core::CudaStorage,
        _: &Layout,
        _: &candle_core::CudaStorage,
        _: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        self.on_gpu(logp)
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
