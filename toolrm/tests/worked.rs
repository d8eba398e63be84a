//! Worked examples of the rule score and of the leaderboard's checker (the latter measured on bfcl-eval 2026.3.23).
#![allow(clippy::unwrap_used)]

use toolrm::bfcl::{self, NamePolicy, Options};
use toolrm::json::{self, Dialect};
use toolrm::{
    Call, Depth, Format, Match, Mode, NumEq, ScoreOptions, Sim, StringEq, Val, complexity, parse, rule_score,
    split_reasoning,
};

fn calls(text: &str) -> Vec<Call> {
    parse(text, Format::Pythonic, Mode::Strict).unwrap().calls
}

#[track_caller]
fn scores(gold: &str, predicted: &str, options: &ScoreOptions, want: (u64, u64), message: &str) {
    let out = rule_score(&calls(gold), Some(&calls(predicted)), options);
    assert_eq!(
        (out.ratio.num, out.ratio.den, out.message),
        (want.0, want.1, message),
        "{gold} -> {predicted}"
    );
    assert_eq!(out.score, want.0 as f64 / want.1 as f64);
}

#[test]
fn rule_scores() {
    let default = ScoreOptions::default();
    let optimal = ScoreOptions { matching: Match::Optimal, ..default };
    let pairs = ScoreOptions { sim: Sim::Pairs, ..default };
    let w = "[get_weather(city='Paris', unit='celsius')]";
    let book = "[book(seat=1, row=2), book(seat=3, row=2)]";
    scores(w, w, &default, (1, 1), "ok");
    scores(w, "[get_weather(city='Paris')]", &default, (1, 2), "ok");
    scores(w, "[get_weather(city='Paris', unit='celsius', days=3)]", &default, (2, 3), "ok");
    scores(w, "[get_weather(city='Lyon', unit='celsius')]", &default, (1, 2), "ok");
    scores(w, "[get_weather(city='Lyon', unit='celsius')]", &pairs, (1, 3), "ok");
    scores(w, "[weather(city='Paris', unit='celsius')]", &default, (0, 1), "ok");
    scores(w, &format!("{}, {}", &w[..w.len() - 1], &w[1..]), &default, (0, 1), "count_mismatch");
    scores(w, "[]", &default, (0, 1), "count_mismatch");
    scores("[]", "[]", &default, (1, 1), "ok");
    scores("[]", w, &default, (0, 1), "count_mismatch");
    scores("[now()]", "[now()]", &default, (1, 1), "ok");
    scores("[now()]", "[now(tz='UTC')]", &default, (0, 1), "ok");
    scores(book, "[book(seat=3, row=2), book(seat=1, row=2)]", &default, (1, 1), "ok");
    scores(book, "[book(seat=1, row=2), cancel(id=9)]", &default, (3, 4), "ok");
    scores(book, "[book(seat=1, row=2), cancel(id=9)]", &optimal, (1, 2), "ok");
    scores(book, "[book(seat=1, row=2), book(seat=1, row=2)]", &default, (0, 1), "duplicate_call");
    scores("[f(x=1)]", "[f(x=1.0)]", &default, (1, 1), "ok");
    scores("[f(x=1)]", "[f(x='1')]", &default, (0, 1), "ok");
    scores("[f(x=1)]", "[f(x=True)]", &default, (0, 1), "ok");
    scores("[f(x=[1, 2])]", "[f(x=[2, 1])]", &default, (0, 1), "ok");
    scores("[f(o={'a': 1, 'b': 2})]", "[f(o={'b': 2, 'a': 1})]", &default, (1, 1), "ok");
    scores("[f(a=1, b=2, c=3), g(q='x')]", "[g(q='x'), f(a=1, b=0, d=4)]", &default, (5, 8), "ok");
    let failed = rule_score(&calls(w), None, &default);
    assert_eq!((failed.score, failed.message), (0.0, "parse_failed"));
}

