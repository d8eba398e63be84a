//! How far two choices of experts are apart, and how close the router is to another one.

use std::collections::BTreeMap;

use crate::float::Float;
use crate::gates::gates;
use crate::router::{Router, margins, top_k};
use crate::{Error, Result};

/// Two choices of experts for the same tokens and layers, compared as sets. Parts add up.
///
/// Anchors (Qwen3-30B-A3B, two engines, arXiv 2510.11370): 10 % of token-layer pairs differ, 94 % of tokens
/// have one, about 6 layers a token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Discrepancy {
    tokens: u64,
    tokens_with_mismatch: u64,
    layers: Vec<Layer>,
    /// Rows with gates: those of [`Discrepancy::of_replay`].
    gate_rows: u64,
    gate_tv: f64,
    /// Counts of margins by bin of their logarithm.
    margins: BTreeMap<i32, u64>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Layer {
    rows: u64,
    exact: u64,
    overlap: f64,
    jaccard: f64,
}

/// Bins per unit of natural logarithm: quantiles are exact to 1.6 %.
const BINS: f64 = 32.0;

/// The bin of margins that are 0.
const ZERO_BIN: i32 = i32::MIN;

impl Discrepancy {
    /// Compares two choices given by layer, `[tokens · K]` each.
    pub fn of(a: &[Vec<u32>], b: &[Vec<u32>], top_k: usize) -> Result<Self> {
        if top_k == 0 {
            return Err(Error::Router { what: "top_k", value: "0".into(), expected: "1 or more".into() });
        }
        if a.len() != b.len() {
            return Err(Error::Shape {
                what: "layers of the other choice",
                found: b.len(),
                expected: a.len(),
            });
        }
        let len = a.first().map_or(0, |ids| ids.len() / top_k * top_k);
        for ids in a.iter().chain(b) {
            if ids.len() != len {
                return Err(Error::Shape { what: "ids of a layer", found: ids.len(), expected: len });
            }
        }
        let tokens = len / top_k;
        let mut sum =
            Self { tokens: tokens as u64, layers: vec![Layer::default(); a.len()], ..Self::default() };
        let mut mismatch = vec![false; tokens];
        for ((a, b), layer) in a.iter().zip(b).zip(&mut sum.layers) {
            let rows = a.chunks_exact(top_k).zip(b.chunks_exact(top_k));
            for ((a, b), mismatch) in rows.zip(&mut mismatch) {
                let common = a.iter().filter(|id| b.contains(id)).count();
                layer.rows += 1;
                layer.exact += u64::from(common == top_k);
                layer.overlap += common as f64 / top_k as f64;
                layer.jaccard += common as f64 / (2 * top_k - common) as f64;
                *mismatch |= common != top_k;
            }
        }
        sum.tokens_with_mismatch = mismatch.iter().filter(|m| **m).count() as u64;
        Ok(sum)
    }

    /// Compares what ran, by layer, with what the current `logits` `[tokens, E]` of each layer would choose, and
    /// measures gates and margins as well.
    pub fn of_replay<F: Float>(
        logits: &[Vec<F>],
        executed: &[Vec<u32>],
        experts: usize,
        k: usize,
        router: &Router,
    ) -> Result<Self> {
        let natural: Vec<Vec<u32>> =
            logits.iter().map(|s| top_k(s, experts, k, router)).collect::<Result<_>>()?;
        let mut sum = Self::of(&natural, executed, k)?;
        for ((logits, a), b) in logits.iter().zip(&natural).zip(executed) {
            let (ga, gb) = (gates(logits, experts, a, k, router)?, gates(logits, experts, b, k, router)?);
            for row in 0..a.len() / k {
                let at = row * k..(row + 1) * k;
                sum.gate_tv += total_variation(&a[at.clone()], &ga[at.clone()], &b[at.clone()], &gb[at]);
                sum.gate_rows += 1;
            }
            for margin in margins(logits, experts, k, router)? {
                sum.add_margin(margin.into());
            }
        }
        Ok(sum)
    }

    fn add_margin(&mut self, margin: f64) {
        if margin.is_finite() {
            let bin = if margin > 0.0 { (margin.ln() * BINS).round() as i32 } else { ZERO_BIN };
            *self.margins.entry(bin).or_default() += 1;
        }
    }

