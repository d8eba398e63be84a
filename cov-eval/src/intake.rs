//! From the bytes of a model to the text that is scored.

use std::borrow::Cow;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use crate::flags::FlagSet;

/// How generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", from = "completion::Finish")]
pub enum Finish {
    /// By the model, or as a server says in a word of its own.
    Stop,
    /// At the limit of tokens.
    Length,
}

impl From<completion::Finish> for Finish {
    fn from(finish: completion::Finish) -> Self {
        match finish {
            completion::Finish::Length => Self::Length,
            completion::Finish::Stop | completion::Finish::Other(_) => Self::Stop,
        }
    }
}

/// What a model gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completion {
    /// The answer; any bytes.
    pub text: Vec<u8>,
    /// Reasoning that a server gave apart from the answer. Never scored.
    pub reasoning: Option<String>,
    /// How it ended.
    pub finish: Finish,
}

impl From<&str> for Completion {
    fn from(text: &str) -> Self {
        Self { text: text.as_bytes().to_vec(), reasoning: None, finish: Finish::Stop }
    }
}

/// Limits and delimiters of an intake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntakeConfig {
    /// Where a visible text is cut, in bytes.
    pub max_visible_bytes: usize,
    /// Opening and closing delimiters of reasoning.
    pub reasoning: Vec<(String, String)>,
}

impl Default for IntakeConfig {
    fn default() -> Self {
        let pair = |name: &str| (format!("<{name}>"), format!("</{name}>"));
        Self { max_visible_bytes: 1 << 20, reasoning: ["think", "thinking", "reasoning"].map(pair).into() }
    }
}

/// An answer, decoded, cut, and without its reasoning.
#[derive(Debug, Clone, PartialEq)]
pub struct Intake {
    /// The text that is scored; lines end in `\n`.
    pub visible: String,
    /// What was noticed.
    pub flags: FlagSet,
    /// Whether generation ended at its limit.
    pub truncated: bool,
    /// The reasoning that was taken out, and that a server gave apart.
    pub reasoning: String,
}

impl From<&str> for Intake {
    fn from(text: &str) -> Self {
        static STANDARD: LazyLock<IntakeConfig> = LazyLock::new(IntakeConfig::default);
        Intake::read(text, String::new(), Finish::Stop, &STANDARD)
    }
}

impl Intake {
    /// Decodes, cuts, and takes the reasoning out.
    pub fn new(completion: &Completion, cfg: &IntakeConfig) -> Self {
        // The lossy decoder goes byte by byte.
        let text = match std::str::from_utf8(&completion.text) {
            Ok(text) => Cow::Borrowed(text),
            Err(_) => String::from_utf8_lossy(&completion.text),
        };
        let reasoning = completion.reasoning.clone().unwrap_or_default();
        let mut intake = Self::read(&text, reasoning, completion.finish, cfg);
        intake.flags.set(FlagSet::INVALID_UTF8, matches!(text, Cow::Owned(_)));
        intake
    }

    fn read(text: &str, mut reasoning: String, finish: Finish, cfg: &IntakeConfig) -> Self {
        let mut flags = FlagSet::default();
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut text = if memchr::memchr(b'\r', text.as_bytes()).is_some() {
            text.replace("\r\n", "\n").replace('\r', "\n")
        } else {
            text.to_owned()
        };
        if text.len() > cfg.max_visible_bytes {
            text.truncate(text.floor_char_boundary(cfg.max_visible_bytes));
            flags.set(FlagSet::OVERSIZE, true);
        }
        // Closing delimiters mostly begin alike, with a byte that most answers have not got.
        let mut absent = None;
        let mut occurs = |close: &&String| {
            let first = close.bytes().next();
            if first.is_some() && first == absent {
                return false;
            }
            if first.is_some_and(|first| memchr::memchr(first, text.as_bytes()).is_none()) {
                absent = first;
                return false;
            }
            memchr::memmem::find(text.as_bytes(), close.as_bytes()).is_some()
        };
        let closes = cfg.reasoning.iter().map(|(_, close)| close).filter(&mut occurs);
        let closing = closes.filter_map(|close| text.rfind(close).map(|at| at + close.len()));
        if let Some(end) = closing.max() {
            reasoning.push_str(&text[..end]);
            text.drain(..end);
        } else if cfg.reasoning.iter().any(|(open, _)| text.trim_start().starts_with(open.as_str())) {
            flags.set(FlagSet::UNTERMINATED_REASONING, true);
            reasoning.push_str(&text);
            text.clear();
        }
        let controls = match text.is_ascii() {
            true => 0,
            false => text.chars().filter(|&c| is_invisible(c)).count(),
        };
        if controls > 8 {
            let chars = text.chars().count();
            flags.set(FlagSet::INVISIBLE_CHARS, controls * 1000 > chars);
            flags.set(FlagSet::HIDDEN_TEXT, controls * 100 > chars);
        }
        Self { visible: text, flags, truncated: finish == Finish::Length, reasoning }
    }

