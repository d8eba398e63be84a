//! How a forward pass comes by its experts.

use crate::float::Float;
use crate::gates::check_choice;
use crate::router::{Router, top_k};
use crate::trace::{RouteShape, RouteTrace};
use crate::{Error, Result};

/// Where the experts of a forward pass come from. It is an argument of the pass, never state of the model.
#[derive(Clone, Copy, Debug, Default)]
pub enum RouteMode<'a> {
    /// The router's own choice.
    #[default]
    Natural,
    /// The router's own choice, given back as one [`RouteTrace`] a sequence.
    Record {
        /// Goes into the traces.
        policy_version: u64,
    },
    /// Recorded experts, weighed by gates of the current logits.
    Replay {
        /// One for each sequence of the batch, in order.
        traces: &'a [&'a RouteTrace],
        /// What to do with rows of which nothing is known.
        missing: MissingPolicy,
    },
}

/// What replay does with rows marked invalid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MissingPolicy {
    /// Refuse.
    #[default]
    Error,
    /// Let the router choose for that token, in all layers; [`Coverage`] counts it.
    Natural,
}

/// How many rows of a replayed batch had recorded experts. Parts add up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Rows of the traces, those of a shared prefix once.
    pub rows: u64,
    /// `route/fallback_rows`: rows among them that were routed naturally.
    pub fallback_rows: u64,
}

impl Coverage {
    /// `route/coverage`: share of rows with recorded experts; `None` without rows. Below 0.999 something is
    /// wrong with the recording.
    pub fn share(&self) -> Option<f64> {
        (self.rows > 0).then(|| 1.0 - self.fallback_rows as f64 / self.rows as f64)
    }

    /// Adds another part.
    pub fn merge(&mut self, other: Self) {
        self.rows += other.rows;
        self.fallback_rows += other.fallback_rows;
    }
}

/// Every row's source of experts for one forward pass over a packed batch.
#[derive(Debug)]
pub struct RoutePlan<'a> {
    shape: RouteShape,
    router: Router,
    /// Trace and row in it; `None`, or a row that is not valid, for the router's own choice.
    rows: Vec<Option<(&'a RouteTrace, usize)>>,
    coverage: Option<Coverage>,
}

impl<'a> RouteMode<'a> {
    /// Checks everything that can be checked before the pass. `sequences` lists the rows of the packed `tokens`
    /// that each sequence reads, in its order; sequences that share a prefix list the same rows for it, and their
    /// traces must agree there.
    pub fn plan(
        &self,
        shape: RouteShape,
        router: Router,
        tokens: &[u32],
        sequences: &[Vec<u32>],
    ) -> Result<RoutePlan<'a>> {
        router.validate(shape.experts(), shape.top_k())?;
        let Self::Replay { traces, missing } = *self else {
            return Ok(RoutePlan { shape, router, rows: vec![None; tokens.len()], coverage: None });
        };
        if traces.len() != sequences.len() {
            return Err(Error::TraceCount { traces: traces.len(), sequences: sequences.len() });
        }
        let mut rows: Vec<Option<(&RouteTrace, usize)>> = vec![None; tokens.len()];
        let mut coverage = Coverage::default();
        for (sequence, (trace, of_sequence)) in traces.iter().copied().zip(sequences).enumerate() {
            let fault = |source: Error| Error::Sequence { sequence, source: Box::new(source) };
            let token = |row: &u32| {
                let expected = *row as usize + 1;
                tokens.get(*row as usize).copied().ok_or(Error::Shape {
                    what: "tokens",
                    found: tokens.len(),
                    expected,
                })
            };
            let tokens = of_sequence.iter().map(token).collect::<Result<Vec<u32>>>().map_err(fault)?;
            trace.check_for(&shape, &tokens).map_err(fault)?;
            // A trace that is one row short has nothing to say of the last token, which predicts nothing.
            for (row, at) in of_sequence.iter().take(trace.len()).enumerate() {
                match &mut rows[*at as usize] {
                    Some((first, of_first)) => {
                        if row != *of_first || !trace.agrees_with(first, row..row + 1) {
                            return Err(fault(Error::SharedRow { row }));
                        }
                    }
                    unseen => {
                        if !trace.is_valid(row) {
                            if missing == MissingPolicy::Error {
                                return Err(fault(Error::MissingRow { row }));
                            }
                            coverage.fallback_rows += 1;
                        }
                        coverage.rows += 1;
                        *unseen = Some((trace, row));
                    }
                }
            }
        }
        Ok(RoutePlan { shape, router, rows, coverage: Some(coverage) })
    }
}

impl RoutePlan<'_> {
    /// The experts `[rows · K]` of the `ordinal`-th layer with experts, under its logits `[rows, E]`; checked, so
    /// that [`gates`](crate::gates()) takes them.
    pub fn ids<F: Float>(&self, ordinal: usize, logits: &[F]) -> Result<Vec<u32>> {
        let (experts, k) = (self.shape.experts(), self.shape.top_k());
        if logits.len() != self.rows.len() * experts {
            let expected = self.rows.len() * experts;
            return Err(Error::Shape { what: "router_logits", found: logits.len(), expected });
        }
        if self.coverage.is_none() {
            return top_k(logits, experts, k, &self.router);
        }
        let mut ids = Vec::with_capacity(self.rows.len() * k);
        for (token, (source, row)) in self.rows.iter().zip(logits.chunks_exact(experts)).enumerate() {
            match source.and_then(|(trace, row)| trace.ids(row, ordinal)) {
                Some(recorded) => ids.extend(recorded),
                None => ids.extend(top_k(row, experts, k, &self.router).map_err(|e| e.of_token(token))?),
            }
        }
        check_choice(logits, experts, &ids, k)?;
        Ok(ids)
    }

    /// The router of every layer.
    pub fn router(&self) -> &Router {
        &self.router
    }

    /// The sizes of every layer.
    pub fn shape(&self) -> &RouteShape {
        &self.shape
    }

    /// What replay could cover; `None` when nothing is replayed.
    pub fn coverage(&self) -> Option<Coverage> {
        self.coverage
    }
}
