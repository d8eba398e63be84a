//! Activations into the order of experts and back.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::slice;
use crate::Dispatch;

/// The rows of `x` `[tokens, n]` that experts read, in the order of `dispatch`: `[tokens · K, n]`. Differentiable, `f32`.
///
/// # Errors
/// When shapes or types do not fit.
pub fn permute(x: &Tensor, dispatch: &Arc<Dispatch>) -> Result<Tensor> {
    x.apply_op1(Move { dispatch: dispatch.clone(), to_tokens: false })
}

/// What experts made of them, `rows` `[tokens · K, n]`, weighed by `gates` `[tokens, K]` and added up by token, in
/// ascending order of experts: `[tokens, n]`. Differentiable in both, `f32`.
///
/// # Errors
/// When shapes or types do not fit.
pub fn unpermute(rows: &Tensor, gates: &Tensor, dispatch: &Arc<Dispatch>) -> Result<Tensor> {
    rows.apply_op2(gates, Combine { dispatch: dispatch.clone() })
}

/// Copies of tokens' rows, or, its adjoint, the sums of the copies by token.
#[derive(Clone)]
pub(super) struct Move {
    pub(super) dispatch: Arc<Dispatch>,
    pub(super) to_tokens: bool,
}

/// The positions of a token's slots, ascending, which is by ascending expert.
fn positions(dispatch: &Dispatch, token: usize) -> Vec<(usize, usize)> {
    let k = dispatch.top_k();
    let of = |slot: usize| (dispatch.inverse()[slot] as usize, slot);
    let mut positions: Vec<_> = (token * k..(token + 1) * k).map(of).collect();
    positions.sort_unstable();
    positions
}

impl Move {
    /// Rows of the input and of the output, and their width.
    pub(super) fn shape(&self, layout: &Layout) -> Result<[usize; 3]> {
        let (found, width) = layout.shape().dims2()?;
        let pairs = self.dispatch.token_of().len();
        let tokens = pairs / self.dispatch.top_k();
        let [from, to] = if self.to_tokens { [pairs, tokens] } else { [tokens, pairs] };
        if found != from || width == 0 {
            bail!("{found} rows of {width}, the dispatch has {from}");
        }
        Ok([from, to, width])
    }
}

impl CustomOp1 for Move {
    fn name(&self) -> &'static str {
        "permute"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let [_, to, width] = self.shape(layout)?;
        let x = slice("activations", x, layout)?;
        let mut y = vec![0f32; to * width];
        for (i, y) in y.chunks_exact_mut(width).enumerate() {
            if self.to_tokens {
                for (position, _) in positions(&self.dispatch, i) {
                    y.iter_mut().zip(&x[position * width..]).for_each(|(y, x)| *y += x);
                }
            } else {
                y.copy_from_slice(&x[self.dispatch.token_of()[i] as usize * width..][..width]);
            }
        }
        Ok((CpuStorage::F32(y), (to, width).into()))
    }

    #[cfg(feature = "candle-cuda")]
    fn cuda_fwd(
        &self,
        x: &candle_core::CudaStorage,
        layout: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        self.on_gpu(x, layout)
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let adjoint = Self { to_tokens: !self.to_tokens, ..self.clone() };
        Ok(Some(dy.contiguous()?.apply_op1(adjoint)?))
    }
}

/// The sum over a token's experts, and its gradients.
#[derive(Clone)]
pub(super) struct Combine {
    pub(super) dispatch: Arc<Dispatch>,
}

impl Combine {
    /// Tokens, slots of a token, and the width of a row.
    pub(super) fn shape(&self, rows: &Layout, gates: &Layout) -> Result<[usize; 3]> {
        let ((pairs, width), (tokens, k)) = (rows.shape().dims2()?, gates.shape().dims2()?);
        if pairs != self.dispatch.token_of().len()
            || k != self.dispatch.top_k()
            || tokens * k != pairs
            || width == 0
        {
            bail!("rows [{pairs}, {width}] and gates [{tokens}, {k}] do not fit the dispatch");
        }
        Ok([tokens, k, width])
    }
}

impl CustomOp2 for Combine {
    fn name(&self) -> &'static str {
        "unpermute"
    }

    fn cpu_fwd(
        &self,
        rows: &CpuStorage,
        rows_layout: &Layout,
        gates: &CpuStorage,
        gates_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let [tokens, _, width] = self.shape(rows_layout, gates_layout)?;
        let (rows, gates) = (slice("rows", rows, rows_layout)?, slice("gates", gates, gates_layout)?);
        let mut y = vec![0f32; tokens * width];
        for (token, y) in y.chunks_exact_mut(width).enumerate() {
            for (position, slot) in positions(&self.dispatch, token) {
                let row = &rows[position * width..];
                y.iter_mut().zip(row).for_each(|(y, row)| *y += gates[slot] * row);
            }
        }
        Ok((CpuStorage::F32(y), (tokens, width).into()))
    }

    #[cfg(feature = "candle-cuda")]
    fn cuda_fwd(
        &self,
        rows: &candle_core::CudaStorage,
        rows_layout: &Layout,
        gates: &candle_core::CudaStorage,
        gates_layout: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        self.on_gpu((rows, rows_layout), (gates, gates_layout))
    }

    fn bwd(
        &self,
        rows: &Tensor,
        gates: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let both = dy.contiguous()?.apply_op3_no_bwd(rows, gates, self)?;
        let len = rows.elem_count();
        let d_rows = both.narrow(0, 0, len)?.reshape(rows.shape())?;
        let d_gates = both.narrow(0, len, gates.elem_count())?.reshape(gates.shape())?;
        Ok((Some(d_rows), Some(d_gates)))
    }
}

/// From `(dy, rows, gates)` to the gradients of rows and gates, one behind the other: one pass makes both.
impl CustomOp3 for Combine {
    fn name(&self) -> &'static str {
        "unpermute-backward"
    }

    fn cpu_fwd(
        &self,
        dy: &CpuStorage,
        dy_layout: &Layout,
        rows: &CpuStorage,
        rows_layout: &Layout,
        gates: &CpuStorage,
        gates_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let [tokens, k, width] = self.shape(rows_layout, gates_layout)?;
        let dy = slice("the gradient", dy, dy_layout)?;
        let (rows, gates) = (slice("rows", rows, rows_layout)?, slice("gates", gates, gates_layout)?);
        let mut out = vec![0f32; tokens * k * (width + 1)];
        let (d_rows, d_gates) = out.split_at_mut(tokens * k * width);
        for (position, d_row) in d_rows.chunks_exact_mut(width).enumerate() {
            let slot = self.dispatch.order()[position] as usize;
            let dy = &dy[slot / k * width..][..width];
            let row = &rows[position * width..][..width];
            d_row.iter_mut().zip(dy).for_each(|(d, dy)| *d = gates[slot] * dy);
            d_gates[slot] = dy.iter().zip(row).map(|(dy, row)| dy * row).sum();
        }
        Ok((CpuStorage::F32(out), (tokens * k * (width + 1)).into()))
    }

    #[cfg(feature = "candle-cuda")]
    fn cuda_fwd(
        &self,
        dy: &candle_core::CudaStorage,
        dy_layout: &Layout,
        rows: &candle_core::CudaStorage,
        rows_layout: &Layout,
        gates: &candle_core::CudaStorage,
        gates_layout: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        self.backward_on_gpu((dy, dy_layout), (rows, rows_layout), (gates, gates_layout))
    }
}
