//! The critic's loss.

use crate::aggregation::{Aggregation, Normalizer};
use crate::batch::{Real, check_offsets};
use crate::error::{Error, Result};

/// What the critic learns from: sequences one after the other in flat slices. Values at masked positions are never
/// read.
#[derive(Clone, Copy, Debug)]
pub struct ValueBatch<'a, F> {
    /// Where each sequence starts, and the end: `[sequences + 1]`.
    pub offsets: &'a [usize],
    /// The critic's estimates `v`: `[tokens]`.
    pub values: &'a [F],
    /// Its estimates at the start of the step: `[tokens]`.
    pub values_old: &'a [F],
    /// What it learns, `A + V`: `[tokens]`.
    pub returns: &'a [F],
    /// Which tokens count: `[tokens]`; all when absent.
    pub mask: Option<&'a [bool]>,
    /// The prompt of each sequence: `[sequences]`. For [`Mode::GroupTokenMean`](crate::Mode::GroupTokenMean).
    pub groups: Option<&'a [u32]>,
}

/// The clipped value loss `½·max((v−R)², (clip(v, v_old±clip)−R)²)`, aggregated as a policy loss, and its gradient to
/// `values` `[tokens]`.
///
/// # Errors
/// When slices do not fit, `clip` is not a number of 0 or more, or a valid position holds `NaN` or infinity.
pub fn value_loss<F: Real>(
    batch: &ValueBatch<'_, F>,
    clip: f64,
    aggregation: Aggregation,
    normalizer: &Normalizer,
) -> Result<(f64, Vec<F>)> {
    let tokens = batch.values.len();
    check_offsets(batch.offsets, tokens)?;
    let sequences = batch.offsets.len() - 1;
    for (what, found, expected) in [
        ("values_old", batch.values_old.len(), tokens),
        ("returns", batch.returns.len(), tokens),
        ("mask", batch.mask.map_or(tokens, <[bool]>::len), tokens),
        ("groups", batch.groups.map_or(sequences, <[u32]>::len), sequences),
    ] {
        if found != expected {
            return Err(Error::Shape { what, found, expected });
        }
    }
    if clip.is_nan() || clip < 0.0 {
        return Err(Error::Parameter { name: "the value clip", value: clip, expected: "0 or more" });
    }
    normalizer.check()?;
    normalizer.check_groups(aggregation.mode, batch.groups)?;
    let rows: Vec<Vec<usize>> = batch
        .offsets
        .windows(2)
        .map(|w| (w[0]..w[1]).filter(|at| batch.mask.is_none_or(|m| m[*at])).collect())
        .collect();
    let counts: Vec<f64> = rows.iter().map(|r| r.len() as f64).collect();
    let whole = normalizer.or(Normalizer::count(&counts, batch.groups, aggregation.seq_count));
    let (mut loss, mut gradient) = (0.0, vec![F::of(0.0); tokens]);
    for (sequence, row) in rows.iter().enumerate() {
        let omega = whole.weight(aggregation.mode, batch.groups.map(|g| g[sequence]), counts[sequence]);
        for &at in row {
            let finite = |what, values: &[F]| match values[at].into() {
                value if value.is_finite() => Ok(value),
                value => Err(Error::NonFinite { what, sequence, token: at - batch.offsets[sequence], value }),
            };
            let value = finite("values", batch.values)?;
            let (old, target) = (finite("values_old", batch.values_old)?, finite("returns", batch.returns)?);
            let bounded = old + (value - old).max(-clip).min(clip) - target;
            let free = value - target;
            // Where the clipped estimate is the worse one, it does not move with the value.
            let (l, g) =
                if bounded.abs() > free.abs() { (bounded * bounded, 0.0) } else { (free * free, free) };
            loss += 0.5 * omega * l;
            gradient[at] = F::of(omega * g + 0.0);
        }
    }
    Ok((loss, gradient))
}
