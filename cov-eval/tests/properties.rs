//! What must hold for every task, at every difficulty, for 256 random instances a cell.

#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::sync::Mutex;

use cov_eval::{
    Completion, DetRng, Finish, Gate, Instance, InstanceKey, Intake, IntakeConfig, Split, Status, Task,
    TaskConfig, TaskId, Verification, task,
};
use rayon::prelude::*;

const LENGTHS: [u32; 3] = [256, 1024, 8192];
/// Units of which ten megabytes are an answer.
#[rustfmt::skip]
const HOSTILE: [&str; 30] = [
    "{", "[[Segment 1]]\n", "1 | S0 | a | S1 | x\n", "{\"A\": \"b\", ", "```\n", "word ", "é", "[Q1]", "[Q1] a. ", "$1 ",
    "1,", "(", "x = [", "\"", "'''", "a.", "A. ", "if x:\n", "not ", "def f():\n    pass\n", "e\u{301}", "\u{301}", "- ", "f'{",
    "x=1;", "#\n", "\\\n", "Mr. ", "born ", "2,3",
];

/// Instances a cell; `long_` tests have [`MANY`].
const INSTANCES: u64 = 12;
const MANY: u64 = 256;

fn key(id: TaskId, length: u32, difficulty: u8, index: u64) -> InstanceKey {
    let version = task(id).version();
    InstanceKey { task: id, version, split: Split::Test, length, difficulty, base_seed: 11, index }
}

fn generate(id: TaskId, length: u32, difficulty: u8, index: u64) -> Instance {
    task(id).generate(&key(id, length, difficulty, index), &TaskConfig::default()).unwrap()
}

fn verify(instance: &Instance, answer: &str) -> Verification {
    task(instance.key.task).verify(instance, &Intake::from(answer))
}

/// All cells of all tasks.
fn cells() -> Vec<(TaskId, u32, u8)> {
    let difficulties = |id, length| (0..=3).map(move |difficulty| (id, length, difficulty));
    let lengths = |&id: &TaskId| LENGTHS.into_iter().flat_map(move |length| difficulties(id, length));
    TaskId::ALL.iter().flat_map(lengths).collect()
}

fn each(instances: u64, check: impl Fn(&dyn Task, &Instance) + Sync) {
    for (id, length, difficulty) in cells() {
        (0..instances)
            .into_par_iter()
            .for_each(|index| check(task(id), &generate(id, length, difficulty, index)));
    }
}

fn plant_rng(instance: &Instance) -> DetRng {
    instance.key.rng("plant")
}

#[test]
fn oracles_are_perfect() {
    check_oracles(INSTANCES);
}

/// `cargo test -p cov-eval --release -- --ignored`
#[test]
#[ignore = "minutes"]
fn long_oracles_are_perfect() {
    check_oracles(MANY);
}

fn check_oracles(instances: u64) {
    each(instances, |task, instance| {
        let result = task.verify(instance, &Intake::from(task.oracle(instance).as_str()));
        let lost: Vec<_> = result.verdicts.iter().filter(|v| v.status != Status::Pass).collect();
        assert!(lost.is_empty(), "{}: {lost:?}", instance.id);
        assert_eq!((result.score, result.dense), (1.0, 1.0), "{}: {:?}", instance.id, result.multipliers);
        assert!(result.flags.is_empty(), "{}: {:?}", instance.id, result.flags.names());
        assert_eq!(result.gate, Gate::Open);
    });
}

#[test]
fn plants_cost() {
    check_plants(INSTANCES);
}

#[test]
#[ignore = "minutes"]
fn long_plants_cost() {
    check_plants(MANY);
}

fn check_plants(instances: u64) {
    // A fault may have no place in one instance, but must have one in some.
    let placed = Mutex::new(HashSet::new());
    each(instances, |task, instance| {
        let oracle = task.oracle(instance);
        let before = verify(instance, &oracle);
        for kind in task.plants() {
            let Some(planted) = task.plant(instance, &oracle, kind, &mut plant_rng(instance)) else {
                continue;
            };
            placed.lock().unwrap().insert((instance.key.task, *kind));
            let after = verify(instance, &planted.text);
            assert!(after.score < before.score && after.dense < before.dense, "{} {kind}", instance.id);
            assert!(!planted.must_fail.is_empty(), "{} {kind}", instance.id);
            for (was, is) in before.verdicts.iter().zip(&after.verdicts) {
                let context = || {
                    format!("{} {kind}: {is:?} of {:?}", instance.id, instance.constraints[is.id as usize])
                };
                if planted.must_fail.contains(&is.id) {
                    assert!(is.credit < was.credit, "{}", context());
                } else if !planted.may_fail.contains(&is.id) {
                    assert_eq!(is.credit, was.credit, "{}", context());
                }
            }
        }
    });
    let placed = placed.into_inner().unwrap();
    for &id in TaskId::ALL {
        for kind in task(id).plants() {
            assert!(placed.contains(&(id, *kind)), "{id}: {kind} is never planted");
        }
    }
}

