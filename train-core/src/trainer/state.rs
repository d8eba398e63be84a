//! Checkpoints of a run: what one holds, and the way back.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Value, json};

use super::{TrainError, Trainer};
use crate::checkpoint::{self, Checkpoint, CheckpointError, Meta};
use crate::config::Config;
use crate::data::TextCodec;
use crate::policy::Policy;
use crate::rundir::{RunDir, StorageError};

impl Trainer {
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
        trainer.restore_gate(&checkpoint)?;
        trainer.publish()?;
        trainer.dir.rewind(trainer.step)?;
        let message = format!("resumed after step {}", trainer.step);
        trainer.dir.event(trainer.step, "resumed", "run", &message, &[])?;
        Ok((trainer, skipped))
    }

    /// A checkpoint that cannot be written is no reason to lose the run: it is tried again after the next step.
    pub(super) fn save_if_due(&mut self) -> Option<Result<PathBuf, String>> {
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
            "data": self.stages.source.state(),
            "ahead": self.ahead,
            "guards": self.guards.state(),
            "mastered": self.mastered,
            "idle": self.idle,
            "skips": self.skips,
            "grad_norms": self.learner.norms(),
        });
        let dir = self.dir.file("ckpt");
        std::fs::create_dir_all(&dir).map_err(StorageError::at(&dir))?;
        let gate = self.stages.sampler.gate_setup();
        let keep = self.config.ckpt.keep_last;
        Ok(checkpoint::save(&dir, &meta, &self.learner, &self.codec, gate, &stages, keep)?)
    }

    fn restore_gate(&mut self, checkpoint: &Checkpoint) -> Result<(), TrainError> {
        match self.stages.sampler.gate_setup_mut() {
            Some(gate) if checkpoint.has_gate() => Ok(gate.restore(&checkpoint.path, &self.codec)?),
            _ => Ok(()),
        }
    }

    fn restore_stages(&mut self, checkpoint: &Checkpoint) -> Result<(), TrainError> {
        let broken = |reason: String| CheckpointError::Broken { path: checkpoint.path.clone(), reason };
        let stages = &checkpoint.stages;
        self.stages.source.restore(&stages["data"])?;
        self.ahead = serde_json::from_value(stages["ahead"].clone())
            .map_err(|e| broken(format!("stages.json: ahead: {e}")))?;
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
}
