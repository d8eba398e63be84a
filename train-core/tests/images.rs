//! Reinforcement learning on a user's own images and videos, from a data file.
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::Path;

use image::codecs::gif::GifEncoder;
use image::{Delay, Frame, Rgb, RgbImage, Rgba, RgbaImage};
use serde_json::{Value, json};
use train_core::config::{Config, Layers};
use train_core::data::{FileSource, PromptSource, TextCodec};
use train_core::rundir::RunDir;
use train_core::trainer::Trainer;

const SETTINGS: &[&str] = &[
    "model.architecture=\"qwen3_vl\"",
    "model.hidden_size=32",
    "model.intermediate_size=48",
    "model.num_attention_heads=4",
    "model.num_key_value_heads=2",
    "model.head_dim=16",
    "model.mrope_section=[4, 2, 2]",
    "model.vision_hidden_size=16",
    "model.vision_intermediate_size=24",
    "model.vision_num_heads=2",
    "model.max_position_embeddings=256",
    "data.task=\"\"",
    "data.eval_share=0.3",
    "rollout.prompts=3",
    "reward.parts=[{ kind = \"regex\", pattern = \"[A-z]\", weight = 1.0 }]",
    "rollout.group=3",
    "rollout.max_new_tokens=4",
    "loss.objective=\"grpo\"",
    "advantage.estimator=\"group_mean\"",
    "eval.prompts=2",
    "eval.every=1",
    "ckpt.every=1",
    "run.steps=3",
];

fn config(data: &Path, more: &[&str]) -> Config {
    let mut layers = Layers::defaults();
    let path = format!("data.path={:?}", data.display().to_string());
    let all = SETTINGS.iter().copied().chain([path.as_str()]).chain(more.iter().copied());
    all.for_each(|setting| layers.set(setting, "--set").unwrap());
    layers.resolve().unwrap()
}

/// Two images, a directory of frames and an animation, in the folder of the data file.
fn media(dir: &Path) {
    let picture = |n: u32| RgbImage::from_fn(24, 16, |x, y| Rgb([(x * n) as u8, (y * 9) as u8, n as u8]));
    picture(3).save(dir.join("a.png")).unwrap();
    picture(7).save_with_format(dir.join("b.jpg"), image::ImageFormat::Jpeg).unwrap();
    std::fs::create_dir(dir.join("walk")).unwrap();
    for n in 0..4 {
        picture(n).save(dir.join(format!("walk/{n}.png"))).unwrap();
    }
    let mut gif = GifEncoder::new(std::fs::File::create(dir.join("clip.gif")).unwrap());
    for n in 0..8u8 {
        let frame = RgbaImage::from_pixel(24, 16, Rgba([n * 20, 90, 0, 255]));
        gif.encode_frame(Frame::from_parts(frame, 0, 0, Delay::from_numer_denom_ms(250, 1))).unwrap();
    }
}

