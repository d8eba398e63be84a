//! A tokenizer's vocabulary as bytes: `tokenizer.json` to kinds and bytes of every id.

use std::fmt;

use regex::Regex;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::utf8::is_never;

/// What a token is to the gate. Only [`Kind::Text`] is ever denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Text, or a part of it.
    Text = 0,
    /// Structure of a conversation: turn ends, `</think>`, `<tool_call>`, channels.
    Control = 1,
    /// An id that the tokenizer does not define: the padding of the logits.
    Hole = 2,
    /// A byte that can never occur in UTF-8.
    InvalidByte = 3,
}

/// Which tokens are control tokens besides those that the tokenizer calls special.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ControlList {
    /// Exact texts.
    pub control_strings: Vec<String>,
    /// Regular expressions for whole texts.
    pub control_patterns: Vec<String>,
}

impl Default for ControlList {
    /// What Qwen3 and Gemma 3 add without calling it special.
    fn default() -> Self {
        let strings = [
            "<think>",
            "</think>",
            "<tool_call>",
            "</tool_call>",
            "<tool_response>",
            "</tool_response>",
            "<|fim_prefix|>",
            "<|fim_middle|>",
            "<|fim_suffix|>",
            "<|fim_pad|>",
            "<|repo_name|>",
            "<|file_sep|>",
            "<mask>",
            "[multimodal]",
        ];
        Self {
            control_strings: strings.map(str::to_owned).to_vec(),
            control_patterns: vec![r"^<unused\d+>$".into(), r"^<\|reserved_.*\|>$".into()],
        }
    }
}

impl ControlList {
    fn compile(&self) -> Result<Vec<Regex>> {
        let one = |pattern: &String| {
            Regex::new(pattern)
                .map_err(|e| Error::Pattern { pattern: pattern.clone(), reason: e.to_string() })
        };
        self.control_patterns.iter().map(one).collect()
    }
}

/// Kind and bytes of every id below the width of the logits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vocabulary {
    kinds: Vec<Kind>,
    /// Bytes of token `v` are `bytes[starts[v]..starts[v + 1]]`.
    starts: Vec<usize>,
    bytes: Vec<u8>,
}

impl Vocabulary {
    /// From kinds and bytes by id.
    pub fn new(tokens: impl IntoIterator<Item = (Kind, Vec<u8>)>) -> Self {
        let mut vocabulary = Self { kinds: Vec::new(), starts: vec![0], bytes: Vec::new() };
        for (kind, bytes) in tokens {
            let invalid = kind == Kind::Text && bytes.iter().any(|b| is_never(*b));
            vocabulary.kinds.push(if invalid { Kind::InvalidByte } else { kind });
            vocabulary.bytes.extend(bytes);
            vocabulary.starts.push(vocabulary.bytes.len());
        }
        vocabulary
    }

    /// From the text of a `tokenizer.json` of a byte-level BPE, or a BPE with byte fallback. `vocab_size` is the width of the
    /// logits.
    ///
    /// # Errors
    /// [`Error::UnsupportedTokenizer`] for other schemes, [`Error::VocabTooSmall`], [`Error::NotByteLevel`],
    /// [`Error::Json`], [`Error::Pattern`].
    pub fn from_tokenizer_json(json: &str, vocab_size: usize, control: &ControlList) -> Result<Self> {
        let file: TokenizerFile = serde_json::from_str(json)
            .map_err(|e| Error::Json { what: "tokenizer.json", reason: e.to_string() })?;
        let scheme = Scheme::of(&file)?;
        let patterns = control.compile()?;
        let listed = |text: &str| {
            control.control_strings.iter().any(|s| s == text) || patterns.iter().any(|p| p.is_match(text))
        };
        let mut tokens: Vec<(Kind, Vec<u8>)> = vec![(Kind::Hole, Vec::new()); vocab_size];
        let slot = |id: u32| match usize::try_from(id) {
            Ok(id) if id < vocab_size => Ok(id),
            _ => Err(Error::VocabTooSmall { token: id, vocab_size }),
        };
        for (text, id) in &file.model.vocab.0 {
            let kind = if listed(text) { Kind::Control } else { Kind::Text };
            tokens[slot(*id)?] = (kind, scheme.bytes(*id, text)?);
        }
        for added in &file.added_tokens {
            let kind = if added.special || listed(&added.content) { Kind::Control } else { Kind::Text };
            // Added tokens are plain text, also where every character of it is in the byte alphabet.
            tokens[slot(added.id)?] = (kind, added.content.clone().into_bytes());
        }
        Ok(Self::new(tokens))
    }

