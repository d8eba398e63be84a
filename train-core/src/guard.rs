//! Guards: signs of a run that goes wrong, with likely causes and what to try.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::Guard;
use crate::learner::median;
use crate::metrics::Row;
use crate::verdict::verdict;

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

/// Guards that speak at the first sign.
const SUDDEN: [&str; 5] =
    ["grad_norm_spike", "reward_hacking", "mismatch_rise", "entropy_drop", "route_coverage"];

/// Values remembered for running medians.
const RECENT: usize = 50;
/// Steps before a running median means anything.
const SETTLED: usize = 10;

/// The median of what was remembered before `value`, which is then remembered too.
fn remember(recent: &mut Vec<f64>, value: f64) -> Option<f64> {
    let before = median(recent).filter(|_| recent.len() >= SETTLED);
    if value.is_finite() {
        recent.push(value);
        if recent.len() > RECENT {
            recent.remove(0);
        }
    }
    before
}

/// Watches the metrics of a run. A guard speaks when its sign has lasted for `guard.patience` steps, and again only
/// after the sign has gone.
#[derive(Clone, Debug)]
pub struct Guards {
    settings: Guard,
    state: State,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    /// Steps in a row in which the sign of a guard was there.
    streaks: BTreeMap<String, u64>,
    /// Recent training rewards and held-out rewards, to see them part.
    rewards: Vec<f64>,
    evals: Vec<f64>,
    /// Recent entropies and divergences of sampler and trainer, to see a sudden change.
    #[serde(default)]
    entropies: Vec<f64>,
    #[serde(default)]
    mismatches: Vec<f64>,
}

