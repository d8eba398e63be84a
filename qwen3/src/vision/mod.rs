//! Qwen3-VL: a vision tower whose features take the place of image and video tokens (Qwen3-VL technical report,
//! arXiv 2511.21631; DeepStack, arXiv 2406.04334).
//!
//! `config.rs` reads the nested `config.json`, `scheme.rs` its positions, `tower.rs` encodes patches, `weights.rs` knows the file names,
//! `join.rs` finds the rows of a batch that the tower fills, `model.rs` is tower and decoder, `processor/` makes
//! patches and prompts of images and videos, `prompt.rs` is what generation keeps of them. `reference.rs` is the
//! definition. Positions and rotations come from the crate `mrope`; causality follows token
//! order, never coordinates.

mod config;
mod join;
mod model;
pub mod processor;
mod prompt;
pub mod reference;
mod scheme;
mod tower;
mod weights;

pub use config::{VisionConfig, VlConfig};
pub use join::VisualItems;
pub use model::VlModel;
pub use prompt::VisualPrompt;
pub use scheme::Rotation;
pub use tower::{VisionTower, VisualFeatures};
pub use weights::parameter_specs;

pub(crate) use join::VisualRows;
pub(crate) use prompt::FrozenVision;
