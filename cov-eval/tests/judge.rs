//! A model's second opinion on answers, from a source, a file of replies and a server.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};

use completion::{Complete, Completion, CompletionError, Replay, Request, Server, ServerOptions};
use cov_eval::run::{Answer, Opinion, Plan, second_opinion};
use cov_eval::{Finish, TaskConfig, TaskId, task};

/// Two instances of each task, the first with its oracle for an answer, the second with one that says nothing.
fn plan() -> Plan {
    let cells = TaskId::ALL.iter().map(|id| format!("[[cells]]\ntask = \"{id}\"\nlength = 256\nn = 2\n"));
    toml::from_str(&cells.collect::<String>()).unwrap()
}

fn write_answers(plan: &Plan, path: &Path) {
    let line = |item: cov_eval::run::Item| {
        let instance = task(item.key.task).generate(&item.key, &TaskConfig::default()).unwrap();
        let text = match item.key.index {
            0 => task(item.key.task).oracle(&instance),
            _ => "Nothing of note.".to_owned(),
        };
        let answer = Answer {
            instance_id: instance.id,
            sample: item.sample,
            text,
            reasoning: None,
            finish: Finish::Stop,
        };
        serde_json::to_string(&answer).unwrap() + "\n"
    };
    fs::write(path, plan.items().unwrap().into_iter().map(line).collect::<String>()).unwrap();
}

/// How many questions a prompt has.
fn questions(prompt: &str) -> usize {
    let after = prompt.rsplit_once("\n>>>TEXT\n").unwrap().1;
    (1..).take_while(|n| after.contains(&format!("\n{n}. "))).count()
}

/// Yes to all that is asked of a text of more than three words.
fn say(prompt: &str) -> String {
    let yes = !prompt.contains("<<<TEXT\nNothing of note.\n>>>TEXT");
    serde_json::to_string(&vec![yes; questions(prompt)]).unwrap()
}

/// A judge; it wants its reply to be asked for again the first `faults` times.
#[derive(Clone, Default)]
struct Model {
    asked: Arc<Mutex<Vec<String>>>,
    faults: usize,
}

impl Complete for Model {
    fn name(&self) -> String {
        "model".into()
    }

    fn complete(&mut self, requests: &[Request]) -> Vec<Result<Completion, CompletionError>> {
        let mut asked = self.asked.lock().unwrap();
        let one = |r: &Request| {
            asked.push(r.id.clone());
            assert_eq!(r.sampling.temperature, Some(0.0));
            let prompt = &r.messages[0].content;
            assert!((1..=5).contains(&questions(prompt)), "{prompt}");
            let reply = if asked.len() <= self.faults { "Yes, all of it.".into() } else { say(prompt) };
            Ok(Completion::new(reply))
        };
        requests.iter().map(one).collect()
    }
}

fn scores(opinion: &Opinion) -> Vec<(&str, usize, usize, f64)> {
    opinion.tasks.iter().map(|t| (t.task.as_str(), t.answers, t.incomplete, t.score_judge)).collect()
}

#[test]
fn opinions_stand_beside_scores() {
    let scratch = tempfile::tempdir().unwrap();
    let (plan, answers, run) = (plan(), scratch.path().join("answers.jsonl"), scratch.path().join("run"));
    write_answers(&plan, &answers);
    let model = Model::default();
    let (opinion, failure) = second_opinion(&plan, &answers, model.clone(), &run).unwrap();
    assert_eq!(failure, None);
    assert!(opinion.is_complete());
    // A file without its last line end is the best that the published formula knows (0.9934).
    let [sales, kg, ap, (code, 2, 0, perfect)] = &scores(&opinion)[..] else { panic!("{opinion:?}") };
    assert_eq!([*sales, *kg, *ap], ["sales_report", "kg_bio", "ap_news"].map(|name| (name, 2, 0, 0.5)));
    assert!(*code == "code_fix" && (0.49..0.5).contains(perfect), "{perfect}");
    for t in &opinion.tasks {
        assert_eq!((t.score, t.agreement.kappa()), (0.5, Some(1.0)), "{t:?}");
        assert_eq!((t.agreement.rules_only, t.agreement.judge_only), (0, 0), "{t:?}");
    }
    assert!(opinion.to_markdown().contains("| `kg_bio` | 2 | 0 | 50.0 | 50.0 | 100.0 | 1.000 |"));
    assert_eq!(fs::read_to_string(run.join("judge.md")).unwrap(), opinion.to_markdown());
    let back: Opinion = serde_json::from_str(&fs::read_to_string(run.join("judge.json")).unwrap()).unwrap();
    assert_eq!(back, opinion);

    // What was asked is not asked again, and its file is a judge of its own.
    let asked = model.asked.lock().unwrap().len();
    assert_eq!(second_opinion(&plan, &answers, model.clone(), &run).unwrap().0, opinion);
    assert_eq!(model.asked.lock().unwrap().len(), asked);
    let replay = Replay::open(&run.join("judge.jsonl"), "judge_id").unwrap();
    let again = second_opinion(&plan, &answers, replay, &scratch.path().join("again")).unwrap().0;
    assert_eq!(again.tasks, opinion.tasks);
}

