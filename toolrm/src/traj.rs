//! Conversations to steps: what an assistant said, and everything before it.

use crate::json::{self, Dialect};
use crate::msg::{Message, Role};
use crate::parse::{Format, Mode, parse};
use crate::record::{Conversation, Step};
use crate::validate::{Issue, Severity, validate_call, validate_tools};
use crate::value::Val;

/// Why a response is no step, in the order of the checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The conversation's tool list has errors.
    Tools,
    /// The conversation's roles do not follow one another as they should.
    RoleOrder,
    /// The response cannot be parsed.
    Unparsable,
    /// Its calls do not fit the tools, or one is there twice.
    BadCalls,
    /// A tool answered it with a failure.
    ToolError,
    /// It says and calls nothing.
    Empty,
    /// It has no calls, and such steps are not wanted.
    Chat,
}

impl Reason {
    /// Every reason, in the order of the checks.
    pub const ALL: [Reason; 7] = [
        Reason::Tools,
        Reason::RoleOrder,
        Reason::Unparsable,
        Reason::BadCalls,
        Reason::ToolError,
        Reason::Empty,
        Reason::Chat,
    ];

    /// The reason's name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Tools => "tools",
            Reason::RoleOrder => "role_order",
            Reason::Unparsable => "unparsable",
            Reason::BadCalls => "bad_calls",
            Reason::ToolError => "tool_error",
            Reason::Empty => "empty",
            Reason::Chat => "chat",
        }
    }
}

/// A top-level key that marks a tool's result as a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The key.
    pub key: String,
    /// Values, compared without case; none: any value but `null`, `false`, 0 and what is empty.
    pub values: Vec<String>,
}

impl Failure {
    /// Reads `key` or `key=value|value`.
    pub fn read(text: &str) -> Failure {
        match text.split_once('=') {
            None => Failure { key: text.to_owned(), values: Vec::new() },
            Some((key, values)) => {
                Failure { key: key.to_owned(), values: values.split('|').map(str::to_lowercase).collect() }
            }
        }
    }

    fn marks(&self, result: &Val) -> bool {
        let Some(v) = result.get(&self.key) else { return false };
        if self.values.is_empty() {
            return match v {
                Val::Null | Val::Bool(false) | Val::Int(0) => false,
                Val::Str(s) => !s.is_empty(),
                Val::List(items) => !items.is_empty(),
                Val::Dict(entries) => !entries.is_empty(),
                _ => true,
            };
        }
        let text = match v {
            Val::Str(s) => s.as_str().to_lowercase(),
            other => json::to_string(other).unwrap_or_default(),
        };
        self.values.contains(&text)
    }
}

/// How conversations are cut.
#[derive(Clone, Debug)]
pub struct SegmentOptions {
    /// Whether `required` names that are no properties are dropped from tools, instead of dropping the conversation.
    pub repair: bool,
    /// Whether steps without calls are dropped.
    pub drop_chat: bool,
    /// The format of calls in the text of a message that has no `tool_calls`.
    pub format: Format,
    /// What marks a tool's result as a failure, beside `is_error`.
    pub failures: Vec<Failure>,
}

impl Default for SegmentOptions {
    fn default() -> Self {
        let failures = ["error", "exception", "status=error|failed|failure|fail|exception"];
        SegmentOptions {
            repair: false,
            drop_chat: false,
            format: Format::Hermes,
            failures: failures.map(Failure::read).into(),
        }
    }
}

/// A response that is no step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// Its place among the messages.
    pub turn: usize,
    /// Why.
    pub reason: Reason,
    /// What was found.
    pub detail: String,
}

/// The steps of a conversation, and the responses that are none.
#[derive(Clone, Debug, Default)]
pub struct Segmented {
    /// The steps in order.
    pub steps: Vec<Step>,
    /// The rest.
    pub dropped: Vec<Dropped>,
}

