//! The tokens that top-k and top-p keep.

use crate::error::{Error, Result};

/// Keeps rank `r` of the softmax, sorted by descending probability (equals by id), where `r < k` and the tokens before it have
/// a mass below `p`. Rank 0 always stays. Probabilities are of the whole vocabulary: nothing is renormalised in between.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Truncation {
    top_k: usize,
    top_p: f64,
}

impl Truncation {
    /// `top_k` of 0 is no limit, `top_p` of 1 neither.
    ///
    /// # Errors
    /// [`Error::InvalidSampling`].
    pub fn new(top_k: usize, top_p: f64) -> Result<Self> {
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Err(Error::InvalidSampling {
                field: "top_p",
                value: top_p,
                expected: "above 0, at most 1",
            });
        }
        Ok(Self { top_k, top_p })
    }

    /// Whether it keeps everything.
    pub fn is_off(&self) -> bool {
        self.top_k == 0 && self.top_p == 1.0
    }

    /// The limit of ranks for a vocabulary.
    pub(crate) fn limit(&self, vocabulary: usize) -> usize {
        if self.top_k == 0 { vocabulary } else { self.top_k.min(vocabulary) }
    }

    /// How many of tokens with these logarithms of probability, in order of rank, stay.
    pub(crate) fn keep(&self, log_probs: impl IntoIterator<Item = f64>) -> usize {
        let mut before = 0f64;
        let mut kept = 0;
        for log_p in log_probs {
            if kept > 0 && (self.top_k > 0 && kept >= self.top_k || self.top_p < 1.0 && before >= self.top_p)
            {
                break;
            }
            before += log_p.exp();
            kept += 1;
        }
        kept
    }

    /// The kept tokens of a row, by rank, with their probabilities under the whole row. Tokens at −∞ are never kept.
    pub fn weighted(&self, row: &[f64]) -> Vec<(u32, f64)> {
        let mut order: Vec<u32> =
            (0..row.len() as u32).filter(|v| row[*v as usize] > f64::NEG_INFINITY).collect();
        let by_rank = |a: &u32, b: &u32| row[*b as usize].total_cmp(&row[*a as usize]).then(a.cmp(b));
        let top = order.iter().map(|v| row[*v as usize]).fold(f64::NEG_INFINITY, f64::max);
        let lse = top + order.iter().map(|v| (row[*v as usize] - top).exp()).sum::<f64>().ln();
        let limit = self.limit(row.len());
        if limit < order.len() {
            order.select_nth_unstable_by(limit - 1, by_rank);
            order.truncate(limit);
        }
        order.sort_unstable_by(by_rank);
        let kept = self.keep(order.iter().map(|v| row[*v as usize] - lse));
        order[..kept].iter().map(|v| (*v, (row[*v as usize] - lse).exp())).collect()
    }
}

/// Refuses rows that no distribution can be made of.
pub(crate) fn check_row(row: usize, logits: &[f32]) -> Result<()> {
    let mut finite = false;
    for (token, z) in logits.iter().enumerate() {
        if z.is_nan() || *z == f32::INFINITY {
            return Err(Error::NonFiniteLogits { row, token });
        }
        finite |= *z > f32::NEG_INFINITY;
    }
    if finite { Ok(()) } else { Err(Error::EmptySupport { row }) }
}
