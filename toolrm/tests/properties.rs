//! What holds for all values, calls and texts.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use toolrm::json::{self, Dialect};
use toolrm::{
    Call, Format, Key, Map, Match, Mode, ScoreOptions, Sim, Val, canon, eq_json, eq_py, parse, render,
    rule_score,
};

const TEXT: &str =
    r#"([a-z ]|[A-Z0-9]|["'\\<>&\[\]{}(),=:;\n\t\r]|</tool_call>|<tool_call>\n|é|😀|\u{2028}|\u{ad}){0,8}"#;

fn leaf() -> impl Strategy<Value = Val> {
    prop_oneof![
        Just(Val::Null),
        any::<bool>().prop_map(Val::Bool),
        (-3i64..3).prop_map(Val::Int),
        any::<i64>().prop_map(Val::Int),
        any::<i128>().prop_map(|n| Val::int(n.into())),
        prop_oneof![
            Just(0.0),
            Just(-0.0),
            Just(1.0),
            Just(1e300),
            Just(5e-324),
            Just(2f64.powi(63)),
            -1e3..1e3f64
        ]
        .prop_map(Val::Float),
        TEXT.prop_map(Val::from),
    ]
}

fn val() -> impl Strategy<Value = Val> {
    leaf().prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Val::List),
            prop::collection::vec((TEXT, inner), 0..4).prop_map(Val::dict),
        ]
    })
}

fn call() -> impl Strategy<Value = Call> {
    let args = prop::collection::vec(("[a-z_]{1,4}x", val()), 0..4);
    ("[a-c]{1,2}(\\.[a-c]{1,2})?", args).prop_map(|(name, args)| Call::new(name, args))
}

fn small_call() -> impl Strategy<Value = Call> {
    let args = prop::collection::vec(("[a-d]", (0i64..3).prop_map(Val::Int)), 0..4);
    ("[fg]", args).prop_map(|(name, args)| Call::new(name, args))
}

fn text_of_all_kinds() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("<tool_call>".to_owned()),
        Just("\n</tool_call>".to_owned()),
        Just("<think>".to_owned()),
        Just("</think>".to_owned()),
        Just("{\"name\":\"f\",\"arguments\":{\"a\":1}}".to_owned()),
        Just("[f(a=1, b='x')]".to_owned()),
        Just("<functions><function name=\"f\"><param name=\"a\" type=\"integer\">1</param></function></functions>".to_owned()),
        Just("<TOOLCALL>".to_owned()),
        Just("<|python_tag|>".to_owned()),
        "[\\[\\](){}=,:.'\"\\\\ \n*+~-]{1,6}",
        "[a-z0-9]{1,4}",
        any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|p| p.concat())
}

fn every_parser(text: &str) {
    for format in Format::ALL.into_iter().chain([Format::Auto]) {
        for mode in [Mode::Strict, Mode::Lenient, Mode::Bfcl] {
            _ = parse(text, format, mode);
        }
    }
    for lang in [toolrm::bfcl::Lang::Java, toolrm::bfcl::Lang::JavaScript] {
        _ = toolrm::parse_source(text, lang);
    }
}

