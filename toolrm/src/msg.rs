//! Calls, messages and conversations.

use std::ops::Range;

use crate::schema::{SchemaError, ToolDef, parse_tools};
use crate::value::{Key, Map, Str, Tag, Val, eq_json};

/// One call of a tool.
#[derive(Clone, Debug, Default)]
pub struct Call {
    /// The tool's name.
    pub name: Str,
    /// The arguments in the order given.
    pub args: Map,
    /// The call's id, where the format has one.
    pub id: Option<String>,
    /// Bytes of the text that the call was read from, where known.
    pub span: Option<Range<usize>>,
}

impl Call {
    /// A call without id and place.
    pub fn new<K: Into<Key>>(name: impl Into<Str>, args: impl IntoIterator<Item = (K, Val)>) -> Self {
        Call {
            name: name.into(),
            args: args.into_iter().map(|(k, v)| (k.into(), v)).collect(),
            id: None,
            span: None,
        }
    }

    /// Whether name and arguments are equal under [`eq_json`]; id and place do not count.
    pub fn same(&self, other: &Call) -> bool {
        self.name == other.name
            && self.args.len() == other.args.len()
            && self.args.iter().all(|(k, v)| other.args.get(k).is_some_and(|w| eq_json(v, w)))
    }

    /// `{"name": …, "arguments": …}`.
    pub fn to_val(&self) -> Val {
        Val::dict([("name", Val::Str(self.name.clone())), ("arguments", Val::Dict(self.args.clone()))])
    }

    /// Reads `{"name": …, "arguments": {…}}`.
    ///
    /// # Errors
    /// [`SchemaError`] naming the field.
    pub fn from_val(v: &Val) -> Result<Self, SchemaError> {
        let name = v
            .get("name")
            .and_then(Val::as_str)
            .ok_or_else(|| SchemaError::field("name", "a string", v.get("name")))?;
        let args = v.get("arguments");
        let args =
            args.and_then(Val::as_dict).ok_or_else(|| SchemaError::field("arguments", "an object", args))?;
        Ok(Call {
            name: name.into(),
            args: args.clone(),
            id: v.get("id").and_then(Val::as_str).map(Into::into),
            span: None,
        })
    }
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Instructions.
    System,
    /// The user.
    User,
    /// The model.
    Assistant,
    /// A tool's result.
    Tool,
}

impl Role {
    /// The role's name in files.
    pub fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }
}

/// A message of a conversation.
#[derive(Clone, Debug)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// The text.
    pub content: String,
    /// What the model thought, without its tags.
    pub reasoning: Option<String>,
    /// The calls of an assistant's message.
    pub calls: Vec<Call>,
    /// The call that a tool's message answers.
    pub tool_call_id: Option<String>,
    /// Whether a tool's message is marked as a failure.
    pub is_error: bool,
}

impl Message {
    /// A message of text.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Message {
            role,
            content: content.into(),
            reasoning: None,
            calls: Vec::new(),
            tool_call_id: None,
            is_error: false,
        }
    }

    /// Reads a message; `tool_calls` and `calls` are both taken, in OpenAI's form or as `{"name", "arguments"}`.
    ///
    /// # Errors
    /// [`SchemaError`] naming the field.
    pub fn from_val(v: &Val) -> Result<Self, SchemaError> {
        let role = match v.get("role").and_then(Val::as_str) {
            Some("system" | "developer") => Role::System,
            Some("user" | "human") => Role::User,
            Some("assistant" | "gpt") => Role::Assistant,
            Some("tool" | "function") => Role::Tool,
            _ => return Err(SchemaError::field("role", "system, user, assistant or tool", v.get("role"))),
        };
        let content = match v.get("content") {
            None | Some(Val::Null) => String::new(),
            Some(Val::Str(s)) => s.to_string(),
            // A tool's result may be any JSON; it is kept as its text.
            Some(other) if role == Role::Tool => {
                crate::json::to_string(other).map_err(|e| SchemaError::new("content", e.to_string()))?
            }
            other => return Err(SchemaError::field("content", "a string", other)),
        };
        let mut message = Message::new(role, content);
        message.reasoning = v.get("reasoning").and_then(Val::as_str).map(Into::into);
        message.tool_call_id = v.get("tool_call_id").and_then(Val::as_str).map(Into::into);
        message.is_error = matches!(v.get("is_error"), Some(Val::Bool(true)));
        match v.get("tool_calls").or_else(|| v.get("calls")) {
            None | Some(Val::Null) => {}
            Some(Val::List(calls)) => {
                for (i, call) in calls.iter().enumerate() {
                    let read = crate::parse::openai_call(call, crate::Mode::Lenient);
                    message
                        .calls
                        .push(read.map_err(|what| SchemaError::new(format!("tool_calls[{i}]"), what))?);
                }
            }
            other => return Err(SchemaError::field("tool_calls", "an array", other)),
        }
        Ok(message)
    }

    /// The message as written to files.
    pub fn to_val(&self) -> Val {
        let mut out = Map::default();
        out.insert("role".into(), self.role.name().into());
        out.insert("content".into(), self.content.clone().into());
        if let Some(reasoning) = &self.reasoning {
            out.insert("reasoning".into(), reasoning.clone().into());
        }
        if !self.calls.is_empty() {
            let calls = self.calls.iter().map(|c| {
                let mut v = Map::default();
                if let Some(id) = &c.id {
                    v.insert("id".into(), id.clone().into());
                }
                v.insert("name".into(), c.name.clone().into());
                v.insert("arguments".into(), Val::Dict(c.args.clone()));
                Val::Dict(v)
            });
            out.insert("tool_calls".into(), Val::List(calls.collect()));
        }
        if let Some(id) = &self.tool_call_id {
            out.insert("tool_call_id".into(), id.clone().into());
        }
        if self.is_error {
            out.insert("is_error".into(), Val::Bool(true));
        }
        Val::Dict(out)
    }
}

/// A conversation and the tools that it may use.
#[derive(Clone, Debug, Default)]
pub struct Chat {
    /// The tools.
    pub tools: Vec<ToolDef>,
    /// The messages in order.
    pub messages: Vec<Message>,
}

impl Chat {
    /// Reads `{"tools": […], "messages": […]}`.
    ///
    /// # Errors
    /// [`SchemaError`] naming the field.
    pub fn from_val(v: &Val) -> Result<Self, SchemaError> {
        let tools =
            parse_tools(v.get("tools").unwrap_or(&Val::List(Vec::new()))).map_err(|e| e.under("tools"))?;
        let messages = messages(v.get("messages")).map_err(|e| e.under("messages"))?;
        Ok(Chat { tools, messages })
    }
}

/// Reads a list of messages.
///
/// # Errors
/// [`SchemaError`] naming the message and field.
pub fn messages(v: Option<&Val>) -> Result<Vec<Message>, SchemaError> {
    let list =
        v.and_then(Val::as_list).ok_or_else(|| SchemaError::new("", "expected an array of messages"))?;
    list.iter()
        .enumerate()
        .map(|(i, m)| match m.tag() {
            Tag::Dict => Message::from_val(m).map_err(|e| e.under(&format!("[{i}]"))),
            other => {
                Err(SchemaError::new(format!("[{i}]"), format!("expected an object, found {}", other.name())))
            }
        })
        .collect()
}
