//! The loop of reinforcement learning from verifiable rewards, one step at a time.

mod batch;
mod error;
mod evaluation;
mod state;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Instant;

use policy_loss::AdvantageEstimator;

use crate::config::{Config, ConfigError, GuardAction};
use crate::data::TextCodec;
use crate::gate::GateSetup;
use crate::guard::{Alarm, Guards};
use crate::learner::{Learner, UpdateReport};
use crate::metrics::Row;
use crate::policy::Policy;
use crate::record;
use crate::reward::WeightedSum;
use crate::rollout::Sampler;
use crate::rundir::RunDir;
use crate::sample::Sample;
use crate::setup;

pub(crate) use batch::is_cut;
use batch::{Collected, Stages};
pub use error::TrainError;
pub use evaluation::evaluate_model;

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
    stages: Stages,
    /// Batches sampled ahead, oldest first, and why the one after them could not be.
    ahead: VecDeque<Collected>,
    failed: Option<TrainError>,
    estimator: AdvantageEstimator,
    guards: Guards,
    step: u64,
    /// Evaluations in a row that reached `eval.stop_at`.
    mastered: u64,
    /// Steps in a row without any group to learn from, and optimiser steps skipped in a row.
    idle: u64,
    skips: u64,
    /// Whether it has been said that a gate's network gave NaN.
    gate_nan: bool,
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
        Self::create_telling(config, dir, &mut |_, _| ())
    }

    /// [`Trainer::create`], which tells how many supervised steps are done after each, and its loss: the mean negative log-probability of
    /// a token of the right answers, in nats.
    ///
    /// # Errors
    /// As [`Trainer::create`].
    pub fn create_telling(
        config: Config,
        dir: RunDir,
        tell: &mut dyn FnMut(u64, f64),
    ) -> Result<Self, TrainError> {
        let (codec, architecture) = setup::codec_and_model(&config)?;
        let model = setup::initial_model(&config, &architecture)?;
        let mut trainer = Self::assemble(config, dir, codec, model)?;
        trainer.dir.write("config.toml", &trainer.config.to_toml())?;
        trainer.warm_start(tell)?;
        if trainer.penalises_kl() {
            trainer.learner.model.save(&trainer.dir.file(REFERENCE), qwen3::SaveType::F32)?;
            trainer.load_reference()?;
        }
        trainer.save()?;
        Ok(trainer)
    }

    fn assemble(config: Config, dir: RunDir, codec: TextCodec, model: Policy) -> Result<Self, TrainError> {
        let choice = config.loss_choice().map_err(|(key, reason)| ConfigError::Invalid {
            key: key.into(),
            value: config.loss.objective.clone(),
            origin: "config.toml".into(),
            reason,
        })?;
        let source = setup::prompt_source(&config, &codec, model.config())?;
        let gate = GateSetup::new(&config.gate, &codec, model.config())?;
        let mut learner = Learner::new(model, choice.loss, &config);
        if let Some(gate) = &gate {
            learner.replay_masks(gate.table().clone());
        }
        let mut trainer = Self {
            stages: Stages {
                source,
                rewarder: Box::new(WeightedSum::new(&config.reward, config.rollout.max_new_tokens)?),
                sampler: Sampler::new(&config, &codec).with_gate(gate).with_draft(&config)?,
            },
            ahead: VecDeque::new(),
            failed: None,
            guards: Guards::new(&config.guard),
            learner,
            estimator: choice.estimator,
            codec,
            config,
            dir,
            step: 0,
            mastered: 0,
            idle: 0,
            skips: 0,
            gate_nan: false,
            save_failed: false,
            saving_seconds: 0.0,
        };
        trainer.publish()?;
        Ok(trainer)
    }

    fn publish(&mut self) -> Result<(), TrainError> {
        self.stages.sampler.publish(&self.learner.model, self.step)
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
        let nothing = self.config.eval.every == 0 || self.stages.source.held_out().is_empty();
        if self.step > 0 || measured || nothing {
            return Ok(None);
        }
        let mut row = Row::new(0);
        row.set("data/level", self.stages.source.level());
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
        let Collected { mut samples, measured, news, version } = self.next_batch()?;
        measured.put_into(&mut row);
        let staleness = self.step - version;
        row.set("rollout/staleness", staleness as f64);
        self.assign_advantages(&mut samples)?;
        let update = self.update(&mut samples, &mut row)?;
        self.step += 1;
        self.refresh_gate(&samples, &mut row)?;
        let publishing = Instant::now();
        self.publish()?;
        row.set("time/sync", publishing.elapsed().as_secs_f64());

        let every = self.config.eval.every;
        if every > 0 && (self.step.is_multiple_of(every) || self.is_done()) {
            self.evaluate(&mut row)?;
            let (exact, wanted) = (row.get("eval/heldout/exact"), self.config.eval.stop_at);
            let reached = wanted > 0.0 && exact.is_some_and(|exact| exact >= wanted);
            self.mastered = if reached { self.mastered + 1 } else { 0 };
        }
        row.update(&update);
        if staleness > 0 {
            // What parts the sampler from the trainer is the steps between them, not their arithmetic.
            row.move_prefix("mismatch/", "stale/");
        }
        record::totals(&mut row, &samples, start.elapsed().as_secs_f64());
        let alarms = self.guards.check(&row, self.learner.norms());
        self.log(&row, &samples, news.as_deref(), &alarms, &update)?;
        row.set("time/checkpoint", self.saving_seconds);
        self.dir.append("metrics.jsonl", &row.to_json())?;
        // Last, so that a checkpoint never knows of a step that the logs do not.
        let checkpoint = self.save_if_due();
        let report = StepReport { row, alarms, news, checkpoint };
        let told = self.stop_if_told(&report, &update);
        if told.is_err() && report.checkpoint.is_none() {
            // Someone will want to look at it, or go on with other settings; and why the run stops matters more than
            // that it could not be saved.
            let _ = self.save();
        }
        told?;
        Ok(report)
    }

    /// The batch whose turn it is: sampled ahead, or now.
    fn next_batch(&mut self) -> Result<Collected, TrainError> {
        match (self.ahead.pop_front(), self.failed.take()) {
            (Some(batch), failed) => {
                self.failed = failed;
                Ok(batch)
            }
            (None, Some(error)) => Err(error),
            (None, None) => self.stages.collect(&self.config, &self.codec),
        }
    }

    /// The update, and beside it the batches that may be sampled ahead.
    fn update(&mut self, samples: &mut [Sample], row: &mut Row) -> Result<UpdateReport, TrainError> {
        let to_come = (self.config.run.steps - self.step - 1) as usize;
        let room = self.config.rollout.max_staleness.min(to_come).saturating_sub(self.ahead.len());
        let Self { stages, learner, config, codec, step, .. } = self;
        let mut train = || match samples.is_empty() {
            true => Ok(UpdateReport::default()),
            false => learner.update(samples, *step),
        };
        let sample = || (0..room).map(|_| stages.collect(config, codec)).collect::<Vec<_>>();
        let (report, batches) = if room == 0 { (train(), Vec::new()) } else { rayon::join(train, sample) };
        for batch in batches {
            match batch {
                Ok(batch) if self.failed.is_none() => self.ahead.push_back(batch),
                Ok(_) => {}
                // In its turn: the steps before it are not lost.
                Err(error) => drop(self.failed.get_or_insert(error)),
            }
        }
        let report = report?;
        if samples.is_empty() {
            self.idle += 1;
            return Ok(report);
        }
        self.idle = 0;
        row.set("optim/skipped", report.skipped.len() as f64);
        let all_skipped = report.skipped.len() == report.grad_norms.len();
        self.skips = if all_skipped { self.skips + report.skipped.len() as u64 } else { 0 };
        Ok(report)
    }

    /// Fits the gate to the step's samples and the new weights, where that is due. The step's own masks are not touched: they
    /// are recorded.
    fn refresh_gate(&mut self, samples: &[Sample], row: &mut Row) -> Result<(), TrainError> {
        let Some(gate) = self.stages.sampler.gate_setup_mut() else { return Ok(()) };
        let Some(version) = gate.version() else { return Ok(()) };
        row.set("lcg/gate_version", version.into());
        let settings = &self.config.gate;
        if settings.refresh_every == 0 || !self.step.is_multiple_of(settings.refresh_every) {
            return Ok(());
        }
        let start = Instant::now();
        let seed = self.config.run.seed.wrapping_add(self.step);
        let message = match gate.refresh(&self.learner.model, samples, settings.refresh_steps, seed)? {
            None => "the gate was not refreshed: the step has fewer than two prompts".to_owned(),
            Some(found) => {
                row.set("lcg/label_agreement", found.agreement_before);
                row.set("lcg/refreshed_agreement", found.agreement);
                match (found.replaced, gate.version()) {
                    (true, Some(version)) => format!("the gate was refreshed: version {version}"),
                    _ => "the gate stays: no fit had a lower held-out loss".to_owned(),
                }
            }
        };
        row.set("time/gate", start.elapsed().as_secs_f64());
        Ok(self.dir.event(self.step, "gate", "gate", &message, &[])?)
    }

    fn log(
        &mut self,
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
        let nan = row.get("lcg/nan_rate").filter(|rate| *rate > 0.0 && !self.gate_nan);
        if let Some(rate) = nan {
            // Once: the metric goes on counting.
            self.gate_nan = true;
            let message = format!(
                "the gate's network gave NaN at {:.2} % of the step's tokens, where nothing was denied",
                100.0 * rate
            );
            self.dir.event(self.step, "gate", "gate", &message, &["train the gate again for this model"])?;
        }
        let groups = self.config.log.rollout_groups;
        if groups != 0 {
            let limit = if groups < 0 { usize::MAX } else { groups as usize };
            let text = record::rollouts(samples, self.step, limit, &self.codec);
            self.dir.write(&format!("rollouts/step-{:06}.jsonl", row.step), &text)?;
        }
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
    fn warm_start(&mut self, tell: &mut dyn FnMut(u64, f64)) -> Result<(), TrainError> {
        let settings = self.config.warm_start.clone();
        for step in 1..=settings.steps {
            let prompts = self.stages.source.next(settings.prompts)?;
            let samples = record::demonstrations(prompts, &self.codec)?;
            tell(step, self.learner.imitate(&samples, settings.lr)?);
        }
        if settings.steps > 0 {
            self.learner.optimizer = crate::optim::AdamW::new(&self.learner.model, &self.config.update);
            let message = format!("{} supervised steps before the first rollout", settings.steps);
            self.dir.event(0, "warm_start", "run", &message, &[])?;
        }
        self.publish()
    }
}
