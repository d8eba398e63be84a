//! Router families: from logits to the experts of a token.

use crate::float::Float;
use crate::{Error, Result};

/// How logits become a choice and gates. [`gates`](crate::gates()) says what each family weighs with.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Router {
    /// Qwen3-MoE, Mixtral: the `K` largest logits; gates are their soft-max probabilities over all experts,
    /// divided by their sum when `renorm` (`norm_topk_prob`).
    SoftmaxTopK {
        /// Whether the gates of a token add up to 1.
        renorm: bool,
    },
    /// The `K` largest logits; gates are the soft-max over them. The same as `SoftmaxTopK { renorm: true }`
    /// except under `GroupLimited`, where groups are scored by logits and not by probabilities.
    TopKSoftmax,
    /// DeepSeek-V3: the `K` largest `σ(s) + bias`; gates are `σ(s)` without the bias, divided by their sum when
    /// `renorm`, times `scale`.
    SigmoidTopK {
        /// Whether the gates of a token add up to `scale`.
        renorm: bool,
        /// One selection bias an expert; empty for none.
        bias: Vec<f32>,
        /// Multiplies the gates.
        scale: f32,
    },
    /// DeepSeek-V2 and V3: `router`, choosing only among the `keep` best of `groups` equal runs of experts. A
    /// group scores the sum of its `K / keep` best scores. Gates are those of `router`.
    GroupLimited {
        /// Number of groups; divides the experts.
        groups: usize,
        /// Groups a token may choose from; divides `K`.
        keep: usize,
        /// The family that scores; not itself limited.
        router: Box<Router>,
    },
}

pub(crate) fn sigmoid<F: Float>(x: F) -> F {
    F::of(1.0) / (F::of(1.0) + (F::of(0.0) - x).exp())
}

/// The number of tokens in `[tokens, E]` logits, all of which must be finite or `-inf`.
pub(crate) fn check_logits<F: Float>(logits: &[F], experts: usize) -> Result<usize> {
    if experts == 0 {
        return Err(Error::NoExperts);
    }
    if !logits.len().is_multiple_of(experts) {
        let expected = logits.len() / experts * experts;
        return Err(Error::Shape { what: "router_logits", found: logits.len(), expected });
    }
    match logits.iter().position(|s| (*s).into().is_nan() || (*s).into() == f64::INFINITY) {
        None => Ok(logits.len() / experts),
        Some(i) => Err(Error::Logit { token: i / experts, expert: i % experts, value: logits[i].into() }),
    }
}

/// [`check_logits`], and no row without an enabled expert.
pub(crate) fn check_rows<F: Float>(logits: &[F], experts: usize) -> Result<usize> {
    let tokens = check_logits(logits, experts)?;
    let disabled = |row: &[F]| row.iter().all(|s| (*s).into() == f64::NEG_INFINITY);
    match logits.chunks_exact(experts).position(disabled) {
        Some(token) => Err(Error::TooFewExperts { token, enabled: 0, top_k: 1 }),
        None => Ok(tokens),
    }
}

pub(crate) fn max<F: Float>(row: impl Iterator<Item = F>) -> F {
    row.fold(F::of(f64::NEG_INFINITY), |a, b| if b > a { b } else { a })
}

fn enabled<F: Float>(score: F) -> bool {
    score.into() > f64::NEG_INFINITY
}

