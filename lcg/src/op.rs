//! Log-probabilities under replayed masks as nodes of a candle graph.
//!
//! ```
//! use candle_core::{Device, Var};
//! use lcg::{Exemptions, FamilySet, FamilyTable, Kind, RowMask, Taxonomy, Vocabulary, op};
//! let tokens = ["да", "中", "!"].map(|text| (Kind::Text, text.as_bytes().to_vec()));
//! let table = FamilyTable::new(Taxonomy::script16(), Vocabulary::new(tokens), &Exemptions::default())?;
//! let denied = table.taxonomy().set(&["han"], "example")?;
//! let mask = RowMask { view: table.view(Default::default()), denied, kept: None };
//! let logits = Var::new(&[[1.0f32, 5.0, 0.0]], &Device::Cpu)?;
//! let logprob = op::masked_log_probs(&logits, &[0], &[Some(mask)], 1.0)?;
//! assert!((logprob.to_vec1::<f32>()?[0] + 0.313).abs() < 1e-3, "the softmax of 1 and 0");
//! let gradient = logprob.sum_all()?.backward()?.get(&logits).unwrap().to_vec2::<f32>()?;
//! assert_eq!(gradient[0][1], 0.0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::logprob::{RowMask, Softmax};

#[cfg(feature = "candle-cuda")]
mod cuda;
#[cfg(all(test, feature = "candle-cuda"))]
mod on_gpu;

/// Log-probabilities `[rows]` in `f32` of `targets` `[rows]` under `softmax(logits/temperature)` over the tokens that each row's
/// mask allows, from `logits` `[rows, V]` in `f32` on the CPU. Rows without a mask are padding: they are not read, and their
/// values and gradients are `+0`. The gradient is `([v = a] − π̃(v))/T` on allowed tokens, exactly 0 on others. Values have the
/// bits that [`sample`](crate::sample()) records.
///
/// With the feature `candle-cuda` logits may be `f32` or `bf16` on a GPU, for masks of one table.
///
/// # Errors
/// When sizes, types, layout or temperature do not fit; [`Error::SampledTokenDenied`](crate::Error::SampledTokenDenied) for a
/// record that denies its own token.
pub fn masked_log_probs(
    logits: &Tensor,
    targets: &[u32],
    masks: &[Option<RowMask<'_>>],
    temperature: f32,
) -> Result<Tensor> {
    apply(logits, targets, masks, temperature, Term::Logprob)
}

/// `−log Σ_allowed π(v)` `[rows]`: the mass that the gate has to remove, 0 where nothing is denied and for rows without a mask. As
/// a loss it moves the policy's mass off what is denied, so that it needs the gate less.
///
/// # Errors
/// As [`masked_log_probs`].
pub fn leak(
    logits: &Tensor,
    targets: &[u32],
    masks: &[Option<RowMask<'_>>],
    temperature: f32,
) -> Result<Tensor> {
    apply(logits, targets, masks, temperature, Term::Leak)
}

#[derive(Clone, Copy)]
enum Term {
    Logprob,
    Leak,
}

fn apply(
    logits: &Tensor,
    targets: &[u32],
    masks: &[Option<RowMask<'_>>],
    temperature: f32,
    term: Term,
) -> Result<Tensor> {
    let (rows, width) = logits.dims2()?;
    if targets.len() != rows || masks.len() != rows {
        bail!("{} targets and {} masks for {rows} rows of logits", targets.len(), masks.len());
    }
    if !(temperature > 0.0 && temperature.is_finite()) {
        bail!("temperature is {temperature}, expected a positive number");
    }
    #[cfg(feature = "candle-cuda")]
    if logits.device().is_cuda() {
        return cuda::apply(logits, targets, masks, temperature, term);
    }
    if logits.dtype() != DType::F32 || !matches!(logits.device(), Device::Cpu) {
        bail!("logits must be f32 on the CPU");
    }
    let values = logits.detach().flatten_all()?.to_vec1::<f32>()?;
    let one = |(r, (row, mask)): (usize, (&[f32], &Option<RowMask<'_>>))| -> Result<(f32, Option<Kept>)> {
        let Some(mask) = mask else { return Ok((0.0, None)) };
        let value = match term {
            Term::Logprob => mask.logprob(r, row, targets[r], temperature)?,
            Term::Leak if mask.denied.is_empty() => return Ok((0.0, None)),
            Term::Leak => mask.leak(row, temperature)?,
        };
        let mut allowed = vec![0u64; width.div_ceil(64)];
        (0..width).filter(|v| mask.allows(*v as u32)).for_each(|v| allowed[v / 64] |= 1 << (v % 64));
        let (gated, all) = mask.softmaxes(row, temperature);
        Ok((value, Some(Kept { allowed, target: targets[r] as usize, gated, all })))
    };
    let all = values.par_chunks(width.max(1)).zip(masks).enumerate().map(one);
    let (values, rows) = all.collect::<Result<Vec<_>>>()?.into_iter().unzip();
    logits.apply_op1(Masked { values, rows, term, inv_temperature: 1.0 / temperature })
}

/// What the backward needs of a row besides its logits: a bit a token, and two numbers for each softmax.
struct Kept {
    allowed: Vec<u64>,
    target: usize,
    gated: Softmax,
    all: Softmax,
}

struct Masked {
    values: Vec<f32>,
    rows: Vec<Option<Kept>>,
    term: Term,
    inv_temperature: f32,
}

impl CustomOp1 for Masked {
    fn name(&self) -> &'static str {
        "lcg-masked-log-probs"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(self.values.clone()), self.values.len().into()))
    }

    fn bwd(&self, logits: &Tensor, _: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        let upstream = upstream.to_vec1::<f32>()?;
        let width = logits.dim(1)?;
        let mut slopes = logits.detach().flatten_all()?.to_vec1::<f32>()?;
        let rows = slopes.par_chunks_mut(width.max(1)).zip(&self.rows).zip(&upstream);
        rows.for_each(|((row, kept), upstream)| {
            let Some(kept) = kept.as_ref().filter(|_| *upstream != 0.0) else { return row.fill(0.0) };
            for (v, z) in row.iter_mut().enumerate() {
                let allowed = kept.allowed[v / 64] >> (v % 64) & 1 == 1;
                let gated = if allowed { kept.gated.log_prob(*z).exp() } else { 0.0 };
                let slope = match self.term {
                    Term::Logprob if !allowed => 0.0,
                    Term::Logprob => f64::from(u8::from(v == kept.target)) - gated,
                    Term::Leak => kept.all.log_prob(*z).exp() - gated,
                };
                *z = (f64::from(upstream * self.inv_temperature) * slope + 0.0) as f32;
            }
        });
        Tensor::from_vec(slopes, logits.shape(), logits.device()).map(Some)
    }
}
