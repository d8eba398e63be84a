//! The columns of released data sets: rows to pairs and back.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

use toolrm::record::{self, Layout};
use toolrm::{ScoreOptions, Val, eq_json, json};

fn read(text: &str) -> Val {
    json::parse(text, json::Dialect::Strict).unwrap()
}

const SYSTEM: &str = "You help.\\n\\n# Tools\\n\\nYou may call one or more functions to assist with the user query.\\n\\nYou are provided with function signatures within <tools></tools> XML tags:\\n<tools>\\n{\\\"type\\\":\\\"function\\\",\\\"function\\\":{\\\"name\\\":\\\"weather\\\",\\\"description\\\":\\\"\\\",\\\"parameters\\\":{\\\"type\\\":\\\"object\\\",\\\"properties\\\":{\\\"city\\\":{\\\"type\\\":\\\"string\\\"}},\\\"required\\\":[\\\"city\\\"]}}}\\n</tools>\\n\\nFor each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:\\n<tool_call>\\n{\\\"name\\\": <function-name>, \\\"arguments\\\": <args-json-object>}\\n</tool_call>";

/// A row as the data set has it; the rejected response has one of three arguments right: a third, stored as 0.33.
fn toolpref(uuid: usize, reward: &str) -> String {
    format!(
        r#"{{"uuid":{uuid},"raw_id":454,"data_source":"some/where","task_source":"glaive","gt_actions":"[{{\"name\": \"weather\", \"arguments\": {{\"city\": \"Paris\", \"unit\": \"celsius\"}}}}]","chat_history":[{{"role":"system","content":"{SYSTEM}"}},{{"role":"user","content":"Weather in Paris?"}}],"task_complexity":3,"chosen_response":{{"role":"assistant","content":"Let me see.\n<tool_call>\n{{\"name\": \"weather\", \"arguments\": {{\"city\": \"Paris\", \"unit\": \"celsius\"}}}}\n</tool_call>"}},"chosen_response_reward":1.0,"chosen_response_reward_message":"ok","chosen_response_from":"ground_truth","reject_response":{{"role":"assistant","content":"<tool_call>\n{{\"name\": \"weather\", \"arguments\": {{\"city\": \"Paris\", \"days\": 2, \"unit\": \"K\"}}}}\n</tool_call>"}},"reject_response_reward":{reward},"reject_response_reward_message":"partly","reject_response_from":"model-b","reward_difference":0.67,"prompt":[{{"role":"user","content":"Which?"}}],"ability":"judging","reward_model":{{"ground_truth":"1","style":"rule"}},"extra_info":{{"index":7}}}}"#
    )
}

const TRBENCH: &str = r#"{"uuid":"u-1","split_id":4,"raw_id":"simple_3","task_source":"simple","error_type":"value_error:string","chat_history":[{"role":"user","content":"Weather in Paris?"}],"chosen_response":"<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Paris\"}}\n</tool_call>","reject_response":"I do not know.","chosen_response_from":"gold","reject_response_from":"m","prompt":[{"role":"user","content":"Which?"}],"reward_model":{"ground_truth":"2","style":"rule"},"extra_info":{"index":0,"original_index":3,"sample_type":"swapped"}}"#;

#[test]
fn a_row_becomes_a_pair_with_exact_scores() {
    let row = Layout::ToolPref.import(read(&toolpref(12, "0.33")), &ScoreOptions::default()).unwrap();
    assert_eq!((row.pair.id.as_str(), row.pair.source.as_str(), row.pair.complexity), ("12", "glaive", 3));
    assert_eq!((row.pair.rejected.score.num, row.pair.rejected.score.den), (1, 3));
    assert_eq!((row.pair.intensity.num, row.pair.intensity.den, row.pair.bin), (2, 3, 6));
    assert!(row.differs.is_empty());
    assert_eq!(
        (row.pair.chosen.text.as_str(), row.pair.rejected.message.as_str()),
        ("Let me see.", "partly")
    );
    // The tools leave the system message, and what it says beside them stays.
    assert_eq!((row.step.tools.len(), row.step.tools[0].name.as_str()), (1, "weather"));
    assert_eq!((row.step.history.len(), row.step.history[0].content.as_str()), (2, "You help."));
    assert_eq!((row.step.calls.len(), row.step.calls[0].args.len()), (1, 2));
    assert_eq!(row.step.id, row.pair.step_id);
    assert!(eq_json(row.pair.meta.get("raw_id").unwrap(), &Val::Int(454)));
}

