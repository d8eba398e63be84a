//! Balanced multi-dimensional sampling (BMDS): pairs spread over sources and intensities, the complex ones first.

mod diverse;
mod split;

use std::collections::{BTreeMap, HashMap, HashSet};

pub use diverse::{Embeddings, EmbeddingsError, farthest_first};
pub use split::{Holdout, SplitBy};

use crate::random::bits;

/// What sampling looks at of a pair.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    /// The pair's id.
    pub id: &'a str,
    /// Its step.
    pub step: &'a str,
    /// Its data set.
    pub source: &'a str,
    /// The bin of its intensity.
    pub bin: u32,
    /// Its complexity.
    pub complexity: u32,
    /// Whether its chosen side is the gold response.
    pub gold: bool,
}

/// What is balanced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// Groups of source and bin, all alike.
    #[default]
    Groups,
    /// Sources first, then the bins of each source.
    TwoLevel,
}

/// How many pairs are taken, and by what.
#[derive(Clone, Copy, Debug)]
pub struct SampleOptions {
    /// The number of pairs; all if there are fewer.
    pub count: usize,
    /// Draws the split, the order, and what replaces a dimension that is switched off.
    pub seed: u64,
    /// What is balanced.
    pub balance: Balance,
    /// Whether sources are what they are, or shuffled among the pairs.
    pub by_source: bool,
    /// The same for intensity.
    pub by_intensity: bool,
    /// The same for complexity.
    pub by_complexity: bool,
    /// How much is held out for validation.
    pub holdout: Holdout,
    /// What the split keeps together.
    pub split_by: SplitBy,
}

impl Default for SampleOptions {
    fn default() -> Self {
        SampleOptions {
            count: 30_000,
            seed: 0,
            balance: Balance::Groups,
            by_source: true,
            by_intensity: true,
            by_complexity: true,
            holdout: Holdout::Count(500),
            split_by: SplitBy::Step,
        }
    }
}

/// Pairs taken, by their places in the list given, in the order in which they are written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Pairs for training.
    pub train: Vec<usize>,
    /// Pairs held out.
    pub val: Vec<usize>,
}

/// What a list of pairs is made of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Composition {
    /// The number of pairs by source and bin.
    pub counts: BTreeMap<(String, u32), u64>,
    /// The mean complexity; 0 for no pairs.
    pub mean_complexity: f64,
    /// The share of pairs whose chosen side is the gold response; 0 for no pairs.
    pub gold_share: f64,
}

/// Two pairs have one id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("id.duplicate: the pair {0:?} is there twice")]
pub struct DuplicateId(pub String);

/// (Bin, source), complexity downwards, place among the items.
type Row = ((u32, u32), std::cmp::Reverse<u32>, u32);

