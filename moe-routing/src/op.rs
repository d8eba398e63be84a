//! Differentiable routing for candle. On a GPU (feature `candle-cuda`) the operations run the kernels of this crate.

#[cfg(feature = "candle-cuda")]
mod cuda;
#[cfg(all(test, feature = "candle-cuda"))]
mod on_gpu;
mod rows;

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};

pub use rows::{permute, unpermute};

use crate::gates::{gates as gates_of, gates_backward};
use crate::load::ExpertCounts;
use crate::losses::{AuxForm, load_balance, z_loss};
use crate::router::{Router, top_k};

fn slice<'a>(what: &str, storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(data), Some((start, end))) => Ok(&data[start..end]),
        _ => bail!("{what} must be contiguous f32"),
    }
}

/// The experts of each row of `router_logits` `[tokens, E]`: `[tokens · K]`.
pub fn choose(router_logits: &Tensor, k: usize, router: &Router) -> Result<Vec<u32>> {
    let ids = router_logits.detach().contiguous()?.apply_op1_no_bwd(&Choice { top_k: k, router })?;
    ids.flatten_all()?.to_vec1()
}

/// Gates `[tokens, K]` of the experts `ids` `[tokens · K]`, differentiable in `router_logits` `[tokens, E]`.
pub fn gates(router_logits: &Tensor, ids: &[u32], k: usize, router: &Router) -> Result<Tensor> {
    router_logits.apply_op1(Gates { ids: ids.into(), top_k: k, router: router.clone() })
}

/// The load-balance loss of one layer as a scalar, differentiable in `router_logits` `[tokens, E]`; `counts` are
/// those of [`crate::AuxPooling`] and [`crate::AuxCounts`].
pub fn load_balance_loss(
    router_logits: &Tensor,
    counts: &ExpertCounts,
    k: usize,
    router: &Router,
    form: AuxForm,
) -> Result<Tensor> {
    let (counts, router) = (counts.clone(), router.clone());
    router_logits.apply_op1(RouterLoss::Balance { counts, top_k: k, router, form })
}

/// The z-loss of one layer as a scalar, differentiable in `router_logits` `[tokens, E]`.
pub fn router_z_loss(router_logits: &Tensor) -> Result<Tensor> {
    router_logits.apply_op1(RouterLoss::Z)
}

struct Choice<'a> {
    top_k: usize,
    router: &'a Router,
}

impl CustomOp1 for Choice<'_> {
    fn name(&self) -> &'static str {
        "router-choice"
    }

    fn cpu_fwd(&self, s: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (tokens, experts) = layout.shape().dims2()?;
        let ids = top_k(slice("router_logits", s, layout)?, experts, self.top_k, self.router)?;
        Ok((CpuStorage::U32(ids), (tokens, self.top_k).into()))
    }

    #[cfg(feature = "candle-cuda")]
    fn cuda_fwd(
        &self,
        s: &candle_core::CudaStorage,
        l: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        self.on_gpu(s, l)
    }
}

#[derive(Clone)]
struct Gates {
    ids: Arc<[u32]>,
    top_k: usize,
    router: Router,
}

impl CustomOp1 for Gates {
    fn name(&self) -> &'static str {
        "router-gates"
    }

    fn cpu_fwd(&self, s: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (tokens, experts) = layout.shape().dims2()?;
        let logits = slice("router_logits", s, layout)?;
        let gates = gates_of(logits, experts, &self.ids, self.top_k, &self.router)?;
        Ok((CpuStorage::F32(gates), (tokens, self.top_k).into()))
    }

    #[cfg(feature = "candle-cuda")]
    fn cuda_fwd(
        &self,
        s: &candle_core::CudaStorage,
        l: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        self.on_gpu(s, l)
    }

    fn bwd(&self, s: &Tensor, _gates: &Tensor, d_gates: &Tensor) -> Result<Option<Tensor>> {
        s.apply_op2_no_bwd(&d_gates.contiguous()?, &GatesBackward(self)).map(Some)
    }
}

/// Logits `[tokens, E]` and the gradient of the gates to that of the logits.
struct GatesBackward<'a>(&'a Gates);

impl CustomOp2 for GatesBackward<'_> {
    fn name(&self) -> &'static str {
        "router-gates-backward"
    }

    fn cpu_fwd(
        &self,
        s: &CpuStorage,
        layout: &Layout,
        d: &CpuStorage,
        d_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let Gates { ids, top_k, router } = self.0;
        let (_, experts) = layout.shape().dims2()?;
        let (logits, d_gates) = (slice("router_logits", s, layout)?, slice("d_gates", d, d_layout)?);
        let d_logits = gates_backward(logits, experts, ids, *top_k, router, d_gates)?;
        Ok((CpuStorage::F32(d_logits), layout.shape().clone()))
    }

    #[cfg(feature = "candle-cuda")]
    fn cuda_fwd(
        &self,
        s: &candle_core::CudaStorage,
        layout: &Layout,
        d: &candle_core::CudaStorage,
        d_layout: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        self.0.backward_on_gpu((s, layout), (d, d_layout))
    }
}

enum RouterLoss {
    Balance { counts: ExpertCounts, top_k: usize, router: Router, form: AuxForm },
    Z,
}

impl RouterLoss {
    /// The number of experts, which counts must be of.
    fn experts(&self, layout: &Layout) -> Result<usize> {
        let (_, experts) = layout.shape().dims2()?;
        match self {
            Self::Balance { counts, .. } if counts.as_slice().len() != experts => {
                bail!("counts has {} experts, router_logits has {experts}", counts.as_slice().len())
            }
            _ => Ok(experts),
        }
    }

    fn value(&self, s: &CpuStorage, layout: &Layout) -> Result<(f32, Vec<f32>)> {
        let (experts, logits) = (self.experts(layout)?, slice("router_logits", s, layout)?);
        match self {
            Self::Balance { counts, top_k, router, form } => {
                Ok(load_balance(logits, counts, *top_k, router, *form)?)
            }
            Self::Z => Ok(z_loss(logits, experts)?),
        }
    }
}

impl CustomOp1 for RouterLoss {
    fn name(&self) -> &'static str {
        "router-loss"
    }

    fn cpu_fwd(&self, s: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![self.value(s, layout)?.0]), Shape::from(())))
    }

    #[cfg(feature = "candle-cuda")]
    fn cuda_fwd(
        &self,
        s: &candle_core::CudaStorage,
        l: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        Ok((self.on_gpu(s, l)?.0, Shape::from(())))
    }

    fn bwd(&self, s: &Tensor, _loss: &Tensor, d_loss: &Tensor) -> Result<Option<Tensor>> {
        let gradient = s.apply_op1_no_bwd(&LossGradient(self))?;
        Ok(Some(gradient.affine(f64::from(d_loss.to_scalar::<f32>()?), 0.0)?))
    }
}

/// The gradient of a loss to the logits `[tokens, E]`.
struct LossGradient<'a>(&'a RouterLoss);

impl CustomOp1 for LossGradient<'_> {
    fn name(&self) -> &'static str {
        "router-loss-gradient"
    }

    fn cpu_fwd(&self, s: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(self.0.value(s, layout)?.1), layout.shape().clone()))
    }

    #[cfg(feature = "candle-cuda")]
    fn cuda_fwd(
        &self,
        s: &candle_core::CudaStorage,
        l: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        Ok((self.0.on_gpu(s, l)?.1, l.shape().clone()))
    }
}
