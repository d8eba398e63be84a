//! Activations to experts and back: `kernels/permute.cu`.

use cuda_twin::{Arg, Gpu, Launch, Module, Result, args};

use super::{SHARED, compile, int, refused};
use crate::sources::PERMUTE;

/// The element type of activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// `f32`
    F32,
    /// `bf16`
    Bf16,
}

/// The compiled kernels on one device. `x`, `y` and their gradients are `[tokens, width]`, `rows` and theirs
/// `[tokens · top_k, width]` in the order of [`Dispatch`](crate::Dispatch); index arrays are its, in `u32`.
///
/// Where 16 bytes divide a row, 16 bytes are read at once: all buffers of activations must then start at a multiple of 16.
pub struct PermuteKernels(Module);

/// Threads for a row of so many loads.
fn threads(loads: usize) -> u32 {
    loads.next_multiple_of(32).clamp(32, 256) as u32
}

/// The kernel, how many threads a row wants, and the row's width as it takes it.
fn pick(name: &str, dtype: Dtype, width: usize) -> Result<(String, u32, i32)> {
    let (suffix, wide) = match dtype {
        Dtype::F32 => ("f32", 4),
        Dtype::Bf16 => ("bf16", 8),
    };
    let (wide, ending) = if width.is_multiple_of(wide) { (wide, "_wide") } else { (1, "") };
    let kernel = format!("{name}_{suffix}{ending}");
    let width = int(&kernel, "width", width)?;
    Ok((kernel, threads(width as usize / wide), width))
}

/// As [`super::int`], for `top_k`: a position and a gate in shared memory for each.
fn slots(kernel: &str, top_k: usize) -> Result<i32> {
    match top_k {
        1.. if 8 * top_k <= SHARED => Ok(top_k as i32),
        _ => Err(refused(kernel, "top_k", top_k, format!("1 to {}", SHARED / 8))),
    }
}

impl PermuteKernels {
    /// Compiles them, or takes them from the cache.
    ///
    /// # Errors
    /// As [`Gpu::compile`].
    pub fn new(gpu: &Gpu) -> Result<Self> {
        compile(gpu, "permute.cu", PERMUTE).map(Self)
    }

    #[cfg(test)]
    pub(super) fn of_module(module: Module) -> Self {
        Self(module)
    }

    /// `rows[p] = x[token_of[p]]` for `pairs` positions.
    ///
    /// # Safety
    /// The buffers hold and start at what is said of [`PermuteKernels`], indices are in range, and device addresses are of
    /// this device.
    ///
    /// # Errors
    /// As [`Module::launch`]; [`cuda_twin::Error::Launch`] for a shape that does not fit.
    pub unsafe fn permute(
        &self,
        dtype: Dtype,
        [pairs, width]: [usize; 2],
        x: Arg<'_>,
        token_of: Arg<'_>,
        rows: Arg<'_>,
    ) -> Result<()> {
        let (kernel, block, width) = pick("permute", dtype, width)?;
        let pairs = int(&kernel, "pairs", pairs)?;
        if pairs == 0 {
            return Ok(());
        }
        let launch = Launch::linear(pairs as u32, block);
        // SAFETY: the caller's promise.
        unsafe { self.0.launch(&kernel, launch, &args![x, token_of, rows, width]) }
    }

    /// The gradient of [`Self::permute`]: `dx[t]` is the sum of `d_rows` of the token's slots.
    ///
    /// # Safety
    /// As [`Self::permute`].
    ///
    /// # Errors
    /// As [`Self::permute`].
    pub unsafe fn permute_backward(
        &self,
        dtype: Dtype,
        [tokens, top_k, width]: [usize; 3],
        d_rows: Arg<'_>,
        inverse: Arg<'_>,
        dx: Arg<'_>,
    ) -> Result<()> {
        let (kernel, block, width) = pick("permute_backward", dtype, width)?;
        let (tokens, k) = (int(&kernel, "tokens", tokens)?, slots(&kernel, top_k)?);
        if tokens == 0 {
            return Ok(());
        }
        let launch = Launch::linear(tokens as u32, block).shared(8 * k as u32);
        // SAFETY: the caller's promise.
        unsafe { self.0.launch(&kernel, launch, &args![d_rows, inverse, dx, k, width]) }
    }

    /// `y[t] = Σ gates · rows` over the token's slots, by ascending expert id; `gates` `[tokens, top_k]` in `f32`.
    ///
    /// # Safety
    /// As [`Self::permute`].
    ///
    /// # Errors
    /// As [`Self::permute`].
    pub unsafe fn unpermute(
        &self,
        dtype: Dtype,
        [tokens, top_k, width]: [usize; 3],
        rows: Arg<'_>,
        gates: Arg<'_>,
        inverse: Arg<'_>,
        y: Arg<'_>,
    ) -> Result<()> {
        let (kernel, block, width) = pick("unpermute", dtype, width)?;
        let (tokens, k) = (int(&kernel, "tokens", tokens)?, slots(&kernel, top_k)?);
        if tokens == 0 {
            return Ok(());
        }
        let launch = Launch::linear(tokens as u32, block).shared(8 * k as u32);
        // SAFETY: the caller's promise.
        unsafe { self.0.launch(&kernel, launch, &args![rows, gates, inverse, y, k, width]) }
    }

    /// The gradients of [`Self::unpermute`]: `d_rows` in the order of experts, and `d_gates` `[tokens, top_k]` in `f32` by
    /// slot.
    ///
    /// # Safety
    /// As [`Self::permute`].
    ///
    /// # Errors
    /// As [`Self::permute`].
    pub unsafe fn unpermute_backward(
        &self,
        dtype: Dtype,
        [tokens, top_k, width]: [usize; 3],
        [dy, rows, gates, order]: [Arg<'_>; 4],
        d_rows: Arg<'_>,
        d_gates: Arg<'_>,
    ) -> Result<()> {
        let (kernel, _, width) = pick("unpermute_backward", dtype, width)?;
        let k = slots(&kernel, top_k)?;
        let pairs = int(&kernel, "pairs", tokens.saturating_mul(top_k))?;
        if pairs == 0 {
            return Ok(());
        }
        let launch = Launch::linear(pairs.cast_unsigned().div_ceil(8), 256);
        let args = args![dy, rows, gates, order, d_rows, d_gates, pairs, k, width];
        // SAFETY: the caller's promise.
        unsafe { self.0.launch(&kernel, launch, &args) }
    }
}
