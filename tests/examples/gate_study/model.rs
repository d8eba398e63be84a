//! A small model of the texts, over a byte-level BPE of its own.

use std::error::Error;
use std::path::Path;

use candle_core::Tensor;
use qwen3::{Architecture, Batch, ForwardOptions, VisualItems};
use rand::Rng;
use rollout_engine::random::{Stream, keyed_rng};
use serde::{Deserialize, Serialize};
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, TokenizerBuilder};
use train_core::config::Layers;
use train_core::data::TextCodec;
use train_core::optim::{AdamW, Gradients};
use train_core::policy::Policy;

use super::config::Config;
use super::data::{Corpus, Part};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A byte-level BPE of the training texts; its stop token is 0.
pub(crate) fn tokenizer(config: &Config, corpus: &Corpus, dir: &Path) -> Result<TextCodec> {
    let stop = AddedToken::from("<eos>", true);
    let mut trainer = BpeTrainerBuilder::new()
        .vocab_size(config.model.vocabulary)
        .min_frequency(2)
        .show_progress(false)
        .special_tokens(vec![stop])
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let byte_level = ByteLevel::new(false, false, true);
    let mut tokenizer = TokenizerBuilder::<
        BPE,
        tokenizers::NormalizerWrapper,
        ByteLevel,
        tokenizers::PostProcessorWrapper,
        ByteLevel,
    >::default()
    .with_model(BPE::default())
    .with_pre_tokenizer(Some(byte_level))
    .with_decoder(Some(byte_level))
    .build()
    .map_err(|e| e.to_string())?;
    let texts: Vec<&str> =
        (0..config.languages.len()).flat_map(|l| corpus.articles(l, Part::Training)).collect();
    tokenizer.train(&mut trainer, texts.into_iter()).map_err(|e| e.to_string())?;
    tokenizer.save(dir.join("tokenizer.json"), false).map_err(|e| e.to_string())?;
    Ok(TextCodec::from_dir(dir, vec![0])?)
}

/// Tokens of a text that was cut, with probability `cuts`, before each of its characters: another segmentation each time.
fn encode(codec: &TextCodec, text: &str, cuts: f64, rng: &mut impl Rng) -> Result<Vec<u32>> {
    let (mut tokens, mut start) = (Vec::new(), 0);
    for (at, _) in text.char_indices().skip(1) {
        if rng.random_bool(cuts) {
            tokens.extend(codec.encode(&text[start..at])?);
            start = at;
        }
    }
    tokens.extend(codec.encode(&text[start..])?);
    Ok(tokens)
}

/// What texts are drawn from, as the model is trained on them: articles with what is mixed in.
pub(crate) struct Source<'a> {
    pub(crate) config: &'a Config,
    pub(crate) corpus: &'a Corpus,
    pub(crate) codec: &'a TextCodec,
    pub(crate) part: Part,
    /// How often a text is of each language that is not mixed, where one is of each that is.
    pub(crate) weight: u32,
}

impl Source<'_> {
    pub(crate) fn texts(&self, seed: u64, count: usize) -> Result<Vec<Vec<u32>>> {
        let mut rng = keyed_rng(seed, Stream::Data, [self.part as u64, 0]);
        let weight = |mixed: bool| if mixed { 1 } else { self.weight };
        let weights: u32 = self.config.languages.iter().map(|l| weight(l.mixed)).sum();
        let mut texts = Vec::with_capacity(count);
        while texts.len() < count {
            let mut at = rng.random_range(0..weights);
            let drawn = self.config.languages.iter().position(|l| {
                let found = at < weight(l.mixed);
                at = at.saturating_sub(weight(l.mixed));
                found
            });
            let language = drawn.unwrap_or(0);
            let articles = self.corpus.articles(language, self.part);
            let article = articles[rng.random_range(0..articles.len())];
            let text = match self.config.languages[language].mixed {
                true => self.corpus.mixed(article, &self.config.mixing, &mut rng),
                false => article.to_owned(),
            };
            let tokens = encode(self.codec, &text, self.config.training.cuts, &mut rng)?;
            let length = self.config.training.length + 1;
            let start = rng.random_range(0..=tokens.len().saturating_sub(length));
            let part = &tokens[start..(start + length).min(tokens.len())];
            if part.len() > 1 {
                texts.push(part.to_vec());
            }
        }
        Ok(texts)
    }
}

