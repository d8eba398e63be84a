//! The rollout stage: prompts in, samples with their log-probabilities and text out.

use std::path::Path;
use std::sync::Arc;

use qwen3::{Decoder, Precision};
use rollout_engine::{Engine, EngineOptions, Gate, Request, SamplingParams};

use crate::config::Config;
use crate::data::TextCodec;
use crate::gate::GateSetup;
use crate::policy::Policy;
use crate::sample::Sample;
use crate::setup::read_policy;
use crate::trainer::TrainError;
use crate::types::{Finish, Prompt, SampleKey};

/// The sampler with the weights it was last given.
pub struct Sampler {
    decoder: Option<Arc<Decoder>>,
    gate: Option<(GateSetup, Option<Arc<Gate>>)>,
    draft: Option<(Arc<Decoder>, usize)>,
    training: Arc<SamplingParams>,
    evaluation: Arc<SamplingParams>,
    options: EngineOptions,
    precision: Precision,
    seed: u64,
    group: usize,
    version: u64,
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
            draft: None,
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
            version: 0,
        }
    }

    /// Draws under a gate, in training and in evaluation.
    #[must_use]
    pub fn with_gate(self, gate: Option<GateSetup>) -> Self {
        Self { gate: gate.map(|setup| (setup, None)), ..self }
    }

    /// The gate as it was set up, where there is one.
    #[must_use]
    pub fn gate_setup(&self) -> Option<&GateSetup> {
        self.gate.as_ref().map(|(setup, _)| setup)
    }

    /// The same, to change it; [`Sampler::publish`] puts it to use.
    pub fn gate_setup_mut(&mut self) -> Option<&mut GateSetup> {
        self.gate.as_mut().map(|(setup, _)| setup)
    }

    /// Lets the model of `rollout.draft` draft tokens, where one is set. No sample changes.
    ///
    /// # Errors
    /// A model that cannot be read.
    pub fn with_draft(mut self, config: &Config) -> Result<Self, TrainError> {
        let rollout = &config.rollout;
        if !rollout.draft.is_empty() {
            let decoder = read_policy(Path::new(&rollout.draft))?.decoder(rollout.precision)?;
            self.draft = Some((Arc::new(decoder), rollout.draft_tokens));
        }
        Ok(self)
    }

    /// Takes over the model's weights, as they are after `version` steps.
    ///
    /// # Errors
    /// When the model refuses.
    pub fn publish(&mut self, model: &Policy, version: u64) -> Result<(), TrainError> {
        self.version = version;
        self.decoder = Some(Arc::new(model.decoder(self.precision)?));
        if let Some((setup, gate)) = &mut self.gate {
            *gate = Some(setup.gate(model)?);
        }
        Ok(())
    }

    /// The version of the weights it has.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
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
        let asked = prompts.into_iter().map(|(prompt, epoch)| Asked {
            draws: (0..self.group as u64).map(|k| [prompt.id, (u64::from(epoch) << 32) | k]).collect(),
            prompt: Arc::new(prompt),
            epoch,
        });
        let asked: Vec<Asked> = asked.collect();
        let mut samples = self.converse(&asked, &self.training, self.options.record_routes, true, codec)?;
        samples.iter_mut().for_each(|sample| sample.group += first_group);
        Ok(samples)
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
        let asked = prompts.iter().map(|prompt| Asked {
            draws: vec![[prompt.id, EVALUATION]],
            prompt: Arc::new(prompt.clone()),
            epoch: 0,
        });
        self.converse(&asked.collect::<Vec<_>>(), &self.evaluation, false, gated, codec)
    }

    /// Runs conversations through all their turns. One that is cut within a turn ends there: nobody answers half a turn.
    /// Groups are places in `asked`.
    fn converse(
        &self,
        asked: &[Asked],
        params: &Arc<SamplingParams>,
        record_routes: bool,
        gated: bool,
        codec: &TextCodec,
    ) -> Result<Vec<Sample>, TrainError> {
        let decoder = self.decoder.clone().ok_or(TrainError::NoWeights)?;
        let keep_ended = asked.iter().any(|a| a.prompt.turns() > 1);
        let options =
            EngineOptions { record_routes, keep_ended, policy_version: self.version, ..self.options };
        let mut engine = Engine::new(decoder, options)?;
        if let (true, Some((_, gate))) = (gated, &self.gate) {
            engine = engine.with_gate(gate.clone().ok_or(TrainError::NoWeights)?)?;
        }
        if let Some((decoder, tokens)) = &self.draft {
            engine = engine.with_draft(decoder.clone(), *tokens)?;
        }
        let requests = asked.iter().enumerate().map(|(i, Asked { prompt, draws, .. })| Request {
            id: i as u64,
            prompt: prompt.tokens.clone(),
            items: prompt.images.items(),
            samples: draws.clone(),
            seed: self.seed,
            params: params.clone(),
        });
        // A turn is a line, so that no turn can pass for two.
        let line = |prompt: &Prompt, tokens: &[u32]| match prompt.turns() {
            1 => codec.decode(tokens),
            _ => codec.decode(tokens).replace('\n', " "),
        };
        let first = engine.generate(requests.collect())?.into_iter().map(|g| {
            let Asked { prompt, epoch, .. } = &asked[g.request as usize];
            let key = SampleKey { prompt: prompt.id, epoch: *epoch, index: g.sample as u32 };
            let text = line(prompt, &g.tokens);
            let sample = Sample::new(key, prompt.clone(), g.request as u32, text, g);
            Sample { version: self.version, ..sample }
        });
        let mut samples: Vec<Sample> = first.collect();
        loop {
            let mut going_on = Vec::new();
            for (place, sample) in samples.iter().enumerate() {
                let told = sample.prompt.follow_ups.get(sample.observations.len());
                let Some(told) = told.filter(|_| sample.finish == Finish::Stop) else { continue };
                engine.resume(sample.group.into(), sample.key.index as usize, told)?;
                going_on.push((place, told.clone()));
            }
            if going_on.is_empty() {
                return Ok(samples);
            }
            // Turns come back in the order of their samples.
            for ((place, told), g) in going_on.into_iter().zip(engine.generate(Vec::new())?) {
                let text = line(&samples[place].prompt, &g.tokens);
                samples[place].add_turn(told, &text, g);
            }
        }
    }
}

/// A prompt, how often it was used before, and the keys of its samples' random numbers.
struct Asked {
    prompt: Arc<Prompt>,
    epoch: u32,
    draws: Vec<[u64; 2]>,
}
