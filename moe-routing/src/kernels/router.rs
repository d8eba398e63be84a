//! The choice of experts: `kernels/router.cu`.

use cuda_twin::{Arg, Gpu, Launch, Module, Result, args};

use super::{compile, int, refused, warps};
use crate::Router;
use crate::sources::ROUTER;

/// The compiled kernel on one device.
pub struct RouterKernels(Module);

/// What a group adds up, as `enum Terms` of the source.
#[derive(Clone, Copy)]
enum Terms {
    Scores = 0,
    Exponentials = 1,
    Sigmoids = 2,
}

impl RouterKernels {
    /// Compiles it, or takes it from the cache.
    ///
    /// # Errors
    /// As [`Gpu::compile`].
    pub fn new(gpu: &Gpu) -> Result<Self> {
        compile(gpu, "router.cu", ROUTER).map(Self)
    }

    #[cfg(test)]
    pub(super) fn of_module(module: Module) -> Self {
        Self(module)
    }

    /// As [`top_k`](crate::top_k()): from `logits` `[tokens, experts]` in `f32` to `ids` `[tokens, top_k]` in `u32` and
    /// `status` `[tokens]` in `i32`. `bias` is the router's selection bias `[experts]` in `f32`; it must be there where the
    /// router has one. Up to 12,288 experts, 6,080 or so with groups.
    ///
    /// # Safety
    /// The buffers hold what is said here, and device addresses are of this device.
    ///
    /// # Errors
    /// As [`Module::launch`]; [`cuda_twin::Error::Launch`] for a router or a shape that does not fit.
    pub unsafe fn top_k(
        &self,
        router: &Router,
        [tokens, experts, top_k]: [usize; 3],
        logits: Arg<'_>,
        bias: Option<Arg<'_>>,
        ids: Arg<'_>,
        status: Arg<'_>,
    ) -> Result<()> {
        const NAME: &str = "top_k_f32";
        let valid = router.validate(experts, top_k);
        valid.map_err(|e| refused(NAME, "router", e, "a router for these experts"))?;
        let (groups, keep) = match router {
            Router::GroupLimited { groups, keep, .. } => (*groups, *keep),
            _ => (0, 0),
        };
        let biased = matches!(router.family(), Router::SigmoidTopK { bias, .. } if !bias.is_empty());
        if biased && bias.is_none() {
            return Err(refused(NAME, "bias", "none", "the router's"));
        }
        let terms = match router.family() {
            _ if keep == top_k => Terms::Scores,
            Router::SoftmaxTopK { .. } => Terms::Exponentials,
            Router::SigmoidTopK { .. } if !biased => Terms::Sigmoids,
            _ => Terms::Scores,
        };
        let Some(launch) = Self::launch(tokens, experts, groups)? else { return Ok(()) };
        let bias = bias.filter(|_| biased).unwrap_or_else(|| logits.clone()); // not read then
        let [tokens, experts, k] = [tokens, experts, top_k].map(|n| int(NAME, "a size", n));
        let (tokens, experts, k) = (tokens?, experts?, k?);
        let (groups, keep) = (groups as i32, keep as i32);
        let args = args![
            logits,
            bias,
            ids,
            status,
            tokens,
            experts,
            k,
            i32::from(biased),
            groups,
            keep,
            terms as i32
        ];
        // SAFETY: the caller's promise.
        unsafe { self.0.launch(NAME, launch, &args) }
    }

    fn launch(tokens: usize, experts: usize, groups: usize) -> Result<Option<Launch>> {
        let floats = if groups > 0 { 2 * (experts + groups) } else { experts };
        warps("top_k_f32", tokens, 4 * floats)
    }
}
