//! Labels by self-distillation: the families in the support of the norm-adjusted distribution (section 3 of the paper).

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::family::FamilySet;
use crate::support::Truncation;
use crate::table::FamilyTable;
use crate::vocab::Kind;

/// What logits are divided by before labels are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormScale {
    /// `z`: no adjustment, for ablation.
    Unadjusted,
    /// `z_v / ‖e_v‖`, as in the paper. This changes the temperature too.
    None,
    /// `z_v · n̄ / ‖e_v‖` with the mean norm of text tokens: scaling the embeddings changes nothing.
    Mean,
}

/// When a family is labelled.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LabelRule {
    /// A token of it is in the support, as in the paper.
    Presence,
    /// Its tokens in the support have at least this mass; the family of largest mass always is.
    Mass(f64),
}

/// How labels are made.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelConfig {
    /// The support's most tokens.
    pub top_k: usize,
    /// The support's mass.
    pub top_p: f64,
    /// The adjustment.
    pub norm_scale: NormScale,
    /// The rule.
    pub rule: LabelRule,
}

impl LabelConfig {
    /// Labels as the paper makes them.
    pub fn paper() -> Self {
        Self { top_k: 20, top_p: 0.95, norm_scale: NormScale::None, rule: LabelRule::Presence }
    }
}

impl Default for LabelConfig {
    /// Labels by mass, adjusted on the scale of the mean norm.
    fn default() -> Self {
        Self { norm_scale: NormScale::Mean, rule: LabelRule::Mass(0.05), ..Self::paper() }
    }
}

/// Makes labels of rows of logits.
#[derive(Clone, Debug)]
pub struct Labeller {
    /// [`FamilyTable::label_families`] of every token.
    families: Vec<FamilySet>,
    config: LabelConfig,
    support: Truncation,
    /// What logits are multiplied by; NaN for tokens that take no part.
    scale: Vec<f64>,
    excluded_rows: usize,
}

impl Labeller {
    /// `norms` `[V]` are `‖e_v‖₂` of the output matrix. Holes take no part, nor do rows that are (nearly) zero: padding.
    ///
    /// # Errors
    /// [`Error::VocabMismatch`], [`Error::InvalidSampling`], [`Error::MassThreshold`], [`Error::ZeroEmbedding`] where no
    /// row is left.
    pub fn new(table: &FamilyTable, norms: &[f32], config: LabelConfig) -> Result<Self> {
        if norms.len() != table.len() {
            return Err(Error::VocabMismatch { logits: norms.len(), table: table.len() });
        }
        let support = Truncation::new(config.top_k, config.top_p)?;
        if let LabelRule::Mass(min) = config.rule
            && !(min > 0.0 && min <= 1.0)
        {
            return Err(Error::MassThreshold { value: min });
        }
        let mut sorted: Vec<f32> = norms.iter().copied().filter(|n| n.is_finite()).collect();
        sorted.sort_unstable_by(f32::total_cmp);
        let floor = 1e-6 * f64::from(sorted.get(sorted.len() / 2).copied().unwrap_or(0.0));
        let usable = |v: usize| {
            let norm = f64::from(norms[v]);
            norm.is_finite() && norm > 0.0 && norm >= floor
        };
        let vocabulary = table.vocabulary();
        let excluded_rows =
            (0..table.len()).filter(|v| vocabulary.kind(*v) != Kind::Hole && !usable(*v)).count();
        let takes_part = |v: &usize| vocabulary.kind(*v) != Kind::Hole && usable(*v);
        let text: Vec<f64> = (0..table.len())
            .filter(|v| takes_part(v) && vocabulary.kind(*v) == Kind::Text)
            .map(|v| f64::from(norms[v]))
            .collect();
        if text.is_empty() {
            return Err(Error::ZeroEmbedding);
        }
        let mean = text.iter().sum::<f64>() / text.len() as f64;
        let scale = |v: usize| match config.norm_scale {
            _ if !takes_part(&v) => f64::NAN,
            NormScale::Unadjusted => 1.0,
            NormScale::None => 1.0 / f64::from(norms[v]),
            NormScale::Mean => mean / f64::from(norms[v]),
        };
        let scale = (0..table.len()).map(scale).collect();
        let families = (0..table.len()).map(|v| table.label_families(v)).collect();
        Ok(Self { families, config, support, scale, excluded_rows })
    }

    /// What it was made with.
    pub fn config(&self) -> &LabelConfig {
        &self.config
    }

    /// Rows of the output matrix, holes aside, that take no part because they are zero or not finite.
    pub fn excluded_rows(&self) -> usize {
        self.excluded_rows
    }

    /// The adjusted logits of one row `[V]`: `h·e_v` before soft-capping, without bias.
    ///
    /// # Errors
    /// [`Error::VocabMismatch`]; [`Error::NonFiniteLogits`], [`Error::EmptySupport`], which name `row`.
    pub fn adjust(&self, row: usize, logits: &[f32]) -> Result<Vec<f64>> {
        if logits.len() != self.scale.len() {
            return Err(Error::VocabMismatch { logits: logits.len(), table: self.scale.len() });
        }
        crate::support::check_row(row, logits)?;
        let one = |(z, s): (&f32, &f64)| match f64::from(*z) * s {
            // Excluded, or banned.
            adjusted if adjusted.is_nan() || *z == f32::NEG_INFINITY => f64::NEG_INFINITY,
            adjusted => adjusted,
        };
        Ok(logits.iter().zip(&self.scale).map(one).collect())
    }

    /// The label of one row of logits `[V]`: never empty.
    ///
    /// # Errors
    /// As [`Self::adjust`].
    pub fn label(&self, row: usize, logits: &[f32]) -> Result<FamilySet> {
        let adjusted = self.adjust(row, logits)?;
        let support = self.support.weighted(&adjusted);
        if support.is_empty() {
            return Err(Error::EmptySupport { row });
        }
        let mut mass = [0f64; 32];
        for (token, p) in &support {
            self.families[*token as usize].iter().for_each(|f| mass[f] += p);
        }
        let above = |min: f64| (0..32).filter(|f| mass[*f] > 0.0 && mass[*f] >= min).collect::<FamilySet>();
        let largest = (0..32).fold(0, |best, f| if mass[f] > mass[best] { f } else { best });
        Ok(match self.config.rule {
            LabelRule::Presence => above(0.0),
            LabelRule::Mass(min) => above(min),
        } | FamilySet::one(largest))
    }
}

/// `‖e_v‖₂` of each row of an output matrix `[V, d]`.
///
/// # Errors
/// [`Error::Shape`] where the elements are no whole rows.
pub fn row_norms(embedding: &[f32], hidden_size: usize) -> Result<Vec<f32>> {
    if hidden_size == 0 || !embedding.len().is_multiple_of(hidden_size) {
        return Err(Error::Shape { what: "embedding", found: embedding.len(), expected: hidden_size });
    }
    let norm = |row: &[f32]| row.iter().map(|e| f64::from(*e).powi(2)).sum::<f64>().sqrt() as f32;
    Ok(embedding.chunks(hidden_size).map(norm).collect())
}
