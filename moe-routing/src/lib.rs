//! Mixture-of-experts routing: which experts a token goes to, with what weight, and how both are kept the same
//! between the engine that sampled and the one that trains.
//!
//! A router scores `E` experts for each token; the `K` best run and their outputs are added with *gates*. In
//! reinforcement learning a change of the chosen experts between two engines, or between two updates, moves the
//! importance ratio as much as the parameters do. Routing Replay (arXiv 2512.01374 §4) fixes the expert **ids**
//! and nothing else: gates always come from the current logits, and their gradient reaches the router.
//!
//! The one design decision: selection ([`top_k`]) and weighting ([`gates`]) are two functions. Natural routing
//! calls both; replay calls only the second, with recorded ids. There is no replay mode inside the model.
//!
//! ```
//! use moe_routing::{Router, gates, top_k};
//! let logits = [1.0, 0.2, 0.9, -0.5];
//! let router = Router::SoftmaxTopK { renorm: true };
//! let ids = top_k(&logits, 4, 2, &router)?;
//! assert_eq!(ids, [0, 2]);
//! let natural = gates(&logits, 4, &ids, 2, &router)?;
//! assert!((natural[0] - 0.524_979_187f32).abs() < 1e-6);
//! let replayed = gates(&logits, 4, &[0, 1], 2, &router)?;
//! assert!((replayed[0] - 0.689_974_481f32).abs() < 1e-6);
//! # Ok::<(), moe_routing::Error>(())
//! ```

mod agreement;
mod dispatch;
mod error;
mod losses;
pub mod op;
mod router;

pub use agreement::Agreement;
pub use dispatch::Dispatch;
pub use error::{Error, Result};
pub use losses::{AuxForm, load_balance, z_loss};
pub use router::{Float, Router, gates, gates_backward, top_k};
