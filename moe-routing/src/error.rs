//! What can go wrong in routing.

/// An error of this crate.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// A logit to which no choice belongs.
    #[error("router logit of token {token}, expert {expert} is {value}")]
    Logit {
        /// The row.
        token: usize,
        /// The column.
        expert: usize,
        /// `NaN` or `+inf`.
        value: f64,
    },
    /// Too few experts are enabled (`-inf` disables one).
    #[error("token {token} has {enabled} enabled experts, top-k needs {top_k}")]
    TooFewExperts {
        /// The row.
        token: usize,
        /// Experts with a finite logit.
        enabled: usize,
        /// Experts wanted.
        top_k: usize,
    },
    /// Slices that do not fit together.
    #[error("{what} has {found} elements, expected {expected}")]
    Shape {
        /// Which input.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The length that fits the others.
        expected: usize,
    },
    /// An expert id that a row cannot have.
    #[error("token {token}: expert ids {ids:?} must be distinct and below {experts}")]
    Ids {
        /// The row.
        token: usize,
        /// Its ids.
        ids: Vec<u32>,
        /// Number of experts.
        experts: usize,
    },
    /// `top_k` outside `1..=experts`.
    #[error("top_k is {top_k}, expected 1 to {experts}")]
    TopK {
        /// The value found.
        top_k: usize,
        /// Number of experts.
        experts: usize,
    },
}

impl From<Error> for candle_core::Error {
    fn from(error: Error) -> Self {
        Self::wrap(error)
    }
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
