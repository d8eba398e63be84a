//! What may come next: the network, the rule without one, and the gate that allows everything.

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::error::{Error, Result};
use crate::family::FamilySet;
use crate::labels::{LabelConfig, Labeller};

/// Predicts the families that may come next.
pub trait FamilyPredictor {
    /// From the final hidden state `[d]`, after the last norm, and the raw logits `[V]` made of it, to a set that is not
    /// empty; `None` where the network gave NaN, on which nothing may be denied.
    ///
    /// # Errors
    /// Sizes that do not fit; logits that are NaN or `+∞`.
    fn predict(&self, hidden: &[f32], logits: &[f32]) -> Result<Option<FamilySet>>;
}

/// Allows every family.
#[derive(Clone, Copy, Debug)]
pub struct AllowAll;

impl FamilyPredictor for AllowAll {
    fn predict(&self, _: &[f32], _: &[f32]) -> Result<Option<FamilySet>> {
        Ok(Some(FamilySet::FULL))
    }
}

/// The labels of this very step as the prediction: no network, no training.
#[derive(Clone, Debug)]
pub struct DirectRule {
    labeller: Labeller,
}

impl DirectRule {
    /// The rule; the default labels by presence in the support of the adjusted logits are those of the paper.
    pub fn new(labeller: Labeller) -> Self {
        Self { labeller }
    }

    /// What labels it makes.
    pub fn config(&self) -> &LabelConfig {
        self.labeller.config()
    }
}

impl FamilyPredictor for DirectRule {
    fn predict(&self, _: &[f32], logits: &[f32]) -> Result<Option<FamilySet>> {
        self.labeller.label(0, logits).map(Some)
    }
}

/// The paper's gate: `g = W₂·relu(W₁·h)`, a family is allowed where `σ(g)` reaches its threshold, the likeliest always.
#[derive(Clone, Debug, PartialEq)]
pub struct MlpGate {
    hidden_size: usize,
    width: usize,
    /// `[width, hidden_size]`
    w1: Vec<f32>,
    /// `[F, width]`
    w2: Vec<f32>,
    /// As logits.
    thresholds: Vec<f32>,
    /// As they were given: probabilities.
    theta: Vec<f64>,
}

impl MlpGate {
    /// From `w1` `[width, hidden_size]` and `w2` `[families, width]`, row by row, with thresholds of 0.5.
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub fn new(
        hidden_size: usize,
        width: usize,
        families: usize,
        w1: Vec<f32>,
        w2: Vec<f32>,
    ) -> Result<Self> {
        for (what, found, expected) in
            [("w1", w1.len(), width * hidden_size), ("w2", w2.len(), families * width)]
        {
            if found != expected || found == 0 {
                return Err(Error::Shape { what, found, expected });
            }
        }
        let (thresholds, theta) = (vec![0.0; families], vec![0.5; families]);
        Ok(Self { hidden_size, width, w1, w2, thresholds, theta })
    }