#[test]
fn rows_come_back_as_they_were() {
    for (layout, text) in [(Layout::ToolPref, toolpref(12, "0.33")), (Layout::TrBench, TRBENCH.to_owned())] {
        let first = layout.import(read(&text), &ScoreOptions::default()).unwrap();
        // Through the lines of files.
        let pair = record::read(&record::line(&first.pair).unwrap()).unwrap();
        let step = record::read(&record::line(&first.step).unwrap()).unwrap();
        let row = Val::Dict(layout.export(&pair, &step, 0).unwrap());
        let again = layout.import(row.clone(), &ScoreOptions::default()).unwrap();
        assert_eq!(record::line(&again.pair).unwrap(), record::line(&first.pair).unwrap());
        assert_eq!(again.step.history.len(), first.step.history.len());
        assert_eq!(again.step.tools.len(), first.step.tools.len());
        let (row, original) = (row.as_dict().unwrap(), read(&text));
        let original = original.as_dict().unwrap();
        // Every column is there, in order, and the same but for the numbers' digits and the form of responses.
        assert_eq!(row.keys().collect::<Vec<_>>(), original.keys().collect::<Vec<_>>());
        for (column, v) in original {
            let name = column.as_str().unwrap();
            let same = match name {
                "reject_response_reward" | "reward_difference" => {
                    (v.to_f64().unwrap() - row[column].to_f64().unwrap()).abs() < 5e-3
                }
                "gt_actions" => eq_json(&read(v.as_str().unwrap()), &read(row[column].as_str().unwrap())),
                "chosen_response" | "reject_response" => {
                    let text = v.get("content").unwrap_or(v).as_str().unwrap();
                    let close = |text: &str| text.replace("\": ", "\":").replace(", \"", ",\"");
                    close(row[column].get("content").and_then(Val::as_str).unwrap()) == close(text)
                }
                _ => eq_json(v, &row[column]),
            };
            assert!(same, "{name}: {v:?} {:?}", row[column]);
        }
    }
}

#[test]
fn the_benchmark_has_the_chosen_response_as_gold() {
    let row = Layout::TrBench.import(read(TRBENCH), &ScoreOptions::default()).unwrap();
    assert_eq!(
        (row.step.id.as_str(), row.pair.source.as_str(), row.step.calls.len()),
        ("simple_3", "simple", 1)
    );
    assert_eq!((row.pair.intensity.to_f64(), row.pair.rejected.message.as_str()), (1.0, "count_mismatch"));
    assert_eq!(row.pair.rejected.text, "I do not know.");
    // A chosen response that is no better has no place in a pair.
    let same = TRBENCH.replace("I do not know.", "<tool_call>\\n{\\\"name\\\": \\\"weather\\\", \\\"arguments\\\": {\\\"city\\\": \\\"Paris\\\"}}\\n</tool_call>");
    let error = Layout::TrBench.import(read(&same), &ScoreOptions::default()).unwrap_err();
    assert_eq!((error.kind, error.path.as_str()), ("pair.order", "chosen_response"));
    // Nor has a pair that its gold response does not win one in the benchmark.
    let mut pair = row.pair.clone();
    pair.chosen.score = toolrm::Rational { num: 1, den: 2 };
    assert_eq!(Layout::TrBench.export(&pair, &row.step, 0).unwrap_err().path, "chosen.score");
}

