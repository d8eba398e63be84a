//! Norm and rotation in one pass: `kernels/norm.cu`.

use cuda_twin::{Arg, Gpu, Launch, Module, Result, args};

use super::{Dtype, int, refused, threads};
use crate::sources::{HEADERS, NORM};

/// A packed projection `[tokens, query + 2 kv, d]`, of which query and key heads are normalised, then rotated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormShape {
    /// Tokens.
    pub tokens: usize,
    /// Query heads.
    pub query: usize,
    /// Key heads, and as many value heads.
    pub kv: usize,
    /// Lanes of a head: at most 128 more than there are pairs.
    pub head_dim: usize,
    /// Rotary pairs, half-split.
    pub pairs: usize,
    /// Added to the mean square.
    pub eps: f32,
}

impl NormShape {
    /// Tokens whose weight gradients one warp sums. Fixed, so that the bits do not depend on the device.
    pub const CHUNK: usize = 64;

    /// Floats of the partial sums that [`NormKernels::backward`] needs.
    pub fn partial_len(&self) -> usize {
        self.tokens.div_ceil(Self::CHUNK) * (self.query + self.kv) * self.head_dim
    }

    fn heads(&self) -> usize {
        self.query + 2 * self.kv
    }

    fn check(&self, kernel: &str) -> Result<()> {
        if self.head_dim == 0 || 2 * self.pairs > self.head_dim || self.head_dim - self.pairs > 128 {
            let expected = "two for each pair, and at most 128 more than pairs";
            return Err(refused(kernel, "lanes of a head", self.head_dim, expected));
        }
        Ok(())
    }
}

/// The compiled kernels on one device.
pub struct NormKernels(Module);

impl NormKernels {
    /// Compiles them, or takes them from the cache.
    ///
    /// # Errors
    /// As [`Gpu::compile`].
    pub fn new(gpu: &Gpu) -> Result<Self> {
        gpu.compile_with("norm.cu", NORM, HEADERS).map(Self)
    }

    /// `y = rotate(w · x / sqrt(mean(x²) + eps))` for query and key heads, a copy for value heads; also writes `rstd`
    /// `[tokens, query + kv]`. `q_weight` and `k_weight` `[d]`, `cos` and `sin` `[tokens, pairs]`, all `f32`.
    ///
    /// # Safety
    /// The buffers hold what is said here, and device addresses are of this device.
    ///
    /// # Errors
    /// As [`Module::launch`]; [`cuda_twin::Error::Launch`] for a shape that the kernel does not take.
    #[expect(clippy::too_many_arguments, reason = "one for each buffer")]
    pub unsafe fn forward(
        &self,
        dtype: Dtype,
        shape: &NormShape,
        x: Arg<'_>,
        y: Arg<'_>,
        (q_weight, k_weight): (Arg<'_>, Arg<'_>),
        (cos, sin): (Arg<'_>, Arg<'_>),
        rstd: Arg<'_>,
    ) -> Result<()> {
        let name = dtype.name("norm_rotate");
        shape.check(&name)?;
        let count = shape.tokens.saturating_mul(shape.heads());
        let Some(launch) = warps(&name, "heads of all tokens", count)? else { return Ok(()) };
        let [tokens, query, kv, width, pairs] = shape.ints(&name)?;
        let args =
            args![x, y, q_weight, k_weight, shape.eps, cos, sin, rstd, tokens, query, kv, width, pairs];
        // SAFETY: the caller's promise.
        unsafe { self.0.launch(&name, launch, &args) }
    }

    /// From `dy` to `dx` and the gradients of both weights, `dq` and `dk` `[d]` in `f32`. `rstd` is the forward's;
    /// `partial` has [`NormShape::partial_len`] floats. Sums run in a fixed order: no atomics.
    ///
    /// # Safety
    /// As [`Self::forward`].
    ///
    /// # Errors
    /// As [`Self::forward`].
    #[expect(clippy::too_many_arguments, reason = "one for each buffer")]
    pub unsafe fn backward(
        &self,
        dtype: Dtype,
        shape: &NormShape,
        (x, dy, dx): (Arg<'_>, Arg<'_>, Arg<'_>),
        (q_weight, k_weight): (Arg<'_>, Arg<'_>),
        (cos, sin): (Arg<'_>, Arg<'_>),
        rstd: Arg<'_>,
        partial: Arg<'_>,
        (dq, dk): (Arg<'_>, Arg<'_>),
    ) -> Result<()> {
        let name = dtype.name("norm_rotate_backward");
        shape.check(&name)?;
        let chunks = shape.tokens.div_ceil(NormShape::CHUNK);
        let count = chunks.saturating_mul(shape.heads());
        let [tokens, query, kv, width, pairs] = shape.ints(&name)?;
        if let Some(launch) = warps(&name, "heads of all chunks", count)? {
            let rows = NormShape::CHUNK as i32;
            let args = args![
                x,
                dy,
                dx,
                q_weight,
                k_weight,
                cos,
                sin,
                rstd,
                partial.clone(),
                tokens,
                rows,
                query,
                kv,
                width,
                pairs
            ];
            // SAFETY: the caller's promise.
            unsafe { self.0.launch(&name, launch, &args) }?;
        }
        let name = "norm_rotate_weights";
        let Some(launch) = threads(name, "weights", 2 * shape.head_dim, 128)? else { return Ok(()) };
        let args = args![partial, dq, dk, int(name, "chunks", chunks)?, query, kv, width];
        // SAFETY: the caller's promise.
        unsafe { self.0.launch(name, launch, &args) }
    }
}

/// A warp for each of some things, four to a block.
fn warps(kernel: &str, what: &'static str, count: usize) -> Result<Option<Launch>> {
    Ok(threads(kernel, what, count, 4)?.map(|launch| Launch::linear(launch.grid[0], 128)))
}

impl NormShape {
    fn ints(&self, kernel: &str) -> Result<[i32; 5]> {
        let size = |what, n: usize| int(kernel, what, n);
        Ok([
            size("tokens", self.tokens)?,
            size("query heads", self.query)?,
            size("key heads", self.kv)?,
            size("lanes of a head", self.head_dim)?,
            size("pairs", self.pairs)?,
        ])
    }
}
