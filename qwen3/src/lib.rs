//! Trainable models of the Qwen3 family: Qwen3, Qwen3-MoE, Qwen3-VL ([`vision`]), and the Llama shape (SmolLM2), in `f32`
//! on the CPU.
//!
//! A policy that is trained by reinforcement learning is both sampled and differentiated, and the two must agree
//! (Qwen3 technical report, arXiv 2505.09388; agreement of sampler and trainer: arXiv 2512.01374). This crate
//! has one set of row kernels ([`kernel`]) under two users: [`Model`], whose operations ([`ops`]) carry
//! hand-written backwards and keep no score or logit matrix, and [`Decoder`], which generates with a key/value
//! cache. **The bits of a row never depend on the rows beside it**, so the log-probability recorded while
//! sampling is the one training computes with the same weights.
//!
//! Weights are read from and written to Hugging Face directories ([`Model::load`], [`Model::save`]), and GGUF
//! files ([`gguf::load`], [`gguf::save`]). A plain `f64` definition of the whole forward pass is in
//! [`reference`](mod@reference).
//!
//! It knows nothing of rewards, losses or optimisers.
//!
//! ```
//! use qwen3::{Batch, Config, ForwardOptions, Model};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = Config::from_json(r#"{
//!     "model_type": "qwen3_moe", "vocab_size": 16, "hidden_size": 32, "intermediate_size": 64,
//!     "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
//!     "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "max_position_embeddings": 64,
//!     "tie_word_embeddings": true, "num_experts": 4, "num_experts_per_tok": 2,
//!     "moe_intermediate_size": 16, "norm_topk_prob": true }"#)?;
//! # use rand::SeedableRng;
//! let model = Model::init(config, |i| rand_chacha::ChaCha8Rng::seed_from_u64(i as u64))?;
//! let batch = Batch::pack([[3, 1, 4].as_slice(), &[1, 5, 9, 2]]);
//! let hidden = model.forward(&batch, &ForwardOptions::default())?; // states [7, 32]
//! let scores = model.log_probs(&hidden.states, &[1, 4, 0, 5, 9, 2, 0], 1.0)?; // logp, entropy [7]
//! let gradients = model.gradients(&scores.logp.sum_all()?)?; // one a parameter, or an error that names those without
//! assert_eq!(gradients.len(), model.parameters().len());
//! # Ok(()) }
//! ```

mod buffer;
pub mod config;
pub mod decode;
mod error;
mod files;
pub mod gguf;
mod head;
pub mod kernel;
mod layer;
mod model;
pub mod ops;
mod part;
pub mod reference;
mod sink;
pub mod vision;
pub mod weights;

pub use buffer::{Buffer, Pooled};
pub use config::{Architecture, Config, MoeConfig};
pub use decode::{Decoder, Precision};
pub use error::{Error, Result};
pub use head::LogProbs;
pub use kernel::MatmulPrecision;
pub use model::{Batch, ForwardOptions, Hidden, Model, Parameter, Routes};
pub use vision::{VisualItems, VlConfig, VlModel};
pub use weights::{ParameterGroup, SaveType};