#[test]
fn more_plants_cost_no_less() {
    // These write the rest of the answer anew, so that a second one may mend what the first spoiled.
    const REWRITES: [&str; 2] = ["wrong_next", "shifted_steps"];
    each(4, |task, instance| {
        for kind in task.plants().iter().filter(|kind| !REWRITES.contains(kind)) {
            let mut rng = plant_rng(instance);
            let mut answer = task.oracle(instance);
            let mut last = 1.0;
            for _ in 0..8 {
                let Some(planted) = task.plant(instance, &answer, kind, &mut rng) else { break };
                answer = planted.text;
                let score = verify(instance, &answer).score;
                assert!(score <= last + 1e-12, "{} {kind}: {last} to {score}", instance.id);
                last = score;
            }
        }
    });
}

fn check_total(task: &dyn Task, instance: &Instance, bytes: &[u8]) {
    let completion = Completion { text: bytes.to_vec(), reasoning: None, finish: Finish::Length };
    let result = task.verify(instance, &Intake::new(&completion, &IntakeConfig::default()));
    assert!((0.0..=1.0).contains(&result.score) && (0.0..=1.0).contains(&result.dense));
    assert_eq!(result.verdicts.len(), instance.constraints.len());
    assert!(result.verdicts.iter().zip(&instance.constraints).all(|(v, c)| v.id == c.id));
    for verdict in &result.verdicts {
        assert_eq!(verdict.status == Status::Pass, verdict.credit == 1.0);
        assert_eq!(matches!(verdict.status, Status::Fail | Status::Unverifiable), verdict.credit == 0.0);
        assert!(verdict.spans.iter().all(|s| s.start <= s.end && s.end as usize <= bytes.len() * 3));
    }
    assert!(!result.flags.names().contains(&"internal_error"));
}

#[test]
fn any_bytes_get_a_verdict() {
    each(4, |task, instance| {
        let oracle = task.oracle(instance).into_bytes();
        let mut rng = plant_rng(instance);
        for round in 0..12 {
            let mut bytes = oracle.clone();
            match round % 4 {
                0 => bytes.truncate(rng.index(bytes.len())),
                1 => (0..1 + rng.index(20)).for_each(|_| {
                    let at = rng.index(bytes.len());
                    bytes[at] ^= 1 << rng.index(8);
                }),
                2 => {
                    let (from, to) = (rng.index(bytes.len()), rng.index(bytes.len()));
                    let piece = bytes[from.min(to)..from.max(to)].to_vec();
                    let at = rng.index(bytes.len());
                    bytes.splice(at..at, piece);
                }
                _ => bytes = (0..rng.index(2000)).map(|_| rng.below(256) as u8).collect(),
            }
            check_total(task, instance, &bytes);
        }
    });
}

#[test]
fn hostile_answers_get_a_verdict() {
    let ten_megabytes = |unit: &str| unit.repeat(10_000_000 / unit.len()).into_bytes();
    let answers: Vec<Vec<u8>> = HOSTILE
        .map(ten_megabytes)
        .into_iter()
        .chain(["é".as_bytes()[..1].to_vec()])
        .chain([
            vec![0; 10_000_000],
            vec![0xff; 3_000_000],
            format!("1{} | a", "0".repeat(100_000)).into_bytes(),
        ])
        .collect();
    for &id in TaskId::ALL {
        let instance = generate(id, 1024, 1, 0);
        answers.par_iter().for_each(|answer| check_total(task(id), &instance, answer));
    }
}

#[test]
fn instances_and_scores_do_not_depend_on_threads() {
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let one = |&(id, length, difficulty): &(TaskId, u32, u8)| {
            let instance = generate(id, length, difficulty, 3);
            let oracle = task(id).oracle(&instance);
            let result = verify(&instance, &oracle[..oracle.floor_char_boundary(oracle.len() * 2 / 3)]);
            (instance.to_json(), serde_json::to_string(&result).unwrap())
        };
        pool.install(|| cells().par_iter().map(one).collect::<Vec<_>>())
    };
    assert_eq!(run(1), run(8));
}

