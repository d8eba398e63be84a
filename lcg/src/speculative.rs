//! Verification of drafted tokens against the gated target: what is accepted, and what is drawn instead.
//!
//! The draft need not be gated: a denied token has probability 0 under the target and is rejected. With noise keyed by position
//! ([`Noise`](crate::Noise)) a caller can do without this and accept a draft where it equals the target's own draw, which makes
//! drafted decoding equal to undrafted token for token; the rule here accepts more.

use crate::error::{Error, Result};

/// The probability with which a token drawn from `draft` is accepted: `min(1, target/draft)`.
pub fn acceptance(target: f64, draft: f64) -> f64 {
    if target >= draft { 1.0 } else { target / draft }
}

/// What to draw from after a rejection: `max(target − draft, 0)`, normalised. Where both are equal, which rejects nothing but by
/// rounding, it is the target.
///
/// # Errors
/// [`Error::Shape`] for distributions of different length.
pub fn residual(target: &[f64], draft: &[f64]) -> Result<Vec<f64>> {
    if target.len() != draft.len() {
        return Err(Error::Shape { what: "draft", found: draft.len(), expected: target.len() });
    }
    let rest: Vec<f64> = target.iter().zip(draft).map(|(t, d)| (t - d).max(0.0)).collect();
    let sum: f64 = rest.iter().sum();
    Ok(if sum > 0.0 { rest.iter().map(|r| r / sum).collect() } else { target.to_vec() })
}
