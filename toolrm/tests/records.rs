//! Records are read as they were written, and what does not fit is named.
#![allow(clippy::unwrap_used)]

use toolrm::record::{
    self, Candidate, Check, Completion, Conversation, Pair, Record, Scored, Step, Task, Verdict,
};
use toolrm::{Rational, SchemaError};

#[track_caller]
fn same<R: Record>(text: &str) {
    let read: R = record::read(text).unwrap();
    assert_eq!(record::line(&read).unwrap(), text);
}

#[test]
fn what_is_written_is_what_was_read() {
    same::<Conversation>(
        r#"{"v":1,"id":"c","source":"s","tools":[{"name":"f","description":"","parameters":{"type":"dict","properties":{"x":{"type":"float"}},"required":["x"]},"strict":true}],"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"","tool_calls":[{"name":"f","arguments":{"x":1.0}}]},{"role":"tool","content":"1"}],"mine":[1,null]}"#,
    );
    same::<Step>(
        r#"{"v":1,"id":"c/1","conv_id":"c","turn":1,"source":"s","tools":[],"history":[],"gold":{"content":"so","calls":[{"name":"f","arguments":{"b":99999999999999999999,"a":{}}}]},"z":{"v":2}}"#,
    );
    same::<Candidate>(r#"{"v":1,"step_id":"c/1","origin":"m","text":"[f()]","format":"pythonic","t":0.5}"#);
    same::<Scored>(
        r#"{"v":1,"step_id":"c/1","origin":"m","text":"x","source":"s","content":"x","calls":[],"score":0.6666666666666666,"num":2,"den":3,"message":"ok","per_gold":[[0,0.5],[null,0.0]],"t":1}"#,
    );
    same::<Pair>(
        r#"{"v":1,"id":"p","step_id":"c/1","source":"s","chosen":{"text":"a","calls":[],"score":1.0,"num":1,"den":1,"message":"ok","origin":"g","q":1},"rejected":{"text":"b","score":0.0,"num":0,"den":1,"message":"parse_failed","origin":"m"},"intensity":1.0,"intensity_num":1,"intensity_den":1,"complexity":3,"bin":9,"r":2}"#,
    );
    same::<Task>(
        r#"{"v":1,"id":"t","pair_id":"p","kind":"pairwise","prompt":"?","label":"2","orientation":"swapped","split":"train","meta":{"a":1}}"#,
    );
    same::<Completion>(r#"{"v":1,"task_id":"t","text":"2","tokens_in":3,"tokens_out":1}"#);
    same::<Verdict>(r#"{"v":1,"task_id":"t","choice":2,"level":"strict","correct":true,"reward":1.0}"#);
    same::<Check>(
        r#"{"v":1,"id":"e","category":"simple_python","valid":false,"error_type":"fault","detail":"x"}"#,
    );
}

#[test]
fn a_missing_field_and_a_wrong_one_are_named() {
    let error = |text: &str| -> SchemaError { record::read::<Pair>(text).unwrap_err() };
    let side = r#"{"text":"a","calls":[],"score":1}"#;
    let cases = [
        ("{", "json.syntax", ""),
        ("[]", "json.type", ""),
        ("{}", "field.missing", "id"),
        (r#"{"v":2,"id":"p"}"#, "json.type", "v"),
        (r#"{"id":7}"#, "json.type", "id"),
        (r#"{"id":"p","step_id":"s"}"#, "field.missing", "chosen"),
        (r#"{"id":"p","step_id":"s","chosen":{"text":"a"}}"#, "field.missing", "chosen.score"),
        (r#"{"id":"p","step_id":"s","chosen":{"text":"a","score":1.5}}"#, "score.range", "chosen.score"),
        (r#"{"id":"p","step_id":"s","chosen":{"text":"a","score":-0.5}}"#, "score.range", "chosen.score"),
        (r#"{"id":"p","step_id":"s","chosen":{"text":"a","score":NaN}}"#, "json.syntax", ""),
        (r#"{"id":"p","step_id":"s","chosen":{"text":"a","score":1e999}}"#, "json.syntax", ""),
        (
            r#"{"id":"p","step_id":"s","chosen":{"text":"a","score":0.5,"num":1,"den":3}}"#,
            "score.range",
            "chosen.score",
        ),
        (
            r#"{"id":"p","step_id":"s","chosen":{"text":"a","score":1,"calls":[{"name":"f"}]}}"#,
            "field.missing",
            "chosen.calls[0].arguments",
        ),
        (
            &format!(r#"{{"id":"p","step_id":"s","chosen":{side},"rejected":{side}}}"#),
            "pair.order",
            "chosen.score",
        ),
    ];
    for (text, kind, path) in cases {
        let e = error(text);
        assert_eq!((e.kind, e.path.as_str()), (kind, path), "{text}: {e}");
    }
}

#[test]
fn nesting_has_a_limit_of_its_own_kind() {
    let deep = format!(r#"{{"task_id":"t","text":"","x":{}{}}}"#, "[".repeat(200), "]".repeat(200));
    let e = record::read::<Completion>(&deep).unwrap_err();
    assert_eq!((e.kind, e.path.as_str()), ("limit.depth", ""), "{e}");
}

#[test]
fn a_float_stands_for_the_simplest_fraction() {
    let of = |x| Rational::simplest(x).map(|r| (r.num, r.den));
    for den in 1..200u64 {
        for num in 0..=den {
            let want = Rational::new(num.into(), den.into()).unwrap();
            assert_eq!(of(num as f64 / den as f64), Some((want.num, want.den)));
        }
    }
    assert_eq!(of(0.67), Some((67, 100)));
    for x in [-0.1, f64::NAN, f64::INFINITY, 1e300] {
        assert_eq!(of(x), None);
    }
}
