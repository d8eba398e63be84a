//! Batched generation for reinforcement learning.
//!
//! An [`Engine`] takes prompts with any number of samples each and gives back tokens with everything that
//! training needs to know of them: the log-probability of each token under the policy that drew it (before and
//! after truncation), the entropy, why the response ended and, for mixture-of-experts models, which experts ran.
//!
//! Its one design decision: **a sample depends on its prompt, its key, the seed and the weights, and on nothing
//! else.** Random numbers are hashes of `(seed, key, place)` ([`random`]), and every kernel computes a row from
//! that row alone, so neither the batch, nor the order of arrival, nor the number of threads, nor a restart can
//! change a sample; and the recorded log-probabilities equal those of a training forward with the same weights,
//! bit for bit.
//!
//! A prompt is run once for all its samples; finished samples leave at once and waiting prompts enter
//! (continuous batching), in at most [`EngineOptions::max_rows`] rows a step.
//! A sample that ended can go on when it has been answered ([`Engine::resume`]): what it has seen is kept, and so
//! is its record of experts.
//!
//! ```
//! use std::sync::Arc;
//! use rollout_engine::{Engine, EngineOptions, Request, SamplingParams, random};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = qwen3::Config::from_json(r#"{
//!     "model_type": "qwen3", "vocab_size": 16, "hidden_size": 32, "intermediate_size": 64,
//!     "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
//!     "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "max_position_embeddings": 64,
//!     "tie_word_embeddings": true }"#)?;
//! let model = qwen3::Model::init(config, |i| random::keyed_rng(0, random::Stream::Init, [i as u64, 0]))?;
//! let decoder = Arc::new(qwen3::Decoder::new(&model, 64)?);
//! let mut engine = Engine::new(decoder, EngineOptions::default())?;
//! let params = Arc::new(SamplingParams { max_new_tokens: 5, stop_tokens: vec![1], ..Default::default() });
//! let samples = (0..4).map(|index| [7, index]).collect();
//! let (prompt, items) = (vec![3, 4, 5], Default::default());
//! let out = engine.generate(vec![Request { id: 0, prompt, items, samples, seed: 0, params }])?;
//! assert_eq!(out.len(), 4);
//! assert!(out.iter().all(|g| g.tokens.len() == g.logps.len() && g.tokens.len() <= 5));
//! # Ok(()) }
//! ```

mod draft;
mod engine;
mod error;
mod gate;
pub mod random;
mod sampling;
mod sequence;

pub use draft::DraftStats;
pub use engine::{Engine, EngineOptions, Finish, Generation, Request};
pub use error::{Error, Result};
pub use gate::{Gate, GateTrace, Gated};
pub use sampling::{Draw, SamplingParams, draw};
