//! Decisions: what is denied, when, and what is carried from step to step.
#![allow(clippy::unwrap_used)]

mod common;

use common::behind;
use common::case::case;
use lcg::{
    Exemptions, FamilySet, FamilyTable, FirstToken, GateState, Kind, PassReason, Persistence, Protocol,
    Rules, Signature, Taxonomy, Vocabulary,
};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

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
            prop_assert_eq!(view.denials(denied)[v], view.denies(denied, v), "token {}", v);
        }
    }

    /// Properties 11 and 14, and 19b of one step.
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

    /// Property 19b, along a text: behind a blank token a family stays predicted only if it was before it, is that of the latest
    /// letter, or is symbols, unless nothing were left; line breaks and control tokens end that. Off, a prediction is a prediction.
    #[test]
    fn carried_predictions_follow_the_rule(
        steps in prop::collection::vec((0u32..8, any::<u32>(), any::<bool>()), 1..30), carry_space: bool,
    ) {
        let texts = ["ж", "中", " ", "   ", " \n", "!", " ж", "<end>"];
        let kind = |i: usize| if i == 7 { Kind::Control } else { Kind::Text };
        let tokens = texts.iter().enumerate().map(|(i, t)| (kind(i), t.as_bytes().to_vec()));
        let table = FamilyTable::new(Taxonomy::script16(), Vocabulary::new(tokens), &Exemptions::default()).unwrap();
        let (taxonomy, protocol) = (table.taxonomy(), Protocol::default());
        let rules = Rules { carry_space, ..Rules::default() };
        let [symbols, cyrillic, han] = ["symbols", "cyrillic", "han"].map(|f| taxonomy.set(&[f], "test").unwrap());
        let mut state = behind(cyrillic);
        let (mut last, mut before, mut blank) = (cyrillic, FamilySet::FULL, false);
        for (token, p, narrow) in steps {
            let one = FamilySet::one(p as usize % taxonomy.len());
            let asked = if narrow { one } else { FamilySet(p) & taxonomy.all() | one };
            let open = before | last | symbols;
            let carried = carry_space && blank && asked.meets(open);
            let expected = if carried { asked & open } else { asked };
            let plan = rules.plan(taxonomy, FamilySet::EMPTY, &state, Some(asked));
            prop_assert_eq!(plan.predicted, expected);
            let allowed = taxonomy.closure(expected) | last | taxonomy.exempt();
            prop_assert_eq!(plan.denied, taxonomy.all().without(allowed));
            state.advance(&table, &protocol, token, &plan.trust).unwrap();
            before = if matches!(token, 4 | 7) { FamilySet::FULL } else { expected };
            blank = matches!(token, 2 | 3);
            last = match token { 0 | 6 => cyrillic, 1 => han, _ => last };
        }
    }
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
