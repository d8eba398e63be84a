//! Between text and token ids.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::quantized::gguf_file;
use qwen3::VlConfig;
use qwen3::vision::processor::Processor;
use serde_json::{Map, Value, json};
use tokenizers::Tokenizer;

use super::{DataError, gguf};
use crate::chat::{Chat, ChatError, ChatTemplate, ChatTokens, Rendered};
use crate::policy::has_vision;

/// A tokenizer whose control tokens user text cannot produce, the chat template that can, and the processor of images and
/// videos: all that a checkpoint says of what its model reads.
#[derive(Clone)]
pub struct TextCodec {
    tokenizer: Tokenizer,
    /// Whether its file lets bytes without a token vanish.
    drops_unknown: bool,
    /// Whether a space goes before every text, so that pieces are read otherwise than the whole.
    prefix_space: bool,
    stop: Vec<u32>,
    /// `bos_token` and so on, as `tokenizer_config.json` names them.
    named_tokens: BTreeMap<String, String>,
    chat: Option<ChatTemplate>,
    /// How images and videos become prompts, or why that is unknown; `None` for models of text.
    vision: Option<Result<Arc<Processor>, String>>,
}

/// The built-in tokenizers' only control token. (Without padding none is needed for it, and a policy would find
/// that an invisible token costs nothing.)
const EOS: u32 = 0;
const EOS_TEXT: &str = "<eos>";

fn eos_token() -> Value {
    json!({ "id": EOS, "content": EOS_TEXT, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true })
}

