//! Time by component, from the `tracing` spans that the model's operations open.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde_json::{Value, json};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

/// What a component took.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    seconds: f64,
    /// Floating-point operations.
    flops: f64,
    /// Memory read and written, at least.
    bytes: f64,
}

impl Cost {
    fn over(self, count: f64) -> Self {
        Self { seconds: self.seconds / count, flops: self.flops / count, bytes: self.bytes / count }
    }

    fn gflops(self) -> f64 {
        self.flops / self.seconds / 1e9
    }

    fn gbytes(self) -> f64 {
        self.bytes / self.seconds / 1e9
    }
}

type Costs = Arc<Mutex<BTreeMap<&'static str, Cost>>>;

/// What the machine can do at most, to compare components with: GFLOP/s and GB/s.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) gflops: f64,
    pub(crate) gbytes: f64,
}

/// Costs by component.
#[derive(Clone, Debug, Default)]
pub(crate) struct Components(BTreeMap<&'static str, Cost>);

impl Components {
    /// What `work` gives, and the means of its components over `steps` steps. Those of the calling thread count: an operation that
    /// many threads share is one span.
    pub(crate) fn of<T>(steps: usize, work: impl FnOnce() -> T) -> (T, Self) {
        let profile = Profile::default();
        let costs = profile.0.clone();
        let found = tracing::subscriber::with_default(tracing_subscriber::registry().with(profile), work);
        let costs = costs.lock().unwrap_or_else(PoisonError::into_inner);
        (found, Self(costs.iter().map(|(name, cost)| (*name, cost.over(steps as f64))).collect()))
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (name, cost) in &other.0 {
            let sum = self.0.entry(name).or_default();
            sum.seconds += cost.seconds;
            sum.flops += cost.flops;
            sum.bytes += cost.bytes;
        }
    }

    /// A table of them, of work that took `total` seconds.
    pub(crate) fn print(&self, out: &mut impl Write, total: f64, limits: Limits) -> std::io::Result<()> {
        let titles = ["component", "ms", "share", "GFLOP/s", "GB/s", "of limit"];
        let [component, ms, share, gflops, gbytes, limit] = titles;
        writeln!(out, "{component:<16} {ms:>9} {share:>7} {gflops:>9} {gbytes:>9} {limit:>9}")?;
        let mut rows: Vec<_> = self.0.iter().filter(|(_, cost)| cost.flops + cost.bytes > 0.0).collect();
        rows.sort_by(|a, b| b.1.seconds.total_cmp(&a.1.seconds));
        let number = |v: f64| if v > 0.0 { format!("{v:.1}") } else { String::new() };
        let line = |name: &str, seconds: f64| {
            format!("{name:<16} {:>9.2} {:>6.1}%", 1e3 * seconds, 100.0 * seconds / total)
        };
        for (name, cost) in rows {
            let (gflops, gbytes) = (cost.gflops(), cost.gbytes());
            let limit = 100.0 * (gflops / limits.gflops).max(gbytes / limits.gbytes);
            let rates = format!("{:>9} {:>9} {limit:>8.0}%", number(gflops), number(gbytes));
            writeln!(out, "{} {rates}", line(name, cost.seconds))?;
        }
        let named: f64 = self.0.values().map(|c| c.seconds).sum();
        // Buffers, copies, what is drawn and waited for, and candle's share of a backward.
        writeln!(out, "{}", line("the rest", (total - named).max(0.0)))
    }

    pub(crate) fn to_json(&self) -> Value {
        let component = |(name, c): (&&str, &Cost)| {
            ((*name).to_owned(), json!({ "seconds": c.seconds, "flops": c.flops, "bytes": c.bytes }))
        };
        Value::Object(self.0.iter().map(component).collect())
    }
}

/// Sums the costs of spans by their name.
#[derive(Default)]
struct Profile(Costs);

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
    use super::*;

    #[test]
    fn costs_of_spans_of_one_name_are_added() {
        let ((), Components(costs)) = Components::of(2, || {
            for flops in [3u64, 5] {
                let _span = tracing::trace_span!("product", flops).entered();
            }
            let _span = tracing::trace_span!("copy", bytes = 6u64).entered();
        });
        assert_eq!((costs["product"].flops, costs["product"].bytes), (4.0, 0.0));
        assert_eq!((costs["copy"].flops, costs["copy"].bytes), (0.0, 3.0));
        assert!(costs.values().all(|c| c.seconds > 0.0));
    }
}