/// Cuts a conversation into steps, one for each assistant message that passes the checks: its tools, the order of roles,
/// that it parses, that its calls fit the tools and none is repeated, that no tool answered with a failure, that it is not
/// empty. What passes is the gold response of its step.
///
/// ```
/// use toolrm::{record, segment, SegmentOptions};
/// let line = r#"{"id":"c","tools":[{"name":"now"}],"messages":[
///     {"role":"user","content":"What time is it?"},
///     {"role":"assistant","content":"<tool_call>\n{\"name\":\"now\",\"arguments\":{}}\n</tool_call>"}]}"#;
/// let out = segment(&record::read(line)?, &SegmentOptions::default());
/// assert_eq!((out.steps[0].id.as_str(), out.steps[0].calls[0].name.as_str()), ("c/1", "now"));
/// # Ok::<(), toolrm::SchemaError>(())
/// ```
pub fn segment(conversation: &Conversation, options: &SegmentOptions) -> Segmented {
    let mut out = Segmented::default();
    let turns = || {
        let all = conversation.messages.iter().enumerate();
        all.filter(|(_, m)| m.role == Role::Assistant).map(|(turn, _)| turn)
    };
    let all = |reason, detail: &str| Segmented {
        steps: Vec::new(),
        dropped: turns().map(|turn| Dropped { turn, reason, detail: detail.to_owned() }).collect(),
    };
    let mut tools = conversation.tools.clone();
    let issues = validate_tools(&mut tools, options.repair);
    if let Some(issue) = issues.iter().find(|i| i.severity == Severity::Error) {
        return all(Reason::Tools, &issue.to_string());
    }
    let (messages, faults) = parsed(&conversation.messages, options.format);
    if let Some(detail) = out_of_order(&messages, &faults) {
        return all(Reason::RoleOrder, &detail);
    }
    for turn in turns() {
        let message = &messages[turn];
        let results = messages[turn + 1..].iter().take_while(|m| m.role == Role::Tool);
        let fault = if let Some(detail) = &faults[turn] {
            Some((Reason::Unparsable, detail.clone()))
        } else if let Some(issue) = bad_call(message, &tools) {
            Some((Reason::BadCalls, issue.to_string()))
        } else if let Some(result) = results.into_iter().find(|m| failed(m, &options.failures)) {
            Some((Reason::ToolError, result.content.chars().take(200).collect()))
        } else if message.calls.is_empty() && message.content.trim().is_empty() {
            Some((Reason::Empty, "no text and no calls".to_owned()))
        } else if message.calls.is_empty() && options.drop_chat {
            Some((Reason::Chat, "no calls".to_owned()))
        } else {
            None
        };
        match fault {
            Some((reason, detail)) => out.dropped.push(Dropped { turn, reason, detail }),
            None => out.steps.push(Step {
                id: format!("{}/{turn}", conversation.id),
                conv_id: conversation.id.clone(),
                turn: turn as u64,
                source: conversation.source.clone(),
                tools: tools.clone(),
                history: messages[..turn].to_vec(),
                content: message.content.clone(),
                calls: message.calls.clone(),
                meta: crate::Map::default(),
            }),
        }
    }
    out
}

/// The messages with the calls that their texts hold, and what could not be parsed.
fn parsed(messages: &[Message], format: Format) -> (Vec<Message>, Vec<Option<String>>) {
    let one = |m: &Message| {
        let mut m = m.clone();
        if m.role != Role::Assistant || !m.calls.is_empty() {
            return (m, None);
        }
        match parse(&m.content, format, Mode::Lenient) {
            Ok(parsed) => {
                m.content = parsed.text;
                m.reasoning = m.reasoning.or(parsed.reasoning);
                m.calls = parsed.calls;
                (m, None)
            }
            Err(e) => (m, Some(e.to_string())),
        }
    };
    messages.iter().map(one).unzip()
}

/// What breaks the order: an optional system message, a user, then users, assistants, and tools after calls.
fn out_of_order(messages: &[Message], faults: &[Option<String>]) -> Option<String> {
    let start = usize::from(messages.first().is_some_and(|m| m.role == Role::System));
    let mut may_call = false;
    for (i, m) in messages.iter().enumerate().skip(start) {
        let wrong = match m.role {
            Role::System => true,
            Role::User => false,
            Role::Assistant => i == start,
            Role::Tool => !may_call,
        };
        if wrong {
            return Some(format!("messages[{i}]: a message of {} cannot stand here", m.role.name()));
        }
        // A response that could not be parsed may have called.
        may_call = m.role == Role::Tool || !m.calls.is_empty() || faults[i].is_some();
    }
    None
}

fn bad_call(message: &Message, tools: &[crate::ToolDef]) -> Option<Issue> {
    let calls = &message.calls;
    let wrong = calls.iter().flat_map(|c| validate_call(c, tools)).find(|i| i.severity == Severity::Error);
    wrong.or_else(|| {
        let twice = (1..calls.len()).find(|i| calls[..*i].iter().any(|c| c.same(&calls[*i])))?;
        Some(Issue::error(
            "call.duplicate",
            calls[twice].name.as_str(),
            "called twice with the same arguments",
        ))
    })
}

fn failed(result: &Message, failures: &[Failure]) -> bool {
    if result.is_error {
        return true;
    }
    let text = result.content.trim_start();
    text.starts_with('{')
        && json::parse(text, Dialect::Lenient).is_ok_and(|v| failures.iter().any(|f| f.marks(&v)))
}
