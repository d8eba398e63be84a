//! From responses to rewards: a weighted sum of parts, chosen in the configuration.

mod command;
mod cov;
mod judge;
mod part;
mod toolrm;

pub use command::CommandError;
pub use judge::JudgeSpec;
pub use part::PartSpec;

use crate::config::{OnError, Reward};
use crate::types::{RewardOutcome, Scored};

/// Why rewards could not be given.
#[derive(Debug, thiserror::Error)]
pub enum RewardError {
    /// A part's setting without a meaning.
    #[error("reward.parts: {0}")]
    Setting(String),
    /// A sample could not be scored, and `reward.on_error` is `stop`.
    #[error("sample {sample} could not be scored: {reason} (reward.on_error = \"drop\" would leave it out)")]
    Sample {
        /// Place in the batch.
        sample: usize,
        /// Why not.
        reason: String,
    },
    /// Too many samples could not be scored.
    #[error("{failed} of {all} samples could not be scored, more than reward.max_error_share allows: {}", reasons.join("; "))]
    TooMany {
        /// How many.
        failed: usize,
        /// Of how many.
        all: usize,
        /// The first three reasons.
        reasons: Vec<String>,
    },
}

/// A stage that scores samples.
pub trait Rewarder: Send {
    /// One outcome a sample, in order.
    ///
    /// # Errors
    /// When the run must stop.
    fn score(&mut self, samples: &[Scored<'_>]) -> Result<Vec<RewardOutcome>, RewardError>;
}

/// The parts of a configuration, added with their weights.
pub struct WeightedSum {
    parts: Vec<part::Part>,
    on_error: OnError,
    max_error_share: f64,
}

impl WeightedSum {
    /// Prepares every part.
    ///
    /// # Errors
    /// When a part's setting has no meaning, such as a broken regular expression.
    pub fn new(settings: &Reward, max_new_tokens: usize) -> Result<Self, RewardError> {
        let parts = settings
            .parts
            .iter()
            .map(|spec| part::Part::new(spec, max_new_tokens).map_err(RewardError::Setting))
            .collect::<Result<Vec<_>, _>>()?;
        let mut names: Vec<&str> = parts.iter().map(|p| p.name.as_str()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|w| w[0] == w[1]) {
            let reason = format!("two parts are called `{}`; give one a name", twice[0]);
            return Err(RewardError::Setting(reason));
        }
        Ok(Self { parts, on_error: settings.on_error, max_error_share: settings.max_error_share })
    }

    /// Names of the parts, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().map(|p| p.name.as_str())
    }
}

impl Rewarder for WeightedSum {
    fn score(&mut self, samples: &[Scored<'_>]) -> Result<Vec<RewardOutcome>, RewardError> {
        let mut outcomes: Vec<RewardOutcome> = samples
            .iter()
            .map(|s| RewardOutcome { exact: part::is_exact(s), ..RewardOutcome::default() })
            .collect();
        for part in &self.parts {
            for (outcome, score) in outcomes.iter_mut().zip(part.score(samples)) {
                match score {
                    Ok(said) if said.value.is_finite() => {
                        outcome.total += part.weight * said.value;
                        outcome.parts.insert(part.name.clone(), said.value);
                        outcome.exact = said.exact.or(outcome.exact);
                        outcome.notes.extend(said.notes);
                    }
                    Ok(said) => outcome.fail(format!("{} gave {}", part.name, said.value)),
                    Err(reason) => outcome.fail(format!("{}: {reason}", part.name)),
                }
            }
        }
        let failed: Vec<(usize, &String)> =
            outcomes.iter().enumerate().filter_map(|(i, o)| o.error.as_ref().map(|e| (i, e))).collect();
        if let (Some((sample, reason)), OnError::Stop) = (failed.first(), self.on_error) {
            return Err(RewardError::Sample { sample: *sample, reason: (*reason).clone() });
        }
        if failed.len() as f64 > self.max_error_share * samples.len() as f64 {
            let reasons = failed.iter().take(3).map(|(_, e)| (*e).clone()).collect();
            return Err(RewardError::TooMany { failed: failed.len(), all: samples.len(), reasons });
        }
        if self.on_error == OnError::Zero {
            for outcome in outcomes.iter_mut().filter(|o| o.error.is_some()) {
                outcome.total = 0.0;
            }
        }
        Ok(outcomes)
    }
}

impl RewardOutcome {
    fn fail(&mut self, reason: String) {
        self.error.get_or_insert(reason);
    }
}
