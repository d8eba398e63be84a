//! Keeping a gate current: as the policy trains, its hidden states drift from those that the gate learnt from.

use std::collections::BTreeSet;
use std::path::Path;

use lcg::file::SavedGate;
use lcg::train::{Positions, TrainConfig, agreement};
use lcg::{Labeller, row_norms};
use qwen3::ForwardOptions;
use rand::Rng;
use rollout_engine::random::{Stream, keyed_rng};

use super::train::{fit_to, up_to_most};
use super::{GateError, GateSetup, GateTraining, Source};
use crate::data::TextCodec;
use crate::policy::Policy;
use crate::sample::{Packed, Sample};

/// What a refresh found, on positions of prompts that it held out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Refreshed {
    /// Whether the held-out loss fell, and so the gate changed.
    pub replaced: bool,
    /// Share of labels, by family, that the gate predicted before.
    pub agreement_before: f64,
    /// The same of the gate that is used from now on.
    pub agreement: f64,
}

impl GateSetup {
    /// How often the gate has changed since it was made, from 1; `None` for one without a network.
    #[must_use]
    pub fn version(&self) -> Option<u32> {
        match &self.source {
            Source::Mlp(saved) => Some(saved.info.version),
            Source::Direct(_) | Source::AllowAll => None,
        }
    }

    /// Fits a copy of the network for at most `steps` steps to the positions of `samples` that predict their responses, with
    /// labels by the model as it is now, made as the gate's first ones were. A tenth of the prompts, at least one, is held
    /// out; where the loss on them fell, the copy takes the gate's place under the next version. `None` where there is no
    /// network, or fewer than two prompts.
    ///
    /// # Errors
    /// What model, labels and fit refuse.
    pub fn refresh(
        &mut self,
        model: &Policy,
        samples: &[Sample],
        steps: usize,
        seed: u64,
    ) -> Result<Option<Refreshed>, GateError> {
        let Source::Mlp(saved) = &mut self.source else { return Ok(None) };
        let mut prompts: Vec<u32> =
            samples.iter().map(|s| s.group).collect::<BTreeSet<_>>().into_iter().collect();
        if prompts.len() < 2 {
            return Ok(None);
        }
        let mut rng = keyed_rng(seed, Stream::Shuffle, [0, 0]);
        for i in (1..prompts.len()).rev() {
            prompts.swap(i, rng.random_range(0..=i));
        }
        prompts.truncate((prompts.len() / 10).max(1));
        let (held_out, rest): (Vec<&Sample>, Vec<&Sample>) =
            samples.iter().partition(|s| prompts.contains(&s.group));

        let head = model.text().head().detach();
        let norms = row_norms(&head.flatten_all()?.to_vec1::<f32>()?, model.config().hidden_size)?;
        let labeller = Labeller::new(&self.table, &norms, saved.info.labels)?;
        let positions = |samples: &[&&Sample]| -> lcg::Result<Positions> {
            let candle = |e: qwen3::Error| lcg::Error::from(candle_core::Error::Msg(e.to_string()));
            let packed = Packed::new(&samples.iter().map(|s| **s).collect::<Vec<_>>())?;
            let options = ForwardOptions { no_grad: true, ..ForwardOptions::default() };
            let hidden = model.forward(&packed.batch, &packed.items, &options).map_err(candle)?;
            let mut asks = vec![false; packed.batch.tokens.len()];
            packed.rows.iter().for_each(|row| asks[*row as usize] = true);
            Positions::label(&hidden.states, &asks, &head, &labeller)
        };
        let rows = |sample: &&Sample| sample.response.len();
        let measured = positions(&up_to_most(&held_out, rows))?;
        let fit = TrainConfig { steps, warmup: 50.min(steps / 2), ..TrainConfig::default() };
        let options = GateTraining { fit, seed, ..GateTraining::default() };
        let agreement_before = agreement(&saved.gate, &measured)?;
        let (gate, fit) = fit_to(&saved.gate, &options, &measured, &rest, rows, positions)?;
        let replaced = gate != saved.gate;
        if replaced {
            saved.gate = gate;
            saved.info.version += 1;
        }
        Ok(Some(Refreshed { replaced, agreement_before, agreement: fit.agreement }))
    }

    /// Writes a gate with a network into `folder`, as [`GateSetup::load`] reads it; another has nothing to write.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, folder: &Path) -> lcg::Result<()> {
        match &self.source {
            Source::Mlp(saved) => saved.save(folder, &self.table),
            Source::Direct(_) | Source::AllowAll => Ok(()),
        }
    }

    /// Takes over the weights and the version that [`GateSetup::save`] wrote.
    ///
    /// # Errors
    /// Files that cannot be read, or are of another gate.
    pub fn restore(&mut self, folder: &Path, codec: &TextCodec) -> Result<(), GateError> {
        if let Source::Mlp(saved) = &mut self.source {
            let (found, _) = SavedGate::load(folder, &codec.tokenizer_json()?)?;
            saved.gate = found.gate.with_thresholds(&saved.gate.threshold_probabilities())?;
            saved.info.version = found.info.version;
        }
        Ok(())
    }
}
