//! A checkpoint's chat template, compiled.

use std::collections::BTreeMap;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{Environment, Error, ErrorKind};
use regex::{Captures, Regex};
use serde_json::{Map, Value as Json, json};

use super::render::{self, Marks, Rendered};
use super::{Chat, ChatError, guard, python};

/// Names of the two templates in the environment.
const DEFAULT: &str = "default";
const TOOL_USE: &str = "tool_use";
/// Variables that stand at the ends of what the assistant said.
const GENERATION: [&str; 2] = ["__generation_starts", "__generation_ends"];

/// A chat template (or two: some checkpoints have one of their own for conversations with tools) and the tokens it
/// may use.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// Templates by name, as they were read.
    sources: BTreeMap<String, String>,
    /// `bos_token`, `eos_token` and so on: variables of the template.
    named_tokens: BTreeMap<String, String>,
    /// Control tokens with their ids, longest first.
    control: Vec<(String, u32)>,
    /// Tokens that end a turn of the assistant.
    stop: Vec<u32>,
}

impl ChatTemplate {
    /// Compiles templates by name (`default` must be there, `tool_use` may be; others are never used). `control` are
    /// the tokenizer's control tokens.
    ///
    /// # Errors
    /// When there is no default, or a template is not Jinja.
    pub fn new(
        sources: BTreeMap<String, String>,
        named_tokens: BTreeMap<String, String>,
        mut control: Vec<(String, u32)>,
        stop: Vec<u32>,
    ) -> Result<Self, ChatError> {
        if !sources.contains_key(DEFAULT) {
            let names: Vec<&str> = sources.keys().map(String::as_str).collect();
            return Err(ChatError::Syntax(format!("none of {} is the default", names.join(", "))));
        }
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|e| ChatError::Syntax(one_line(&e)))?);
        environment.set_formatter(python::print);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", python::tojson);
        // In Python None cannot be iterated over.
        environment
            .add_test("iterable", |v: &Value| !v.is_none() && (v.is_undefined() || v.try_iter().is_ok()));
        environment.add_function("raise_exception", |message: String| -> Result<(), Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        for name in [DEFAULT, TOOL_USE] {
            if let Some(source) = sources.get(name) {
                let compiled = environment.add_template_owned(name, generation_blocks(source));
                compiled.map_err(|e| ChatError::Syntax(one_line(&e)))?;
            }
        }
        control.sort_by_key(|(token, _)| std::cmp::Reverse(token.len()));
        Ok(Self { environment, sources, named_tokens, control, stop })
    }

    /// The template of conversations without tools.
    pub(crate) fn default_source(&self) -> &str {
        &self.sources[DEFAULT]
    }

    /// The template as `tokenizer_config.json` holds it: a text, or a list of named ones.
    pub(crate) fn to_json(&self) -> Json {
        match (self.sources.len(), self.sources.get(DEFAULT)) {
            (1, Some(source)) => json!(source),
            _ => self
                .sources
                .iter()
                .map(|(name, template)| json!({ "name": name, "template": template }))
                .collect(),
        }
    }

    /// Renders a conversation.
    ///
    /// # Errors
    /// When a message is not an object, or the template fails on the conversation or refuses it.
    pub fn render(&self, chat: &Chat) -> Result<Rendered, ChatError> {
        let name = match chat.tools.is_empty() {
            false if self.sources.contains_key(TOOL_USE) => TOOL_USE,
            _ => DEFAULT,
        };
        if chat.messages.is_empty() {
            return Err(ChatError::Empty);
        }
        let messages: Vec<Json> = chat.messages.iter().enumerate().map(plain).collect::<Result<_, _>>()?;
        let everything = json!([&messages, &chat.tools, &chat.variables]).to_string();
        let named = self.named_tokens.values().map(String::as_str);
        let texts = [everything.as_str(), self.sources[name].as_str()].into_iter().chain(named);
        let [guard, start, end] = guard::marks(texts)
            .ok_or_else(|| ChatError::Render("the messages use every noncharacter from U+FDD0 on".into()))?;
        let guarded = |values: &[Json]| -> Json {
            values.iter().map(|v| guard::value(v, &self.control, guard)).collect()
        };
        let mut variables: BTreeMap<String, Value> = BTreeMap::new();
        let mut set = |name: &str, value: Value| drop(variables.insert(name.to_owned(), value));
        for (name, token) in &self.named_tokens {
            set(name, Value::from(token.as_str()));
        }
        for (name, value) in &chat.variables {
            set(name, Value::from(Serde(guard::value(value, &self.control, guard))));
        }
        set("messages", Value::from(Serde(guarded(&messages))));
        set(
            "tools",
            match chat.tools.is_empty() {
                true => Value::from(()),
                false => Value::from(Serde(guarded(&chat.tools))),
            },
        );
        set("documents", Value::from(()));
        set("add_generation_prompt", Value::from(chat.add_generation_prompt));
        set(GENERATION[0], Value::from(start.to_string()));
        set(GENERATION[1], Value::from(end.to_string()));
        if chat.clock {
            set("strftime_now", Value::from_function(strftime_now));
        }
        let template = self.environment.get_template(name).map_err(|e| ChatError::Syntax(one_line(&e)))?;
        let text = template.render(Value::from(variables)).map_err(|e| ChatError::Render(one_line(&e)))?;
        Ok(render::split(&text, &self.control, Marks { guard, start, end }))
    }

    /// Renders a conversation and says which parts of the text the assistant produced: what the template's generation
    /// blocks give, or else every turn of the assistant with the token that ends it.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`], and when nothing says where the assistant speaks.
    pub fn render_turns(&self, chat: &Chat) -> Result<Rendered, ChatError> {
        let mut rendered = self.render(chat)?;
        let source = match chat.tools.is_empty() {
            false => self.sources.get(TOOL_USE).unwrap_or(&self.sources[DEFAULT]),
            true => &self.sources[DEFAULT],
        };
        if !block().is_match(source) {
            let with = |add_generation_prompt| self.render(&Chat { add_generation_prompt, ..chat.clone() });
            let (open, closed) = (with(true)?, with(false)?);
            let header = open.text.strip_prefix(closed.text.as_str()).unwrap_or_default();
            rendered.assistant = render::turns(&rendered, header, &self.stop)?;
        }
        Ok(rendered)
    }
}

