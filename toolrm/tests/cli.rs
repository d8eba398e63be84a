//! The command line: from conversations to samples, bad lines, killed runs, threads, exit codes.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_toolrm"));
    command.current_dir(dir).args(args);
    command
}

fn run(dir: &Path, args: &[&str]) -> Output {
    command(dir, args).output().unwrap()
}

#[track_caller]
fn code(dir: &Path, args: &[&str], want: i32) -> String {
    let out = run(dir, args);
    let err = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(want), "{args:?}\n{err}");
    err
}

/// Conversations of one call each, about `n` cities.
fn conversations(n: usize) -> String {
    let line = |i: usize| {
        format!(
            r#"{{"id":"c{i}","source":"s{}","tools":[{{"name":"weather","parameters":{{"type":"object","properties":{{"city":{{"type":"string"}},"days":{{"type":"integer"}}}},"required":["city"]}}}},{{"name":"now"}}],"messages":[{{"role":"user","content":"Weather in city {i}?"}},{{"role":"assistant","tool_calls":[{{"name":"weather","arguments":{{"city":"city {i}","days":{i}}}}}]}}]}}"#,
            i % 3
        )
    };
    (0..n).map(|i| line(i) + "\n").collect()
}

/// A directory with steps and candidates.
fn made(n: usize) -> TempDir {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("conv.jsonl"), conversations(n)).unwrap();
    code(dir.path(), &["segment", "conv.jsonl", "-o", "steps.jsonl"], 0);
    code(dir.path(), &["corrupt", "steps.jsonl", "-k", "6", "--seed", "3", "-o", "cand.jsonl"], 0);
    dir
}

const SCORE: [&str; 7] =
    ["score", "--steps", "steps.jsonl", "--candidates", "cand.jsonl", "-o", "scored.jsonl"];

