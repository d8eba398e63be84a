//! `bench`: where the time of an RL step goes, from the prompts to the sampler's new weights.

use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, anyhow};
use qwen3::{Precision, VisualItems};
use rollout_engine::{Engine, EngineOptions, Request, SamplingParams};
use serde_json::{Value, json};
use train_core::config::Layers;
use train_core::learner::Learner;
use train_core::metrics::peak_memory_mib;
use train_core::policy::Policy;
use train_core::sample::Sample;
use train_core::types::{Images, Prompt, SampleKey};

use crate::bench::{median, tokens};
use crate::cli::BenchArgs;
use crate::machine::reset_peak_memory;
use crate::profile::{Components, Limits};

/// Samples of one prompt.
const GROUP: usize = 8;

pub(crate) struct RlStep {
    samples: usize,
    prompt: usize,
    response: usize,
    /// Of a whole step: without rewards, which cost nothing here.
    seconds: f64,
    /// Means of generation, update and new weights.
    parts: [f64; 3],
    /// Of generation, means of a step.
    generation: Components,
    /// Of the update.
    update: Components,
    peak_mib: f64,
}

/// RL steps of `samples` samples: groups of [`GROUP`] draw `--response` tokens each after prompts of `--prompt` tokens, then one
/// update with the `dapo` loss and advantages that differ within each group. Gives the policy back.
pub(crate) fn measure(policy: Policy, args: &BenchArgs, samples: usize) -> Result<(RlStep, Policy)> {
    reset_peak_memory();
    let mut config = Layers::defaults().resolve()?;
    config.model.matmul_precision = policy.text().matmul_precision();
    config.model.recompute = args.recompute;
    // One micro-batch at a time, so that each operation has all threads and is timed alone.
    config.update.parallel_micros = 1;
    config.rollout.max_new_tokens = args.response;
    config.loss.objective = "dapo".into();
    let loss = config.loss_choice().map_err(|(key, reason)| anyhow!("{key}: {reason}"))?.loss;
    let vocabulary = policy.config().vocab_size;
    let record_routes = policy.config().moe.is_some();
    let mut learner = Learner::new(policy, loss, &config);
    let prompt = |id: usize| Prompt {
        id: id as u64,
        task: String::new(),
        tokens: tokens((id + 1) * args.prompt, vocabulary).split_off(id * args.prompt),
        text: String::new(),
        answer: None,
        follow_ups: Vec::new(),
        images: Images::default(),
        columns: Default::default(),
    };
    let prompts: Vec<Arc<Prompt>> = (0..samples.div_ceil(GROUP)).map(|id| Arc::new(prompt(id))).collect();
    let params = Arc::new(SamplingParams { max_new_tokens: args.response, ..SamplingParams::default() });
    let mut decoder = Arc::new(learner.model.decoder(Precision::F32)?);
    let generate = |decoder: &Arc<qwen3::Decoder>, step: u64| -> Result<Vec<Sample>> {
        let options = EngineOptions { record_routes, policy_version: step, ..EngineOptions::default() };
        let mut engine = Engine::new(decoder.clone(), options)?;
        let request = |(id, prompt): (usize, &Arc<Prompt>)| Request {
            id: id as u64,
            prompt: prompt.tokens.clone(),
            items: VisualItems::default(),
            samples: (0..GROUP.min(samples - id * GROUP)).map(|k| [step, k as u64]).collect(),
            seed: 0,
            params: params.clone(),
        };
        let drawn = engine.generate(prompts.iter().enumerate().map(request).collect())?;
        let sample = |g: rollout_engine::Generation| {
            let key = SampleKey { prompt: g.request, epoch: step as u32, index: g.sample as u32 };
            let advantage = if g.sample.is_multiple_of(2) { 1.0 } else { -1.0 };
            let of = prompts[g.request as usize].clone();
            Sample { version: step, advantage, ..Sample::new(key, of, g.request as u32, String::new(), g) }
        };
        Ok(drawn.into_iter().map(sample).collect())
    };
    let mut run = |step: u64, steps: usize| -> Result<([f64; 3], [Components; 2])> {
        let start = Instant::now();
        let (drawn, generation) = Components::of(steps, || generate(&decoder, step));
        let mut drawn = drawn?;
        let generated = start.elapsed().as_secs_f64();
        let (updated, update) = Components::of(steps, || learner.update(&mut drawn, step));
        updated?;
        let trained = start.elapsed().as_secs_f64();
        decoder = Arc::new(learner.model.decoder(Precision::F32)?);
        let all = start.elapsed().as_secs_f64();
        Ok(([generated, trained - generated, all - trained], [generation, update]))
    };
    run(0, 1)?;
    let (mut seconds, mut parts) = (Vec::new(), [0.0; 3]);
    let (mut generation, mut update) = (Components::default(), Components::default());
    for step in 1..=args.steps {
        let (found, components) = run(step as u64, args.steps)?;
        seconds.push(found.iter().sum());
        (0..3).for_each(|i| parts[i] += found[i] / args.steps as f64);
        let [of_generation, of_update] = components;
        generation.add(&of_generation);
        update.add(&of_update);
    }
    let found = RlStep {
        samples,
        prompt: args.prompt,
        response: args.response,
        seconds: median(seconds),
        parts,
        generation,
        update,
        peak_mib: peak_memory_mib().unwrap_or(f64::NAN),
    };
    Ok((found, learner.model))
}

impl RlStep {
    pub(crate) fn print(&self, out: &mut impl Write, limits: Limits) -> Result<()> {
        let [generation, update, weights] = self.parts;
        let drawn = self.samples * self.response;
        writeln!(
            out,
            "\nRL step of {} samples, {} tokens each after prompts of {}: {:.3} s, peak {:.0} MiB",
            self.samples, self.response, self.prompt, self.seconds, self.peak_mib
        )?;
        writeln!(out, "new weights to the sampler {weights:.3} s")?;
        writeln!(out, "\nIts generation: {generation:.3} s ({:.0} tokens/s)", drawn as f64 / generation)?;
        self.generation.print(out, generation, limits)?;
        writeln!(out, "\nIts update: {update:.3} s")?;
        Ok(self.update.print(out, update, limits)?)
    }

    pub(crate) fn to_json(&self) -> Value {
        let [generation, update, weights] = self.parts;
        json!({
            "samples": self.samples,
            "prompt": self.prompt,
            "response": self.response,
            "seconds": self.seconds,
            "generation_s": generation,
            "update_s": update,
            "weights_s": weights,
            "generation": self.generation.to_json(),
            "update": self.update.to_json(),
            "peak_mib": self.peak_mib,
        })
    }
}
