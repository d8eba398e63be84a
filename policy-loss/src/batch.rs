//! The input of a loss: ragged rows over flat slices.

use crate::error::{Error, Result};

/// The two element types of losses.
pub trait Real: Copy + Into<f64> + Send + Sync + 'static {
    /// Rounds.
    fn of(value: f64) -> Self;
}

impl Real for f32 {
    fn of(value: f64) -> Self {
        value as f32
    }
}

impl Real for f64 {
    fn of(value: f64) -> Self {
        value
    }
}

/// Advantages of sequences or of tokens.
#[derive(Clone, Copy, Debug)]
pub enum Advantages<'a, F> {
    /// `[sequences]`.
    PerSequence(&'a [F]),
    /// `[tokens]`.
    PerToken(&'a [F]),
}

/// Sequences of tokens, one after the other in flat slices of `offsets.last()` elements. A padded `[N, T]` array is
/// the same thing with offsets `0, T, 2T, …` and a mask.
///
/// Index `t` is the *predicted* token: its log-probability comes from the position before it. Values at masked
/// positions are never read.
#[derive(Clone, Copy, Debug)]
pub struct TokenBatch<'a, F> {
    /// Where each sequence starts, and the end: `[sequences + 1]`.
    pub offsets: &'a [usize],
    /// `log π_θ`, nats.
    pub logp: &'a [F],
    /// `log π_old`: the policy at the start of the step.
    pub logp_old: Option<&'a [F]>,
    /// `log μ`: the behaviour policy, as recorded while sampling.
    pub logp_mu: Option<&'a [F]>,
    /// `log π_ref`.
    pub logp_ref: Option<&'a [F]>,
    /// Entropy of `π_θ`, nats.
    pub entropy: Option<&'a [F]>,
    /// Which tokens were sampled by the policy and train; all when absent.
    pub mask: Option<&'a [bool]>,
    /// Advantages.
    pub advantages: Advantages<'a, F>,
    /// The prompt of each sequence: `[sequences]`.
    pub groups: Option<&'a [u32]>,
    /// `ln` of the probability mass that truncated sampling kept, when `logp_mu` is renormalised over it.
    pub log_kept_mass: Option<&'a [F]>,
}

impl<'a, F: Real> TokenBatch<'a, F> {
    /// A batch with what every loss needs.
    pub fn new(offsets: &'a [usize], logp: &'a [F], advantages: Advantages<'a, F>) -> Self {
        Self {
            offsets,
            logp,
            logp_old: None,
            logp_mu: None,
            logp_ref: None,
            entropy: None,
            mask: None,
            advantages,
            groups: None,
            log_kept_mass: None,
        }
    }

    /// Number of sequences.
    pub fn sequences(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    pub(crate) fn check(&self) -> Result<()> {
        self.check_tokens(self.logp.len())?;
        match self.entropy {
            Some(entropy) if entropy.len() != self.logp.len() => {
                let (found, expected) = (entropy.len(), self.logp.len());
                Err(Error::Shape { what: "entropy", found, expected })
            }
            _ => Ok(()),
        }
    }

    /// All but what the current policy gives.
    pub(crate) fn check_tokens(&self, tokens: usize) -> Result<()> {
        check_offsets(self.offsets, tokens)?;
        let fits = |what, found: Option<usize>, expected| match found {
            Some(found) if found != expected => Err(Error::Shape { what, found, expected }),
            _ => Ok(()),
        };
        fits("logp_old", self.logp_old.map(<[F]>::len), tokens)?;
        fits("logp_mu", self.logp_mu.map(<[F]>::len), tokens)?;
        fits("logp_ref", self.logp_ref.map(<[F]>::len), tokens)?;
        fits("mask", self.mask.map(<[bool]>::len), tokens)?;
        fits("log_kept_mass", self.log_kept_mass.map(<[F]>::len), tokens)?;
        fits("groups", self.groups.map(<[u32]>::len), self.sequences())?;
        match self.advantages {
            Advantages::PerSequence(a) => fits("advantages", Some(a.len()), self.sequences()),
            Advantages::PerToken(a) => fits("advantages", Some(a.len()), tokens),
        }
    }

    pub(crate) fn advantage(&self, sequence: usize, token: usize) -> f64 {
        match self.advantages {
            Advantages::PerSequence(a) => a[sequence].into(),
            Advantages::PerToken(a) => a[token].into(),
        }
    }
}

pub(crate) fn check_offsets(offsets: &[usize], tokens: usize) -> Result<()> {
    let rises = offsets.windows(2).all(|w| w[0] <= w[1]);
    if offsets.first() == Some(&0) && offsets.last() == Some(&tokens) && rises {
        return Ok(());
    }
    Err(Error::Offsets { tokens })
}
