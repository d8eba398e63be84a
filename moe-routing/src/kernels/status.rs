//! What the kernels say of rows they cannot take.

use crate::{Error, Result};

/// The error of the first row with a status, as the CPU would give it: a logit that is `NaN` or `+inf` before all else.
///
/// `status` `[tokens]` comes from a kernel; `wanted` is the number of enabled experts that its rows need (`top_k` for the
/// choice, 1 for losses); `ids` `[tokens · top_k]` and `experts` are those it was given, for gates.
///
/// # Errors
/// [`Error::Logit`], [`Error::TooFewExperts`]; for gates [`Error::Ids`] and [`Error::Disabled`].
pub fn check(status: &[i32], wanted: usize, ids: Option<(&[u32], usize, usize)>) -> Result<()> {
    let logit = status.iter().position(|s| *s > 0);
    let Some(token) = logit.or_else(|| status.iter().position(|s| *s != 0)) else { return Ok(()) };
    let row = |(ids, top_k, experts): (&[u32], usize, usize)| {
        (ids.get(token * top_k..(token + 1) * top_k).unwrap_or_default().to_vec(), experts)
    };
    Err(match (status[token], ids.map(row)) {
        (code @ 1.., _) => {
            let value = if code % 2 == 0 { f64::INFINITY } else { f64::NAN };
            Error::Logit { token, expert: (code as usize - 1) / 2, value }
        }
        (i32::MIN, Some((ids, experts))) => Error::Ids { token, ids, experts },
        (_, Some((ids, _))) => Error::Disabled { token, ids },
        (code, None) => Error::TooFewExperts { token, enabled: (-1 - code) as usize, top_k: wanted },
    })
}
