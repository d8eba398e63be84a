//! When to intervene: the rules of the paper's section 4, and what they leave.
//!
//! [`Rules::plan`] needs the prediction and the state alone, so the denied families are known before logits are read;
//! [`Plan::decide`] reads logits. Whatever the inputs, what survives is not empty: the witness that rule 2 asks for is
//! in it.

use serde::{Deserialize, Serialize};

use crate::family::{FamilySet, Taxonomy};
use crate::state::{GateState, Trust};
use crate::table::View;

/// The supports of high confidence, `(top_k, top_p)`; what rule 2 and widening read is their union.
pub const HIGH: [(usize, f64); 2] = [(5, 0.999), (20, 0.95)];

/// When the engine's support is joined with that of high confidence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Widen {
    /// At every intervention, as in the paper.
    #[default]
    Always,
    /// Where nothing of it survives: an allowed draw is then never changed.
    IfEmpty,
}

/// Which letters renew the persistence set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Persistence {
    /// Every letter, as in the paper.
    #[default]
    LastLetter,
    /// Letters of a family that was predicted when they were drawn: a slip does not renew itself.
    LastTrusted,
}

/// What happens at the first token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FirstToken {
    /// It is not gated, as in the authors' code.
    #[default]
    Ungated,
    /// It is gated by the prediction alone.
    GateOnly,
}

/// Options of the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rules {
    /// Widening.
    pub widen: Widen,
    /// Persistence.
    pub persistence: Persistence,
    /// The first token.
    pub first_token: FirstToken,
    /// Whether nothing is denied before the first letter.
    pub require_letter: bool,
    /// Whether a prediction survives a bare space, behind which byte-level vocabularies put Chinese.
    pub carry_space: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            widen: Widen::Always,
            persistence: Persistence::LastLetter,
            first_token: FirstToken::Ungated,
            require_letter: true,
            carry_space: true,
        }
    }
}

impl Rules {
    /// The rules of the paper and its published weights.
    pub fn paper() -> Self {
        Self { carry_space: false, ..Self::default() }
    }
}

/// Why a step is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PassReason {
    /// The gate is off for this sequence.
    Disabled,
    /// A protocol span is open.
    Protocol,
    /// The first token is not gated.
    FirstToken,
    /// No letter has been written yet.
    NoLetter,
    /// The network gave NaN.
    GateNaN,
    /// Every family is allowed, persists or is exempt.
    NothingDenied,
    /// No token of the support is denied.
    NoEffect,
    /// No likely token is of a predicted family: the model contradicts the gate.
    Contradicted,
}

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing changes, not a bit.
    Pass(PassReason),
    /// Tokens of `denied` families are removed.
    Intervene {
        /// The denied families.
        denied: FamilySet,
        /// Whether the tokens of high confidence join the support.
        widened: bool,
    },
}

impl Decision {
    /// The denied families; empty for a pass.
    pub fn denied(&self) -> FamilySet {
        match self {
            Self::Pass(_) => FamilySet::EMPTY,
            Self::Intervene { denied, .. } => *denied,
        }
    }
}

/// What prediction and state alone decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The prediction, after carrying; full where there is none.
    pub predicted: FamilySet,
    /// The families to deny; empty for a pass.
    pub denied: FamilySet,
    /// Why nothing can be denied, where that is so.
    pub pass: Option<PassReason>,
    /// What the state takes from this step.
    pub trust: Trust,
}

impl Plan {
    /// A step without a gate.
    pub fn off(state: &GateState, reason: PassReason) -> Self {
        Self {
            predicted: FamilySet::FULL,
            denied: FamilySet::EMPTY,
            pass: Some(reason),
            trust: Trust { families: FamilySet::FULL, carried: state.carried },
        }
    }
}

/// The sampling support of the engine.
#[derive(Clone, Copy, Debug)]
pub enum Support<'a> {
    /// Every finite logit.
    All,
    /// These tokens, with finite logits.
    Tokens(&'a [u32]),
}