impl TextCodec {
    /// One token for each character of `alphabet`, after `<eos>` (0).
    ///
    /// # Errors
    /// When a character comes twice.
    pub fn characters(alphabet: &str) -> Result<Self, DataError> {
        let mut vocabulary = Map::new();
        let tokens = std::iter::once(EOS_TEXT.to_owned()).chain(alphabet.chars().map(String::from));
        for (id, token) in tokens.enumerate() {
            if vocabulary.insert(token.clone(), json!(id)).is_some() {
                return Err(DataError::Tokenizer(format!("{token:?} is twice in the alphabet")));
            }
        }
        let file = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [eos_token()],
            "normalizer": null,
            "pre_tokenizer": { "type": "Split", "pattern": { "Regex": "[\\s\\S]" }, "behavior": "Isolated", "invert": false },
            "post_processor": null,
            "decoder": { "type": "Fuse" },
            "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>" },
        });
        Self::from_bytes(file.to_string().as_bytes(), vec![EOS])
    }

    /// One token for each byte: reads any text.
    ///
    /// # Errors
    /// Never in practice; the tokenizer is built in.
    pub fn bytes() -> Result<Self, DataError> {
        let mut vocabulary = Map::new();
        let mut alphabet: Vec<char> =
            tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect();
        alphabet.sort_unstable();
        let tokens = std::iter::once(EOS_TEXT.to_owned()).chain(alphabet.iter().map(ToString::to_string));
        vocabulary.extend(tokens.enumerate().map(|(id, token)| (token, json!(id))));
        let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false });
        let file = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [eos_token()],
            "normalizer": null, "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
            "model": { "type": "BPE", "vocab": vocabulary, "merges": [] },
        });
        Self::from_bytes(file.to_string().as_bytes(), vec![EOS])
    }

    /// The tokenizer of a Hugging Face directory or a GGUF file, with its chat template when it has one; `stop` are
    /// the tokens that end a response.
    ///
    /// # Errors
    /// When a file is missing or broken, or there is no stop token.
    pub fn open(path: &Path, stop: Vec<u32>) -> Result<Self, DataError> {
        if path.is_file() { Self::from_gguf(path, stop) } else { Self::from_dir(path, stop) }
    }

    /// As [`TextCodec::open`], for a Hugging Face directory: `tokenizer.json`, `tokenizer_config.json` and
    /// `chat_template.jinja`, of which only the first must be there, and what [`Processor::from_dir`] reads, which prompts
    /// with images and videos need.
    ///
    /// # Errors
    /// As [`TextCodec::open`].
    pub fn from_dir(dir: &Path, stop: Vec<u32>) -> Result<Self, DataError> {
        let read = |name: &str| {
            let path = dir.join(name);
            std::fs::read_to_string(&path).map_err(|source| DataError::Io { path, source })
        };
        let optional = |name: &str| if dir.join(name).exists() { read(name).map(Some) } else { Ok(None) };
        let bytes = read("tokenizer.json")?;
        if stop.is_empty() {
            return Err(DataError::Tokenizer(format!("{} names no eos_token_id", dir.display())));
        }
        let mut codec = Self::from_bytes(bytes.as_bytes(), stop)?;
        if has_vision(dir) {
            let processor = VlConfig::from_dir(dir).and_then(|model| Processor::from_dir(dir, model));
            codec.vision = Some(processor.map(Arc::new).map_err(|e| e.to_string()));
        }
        let config: Map<String, Value> = match optional("tokenizer_config.json")? {
            Some(text) => serde_json::from_str(&text).map_err(|e| {
                DataError::Tokenizer(format!("{}: {e}", dir.join("tokenizer_config.json").display()))
            })?,
            None => Map::new(),
        };
        // A special token is a text, or an object that holds it.
        let token = |(name, value): (&String, &Value)| {
            let text = value.as_str().or_else(|| value.get("content")?.as_str())?;
            name.ends_with("_token").then(|| (name.clone(), text.to_owned()))
        };
        let named_tokens = config.iter().filter_map(token).collect();
        // The file of its own goes before the configuration.
        let sources = match optional("chat_template.jinja")? {
            Some(text) => [("default".to_owned(), text)].into(),
            None => templates(config.get("chat_template")),
        };
        codec.with_chat(named_tokens, sources)
    }

    fn from_gguf(path: &Path, stop: Vec<u32>) -> Result<Self, DataError> {
        if stop.is_empty() {
            return Err(DataError::Tokenizer(format!(
                "{} has no tokenizer.ggml.eos_token_id",
                path.display()
            )));
        }
        let text = gguf::read(path)?;
        let sources = text.chat_template.map(|source| ("default".to_owned(), source)).into_iter().collect();
        Self::from_bytes(text.tokenizer.as_bytes(), stop)?.with_chat(text.named_tokens, sources)
    }

    fn from_bytes(bytes: &[u8], stop: Vec<u32>) -> Result<Self, DataError> {
        let mut file: Value =
            serde_json::from_slice(bytes).map_err(|e| DataError::Tokenizer(e.to_string()))?;
        let drops_unknown = file["model"]["type"] == "BPE" && file["model"]["unk_token"].is_null();
        if drops_unknown {
            // A name that no vocabulary has: unknown bytes become an error.
            file["model"]["unk_token"] = json!("<unknown bytes are an error>");
        }
        let prefix_space =
            puts_space_before(&file["normalizer"]) || puts_space_before(&file["pre_tokenizer"]);
        let mut tokenizer =
            Tokenizer::from_bytes(file.to_string()).map_err(|e| DataError::Tokenizer(e.to_string()))?;
        // User text that spells a control token must not become one.
        tokenizer.set_encode_special_tokens(true);
        let named_tokens = BTreeMap::new();
        Ok(Self { tokenizer, drops_unknown, prefix_space, stop, named_tokens, chat: None, vision: None })
    }

    /// With the chat template of `sources`, when there is one.
    fn with_chat(
        mut self,
        named_tokens: BTreeMap<String, String>,
        sources: BTreeMap<String, String>,
    ) -> Result<Self, DataError> {
        let added = self.tokenizer.get_added_tokens_decoder();
        let control =
            added.into_iter().filter(|(_, token)| token.special).map(|(id, token)| (token.content, id));
        if !sources.is_empty() {
            let template =
                ChatTemplate::new(sources, named_tokens.clone(), control.collect(), self.stop.clone())?;
            self.chat = Some(template);
        }
        self.named_tokens = named_tokens;
        Ok(self)
    }

    /// With a processor of images and videos.
    #[must_use]
    pub fn with_processor(self, processor: Processor) -> Self {
        Self { vision: Some(Ok(Arc::new(processor))), ..self }
    }

    /// How the model wants images and videos.
    ///
    /// # Errors
    /// When it reads text alone, or its directory lacks a file that says so, which is named.
    pub fn processor(&self) -> Result<&Processor, DataError> {
        match &self.vision {
            Some(Ok(processor)) => Ok(processor),
            Some(Err(reason)) => Err(DataError::Vision(reason.clone())),
            None => Err(DataError::TextOnly),
        }
    }

    /// How the model wants conversations written.
    ///
    /// # Errors
    /// When it does not say.
    pub fn chat_template(&self) -> Result<&ChatTemplate, ChatError> {
        self.chat.as_ref().ok_or(ChatError::NoTemplate)
    }

    /// Token ids of a conversation. Control tokens come from the template alone.
    ///
    /// # Errors
    /// When there is no template, or it refuses the conversation.
    pub fn encode_chat(&self, chat: &Chat) -> Result<Vec<u32>, DataError> {
        Ok(self.encode_rendered(&self.chat_template()?.render(chat)?)?.ids)
    }

    /// As [`TextCodec::encode_chat`], with the tokens that the assistant produced.
    ///
    /// # Errors
    /// As [`ChatTemplate::render_turns`].
    pub fn encode_turns(&self, chat: &Chat) -> Result<ChatTokens, DataError> {
        self.encode_rendered(&self.chat_template()?.render_turns(chat)?)
    }

    fn encode_rendered(&self, rendered: &Rendered) -> Result<ChatTokens, DataError> {
        if self.prefix_space {
            return Err(ChatError::PrefixSpace.into());
        }
        let mut tokens = ChatTokens { ids: Vec::new(), assistant: Vec::new() };
        let mut push = |id: u32, start: usize| {
            tokens.ids.push(id);
            tokens.assistant.push(rendered.assistant.iter().any(|range| range.contains(&start)));
        };
        for piece in &rendered.pieces {
            if let Some(id) = piece.control {
                push(id, piece.range.start);
                continue;
            }
            let text = &rendered.text[piece.range.clone()];
            let encoding = self.tokenizer.encode(text, false).map_err(|e| self.no_token(text, &e))?;
            for (id, (start, _)) in encoding.get_ids().iter().zip(encoding.get_offsets()) {
                push(*id, piece.range.start + start);
            }
        }
        Ok(tokens)
    }

    /// Token ids of a text.
    ///
    /// # Errors
    /// When the text has a character that the vocabulary lacks.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, DataError> {
        let encoding = self.tokenizer.encode_fast(text, false).map_err(|e| self.no_token(text, &e))?;
        Ok(encoding.get_ids().to_vec())
    }

    fn no_token(&self, text: &str, error: &tokenizers::Error) -> DataError {
        let unknown = text.chars().find(|c| self.tokenizer.encode_fast(c.to_string(), false).is_err());
        DataError::Tokenizer(match unknown {
            Some(c) => format!("no token for {c:?} in {text:?}"),
            None => error.to_string(),
        })
    }

    /// The text of a response: without the stop token at its end, with every other control token spelt out, so that
    /// no token is invisible to a reward.
    #[must_use]
    pub fn decode(&self, ids: &[u32]) -> String {
        let ids = match ids {
            [rest @ .., last] if self.stop.contains(last) => rest,
            all => all,
        };
        self.tokenizer.decode(ids, false).unwrap_or_default()
    }

    /// One token for people to read.
    #[must_use]
    pub fn piece(&self, id: u32) -> String {
        match self.tokenizer.decode(&[id], true) {
            Ok(text) if !text.is_empty() => text,
            _ => self.tokenizer.id_to_token(id).unwrap_or_else(|| format!("<{id}>")),
        }
    }

    /// Tokens that end a response.
    #[must_use]
    pub fn stop_tokens(&self) -> &[u32] {
        &self.stop
    }

    /// The text of a `tokenizer.json` of it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn tokenizer_json(&self) -> Result<String, DataError> {
        self.tokenizer.to_string(false).map_err(|e| DataError::Tokenizer(e.to_string()))
    }

    /// Number of tokens.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// What a GGUF file says of this tokenizer, for a model of `rows` embedding rows.
    ///
    /// # Errors
    /// When the format has no name for the way it cuts text.
    pub fn gguf_metadata(&self, rows: usize) -> Result<Vec<(String, gguf_file::Value)>, DataError> {
        let file = serde_json::to_value(&self.tokenizer).map_err(|e| DataError::Tokenizer(e.to_string()))?;
        let template = self.chat.as_ref().map(ChatTemplate::default_source);
        gguf::write(&file, &self.named_tokens, &self.stop, template, rows).map_err(DataError::Tokenizer)
    }

    /// Writes `tokenizer.json` and `tokenizer_config.json` as transformers reads them, and the processor's files.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, dir: &Path) -> Result<(), DataError> {
        let file = serde_json::to_value(&self.tokenizer);
        let mut file = file.map_err(|e| DataError::Tokenizer(e.to_string()))?;
        if self.drops_unknown {
            file["model"]["unk_token"] = Value::Null;
        }
        let mut config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": self.stop.first().and_then(|id| self.tokenizer.id_to_token(*id)),
            "clean_up_tokenization_spaces": false,
        });
        for (name, token) in &self.named_tokens {
            config[name] = json!(token);
        }
        if let Some(template) = &self.chat {
            config["chat_template"] = template.to_json();
        }
        for (name, content) in [("tokenizer.json", file), ("tokenizer_config.json", config)] {
            let path = dir.join(name);
            std::fs::write(&path, format!("{content:#}")).map_err(|source| DataError::Io { path, source })?;
        }
        if let Some(Ok(processor)) = &self.vision {
            processor.save(dir).map_err(|e| DataError::Vision(e.to_string()))?;
        }
        Ok(())
    }
}

