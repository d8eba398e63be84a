//! Long-form generation tasks that are made from seeds and verified by rules alone.
//!
//! Benchmarks of long answers usually write a prompt first and then look for a way to grade it. Here it is the other
//! way round (LongWeave, arXiv 2510.24345): a seed gives a scenario, the scenario gives the raw material, a list of
//! constraints, and for each constraint a verifier, which the model never sees. So every answer is scored by rule, the
//! same on every machine; there are as many instances as anyone wants; and the score that evaluates a model can train
//! it. All seven tasks of the benchmark are here.
//!
//! The one design decision: no judge, and a score of 1 means that nothing at all is wrong. Each task therefore brings
//! its own proof: an [`oracle`](Task::oracle) that scores exactly 1, faults to [`plant`](Task::plant) that each cost
//! something, and worthless answers ([`nulls`](Task::nulls)) that get next to nothing.
//!
//! ```
//! use cov_eval::{InstanceKey, Intake, Split, TaskConfig, TaskId, task};
//! let task = task(TaskId::Fsm);
//! let key = InstanceKey {
//!     task: TaskId::Fsm,
//!     version: task.version(),
//!     split: Split::Test,
//!     length: 1024,
//!     difficulty: 1,
//!     base_seed: 0,
//!     index: 0,
//! };
//! let instance = task.generate(&key, &TaskConfig::default())?;
//! assert!(instance.prompt.user.contains("exactly 55 rows"));
//! let answer = task.oracle(&instance);
//! assert_eq!(task.verify(&instance, &Intake::from(answer.as_str())).score, 1.0);
//! let half = &answer[..answer.len() / 2];
//! let score = task.verify(&instance, &Intake::from(half)).score;
//! assert!(score > 0.4 && score < 0.6);
//! # Ok::<(), cov_eval::GenError>(())
//! ```

mod aggregate;
pub mod compat;
mod curriculum;
mod error;
mod evidence;
mod filler;
mod flags;
#[cfg(test)]
mod fuzz;
mod intake;
pub mod judge;
mod key;
mod length;
mod model;
mod names;
mod numbers;
mod prose;
mod python;
mod reward;
pub mod run;
mod sentence;
pub mod stats;
mod stored;
mod tasks;
mod text;
mod words;

pub use aggregate::{BELOW_ONE, harmonic};
pub use curriculum::Curriculum;
pub use error::GenError;
pub use flags::FlagSet;
pub use intake::{Completion, Finish, Intake, IntakeConfig};
pub use key::{DetRng, InstanceKey, LENGTHS, MAX_DIFFICULTY, Split, TaskId};
pub use length::{estimate_tokens, length_multiplier, length_score, target_words};
pub use model::{
    Budget, Constraint, Gate, Instance, Material, MaterialKind, OutputStats, PlantKind, Planted, Prompt,
    Reason, SCHEMA, Spans, Status, Task, TaskConfig, Verdict, Verification,
};
pub use reward::{Reward, RewardForm, RewardModel};
pub use sentence::sentences;
pub use tasks::{
    CodeTargets, FsmTargets, KgTargets, KvDictTargets, NewsTargets, ParaOrderTargets, Pinned, SalesTargets,
    Targets, lint, task,
};
pub use words::words;
