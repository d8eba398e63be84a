//! What must hold between values, and what they amount to.

use policy_loss::{
    AdvantageEstimator, Base, Control, Correction, EntropyBonus, KlKind, KlPenalty, Level, LossConfig,
    PolicyLoss,
};
use toml::{Table, Value};

use super::layers::{ConfigError, deep_merge, typed};
use super::model::{Architecture, Config, Routing};
use crate::data::{COV, TASKS};

/// What the `[loss]` and `[advantage]` sections amount to.
#[derive(Clone, Debug)]
pub struct LossChoice {
    /// The checked loss.
    pub loss: PolicyLoss,
    /// The advantage estimator.
    pub estimator: AdvantageEstimator,
}

fn invalid(
    key: &str,
    value: impl ToString,
    origin: &dyn Fn(&str) -> String,
    reason: impl Into<String>,
) -> ConfigError {
    ConfigError::Invalid {
        key: key.into(),
        value: value.to_string(),
        origin: origin(key),
        reason: reason.into(),
    }
}

impl Config {
    /// Refuses values without a meaning; `origin` says where a key was set.
    pub(super) fn check(&self, origin: &dyn Fn(&str) -> String) -> Result<(), ConfigError> {
        self.check_counts(origin)?;
        self.check_ranges(origin)?;
        self.check_data(origin)?;
        self.gate.check().map_err(|(key, value, reason)| invalid(key, value, origin, reason))?;
        if self.update.minibatches > self.rollout.prompts {
            return Err(invalid(
                "update.minibatches",
                self.update.minibatches,
                origin,
                format!("a batch of {} groups cannot be split so often", self.rollout.prompts),
            ));
        }
        if self.rollout.max_staleness > 0
            && self.model.path.is_empty()
            && self.model.architecture == Architecture::Qwen3Vl
        {
            let reason = "batches with images are not sampled ahead: a checkpoint cannot hold their pixels";
            return Err(invalid("rollout.max_staleness", self.rollout.max_staleness, origin, reason));
        }
        if self.rollout.max_staleness > 0 && self.gate.enabled {
            let reason = "batches under a gate are not sampled ahead: a checkpoint does not hold their masks";
            return Err(invalid("rollout.max_staleness", self.rollout.max_staleness, origin, reason));
        }
        if !self.rollout.draft.is_empty() && self.data.turns > 1 {
            let reason = "conversations of several turns cannot be drafted for (data.turns)";
            return Err(invalid("rollout.draft", &self.rollout.draft, origin, reason));
        }
        if matches!(self.update.routing, Routing::R2 | Routing::R3)
            && self.model.path.is_empty()
            && self.model.architecture != Architecture::Qwen3Moe
        {
            let routing = format!("{:?}", self.update.routing).to_lowercase();
            return Err(invalid("update.routing", routing, origin, "the model has no experts to replay"));
        }
        self.loss_choice().map(drop).map_err(|(key, reason)| {
            let value =
                if key == "advantage.estimator" { &self.advantage.estimator } else { &self.loss.objective };
            invalid(key, value, origin, reason)
        })
    }

    fn check_counts(&self, origin: &dyn Fn(&str) -> String) -> Result<(), ConfigError> {
        let counts = [
            ("run.steps", self.run.steps as usize),
            ("rollout.prompts", self.rollout.prompts),
            ("rollout.group", self.rollout.group),
            ("rollout.max_new_tokens", self.rollout.max_new_tokens),
            ("rollout.max_rows", self.rollout.max_rows),
            ("rollout.draft_tokens", self.rollout.draft_tokens),
            ("update.minibatches", self.update.minibatches),
            ("update.epochs", self.update.epochs),
            ("update.tokens_per_micro", self.update.tokens_per_micro),
            ("update.parallel_micros", self.update.parallel_micros),
            ("warm_start.prompts", self.warm_start.prompts),
            ("eval.prompts", self.eval.prompts),
            ("ckpt.keep_last", self.ckpt.keep_last),
            ("data.advance_after", self.data.advance_after as usize),
            ("filter.patience", self.filter.patience as usize),
            ("update.max_skips", self.update.max_skips as usize),
            ("guard.patience", self.guard.patience as usize),
        ];
        match counts.iter().find(|(_, count)| *count == 0) {
            Some((key, _)) => Err(invalid(key, 0, origin, "expected 1 or more")),
            None => Ok(()),
        }
    }

