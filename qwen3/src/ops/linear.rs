use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

use super::{read, rows_of, slice, span};
use crate::kernel::MatmulPrecision;
use crate::sink::deposit;
use policy_loss::Products;

/// `y = x · wᵀ`: `x` is `[.., k]`, `w` is `[n, k]` as checkpoints store it, the result `[.., n]`.
///
/// Against candle's `x.matmul(&w.t()?)`: no transposed copy of the weight in the backward, and the bits of a
/// row do not depend on the number of rows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Linear {
    /// Of the products.
    pub precision: MatmulPrecision,
}

impl Linear {
    /// `[m, n]` of `x` `[m, k]` and `w` `[n, k]`.
    pub(crate) fn forward(self, x: &[f32], w: &[f32], [m, n, k]: [usize; 3]) -> Vec<f32> {
        let _span = span!("linear", flops = 2 * m * n * k);
        let mut y = vec![0f32; m * n];
        self.precision.nt(x, w, &mut y, [m, n, k], false);
        y
    }

    /// The gradients of `x` and `w`.
    pub(crate) fn backward(
        self,
        x: &[f32],
        w: &[f32],
        dy: &[f32],
        [m, n, k]: [usize; 3],
    ) -> (Vec<f32>, Vec<f32>) {
        let _span = span!("linear", flops = 4 * m * n * k);
        let (mut dx, mut dw) = (vec![0f32; m * k], vec![0f32; n * k]);
        self.precision.nn(dy, w, &mut dx, [m, n, k], false);
        self.precision.tn(dy, x, &mut dw, [m, n, k], false);
        (dx, dw)
    }
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (m, k) = rows_of(xl, "the input of linear")?;
        let (n, inner) = wl.shape().dims2()?;
        if inner != k {
            bail!("linear: the input has {k} features, the weight [{n}, {inner}] expects {inner}");
        }
        let (x, w) = (slice(x, xl, "the input of linear")?, slice(w, wl, "the weight")?);
        let y = self.forward(x, w, [m, n, k]);
        let mut dims = xl.dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last = n;
        }
        Ok((CpuStorage::F32(y), dims.into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let (n, k) = w.dims2()?;
        let m = x.elem_count() / k.max(1);
        let (xr, wr, dyr) = (read(x), read(w), read(&dy));
        let (dx, dw) = self.backward(xr.slice("x")?, wr.slice("w")?, dyr.slice("dy")?, [m, n, k]);
        Ok((Some(Tensor::from_vec(dx, x.shape(), x.device())?), deposit(w, dw)?))
    }
}
