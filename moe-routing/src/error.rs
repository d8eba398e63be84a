//! What can go wrong in routing.

use crate::trace::RouteShape;

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
        /// Experts with a finite logit, in the groups that may be chosen.
        enabled: usize,
        /// Experts wanted.
        top_k: usize,
    },
    /// Recorded experts none of which is enabled now.
    #[error("token {token}: all of its experts {ids:?} are disabled (-inf)")]
    Disabled {
        /// The row.
        token: usize,
        /// Its ids.
        ids: Vec<u32>,
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
    /// A router without experts.
    #[error("a router needs at least one expert")]
    NoExperts,
    /// A router setting without a meaning.
    #[error("router {what}: {value}, expected {expected}")]
    Router {
        /// The setting.
        what: &'static str,
        /// The value found.
        value: String,
        /// What would do.
        expected: String,
    },
    /// Sizes that no trace can hold.
    #[error("a route trace holds 1 to {limit} {what}, got {found}")]
    TraceLimit {
        /// What there is too much of, or none.
        what: &'static str,
        /// The most.
        limit: usize,
        /// The number found.
        found: usize,
    },
    /// Layers of a trace that are out of order.
    #[error("the layers of a route trace must rise, got {0:?}")]
    LayerMap(Vec<usize>),
    /// A trace of another model.
    #[error("the trace is of {found}, the model has {expected}")]
    TraceShape {
        /// The trace's.
        found: RouteShape,
        /// The model's.
        expected: RouteShape,
    },
    /// Reported routes of some other number of layers.
    #[error("routes of {found} layers, expected {moe} (with experts) or {all} (all)")]
    TraceLayers {
        /// Layers reported.
        found: usize,
        /// Layers with experts.
        moe: usize,
        /// All layers.
        all: usize,
    },
    /// A trace longer or shorter than its tokens.
    #[error("{rows} rows of routes for {tokens} tokens, expected {tokens} or one less")]
    TraceRows {
        /// Rows found.
        rows: usize,
        /// Tokens they should belong to.
        tokens: usize,
    },
    /// A row of which some ids are reported and some are not.
    #[error("row {row}, layer {layer}: some ids of {ids:?} are negative, expected all or none of the row's")]
    PartialRow {
        /// The row.
        row: usize,
        /// The transformer layer.
        layer: usize,
        /// Its ids.
        ids: Vec<i32>,
    },
    /// Ids of a trace that a row cannot have.
    #[error("row {row}, layer {layer}: expert ids {ids:?} must be distinct and below {experts}")]
    TraceIds {
        /// The row.
        row: usize,
        /// The transformer layer.
        layer: usize,
        /// Its ids.
        ids: Vec<u32>,
        /// Number of experts.
        experts: usize,
    },
    /// Routes of other tokens.
    #[error("the trace was recorded for other tokens (digest {found:016x}, these have {expected:016x})")]
    TraceDigest {
        /// The trace's.
        found: u64,
        /// That of the tokens at hand.
        expected: u64,
    },
    /// A row without recorded experts, where that is not allowed.
    #[error("no experts are recorded for row {row}")]
    MissingRow {
        /// The row in its sequence.
        row: usize,
    },
    /// Two sequences share a row of the batch, but not the experts recorded for it.
    #[error("row {row} is shared with an earlier sequence whose trace has other experts there")]
    SharedRow {
        /// The row in its sequence.
        row: usize,
    },
    /// Another number of traces than of sequences.
    #[error("{traces} route traces for {sequences} sequences")]
    TraceCount {
        /// Traces given.
        traces: usize,
        /// Sequences of the batch.
        sequences: usize,
    },
    /// One sequence of a batch is at fault.
    #[error("sequence {sequence}: {source}")]
    Sequence {
        /// Its place in the batch.
        sequence: usize,
        /// What is wrong with it.
        source: Box<Self>,
    },
    /// Bytes that are not a route trace.
    #[error("not a route trace: {0}")]
    Codec(&'static str),
}

impl Error {
    /// The same error of a row computed alone, under its place in the batch.
    pub(crate) fn of_token(mut self, row: usize) -> Self {
        if let Self::Logit { token, .. } | Self::TooFewExperts { token, .. } = &mut self {
            *token = row;
        }
        self
    }
}

#[cfg(feature = "candle")]
impl From<Error> for candle_core::Error {
    fn from(error: Error) -> Self {
        Self::wrap(error)
    }
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
