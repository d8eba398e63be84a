//! Route traces on the device: `kernels/trace.cu`.

use cuda_twin::{Arg, Gpu, Launch, Module, Result, args};

use super::{compile, int, refused};
use crate::RouteShape;
use crate::sources::TRACE;

/// The compiled kernels on one device.
///
/// A trace is `[rows, layers, top_k]`, in `u8` up to 256 experts and `u16` above, as in
/// [`RouteTrace::to_bytes`](crate::RouteTrace::to_bytes); `ordinal` counts the layers with experts.
pub struct TraceKernels(Module);

/// Launch and `tokens, layers, top_k, ordinal`.
fn call(kernel: &str, shape: &RouteShape, tokens: usize, ordinal: usize) -> Result<(Launch, [i32; 4])> {
    let layers = shape.layers().len();
    if ordinal >= layers {
        return Err(refused(kernel, "layer", ordinal, format!("below {layers}")));
    }
    let t = int(kernel, "tokens", tokens)?;
    let blocks = tokens.saturating_mul(shape.top_k()).div_ceil(256).clamp(1, 4096);
    let sizes = [t, layers as i32, shape.top_k() as i32, ordinal as i32];
    Ok((Launch::linear(blocks as u32, 256), sizes))
}

fn named(kernel: &str, shape: &RouteShape) -> String {
    format!("{kernel}_{}", if shape.experts() <= 256 { "u8" } else { "u16" })
}

impl TraceKernels {
    /// Compiles them, or takes them from the cache.
    ///
    /// # Errors
    /// As [`Gpu::compile`].
    pub fn new(gpu: &Gpu) -> Result<Self> {
        compile(gpu, "trace.cu", TRACE).map(Self)
    }

    /// Writes the ids `[tokens, top_k]` in `u32` of one layer into `trace`, whose rows are the tokens.
    ///
    /// # Safety
    /// The buffers hold what is said here, and device addresses are of this device.
    ///
    /// # Errors
    /// As [`Module::launch`]; [`cuda_twin::Error::Launch`] for a shape that does not fit.
    pub unsafe fn pack(
        &self,
        shape: &RouteShape,
        tokens: usize,
        ordinal: usize,
        ids: Arg<'_>,
        trace: Arg<'_>,
    ) -> Result<()> {
        let kernel = named("trace_pack", shape);
        let (launch, [t, layers, k, layer]) = call(&kernel, shape, tokens, ordinal)?;
        // SAFETY: the caller's promise.
        unsafe { self.0.launch(&kernel, launch, &args![ids, trace, t, layers, k, layer]) }
    }

    /// The ids `[tokens, top_k]` in `u32` that a layer runs in replay: those of row `source[token]` of `trace`, which may be
    /// several traces one after another, or `natural` where `source` `[tokens]` in `i32` is negative.
    ///
    /// # Safety
    /// As [`Self::pack`]; `source` is below the rows of `trace`.
    ///
    /// # Errors
    /// As [`Self::pack`].
    pub unsafe fn gather(
        &self,
        shape: &RouteShape,
        tokens: usize,
        ordinal: usize,
        [trace, source, natural]: [Arg<'_>; 3],
        ids: Arg<'_>,
    ) -> Result<()> {
        let kernel = named("trace_gather", shape);
        let (launch, [t, layers, k, layer]) = call(&kernel, shape, tokens, ordinal)?;
        let args = args![trace, source, natural, ids, t, layers, k, layer];
        // SAFETY: the caller's promise.
        unsafe { self.0.launch(&kernel, launch, &args) }
    }
}
