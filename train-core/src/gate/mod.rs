//! Language confusion gates in a run: from files into the sampler, and their masks into the learner.

mod confusion;
mod masks;
mod refresh;
mod train;

use std::path::Path;
use std::sync::Arc;

use lcg::file::SavedGate;
use lcg::{
    AllowAll, ControlList, DirectRule, Exemptions, FamilyPredictor, FamilySet, FamilyTable, LabelConfig,
    Labeller, Protocol, Rules, Taxonomy, Vocabulary, row_norms,
};
use rollout_engine::Gate;

use crate::config::{GateSection, Predictor};
use crate::data::{DataError, TextCodec};
use crate::policy::Policy;

pub(crate) use masks::Masks;
pub use refresh::Refreshed;
pub use train::{GateReport, GateTraining, gate_info, train_gate};

/// Why there is no gate.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// A value of the `[gate]` section.
    #[error("{key}: {reason}")]
    Setting {
        /// The key.
        key: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The model refused.
    #[error(transparent)]
    Model(#[from] qwen3::Error),
    /// The gate's files, or what they do not fit.
    #[error("gate: {0}")]
    Gate(#[from] lcg::Error),
    /// The tokenizer.
    #[error(transparent)]
    Data(#[from] DataError),
    /// candle refused.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

#[derive(Clone)]
enum Source {
    Mlp(Box<SavedGate>),
    Direct(LabelConfig),
    AllowAll,
}

/// A gate without what it takes from a model's current weights.
#[derive(Clone)]
pub struct GateSetup {
    table: Arc<FamilyTable>,
    source: Source,
    rules: Rules,
    exempt: FamilySet,
    protocol: Protocol,
}

/// The families of a tokenizer's tokens, by the defaults of a taxonomy.
///
/// # Errors
/// A taxonomy or a tokenizer that is not known.
pub fn family_table(taxonomy: &str, codec: &TextCodec, vocab_size: usize) -> Result<FamilyTable, GateError> {
    let unknown = || lcg::Error::UnknownTaxonomy { name: taxonomy.to_owned() };
    let taxonomy = Taxonomy::named(taxonomy).ok_or_else(unknown)?;
    let json = codec.tokenizer_json()?;
    let vocabulary = Vocabulary::from_tokenizer_json(&json, vocab_size, &ControlList::default())?;
    let exemptions = Exemptions::of(&taxonomy);
    Ok(FamilyTable::new(taxonomy, vocabulary, &exemptions)?)
}

impl GateSetup {
    /// The gate of a `[gate]` section for a model; `None` where it is not enabled.
    ///
    /// # Errors
    /// Files that cannot be read or do not fit tokenizer and model, and values that do not fit the gate.
    pub fn new(
        section: &GateSection,
        codec: &TextCodec,
        model: &qwen3::Config,
    ) -> Result<Option<Self>, GateError> {
        if !section.enabled {
            return Ok(None);
        }
        let mut setup = match section.path.is_empty() {
            true => Self::without_file(family_table(&section.taxonomy, codec, model.vocab_size)?),
            false => Self::load(Path::new(&section.path), codec, model)?,
        };
        let setting = |key| move |reason: String| GateError::Setting { key, reason };
        match section.predictor {
            Predictor::Mlp => {}
            Predictor::Direct => {
                setup.source = Source::Direct(section.direct_labels().map_err(setting("gate.labels"))?);
            }
            Predictor::AllowAll => setup.source = Source::AllowAll,
        }
        if let (false, Source::Mlp(saved)) = (section.thresholds.is_empty(), &mut setup.source) {
            saved.gate = saved.gate.clone().with_thresholds(&section.thresholds)?;
        }
        setup.rules = section.rules_over(&setup.rules).map_err(setting("gate.rules"))?;
        setup.exempt = setup.table.taxonomy().set(&section.exempt, "gate.exempt")?;
        Ok(Some(setup))
    }

    fn without_file(table: FamilyTable) -> Self {
        Self {
            table: Arc::new(table),
            source: Source::AllowAll,
            rules: Rules::default(),
            exempt: FamilySet::EMPTY,
            protocol: Protocol::default(),
        }
    }

    /// A trained gate as it was saved.
    ///
    /// # Errors
    /// Files that cannot be read, or do not fit tokenizer and model.
    pub fn load(path: &Path, codec: &TextCodec, model: &qwen3::Config) -> Result<Self, GateError> {
        let (saved, table) = SavedGate::load(path, &codec.tokenizer_json()?)?;
        if saved.gate.hidden_size() != model.hidden_size {
            let (hidden, gate) = (model.hidden_size, saved.gate.hidden_size());
            return Err(lcg::Error::HiddenMismatch { hidden, gate }.into());
        }
        if table.len() != model.vocab_size {
            return Err(lcg::Error::VocabMismatch { logits: model.vocab_size, table: table.len() }.into());
        }
        let protocol = Protocol::new(&table, &saved.info.protocol_spans)?;
        let rules = saved.info.rules;
        let source = Source::Mlp(Box::new(saved));
        Ok(Self { table: Arc::new(table), source, rules, exempt: FamilySet::EMPTY, protocol })
    }

    /// The families of every token.
    #[must_use]
    pub fn table(&self) -> &Arc<FamilyTable> {
        &self.table
    }

    /// The gate for a model's weights as they are now.
    ///
    /// # Errors
    /// Weights that no label can be made of.
    pub fn gate(&self, model: &Policy) -> Result<Arc<Gate>, GateError> {
        let predictor: Box<dyn FamilyPredictor + Send + Sync> = match &self.source {
            Source::Mlp(saved) => Box::new(saved.gate.clone()),
            Source::AllowAll => Box::new(AllowAll),
            Source::Direct(labels) => {
                let head = model.text().head().flatten_all()?.to_vec1::<f32>()?;
                let norms = row_norms(&head, model.config().hidden_size)?;
                Box::new(DirectRule::new(Labeller::new(&self.table, &norms, *labels)?))
            }
        };
        Ok(Arc::new(Gate {
            table: self.table.clone(),
            predictor,
            rules: self.rules,
            exempt: self.exempt,
            protocol: self.protocol.clone(),
            record_supports: true,
        }))
    }
}
