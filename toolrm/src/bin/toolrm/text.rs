//! `parse`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use toolrm::io::{Control, Line, LineError, Sink, map_lines};
use toolrm::json::{self, Dialect};
use toolrm::{Call, Format, Mode, Parsing, SchemaError, Val, parse_with};

use crate::common::{ModeArg, Outcome, format};

#[derive(Args, Debug)]
pub(crate) struct Parse {
    /// Lines: JSON strings, or objects with the response under `text`.
    input: PathBuf,
    /// Where the lines go.
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// The format of calls.
    #[arg(short, long, default_value = "auto", value_parser = format)]
    format: Format,
    /// How much is forgiven.
    #[arg(long, value_enum, default_value = "lenient")]
    mode: ModeArg,
    /// The field that holds the response.
    #[arg(long, default_value = "text")]
    field: String,
    /// Take reasoning (`<think>`) as part of the answer.
    #[arg(long)]
    no_think_split: bool,
}

impl Parse {
    pub(crate) fn run(&self, control: &Control) -> Result<Outcome> {
        let inputs = [self.input.clone()];
        let summary =
            map_lines(&inputs, &self.output, control, || (), |(), line, sink| self.line(line, sink))?;
        Ok(summary.into())
    }

    fn line(&self, line: Line<'_>, sink: &mut Sink) -> Result<(), LineError> {
        let v = json::parse(line.text, Dialect::Strict).map_err(SchemaError::from)?;
        let (mut out, text) = match v {
            Val::Str(text) => (toolrm::Map::default(), text),
            Val::Dict(map) => match map.get(self.field.as_str()) {
                Some(Val::Str(text)) => (map.clone(), text.clone()),
                other => return Err(SchemaError::field(&self.field, "a string", other).into()),
            },
            other => return Err(SchemaError::field("", "a string or an object", Some(&other)).into()),
        };
        let mode: Mode = self.mode.into();
        let parsing = Parsing { think_split: !self.no_think_split && mode != Mode::Bfcl, tools: &[] };
        match parse_with(&text, self.format, mode, &parsing) {
            Ok(parsed) => {
                sink.count(if parsed.calls.is_empty() { "without_calls" } else { "with_calls" });
                out.insert("format".into(), parsed.format.name().into());
                out.insert("calls".into(), Val::List(parsed.calls.iter().map(Call::to_val).collect()));
                out.insert("content".into(), parsed.text.into());
                if let Some(reasoning) = parsed.reasoning {
                    out.insert("reasoning".into(), reasoning.into());
                }
                let issues = parsed.issues.iter().map(|i| Val::from(i.to_string())).collect();
                out.insert("issues".into(), Val::List(issues));
            }
            Err(fail) => {
                sink.count("failed");
                let fail = Val::dict([
                    ("kind", Val::from(fail.kind)),
                    ("offset", Val::int(fail.offset.into())),
                    ("detail", Val::from(fail.detail)),
                ]);
                out.insert("fail".into(), fail);
            }
        }
        let text = json::to_string(&Val::Dict(out))
            .map_err(|e| SchemaError::of("json.none", "calls", e.to_string()))?;
        sink.line(&text);
        Ok(())
    }
}
