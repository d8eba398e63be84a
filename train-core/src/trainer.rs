//! The loop of reinforcement learning from verifiable rewards, one step at a time.

use std::path::{Path, PathBuf};
use std::time::Instant;

use policy_loss::{AdvantageEstimator, RewardBatch, SingletonPolicy, dynamic_sampling_keep};
use serde_json::{Value, json};

use crate::checkpoint::{self, Checkpoint, CheckpointError, Meta};
use crate::config::{Config, ConfigError, GuardAction, OnError, ZeroVariance};
use crate::data::{DataError, PromptSource, TextCodec};
use crate::guard::{Alarm, Guards};
use crate::learner::{Learner, UpdateError, UpdateReport};
use crate::metrics::Row;
use crate::policy::Policy;
use crate::record;
use crate::reward::{RewardError, Rewarder, WeightedSum};
use crate::rollout::Sampler;
use crate::rundir::{RunDir, StorageError};
use crate::sample::Sample;
use crate::setup;
use crate::types::{Finish, Prompt, Scored};

/// Why a run stopped.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The rewards.
    #[error(transparent)]
    Reward(#[from] RewardError),
    /// The model.
    #[error(transparent)]
    Model(#[from] qwen3::Error),
    /// The sampler.
    #[error(transparent)]
    Engine(#[from] rollout_engine::Error),
    /// The update.
    #[error(transparent)]
    Update(#[from] UpdateError),
    /// The loss.
    #[error(transparent)]
    Loss(#[from] policy_loss::Error),
    /// A file.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A run that has another configuration than its checkpoint.
    #[error("{}: config.toml is not the one this checkpoint was made with (--allow-changes goes on with it)", path.display())]
    ChangedConfig {
        /// The run.
        path: PathBuf,
    },
    /// The sampler was asked before it was given weights.
    #[error("the sampler has no weights yet")]
    NoWeights,
    /// A guard, or a rule that protects the run.
    #[error("{name}: {message}")]
    Guard {
        /// Which.
        name: String,
        /// What was seen, and what to try.
        message: String,
    },
}

/// What a step did, for whoever watches.
#[derive(Clone, Debug)]
pub struct StepReport {
    /// Its metrics.
    pub row: Row,
    /// Guards that fired.
    pub alarms: Vec<Alarm>,
    /// What is new about the data, such as a level.
    pub news: Option<String>,
    /// Whether a checkpoint was written, and where; or why not.
    pub checkpoint: Option<Result<PathBuf, String>>,
}

/// Where the reference policy of the KL penalty lies in a run.
const REFERENCE: &str = "reference";

/// A run in memory.
pub struct Trainer {
    /// The configuration.
    pub config: Config,
    /// The run's files.
    pub dir: RunDir,
    /// The policy and its optimiser.
    pub learner: Learner,
    /// Between text and tokens.
    pub codec: TextCodec,
    source: Box<dyn PromptSource>,
    rewarder: Box<dyn Rewarder>,
    sampler: Sampler,
    estimator: AdvantageEstimator,
    guards: Guards,
    step: u64,
    /// Evaluations in a row that reached `eval.stop_at`.
    mastered: u64,
    /// Steps in a row without any group to learn from, and optimiser steps skipped in a row.
    idle: u64,
    skips: u64,
    /// Whether the last checkpoint could not be written.
    save_failed: bool,
    /// Seconds the last checkpoint took; shown with the next step.
    saving_seconds: f64,
}

impl Trainer {
    /// A new run in `dir`, at step 0, with its initial checkpoint.
    ///
    /// # Errors
    /// When a part cannot be built or a file cannot be written.
    pub fn create(config: Config, dir: RunDir) -> Result<Self, TrainError> {
        let (codec, architecture) = setup::codec_and_model(&config)?;
        let model = setup::initial_model(&config, &architecture)?;
        let mut trainer = Self::assemble(config, dir, codec, model)?;
        trainer.dir.write("config.toml", &trainer.config.to_toml())?;
        trainer.warm_start()?;
        if trainer.penalises_kl() {
            trainer.learner.model.save(&trainer.dir.file(REFERENCE), qwen3::SaveType::F32)?;
            trainer.load_reference()?;
        }
        trainer.save()?;
        Ok(trainer)
    }

    /// A run as its newest whole checkpoint left it; logs are taken back to that step. Also says what was passed
    /// over.
    ///
    /// # Errors
    /// When there is no checkpoint, or the configuration has changed (unless `allow_changes`).
    pub fn resume(path: &Path, allow_changes: bool) -> Result<(Self, Vec<String>), TrainError> {
        let dir = RunDir::open(path)?;
        let file = dir.file("config.toml");
        let text = std::fs::read_to_string(&file).map_err(StorageError::at(&file))?;
        let config = Config::from_toml(&text, &file.display().to_string())?;
        let (checkpoint, skipped) = Checkpoint::newest(path)?;
        if checkpoint.meta.config_digest != checkpoint::digest(config.to_toml().as_bytes()) && !allow_changes
        {
            return Err(TrainError::ChangedConfig { path: path.to_path_buf() });
        }
        let model = Policy::load(&checkpoint.path)?;
        let codec = TextCodec::from_dir(&checkpoint.path, model.config().eos_token_ids.clone())?;
        let mut trainer = Self::assemble(config, dir, codec, model)?;
        checkpoint.restore_optimizer(&mut trainer.learner)?;
        if trainer.penalises_kl() {
            trainer.load_reference()?;
        }
        trainer.restore_stages(&checkpoint)?;
        trainer.dir.rewind(trainer.step)?;
        let message = format!("resumed after step {}", trainer.step);
        trainer.dir.event(trainer.step, "resumed", "run", &message, &[])?;
        Ok((trainer, skipped))
    }

    fn assemble(config: Config, dir: RunDir, codec: TextCodec, model: Policy) -> Result<Self, TrainError> {
        let choice = config.loss_choice().map_err(|(key, reason)| ConfigError::Invalid {
            key: key.into(),
            value: config.loss.objective.clone(),
            origin: "config.toml".into(),
            reason,
        })?;
        let source = setup::prompt_source(&config, &codec, model.config())?;
        let mut trainer = Self {
            rewarder: Box::new(WeightedSum::new(&config.reward, config.rollout.max_new_tokens)?),
            sampler: Sampler::new(&config, &codec),
            guards: Guards::new(&config.guard),
            learner: Learner::new(model, choice.loss, &config),
            estimator: choice.estimator,
            source,
            codec,
            config,
            dir,
            step: 0,
            mastered: 0,
            idle: 0,
            skips: 0,
            save_failed: false,
            saving_seconds: 0.0,
        };
        trainer.sampler.publish(&trainer.learner.model)?;
        Ok(trainer)
    }

    fn penalises_kl(&self) -> bool {
        self.learner.loss().config().kl.is_some()
    }

    /// The frozen policy of the KL penalty: the one of the first rollout.
    fn load_reference(&mut self) -> Result<(), TrainError> {
        self.learner.set_reference(Policy::load(&self.dir.file(REFERENCE))?);
        Ok(())
    }

    /// Steps done.
    #[must_use]
    pub fn steps_done(&self) -> u64 {
        self.step
    }

    /// Whether all steps are done, or the task is mastered (`eval.stop_at`).
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.step >= self.config.run.steps || self.mastered >= 2
    }

    /// Held-out metrics before the first step, as the row of step 0; `None` when there is nothing to measure or the
    /// run is further on.
    ///
    /// # Errors
    /// When evaluation fails.
    pub fn before_first(&mut self) -> Result<Option<Row>, TrainError> {
        // A run that was stopped within its first steps has been measured already.
        let measured = std::fs::metadata(self.dir.file("metrics.jsonl")).is_ok_and(|file| file.len() > 0);
        let nothing = self.config.eval.every == 0 || self.source.held_out().is_empty();
        if self.step > 0 || measured || nothing {
            return Ok(None);
        }
        let mut row = Row::new(0);
        row.set("data/level", self.source.level());
        self.evaluate(&mut row)?;
        self.dir.append("metrics.jsonl", &row.to_json())?;
        Ok(Some(row))
    }

    /// One step: rollout → reward → filter → advantage → update → publish → measure → save.
    ///
    /// # Errors
    /// When a stage fails or a guard stops the run. What was finished before is on disk.
    pub fn step(&mut self) -> Result<StepReport, TrainError> {
        let start = Instant::now();
        let mut row = Row::new(self.step + 1);
        let (mut samples, news) = self.collect(&mut row)?;
        self.assign_advantages(&mut samples)?;
        let update = self.update(&mut samples, &mut row)?;
        self.step += 1;
        let publishing = Instant::now();
        self.sampler.publish(&self.learner.model)?;
        row.set("time/sync", publishing.elapsed().as_secs_f64());

        let every = self.config.eval.every;
        if every > 0 && (self.step.is_multiple_of(every) || self.is_done()) {
            self.evaluate(&mut row)?;
            let (exact, wanted) = (row.get("eval/heldout/exact"), self.config.eval.stop_at);
            let reached = wanted > 0.0 && exact.is_some_and(|exact| exact >= wanted);
            self.mastered = if reached { self.mastered + 1 } else { 0 };
        }
        record::update(&mut row, &update);
        record::totals(&mut row, &samples, start.elapsed().as_secs_f64());
        let alarms = self.guards.check(&row, self.learner.norms());
        self.log(&row, &samples, news.as_deref(), &alarms, &update)?;
        row.set("time/checkpoint", self.saving_seconds);
        self.dir.append("metrics.jsonl", &row.to_json())?;
        // Last, so that a checkpoint never knows of a step that the logs do not.
        let checkpoint = self.save_if_due();
        let report = StepReport { row, alarms, news, checkpoint };
        self.stop_if_told(&report, &update)?;
        Ok(report)
    }

    /// Rolls out, scores and filters until the batch is full; also what is new about the data.
    fn collect(&mut self, row: &mut Row) -> Result<(Vec<Sample>, Option<String>), TrainError> {
        let wanted = self.config.rollout.prompts;
        let most = (wanted as f64
            * if self.config.filter.dynamic { self.config.filter.max_extra } else { 1.0 })
            as usize;
        let (mut all, mut kept, mut groups, mut drawn) = (Vec::new(), Vec::new(), 0, 0);
        let (mut rollout, mut reward) = (0.0, 0.0);
        while groups < wanted && drawn < most {
            let count = (wanted - groups).min(most - drawn);
            let start = Instant::now();
            let prompts = self.source.next(count)?;
            let mut samples = self.sampler.sample(prompts, drawn as u32, &self.codec)?;
            rollout += start.elapsed().as_secs_f64();
            let start = Instant::now();
            score(self.rewarder.as_mut(), &mut samples)?;
            reward += start.elapsed().as_secs_f64();
            drawn += count;
            all.extend(samples.iter().cloned());
            let (survivors, number) = self.filter(samples)?;
            groups += number;
            kept.extend(survivors);
        }
        row.set("time/rollout", rollout);
        row.set("time/reward", reward);
        row.set("group/drawn", drawn as f64);
        row.set("group/kept", groups as f64);
        row.set("data/level", self.source.level());
        record::samples(row, &all)?;
        let outcomes: Vec<_> = all.iter().map(|s| (&*s.prompt, s.reward.exact == Some(true))).collect();
        let news = self.source.observe(&outcomes);
        Ok((kept, news))
    }

    /// Leaves out samples that could not be scored and, as configured, groups without variance.
    fn filter(&self, samples: Vec<Sample>) -> Result<(Vec<Sample>, usize), TrainError> {
        let dropping = self.config.reward.on_error == OnError::Drop;
        let mut samples: Vec<Sample> =
            samples.into_iter().filter(|s| !dropping || s.reward.error.is_none()).collect();
        let rewards: Vec<f64> = samples.iter().map(|s| s.reward.total).collect();
        let groups: Vec<u32> = samples.iter().map(|s| s.group).collect();
        let varies = dynamic_sampling_keep(&rewards, &groups)?;
        if self.config.filter.zero_variance == ZeroVariance::Drop {
            samples.retain(|s| varies[&s.group]);
            return Ok((samples, varies.values().filter(|v| **v).count()));
        }
        Ok((samples, varies.len()))
    }

    fn assign_advantages(&self, samples: &mut [Sample]) -> Result<(), TrainError> {
        let rewards: Vec<f64> = samples.iter().map(|s| s.reward.total).collect();
        let groups: Vec<u32> = samples.iter().map(|s| s.group).collect();
        let mut offsets = vec![0];
        samples.iter().for_each(|s| offsets.push(offsets[offsets.len() - 1] + s.response.len()));
        let batch = RewardBatch { offsets: Some(&offsets), ..RewardBatch::new(&rewards, &groups) };
        let advantages = self.estimator.estimate(&batch, SingletonPolicy::Zero)?.into_sequences()?;
        for (sample, advantage) in samples.iter_mut().zip(advantages) {
            sample.advantage = advantage;
        }
        Ok(())
    }

    fn update(&mut self, samples: &mut [Sample], row: &mut Row) -> Result<UpdateReport, TrainError> {
        if samples.is_empty() {
            self.idle += 1;
            return Ok(UpdateReport::default());
        }
        self.idle = 0;
        let report = self.learner.update(samples, self.step)?;
        row.set("optim/skipped", report.skipped.len() as f64);
        let all_skipped = report.skipped.len() == report.grad_norms.len();
        self.skips = if all_skipped { self.skips + report.skipped.len() as u64 } else { 0 };
        Ok(report)
    }

    fn evaluate(&self, row: &mut Row) -> Result<(), TrainError> {
        let start = Instant::now();
        evaluate_into(row, &self.config, &self.sampler, &self.codec, self.source.held_out())?;
        row.set("time/eval", start.elapsed().as_secs_f64());
        Ok(())
    }

    fn log(
        &self,
        row: &Row,
        samples: &[Sample],
        news: Option<&str>,
        alarms: &[Alarm],
        update: &UpdateReport,
    ) -> Result<(), TrainError> {
        if let Some(message) = news {
            self.dir.event(self.step, "level", "data", message, &[])?;
        }
        for reason in &update.skipped {
            self.dir.event(
                self.step,
                "skip",
                "optimizer",
                &format!("optimiser step skipped: {reason}"),
                &[],
            )?;
        }
        for alarm in alarms {
            self.dir.event(self.step, "guard", alarm.name, &alarm.message, alarm.advice)?;
        }
        let groups = self.config.log.rollout_groups;
        if groups != 0 {
            let limit = if groups < 0 { usize::MAX } else { groups as usize };
            let text = record::rollouts(samples, self.step, limit, &self.codec);
            self.dir.write(&format!("rollouts/step-{:06}.jsonl", row.step), &text)?;
        }
        Ok(())
    }

    /// A checkpoint that cannot be written is no reason to lose the run: it is tried again after the next step.
    fn save_if_due(&mut self) -> Option<Result<PathBuf, String>> {
        let every = self.config.ckpt.every;
        self.saving_seconds = 0.0;
        let due = self.is_done() || (every > 0 && self.step.is_multiple_of(every)) || self.save_failed;
        if !due {
            return None;
        }
        let start = Instant::now();
        let saved = self.save();
        self.saving_seconds = start.elapsed().as_secs_f64();
        self.save_failed = saved.is_err();
        Some(saved.map_err(|e| e.to_string()))
    }

    /// Writes a checkpoint now.
    ///
    /// # Errors
    /// When a file cannot be written; earlier checkpoints stay.
    pub fn save(&self) -> Result<PathBuf, TrainError> {
        let config = self.config.to_toml();
        let meta = Meta::new(self.step, self.learner.optimizer.steps(), self.config.run.seed, &config);
        let stages = json!({
            "data": self.source.state(),
            "guards": self.guards.state(),
            "mastered": self.mastered,
            "idle": self.idle,
            "skips": self.skips,
            "grad_norms": self.learner.norms(),
        });
        let dir = self.dir.file("ckpt");
        std::fs::create_dir_all(&dir).map_err(StorageError::at(&dir))?;
        Ok(checkpoint::save(&dir, &meta, &self.learner, &self.codec, &stages, self.config.ckpt.keep_last)?)
    }

    fn restore_stages(&mut self, checkpoint: &Checkpoint) -> Result<(), TrainError> {
        let broken = |reason: String| CheckpointError::Broken { path: checkpoint.path.clone(), reason };
        let stages = &checkpoint.stages;
        self.source.restore(&stages["data"])?;
        self.guards.restore(&stages["guards"]).map_err(|e| broken(format!("stages.json: guards: {e}")))?;
        let number =
            |name: &str| stages[name].as_u64().ok_or_else(|| broken(format!("stages.json: no `{name}`")));
        self.mastered = number("mastered")?;
        (self.idle, self.skips) = (number("idle")?, number("skips")?);
        let norms: Vec<f64> =
            stages["grad_norms"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
        self.learner.restore_norms(norms);
        self.step = checkpoint.meta.step;
        Ok(())
    }

    fn stop_if_told(&self, report: &StepReport, update: &UpdateReport) -> Result<(), TrainError> {
        let stop = |name: &str, message: String| Err(TrainError::Guard { name: name.into(), message });
        if self.config.guard.action == GuardAction::Stop
            && let Some(alarm) = report.alarms.first()
        {
            return stop(alarm.name, format!("{}. Try: {}", alarm.message, alarm.advice.join("; ")));
        }
        if self.idle >= self.config.filter.patience {
            return stop("no_signal", format!("{} steps in a row had no group to learn from", self.idle));
        }
        if self.skips >= self.config.update.max_skips {
            let last = update.skipped.last().cloned().unwrap_or_default();
            return stop(
                "skipped_updates",
                format!("{} optimiser steps in a row were skipped; the last: {last}", self.skips),
            );
        }
        Ok(())
    }

    /// Supervised steps on right answers before the first rollout.
    fn warm_start(&mut self) -> Result<(), TrainError> {
        let settings = self.config.warm_start.clone();
        for _ in 0..settings.steps {
            let prompts = self.source.next(settings.prompts)?;
            let samples = record::demonstrations(prompts, &self.codec)?;
            self.learner.imitate(&samples, settings.lr)?;
        }
        if settings.steps > 0 {
            self.learner.optimizer = crate::optim::AdamW::new(&self.learner.model, &self.config.update);
            let message = format!("{} supervised steps before the first rollout", settings.steps);
            self.dir.event(0, "warm_start", "run", &message, &[])?;
        }
        self.sampler.publish(&self.learner.model)
    }
}

/// Held-out metrics (`eval/…`) of any model.
///
/// # Errors
/// When the sampler or the reward fails.
pub fn evaluate_model(
    config: &Config,
    model: &Policy,
    codec: &TextCodec,
    prompts: &[Prompt],
) -> Result<Row, TrainError> {
    let mut sampler = Sampler::new(config, codec);
    sampler.publish(model)?;
    let mut row = Row::new(0);
    evaluate_into(&mut row, config, &sampler, codec, prompts)?;
    Ok(row)
}

fn evaluate_into(
    row: &mut Row,
    config: &Config,
    sampler: &Sampler,
    codec: &TextCodec,
    prompts: &[Prompt],
) -> Result<(), TrainError> {
    let mut samples = sampler.evaluate(prompts, codec)?;
    if !samples.is_empty() {
        // Held-out prompts are scored by the same rules, outside the training rewarder's state.
        let mut rewarder = WeightedSum::new(&config.reward, config.rollout.max_new_tokens)?;
        score(&mut rewarder, &mut samples)?;
        record::evaluation(row, &samples);
    }
    Ok(())
}

/// Scores samples in place.
fn score(rewarder: &mut dyn Rewarder, samples: &mut [Sample]) -> Result<(), RewardError> {
    let scored: Vec<Scored<'_>> = samples
        .iter()
        .map(|s| Scored {
            key: s.key,
            prompt: &s.prompt,
            response: &s.text,
            response_tokens: s.response.len(),
            finish: s.finish,
        })
        .collect();
    let outcomes = rewarder.score(&scored)?;
    for (sample, outcome) in samples.iter_mut().zip(outcomes) {
        sample.reward = outcome;
    }
    Ok(())
}

/// Whether a response was cut.
pub(crate) fn is_cut(sample: &Sample) -> bool {
    sample.finish == Finish::Length
}
