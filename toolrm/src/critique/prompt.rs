//! What a judge reads: one message with tagged sections.
//!
//! The order is fixed: the task, the criteria, the conversation (tools first), the responses, the form of the answer.
//! Nothing in the content is escaped, but a closing tag of our own sections is broken by a zero-width joiner, so that no
//! content can end its section.

use std::fmt::Write as _;
use std::sync::LazyLock;

use regex::Regex;

use super::bare;
use crate::json;
use crate::msg::{Call, Message, Role};
use crate::parse::{Format, NoForm, render};
use crate::record::Response;
use crate::schema::ToolDef;

/// How the judge is to answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Variant {
    /// In tags; it reasons in its own think block.
    Think,
    /// In tags, behind an `<evaluation>` block.
    #[default]
    NoThink,
    /// A few lines instead of sections: signatures of tools, calls in Python's form, and the answer's number or word alone.
    /// Ours, for models too small to read more.
    Bare,
}

impl Variant {
    /// The variant's name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Variant::Think => "think",
            Variant::NoThink => "no_think",
            Variant::Bare => "bare",
        }
    }

    /// The variant of a name.
    pub fn from_name(name: &str) -> Option<Variant> {
        [Variant::Think, Variant::NoThink, Variant::Bare].into_iter().find(|v| v.name() == name)
    }
}

/// A response as a judge sees it.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// What it says beside calls.
    pub text: &'a str,
    /// Its calls, which are shown in Hermes form whatever form they had.
    pub calls: &'a [Call],
}

impl<'a> From<&'a Response> for Shown<'a> {
    fn from(response: &'a Response) -> Self {
        Shown { text: &response.text, calls: response.calls.as_deref().unwrap_or_default() }
    }
}

/// A prompt for a judge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompt {
    /// The user's message.
    pub text: String,
    /// Closing tags of our sections that were found in the content, and broken (`prompt.tag_in_content`).
    pub broken_tags: usize,
}

static OWN_TAGS: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"</(task|criteria|conversation|response(?:_\d+)?|critique|answer_format)>").ok()
});

const CRITERIA: &str = "\
1. Are the tools that are called the right ones, and are all that are needed called?
2. Is each call well-formed, and are its arguments valid for the tool, complete, and taken from the conversation or from \
tools' results?
3. Is nothing made up, neither facts nor results?
4. Is no call repeated or needless, and nothing asked of the user that is known already?
5. Where every response has flaws, prefer the one that comes closer to what the user wants, and weigh the gravest flaw most.";

#[derive(Default)]
struct Writer {
    out: Prompt,
}

impl Writer {
    fn section(&mut self, tag: &str, content: &str) {
        if !self.out.text.is_empty() {
            self.out.text.push('\n');
        }
        _ = write!(self.out.text, "<{tag}>\n{content}\n</{tag}>");
    }

    /// Content that is not ours.
    fn foreign(&mut self, tag: &str, content: &str) {
        let Some(tags) = OWN_TAGS.as_ref() else { return };
        let found = tags.find_iter(content).count();
        self.out.broken_tags += found;
        match found {
            0 => self.section(tag, content),
            _ => self.section(tag, &tags.replace_all(content, "<\u{200d}/$1>")),
        }
    }

    fn conversation(&mut self, tools: &[ToolDef], history: &[Message]) -> Result<(), NoForm> {
        let mut text = String::from("Tools:");
        for tool in tools {
            let tool = tool.to_openai();
            let tool = json::to_string(tool.get("function").unwrap_or(&tool)).map_err(|e| no_json(e.0))?;
            _ = write!(text, "\n{tool}");
        }
        if tools.is_empty() {
            text.push_str(" none");
        }
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
        self.foreign("conversation", &text);
        Ok(())
    }
}

fn no_json(what: String) -> NoForm {
    NoForm { format: "json", what }
}

/// Text and calls of a response.
fn said(response: Shown<'_>) -> Result<String, NoForm> {
    let calls = render(response.calls, Format::Hermes)?;
    Ok(match (response.text.is_empty(), calls.is_empty()) {
        (_, true) => response.text.to_owned(),
        (true, false) => calls,
        (false, false) => format!("{}\n{calls}", response.text),
    })
}

/// The beginning of every prompt.
fn begin(task: &str, tools: &[ToolDef], history: &[Message]) -> Result<Writer, NoForm> {
    let mut writer = Writer::default();
    writer.section("task", task);
    writer.section("criteria", CRITERIA);
    writer.conversation(tools, history)?;
    Ok(writer)
}

