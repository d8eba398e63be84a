//! The tokenizer and the chat template inside a GGUF file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use candle_core::quantized::gguf_file::{Content, Value};
use serde_json::{Map, json};

use super::DataError;

/// What a GGUF file says of text.
pub(super) struct GgufText {
    /// The text of a `tokenizer.json`.
    pub(super) tokenizer: String,
    /// `bos_token` and so on, by the names that chat templates use.
    pub(super) named_tokens: BTreeMap<String, String>,
    /// `tokenizer.chat_template`.
    pub(super) chat_template: Option<String>,
}

/// Token types of the format. A control token is never the reading of text; a user-defined one is read whole.
const NORMAL: u64 = 1;
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;
const UNUSED: u64 = 5;

/// How text is cut before byte-pair merges, by `tokenizer.ggml.pre`: normaliser and pre-tokenizers.
fn pre_tokenizer(name: &str) -> Option<(serde_json::Value, serde_json::Value)> {
    let byte_level = |use_regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex });
    let sequence =
        |first: serde_json::Value, bytes| json!({ "type": "Sequence", "pretokenizers": [first, bytes] });
    match name {
        // SmolLM: digits one by one, then GPT-2's words.
        "smollm" => Some((
            serde_json::Value::Null,
            sequence(json!({ "type": "Digits", "individual_digits": true }), byte_level(true)),
        )),
        // Qwen2 and later: words without case in the contractions, single digits, runs of line ends.
        "qwen2" => {
            let words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
            let split = json!({ "type": "Split", "pattern": { "Regex": words }, "behavior": "Isolated", "invert": false });
            Some((json!({ "type": "NFC" }), sequence(split, byte_level(false))))
        }
        _ => None,
    }
}

/// Without `trim_offsets`, which changes no token.
fn essential(part: &serde_json::Value) -> serde_json::Value {
    match part {
        serde_json::Value::Object(fields) => {
            let fields = fields.iter().filter(|(name, _)| *name != "trim_offsets");
            fields.map(|(name, value)| (name.clone(), essential(value))).collect::<Map<_, _>>().into()
        }
        serde_json::Value::Array(parts) => parts.iter().map(essential).collect(),
        other => other.clone(),
    }
}

