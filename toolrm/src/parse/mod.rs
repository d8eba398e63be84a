//! Text of models to calls, in the formats that models use.
//!
//! Nothing is ever executed. Time is linear in the input, nesting and size are bounded.

mod hermes;
mod json_calls;
mod pythonic;
mod render;
mod source;
mod think;
mod xml;

use std::fmt;

use crate::msg::Call;
use crate::schema::ToolDef;
use crate::validate::Issue;

pub(crate) use json_calls::openai_call;
pub use render::{NoForm, render};
pub use source::parse_source;
pub use think::{Split, split_reasoning};

/// The most bytes of a response that are read.
pub const MAX_BYTES: usize = 8 << 20;

/// A format of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `<tool_call>` blocks with `{"name", "arguments"}`: Hermes, Qwen.
    Hermes,
    /// OpenAI's `tool_calls`, or BFCL's list of `{name: "arguments"}`.
    OpenAi,
    /// `[f(a=1), g(b="x")]`: Llama, BFCL's prompt mode.
    Pythonic,
    /// `{"name", "parameters"}`, after `<|python_tag|>`: Llama 3.1.
    LlamaJson,
    /// A list of `{"name", "arguments"}`: xLAM.
    Xlam,
    /// A list of `{"function", "parameters"}`.
    BfclJson,
    /// `<functions><function name><params><param name value type/>`.
    XmlVerbose,
    /// `<functions><function name><param name type>text</param>`.
    XmlConcise,
    /// One `<tool_call>` block with `{"name", "parameters"}` a line: ToolRL.
    ToolRl,
    /// Whichever of them the text looks like.
    Auto,
}

impl Format {
    /// Every format but [`Format::Auto`].
    pub const ALL: [Format; 9] = [
        Format::Hermes,
        Format::OpenAi,
        Format::Pythonic,
        Format::LlamaJson,
        Format::Xlam,
        Format::BfclJson,
        Format::XmlVerbose,
        Format::XmlConcise,
        Format::ToolRl,
    ];

    /// The format's name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Format::Hermes => "hermes",
            Format::OpenAi => "openai",
            Format::Pythonic => "pythonic",
            Format::LlamaJson => "llama_json",
            Format::Xlam => "xlam",
            Format::BfclJson => "bfcl_json",
            Format::XmlVerbose => "xml_verbose",
            Format::XmlConcise => "xml_concise",
            Format::ToolRl => "toolrl",
            Format::Auto => "auto",
        }
    }

    /// The format of a name.
    pub fn from_name(name: &str) -> Option<Format> {
        Format::ALL.into_iter().chain([Format::Auto]).find(|f| f.name() == name)
    }
}

/// How much a parser forgives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One grammar; anything else fails.
    Strict,
    /// Known slips are repaired, each recorded as an issue.
    Lenient,
    /// What the leaderboard's decoder of the format accepts, with its defects.
    Bfcl,
}

/// A response taken apart.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// The calls in order.
    pub calls: Vec<Call>,
    /// What is said beside them.
    pub text: String,
    /// What was thought, where the response holds it.
    pub reasoning: Option<String>,
    /// What was repaired or skipped.
    pub issues: Vec<Issue>,
    /// The format that it was read as.
    pub format: Format,
}

impl Parsed {
    fn new(format: Format, calls: Vec<Call>) -> Self {
        Parsed { calls, text: String::new(), reasoning: None, issues: Vec::new(), format }
    }
}

/// A response that cannot be used as calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseFail {
    /// Byte offset of the first failure, in the text given to the parser.
    pub offset: usize,
    /// A stable name, as `pythonic.unsafe_expr`.
    pub kind: &'static str,
    /// What was found.
    pub detail: String,
}

impl ParseFail {
    /// The kind of a response that was read, but to something other than calls.
    pub const WRONG_FORMAT: &'static str = "parse.wrong_format";

    pub(crate) fn new(offset: usize, kind: &'static str, detail: impl Into<String>) -> Self {
        ParseFail { offset, kind, detail: detail.into() }
    }

    fn wrong(detail: impl Into<String>) -> Self {
        ParseFail::new(0, ParseFail::WRONG_FORMAT, detail)
    }

    fn shifted(mut self, by: usize) -> Self {
        self.offset += by;
        self
    }
}

impl fmt::Display for ParseFail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}: {}", self.kind, self.offset, self.detail)
    }
}

impl std::error::Error for ParseFail {}