    /// Adds another part of the same layers.
    pub fn merge(&mut self, other: &Self) {
        self.tokens += other.tokens;
        self.tokens_with_mismatch += other.tokens_with_mismatch;
        self.layers.resize(self.layers.len().max(other.layers.len()), Layer::default());
        for (sum, part) in self.layers.iter_mut().zip(&other.layers) {
            sum.rows += part.rows;
            sum.exact += part.exact;
            sum.overlap += part.overlap;
            sum.jaccard += part.jaccard;
        }
        self.gate_rows += other.gate_rows;
        self.gate_tv += other.gate_tv;
        for (bin, count) in &other.margins {
            *self.margins.entry(*bin).or_default() += count;
        }
    }

    fn mean(&self, f: impl Fn(&Layer) -> f64) -> Option<f64> {
        let rows: u64 = self.layers.iter().map(|l| l.rows).sum();
        (rows > 0).then(|| self.layers.iter().map(f).sum::<f64>() / rows as f64)
    }

    /// `route/exact_match`: share of (token, layer) pairs with equal sets; `None` without rows.
    pub fn exact_match(&self) -> Option<f64> {
        self.mean(|l| l.exact as f64)
    }

    /// `route/overlap`: mean share of common experts.
    pub fn overlap(&self) -> Option<f64> {
        self.mean(|l| l.overlap)
    }

    /// `route/jaccard`: mean intersection over union.
    pub fn jaccard(&self) -> Option<f64> {
        self.mean(|l| l.jaccard)
    }

    /// `route/exact_match_layer`: [`Discrepancy::exact_match`] of each layer with experts.
    pub fn exact_match_by_layer(&self) -> Vec<Option<f64>> {
        self.layers.iter().map(|l| (l.rows > 0).then(|| l.exact as f64 / l.rows as f64)).collect()
    }

    /// `route/token_any_mismatch`: share of tokens with a mismatch in some layer.
    pub fn token_any_mismatch(&self) -> Option<f64> {
        (self.tokens > 0).then(|| self.tokens_with_mismatch as f64 / self.tokens as f64)
    }

    /// `route/layers_mismatched`: mean number of mismatching layers of a token.
    pub fn layers_mismatched(&self) -> Option<f64> {
        let mismatches: u64 = self.layers.iter().map(|l| l.rows - l.exact).sum();
        (self.tokens > 0).then(|| mismatches as f64 / self.tokens as f64)
    }

    /// `route/gate_tv`: mean of `½‖g − g'‖₁` over the union of both choices, gates of the current logits;
    /// `None` unless from [`Discrepancy::of_replay`].
    pub fn gate_tv(&self) -> Option<f64> {
        (self.gate_rows > 0).then(|| self.gate_tv / self.gate_rows as f64)
    }

    /// A quantile of [`margins`], within 1.6 %; `None` unless from [`Discrepancy::of_replay`].
    pub fn margin(&self, quantile: f64) -> Option<f64> {
        let total: u64 = self.margins.values().sum();
        let wanted = (quantile.clamp(0.0, 1.0) * total as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        let bin = self.margins.iter().find(|(_, count)| {
            seen += **count;
            seen >= wanted
        });
        bin.map(|(bin, _)| if *bin == ZERO_BIN { 0.0 } else { (f64::from(*bin) / BINS).exp() })
    }

    /// Everything measured, under the names of logs and documentation.
    pub fn metrics(&self) -> Vec<(String, f64)> {
        let named = [
            ("route/exact_match", self.exact_match()),
            ("route/overlap", self.overlap()),
            ("route/jaccard", self.jaccard()),
            ("route/token_any_mismatch", self.token_any_mismatch()),
            ("route/layers_mismatched", self.layers_mismatched()),
            ("route/gate_tv", self.gate_tv()),
            ("route/margin_p1", self.margin(0.01)),
            ("route/margin_p50", self.margin(0.5)),
        ];
        let by_layer = self.exact_match_by_layer().into_iter().enumerate();
        named
            .into_iter()
            .map(|(name, value)| (name.to_string(), value))
            .chain(by_layer.map(|(l, value)| (format!("route/exact_match_layer[{l}]"), value)))
            .filter_map(|(name, value)| Some((name, value?)))
            .collect()
    }
}

/// `½ Σ |g − g'|` over the experts of either row.
fn total_variation<F: Float>(a: &[u32], ga: &[F], b: &[u32], gb: &[F]) -> f64 {
    let find = |ids: &[u32], gates: &[F], id: u32| -> f64 {
        ids.iter().position(|i| *i == id).map_or(0.0, |i| gates[i].into())
    };
    let in_a: f64 = a.iter().zip(ga).map(|(id, g)| ((*g).into() - find(b, gb, *id)).abs()).sum();
    let only_b: f64 =
        b.iter().zip(gb).filter(|(id, _)| !a.contains(id)).map(|(_, g)| -> f64 { (*g).into() }).sum();
    (in_a + only_b) / 2.0
}