/// `tokenizer.*` of the metadata, from a `tokenizer.json`; ids up to `rows` without a token are marked as unused.
pub(super) fn write(
    file: &serde_json::Value,
    named_tokens: &BTreeMap<String, String>,
    stop: &[u32],
    chat_template: Option<&str>,
    rows: usize,
) -> Result<Vec<(String, Value)>, String> {
    let cuts = (essential(&file["normalizer"]), essential(&file["pre_tokenizer"]));
    let known =
        |name: &&str| pre_tokenizer(name).is_some_and(|(n, p)| (essential(&n), essential(&p)) == cuts);
    let vocabulary = file["model"]["vocab"].as_object().filter(|_| file["model"]["type"] == "BPE");
    let (Some(pre), Some(vocabulary)) = (["smollm", "qwen2"].into_iter().find(known), vocabulary) else {
        return Err("its way of cutting text has no name in GGUF files (known: smollm, qwen2)".into());
    };
    let mut tokens: Vec<(String, u64)> = (0..rows).map(|id| (format!("[PAD{id}]"), UNUSED)).collect();
    let mut put = |id: Option<u64>, token: &str, kind: u64| {
        let place = id.and_then(|id| tokens.get_mut(usize::try_from(id).ok()?));
        *place.ok_or_else(|| format!("{token:?} is not one of the model's {rows} tokens"))? =
            (token.to_owned(), kind);
        Ok::<_, String>(())
    };
    for (token, id) in vocabulary {
        put(id.as_u64(), token, NORMAL)?;
    }
    for added in file["added_tokens"].as_array().into_iter().flatten() {
        let kind = if added["special"] == true { CONTROL } else { USER_DEFINED };
        put(added["id"].as_u64(), added["content"].as_str().unwrap_or_default(), kind)?;
    }
    let text = |text: &str| Value::String(text.to_owned());
    let merges = file["model"]["merges"].as_array().into_iter().flatten().map(|merge| match merge {
        serde_json::Value::String(merge) => text(merge),
        pair => text(&format!(
            "{} {}",
            pair[0].as_str().unwrap_or_default(),
            pair[1].as_str().unwrap_or_default()
        )),
    });
    let mut entries = vec![
        ("tokenizer.ggml.model".to_owned(), text("gpt2")),
        ("tokenizer.ggml.pre".to_owned(), text(pre)),
        ("tokenizer.ggml.merges".to_owned(), Value::Array(merges.collect())),
        ("tokenizer.ggml.add_bos_token".to_owned(), Value::Bool(false)),
    ];
    for (name, key) in [("bos_token", "bos"), ("unk_token", "unknown"), ("pad_token", "padding")] {
        let id = named_tokens.get(name).and_then(|token| tokens.iter().position(|(t, _)| t == token));
        entries.extend(id.map(|id| (format!("tokenizer.ggml.{key}_token_id"), Value::U32(id as u32))));
    }
    entries.extend(stop.first().map(|id| ("tokenizer.ggml.eos_token_id".to_owned(), Value::U32(*id))));
    entries.extend(chat_template.map(|template| ("tokenizer.chat_template".to_owned(), text(template))));
    let types = tokens.iter().map(|(_, kind)| Value::I32(*kind as i32)).collect();
    entries.push(("tokenizer.ggml.token_type".to_owned(), Value::Array(types)));
    let tokens = tokens.into_iter().map(|(token, _)| Value::String(token)).collect();
    entries.push(("tokenizer.ggml.tokens".to_owned(), Value::Array(tokens)));
    Ok(entries)
}

/// Reads `tokenizer.*` of the metadata.
///
/// # Errors
/// When the file cannot be read, or a key is missing, broken or of a kind that is not known; the message names it.
pub(super) fn read(path: &Path) -> Result<GgufText, DataError> {
    let file = File::open(path).map_err(|source| DataError::Io { path: path.to_path_buf(), source })?;
    let broken = |why: String| DataError::Tokenizer(format!("{}: {why}", path.display()));
    let content = Content::read(&mut BufReader::new(file)).map_err(|e| broken(e.to_string()))?;
    Metadata(&content).text().map_err(broken)
}

struct Metadata<'a>(&'a Content);

