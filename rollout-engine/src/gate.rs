//! Sampling under a language confusion gate ([`lcg`]): the final hidden state is part of the sampler's input.

use std::sync::Arc;

use lcg::record::{GateMetrics, MaskRecord};
use lcg::{
    Decision, FamilyPredictor, FamilySet, FamilyTable, GateState, Plan, Protocol, Rules, Step, StepRecord,
    Support, Trust, high_confidence,
};

use crate::error::Result;
use crate::sampling::{Distribution, Draw, Kept, SamplingParams};

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
}

/// What the gate did in one response.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GateTrace {
    /// The mask of each token, for a trainer to replay.
    pub masks: MaskRecord,
    /// Sums over the tokens.
    pub metrics: GateMetrics,
}

impl GateTrace {
    /// Adds another turn of the same response.
    pub fn append(&mut self, next: &Self) {
        self.masks.append(&next.masks);
        self.metrics.merge(&next.metrics);
    }
}

/// A token drawn under a gate, and what a sequence's state takes from it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gated {
    /// The token, and what the gate did.
    pub step: Step,
    trust: Trust,
}

impl Gate {
    /// Draws a token from a row of logits `[V]` and the final hidden state `[d]` that they were made of. The first of `uniforms` decides the ungated draw, which stands where it is allowed; the second draws
    /// again where it is denied. So a token changes only where the ungated one was denied, and what comes out follows the
    /// gated distribution. Where the support was widened, all is drawn by the second.
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
        let row = Distribution::new(logits, params)?;
        let kept = row.kept();
        let free = row.draw(kept.as_ref(), uniforms[0]);
        let decision = match plan.pass {
            Some(reason) => Decision::Pass(reason),
            None => self.decide(state, &plan, logits, &row, kept.as_ref()),
        };
        let Decision::Intervene { denied, widened } = decision else {
            let record = record(FamilySet::EMPTY, false, 0.0, &free);
            return Ok((
                free,
                Gated { step: Step { token: free.token, decision, record }, trust: plan.trust },
            ));
        };
        let view = self.table.view(state.pending);
        let mut allowed = logits.to_vec();
        view.ban(denied, 0, &mut allowed);
        let gated = Distribution::new(&allowed, params)?;
        let flipped = view.denies(denied, free.token as usize);
        let (removed, left) = match &kept {
            None => (removed_mass(&row, &gated), None),
            Some(kept) => {
                let is_denied = |v: &&u32| view.denies(denied, **v as usize);
                let lost: f64 =
                    kept.tokens.iter().filter(is_denied).map(|v| row.probability(*v as usize)).sum();
                let of_greedy = params.temperature == 0.0;
                let share = if of_greedy { f64::from(u8::from(flipped)) } else { lost / kept.mass };
                (share, Some(self.left(&gated, &allowed, kept, widened, &row)))
            }
        };
        let draw = match flipped || (widened && left.is_some()) {
            true => gated.draw(left.as_ref(), uniforms[1]),
            false => gated.drawn(free.token as usize, left.as_ref()),
        };
        let record = record(denied, flipped, removed as f32, &draw);
        Ok((draw, Gated { step: Step { token: draw.token, decision, record }, trust: plan.trust }))
    }

    fn decide(
        &self,
        state: &GateState,
        plan: &Plan,
        logits: &[f32],
        row: &Distribution<'_>,
        kept: Option<&Kept>,
    ) -> Decision {
        let view = self.table.view(state.pending);
        let high = high_confidence(logits, |z| f64::from(row.stats.log_prob(z)));
        // A truncation may have kept tokens that others banned.
        let finite = |kept: &Kept| -> Vec<u32> {
            kept.tokens.iter().copied().filter(|v| logits[*v as usize] > f32::NEG_INFINITY).collect()
        };
        match kept.map(finite) {
            None => plan.decide(self.rules.widen, &view, logits, Support::All, &high),
            Some(kept) => plan.decide(self.rules.widen, &view, logits, Support::Tokens(&kept), &high),
        }
    }

    /// What is left of a truncated support, with the tokens of high confidence where it is widened; likeliest first.
    fn left(
        &self,
        gated: &Distribution<'_>,
        allowed: &[f32],
        kept: &Kept,
        widened: bool,
        row: &Distribution<'_>,
    ) -> Kept {
        let mut tokens = kept.tokens.clone();
        if widened {
            let high = high_confidence(row.logits(), |z| f64::from(row.stats.log_prob(z)));
            tokens.extend(high.into_iter().filter(|v| !kept.tokens.contains(v)));
        }
        tokens.retain(|v| allowed[*v as usize] > f32::NEG_INFINITY);
        tokens.sort_by(|a, b| allowed[*b as usize].total_cmp(&allowed[*a as usize]).then(a.cmp(b)));
        let mass = tokens.iter().map(|v| gated.probability(*v as usize)).sum();
        Kept { tokens, mass }
    }

    /// Takes a drawn token into a sequence's state and trace.
    ///
    /// # Errors
    /// A token outside the vocabulary.
    pub fn accept(&self, state: &mut GateState, trace: &mut GateTrace, gated: &Gated) -> Result<()> {
        trace.masks.push(state, &gated.step);
        trace.metrics.add(&gated.step);
        Ok(state.advance(&self.table, &self.protocol, gated.step.token, &gated.trust)?)
    }
}

fn record(denied: FamilySet, flipped: bool, denied_mass: f32, draw: &Draw) -> StepRecord {
    StepRecord { denied, intervened: !denied.is_empty(), flipped, denied_mass, logprob: draw.truncated_logp }
}

/// The mass of `row` that `gated` has not, without the digits that a difference of probabilities would lose.
fn removed_mass(row: &Distribution<'_>, gated: &Distribution<'_>) -> f64 {
    let log_sum = |d: &Distribution<'_>| {
        f64::from(d.stats.top - row.stats.top) * f64::from(d.stats.inv_temperature)
            + f64::from(d.stats.log_sum)
    };
    -(log_sum(gated) - log_sum(row)).min(0.0).exp_m1()
}
