//! Gates and their gradient: `kernels/gates.cu`.

use cuda_twin::{Arg, Gpu, Launch, Module, Result, args};

use super::{compile, int, refused, warps};
use crate::Router;
use crate::sources::GATES;

/// The compiled kernels on one device.
pub struct GateKernels(Module);

/// As `enum Family` of the source.
#[derive(Clone, Copy)]
enum Family {
    SoftmaxChosen = 0,
    SoftmaxAll = 1,
    SigmoidChosen = 2,
    SigmoidEach = 3,
}

fn family(router: &Router) -> (Family, f32) {
    match router.family() {
        Router::SoftmaxTopK { renorm: false } => (Family::SoftmaxAll, 1.0),
        Router::SigmoidTopK { renorm: true, scale, .. } => (Family::SigmoidChosen, *scale),
        Router::SigmoidTopK { renorm: false, scale, .. } => (Family::SigmoidEach, *scale),
        _ => (Family::SoftmaxChosen, 1.0),
    }
}

/// Launch, sizes, family and scale.
type Call = (Launch, [i32; 3], i32, f32);

fn call(name: &str, router: &Router, [tokens, experts, top_k]: [usize; 3]) -> Result<Option<Call>> {
    let valid = router.validate(experts, top_k);
    valid.map_err(|e| refused(name, "router", e, "a router for these experts"))?;
    let Some(launch) = warps(name, tokens, 2 * 4 * top_k)? else { return Ok(None) };
    let size = |n| int(name, "a size", n);
    let (family, scale) = family(router);
    Ok(Some((launch, [size(tokens)?, size(experts)?, size(top_k)?], family as i32, scale)))
}

impl GateKernels {
    /// Compiles them, or takes them from the cache.
    ///
    /// # Errors
    /// As [`Gpu::compile`].
    pub fn new(gpu: &Gpu) -> Result<Self> {
        compile(gpu, "gates.cu", GATES).map(Self)
    }

    #[cfg(test)]
    pub(super) fn of_module(module: Module) -> Self {
        Self(module)
    }

    /// As [`gates`](crate::gates()): from `logits` `[tokens, experts]` in `f32` and `ids` `[tokens, top_k]` in `u32` to
    /// `gates` `[tokens, top_k]` in `f32` and `status` `[tokens]` in `i32`. Any ids are safe; bad ones give a status. Up to
    /// 6,144 experts a token.
    ///
    /// # Safety
    /// The buffers hold what is said here, and device addresses are of this device.
    ///
    /// # Errors
    /// As [`Module::launch`]; [`cuda_twin::Error::Launch`] for a router or a shape that does not fit.
    pub unsafe fn gates(
        &self,
        router: &Router,
        shape: [usize; 3],
        logits: Arg<'_>,
        ids: Arg<'_>,
        gates: Arg<'_>,
        status: Arg<'_>,
    ) -> Result<()> {
        const NAME: &str = "gates_f32";
        let Some((launch, [tokens, experts, k], family, scale)) = call(NAME, router, shape)? else {
            return Ok(());
        };
        let args = args![logits, ids, gates, status, tokens, experts, k, family, scale];
        // SAFETY: the caller's promise.
        unsafe { self.0.launch(NAME, launch, &args) }
    }

    /// As [`gates_backward`](crate::gates_backward()): from `d_gates` `[tokens, top_k]` to `d_logits` `[tokens, experts]`,
    /// every element of which is written.
    ///
    /// # Safety
    /// As [`Self::gates`], which gave no status for these logits and ids.
    ///
    /// # Errors
    /// As [`Self::gates`].
    pub unsafe fn gates_backward(
        &self,
        router: &Router,
        shape: [usize; 3],
        logits: Arg<'_>,
        ids: Arg<'_>,
        d_gates: Arg<'_>,
        d_logits: Arg<'_>,
    ) -> Result<()> {
        const NAME: &str = "gates_backward_f32";
        let Some((launch, [tokens, experts, k], family, scale)) = call(NAME, router, shape)? else {
            return Ok(());
        };
        let args = args![logits, ids, d_gates, d_logits, tokens, experts, k, family, scale];
        // SAFETY: the caller's promise.
        unsafe { self.0.launch(NAME, launch, &args) }
    }
}