/// R1, R2, R4 and R6 away from their defaults.
#[test]
fn the_switches_of_the_rule_score() {
    let default = ScoreOptions::default();
    let casefold = ScoreOptions { string_eq: StringEq::Casefold, ..default };
    let bfcl = ScoreOptions { string_eq: StringEq::Bfcl, ..default };
    for (gold, said, exact, folded, normal) in [
        ("Paris", "Paris", 1, 1, 1),
        ("Paris", "PARIS", 0, 1, 1),
        ("New York", "new-york", 0, 0, 1),
        ("ÉTÉ", "été", 0, 1, 1),
    ] {
        let (gold, said) = (format!("[f(x=['{gold}'])]"), format!("[f(x=['{said}'])]"));
        for (options, want) in [(&default, exact), (&casefold, folded), (&bfcl, normal)] {
            scores(&gold, &said, options, (want, 1), "ok");
        }
    }
    let strict = ScoreOptions { num_eq: NumEq::Strict, ..default };
    scores("[f(x=1, y=2)]", "[f(x=1.0, y=2)]", &strict, (1, 2), "ok");
    scores("[f(x=1, y=2)]", "[f(x=1.0, y=2)]", &default, (1, 1), "ok");
    let deep = ScoreOptions { depth: Depth::Deep, ..default };
    let (gold, said) = ("[f(o={'a': 1, 'b': [1, 2]}, x=3)]", "[f(o={'a': 1, 'b': [1, 3]}, x=3)]");
    scores(gold, said, &default, (1, 2), "ok");
    scores(gold, said, &deep, (3, 4), "ok");
    scores(gold, said, &ScoreOptions { sim: Sim::Pairs, ..deep }, (3, 5), "ok");
    scores("[f(o={})]", "[f(o=[])]", &deep, (0, 1), "ok");
    let underscore = ScoreOptions { names: NamePolicy::DotToUnderscore, ..default };
    scores("[a.b(x=1)]", "[a_b(x=1)]", &underscore, (1, 1), "ok");
    scores("[a.b(x=1)]", "[a.b(x=1)]", &underscore, (0, 1), "ok");
    scores("[a.b(x=1)]", "[a_b(x=1)]", &default, (0, 1), "ok");
    let greedy = ScoreOptions { matching: Match::Greedy, ..default };
    // The first gold call takes what the second needs.
    let (gold, said) = ("[f(a=1, b=2), f(a=1, c=3)]", "[f(a=1, c=3), f(a=1, c=4)]");
    scores(gold, said, &greedy, (5, 12), "ok");
    scores(gold, said, &ScoreOptions { matching: Match::Optimal, ..default }, (2, 3), "ok");
}

#[test]
fn complexities() {
    assert_eq!(complexity(&calls("[get_weather(city='Paris', unit='celsius')]")), 3);
    assert_eq!(complexity(&calls("[f(a=1, b=2, c=3), g(q='x')]")), 6);
    assert_eq!(complexity(&vec![calls("[f(a=1, b=2, c=3, d=4, e=5)]"); 4].concat()), 24);
    assert_eq!(complexity(&[]), 0);
}

fn read(text: &str) -> Val {
    json::parse(text, Dialect::Python).unwrap()
}

