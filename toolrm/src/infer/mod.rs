//! What a judge is for: choosing between responses, choosing the best of several, and helping a policy correct itself.
//!
//! A [`Judge`] asks any source of completions ([`completion::Complete`]): a server, a file of completions, a model of the
//! workspace's own. Everything is asked in batches, for all items at one time, so that a source can work on many.
//!
//! ```
//! use completion::{Complete, Completion, CompletionError, Request};
//! use toolrm::critique::Variant;
//! use toolrm::infer::{Context, Contender, Judge, Outcome};
//! /// Prefers whatever stands first.
//! struct First;
//! impl Complete for First {
//!     fn name(&self) -> String { "first".into() }
//!     fn complete(&mut self, requests: &[Request]) -> Vec<Result<Completion, CompletionError>> {
//!         requests.iter().map(|_| Ok(Completion::new("<choice>\n1\n</choice>"))).collect()
//!     }
//! }
//! let context = Context { id: "q", tools: &[], history: &[] };
//! let (a, b) = (Contender::text("yes"), Contender::text("no"));
//! let mut judge = Judge::new(First, Variant::Think, 64);
//! // Asked in both orders, it contradicts itself.
//! assert_eq!(judge.compare(&[(&context, [&a, &b])], true)?[0].outcome, Outcome::Tie);
//! # Ok::<(), toolrm::infer::InferError>(())
//! ```

mod best_of;
mod correct;
mod judge;
mod scored;
mod tasks;

pub use best_of::{BestOf, BestOfReport, Selected, Strategy, best_by_score, majority};
pub use correct::{Corrected, CorrectionReport, correct};
pub use judge::{Comparison, Contender, Context, Critique, InferError, Judge, Outcome, Usage};
pub use scored::{CorrectedResponses, chosen_responses, correct_responses, scored_groups};
pub use tasks::{Oracle, pair_report, task_requests, task_verdict};
