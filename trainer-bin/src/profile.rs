//! Time by component, from the `tracing` spans that the model's operations open.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// What a component took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    pub(crate) seconds: f64,
    /// Floating-point operations.
    pub(crate) flops: f64,
    /// Memory read and written, at least.
    pub(crate) bytes: f64,
}

impl Cost {
    pub(crate) fn over(self, count: f64) -> Self {
        Self { seconds: self.seconds / count, flops: self.flops / count, bytes: self.bytes / count }
    }

    pub(crate) fn gflops(self) -> f64 {
        self.flops / self.seconds / 1e9
    }

    pub(crate) fn gbytes(self) -> f64 {
        self.bytes / self.seconds / 1e9
    }
}

pub(crate) type Costs = Arc<Mutex<BTreeMap<&'static str, Cost>>>;

/// Sums the costs of spans by their name.
#[derive(Default)]
pub(crate) struct Profile(Costs);

impl Profile {
    pub(crate) fn costs(&self) -> Costs {
        self.0.clone()
    }
}

struct Open {
    since: Instant,
    cost: Cost,
}

impl Visit for Cost {
    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "flops" => self.flops = value as f64,
            "bytes" => self.bytes = value as f64,
            _ => {}
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Profile {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut cost = Cost::default();
        attributes.record(&mut cost);
        span.extensions_mut().insert(Open { since: Instant::now(), cost });
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else { return };
        let extensions = span.extensions();
        let Some(open) = extensions.get::<Open>() else { return };
        let mut costs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = costs.entry(span.name()).or_default();
        sum.seconds += open.since.elapsed().as_secs_f64();
        sum.flops += open.cost.flops;
        sum.bytes += open.cost.bytes;
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn costs_of_spans_of_one_name_are_added() {
        let profile = Profile::default();
        let costs = profile.costs();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(profile), || {
            for flops in [3u64, 4] {
                let _span = tracing::trace_span!("product", flops).entered();
            }
            let _span = tracing::trace_span!("copy", bytes = 5u64).entered();
        });
        let costs = costs.lock().unwrap();
        assert_eq!((costs["product"].flops, costs["product"].bytes), (7.0, 0.0));
        assert_eq!((costs["copy"].flops, costs["copy"].bytes), (0.0, 5.0));
        assert!(costs.values().all(|c| c.seconds > 0.0));
    }
}