/// Takes `options.count` pairs.
///
/// Pairs are grouped by (bin, source) and sorted in a group by complexity, the highest first, then by id. Rounds over the
/// groups take the next pair of each until the count is reached or all are empty; this is computed at once: the largest level
/// `L` with `Σ min(size, L) ≤ count`, then one more from unfinished groups in order. With `embeddings`, row `i` of which is
/// that of `items[i]`, a group gives the farthest-first choice among the first four times as many.
///
/// The result does not depend on the order of `items`, and the seed touches only what [`SampleOptions::seed`] says.
///
/// # Errors
/// [`DuplicateId`].
pub fn bmds(
    items: &[Item<'_>],
    options: &SampleOptions,
    embeddings: Option<&Embeddings>,
) -> Result<Sample, DuplicateId> {
    bmds_by(items, options, |pool, quota| {
        Ok(match embeddings {
            None => pool[..quota].to_vec(),
            Some(embeddings) => farthest_first(embeddings, pool, quota),
        })
    })
}

/// [`bmds`] with a choice of one's own: `choose(pool, quota)` gives the `quota` places that are taken of a group, `pool` being those of
/// its first four times as many.
///
/// # Errors
/// [`DuplicateId`], and what `choose` fails with.
pub fn bmds_by<E: From<DuplicateId>>(
    items: &[Item<'_>],
    options: &SampleOptions,
    mut choose: impl FnMut(&[usize], usize) -> Result<Vec<usize>, E>,
) -> Result<Sample, E> {
    let mut ids = HashSet::with_capacity(items.len());
    for item in items {
        if !ids.insert(xxhash_rust::xxh3::xxh3_128(item.id.as_bytes())) {
            return Err(DuplicateId(item.id.to_owned()).into());
        }
    }
    drop(ids);
    let mut ranks: HashMap<&str, u32> = HashMap::new();
    for item in items {
        ranks.entry(item.source).or_default();
    }
    let mut names: Vec<&str> = ranks.keys().copied().collect();
    names.sort_unstable();
    for (rank, name) in names.iter().enumerate() {
        ranks.insert(name, rank as u32);
    }
    let mut rows: Vec<Row> = items
        .iter()
        .enumerate()
        .map(|(i, item)| ((item.bin, ranks[item.source]), std::cmp::Reverse(item.complexity), i as u32))
        .collect();
    if !(options.by_source && options.by_intensity && options.by_complexity) {
        shuffle_columns(items, options, &mut rows);
    }
    rows.sort_unstable_by(|a, b| {
        (a.0, a.1).cmp(&(b.0, b.1)).then_with(|| items[a.2 as usize].id.cmp(items[b.2 as usize].id))
    });
    let mut groups: Vec<((u32, u32), std::ops::Range<usize>)> = Vec::new();
    for (i, row) in rows.iter().enumerate() {
        match groups.last_mut() {
            Some((key, range)) if *key == row.0 => range.end = i + 1,
            _ => groups.push((row.0, i..i + 1)),
        }
    }
    let mut taken: Vec<u32> = Vec::with_capacity(options.count.min(rows.len()));
    for ((_, range), quota) in groups.iter().zip(quotas(&groups, options)) {
        let pool: Vec<usize> = rows[range.clone()].iter().take(4 * quota).map(|row| row.2 as usize).collect();
        taken.extend(choose(&pool, quota)?.into_iter().map(|i| i as u32));
    }
    Ok(split::split(items, taken, options))
}

/// Gives the columns of the dimensions that are switched off to other pairs, by a shuffle.
fn shuffle_columns(items: &[Item<'_>], options: &SampleOptions, rows: &mut [Row]) {
    let mut by_id: Vec<usize> = (0..items.len()).collect();
    by_id.sort_unstable_by_key(|i| items[*i].id);
    let shuffled = |stream: u64| {
        let mut order = by_id.clone();
        order.sort_by_cached_key(|i| (bits(options.seed, items[*i].id, stream), items[*i].id));
        order
    };
    let old = rows.to_vec();
    let mut replace = |stream, set: fn(&mut Row, u32, u32, u32)| {
        for (to, from) in by_id.iter().zip(shuffled(stream)) {
            let ((bin, source), complexity, _) = old[from];
            set(&mut rows[*to], bin, source, complexity.0);
        }
    };
    if !options.by_intensity {
        replace(1, |row, bin, _, _| row.0.0 = bin);
    }
    if !options.by_source {
        replace(2, |row, _, source, _| row.0.1 = source);
    }
    if !options.by_complexity {
        replace(3, |row, _, _, complexity| row.1 = std::cmp::Reverse(complexity));
    }
}

type Group = ((u32, u32), std::ops::Range<usize>);

/// How many pairs each group gives.
fn quotas(groups: &[Group], options: &SampleOptions) -> Vec<usize> {
    match options.balance {
        Balance::Groups => fill(&groups.iter().map(|(_, r)| r.len()).collect::<Vec<_>>(), options.count),
        Balance::TwoLevel => {
            let mut by_source: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
            for (at, ((_, source), _)) in groups.iter().enumerate() {
                by_source.entry(*source).or_default().push(at);
            }
            let size = |members: &Vec<usize>| members.iter().map(|g| groups[*g].1.len()).sum();
            let shares = fill(&by_source.values().map(size).collect::<Vec<_>>(), options.count);
            let mut out = vec![0; groups.len()];
            for (members, share) in by_source.values().zip(shares) {
                let sizes: Vec<usize> = members.iter().map(|g| groups[*g].1.len()).collect();
                for (g, quota) in members.iter().zip(fill(&sizes, share)) {
                    out[*g] = quota;
                }
            }
            out
        }
    }
}

/// What rounds over groups of these sizes take, one of each group a round, until `count` are taken.
///
/// ```
/// assert_eq!(toolrm::fill(&[1, 4, 10, 3], 12), [1, 4, 4, 3]);
/// ```
pub fn fill(sizes: &[usize], count: usize) -> Vec<usize> {
    let mut sorted = sizes.to_vec();
    sorted.sort_unstable();
    // Groups below the level are taken whole; it rises until the rest cannot all give one more.
    let (mut level, mut taken) = (0, 0usize);
    for (i, size) in sorted.iter().enumerate() {
        let open = sorted.len() - i;
        let rise = (size - level).min((count - taken) / open);
        level += rise;
        taken += rise * open;
        if level < *size {
            break;
        }
    }
    let mut extra = count - taken;
    sizes
        .iter()
        .map(|size| {
            let more = usize::from(*size > level && extra > 0);
            extra -= more;
            (*size).min(level) + more
        })
        .collect()
}

/// What pairs are made of: all of `items`, or those at `which`.
pub fn composition(items: &[Item<'_>], which: impl IntoIterator<Item = usize>) -> Composition {
    let mut out = Composition::default();
    let (mut n, mut complexity, mut gold) = (0u64, 0u64, 0u64);
    for item in which.into_iter().map(|i| &items[i]) {
        match out.counts.get_mut(&(item.source.to_owned(), item.bin)) {
            Some(count) => *count += 1,
            None => _ = out.counts.insert((item.source.to_owned(), item.bin), 1),
        }
        n += 1;
        complexity += u64::from(item.complexity);
        gold += u64::from(item.gold);
    }
    if n > 0 {
        out.mean_complexity = complexity as f64 / n as f64;
        out.gold_share = gold as f64 / n as f64;
    }
    out
}
