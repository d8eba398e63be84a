//! One decoder layer.

use std::sync::Arc;

use candle_core::Tensor;
use moe_routing::{Dispatch, Router};

use crate::error::Result;
use crate::ops::{CausalAttention, ExpertsDown, ExpertsUp, Linear, QkNormRope, RmsNorm, Segments, SwiGlu};

pub(crate) struct Layer {
    pub(crate) input_norm: Tensor,
    pub(crate) qkv: Tensor,
    pub(crate) qk_norms: Option<(Tensor, Tensor)>,
    pub(crate) output: Tensor,
    pub(crate) post_norm: Tensor,
    pub(crate) mlp: Mlp,
}

pub(crate) enum Mlp {
    Dense { gate_up: Tensor, down: Tensor },
    Experts { router: Tensor, gate_up: Tensor, down: Tensor },
}

/// What all layers of a forward pass share.
pub(crate) struct Pass {
    pub(crate) rms: RmsNorm,
    /// Of all matrices but the router, whose choice hangs on small differences.
    pub(crate) linear: Linear,
    pub(crate) prepare: QkNormRope,
    pub(crate) segments: Segments,
}

/// The experts of a layer in a forward pass.
#[derive(Clone)]
pub(crate) struct Chosen {
    pub(crate) ids: Vec<u32>,
    pub(crate) top_k: usize,
    pub(crate) router: Router,
    pub(crate) dispatch: Arc<Dispatch>,
}

impl Chosen {
    pub(crate) fn gates(&self, logits: &Tensor) -> Result<Tensor> {
        Ok(moe_routing::op::gates(logits, &self.ids, self.top_k, &self.router)?)
    }
}

impl Layer {
    /// All of them, in no order that matters.
    pub(crate) fn parameters(&self) -> Vec<Tensor> {
        let mut all = vec![&self.input_norm, &self.qkv, &self.output, &self.post_norm];
        if let Some((q, k)) = &self.qk_norms {
            all.extend([q, k]);
        }
        match &self.mlp {
            Mlp::Dense { gate_up, down } => all.extend([gate_up, down]),
            Mlp::Experts { router, gate_up, down } => all.extend([router, gate_up, down]),
        }
        all.into_iter().cloned().collect()
    }

    /// The rows behind the layer, and the router's logits where it has experts; `route` gives the gates and the order
    /// of computation for these logits.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        pass: &Pass,
        no_grad: bool,
        route: impl FnOnce(&Tensor) -> Result<(Tensor, Arc<Dispatch>)>,
    ) -> Result<Vec<Tensor>> {
        let weight = |t: &Tensor| if no_grad { t.detach() } else { t.clone() };
        let u = x.apply_op2(&weight(&self.input_norm), pass.rms)?;
        let qkv = u.apply_op2(&weight(&self.qkv), pass.linear)?;
        let qkv = match &self.qk_norms {
            Some((q, k)) => qkv.apply_op3(&weight(q), &weight(k), pass.prepare.clone())?,
            None => qkv.apply_op1(pass.prepare.clone())?,
        };
        let attended = qkv.apply_op1(CausalAttention::new(pass.prepare.shape, pass.segments.clone()))?;
        let x = (x + attended.apply_op2(&weight(&self.output), pass.linear)?)?;
        let u = x.apply_op2(&weight(&self.post_norm), pass.rms)?;
        match &self.mlp {
            Mlp::Dense { gate_up, down } => {
                let inner = u.apply_op2(&weight(gate_up), pass.linear)?.apply_op1(SwiGlu)?;
                Ok(vec![(x + inner.apply_op2(&weight(down), pass.linear)?)?])
            }
            Mlp::Experts { router, gate_up, down } => {
                let logits = u.apply_op2(&weight(router), Linear::default())?;
                let (gates, dispatch) = route(&logits)?;
                let out = u
                    .apply_op2(&weight(gate_up), ExpertsUp::new(dispatch.clone(), pass.linear.precision))?
                    .apply_op3(&weight(down), &gates, ExpertsDown::new(dispatch, pass.linear.precision))?;
                Ok(vec![(x + out)?, logits])
            }
        }
    }
}