fn lines(dir: &Path, rows: &[Value]) -> std::path::PathBuf {
    let path = dir.join("data.jsonl");
    std::fs::write(&path, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
    path
}

fn weights(trainer: &Trainer) -> Vec<u32> {
    let values = |p: &qwen3::Parameter| p.var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    trainer.learner.model.parameters().iter().flat_map(values).map(f32::to_bits).collect()
}

/// Images and videos of every kind train: log-probabilities of sampling and training agree bit for bit, a resumed run ends as
/// an uninterrupted one, and its checkpoint knows how prompts with images are made.
#[test]
fn own_images_and_videos_train() {
    let dir = tempfile::tempdir().unwrap();
    media(dir.path());
    let data = lines(
        dir.path(),
        &[
            json!({ "prompt": "one?", "images": "a.png", "answer": "x" }),
            json!({ "prompt": "two?", "images": ["a.png", "b.jpg"], "answer": "x" }),
            json!({ "prompt": "walk?", "videos": [{ "path": "walk", "fps": 2 }], "answer": "x" }),
            json!({ "prompt": "clip?", "videos": ["clip.gif"], "images": ["b.jpg"], "answer": "x" }),
            json!({ "prompt": "text?", "answer": "x" }),
        ],
    );
    let mut whole =
        Trainer::create(config(&data, &[]), RunDir::create(dir.path(), "whole").unwrap()).unwrap();
    let start = weights(&whole);
    for _ in 0..3 {
        let report = whole.step().unwrap();
        assert_eq!(report.row.get("mismatch/max_abs"), Some(0.0));
    }
    assert!(weights(&whole) != start, "nothing was learned");

    let mut cut = Trainer::create(config(&data, &[]), RunDir::create(dir.path(), "cut").unwrap()).unwrap();
    cut.step().unwrap();
    let path = cut.dir.path().to_owned();
    let processor = cut.codec.processor().unwrap().clone();
    drop(cut);
    let (mut resumed, _) = Trainer::resume(&path, false).unwrap();
    assert_eq!(*resumed.codec.processor().unwrap(), processor);
    resumed.step().unwrap();
    resumed.step().unwrap();
    assert!(weights(&resumed) == weights(&whole), "the weights differ");
}

/// A batch without any item trains the decoder, and leaves the tower as it is.
#[test]
fn text_alone_trains_the_decoder() {
    let dir = tempfile::tempdir().unwrap();
    media(dir.path());
    let text = |n: usize| json!({ "prompt": format!("t{n}?"), "answer": "x" });
    let data = lines(dir.path(), &[text(1), text(2), text(3), text(4)]);
    let mut trainer = Trainer::create(
        config(&data, &["update.weight_decay=0.0"]),
        RunDir::create(dir.path(), "run").unwrap(),
    )
    .unwrap();
    let values = |trainer: &Trainer, tower: bool| -> Vec<Vec<f32>> {
        let parameters = trainer.learner.model.parameters().iter();
        let of = parameters.filter(|p| p.name.starts_with("model.visual.") == tower);
        of.map(|p| p.var.flatten_all().unwrap().to_vec1().unwrap()).collect()
    };
    let before = (values(&trainer, false), values(&trainer, true));
    for _ in 0..2 {
        trainer.step().unwrap();
    }
    assert!(values(&trainer, false) != before.0, "nothing was learned");
    assert!(values(&trainer, true) == before.1, "the tower moved without a gradient");
}

/// A video's prompt is groups of frames behind their times, and its pixels reach the policy: other pixels, other
/// log-probabilities; the samples of a video train on what they were sampled with.
#[test]
fn videos_are_read_frame_by_frame() {
    let dir = tempfile::tempdir().unwrap();
    media(dir.path());
    let walk = json!({ "prompt": "w", "videos": { "path": "walk", "fps": 2 } });
    let data = lines(dir.path(), &[walk.clone(), walk]);
    let config = config(&data, &["data.eval_share=0.0"]);
    let (codec, model) = train_core::setup::codec_and_model(&config).unwrap();
    let mut source = FileSource::new(&config.data, &codec, 0, 2, 4, 256).unwrap();
    let (prompt, _) = source.next(1).unwrap().remove(0);
    let items = prompt.images.get().unwrap();
    let grid = items.video_grids[0];
    // 16 by 24 pixels in patches of 4, four frames in two groups.
    assert_eq!((grid.t, grid.h, grid.w), (2, 4, 6));
    let first = model.vocab_size as u32 - 4;
    let (video, open, close) = (first + 1, first + 2, first + 3);
    let group = |text: &str| [codec.encode(text).unwrap(), vec![open], vec![video; 6], vec![close]].concat();
    let expected = [group("<0.2 seconds>"), group("<1.2 seconds>"), codec.encode("w").unwrap()].concat();
    assert_eq!(prompt.tokens, expected);

    let mut trainer = Trainer::create(config, RunDir::create(dir.path(), "walks").unwrap()).unwrap();
    let report = trainer.step().unwrap();
    assert!(report.row.get("mismatch/max_abs").unwrap() <= 1e-5);
    assert!(report.row.get("policy/entropy").unwrap() > 0.0);
}

/// A checkpoint with a chat template: messages with images, through its control tokens.
#[test]
fn conversations_show_images() {
    let dir = tempfile::tempdir().unwrap();
    media(dir.path());
    let data = lines(dir.path(), &[json!({ "prompt": "a", "images": "a.png" })]);
    let config = |more: &[&str]| config(&data, more);
    let mut trainer =
        Trainer::create(config(&["data.eval_share=0.0"]), RunDir::create(dir.path(), "run").unwrap())
            .unwrap();
    trainer.step().unwrap();
    let model = trainer.dir.path().join("ckpt/step-000001");
    let first = teach_to_chat(&model);
    let (image, open, close) = (first, first + 2, first + 3);
    let path = format!("model.path={:?}", model.display().to_string());
    let settings = [path.as_str(), "data.chat=true", "data.eval_share=0.0"];

    let shown = |rows: &[Value], more: &[&str]| {
        let data = lines(dir.path(), rows);
        let all = [&settings[..], more].concat();
        let mut config = config(&all);
        config.data.path = data.display().to_string();
        let (codec, _) = train_core::setup::codec_and_model(&config).unwrap();
        FileSource::new(&config.data, &codec, 0, 2, 4, 256).map(|mut s| s.next(1).unwrap().remove(0).0)
    };
    let codec = TextCodec::from_dir(&model, vec![0]).unwrap();
    let text = |text: &str| codec.encode(text).unwrap();
    let picture = [vec![open], vec![image; 6], vec![close]].concat();
    let asked = [text("[user:"), picture.clone(), text("what is <|image_pad|>?]")].concat();
    let question = "what is <|image_pad|>?";
    // The text of a user makes no placeholder; a column's image stands before it, or where a message says.
    let parts = json!([{ "type": "image", "image": "a.png" }, { "type": "text", "text": question }]);
    for row in [
        json!({ "prompt": question, "images": ["a.png"] }),
        json!({ "prompt": [{ "role": "user", "content": question }], "images": ["a.png"] }),
        json!({ "prompt": [{ "role": "user", "content": parts }] }),
    ] {
        let prompt = shown(&[row], &[]).unwrap();
        assert_eq!(prompt.tokens, asked);
        assert_eq!(prompt.text, question);
        assert_eq!(prompt.images.get().unwrap().image_grids.len(), 1);
    }
    let told = shown(&[json!({ "prompt": "x", "images": "a.png" })], &["data.system=\"look\""]).unwrap();
    assert_eq!(told.tokens, [text("[system:look][user:"), picture, text("x]")].concat());

    for (row, reason) in [
        (json!({ "prompt": "x", "images": "no.png" }), "data.jsonl, line 1: "),
        (json!({ "prompt": "x", "images": "data.jsonl" }), "data.jsonl: is of no image format that is read"),
        (json!({ "prompt": "x", "images": 3 }), "image: 3 is neither a path nor an object with one"),
        (json!({ "prompt": [{ "role": "user", "content": [{ "type": "image" }] }] }), "more images than"),
    ] {
        let error = shown(&[row], &[]).err().unwrap().to_string();
        assert!(error.contains(reason), "{error}");
    }
    // Without a file that says how images are made, the file is named.
    std::fs::remove_file(model.join("preprocessor_config.json")).unwrap();
    let error = shown(&[json!({ "prompt": "x", "images": "a.png" })], &[]).err().unwrap().to_string();
    assert!(error.contains("preprocessor_config.json: No such file"), "{error}");
}

/// Gives a checkpoint of bytes the control tokens of its vision ids and a template; returns the first of the ids.
fn teach_to_chat(model: &Path) -> u32 {
    let read = |name: &str| -> Value {
        serde_json::from_str(&std::fs::read_to_string(model.join(name)).unwrap()).unwrap()
    };
    let first = read("config.json")["image_token_id"].as_u64().unwrap();
    let mut tokenizer = read("tokenizer.json");
    for (i, name) in ["image_pad", "video_pad", "vision_start", "vision_end"].iter().enumerate() {
        let token = json!({ "id": first + i as u64, "content": format!("<|{name}|>"), "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false, "special": true });
        tokenizer["added_tokens"].as_array_mut().unwrap().push(token);
    }
    let mut config = read("tokenizer_config.json");
    config["chat_template"] =
        "{% for m in messages %}[{{ m.role }}:{% if m.content is string %}{{ m.content }}\
        {% else %}{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% else %}\
        <|vision_start|><|{{ p.type }}_pad|><|vision_end|>{% endif %}{% endfor %}{% endif %}]{% endfor %}"
            .into();
    std::fs::write(model.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    std::fs::write(model.join("tokenizer_config.json"), config.to_string()).unwrap();
    first as u32
}

/// A model of text is asked for what it cannot do.
#[test]
fn a_model_of_text_says_so() {
    let dir = tempfile::tempdir().unwrap();
    media(dir.path());
    let data = lines(dir.path(), &[json!({ "prompt": "a", "images": "a.png" })]);
    let config = config(&data, &["model.architecture=\"qwen3\""]);
    let (codec, _) = train_core::setup::codec_and_model(&config).unwrap();
    let error = FileSource::new(&config.data, &codec, 0, 2, 4, 256).err().unwrap().to_string();
    assert!(error.contains("line 1: images and videos need a model with a vision tower"), "{error}");
}
