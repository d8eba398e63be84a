//! The client against a server that misbehaves as told.
#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use completion::{Complete, CompletionError, Finish, Recorded, Request, Sampling, Server, ServerOptions};
use serde_json::{Value, json};

/// What the server does with a connection.
#[derive(Clone)]
enum Act {
    /// A status, a header line and a body.
    Answer(u16, &'static str, String),
    /// Half of a body of the length it announced.
    Cut,
    /// Nothing, for so long.
    Hang(Duration),
    /// The last user's message, in upper case.
    Echo,
    /// The same, once a request with this message has come; a refusal after 20 seconds.
    EchoAfter(&'static str),
}

struct Mock {
    base: String,
    seen: Arc<Mutex<Vec<(String, Value)>>>,
}

fn read(stream: &TcpStream) -> Option<(String, Value)> {
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
        if let Some(n) = line.to_lowercase().strip_prefix("content-length:") {
            length = n.trim().parse().unwrap();
        }
        if line == "\r\n" {
            break;
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((head, serde_json::from_slice(&body).unwrap()))
}

fn reply(text: &str) -> String {
    json!({"choices": [{"message": {"content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3}})
    .to_string()
}

fn serve(script: Vec<Act>) -> Mock {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}/v1", listener.local_addr().unwrap());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let script = Arc::new(Mutex::new(VecDeque::from(script)));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (log, script) = (log.clone(), script.clone());
            std::thread::spawn(move || {
                let mut stream = stream.unwrap();
                let Some((head, body)) = read(&stream) else { return };
                log.lock().unwrap().push((head, body.clone()));
                let mut act = script.lock().unwrap().pop_front().unwrap_or(Act::Echo);
                if let Act::EchoAfter(text) = act {
                    let came =
                        || log.lock().unwrap().iter().any(|(_, b)| b["messages"][0]["content"] == text);
                    let start = Instant::now();
                    act = loop {
                        if came() {
                            break Act::Echo;
                        }
                        if start.elapsed() > Duration::from_secs(20) {
                            break Act::Answer(400, "X: y", "it never came".into());
                        }
                        std::thread::yield_now();
                    };
                }
                let (status, header, text, length) = match act {
                    Act::Answer(status, header, text) => (status, header, text.clone(), text.len()),
                    Act::Cut => (200, "X: y", "{\"choices\"".into(), 100),
                    Act::Hang(time) => return std::thread::sleep(time),
                    Act::Echo | Act::EchoAfter(_) => {
                        let messages = body["messages"].as_array().unwrap();
                        let text =
                            reply(&messages.last().unwrap()["content"].as_str().unwrap().to_uppercase());
                        (200, "X: y", text.clone(), text.len())
                    }
                };
                let head = format!(
                    "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n{header}\r\n\r\n"
                );
                let _ = stream.write_all((head + &text).as_bytes());
            });
        }
    });
    Mock { base, seen }
}

fn client(mock: &Mock) -> Server {
    Server::new(ServerOptions { backoff: 0.001, retries: 2, ..ServerOptions::new(&mock.base, "m") }).unwrap()
}

fn request(text: &str) -> Request {
    Request::user(text, text, Sampling::greedy(5))
}

fn ask(client: &mut Server, text: &str) -> Result<completion::Completion, CompletionError> {
    client.complete(&[request(text)]).pop().unwrap()
}

#[test]
fn a_request_says_what_is_set_and_no_more() {
    let mock = serve(vec![]);
    let done = ask(&mut client(&mock), "hi").unwrap();
    assert_eq!((done.text.as_str(), done.finish), ("HI", Some(Finish::Stop)));
    assert_eq!((done.tokens_in, done.tokens_out), (Some(7), Some(3)));
    let (head, body) = mock.seen.lock().unwrap()[0].clone();
    assert!(head.starts_with("POST /v1/chat/completions HTTP/1.1"), "{head}");
    assert!(!head.to_lowercase().contains("authorization"));
    let wanted = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5,
        "temperature": 0.0});
    assert_eq!(body, wanted);

    let mut options = ServerOptions::new(format!("{}/", mock.base), "m");
    options.max_completion_tokens = true;
    options.extra.insert("logprobs".into(), json!(true));
    // Set in every process; a key is only a text.
    options.key_variable = Some("PATH".into());
    let mut keyed = Server::new(options).unwrap();
    let sampling = Sampling {
        temperature: Some(0.6),
        top_p: Some(0.95),
        top_k: Some(20),
        seed: Some(u64::MAX),
        ..Sampling::greedy(9)
    };
    keyed.complete(&[Request::user("a", "b", sampling)]).pop().unwrap().unwrap();
    let (head, body) = mock.seen.lock().unwrap()[1].clone();
    assert!(head.starts_with("POST /v1/chat/completions HTTP/1.1"), "{head}");
    let key = std::env::var("PATH").unwrap();
    assert!(head.contains(&format!("Bearer {}", key.trim())), "{head}");
    assert!(!format!("{keyed:?}").contains(key.trim()));
    let wanted = json!({"logprobs": true, "model": "m", "messages": [{"role": "user", "content": "b"}],
        "max_completion_tokens": 9, "temperature": 0.6, "top_p": 0.95, "top_k": 20, "seed": u64::MAX});
    assert_eq!(body, wanted);
}

#[test]
fn what_may_pass_is_tried_again() {
    let busy = Act::Answer(429, "Retry-After: 0", r#"{"error": {"message": "busy"}}"#.into());
    for script in
        [vec![busy.clone(), busy.clone()], vec![Act::Cut], vec![Act::Answer(503, "X: y", String::new())]]
    {
        let mock = serve(script.clone());
        assert_eq!(ask(&mut client(&mock), "hi").unwrap().text, "HI");
        assert_eq!(mock.seen.lock().unwrap().len(), script.len() + 1);
    }
    let mock = serve(vec![busy; 3]);
    let error = ask(&mut client(&mock), "hi").unwrap_err();
    assert!(matches!(&error, CompletionError::Status { status: 429, attempts: 3, .. }), "{error}");
    let text = format!("{}/chat/completions: status 429: busy (after 3 attempts)", mock.base);
    assert_eq!(error.to_string(), text);
}

#[test]
fn what_will_not_pass_is_not_tried_again() {
    let no_finish = r#"{"choices": [{"message": {"content": "ha"}, "finish_reason": null}]}"#;
    for (act, what) in [
        (Act::Answer(401, "X: y", r#"{"error": "who are you"}"#.into()), "status 401: who are you"),
        (Act::Answer(400, "X: y", "<html>".into()), "status 400: <html>"),
        (Act::Answer(200, "X: y", "ha".into()), "not JSON"),
        (Act::Answer(200, "X: y", "{}".into()), "no choices[0]"),
        (Act::Answer(200, "X: y", no_finish.into()), "interrupted"),
    ] {
        let mock = serve(vec![act]);
        let error = ask(&mut client(&mock), "hi").unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
        assert_eq!(mock.seen.lock().unwrap().len(), 1);
    }
}

#[test]
fn a_silent_server_is_given_up() {
    let mock = serve(vec![Act::Hang(Duration::from_secs(30)); 4]);
    let options =
        ServerOptions { timeout: 0.05, retries: 1, backoff: 0.001, ..ServerOptions::new(&mock.base, "m") };
    let error = ask(&mut Server::new(options).unwrap(), "hi").unwrap_err();
    assert!(matches!(error, CompletionError::Timeout { attempts: 2, .. }), "{error}");
    // Nobody listens on a port that was just given back.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}/v1", listener.local_addr().unwrap());
    drop(listener);
    let options = ServerOptions { retries: 1, backoff: 0.001, ..ServerOptions::new(base, "m") };
    let error = ask(&mut Server::new(options).unwrap(), "hi").unwrap_err();
    assert!(matches!(error, CompletionError::Connection { attempts: 2, .. }), "{error}");
}

#[test]
fn many_requests_keep_their_order_and_fail_alone() {
    let mock = serve(vec![Act::Answer(400, "X: y", String::new())]);
    let requests: Vec<Request> = (0..40).map(|i| request(&format!("r{i}"))).collect();
    let results = client(&mock).complete(&requests);
    assert_eq!(results.iter().filter(|r| r.is_err()).count(), 1);
    for (i, result) in results.iter().enumerate() {
        if let Ok(done) = result {
            assert_eq!(done.text, format!("R{i}"));
        }
    }
}

/// One slow answer holds nothing up: requests beyond those that are written together are under way before it is there, and the file has
/// the order of requests all the same.
#[test]
fn the_next_requests_are_under_way_while_one_is_slow() {
    let mock = serve(vec![Act::EchoAfter("r9")]);
    let requests: Vec<Request> = (0..10).map(|i| request(&format!("r{i}"))).collect();
    let options = ServerOptions { concurrency: 2, retries: 0, ..ServerOptions::new(&mock.base, "m") };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file.jsonl");
    let mut recorded = Recorded::open(Server::new(options).unwrap(), &path, "task_id").unwrap().at_a_time(2);
    let results = recorded.complete(&requests);
    assert!(results.iter().enumerate().all(|(i, r)| r.as_ref().unwrap().text == format!("R{i}")));
    let text = std::fs::read_to_string(&path).unwrap();
    let ids: Vec<Value> =
        text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["task_id"].clone()).collect();
    assert_eq!(ids, (0..10).map(|i| json!(format!("r{i}"))).collect::<Vec<_>>());
}

#[test]
fn thoughts_are_kept_apart() {
    let body = json!({"choices": [{"message": {"content": null, "reasoning_content": "hm"}, "finish_reason": "length"}]});
    let mock = serve(vec![Act::Answer(200, "X: y", body.to_string())]);
    let done = ask(&mut client(&mock), "hi").unwrap();
    assert_eq!((done.text.as_str(), done.reasoning.as_deref()), ("", Some("hm")));
    assert_eq!((done.finish, done.tokens_out), (Some(Finish::Length), None));
}

#[test]
fn settings_without_a_meaning_are_named() {
    let options = |change: fn(&mut ServerOptions)| {
        let mut options = ServerOptions::new("http://localhost/v1", "m");
        change(&mut options);
        Server::new(options).unwrap_err().to_string()
    };
    assert!(options(|o| o.base = "localhost".into()).contains("expected http://"));
    assert!(options(|o| o.timeout = f64::NAN).contains("timeout is NaN"));
    assert!(options(|o| o.concurrency = 0).contains("concurrency is 0"));
    assert!(options(|o| o.key_variable = Some("NO_SUCH_KEY_HERE".into())).contains("NO_SUCH_KEY_HERE"));
}
