//! A random step: a table, a row of logits, sampling, rules, state and prediction, and what the definition makes of it.

use lcg::{
    FamilySet, FamilyTable, FirstToken, GateState, Noise, PassReason, Persistence, Plan, Rules, Sampling,
    Taxonomy, Widen, reference, sample,
};
use proptest::prelude::*;

use super::{noise, of_bytes};

/// Tokens of one family, of two, of symbols, and beginnings of characters.
const TEXTS: [&[u8]; 14] = [
    b"a",
    "中".as_bytes(),
    "の".as_bytes(),
    "中の".as_bytes(),
    "ж".as_bytes(),
    "aж".as_bytes(),
    b"!",
    b" ",
    "한".as_bytes(),
    &[0xE4],
    &[0xE3],
    &[0x80, 0x85],
    "ب".as_bytes(),
    b"\n",
];

fn taxonomy(four: bool) -> Taxonomy {
    if four { Taxonomy::paper4() } else { Taxonomy::script16() }
}

/// A random case: a table, a row of logits with bans, sampling, rules, state and prediction.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) table: FamilyTable,
    pub(crate) logits: Vec<f32>,
    pub(crate) sampling: Sampling,
    pub(crate) rules: Rules,
    pub(crate) state: GateState,
    pub(crate) predicted: FamilySet,
    pub(crate) noise: Noise,
}

pub(crate) fn case() -> impl Strategy<Value = Case> {
    let token = prop::sample::select(TEXTS.to_vec());
    let logit = prop_oneof![6 => -8f32..8.0, 1 => Just(f32::NEG_INFINITY), 1 => Just(3.0f32)];
    let row = prop::collection::vec((token, logit), 1..40)
        .prop_filter("a finite logit", |row| row.iter().any(|(_, z)| z.is_finite()));
    let sampling = (
        prop_oneof![Just(1f32), Just(0.0), 0.3f32..2.0],
        prop_oneof![Just(0usize), 1usize..30],
        prop_oneof![Just(1f64), 0.1f64..1.0],
    );
    let options = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let state = (any::<u32>(), any::<u32>(), any::<u32>(), any::<bool>(), 0u32..3, any::<bool>());
    (row, sampling, options, state, any::<u64>(), any::<bool>()).prop_map(
        |(row, (temperature, top_k, top_p), (widen, trusted, letter, carry), state, seed, four)| {
            let table = of_bytes(taxonomy(four), row.iter().map(|(t, _)| t.to_vec()));
            let all = table.taxonomy().all();
            let symbols = FamilySet::one(table.taxonomy().symbols());
            let (last, carried, p, prev_blank, generated, sparse) = state;
            let mut at = GateState {
                last: (FamilySet(last & carried) & all).without(symbols),
                carried: FamilySet(carried),
                prev_blank,
                generated,
                ..GateState::default()
            };
            if seed % 3 == 0 {
                at.pending = lcg::utf8::Pending::unpack(u32::from_le_bytes([1, 0xE3, 0, 0])).unwrap();
            }
            // At least one family, often only one.
            let one = FamilySet::one(p as usize % table.taxonomy().len());
            Case {
                logits: row.iter().map(|(_, z)| *z).collect(),
                sampling: Sampling { temperature, top_k, top_p },
                rules: Rules {
                    widen: if widen { Widen::Always } else { Widen::IfEmpty },
                    persistence: if trusted { Persistence::LastTrusted } else { Persistence::LastLetter },
                    first_token: if seed % 2 == 0 { FirstToken::Ungated } else { FirstToken::GateOnly },
                    require_letter: letter,
                    carry_space: carry,
                },
                state: at,
                predicted: if sparse { one } else { FamilySet(p) & all | one },
                noise: noise(seed),
                table,
            }
        },
    )
}

impl Case {
    pub(crate) fn plan(&self) -> Plan {
        self.rules.plan(self.table.taxonomy(), FamilySet::EMPTY, &self.state, Some(self.predicted))
    }

    pub(crate) fn step(&self, plan: &Plan) -> lcg::Step {
        let view = self.table.view(self.state.pending);
        sample(0, &self.logits, &self.sampling, self.rules.widen, plan, &view, &self.noise).unwrap()
    }

    /// Processed logits, the engine's support, and what the definition leaves of it.
    pub(crate) fn defined(&self, plan: &Plan) -> (Vec<f64>, Vec<bool>, Result<Vec<bool>, PassReason>) {
        let greedy = self.sampling.temperature == 0.0;
        let inv = if greedy { 1.0 } else { 1.0 / self.sampling.temperature };
        let x: Vec<f64> = self.logits.iter().map(|z| f64::from(z * inv)).collect();
        let user = match greedy {
            true => reference::support(&x, 1, 1.0),
            false => reference::support(&x, self.sampling.top_k, self.sampling.top_p),
        };
        let view = self.table.view(self.state.pending);
        let left = match plan.pass {
            Some(reason) => Err(reason),
            None => reference::decide(&x, &user, &view, plan.predicted, plan.denied, self.rules.widen),
        };
        (x, user, left)
    }

    /// Whether no edge of a support is so near that f32 could fall on the other side.
    pub(crate) fn clear(&self) -> bool {
        let inv = if self.sampling.temperature == 0.0 { 1.0 } else { 1.0 / self.sampling.temperature };
        let x: Vec<f64> = self.logits.iter().map(|z| f64::from(z * inv)).collect();
        let p = reference::softmax(&x);
        let mut sorted = p.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let mut sum = 0.0;
        sorted.iter().all(|q| {
            sum += q;
            [0.999, 0.95, self.sampling.top_p].iter().all(|edge| *edge == 1.0 || (sum - edge).abs() > 1e-4)
        })
    }
}