/// What transformers makes of a message: no fields without a value, and reasoning under all its names.
fn plain((index, message): (usize, &Json)) -> Result<Json, ChatError> {
    let Json::Object(fields) = message else {
        return Err(ChatError::Message { index, found: message.clone() });
    };
    let mut fields: Map<String, Json> =
        fields.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), v.clone())).collect();
    let reasoning = ["reasoning_content", "thinking", "reasoning"].iter().find_map(|name| fields.get(*name));
    if let Some(reasoning) = reasoning.cloned() {
        fields.entry("thinking").or_insert(reasoning.clone());
        fields.insert("reasoning_content".into(), reasoning);
    }
    Ok(Json::Object(fields))
}

/// The tags of generation blocks, with what they do to the whitespace around them.
fn block() -> Regex {
    #[allow(clippy::unwrap_used)] // A constant, used by every test of this module.
    Regex::new(r"(?m)(^[ \t]*)?\{%([-+]?)\s*(generation|endgeneration)\s*([-+]?)%\}").unwrap()
}

/// `{% generation %}` as a scope of its own between two marks: Jinja engines know no such tag.
fn generation_blocks(source: &str) -> String {
    let rewritten = block().replace_all(source, |tag: &Captures<'_>| {
        let part = |i: usize| tag.get(i).map_or("", |m| m.as_str());
        let (indent, left, right) = (part(1), part(2), part(4));
        // A block tag takes the spaces before it on its line; the mark that comes first now would not.
        let indent = if left.is_empty() { "" } else { indent };
        let open = if left == "-" { "{{-" } else { "{{" };
        let (mark, inner) = match part(3) {
            "generation" => (GENERATION[0], "with"),
            _ => (GENERATION[1], "endwith"),
        };
        format!("{indent}{open} {mark} }}}}{{% {inner} {right}%}}")
    });
    rewritten.into_owned()
}

fn strftime_now(format: &str) -> Result<String, Error> {
    jiff::fmt::strtime::format(format, &jiff::ZonedDateTime::now())
        .map_err(|e| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {e}")))
}

/// The message with its line, and the cause.
fn one_line(error: &Error) -> String {
    let mut text = error.detail().map_or_else(|| error.kind().to_string(), ToOwned::to_owned);
    if let Some(line) = error.line() {
        text.push_str(&format!(" (line {line})"));
    }
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    text
}
