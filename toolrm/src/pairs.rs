//! Steps worth learning from, and the pairs of their responses.

use std::collections::HashSet;

use crate::canon::canon_calls;
use crate::msg::Call;
use crate::record::{GOLD_ORIGIN, Pair, Response, Scored};
use crate::rule::Rational;
use crate::value::Map;

/// How hard a step is for the models that answered it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Difficulty {
    /// Some responses are right, some wrong.
    Kept,
    /// All are right.
    TooEasy,
    /// None is right: too hard, or the gold response is wrong.
    TooHard,
    /// There are no responses.
    NoCandidates,
}

impl Difficulty {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Difficulty::Kept => "kept",
            Difficulty::TooEasy => "too_easy",
            Difficulty::TooHard => "too_hard",
            Difficulty::NoCandidates => "no_candidates",
        }
    }
}

/// The difficulty of a step by the scores of its candidates, the gold response not among them.
pub fn difficulty<'a>(candidates: impl IntoIterator<Item = &'a Scored>) -> Difficulty {
    let (mut right, mut wrong) = (false, false);
    for c in candidates {
        *(if c.score == Rational::ONE { &mut right } else { &mut wrong }) = true;
    }
    match (right, wrong) {
        (true, true) => Difficulty::Kept,
        (true, false) => Difficulty::TooEasy,
        (false, true) => Difficulty::TooHard,
        (false, false) => Difficulty::NoCandidates,
    }
}

/// What two responses must share to be the same: calls in canonical form and text, or the raw text of unparsable ones.
pub fn content_hash(response: &Scored) -> u128 {
    let text = match &response.calls {
        Some(calls) => format!("{}\0{}", canon_calls(calls), response.content.trim()),
        None => format!("\0{}", response.candidate.text),
    };
    xxhash_rust::xxh3::xxh3_128(text.as_bytes())
}

/// Whether a scored record is its step's gold response.
pub fn is_gold(response: &Scored) -> bool {
    response.candidate.origin == GOLD_ORIGIN
}

/// The indices of the first response of every content, in order.
pub fn distinct(responses: &[Scored]) -> Vec<usize> {
    let mut seen = HashSet::with_capacity(responses.len());
    (0..responses.len()).filter(|i| seen.insert(content_hash(&responses[*i]))).collect()
}

/// The complexity of a step: gold calls and their top-level arguments, counted together.
pub fn complexity(gold: &[Call]) -> u64 {
    gold.iter().map(|c| 1 + c.args.len() as u64).sum()
}

/// The bin of an intensity in (0, 1] among `bins` right-closed intervals of equal length: `⌈bins · intensity⌉ - 1`, within
/// range.
///
/// ```
/// use toolrm::{Rational, intensity_bin};
/// assert_eq!(intensity_bin(Rational::new(3, 10).unwrap(), 10), 2);
/// ```
pub fn intensity_bin(intensity: Rational, bins: u64) -> u64 {
    let scaled = (u128::from(bins) * u128::from(intensity.num)).div_ceil(u128::from(intensity.den));
    scaled.clamp(1, u128::from(bins.max(1))) as u64 - 1
}

/// Which pairs of a step are made.
#[derive(Clone, Copy, Debug)]
pub struct PairOptions {
    /// Steps beyond this [`complexity`] give no pairs.
    pub max_complexity: u64,
    /// The most pairs of a step: evenly spaced ranks by intensity.
    pub max_per_step: Option<usize>,
    /// Whether the chosen side is always the gold response.
    pub gold_only: bool,
}

impl Default for PairOptions {
    fn default() -> Self {
        PairOptions { max_complexity: 50, max_per_step: None, gold_only: false }
    }
}

/// Two responses by their places in the list given to [`rank`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranked {
    /// The better one.
    pub chosen: usize,
    /// The worse one, never the gold response.
    pub rejected: usize,
    /// The difference of their scores.
    pub intensity: Rational,
    /// A hash of the two contents, the same wherever the responses stand.
    pub key: u64,
}