#[test]
fn columns_that_are_missing_are_made() {
    let first = Layout::ToolPref.import(read(&toolpref(12, "0.33")), &ScoreOptions::default()).unwrap();
    let mut pair = first.pair;
    pair.meta.clear();
    let label = |seed| {
        let row = Val::Dict(Layout::ToolPref.export(&pair, &first.step, seed).unwrap());
        let shown =
            row.get("prompt").and_then(Val::as_list).unwrap()[0].get("content").unwrap().as_str().unwrap();
        let first_is_right = shown.find("celsius").unwrap() < shown.find("\"K\"").unwrap();
        let label =
            row.get("reward_model").unwrap().get("ground_truth").unwrap().as_str().unwrap().to_owned();
        assert_eq!(first_is_right, label == "1");
        label
    };
    let labels: std::collections::BTreeSet<String> = (0..20).map(label).collect();
    assert_eq!(labels.len(), 2, "both orders are drawn");
}

fn command(dir: &Path, args: &[&str], want: i32) -> String {
    let out = Command::new(env!("CARGO_BIN_EXE_toolrm")).current_dir(dir).args(args).output().unwrap();
    let err = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(want), "{args:?}\n{err}");
    err
}

#[test]
fn the_commands_round_trip_and_name_bad_lines() {
    let dir = tempfile::TempDir::new().unwrap();
    let dir = dir.path();
    let broken = toolpref(3, "0.33").replace("[{\\\"name\\\"", "[{\\\"nom\\\"");
    let rows = [
        toolpref(1, "0.33"),
        "{\"uuid\":".into(),
        toolpref(2, "0.33"),
        broken,
        toolpref(4, "1.5"),
        toolpref(5, "0.9"),
    ];
    std::fs::write(dir.join("rows.jsonl"), rows.join("\n")).unwrap();
    let err = command(dir, &["import", "toolpref", "rows.jsonl", "-o", "out"], 1);
    for part in [
        "rows.jsonl:2: json.syntax",
        "rows.jsonl:4: 3: field.missing at gt_actions[0].name",
        "rows.jsonl:5: 4: score.range at reject_response_reward",
        "6 lines, 3 rejected, pairs 3, steps 1",
        "1 of 3 rows differ from their own scores, 33.33 %",
        "reject_response_reward 1",
    ] {
        assert!(err.contains(part), "{part:?} in {err}");
    }
    let bad = std::fs::read_to_string(dir.join("out/pairs.jsonl.bad.jsonl")).unwrap();
    assert_eq!(bad.lines().count(), 3);
    command(dir, &["import", "toolpref", "rows.jsonl", "-o", "out"], 3);
    command(dir, &["import", "toolpref", "rows.jsonl", "-o", "out", "--force", "--verify"], 4);
    std::fs::write(dir.join("good.jsonl"), [toolpref(1, "0.33"), toolpref(2, "0.33")].join("\n")).unwrap();
    command(dir, &["import", "toolpref", "good.jsonl", "-o", "a", "--verify"], 0);
    command(dir, &["export", "toolpref", "a/pairs.jsonl", "--steps", "a/steps.jsonl", "-o", "back.jsonl"], 0);
    command(dir, &["import", "toolpref", "back.jsonl", "-o", "b", "--verify"], 0);
    let pairs = |name: &str| std::fs::read_to_string(dir.join(name).join("pairs.jsonl")).unwrap();
    assert_eq!(pairs("a").lines().count(), 2);
    assert_eq!(pairs("a").replace(&step_of(&pairs("a")), ""), pairs("b").replace(&step_of(&pairs("b")), ""));
    // A pair whose step is not there costs its line.
    std::fs::write(dir.join("none.jsonl"), "").unwrap();
    let err =
        command(dir, &["export", "trbench", "a/pairs.jsonl", "--steps", "none.jsonl", "-o", "x.jsonl"], 1);
    assert!(err.contains("a/pairs.jsonl:1: 1: id.unknown at step_id"), "{err}");
    std::fs::write(dir.join("twice.jsonl"), [toolpref(1, "0.33"), toolpref(1, "0.33")].join("\n")).unwrap();
    assert!(command(dir, &["import", "toolpref", "twice.jsonl", "-o", "c"], 3).contains("id.duplicate"));
}

/// The id of the first line's step.
fn step_of(pairs: &str) -> String {
    read(pairs.lines().next().unwrap()).get("step_id").and_then(Val::as_str).unwrap().to_owned()
}
