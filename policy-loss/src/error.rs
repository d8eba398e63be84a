//! What can go wrong in a loss.

/// An error of this crate.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// A parameter without a meaning.
    #[error("{name} is {value}, expected {expected}")]
    Parameter {
        /// The parameter, dotted.
        name: &'static str,
        /// The value found.
        value: f64,
        /// What would do.
        expected: &'static str,
    },
    /// Two settings that must not meet.
    #[error("{first} and {second} do not go together: {why}")]
    Incompatible {
        /// One setting.
        first: String,
        /// The other.
        second: String,
        /// What would go wrong.
        why: &'static str,
    },
    /// A name that is not a preset.
    #[error("unknown objective preset `{name}` (known: {known})")]
    UnknownPreset {
        /// The name given.
        name: String,
        /// All names.
        known: String,
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
    /// A token to be scored that is none.
    #[error("token {token}: target {target} is outside the vocabulary of {vocabulary}")]
    Target {
        /// Which token.
        token: usize,
        /// Its target.
        target: u32,
        /// Tokens of the vocabulary.
        vocabulary: usize,
    },
    /// Row offsets that do not rise from 0 to the number of tokens.
    #[error("offsets must rise from 0 to the number of tokens ({tokens})")]
    Offsets {
        /// Tokens of the batch.
        tokens: usize,
    },
    /// An input that the configuration needs is absent.
    #[error("{needed_by} needs {what}")]
    Missing {
        /// The input.
        what: &'static str,
        /// What needs it.
        needed_by: String,
    },
    /// A value at a valid position with which nothing can be computed.
    #[error("{what} is {value} at sequence {sequence}, token {token}")]
    NonFinite {
        /// Which input.
        what: &'static str,
        /// The sequence.
        sequence: usize,
        /// The token in it.
        token: usize,
        /// The value found.
        value: f64,
    },
    /// A sequence-level objective got advantages that vary within a sequence.
    #[error(
        "the advantage varies within sequence {sequence}, but {objective} has one ratio a sequence (gspo_token allows it)"
    )]
    TokenAdvantages {
        /// The sequence.
        sequence: usize,
        /// The objective.
        objective: &'static str,
    },
    /// A reward that is not a number.
    #[error("reward {index} is {value}")]
    Reward {
        /// Which sample.
        index: usize,
        /// The value found.
        value: f64,
    },
    /// A group of one sample, where the caller asked for an error.
    #[error("group {group} has a single sample, which has no baseline")]
    Singleton {
        /// The group.
        group: u32,
    },
}

#[cfg(feature = "candle")]
impl From<Error> for candle_core::Error {
    fn from(error: Error) -> Self {
        Self::wrap(error)
    }
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
