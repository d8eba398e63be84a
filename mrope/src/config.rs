//! The rotary section of a model's `config.json`.

use serde::Deserialize;

use crate::allocation::Allocation;
use crate::error::{Error, Result};
use crate::frequencies::{Frequencies, Llama3, Yarn};

/// `rope_scaling` (transformers 4) or `rope_parameters` (transformers 5), as found; other keys are ignored.
///
/// In the older form `rope_theta` (and `partial_rotary_factor`) stand beside the object: set the fields from there.
/// **The presence of `mrope_section` selects multimodal positions**, never the type, which may read `default`, `mrope`
/// or `yarn`.
///
/// ```
/// let json = r#"{"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": true}"#;
/// let rope: mrope::RopeParameters = serde_json::from_str(json)?;
/// assert_eq!(rope.allocation(128)?, mrope::Allocation::Interleaved([24, 20, 20]));
/// assert_eq!(rope.frequencies(128, 262_144, 0)?.pairs(), 64);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct RopeParameters {
    /// `default`, `mrope`, `linear`, `dynamic`, `yarn` or `llama3`.
    pub rope_type: Option<String>,
    /// The older name of `rope_type`, which wins where a file has both.
    #[serde(rename = "type")]
    pub legacy_type: Option<String>,
    /// The rotary base.
    pub rope_theta: Option<f64>,
    /// Share of a head's lanes that rotate.
    pub partial_rotary_factor: Option<f64>,
    /// Rotary pairs of each axis.
    pub mrope_section: Option<Vec<i64>>,
    /// Whether the sections interleave (MRoPE-I) or follow one another.
    pub mrope_interleaved: bool,
    /// Context extension.
    pub factor: Option<f64>,
    /// The context that the model was trained with; `max_position_embeddings` if absent.
    pub original_max_position_embeddings: Option<f64>,
    /// YaRN: replaces the formula.
    pub attention_factor: Option<f64>,
    /// YaRN, DeepSeek's form: with `mscale_all_dim`, `attention_factor` is the ratio of the two formulas.
    pub mscale: Option<f64>,
    /// See `mscale`.
    pub mscale_all_dim: Option<f64>,
    /// YaRN, 32 if absent.
    pub beta_fast: Option<f64>,
    /// YaRN, 1 if absent.
    pub beta_slow: Option<f64>,
    /// YaRN, true if absent.
    pub truncate: Option<bool>,
    /// Llama 3.
    pub low_freq_factor: Option<f64>,
    /// Llama 3.
    pub high_freq_factor: Option<f64>,
}

impl RopeParameters {
    /// The type's name; `default` if absent.
    pub fn kind(&self) -> &str {
        self.rope_type.as_deref().or(self.legacy_type.as_deref()).unwrap_or("default")
    }

    /// Lanes that rotate in a head of `head_dim`.
    pub fn rotary_dim(&self, head_dim: usize) -> Result<usize> {
        let Some(share) = self.partial_rotary_factor else {
            return Ok(head_dim);
        };
        if !(share > 0.0 && share <= 1.0) {
            return Err(Error::Parameter {
                name: "partial_rotary_factor",
                value: share,
                expected: "above 0, at most 1",
            });
        }
        Ok((head_dim as f64 * share) as usize)
    }

    /// The frequencies of a head of `head_dim` lanes. `len` is the current sequence length, which only `dynamic` looks
    /// at.
    pub fn frequencies(
        &self,
        head_dim: usize,
        max_position_embeddings: usize,
        len: usize,
    ) -> Result<Frequencies> {
        let theta = self.need(self.rope_theta, "rope_theta")?;
        let plain = Frequencies::new(theta, self.rotary_dim(head_dim)?)?;
        let trained_len = self.original_max_position_embeddings.unwrap_or(max_position_embeddings as f64);
        match self.kind() {
            "default" => Ok(plain),
            "mrope" if self.mrope_section.is_some() => Ok(plain),
            "mrope" => Err(self.missing("mrope_section")),
            "linear" => plain.linear(self.need(self.factor, "factor")?),
            "dynamic" => plain.dynamic_ntk(self.need(self.factor, "factor")?, trained_len, len as f64),
            "yarn" => {
                let factor = match (self.factor, self.original_max_position_embeddings) {
                    (None, Some(trained)) => max_position_embeddings as f64 / trained,
                    (factor, _) => self.need(factor, "factor")?,
                };
                let paper = Yarn::new(factor, trained_len);
                plain.yarn(&Yarn {
                    beta_fast: self.beta_fast.unwrap_or(paper.beta_fast),
                    beta_slow: self.beta_slow.unwrap_or(paper.beta_slow),
                    truncate: self.truncate.unwrap_or(paper.truncate),
                    attention_factor: self.attention_factor.or_else(|| self.deepseek_factor(factor)),
                    ..paper
                })
            }
            "llama3" => plain.llama3(&Llama3 {
                factor: self.need(self.factor, "factor")?,
                low_freq_factor: self.need(self.low_freq_factor, "low_freq_factor")?,
                high_freq_factor: self.need(self.high_freq_factor, "high_freq_factor")?,
                trained_len: self
                    .need(self.original_max_position_embeddings, "original_max_position_embeddings")?,
            }),
            other => Err(Error::RopeType(other.to_owned())),
        }
    }

    /// The allocation of the pairs of a head of `head_dim` lanes, checked.
    pub fn allocation(&self, head_dim: usize) -> Result<Allocation> {
        let Some(list) = &self.mrope_section else {
            return Ok(Allocation::OneAxis);
        };
        let mut sections = Vec::with_capacity(list.len());
        for (index, value) in list.iter().enumerate() {
            sections
                .push(usize::try_from(*value).map_err(|_| Error::NegativeSection { index, value: *value })?);
        }
        let allocation = if self.mrope_interleaved {
            let found = sections.len();
            let three = sections
                .try_into()
                .map_err(|_| Error::SectionCount { allocation: "interleaved mrope_section", found })?;
            Allocation::Interleaved(three)
        } else {
            Allocation::Chunked(sections)
        };
        allocation.axes(self.rotary_dim(head_dim)? / 2)?;
        Ok(allocation)
    }

    fn deepseek_factor(&self, factor: f64) -> Option<f64> {
        let of = |mscale: f64| 0.1 * mscale * factor.ln() + 1.0;
        match (self.mscale, self.mscale_all_dim) {
            (Some(mscale), Some(all)) if mscale != 0.0 && all != 0.0 => Some(of(mscale) / of(all)),
            _ => None,
        }
    }

    fn need<T>(&self, value: Option<T>, key: &'static str) -> Result<T> {
        value.ok_or_else(|| self.missing(key))
    }

    fn missing(&self, key: &'static str) -> Error {
        Error::MissingKey { rope_type: self.kind().to_owned(), key }
    }
}
