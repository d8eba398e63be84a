//! Runs over a file of answers: resumable at any byte, the same for any number of threads.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use completion::{Complete, CompletionError, Sampling};
use cov_eval::run::{Answer, Asking, Plan, RunError, ScoreRecord, compare, evaluate, requests, score};
use cov_eval::{DetRng, Finish, InstanceKey, Split, TaskConfig, TaskId, task};

const FILES: [&str; 13] = [
    "run.json",
    "scores.jsonl",
    "summary.json",
    "report.md",
    "report.html",
    "plots/scores.svg",
    "plots/lengths.svg",
    "plots/constraints.svg",
    "plots/positions.svg",
    "plots/produced.svg",
    "plots/prefixes.svg",
    "plots/places.svg",
    "nulls.json",
];

fn plan() -> Plan {
    let cells: Vec<String> = TaskId::ALL
        .iter()
        .flat_map(|id| {
            [256, 1024].map(|length| format!("[[cells]]\ntask = \"{id}\"\nlength = {length}\nn = 12\n"))
        })
        .collect();
    toml::from_str(&format!("base_seed = 9\nsamples_per_instance = 2\n{}", cells.concat())).unwrap()
}

/// Oracles, each with a fault planted at a rate of `num` in 4.
fn answers(plan: &Plan, num: u64) -> Vec<Answer> {
    let one = |item: cov_eval::run::Item| {
        let instance = task(item.key.task).generate(&item.key, &TaskConfig::default()).unwrap();
        let mut text = task(item.key.task).oracle(&instance);
        let mut rng = item.key.rng(&format!("plant {}", item.sample));
        if rng.coin(num, 4) {
            let kinds = task(item.key.task).plants();
            let kind = *rng.pick(kinds);
            if let Some(planted) = task(item.key.task).plant(&instance, &text, kind, &mut rng) {
                text = planted.text;
            }
        }
        Answer { instance_id: instance.id, sample: item.sample, text, reasoning: None, finish: Finish::Stop }
    };
    plan.items().unwrap().into_iter().map(one).collect()
}

fn write(path: &Path, answers: &[Answer]) {
    let lines: String = answers.iter().map(|a| serde_json::to_string(a).unwrap() + "\n").collect();
    fs::write(path, lines).unwrap();
}

fn files(directory: &Path) -> Vec<String> {
    FILES.iter().map(|name| fs::read_to_string(directory.join(name)).unwrap()).collect()
}

#[test]
fn resumed_runs_and_any_number_of_threads_give_the_same_files() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("answers.jsonl");
    let plan = plan();
    write(&path, &answers(&plan, 2));
    let with_threads = |threads: usize| {
        let directory = scratch.path().join(format!("run{threads}"));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert!(pool.install(|| score(&plan, &path, &directory)).unwrap().complete);
        files(&directory)
    };
    let whole = with_threads(1);
    assert_eq!(with_threads(8), whole);
    // What a process leaves that is killed while it writes: some bytes of the scores, perhaps no summary yet.
    let mut rng = DetRng::from_seed([1; 32]);
    let directory = scratch.path().join("killed");
    for round in 0..50 {
        fs::create_dir_all(&directory).unwrap();
        let _ = fs::remove_file(directory.join("summary.json"));
        fs::write(directory.join("run.json"), &whole[0]).unwrap();
        let cut = rng.index(whole[1].len() + 1);
        fs::write(directory.join("scores.jsonl"), &whole[1].as_bytes()[..cut]).unwrap();
        score(&plan, &path, &directory).unwrap();
        assert_eq!(files(&directory), whole, "round {round}, cut at {cut}");
    }
}

#[test]
fn missing_answers_are_named_and_bounded() {
    let scratch = tempfile::tempdir().unwrap();
    let (path, directory) = (scratch.path().join("answers.jsonl"), scratch.path().join("run"));
    let plan = plan();
    let all = answers(&plan, 0);
    write(&path, &all[..all.len() - 6]);
    let summary = score(&plan, &path, &directory).unwrap();
    let last = summary.cells.last().unwrap();
    assert!(!summary.complete);
    assert_eq!((last.missing, last.planned, last.mean, last.bounds), (6, 24, 1.0, (0.75, 1.0)));
    let planned = all.len();
    assert!(summary.to_markdown().contains(&format!("**Incomplete**: 6 of {planned} answers are missing.")));
    // Empty answers are scored, and stay in the mean.
    let mut more = all;
    let empty = more.len() - 6;
    more[empty..].iter_mut().for_each(|a| a.text.clear());
    write(&path, &more);
    let summary = score(&plan, &path, &directory).unwrap();
    assert!(summary.complete);
    assert_eq!(summary.cells.last().unwrap().mean, 0.75);
    // An answer that changed is scored again.
    write(&path, &answers(&plan, 0));
    assert_eq!(score(&plan, &path, &directory).unwrap().overall, 1.0);
}

