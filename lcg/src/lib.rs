//! Language confusion gate: a language model asked in Arabic answers in Arabic, not half in Chinese.
//!
//! At each step a small network reads the model's final hidden state and predicts which families of scripts may come next
//! (arXiv 2510.17555). Where the sampling support holds tokens of other families, and the model itself finds a token of a
//! predicted family likely, those others are removed. The model is not changed.
//!
//! The one design decision: **what is denied is a set of families, 32 bits, and whether a token is denied depends on its
//! [`Signature`] alone**. So the mask of a row is one number, which a rollout records and a trainer replays exactly
//! ([`RowMask`]); a support never becomes empty ([`Rules`] say why); and a signature speaks of bytes, so that no path of
//! byte-level tokens writes a denied letter ([`GateState`]).
//!
//! | symbol | shape | here |
//! |---|---|---|
//! | `V` | | tokens of the [`FamilyTable`], the width of the logits |
//! | `h` | `[d]` | hidden state after the final norm: what the output matrix is multiplied by |
//! | `z` | `[V]` | raw logits |
//! | `P`, `D` | [`FamilySet`] | predicted, denied families |
//!
//! ```
//! use lcg::{Exemptions, FamilyPredictor, FamilySet, FamilyTable, GateState, Kind, MlpGate, Noise, Protocol, Rules,
//!     Sampling, Taxonomy, Vocabulary, sample};
//! // A vocabulary of four tokens; `Vocabulary::from_tokenizer_json` reads real ones.
//! let tokens = [" да", "中", "a", "!"].map(|text| (Kind::Text, text.as_bytes().to_vec()));
//! let table = FamilyTable::new(Taxonomy::script16(), Vocabulary::new(tokens), &Exemptions::default())?;
//! let taxonomy = table.taxonomy();
//! let (rules, protocol) = (Rules::default(), Protocol::default());
//!
//! // The sequence has written Cyrillic, and the gate predicts it again.
//! let mut state = GateState::default();
//! state.advance(&table, &protocol, 0, &lcg::Trust::ungated())?;
//! let cyrillic = taxonomy.set(&["cyrillic"], "example")?;
//! let plan = rules.plan(taxonomy, FamilySet::EMPTY, &state, Some(cyrillic));
//! // The model would rather write Chinese.
//! let (logits, noise) = ([2.0, 5.0, 1.0, 0.0], Noise { seed: 1, sequence: 0, position: 1 });
//! let view = table.view(state.pending);
//! let step = sample(0, &logits, &Sampling::default(), rules.widen, &plan, &view, &noise)?;
//! assert!(step.token == 0 || step.token == 3, "Cyrillic, or a symbol");
//! assert!(step.record.intervened && step.record.denied_mass > 0.9);
//! state.advance(&table, &protocol, step.token, &plan.trust)?;
//!
//! // `plan` takes what a predictor gives; here the weights are random.
//! let gate = MlpGate::random(8, 4, taxonomy.len(), 7)?;
//! assert!(!gate.predict(&[0.1; 8], &logits)?.unwrap().is_empty());
//! # Ok::<(), lcg::Error>(())
//! ```

mod error;
mod family;
pub mod file;
mod gate;
mod kept;
#[cfg(any(test, feature = "cuda"))]
pub mod kernels;
mod labels;
pub mod lcb;
mod logprob;
pub mod metrics;
mod noise;
#[cfg(feature = "candle")]
pub mod op;
pub mod paper;
pub mod record;
pub mod reference;
mod rules;
mod sample;
pub mod sources;
pub mod speculative;
mod state;
mod support;
mod table;
#[cfg(feature = "candle")]
pub mod train;
pub mod utf8;
mod vocab;

pub use error::{Error, Result};
pub use family::{Family, FamilySet, Taxonomy, TaxonomySpec};
pub use gate::{AllowAll, DirectRule, FamilyPredictor, MlpGate};
pub use labels::{LabelConfig, LabelRule, Labeller, NormScale, row_norms};
pub use logprob::{RowMask, Softmax};
pub use noise::Noise;
pub use rules::{Decision, FirstToken, HIGH, PassReason, Persistence, Plan, Rules, Support, Widen};
pub use sample::{Sampling, Step, StepRecord, draw, high_confidence, sample};
pub use state::{GateState, Protocol, Trust};
pub use support::Truncation;
pub use table::{BuildReport, Denials, Exemptions, FamilyTable, Overrides, Signature, View};
pub use vocab::{ControlList, Kind, Vocabulary};
