//! Decisions and draws: fast path against definition, and the algebra of the rules.
#![allow(clippy::unwrap_used)]

mod common;

use common::{behind, close, noise, of_bytes, of_families};
use lcg::{
    Decision, Exemptions, FamilySet, FamilyTable, FirstToken, GateState, Kind, MlpGate, Noise, PassReason,
    Persistence, Plan, Protocol, RowMask, Rules, Sampling, Signature, Support, Taxonomy, Vocabulary, Widen,
    draw, reference, sample,
};
use proptest::prelude::*;

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
struct Case {
    table: FamilyTable,
    logits: Vec<f32>,
    sampling: Sampling,
    rules: Rules,
    state: GateState,
    predicted: FamilySet,
    noise: Noise,
}

/// A gate logit, often not finite.
fn output() -> impl Strategy<Value = f32> {
    prop_oneof![40 => -4f32..4.0, 10 => Just(f32::INFINITY), 10 => Just(f32::NEG_INFINITY), 1 => Just(f32::NAN)]
}

fn case() -> impl Strategy<Value = Case> {
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
    fn plan(&self) -> Plan {
        self.rules.plan(self.table.taxonomy(), FamilySet::EMPTY, &self.state, Some(self.predicted))
    }

    fn step(&self, plan: &Plan) -> lcg::Step {
        let view = self.table.view(self.state.pending);
        sample(0, &self.logits, &self.sampling, self.rules.widen, plan, &view, &self.noise).unwrap()
    }

    /// Processed logits, the engine's support, and what the definition leaves of it.
    fn defined(&self, plan: &Plan) -> (Vec<f64>, Vec<bool>, Result<Vec<bool>, PassReason>) {
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
    fn clear(&self) -> bool {
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// The fast path decides, and scores, as the definition does; what is drawn is in the support, which is never empty
    /// (properties 8, 13, 18 and part of 29).
    #[test]
    fn draws_come_from_the_defined_support(case in case()) {
        prop_assume!(case.clear());
        let plan = case.plan();
        let (x, user, left) = case.defined(&plan);
        let step = case.step(&plan);
        let greedy = case.sampling.temperature == 0.0;
        let kept = match (&left, step.decision) {
            (Err(reason), Decision::Pass(found)) => { prop_assert_eq!(*reason, found); &user }
            (Ok(kept), Decision::Intervene { denied, .. }) => { prop_assert_eq!(denied, plan.denied); kept }
            other => return Err(TestCaseError::fail(format!("{other:?}"))),
        };
        prop_assert!(kept.iter().any(|k| *k));
        prop_assert!(kept[step.token as usize] && case.logits[step.token as usize].is_finite());
        let masked: Vec<f64> = (0..x.len()).map(|v| if kept[v] { x[v] } else { f64::NEG_INFINITY }).collect();
        let expected = if greedy { 0.0 } else { reference::softmax(&masked)[step.token as usize].ln() };
        close(&[f64::from(step.record.logprob)], &[expected], 2e-5);
        let view = case.table.view(case.state.pending);
        let q: Vec<f64> = {
            let of: Vec<f64> = (0..x.len()).map(|v| if user[v] { x[v] } else { f64::NEG_INFINITY }).collect();
            reference::softmax(&of)
        };
        let lost: f64 = (0..x.len()).filter(|v| step.record.intervened && view.denies(plan.denied, *v)).map(|v| q[v]).sum();
        close(&[f64::from(step.record.denied_mass)], &[lost], 2e-5);
        // Idempotence: its own output has nothing left to deny.
        if left.is_ok() {
            let again = reference::decide(&masked, kept, &view, plan.predicted, plan.denied, case.rules.widen);
            prop_assert_eq!(again, Err(PassReason::NoEffect));
        }
    }

    /// Properties 10 and 16: a gate that allows all changes no bit, and with `IfEmpty` or no truncation a draw changes only
    /// where the ungated one was denied.
    #[test]
    fn gated_and_ungated_draws_share_their_noise(case in case()) {
        let ungated = case.step(&Plan::off(&case.state, PassReason::Disabled));
        let all = case.rules.plan(case.table.taxonomy(), FamilySet::EMPTY, &case.state, Some(FamilySet::FULL));
        let open = case.step(&all);
        if all.denied.is_empty() {
            prop_assert_eq!((open.token, open.record), (ungated.token, ungated.record));
        }
        let (plan, view) = (case.plan(), case.table.view(case.state.pending));
        let step = case.step(&plan);
        let denied = step.record.intervened && view.denies(plan.denied, ungated.token as usize);
        prop_assert_eq!(step.record.flipped, denied);
        let whole = case.sampling.top_k == 0 && case.sampling.top_p == 1.0 && case.sampling.temperature > 0.0;
        if whole || case.rules.widen == Widen::IfEmpty {
            prop_assert_eq!(step.token != ungated.token, denied);
        }
        if !step.record.intervened {
            prop_assert_eq!((step.token, step.record), (ungated.token, ungated.record));
        }
    }

    /// A banned row is the row without its denied tokens, pending characters included.
    #[test]
    fn bans_are_denials(case in case(), denied in any::<u32>()) {
        let (view, denied) = (case.table.view(case.state.pending), FamilySet(denied));
        let mut row = case.logits.clone();
        // In two parts.
        let cut = row.len() / 2;
        let (left, right) = row.split_at_mut(cut);
        view.ban(denied, 0, left);
        view.ban(denied, cut, right);
        for (v, (banned, z)) in row.iter().zip(&case.logits).enumerate() {
            let expected = if view.denies(denied, v) { f32::NEG_INFINITY } else { *z };
            prop_assert_eq!(banned.to_bits(), expected.to_bits(), "token {}", v);
        }
    }

    /// Properties 11, 14 and 19b.
    #[test]
    fn plans_are_monotone_and_respect_exemptions(case in case(), more in any::<u32>()) {
        let (taxonomy, plan) = (case.table.taxonomy(), case.plan());
        prop_assert!(!plan.denied.meets(taxonomy.exempt()));
        let view = case.table.view(case.state.pending);
        for v in 0..case.logits.len() {
            let Signature { any, all } = view.signature(v);
            let exempt = all.is_empty() && any.without(taxonomy.exempt()).is_empty();
            let persists = case.state.started() && (any | all).without(case.state.last).is_empty();
            prop_assert!(!((exempt || persists) && view.denies(plan.denied, v)), "token {}", v);
        }
        if case.state.started() {
            prop_assert!(!plan.denied.meets(case.state.last));
        }
        prop_assert!(!plan.denied.meets(taxonomy.closure(plan.predicted)));
        let plain = Rules { carry_space: false, ..case.rules };
        let of = |rules: &Rules, p: FamilySet| rules.plan(taxonomy, FamilySet::EMPTY, &case.state, Some(p));
        let wider = of(&plain, case.predicted | FamilySet(more));
        let narrow = of(&plain, case.predicted);
        prop_assert!(wider.denied.without(narrow.denied).is_empty());
        for v in 0..case.logits.len() {
            prop_assert!(!view.denies(wider.denied, v) || view.denies(narrow.denied, v), "token {}", v);
        }
        if case.rules.carry_space && plan.pass.is_none() && case.state.prev_blank {
            let last = if case.state.started() { case.state.last } else { FamilySet::EMPTY };
            let open = case.state.carried | last | FamilySet::one(taxonomy.symbols());
            let expected = if (case.predicted & open).is_empty() { case.predicted } else { case.predicted & open };
            prop_assert_eq!(plan.predicted, expected);
            prop_assert_eq!(plan.trust.carried, expected);
        } else if plan.pass.is_none() {
            prop_assert_eq!(plan.predicted, case.predicted);
        }
        let exempt = case.rules.plan(taxonomy, plan.denied, &case.state, Some(case.predicted));
        prop_assert!(exempt.denied.is_empty());
    }

    /// Property 5: for logits without equals, ids are names.
    #[test]
    fn renumbering_permutes_the_decision(case in case()) {
        let n = case.logits.len();
        let mut distinct = case.logits.clone();
        distinct.iter_mut().enumerate().for_each(|(i, z)| *z += i as f32 * 0.01);
        let back: Vec<f32> = distinct.iter().rev().copied().collect();
        let turned = of_bytes(
            case.table.taxonomy().clone(),
            (0..n).rev().map(|v| case.table.vocabulary().bytes(v).to_vec()),
        );
        // Greedy: noise is by id.
        let greedy = Sampling { temperature: 0.0, ..case.sampling };
        let run = |table: &FamilyTable, logits: &[f32]| {
            let view = table.view(case.state.pending);
            sample(0, logits, &greedy, case.rules.widen, &case.plan(), &view, &case.noise).unwrap()
        };
        let (a, b) = (run(&case.table, &distinct), run(&turned, &back));
        prop_assert_eq!(distinct[a.token as usize], back[b.token as usize]);
        prop_assert_eq!(a.decision, b.decision);
    }

    /// Property 25: at unchanged weights the replayed log-probability has the bits of the recorded one; and 27: 8 bytes say it.
    #[test]
    fn replay_has_the_bits_of_the_rollout(case in case()) {
        let temperature = case.sampling.temperature.max(0.3);
        let view = case.table.view(case.state.pending);
        let step =
            draw(0, &case.logits, temperature, Support::All, case.rules.widen, &case.plan(), &view, &case.noise).unwrap();
        let recorded = [step.record.denied.0, case.state.pending.pack()];
        let pending = lcg::utf8::Pending::unpack(recorded[1]).unwrap();
        let mask = RowMask { view: case.table.view(pending), denied: FamilySet(recorded[0]), kept: None };
        let replayed = mask.logprob(0, &case.logits, step.token, temperature).unwrap();
        prop_assert_eq!(replayed.to_bits(), step.record.logprob.to_bits());
        prop_assert_eq!((replayed - step.record.logprob).exp(), 1.0);
        // Without the mask the ratio is the allowed mass.
        let full = RowMask { denied: FamilySet::EMPTY, ..mask.clone() };
        let unmasked = full.logprob(0, &case.logits, step.token, temperature).unwrap();
        let mass = 1.0 - f64::from(step.record.denied_mass);
        prop_assert!((f64::from(unmasked - replayed).exp() - mass).abs() < 3e-5 * mass.max(0.1) + 1e-6);
    }

    /// Properties 26 and 28: gradients against the definition, whose own are checked by finite differences below.
    #[test]
    fn gradients_agree_with_the_definition(case in case(), scale in 0.3f32..2.0) {
        let temperature = scale;
        let view = case.table.view(case.state.pending);
        let step =
            draw(0, &case.logits, temperature, Support::All, case.rules.widen, &case.plan(), &view, &case.noise).unwrap();
        let mask = RowMask { view, denied: step.record.denied, kept: None };
        let allowed: Vec<bool> = (0..case.logits.len() as u32).map(|v| mask.allows(v)).collect();
        let z: Vec<f64> = case.logits.iter().map(|z| f64::from(*z)).collect();
        let (token, t) = (step.token as usize, f64::from(temperature));
        let (logprob, slope) = reference::masked_logprob(&z, &allowed, token, t);
        let (mut d, mut leaked) = (vec![0f32; z.len()], vec![0f32; z.len()]);
        mask.add_gradient(0, &case.logits, step.token, temperature, 1.0, &mut d).unwrap();
        mask.add_leak_gradient(&case.logits, temperature, 1.0, &mut leaked).unwrap();
        let wide = |x: &[f32]| x.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>();
        close(&wide(&d), &slope, 2e-5);
        prop_assert!(d.iter().zip(&allowed).all(|(d, a)| *a || d.to_bits() == 0));
        prop_assert!(d.iter().sum::<f32>().abs() < 1e-4);
        if !mask.denied.is_empty() {
            let (leak, leak_slope) = reference::leak(&z, &allowed, t);
            close(&wide(&leaked), &leak_slope, 2e-5);
            close(&[f64::from(mask.leak(&case.logits, temperature).unwrap())], &[leak], 3e-5 * leak.max(1.0));
            prop_assert!(leaked.iter().sum::<f32>().abs() < 1e-4);
        }
        // Finite differences of the definition, in f64.
        let v = case.logits.iter().position(|z| z.is_finite()).unwrap();
        let at = |h: f64, f: &dyn Fn(&[f64]) -> f64| { let mut z = z.clone(); z[v] += h; f(&z) };
        let masked = |z: &[f64]| reference::masked_logprob(z, &allowed, token, t).0;
        let leak = |z: &[f64]| reference::leak(z, &allowed, t).0;
        let numeric = |f: &dyn Fn(&[f64]) -> f64| (at(1e-5, f) - at(-1e-5, f)) / 2e-5;
        close(&[numeric(&masked), numeric(&leak)], &[slope[v], reference::leak(&z, &allowed, t).1[v]], 1e-6);
        prop_assert!(logprob <= 1e-12);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Property 19: a support of one allowed family is left alone, whatever is predicted and truncated.
    #[test]
    fn a_support_of_one_allowed_family_passes(case in case(), family in 0usize..16) {
        let of = of_families(&vec![family % 4; case.logits.len()]);
        let mut rules = case.rules;
        rules.carry_space = false;
        let predicted = FamilySet(case.predicted.0 & 15) | FamilySet::one(family % 4);
        let state = GateState { last: FamilySet(case.state.last.0 & 15), pending: Default::default(), ..case.state };
        let plan = rules.plan(of.taxonomy(), FamilySet::EMPTY, &state, Some(predicted));
        let view = of.view(Default::default());
        let step = sample(0, &case.logits, &case.sampling, rules.widen, &plan, &view, &case.noise).unwrap();
        prop_assert!(matches!(step.decision, Decision::Pass(_)), "family {} under {:?}", family % 4, plan);
        let free = Plan::off(&state, PassReason::Disabled);
        let ungated = sample(0, &case.logits, &case.sampling, rules.widen, &free, &view, &case.noise).unwrap();
        prop_assert_eq!((step.token, step.record), (ungated.token, ungated.record));
    }

    /// Property 8, from the network's outputs on, with infinite ones: something is predicted, and something survives.
    #[test]
    fn any_output_of_the_network_leaves_a_token(case in case(), outputs in prop::collection::vec(output(), 16)) {
        let taxonomy = case.table.taxonomy();
        let gate = MlpGate::random(1, 1, taxonomy.len(), 0).unwrap();
        let outputs = &outputs[..taxonomy.len()];
        let predicted = gate.allowed(outputs);
        let number = outputs.iter().all(|g| !g.is_nan());
        prop_assert_eq!(predicted.is_some(), number);
        prop_assert!(predicted.is_none_or(|p| !p.is_empty() && p.without(taxonomy.all()).is_empty()));
        let plan = case.rules.plan(taxonomy, FamilySet::EMPTY, &case.state, predicted);
        prop_assert!(number || plan.denied.is_empty(), "nothing is denied on NaN");
        let step = case.step(&plan);
        prop_assert!(case.logits[step.token as usize].is_finite() && step.record.logprob <= 1e-6);
        let view = case.table.view(case.state.pending);
        prop_assert!(!step.record.intervened || !view.denies(plan.denied, step.token as usize));
    }

    /// Property 9: a row's result is the same at any place and in any order, though rows share a table and its cache.
    #[test]
    fn rows_do_not_depend_on_each_other(
        case in case(), seeds in prop::collection::vec((any::<u64>(), any::<u8>(), any::<bool>()), 1..8),
    ) {
        let row = |table: &FamilyTable, at: usize, (seed, byte, within): (u64, u8, bool)| {
            let word = if within { [1, 0xE3 + byte % 3, 0, 0] } else { [0; 4] };
            let pending = lcg::utf8::Pending::unpack(u32::from_le_bytes(word)).unwrap();
            let state = GateState { pending, generated: 1, ..case.state };
            let mut logits = case.logits.clone();
            let turn = seed as usize % logits.len();
            logits.rotate_left(turn);
            let predicted = case.predicted | FamilySet::one(seed as usize % case.table.taxonomy().len());
            let plan = case.rules.plan(table.taxonomy(), FamilySet::EMPTY, &state, Some(predicted));
            sample(at, &logits, &case.sampling, case.rules.widen, &plan, &table.view(pending), &noise(seed)).unwrap()
        };
        let texts = |v: usize| case.table.vocabulary().bytes(v).to_vec();
        let fresh = of_bytes(case.table.taxonomy().clone(), (0..case.logits.len()).map(texts));
        let together: Vec<_> = seeds.iter().enumerate().map(|(at, s)| row(&case.table, at, *s)).collect();
        let mut back: Vec<_> = seeds.iter().rev().map(|s| row(&fresh, 0, *s)).collect();
        back.reverse();
        prop_assert_eq!(together, back);
    }
}

/// Property 31: a million draws of a gated row.
#[test]
fn frequencies_are_those_of_the_support() {
    let texts = ["a", "中", "ж", "!", "б", "の", "в", "ж中", " ", "г", "b", "д", ".", "е", "c", "з"];
    let table = common::table(Taxonomy::script16(), &texts);
    let cyrillic = table.taxonomy().set(&["cyrillic"], "test").unwrap();
    let logits: Vec<f32> = (0..16).map(|v| ((v * 7 % 16) as f32) * 0.25).collect();
    let plan = common::plan(&table, &Rules::paper(), cyrillic, cyrillic);
    let view = table.view(Default::default());
    let x: Vec<f64> = logits.iter().map(|z| f64::from(*z)).collect();
    let kept = reference::decide(&x, &[true; 16], &view, cyrillic, plan.denied, Widen::Always).unwrap();
    let masked: Vec<f64> = (0..16).map(|v| if kept[v] { x[v] } else { f64::NEG_INFINITY }).collect();
    let (p, draws) = (reference::softmax(&masked), 1_000_000u32);
    let mut counts = [0u32; 16];
    let all = Sampling::default();
    for position in 0..draws {
        let noise = Noise { seed: 5, sequence: u64::from(position / 1000), position: position % 1000 };
        counts[sample(0, &logits, &all, Widen::Always, &plan, &view, &noise).unwrap().token as usize] += 1;
    }
    let square =
        |v: usize| (f64::from(counts[v]) - p[v] * f64::from(draws)).powi(2) / (p[v] * f64::from(draws));
    let chi2: f64 = (0..16).filter(|v| kept[*v]).map(square).sum();
    assert!((0..16).all(|v| kept[v] || counts[v] == 0));
    // 10 tokens are left: 9 degrees of freedom, p = 1e-4.
    assert_eq!(kept.iter().filter(|k| **k).count(), 10);
    assert!(chi2 < 33.7, "{chi2}");
}

/// Rule by rule, what passes and why.
#[test]
fn reasons_of_passing() {
    let table = common::of_families(&[1, 0, 3, 2]);
    let (low_res, off) = (FamilySet(8), FamilySet::EMPTY);
    let plan = |rules: &Rules, state: &GateState, p| rules.plan(table.taxonomy(), off, state, p).pass;
    let rules = Rules::default();
    let late = behind(low_res);
    assert_eq!(plan(&rules, &late, Some(low_res)), None);
    assert_eq!(plan(&rules, &late, None), Some(PassReason::GateNaN));
    assert_eq!(plan(&rules, &late, Some(FamilySet::FULL)), Some(PassReason::NothingDenied));
    assert_eq!(
        plan(&rules, &GateState { protocol: true, ..late }, Some(low_res)),
        Some(PassReason::Protocol)
    );
    assert_eq!(plan(&rules, &GateState::default(), Some(low_res)), Some(PassReason::FirstToken));
    let only = Rules { first_token: FirstToken::GateOnly, ..rules };
    assert_eq!(plan(&only, &GateState::default(), Some(low_res)), None);
    assert_eq!(plan(&rules, &behind(off), Some(low_res)), Some(PassReason::NoLetter));
    let any = Rules { require_letter: false, ..rules };
    assert_eq!(plan(&any, &behind(off), Some(low_res)), None);
}

/// A prediction survives a blank token, and nothing else.
#[test]
fn a_space_carries_the_prediction() {
    let table = common::table(Taxonomy::script16(), &["ж", "中", " ", "  ", " \n", "!"]);
    let taxonomy = table.taxonomy();
    let set = |names: &[&str]| taxonomy.set(names, "test").unwrap();
    let (rules, protocol) = (Rules::default(), Protocol::default());
    let after = |tokens: &[u32], rules: &Rules| {
        let mut state = behind(set(&["cyrillic"]));
        for t in tokens {
            let plan = rules.plan(taxonomy, FamilySet::EMPTY, &state, Some(set(&["cyrillic", "symbols"])));
            state.advance(&table, &protocol, *t, &plan.trust).unwrap();
        }
        rules.plan(taxonomy, FamilySet::EMPTY, &state, Some(set(&["han", "cyrillic"]))).predicted
    };
    assert_eq!(after(&[0, 2], &rules), set(&["cyrillic"]), "Han enters behind a space no more");
    assert_eq!(after(&[0, 2, 3], &rules), set(&["cyrillic"]));
    let open = set(&["han", "cyrillic"]);
    for (tokens, rules) in [(&[0, 5][..], rules), (&[0, 4], rules), (&[0], rules), (&[0, 2], Rules::paper())]
    {
        assert_eq!(after(tokens, &rules), open, "{tokens:?}");
    }
}

/// What is carried ends with a control token, and where a protocol span opens or closes.
#[test]
fn control_tokens_and_spans_end_a_carried_prediction() {
    let tokens = [
        (Kind::Text, "ж"),
        (Kind::Text, " "),
        (Kind::Control, "<end>"),
        (Kind::Control, "<call>"),
        (Kind::Control, "</call>"),
    ];
    let vocabulary = Vocabulary::new(tokens.map(|(kind, text)| (kind, text.as_bytes().to_vec())));
    let table = FamilyTable::new(Taxonomy::script16(), vocabulary, &Exemptions::default()).unwrap();
    let (taxonomy, rules) = (table.taxonomy(), Rules::default());
    let protocol = Protocol::new(&table, &[("<call>", "</call>")]).unwrap();
    let [cyrillic, both] =
        [&["cyrillic"][..], &["cyrillic", "han"]].map(|f| taxonomy.set(f, "test").unwrap());
    // A step without a prediction hands on what was carried.
    let carried = |steps: &[(u32, bool)]| {
        let mut state = behind(cyrillic);
        for (token, predicted) in steps {
            let plan = rules.plan(taxonomy, FamilySet::EMPTY, &state, predicted.then_some(cyrillic));
            state.advance(&table, &protocol, *token, &plan.trust).unwrap();
        }
        rules.plan(taxonomy, FamilySet::EMPTY, &state, Some(both)).predicted
    };
    assert_eq!(carried(&[(0, true), (1, true)]), cyrillic);
    assert_eq!(carried(&[(0, true), (1, false)]), cyrillic);
    for ends in [&[2][..], &[3, 4], &[4]] {
        let ends = ends.iter().map(|t| (*t, true));
        let steps: Vec<_> = [(0, true)].into_iter().chain(ends).chain([(1, false)]).collect();
        assert_eq!(carried(&steps), both, "{steps:?}");
    }
    assert_eq!(carried(&[(0, true), (1, true), (2, true)]), both);
}

/// A slip renews itself under `LastLetter`, not under `LastTrusted`.
#[test]
fn trusted_persistence_forgets_slips() {
    let table = common::table(Taxonomy::script16(), &["ж", "中"]);
    let taxonomy = table.taxonomy();
    let [han, cyrillic] = ["han", "cyrillic"].map(|name| taxonomy.set(&[name], "test").unwrap());
    for (persistence, last) in [(Persistence::LastLetter, han), (Persistence::LastTrusted, cyrillic)] {
        let rules = Rules { persistence, ..Rules::default() };
        let mut state = behind(cyrillic);
        let plan = rules.plan(taxonomy, FamilySet::EMPTY, &state, Some(cyrillic));
        state.advance(&table, &Protocol::default(), 1, &plan.trust).unwrap();
        assert_eq!(state.last, last, "{persistence:?}");
    }
}