/// The verdict on one function `f` with one parameter `p` of a schema.
#[track_caller]
fn verdict(category: &str, schema: &str, required: bool, value: Option<Val>, acceptable: &str, want: &str) {
    let required = if required { "\"p\"" } else { "" };
    let tools = read(&format!(
        r#"[{{"name":"f","parameters":{{"properties":{{"p":{schema}}},"required":[{required}]}}}}]"#
    ));
    let gold = read(&format!(r#"[{{"f":{{"p":{acceptable}}}}}]"#));
    let call = Call::new("f", value.map(|v| ("p", v)));
    let out = bfcl::check(&tools, &[call], &gold, category, Options::default());
    assert_eq!(out.error_type().unwrap_or("valid"), want, "{schema} {acceptable}: {out:?}");
}

#[test]
fn verdicts_on_python_values() {
    #[rustfmt::skip]
    let rows = [
        ("integer", "1.0", "[1]", "type_error:simple"),
        ("integer", "true", "[1]", "type_error:simple"),
        ("integer", "null", r#"["", null]"#, "valid"),
        ("integer", "3", r#"["", null]"#, "value_error:others"),
        ("float", "5", "[5.0]", "valid"),
        ("float", "5", "[5]", "valid"),
        ("float", "5.0", "[5]", "valid"),
        ("boolean", "false", r#"[""]"#, "value_error:others"),
        ("string", r#""New-York, NY""#, r#"["new york ny"]"#, "valid"),
        ("string", r#""it's""#, r#"["it\"s"]"#, "valid"),
        ("string", r#""a\tb""#, r#"["ab"]"#, "value_error:string"),
        ("string", r#""""#, r#"["abc", ""]"#, "valid"),
        ("string", r#"" -_.""#, r#"["abc", ""]"#, "valid"),
        ("string", r#""True""#, "[true]", "value_error:others"),
        ("string", "true", "[true]", "valid"),
        ("string", r#""2""#, "[2]", "value_error:others"),
        ("string", "2.0", "[2]", "type_error:simple"),
        ("string", r#""a""#, "[]", "value_error:string"),
        ("any", "20.5", r#"[20.5, "20.5"]"#, "valid"),
        ("any", r#""20.5""#, r#"[20.5, "20.5"]"#, "valid"),
        ("array of string", r#"["New York"]"#, r#"[["new-york"]]"#, "valid"),
        ("array of integer", "[2,1]", "[[1,2]]", "value_error:list/tuple"),
        ("array of string", "[]", r#"["", ["a"]]"#, "valid"),
        ("array of float", "[1,2]", "[[1.0,2.0]]", "type_error:nested"),
        ("array of float", "[1,2]", "[[1,2]]", "valid"),
        ("array of float", "[1.0,2]", "[[1,2]]", "valid"),
        ("array of integer", "[1.0]", "[[1]]", "type_error:nested"),
        ("array of integer", r#"["a"]"#, r#"["", [1]]"#, "value_error:list/tuple"),
        ("array of integer", "[true]", r#"["", [1]]"#, "valid"),
        ("array of string", r#""myVar""#, r#"["myVar"]"#, "valid"),
        ("array of string", r#""myvar""#, r#"["myVar"]"#, "value_error:others"),
        ("array of string", r#"["m"]"#, r#"["myVar"]"#, "value_error:others"),
        ("array of array", r#"[["A b"]]"#, r#"[[["a b"]]]"#, "value_error:list/tuple"),
        ("array of array", r#"[["a b"]]"#, r#"[[["a b"]]]"#, "valid"),
        ("tuple of float", "[1.0,2.0]", "[[1.0,2.0]]", "valid"),
        ("array", "[1]", "[[1]]", "fault"),
        ("dict", r#"{"a":"X y"}"#, r#"[{"a":["x-y"]}]"#, "valid"),
        ("dict", "{}", r#"[{"a":["x",""]}]"#, "valid"),
        ("dict", "{}", r#"[{"a":["x"]}]"#, "value_error:dict_key"),
        ("dict", r#"{"a":"x","b":1}"#, r#"[{"a":["x"]}]"#, "value_error:dict_key"),
        ("dict", r#"{"a":{"b":1}}"#, r#"[{"a":[{"b":1}]}]"#, "valid"),
        ("dict", r#"{"a":{"b":1}}"#, r#"[{"a":[{"b":[1]}]}]"#, "value_error:dict_value"),
        ("dict", r#"{"a":"e"}"#, r#"[{"a":"epoch"}]"#, "valid"),
        ("dict", "{}", r#"[{"a":"epoch"}]"#, "valid"),
        ("dict", r#"{"a":1}"#, r#"[{"a":1}]"#, "fault"),
        ("dict", "{}", r#"[""]"#, "dict_checker:unclear"),
        ("dict", r#"{"a":true}"#, r#"[{"a":[1]}]"#, "valid"),
        ("dict", r#"{"a":["X"]}"#, r#"[{"a":[["x"]]}]"#, "value_error:dict_value"),
        ("array of dict", r#"[{"a":"X"}]"#, r#"[[{"a":["x"]}]]"#, "valid"),
        ("array of dict", "[]", r#"[[{"a":["1"]}]]"#, "value_error:list_dict_count"),
        ("array of dict", "[]", r#"["", [{"a":["1"]}]]"#, "valid"),
        ("number", "1", "[1]", "fault"),
        ("object", "{}", "[{}]", "fault"),
    ];
    for (ty, value, acceptable, want) in rows {
        verdict("simple_python", &schema(ty), true, Some(read(value)), acceptable, want);
    }
    let pair = Val::Tuple(vec![Val::Float(1.0), Val::Float(2.0)]);
    verdict("simple_python", &schema("tuple of float"), true, Some(pair.clone()), "[[1.0,2.0]]", "valid");
    verdict("simple_python", &schema("array of float"), true, Some(pair), "[[1.0,2.0]]", "type_error:simple");
    verdict("simple_python", &schema("string"), false, None, r#"["a",""]"#, "valid");
    verdict(
        "simple_python",
        &schema("string"),
        false,
        None,
        r#"["a"]"#,
        "simple_function_checker:missing_optional",
    );
    verdict("simple_python", "{}", true, Some(Val::Int(1)), "[1]", "fault");
}

fn schema(ty: &str) -> String {
    match ty.split_once(" of ") {
        None => format!(r#"{{"type":"{ty}"}}"#),
        Some((outer, items)) => format!(r#"{{"type":"{outer}","items":{{"type":"{items}"}}}}"#),
    }
}

#[test]
fn verdicts_on_source_text() {
    #[rustfmt::skip]
    let rows = [
        ("java", "integer", "5", "[5]", "valid"),
        ("java", "integer", "five", "[5]", "type_error:simple"),
        ("java", "float", "3.1", "[3.1]", "type_error:simple"),
        ("java", "long", "5", "[5]", "type_error:simple"),
        ("java", "float", "3.1f", "[3.1]", "valid"),
        ("java", "long", "5L", "[5]", "valid"),
        ("java", "boolean", "true", "[true]", "valid"),
        ("java", "boolean", "True", "[true]", "type_error:simple"),
        ("java", "Array of String", r#"new String[]{"a","b"}"#, r#"[["a","b"]]"#, "value_error:list/tuple"),
        ("java", "Array of String", r#"new String[]{"a","b"}"#, r#"[["\"a\"","\"b\""]]"#, "valid"),
        ("java", "ArrayList of String", r#"new ArrayList<>(Arrays.asList("a","b"))"#, r#"[["a","b"]]"#, "valid"),
        ("java", "ArrayList of String", r#"List.of("a","b")"#, r#"[["a","b"]]"#, "type_error:simple"),
        ("java", "HashMap", r#"new HashMap<String,Object>() {{ put("a", 1); }}"#, r#"[{"a":[1]}]"#, "valid"),
        ("java", "Set", "x", "[1]", "fault"),
        ("javascript", "float", "4", "[4.0]", "valid"),
        ("javascript", "float", "4e1", "[40.0]", "type_error:simple"),
        ("javascript", "array of String", "['a,b']", r#"[["a,b"]]"#, "value_error:list/tuple"),
        ("javascript", "dict", r#"{"a": [1, 2], "b": "x"}"#, r#"[{"a":[[1,2]],"b":["x"]}]"#, "valid"),
        ("javascript", "dict", r#"{"a": {"b": 1}}"#, r#"[{"a":[{"b":1}]}]"#, "value_error:dict_value"),
    ];
    for (lang, ty, value, acceptable, want) in rows {
        verdict(&format!("simple_{lang}"), &schema(ty), true, Some(Val::from(value)), acceptable, want);
    }
    verdict("simple_java", &schema("boolean"), true, Some(Val::Bool(true)), "[true]", "type_error:java");
}

#[test]
fn greedy_matching_does_not_backtrack() {
    let tools =
        read(r#"[{"name":"f","parameters":{"properties":{"x":{"type":"integer"}},"required":["x"]}}]"#);
    let gold = read(r#"[{"f":{"x":[1,2]}},{"f":{"x":[1]}}]"#);
    let check = |text: &str, matching| {
        let options = Options { matching, ..Options::default() };
        bfcl::check(&tools, &calls(text), &gold, "parallel", options).error_type()
    };
    let none = Some("parallel_function_checker_no_order:cannot_find_match");
    assert_eq!(check("[f(x=1), f(x=2)]", bfcl::Matching::Greedy), none);
    assert_eq!(check("[f(x=2), f(x=1)]", bfcl::Matching::Greedy), None);
    assert_eq!(check("[f(x=1), f(x=2)]", bfcl::Matching::Optimal), None);
    assert_eq!(check("[f(x=2), f(x=2)]", bfcl::Matching::Optimal), none);
}

#[test]
fn names_with_dots() {
    let tools = read(r#"[{"name":"a.b","parameters":{"properties":{},"required":[]}}]"#);
    let gold = read(r#"[{"a.b":{}}]"#);
    let check = |name: &str, names| {
        let options = Options { names, ..Options::default() };
        bfcl::check(&tools, &[Call { name: name.into(), ..Call::default() }], &gold, "simple_python", options)
            .error_type()
    };
    let wrong = Some("simple_function_checker:wrong_func_name");
    assert_eq!(check("a_b", NamePolicy::DotToUnderscore), None);
    assert_eq!(check("a_b", NamePolicy::Exact), wrong);
    assert_eq!(check("a.b", NamePolicy::DotToUnderscore), wrong);
    assert_eq!(check("a.b", NamePolicy::Exact), None);
}

#[test]
fn answers_as_whole_words() {
    let contained = |text, answer| bfcl::answer_contained(Some(text), &[answer]).is_valid();
    assert!(contained("It was 314", "3.14"));
    assert!(!contained("Michaelson", "Michael"));
    assert!(!contained("New York", "NewYork"));
    assert!(contained("x$5", "$5") && !contained("it's $5", "$5"));
    assert!(contained("a word", "") && !contained("", ""));
    assert_eq!(bfcl::answer_contained(None, &["a"]).error_type(), Some("agentic:no_last_message"));
}

#[test]
fn executed_conversations() {
    let state = |n: i64| Some(Val::dict([("n", Val::Int(n))]));
    let turn = |model: &[&str], gold: &[&str], model_state, gold_state| {
        let own = |all: &[&str]| all.iter().map(|r| (*r).to_owned()).collect::<Vec<_>>();
        bfcl::Turn {
            model_calls: model.len(),
            model_results: own(model),
            gold_calls: gold.len(),
            gold_results: own(gold),
            model_state,
            gold_state,
        }
    };
    let check = |turns: &[bfcl::Turn]| bfcl::multi_turn(turns, turns.len(), turns.len(), false).error_type();
    // More results than the gold ones are right, in any order, and those of turns before count.
    let right = turn(&["b", "x", "a"], &["a", "b"], state(1), state(1));
    assert_eq!(check(std::slice::from_ref(&right)), None);
    assert_eq!(check(&[right.clone(), turn(&["y"], &["a"], state(1), state(1))]), None);
    // A result stands for one gold result of a turn.
    let twice = turn(&["a"], &["a", "a"], state(1), state(1));
    assert_eq!(check(&[twice]), Some("multi_turn:execution_response_mismatch"));
    // The state is looked at before the results, and whether there are calls before both.
    let other = turn(&["z"], &["a"], state(2), state(1));
    assert_eq!(check(std::slice::from_ref(&other)), Some("multi_turn:instance_state_mismatch"));
    assert_eq!(check(&[turn(&[], &["a"], state(2), state(1))]), Some("multi_turn:empty_turn_model_response"));
    assert_eq!(check(&[turn(&["a"], &["a"], None, state(1))]), Some("multi_turn:instance_state_mismatch"));
    // Python's equality: 1 is 1.0 is True.
    let float = Some(Val::dict([("n", Val::Float(1.0))]));
    assert_eq!(check(&[turn(&["a"], &["a"], float, state(1))]), None);
    // A turn without gold calls is passed over, unless it is asked for.
    let idle = turn(&["a"], &[], state(7), state(1));
    assert_eq!(check(std::slice::from_ref(&idle)), None);
    let asked = |turns: &[bfcl::Turn]| bfcl::multi_turn(turns, 1, 1, true).error_type();
    assert_eq!(asked(&[idle]), Some("multi_turn:irrelevance_error:decoder_success"));
    assert_eq!(asked(&[turn(&[], &[], None, None)]), None);
    assert_eq!(bfcl::multi_turn(&[right], 1, 2, false).error_type(), Some("multi_turn:force_terminated"));
}

#[test]
fn reasoning_is_split_off() {
    let split = |text| {
        let s = split_reasoning(text);
        (s.reasoning, s.answer, s.unclosed)
    };
    for (text, reasoning, answer, unclosed) in [
        ("42", None, "42", false),
        ("<think>\nhm\n</think>\n\n42\n", Some("hm"), "42\n", false),
        ("hm</think>42", Some("hm"), "42", false),
        ("a<think>b<think>c</think>d</think>\ne", Some("c"), "e", false),
        ("so <think>\nhm", Some("hm"), "", true),
        ("<think></think>", Some(""), "", false),
        ("</think><think>x", Some(""), "<think>x", false),
    ] {
        assert_eq!(split(text), (reasoning, answer, unclosed), "{text:?}");
    }
    let text = "<think>\n[f(a=1)]\n</think>\n[g(b=2)]";
    let (with, without) =
        (parse(text, Format::Pythonic, Mode::Strict).unwrap(), parse(text, Format::Pythonic, Mode::Bfcl));
    assert_eq!((with.calls[0].name.as_str(), with.reasoning.as_deref()), ("g", Some("[f(a=1)]")));
    assert_eq!(with.calls[0].span.clone().map(|s| &text[s]), Some("g(b=2)"));
    assert!(without.is_err(), "the leaderboard's decoders see the whole text");
    let open = parse("<think>[f(a=1)]", Format::Pythonic, Mode::Lenient).unwrap();
    assert_eq!((open.calls.len(), open.issues[0].kind), (0, "reasoning.unclosed"));
}

#[test]
fn relevance() {
    let none = Val::List(Vec::new());
    let call = [Call::new("f", [("x", Val::Int(1))])];
    let fail = parse("[f(", Format::Pythonic, Mode::Bfcl).unwrap_err();
    let check = |parsed, category| {
        bfcl::check_response(&none, parsed, &none, category, Options::default()).error_type()
    };
    assert_eq!(check(Ok(&call), "live_irrelevance"), Some("irrelevance_error:decoder_success"));
    assert_eq!(check(Ok(&[]), "irrelevance"), None);
    assert_eq!(check(Err(&fail), "irrelevance"), None);
    assert_eq!(check(Ok(&call), "live_relevance"), None);
    assert_eq!(check(Err(&fail), "live_relevance"), Some("relevance_error:decoder_failed"));
    assert_eq!(check(Err(&fail), "simple_python"), Some("ast_decoder:decoder_failed"));
}

#[test]
fn pythonic_text_as_the_leaderboard_reads_it() {
    let value = |text: &str| {
        parse(&format!("[f(a={text})]"), Format::Pythonic, Mode::Bfcl)
            .ok()
            .and_then(|p| p.calls[0].args.get("a").cloned())
    };
    let is = |text: &str, want: &str| {
        let (got, want) = (value(text).unwrap_or_else(|| panic!("{text}")), read(want));
        assert!(toolrm::eq_py(&got, &want) && got.tag() == want.tag(), "{text}: {got:?}");
    };
    is("x", r#""x""#);
    is("true", r#""true""#);
    is("g(1)", r#""g(1)""#);
    is("g( 1,'a' )", r#""g(1, 'a')""#);
    is("g(b=1)", r#"{"g":{"b":1}}"#);
    is("b[0]", r#""b[0]""#);
    is("...", r#""...""#);
    for (text, want) in
        [("-5", "-5"), ("+5", "-5"), ("~5", "-5"), ("not True", "-1"), ("2*3", "6"), ("7%-3", "-2")]
    {
        is(text, want);
    }
    is("'x'+'y'", r#""xy""#);
    assert!(matches!(value("(1,2)"), Some(Val::Tuple(v)) if v.len() == 2));
    for text in
        ["x.y", "{1}", "[i for i in y]", "f'a'", "1 if x else 2", "1<2", "a or b", "--5", "007", "'a\nb'"]
    {
        assert!(value(text).is_none(), "{text}");
    }
    let whole = |text: &str| parse(text, Format::Pythonic, Mode::Bfcl);
    assert!(
        whole("Sure: f(a=1)").is_err()
            && whole("```python\n[f(a=1)]\n```").is_err()
            && whole("[f(a=1)] done").is_err()
    );
    assert!(whole("").unwrap().calls.is_empty() && whole("[]").unwrap().calls.is_empty());
    assert_eq!(whole("x().y(a=1)").unwrap().calls[0].name, "y");
    assert_eq!(whole("[f(1, a=2)]").unwrap().calls[0].args.len(), 1);
    assert!(whole("[f(**{'a': 1})]").unwrap().calls[0].args.contains_key(&toolrm::Key::Null));
    let refused = ["__import__('os').getcwd() + ''", "9**9**9", "'a'*10**9"];
    for text in refused {
        assert_eq!(whole(&format!("[f(a={text})]")).unwrap_err().kind, "pythonic.unsafe_expr", "{text}");
    }
}

#[test]
fn white_space_around_concise_xml() {
    let text = |inner: &str| {
        format!(
            "<functions><function name=\"f\"><param name=\"a\" type=\"string\">{inner}</param></function></functions>"
        )
    };
    let value = |inner: &str, mode| {
        let parsed = parse(&text(inner), Format::XmlConcise, mode).ok()?;
        parsed.calls[0].args.get("a").and_then(Val::as_str).map(String::from)
    };
    for (inner, strict, lenient, bfcl) in [
        ("x y", Some("x y"), "x y", "x y"),
        ("\n  x\r\n", None, "x", "x"),
        ("&#32;x&#10;", Some(" x\n"), " x\n", "x"),
        (" &#32;x&#32;\t", None, " x ", "x"),
        ("<![CDATA[ x ]]>", Some(" x "), " x ", "x"),
        ("x <!-- y --> ", None, "x", "x"),
        (" ", None, "", ""),
        ("", Some(""), "", ""),
    ] {
        assert_eq!(value(inner, Mode::Strict).as_deref(), strict, "{inner:?}");
        assert_eq!(value(inner, Mode::Lenient).as_deref(), Some(lenient), "{inner:?}");
        assert_eq!(value(inner, Mode::Bfcl).as_deref(), Some(bfcl), "{inner:?}");
    }
}

#[test]
fn slips_that_are_repaired() {
    let parsed = |text: &str, format| parse(text, format, Mode::Lenient).unwrap();
    for text in [
        r#"<tool_call>{"name":"f","arguments":{"a":"</tool_call>"}}</tool_call>"#,
        r#"<tool_call>{"name":"f","arguments":"{\"a\":\"</tool_call>\"}"}"#,
        r#"<tool_call>{'name': 'f', 'parameters': {'a': '</tool_call>',}}</tool_call>"#,
        r#"<tool_call>[{"name":"f","arguments":{"a":"</tool_call>"}}]</tool_call>"#,
        r#"<tool_call>{"name":"f","arguments":{"a":"</tool_call>"</tool_call>"#,
    ] {
        let out = parsed(text, Format::Hermes);
        assert_eq!(out.calls.len(), 1, "{text}: {:?}", out.issues);
        assert_eq!(out.calls[0].args.get("a").and_then(Val::as_str), Some("</tool_call>"), "{text}");
    }
    let fenced =
        parsed("<tool_call>\n```json\n{\"name\":\"f\",\"arguments\":{}}\n```\n</tool_call>", Format::Hermes);
    assert_eq!((fenced.calls.len(), fenced.issues[0].kind), (1, "hermes.fence"));
    let two = parsed("<tool_call>{bad}</tool_call> <tool_call>{\"name\":\"g\"}</tool_call>", Format::Hermes);
    assert_eq!((two.calls[0].name.as_str(), two.issues[0].kind), ("g", "hermes.bad_block"));
    assert!(parse("<tool_call>{bad}</tool_call>", Format::Hermes, Mode::Lenient).is_err());
    assert!(
        parsed("{\"name\":\"g\",\"arguments\":{}}", Format::Hermes).calls.is_empty(),
        "JSON outside tags is no call"
    );
    let prose = parsed("Let's see.\n```python\n[f(a=true)]\n```", Format::Pythonic);
    assert!(matches!(prose.calls[0].args.get("a"), Some(Val::Bool(true))), "{prose:?}");
}
