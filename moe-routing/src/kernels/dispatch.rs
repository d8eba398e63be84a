//! The order of expert computation: `kernels/dispatch.cu`.

use cuda_twin::{Arg, Gpu, Launch, Module, Result, args};

use super::{SHARED, compile, int, refused};
use crate::sources::DISPATCH;

/// Slots of a tile, as in the source.
const TILE: usize = 1024;

/// The compiled kernels on one device.
pub struct DispatchKernels(Module);

impl DispatchKernels {
    /// Compiles them, or takes them from the cache.
    ///
    /// # Errors
    /// As [`Gpu::compile`].
    pub fn new(gpu: &Gpu) -> Result<Self> {
        compile(gpu, "dispatch.cu", DISPATCH).map(Self)
    }

    #[cfg(test)]
    pub(super) fn of_module(module: Module) -> Self {
        Self(module)
    }

    /// Elements of the scratch memory that [`Self::dispatch`] wants, in `i32`.
    pub fn scratch_len(tokens: usize, experts: usize, top_k: usize) -> usize {
        tokens.saturating_mul(top_k).div_ceil(TILE).saturating_mul(experts)
    }

    /// As [`Dispatch::new`](crate::Dispatch::new): from `ids` `[tokens, top_k]`, each row distinct, to `order`, `token_of`
    /// and `inverse` `[tokens · top_k]` and `offsets` `[experts + 1]`, all in `u32`. Up to 12,288 experts.
    ///
    /// # Safety
    /// The buffers hold what is said here, `scratch` [`Self::scratch_len`] elements, ids are below `experts`, and device
    /// addresses are of this device.
    ///
    /// # Errors
    /// As [`Module::launch`]; [`cuda_twin::Error::Launch`] for a shape that does not fit.
    pub unsafe fn dispatch(
        &self,
        [tokens, experts, top_k]: [usize; 3],
        ids: Arg<'_>,
        scratch: Arg<'_>,
        [order, token_of, inverse, offsets]: [Arg<'_>; 4],
    ) -> Result<()> {
        const COUNT: &str = "dispatch_count";
        if 4 * experts > SHARED {
            return Err(refused(COUNT, "experts", experts, format!("at most {}", SHARED / 4)));
        }
        let pairs = tokens.saturating_mul(top_k);
        let (pairs, tiles) = (int(COUNT, "pairs", pairs)?, pairs.div_ceil(TILE) as u32);
        let (experts, k) = (int(COUNT, "experts", experts)?, int(COUNT, "top_k", top_k)?);
        let scan = Launch::linear(1, (experts as u32).next_multiple_of(32).clamp(32, 256));
        let scan_args = args![scratch.clone(), offsets, tiles as i32, experts];
        if tiles == 0 {
            // Offsets of no pairs are written all the same.
            // SAFETY: the caller's promise.
            return unsafe { self.0.launch("dispatch_scan", scan, &scan_args) };
        }
        let warp = Launch::linear(tiles, 32).shared(4 * experts as u32);
        let count = args![ids.clone(), scratch.clone(), pairs, experts];
        let scatter = args![ids, scratch, order, token_of, inverse, pairs, experts, k];
        // SAFETY: the caller's promise.
        unsafe {
            self.0.launch(COUNT, warp, &count)?;
            self.0.launch("dispatch_scan", scan, &scan_args)?;
            self.0.launch("dispatch_scatter", warp, &scatter)
        }
    }
}
