//! Files of completions.
#![allow(clippy::unwrap_used)]

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use completion::{
    Answer, Complete, Completion, CompletionError, Finish, Recorded, Replay, Request, Sampling,
};

/// Answers with the id, fails on those with an `x`, and remembers what it was asked.
#[derive(Clone, Default)]
struct Source(Rc<RefCell<Vec<String>>>);

impl Complete for Source {
    fn name(&self) -> String {
        "source".into()
    }

    fn complete(&mut self, requests: &[Request]) -> Vec<Result<Completion, CompletionError>> {
        let one = |r: &Request| {
            self.0.borrow_mut().push(r.id.clone());
            match r.id.contains('x') {
                true => Err(CompletionError::Other("no".into())),
                false => {
                    Ok(Completion { finish: Some(Finish::Stop), ..Completion::new(format!("é {}\n", r.id)) })
                }
            }
        };
        requests.iter().map(one).collect()
    }
}

fn requests(ids: &[&str]) -> Vec<Request> {
    ids.iter().map(|id| Request::user(*id, format!("say {id}"), Sampling::greedy(4))).collect()
}

#[test]
fn a_killed_run_goes_on_and_ends_with_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let all = requests(&["a", "b", "c", "d", "e"]);
    let whole = dir.path().join("whole.jsonl");
    Recorded::open(Source::default(), &whole, "task_id").unwrap().complete(&all);
    let bytes = std::fs::read(&whole).unwrap();
    assert_eq!(bytes.iter().filter(|b| **b == b'\n').count(), 5);
    // A kill can come at any byte.
    for cut in 0..bytes.len() {
        let path = dir.path().join("cut.jsonl");
        std::fs::write(&path, &bytes[..cut]).unwrap();
        let kept = bytes[..cut].iter().filter(|b| **b == b'\n').count();
        let source = Source::default();
        let mut recorded = Recorded::open(source.clone(), &path, "task_id").unwrap().at_a_time(2);
        assert_eq!(recorded.len(), kept);
        let results = recorded.complete(&all);
        assert!(results.iter().zip(&all).all(|(r, q)| r.as_ref().unwrap().text == format!("é {}\n", q.id)));
        assert_eq!(source.0.borrow().len(), 5 - kept);
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "cut at {cut}");
    }
}

#[test]
fn failures_are_asked_again_and_others_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file.jsonl");
    let (all, source, told) =
        (requests(&["a", "x", "b"]), Source::default(), Arc::new(Mutex::new(Vec::new())));
    let log = told.clone();
    let mut recorded = Recorded::open(source.clone(), &path, "id").unwrap().at_a_time(2);
    recorded = recorded.on_progress(move |done, of| log.lock().unwrap().push((done, of)));
    let results = recorded.complete(&all);
    assert!(results[0].is_ok() && results[1].is_err() && results[2].is_ok());
    assert_eq!(*told.lock().unwrap(), [(2, 3), (3, 3)]);
    recorded.complete(&all);
    assert_eq!(*source.0.borrow(), ["a", "x", "b", "x"]);
}

/// Answers from the last to the first, and stops when it is told to.
struct Backwards(Rc<RefCell<usize>>, usize);

impl Complete for Backwards {
    fn name(&self) -> String {
        "backwards".into()
    }

    fn complete(&mut self, _: &[Request]) -> Vec<Answer> {
        unreachable!("each is told by itself")
    }

    fn complete_each(
        &mut self,
        requests: &[Request],
        _: usize,
        tell: &mut dyn FnMut(usize, Answer) -> ControlFlow<()>,
    ) {
        for (i, request) in requests.iter().enumerate().rev().filter(|(i, _)| *i != self.1) {
            *self.0.borrow_mut() += 1;
            if tell(i, Ok(Completion::new(request.id.as_str()))).is_break() {
                return;
            }
        }
    }
}

#[test]
fn answers_in_any_order_are_written_in_that_of_requests() {
    let dir = tempfile::tempdir().unwrap();
    let all = requests(&["a", "b", "c", "d", "e"]);
    let ids = |path: &std::path::Path| -> String {
        std::fs::read_to_string(path).unwrap().lines().filter_map(|l| l.chars().nth(7)).collect()
    };
    let (path, asked) = (dir.path().join("file.jsonl"), Rc::new(RefCell::new(0)));
    let results =
        Recorded::open(Backwards(asked.clone(), 9), &path, "id").unwrap().at_a_time(1).complete(&all);
    assert!(results.iter().zip(&all).all(|(r, q)| r.as_ref().unwrap().text == q.id));
    assert_eq!((ids(&path).as_str(), *asked.borrow()), ("abcde", 5));
    // One that is passed over is an error of its own, and the others are kept.
    let path = dir.path().join("gap.jsonl");
    let mut recorded = Recorded::open(Backwards(asked.clone(), 1), &path, "id").unwrap();
    let results = recorded.complete(&all);
    assert_eq!(results[1].as_ref().unwrap_err().to_string(), "backwards gave too few results");
    assert_eq!((results.iter().filter(|r| r.is_ok()).count(), ids(&path).as_str()), (4, "acde"));
}

#[test]
fn a_completion_of_another_prompt_is_never_used() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file.jsonl");
    let source = Source::default();
    Recorded::open(source.clone(), &path, "id").unwrap().complete(&requests(&["a"]));
    let mut other = requests(&["a"]);
    other[0].messages[0].content.push('!');
    let mut recorded = Recorded::open(source.clone(), &path, "id").unwrap();
    let error = recorded.complete(&other).pop().unwrap().unwrap_err();
    assert!(matches!(error, CompletionError::Changed { .. }), "{error}");
    let mut other = requests(&["a"]);
    other[0].sampling.max_tokens += 1;
    assert!(Replay::open(&path, "id").unwrap().complete(&other)[0].is_err());
    assert!(Replay::open(&path, "id").unwrap().complete(&requests(&["a"]))[0].is_ok());
    assert_eq!(source.0.borrow().len(), 1);
}

#[test]
fn a_file_of_somebody_elses_is_read_and_its_faults_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file.jsonl");
    let lines = "{\"task_id\": \"a\", \"text\": \"old\"}\n\n{\"task_id\": \"a\", \"text\": \"new\", \"finish\": \"length\", \"mine\": 1}\n";
    std::fs::write(&path, lines).unwrap();
    let mut replay = Replay::open(&path, "task_id").unwrap();
    let mut results = replay.complete(&requests(&["a", "b"]));
    let error = results.pop().unwrap().unwrap_err();
    assert_eq!(error.to_string(), format!("{} has no completion for `b`", path.display()));
    let found = results.pop().unwrap().unwrap();
    assert_eq!((found.text.as_str(), found.finish), ("new", Some(Finish::Length)));

    for (line, what) in [
        ("{", "line 2: not JSON"),
        ("{\"text\": \"a\"}", "line 2: no text in `task_id`"),
        ("{\"task_id\": \"a\"}", "line 2: missing field `text`"),
    ] {
        std::fs::write(&path, format!("\n{line}\n")).unwrap();
        let error = Replay::open(&path, "task_id").err().unwrap().to_string();
        assert!(error.contains(what), "{error}");
        assert!(Recorded::open(Source::default(), &path, "task_id").is_err());
    }
    assert!(Replay::open(&dir.path().join("none"), "id").err().unwrap().to_string().contains("none"));
}
