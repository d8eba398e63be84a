//! Prompts with images and videos: what is recorded is what training computes, however the prompt is cut.
#![allow(missing_docs, clippy::unwrap_used)]

use std::sync::Arc;

use moe_routing::{MissingPolicy, RouteMode};
use qwen3::decode::{Context, Row};
use qwen3::vision::processor::{Image, PixelBounds, Processor, Prompt, Video};
use qwen3::{Batch, Config, Decoder, ForwardOptions, Model, VisualItems, VlConfig, VlModel};
use rollout_engine::random::{Stream, keyed_rng};
use rollout_engine::{Engine, EngineOptions, Error, Request, SamplingParams};
use serde_json::json;

fn model(moe: bool, scheme: &str) -> VlModel {
    // Of the two key/value heads, under `mhrope`, one follows rows and one columns.
    let section = if scheme == "mhrope" { [0, 1, 1] } else { [4, 2, 2] };
    let config = json!({
        "model_type": if moe { "qwen3_vl_moe" } else { "qwen3_vl" },
        "image_token_id": 59, "video_token_id": 60, "vision_start_token_id": 61, "vision_end_token_id": 62,
        "tie_word_embeddings": true,
        "text_config": {
            "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "rms_norm_eps": 1e-6,
            "max_position_embeddings": 160, "initializer_range": 0.3,
            "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 12, "mlp_only_layers": [1],
            "rope_parameters": {
                "rope_theta": 5e6, "mrope_section": section, "mrope_interleaved": true, "position_scheme": scheme
            }
        },
        "vision_config": {
            "depth": 3, "hidden_size": 24, "num_heads": 2, "intermediate_size": 40, "in_channels": 3,
            "patch_size": 4, "temporal_patch_size": 2, "spatial_merge_size": 2, "out_hidden_size": 32,
            "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 2]
        }
    });
    let config = VlConfig::from_json(&config.to_string()).unwrap();
    VlModel::init(config, |i| keyed_rng(3, Stream::Init, [i as u64, 0])).unwrap()
}

fn image(height: usize, width: usize, seed: usize) -> Image {
    let grey: Vec<u8> = (0..height * width).map(|i| ((i * i + seed) * 7 % 251) as u8).collect();
    Image::from_grey(height, width, &grey).unwrap()
}

/// An image, a video of two groups of frames, another image.
fn prompt(model: &VlModel) -> Prompt {
    let mut processor = Processor::released(model.config().clone());
    processor.image_bounds = PixelBounds { least: 64, most: 1024 };
    processor.video_bounds = PixelBounds { least: 64, most: 4096 };
    let video = Video::whole((0..4).map(|i| image(16, 24, i)).collect(), Some(2.0)).unwrap();
    let tokens = [3, 17, 61, 59, 62, 42, 61, 60, 62, 8, 61, 59, 62, 25];
    let encode = |text: &str| Ok(vec![text.len() as u32, 9]);
    processor.prompt(&tokens, &[image(16, 24, 5), image(30, 17, 9)], &[video], encode).unwrap()
}

fn params(max_new_tokens: usize) -> Arc<SamplingParams> {
    Arc::new(SamplingParams { max_new_tokens, ..SamplingParams::default() })
}

fn request(id: u64, prompt: Prompt, samples: u64, params: &Arc<SamplingParams>) -> Request {
    let samples = (0..samples).map(|i| [id, i]).collect();
    Request { id, prompt: prompt.tokens, items: prompt.items, samples, seed: 5, params: params.clone() }
}

fn engine(model: &VlModel, max_rows: usize) -> Engine {
    let decoder = Arc::new(Decoder::with_vision(model, 160, qwen3::Precision::F32).unwrap());
    Engine::new(
        decoder,
        EngineOptions { max_rows, record_routes: true, policy_version: 2, ..Default::default() },
    )
    .unwrap()
}