impl Router {
    /// Refuses settings without a meaning for `experts` experts of which `top_k` run.
    pub fn validate(&self, experts: usize, top_k: usize) -> Result<()> {
        if top_k == 0 || top_k > experts {
            return Err(Error::TopK { top_k, experts });
        }
        let refuse = |what: &'static str, value: String, expected: String| {
            Err(Error::Router { what, value, expected })
        };
        match self {
            Self::SoftmaxTopK { .. } | Self::TopKSoftmax => Ok(()),
            Self::SigmoidTopK { bias, scale, .. } => {
                if !bias.is_empty() && bias.len() != experts {
                    return Err(Error::Shape { what: "bias", found: bias.len(), expected: experts });
                }
                match bias.iter().chain([scale]).find(|v| !v.is_finite()) {
                    Some(bad) => refuse("bias and scale", bad.to_string(), "finite numbers".into()),
                    None => Ok(()),
                }
            }
            Self::GroupLimited { groups, keep, router } => {
                if *groups == 0 || !experts.is_multiple_of(*groups) {
                    return refuse("groups", groups.to_string(), format!("a divisor of {experts} experts"));
                }
                if *keep == 0 || keep > groups || !top_k.is_multiple_of(*keep) {
                    let expected = format!("a divisor of top_k = {top_k}, at most {groups} groups");
                    return refuse("keep", keep.to_string(), expected);
                }
                if top_k / keep > experts / groups {
                    let expected = format!("groups of at least top_k / keep = {} experts", top_k / keep);
                    return refuse("groups", groups.to_string(), expected);
                }
                match **router {
                    Self::GroupLimited { .. } => {
                        refuse("router", "group_limited".into(), "a family without groups".into())
                    }
                    _ => router.validate(experts, top_k),
                }
            }
        }
    }

    /// The family that scores and weighs: itself, or what `GroupLimited` wraps.
    pub(crate) fn family(&self) -> &Self {
        match self {
            Self::GroupLimited { router, .. } => router.family(),
            family => family,
        }
    }

    /// What the choice compares, for one token; `-inf` for experts that cannot be chosen. Logits stand for
    /// every score that rises with them: distinct logits can round to equal probabilities.
    fn scores<F: Float>(&self, row: &[F], top_k: usize, scores: &mut Vec<F>) {
        scores.clear();
        match self {
            Self::SigmoidTopK { bias, .. } if !bias.is_empty() => {
                scores.extend(
                    row.iter()
                        .zip(bias)
                        .map(|(s, b)| if enabled(*s) { sigmoid(*s) + F::of(f64::from(*b)) } else { *s }),
                );
            }
            Self::GroupLimited { groups, keep, router } => {
                router.scores(row, top_k, scores);
                let (size, best) = (row.len() / groups, top_k / keep);
                let terms = if best == 1 { scores.clone() } else { router.addable(row, scores) };
                let group_scores: Vec<F> = terms
                    .chunks_exact(size)
                    .map(|group| {
                        let mut group = group.to_vec();
                        (0..best).fold(F::of(0.0), |sum, _| sum + take_best(&mut group).1)
                    })
                    .collect();
                let (mut left, mut kept) = (group_scores, vec![false; *groups]);
                (0..*keep).for_each(|_| kept[take_best(&mut left).0] = true);
                for (group, _) in kept.iter().enumerate().filter(|(_, kept)| !**kept) {
                    scores[group * size..][..size].fill(F::of(f64::NEG_INFINITY));
                }
            }
            _ => scores.extend_from_slice(row),
        }
    }

    /// Scores whose sums mean something: probabilities up to a factor of the row, `σ + b`, or logits.
    fn addable<F: Float>(&self, row: &[F], scores: &[F]) -> Vec<F> {
        let top = max(row.iter().copied());
        match self {
            Self::SoftmaxTopK { .. } => row.iter().map(|s| (*s - top).exp()).collect(),
            Self::SigmoidTopK { bias, .. } if bias.is_empty() => {
                row.iter().map(|s| if enabled(*s) { sigmoid(*s) } else { *s }).collect()
            }
            _ => scores.to_vec(),
        }
    }

    /// Probabilities over all experts of one token, for losses and metrics: `softmax(s)`, or `σ / Σσ` for
    /// sigmoid routers. At least one logit must be finite.
    pub fn probabilities<F: Float>(&self, row: &[F]) -> Vec<F> {
        let zero = F::of(0.0);
        let of_logits = |row: &[F]| {
            let top = max(row.iter().copied());
            let exps: Vec<F> = row.iter().map(|s| (*s - top).exp()).collect();
            let sum = exps.iter().fold(zero, |a, b| a + *b);
            exps.into_iter().map(|e| e / sum).collect()
        };
        match self.family() {
            // As a soft-max of log σ, which no σ underflows: log σ(s) = min(s, 0) − log(1 + e^−|s|).
            Self::SigmoidTopK { .. } => {
                let log_sigmoid = |s: F| {
                    let (low, magnitude) = if s < zero { (s, s) } else { (zero, zero - s) };
                    low - (F::of(1.0) + magnitude.exp()).ln()
                };
                of_logits(&row.iter().map(|s| log_sigmoid(*s)).collect::<Vec<F>>())
            }
            _ => of_logits(row),
        }
    }
}

/// Removes the largest score (the first of equals): its place and value.
fn take_best<F: Float>(scores: &mut [F]) -> (usize, F) {
    let mut best = 0;
    for (i, score) in scores.iter().enumerate() {
        if *score > scores[best] {
            best = i;
        }
    }
    let score = scores[best];
    scores[best] = F::of(f64::NEG_INFINITY);
    (best, score)
}

/// Runs `f(scores)` on the selection scores of each token; at least `top_k` of them are finite.
fn each_token<F: Float>(
    logits: &[F],
    experts: usize,
    top_k: usize,
    router: &Router,
    scores: &mut Vec<F>,
    mut f: impl FnMut(&mut [F]),
) -> Result<()> {
    router.validate(experts, top_k)?;
    check_logits(logits, experts)?;
    for (token, row) in logits.chunks_exact(experts).enumerate() {
        router.scores(row, top_k, scores);
        let enabled = scores.iter().filter(|s| enabled(**s)).count();
        if enabled < top_k {
            return Err(Error::TooFewExperts { token, enabled, top_k });
        }
        f(scores);
    }
    Ok(())
}

/// The `K` experts of each token, best first; equals by lower id: `[tokens, E]` to `[tokens · K]`.
///
/// `-inf` disables an expert; `NaN` and `+inf` are errors.
pub fn top_k<F: Float>(logits: &[F], experts: usize, top_k: usize, router: &Router) -> Result<Vec<u32>> {
    let mut ids = Vec::new();
    top_k_into(logits, experts, top_k, router, &mut Vec::new(), &mut ids)?;
    Ok(ids)
}

/// [`top_k`] in place of `ids`, with memory for scores.
pub(crate) fn top_k_into<F: Float>(
    logits: &[F],
    experts: usize,
    top_k: usize,
    router: &Router,
    scores: &mut Vec<F>,
    ids: &mut Vec<u32>,
) -> Result<()> {
    ids.clear();
    ids.reserve(logits.len() / experts.max(1) * top_k);
    each_token(logits, experts, top_k, router, scores, |scores| {
        ids.extend((0..top_k).map(|_| take_best(scores).0 as u32));
    })
}

/// How far each token is from another choice: its `K`-th selection score less the next, `[tokens]`. Scores are
/// logits, or `σ(s) + bias` where there is a bias. `+inf` when no other expert could be chosen.
pub fn margins<F: Float>(logits: &[F], experts: usize, top_k: usize, router: &Router) -> Result<Vec<F>> {
    let mut margins = Vec::with_capacity(logits.len() / experts.max(1));
    each_token(logits, experts, top_k, router, &mut Vec::new(), |scores| {
        let last = (0..top_k).fold(F::of(0.0), |_, _| take_best(scores).1);
        margins.push(last - take_best(scores).1);
    })?;
    Ok(margins)
}
