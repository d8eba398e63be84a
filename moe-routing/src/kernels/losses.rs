//! Router losses: `kernels/losses.cu`.

use cuda_twin::{Arg, Gpu, Launch, Module, Result, args};

use super::{compile, int, refused, warps};
use crate::Router;
use crate::sources::LOSSES;

/// The compiled kernels on one device.
///
/// Losses come from `logits` `[tokens, experts]` in `f32`; they write `loss` `[1]`, `gradient` `[tokens, experts]`, and for
/// each token its part of the loss (`parts`, in `f32`) and its `status` (in `i32`).
pub struct LossKernels(Module);

impl LossKernels {
    /// Compiles them, or takes them from the cache.
    ///
    /// # Errors
    /// As [`Gpu::compile`].
    pub fn new(gpu: &Gpu) -> Result<Self> {
        compile(gpu, "losses.cu", LOSSES).map(Self)
    }

    #[cfg(test)]
    pub(super) fn of_module(module: Module) -> Self {
        Self(module)
    }

    /// As [`load_balance`](crate::load_balance): `shares` `[experts]` in `f32` are
    /// [`AuxForm::shares`](crate::AuxForm::shares).
    ///
    /// # Safety
    /// The buffers hold what is said here, and device addresses are of this device.
    ///
    /// # Errors
    /// As [`Module::launch`]; [`cuda_twin::Error::Launch`] for a shape that does not fit.
    pub unsafe fn load_balance(
        &self,
        router: &Router,
        [tokens, experts]: [usize; 2],
        logits: Arg<'_>,
        shares: Arg<'_>,
        [loss, gradient, parts, status]: [Arg<'_>; 4],
    ) -> Result<()> {
        const NAME: &str = "load_balance_f32";
        let factor = experts as f32 / tokens.max(1) as f32;
        let is_sigmoid = i32::from(matches!(router.family(), Router::SigmoidTopK { .. }));
        if let Some((launch, t, e)) = shape(NAME, tokens, experts)? {
            let args = args![logits, shares, parts.clone(), gradient, status, t, e, is_sigmoid, factor];
            // SAFETY: the caller's promise.
            unsafe { self.0.launch(NAME, launch, &args) }?;
        }
        // SAFETY: the caller's promise.
        unsafe { self.sum(tokens, parts, loss) }
    }

    /// As [`z_loss`](crate::z_loss).
    ///
    /// # Safety
    /// As [`Self::load_balance`].
    ///
    /// # Errors
    /// As [`Self::load_balance`].
    pub unsafe fn z_loss(
        &self,
        [tokens, experts]: [usize; 2],
        logits: Arg<'_>,
        [loss, gradient, parts, status]: [Arg<'_>; 4],
    ) -> Result<()> {
        const NAME: &str = "z_loss_f32";
        let factor = 1.0 / tokens.max(1) as f32;
        if let Some((launch, t, e)) = shape(NAME, tokens, experts)? {
            let args = args![logits, parts.clone(), gradient, status, t, e, factor];
            // SAFETY: the caller's promise.
            unsafe { self.0.launch(NAME, launch, &args) }?;
        }
        // SAFETY: the caller's promise.
        unsafe { self.sum(tokens, parts, loss) }
    }

    /// # Safety
    /// `parts` has `tokens` elements, `loss` one.
    unsafe fn sum(&self, tokens: usize, parts: Arg<'_>, loss: Arg<'_>) -> Result<()> {
        let n = int("loss_sum_f32", "tokens", tokens)?;
        // SAFETY: the caller's promise.
        unsafe { self.0.launch("loss_sum_f32", Launch::linear(1, 256), &args![parts, loss, n]) }
    }
}

fn shape(name: &str, tokens: usize, experts: usize) -> Result<Option<(Launch, i32, i32)>> {
    if experts == 0 {
        return Err(refused(name, "experts", 0, "at least 1"));
    }
    let (t, e) = (int(name, "tokens", tokens)?, int(name, "experts", experts)?);
    Ok(warps(name, tokens, 0)?.map(|launch| (launch, t, e)))
}
