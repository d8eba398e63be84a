//! One decoder layer: its forward on slices, what that keeps, and its backward.
//!
//! What is cheap to compute again is not kept: normalised rows, activations behind SwiGLU, rotated queries and keys where
//! they are normalised too.

use std::sync::{Arc, Mutex};

use candle_core::{Device, Tensor};
use moe_routing::{Dispatch, Router};
use rayon::prelude::*;

use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::kernel::ROW_CHUNK;
use crate::kernel::experts::{combine, down as experts_down, up as experts_up};
use crate::kernel::stored::Trained;
use crate::ops::{
    Attended, Attention, Linear, QkNormRope, RmsNorm, Segments, SwiGlu, down_backward, read, span,
    up_backward,
};
use crate::part::{Output, Part, link, lock};
use crate::sink::deposit;

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
    /// Whether layers keep nothing for the backward and run again in it.
    pub(crate) recompute: bool,
}

/// The experts of a layer in a forward pass.
#[derive(Clone)]
pub(crate) struct Chosen {
    pub(crate) ids: Vec<u32>,
    pub(crate) top_k: usize,
    pub(crate) router: Router,
    pub(crate) dispatch: Arc<Dispatch>,
}

/// What the backward reads beside the layer's input.
struct Kept {
    /// Queries, keys and values: as attention reads them or, where norms come first, as they were projected.
    qkv: Vec<f32>,
    attended: Vec<f32>,
    log_sum_exp: Vec<f32>,
    /// Between attention and MLP.
    x: Vec<f32>,
    /// Before SwiGLU: `[rows, 2 I]`, or of every pair of a token and an expert.
    pre: Vec<f32>,
    experts: Option<KeptExperts>,
}

struct KeptExperts {
    logits: Vec<f32>,
    gates: Vec<f32>,
    chosen: Chosen,
}

/// `x + y`, element by element, in `y`.
fn add(x: &[f32], mut y: Vec<f32>) -> Vec<f32> {
    let _span = span!("residual", bytes = 12 * x.len());
    let chunk = ROW_CHUNK * 64;
    y.par_chunks_mut(chunk).zip(x.par_chunks(chunk)).for_each(|(y, x)| {
        for (y, x) in y.iter_mut().zip(x) {
            *y += x;
        }
    });
    y
}

/// The numbers of tensors, under their names.
macro_rules! numbers {
    ($($name:ident = $tensor:expr),* $(,)?) => {
        $(let reader = read($tensor); let $name = reader.slice(stringify!($name))?;)*
    };
}

impl Layer {
    /// All of them, in the order of the gradients of the backward.
    fn parameters(&self) -> Vec<Tensor> {
        let mut all = vec![&self.input_norm, &self.qkv, &self.output, &self.post_norm];
        match &self.mlp {
            Mlp::Dense { gate_up, down } => all.extend([gate_up, down]),
            Mlp::Experts { router, gate_up, down } => all.extend([gate_up, down, router]),
        }
        if let Some((q, k)) = &self.qk_norms {
            all.extend([q, k]);
        }
        all.into_iter().cloned().collect()
    }

    /// The rows behind the layer, and the router's logits where it has experts, as functions of `x` and the weights, or
    /// without a graph. `choose` gives the experts for logits.
    pub(crate) fn apply(
        self: &Arc<Self>,
        x: &Tensor,
        pass: &Arc<Pass>,
        no_grad: bool,
        choose: impl FnOnce(&[f32]) -> Result<Chosen>,
    ) -> Result<(Tensor, Option<(Tensor, Chosen)>)> {
        let shape = x.shape().clone();
        numbers!(rows = x);
        let (out, kept) = self.forward(rows, pass, choose)?;
        let routed = kept.experts.as_ref().map(|e| (e.logits.clone(), e.chosen.clone()));
        let mut outputs = vec![Output { data: out, shape }];
        if let Some((logits, chosen)) = &routed {
            let shape = (x.dim(0)?, chosen.dispatch.num_experts()).into();
            outputs.push(Output { data: logits.clone(), shape });
        }
        let chosen = routed.map(|(_, chosen)| chosen);
        let outputs = if no_grad {
            let tensor = |o: Output| Tensor::from_vec(o.data, o.shape, &Device::Cpu);
            outputs.into_iter().map(tensor).collect::<candle_core::Result<_>>()?
        } else {
            let part = Differentiable {
                layer: self.clone(),
                pass: pass.clone(),
                chosen: chosen.clone(),
                kept: Mutex::new((!pass.recompute).then_some(kept)),
            };
            link(x, &self.parameters(), outputs, part)?
        };
        let mut outputs = outputs.into_iter();
        let x = outputs.next().ok_or_else(|| Error::Batch("a layer has no output".into()))?;
        Ok((x, outputs.next().zip(chosen)))
    }

