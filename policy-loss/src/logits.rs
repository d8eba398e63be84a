//! A row of logits on the CPU: the log-probability of a token, the entropy, and the gradient of both.
//!
//! The one definition in f32, for any head that makes the row: the operations of `op` (feature `candle`) run it, and so
//! may a model's own head, compiled for the instructions and with the exponential it chooses: every function here is
//! inlined into its caller, and sums run in eight lanes, then over the lanes in order, so that they vectorise with a
//! vectorisable `exp` and have the same bits with any instructions. [`reference::logit_row`](crate::reference::logit_row)
//! is the same in f64.
//!
//! ```
//! use policy_loss::logits::{row_grad, row_stats};
//! let mut row = [2.0f32, 1.0, 0.0, f32::NEG_INFINITY];
//! let stats = row_stats(&row, 1.0 / 0.7, f32::exp);
//! assert!((stats.log_prob(row[1]) + 1.688_69).abs() < 1e-5);
//! assert_eq!(stats.log_prob(row[3]), f32::NEG_INFINITY);
//! row_grad(&mut row, 1, &stats, [1.0, 0.0], f32::exp);
//! assert!(row[1] > 0.0 && row[0] < 0.0 && row[3] == 0.0);
//! ```

/// The element types of logits: `f32`, and `bf16` with the feature `candle`. Arithmetic is f32, rounded once.
pub trait Logit: Copy + Send + Sync {
    /// The same number in f32.
    fn wide(self) -> f32;
    /// The nearest number of this type.
    fn round(value: f32) -> Self;
}

impl Logit for f32 {
    #[inline(always)]
    fn wide(self) -> f32 {
        self
    }
    #[inline(always)]
    fn round(value: f32) -> Self {
        value
    }
}

#[cfg(any(test, feature = "candle"))]
impl Logit for half::bf16 {
    #[inline(always)]
    fn wide(self) -> f32 {
        self.to_f32()
    }
    #[inline(always)]
    fn round(value: f32) -> Self {
        Self::from_f32(value)
    }
}

/// `exp(x)` with relative error below 4e-7 on `[-87, 88]`; saturates outside, and gives `NaN` for `NaN`.
///
/// Cephes-style: `2ⁿ · p(r)`. Written with comparisons and the add-1.5·2²³ rounding trick, because `clamp`,
/// `round_ties_even` and a saturating cast keep a loop scalar.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    let clipped = if x < -87.0 { -87.0 } else { x };
    let clipped = if clipped > 88.0 { 88.0 } else { clipped };
    let shifted = clipped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = clipped - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let p = 1.987_569_1e-4f32;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let p = p * r * r + r + 1.0;
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    p * f32::from_bits(exponent)
}

/// Below this, `eˣ` is no normal f32: beside an `e⁰` it adds nothing, and an `exp` may saturate. It counts as 0.
const NEGLIGIBLE: f32 = -87.0;

/// What is known of `softmax(row / temperature)`. Logarithms are natural.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowStats {
    /// The largest logit, not divided by the temperature.
    pub top: f32,
    /// `log Σ exp((z − top) / T)`. Apart from `top`, because their sum has lost its digits where logits are large.
    pub log_sum: f32,
    /// `−Σ p log p`, in nats.
    pub entropy: f32,
    /// `1 / T`.
    pub inv_temperature: f32,
}

impl RowStats {
    /// The log-probability of a token with this logit.
    #[inline(always)]
    pub fn log_prob(&self, logit: f32) -> f32 {
        (logit - self.top) * self.inv_temperature - self.log_sum
    }

    /// `p·(g + h·(log p + H))` of a token with this logit.
    #[inline(always)]
    fn share(&self, logit: f32, [g, h]: [f32; 2], exp: &impl Fn(f32) -> f32) -> f32 {
        let log_p = self.log_prob(logit);
        let share = exp(log_p) * (g + h * (log_p + self.entropy));
        if log_p < NEGLIGIBLE { 0.0 } else { share }
    }
}