/// The prompt for a pair: the answer is 1 or 2.
///
/// # Errors
/// [`NoForm`] when calls or tools hold a value that JSON has not.
pub fn pair_prompt(
    tools: &[ToolDef],
    history: &[Message],
    responses: [Shown<'_>; 2],
    variant: Variant,
) -> Result<Prompt, NoForm> {
    let task = "You judge an assistant that can call tools. Below are a conversation and two responses that it could give \
                next. Decide which of the two serves the user better; your choice decides which one the user gets.";
    among(task, tools, history, &responses, variant)
}

/// The prompt for the best of several: the answer is a number from 1 to their count.
///
/// # Errors
/// As [`pair_prompt`].
pub fn best_of_prompt(
    tools: &[ToolDef],
    history: &[Message],
    responses: &[Shown<'_>],
    variant: Variant,
) -> Result<Prompt, NoForm> {
    let n = responses.len();
    let task = format!(
        "You judge an assistant that can call tools. Below are a conversation and {n} responses that it could give next. \
         Decide which of them serves the user best; your choice decides which one the user gets."
    );
    among(&task, tools, history, responses, variant)
}

fn among(
    task: &str,
    tools: &[ToolDef],
    history: &[Message],
    responses: &[Shown<'_>],
    variant: Variant,
) -> Result<Prompt, NoForm> {
    let n = responses.len();
    let which = if n == 2 { "1 or 2".to_owned() } else { format!("a number from 1 to {n}") };
    if variant == Variant::Bare {
        return bare::prompt(tools, history, responses, &format!("Which response is right, {which}?"));
    }
    let mut writer = begin(task, tools, history)?;
    for (i, response) in responses.iter().enumerate() {
        writer.foreign(&format!("response_{}", i + 1), &said(*response)?);
    }
    let block = format!("<choice>\n{which}\n</choice>");
    let form = match variant {
        Variant::Think => {
            format!("Write the number of the better response, and nothing else, in this form:\n{block}")
        }
        _ => format!(
            "First weigh the responses against the criteria, then write the number of the better one:\n\
             <evaluation>\nyour reasons\n</evaluation>\n{block}"
        ),
    };
    writer.section("answer_format", &form);
    Ok(writer.out)
}

/// The prompt for one response: the answer is a critique and a verdict, `correct` or `revise`.
///
/// # Errors
/// As [`pair_prompt`].
pub fn point_prompt(
    tools: &[ToolDef],
    history: &[Message],
    response: Shown<'_>,
    variant: Variant,
) -> Result<Prompt, NoForm> {
    if variant == Variant::Bare {
        return bare::prompt(tools, history, &[response], "Is the response right, correct or revise?");
    }
    let task = "You judge an assistant that can call tools. Below are a conversation and a response that it could give next. \
                Decide whether the user can be given it as it is; if not, your critique is what the assistant corrects it by.";
    let mut writer = begin(task, tools, history)?;
    writer.foreign("response", &said(response)?);
    let block = "<verdict>\ncorrect or revise\n</verdict>";
    let form = match variant {
        Variant::Think => {
            format!("Write what is wrong with the response, if anything, then the verdict:\n{block}")
        }
        _ => format!(
            "First write what is wrong with the response, if anything, then the verdict:\n\
             <evaluation>\nyour critique\n</evaluation>\n{block}"
        ),
    };
    writer.section("answer_format", &form);
    Ok(writer.out)
}

/// The prompt that asks a policy for another answer, after a critique of its first.
///
/// # Errors
/// As [`pair_prompt`].
pub fn correction_prompt(
    tools: &[ToolDef],
    history: &[Message],
    response: Shown<'_>,
    critique: &str,
) -> Result<Prompt, NoForm> {
    let mut writer = Writer::default();
    writer.section(
        "task",
        "You are an assistant that can call tools. Below are a conversation, the response that you were about to give, and a \
         critique of it. Give the response that is right; it replaces the first.",
    );
    writer.conversation(tools, history)?;
    writer.foreign("response", &said(response)?);
    writer.foreign("critique", critique);
    writer.section(
        "answer_format",
        "Write the whole response and nothing else. Each call is a block of its own:\n<tool_call>\n{\"name\": \"the tool's \
         name\", \"arguments\": {\"an argument's name\": \"its value\"}}\n</tool_call>",
    );
    Ok(writer.out)
}
