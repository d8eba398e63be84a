//! Rows of logits: `kernels/logits.cu`.

use cuda_twin::{Arg, Error, Gpu, Launch, Module, Result, args};

use crate::sources::{HEADERS, LOGITS};

/// The element type of logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// `f32`
    F32,
    /// `bf16`
    Bf16,
}

/// The shape of `[rows, vocabulary]` logits, and what they are divided by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rows {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub vocabulary: usize,
    /// Sampling temperature.
    pub temperature: f64,
}

/// The compiled kernels on one device.
pub struct LogitKernels(Module);

impl LogitKernels {
    /// Compiles them, or takes them from the cache.
    ///
    /// # Errors
    /// As [`Gpu::compile`].
    pub fn new(gpu: &Gpu) -> Result<Self> {
        gpu.compile_with("logits.cu", LOGITS, HEADERS).map(Self)
    }

    #[cfg(test)]
    pub(super) fn of_module(module: Module) -> Self {
        Self(module)
    }

    /// Writes `scores` `[rows, 4]` in `f32`: log-probability of the target, entropy, largest logit and the logarithm of
    /// the sum of exponentials relative to it. `targets` `[rows]` in `i32`; rows with a negative one are not read and get
    /// zeros.
    ///
    /// # Safety
    /// The buffers hold what is said here, `targets` are below the vocabulary, and device addresses are of this device.
    ///
    /// # Errors
    /// As [`Module::launch`]; [`Error::Launch`] for a shape that does not fit 32 bits.
    pub unsafe fn row_stats(
        &self,
        dtype: Dtype,
        shape: &Rows,
        logits: Arg<'_>,
        targets: Arg<'_>,
        scores: Arg<'_>,
    ) -> Result<()> {
        let name = dtype.pick("row_stats_f32", "row_stats_bf16");
        let Some((launch, vocabulary, inv_temperature)) = shape.launch(name)? else { return Ok(()) };
        let args = [logits, targets, scores, vocabulary.into(), inv_temperature.into()];
        // SAFETY: the caller's promise.
        unsafe { self.0.launch(name, launch, &args) }
    }

    /// Replaces `logits` by `∂L/∂logits`, from the `scores` of [`Self::row_stats`] and `upstream` `[rows, 2]` in `f32`:
    /// `∂L/∂logp` and `∂L/∂entropy`. Rows that are masked, or whose upstream is 0, are not read and get zeros.
    ///
    /// # Safety
    /// As [`Self::row_stats`].
    ///
    /// # Errors
    /// As [`Self::row_stats`].
    pub unsafe fn row_grad(
        &self,
        dtype: Dtype,
        shape: &Rows,
        logits: Arg<'_>,
        targets: Arg<'_>,
        scores: Arg<'_>,
        upstream: Arg<'_>,
    ) -> Result<()> {
        let name = dtype.pick("row_grad_f32", "row_grad_bf16");
        let Some((launch, vocabulary, inv_temperature)) = shape.launch(name)? else { return Ok(()) };
        let args = args![logits, targets, scores, upstream, vocabulary, inv_temperature];
        // SAFETY: the caller's promise.
        unsafe { self.0.launch(name, launch, &args) }
    }
}

impl Dtype {
    fn pick(self, f32: &'static str, bf16: &'static str) -> &'static str {
        match self {
            Self::F32 => f32,
            Self::Bf16 => bf16,
        }
    }
}

impl Rows {
    /// A block for each row; its size depends on the vocabulary alone, so a row's bits do not depend on the batch.
    fn launch(&self, kernel: &str) -> Result<Option<(Launch, i32, f32)>> {
        let fits = |what: &'static str, n: usize| {
            i32::try_from(n).map_err(|_| Error::Launch {
                kernel: kernel.to_string(),
                what,
                found: n.to_string(),
                expected: "at most 2147483647".to_string(),
            })
        };
        let (rows, vocabulary) = (fits("rows", self.rows)?, fits("vocabulary", self.vocabulary)?);
        let block = self.vocabulary.next_multiple_of(32).clamp(32, 1024) as u32;
        // Nothing to do is no launch: a grid of 0 blocks is an error.
        let launch = (rows > 0).then(|| Launch::linear(rows as u32, block));
        Ok(launch.map(|launch| (launch, vocabulary, (1.0 / self.temperature) as f32)))
    }
}
