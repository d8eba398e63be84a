//! Sampling under a language confusion gate ([`lcg`]): the final hidden state is part of the sampler's input.

use std::cell::RefCell;
use std::sync::Arc;

use lcg::record::{GateMetrics, MaskRecord};
use lcg::{
    Decision, FamilyPredictor, FamilySet, FamilyTable, GateState, PassReason, Plan, Protocol, Rules, Step,
    StepRecord, Support, Trust, View, high_confidence,
};

use crate::error::Result;
use crate::sampling::{Distribution, Draw, Kept, SamplingParams};

thread_local! {
    /// A row with nothing but a recorded support, `[V]`: one for each thread that draws, not for each token.
    static ALONE: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Which scripts may come next, and what is done about the others.
pub struct Gate {
    /// The families of every token.
    pub table: Arc<FamilyTable>,
    /// What it predicts from.
    pub predictor: Box<dyn FamilyPredictor + Send + Sync>,
    /// When it intervenes.
    pub rules: Rules,
    /// Families that it never denies, besides those of the taxonomy.
    pub exempt: FamilySet,
    /// Spans that it leaves alone.
    pub protocol: Protocol,
    /// Records what truncation left of each distribution, and scores tokens over that: a trainer that replays it scores the
    /// policy that drew. Without, or where nothing is truncated, tokens are scored over all that the gate allows. Greedy draws
    /// are no policy, and are never recorded.
    pub record_supports: bool,
}

/// What the gate did in one response.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GateTrace {
    /// The mask of each token, for a trainer to replay.
    pub masks: MaskRecord,
    /// The log-probability of each token under the whole vocabulary, in nats: what scoring without masks finds.
    pub unmasked_logps: Vec<f32>,
    /// Sums over the tokens.
    pub metrics: GateMetrics,
}

impl GateTrace {
    /// Adds another turn of the same response.
    pub fn append(&mut self, next: &Self) {
        self.masks.append(&next.masks);
        self.unmasked_logps.extend(&next.unmasked_logps);
        self.metrics.merge(&next.metrics);
    }
}

/// A token drawn under a gate, and what a sequence's state takes from it.
#[derive(Clone, Debug, PartialEq)]
pub struct Gated {
    /// The token, and what the gate did.
    pub step: Step,
    /// What it was drawn from, ascending, where that is recorded.
    pub support: Option<Vec<u32>>,
    /// Its log-probability under the whole vocabulary, in nats.
    pub unmasked_logp: f32,
    trust: Trust,
}

impl Gate {
    /// Draws a token from a row of logits `[V]` and the final hidden state `[d]` that they were made of. The first of `uniforms`
    /// decides the ungated draw, which stands where it is allowed; the second draws again where it is denied. So a token changes
    /// only where the ungated one was denied, and what comes out follows the gated distribution. Where the support was widened,
    /// all is drawn by the second.
    ///
    /// # Errors
    /// Logits from which nothing can be drawn, and what the predictor refuses.
    pub fn draw(
        &self,
        state: &GateState,
        hidden: &[f32],
        logits: &[f32],
        params: &SamplingParams,
        uniforms: [f64; 2],
    ) -> Result<(Draw, Gated)> {
        // The network is asked only where its answer can matter.
        let predicted = match self.rules.pass(state) {
            Some(_) => None,
            None => self.predictor.predict(hidden, logits)?,
        };
        let plan = self.rules.plan(self.table.taxonomy(), self.exempt, state, predicted);
        let view = self.table.view(state.pending);
        let denials = plan.pass.is_none().then(|| view.denials(plan.denied));
        let both = |denials| Distribution::and_left(logits, denials, params);
        // A whole row mostly holds something to deny, so that one pass makes both; what truncation kept mostly does not.
        let (row, left) = match denials.as_ref().filter(|_| !params.truncates()) {
            None => (Distribution::new(logits, params)?, None),
            Some(denials) => both(denials).map(|[row, left]| (row, Some(left)))?,
        };
        let mut kept = row.kept();
        let mut draw = row.draw(kept.as_ref(), uniforms[0]);
        let decision = self.decide(&plan, &view, &row, kept.as_ref());
        let (mut flipped, mut removed) = (false, 0.0);
        if let (Decision::Intervene { widened, .. }, Some(denials)) = (decision, &denials) {
            let left = &match left {
                Some(left) => left,
                None => both(denials).map(|[_, left]| left)?,
            };
            flipped = denials[draw.token as usize];
            removed = match &kept {
                None => removed_mass(&row, left),
                Some(_) if params.temperature == 0.0 => f64::from(u8::from(flipped)),
                Some(Kept { tokens, mass }) => {
                    let is_denied = |v: &&u32| denials[**v as usize];
                    tokens.iter().filter(is_denied).map(|v| row.probability(*v as usize)).sum::<f64>() / mass
                }
            };
            let again = flipped || (widened && kept.is_some());
            kept = kept.map(|kept| kept_of(&row, left, kept, widened));
            draw = match again {
                true => left.draw(kept.as_ref(), uniforms[1]),
                false => left.drawn(draw.token as usize, kept.as_ref()),
            };
        }
        let unmasked_logp = row.stats.log_prob(logits[draw.token as usize]);
        let support = kept.filter(|_| self.record_supports && params.temperature > 0.0);
        let support = support.map(|Kept { mut tokens, .. }| {
            tokens.retain(|v| logits[*v as usize] > f32::NEG_INFINITY);
            tokens.sort_unstable();
            tokens.to_vec()
        });
        if let Some(support) = &support {
            draw = ALONE.with_borrow_mut(|alone| -> Result<Draw> {
                alone.clear();
                alone.resize(logits.len(), f32::NEG_INFINITY);
                support.iter().for_each(|v| alone[*v as usize] = logits[*v as usize]);
                Ok(Distribution::new(alone, params)?.drawn(draw.token as usize, None))
            })?;
        }
        let denied = decision.denied();
        let record = StepRecord {
            denied,
            intervened: !denied.is_empty(),
            flipped,
            denied_mass: removed as f32,
            logprob: draw.truncated_logp,
        };
        let step = Step { token: draw.token, decision, record };
        Ok((draw, Gated { step, support, unmasked_logp, trust: plan.trust }))
    }