/// Log-probabilities recorded while sampling are, bit for bit, those of the training forward, for every family and
/// position scheme, with prompts cut inside images, and when a placeholder's id is drawn.
#[test]
fn recorded_log_probabilities_are_those_of_the_training_forward() {
    let mut drawn = Vec::new();
    for (moe, scheme, max_rows) in [
        (false, "qwen3_vl", 256),
        (false, "qwen3_vl", 5),
        (true, "qwen3_vl", 7),
        (false, "mrope_i", 64),
        (false, "mhrope", 9),
        (false, "vanilla", 11),
    ] {
        let model = model(moe, scheme);
        let prompt = prompt(&model);
        let other = Prompt { tokens: vec![5, 6, 7], items: VisualItems::default() };
        let requests = vec![request(0, prompt.clone(), 4, &params(12)), request(1, other, 2, &params(4))];
        let generations = engine(&model, max_rows).generate(requests).unwrap();
        for g in generations.iter().filter(|g| g.request == 0) {
            drawn.extend_from_slice(&g.tokens);
            let tokens = [&prompt.tokens[..], &g.tokens].concat();
            let inputs = &tokens[..tokens.len() - 1];
            // The prompt's length goes with its items: what is drawn is text.
            let routing = RouteMode::Record { policy_version: 2 };
            let options = ForwardOptions { routing, no_grad: true };
            let hidden = model.forward(&Batch::pack([inputs]), &prompt.items, &options).unwrap();
            let scores = model.log_probs(&hidden.states, &tokens[1..], 1.0).unwrap();
            let from = prompt.tokens.len() - 1;
            let what = format!("{scheme}, experts {moe}, {max_rows} rows");
            assert_eq!(&scores.logp.to_vec1::<f32>().unwrap()[from..], &g.logps[..], "{what}");
            assert_eq!(&scores.entropy.to_vec1::<f32>().unwrap()[from..], &g.entropies[..], "{what}");
            assert_eq!((g.routes.as_ref(), moe), (hidden.traces.first(), g.routes.is_some()), "{what}");
            let Some(trace) = &g.routes else { continue };
            let traces = [trace];
            let routing = RouteMode::Replay { traces: &traces, missing: MissingPolicy::Error };
            let options = ForwardOptions { routing, no_grad: true };
            let replayed = model.forward(&Batch::pack([inputs]), &prompt.items, &options).unwrap();
            let states = |t: candle_core::Tensor| t.to_vec2::<f32>().unwrap();
            assert!(states(replayed.states) == states(hidden.states), "{what}");
        }
    }
    assert!(drawn.iter().any(|t| [59, 60].contains(t)), "no placeholder was drawn: choose another seed");
}

/// Pixels matter to what is sampled, and the sample of a text prompt is the text model's.
#[test]
fn images_count_and_text_is_the_text_models() {
    let model = model(false, "qwen3_vl");
    let first = prompt(&model);
    let mut second = first.clone();
    second.items.image_pixels = second.items.image_pixels.map(|p| (p * 0.5).unwrap());
    let sample = |prompt: &Prompt| {
        engine(&model, 64).generate(vec![request(0, prompt.clone(), 1, &params(8))]).unwrap().remove(0)
    };
    assert_ne!(sample(&first).logps, sample(&second).logps);

    let text = Prompt { tokens: vec![5, 6, 7], items: VisualItems::default() };
    let decoder = Arc::new(Decoder::new(model.text(), 160).unwrap());
    let mut plain = Engine::new(decoder, EngineOptions::default()).unwrap();
    let expected = plain.generate(vec![request(0, text.clone(), 1, &params(8))]).unwrap().remove(0);
    assert_eq!(sample(&text), expected);
}

#[test]
fn requests_that_do_not_fit_are_named() {
    let vl = model(false, "qwen3_vl");
    let good = prompt(&vl);
    let fault = |engine: &mut Engine, prompt: Prompt| match engine.submit(request(7, prompt, 1, &params(2))) {
        Err(Error::Request { id: 7, reason }) => reason,
        other => panic!("{other:?}"),
    };
    let cut = Prompt { tokens: good.tokens[..8].to_vec(), items: good.items.clone() };
    let without = Prompt { items: VisualItems::default(), ..good.clone() };
    let mut longer = good.clone();
    longer.items.prompt_lens = vec![];
    longer.tokens.push(59);
    for (prompt, reason) in
        [(cut, "prompt of"), (without, "all 0 image grids"), (longer, "all 2 image grids")]
    {
        let found = fault(&mut engine(&vl, 8), prompt);
        assert!(found.contains(reason), "{found}, expected: {reason}");
    }
    let config = Config { max_position_embeddings: 160, ..vl.config().text.clone() };
    let text = Model::init(config, |i| keyed_rng(3, Stream::Init, [i as u64, 0])).unwrap();
    let decoder = Arc::new(Decoder::new(&text, 160).unwrap());
    let mut plain = Engine::new(decoder.clone(), EngineOptions::default()).unwrap();
    assert!(fault(&mut plain, good.clone()).contains("no vision tower"));

    // A decoder takes a context only with the prompt's own tokens, and only where there is a tower.
    let vision = Decoder::with_vision(&vl, 160, qwen3::Precision::F32).unwrap();
    let read = Arc::new(vision.prompt(&good.tokens, &good.items).unwrap());
    for (decoder, token, reason) in [
        (&vision, 4, "token 0 of a prompt is 3, but 4 was fed"),
        (&*decoder, 3, "needs a model with a vision tower"),
    ] {
        let mut context = Context::reading(read.clone());
        let error = decoder.step(&[Row { context: 0, token }], &mut [&mut context]).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    assert!(decoder.prompt(&good.tokens, &good.items).is_err());
}
