//! Conversations to steps, steps to candidates, candidates to scores.
#![allow(clippy::unwrap_used)]

use toolrm::record::{self, Conversation, Step};
use toolrm::{
    Call, Damage, Failure, Mode, Reason, ScoreOptions, SegmentOptions, Val, corrupt, score_candidate,
    score_gold, segment,
};

const TOOLS: &str = r#"[{"name":"weather","parameters":{"type":"object","properties":{"city":{"type":"string"},"days":{"type":"integer"}},"required":["city"]}},{"name":"now"}]"#;

fn conversation(messages: &str) -> Conversation {
    record::read(&format!(r#"{{"id":"c","source":"s","tools":{TOOLS},"messages":[{messages}]}}"#)).unwrap()
}

const USER: &str = r#"{"role":"user","content":"Weather in Paris?"}"#;
const CALL: &str = r#"{"role":"assistant","tool_calls":[{"name":"weather","arguments":{"city":"Paris"}}]}"#;
const RESULT: &str = r#"{"role":"tool","content":{"sky":"clear"}}"#;
const SAID: &str = r#"{"role":"assistant","content":"It is clear."}"#;

fn reasons(messages: &[&str], options: &SegmentOptions) -> (Vec<u64>, Vec<(usize, Reason)>) {
    let out = segment(&conversation(&messages.join(",")), options);
    (out.steps.iter().map(|s| s.turn).collect(), out.dropped.iter().map(|d| (d.turn, d.reason)).collect())
}

#[test]
fn every_assistant_message_is_a_step() {
    let out = segment(&conversation(&[USER, CALL, RESULT, SAID].join(",")), &SegmentOptions::default());
    assert!(out.dropped.is_empty());
    let ids: Vec<&str> = out.steps.iter().map(|s| s.id.as_str()).collect();
    assert_eq!(ids, ["c/1", "c/3"]);
    assert_eq!((out.steps[0].history.len(), out.steps[1].history.len()), (1, 3));
    assert_eq!((out.steps[0].calls.len(), out.steps[1].content.as_str()), (1, "It is clear."));
    let back: Step = record::read(&record::line(&out.steps[1]).unwrap()).unwrap();
    assert_eq!(record::line(&back).unwrap(), record::line(&out.steps[1]).unwrap());
}

#[test]
fn a_response_that_fails_a_check_is_no_step() {
    let options = SegmentOptions::default();
    let text = |t: &str| format!(r#"{{"role":"assistant","content":{t}}}"#);
    let call = |name: &str, args: &str| {
        format!(r#"{{"role":"assistant","tool_calls":[{{"name":"{name}","arguments":{args}}}]}}"#)
    };
    let one = |message: &str| reasons(&[USER, message], &options);
    assert_eq!(one(&text(r#""<tool_call>{bad}</tool_call>""#)), (vec![], vec![(1, Reason::Unparsable)]));
    assert_eq!(one(&call("nowhere", "{}")), (vec![], vec![(1, Reason::BadCalls)]));
    assert_eq!(one(&call("weather", "{}")), (vec![], vec![(1, Reason::BadCalls)]));
    assert_eq!(
        one(&call("weather", r#"{"city":"Paris","days":true}"#)),
        (vec![], vec![(1, Reason::BadCalls)])
    );
    let twice =
        r#"{"role":"assistant","tool_calls":[{"name":"now","arguments":{}},{"name":"now","arguments":{}}]}"#;
    assert_eq!(one(twice), (vec![], vec![(1, Reason::BadCalls)]));
    assert_eq!(one(&text("\" \"")), (vec![], vec![(1, Reason::Empty)]));
    let inline = text(r#""Let me see. <tool_call>\n{\"name\":\"now\",\"arguments\":{}}\n</tool_call>""#);
    assert_eq!(one(&inline), (vec![1], vec![]));
    let no_chat = SegmentOptions { drop_chat: true, ..options.clone() };
    assert_eq!(reasons(&[USER, CALL, RESULT, SAID], &no_chat), (vec![1], vec![(3, Reason::Chat)]));
}

#[test]
fn a_failure_of_a_tool_is_seen() {
    let options = SegmentOptions::default();
    let answered = |result: &str, options: &SegmentOptions| {
        let out = reasons(&[USER, CALL, RESULT, result, SAID], options);
        if out.1.is_empty() {
            assert_eq!(out.0, [1, 4]);
            false
        } else {
            assert_eq!(out, (vec![4], vec![(1, Reason::ToolError)]), "the answer after it is a step");
            true
        }
    };
    let tool = |content: &str| format!(r#"{{"role":"tool","content":{content}}}"#);
    for failure in [
        tool(r#"{"error":"no such city"}"#),
        tool(r#"{"exception":{"type":"x"}}"#),
        tool(r#"{"status":"FAILED"}"#),
        tool(r#""{'error': 'no'}""#),
        r#"{"role":"tool","content":"boom","is_error":true}"#.to_owned(),
    ] {
        assert!(answered(&failure, &options), "{failure}");
    }
    for fine in [
        tool(r#"{"error":null,"sky":"clear"}"#),
        tool(r#"{"error":"","x":1}"#),
        tool(r#"{"status":"ok"}"#),
        tool(r#"{"data":{"error":"inside"}}"#),
        tool(r#""error: no such city""#),
    ] {
        assert!(!answered(&fine, &options), "{fine}");
    }
    let own = SegmentOptions { failures: vec![Failure::read("ok=false")], ..options };
    assert!(answered(&tool(r#"{"ok":false}"#), &own) && !answered(&tool(r#"{"error":"x"}"#), &own));
}

#[test]
fn roles_have_an_order() {
    let options = SegmentOptions::default();
    let system = r#"{"role":"system","content":"x"}"#;
    let dropped = |messages: &[&str]| {
        let (steps, dropped) = reasons(messages, &options);
        assert!(steps.is_empty() || dropped.is_empty());
        dropped.iter().any(|(_, r)| *r == Reason::RoleOrder)
    };
    assert!(!dropped(&[system, USER, CALL, RESULT, RESULT, SAID, USER, SAID]));
    assert!(!dropped(&[USER, SAID, SAID]));
    for wrong in [
        vec![SAID, USER, SAID],
        vec![system, SAID],
        vec![USER, system, SAID],
        vec![USER, SAID, RESULT, SAID],
        vec![RESULT, USER, SAID],
    ] {
        assert!(dropped(&wrong), "{wrong:?}");
    }
}

#[test]
fn a_wrong_tool_list_drops_the_conversation() {
    let line = r#"{"id":"c","tools":[{"name":"f","parameters":{"type":"object","properties":{},"required":["x"]}}],
        "messages":[{"role":"user","content":"a"},{"role":"assistant","tool_calls":[{"name":"f","arguments":{}}]}]}"#;
    let conversation: Conversation = record::read(line).unwrap();
    let out = segment(&conversation, &SegmentOptions::default());
    assert_eq!((out.steps.len(), out.dropped[0].reason), (0, Reason::Tools));
    let repaired = segment(&conversation, &SegmentOptions { repair: true, ..SegmentOptions::default() });
    assert_eq!((repaired.steps.len(), repaired.steps[0].tools[0].parameters.required.len()), (1, 0));
}

fn step() -> Step {
    let mut step =
        segment(&conversation(&[USER, CALL].join(",")), &SegmentOptions::default()).steps.remove(0);
    step.calls = vec![
        Call::new("weather", [("city", Val::from("New York")), ("days", Val::Int(3))]),
        Call::new("now", Vec::<(&str, Val)>::new()),
    ];
    step
}

#[test]
fn damaged_candidates_are_distinct_and_wrong() {
    let step = step();
    let all = corrupt(&step, 40, 7).unwrap();
    assert!(all.len() > 12, "{}", all.len());
    let mut texts: Vec<&str> = all.iter().map(|c| c.text.as_str()).collect();
    texts.sort_unstable();
    texts.dedup();
    assert_eq!(texts.len(), all.len());
    let again = corrupt(&step, 40, 7).unwrap();
    assert!(all.iter().zip(&again).all(|(a, b)| a.text == b.text && a.origin == b.origin));
    assert!(corrupt(&step, 40, 8).unwrap().iter().zip(&all).any(|(a, b)| a.text != b.text));
    let mut kinds: Vec<&str> = all.iter().filter_map(|c| c.origin.strip_prefix("corrupt:")).collect();
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(kinds.len(), Damage::ALL.len() + 1, "{kinds:?}");
    for (i, candidate) in all.into_iter().enumerate() {
        let origin = candidate.origin.clone();
        let out = score_candidate(candidate, "s", &step.calls, &ScoreOptions::default(), Mode::Strict);
        assert_ne!(out.message, "parse_failed", "{origin}");
        assert_eq!(out.score == toolrm::Rational::ONE, i == 0, "{origin}");
    }
}

#[test]
fn candidates_are_scored_without_what_they_thought() {
    let step = step();
    let text = r#"<think>\nhm\n</think>\n\nSo.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"New York\"}}\n</tool_call><tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>"#;
    let read =
        |text: &str| record::read(&format!(r#"{{"step_id":"c/1","origin":"m","text":"{text}"}}"#)).unwrap();
    let out = score_candidate(read(text), "s", &step.calls, &ScoreOptions::default(), Mode::Lenient);
    assert_eq!((out.content.as_str(), out.score.num, out.score.den), ("So.", 3, 4));
    assert_eq!(out.per_gold, [(Some(0), 0.5), (Some(1), 1.0)]);
    let failed =
        score_candidate(read("<tool_call>{"), "s", &step.calls, &ScoreOptions::default(), Mode::Lenient);
    assert_eq!((failed.message.as_str(), failed.content.as_str()), ("parse_failed", "<tool_call>{"));
    let nan = read(r#"<tool_call>{\"name\":\"now\",\"arguments\":{\"x\":NaN}}</tool_call>"#);
    let nan = score_candidate(nan, "s", &step.calls, &ScoreOptions::default(), Mode::Lenient);
    assert_eq!(nan.message, "parse_failed", "no tool can be sent NaN");
    let gold = score_gold(&step);
    assert_eq!((gold.candidate.origin.as_str(), gold.per_gold.len()), ("ground_truth", 2));
}
