//! The checker of the Berkeley Function-Calling Leaderboard (BFCL), verdict for verdict: `bfcl-eval` 2026.3.23.
//!
//! It reproduces the reference, with what look like its defects. Where the reference raises an exception the verdict is
//! [`Verdict::Fault`], which counts as invalid.

mod agentic;
mod aggregate;
mod checker;
mod compiled;
mod container;
mod gold;
mod java;
mod javascript;
pub(crate) mod norm;
mod pynum;
mod records;
mod render;
mod steps;
mod types;
mod values;

use crate::msg::Call;
use crate::parse::ParseFail;
use crate::value::{Str, Val};

pub(crate) use pynum::{float as py_float, int as py_int, strip};

pub use agentic::{Turn, answer_contained, multi_turn};
pub use aggregate::{Group, Summary, aggregate};
pub use compiled::Checker;
use compiled::Route;
pub use gold::canonical_gold;
pub use records::{CATEGORIES, Category, Entry, EntryReader, nearest_category};
pub use steps::step;

/// How the predicted calls' names were spelled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NamePolicy {
    /// As the tool's name.
    #[default]
    Exact,
    /// With every `.` of the tool's name written `_`, as services that forbid dots need.
    DotToUnderscore,
}

/// The language of a category's calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lang {
    /// Python: argument values are compared as they are.
    Python,
    /// Java: argument values are source text, converted first.
    Java,
    /// JavaScript: as Java.
    JavaScript,
}

impl Lang {
    /// The language of a category, by its name.
    pub fn of(category: &str) -> Lang {
        // "java" is part of "javascript".
        if category.contains("javascript") {
            Lang::JavaScript
        } else if category.contains("java") {
            Lang::Java
        } else {
            Lang::Python
        }
    }
}

/// How predicted calls are matched with gold calls where order does not matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Matching {
    /// The reference: each gold call takes the first prediction that passes, and never gives it back.
    #[default]
    Greedy,
    /// Ours: valid if any assignment passes.
    Optimal,
}

/// How to check.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// The spelling of names.
    pub names: NamePolicy,
    /// The matching of parallel calls.
    pub matching: Matching,
}

/// Why a response is not valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// The reference's error type.
    pub error_type: &'static str,
    /// The parameter, key or name that it is about.
    pub at: Str,
}

/// What the check says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The response is right.
    Valid,
    /// It is wrong.
    Invalid(Invalid),
    /// The reference cannot check the entry: it raises an exception.
    Fault {
        /// What it stumbles over.
        kind: &'static str,
        /// The parameter or name.
        at: Str,
    },
}

impl Verdict {
    /// Whether the response counts as right.
    pub fn is_valid(&self) -> bool {
        *self == Verdict::Valid
    }

    /// The error type, or `fault`, or `None` when valid.
    pub fn error_type(&self) -> Option<&'static str> {
        match self {
            Verdict::Valid => None,
            Verdict::Invalid(i) => Some(i.error_type),
            Verdict::Fault { .. } => Some("fault"),
        }
    }

    fn invalid(error_type: &'static str, at: impl Into<Str>) -> Verdict {
        Verdict::Invalid(Invalid { error_type, at: at.into() })
    }

    fn fault(kind: &'static str, at: impl Into<Str>) -> Verdict {
        Verdict::Fault { kind, at: at.into() }
    }
}

/// Checks the calls of a response; for many responses to one entry, [`Checker`] is faster. `tools` is the entry's `function` list, `gold` its `ground_truth`, both as in BFCL's files.
///
/// ```
/// use toolrm::{Call, Val, bfcl, json};
/// let read = |s| json::parse(s, json::Dialect::Python).unwrap();
/// let tools = read(r#"[{"name":"f","parameters":{"properties":{"p":{"type":"string"}},"required":["p"]}}]"#);
/// let gold = read(r#"[{"f":{"p":["New York"]}}]"#);
/// let call = Call::new("f", [("p", Val::from("new-york"))]);
/// assert!(bfcl::check(&tools, &[call], &gold, "simple_python", bfcl::Options::default()).is_valid());
/// ```
pub fn check(tools: &Val, calls: &[Call], gold: &Val, category: &str, options: Options) -> Verdict {
    Checker::new(tools, gold, category).check(calls, options)
}

/// Checks a response whose parsing may have failed, in the categories with calls and in those about relevance.
pub fn check_response(
    tools: &Val,
    parsed: Result<&[Call], &ParseFail>,
    gold: &Val,
    category: &str,
    options: Options,
) -> Verdict {
    Checker::new(tools, gold, category).check_response(parsed, options)
}

impl Checker {
    /// As the function [`check_response`].
    pub fn check_response(&self, parsed: Result<&[Call], &ParseFail>, options: Options) -> Verdict {
        match (self.route, parsed) {
            (Route::Irrelevance, Ok(calls)) if !calls.is_empty() => {
                Verdict::invalid("irrelevance_error:decoder_success", "")
            }
            (Route::Irrelevance, _) => Verdict::Valid,
            (Route::Relevance, Ok(calls)) if !calls.is_empty() => Verdict::Valid,
            (Route::Relevance, _) => Verdict::invalid("relevance_error:decoder_failed", ""),
            (_, Ok(calls)) => self.check(calls, options),
            (_, Err(fail)) if fail.kind == ParseFail::WRONG_FORMAT => {
                Verdict::invalid("ast_decoder:decoder_wrong_output_format", fail.to_string())
            }
            (_, Err(fail)) => Verdict::invalid("ast_decoder:decoder_failed", fail.to_string()),
        }
    }
}