fn same_order(a: &Map, b: &Map) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|((k, v), (l, w))| k == l && eq_json(v, w) && v.tag() == w.tag())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn equality_is_that_of_canonical_forms(a in val(), b in val()) {
        prop_assert_eq!(eq_json(&a, &b), canon(&a) == canon(&b));
        prop_assert!(eq_json(&a, &a));
        prop_assert_eq!(eq_json(&a, &b), eq_json(&b, &a));
        prop_assert!(!eq_json(&a, &b) || eq_py(&a, &b));
        let back = json::parse(&canon(&a), Dialect::Strict).unwrap();
        prop_assert!(eq_json(&a, &back));
    }

    #[test]
    fn equality_is_transitive_and_tuples_are_lists_to_json_alone(
        all in prop::collection::vec(prop_oneof![
            (0i64..2).prop_map(Val::Int),
            (0i64..2).prop_map(|n| Val::Float(n as f64)),
            any::<bool>().prop_map(Val::Bool),
            prop::collection::vec((0i64..2).prop_map(Val::Int), 0..3).prop_map(Val::List),
            prop::collection::vec((0i64..2).prop_map(|n| Val::Float(n as f64)), 0..3).prop_map(Val::Tuple),
        ], 3),
    ) {
        let [a, b, c] = &all[..] else { unreachable!() };
        for eq in [eq_json, eq_py] {
            prop_assert!(!(eq(a, b) && eq(b, c)) || eq(a, c));
            prop_assert_eq!(eq(a, b), eq(b, a));
        }
        let kinds = matches!((a, b), (Val::List(_), Val::Tuple(_)) | (Val::Tuple(_), Val::List(_)));
        prop_assert!(!eq_json(a, b) || eq_py(a, b) != kinds);
        // A truth value is a number to Python alone.
        prop_assert!(!matches!((a, b), (Val::Bool(_), Val::Int(_) | Val::Float(_))) || !eq_json(a, b));
    }

    #[test]
    fn json_is_read_as_written(a in val()) {
        let back = json::parse(&json::to_string(&a).unwrap(), Dialect::Strict).unwrap();
        prop_assert!(eq_json(&a, &back) && a.tag() == back.tag());
    }

    #[test]
    fn rendered_calls_are_read_strictly_and_leniently(calls in prop::collection::vec(call(), 0..4)) {
        for format in Format::ALL {
            let Ok(text) = render(&calls, format) else {
                // Only XML has characters that it cannot hold, and those are not generated.
                return Err(TestCaseError::fail(format!("{} has no form for {calls:?}", format.name())));
            };
            for mode in [Mode::Strict, Mode::Lenient] {
                let back = parse(&text, format, mode);
                let back = back.map_err(|e| TestCaseError::fail(format!("{} {mode:?} {e}: {text}", format.name())))?;
                prop_assert_eq!(back.calls.len(), calls.len(), "{} {:?} {}", format.name(), mode, &text);
                for (a, b) in calls.iter().zip(&back.calls) {
                    prop_assert!(a.name == b.name && same_order(&a.args, &b.args), "{} {:?} {}", format.name(), mode, &text);
                }
                prop_assert!(back.issues.is_empty(), "{:?}", back.issues);
            }
        }
    }

    #[test]
    fn no_text_makes_a_parser_panic(text in text_of_all_kinds()) {
        every_parser(&text);
    }

    #[test]
    fn no_damage_makes_a_parser_panic(calls in prop::collection::vec(call(), 1..3), at in any::<prop::sample::Index>(), c in any::<char>()) {
        for format in Format::ALL {
            let text = render(&calls, format).unwrap();
            let cut = at.index(text.len() + 1);
            let cut = (0..=cut).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
            every_parser(&text[..cut]);
            every_parser(&format!("{}{c}{}", &text[..cut], &text[cut..]));
        }
    }

    #[test]
    fn what_strict_accepts_lenient_reads_the_same(
        text in text_of_all_kinds(),
        calls in prop::collection::vec(call(), 0..3),
        damage in prop::collection::vec((any::<prop::sample::Index>(), "[ \\n\\t\\[\\]{}()<>=,:;'\"a-z0-9]{0,3}", any::<bool>()), 0..3),
    ) {
        let mut texts = vec![text];
        for format in Format::ALL {
            let mut text = render(&calls, format).unwrap();
            texts.push(text.clone());
            for (at, piece, cut) in &damage {
                let at = at.index(text.len() + 1);
                let at = (0..=at).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
                let end = (at + usize::from(*cut)..=text.len()).find(|i| text.is_char_boundary(*i)).unwrap_or(text.len());
                text.replace_range(at..end, piece);
            }
            texts.push(text);
        }
        for text in &texts {
            for format in Format::ALL.into_iter().chain([Format::Auto]) {
                let Ok(strict) = parse(text, format, Mode::Strict) else { continue };
                let lenient = parse(text, format, Mode::Lenient);
                let lenient = lenient.map_err(|e| TestCaseError::fail(format!("{} {e}: {text}", format.name())))?;
                // Thoughts without an end are no slip of the calls: a strict reader says so too.
                prop_assert_eq!(&lenient.issues, &strict.issues, "{} {:?}", format.name(), text);
                prop_assert!(strict.issues.iter().all(|i| i.kind == "reasoning.unclosed"), "{:?}", strict.issues);
                prop_assert_eq!(strict.calls.len(), lenient.calls.len(), "{} {:?}", format.name(), text);
                for (a, b) in strict.calls.iter().zip(&lenient.calls) {
                    prop_assert!(a.name == b.name && same_order(&a.args, &b.args), "{} {:?}\n{:?}\n{:?}", format.name(), text, a, b);
                }
            }
        }
    }

    #[test]
    fn scores_keep_their_laws(gold in prop::collection::vec(small_call(), 0..4), said in prop::collection::vec(small_call(), 0..4)) {
        let mut gold = gold;
        for i in (0..gold.len()).rev() {
            if gold[..i].iter().any(|c| c.same(&gold[i])) {
                gold.remove(i);
            }
        }
        let by = |matching, sim| rule_score(&gold, Some(&said), &ScoreOptions { matching, sim, ..ScoreOptions::default() });
        let max = by(Match::Max, Sim::Keys);
        let (greedy, optimal) = (by(Match::Greedy, Sim::Keys), by(Match::Optimal, Sim::Keys));
        prop_assert!((0.0..=1.0).contains(&max.score));
        prop_assert!(greedy.ratio <= optimal.ratio && optimal.ratio <= max.ratio);
        prop_assert!(by(Match::Max, Sim::Pairs).ratio <= max.ratio);
        let equal = gold.len() == said.len() && gold.iter().all(|g| said.iter().any(|s| s.same(g)));
        prop_assert_eq!(optimal.score == 1.0, equal);
        let (mut back, mut turned) = (gold.clone(), said.clone());
        back.reverse();
        turned.reverse();
        prop_assert_eq!(rule_score(&back, Some(&turned), &ScoreOptions::default()).ratio, max.ratio);
        prop_assert!(optimal.ratio == brute(&gold, &said) || optimal.message != "ok");
        let twice = (0..said.len()).any(|i| said[..i].iter().any(|c| c.same(&said[i])));
        let message = match said.len() == gold.len() {
            false => "count_mismatch",
            true if twice => "duplicate_call",
            true => "ok",
        };
        prop_assert_eq!(max.message, message);
        prop_assert!(message == "ok" || max.score == 0.0);
        if max.message == "ok" && max.score == 1.0 && !said.is_empty() {
            let mut more = said.clone();
            more[0].args.insert(Key::from("zz"), Val::Int(9));
            prop_assert!(rule_score(&gold, Some(&more), &ScoreOptions::default()).ratio < max.ratio);
        }
    }

    #[test]
    fn a_wrong_value_costs_its_share(sizes in prop::collection::vec(1usize..6, 1..5), call in any::<prop::sample::Index>(), arg in any::<prop::sample::Index>()) {
        let one = |(i, n): (usize, &usize)| Call::new(format!("f{i}"), (0..*n).map(|k| (format!("a{k}"), Val::Int(k as i64))));
        let gold: Vec<Call> = sizes.iter().enumerate().map(one).collect();
        let mut said = gold.clone();
        let (m, at) = (gold.len(), call.index(gold.len()));
        let n = sizes[at];
        *said[at].args.get_index_mut(arg.index(n)).unwrap().1 = Val::Int(-1);
        let cost = toolrm::Rational::new((m * n - 1) as u128, (m * n) as u128).unwrap();
        prop_assert_eq!(rule_score(&gold, Some(&said), &ScoreOptions::default()).ratio, cost);
    }
}