/// The largest logit; `-inf` for an empty row. `NaN` is passed over.
#[inline(always)]
pub fn max<T: Logit>(row: &[T]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 8];
    let chunks = row.chunks_exact(8);
    let mut top = f32::NEG_INFINITY;
    for v in chunks.remainder() {
        top = if v.wide() > top { v.wide() } else { top };
    }
    for chunk in chunks {
        for lane in 0..8 {
            let v = chunk[lane].wide();
            lanes[lane] = if v > lanes[lane] { v } else { lanes[lane] };
        }
    }
    for v in lanes {
        top = if v > top { v } else { top };
    }
    top
}

/// Columns whose statistics are taken together, before they are merged with those of the columns before them: so a row may
/// come in parts, each of a multiple of this, without a change of its bits.
pub const BLOCK: usize = 1024;

/// Statistics of the first columns of a row, relative to the largest of their logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Partial {
    top: f32,
    /// `Σ eˣ` and `Σ x·eˣ`, where `x = (z − top) / T`.
    sums: [f32; 2],
}

impl Default for Partial {
    fn default() -> Self {
        Self::NONE
    }
}

impl Partial {
    /// Of no column.
    pub const NONE: Self = Self { top: f32::NEG_INFINITY, sums: [0.0; 2] };

    /// With the columns that follow; all but the last call of a row must give a multiple of [`BLOCK`]. `exp` as for
    /// [`row_stats`].
    #[inline(always)]
    #[must_use]
    pub fn with<T: Logit>(self, columns: &[T], inv_temperature: f32, exp: impl Fn(f32) -> f32) -> Self {
        // A loop, since `fold` is compiled apart, without the instructions of the caller.
        let mut all = self;
        for block in columns.chunks(BLOCK) {
            all = all.merge(Self::of_block(block, inv_temperature, &exp), inv_temperature, &exp);
        }
        all
    }

    /// [`Self::of_block`] of a block and of what `banned` leaves of it, `[all, left]`. What is left has the bits of the block whose
    /// banned logits are `-inf`. The exponentials serve both where the largest logit is not banned.
    #[inline(always)]
    #[must_use]
    pub fn of_block_and_left<T: Logit>(
        block: &[T],
        banned: &[bool],
        inv_temperature: f32,
        exp: &impl Fn(f32) -> f32,
    ) -> [Self; 2] {
        let top = max(block);
        let mut rest = [f32::NEG_INFINITY; BLOCK];
        for ((rest, v), banned) in rest.iter_mut().zip(block).zip(banned) {
            *rest = kept(v.wide(), *banned, f32::NEG_INFINITY);
        }
        let rest = &rest[..block.len()];
        let top_left = max(rest);
        if top != top_left || top == f32::NEG_INFINITY {
            let of_block = Self::of_block(block, inv_temperature, exp);
            return [of_block, Self::of_block(rest, inv_temperature, exp)];
        }
        let mut lanes = [[0f32; 8]; 4];
        let (chunks, bans) = (block.chunks_exact(8), banned.chunks_exact(8));
        let mut sums = [0f32; 4];
        for (v, banned) in chunks.remainder().iter().zip(bans.remainder()) {
            let [e, term] = terms((v.wide() - top) * inv_temperature, exp);
            sums[0] += e;
            sums[1] += term;
            sums[2] += kept(e, *banned, 0.0);
            sums[3] += kept(term, *banned, 0.0);
        }
        for (chunk, banned) in chunks.zip(bans) {
            for lane in 0..8 {
                let [e, term] = terms((chunk[lane].wide() - top) * inv_temperature, exp);
                lanes[0][lane] += e;
                lanes[1][lane] += term;
                lanes[2][lane] += kept(e, banned[lane], 0.0);
                lanes[3][lane] += kept(term, banned[lane], 0.0);
            }
        }
        for (sum, lanes) in sums.iter_mut().zip(lanes) {
            for lane in lanes {
                *sum += lane;
            }
        }
        [Self { top, sums: [sums[0], sums[1]] }, Self { top: top_left, sums: [sums[2], sums[3]] }]
    }