    /// Whether nothing can be seen.
    pub fn is_blank(&self) -> bool {
        self.visible.chars().all(|c| c.is_whitespace() || c.is_control() || is_invisible(c))
    }
}

/// Zero-width characters, direction controls and the soft hyphen.
pub(crate) fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2064}'
        | '\u{2066}'..='\u{2069}' | '\u{feff}' | '\u{61c}' | '\u{180e}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_word_ends_an_answer() {
        let read = |word: &str| serde_json::from_str::<Finish>(word).ok();
        assert_eq!(read("\"length\""), Some(Finish::Length));
        assert_eq!(read("\"content_filter\""), Some(Finish::Stop));
        assert_eq!(read("3"), None);
        assert_eq!(serde_json::to_string(&Finish::Length).unwrap(), "\"length\"");
    }

    #[test]
    fn reasoning_is_taken_out() {
        let cases = [
            ("plain", "plain", 0),
            ("<think>a</think>b", "b", 16),
            ("a</think>b<reasoning>x</reasoning>c", "c", 34),
            ("<think>a</think>b</think>c", "c", 25),
            ("<think>a</think>", "", 16),
            ("  <think>never ends", "", 19),
            ("an <think>inside", "an <think>inside", 0),
        ];
        for (text, visible, reasoning) in cases {
            let intake = Intake::from(text);
            assert_eq!((intake.visible.as_str(), intake.reasoning.len()), (visible, reasoning), "{text}");
            let open = text.starts_with("  <");
            assert_eq!(intake.flags.intersects(FlagSet::UNTERMINATED_REASONING), open);
        }
    }

    #[test]
    fn bytes_are_decoded_and_cut() {
        let cfg = IntakeConfig { max_visible_bytes: 5, ..IntakeConfig::default() };
        let read = |bytes: &[u8]| {
            Intake::new(&Completion { text: bytes.to_vec(), reasoning: None, finish: Finish::Length }, &cfg)
        };
        assert_eq!(read(b"\xef\xbb\xbfa\r\nb\rc").visible, "a\nb\nc");
        let cut = read("abcdé".as_bytes());
        assert_eq!(cut.visible, "abcd");
        assert_eq!(cut.flags.names(), ["oversize"]);
        assert!(cut.truncated);
        assert_eq!(read(b"a\xff").flags.names(), ["invalid_utf8"]);
        assert!(read(b" \n\x00").is_blank() && !read(b".").is_blank());
    }

    #[test]
    fn invisible_characters_are_noticed() {
        let text = |hidden: usize, shown: usize| "\u{200b}".repeat(hidden) + &"a".repeat(shown);
        assert!(Intake::from(text(8, 1).as_str()).flags.is_empty());
        assert!(Intake::from(text(9, 8992).as_str()).flags.is_empty());
        assert_eq!(Intake::from(text(9, 8000).as_str()).flags.names(), ["invisible_chars"]);
        assert_eq!(Intake::from(text(9, 100).as_str()).flags.names(), ["invisible_chars", "hidden_text"]);
    }
}
