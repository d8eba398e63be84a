//! A small model of the texts, over a byte-level BPE of its own.

use std::error::Error;
use std::path::Path;

use qwen3::{Architecture, Batch, ForwardOptions, VisualItems};
use rand::Rng;
use rollout_engine::random::{Stream, keyed_rng};
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, TokenizerBuilder};
use train_core::config::Layers;
use train_core::data::TextCodec;
use train_core::optim::{AdamW, Gradients};
use train_core::policy::Policy;

use super::config::Config;
use super::data::Corpus;

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
    let texts: Vec<&str> = (0..config.languages.len()).flat_map(|l| corpus.articles(l, false)).collect();
    tokenizer.train(&mut trainer, texts.into_iter()).map_err(|e| e.to_string())?;
    tokenizer.save(dir.join("tokenizer.json"), false).map_err(|e| e.to_string())?;
    Ok(TextCodec::from_dir(dir, vec![0])?)
}

/// Texts as the model is trained on them: languages by weight, articles with what is mixed in.
pub(crate) fn texts(
    config: &Config,
    corpus: &Corpus,
    codec: &TextCodec,
    seed: u64,
    count: usize,
) -> Result<Vec<Vec<u32>>> {
    let mut rng = keyed_rng(seed, Stream::Data, [0, 0]);
    let weights: u32 = config.languages.iter().map(|l| l.weight).sum();
    let mut texts = Vec::with_capacity(count);
    while texts.len() < count {
        let mut at = rng.random_range(0..weights);
        let drawn = config.languages.iter().position(|l| {
            let found = at < l.weight;
            at = at.saturating_sub(l.weight);
            found
        });
        let language = drawn.unwrap_or(0);
        let articles = corpus.articles(language, false);
        let article = articles[rng.random_range(0..articles.len())];
        let text = match config.languages[language].mixed {
            true => corpus.mixed(article, &config.mixing, &mut rng),
            false => article.to_owned(),
        };
        let tokens = codec.encode(&text)?;
        let length = config.training.length + 1;
        let start = rng.random_range(0..=tokens.len().saturating_sub(length));
        let part = &tokens[start..(start + length).min(tokens.len())];
        if part.len() > 1 {
            texts.push(part.to_vec());
        }
    }
    Ok(texts)
}

/// A model of these texts, trained with AdamW and a cosine; also its last training loss.
pub(crate) fn train(
    config: &Config,
    codec: &TextCodec,
    texts: &[Vec<u32>],
    seed: u64,
) -> Result<(Policy, f64)> {
    let m = &config.model;
    let architecture = qwen3::Config {
        architecture: Architecture::Qwen3,
        vocab_size: codec.vocab_size(),
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
    let mut optimizer = AdamW::new(&policy, &Layers::defaults().resolve()?.update);
    let steps = config.training.steps;
    let mut last = 0.0;
    for (step, texts) in texts.chunks(config.training.sequences).take(steps).enumerate() {
        let batch = Batch::pack(texts.iter().map(|t| &t[..t.len() - 1]));
        let targets: Vec<u32> = texts.iter().flat_map(|t| &t[1..]).copied().collect();
        let hidden = policy.forward(&batch, &VisualItems::default(), &ForwardOptions::default())?;
        let scores = policy.log_probs(&hidden.states, &targets, 1.0)?;
        let loss = scores.logp.sum_all()?.affine(-1.0 / targets.len() as f64, 0.0)?;
        last = f64::from(loss.to_scalar::<f32>()?);
        let mut gradients = Gradients::new(&policy);
        gradients.add(policy.gradients(&loss, &VisualItems::default())?);
        let norm = gradients.norm();
        let warm = ((step + 1) as f64 / 20.0).min(1.0);
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * step as f64 / steps as f64).cos());
        let scale = if norm > 1.0 { 1.0 / norm } else { 1.0 };
        optimizer.step(&policy, &gradients, config.training.lr * warm * cosine, scale)?;
        if (step + 1) % 40 == 0 {
            eprintln!("  model, seed {seed}: step {} of {steps}, loss {last:.3}", step + 1);
        }
    }
    Ok((policy, last))
}