#[test]
fn wrong_files_are_errors() {
    let scratch = tempfile::tempdir().unwrap();
    let (path, directory) = (scratch.path().join("answers.jsonl"), scratch.path().join("run"));
    let plan = plan();
    let answers = answers(&plan, 0);
    write(&path, &answers[..3]);
    score(&plan, &path, &directory).unwrap();
    let other = Plan { base_seed: 10, split: Split::Val, ..plan.clone() };
    let message = score(&other, &path, &directory).unwrap_err().to_string();
    assert!(message.ends_with("it differs in plan.base_seed, plan.split"), "{message}");

    let scores = directory.join("scores.jsonl");
    let text = fs::read_to_string(&scores).unwrap();
    fs::write(&scores, text.replacen('{', "[", 2).replacen('[', "{", 1)).unwrap();
    let error = score(&plan, &path, &directory).unwrap_err();
    assert!(matches!(error, RunError::Line { line: 1.., .. }), "{error}");

    fs::write(&path, "{\"instance_id\": \"x\"}\n").unwrap();
    let error = score(&plan, &path, &scratch.path().join("new")).unwrap_err();
    assert!(error.to_string().contains("line 1: missing field `text`"), "{error}");

    let twice = Plan { cells: [plan.cells.clone(), plan.cells.clone()].concat(), ..plan.clone() };
    assert!(
        twice.items().unwrap_err().to_string().contains("cell fsm, length 256, difficulty 1: given twice")
    );
    assert!(Plan { cells: vec![], ..plan }.items().is_err());
}

#[test]
fn runs_are_compared_by_pairs() {
    let scratch = tempfile::tempdir().unwrap();
    let plan = plan();
    let run = |name: &str, num: u64| {
        let (path, directory) = (scratch.path().join(format!("{name}.jsonl")), scratch.path().join(name));
        write(&path, &answers(&plan, num));
        score(&plan, &path, &directory).unwrap();
        directory
    };
    let (worse, better) = (run("worse", 4), run("better", 0));
    for (task, c) in compare(&worse, &better).unwrap() {
        assert_eq!(c.pairs, 48, "{task}");
        assert!(c.difference > 0.0 && c.interval.0 > 0.0 && c.p < 0.01, "{task}: {c:?}");
    }
    assert!(compare(&worse, &worse).unwrap().values().all(|c| c.difference == 0.0 && c.p == 1.0));
    fs::write(better.join("scores.jsonl"), "").unwrap();
    assert!(matches!(compare(&worse, &better), Err(RunError::NothingShared)));
}

#[test]
fn prompts_are_those_of_the_instances() {
    let plan = plan();
    let requests = requests(&plan).unwrap();
    assert_eq!(requests.len(), TaskId::ALL.len() * 2 * 12 * 2);
    let key = InstanceKey::from_id(&requests[30].instance_id).unwrap();
    let instance = task(key.task).generate(&key, &TaskConfig::default()).unwrap();
    assert_eq!(requests[30].prompt, instance.prompt.user);
    assert_eq!(requests[30].max_new_tokens, instance.budget.max_new_tokens);
    let line = serde_json::to_string(&sample_record()).unwrap();
    assert!(serde_json::from_str::<ScoreRecord>(&line.replacen('{', "{\"x\":1,", 1)).is_err());
}

fn sample_record() -> ScoreRecord {
    let scratch = tempfile::tempdir().unwrap();
    let (path, directory) = (scratch.path().join("answers.jsonl"), scratch.path().join("run"));
    let plan = plan();
    write(&path, &answers(&plan, 0)[..1]);
    score(&plan, &path, &directory).unwrap();
    serde_json::from_str(fs::read_to_string(directory.join("scores.jsonl")).unwrap().trim()).unwrap()
}

/// Perfect answers to some samples and half of one to others; cut off after so many.
struct Source {
    answers: std::collections::HashMap<String, String>,
    left: usize,
}

