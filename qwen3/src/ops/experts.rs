use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};
use moe_routing::Dispatch;

use super::{read, slice, span};
use crate::buffer::Buffer;
use crate::kernel::activation::swiglu_row_backward;
use crate::kernel::experts::{combine, down, each_expert, gather, up};
use crate::kernel::softmax::dot;
use crate::kernel::stored::Trained;
use crate::kernel::{MatmulPrecision, SharedMut};
use policy_loss::Products;

/// First half of the experts: `x` `[tokens, H]` and stacked `gate_up` `[experts, 2 I, H]` to the SwiGLU
/// activations `[pairs, I]` in dispatch order. Keeps the pre-activations for the backward.
#[derive(Debug)]
pub struct ExpertsUp {
    dispatch: Arc<Dispatch>,
    precision: MatmulPrecision,
    pre: OnceLock<Vec<f32>>,
}

impl ExpertsUp {
    /// `dispatch` says which tokens each expert reads, `precision` is that of the products.
    pub fn new(dispatch: Arc<Dispatch>, precision: MatmulPrecision) -> Self {
        Self { dispatch, precision, pre: OnceLock::new() }
    }
}

impl CustomOp2 for ExpertsUp {
    fn name(&self) -> &'static str {
        "experts-up"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let ((tokens, hidden), (experts, twice, inner_hidden)) = (xl.shape().dims2()?, wl.shape().dims3()?);
        let pairs = self.dispatch.token_of().len();
        if inner_hidden != hidden || twice % 2 != 0 || experts != self.dispatch.num_experts() {
            bail!(
                "experts: input [{tokens}, {hidden}], weights [{experts}, {twice}, {inner_hidden}], {} experts in the dispatch",
                self.dispatch.num_experts()
            );
        }
        if pairs != tokens * self.dispatch.top_k() {
            bail!("experts: the dispatch has {pairs} pairs for {tokens} tokens");
        }
        let (x, w) = (slice(x, xl, "the input of the experts")?, slice(w, wl, "gate_up")?);
        let _span = span!("experts", flops = 2 * pairs * hidden * twice);
        let w = Trained { data: w, precision: self.precision };
        let (mut pre, mut h) = (vec![0f32; pairs * twice], vec![0f32; pairs * (twice / 2)]);
        up(x, &w, &self.dispatch, hidden, twice / 2, &mut pre, &mut h);
        // A second forward of the same operation would see the same input, so the first value stands.
        let _ = self.pre.set(pre);
        Ok((CpuStorage::F32(h), (pairs, twice / 2).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        h: &Tensor,
        dh: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dh = dh.contiguous()?;
        let ((tokens, hidden), (_, inner)) = (x.dims2()?, h.dims2()?);
        let (xr, wr, dhr) = (read(x), read(w), read(&dh));
        let (xs, ws, dhs) = (xr.slice("x")?, wr.slice("w")?, dhr.slice("dh")?);
        let Some(pre) = self.pre.get() else { bail!("experts: backward before forward") };
        let (dx, dw) = up_backward(&self.dispatch, self.precision, [xs, ws, pre, dhs], [hidden, inner]);
        Ok((
            Some(Tensor::from_vec(dx, (tokens, hidden), x.device())?),
            Some(Tensor::from_vec(dw, w.shape(), w.device())?),
        ))
    }
}

/// Second half of the experts: activations `[pairs, I]` in dispatch order, stacked `down` `[experts, H, I]` and
/// gates `[tokens, K]` to `[tokens, H]`. The gradient to the gates is the router's only path to learn.
#[derive(Debug)]
pub struct ExpertsDown {
    dispatch: Arc<Dispatch>,
    precision: MatmulPrecision,
}

impl ExpertsDown {
    /// `dispatch` and `precision` as given to [`ExpertsUp`].
    pub fn new(dispatch: Arc<Dispatch>, precision: MatmulPrecision) -> Self {
        Self { dispatch, precision }
    }
}

impl CustomOp3 for ExpertsDown {
    fn name(&self) -> &'static str {
        "experts-down"
    }

    fn cpu_fwd(
        &self,
        h: &CpuStorage,
        hl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
        gates: &CpuStorage,
        gl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let ((pairs, inner), (experts, hidden, wi), (tokens, k)) =
            (hl.shape().dims2()?, wl.shape().dims3()?, gl.shape().dims2()?);
        if wi != inner
            || k != self.dispatch.top_k()
            || tokens * k != pairs
            || experts != self.dispatch.num_experts()
        {
            bail!(
                "experts: activations [{pairs}, {inner}], weights [{experts}, {hidden}, {wi}], gates [{tokens}, {k}]"
            );
        }
        let _span = span!("experts", flops = 2 * pairs * hidden * inner);
        let w = Trained { data: slice(w, wl, "down")?, precision: self.precision };
        let mut o = Buffer::of(pairs * hidden);
        down(slice(h, hl, "activations")?, &w, &self.dispatch, hidden, inner, &mut o);
        let mut y = vec![0f32; tokens * hidden];
        combine(&o, slice(gates, gl, "gates")?, &self.dispatch, hidden, &mut y);
        Ok((CpuStorage::F32(y), (tokens, hidden).into()))
    }

