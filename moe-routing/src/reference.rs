//! The definition: one mixture-of-experts layer, forward and backward, in `f64`, written to be read.
//!
//! `o = W_down (silu(W_gate x) ⊙ W_up x)` for every chosen expert, `y = Σ g · o`. Nothing is sorted, gathered or
//! fused here; fast paths are tested against it.

use ndarray::{Array1, Array2, Array3, ArrayView1, Axis, s};

use crate::{Result, Router, gates, gates_backward, top_k};

/// The weights of a layer: `E` experts, hidden size `D`, inner size `I`.
#[derive(Clone, Debug)]
pub struct Layer {
    /// `[E, D]`.
    pub router: Array2<f64>,
    /// Gate rows, then up rows: `[E, 2 I, D]`.
    pub gate_up: Array3<f64>,
    /// `[E, D, I]`.
    pub down: Array3<f64>,
}

/// What [`Layer::forward`] gives for `T` tokens of which each runs `K` experts.
#[derive(Clone, Debug)]
pub struct Output {
    /// `[T, E]`.
    pub logits: Array2<f64>,
    /// The experts that ran, `[T · K]`.
    pub ids: Vec<u32>,
    /// `[T · K]`.
    pub gates: Vec<f64>,
    /// Unweighted outputs `o` by slot, `[T · K, D]`.
    pub outputs: Array2<f64>,
    /// `[T, D]`.
    pub y: Array2<f64>,
}

/// What [`Layer::backward`] gives.
#[derive(Clone, Debug)]
pub struct Gradients {
    /// `γ = ⟨dy, o⟩` by slot, `[T · K]`.
    pub gates: Vec<f64>,
    /// `[T, E]`.
    pub logits: Array2<f64>,
    /// `[E, D]`.
    pub router: Array2<f64>,
    /// `[E, 2 I, D]`; 0 for experts without a token.
    pub gate_up: Array3<f64>,
    /// `[E, D, I]`; 0 for experts without a token.
    pub down: Array3<f64>,
    /// `[T, D]`.
    pub x: Array2<f64>,
}

fn sigmoid(a: f64) -> f64 {
    1.0 / (1.0 + (-a).exp())
}

impl Layer {
    /// `W_gate x` and `W_up x` of one expert.
    fn gate_and_up(&self, expert: usize, x: ArrayView1<'_, f64>) -> (Array1<f64>, Array1<f64>) {
        let both = self.gate_up.index_axis(Axis(0), expert).dot(&x);
        let inner = both.len() / 2;
        (both.slice(s![..inner]).to_owned(), both.slice(s![inner..]).to_owned())
    }

    /// The layer for `x` `[T, D]`, with the router's own experts or the recorded `ids` `[T · K]`.
    pub fn forward(&self, x: &Array2<f64>, k: usize, router: &Router, ids: Option<&[u32]>) -> Result<Output> {
        let logits = x.dot(&self.router.t()).as_standard_layout().into_owned();
        let (experts, flat) = (self.router.nrows(), logits.as_slice().unwrap_or_default());
        let ids = match ids {
            Some(ids) => ids.to_vec(),
            None => top_k(flat, experts, k, router)?,
        };
        let gates = gates(flat, experts, &ids, k, router)?;
        let mut outputs = Array2::zeros((ids.len(), x.ncols()));
        let mut y = Array2::zeros(x.raw_dim());
        for (slot, (expert, gate)) in ids.iter().zip(&gates).enumerate() {
            let (a, up) = self.gate_and_up(*expert as usize, x.row(slot / k));
            let h = a.mapv(|a| a * sigmoid(a)) * up;
            let o = self.down.index_axis(Axis(0), *expert as usize).dot(&h);
            y.row_mut(slot / k).scaled_add(*gate, &o);
            outputs.row_mut(slot).assign(&o);
        }
        Ok(Output { logits, ids, gates, outputs, y })
    }

    /// From `dy` `[T, D]` to every gradient. The choice of experts is a constant.
    pub fn backward(
        &self,
        x: &Array2<f64>,
        k: usize,
        router: &Router,
        out: &Output,
        dy: &Array2<f64>,
    ) -> Result<Gradients> {
        let d_gates: Vec<f64> =
            (0..out.ids.len()).map(|slot| dy.row(slot / k).dot(&out.outputs.row(slot))).collect();
        let flat = out.logits.as_slice().unwrap_or_default();
        let d_logits = gates_backward(flat, self.router.nrows(), &out.ids, k, router, &d_gates)?;
        let mut d_logits_rows = Array2::zeros(out.logits.raw_dim());
        d_logits_rows.iter_mut().zip(d_logits).for_each(|(to, from)| *to = from);
        let mut d_x = d_logits_rows.dot(&self.router);
        let mut d_gate_up = Array3::zeros(self.gate_up.raw_dim());
        let mut d_down = Array3::zeros(self.down.raw_dim());
        for (slot, (expert, gate)) in out.ids.iter().zip(&out.gates).enumerate() {
            let (expert, token) = (*expert as usize, slot / k);
            let (a, up) = self.gate_and_up(expert, x.row(token));
            let silu = a.mapv(|a| a * sigmoid(a));
            let d_o = &dy.row(token) * *gate;
            let d_h = self.down.index_axis(Axis(0), expert).t().dot(&d_o);
            let d_a = &d_h * &up * a.mapv(|a| sigmoid(a) * (1.0 + a * (1.0 - sigmoid(a))));
            let d_up = &d_h * &silu;
            add_outer(&mut d_down.index_axis_mut(Axis(0), expert), &d_o, (&silu * &up).view());
            let inner = a.len();
            let mut of_expert = d_gate_up.index_axis_mut(Axis(0), expert);
            add_outer(&mut of_expert.slice_mut(s![..inner, ..]), &d_a, x.row(token));
            add_outer(&mut of_expert.slice_mut(s![inner.., ..]), &d_up, x.row(token));
            let of_expert = self.gate_up.index_axis(Axis(0), expert);
            let mut d_x = d_x.row_mut(token);
            d_x += &of_expert.slice(s![..inner, ..]).t().dot(&d_a);
            d_x += &of_expert.slice(s![inner.., ..]).t().dot(&d_up);
        }
        Ok(Gradients {
            gates: d_gates,
            router: d_logits_rows.t().dot(x),
            logits: d_logits_rows,
            gate_up: d_gate_up,
            down: d_down,
            x: d_x,
        })
    }
}

/// `m += a bᵀ`.
fn add_outer(m: &mut ndarray::ArrayViewMut2<'_, f64>, a: &Array1<f64>, b: ArrayView1<'_, f64>) {
    for (mut row, a) in m.rows_mut().into_iter().zip(a) {
        row.scaled_add(*a, &b);
    }
}
