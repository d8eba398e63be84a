//! Sampling: `kernels/sample.cu`.

use cuda_twin::{Arg, Buf, Gpu, Launch, Module, Result, args};

use super::{DeviceTable, Dtype, RowMasks, compile, int, refused};
use crate::rules::Widen;
use crate::sample::Sampling;
use crate::sources::SAMPLE;

/// The compiled kernels on one device.
pub struct SampleKernels(Module);

/// What a batch is drawn with.
#[derive(Clone, Copy, Debug)]
pub struct SampleShape {
    /// Temperature and truncation, the same for all rows. With `top_k` over 32, or `top_p` below 1 without `top_k`, a kernel
    /// more runs, which reads a row four to six times.
    pub sampling: Sampling,
    /// Widening.
    pub widen: Widen,
    /// Blocks that share a row; the draw does not depend on it.
    pub splits: usize,
}

impl SampleShape {
    /// Splits for a batch of `rows`: enough blocks to fill a GPU, one a row from 64 rows on.
    pub fn splits_for(rows: usize) -> usize {
        if rows >= 64 { 1 } else { 264usize.div_ceil(rows.max(1)).min(16) }
    }
}

/// Tokens of a vocabulary whose ranks and masses fit 64 bits.
const MOST_TRUNCATED: usize = 1 << 23;

/// What lies between the kernels: sums, best scores and the 32 likeliest tokens of every split.
pub struct Workspace {
    floats: Buf<f32>,
    ints: Buf<i32>,
}

impl Workspace {
    /// Numbers of a split in each buffer.
    const PART: usize = 48;

    /// For `rows` in `splits` parts each.
    ///
    /// # Errors
    /// As [`Gpu::uninit`].
    pub fn new(gpu: &Gpu, rows: usize, splits: usize) -> Result<Self> {
        let len = Self::PART * rows.max(1) * splits;
        Ok(Self { floats: gpu.uninit(len)?, ints: gpu.uninit(len)? })
    }
}

impl SampleKernels {
    /// Compiles them, or takes them from the cache.
    ///
    /// # Errors
    /// As [`Gpu::compile`].
    pub fn new(gpu: &Gpu) -> Result<Self> {
        compile(gpu, "sample.cu", SAMPLE).map(Self)
    }

    #[cfg(test)]
    pub(super) fn of_module(module: Module) -> Self {
        Self(module)
    }

    /// Draws a token for each row of `logits` `[rows, V]`, as [`sample`](crate::sample()) does. `inputs` are `predicted` `[rows]`
    /// in `u32`, and `keys` `[rows, 5]` in `u32`: seed and sequence (low word first), position.
    ///
    /// `outputs` are `out_ints` `[rows, 4]` in `i32`: token; decision (0 the plan let it pass, 1 no effect, 2 contradicted, 3
    /// intervention, 4 a widened one); 1 where the ungated draw was denied; −1, or the first token whose logit is NaN or `+∞`,
    /// or −2 for no finite logit; and `out_floats` `[rows, 2]` in `f32`: log-probability of the token, denied mass.
    ///
    /// # Safety
    /// The buffers hold what is said here, and device addresses are of this device.
    ///
    /// # Errors
    /// As [`Module::launch`]; [`cuda_twin::Error::Launch`] for sizes that do not fit: truncations that the list of 32 tokens may
    /// not hold are of at most 2²³ tokens.
    pub unsafe fn sample(
        &self,
        dtype: Dtype,
        shape: &SampleShape,
        table: &DeviceTable,
        masks: &RowMasks,
        workspace: &Workspace,
        logits: Arg<'_>,
        inputs: [Arg<'_>; 2],
        outputs: [Arg<'_>; 2],
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.sample_with(1024, dtype, shape, table, masks, workspace, logits, inputs, outputs) }
    }

    /// The same with another number of threads for the truncation, a multiple of 32: no bit depends on it.
    ///
    /// # Safety
    /// As [`Self::sample`].
    pub(super) unsafe fn sample_with(
        &self,
        threads: u32,
        dtype: Dtype,
        shape: &SampleShape,
        table: &DeviceTable,
        masks: &RowMasks,
        workspace: &Workspace,
        logits: Arg<'_>,
        [predicted, keys]: [Arg<'_>; 2],
        [out_ints, out_floats]: [Arg<'_>; 2],
    ) -> Result<()> {
        let scan = dtype.pick("lcg_scan_f32", "lcg_scan_bf16");
        let Sampling { temperature, top_k, top_p } = shape.sampling;
        let greedy = temperature == 0.0;
        let truncated = !greedy && (top_k > 32 || top_k == 0 && top_p < 1.0);
        if truncated && table.vocabulary > MOST_TRUNCATED {
            let expected = format!("at most {MOST_TRUNCATED} where more than 32 of them may stay");
            return Err(refused(scan, "vocabulary", table.vocabulary, expected));
        }
        shape.sampling.validate().map_err(|e| refused(scan, "sampling", e, "valid parameters"))?;
        let (rows, width) = (int(scan, "rows", masks.rows)?, int(scan, "vocabulary", table.vocabulary)?);
        let splits = int(scan, "splits", shape.splits)?;
        let (most, needed) = (workspace.floats.len(), Workspace::PART * masks.rows * shape.splits);
        if !(1..=65_535).contains(&splits) || rows > 65_535 || needed > most {
            let found = format!("{rows} rows in {splits} parts for a workspace of {most}");
            return Err(refused(scan, "shape", found, "1 to 65535 rows and parts that the workspace holds"));
        }
        if rows == 0 {
            return Ok(());
        }
        let inv_temperature = if greedy { 1.0 } else { 1.0 / temperature };
        let [class_of, signatures, first, tokens, dynamic, denied] = masks.args(table);
        let [floats, ints] = args![&workspace.floats, &workspace.ints];
        let launch =
            Launch { grid: [splits.cast_unsigned(), rows.cast_unsigned(), 1], ..Launch::linear(1, 256) };
        let shared = [class_of, signatures, first, tokens, dynamic, denied];
        let tail = [keys.clone(), floats.clone(), ints.clone()];
        let head = [std::slice::from_ref(&logits), &shared[..], &tail].concat();
        let sizes = args![width, table.classes, splits, inv_temperature];
        // SAFETY: the caller's promise; the workspace has been measured.
        unsafe { self.0.launch(scan, launch, &[&head[..], &sizes[..]].concat()) }?;
        if truncated {
            let name = dtype.pick("lcg_nucleus_f32", "lcg_nucleus_bf16");
            // No row has more tokens than an i32.
            let options = args![i32::try_from(top_k).unwrap_or(i32::MAX), top_p as f32];
            let launch = Launch::linear(rows.cast_unsigned(), threads);
            // SAFETY: as before.
            unsafe { self.0.launch(name, launch, &[&head[..], &sizes[..], &options[..]].concat()) }?;
        }

        let name = dtype.pick("lcg_draw_f32", "lcg_draw_bf16");
        let always = i32::from(shape.widen == Widen::Always);
        let top_k = match (greedy, truncated) {
            (true, _) => 1,
            (_, true) => -1,
            (_, false) => top_k as i32,
        };
        let head = [&[logits, floats, ints], &shared[..], &[predicted, keys, out_ints, out_floats]].concat();
        let options = args![top_k, top_p as f32, i32::from(greedy), always, table.symbols];
        let launch = Launch::linear(rows.cast_unsigned(), 32);
        // SAFETY: as before.
        unsafe { self.0.launch(name, launch, &[&head[..], &sizes[..], &options[..]].concat()) }
    }
}
