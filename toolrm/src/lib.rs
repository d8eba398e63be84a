//! Tool calls of language models: parse what a model wrote, score it by rule, and check it as the Berkeley
//! Function-Calling Leaderboard (BFCL) does.
//!
//! After *ToolRM* (arXiv 2510.26167, §3.1) and `bfcl-eval` 2026.3.23. The one design decision: there is a single type of value,
//! [`Val`], that holds JSON and what Python's literals have beyond it, with two equalities, [`eq_json`] for the rule score
//! and [`eq_py`] for the leaderboard; every parser gives it, every check reads it. Nothing that a model wrote is ever
//! executed.
//!
//! ```
//! use toolrm::{Call, Format, Mode, ScoreOptions, Val, parse, rule_score};
//! let gold = [Call::new("weather", [("city", Val::from("Paris")), ("unit", Val::from("celsius"))])];
//! let said = parse("[weather(city='Paris')]", Format::Pythonic, Mode::Strict)?;
//! let score = rule_score(&gold, Some(&said.calls), &ScoreOptions::default());
//! assert_eq!((score.score, score.message), (0.5, "ok"));
//! # Ok::<(), toolrm::ParseFail>(())
//! ```

pub mod bench;
pub mod bfcl;
mod candidate;
mod canon;
mod corrupt;
pub mod critique;
pub mod infer;
#[cfg(feature = "cli")]
pub mod io;
pub mod json;
#[cfg(any(test, feature = "cuda"))]
pub mod kernels;
mod msg;
mod pairs;
mod parse;
mod pattern;
mod random;
pub mod record;
pub mod reward;
mod rule;
mod sample;
mod schema;
pub mod sources;
mod traj;
mod validate;
mod value;
mod wins;

pub use candidate::{score_candidate, score_gold};
pub use canon::{canon, canon_calls, canon_hash};
pub use corrupt::{Damage, corrupt};
pub use msg::{Call, Chat, Message, Role, messages};
pub use pairs::{
    Difficulty, PairOptions, Ranked, complexity, content_hash, difficulty, distinct, intensity_bin, is_gold,
    pairs, rank,
};
pub use parse::{
    Format, MAX_BYTES, Mode, NoForm, ParseFail, Parsed, Parsing, Split, parse, parse_source, parse_with,
    render, split_reasoning,
};
pub use rule::{Depth, Match, NumEq, Rational, ScoreOptions, ScoreOut, Sim, StringEq, rule_score};
pub use sample::{
    Balance, Composition, DuplicateId, Embeddings, EmbeddingsError, Holdout, Item, Sample, SampleOptions,
    SplitBy, bmds, bmds_by, composition, farthest_first, fill,
};
pub use schema::{Family, ParamSchema, PropSchema, SchemaError, ToolDef, TypeName, parse_tools};
pub use traj::{Dropped, Failure, Reason, SegmentOptions, Segmented, segment};
pub use validate::{Issue, Severity, validate_call, validate_tools};
pub use value::{Key, Map, Str, Tag, Val, eq_json, eq_py};
pub use wins::{BradleyTerry, Standing, Strengths, WinMatrix, WinMatrixError};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