impl Metadata<'_> {
    fn get(&self, key: &str) -> Result<&Value, String> {
        self.0.metadata.get(key).ok_or_else(|| format!("{key} is missing"))
    }

    fn name(&self, key: &str) -> Result<&str, String> {
        self.get(key)?.to_string().map(String::as_str).map_err(|e| format!("{key}: {e}"))
    }

    /// A list whose entries `entry` reads.
    fn list<'v, T>(
        &'v self,
        key: &str,
        entry: impl Fn(&'v Value) -> candle_core::Result<T>,
    ) -> Result<Vec<T>, String> {
        let entries = self.get(key)?.to_vec().map_err(|e| format!("{key}: {e}"))?;
        entries.iter().map(|v| entry(v).map_err(|e| format!("{key}: {e}"))).collect()
    }

    fn text(&self) -> Result<GgufText, String> {
        let kind = self.name("tokenizer.ggml.model")?;
        if kind != "gpt2" {
            return Err(format!(
                "tokenizer.ggml.model: `{kind}` is not supported, only byte-level BPE (`gpt2`)"
            ));
        }
        let pre = self.name("tokenizer.ggml.pre")?;
        let (normalizer, pre_tokenizer) = pre_tokenizer(pre).ok_or_else(|| {
            format!("tokenizer.ggml.pre: `{pre}` is not supported (supported: smollm, qwen2)")
        })?;
        let tokens = self.list("tokenizer.ggml.tokens", Value::to_string)?;
        let types = self.list("tokenizer.ggml.token_type", integer)?;
        if types.len() != tokens.len() {
            return Err(format!(
                "tokenizer.ggml.token_type has {} entries for {} tokens",
                types.len(),
                tokens.len()
            ));
        }
        let mut vocabulary = Map::new();
        let mut added = Vec::new();
        for (id, (token, kind)) in tokens.iter().zip(types).enumerate() {
            if vocabulary.insert((*token).clone(), json!(id)).is_some() {
                return Err(format!("tokenizer.ggml.tokens: {token:?} is there twice"));
            }
            if kind == CONTROL || kind == USER_DEFINED {
                added.push(json!({ "id": id, "content": token, "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false, "special": kind == CONTROL }));
            }
        }
        let merges = self.list("tokenizer.ggml.merges", Value::to_string)?;
        let merges = merges.into_iter().map(|merge| match merge.split_once(' ') {
            Some((left, right)) if !left.is_empty() && !right.is_empty() && !right.contains(' ') => {
                Ok([left, right])
            }
            _ => Err(format!("tokenizer.ggml.merges: {merge:?} is not a pair")),
        });
        let merges: Vec<[&str; 2]> = merges.collect::<Result<_, _>>()?;
        let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false });
        let tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
            "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": byte_level,
            "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                "vocab": vocabulary, "merges": merges },
        });
        let mut named_tokens = BTreeMap::new();
        for name in ["bos", "eos", "unknown", "padding"] {
            let key = format!("tokenizer.ggml.{name}_token_id");
            let Some(value) = self.0.metadata.get(&key) else { continue };
            let id = integer(value).map_err(|e| format!("{key}: {e}"))?;
            let token = usize::try_from(id).ok().and_then(|id| tokens.get(id));
            let token =
                token.ok_or_else(|| format!("{key}: {id} is not one of the {} tokens", tokens.len()))?;
            let name = match name {
                "unknown" => "unk",
                "padding" => "pad",
                same => same,
            };
            named_tokens.insert(format!("{name}_token"), (*token).clone());
        }
        let chat_template = match self.0.metadata.contains_key("tokenizer.chat_template") {
            true => Some(self.name("tokenizer.chat_template")?.to_owned()),
            false => None,
        };
        Ok(GgufText { tokenizer: tokenizer.to_string(), named_tokens, chat_template })
    }
}