    fn forward(
        &self,
        x: &[f32],
        pass: &Pass,
        choose: impl FnOnce(&[f32]) -> Result<Chosen>,
    ) -> Result<(Vec<f32>, Kept)> {
        numbers!(
            input_norm = &self.input_norm,
            qkv = &self.qkv,
            output = &self.output,
            post_norm = &self.post_norm
        );
        let (linear, hidden) = (pass.linear, input_norm.len());
        let rows = x.len() / hidden;
        let mut qkv =
            linear.forward(&pass.rms.forward(x, input_norm), qkv, [rows, qkv.len() / hidden, hidden]);
        let attention = Attention::causal(pass.prepare.shape, pass.segments.clone());
        let (attended, log_sum_exp) = match &self.qk_norms {
            Some((q, k)) => {
                numbers!(q = q, k = k);
                attention.forward(&pass.prepare.forward(&qkv, Some((q, k))))
            }
            None => {
                qkv = pass.prepare.forward(&qkv, None);
                attention.forward(&qkv)
            }
        };
        let width = output.len() / hidden;
        let x = add(x, linear.forward(&attended, output, [rows, hidden, width]));
        let u = pass.rms.forward(&x, post_norm);
        let (out, pre, experts) = match &self.mlp {
            Mlp::Dense { gate_up, down } => {
                numbers!(gate_up = gate_up, down = down);
                let inner = down.len() / hidden;
                let pre = linear.forward(&u, gate_up, [rows, 2 * inner, hidden]);
                let h = SwiGlu.forward(&pre, inner);
                (linear.forward(&h, down, [rows, hidden, inner]), pre, None)
            }
            Mlp::Experts { router, gate_up, down } => {
                numbers!(router = router, gate_up = gate_up, down = down);
                let count = router.len() / hidden;
                let logits = Linear::default().forward(&u, router, [rows, count, hidden]);
                let chosen = choose(&logits)?;
                let gates = chosen.gates(&logits)?;
                let inner = down.len() / hidden / count;
                let _span = span!("experts", flops = 6 * rows * chosen.top_k * hidden * inner);
                let weight = |data| Trained { data, precision: linear.precision };
                let pairs = rows * chosen.top_k;
                let (mut pre, mut h) = (vec![0f32; pairs * 2 * inner], Buffer::of(pairs * inner));
                experts_up(&u, &weight(gate_up), &chosen.dispatch, hidden, inner, &mut pre, &mut h);
                let mut o = Buffer::of(pairs * hidden);
                experts_down(&h, &weight(down), &chosen.dispatch, hidden, inner, &mut o);
                let mut out = vec![0f32; rows * hidden];
                combine(&o, &gates, &chosen.dispatch, hidden, &mut out);
                (out, pre, Some(KeptExperts { logits, gates, chosen }))
            }
        };
        let out = add(&x, out);
        Ok((out, Kept { qkv, attended, log_sum_exp, x, pre, experts }))
    }

