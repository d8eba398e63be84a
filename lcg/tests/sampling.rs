//! Draws: fast path against definition, and what holds of them whatever the gate decides.
#![allow(clippy::unwrap_used)]

mod common;

use common::case::case;
use common::{close, noise, of_bytes, of_families};
use lcg::{
    Decision, FamilySet, FamilyTable, GateState, MlpGate, Noise, PassReason, Plan, Rules, Sampling, Support,
    Taxonomy, Widen, draw, reference, sample,
};
use proptest::prelude::*;

/// A gate logit, often not finite.
fn output() -> impl Strategy<Value = f32> {
    prop_oneof![40 => -4f32..4.0, 10 => Just(f32::INFINITY), 10 => Just(f32::NEG_INFINITY), 1 => Just(f32::NAN)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// The fast path decides, and scores, as the definition does; what is drawn is in the support, which is never empty
    /// (property 8 and part of 29).
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
    }

    /// Property 13: what a decision left is left as it is, by the fast path as by the definition, and so is the draw.
    #[test]
    fn a_decision_changes_nothing_of_its_own_output(case in case()) {
        prop_assume!(case.clear());
        let (plan, view) = (case.plan(), case.table.view(case.state.pending));
        let (x, _, left) = case.defined(&plan);
        let Ok(kept) = left else { return Ok(()) };
        let only = |z: f64, v: usize| if kept[v] { z } else { f64::NEG_INFINITY };
        let masked: Vec<f64> = x.iter().enumerate().map(|(v, z)| only(*z, v)).collect();
        let again = reference::decide(&masked, &kept, &view, plan.predicted, plan.denied, case.rules.widen);
        prop_assert_eq!(again, Err(PassReason::NoEffect));
        let step = case.step(&plan);
        let tokens: Vec<u32> = (0..kept.len() as u32).filter(|v| kept[*v as usize]).collect();
        let row: Vec<f32> = case.logits.iter().enumerate().map(|(v, z)| only((*z).into(), v) as f32).collect();
        let (t, support) = (case.sampling.temperature, Support::Tokens(&tokens));
        let again = draw(0, &row, t, support, case.rules.widen, &plan, &view, &case.noise).unwrap();
        prop_assert_eq!((again.decision, again.token), (Decision::Pass(PassReason::NoEffect), step.token));
        close(&[f64::from(again.record.logprob)], &[f64::from(step.record.logprob)], 1e-6);
    }

    /// Property 18: behind a grammar's mask something is always drawn, gate or not, and never what the grammar forbids.
    #[test]
    fn a_grammar_before_the_gate_is_kept(
        case in case(), grammar in prop::collection::vec(any::<u8>(), 40), strict in any::<u8>(), least in any::<u8>(),
    ) {
        let least = usize::from(least) % case.logits.len();
        let allowed = |v: usize| v == least || grammar[v] > strict;
        let row = |(v, z): (usize, &f32)| match allowed(v) {
            true if z.is_finite() => *z,
            true => 0.0,
            false => f32::NEG_INFINITY,
        };
        let logits: Vec<f32> = case.logits.iter().enumerate().map(row).collect();
        let view = case.table.view(case.state.pending);
        for plan in [case.plan(), Plan::off(&case.state, PassReason::Disabled)] {
            let step = sample(0, &logits, &case.sampling, case.rules.widen, &plan, &view, &case.noise).unwrap();
            prop_assert!(allowed(step.token as usize), "token {} is forbidden", step.token);
            prop_assert!(step.record.logprob.is_finite());
            prop_assert!(!step.record.intervened || !view.denies(plan.denied, step.token as usize));
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
