//! Rewards from a user's own program.
//!
//! The program is started once a batch. It reads one JSON object a line on its standard input (`prompt`, `response`,
//! `answer`, `finish`, `response_tokens` and the data's further columns under `columns`) and writes one line a sample
//! to its standard output, in order: a number, or an object with `score`. What it writes to its standard error is
//! shown when it fails.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::types::Scored;

/// Why a program gave no scores.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It could not be started.
    #[error("cannot start `{program}`: {source}")]
    Start {
        /// The program.
        program: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// It took too long and was killed.
    #[error("`{program}` took longer than {seconds} s and was stopped")]
    Timeout {
        /// The program.
        program: String,
        /// The limit.
        seconds: f64,
    },
    /// It failed.
    #[error("`{program}` failed ({status}){}", if stderr.is_empty() { String::new() } else { format!(": {stderr}") })]
    Failed {
        /// The program.
        program: String,
        /// How it ended.
        status: String,
        /// The end of what it wrote to standard error.
        stderr: String,
    },
    /// It wrote another number of lines than it was given samples.
    #[error("`{program}` wrote {found} lines for {expected} samples")]
    Lines {
        /// The program.
        program: String,
        /// Lines written.
        found: usize,
        /// Samples given.
        expected: usize,
    },
}

pub(super) struct Command {
    argv: Vec<String>,
    timeout: f64,
}

impl Command {
    pub(super) fn new(argv: Vec<String>, timeout: f64) -> Result<Self, String> {
        if argv.is_empty() {
            return Err("command needs `command = [\"program\", \"argument\", …]`".into());
        }
        if !(timeout > 0.0 && timeout < 1e6) {
            return Err(format!("timeout is {timeout}, expected seconds above 0"));
        }
        Ok(Self { argv, timeout })
    }

    pub(super) fn score(&self, samples: &[Scored<'_>]) -> Vec<Result<f64, String>> {
        match self.run(samples) {
            Ok(lines) => lines.iter().map(|line| score_of(line)).collect(),
            Err(e) => samples.iter().map(|_| Err(e.to_string())).collect(),
        }
    }

    fn run(&self, samples: &[Scored<'_>]) -> Result<Vec<String>, CommandError> {
        let program = || self.argv[0].clone();
        let mut child = std::process::Command::new(&self.argv[0])
            .args(&self.argv[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own, so that its children die with it.
            .process_group(0)
            .spawn()
            .map_err(|source| CommandError::Start { program: program(), source })?;
        let mut input = String::new();
        for sample in samples {
            input.push_str(&line(sample));
            input.push('\n');
        }
        // Pipes are finite: write and read at the same time, or both sides wait for ever.
        let stdin = child.stdin.take();
        let writer = std::thread::spawn(move || {
            if let Some(mut stdin) = stdin {
                // A program that does not read its input is judged by what it writes.
                let _ = stdin.write_all(input.as_bytes());
            }
        });
        let (out, err) = (reader(child.stdout.take()), reader(child.stderr.take()));
        let status = wait(&mut child, Duration::from_secs_f64(self.timeout));
        if status.is_none() {
            kill(&mut child);
        }
        let _ = writer.join();
        let (out, err) = (out.join().unwrap_or_default(), err.join().unwrap_or_default());
        match status {
            None => Err(CommandError::Timeout { program: program(), seconds: self.timeout }),
            Some(status) if !status.success() => {
                let stderr = err.trim().lines().last().unwrap_or("").to_owned();
                Err(CommandError::Failed { program: program(), status: status.to_string(), stderr })
            }
            Some(_) => {
                let lines: Vec<String> = out.lines().map(str::to_owned).collect();
                if lines.len() == samples.len() {
                    Ok(lines)
                } else {
                    Err(CommandError::Lines {
                        program: program(),
                        found: lines.len(),
                        expected: samples.len(),
                    })
                }
            }
        }
    }
}

fn line(sample: &Scored<'_>) -> String {
    json!({
        "prompt": sample.prompt.text,
        "response": sample.response,
        "answer": sample.prompt.answer,
        "finish": sample.finish,
        "response_tokens": sample.response_tokens,
        "columns": sample.prompt.columns,
    })
    .to_string()
}

fn score_of(line: &str) -> Result<f64, String> {
    let score = serde_json::from_str::<Value>(line.trim()).ok().and_then(|value| match value {
        Value::Object(fields) => fields.get("score").and_then(Value::as_f64),
        other => other.as_f64(),
    });
    score.ok_or_else(|| format!("expected a number or {{\"score\": number}}, got {line:?}"))
}

fn reader(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// The exit status, or `None` after the limit.
fn wait(child: &mut Child, limit: Duration) -> Option<std::process::ExitStatus> {
    let start = Instant::now();
    let mut pause = Duration::from_micros(200);
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if start.elapsed() < limit => {}
            _ => return None,
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

fn kill(child: &mut Child) {
    if let Ok(id) = i32::try_from(child.id())
        && let Some(pid) = rustix::process::Pid::from_raw(id)
    {
        // Fails only when the group is gone already.
        let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
    }
    let _ = child.wait();
}