/// Whether a part of a `tokenizer.json` puts a space before a text.
fn puts_space_before(part: &Value) -> bool {
    match part {
        Value::Object(fields) => {
            let metaspace = fields.get("type").is_some_and(|t| t == "Metaspace");
            (metaspace && fields.get("prepend_scheme").is_none_or(|s| s != "never"))
                || fields.get("type").is_some_and(|t| t == "Prepend")
                || (!metaspace && fields.get("add_prefix_space") == Some(&json!(true)))
                || fields.values().any(puts_space_before)
        }
        Value::Array(parts) => parts.iter().any(puts_space_before),
        _ => false,
    }
}

/// `chat_template` of a `tokenizer_config.json`: one text, or a list of named ones.
fn templates(value: Option<&Value>) -> BTreeMap<String, String> {
    match value {
        Some(Value::String(source)) => [("default".to_owned(), source.clone())].into(),
        Some(Value::Array(list)) => {
            let named = |v: &Value| {
                Some((v.get("name")?.as_str()?.to_owned(), v.get("template")?.as_str()?.to_owned()))
            };
            list.iter().filter_map(named).collect()
        }
        _ => BTreeMap::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_round_trip_and_unknown_ones_are_named() {
        let codec = TextCodec::characters("0123456789=").unwrap();
        assert_eq!(codec.encode("40=").unwrap(), [5, 1, 11]);
        assert_eq!(codec.decode(&[5, 1, 11, 0]), "40=");
        assert_eq!(codec.decode(&[5, 0, 1, 0]), "4<eos>0");
        assert_eq!(codec.piece(0), "<eos>");
        assert_eq!(codec.vocab_size(), 12);
        assert_eq!(codec.encode("4x").unwrap_err().to_string(), "tokenizer: no token for 'x' in \"4x\"");
        assert!(TextCodec::characters("00").is_err());
    }

    #[test]
    fn any_text_survives_the_byte_codec() {
        let codec = TextCodec::bytes().unwrap();
        assert_eq!(codec.vocab_size(), 257);
        for text in ["", " a  b\n", "naïve 漢字 🙂", "<eos>"] {
            let ids = codec.encode(text).unwrap();
            assert_eq!(ids.len(), text.len());
            assert!(!ids.contains(&EOS), "user text must not make control tokens");
            assert_eq!(codec.decode(&ids), text);
        }
    }

    #[test]
    fn saved_files_are_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let codec = TextCodec::characters("ab").unwrap();
        codec.save(dir.path()).unwrap();
        let again = TextCodec::from_dir(dir.path(), vec![0]).unwrap();
        assert_eq!(again.encode("ba").unwrap(), codec.encode("ba").unwrap());
        assert!(matches!(
            again.encode_chat(&Chat::prompt("", "a")),
            Err(DataError::Chat(ChatError::NoTemplate))
        ));
        assert!(TextCodec::from_dir(dir.path(), vec![]).is_err());
        assert!(TextCodec::from_dir(Path::new("/nowhere"), vec![0]).is_err());
    }
}