    fn bwd(
        &self,
        h: &Tensor,
        w: &Tensor,
        gates: &Tensor,
        y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let ((pairs, inner), (tokens, hidden), k) = (h.dims2()?, y.dims2()?, self.dispatch.top_k());
        let (hr, wr, gr, dyr) = (read(h), read(w), read(gates), read(&dy));
        let (hs, ws, gs, dys) = (hr.slice("h")?, wr.slice("w")?, gr.slice("gates")?, dyr.slice("dy")?);
        let (dh, dw, d_gates) =
            down_backward(&self.dispatch, self.precision, [hs, ws, gs, dys], [hidden, inner]);
        Ok((
            Some(Tensor::from_vec(dh, (pairs, inner), h.device())?),
            Some(Tensor::from_vec(dw, w.shape(), w.device())?),
            Some(Tensor::from_vec(d_gates, (tokens, k), gates.device())?),
        ))
    }
}

/// The gradients of the input and of `gate_up`, from both, the pre-activations and the gradient of the activations.
pub(crate) fn up_backward(
    dispatch: &Dispatch,
    precision: MatmulPrecision,
    [xs, ws, pre, dhs]: [&[f32]; 4],
    [hidden, inner]: [usize; 2],
) -> (Vec<f32>, Vec<f32>) {
    let pairs = dispatch.token_of().len();
    let _span = span!("experts", flops = 8 * pairs * hidden * inner);
    let (mut dw, mut dx_pairs) = (vec![0f32; ws.len()], vec![0f32; pairs * hidden]);
    let (dw_out, dx_out) = (SharedMut::new(&mut dw), SharedMut::new(&mut dx_pairs));
    each_expert(dispatch, |expert, range| {
        let (rows, size) = (range.len(), 2 * inner * hidden);
        let mut d_pre = vec![0f32; rows * 2 * inner];
        for (i, d_pre) in d_pre.chunks_exact_mut(2 * inner).enumerate() {
            let p = range.start + i;
            swiglu_row_backward(&pre[p * 2 * inner..][..2 * inner], &dhs[p * inner..][..inner], d_pre);
        }
        let x = gather(xs, hidden, dispatch, range.clone());
        // SAFETY: an expert owns its weights and its range of the dispatch order.
        let (dw, dx) =
            unsafe { (dw_out.range(expert * size, size), dx_out.range(range.start * hidden, rows * hidden)) };
        let sizes = [rows, 2 * inner, hidden];
        precision.tn(&d_pre, &x, dw, sizes, false);
        precision.nn(&d_pre, &ws[expert * size..][..size], dx, sizes, false);
    });
    let ones = vec![1f32; pairs];
    let mut dx = vec![0f32; pairs / dispatch.top_k() * hidden];
    combine(&dx_pairs, &ones, dispatch, hidden, &mut dx);
    (dx, dw)
}

/// The gradients of the activations, of `down` and of the gates, from all three and the gradient of the output.
pub(crate) fn down_backward(
    dispatch: &Dispatch,
    precision: MatmulPrecision,
    [hs, ws, gs, dys]: [&[f32]; 4],
    [hidden, inner]: [usize; 2],
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let pairs = dispatch.token_of().len();
    let _span = span!("experts", flops = 4 * pairs * hidden * inner);
    let (mut dw, mut dh, mut d_gates) = (vec![0f32; ws.len()], vec![0f32; pairs * inner], vec![0f32; pairs]);
    let (dw_out, dh_out, d_gates_out) =
        (SharedMut::new(&mut dw), SharedMut::new(&mut dh), SharedMut::new(&mut d_gates));
    each_expert(dispatch, |expert, range| {
        let (rows, size) = (range.len(), hidden * inner);
        let dy = gather(dys, hidden, dispatch, range.clone());
        // SAFETY: an expert owns its weights and its range of the dispatch order.
        let (dw, dh) =
            unsafe { (dw_out.range(expert * size, size), dh_out.range(range.start * inner, rows * inner)) };
        let sizes = [rows, hidden, inner];
        precision.nn(&dy, &ws[expert * size..][..size], dh, sizes, false);
        // Of each pair the gate scales the output, and with it what flows back.
        let mut weighted = hs[range.start * inner..][..rows * inner].to_vec();
        for ((slot, dh), h) in dispatch.order()[range]
            .iter()
            .zip(dh.chunks_exact_mut(inner))
            .zip(weighted.chunks_exact_mut(inner))
        {
            let gate = gs[*slot as usize];
            // SAFETY: a slot has one position in the dispatch order.
            unsafe { d_gates_out.range(*slot as usize, 1)[0] = dot(dh, h) };
            dh.iter_mut().chain(h).for_each(|v| *v *= gate);
        }
        precision.tn(&dy, &weighted, dw, sizes, false);
    });
    (dh, dw, d_gates)
}