impl Rules {
    /// Why the state alone lets a step pass, whatever would be predicted.
    pub fn pass(&self, state: &GateState) -> Option<PassReason> {
        let first = !state.started();
        if state.protocol {
            return Some(PassReason::Protocol);
        }
        if first && self.first_token == FirstToken::Ungated {
            return Some(PassReason::FirstToken);
        }
        // A first token that the gate alone decides has nothing before it.
        (self.require_letter && state.last.is_empty() && !first).then_some(PassReason::NoLetter)
    }

    /// Lines 1 to 5 of the algorithm: the families to deny, from the `predicted` ones ([`FamilyPredictor`]) and the state.
    /// `exempt` are denied no more than those of the taxonomy.
    ///
    /// [`FamilyPredictor`]: crate::FamilyPredictor
    pub fn plan(
        &self,
        taxonomy: &Taxonomy,
        exempt: FamilySet,
        state: &GateState,
        predicted: Option<FamilySet>,
    ) -> Plan {
        if let Some(reason) = self.pass(state) {
            return Plan::off(state, reason);
        }
        let Some(mut predicted) = predicted.map(|p| p & taxonomy.all()).filter(|p| !p.is_empty()) else {
            return Plan::off(state, PassReason::GateNaN);
        };
        let last = if state.started() { state.last } else { FamilySet::EMPTY };
        if self.carry_space && state.prev_blank {
            let kept = predicted & (state.carried | FamilySet::one(taxonomy.symbols()) | last);
            predicted = if kept.is_empty() { predicted } else { kept };
        }
        let allowed = taxonomy.closure(predicted) | last;
        let denied = taxonomy.all().without(allowed).without(taxonomy.exempt() | exempt);
        let families = match self.persistence {
            Persistence::LastLetter => FamilySet::FULL,
            Persistence::LastTrusted => predicted,
        };
        let carried = if self.carry_space { predicted } else { FamilySet::FULL };
        Plan {
            predicted,
            denied,
            pass: denied.is_empty().then_some(PassReason::NothingDenied),
            trust: Trust { families, carried },
        }
    }
}

impl Plan {
    /// Lines 6 to 8: whether to intervene, given the engine's support `user` and the tokens of high confidence. `logits`
    /// are read where the support is [`Support::All`].
    pub fn decide(
        &self,
        widen: Widen,
        view: &View<'_>,
        logits: &[f32],
        user: Support<'_>,
        high: &[u32],
    ) -> Decision {
        if let Some(reason) = self.pass {
            return Decision::Pass(reason);
        }
        let denied = self.denied;
        let is_denied = |v: &u32| view.denies(denied, *v as usize);
        let (effect, survives) = match user {
            Support::Tokens(tokens) => (tokens.iter().any(is_denied), !tokens.iter().all(is_denied)),
            Support::All => {
                let finite = |v: &u32| logits[*v as usize] > f32::NEG_INFINITY;
                ((0..logits.len() as u32).any(|v| finite(&v) && is_denied(&v)), true)
            }
        };
        self.conclude(widen, view, effect, survives, high)
    }

    /// The same, where it is known whether a token of the support is denied, and whether one survives.
    pub(crate) fn conclude(
        &self,
        widen: Widen,
        view: &View<'_>,
        effect: bool,
        survives: bool,
        high: &[u32],
    ) -> Decision {
        if let Some(reason) = self.pass {
            return Decision::Pass(reason);
        }
        if !effect {
            return Decision::Pass(PassReason::NoEffect);
        }
        let symbols = FamilySet::one(view.table().taxonomy().symbols());
        let target = |v: &u32| {
            let signature = view.signature(*v as usize);
            let families = if signature.families().is_empty() { symbols } else { signature.families() };
            families.meets(self.predicted) && !signature.denied_by(self.denied)
        };
        if !high.iter().any(target) {
            return Decision::Pass(PassReason::Contradicted);
        }
        Decision::Intervene { denied: self.denied, widened: widen == Widen::Always || !survives }
    }
}