/// Every pair of a step's responses whose scores differ: the gold response (which must be there, and counts as first) with
/// candidates, and candidates with one another. Of responses with the same content the first alone takes part.
///
/// Candidates with distinct scores of multiplicities `n₁ … n_r` give `Σ_{i<j} n_i n_j` pairs, and the gold response one
/// for each candidate below 1.
pub fn rank(responses: &[Scored], options: &PairOptions) -> Vec<Ranked> {
    let Some(gold) = responses.iter().position(is_gold) else { return Vec::new() };
    if complexity(responses[gold].calls.as_deref().unwrap_or_default()) > options.max_complexity {
        return Vec::new();
    }
    let mut order: Vec<(usize, u128)> = Vec::with_capacity(responses.len());
    for i in std::iter::once(gold).chain((0..responses.len()).filter(|i| *i != gold)) {
        let hash = content_hash(&responses[i]);
        if (!is_gold(&responses[i]) || i == gold) && order.iter().all(|(_, h)| *h != hash) {
            order.push((i, hash));
        }
    }
    let mut out = Vec::new();
    for (n, &(a, hash_a)) in order.iter().enumerate() {
        for &(b, hash_b) in &order[n + 1..] {
            let (x, y) = (responses[a].score, responses[b].score);
            // The gold response stands first, and no score is above its own.
            let (chosen, rejected, key) = match x.cmp(&y) {
                std::cmp::Ordering::Equal => continue,
                std::cmp::Ordering::Greater => (a, b, [hash_a, hash_b]),
                std::cmp::Ordering::Less => (b, a, [hash_b, hash_a]),
            };
            if options.gold_only && chosen != gold {
                continue;
            }
            let (x, y) = (responses[chosen].score, responses[rejected].score);
            // Scores whose difference needs more than 64 bits: its nearest simple fraction.
            let difference = x.minus(y).or_else(|| Rational::simplest(x.to_f64() - y.to_f64()));
            let Some(intensity) = difference.filter(|d| *d > Rational::ZERO) else { continue };
            let mut bytes = [0; 32];
            bytes[..16].copy_from_slice(&key[0].to_le_bytes());
            bytes[16..].copy_from_slice(&key[1].to_le_bytes());
            out.push(Ranked { chosen, rejected, intensity, key: xxhash_rust::xxh3::xxh3_64(&bytes) });
        }
    }
    if let Some(max) = options.max_per_step
        && out.len() > max
    {
        out.sort_by(|a, b| a.intensity.cmp(&b.intensity).then(a.key.cmp(&b.key)));
        let last = out.len() - 1;
        out = match max {
            0 => Vec::new(),
            1 => vec![out[last / 2]],
            _ => (0..max).map(|i| out[i * last / (max - 1)]).collect(),
        };
    }
    out
}

/// The pairs of [`rank`] as records.
pub fn pairs(responses: &[Scored], options: &PairOptions) -> Vec<Pair> {
    let Some(gold) = responses.iter().find(|r| is_gold(r)) else { return Vec::new() };
    let complexity = complexity(gold.calls.as_deref().unwrap_or_default());
    let record = |r: Ranked| Pair {
        id: format!("{}-{:016x}", gold.candidate.step_id, r.key),
        step_id: gold.candidate.step_id.clone(),
        source: gold.source.clone(),
        chosen: side(&responses[r.chosen]),
        rejected: side(&responses[r.rejected]),
        intensity: r.intensity,
        complexity,
        bin: intensity_bin(r.intensity, 10),
        meta: Map::default(),
    };
    rank(responses, options).into_iter().map(record).collect()
}

fn side(r: &Scored) -> Response {
    Response {
        text: r.content.clone(),
        calls: r.calls.clone(),
        score: r.score,
        message: r.message.clone(),
        origin: r.candidate.origin.clone(),
        meta: Map::default(),
    }
}