/// Files hold token types as signed, and ids as unsigned numbers.
fn integer(value: &Value) -> candle_core::Result<u64> {
    match value {
        Value::I32(v) if *v >= 0 => Ok(*v as u64),
        other => other.to_u64(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::chat::Chat;
    use crate::data::TextCodec;
    use candle_core::quantized::gguf_file::write;

    const FIRST: [&str; 5] = ["<s>", "<e>", "<think>", "ab", "12"];

    /// `FIRST`, then the bytes in the order of their characters.
    fn tokens() -> Vec<String> {
        let mut bytes: Vec<char> =
            tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect();
        bytes.sort_unstable();
        FIRST.iter().map(ToString::to_string).chain(bytes.iter().map(ToString::to_string)).collect()
    }

    fn metadata() -> Vec<(String, Value)> {
        let texts = |list: &[&str]| Value::Array(list.iter().map(|t| Value::String((*t).into())).collect());
        let all = tokens();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let types = (0..all.len()).map(|id| Value::I32([3, 3, 4].get(id).copied().unwrap_or(1)));
        [
            ("tokenizer.ggml.model", Value::String("gpt2".into())),
            ("tokenizer.ggml.pre", Value::String("smollm".into())),
            ("tokenizer.ggml.tokens", texts(&all)),
            ("tokenizer.ggml.token_type", Value::Array(types.collect())),
            ("tokenizer.ggml.merges", texts(&["a b", "1 2"])),
            ("tokenizer.ggml.bos_token_id", Value::U32(0)),
            ("tokenizer.ggml.eos_token_id", Value::U32(1)),
            (
                "tokenizer.chat_template",
                Value::String("{{ bos_token + messages[0].content + eos_token }}".into()),
            ),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into()
    }

    fn open(change: impl FnOnce(&mut Vec<(String, Value)>)) -> Result<TextCodec, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.gguf");
        let mut entries = metadata();
        change(&mut entries);
        let entries: Vec<(&str, &Value)> = entries.iter().map(|(k, v)| (k.as_str(), v)).collect();
        write(&mut File::create(&path).unwrap(), &entries, &[]).unwrap();
        let error = |e: DataError| e.to_string().replace(&path.display().to_string(), "m.gguf");
        TextCodec::open(&path, vec![1]).map_err(error)
    }

    fn set(entries: &mut Vec<(String, Value)>, key: &str, value: Option<Value>) {
        entries.retain(|(k, _)| k != key);
        entries.extend(value.map(|v| (key.to_owned(), v)));
    }

    #[test]
    fn text_is_cut_as_the_metadata_says() {
        let smollm = open(|_| {}).unwrap();
        let ids = |pieces: &[&str]| -> Vec<u32> {
            pieces.iter().map(|p| tokens().iter().position(|t| t == p).unwrap() as u32).collect()
        };
        // Digits stand alone, so their merge is never made; no space is put before the text.
        assert_eq!(smollm.encode("ab 12\n").unwrap(), ids(&["ab", "Ġ", "1", "2", "Ċ"]));
        assert_eq!(smollm.encode("<think>a").unwrap(), ids(&["<think>", "a"]));
        assert_eq!(smollm.encode("<s>").unwrap(), ids(&["<", "s", ">"]));
        assert_eq!(smollm.decode(&ids(&["ab", "Ġ", "1", "<e>"])), "ab 1");
        assert_eq!(
            smollm.encode_chat(&Chat::prompt("", "ab <e>")).unwrap(),
            ids(&["<s>", "ab", "Ġ", "<", "e", ">", "<e>"])
        );
        // Qwen composes characters and keeps line ends together with what goes before.
        let qwen = open(|m| set(m, "tokenizer.ggml.pre", Some(Value::String("qwen2".into())))).unwrap();
        assert_eq!(qwen.encode("ab 12").unwrap(), ids(&["ab", "Ġ", "1", "2"]));
        assert_eq!(qwen.encode("e\u{301}").unwrap(), ids(&["Ã", "©"]));
        assert_eq!(smollm.encode("e\u{301}").unwrap(), ids(&["e", "Ì", "ģ"]));
    }

    /// SmolLM2's vocabulary lacks some bytes: libraries drop them without a word.
    #[test]
    fn a_byte_without_a_token_is_an_error() {
        let codec = open(|entries| {
            let lacking = tokens().into_iter().map(|t| Value::String(if t == "z" { "zz".into() } else { t }));
            set(entries, "tokenizer.ggml.tokens", Some(Value::Array(lacking.collect())));
        });
        let codec = codec.unwrap();
        let error = "tokenizer: no token for 'z' in \"ab z\"";
        assert_eq!(codec.encode("ab z").unwrap_err().to_string(), error);
        let dir = tempfile::tempdir().unwrap();
        codec.save(dir.path()).unwrap();
        assert_eq!(
            TextCodec::open(dir.path(), vec![1]).unwrap().encode("ab z").unwrap_err().to_string(),
            error
        );
        // The file itself is as other libraries want it.
        let saved = std::fs::read_to_string(dir.path().join("tokenizer.json")).unwrap();
        let saved: serde_json::Value = serde_json::from_str(&saved).unwrap();
        assert_eq!(saved["model"]["unk_token"], serde_json::Value::Null);
    }

    #[test]
    fn a_saved_tokenizer_is_the_same() {
        let (dir, codec) = (tempfile::tempdir().unwrap(), open(|_| {}).unwrap());
        codec.save(dir.path()).unwrap();
        let again = TextCodec::open(dir.path(), vec![1]).unwrap();
        let chat = Chat::prompt("", "ab 1<");
        assert_eq!(again.encode_chat(&chat).unwrap(), codec.encode_chat(&chat).unwrap());
    }

    #[test]
    fn a_written_tokenizer_is_the_same() {
        let chat = Chat::prompt("", "ab 1<e>");
        for pre in ["smollm", "qwen2"] {
            let codec = open(|m| set(m, "tokenizer.ggml.pre", Some(Value::String(pre.into())))).unwrap();
            let written = codec.gguf_metadata(263).unwrap();
            let get = |key: &str| &written.iter().find(|(k, _)| k == key).unwrap().1;
            assert_eq!(get("tokenizer.ggml.pre").to_string().unwrap(), pre);
            assert_eq!(get("tokenizer.ggml.tokens").to_vec().unwrap()[262].to_string().unwrap(), "[PAD262]");
            let again = open(|entries| *entries = written.clone()).unwrap();
            assert_eq!(again.encode("ab 12 <think><s>").unwrap(), codec.encode("ab 12 <think><s>").unwrap());
            assert_eq!(again.encode_chat(&chat).unwrap(), codec.encode_chat(&chat).unwrap());
            assert!(
                codec
                    .gguf_metadata(260)
                    .unwrap_err()
                    .to_string()
                    .ends_with("is not one of the model's 260 tokens")
            );
        }
        let error = TextCodec::bytes().unwrap().gguf_metadata(257).map(drop).unwrap_err().to_string();
        assert!(error.contains("has no name in GGUF files"), "{error}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let wrong = |key: &str, value| open(|m| set(m, key, value)).map(drop).unwrap_err();
        let text = |t: &str| Some(Value::String(t.into()));
        assert_eq!(
            wrong("tokenizer.ggml.pre", text("llama-bpe")),
            "tokenizer: m.gguf: tokenizer.ggml.pre: `llama-bpe` is not supported (supported: smollm, qwen2)"
        );
        assert_eq!(
            wrong("tokenizer.ggml.model", text("llama")),
            "tokenizer: m.gguf: tokenizer.ggml.model: `llama` is not supported, only byte-level BPE (`gpt2`)"
        );
        assert_eq!(
            wrong("tokenizer.ggml.tokens", None),
            "tokenizer: m.gguf: tokenizer.ggml.tokens is missing"
        );
        let lists = [
            ("tokenizer.ggml.merges", vec!["ab"], "\"ab\" is not a pair"),
            ("tokenizer.ggml.merges", vec!["a b c"], "\"a b c\" is not a pair"),
            ("tokenizer.ggml.tokens", vec!["a"; 261], "\"a\" is there twice"),
            ("tokenizer.ggml.tokens", vec!["a"], "token_type has 261 entries for 1 tokens"),
        ];
        for (key, list, why) in lists {
            let list = Value::Array(list.into_iter().map(|t| Value::String(t.into())).collect());
            let error = wrong(key, Some(list));
            assert!(
                error.starts_with("tokenizer: m.gguf: tokenizer.ggml.") && error.ends_with(why),
                "{error}"
            );
        }
        assert!(
            wrong("tokenizer.ggml.merges", Some(Value::U32(3))).contains("tokenizer.ggml.merges: not a vec")
        );
        assert_eq!(
            wrong("tokenizer.ggml.bos_token_id", Some(Value::U32(999))),
            "tokenizer: m.gguf: tokenizer.ggml.bos_token_id: 999 is not one of the 261 tokens"
        );
        let error = wrong("tokenizer.chat_template", text("{% if %}"));
        assert!(error.starts_with("chat template: ") && error.ends_with("(line 1)"), "{error}");
    }
}
