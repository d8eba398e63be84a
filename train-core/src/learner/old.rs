//! The pass over a batch before its first update: the old policy's log-probabilities and, for R2, its experts.

use moe_routing::{MissingPolicy, RouteMode};
use qwen3::ForwardOptions;

use super::{Learner, UpdateError, UpdateReport};
use crate::config::Routing;
use crate::sample::{Packed, Sample, micro_batches, traces_of};

impl Learner {
    /// Log-probabilities at the start of the step: under the sampler's experts (R3), or the router's own, which are
    /// recorded for R2. Measures how far sampler and trainer are apart under the same weights.
    pub(super) fn score_old(
        &self,
        samples: &mut [Sample],
        report: &mut UpdateReport,
    ) -> Result<(), UpdateError> {
        let all: Vec<&Sample> = samples.iter().collect();
        let mut scored = Vec::with_capacity(all.len());
        for micro in micro_batches(&all, self.settings.tokens_per_micro) {
            let packed = Packed::new(&micro)?;
            let traces = match self.routing {
                Routing::R3 => Some(traces_of(&micro).map_err(UpdateError::NoRoutes)?),
                _ => None,
            };
            let routing = match &traces {
                Some(traces) => RouteMode::Replay { traces, missing: self.settings.missing_routes },
                None if self.routing == Routing::R2 => RouteMode::Record { policy_version: 0 },
                None => RouteMode::Natural,
            };
            let options = ForwardOptions { routing, no_grad: true };
            let hidden = self.model.forward(&packed.batch, &packed.items, &options);
            let hidden = hidden.map_err(|e| UpdateError::of_forward(e, &micro))?;
            if let Some(flips) = self.flips(&micro, &packed, &hidden)? {
                report.flips.merge(&flips);
            }
            let logp = self.log_probs(&self.model, &hidden, &packed, self.masks(&micro)?)?;
            let mut traces = hidden.traces.into_iter();
            scored.extend(packed.offsets.windows(2).map(|w| (logp[w[0]..w[1]].to_vec(), traces.next())));
        }
        for (sample, (logp, routes)) in samples.iter_mut().zip(scored) {
            report.mismatch.add(&logp, &sample.logp_mu);
            sample.logp_old = logp;
            sample.routes = routes.or(sample.routes.take());
        }
        Ok(())
    }

    /// Gives samples without a trace one of which nothing is known, where the configuration says to go on without.
    pub(super) fn unknown_routes(&self, samples: &mut [Sample]) -> Result<(), UpdateError> {
        if self.routing != Routing::R3 || self.settings.missing_routes == MissingPolicy::Error {
            return Ok(());
        }
        let Some(shape) = self.model.config().route_shape()? else { return Ok(()) };
        for sample in samples.iter_mut().filter(|s| s.routes.is_none()) {
            sample.routes = Some(sample.unknown_routes(shape.clone()));
        }
        Ok(())
    }
}
