//! What can go wrong before an answer is scored. Scoring itself has no errors: any bytes get a verdict.

/// Why an instance cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GenError {
    /// A name that is none of the known ones.
    #[error("unknown {what} {found:?}; known: {known}")]
    Unknown {
        /// What was looked for.
        what: &'static str,
        /// The name given.
        found: String,
        /// The names there are.
        known: String,
    },
    /// A number outside its range.
    #[error("{field} is {found}, allowed are {low} to {high}")]
    Range {
        /// The field.
        field: &'static str,
        /// Its value.
        found: u64,
        /// The smallest value allowed.
        low: u64,
        /// The largest.
        high: u64,
    },
    /// A text that is no instance id.
    #[error("{found:?} is no instance id; one is like fsm/v1/test/1024/d1/0/0")]
    Id {
        /// The text.
        found: String,
    },
    /// A stored instance that is not as it was made.
    #[error("{field} of the stored instance is {found}, its content makes it {expected}")]
    Stored {
        /// The field.
        field: &'static str,
        /// Its value.
        found: String,
        /// What it must be.
        expected: String,
    },
    /// A key of another task or of another version.
    #[error("{field} of the key is {found}, this generator makes {expected}")]
    Mismatch {
        /// The field.
        field: &'static str,
        /// Its value.
        found: String,
        /// What it must be.
        expected: String,
    },
}