impl Source {
    fn new(plan: &Plan, left: usize) -> Self {
        let name = |a: &Answer| match a.sample {
            0 => a.instance_id.clone(),
            sample => format!("{}#{sample}", a.instance_id),
        };
        let cut = |a: &Answer| {
            let half = (0..=a.text.len() / 2).rev().find(|&i| a.text.is_char_boundary(i)).unwrap_or(0);
            a.text[..if a.sample == 0 { a.text.len() } else { half }].to_owned()
        };
        Self { answers: answers(plan, 0).iter().map(|a| (name(a), cut(a))).collect(), left }
    }
}

impl Complete for Source {
    fn name(&self) -> String {
        "half of the oracle".into()
    }

    fn complete(
        &mut self,
        requests: &[completion::Request],
    ) -> Vec<Result<completion::Completion, CompletionError>> {
        let one = |request: &completion::Request| {
            let budget = request.sampling.max_tokens;
            assert!(budget == 384 || budget == 1536, "{budget}");
            self.left = self.left.checked_sub(1).ok_or(CompletionError::Other("lost".into()))?;
            let mut done = completion::Completion::new(self.answers[&request.id].as_str());
            done.finish = request.id.ends_with("#1").then_some(completion::Finish::Length);
            Ok(done)
        };
        requests.iter().map(one).collect()
    }
}

#[test]
fn evaluations_resume_and_refuse_other_sources() {
    let scratch = tempfile::tempdir().unwrap();
    let plan = plan();
    let planned = plan.items().unwrap().len();
    let asking =
        |seed| Asking { sampling: Sampling { seed: Some(seed), ..Sampling::greedy(0) }, at_a_time: 7 };
    let run = |name: &str, seed: u64, left: usize| {
        let directory = scratch.path().join(name);
        evaluate(&plan, Source::new(&plan, left), &asking(seed), &directory, |_, _| ())
    };
    let whole = run("whole", 3, planned).unwrap();
    assert!(whole.summary.complete && whole.failures.is_empty());
    let first = &whole.summary.cells[0];
    assert_eq!((first.truncated, first.perfect), (0.5, 0.5));
    let all = |name: &str| {
        let directory = scratch.path().join(name);
        [files(&directory), vec![fs::read_to_string(directory.join("generations.jsonl")).unwrap()]].concat()
    };
    let expected = all("whole");

    // The source is lost twice, and a record is torn.
    let cut = run("cut", 3, 40).unwrap();
    assert_eq!((cut.failures.len(), cut.summary.complete), (planned - 40, false));
    let torn = scratch.path().join("cut/generations.jsonl");
    let bytes = fs::read(&torn).unwrap();
    fs::write(&torn, &bytes[..bytes.len() - 9]).unwrap();
    run("cut", 3, 100).unwrap();
    assert!(run("cut", 3, planned).unwrap().summary.complete);
    assert_eq!(all("cut"), expected);

    // Its answers are a file of answers.
    let summary = score(&plan, &torn, &scratch.path().join("again")).unwrap();
    assert_eq!(summary.tasks, whole.summary.tasks);

    let error = run("whole", 4, planned).unwrap_err().to_string();
    assert!(error.ends_with("it differs in asked.sampling.seed"), "{error}");
}

#[test]
fn reports_show_every_cell_and_nothing_unescaped() {
    let scratch = tempfile::tempdir().unwrap();
    let (path, directory) = (scratch.path().join("answers.jsonl"), scratch.path().join("run"));
    let plan = plan();
    write(&path, &answers(&plan, 2));
    let summary = score(&plan, &path, &directory).unwrap();
    let html = fs::read_to_string(directory.join("report.html")).unwrap();
    assert_eq!(html.matches("<figure>").count(), 7);
    assert!(!html.contains("<td></td>") && html.matches("<tr>").count() == 4 + 7 + 3 * 14);
    let scores = fs::read_to_string(directory.join("plots/scores.svg")).unwrap();
    // Twelve instances a cell, each with its dot.
    assert_eq!(scores.matches("<circle").count(), 14 * 12);
    for cell in &summary.cells {
        assert!(scores.contains(&format!("{} {} d1", cell.task, cell.length)));
        // Twelve instances with two samples each, and every tenth of some constraint.
        assert_eq!((cell.scores.len(), cell.produced.len()), (12, 24));
        assert!(cell.tenths.iter().any(|(count, _)| *count > 0), "{}", cell.task);
    }
    let markdown = fs::read_to_string(directory.join("report.md")).unwrap();
    assert!(markdown.starts_with(&summary.to_markdown()));
    assert_eq!(markdown.matches("](plots/").count(), 7);
}