#[test]
fn what_cannot_be_read_counts_for_neither() {
    let scratch = tempfile::tempdir().unwrap();
    let (plan, answers) = (plan(), scratch.path().join("answers.jsonl"));
    write_answers(&plan, &answers);
    // Two malformed replies are asked for again; where all are, nothing is said.
    let patient = Model { faults: 2, ..Model::default() };
    let (opinion, _) = second_opinion(&plan, &answers, patient, &scratch.path().join("a")).unwrap();
    assert!(opinion.is_complete());
    let silent = Model { faults: usize::MAX, ..Model::default() };
    let (opinion, _) = second_opinion(&plan, &answers, silent, &scratch.path().join("b")).unwrap();
    assert!(!opinion.is_complete());
    for t in &opinion.tasks {
        assert_eq!((t.answers, t.incomplete, t.agreement.kappa()), (0, 2, None), "{t:?}");
    }
    // A file without replies is a failure that is named.
    let empty = scratch.path().join("empty.jsonl");
    fs::write(&empty, "").unwrap();
    let replay = Replay::open(&empty, "judge_id").unwrap();
    let (opinion, failure) = second_opinion(&plan, &answers, replay, &scratch.path().join("c")).unwrap();
    assert!(!opinion.is_complete());
    assert!(failure.unwrap().contains("has no completion for"));
}

/// Answers one request: the first with a status that asks for patience, the others as the judge above.
fn answer(stream: TcpStream, first: bool) {
    let mut reader = BufReader::new(&stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if let Some(n) = line.to_lowercase().strip_prefix("content-length:") {
            length = n.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((&body["model"], &body["temperature"]), (&"judge".into(), &0.0.into()));
    let reply = say(body["messages"][0]["content"].as_str().unwrap());
    let text = serde_json::json!({"choices": [{"message": {"content": reply}, "finish_reason": "stop"}]})
        .to_string();
    let head = if first { "503 Busy\r\nRetry-After: 0" } else { "200 OK" };
    let head = format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", text.len());
    (&stream).write_all((head + &text).as_bytes()).unwrap();
}

/// As many requests are under way as the server is to have, and neither the result nor the order of what is kept depends on it.
#[test]
fn servers_judge_several_at_a_time() {
    let scratch = tempfile::tempdir().unwrap();
    let (plan, answers) = (plan(), scratch.path().join("answers.jsonl"));
    write_answers(&plan, &answers);
    let local = second_opinion(&plan, &answers, Model::default(), &scratch.path().join("local")).unwrap().0;
    let mut kept = Vec::new();
    for concurrency in [1, 8] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}/v1", listener.local_addr().unwrap());
        let served = Arc::new(AtomicUsize::new(0));
        // No request but the first is answered before as many have come as can be under way: one at a time would wait for ever.
        let all_there = Arc::new(Barrier::new(concurrency));
        let count = served.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (place, all_there) = (count.fetch_add(1, Ordering::Relaxed), all_there.clone());
                std::thread::spawn(move || {
                    if (1..=concurrency).contains(&place) {
                        all_there.wait();
                    }
                    answer(stream.unwrap(), place == 0);
                });
            }
        });
        let options = ServerOptions { backoff: 0.01, concurrency, ..ServerOptions::new(base, "judge") };
        let run = scratch.path().join(concurrency.to_string());
        let (opinion, failure) =
            second_opinion(&plan, &answers, Server::new(options).unwrap(), &run).unwrap();
        assert_eq!(failure, None);
        assert_eq!(opinion.tasks, local.tasks);
        kept.push(fs::read_to_string(run.join("judge.jsonl")).unwrap());
        assert!(served.load(Ordering::Relaxed) > 8 + 1);
    }
    assert_eq!(kept[0], kept[1]);
}