    /// The gradients of `x` and of [`Layer::parameters`].
    fn backward(
        &self,
        x: &[f32],
        dy: &[f32],
        d_logits: Option<&[f32]>,
        kept: Kept,
        pass: &Pass,
    ) -> Result<(Vec<f32>, Vec<Vec<f32>>)> {
        numbers!(
            input_norm = &self.input_norm,
            qkv = &self.qkv,
            output = &self.output,
            post_norm = &self.post_norm
        );
        let (linear, hidden) = (pass.linear, input_norm.len());
        let rows = x.len() / hidden;

        let u = pass.rms.forward(&kept.x, post_norm);
        let (du, of_mlp) = match (&self.mlp, &kept.experts) {
            (Mlp::Dense { gate_up, down }, _) => {
                numbers!(gate_up = gate_up, down = down);
                let inner = down.len() / hidden;
                let h = SwiGlu.forward(&kept.pre, inner);
                let (dh, d_down) = linear.backward(&h, down, dy, [rows, hidden, inner]);
                let d_pre = SwiGlu.backward(&kept.pre, &dh, inner);
                let (du, d_gate_up) = linear.backward(&u, gate_up, &d_pre, [rows, 2 * inner, hidden]);
                (du, vec![d_gate_up, d_down])
            }
            (Mlp::Experts { router, gate_up, down }, Some(KeptExperts { logits, gates, chosen })) => {
                numbers!(router = router, gate_up = gate_up, down = down);
                let (count, precision) = (chosen.dispatch.num_experts(), linear.precision);
                let inner = down.len() / hidden / count;
                let (sizes, dispatch) = ([hidden, inner], &chosen.dispatch);
                let h = SwiGlu.forward(&kept.pre, inner);
                let (dh, d_down, d_gates) = down_backward(dispatch, precision, [&h, down, gates, dy], sizes);
                let (du, d_gate_up) = up_backward(dispatch, precision, [&u, gate_up, &kept.pre, &dh], sizes);
                let Chosen { ids, top_k, router: rule, .. } = chosen;
                let mut of_logits = moe_routing::gates_backward(logits, count, ids, *top_k, rule, &d_gates)?;
                if let Some(more) = d_logits {
                    of_logits = add(more, of_logits);
                }
                let (more, d_router) =
                    Linear::default().backward(&u, router, &of_logits, [rows, count, hidden]);
                (add(&more, du), vec![d_gate_up, d_down, d_router])
            }
            (Mlp::Experts { .. }, None) => return Err(Error::Batch("the layer has no experts".into())),
        };
        let (dx, d_post_norm) = pass.rms.backward(&kept.x, post_norm, &du);
        let dx = add(dy, dx);

        let width = output.len() / hidden;
        let (d_attended, d_output) = linear.backward(&kept.attended, output, &dx, [rows, hidden, width]);
        let attention = Attention::causal(pass.prepare.shape, pass.segments.clone());
        let back = |prepared: &[f32]| {
            let Kept { attended, log_sum_exp, .. } = &kept;
            attention.backward(&Attended { x: prepared, y: attended, dy: &d_attended, lse: log_sum_exp })
        };
        let (d_qkv, d_norms) = match &self.qk_norms {
            Some((q, k)) => {
                numbers!(q = q, k = k);
                let d_prepared = back(&pass.prepare.forward(&kept.qkv, Some((q, k))));
                let (d_qkv, mut d_q) = pass.prepare.backward(&kept.qkv, Some((q, k)), &d_prepared);
                let d_k = d_q.split_off(q.len());
                (d_qkv, vec![d_q, d_k])
            }
            None => (pass.prepare.backward(&[], None, &back(&kept.qkv)).0, Vec::new()),
        };
        let u = pass.rms.forward(x, input_norm);
        let (du, d_weight) = linear.backward(&u, qkv, &d_qkv, [rows, qkv.len() / hidden, hidden]);
        let (of_attention, d_input_norm) = pass.rms.backward(x, input_norm, &du);
        let of_parameters = [d_input_norm, d_weight, d_output, d_post_norm];
        Ok((add(&dx, of_attention), of_parameters.into_iter().chain(of_mlp).chain(d_norms).collect()))
    }
}

impl Chosen {
    fn gates(&self, logits: &[f32]) -> Result<Vec<f32>> {
        let experts = self.dispatch.num_experts();
        Ok(moe_routing::gates(logits, experts, &self.ids, self.top_k, &self.router)?)
    }
}

/// A layer in a graph.
struct Differentiable {
    layer: Arc<Layer>,
    pass: Arc<Pass>,
    chosen: Option<Chosen>,
    /// Taken by the first backward; after that, and with recomputation, the layer runs again.
    kept: Mutex<Option<Kept>>,
}

impl Part for Differentiable {
    fn backward(&self, x: &Tensor, d_outputs: Vec<Option<Tensor>>) -> Result<(Tensor, Vec<Option<Tensor>>)> {
        let Self { layer, pass, chosen, kept } = self;
        let contiguous = |t: Option<Tensor>| t.map(|t| t.contiguous()).transpose();
        let mut d_outputs = d_outputs.into_iter();
        let mut next = || contiguous(d_outputs.next().flatten());
        let (dy, d_logits) = (next()?.map_or_else(|| x.zeros_like(), Ok)?, next()?);
        numbers!(rows = x, dy = &dy);
        let kept = lock(kept).take();
        let kept = match kept {
            Some(kept) => kept,
            None => {
                let again = || chosen.clone().ok_or_else(|| Error::Batch("the layer has no experts".into()));
                layer.forward(rows, pass, |_| again())?.1
            }
        };
        let d_logits = d_logits.as_ref().map(read);
        let d_logits =
            d_logits.as_ref().map(|d| d.slice("the gradient of the router's logits")).transpose()?;
        let (dx, of_parameters) = layer.backward(rows, dy, d_logits, kept, pass)?;
        let tensors = layer.parameters().into_iter().zip(of_parameters).map(|(p, d)| deposit(&p, d));
        let of_x = Tensor::from_vec(dx, x.shape(), &Device::Cpu)?;
        Ok((of_x, tensors.collect::<candle_core::Result<_>>()?))
    }
}