fn read(dir: &Path, name: &str) -> Vec<u8> {
    fs::read(dir.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn lines(dir: &Path, name: &str) -> usize {
    read(dir, name).iter().filter(|b| **b == b'\n').count()
}

#[test]
fn from_conversations_to_a_sample() {
    let dir = made(40);
    let dir = dir.path();
    assert_eq!(lines(dir, "steps.jsonl"), 40);
    let candidates = lines(dir, "cand.jsonl");
    assert!(candidates > 200);
    code(dir, &SCORE, 0);
    assert_eq!(lines(dir, "scored.jsonl"), 40 + candidates);
    let err = code(dir, &["filter", "scored.jsonl", "-o", "kept.jsonl"], 0);
    assert!(err.contains("steps.kept 40"), "{err}");
    code(dir, &["pairs", "kept.jsonl", "-o", "pairs.jsonl.zst"], 0);
    let err =
        code(dir, &["sample", "pairs.jsonl.zst", "-n", "60", "--val", "10", "--seed", "7", "-o", "out"], 0);
    assert!(err.contains("| s0 |") && err.contains("mean complexity"), "{err}");
    assert_eq!(
        (lines(dir, "out/train.jsonl") + lines(dir, "out/val.jsonl"), lines(dir, "out/report.json")),
        (60, 1)
    );
    let out = run(dir, &["--json", "stats", "pairs.jsonl.zst"]);
    let summary = String::from_utf8(out.stdout).unwrap();
    assert!(summary.starts_with("{\"lines\":") && summary.contains("\"complexity\":3.0"), "{summary}");
    // The order of candidates matters to no pair.
    let text = String::from_utf8(read(dir, "scored.jsonl")).unwrap();
    let mut turned: Vec<&str> = text.lines().collect();
    turned.reverse();
    fs::write(dir.join("turned.jsonl"), turned.join("\n")).unwrap();
    code(dir, &["pairs", "turned.jsonl", "-o", "other.jsonl"], 0);
    code(dir, &["diff", "pairs.jsonl.zst", "other.jsonl", "--fields", "intensity,bin,complexity,step_id"], 0);
    let changed = String::from_utf8(read(dir, "other.jsonl")).unwrap().replacen("\"bin\":9", "\"bin\":8", 1);
    fs::write(dir.join("changed.jsonl"), changed).unwrap();
    let err = code(dir, &["diff", "other.jsonl", "changed.jsonl"], 4);
    assert!(err.contains("bin 9 -> 8") && err.contains("different 1"), "{err}");
}

#[test]
fn threads_do_not_change_a_byte() {
    let dir = made(700);
    let dir = dir.path();
    let mut seen: Vec<Vec<u8>> = Vec::new();
    for threads in ["1", "2", "7"] {
        for args in [
            &SCORE[..],
            &["segment", "conv.jsonl", "-o", "steps2.jsonl"],
            &["corrupt", "steps.jsonl", "-k", "6", "--seed", "3", "-o", "cand2.jsonl"],
            &["validate", "steps", "steps.jsonl", "-o", "issues.jsonl"],
            &["parse", "cand.jsonl", "-o", "parsed.jsonl"],
            &["filter", "scored.jsonl", "-o", "kept.jsonl"],
            &["pairs", "kept.jsonl", "-o", "pairs.jsonl"],
            &["sample", "pairs.jsonl", "-n", "900", "-o", "out"],
            &["prompts", "pairs.jsonl", "--steps", "steps.jsonl", "--both", "-o", "tasks.jsonl"],
            &["prompts", "pairs.jsonl", "--steps", "steps.jsonl", "--kind", "bon", "-o", "bon.jsonl"],
            &["judge", "bon.jsonl", "--backend", "oracle", "-o", "said.jsonl"],
            &["reward", "bon.jsonl", "said.jsonl", "-o", "verdicts.jsonl"],
            &["reward-calls", "--steps", "steps.jsonl", "--candidates", "cand.jsonl", "-o", "rewards.jsonl"],
            &["export", "toolpref", "pairs.jsonl", "--steps", "steps.jsonl", "-o", "rows.jsonl"],
        ] {
            code(dir, &[args, &["--threads", threads, "--force"]].concat(), 0);
        }
        let all = "steps2 cand2 issues parsed scored kept pairs out/train out/val tasks bon said verdicts rewards rows";
        seen.push(all.split(' ').flat_map(|name| read(dir, &format!("{name}.jsonl"))).collect());
        assert!(read(dir, "steps2.jsonl") == read(dir, "steps.jsonl"));
        assert!(read(dir, "cand2.jsonl") == read(dir, "cand.jsonl"));
    }
    assert!(seen[0] == seen[1] && seen[1] == seen[2]);
}

#[test]
fn a_bad_line_costs_that_line_alone() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path();
    let n = 1_000_000;
    let mut text = Vec::with_capacity(40 * n);
    for i in 1..=n {
        match i {
            654_321 => text.extend_from_slice(b"{\"id\": 1, \"text\": "),
            777_777 => text.extend_from_slice(b"\"\xff\""),
            _ => text.extend_from_slice(format!("{{\"id\":{i},\"text\":\"[f(a={i})]\"}}").as_bytes()),
        }
        text.push(b'\n');
    }
    fs::write(dir.join("in.jsonl"), &text).unwrap();
    let err = code(dir, &["parse", "-f", "pythonic", "--mode", "strict", "in.jsonl", "-o", "out.jsonl"], 1);
    assert!(
        err.contains("in.jsonl:654321: json.syntax") && err.contains("in.jsonl:777777: text.utf8"),
        "{err}"
    );
    assert!(err.contains("1000000 lines, 2 rejected"), "{err}");
    assert_eq!(lines(dir, "out.jsonl"), n - 2);
    let out = read(dir, "out.jsonl");
    let tail = String::from_utf8_lossy(&out[out.len() - 160..]).into_owned();
    assert!(tail.contains("\"arguments\":{\"a\":1000000}"), "{tail}");
    let bad = String::from_utf8(read(dir, "out.jsonl.bad.jsonl")).unwrap();
    let bad: Vec<&str> = bad.lines().collect();
    assert_eq!(bad.len(), 2);
    assert!(bad[0].starts_with(r#"{"file":"in.jsonl","line":654321,"#), "{}", bad[0]);
    let err = code(dir, &["parse", "in.jsonl", "-o", "strict.jsonl", "--strict-input"], 1);
    assert!(err.starts_with("error: in.jsonl:654321: ") && !dir.join("strict.jsonl").exists(), "{err}");
    assert!(!dir.join("strict.jsonl.part").exists());
}

/// Starts a verb and kills it once its output has grown to a number of bytes; whether it was killed.
fn kill_at(dir: &Path, args: &[&str], part: &Path, bytes: u64) -> bool {
    let mut child = command(dir, args).stderr(Stdio::null()).spawn().unwrap();
    loop {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        if fs::metadata(part).is_ok_and(|m| m.len() >= bytes) {
            child.kill().unwrap();
            child.wait().unwrap();
            return true;
        }
        std::thread::yield_now();
    }
}

#[test]
fn a_killed_run_ends_with_the_same_bytes() {
    let dir = made(5000);
    let dir = dir.path();
    // Bad lines too, so that their file is resumed as well.
    let mut text = String::from_utf8(read(dir, "cand.jsonl")).unwrap();
    let extra: String = text.lines().step_by(97).map(|l| format!("{}\n", &l[..l.len() / 2])).collect();
    text.push_str(&extra);
    fs::write(dir.join("cand.jsonl"), &text).unwrap();
    for name in ["scored.jsonl", "scored.jsonl.gz", "scored.jsonl.zst"] {
        let mut args = SCORE.to_vec();
        args[6] = name;
        code(dir, &args, 1);
        let bad_name = format!("{name}.bad.jsonl");
        let (whole, bad) = (read(dir, name), read(dir, &bad_name));
        fs::remove_file(dir.join(name)).unwrap();
        fs::remove_file(dir.join(&bad_name)).unwrap();
        let part = dir.join(format!("{name}.part"));
        let (mut kills, mut seed, mut at) = (0, 12345u64, 0);
        while kills < 6 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            at += 1 + (seed >> 33) % (whole.len() as u64 / 6);
            if !kill_at(dir, &args, &part, at) {
                break;
            }
            kills += 1;
        }
        assert!(kills >= 2, "{name}: killed {kills} times");
        if !dir.join(name).exists() {
            // What a loss of power may leave: a line of the journal half written, bytes after the last mark.
            let log = dir.join(format!("{name}.part.log"));
            let journal = fs::read(&log).unwrap();
            fs::write(&log, [&journal[..], b"{\"input\":1,\"off"].concat()).unwrap();
            fs::write(&part, [&fs::read(&part).unwrap()[..], b"rubbish"].concat()).unwrap();
            let err = code(dir, &args, 1);
            assert!(err.contains("going on after "), "{err}");
        }
        assert!(read(dir, name) == whole, "{name} differs");
        assert!(read(dir, &bad_name) == bad, "{bad_name} differs");
        let left: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
        assert!(left.iter().all(|p| !p.to_string_lossy().contains(".part")), "{left:?}");
    }
    // Compressed files hold the same lines.
    code(dir, &["diff", "scored.jsonl", "scored.jsonl.gz", "--key", "text", "--fields", "score"], 3);
    let summary = |name: &str| String::from_utf8(run(dir, &["--json", "stats", name]).stdout).unwrap();
    assert_eq!(summary("scored.jsonl"), summary("scored.jsonl.gz"));
    assert_eq!(summary("scored.jsonl"), summary("scored.jsonl.zst"));
}

#[test]
fn a_run_with_other_options_starts_anew() {
    let dir = made(3000);
    let dir = dir.path();
    let part = dir.join("scored.jsonl.part");
    assert!(kill_at(dir, &SCORE, &part, 1 << 20));
    let err = code(dir, &[&SCORE[..], &["--sim", "pairs"]].concat(), 0);
    assert!(!err.contains("going on"), "{err}");
    let pairs = read(dir, "scored.jsonl");
    code(dir, &[&SCORE[..], &["--sim", "pairs", "--force"]].concat(), 0);
    assert!(read(dir, "scored.jsonl") == pairs);
}

#[test]
fn streams_have_no_names() {
    let dir = TempDir::new().unwrap();
    let mut child = command(dir.path(), &["parse", "-", "-o", "-", "--quiet"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, b"\"[f(a=1)]\"\n\n\"hello\"").unwrap();
    drop(stdin);
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success());
    let text = String::from_utf8(out.stdout).unwrap();
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(fs::read_dir(dir.path()).unwrap().next().is_none());
}

#[test]
fn exit_codes_say_what_happened() {
    let dir = made(3);
    let dir = dir.path();
    code(dir, &["nonsense"], 2);
    code(dir, &["parse", "missing.jsonl", "-o", "x.jsonl"], 3);
    code(dir, &["parse", ".", "-o", "x.jsonl"], 3);
    code(dir, &SCORE, 0);
    let err = code(dir, &SCORE, 3);
    assert!(err.contains("scored.jsonl is already there"), "{err}");
    let mut stdin = SCORE;
    stdin[2] = "-";
    code(dir, &stdin, 2);
    fs::write(dir.join("empty.jsonl"), "").unwrap();
    let err = code(dir, &["parse", "empty.jsonl", "-o", "none.jsonl"], 0);
    assert!(err.contains("warning: the input has no lines") && read(dir, "none.jsonl").is_empty(), "{err}");
    fs::write(dir.join("empty.jsonl.gz"), b"\x1f\x8b\x08").unwrap();
    code(dir, &["parse", "empty.jsonl.gz", "-o", "none.jsonl", "--force"], 3);
    let err = code(
        dir,
        &["bfcl", "check", "--questions", "q", "--results", "r", "--category", "simple_pyton", "-o", "x"],
        2,
    );
    assert!(err.contains("category.unknown: \"simple_pyton\"; the nearest is \"simple_python\""), "{err}");
}

#[test]
fn references_and_duplicates_are_checked() {
    let dir = made(2);
    let dir = dir.path();
    let step = fs::read_to_string(dir.join("steps.jsonl")).unwrap();
    fs::write(dir.join("steps.jsonl"), format!("{step}{}\n", step.lines().next().unwrap())).unwrap();
    let candidate = r#"{"step_id":"nowhere/1","origin":"m","text":"x"}"#;
    let gold = r#"{"step_id":"c0/1","origin":"ground_truth","text":"x"}"#;
    fs::write(
        dir.join("cand.jsonl"),
        format!("{candidate}\n{gold}\n{{\"step_id\":\"c0/1\",\"origin\":7}}\n"),
    )
    .unwrap();
    let err = code(dir, &SCORE, 1);
    for want in [
        "steps.jsonl:3: c0/1: id.duplicate at id: the step of line 1 has this id too",
        "cand.jsonl:1: nowhere/1: id.unknown at step_id: expected a step of steps.jsonl",
        "cand.jsonl:2: c0/1: json.type at origin: ",
        "cand.jsonl:3: c0/1: json.type at origin: expected a string, found int",
    ] {
        assert!(err.contains(want), "{want}\n{err}");
    }
}

#[test]
fn tool_lists_are_checked_and_repaired() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path();
    let tools = [
        r#"[{"name":"f","parameters":{"type":"object","properties":{"a":{"type":"string"}},"required":["a","b"]}}]"#,
        r#"{"id":"two","function":[{"name":"f"},{"name":"f"}]}"#,
        r#"[{"name":"f"},{"name":"f","description":"another"}]"#,
    ];
    fs::write(dir.join("tools.jsonl"), tools.join("\n")).unwrap();
    let out = run(dir, &["validate", "tools", "tools.jsonl"]);
    let text = String::from_utf8(out.stdout).unwrap();
    for kind in ["schema.required_unknown", "schema.duplicate", "schema.conflict"] {
        assert!(text.contains(kind), "{text}");
    }
    assert_eq!(out.status.code(), Some(0));
    let err = code(dir, &["validate", "tools", "tools.jsonl", "--repair", "-o", "fine.jsonl"], 1);
    assert!(err.contains("tools.jsonl:3: schema.conflict at f"), "{err}");
    let fine = fs::read_to_string(dir.join("fine.jsonl")).unwrap();
    assert_eq!(fine.lines().count(), 2);
    assert!(fine.contains(r#""required":["a"]"#) && fine.matches(r#""name":"f""#).count() == 2, "{fine}");
}

/// The leaderboard's files of one entry, and results of three models.
fn leaderboard(dir: &Path) {
    let question = r#"{"id":"multiple_7","question":[[{"role":"user","content":"Add 1 and 2."}]],"function":[{"name":"math.add","description":"","parameters":{"type":"dict","properties":{"a":{"type":"integer"},"b":{"type":"integer"}},"required":["a","b"]}}]}"#;
    let answer = r#"{"id":"multiple_7","ground_truth":[{"math.add":{"a":[1],"b":[2]}}]}"#;
    fs::create_dir_all(dir.join("data/possible_answer")).unwrap();
    fs::write(dir.join("data/BFCL_v4_multiple.json"), question).unwrap();
    fs::write(dir.join("data/possible_answer/BFCL_v4_multiple.json"), answer).unwrap();
    let results = [
        ("right", r#"[{"math_add":"{\"a\":1,\"b\":2}"}]"#),
        ("wrong", r#"[{"math_add":"{\"a\":1,\"b\":3}"}]"#),
        ("prose", r#""It is three.""#),
    ];
    for (model, result) in results {
        fs::create_dir_all(dir.join(model).join("non_live")).unwrap();
        let line = format!(r#"{{"id":"multiple_7","result":{result}}}"#);
        fs::write(dir.join(model).join("non_live/BFCL_v4_multiple_result.json"), line).unwrap();
    }
}

#[test]
fn results_of_the_leaderboard_are_checked() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path();
    leaderboard(dir);
    for (model, overall) in
        [("right", "multiple | 1 | 1"), ("wrong", "multiple | 0 | 1"), ("prose", "multiple | 0 | 1")]
    {
        let out = format!("report-{model}");
        let err = code(dir, &["bfcl", "eval", "--data", "data", "--results", model, "-o", &out], 0);
        assert!(err.contains(overall), "{err}");
    }
    let checks = String::from_utf8(read(dir, "report-wrong/multiple.jsonl")).unwrap();
    assert!(checks.contains(r#""valid":false,"error_type":"value_error:others","detail":"b""#), "{checks}");
    let check = |names: &str, out: &str| {
        let args = [
            "bfcl",
            "check",
            "--questions",
            "data/BFCL_v4_multiple.json",
            "--answers",
            "data/possible_answer/BFCL_v4_multiple.json",
            "--results",
            "right/non_live/BFCL_v4_multiple_result.json",
            "--category",
            "multiple",
            "--names",
            names,
            "-o",
            out,
        ];
        code(dir, &args, 0)
    };
    assert!(check("auto", "auto.jsonl").contains("names: dot-to-underscore"));
    assert!(check("exact", "exact.jsonl").contains("error.simple_function_checker:wrong_func_name 1"));
    code(dir, &["bfcl", "gold", "--data", "data", "--category", "multiple", "-o", "gold.jsonl"], 0);
    assert!(String::from_utf8(read(dir, "gold.jsonl")).unwrap().contains(r#""calls":[{"name":"math.add""#));
}

#[test]
fn judges_are_benchmarked() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path();
    leaderboard(dir);
    let build = [
        "bench",
        "build",
        "--data",
        "data",
        "--results",
        "right",
        "wrong",
        "prose",
        "--names",
        "dot-to-underscore",
    ];
    let err = code(dir, &[&build[..], &["-o", "bench"]].concat(), 0);
    assert!(err.contains("pairs 2") && err.contains("dropped.valid 1"), "{err}");
    let pairs = String::from_utf8(read(dir, "bench/pairs.jsonl")).unwrap();
    assert!(
        !pairs.contains("math_add") && pairs.contains(r#""error_type":"ast_decoder:decoder_failed""#),
        "{pairs}"
    );
    code(dir, &["validate", "steps", "bench/steps.jsonl"], 0);
    let ids: Vec<&str> = pairs
        .lines()
        .map(|l| l.split(r#""id":""#).nth(1).and_then(|r| r.split('"').next()).unwrap())
        .collect();
    let (mut tasks, mut verdicts) = (String::new(), String::new());
    for (n, id) in ids.iter().enumerate() {
        for (order, right) in [("original", 1), ("swapped", 2)] {
            tasks += &format!(
                "{{\"id\":\"{id}/{order}\",\"pair_id\":\"{id}\",\"kind\":\"pairwise\",\"prompt\":\"?\",\"label\":\"{right}\",\"orientation\":\"{order}\",\"split\":\"multiple\"}}\n"
            );
            // The second pair is answered rightly in one order alone.
            let choice = if n == 0 { right } else { 1 };
            verdicts +=
                &format!("{{\"task_id\":\"{id}/{order}\",\"choice\":{choice},\"level\":\"strict\"}}\n");
        }
    }
    fs::write(dir.join("tasks.jsonl"), &tasks).unwrap();
    fs::write(dir.join("verdicts.jsonl"), &verdicts).unwrap();
    let score = ["bench", "score", "--pairs", "bench/pairs.jsonl", "--tasks", "tasks.jsonl", "--verdicts"];
    let err = code(dir, &[&score[..], &["verdicts.jsonl", "-o", "report.json", "--both-views"]].concat(), 0);
    assert!(err.contains("| multiple | 1 | 2 | 50.00 |") && err.contains("(chance 25.00)"), "{err}");
    assert!(err.contains("chosen first 100.00, chosen second 50.00"), "{err}");
    // A verdict too few is an error, and so is a label that its task cannot have.
    let fewer: String = verdicts.lines().skip(1).flat_map(|l| [l, "\n"]).collect();
    fs::write(dir.join("fewer.jsonl"), fewer).unwrap();
    let err = code(dir, &[&score[..], &["fewer.jsonl", "-o", "fewer.json"]].concat(), 3);
    assert!(err.contains("result.count: 1 of 4 tasks have no verdict"), "{err}");
    code(dir, &[&score[..], &["fewer.jsonl", "-o", "fewer.json", "--partial"]].concat(), 0);
    fs::write(dir.join("tasks.jsonl"), tasks.replacen("\"label\":\"1\"", "\"label\":\"2\"", 1)).unwrap();
    let err = code(dir, &[&score[..], &["verdicts.jsonl", "-o", "other.json", "--partial"]].concat(), 3);
    assert!(err.contains("label.invalid at label"), "{err}");
    let scores: String =
        ids.iter().map(|id| format!("{{\"pair_id\":\"{id}\",\"chosen\":1,\"rejected\":0.5}}\n")).collect();
    fs::write(dir.join("scores.jsonl"), scores).unwrap();
    let scalar =
        ["bench", "score", "--pairs", "bench/pairs.jsonl", "--scores", "scores.jsonl", "-o", "scalar.json"];
    assert!(code(dir, &scalar, 0).contains("Avg 100.00, W-Avg 100.00 (chance 50.00)"));
    let err = code(dir, &["bench", "report", "report.json", "scalar.json"], 0);
    assert!(err.contains("| multiple | 50.00 | 100.00 |") && err.contains("| W-Avg |"), "{err}");
}
