//! Log-probabilities under recorded masks: `kernels/logprob.cu`.

use cuda_twin::{Arg, Gpu, Launch, Module, Result, args};

use super::{DeviceTable, Dtype, RowMasks, compile, int, refused};
use crate::sources::LOGPROB;

/// The compiled kernels on one device.
pub struct LogprobKernels(Module);

impl LogprobKernels {
    /// Compiles them, or takes them from the cache.
    ///
    /// # Errors
    /// As [`Gpu::compile`].
    pub fn new(gpu: &Gpu) -> Result<Self> {
        compile(gpu, "logprob.cu", LOGPROB).map(Self)
    }

    #[cfg(test)]
    pub(super) fn of_module(module: Module) -> Self {
        Self(module)
    }

    /// Writes `scores` `[rows, 4]` in `f32` for `logits` `[rows, V]` and `targets` `[rows]` in `i32` (negative: padding): the
    /// log-probability of the target, the largest allowed logit, the logarithm of the sum relative to it, and 1 where the record
    /// denies its own token.
    ///
    /// # Safety
    /// The buffers hold what is said here, targets are below `V`, and device addresses are of this device.
    ///
    /// # Errors
    /// As [`Module::launch`]; [`cuda_twin::Error::Launch`] for sizes and temperatures that do not do.
    pub unsafe fn forward(
        &self,
        dtype: Dtype,
        table: &DeviceTable,
        masks: &RowMasks,
        temperature: f32,
        logits: Arg<'_>,
        [targets, scores]: [Arg<'_>; 2],
    ) -> Result<()> {
        let name = dtype.pick("masked_logprob_f32", "masked_logprob_bf16");
        // SAFETY: the caller's promise.
        unsafe { self.launch(name, table, masks, temperature, logits, &[targets, scores]) }
    }

    /// Replaces `logits` by `upstream` `[rows]` (`f32`) times the gradient of the log-probability, from the `scores` of
    /// [`Self::forward`].
    ///
    /// # Safety
    /// As [`Self::forward`].
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub unsafe fn backward(
        &self,
        dtype: Dtype,
        table: &DeviceTable,
        masks: &RowMasks,
        temperature: f32,
        logits: Arg<'_>,
        [targets, scores, upstream]: [Arg<'_>; 3],
    ) -> Result<()> {
        let name = dtype.pick("masked_logprob_grad_f32", "masked_logprob_grad_bf16");
        // SAFETY: the caller's promise.
        unsafe { self.launch(name, table, masks, temperature, logits, &[targets, scores, upstream]) }
    }

    unsafe fn launch(
        &self,
        name: &'static str,
        table: &DeviceTable,
        masks: &RowMasks,
        temperature: f32,
        logits: Arg<'_>,
        rest: &[Arg<'_>],
    ) -> Result<()> {
        if !(temperature > 0.0 && temperature.is_finite()) {
            return Err(refused(name, "temperature", temperature, "a positive number"));
        }
        let (rows, width) = (int(name, "rows", masks.rows)?, int(name, "vocabulary", table.vocabulary)?);
        if rows == 0 {
            return Ok(());
        }
        let launch = Launch::linear(
            rows.cast_unsigned(),
            table.vocabulary.next_multiple_of(32).clamp(32, 1024) as u32,
        );
        let sizes = args![width, table.classes, 1.0 / temperature];
        let all = [&[logits], &masks.args(table)[..], rest, &sizes[..]].concat();
        // SAFETY: the caller's promise.
        unsafe { self.0.launch(name, launch, &all) }
    }
}
