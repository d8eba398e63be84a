//! What can go wrong.

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A taxonomy with no family, or more than fit a set.
    #[error("a taxonomy has {found} families, expected 1 to 32")]
    TooManyFamilies {
        /// Families.
        found: usize,
    },
    /// Two families of one name.
    #[error("the family `{family}` is there twice")]
    FamilyTwice {
        /// The name.
        family: String,
    },
    /// No family of symbols.
    #[error("a taxonomy needs a family named `symbols`")]
    NoSymbols,
    /// Not one family of what no other lists.
    #[error("{found} families list the script \"*\" (every script that no family lists), expected one")]
    CatchAll {
        /// Families that do: 0, or 2 for more than one.
        found: usize,
    },
    /// A script that Unicode does not have.
    #[error("family `{family}` lists `{script}`, which is not the name of a Unicode script")]
    UnknownScript {
        /// The name found.
        script: String,
        /// The family that lists it.
        family: String,
    },
    /// A script in two families.
    #[error("the script {script} is in the families `{first}` and `{second}`")]
    ScriptTwice {
        /// The script.
        script: String,
        /// The first family.
        first: String,
        /// The second.
        second: String,
    },
    /// A name that is no family.
    #[error("`{family}` in {named_in} is not a family of the taxonomy")]
    UnknownFamily {
        /// The name found.
        family: String,
        /// Where it stands.
        named_in: &'static str,
    },
    /// A control pattern that is not a regular expression.
    #[error("control pattern `{pattern}`: {reason}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong.
        reason: String,
    },
    /// Text that is not the JSON expected.
    #[error("{what}: {reason}")]
    Json {
        /// Which input.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A tokenizer whose strings stand for bytes in an unknown way.
    #[error("unsupported tokenizer ({found}), expected a byte-level BPE or a BPE with byte fallback")]
    UnsupportedTokenizer {
        /// What it is.
        found: String,
    },
    /// A tokenizer with ids beyond the logits.
    #[error("the tokenizer has token {token}, the logits have {vocab_size} columns")]
    VocabTooSmall {
        /// The token.
        token: u32,
        /// Columns of the logits.
        vocab_size: usize,
    },
    /// A string that does not stand for bytes.
    #[error("token {token} holds {char:?}, which is not in the byte alphabet")]
    NotByteLevel {
        /// The token.
        token: u32,
        /// The character.
        char: char,
    },
    /// More signatures than class numbers.
    #[error("the vocabulary has {found} signature classes, expected at most 65535")]
    TooManyClasses {
        /// Classes when it was noticed.
        found: usize,
    },
    /// A text in `protocol_spans` that is no control token.
    #[error("`{text}` in protocol_spans is not a control token of the vocabulary")]
    NotControl {
        /// The text.
        text: String,
    },
    /// A token that no vocabulary entry is for.
    #[error("token {token} is outside the vocabulary of {vocab_size}")]
    TokenOutOfRange {
        /// The token.
        token: u32,
        /// Tokens of the vocabulary.
        vocab_size: usize,
    },
    /// A tensor of another size.
    #[error("{what} has {found} elements, expected {expected}")]
    Shape {
        /// Which.
        what: &'static str,
        /// Its elements.
        found: usize,
        /// Those that fit.
        expected: usize,
    },
    /// Logits, or norms, of another width than the family table.
    #[error("logits have {logits} columns, the family table {table} tokens")]
    VocabMismatch {
        /// Columns of the logits.
        logits: usize,
        /// Tokens of the table.
        table: usize,
    },
    /// Hidden states of another size than the gate's.
    #[error("hidden states have {hidden} elements, the gate reads {gate}")]
    HiddenMismatch {
        /// Of the model.
        hidden: usize,
        /// Of the gate.
        gate: usize,
    },
    /// A logit with which nothing can be computed.
    #[error("the logit of token {token} in row {row} is NaN or +inf")]
    NonFiniteLogits {
        /// The row.
        row: usize,
        /// The token.
        token: usize,
    },
    /// A row without a finite logit.
    #[error("row {row} has no finite logit")]
    EmptySupport {
        /// The row.
        row: usize,
    },
    /// A sampling parameter without a meaning.
    #[error("{field} is {value}, expected {expected}")]
    InvalidSampling {
        /// The parameter.
        field: &'static str,
        /// Its value.
        value: f64,
        /// What would do.
        expected: &'static str,
    },
    /// A threshold of a gate outside the probabilities.
    #[error("the threshold of family {family} is {value}, expected a number between 0 and 1")]
    Threshold {
        /// The family.
        family: usize,
        /// The value.
        value: f64,
    },
    /// A least mass of labels outside the probabilities.
    #[error("the least mass of a label is {value}, expected above 0, at most 1")]
    MassThreshold {
        /// The value.
        value: f64,
    },
    /// An output matrix of zeros.
    #[error("no text token has an output row that is finite and not zero")]
    ZeroEmbedding,
    /// A record whose own token it denies.
    #[error("row {row}: token {token} is denied by its own record (families {denied:#b}, or not kept)")]
    SampledTokenDenied {
        /// The row.
        row: usize,
        /// The token.
        token: u32,
        /// The denied families.
        denied: u32,
    },
    /// A file that cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Weights that are no gate.
    #[error("weights: {reason}")]
    Weights {
        /// What is wrong.
        reason: String,
    },
    /// A gate of another format.
    #[error("unknown format ({found}), expected lcg/1 with the supports of this crate")]
    Format {
        /// What it is.
        found: String,
    },
    /// A taxonomy that is not built in.
    #[error("unknown taxonomy `{name}` (known: paper4, script16)")]
    UnknownTaxonomy {
        /// The name.
        name: String,
    },
    /// Something else than what a gate was trained with.
    #[error("the {what} is {found}, the gate was saved with {expected}")]
    Mismatch {
        /// Weights, tokenizer or family table.
        what: &'static str,
        /// The hash found.
        found: String,
        /// The hash in the gate's file.
        expected: String,
    },
    /// A gate with other families than its taxonomy.
    #[error("the gate has {file} families, the taxonomy {taxonomy}")]
    FamilyCount {
        /// Outputs of the gate.
        file: usize,
        /// Families of the taxonomy.
        taxonomy: usize,
    },
    /// A language whose scripts are not known here.
    #[error("the scripts of the language `{language}` are not known (ISO 639-1 code expected)")]
    UnknownLanguage {
        /// The code.
        language: String,
    },
    /// Bytes, or a token, that are no part of a record of masks.
    #[error("record of masks: {reason}")]
    Record {
        /// What is wrong.
        reason: String,
    },
    /// What candle said.
    #[cfg(feature = "candle")]
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

#[cfg(feature = "candle")]
impl From<Error> for candle_core::Error {
    fn from(error: Error) -> Self {
        Self::wrap(error)
    }
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