    fn check_ranges(&self, origin: &dyn Fn(&str) -> String) -> Result<(), ConfigError> {
        let ranges = [
            ("rollout.temperature", f64::from(self.rollout.temperature), 1e-3, 100.0),
            ("rollout.top_p", f64::from(self.rollout.top_p), 1e-9, 1.0),
            ("rollout.min_p", f64::from(self.rollout.min_p), 0.0, 1.0),
            ("eval.stop_at", self.eval.stop_at, 0.0, 1.0),
            ("data.advance_at", self.data.advance_at, 0.0, 1.0),
            ("data.mix_share", self.data.mix_share, 0.0, 1.0),
            ("data.eval_share", self.data.eval_share, 0.0, 0.9),
            ("reward.max_error_share", self.reward.max_error_share, 0.0, 1.0),
            ("filter.max_extra", self.filter.max_extra, 1.0, 1000.0),
            ("run.max_minutes", self.run.max_minutes, 0.0, 1e9),
            ("loss.kl_coef", self.loss.kl_coef, 0.0, 1e6),
            ("loss.entropy_coef", self.loss.entropy_coef, -1e6, 1e6),
            ("update.lr", self.update.lr, 0.0, 10.0),
            ("update.beta1", self.update.beta1, 0.0, 0.999_999),
            ("update.beta2", self.update.beta2, 0.0, 0.999_999_9),
            ("update.eps", self.update.eps, 1e-30, 1.0),
            ("update.weight_decay", self.update.weight_decay, 0.0, 10.0),
            ("update.clip_norm", self.update.clip_norm, 0.0, 1e9),
            ("update.router_aux_coef", self.update.router_aux_coef, 0.0, 1e3),
            ("update.skip_norm", self.update.skip_norm, 0.0, 1e9),
            ("warm_start.lr", self.warm_start.lr, 0.0, 10.0),
            ("guard.extreme_max", self.guard.extreme_max, 0.0, 1.0),
            ("guard.mismatch_rise", self.guard.mismatch_rise, 1.0, 1e9),
            ("guard.entropy_drop", self.guard.entropy_drop, 0.0, 1.0),
            ("guard.coverage_min", self.guard.coverage_min, 0.0, 1.0),
        ];
        let greedy = self.eval.temperature == 0.0;
        let sampled = ("eval.temperature", f64::from(self.eval.temperature), 1e-3, 100.0);
        for (key, value, low, high) in ranges.into_iter().chain((!greedy).then_some(sampled)) {
            if !(low..=high).contains(&value) {
                return Err(invalid(key, value, origin, format!("expected {low} to {high}")));
            }
        }
        Ok(())
    }

    fn check_data(&self, origin: &dyn Fn(&str) -> String) -> Result<(), ConfigError> {
        let data = &self.data;
        match (data.task.is_empty(), data.path.is_empty()) {
            (true, true) => {
                return Err(invalid(
                    "data.task",
                    "\"\"",
                    origin,
                    "set a task, or data.path to a file of prompts",
                ));
            }
            (false, true) if data.task != COV && !TASKS.contains(&data.task.as_str()) => {
                return Err(invalid(
                    "data.task",
                    &data.task,
                    origin,
                    format!("expected one of {}, {COV}", TASKS.join(", ")),
                ));
            }
            (false, true) if data.levels.is_empty() || data.levels.contains(&0) => {
                return Err(invalid(
                    "data.levels",
                    format!("{:?}", data.levels),
                    origin,
                    "expected sizes of 1 or more",
                ));
            }
            (false, true) if data.turns == 0 || (data.turns > 1 && data.task == "shapes") => {
                let reason = "expected 1 or more turns, and 1 for a task that shows pictures";
                return Err(invalid("data.turns", data.turns, origin, reason));
            }
            _ => {}
        }
        if self.reward.parts.is_empty() {
            return Err(invalid("reward.parts", "[]", origin, "a run without a reward has nothing to learn"));
        }
        Ok(())
    }

