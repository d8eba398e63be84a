//! Progress for people: a bar on a terminal, plain lines elsewhere.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use train_core::config::{Config, Console as Choice};
use train_core::metrics::Row;
use train_core::trainer::StepReport;

/// Where progress goes.
pub(crate) struct Console {
    bar: Option<ProgressBar>,
    quiet: bool,
    /// Plain lines come every so many steps.
    every: u64,
    rewards: Vec<f64>,
}

const SPARKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

impl Console {
    pub(crate) fn new(config: &Config, done: u64) -> Self {
        let choice = match config.log.console {
            Choice::Auto if std::io::stderr().is_terminal() => Choice::Bar,
            Choice::Auto => Choice::Plain,
            chosen => chosen,
        };
        let bar = (choice == Choice::Bar).then(|| {
            let bar = ProgressBar::with_draw_target(Some(config.run.steps), ProgressDrawTarget::stderr());
            let style =
                ProgressStyle::with_template("{pos:>5}/{len} {wide_bar:.cyan/black} {msg} · {eta} left");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_position(done);
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        });
        Self {
            bar,
            quiet: choice == Choice::Quiet,
            every: (config.run.steps / 20).max(1),
            rewards: Vec::new(),
        }
    }

    /// A line that stays.
    pub(crate) fn say(&self, text: &str) {
        match &self.bar {
            _ if self.quiet => {}
            Some(bar) => bar.println(text),
            // A closed standard error is no reason to stop training.
            None => drop(writeln!(std::io::stderr(), "{text}")),
        }
    }

    /// After a supervised step.
    pub(crate) fn supervised(&self, done: u64, of: u64, loss: f64) {
        match &self.bar {
            Some(bar) => bar.set_message(format!("supervised step {done} of {of}, loss {loss:.3}")),
            None if done.is_multiple_of((of / 10).max(1)) => {
                self.say(&format!("supervised step {done:>4} of {of}  loss {loss:.3}"));
            }
            None => {}
        }
    }

    pub(crate) fn held_out(&self, row: &Row) {
        if let Some(exact) = row.get("eval/heldout/exact") {
            self.say(&format!(
                "step {:>4}  held-out prompts: {:.1} % exactly right",
                row.step,
                100.0 * exact
            ));
        } else if let Some(reward) = row.get("eval/heldout/reward") {
            self.say(&format!("step {:>4}  held-out prompts: reward {reward:.3}", row.step));
        }
    }

    pub(crate) fn step(&mut self, report: &StepReport, seconds_left: Option<f64>) {
        let row = &report.row;
        if let Some(reward) = row.get("reward/mean") {
            self.rewards.push(reward);
        }
        let line = self.line(row);
        if let Some(bar) = &self.bar {
            bar.set_position(row.step);
            bar.set_message(line);
        } else if row.step.is_multiple_of(self.every) || row.step == 1 {
            let left = seconds_left.map_or(String::new(), |s| format!("  {} left", time(s)));
            self.say(&format!("step {:>4}  {line}{left}", row.step));
        }
        if let Some(message) = &report.news {
            self.say(&format!("step {:>4}  {message}", row.step));
        }
        self.held_out(row);
        for alarm in &report.alarms {
            self.say(&format!("step {:>4}  guard {}: {}", row.step, alarm.name, alarm.message));
            for advice in alarm.advice {
                self.say(&format!("             try: {advice}"));
            }
        }
        if let Some(Err(reason)) = &report.checkpoint {
            self.say(&format!(
                "step {:>4}  checkpoint not written ({reason}); trying again after the next step",
                row.step
            ));
        }
    }

    fn line(&self, row: &Row) -> String {
        let mut parts = Vec::new();
        let mut add = |name: &str, label: &str, digits: usize, scale: f64, unit: &str| {
            if let Some(value) = row.get(name) {
                parts.push(format!("{label} {:.digits$}{unit}", value * scale));
            }
        };
        add("reward/mean", "reward", 3, 1.0, "");
        add("reward/exact_rate", "exact", 0, 100.0, " %");
        add("policy/entropy", "entropy", 2, 1.0, "");
        add("policy/gate_mean", "gate", 3, 1.0, "");
        add("policy/clip_high", "clipped high", 1, 100.0, " %");
        add("policy/clip_low", "low", 1, 100.0, " %");
        if let Some(speed) = row.get("perf/rollout_tokens_per_s") {
            parts.push(format!("{:.0}k tok/s", speed / 1000.0));
        }
        format!("{} {}", self.sparkline(), parts.join("  "))
    }

    fn sparkline(&self) -> String {
        let recent = &self.rewards[self.rewards.len().saturating_sub(160)..];
        let (low, high) = self.rewards.iter().fold((f64::MAX, f64::MIN), |(l, h), r| (l.min(*r), h.max(*r)));
        let cells = recent.chunks(recent.len().div_ceil(12).max(1)).map(|c| {
            let mean = c.iter().sum::<f64>() / c.len() as f64;
            let place = if high > low { (mean - low) / (high - low) * 7.0 } else { 0.0 };
            SPARKS[(place.round() as usize).min(7)]
        });
        cells.collect()
    }

    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Seconds for people.
pub(crate) fn time(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 600.0 => format!("{} min {} s", s.round() as u64 / 60, s.round() as u64 % 60),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::time;

    #[test]
    fn times_are_rounded_once() {
        let told = [0.4, 89.4, 90.0, 119.7, 599.0, 600.0, 5400.0].map(time);
        assert_eq!(told, ["0 s", "89 s", "1 min 30 s", "2 min 0 s", "9 min 59 s", "10 min", "1.5 h"]);
    }
}