#[test]
fn longer_prefixes_score_no_less() {
    for (id, length, difficulty) in cells() {
        let separator = match id {
            TaskId::ParaOrder => "\n\n",
            TaskId::CodeFix => "\n\n\n",
            _ => "\n",
        };
        let instance = generate(id, length, difficulty, 1);
        let oracle = task(id).oracle(&instance);
        let mut last = (0.0, 0.0);
        for (at, _) in oracle.match_indices(separator) {
            let result = verify(&instance, &oracle[..at]);
            let credit: f64 = result.verdicts.iter().map(|v| v.credit).sum();
            let scored = matches!(id, TaskId::Fsm | TaskId::ParaOrder);
            assert!(!scored || result.score >= last.0, "{} at {at}", instance.id);
            assert!(credit >= last.1 - 1e-9, "{} at {at}", instance.id);
            last = (result.score, credit);
        }
    }
}

#[test]
fn wrapping_changes_nothing() {
    each(4, |task, instance| {
        let oracle = task.oracle(instance);
        for (name, text) in [
            ("fence", format!("```\n{oracle}\n```")),
            ("crlf", oracle.replace('\n', "\r\n")),
            ("trailing spaces", oracle.replace('\n', "  \n")),
            ("reasoning", format!("<think>\nsome {{ [[Segment 1]] thought\n</think>\n\n{oracle}")),
            ("byte order mark", format!("\u{feff}{oracle}")),
            ("closing reasoning alone", format!("thought</think>{oracle}")),
        ] {
            // Spaces at the ends of lines are what that task is about.
            if instance.key.task != TaskId::CodeFix || name != "trailing spaces" {
                assert_eq!(verify(instance, &text).score, 1.0, "{} in {name}", instance.id);
            }
        }
    });
}

/// In prose, quotes may be curly, spaces may not break, and letters may be composed or not.
#[test]
fn typography_changes_nothing_in_prose() {
    use unicode_normalization::UnicodeNormalization;
    each(4, |task, instance| {
        if !matches!(instance.key.task, TaskId::KgBio | TaskId::ApNews | TaskId::SalesReport) {
            return;
        }
        let oracle = task.oracle(instance);
        let mut open = false;
        let curl = |c: char| match c {
            '"' => {
                open = !open;
                if open { '“' } else { '”' }
            }
            '\'' => '’',
            c => c,
        };
        let curly: String = oracle.chars().map(curl).collect();
        for (name, text) in [
            ("curly quotes", curly),
            ("composed letters", oracle.nfc().collect()),
            ("letters taken apart", oracle.nfd().collect()),
            ("spaces that do not break", oracle.replace(", ", ",\u{a0}")),
        ] {
            assert_eq!(verify(instance, &text).score, 1.0, "{} with {name}", instance.id);
        }
    });
}

/// Two texts of an answer that differ, each in the other's place.
fn exchanged(text: &str, a: &str, b: &str) -> String {
    text.replace(a, "\u{1}").replace(b, a).replace('\u{1}', b)
}

/// Two values that matter, exchanged, are never the same answer. The other four tasks have this test beside their targets.
#[test]
fn exchanged_values_are_seen() {
    each(4, |task, instance| {
        let oracle = task.oracle(instance);
        let mut rng = plant_rng(instance);
        let check = |text: String| {
            assert!(text == oracle || verify(instance, &text).score < 1.0, "{}: {text}", instance.id);
        };
        match instance.key.task {
            TaskId::Fsm => {
                let rows: Vec<Vec<&str>> = oracle.lines().map(|row| row.split(" | ").collect()).collect();
                let text = |rows: &[Vec<&str>]| {
                    rows.iter().map(|row| row.join(" | ")).collect::<Vec<_>>().join("\n")
                };
                for column in 0..5 {
                    let (i, j) = (rng.index(rows.len()), rng.index(rows.len()));
                    let mut cells = rows.clone();
                    (cells[i][column], cells[j][column]) = (rows[j][column], rows[i][column]);
                    check(text(&cells));
                    cells.clone_from(&rows);
                    cells.swap(i, j);
                    check(text(&cells));
                }
            }
            TaskId::ParaOrder => {
                let blocks: Vec<&str> = oracle.split("\n\n").collect();
                let (i, j) = (rng.index(blocks.len()), rng.index(blocks.len()));
                let mut swapped = blocks.clone();
                swapped.swap(i, j);
                check(swapped.join("\n\n"));
                // Their tags alone.
                let tag = |i: usize| blocks[i].lines().next().unwrap();
                check(exchanged(&oracle, tag(i), tag(j)));
            }
            TaskId::KvDict => {
                let targets = serde_json::to_value(&instance.targets).unwrap();
                let entries: serde_json::Map<String, serde_json::Value> =
                    serde_json::from_str(&oracle).unwrap();
                let (key, value) = entries.iter().nth(rng.index(entries.len())).unwrap();
                let value = value.as_str().unwrap();
                for pin in targets["kv_dict"]["pinned"].as_array().unwrap() {
                    let (pinned, own) = (pin["key"].as_str().unwrap(), pin["value"].as_str().unwrap());
                    // The values, the keys, and the places.
                    check(exchanged(&oracle, own, value));
                    check(exchanged(&oracle, pinned, key));
                    check(exchanged(&exchanged(&oracle, pinned, key), own, value));
                }
            }
            _ => {}
        }
    });
}

