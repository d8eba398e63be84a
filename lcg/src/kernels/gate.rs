//! The network: `kernels/gate.cu`.

use cuda_twin::{Arg, Gpu, Launch, Module, Result, args};

use super::{compile, int, refused};
use crate::gate::MlpGate;
use crate::sources::GATE;

/// The compiled kernel on one device.
pub struct GateKernels(Module);

impl GateKernels {
    /// Compiles it, or takes it from the cache.
    ///
    /// # Errors
    /// As [`Gpu::compile`].
    pub fn new(gpu: &Gpu) -> Result<Self> {
        compile(gpu, "gate.cu", GATE).map(Self)
    }

    #[cfg(test)]
    pub(super) fn of_module(module: Module) -> Self {
        Self(module)
    }

    /// From `hidden` `[rows, hidden_size]` and the weights and thresholds of `gate`, in `f32`, to gate logits `g` `[rows, F]` in
    /// `f32` and allowed `families` `[rows]` in `u32`, 0 where a logit is NaN. The width of the gate is a multiple of 32 from
    /// 32 to 256; wider ones are better served by a matrix product.
    ///
    /// # Safety
    /// The buffers hold what is said here, and device addresses are of this device.
    ///
    /// # Errors
    /// As [`Module::launch`]; [`cuda_twin::Error::Launch`] for other widths.
    pub unsafe fn gate(
        &self,
        gate: &MlpGate,
        rows: usize,
        [hidden, w1, w2, thresholds]: [Arg<'_>; 4],
        [g, families]: [Arg<'_>; 2],
    ) -> Result<()> {
        const NAME: &str = "lcg_gate_f32";
        let (width, count) = (gate.width(), gate.families());
        if !(32..=256).contains(&width) || !width.is_multiple_of(32) || count > 32 {
            let found = format!("{width} for {count} families");
            return Err(refused(
                NAME,
                "width",
                found,
                "a multiple of 32 from 32 to 256, at most 32 families",
            ));
        }
        let blocks = int(NAME, "rows", rows)?.cast_unsigned().div_ceil(8);
        if blocks == 0 {
            return Ok(());
        }
        let bytes = 4 * (width * 33 + 8 * 32 + 8 * width + 8 * 32);
        let launch = Launch::linear(blocks, width as u32).shared(bytes as u32);
        let [rows, hidden_size] = [int(NAME, "rows", rows)?, int(NAME, "hidden_size", gate.hidden_size())?];
        let sizes = args![rows, hidden_size, width as i32, count as i32];
        let all = [&[hidden, w1, w2, thresholds, g, families], &sizes[..]].concat();
        // SAFETY: the caller's promise.
        unsafe { self.0.launch(NAME, launch, &all) }
    }
}
