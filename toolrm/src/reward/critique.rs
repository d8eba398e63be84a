//! The reward of a judge: whether it chose the better response (ToolRM, §3.3).

use crate::critique::{Level, Reading, read_choice, read_verdict};
use crate::record::Kind;

/// How a judge's answers are rewarded.
#[derive(Clone, Copy, Debug, Default)]
pub struct CritiqueReward {
    /// How answers are read.
    pub reading: Reading,
    /// Added for an answer in the form that was asked for, right or wrong; 0 in the paper, at most 0.1.
    pub format_bonus: f64,
}

/// A judge's reward and what it comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct CritiqueScore {
    /// 1 for the right answer in the form that was asked for, else 0; and the bonus.
    pub reward: f64,
    /// Whether the answer is right and in that form.
    pub correct: bool,
    /// What it says, as labels are written; none where nothing could be read.
    pub predicted: Option<String>,
    /// How it was found.
    pub level: Option<Level>,
}

impl CritiqueReward {
    /// The reward of an answer to a task with `n` responses (1 for [`Kind::Pointwise`]).
    ///
    /// ```
    /// use toolrm::{record::Kind, reward::CritiqueReward};
    /// let score = CritiqueReward::default().score("<choice>\n2\n</choice>", Kind::Pairwise, 2, "2");
    /// assert_eq!(score.reward, 1.0);
    /// // Without the line feeds it can be read, but is not what was asked for.
    /// let score = CritiqueReward::default().score("<choice>2</choice>", Kind::Pairwise, 2, "2");
    /// assert_eq!((score.reward, score.predicted.as_deref()), (0.0, Some("2")));
    /// ```
    pub fn score(&self, text: &str, kind: Kind, n: u32, label: &str) -> CritiqueScore {
        let (predicted, level) = match kind {
            Kind::Pointwise => match read_verdict(text, &self.reading) {
                None => (None, None),
                Some(v) => (Some(if v.correct { "correct" } else { "revise" }.to_owned()), v.level),
            },
            Kind::Pairwise | Kind::BestOfN => {
                let read = read_choice(text, n, &self.reading);
                (read.choice.map(|c| c.to_string()), read.level)
            }
        };
        let strict = level == Some(Level::Strict) && predicted.is_some();
        let correct = strict && predicted.as_deref() == Some(label);
        let reward = f64::from(u8::from(correct)) + self.format_bonus * f64::from(u8::from(strict));
        CritiqueScore { reward, correct, predicted, level }
    }
}

/// Group-relative advantages, `(r - mean) / (std + 1e-6)`, with the sample standard deviation (n - 1) where `sample` is true.
/// A group of equal rewards has no advantages. The trainer's own estimators are in `policy-loss`; this is what the paper's
/// numbers are checked by.
pub fn group_advantages(rewards: &[f64], sample: bool) -> Vec<f64> {
    let n = rewards.len() as f64;
    if rewards.windows(2).all(|w| w[0] == w[1]) {
        return vec![0.0; rewards.len()];
    }
    let mean = rewards.iter().sum::<f64>() / n;
    let squares: f64 = rewards.iter().map(|r| (r - mean) * (r - mean)).sum();
    let std = (squares / if sample { n - 1.0 } else { n }).sqrt();
    rewards.iter().map(|r| (r - mean) / (std + 1e-6)).collect()
}
