//! Which experts a run's training passes take.

use qwen3::Precision;

use super::model::{Config, Routing, Update};

impl Update {
    /// Optimiser steps for each batch of rollouts.
    #[must_use]
    pub fn steps_a_batch(&self) -> usize {
        self.minibatches * self.epochs
    }

    /// `routing` with [`Routing::Auto`] resolved, for a model with or without experts. The recipe is that of arXiv
    /// 2512.01374: none for one optimiser step a batch, R2 for two, R3 for more.
    #[must_use]
    pub fn routing_for(&self, has_experts: bool) -> Routing {
        match (self.routing, self.steps_a_batch()) {
            (Routing::Auto, _) if !has_experts => Routing::Natural,
            (Routing::Auto, 1) => Routing::Natural,
            (Routing::Auto, 2) => Routing::R2,
            (Routing::Auto, _) => Routing::R3,
            (chosen, _) => chosen,
        }
    }
}

impl Config {
    /// Whether the sampler records which experts ran: to replay them, or to measure how often a sampler of other
    /// numbers than the trainer's chooses otherwise.
    #[must_use]
    pub fn records_routes(&self) -> bool {
        self.update.routing_for(true) == Routing::R3 || self.rollout.precision != Precision::F32
    }
}
