//! A router's whole decision, in memory that the next one uses again.

use crate::Result;
use crate::dispatch::Dispatch;
use crate::float::Float;
use crate::gates::gates_into;
use crate::router::{Router, top_k_into};

/// The experts of some tokens, their gates and the order in which they are computed: what [`top_k`](crate::top_k()),
/// [`gates`](crate::gates()) and [`Dispatch::new`] give one by one. Once as many tokens have been routed, routing others takes no memory.
///
/// ```
/// use moe_routing::{Router, Routing};
/// let mut routing = Routing::default();
/// routing.route(&[0.0f32, 2.0, 1.0, 5.0, 0.0, 4.0], 3, 2, &Router::SoftmaxTopK { renorm: true })?;
/// assert_eq!(routing.ids(), [1, 2, 0, 2]);
/// assert_eq!(routing.dispatch().token_of(), [1, 0, 0, 1]);
/// # Ok::<(), moe_routing::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Routing<F> {
    ids: Vec<u32>,
    gates: Vec<F>,
    dispatch: Dispatch,
    scores: Vec<F>,
    spare: Vec<u32>,
}

impl<F: Float> Routing<F> {
    /// Routes the tokens of `logits` `[tokens, experts]` to `top_k` experts each.
    ///
    /// # Errors
    /// As [`top_k`](crate::top_k()); what was decided before is lost then.
    pub fn route(&mut self, logits: &[F], experts: usize, top_k: usize, router: &Router) -> Result<()> {
        top_k_into(logits, experts, top_k, router, &mut self.scores, &mut self.ids)?;
        gates_into(logits, experts, &self.ids, top_k, router, &mut self.spare, &mut self.gates)?;
        self.dispatch.fill(&self.ids, logits.len() / experts, experts, top_k, &mut self.spare)
    }

    /// The experts of each token, best first: `[tokens · K]`.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Their weights: `[tokens · K]`.
    pub fn gates(&self) -> &[F] {
        &self.gates
    }

    /// The order of computation.
    pub fn dispatch(&self) -> &Dispatch {
        &self.dispatch
    }
}