/// Mean `−log p` of the tokens of texts.
fn loss(policy: &Policy, texts: &[Vec<u32>], options: &ForwardOptions) -> Result<Tensor> {
    let batch = Batch::pack(texts.iter().map(|t| &t[..t.len() - 1]));
    let targets: Vec<u32> = texts.iter().flat_map(|t| &t[1..]).copied().collect();
    let hidden = policy.forward(&batch, &VisualItems::default(), options)?;
    let scores = policy.text().log_probs(&hidden.states, &targets, 1.0)?;
    Ok(scores.logp.sum_all()?.affine(-1.0 / targets.len() as f64, 0.0)?)
}

/// How far a model was trained.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Trained {
    /// Steps until the lowest loss on development texts.
    pub(crate) steps: usize,
    /// That loss.
    pub(crate) development_loss: f64,
    /// The loss on the training texts of the step before.
    pub(crate) training_loss: f64,
}

/// A model of `texts`, trained with AdamW and a cosine; `dir` receives the weights of the lowest loss on `development`.
pub(crate) fn train(
    config: &Config,
    vocab_size: usize,
    [texts, development]: [&[Vec<u32>]; 2],
    seed: u64,
    dir: &Path,
) -> Result<Trained> {
    let m = &config.model;
    let architecture = qwen3::Config {
        architecture: Architecture::Qwen3,
        vocab_size,
        hidden_size: m.hidden_size,
        intermediate_size: m.intermediate_size,
        num_hidden_layers: m.layers,
        num_attention_heads: m.heads,
        num_key_value_heads: m.kv_heads,
        head_dim: m.hidden_size / m.heads,
        rms_norm_eps: 1e-6,
        rope_theta: 1e4,
        max_position_embeddings: m.context,
        tie_word_embeddings: true,
        initializer_range: 0.05,
        eos_token_ids: vec![0],
        pad_token_id: None,
        moe: None,
    };
    let model = qwen3::Model::init(architecture, |i| keyed_rng(seed, Stream::Init, [i as u64, 0]))?;
    let policy = Policy::from(model);
    let mut update = Layers::defaults().resolve()?.update;
    update.weight_decay = config.training.weight_decay;
    let mut optimizer = AdamW::new(&policy, &update);
    let steps = texts.len() / config.training.sequences;
    let mut best = Trained { steps: 0, development_loss: f64::INFINITY, training_loss: f64::NAN };
    for (step, texts) in texts.chunks(config.training.sequences).take(steps).enumerate() {
        let loss = loss(&policy, texts, &ForwardOptions::default())?;
        let training_loss = f64::from(loss.to_scalar::<f32>()?);
        let mut gradients = Gradients::new(&policy);
        gradients.add(policy.gradients(&loss, &VisualItems::default())?);
        let norm = gradients.norm();
        let warm = ((step + 1) as f64 / 20.0).min(1.0);
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * step as f64 / steps as f64).cos());
        let scale = if norm > 1.0 { 1.0 / norm } else { 1.0 };
        optimizer.step(&policy, &gradients, config.training.lr * warm * cosine, scale)?;
        if (step + 1) % config.training.eval_every == 0 {
            let options = ForwardOptions { no_grad: true, ..ForwardOptions::default() };
            let development_loss = f64::from(self::loss(&policy, development, &options)?.to_scalar::<f32>()?);
            eprintln!(
                "  seed {seed}: step {} of {steps}, loss {training_loss:.3}, development {development_loss:.3}",
                step + 1
            );
            if development_loss < best.development_loss {
                best = Trained { steps: step + 1, development_loss, training_loss };
                policy.save(dir, qwen3::SaveType::F32)?;
            }
        }
    }
    Ok(best)
}
