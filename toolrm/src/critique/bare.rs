//! Prompts of a few lines, for models too small to read sections.
//!
//! ```text
//! Tools: area(base: integer, height: integer, unit?: string)
//! User: What is the area of a triangle with base 6 and height 10?
//! 1: area(base=6, height=10)
//! 2: area(base=6)
//! Which response is right, 1 or 2? Answer:
//! ```
//! A line feed in content becomes a space, so that no content can begin a line of ours; descriptions of tools are left out.

use std::fmt::Write as _;

use super::prompt::{Prompt, Shown};
use crate::json;
use crate::msg::{Message, Role};
use crate::parse::{Format, NoForm, render};
use crate::schema::{PropSchema, ToolDef};

/// The prompt about responses; with one of them, its line has no number.
pub(super) fn prompt(
    tools: &[ToolDef],
    history: &[Message],
    responses: &[Shown<'_>],
    question: &str,
) -> Result<Prompt, NoForm> {
    let signatures: Vec<String> = tools.iter().map(|t| signature(&t.name, &t.parameters)).collect();
    let mut text = format!("Tools: {}", signatures.join(" "));
    for message in history {
        let role = match message.role {
            Role::System => "System",
            Role::User => "User",
            Role::Assistant => "Assistant",
            Role::Tool => "Tool",
        };
        let content = said(Shown { text: &message.content, calls: &message.calls })?;
        _ = write!(text, "\n{role}: {content}");
    }
    for (i, response) in responses.iter().enumerate() {
        let label = if responses.len() == 1 { "Response".to_owned() } else { (i + 1).to_string() };
        _ = write!(text, "\n{label}: {}", said(*response)?);
    }
    // A digit is a token of its own; a word takes the space before it along.
    let space = if responses.len() == 1 { "" } else { " " };
    _ = write!(text, "\n{question} Answer:{space}");
    Ok(Prompt { text, broken_tags: 0 })
}

fn signature(name: &str, parameters: &PropSchema) -> String {
    let properties = parameters.properties.iter().flatten();
    let one = |(key, schema): (&crate::Key, &PropSchema)| {
        let key = key.as_str().unwrap_or("?");
        let optional = if parameters.required.iter().any(|r| r == key) { "" } else { "?" };
        format!("{key}{optional}: {}", schema.ty.openai())
    };
    format!("{name}({})", properties.map(one).collect::<Vec<_>>().join(", "))
}

/// Text and calls on one line; calls in Python's form where their names allow it.
fn said(response: Shown<'_>) -> Result<String, NoForm> {
    let calls: Vec<String> = response
        .calls
        .iter()
        .map(|call| match render(std::slice::from_ref(call), Format::Pythonic) {
            Ok(text) => {
                Ok(text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(&text).to_owned())
            }
            Err(_) => json::to_string(&call.to_val()).map_err(|e| NoForm { format: "json", what: e.0 }),
        })
        .collect::<Result<_, _>>()?;
    let calls = match (calls.is_empty(), response.text.trim().is_empty()) {
        (true, true) => "(nothing)".to_owned(),
        _ => calls.join(" "),
    };
    let text = response.text.trim().replace('\n', " ");
    Ok([text, calls].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" "))
}
