//! OpenAI-compatible servers: `POST {base}/chat/completions`.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::{Answer, Complete, Completion, CompletionError, Finish, Request};

/// The most bytes of an answer that are read.
const MAX_BYTES: u64 = 64 << 20;

/// The most characters of a server's complaint that are shown.
const SHOWN: usize = 400;

/// How to talk to a server.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Up to and with the version, such as `http://localhost:8000/v1`.
    pub base: String,
    /// The model's name there.
    pub model: String,
    /// The environment variable that holds the key; none is sent without one.
    pub key_variable: Option<String>,
    /// Requests at one time.
    pub concurrency: usize,
    /// Seconds that one attempt may take, from connecting to the last byte.
    pub timeout: f64,
    /// Attempts after the first; for lost connections, timeouts and the statuses 408, 409, 429 and 5xx.
    pub retries: u32,
    /// Seconds before the second attempt; each later one waits twice as long, up to 60 s. A server's `Retry-After` in seconds
    /// goes before, up to 10 minutes.
    pub backoff: f64,
    /// Say `max_completion_tokens` rather than `max_tokens`.
    pub max_completion_tokens: bool,
    /// Put into every request, such as `{"chat_template_kwargs": {…}}`.
    pub extra: Map<String, Value>,
}

impl ServerOptions {
    /// The defaults: no key, 8 requests at one time, 30 minutes, 6 retries from half a second.
    pub fn new(base: impl Into<String>, model: impl Into<String>) -> Self {
        Self {
            base: base.into(),
            model: model.into(),
            key_variable: None,
            concurrency: 8,
            timeout: 1800.0,
            retries: 6,
            backoff: 0.5,
            max_completion_tokens: false,
            extra: Map::new(),
        }
    }
}

/// An OpenAI-compatible server.
pub struct Server {
    options: ServerOptions,
    url: String,
    key: Option<String>,
    agent: ureq::Agent,
}

/// Without the key.
impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("options", &self.options).finish_non_exhaustive()
    }
}

/// What one attempt came to.
enum Attempt {
    Done(Completion),
    Failed(CompletionError),
    /// To be tried again, after so long where the server says.
    Again(CompletionError, Option<Duration>),
}

impl Server {
    /// A server; it is not called yet.
    ///
    /// # Errors
    /// When a setting has no meaning, or the variable of the key is not set.
    pub fn new(options: ServerOptions) -> Result<Self, CompletionError> {
        let fault = |reason: String| Err(CompletionError::Other(reason));
        if !options.base.starts_with("http://") && !options.base.starts_with("https://") {
            return fault(format!("server {:?}: expected http://… or https://…", options.base));
        }
        if !(options.timeout > 0.0 && options.timeout < 1e6) {
            return fault(format!("timeout is {}, expected seconds above 0", options.timeout));
        }
        if !(options.backoff >= 0.0 && options.backoff < 1e6) {
            return fault(format!("backoff is {}, expected seconds", options.backoff));
        }
        if options.concurrency == 0 {
            return fault("concurrency is 0, expected at least 1".into());
        }
        let key = match &options.key_variable {
            None => None,
            Some(name) => match std::env::var(name) {
                Ok(key) if !key.trim().is_empty() => Some(key.trim().to_owned()),
                _ => return fault(format!("the environment variable {name} holds no key")),
            },
        };
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs_f64(options.timeout)))
            .http_status_as_error(false)
            .build()
            .into();
        let url = format!("{}/chat/completions", options.base.trim_end_matches('/'));
        Ok(Self { options, url, key, agent })
    }

    fn body(&self, request: &Request) -> Value {
        let sampling = &request.sampling;
        let mut body = self.options.extra.clone();
        let mut put = |name: &str, value: Value| drop(body.insert(name.to_owned(), value));
        put("model", json!(self.options.model));
        put("messages", json!(request.messages));
        let limit = if self.options.max_completion_tokens { "max_completion_tokens" } else { "max_tokens" };
        put(limit, json!(sampling.max_tokens));
        // Only what is set: some servers refuse fields that they do not know.
        for (name, value) in [
            ("temperature", sampling.temperature.map(number)),
            ("top_p", sampling.top_p.map(number)),
            ("top_k", sampling.top_k.map(|k| json!(k))),
            ("seed", sampling.seed.map(|s| json!(s))),
        ] {
            if let Some(value) = value {
                put(name, value);
            }
        }
        Value::Object(body)
    }

    fn ask(&self, request: &Request) -> Result<Completion, CompletionError> {
        let body = self.body(request).to_string();
        let mut attempt = 1;
        loop {
            let (error, wait) = match self.attempt(&body, attempt) {
                Attempt::Done(completion) => return Ok(completion),
                Attempt::Failed(error) => return Err(error),
                Attempt::Again(error, _) if attempt > self.options.retries => return Err(error),
                Attempt::Again(error, wait) => (error, wait),
            };
            drop(error);
            std::thread::sleep(wait.unwrap_or_else(|| self.pause(&request.id, attempt)));
            attempt += 1;
        }
    }

    /// Between half and the whole of the doubled pause, by a hash: clients that failed together come back apart.
    fn pause(&self, id: &str, attempt: u32) -> Duration {
        let whole = (self.options.backoff * f64::from(2u32.saturating_pow(attempt - 1))).min(60.0);
        let hash = Sha256::digest(format!("{id}\n{attempt}"));
        Duration::from_secs_f64(whole * (0.5 + f64::from(hash[0]) / 512.0))
    }

    fn attempt(&self, body: &str, attempts: u32) -> Attempt {
        let url = self.url.clone();
        let mut call = self.agent.post(&self.url).content_type("application/json");
        if let Some(key) = &self.key {
            call = call.header("Authorization", format!("Bearer {key}"));
        }
        let mut response = match call.send(body) {
            Ok(response) => response,
            Err(error) => return self.lost(&error, attempts),
        };
        let status = response.status().as_u16();
        let wait = response.headers().get("retry-after").and_then(|v| v.to_str().ok()?.trim().parse().ok());
        let wait = wait.map(|seconds: u64| Duration::from_secs(seconds.min(600)));
        let text = match response.body_mut().with_config().limit(MAX_BYTES).read_to_string() {
            Ok(text) => text,
            Err(error) => return self.lost(&error, attempts),
        };
        if !(200..300).contains(&status) {
            let error = CompletionError::Status { url, status, message: complaint(&text), attempts };
            return match status {
                408 | 409 | 429 | 500.. => Attempt::Again(error, wait),
                _ => Attempt::Failed(error),
            };
        }
        match completion(&text) {
            Ok(completion) => Attempt::Done(completion),
            Err(reason) => Attempt::Failed(CompletionError::Answer { url, reason }),
        }
    }

    fn lost(&self, error: &ureq::Error, attempts: u32) -> Attempt {
        let url = self.url.clone();
        let connection = |e: &ureq::Error| CompletionError::Connection {
            url: url.clone(),
            reason: e.to_string(),
            attempts,
        };
        match error {
            ureq::Error::Timeout(_) => {
                let seconds = self.options.timeout;
                Attempt::Again(CompletionError::Timeout { url, seconds, attempts }, None)
            }
            ureq::Error::BodyExceedsLimit(most) => {
                let reason = format!("it is longer than {most} bytes");
                Attempt::Failed(CompletionError::Answer { url, reason })
            }
            ureq::Error::Io(_)
            | ureq::Error::HostNotFound
            | ureq::Error::ConnectionFailed
            | ureq::Error::Protocol(_) => Attempt::Again(connection(error), None),
            other => Attempt::Failed(connection(other)),
        }
    }
}