    /// Random weights: `W₁` uniform in `±1/√d`, `W₂` in `±1/√m`, by a seed.
    ///
    /// # Errors
    /// [`Error::Shape`] for a size of 0.
    pub fn random(hidden_size: usize, width: usize, families: usize, seed: u64) -> Result<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut draw = |count: usize, bound: f64| {
            let mut one = || (f64::from(rng.next_u32()) + 0.5) / 2f64.powi(31) - 1.0;
            (0..count).map(|_| (bound * one()) as f32).collect::<Vec<f32>>()
        };
        let w1 = draw(width * hidden_size, 1.0 / (hidden_size as f64).sqrt());
        let w2 = draw(families * width, 1.0 / (width as f64).sqrt());
        Self::new(hidden_size, width, families, w1, w2)
    }

    /// The same gate with other thresholds `θ_f` in `(0, 1)`, one for each family.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Threshold`].
    pub fn with_thresholds(mut self, thresholds: &[f64]) -> Result<Self> {
        if thresholds.len() != self.families() {
            let (found, expected) = (thresholds.len(), self.families());
            return Err(Error::Shape { what: "threshold", found, expected });
        }
        if let Some((family, value)) = thresholds.iter().enumerate().find(|(_, t)| !(**t > 0.0 && **t < 1.0))
        {
            return Err(Error::Threshold { family, value: *value });
        }
        self.theta = thresholds.to_vec();
        // `ln(½/½)` is exactly 0.
        self.thresholds = thresholds.iter().map(|t| (t / (1.0 - t)).ln() as f32).collect();
        Ok(self)
    }

    /// Other weights of the same shape, under the same thresholds.
    #[cfg(feature = "candle")]
    pub(crate) fn with_weights(&self, w1: Vec<f32>, w2: Vec<f32>) -> Result<Self> {
        let gate = Self::new(self.hidden_size, self.width, self.families(), w1, w2)?;
        Ok(Self { thresholds: self.thresholds.clone(), theta: self.theta.clone(), ..gate })
    }

    /// `d`
    pub fn hidden_size(&self) -> usize {
        self.hidden_size
    }

    /// `m`
    pub fn width(&self) -> usize {
        self.width
    }

    /// `F`
    pub fn families(&self) -> usize {
        self.thresholds.len()
    }

    /// `[width, hidden_size]`
    pub fn w1(&self) -> &[f32] {
        &self.w1
    }

    /// `[F, width]`
    pub fn w2(&self) -> &[f32] {
        &self.w2
    }

    /// Thresholds as logits, `[F]`.
    pub fn thresholds(&self) -> &[f32] {
        &self.thresholds
    }

    /// Thresholds as probabilities, `[F]`.
    pub fn threshold_probabilities(&self) -> Vec<f64> {
        self.theta.clone()
    }

    /// Gate logits `[F]` of one hidden state `[d]`. Sums run in index order.
    ///
    /// # Errors
    /// [`Error::HiddenMismatch`].
    pub fn logits(&self, hidden: &[f32]) -> Result<Vec<f32>> {
        if hidden.len() != self.hidden_size {
            return Err(Error::HiddenMismatch { hidden: hidden.len(), gate: self.hidden_size });
        }
        let mut inner = products(&self.w1, hidden);
        inner.iter_mut().for_each(|x| *x = keep_nan_relu(*x));
        Ok(products(&self.w2, &inner))
    }

    /// The families that gate logits allow; `None` where one of them is NaN.
    pub fn allowed(&self, g: &[f32]) -> Option<FamilySet> {
        allowed(g, &self.thresholds)
    }
}

impl FamilyPredictor for MlpGate {
    fn predict(&self, hidden: &[f32], _: &[f32]) -> Result<Option<FamilySet>> {
        Ok(self.allowed(&self.logits(hidden)?))
    }
}

/// Families whose logit reaches its threshold, and the likeliest one (the lowest of equals).
pub(crate) fn allowed(g: &[f32], thresholds: &[f32]) -> Option<FamilySet> {
    if g.iter().any(|g| g.is_nan()) {
        return None;
    }
    let above = (0..g.len()).filter(|f| g[*f] >= thresholds[*f]).collect::<FamilySet>();
    let likeliest = (0..g.len()).reduce(|best, f| if g[f] > g[best] { f } else { best })?;
    Some(above | FamilySet::one(likeliest))
}

/// `f32::max` would turn NaN into 0 and hide it.
fn keep_nan_relu(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

/// A matrix, row by row, times a vector. Four rows at a time, whose sums do not wait for one another.
fn products(matrix: &[f32], vector: &[f32]) -> Vec<f32> {
    let n = vector.len();
    let (fours, rest) = matrix.split_at(matrix.len() / (4 * n) * (4 * n));
    let mut out = Vec::with_capacity(matrix.len() / n);
    for four in fours.chunks_exact(4 * n) {
        let rows: [&[f32]; 4] = std::array::from_fn(|r| &four[r * n..][..n]);
        out.extend(dots(rows, vector));
    }
    out.extend(rest.chunks_exact(n).map(|row| dots([row], vector)[0]));
    out
}

/// Eight sums a row side by side, so that it vectorises; their order depends on the length alone.
fn dots<const ROWS: usize>(rows: [&[f32]; ROWS], vector: &[f32]) -> [f32; ROWS] {
    let whole = vector.len() / 8 * 8;
    let mut sums = [[0f32; 8]; ROWS];
    for at in (0..whole).step_by(8) {
        let b = &vector[at..at + 8];
        for (sums, row) in sums.iter_mut().zip(rows) {
            let a = &row[at..at + 8];
            for i in 0..8 {
                sums[i] += a[i] * b[i];
            }
        }
    }
    std::array::from_fn(|r| {
        let rest: f32 = rows[r][whole..].iter().zip(&vector[whole..]).map(|(a, b)| a * b).sum();
        sums[r].iter().sum::<f32>() + rest
    })
}
