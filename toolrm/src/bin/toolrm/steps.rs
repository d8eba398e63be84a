//! `validate`, `segment`, `corrupt`.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};
use toolrm::io::{Control, Line, LineError, Sink, map_lines};
use toolrm::json::{self, Dialect};
use toolrm::record::{Conversation, Step};
use toolrm::{
    Failure, Format, Issue, SchemaError, SegmentOptions, Severity, ToolDef, Val, corrupt, parse_tools,
    segment, validate_call, validate_tools,
};

use crate::common::{Outcome, format};

#[derive(Clone, Copy, Debug, ValueEnum)]
enum What {
    /// Lines that are tool lists, or hold one under `tools` or `function`.
    Tools,
    /// Steps: their tools, and their gold calls against them.
    Steps,
}

#[derive(Args, Debug)]
pub(crate) struct Validate {
    /// What the lines are.
    #[arg(value_enum)]
    what: What,
    /// The lines.
    input: PathBuf,
    /// Where the issues go, one a line; with --repair, the lines that can be used.
    #[arg(short, long, value_name = "OUT", default_value = "-")]
    output: PathBuf,
    /// Merge identical tools, drop unknown names from `required`, and write the lines.
    #[arg(long)]
    repair: bool,
}

impl Validate {
    pub(crate) fn run(&self, control: &Control) -> Result<Outcome> {
        let inputs = [self.input.clone()];
        let summary = map_lines(
            &inputs,
            &self.output,
            control,
            || (),
            |(), line, sink| match self.what {
                What::Tools => self.tools(line, sink),
                What::Steps => self.step(line, sink),
            },
        )?;
        Ok(summary.into())
    }

    /// Lists issues; with --repair, an error makes the line a bad one.
    fn issues(
        &self,
        line: Line<'_>,
        id: Option<&str>,
        issues: &[Issue],
        sink: &mut Sink,
    ) -> Result<(), LineError> {
        for issue in issues {
            sink.count(issue.kind);
            if !self.repair {
                let fields = [
                    ("line", Val::int(line.number.into())),
                    ("id", id.map_or(Val::Null, Val::from)),
                    ("kind", issue.kind.into()),
                    ("path", issue.path.clone().into()),
                    ("detail", issue.detail.clone().into()),
                    ("severity", if issue.severity == Severity::Error { "error" } else { "warning" }.into()),
                ];
                sink.line(&json::to_string(&Val::dict(fields)).unwrap_or_default());
            }
        }
        match issues.iter().find(|i| i.severity == Severity::Error) {
            Some(i) if self.repair => {
                let error = SchemaError::of(i.kind, &i.path, &i.detail);
                Err(LineError { id: id.map(Into::into), error })
            }
            Some(_) => {
                sink.count("lines_with_errors");
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn tools(&self, line: Line<'_>, sink: &mut Sink) -> Result<(), LineError> {
        let mut v = json::parse(line.text, Dialect::Strict).map_err(SchemaError::from)?;
        let key = ["tools", "function"].into_iter().find(|k| v.get(k).is_some());
        let list = key.and_then(|k| v.get(k)).unwrap_or(&v);
        let mut tools = parse_tools(list).map_err(|e| e.under(key.unwrap_or_default()))?;
        let id = v.get("id").and_then(Val::as_str).map(String::from);
        let issues = validate_tools(&mut tools, self.repair);
        self.issues(line, id.as_deref(), &issues, sink)?;
        if self.repair {
            let list = Val::List(tools.iter().map(ToolDef::to_val).collect());
            match (key, &mut v) {
                (Some(key), Val::Dict(map)) => _ = map.insert(key.into(), list),
                _ => v = list,
            }
            let text = json::to_string(&v).map_err(|e| SchemaError::of("json.none", "", e.to_string()))?;
            sink.line(&text);
        }
        Ok(())
    }

    fn step(&self, line: Line<'_>, sink: &mut Sink) -> Result<(), LineError> {
        let mut step: Step = line.record()?;
        let mut issues = validate_tools(&mut step.tools, self.repair);
        issues.extend(step.calls.iter().flat_map(|c| validate_call(c, &step.tools)));
        self.issues(line, Some(&step.id), &issues, sink)?;
        if self.repair { sink.record(&step) } else { Ok(()) }
    }
}

#[derive(Args, Debug)]
pub(crate) struct Segment {
    /// Conversations.
    conversations: PathBuf,
    /// Where the steps go.
    #[arg(short, long, value_name = "STEPS")]
    output: PathBuf,
    /// Drop unknown names from the tools' `required`, instead of the conversation.
    #[arg(long)]
    repair: bool,
    /// Leave out steps without calls.
    #[arg(long)]
    drop_chat: bool,
    /// The format of calls in texts of messages without `tool_calls`.
    #[arg(short, long, default_value = "hermes", value_parser = format)]
    format: Format,
    /// Top-level keys that mark a tool's result as a failure: `key` or `key=value|value`; replaces the default list.
    #[arg(long, value_name = "KEY")]
    failure: Vec<String>,
}

impl Segment {
    pub(crate) fn run(&self, control: &Control) -> Result<Outcome> {
        let mut options = SegmentOptions {
            repair: self.repair,
            drop_chat: self.drop_chat,
            format: self.format,
            ..SegmentOptions::default()
        };
        if !self.failure.is_empty() {
            options.failures = self.failure.iter().map(|f| Failure::read(f)).collect();
        }
        let inputs = [self.conversations.clone()];
        let summary = map_lines(
            &inputs,
            &self.output,
            control,
            || (),
            |(), line, sink| {
                let conversation: Conversation = line.record()?;
                let out = segment(&conversation, &options);
                for step in &out.steps {
                    sink.count("steps");
                    sink.record(step)?;
                }
                out.dropped.iter().for_each(|d| sink.count(&format!("dropped.{}", d.reason.name())));
                Ok(())
            },
        )?;
        Ok(summary.into())
    }
}

#[derive(Args, Debug)]
pub(crate) struct Corrupt {
    /// Steps.
    steps: PathBuf,
    /// Where the candidates go.
    #[arg(short, long, value_name = "CANDIDATES")]
    output: PathBuf,
    /// Candidates of a step, the gold response among them.
    #[arg(short, default_value_t = 6)]
    k: usize,
}

impl Corrupt {
    pub(crate) fn run(&self, control: &Control, seed: u64) -> Result<Outcome> {
        let inputs = [self.steps.clone()];
        let summary = map_lines(
            &inputs,
            &self.output,
            control,
            || (),
            |(), line, sink| {
                let step: Step = line.record()?;
                let made = corrupt(&step, self.k, seed).map_err(|e| LineError {
                    id: Some(step.id.clone()),
                    error: SchemaError::of("json.none", "gold.calls", e.to_string()),
                })?;
                for candidate in &made {
                    sink.count("candidates");
                    sink.record(candidate)?;
                }
                Ok(())
            },
        )?;
        Ok(summary.into())
    }
}
