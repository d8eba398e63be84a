//! Guards: signs of a run that goes wrong, with likely causes and what to try.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::Guard;
use crate::learner::median;
use crate::metrics::Row;

/// A guard that fired.
#[derive(Clone, Debug, PartialEq)]
pub struct Alarm {
    /// Its name.
    pub name: &'static str,
    /// What was seen and what it likely means.
    pub message: String,
    /// What to try, most promising first.
    pub advice: &'static [&'static str],
}

/// Watches the metrics of a run. Each guard speaks once until its sign has gone.
#[derive(Clone, Debug)]
pub struct Guards {
    settings: Guard,
    state: State,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    low_entropy: u64,
    active: Vec<String>,
    /// Recent training rewards and held-out rewards, to see them part.
    rewards: Vec<f64>,
    evals: Vec<f64>,
}

impl Guards {
    /// Guards with the bounds of the configuration.
    #[must_use]
    pub fn new(settings: &Guard) -> Self {
        Self { settings: settings.clone(), state: State::default() }
    }

    /// What a checkpoint must hold.
    #[must_use]
    pub fn state(&self) -> Value {
        json!(self.state)
    }

    /// Goes back to a saved state.
    ///
    /// # Errors
    /// When the state is of another form.
    pub fn restore(&mut self, state: &Value) -> Result<(), String> {
        self.state = serde_json::from_value(state.clone()).map_err(|e| e.to_string())?;
        Ok(())
    }

    /// Looks at a step. `norms` are the gradient norms of the steps before.
    pub fn check(&mut self, row: &Row, norms: &[f64]) -> Vec<Alarm> {
        let s = self.settings.clone();
        let value = |name: &str| row.get(name).unwrap_or(f64::NAN);
        let exact = row.get("reward/exact_rate");
        let solved = exact.map_or(value("reward/mean") >= value("reward/max"), |rate| rate >= s.solved);
        let entropy = value("policy/entropy");
        self.state.low_entropy =
            if entropy < s.entropy_min && !solved { self.state.low_entropy + 1 } else { 0 };
        let mut signs = Vec::new();
        let mut sign =
            |on: bool, name, message: String, advice| signs.push((on, Alarm { name, message, advice }));
        sign(
            self.state.low_entropy >= s.entropy_steps,
            "entropy_collapse",
            format!(
                "entropy {entropy:.3} has stayed below {} nats for {} steps while {} of samples are right: the policy has collapsed onto a wrong answer and no longer explores",
                s.entropy_min,
                self.state.low_entropy,
                exact.map_or("few".into(), |e| format!("{:.0} %", 100.0 * e)),
            ),
            &[
                "add an entropy bonus: --set loss.entropy_coef=0.01",
                "draw more samples of a prompt: --set rollout.group=16",
                "begin with supervised steps: --set warm_start.steps=300",
            ],
        );
        let zero = value("group/zero_std_share");
        sign(
            zero > s.zero_variance_max && !solved,
            "no_signal",
            format!(
                "{:.0} % of groups got the same reward for all samples: there is almost nothing to learn from",
                100.0 * zero
            ),
            &[
                "make the reward finer, or the task easier (data.levels)",
                "draw new prompts for such groups: --set filter.zero_variance=drop --set filter.dynamic=true",
            ],
        );
        let truncated = value("len/truncated_share");
        sign(
            truncated > s.truncated_max,
            "truncation",
            format!(
                "{:.0} % of responses are cut at the limit: their endings are never rewarded",
                100.0 * truncated
            ),
            &[
                "allow longer responses: --set rollout.max_new_tokens=…",
                "reward ending (kind = \"ended\" or \"length\")",
            ],
        );
        let norm = value("optim/grad_norm");
        let usual = median(norms).filter(|_| norms.len() >= 10).unwrap_or(f64::INFINITY);
        sign(
            norm > s.grad_norm_spike * usual || norm.is_infinite(),
            "grad_norm_spike",
            format!("gradient norm {norm:.3} against a median of {usual:.3}"),
            &["lower the learning rate: --set update.lr=…", "skip such steps: --set update.skip_norm=10"],
        );
        let mismatch = value("mismatch/k3");
        sign(
            mismatch > s.mismatch_max,
            "mismatch",
            format!("sampler and trainer disagree on log-probabilities (k3 {mismatch:.4} nats a token)"),
            &[
                "correct for it: --set loss.correction=tis",
                "replay the sampler's experts: --set update.routing=r3",
            ],
        );
        self.hacking(row, &mut signs);
        let mut fired = Vec::new();
        for (on, alarm) in signs {
            let was = self.state.active.iter().any(|n| n == alarm.name);
            if on && !was {
                self.state.active.push(alarm.name.into());
                fired.push(alarm);
            } else if !on {
                self.state.active.retain(|n| n != alarm.name);
            }
        }
        fired
    }

    /// Training reward rises while held-out reward falls.
    fn hacking(&mut self, row: &Row, signs: &mut Vec<(bool, Alarm)>) {
        let (Some(reward), Some(eval)) = (row.get("reward/mean"), row.get("eval/heldout/reward")) else {
            return;
        };
        self.state.rewards.push(reward);
        self.state.evals.push(eval);
        let n = self.state.rewards.len();
        let on = n >= 4 && {
            let change = |v: &[f64]| v[n - 1] - v[n - 4];
            change(&self.state.rewards) > 0.05 && change(&self.state.evals) < -0.05
        };
        signs.push((
            on,
            Alarm {
                name: "reward_hacking",
                message: format!(
                    "reward rises in training ({reward:.3}) while it falls on held-out prompts ({eval:.3})"
                ),
                advice: &[
                    "read samples: trainer rollouts RUN --sort reward",
                    "hold the policy back: --set loss.kl_coef=0.01",
                ],
            },
        ));
    }
}
