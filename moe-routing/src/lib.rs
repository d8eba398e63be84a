//! Mixture-of-experts routing: which experts a token goes to, with what weight, and how both are kept the same
//! between the engine that sampled and the one that trains.
//!
//! A router scores `E` experts for each token; the `K` best run and their outputs are added with *gates*. In
//! reinforcement learning a change of the chosen experts between two engines, or between two updates, moves the
//! importance ratio as much as the parameters do. Routing Replay (arXiv 2512.01374 §4) fixes the expert **ids**
//! and nothing else: gates always come from the current logits, and their gradient reaches the router.
//!
//! The one design decision: selection ([`top_k`]) and weighting ([`gates`]) are two functions. Natural routing
//! calls both; replay calls only the second, with recorded ids. A model asks a [`RoutePlan`] for ids and does not
//! know where they come from.
//!
//! What is recorded is a [`RouteTrace`]: the ids of one sequence, packed to a byte each, with the rows that are
//! known and a digest of their tokens. [`RouteMode`] says what a forward pass does with traces, [`Discrepancy`]
//! how far two choices are apart, [`reference`](mod@reference) what a layer computes.
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

mod codec;
mod discrepancy;
mod dispatch;
mod error;
mod float;
mod gates;
#[cfg(any(test, feature = "cuda"))]
pub mod kernels;
mod load;
mod losses;
mod mode;
#[cfg(feature = "candle")]
pub mod op;
pub mod reference;
mod router;
mod routing;
pub mod sources;
mod trace;

pub use discrepancy::Discrepancy;
pub use dispatch::Dispatch;
pub use error::{Error, Result};
pub use float::Float;
pub use gates::{gates, gates_backward};
pub use load::{ExpertCounts, router_entropy, update_bias};
pub use losses::{AuxCounts, AuxForm, AuxPooling, load_balance, z_loss};
pub use mode::{Coverage, MissingPolicy, RouteMode, RoutePlan};
pub use router::{Router, margins, top_k};
pub use routing::Routing;
pub use trace::{RouteShape, RouteTrace, token_digest};