/// What cannot be made is an error that names the field, the value and what is allowed.
#[test]
fn keys_out_of_range_are_errors() {
    for &id in TaskId::ALL {
        let made = |key: &InstanceKey, in_tokens: Option<u32>| {
            let config = TaskConfig { in_tokens, ..TaskConfig::default() };
            task(id).generate(key, &config).map(|instance| instance.id).map_err(|e| e.to_string())
        };
        let good = key(id, 256, 0, 0);
        assert_eq!(made(&good, None), Ok(good.id()));
        let with = |length, difficulty| InstanceKey { length, difficulty, ..good.clone() };
        for (key, in_tokens, expected) in [
            (with(255, 0), None, "length is 255, allowed are 256 to 32768"),
            (with(32_769, 0), None, "length is 32769, allowed are 256 to 32768"),
            (with(256, 4), None, "difficulty is 4, allowed are 0 to 3"),
            (with(256, 0), Some(65_537), "in_tokens is 65537, allowed are 0 to 65536"),
        ] {
            assert_eq!(made(&key, in_tokens), Err(expected.to_owned()), "{id}");
        }
        assert!(made(&with(32_768, 3), None).is_ok(), "{id}");
        let other = InstanceKey { version: good.version + 1, ..good.clone() };
        assert!(made(&other, None).unwrap_err().starts_with("version of the key is"), "{id}");
    }
    assert!("chess".parse::<TaskId>().unwrap_err().to_string().contains("unknown task \"chess\""));
}

#[test]
fn stored_instances_come_back() {
    for (id, length, difficulty) in cells() {
        let instance = generate(id, length, difficulty, 2);
        let json = instance.to_json();
        let back: Instance = serde_json::from_str(&json).unwrap();
        assert_eq!(back, instance);
        assert_eq!(back.hash_content(), instance.content_hash);
        let unknown = json.replacen("{\"schema\"", "{\"extra\":1,\"schema\"", 1);
        assert!(serde_json::from_str::<Instance>(&unknown).unwrap_err().to_string().contains("extra"));
        let result = verify(&instance, "nothing of worth");
        let back: Verification = serde_json::from_str(&serde_json::to_string(&result).unwrap()).unwrap();
        assert_eq!(back, result);
    }
}

/// Every kind of constraint is named in the prompt, the material is there whole, and the secret is not.
#[test]
fn prompts_state_what_is_scored() {
    each(4, |task, instance| {
        let user = &instance.prompt.user;
        for constraint in &instance.constraints {
            assert!(user.contains(&*constraint.kind), "{}: {}", instance.id, constraint.kind);
        }
        assert!(!instance.material().is_empty() && user.contains(instance.material()));
        let oracle = task.oracle(instance);
        assert!(!user.contains(&oracle));
        if instance.key.task == TaskId::Fsm {
            assert!(oracle.lines().all(|row| !user.contains(row)));
        }
        assert_eq!(user.matches("```").count(), 0);
    });
}

#[test]
fn tampered_instances_are_errors() {
    each(1, |task, instance| {
        let json = instance.to_json();
        let read = |text: &str| serde_json::from_str::<Instance>(text).unwrap_err().to_string();
        for (from, to, named) in [
            ("\"target\":0", "\"target\":1", "content_hash"),
            ("\"schema\":1", "\"schema\":2", "schema"),
            ("\"length\":", "\"length\":9999", "length"),
            ("\"difficulty\":", "\"difficulty\":9", "difficulty"),
            ("\"base_seed\":", "\"base_seed\":7", "id of the"),
        ] {
            let error = read(&json.replacen(from, to, 1));
            assert!(error.contains(named), "{}: {error} for {named}", instance.id);
        }
        // Targets of another task are an error in a file, and score nothing in memory.
        let id = if instance.key.task == TaskId::Fsm { TaskId::KvDict } else { TaskId::Fsm };
        let mut other = instance.clone();
        other.targets = generate(id, 256, 0, 0).targets;
        assert!(read(&other.to_json()).contains("targets"));
        assert!(task.verify(&other, &Intake::from(task.oracle(instance).as_str())).score < 1.0);
    });
}

#[test]
fn tampered_kinds_are_no_pass() {
    each(1, |task, instance| {
        let mut instance = instance.clone();
        let oracle = task.oracle(&instance);
        instance.constraints[0].kind = "no_such_kind".into();
        let result = task.verify(&instance, &Intake::from(oracle.as_str()));
        assert_eq!(result.verdicts[0].status, Status::Unverifiable);
        assert!(result.score < 1.0);
    });
}
