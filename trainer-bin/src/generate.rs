//! `generate` and `chat`: text as it comes.

use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use qwen3::Decoder;
use rollout_engine::{Engine, EngineOptions, Finish, Generation, Request, SamplingParams};
use serde_json::{Map, Value};
use train_core::chat::{Chat, message};
use train_core::data::TextCodec;
use train_core::setup;

use crate::cli::SamplingArgs;
use crate::inspect::model_of;

pub(crate) fn generate(path: &Path, prompt: &str, sampling: &SamplingArgs) -> Result<()> {
    let mut speaker = Speaker::open(path, sampling)?;
    let mut out = std::io::stdout().lock();
    write!(out, "{prompt}")?;
    let tokens = speaker.codec.encode(prompt)?;
    speaker.speak(tokens, &mut out)?;
    Ok(())
}

pub(crate) fn chat(path: &Path, system: &str, variables: &[String], sampling: &SamplingArgs) -> Result<()> {
    let variables = variables.iter().map(|v| variable(v)).collect::<Result<Map<String, Value>>>()?;
    let mut speaker = Speaker::open(path, sampling)?;
    speaker.codec.chat_template()?;
    let system = (!system.is_empty()).then(|| message("system", system));
    let mut chat = Chat {
        messages: system.into_iter().collect(),
        add_generation_prompt: true,
        variables,
        clock: true,
        ..Chat::default()
    };
    let (input, mut out) = (std::io::stdin(), std::io::stdout().lock());
    let ask = input.is_terminal();
    if ask {
        eprintln!("One line a turn; Ctrl-D ends.");
    }
    let mut lines = input.lock().lines();
    loop {
        if ask {
            eprint!("> ");
        }
        let Some(line) = lines.next().transpose().context("standard input")? else { return Ok(()) };
        if line.trim().is_empty() {
            continue;
        }
        chat.messages.push(message("user", &line));
        // Rendered anew: a template may leave out the thoughts of past turns.
        let tokens = speaker.codec.encode_chat(&chat)?;
        let text = speaker.speak(tokens, &mut out)?;
        chat.messages.push(message("assistant", &text));
    }
}

/// `NAME=VALUE`, where the value is JSON, or else a text.
fn variable(assignment: &str) -> Result<(String, Value)> {
    let Some((name, value)) = assignment.split_once('=') else {
        bail!("--variable {assignment}: expected NAME=VALUE")
    };
    Ok((name.to_owned(), serde_json::from_str(value).unwrap_or_else(|_| value.into())))
}

/// A model that answers aloud.
struct Speaker {
    codec: TextCodec,
    engine: Engine,
    params: Arc<SamplingParams>,
    seed: u64,
    /// Responses so far: each has random numbers of its own.
    turn: u64,
}

impl Speaker {
    fn open(path: &Path, sampling: &SamplingArgs) -> Result<Self> {
        let path = model_of(path)?;
        let model = setup::read_model(&path)?;
        let codec = setup::read_codec(&path, model.config())?;
        let decoder = Decoder::new(&model, model.config().max_position_embeddings)?;
        let params = SamplingParams {
            temperature: sampling.temperature,
            top_k: sampling.top_k,
            top_p: sampling.top_p,
            min_p: sampling.min_p,
            max_new_tokens: sampling.max_new_tokens,
            stop_tokens: codec.stop_tokens().to_vec(),
        };
        let engine = Engine::new(Arc::new(decoder), EngineOptions::default())?;
        Ok(Self { codec, engine, params: Arc::new(params), seed: sampling.seed, turn: 0 })
    }

    /// Writes the response to `prompt` while it is drawn, and returns it.
    fn speak(&mut self, prompt: Vec<u32>, out: &mut impl Write) -> Result<String> {
        let (id, params) = (self.turn, self.params.clone());
        self.turn += 1;
        self.engine.submit(Request {
            id,
            prompt,
            items: Default::default(),
            samples: vec![[id, 0]],
            seed: self.seed,
            params,
        })?;
        let mut written = 0;
        let generation: Generation = loop {
            if let Some(generation) = self.engine.step()?.pop() {
                break generation;
            }
            if let Some(tokens) = self.engine.so_far(id, 0) {
                let text = self.codec.decode(tokens);
                write!(out, "{}", fresh(&text, &mut written))?;
                out.flush()?;
            }
        };
        let text = self.codec.decode(&generation.tokens);
        writeln!(out, "{}", &text[written.min(text.len())..])?;
        if generation.finish == Finish::Length {
            eprintln!("(cut at {} tokens)", generation.tokens.len());
        }
        Ok(text)
    }
}

/// What of `text` is not written yet and will not change: not the first bytes of a character that is still to come.
fn fresh<'a>(text: &'a str, written: &mut usize) -> &'a str {
    let whole = text.trim_end_matches(char::REPLACEMENT_CHARACTER);
    let new = &whole[(*written).min(whole.len())..];
    *written = whole.len().max(*written);
    new
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn characters_are_written_whole() {
        let codec = TextCodec::bytes().unwrap();
        let ids = codec.encode("né 漢!").unwrap();
        let mut written = 0;
        let parts: Vec<String> =
            (1..=ids.len()).map(|n| fresh(&codec.decode(&ids[..n]), &mut written).to_owned()).collect();
        assert_eq!(parts, ["n", "", "é", " ", "", "", "漢", "!"]);
    }

    #[test]
    fn variables_are_json_or_text() {
        assert_eq!(variable("a=false").unwrap(), ("a".into(), Value::Bool(false)));
        assert_eq!(variable("a=b=c").unwrap(), ("a".into(), Value::from("b=c")));
        assert_eq!(variable("a").unwrap_err().to_string(), "--variable a: expected NAME=VALUE");
    }
}