/// The shortest decimal that reads as the same `f32`: 0.7, not 0.699999988.
fn number(x: f32) -> Value {
    x.to_string().parse::<f64>().map_or(Value::Null, |x| json!(x))
}

/// What a server says went wrong.
fn complaint(text: &str) -> String {
    let json: Value = serde_json::from_str(text).unwrap_or_default();
    let message = json["error"]["message"].as_str().or(json["error"].as_str()).or(json["message"].as_str());
    let message = message.unwrap_or(text).trim();
    message.chars().take(SHOWN).collect()
}

fn completion(text: &str) -> Result<Completion, String> {
    let json: Value = serde_json::from_str(text).map_err(|e| format!("not JSON: {e}"))?;
    let choice = json.get("choices").and_then(|c| c.get(0)).ok_or("there is no choices[0]")?;
    let message = choice.get("message").ok_or("there is no choices[0].message")?;
    let reasoning = message.get("reasoning_content").or(message.get("reasoning")).and_then(Value::as_str);
    let content = match message.get("content") {
        Some(Value::String(text)) => text.clone(),
        // All tokens went into thoughts, or into calls that we did not offer.
        None | Some(Value::Null) => String::new(),
        Some(other) => return Err(format!("choices[0].message.content is {other}, expected a string")),
    };
    let finish = match choice.get("finish_reason").and_then(Value::as_str) {
        Some("stop") => Finish::Stop,
        Some("length") => Finish::Length,
        Some(other) => Finish::Other(other.to_owned()),
        None => return Err("there is no choices[0].finish_reason: generation was interrupted".into()),
    };
    let usage = |name: &str| json.get("usage").and_then(|u| u.get(name)).and_then(Value::as_u64);
    Ok(Completion {
        text: content,
        reasoning: reasoning.filter(|r| !r.is_empty()).map(str::to_owned),
        finish: Some(finish),
        tokens_in: usage("prompt_tokens"),
        tokens_out: usage("completion_tokens"),
    })
}

impl Complete for Server {
    fn name(&self) -> String {
        format!("{} at {}", self.options.model, self.options.base)
    }

    fn complete(&mut self, requests: &[Request]) -> Vec<Answer> {
        let mut done = Vec::with_capacity(requests.len());
        self.complete_each(requests, 1, &mut |i, result| {
            done.push((i, result));
            ControlFlow::Continue(())
        });
        done.sort_by_key(|(i, _)| *i);
        done.into_iter().map(|(_, result)| result).collect()
    }

    /// [`ServerOptions::concurrency`] requests are always under way, as long as there are some.
    fn complete_each(
        &mut self,
        requests: &[Request],
        _at_a_time: usize,
        tell: &mut dyn FnMut(usize, Answer) -> ControlFlow<()>,
    ) {
        let this = &*self;
        let next = AtomicUsize::new(0);
        let (sender, receiver) = mpsc::channel();
        std::thread::scope(|scope| {
            for _ in 0..this.options.concurrency.min(requests.len()) {
                let (sender, next) = (sender.clone(), &next);
                scope.spawn(move || {
                    loop {
                        let i = next.fetch_add(1, Ordering::Relaxed);
                        let Some(request) = requests.get(i) else { return };
                        // The receiver outlives the threads.
                        _ = sender.send((i, this.ask(request)));
                    }
                });
            }
            drop(sender);
            let mut stopped = false;
            for (i, result) in receiver {
                if !stopped && tell(i, result).is_break() {
                    stopped = true;
                    next.store(requests.len(), Ordering::Relaxed);
                }
            }
        });
    }
}
