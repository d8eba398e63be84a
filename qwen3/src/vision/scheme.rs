//! Positions and rotation of a vision-language model, as its `config.json` has them.

use mrope::{Allocation, Frequencies, PositionDesign, RopeParameters};
use serde_json::{Map, Value};

use crate::config::Config;
use crate::error::{Error, Result};

/// The key of [`Scheme`] beside `mrope_section`.
const SCHEME: &str = "position_scheme";

/// How visual tokens are placed: see [`Rotation`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Scheme {
    #[default]
    Qwen3Vl,
    MropeI,
    Mhrope,
    Vanilla,
}

impl Scheme {
    const ALL: [(&str, Self); 4] = [
        ("qwen3_vl", Self::Qwen3Vl),
        ("mrope_i", Self::MropeI),
        ("mhrope", Self::Mhrope),
        ("vanilla", Self::Vanilla),
    ];

    fn read(value: Option<&Value>) -> Result<Self> {
        let Some(value) = value else { return Ok(Self::default()) };
        let scheme = Self::ALL.iter().find(|(name, _)| value.as_str() == Some(name));
        scheme.map(|(_, scheme)| *scheme).ok_or_else(|| {
            let names = Self::ALL.map(|(name, _)| name).join(", ");
            Error::config(SCHEME, format!("{value} is none of {names}"))
        })
    }

    fn design(self) -> PositionDesign {
        match self {
            Self::Qwen3Vl => PositionDesign::qwen3_vl(),
            Self::MropeI => PositionDesign::mrope_i(),
            Self::Mhrope => PositionDesign::mhrope(),
            // Frames lie between their timestamps in the prompt.
            Self::Vanilla => PositionDesign { frame_split: true, ..PositionDesign::vanilla() },
        }
    }
}

/// Where tokens stand, and how that turns queries and keys: `rope_parameters` (or `rope_scaling`) of `config.json`.
///
/// `rope_type` is `default`, `linear`, `yarn` or `llama3`, as in the crate `mrope`. Its key `position_scheme` is this
/// crate's own (transformers reads past it, and knows the first value only):
///
/// * `qwen3_vl`, and where it is absent: as released. Axes share the rotary pairs by `mrope_section`, interleaved
///   (MRoPE-I) or, without `mrope_interleaved`, in blocks (MRoPE).
/// * `mrope_i`: as published (arXiv 2510.23095), with spatial reset.
/// * `mhrope` (arXiv 2510.23095): spatial reset, and each key/value head follows one axis; `mrope_section` counts heads.
/// * `vanilla`: one-dimensional, as text. `mrope_section` has no effect.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotation {
    /// Coordinates.
    pub design: PositionDesign,
    /// Which axis turns which rotary pair.
    pub allocation: Allocation,
    /// How fast pairs turn.
    pub frequencies: Frequencies,
    parameters: Map<String, Value>,
}

impl Rotation {
    /// Reads `rope_parameters` with `rope_theta` among them.
    pub(super) fn new(parameters: Map<String, Value>, text: &Config) -> Result<Self> {
        let bad = |e: serde_json::Error| Error::config("rope_parameters", e.to_string());
        let rope: RopeParameters = serde_json::from_value(Value::Object(parameters.clone())).map_err(bad)?;
        let scheme = Scheme::read(parameters.get(SCHEME))?;
        if rope.mrope_section.is_none() {
            return Err(Error::config("mrope_section", "is missing"));
        }
        if rope.partial_rotary_factor.is_some_and(|share| share != 1.0) {
            return Err(Error::config("partial_rotary_factor", "is not supported"));
        }
        // Its frequencies change as a sequence grows, and with them the log-probabilities of its first tokens.
        if rope.kind() == "dynamic" {
            return Err(Error::config("rope_type", "`dynamic` is not supported"));
        }
        let allocation = match scheme {
            Scheme::Qwen3Vl | Scheme::MropeI => rope.allocation(text.head_dim)?,
            Scheme::Vanilla => Allocation::OneAxis,
            Scheme::Mhrope => {
                let count = |(index, value): (usize, &i64)| match usize::try_from(*value) {
                    Ok(count) => Ok(count),
                    Err(_) => Err(mrope::Error::NegativeSection { index, value: *value }.into()),
                };
                let sections = rope.mrope_section.iter().flatten().enumerate().map(count);
                let sections: Vec<usize> = sections.collect::<Result<_>>()?;
                if sections.len() > 3 || sections.iter().sum::<usize>() != text.num_key_value_heads {
                    let reason = format!(
                        "{sections:?} must give each of the {} key/value heads one of 3 axes",
                        text.num_key_value_heads
                    );
                    return Err(Error::config("mrope_section", reason));
                }
                Allocation::PerHead { sections, kv_heads: text.num_key_value_heads }
            }
        };
        Ok(Self {
            design: scheme.design(),
            allocation,
            frequencies: rope.frequencies(text.head_dim, text.max_position_embeddings, 0)?,
            parameters,
        })
    }

    /// `rope_parameters`, as read.
    pub(super) fn parameters(&self) -> &Map<String, Value> {
        &self.parameters
    }
}