    /// Of at most [`BLOCK`] columns.
    #[inline(always)]
    #[must_use]
    pub fn of_block<T: Logit>(block: &[T], inv_temperature: f32, exp: &impl Fn(f32) -> f32) -> Self {
        let top = max(block);
        if top == f32::NEG_INFINITY {
            let sum = if block.iter().any(|v| v.wide().is_nan()) { f32::NAN } else { 0.0 };
            return Self { top, sums: [sum; 2] };
        }
        let (mut sums, mut weighted) = ([0f32; 8], [0f32; 8]);
        let chunks = block.chunks_exact(8);
        let (mut sum, mut weight) = (0f32, 0f32);
        for v in chunks.remainder() {
            let [e, term] = terms((v.wide() - top) * inv_temperature, exp);
            sum += e;
            weight += term;
        }
        for chunk in chunks {
            for lane in 0..8 {
                let [e, term] = terms((chunk[lane].wide() - top) * inv_temperature, exp);
                sums[lane] += e;
                weighted[lane] += term;
            }
        }
        for lane in 0..8 {
            sum += sums[lane];
            weight += weighted[lane];
        }
        Self { top, sums: [sum, weight] }
    }

    /// With those of the block that follows.
    #[inline(always)]
    #[must_use]
    pub fn merge(self, next: Self, inv_temperature: f32, exp: &impl Fn(f32) -> f32) -> Self {
        let top = if next.top > self.top { next.top } else { self.top };
        let at = |part: Self| {
            let down = if part.top == top { 0.0 } else { (part.top - top) * inv_temperature };
            // Nothing beside the larger ones, but a `NaN` stays one.
            let e = if down < NEGLIGIBLE { 0.0 } else { exp(down) };
            let down = if down < NEGLIGIBLE { 0.0 } else { down };
            [e * part.sums[0], e * (part.sums[1] + down * part.sums[0])]
        };
        let (before, after) = (at(self), at(next));
        Self { top, sums: [before[0] + after[0], before[1] + after[1]] }
    }

    /// The largest logit.
    #[must_use]
    pub fn top(&self) -> f32 {
        self.top
    }

    /// The probability that these columns have together in a row of such statistics.
    #[inline(always)]
    #[must_use]
    pub fn probability(&self, row: &RowStats, exp: impl Fn(f32) -> f32) -> f32 {
        match self.top {
            f32::NEG_INFINITY => 0.0,
            top => self.sums[0] * exp((top - row.top) * row.inv_temperature - row.log_sum),
        }
    }

    /// Of a row whose columns these were.
    #[inline(always)]
    #[must_use]
    pub fn stats(self, inv_temperature: f32) -> RowStats {
        let Self { top, sums: [sum, weight] } = self;
        let log_sum = if top == f32::NEG_INFINITY { f32::NAN } else { sum.ln() };
        RowStats { top, log_sum, entropy: log_sum - weight / sum, inv_temperature }
    }
}

/// Statistics of `softmax(row · inv_temperature)`. A logit of `-inf` is a banned token: its
/// probability is 0, and it adds nothing to the entropy. At least one must be finite, and none `NaN` or `+inf`; other rows
/// give `NaN`. `exp` is called with arguments of at most 0, and need not be right below -87.
#[inline(always)]
pub fn row_stats<T: Logit>(row: &[T], inv_temperature: f32, exp: impl Fn(f32) -> f32) -> RowStats {
    Partial::NONE.with(row, inv_temperature, exp).stats(inv_temperature)
}

/// `value`, or `instead` where it is banned, by its bits, so that a loop over it has no branch.
#[inline(always)]
fn kept(value: f32, banned: bool, instead: f32) -> f32 {
    let keep = u32::from(banned).wrapping_sub(1);
    f32::from_bits(value.to_bits() & keep | instead.to_bits() & !keep)
}

/// `eˣ` and `x·eˣ`. Both are computed before the choice, so that a loop over them has no branch.
#[inline(always)]
fn terms(x: f32, exp: &impl Fn(f32) -> f32) -> [f32; 2] {
    let e = exp(x);
    let term = e * x;
    if x < NEGLIGIBLE { [0.0, 0.0] } else { [e, term] }
}

