//! What holds for the leaderboard's checker on all well-formed entries.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use toolrm::bfcl::{self, Lang, Matching, NamePolicy, Options};
use toolrm::{Call, Key, Val};

/// A parameter: declared type, whether the schema requires it, acceptable values.
#[derive(Clone, Debug)]
struct Param {
    ty: &'static str,
    required: bool,
    values: Vec<Val>,
}

/// A word that stays a word when the ignored characters are deleted.
fn word() -> impl Strategy<Value = Val> {
    "[a-zA-Z0-9éΣ']{1,5}".prop_map(Val::from)
}

fn param() -> impl Strategy<Value = Param> {
    let value = prop_oneof![
        prop::collection::vec((-9i64..9).prop_map(Val::Int), 1..3).prop_map(|v| ("integer", v)),
        prop::collection::vec((-9i64..9).prop_map(|n| Val::Float(n as f64 / 2.0)), 1..3)
            .prop_map(|v| ("float", v)),
        any::<bool>().prop_map(|b| ("boolean", vec![Val::Bool(b)])),
        prop::collection::vec(word(), 1..3).prop_map(|v| ("string", v)),
        prop::collection::vec(prop::collection::vec(word(), 1..4).prop_map(Val::List), 1..3)
            .prop_map(|v| ("array", v)),
        prop::collection::vec(word(), 1..3)
            .prop_map(|v| ("dict", vec![Val::dict([("k", Val::List(v.clone())), ("l", Val::List(v))])])),
    ];
    (value, any::<bool>()).prop_map(|((ty, values), required)| Param { ty, required, values })
}

/// An entry: the parameters of each function, `f0`, `f1`, and so on; every function is called once.
fn functions() -> impl Strategy<Value = Vec<Vec<Param>>> {
    prop::collection::vec(prop::collection::vec(param(), 0..5), 1..4)
}

fn name(i: usize) -> String {
    format!("p{i}")
}

fn tools(functions: &[Vec<Param>]) -> Val {
    let tool = |(i, params): (usize, &Vec<Param>)| {
        let property = |p: &Param| {
            Val::dict([("type", p.ty.into()), ("items", Val::dict([("type", Val::from("string"))]))])
        };
        let properties = Val::dict(params.iter().enumerate().map(|(i, p)| (name(i), property(p))));
        let required = params.iter().enumerate().filter(|(_, p)| p.required);
        let required = Val::List(required.map(|(i, _)| name(i).into()).collect());
        let parameters = [("type", "dict".into()), ("properties", properties), ("required", required)];
        Val::dict([("name", Val::from(format!("f{i}"))), ("parameters", Val::dict(parameters))])
    };
    Val::List(functions.iter().enumerate().map(tool).collect())
}

fn gold(functions: &[Vec<Param>]) -> Val {
    let acceptable = |p: &Param| {
        let mut values = p.values.clone();
        if !p.required {
            values.push("".into());
        }
        Val::List(values)
    };
    let call = |(i, params): (usize, &Vec<Param>)| {
        Val::dict([(
            format!("f{i}"),
            Val::dict(params.iter().enumerate().map(|(i, p)| (name(i), acceptable(p)))),
        )])
    };
    Val::List(functions.iter().enumerate().map(call).collect())
}

/// Calls with every parameter, which has its last acceptable value.
fn full(functions: &[Vec<Param>]) -> Vec<Call> {
    let value = |p: &Param| match (p.ty, &p.values[p.values.len() - 1]) {
        ("dict", of) => {
            let first = |key| of.get(key).and_then(Val::as_list).unwrap()[0].clone();
            Val::dict([("l", first("l")), ("k", first("k"))])
        }
        (_, value) => value.clone(),
    };
    let call = |(i, params): (usize, &Vec<Param>)| {
        Call::new(format!("f{i}"), params.iter().enumerate().map(|(i, p)| (name(i), value(p))))
    };
    functions.iter().enumerate().map(call).collect()
}

fn valid(functions: &[Vec<Param>], calls: &[Call]) -> bool {
    bfcl::check(&tools(functions), calls, &gold(functions), "parallel_multiple", Options::default())
        .is_valid()
}

