//! `generate` and `chat`: text as it comes.

use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use rollout_engine::{Engine, EngineOptions, Finish, Generation, Request, SamplingParams};
use serde_json::{Map, Value};
use train_core::chat::{Chat, message};
use train_core::data::{DataError, Media, MediaFile, TextCodec, message_with};
use train_core::gate::GateSetup;
use train_core::setup;
use train_core::types::Images;

use crate::cli::{MediaArgs, SamplingArgs};
use crate::inspect::model_of;

pub(crate) fn generate(path: &Path, prompt: &str, media: &MediaArgs, sampling: &SamplingArgs) -> Result<()> {
    let mut speaker = Speaker::open(path, sampling)?;
    let mut out = std::io::stdout().lock();
    let files = media.files();
    if files.is_empty() {
        let tokens = speaker.codec.encode(prompt)?;
        write!(out, "{prompt}")?;
        speaker.speak((tokens, Images::default()), &mut out)?;
        return Ok(());
    }
    let codec = &speaker.codec;
    let shown = Media::read(&files, codec.processor()?)?;
    let tokens = match codec.chat_template() {
        Ok(_) => codec.encode_chat(&Chat {
            messages: vec![message_with(&files, prompt)],
            add_generation_prompt: true,
            clock: true,
            ..Chat::default()
        })?,
        Err(_) => [codec.placeholders(&files)?, codec.encode(prompt)?].concat(),
    };
    let prompt = codec.with_media(tokens, &shown)?;
    speaker.speak(prompt, &mut out)?;
    Ok(())
}

pub(crate) fn chat(
    path: &Path,
    system: &str,
    variables: &[String],
    media: &MediaArgs,
    sampling: &SamplingArgs,
) -> Result<()> {
    let variables = variables.iter().map(|v| variable(v)).collect::<Result<Map<String, Value>>>()?;
    let mut speaker = Speaker::open(path, sampling)?;
    speaker.codec.chat_template()?;
    let mut gallery = Gallery::default();
    for file in media.files() {
        gallery.add(&speaker.codec, file)?;
    }
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
        eprintln!("One line a turn; `/image PATH` and `/video PATH` show files with the next; Ctrl-D ends.");
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
        if let Some(file) = command(&line, media) {
            // A slip of the pen does not end the conversation.
            if let Err(error) = gallery.add(&speaker.codec, file) {
                eprintln!("error: {error}");
            }
            continue;
        }
        let new = std::mem::take(&mut gallery.new);
        chat.messages.push(if new.is_empty() { message("user", &line) } else { message_with(&new, &line) });
        // Rendered anew: a template may leave out the thoughts of past turns.
        let tokens = speaker.codec.encode_chat(&chat)?;
        let prompt = speaker.codec.with_media(tokens, &gallery.shown)?;
        let text = speaker.speak(prompt, &mut out)?;
        chat.messages.push(message("assistant", &text));
    }
}

/// What a conversation shows.
#[derive(Default)]
struct Gallery {
    /// All of it.
    shown: Media,
    /// What goes with the next turn.
    new: Vec<MediaFile>,
}

impl Gallery {
    fn add(&mut self, codec: &TextCodec, file: MediaFile) -> Result<(), DataError> {
        self.shown.extend(Media::read([&file], codec.processor()?)?);
        self.new.push(file);
        Ok(())
    }
}

/// The file of a line `/image PATH` or `/video PATH`.
fn command(line: &str, media: &MediaArgs) -> Option<MediaFile> {
    let (verb, path) = line.trim().split_once(char::is_whitespace)?;
    let path = PathBuf::from(path.trim());
    match verb {
        "/image" => Some(MediaFile::Image(path)),
        "/video" => Some(media.video(path)),
        _ => None,
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
        let model = setup::read_policy(&path)?;
        let codec = setup::read_codec(&path, model.config())?;
        let decoder = model.decoder(qwen3::Precision::F32)?;
        let params = SamplingParams {
            temperature: sampling.temperature,
            top_k: sampling.top_k,
            top_p: sampling.top_p,
            min_p: sampling.min_p,
            max_new_tokens: sampling.max_new_tokens,
            stop_tokens: codec.stop_tokens().to_vec(),
        };
        let mut engine = Engine::new(Arc::new(decoder), EngineOptions::default())?;
        if let Some(folder) = &sampling.gate {
            engine = engine.with_gate(GateSetup::load(folder, &codec, model.config())?.gate(&model)?)?;
        }
        if let Some(path) = &sampling.draft {
            let draft = setup::read_policy(&model_of(path)?)?.decoder(qwen3::Precision::F32)?;
            engine = engine.with_draft(Arc::new(draft), sampling.draft_tokens)?;
        }
        Ok(Self { codec, engine, params: Arc::new(params), seed: sampling.seed, turn: 0 })
    }

    /// Writes the response to `prompt` while it is drawn, and returns it.
    fn speak(&mut self, (prompt, images): (Vec<u32>, Images), out: &mut impl Write) -> Result<String> {
        let (id, params) = (self.turn, self.params.clone());
        self.turn += 1;
        self.engine.submit(Request {
            id,
            prompt,
            items: images.items(),
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