    /// What `[loss]` and `[advantage]` amount to, or the key at fault and why.
    ///
    /// # Errors
    /// When a name is unknown or settings do not go together.
    pub fn loss_choice(&self) -> Result<LossChoice, (&'static str, String)> {
        let in_loss = |e: policy_loss::Error| ("loss.objective", e.to_string());
        let (mut loss, preset_estimator) =
            LossConfig::preset(&self.loss.objective, self.rollout.max_new_tokens).map_err(in_loss)?;
        loss.kl = (self.loss.kl_coef > 0.0).then_some(KlPenalty {
            kind: KlKind::K3,
            beta: self.loss.kl_coef,
            clamp: true,
        });
        loss.entropy = (self.loss.entropy_coef != 0.0)
            .then(|| EntropyBonus { coef: self.loss.entropy_coef, aggregation: Default::default() });
        let base = if self.loss.objective == "reinforce_is" { Base::Full } else { Base::Mismatch };
        let token = |control| Some(Correction { base, level: Level::Token, control, batch_normalize: false });
        match self.loss.correction.as_str() {
            "auto" => {}
            "none" => loss.correction = None,
            "tis" => loss.correction = token(Control::Truncate { max: 2.0, min: 0.0 }),
            "icepop" => loss.correction = token(Control::Mask { min: 0.5, max: 5.0 }),
            other => {
                return Err(("loss.correction", format!("`{other}` is not one of auto, none, tis, icepop")));
            }
        }
        if !self.loss.overrides.is_empty() {
            let in_overrides = |e: String| ("loss.overrides", e);
            let table = Value::try_from(&loss).map_err(|e| in_overrides(e.to_string()))?;
            let Value::Table(mut table) = table else { return Err(in_overrides("not a table".into())) };
            deep_merge(&mut table, &self.loss.overrides);
            loss = typed::<LossConfig>(table).map_err(in_overrides)?;
        }
        let estimator = match self.advantage.estimator.as_str() {
            "auto" => preset_estimator,
            name => typed(Table::from_iter([("kind".to_owned(), Value::String(name.into()))]))
                .map_err(|e| ("advantage.estimator", e))?,
        };
        let in_estimator =
            |why: &str| Err(("advantage.estimator", format!("{} {why}", self.advantage.estimator)));
        if estimator.is_token_level() {
            return in_estimator("gives one advantage a token, and a sample of the trainer carries one");
        }
        if let AdvantageEstimator::Gdpo { .. } = estimator {
            return in_estimator("needs rewards by component, and a sample of the trainer carries their sum");
        }
        Ok(LossChoice { loss: loss.validate().map_err(in_loss)?, estimator })
    }
}

/// The arithmetic of a step in one sentence.
#[must_use]
pub fn batch_sentence(config: &Config) -> String {
    let (rollout, update) = (&config.rollout, &config.update);
    let samples = rollout.prompts * rollout.group;
    let per_update = samples.div_ceil(update.minibatches);
    let updates = update.minibatches * update.epochs;
    let plural = |n: usize, what: &str| if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") };
    format!(
        "{} × {} = {samples} samples a step; {} of about {per_update} samples, {} over the batch: {} a step, in passes of at most {} tokens",
        plural(rollout.prompts, "prompt"),
        plural(rollout.group, "sample"),
        if update.minibatches == 1 {
            "1 mini-batch".to_owned()
        } else {
            format!("{} mini-batches", update.minibatches)
        },
        plural(update.epochs, "pass").replace("passs", "passes"),
        plural(updates, "optimiser step"),
        update.tokens_per_micro,
    )
}
