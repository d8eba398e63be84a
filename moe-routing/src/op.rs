//! Differentiable routing for candle.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use crate::gates::{gates as gates_of, gates_backward};
use crate::load::ExpertCounts;
use crate::losses::{AuxForm, load_balance, z_loss};
use crate::router::{Router, top_k};

fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(data), Some((start, end))) => Ok(&data[start..end]),
        _ => bail!("router_logits must be contiguous f32"),
    }
}

/// The experts of each row of `router_logits` `[tokens, E]`: `[tokens · K]`.
pub fn choose(router_logits: &Tensor, k: usize, router: &Router) -> Result<Vec<u32>> {
    let experts = router_logits.dim(1)?;
    let logits = router_logits.detach().flatten_all()?.to_vec1::<f32>()?;
    Ok(top_k(&logits, experts, k, router)?)
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
        let gates = gates_of(slice(s, layout)?, experts, &self.ids, self.top_k, &self.router)?;
        Ok((CpuStorage::F32(gates), (tokens, self.top_k).into()))
    }

    fn bwd(&self, s: &Tensor, _gates: &Tensor, d_gates: &Tensor) -> Result<Option<Tensor>> {
        let (tokens, experts) = s.dims2()?;
        let logits = s.flatten_all()?.to_vec1::<f32>()?;
        let d_gates = d_gates.flatten_all()?.to_vec1::<f32>()?;
        let d = gates_backward(&logits, experts, &self.ids, self.top_k, &self.router, &d_gates)?;
        Ok(Some(Tensor::from_vec(d, (tokens, experts), s.device())?))
    }
}

enum RouterLoss {
    Balance { counts: ExpertCounts, top_k: usize, router: Router, form: AuxForm },
    Z,
}

impl RouterLoss {
    fn value(&self, logits: &[f32], experts: usize) -> Result<(f32, Vec<f32>)> {
        match self {
            Self::Balance { counts, top_k, router, form } => {
                if counts.as_slice().len() != experts {
                    bail!("counts has {} experts, router_logits has {experts}", counts.as_slice().len());
                }
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
        let (loss, _) = self.value(slice(s, layout)?, layout.shape().dims2()?.1)?;
        Ok((CpuStorage::F32(vec![loss]), Shape::from(())))
    }

    fn bwd(&self, s: &Tensor, _loss: &Tensor, d_loss: &Tensor) -> Result<Option<Tensor>> {
        let (tokens, experts) = s.dims2()?;
        let (_, gradient) = self.value(&s.flatten_all()?.to_vec1::<f32>()?, experts)?;
        let gradient = Tensor::from_vec(gradient, (tokens, experts), s.device())?;
        Ok(Some(gradient.affine(f64::from(d_loss.to_scalar::<f32>()?), 0.0)?))
    }
}
