//! What is held out for validation.

use super::{Item, Sample, SampleOptions};
use crate::random::bits;

/// How much is held out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Holdout {
    /// So many pairs.
    Count(usize),
    /// This share of the pairs taken, from 0 to 1.
    Share(f64),
}

/// What a split keeps together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SplitBy {
    /// Pairs of one step are all held out or none is.
    #[default]
    Step,
    /// Each pair is on its own.
    Pair,
}

/// Shuffles by the seed and holds out from the end. By steps, one that would be too many is passed over, so that fewer than
/// asked for may be held out.
pub(super) fn split(items: &[Item<'_>], taken: Vec<u32>, options: &SampleOptions) -> Sample {
    let want = match options.holdout {
        Holdout::Count(n) => n.min(taken.len()),
        Holdout::Share(share) => (share.clamp(0.0, 1.0) * taken.len() as f64).round() as usize,
    };
    let unit = |i: usize| match options.split_by {
        SplitBy::Step => items[i].step,
        SplitBy::Pair => items[i].id,
    };
    // Shuffled pairs; each carries the place of its unit among shuffled units.
    let mut order: Vec<(u64, u64, usize)> = taken
        .iter()
        .map(|i| *i as usize)
        .map(|i| (bits(options.seed, unit(i), 4), bits(options.seed, items[i].id, 5), i))
        .collect();
    order.sort_unstable_by(|a, b| {
        let ids = |i: usize| (unit(i), items[i].id);
        (a.0, ids(a.2).0, a.1, ids(a.2).1).cmp(&(b.0, ids(b.2).0, b.1, ids(b.2).1))
    });
    let mut held = vec![false; order.len()];
    let (mut count, mut end) = (0, order.len());
    while end > 0 && count < want {
        let last = unit(order[end - 1].2);
        let start = order[..end].iter().rposition(|o| unit(o.2) != last).map_or(0, |p| p + 1);
        if count + (end - start) <= want {
            held[start..end].fill(true);
            count += end - start;
        }
        end = start;
    }
    let mut parts = [Vec::new(), Vec::new()];
    for ((_, key, i), held) in order.into_iter().zip(held) {
        parts[usize::from(held)].push((key, i));
    }
    let [train, val] = parts.map(|mut part| {
        part.sort_unstable_by(|a, b| (a.0, items[a.1].id).cmp(&(b.0, items[b.1].id)));
        part.into_iter().map(|(_, i)| i).collect()
    });
    Sample { train, val }
}
