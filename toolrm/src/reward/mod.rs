//! Verifiable rewards: for a judge by its label, for a policy by its calls, for a policy by a judge's choices.
//!
//! Everything here is a pure function of its input and never fails: a response that cannot be read has the lowest reward.

mod calls;
mod critique;
mod judged;
mod scalar;

pub use calls::{CallPart, CallTask, RewardIn, RewardOut, reward_calls};
pub use critique::{CritiqueReward, CritiqueScore, group_advantages};
pub use judged::{Match, judged_rewards, pair_up};
pub use scalar::bradley_terry_loss;
