//! Why a run is unstable, if it is: how much of the gap between the policy that is updated and the one that sampled is
//! discrepancy of the engines, and how much is staleness (arXiv 2512.01374 §3).
//!
//! `log π_θ/μ = log π_old/μ + log π_θ/π_old`: the first term is there under equal weights, the second grows with each update
//! on the same batch. Both are measured in every step; their k3 estimates are compared.

use std::collections::BTreeMap;

/// What dominates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Neither is large.
    Neither,
    /// The sampler computes otherwise than the trainer.
    Discrepancy,
    /// The batch is old by the time it trains.
    Staleness,
    /// Both, within a factor of [`DOMINATES`].
    Both,
}

/// A judgement and the numbers it rests on.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// What dominates.
    pub cause: Cause,
    /// The cause and the numbers.
    pub finding: String,
    /// One sentence: the finding and what to try.
    pub text: String,
}

/// Nats a token below which a divergence is nothing to act upon.
pub const QUIET: f64 = 1e-5;
/// A divergence this many times the other dominates it.
pub const DOMINATES: f64 = 3.0;
/// Share of tokens with other experts from which routing is named.
const FLIPS: f64 = 0.01;

/// Judges metrics by name: those of a step, or means over several. `None` where the divergence of the engines was not
/// measured. `routing` and `precision` are the run's settings, for the advice.
#[must_use]
pub fn verdict(metric: &dyn Fn(&str) -> Option<f64>, routing: &str, precision: &str) -> Option<Verdict> {
    let discrepancy = metric("mismatch/k3")?;
    // A single update trains on the old policy itself.
    let staleness = metric("policy/kl_old").unwrap_or(0.0);
    let (d_loud, s_loud) = (discrepancy > QUIET, staleness > QUIET);
    let cause = match () {
        () if !d_loud && !s_loud => Cause::Neither,
        () if d_loud && discrepancy >= DOMINATES * staleness => Cause::Discrepancy,
        () if s_loud && staleness >= DOMINATES * discrepancy => Cause::Staleness,
        () => Cause::Both,
    };
    let mut numbers = format!(
        "k3 of sampler and trainer {discrepancy:.1e}, of old and current policy {staleness:.1e} nats a token"
    );
    let mut add = |name: &str, what: &str| {
        let value = metric(name);
        if let Some(value) = value {
            numbers.push_str(&format!("; {what} {:.1} %", 100.0 * value));
        }
        value
    };
    let flips = add("mismatch/flip_tokens", "router flips between the engines in tokens:");
    add("policy/ess", "effective sample size");
    let flips = flips.filter(|share| *share >= FLIPS);
    let mut advice: Vec<&str> = Vec::new();
    if matches!(cause, Cause::Discrepancy | Cause::Both) {
        if flips.is_some() && routing != "r3" {
            advice.push("replay the sampler's experts (update.routing = \"r3\")");
        }
        if precision != "f32" {
            advice.push("raise rollout.precision");
        }
        advice.push("correct for it (loss.correction = \"tis\")");
    }
    if matches!(cause, Cause::Staleness | Cause::Both) {
        advice.push("fewer update.minibatches or update.epochs, or a lower update.lr");
        if routing == "natural" && flips.is_some() {
            advice.push("replay experts (update.routing = \"auto\")");
        }
    }
    let head = match cause {
        Cause::Neither => "neither discrepancy nor staleness is large",
        Cause::Discrepancy => "discrepancy dominates",
        Cause::Staleness => "staleness dominates",
        Cause::Both => "discrepancy and staleness are alike",
    };
    let advice = if advice.is_empty() { String::new() } else { format!(". Try: {}", advice.join("; ")) };
    let finding = format!("{head} ({numbers})");
    Some(Verdict { cause, text: format!("{finding}{advice}"), finding })
}

/// Means of metrics over steps, as [`verdict`] takes them.
#[must_use]
pub fn means<'a>(steps: impl IntoIterator<Item = &'a crate::metrics::Row>) -> BTreeMap<String, f64> {
    let mut sums: BTreeMap<String, (f64, f64)> = BTreeMap::new();
    for (name, value) in steps.into_iter().flat_map(crate::metrics::Row::values) {
        let (sum, count) = sums.entry(name.to_owned()).or_default();
        (*sum, *count) = (*sum + value, *count + 1.0);
    }
    sums.into_iter().map(|(name, (sum, count))| (name, sum / count)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn judge(values: &[(&str, f64)], routing: &str) -> Option<Verdict> {
        let metric = |name: &str| values.iter().find(|(n, _)| *n == name).map(|(_, v)| *v);
        verdict(&metric, routing, "bf16")
    }

    #[test]
    fn the_larger_of_two_divergences_is_named() {
        let cause = |d, s| judge(&[("mismatch/k3", d), ("policy/kl_old", s)], "natural").unwrap().cause;
        assert_eq!(cause(1e-5, 1e-5), Cause::Neither);
        assert_eq!(cause(1e-3, 1e-5), Cause::Discrepancy);
        assert_eq!(cause(1e-5, 1e-3), Cause::Staleness);
        assert_eq!(cause(2e-3, 1e-3), Cause::Both);
        assert_eq!(cause(1e-3, 2e-3), Cause::Both);
        assert_eq!(judge(&[("policy/kl_old", 1.0)], "natural"), None);
    }

    #[test]
    fn advice_fits_the_settings_and_the_numbers_are_shown() {
        let values = [("mismatch/k3", 1.5e-3), ("mismatch/flip_tokens", 0.09), ("policy/ess", 0.97)];
        let text = judge(&values, "natural").unwrap().text;
        assert_eq!(
            text,
            "discrepancy dominates (k3 of sampler and trainer 1.5e-3, of old and current policy 0.0e0 nats a token; router flips between the engines in tokens: 9.0 %; effective sample size 97.0 %). Try: replay the sampler's experts (update.routing = \"r3\"); raise rollout.precision; correct for it (loss.correction = \"tis\")"
        );
        assert!(!judge(&values, "r3").unwrap().text.contains("replay"));
        let dense = judge(&values[..1], "natural").unwrap().text;
        assert!(!dense.contains("replay") && dense.contains("rollout.precision"), "{dense}");
    }
}