/// The best assignment, by trying all.
fn brute(gold: &[Call], said: &[Call]) -> toolrm::Rational {
    fn go(gold: &[Call], left: &[Call]) -> f64 {
        let Some((g, rest)) = gold.split_first() else { return 0.0 };
        (0..left.len())
            .map(|i| {
                let mut others = left.to_vec();
                let s = others.remove(i);
                let one = rule_score(std::slice::from_ref(g), Some(&[s]), &ScoreOptions::default());
                one.score + go(rest, &others)
            })
            .fold(0.0, f64::max)
    }
    if gold.is_empty() {
        return toolrm::Rational::ONE;
    }
    let want = go(gold, said) / gold.len() as f64;
    // At most four names and three calls: every denominator divides 72, and the nearest such fraction is the exact one.
    toolrm::Rational::new((want * 72.0).round() as u128, 72).unwrap()
}

#[test]
fn deep_and_long_texts_end_quickly() {
    for piece in [
        "[",
        "<tool_call>",
        "\\",
        "(",
        "{\"a\":",
        "-",
        "f(",
        "<think>",
        "x.",
        "1+",
        "not ",
        "<TOOLCALL>",
        "[[",
        "\"",
        "'",
        "a,",
        "[1,",
    ] {
        every_parser(&piece.repeat(1_000_000 / piece.len()));
        every_parser(&format!("[f(a={}", piece.repeat(1_000_000 / piece.len())));
    }
}