/// Other spellings that the checker takes for the same: another case of ASCII letters, an ignored character.
fn respelled(value: &Val, at: usize) -> Val {
    let noise = [' ', ',', '.', '/', '-', '_', '*', '^'];
    match value {
        Val::Str(s) => {
            let swap = |c: char| {
                if c.is_ascii_uppercase() { c.to_ascii_lowercase() } else { c.to_ascii_uppercase() }
            };
            let mut chars: Vec<char> = s.chars().map(swap).collect();
            chars.insert(at % (chars.len() + 1), noise[at % noise.len()]);
            Val::Str(chars.into_iter().collect())
        }
        Val::List(items) => Val::List(items.iter().map(|v| respelled(v, at)).collect()),
        Val::Dict(entries) => {
            Val::dict(entries.iter().map(|(k, v)| (k.as_str().unwrap().to_owned(), respelled(v, at))))
        }
        other => other.clone(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn right_calls_are_valid_however_they_are_spelled(functions in functions(), at in 0usize..64) {
        let gold_calls = bfcl::canonical_gold(&tools(&functions), &gold(&functions), Lang::Python).unwrap();
        prop_assert!(valid(&functions, &gold_calls), "{gold_calls:?}");
        for calls in [gold_calls, full(&functions)] {
            let spelled: Vec<Call> = calls
                .iter()
                .map(|c| {
                    let args = c.args.iter().map(|(k, v)| (k.as_str().unwrap().to_owned(), respelled(v, at)));
                    Call::new(c.name.clone(), args)
                })
                .collect();
            prop_assert!(valid(&functions, &spelled), "{spelled:?}");
        }
    }

    #[test]
    fn what_may_be_left_out_can_be(functions in functions(), which in any::<prop::sample::Index>()) {
        let mut calls = full(&functions);
        prop_assert!(valid(&functions, &calls), "{calls:?}");
        let places: Vec<_> =
            functions.iter().enumerate().flat_map(|(f, params)| (0..params.len()).map(move |p| (f, p))).collect();
        if !places.is_empty() {
            let (f, p) = places[which.index(places.len())];
            calls[f].args.shift_remove(&Key::from(name(p).as_str())).unwrap();
            prop_assert_eq!(valid(&functions, &calls), !functions[f][p].required);
        }
    }

    #[test]
    fn the_order_of_parameters_and_calls_does_not_matter(
        functions in functions(),
        damage in prop::option::of((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0usize..3)),
        turn in any::<prop::sample::Index>(),
    ) {
        let mut calls = full(&functions);
        if let Some((f, p, how)) = damage {
            let call = &mut calls[f.index(functions.len())];
            match (how, call.args.len()) {
                (0, _) => call.name.push('x'),
                (_, 0) | (1, _) => drop(call.args.insert(Key::from("other"), Val::Int(1))),
                (_, n) => *call.args.get_index_mut(p.index(n)).unwrap().1 = Val::from("wrong, surely"),
            }
        }
        prop_assert_eq!(valid(&functions, &calls), damage.is_none());
        let n = calls.len();
        calls.rotate_left(turn.index(n));
        for call in &mut calls {
            call.args = std::mem::take(&mut call.args).into_iter().rev().collect();
        }
        prop_assert_eq!(valid(&functions, &calls), damage.is_none());
    }

    #[test]
    fn what_greedy_matching_accepts_optimal_matching_does(
        accepted in prop::collection::vec(prop::collection::vec(0i64..4, 1..4), 1..5),
        said in prop::collection::vec(0i64..4, 1..5),
    ) {
        let params = [vec![Param { ty: "integer", required: true, values: Vec::new() }]];
        let values = |v: &Vec<i64>| Val::List(v.iter().map(|n| Val::Int(*n)).collect());
        let gold = accepted.iter().map(|v| Val::dict([("f0", Val::dict([("p0", values(v))]))]));
        let gold = Val::List(gold.collect());
        let calls: Vec<Call> = said.iter().map(|n| Call::new("f0", [("p0", Val::Int(*n))])).collect();
        let by = |matching| {
            let options = Options { matching, ..Options::default() };
            bfcl::check(&tools(&params), &calls, &gold, "parallel", options).is_valid()
        };
        prop_assert!(by(Matching::Optimal) || !by(Matching::Greedy));
        let possible = accepted.len() == said.len() && assignable(&accepted, &said);
        prop_assert_eq!(by(Matching::Optimal), possible);
    }

    #[test]
    fn dots_are_spelled_once(tool in "[ab]{1,3}([._][ab]{1,2}){0,2}", said in "[ab]{1,3}([._][ab]{1,2}){0,2}") {
        let check = |tool: &str, said: &str, names| {
            let tools = Val::List(vec![Val::dict([
                ("name", Val::from(tool)),
                ("parameters", Val::dict([("properties", Val::dict::<&str>([])), ("required", Val::List(Vec::new()))])),
            ])]);
            let gold = Val::List(vec![Val::dict([(tool, Val::dict::<&str>([]))])]);
            let calls = [Call { name: said.into(), ..Call::default() }];
            bfcl::check(&tools, &calls, &gold, "simple_python", Options { names, ..Options::default() }).is_valid()
        };
        let spelled = tool.replace('.', "_");
        prop_assert!(check(&tool, &spelled, NamePolicy::DotToUnderscore));
        prop_assert_eq!(check(&tool, &said, NamePolicy::DotToUnderscore), check(&spelled, &said, NamePolicy::DotToUnderscore));
        prop_assert_eq!(check(&tool, &said, NamePolicy::DotToUnderscore), check(&spelled, &said, NamePolicy::Exact));
    }
}

/// Whether each list can have a number of its own, by trying all.
fn assignable(accepted: &[Vec<i64>], left: &[i64]) -> bool {
    let Some((first, rest)) = accepted.split_first() else { return true };
    (0..left.len()).any(|i| {
        let mut others = left.to_vec();
        first.contains(&others.remove(i)) && assignable(rest, &others)
    })
}