/// Takes a response apart. Reasoning is split off first ([`split_reasoning`]), except in [`Mode::Bfcl`], whose decoders
/// see the whole text.
///
/// # Errors
/// [`ParseFail`] when the response cannot be used as calls.
///
/// ```
/// use toolrm::{Format, Mode, parse};
/// let text = "<think>\nParis.\n</think>\n\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Paris\"}}\n</tool_call>";
/// let parsed = parse(text, Format::Auto, Mode::Strict)?;
/// assert_eq!((parsed.calls[0].name.as_str(), parsed.reasoning.as_deref()), ("weather", Some("Paris.")));
/// # Ok::<(), toolrm::ParseFail>(())
/// ```
pub fn parse(text: &str, format: Format, mode: Mode) -> Result<Parsed, ParseFail> {
    parse_with(text, format, mode, &Parsing { think_split: mode != Mode::Bfcl, tools: &[] })
}

/// Choices beyond format and mode.
#[derive(Clone, Copy, Debug)]
pub struct Parsing<'a> {
    /// Whether reasoning is split off.
    pub think_split: bool,
    /// Tools by which positional arguments are bound to names ([`Mode::Lenient`], [`Format::Pythonic`]).
    pub tools: &'a [ToolDef],
}

/// [`parse`] with choices.
///
/// # Errors
/// As [`parse`].
pub fn parse_with(
    text: &str,
    format: Format,
    mode: Mode,
    options: &Parsing<'_>,
) -> Result<Parsed, ParseFail> {
    if text.len() > MAX_BYTES {
        return Err(ParseFail::new(
            MAX_BYTES,
            "limit.size",
            format!("{} bytes; at most {MAX_BYTES} are read", text.len()),
        ));
    }
    if !options.think_split {
        return parse_answer(text, format, mode, options);
    }
    let split = split_reasoning(text);
    let offset = text.len() - split.answer.len();
    let mut parsed = parse_answer(split.answer, format, mode, options).map_err(|f| f.shifted(offset))?;
    for span in parsed.calls.iter_mut().filter_map(|c| c.span.as_mut()) {
        *span = span.start + offset..span.end + offset;
    }
    parsed.reasoning = split.reasoning.map(Into::into);
    if split.unclosed {
        parsed.issues.push(Issue::warning(
            "reasoning.unclosed",
            "",
            "<think> has no end; nothing is answered",
        ));
    }
    Ok(parsed)
}

fn parse_answer(text: &str, format: Format, mode: Mode, options: &Parsing<'_>) -> Result<Parsed, ParseFail> {
    match format {
        Format::Hermes => hermes::parse(text, mode),
        Format::OpenAi => json_calls::openai(text, mode),
        Format::Pythonic => pythonic::parse(text, mode, options.tools),
        Format::LlamaJson => json_calls::llama(text, mode),
        Format::Xlam => json_calls::xlam(text, mode),
        Format::BfclJson => json_calls::bfcl(text, mode),
        Format::XmlVerbose => xml::parse(text, true, mode),
        Format::XmlConcise => xml::parse(text, false, mode),
        Format::ToolRl => hermes::toolrl(text, mode),
        Format::Auto => auto(text, mode, options),
    }
}

/// The content of the first `<TOOLCALL>` element.
fn toolcall(text: &str) -> Result<&str, ParseFail> {
    let start = text.find("<TOOLCALL>").map(|s| s + "<TOOLCALL>".len());
    let found = start.and_then(|s| text[s..].find("</TOOLCALL>").map(|end| text[s..s + end].trim()));
    found.ok_or_else(|| ParseFail::new(0, "toolcall.missing", "no <TOOLCALL> element"))
}

fn auto(text: &str, mode: Mode, options: &Parsing<'_>) -> Result<Parsed, ParseFail> {
    let start = text.trim_start();
    let format = if text.contains("<tool_call>") {
        if hermes::looks_like_toolrl(text) { Format::ToolRl } else { Format::Hermes }
    } else if text.contains("<TOOLCALL>") {
        return auto(toolcall(text)?, mode, options);
    } else if text.contains("<functions>") {
        if text.contains("<params>") || text.contains("value=") {
            Format::XmlVerbose
        } else {
            Format::XmlConcise
        }
    } else if text.contains("<|python_tag|>") {
        Format::LlamaJson
    } else if let Some(format) = json_calls::by_keys(start) {
        format
    } else if pythonic::looks_like_call(start) {
        Format::Pythonic
    } else {
        let mut parsed = Parsed::new(Format::Auto, Vec::new());
        parsed.text = text.to_owned();
        return Ok(parsed);
    };
    parse_answer(text, format, mode, options)
}
