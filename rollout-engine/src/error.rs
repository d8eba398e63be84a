//! What can go wrong while generating.

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A sampling parameter without a meaning.
    #[error("sampling parameter {name} is {value}, expected {expected}")]
    Parameter {
        /// The parameter.
        name: &'static str,
        /// The value found.
        value: f64,
        /// What would do.
        expected: &'static str,
    },
    /// The model gave logits to which no distribution belongs.
    #[error("the model's logits are NaN or infinite: its weights are broken (diverged training?)")]
    NonFiniteLogits,
    /// A request that cannot be served.
    #[error("request {id}: {reason}")]
    Request {
        /// The request's id.
        id: u64,
        /// Why not.
        reason: String,
    },
    /// The experts that ran cannot be recorded.
    #[error(transparent)]
    Routing(#[from] moe_routing::Error),
    /// A model that cannot draft.
    #[error("the draft model: {reason}")]
    Draft {
        /// Why not.
        reason: String,
    },
    /// The gate refused.
    #[error(transparent)]
    Gate(#[from] lcg::Error),
    /// The model refused.
    #[error(transparent)]
    Model(#[from] qwen3::Error),
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
