//! Log-probabilities under recorded masks: `kernels/logprob.cu`.

use cuda_twin::{Arg, Buf, Gpu, Launch, Module, Result, args};

use super::{DeviceTable, Dtype, RowMasks, compile, int, refused};
use crate::sources::LOGPROB;

/// What truncation kept of a batch of rows, on a device: a bit a token, for truncated rows alone.
pub struct KeptTokens {
    vocabulary: usize,
    /// `[rows]`: which row of `words` holds a row's bits; negative where all tokens were kept.
    place: Buf<i32>,
    /// `[truncated rows, ⌈V / 32⌉]`
    words: Buf<u32>,
}

impl KeptTokens {
    /// Uploads the kept tokens of each row; `None` for all `vocabulary` of them.
    ///
    /// # Errors
    /// [`cuda_twin::Error::Launch`] for a token outside the vocabulary, and as [`Gpu::upload`].
    pub fn new<'a>(
        gpu: &Gpu,
        vocabulary: usize,
        rows: impl IntoIterator<Item = Option<&'a [u32]>>,
    ) -> Result<Self> {
        let (each, mut place, mut words) = (vocabulary.div_ceil(32), Vec::new(), Vec::<u32>::new());
        for kept in rows {
            let Some(kept) = kept else {
                place.push(-1);
                continue;
            };
            let start = words.len();
            place.push(int("masked_logprob", "truncated rows", start / each.max(1))?);
            words.resize(start + each, 0);
            for token in kept {
                if *token as usize >= vocabulary {
                    return Err(refused(
                        "masked_logprob",
                        "kept token",
                        token,
                        format!("less than {vocabulary}"),
                    ));
                }
                words[start + *token as usize / 32] |= 1 << (token % 32);
            }
        }
        // A device has no empty buffers.
        if words.is_empty() {
            words.push(0);
        }
        Ok(Self { vocabulary, place: gpu.upload(&place)?, words: gpu.upload(&words)? })
    }
}

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
    /// log-probability of the target, the largest allowed logit, the logarithm of the sum relative to it, and 1 where the target is
    /// outside its own record.
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
        kept: &KeptTokens,
        temperature: f32,
        logits: Arg<'_>,
        [targets, scores]: [Arg<'_>; 2],
    ) -> Result<()> {
        let name = dtype.pick("masked_logprob_f32", "masked_logprob_bf16");
        // SAFETY: the caller's promise.
        unsafe { self.launch(name, table, masks, kept, temperature, logits, &[targets, scores]) }
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
        kept: &KeptTokens,
        temperature: f32,
        logits: Arg<'_>,
        [targets, scores, upstream]: [Arg<'_>; 3],
    ) -> Result<()> {
        let name = dtype.pick("masked_logprob_grad_f32", "masked_logprob_grad_bf16");
        // SAFETY: the caller's promise.
        unsafe { self.launch(name, table, masks, kept, temperature, logits, &[targets, scores, upstream]) }
    }

    unsafe fn launch(
        &self,
        name: &'static str,
        table: &DeviceTable,
        masks: &RowMasks,
        kept: &KeptTokens,
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
        if kept.place.len() != masks.rows || kept.vocabulary != table.vocabulary {
            let found = format!("{} rows of {} tokens", kept.place.len(), kept.vocabulary);
            return Err(refused(name, "kept tokens", found, format!("{rows} of {width}")));
        }
        let launch = Launch::linear(
            rows.cast_unsigned(),
            table.vocabulary.next_multiple_of(32).clamp(32, 1024) as u32,
        );
        let sizes = args![width, table.classes, 1.0 / temperature];
        let kept = args![&kept.place, &kept.words];
        let all = [&[logits], &masks.args(table)[..], &kept[..], rest, &sizes[..]].concat();
        // SAFETY: the caller's promise.
        unsafe { self.0.launch(name, launch, &all) }
    }
}
