//! The rollout stage: prompts in, samples with their log-probabilities and text out.

use std::sync::Arc;

use qwen3::{Decoder, Precision};
use rollout_engine::{Engine, EngineOptions, Gate, Request, SamplingParams};

use crate::config::Config;
use crate::data::TextCodec;
use crate::gate::GateSetup;
use crate::policy::Policy;
use crate::sample::Sample;
use crate::trainer::TrainError;
use crate::types::{Prompt, SampleKey};

/// The sampler with the weights it was last given.
pub struct Sampler {
    decoder: Option<Arc<Decoder>>,
    gate: Option<(GateSetup, Option<Arc<Gate>>)>,
    training: Arc<SamplingParams>,
    evaluation: Arc<SamplingParams>,
    options: EngineOptions,
    precision: Precision,
    seed: u64,
    group: usize,
}

/// Marks the keys of evaluation samples, which share no random number with training.
const EVALUATION: u64 = 1 << 63;

impl Sampler {
    /// A sampler without weights.
    #[must_use]
    pub fn new(config: &Config, codec: &TextCodec) -> Self {
        let r = &config.rollout;
        let training = SamplingParams {
            temperature: r.temperature,
            top_k: r.top_k,
            top_p: r.top_p,
            min_p: r.min_p,
            max_new_tokens: r.max_new_tokens,
            stop_tokens: codec.stop_tokens().to_vec(),
        };
        let evaluation = SamplingParams {
            temperature: config.eval.temperature,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            ..training.clone()
        };
        Self {
            decoder: None,
            gate: None,
            training: Arc::new(training),
            evaluation: Arc::new(evaluation),
            options: EngineOptions {
                max_rows: r.max_rows,
                record_routes: config.records_routes(),
                ..EngineOptions::default()
            },
            precision: r.precision,
            seed: config.run.seed,
            group: r.group,
        }
    }

    /// Draws under a gate, in training and in evaluation.
    #[must_use]
    pub fn with_gate(self, gate: Option<GateSetup>) -> Self {
        Self { gate: gate.map(|setup| (setup, None)), ..self }
    }

    /// Takes over the model's weights, as they are now.
    ///
    /// # Errors
    /// When the model refuses.
    pub fn publish(&mut self, model: &Policy) -> Result<(), TrainError> {
        self.decoder = Some(Arc::new(model.decoder(self.precision)?));
        if let Some((setup, gate)) = &mut self.gate {
            *gate = Some(setup.gate(model)?);
        }
        Ok(())
    }

    fn engine(&self, record_routes: bool, gated: bool) -> Result<Engine, TrainError> {
        let decoder = self.decoder.clone().ok_or(TrainError::NoWeights)?;
        let engine = Engine::new(decoder, EngineOptions { record_routes, ..self.options })?;
        match &self.gate {
            Some((_, gate)) if gated => Ok(engine.with_gate(gate.clone().ok_or(TrainError::NoWeights)?)?),
            _ => Ok(engine),
        }
    }

    /// A group of samples for each prompt; `first_group` numbers the groups.
    ///
    /// # Errors
    /// When the engine refuses a prompt or the weights are broken.
    pub fn sample(
        &self,
        prompts: Vec<(Prompt, u32)>,
        first_group: u32,
        codec: &TextCodec,
    ) -> Result<Vec<Sample>, TrainError> {
        let prompts: Vec<(Arc<Prompt>, u32)> = prompts.into_iter().map(|(p, e)| (Arc::new(p), e)).collect();
        let requests = prompts.iter().enumerate().map(|(i, (prompt, epoch))| Request {
            id: i as u64,
            prompt: prompt.tokens.clone(),
            items: prompt.images.items(),
            samples: (0..self.group as u64).map(|k| [prompt.id, (u64::from(*epoch) << 32) | k]).collect(),
            seed: self.seed,
            params: self.training.clone(),
        });
        let generations = self.engine(self.options.record_routes, true)?.generate(requests.collect())?;
        let samples = generations.into_iter().map(|g| {
            let (prompt, epoch) = &prompts[g.request as usize];
            let key = SampleKey { prompt: prompt.id, epoch: *epoch, index: g.sample as u32 };
            let text = codec.decode(&g.tokens);
            Sample::new(key, prompt.clone(), first_group + g.request as u32, text, g)
        });
        Ok(samples.collect())
    }

    /// One sample for each held-out prompt, with the settings of evaluation; under the gate where there is one and it is
    /// wanted.
    ///
    /// # Errors
    /// As [`Sampler::sample`].
    pub fn evaluate(
        &self,
        prompts: &[Prompt],
        codec: &TextCodec,
        gated: bool,
    ) -> Result<Vec<Sample>, TrainError> {
        let requests = prompts.iter().enumerate().map(|(i, prompt)| Request {
            id: i as u64,
            prompt: prompt.tokens.clone(),
            items: prompt.images.items(),
            samples: vec![[prompt.id, EVALUATION]],
            seed: self.seed,
            params: self.evaluation.clone(),
        });
        let generations = self.engine(false, gated)?.generate(requests.collect())?;
        let samples = generations.into_iter().map(|g| {
            let prompt = &prompts[g.request as usize];
            let key = SampleKey { prompt: prompt.id, epoch: 0, index: 0 };
            let text = codec.decode(&g.tokens);
            Sample::new(key, Arc::new(prompt.clone()), g.request as u32, text, g)
        });
        Ok(samples.collect())
    }
}
