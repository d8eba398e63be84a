//! Critique tasks: prompts for a judge, the order in which it sees responses, and what its answers say.
//!
//! ```
//! use toolrm::critique::{Reading, Scope, Variant, read_choice, pair_task};
//! use toolrm::record::{self, Orientation, Pair, Step};
//! let step: Step = record::read(r#"{"id":"s","history":[{"role":"user","content":"Weather in Paris?"}],
//!     "tools":[{"name":"weather"}],"gold":{"content":"","calls":[{"name":"weather","arguments":{"city":"Paris"}}]}}"#
//!     .replace('\n', " ").as_str())?;
//! let pair: Pair = record::read(r#"{"id":"p","step_id":"s","intensity":1,"complexity":2,"bin":9,
//!     "chosen":{"text":"","calls":[{"name":"weather","arguments":{"city":"Paris"}}],"score":1},
//!     "rejected":{"text":"I do not know.","calls":[],"score":0}}"#.replace('\n', " ").as_str())?;
//! let task = pair_task(&step, &pair, Orientation::Swapped, Variant::NoThink)?;
//! assert_eq!(task.label.as_deref(), Some("2"));
//! let read = read_choice("<evaluation>…</evaluation>\n<choice>\n2\n</choice>", 2, &Reading::default());
//! assert_eq!(read.choice, Some(2));
//! assert_eq!(Scope::default(), Scope::Final);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod answer;
mod bare;
mod prompt;
mod task;

pub use answer::{AnswerForm, Level, Read, ReadVerdict, Reading, Scope, read_choice, read_verdict};
pub use prompt::{Prompt, Shown, Variant, best_of_prompt, correction_prompt, pair_prompt, point_prompt};
pub use task::{best_of_task, orientation, pair_task, point_task};
