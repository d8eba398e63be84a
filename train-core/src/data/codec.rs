//! Between text and token ids.

use std::path::Path;

use serde_json::{Map, Value, json};
use tokenizers::Tokenizer;

use super::DataError;

/// A tokenizer whose control tokens user text cannot produce.
#[derive(Clone)]
pub struct TextCodec {
    tokenizer: Tokenizer,
    stop: Vec<u32>,
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

    /// `tokenizer.json` of a model directory; `stop` are the tokens that end a response.
    ///
    /// # Errors
    /// When the file is missing or broken, or there is no stop token.
    pub fn from_dir(dir: &Path, stop: Vec<u32>) -> Result<Self, DataError> {
        let path = dir.join("tokenizer.json");
        let bytes = std::fs::read(&path).map_err(|source| DataError::Io { path: path.clone(), source })?;
        if stop.is_empty() {
            return Err(DataError::Tokenizer(format!("{} names no eos_token_id", dir.display())));
        }
        Self::from_bytes(&bytes, stop)
    }

    fn from_bytes(bytes: &[u8], stop: Vec<u32>) -> Result<Self, DataError> {
        let mut tokenizer = Tokenizer::from_bytes(bytes).map_err(|e| DataError::Tokenizer(e.to_string()))?;
        // User text that spells a control token must not become one.
        tokenizer.set_encode_special_tokens(true);
        Ok(Self { tokenizer, stop })
    }

    /// Token ids of a text.
    ///
    /// # Errors
    /// When the text has a character that the vocabulary lacks.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, DataError> {
        let encoding = self.tokenizer.encode_fast(text, false).map_err(|e| {
            let unknown = text.chars().find(|c| self.tokenizer.token_to_id(&c.to_string()).is_none());
            DataError::Tokenizer(match unknown {
                Some(c) => format!("no token for {c:?} in {text:?}"),
                None => e.to_string(),
            })
        })?;
        Ok(encoding.get_ids().to_vec())
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

    /// Number of tokens.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// Writes `tokenizer.json` and `tokenizer_config.json` as transformers reads them.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, dir: &Path) -> Result<(), DataError> {
        let text = self.tokenizer.to_string(true).map_err(|e| DataError::Tokenizer(e.to_string()))?;
        let token = |id: u32| self.tokenizer.id_to_token(id);
        let config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": self.stop.first().and_then(|id| token(*id)),
            "clean_up_tokenization_spaces": false,
        });
        for (name, text) in [("tokenizer.json", text), ("tokenizer_config.json", Value::to_string(&config))] {
            let path = dir.join(name);
            std::fs::write(&path, text).map_err(|source| DataError::Io { path, source })?;
        }
        Ok(())
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
        assert!(TextCodec::from_dir(dir.path(), vec![]).is_err());
        assert!(TextCodec::from_dir(Path::new("/nowhere"), vec![0]).is_err());
    }
}