    /// The number of ids, `V`.
    pub fn len(&self) -> usize {
        self.kinds.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }

    /// The kind of a token below [`Self::len`].
    pub fn kind(&self, token: usize) -> Kind {
        self.kinds[token]
    }

    /// The bytes of a token below [`Self::len`].
    pub fn bytes(&self, token: usize) -> &[u8] {
        &self.bytes[self.starts[token]..self.starts[token + 1]]
    }

    /// SHA-256 of the listing of all tokens in order: id and length (little-endian `u32`), kind (`u8`), bytes.
    pub fn sha256(&self) -> String {
        let mut hash = Sha256::new();
        for token in 0..self.len() {
            let bytes = self.bytes(token);
            hash.update((token as u32).to_le_bytes());
            hash.update([self.kind(token) as u8]);
            hash.update((bytes.len() as u32).to_le_bytes());
            hash.update(bytes);
        }
        hex(&hash.finalize())
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[derive(Deserialize)]
struct TokenizerFile {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(default)]
    pre_tokenizer: serde_json::Value,
    #[serde(default)]
    decoder: serde_json::Value,
    model: Model,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    vocab: Entries,
}

/// A JSON object of ids by text, in the file's order; nothing where the vocabulary is of another form.
#[derive(Default)]
struct Entries(Vec<(String, u32)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Entries;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of token ids by text, or a list")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
            // Unigram models list pieces with scores; their scheme is refused later, by name.
            fn visit_seq<A: serde::de::SeqAccess<'de>>(
                self,
                mut seq: A,
            ) -> std::result::Result<Entries, A::Error> {
                while seq.next_element::<serde::de::IgnoredAny>()?.is_some() {}
                Ok(Entries::default())
            }
        }
        deserializer.deserialize_any(Pairs)
    }
}

/// How the strings of a vocabulary stand for bytes.
enum Scheme {
    /// Each character is a byte, through the alphabet of GPT-2; here its inverse.
    ByteLevel(Box<[u16; 0x144]>),
    /// UTF-8 with U+2581 for spaces, and `<0xHH>` for single bytes.
    ByteFallback,
}

impl Scheme {
    fn of(file: &TokenizerFile) -> Result<Self> {
        fn names(value: &serde_json::Value, kind: &str) -> bool {
            let nested = |key| {
                value
                    .get(key)
                    .and_then(|v| v.as_array())
                    .is_some_and(|list| list.iter().any(|v| names(v, kind)))
            };
            value.get("type").is_some_and(|t| t == kind) || nested("pretokenizers") || nested("decoders")
        }
        let byte_level = names(&file.decoder, "ByteLevel") || names(&file.pre_tokenizer, "ByteLevel");
        match file.model.kind.as_str() {
            // Files of some converters leave the type out.
            "BPE" | "" if byte_level => Ok(Self::ByteLevel(Box::new(byte_alphabet()))),
            "BPE" | "" if file.model.byte_fallback => Ok(Self::ByteFallback),
            kind => {
                let of = |value: &serde_json::Value| {
                    value.get("type").and_then(|t| t.as_str()).unwrap_or("none").to_owned()
                };
                let (pre, decoder) = (of(&file.pre_tokenizer), of(&file.decoder));
                Err(Error::UnsupportedTokenizer {
                    found: format!("model {kind:?}, pre-tokenizer {pre}, decoder {decoder}"),
                })
            }
        }
    }

    fn bytes(&self, token: u32, text: &str) -> Result<Vec<u8>> {
        match self {
            Self::ByteLevel(alphabet) => {
                let byte = |c: char| match alphabet.get(c as usize) {
                    Some(byte @ 0..=255) => Ok(*byte as u8),
                    _ => Err(Error::NotByteLevel { token, char: c }),
                };
                text.chars().map(byte).collect()
            }
            Self::ByteFallback => {
                let hex = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
                let digits = hex.filter(|h| h.len() == 2 && h.bytes().all(|b| b.is_ascii_hexdigit()));
                match digits.and_then(|h| u8::from_str_radix(h, 16).ok()) {
                    Some(byte) => Ok(vec![byte]),
                    None => Ok(text.replace('\u{2581}', " ").into_bytes()),
                }
            }
        }
    }
}

/// The byte of each code point of the byte alphabet; 256 for others.
fn byte_alphabet() -> [u16; 0x144] {
    let mut bytes = [256; 0x144];
    let mut next = 0x100;
    for byte in 0..256 {
        let printable = matches!(byte, 33..=126 | 161..=172 | 174..=255);
        let at = if printable { byte } else { next };
        next += usize::from(!printable);
        bytes[at] = byte as u16;
    }
    bytes
}