    fn decide(&self, plan: &Plan, view: &View<'_>, row: &Distribution<'_>, kept: Option<&Kept>) -> Decision {
        if let Some(reason) = plan.pass {
            return Decision::Pass(reason);
        }
        // A truncation may have kept tokens that others banned.
        let finite = |kept: &Kept| -> Vec<u32> {
            kept.tokens.iter().copied().filter(|v| row.logits[*v as usize] > f32::NEG_INFINITY).collect()
        };
        let kept = kept.map(finite);
        let user = kept.as_deref().map_or(Support::All, Support::Tokens);
        let with = |high: &[u32]| plan.decide(self.rules.widen, view, row.logits, user, high);
        // The likeliest token is always among those of high confidence, and mostly enough: the others need not be ranked.
        match with(&[row.likeliest() as u32]) {
            Decision::Pass(PassReason::Contradicted) => with(&likely(row)),
            decision => decision,
        }
    }

    /// Takes a drawn token into a sequence's state and trace.
    ///
    /// # Errors
    /// A token outside the vocabulary.
    pub fn accept(&self, state: &mut GateState, trace: &mut GateTrace, gated: &Gated) -> Result<()> {
        trace.masks.push(state, &gated.step);
        if let Some(support) = &gated.support {
            trace.masks.push_support(support, self.table.len());
        }
        trace.unmasked_logps.push(gated.unmasked_logp);
        trace.metrics.add(&gated.step);
        Ok(state.advance(&self.table, &self.protocol, gated.step.token, &gated.trust)?)
    }
}

/// What a gate left of a truncated support, with the tokens of high confidence where it is widened; likeliest first.
fn kept_of(row: &Distribution<'_>, left: &Distribution<'_>, kept: Kept, widened: bool) -> Kept {
    let Kept { mut tokens, .. } = kept;
    if widened {
        let more: Vec<u32> = likely(row).into_iter().filter(|v| !tokens.contains(v)).collect();
        tokens.extend(more);
    }
    tokens.retain(|v| left.logit(*v as usize) > f32::NEG_INFINITY);
    tokens.sort_by(|a, b| row.logits[*b as usize].total_cmp(&row.logits[*a as usize]).then(a.cmp(b)));
    let mass = tokens.iter().map(|v| left.probability(*v as usize)).sum();
    Kept { tokens, mass }
}

/// The tokens of high confidence.
fn likely(row: &Distribution<'_>) -> Vec<u32> {
    high_confidence(row.logits, |z| f64::from(row.stats.log_prob(z)))
}

/// The mass of `row` that `gated` has not, without the digits that a difference of probabilities would lose.
fn removed_mass(row: &Distribution<'_>, gated: &Distribution<'_>) -> f64 {
    let log_sum = |d: &Distribution<'_>| {
        f64::from(d.stats.top - row.stats.top) * f64::from(d.stats.inv_temperature)
            + f64::from(d.stats.log_sum)
    };
    -(log_sum(gated) - log_sum(row)).min(0.0).exp_m1()
}
