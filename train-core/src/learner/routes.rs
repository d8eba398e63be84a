//! What routing did in a pass: loads, the load-balance loss, and experts that were recorded against those chosen now.

use candle_core::Tensor;
use moe_routing::{AuxCounts, AuxForm, Coverage, Discrepancy, ExpertCounts, op as routing};
use qwen3::{Hidden, Routes};

use super::{Learner, UpdateError};
use crate::config::Routing;
use crate::sample::{Packed, Sample};

/// What routing did in one micro-batch.
pub(super) struct RoutingFacts {
    pub(super) discrepancy: Option<Discrepancy>,
    pub(super) coverage: Option<Coverage>,
    pub(super) load: (f64, f64),
}

/// Rows of a pass in which experts are compared, evenly spaced: in all of them it would cost more than replay does.
const COMPARED: usize = 128;

/// Every `apart`-th row of a matrix.
fn some_rows<T: Copy>(values: &[T], width: usize, apart: usize) -> Vec<T> {
    values.chunks_exact(width).step_by(apart).flatten().copied().collect()
}

impl Learner {
    /// Whether updates run recorded experts. R2 records them when the batch is scored, which a single update
    /// does not need: its old policy is the current one.
    pub(super) fn replays(&self) -> bool {
        match self.routing {
            Routing::R3 => true,
            Routing::R2 => self.settings.steps_a_batch() > 1,
            Routing::Natural | Routing::Auto => false,
        }
    }

    /// The recorded experts of a packed pass against those that its logits choose, in up to [`COMPARED`] of its rows;
    /// `None` where none are recorded, or not all.
    pub(super) fn flips(
        &self,
        samples: &[&Sample],
        packed: &Packed,
        hidden: &Hidden,
    ) -> Result<Option<Discrepancy>, UpdateError> {
        let Some(moe) = &self.model.config().moe else { return Ok(None) };
        let recorded = match hidden.coverage {
            Some(_) => None,
            None => match recorded(samples, packed, hidden.routes.len(), moe.num_experts_per_tok) {
                Some(recorded) => Some(recorded),
                None => return Ok(None),
            },
        };
        let (experts, k) = (moe.num_experts, moe.num_experts_per_tok);
        let apart = packed.batch.tokens.len().div_ceil(COMPARED).max(1);
        let logits = |logits: &Tensor| -> Result<_, UpdateError> {
            Ok(some_rows(&logits.flatten_all()?.to_vec1::<f32>()?, experts, apart))
        };
        let logits = hidden.router_logits.iter().map(logits).collect::<Result<Vec<_>, _>>()?;
        let recorded = recorded.as_ref().unwrap_or(&hidden.routes);
        let recorded: Vec<Vec<u32>> = recorded.iter().map(|ids| some_rows(ids, k, apart)).collect();
        Ok(Some(Discrepancy::of_replay(&logits, &recorded, experts, k, &moe.router())?))
    }

    /// Adds the load-balance loss and measures routing, of a model with experts.
    pub(super) fn router_terms(
        &self,
        mut scalar: Tensor,
        samples: &[&Sample],
        packed: &Packed,
        hidden: &Hidden,
        share: f64,
    ) -> Result<(Tensor, Option<RoutingFacts>), UpdateError> {
        let Some(moe) = &self.model.config().moe else { return Ok((scalar, None)) };
        let (k, router) = (moe.num_experts_per_tok, moe.router());
        let layers = hidden.routes.len().max(1) as f64;
        let (mut imbalance, mut dead) = (0.0, 0.0);
        for (logits, ran) in hidden.router_logits.iter().zip(&hidden.routes) {
            let load = ExpertCounts::of(ran, moe.num_experts)?;
            imbalance += load.max_over_mean().unwrap_or(1.0);
            dead += load.dead_experts() as f64 / moe.num_experts as f64;
            if self.settings.router_aux_coef > 0.0 {
                let natural = match hidden.coverage {
                    Some(_) => routing::choose(logits, k, &router)?,
                    None => ran.clone(),
                };
                let counts = ExpertCounts::of(AuxCounts::default().pick(&natural, ran), moe.num_experts)?;
                let aux = routing::load_balance_loss(logits, &counts, k, &router, AuxForm::Switch)?;
                scalar = (scalar + aux.affine(self.settings.router_aux_coef * share / layers, 0.0)?)?;
            }
        }
        let facts = RoutingFacts {
            discrepancy: self.flips(samples, packed, hidden)?,
            coverage: hidden.coverage,
            load: (imbalance / layers, dead / layers),
        };
        Ok((scalar, Some(facts)))
    }
}

/// The experts recorded for the rows of a packed pass, by layer; `None` unless all are known.
fn recorded(samples: &[&Sample], packed: &Packed, layers: usize, k: usize) -> Option<Routes> {
    let rows = packed.batch.tokens.len();
    let mut routes = vec![vec![u32::MAX; rows * k]; layers];
    for (sample, of_sequence) in samples.iter().zip(packed.batch.sequences()) {
        let trace = sample.routes.as_ref()?;
        for (row, at) in of_sequence.into_iter().enumerate() {
            for (ordinal, layer) in routes.iter_mut().enumerate() {
                let slots = &mut layer[at as usize * k..][..k];
                slots.iter_mut().zip(trace.ids(row, ordinal)?).for_each(|(slot, id)| *slot = id);
            }
        }
    }
    // Every row belongs to a sequence, so a slot that is still empty is one that no trace spoke of.
    routes.iter().flatten().all(|id| *id != u32::MAX).then_some(routes)
}