/// Replaces a row of logits by the gradient of a loss with `∂L/∂logp = g` of the token `target` and `∂L/∂entropy = h`:
/// `dz_v = (g·(1{v = target} − p_v) − h·p_v·(log p_v + H)) / T`, given the row's [`row_stats`].
///
/// Where `g` and `h` are 0 the row is not read, and its gradient is `+0.0`.
///
/// # Panics
/// When `target` is outside the row.
#[inline(always)]
pub fn row_grad<T: Logit>(
    row: &mut [T],
    target: usize,
    stats: &RowStats,
    upstream: [f32; 2],
    exp: impl Fn(f32) -> f32,
) {
    columns_grad(row, Some(target), stats, upstream, exp);
}

/// [`row_grad`] of some columns of a row; `target` is the place of the token among them, if it is there.
///
/// # Panics
/// When `target` is outside the columns.
#[inline(always)]
pub fn columns_grad<T: Logit>(
    columns: &mut [T],
    target: Option<usize>,
    stats: &RowStats,
    upstream: [f32; 2],
    exp: impl Fn(f32) -> f32,
) {
    if upstream == [0.0; 2] {
        columns.fill(T::round(0.0));
        return;
    }
    let upstream = upstream.map(|d| d * stats.inv_temperature);
    let own = target.map(|target| columns[target].wide());
    for z in columns.iter_mut() {
        // From +0.0, so that a gradient of 0 is +0.0.
        *z = T::round(0.0 - stats.share(z.wide(), upstream, &exp));
    }
    if let (Some(target), Some(own)) = (target, own) {
        columns[target] = T::round(upstream[0] - stats.share(own, upstream, &exp));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_its_stated_error() {
        let mut x = -86.9f32;
        while x < 87.9 {
            let want = f64::from(x).exp();
            let relative = (f64::from(exp(x)) - want).abs() / want;
            assert!(relative < 4e-7, "exp({x}) is off by {relative:e}");
            x += 0.0371;
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(f32::NEG_INFINITY) < 1.7e-38);
        assert!(exp(f32::INFINITY).is_finite());
    }

    #[test]
    fn what_no_f32_can_hold_is_a_banned_token() {
        // The lowest f32 is what some code masks with; divided by a temperature it is -inf. `exp` saturates as fast ones do.
        let exp = |x: f32| x.max(-87.0).exp();
        for low in [f32::MIN, -1e30, f32::NEG_INFINITY] {
            for n in [3, 8, 19] {
                let mut row: Vec<f32> =
                    (0..n).map(|i| if i % 3 == 1 { low } else { i as f32 / 8.0 }).collect();
                let mut kept: Vec<f32> = row.iter().copied().filter(|z| *z > -1.0).collect();
                let (found, want) = (row_stats(&row, 4.0, exp), row_stats(&kept, 4.0, exp));
                assert_eq!(found.log_prob(kept[0]), want.log_prob(kept[0]));
                assert!(
                    (found.entropy - want.entropy).abs() < 1e-6,
                    "{} and {}",
                    found.entropy,
                    want.entropy
                );
                row_grad(&mut row, 0, &found, [0.5, 0.25], exp);
                row_grad(&mut kept, 0, &want, [0.5, 0.25], exp);
                let mut want = kept.into_iter();
                for (i, d) in row.into_iter().enumerate() {
                    let want = if i % 3 == 1 { 0.0 } else { want.next().unwrap() };
                    assert!((d - want).abs() < 1e-6, "{low}, {n} logits, {i}: {d} and {want}");
                }
            }
        }
    }

    #[test]
    fn a_long_row_is_its_blocks() {
        for n in [BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5] {
            for slope in [0.0f32, 0.01, -0.01, 3.0, -3.0] {
                let row: Vec<f32> = (0..n).map(|i| i as f32 * slope + ((i * 37) % 11) as f32).collect();
                let found = row_stats(&row, 0.5, f32::exp);
                let wide: Vec<f64> = row.iter().map(|z| f64::from(*z)).collect();
                let target = n / 3;
                let want = crate::reference::logit_row(&wide, target, 2.0, 0.0, 0.0);
                let log_prob = f64::from(found.log_prob(row[target]));
                assert!((log_prob - want.logp).abs() < 1e-5 * (1.0 + want.logp.abs()), "{n} {slope}");
                assert!((f64::from(found.entropy) - want.entropy).abs() < 1e-4, "{n} {slope}");
                let parts = row.chunks(2 * BLOCK).fold(Partial::NONE, |all, c| all.with(c, 0.5, f32::exp));
                assert_eq!(parts.stats(0.5), found);
                let (mut whole, mut parts) = (row.clone(), row.clone());
                row_grad(&mut whole, target, &found, [0.5, 0.25], f32::exp);
                for (i, part) in parts.chunks_mut(100).enumerate() {
                    let own = target.checked_sub(i * 100).filter(|t| *t < part.len());
                    columns_grad(part, own, &found, [0.5, 0.25], f32::exp);
                }
                assert_eq!(parts, whole);
            }
        }
    }

    /// Of any share of bans, whole blocks and rows with logits that are none included, to the last bit.
    #[test]
    fn what_bans_leave_has_the_bits_of_the_banned_row() {
        let bits = |s: RowStats| [s.top, s.log_sum, s.entropy].map(f32::to_bits);
        for n in [1, 7, BLOCK - 3, BLOCK, 3 * BLOCK + 5] {
            for (every, odd) in
                [(1, 0.0), (2, 0.0), (3, f32::NEG_INFINITY), (50, f32::NAN), (n + 1, f32::INFINITY)]
            {
                let mut row: Vec<f32> = (0..n).map(|i| ((i * 7919) % 101) as f32 * 0.17 - 9.0).collect();
                row[n / 2] = if odd == 0.0 { row[n / 2] } else { odd };
                let banned: Vec<bool> =
                    (0..n).map(|i| (i * 31) % (every + 1) == 0 || i / BLOCK == 1).collect();
                let left = |(z, banned): (&f32, &bool)| if *banned { f32::NEG_INFINITY } else { *z };
                let rest: Vec<f32> = row.iter().zip(&banned).map(left).collect();
                let want = [row_stats(&row, 0.8, exp), row_stats(&rest, 0.8, exp)];
                let mut found = [Partial::NONE; 2];
                for (block, banned) in row.chunks(BLOCK).zip(banned.chunks(BLOCK)) {
                    let next = Partial::of_block_and_left(block, banned, 0.8, &exp);
                    found = [0, 1].map(|i| found[i].merge(next[i], 0.8, &exp));
                }
                let found = found.map(|p| p.stats(0.8));
                // A NaN may have any bits.
                for (found, want) in found.into_iter().zip(want) {
                    let same = bits(found) == bits(want) || found.log_sum.is_nan() && want.log_sum.is_nan();
                    assert!(same, "{n} {every} {odd}: {found:?} and {want:?}");
                }
            }
        }
    }

    #[test]
    fn a_logit_that_is_no_number_shows() {
        assert!(row_stats(&[f32::NEG_INFINITY; 3], 1.0, f32::exp).log_sum.is_nan());
        for bad in [f32::NAN, f32::INFINITY] {
            for at in [0, 5, 16, 2 * BLOCK] {
                let mut row = vec![0.5f32; if at < 17 { 17 } else { 3 * BLOCK }];
                row[3] = f32::NEG_INFINITY;
                if at == 2 * BLOCK {
                    row[at..].fill(f32::NEG_INFINITY);
                }
                row[at] = bad;
                let stats = row_stats(&row, 1.0, f32::exp);
                assert!(stats.log_sum.is_nan() && stats.entropy.is_nan());
                row_grad(&mut row, 3, &stats, [1.0, 0.0], f32::exp);
                assert!(row.iter().all(|d| d.is_nan()));
            }
        }
    }
}
