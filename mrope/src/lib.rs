//! Multimodal rotary position embedding.
//!
//! Where a token stands in text, in an image or in a video, and how that turns its queries and keys: every published
//! design of the Qwen-VL line and its relatives (MRoPE, MRoPE-I, MHRoPE, VideoRoPE, HoPE, CircleRoPE, V2PE, VRoPE, …;
//! arXiv 2510.23095 compares them), with exact gradient. The crate knows nothing of models, tokenizers, images or files.
//!
//! The one design decision: **three independent choices, joined in a table.**
//!
//! 1. [`PositionDesign`] gives each token a coordinate on each axis (time, height, width): [`Positions`]. Its input is
//!    a list of [`Run`]s of text and visual tokens.
//! 2. [`Allocation`] says which axis drives which rotary pair.
//! 3. [`Frequencies`] say how fast each pair turns, stretched to longer contexts or not.
//!
//! [`RotaryTable`] holds the cosines and sines that come of them. It is built once a batch and used by every layer,
//! forward and backward, by one operation ([`apply`], [`apply_packed_qk`], [`apply_inplace`]) that does not know which
//! design it serves. Packing, padding, prefill in pieces and decoding are ways to make the table, not ways to rotate.
//!
//! | model | positions | allocation |
//! |---|---|---|
//! | Qwen3, Llama | [`PositionDesign::vanilla`] | `OneAxis` |
//! | Qwen2-VL | [`PositionDesign::qwen2_vl`] | `Chunked([16, 24, 24])` |
//! | Qwen2.5-VL | [`PositionDesign::qwen2_5_vl`] | `Chunked([16, 24, 24])` |
//! | Qwen3-VL | [`PositionDesign::qwen3_vl`] | `Interleaved([24, 20, 20])` |
//! | new adaptations | [`PositionDesign::mrope_i`] | `Interleaved`, full spectrum on each axis |
//! | more than three axes | [`PositionDesign::mhrope`] | `PerHead` |
//!
//! Coordinates are `f64` on the host and `f32` on the device, never 16 bits. A generated token continues from a
//! [`Sequence`], which belongs to the request and not to the model.
//!
//! ```
//! use candle_core::{Device, Tensor, Var};
//! use mrope::{Allocation, Frequencies, Grid, Heads, PositionDesign, RotaryTable, Run, apply_packed_qk};
//!
//! // Two text tokens, an image of 4 by 6 patches (2 by 3 tokens), one more text token.
//! let design = PositionDesign::qwen3_vl();
//! let positions = design.positions(&[Run::Text(2), Run::Image(Grid::new(1, 4, 6)), Run::Text(1)])?;
//! assert_eq!(positions.to_i32()?[0], [0, 1, 2, 2, 2, 2, 2, 2, 5]);
//! assert_eq!(positions.to_i32()?[2], [0, 1, 2, 3, 4, 2, 3, 4, 5]);
//!
//! let frequencies = Frequencies::new(5e6, 16)?;
//! let table = RotaryTable::new(&positions, &Allocation::Interleaved([4, 2, 2]), &frequencies, &Device::Cpu)?;
//!
//! // Four query heads and two key heads of 16 lanes, rotated at once.
//! let qk = Var::from_tensor(&Tensor::ones((9, 6, 16), candle_core::DType::F32, &Device::Cpu)?)?;
//! let rotated = apply_packed_qk(&qk, Heads { query: 4, kv: 2 }, &table)?;
//! let gradients = rotated.sqr()?.sum_all()?.backward()?;
//! // A rotation keeps lengths, so the gradient of the squared length is 2x.
//! let gradient = gradients.get(&qk).expect("rotation is differentiable");
//! assert!((gradient.mean_all()?.to_scalar::<f32>()? - 2.0).abs() < 1e-5);
//!
//! // Decoding goes on from where the prompt ended.
//! let mut rows = positions.sequences().to_vec();
//! assert_eq!(design.decode(&mut rows)?.axes()[0], [6.0]);
//! # Ok::<(), mrope::Error>(())
//! ```

mod allocation;
mod axis;
mod batch;
mod block;
mod builder;
mod config;
mod design;
mod error;
mod frequencies;
#[cfg(any(test, feature = "cuda"))]
pub mod kernels;
mod op;
mod positions;
mod presets;
pub mod reference;
mod rotate;
mod rows;
mod run;
pub mod sources;
mod table;

pub use allocation::Allocation;
pub use axis::Axis;
pub use builder::PositionBuilder;
pub use config::RopeParameters;
pub use design::{Advance, Circle, FlatStep, Layout, PositionDesign, Temporal, TextSpatial};
pub use error::{Error, Result};
pub use frequencies::{Frequencies, Llama3, Yarn};
pub use op::{Heads, apply, apply_inplace, apply_packed_qk};
pub use positions::{Delta, MAX_COORDINATE, Positions, Sequence};
pub use presets::Compat;
pub use rotate::Pairing;
pub use run::{Grid, Modality, Placeholders, Run, RunReader, VideoItem, runs_from_ids};
pub use table::{Angles, RotaryTable};
