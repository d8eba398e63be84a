//! The fixed choices of the study: `study.toml`.

use serde::Deserialize;

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) seeds: u64,
    pub(crate) training_articles: Vec<usize>,
    pub(crate) development_articles: Vec<usize>,
    pub(crate) held_out_articles: Vec<usize>,
    pub(crate) settings: Vec<Setting>,
    pub(crate) languages: Vec<Language>,
    pub(crate) mixing: Mixing,
    pub(crate) model: Model,
    pub(crate) training: Training,
    pub(crate) gate: Gate,
    pub(crate) evaluation: Evaluation,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Language {
    pub(crate) file: String,
    pub(crate) code: String,
    pub(crate) mixed: bool,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Setting {
    pub(crate) name: String,
    pub(crate) weight: u32,
    pub(crate) steps: usize,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mixing {
    pub(crate) wrong: f64,
    pub(crate) announced: f64,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Model {
    pub(crate) vocabulary: usize,
    pub(crate) hidden_size: usize,
    pub(crate) intermediate_size: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) context: usize,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Training {
    pub(crate) eval_every: usize,
    pub(crate) sequences: usize,
    pub(crate) length: usize,
    pub(crate) lr: f64,
    pub(crate) weight_decay: f64,
    pub(crate) cuts: f64,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Gate {
    pub(crate) width: usize,
    pub(crate) steps: usize,
    pub(crate) positions: usize,
    pub(crate) lr: f64,
    pub(crate) texts: usize,
    pub(crate) taxonomy: String,
    pub(crate) exempt_single_greek: bool,
    pub(crate) rules: lcg::Rules,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Evaluation {
    pub(crate) prompt_tokens: usize,
    pub(crate) samples: u64,
    pub(crate) new_tokens: usize,
    pub(crate) temperature: f32,
}

impl Config {
    /// Of the study, or of a file in its form.
    pub(crate) fn read(path: Option<&str>) -> Result<Self, Box<dyn std::error::Error>> {
        let text = match path {
            Some(path) => std::fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))?,
            None => include_str!("study.toml").to_owned(),
        };
        Ok(toml::from_str(&text)?)
    }
}