const AGAINST_MISMATCH: &[&str] = &[
    "correct for it: --set loss.correction=tis",
    "replay the sampler's experts: --set update.routing=r3",
    "raise the sampler's precision: --set rollout.precision=f32",
];

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
        let mut signs = Vec::new();
        let mut sign =
            |on: bool, name, message: String, advice| signs.push((on, Alarm { name, message, advice }));
        sign(
            entropy < s.entropy_min && !solved,
            "entropy_collapse",
            format!(
                "entropy {entropy:.3} has stayed below {} nats for {} steps while {} of samples are right: the policy has collapsed onto a wrong answer and no longer explores",
                s.entropy_min,
                s.patience,
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
        // What is told to try is the guard's own; a verdict's would come second.
        let found =
            verdict(&|name| row.get(name), "", "").map_or(String::new(), |v| format!("; {}", v.finding));
        sign(
            mismatch > s.mismatch_max,
            "mismatch",
            format!(
                "sampler and trainer disagree on log-probabilities (k3 {mismatch:.4} nats a token){found}"
            ),
            AGAINST_MISMATCH,
        );
        let extreme = value("mismatch/extreme");
        sign(
            extreme > s.extreme_max,
            "mismatch_extreme",
            format!(
                "sampler and trainer differ by more than a factor of 2 in {:.1} % of tokens{found}",
                100.0 * extreme
            ),
            AGAINST_MISMATCH,
        );
        let before = remember(&mut self.state.mismatches, mismatch).unwrap_or(f64::INFINITY);
        sign(
            mismatch > s.mismatch_rise * before && mismatch > s.mismatch_max / 10.0,
            "mismatch_rise",
            format!(
                "divergence of sampler and trainer {mismatch:.1e} against a median of {before:.1e}: it often rises before a run collapses{found}"
            ),
            AGAINST_MISMATCH,
        );
        let before = remember(&mut self.state.entropies, entropy).unwrap_or(0.0);
        sign(
            entropy < s.entropy_drop * before && !solved,
            "entropy_drop",
            format!("entropy {entropy:.3} against a median of {before:.3} nats, while answers are wrong"),
            &[
                "lower the learning rate: --set update.lr=…",
                "add an entropy bonus: --set loss.entropy_coef=0.01",
            ],
        );
        let coverage = value("route/coverage");
        sign(
            coverage < s.coverage_min,
            "route_coverage",
            format!("experts were recorded for {:.2} % of replayed tokens only", 100.0 * coverage),
            &["look for what loses them: the sampler records every token it feeds"],
        );
        self.hacking(row, &mut signs);
        signs.extend(flagged(row));
        signs.extend(canary_gap(row));
        let mut fired = Vec::new();
        for (on, alarm) in signs {
            // A spike or parted curves are an event; the other signs must last.
            let patience = match alarm.name {
                name if SUDDEN.contains(&name) => 1,
                "canary_gap" => CANARY_PATIENCE,
                _ => s.patience,
            };
            let streak = self.state.streaks.entry(alarm.name.into()).or_default();
            *streak = if on { *streak + 1 } else { 0 };
            if *streak == patience {
                fired.push(alarm);
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

/// Share of a task's answers with one flag that is too much, and distance of training from held-out scores that is.
const FLAGGED_MAX: f64 = 0.05;
const CANARY_GAP: f64 = 0.1;
/// Evaluations in a row.
const CANARY_PATIENCE: u64 = 3;

/// A verifier flags answers (`reward/<task>/flag/<name>`): something else than the task may be learned.
fn flagged(row: &Row) -> Option<(bool, Alarm)> {
    let flags = row.values().filter(|(name, _)| name.starts_with("reward/") && name.contains("/flag/"));
    let (name, share) = flags.max_by(|a, b| a.1.total_cmp(&b.1))?;
    let message =
        format!("{:.0} % of answers have {name}: the reward may be gained without the task", 100.0 * share);
    let advice: &[&str] = &[
        "read samples: trainer rollouts RUN --sort reward",
        "hold the policy back: --set loss.kl_coef=0.01",
    ];
    Some((share > FLAGGED_MAX, Alarm { name: "flagged", message, advice }))
}

/// Verified scores in training lie above those of instances that never train.
fn canary_gap(row: &Row) -> Option<(bool, Alarm)> {
    let gaps = row.values().filter_map(|(name, held_out)| {
        let task = name.strip_prefix("eval/")?.strip_suffix("/score")?;
        Some((task, row.get(&format!("reward/{task}/score"))? - held_out))
    });
    let (task, gap) = gaps.max_by(|a, b| a.1.total_cmp(&b.1))?;
    let message = format!("{task} scores {gap:.3} higher in training than on instances that never train");
    let advice: &[&str] = &["lower the learning rate: --set update.lr=…", "draw from more tasks: cov.tasks"];
    Some((gap > CANARY_GAP, Alarm { name: "canary_gap", message, advice }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::config::Layers;

    fn guards() -> Guards {
        Guards::new(&Layers::defaults().resolve().unwrap().guard)
    }

    fn healthy() -> Row {
        let mut row = Row::new(1);
        for (name, value) in [
            ("reward/mean", 0.5),
            ("reward/max", 1.0),
            ("reward/exact_rate", 0.2),
            ("policy/entropy", 1.0),
            ("group/zero_std_share", 0.1),
            ("len/truncated_share", 0.0),
            ("optim/grad_norm", 1.0),
            ("mismatch/k3", 0.0),
            ("mismatch/extreme", 0.0),
            ("route/coverage", 1.0),
        ] {
            row.set(name, value);
        }
        row
    }

    fn names(guards: &mut Guards, row: &Row, steps: usize) -> Vec<(usize, &'static str)> {
        let fired = (1..=steps)
            .flat_map(|step| guards.check(row, &[1.0; 20]).into_iter().map(move |alarm| (step, alarm.name)));
        fired.collect()
    }

    #[test]
    fn a_healthy_run_raises_none() {
        assert_eq!(names(&mut guards(), &healthy(), 50), []);
    }

    #[test]
    fn each_sign_raises_its_own_guard_once_it_has_lasted() {
        for (name, value, guard) in [
            ("policy/entropy", 0.01, "entropy_collapse"),
            ("group/zero_std_share", 0.99, "no_signal"),
            ("len/truncated_share", 0.9, "truncation"),
            ("mismatch/k3", 0.5, "mismatch"),
            ("mismatch/extreme", 0.02, "mismatch_extreme"),
        ] {
            let mut row = healthy();
            row.set(name, value);
            assert_eq!(names(&mut guards(), &row, 50), [(10, guard)]);
        }
        let mut row = healthy();
        row.set("optim/grad_norm", 100.0);
        assert_eq!(names(&mut guards(), &row, 3), [(1, "grad_norm_spike")]);
    }

    #[test]
    fn guards_of_the_mismatch_say_what_dominates_and_by_which_numbers() {
        let finding = |staleness: f64, head: &str| {
            format!(
                "; {head} (k3 of sampler and trainer 5.0e-1, of old and current policy {staleness:.1e} nats a token; router flips between the engines in tokens: 9.0 %)"
            )
        };
        for (staleness, head) in [(0.01, "discrepancy dominates"), (2.0, "staleness dominates")] {
            let mut row = healthy();
            for (name, value) in
                [("policy/kl_old", staleness), ("mismatch/flip_tokens", 0.09), ("mismatch/extreme", 0.02)]
            {
                row.set(name, value);
            }
            let mut guards = guards();
            for _ in 0..20 {
                row.set("mismatch/k3", 2e-4);
                guards.check(&row, &[1.0; 20]);
            }
            row.set("mismatch/k3", 0.5);
            // The first step shows the rise; the others have to last.
            let fired: Vec<Alarm> = (0..10).flat_map(|_| guards.check(&row, &[1.0; 20])).collect();
            let names: Vec<_> = fired.iter().map(|alarm| alarm.name).collect();
            assert_eq!(names, ["mismatch_rise", "mismatch"]);
            assert!(
                fired.iter().all(|alarm| alarm.message.ends_with(&finding(staleness, head))),
                "{fired:?}"
            );
        }
        // Where only few tokens differ, but by much.
        let mut row = healthy();
        row.set("mismatch/extreme", 0.02);
        let mut guards = guards();
        let fired: Vec<Alarm> = (0..10).flat_map(|_| guards.check(&row, &[1.0; 20])).collect();
        assert!(
            fired[0].message.contains("2.0 % of tokens; neither discrepancy nor staleness is large (k3"),
            "{fired:?}"
        );
    }

    #[test]
    fn a_sudden_change_raises_its_guard_at_once() {
        for (name, usual, value, guard) in [
            ("mismatch/k3", 2e-4, 5e-3, "mismatch_rise"),
            ("policy/entropy", 1.0, 0.1, "entropy_drop"),
            ("route/coverage", 1.0, 0.99, "route_coverage"),
        ] {
            let mut guards = guards();
            let mut row = healthy();
            row.set(name, usual);
            assert_eq!(names(&mut guards, &row, 20), [], "{name}");
            row.set(name, value);
            assert_eq!(names(&mut guards, &row, 3), [(1, guard)]);
        }
        // Below a tenth of what is too much, a rise is noise.
        let mut guards = guards();
        let mut row = healthy();
        row.set("mismatch/k3", 1e-7);
        names(&mut guards, &row, 20);
        row.set("mismatch/k3", 1e-5);
        assert_eq!(names(&mut guards, &row, 3), []);
    }

    #[test]
    fn a_sign_that_goes_away_in_time_is_forgotten_and_may_come_again() {
        let mut guards = guards();
        let mut low = healthy();
        low.set("policy/entropy", 0.01);
        assert_eq!(names(&mut guards, &low, 9), []);
        assert_eq!(names(&mut guards, &healthy(), 1), []);
        assert_eq!(names(&mut guards, &low, 20), [(10, "entropy_collapse")]);
        assert_eq!(names(&mut guards, &healthy(), 1), []);
        assert_eq!(names(&mut guards, &low, 20), [(10, "entropy_collapse")]);
    }

    #[test]
    fn flags_and_scores_that_training_alone_has_are_named() {
        let mut row = healthy();
        row.set("reward/fsm/flag/echo", 0.06);
        assert_eq!(names(&mut guards(), &row, 20), [(10, "flagged")]);
        row.set("reward/fsm/flag/echo", 0.05);
        row.set("reward/fsm/score", 0.7);
        row.set("eval/fsm/score", 0.61);
        assert_eq!(names(&mut guards(), &row, 20), []);
        // Steps without an evaluation between do not count.
        row.set("eval/fsm/score", 0.59);
        let mut guards = guards();
        assert_eq!(names(&mut guards, &row, 2), []);
        assert_eq!(names(&mut guards, &healthy(), 5), []);
        assert_eq!(names(&mut guards, &row, 5), [(1, "canary_gap")]);
    }

    #[test]
    fn mastery_is_not_collapse() {
        let mut row = healthy();
        row.set("policy/entropy", 0.001);
        row.set("group/zero_std_share", 1.0);
        row.set("reward/exact_rate", 0.99);
        assert_eq!(names(&mut guards(), &row, 50), []);
    }

    #[test]
    fn a_restored_guard_goes_on_counting() {
        let mut row = healthy();
        row.set("policy/entropy", 0.01);
        let mut first = guards();
        assert_eq!(names(&mut first, &row, 6), []);
        let mut second = guards();
        second.restore(&first.state()).unwrap();
        assert_eq!(names(&mut second, &row, 10), [(4, "entropy_collapse")]);
    }

    #[test]
    fn reward_that_rises_while_held_out_reward_falls_is_named() {
        let mut guards = guards();
        let mut fired = Vec::new();
        for k in 0..4 {
            let mut row = healthy();
            row.set("reward/mean", 0.4 + 0.05 * f64::from(k));
            row.set("eval/heldout/reward", 0.4 - 0.05 * f64::from(k));
            fired.extend(guards.check(&row, &[]).into_iter().map(|a| a.name));
        }
        assert_eq!(fired, ["reward_hacking"]);
    }
}
