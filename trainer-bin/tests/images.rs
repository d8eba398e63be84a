//! `generate` and `chat` with images and videos.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use common::{fail, only_run, small, succeed, trainer};
use serde_json::{Value, json};

const GREEDY: [&str; 4] = ["--temperature", "0", "--max-new-tokens", "5"];

/// An image in the format that takes no encoder.
fn picture(path: &Path, bright: u8) {
    let pixels = (0..32 * 32 * 3).map(|i| if i % 7 == 0 { bright } else { (i % 64) as u8 });
    let bytes: Vec<u8> = b"P6 32 32 255\n".iter().copied().chain(pixels).collect();
    std::fs::write(path, bytes).unwrap();
}

/// The vision ids as control tokens, and a template that uses them. It leaves out answers: an untrained model draws
/// control tokens, whose names have characters that the tokenizer of the task lacks.
fn teach_to_chat(model: &Path) {
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
        "{% for m in messages if m.role == 'user' %}{% if m.content is string %}{{ m.content }}\
        {% else %}{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% else %}\
        <|vision_start|><|{{ p.type }}_pad|><|vision_end|>{% endif %}{% endfor %}{% endif %}{% endfor %}"
            .into();
    std::fs::write(model.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    std::fs::write(model.join("tokenizer_config.json"), config.to_string()).unwrap();
}

fn seeing(dir: &Path) -> std::path::PathBuf {
    let set = [
        "run.steps=1",
        "model.architecture=qwen3_vl",
        "model.num_attention_heads=2",
        "model.num_key_value_heads=2",
        "model.head_dim=16",
        "model.mrope_section=[4,2,2]",
        "model.vision_hidden_size=16",
        "model.vision_intermediate_size=24",
        "model.vision_num_heads=2",
        "model.initializer_range=0.5",
        "data.task=shapes",
        "update.routing=natural",
    ];
    succeed(&mut small(dir, &set));
    only_run(dir).join("ckpt/step-000001")
}

#[test]
fn a_model_is_shown_images() {
    let dir = tempfile::tempdir().unwrap();
    let model = seeing(&dir.path().join("runs"));
    let file = |name: &str, bright| {
        let path = dir.path().join(name);
        picture(&path, bright);
        path.display().to_string()
    };
    let (dark, light) = (file("dark.ppm", 0), file("light.ppm", 255));
    let frames = dir.path().join("frames");
    std::fs::create_dir(&frames).unwrap();
    picture(&frames.join("1.ppm"), 0);
    picture(&frames.join("2.ppm"), 200);
    let frames = frames.display().to_string();
    let generate = |more: &[&str]| {
        let out = succeed(trainer().arg("generate").arg(&model).args(["s=", "--seed", "3"]).args(more));
        String::from_utf8(out.stdout).unwrap()
    };
    // Before it has a template: the image stands before the text. The same picture gives the same answer.
    let seen = generate(&["--image", &dark]);
    assert_eq!(seen, generate(&["--image", &dark]));
    assert_ne!(seen, generate(&["--image", &light]), "the picture does not count");

    teach_to_chat(&model);
    // This template adds nothing else, so the prompt is the same, and the answer, in which control tokens now have names.
    let mut named = generate(&["--image", &dark]);
    for name in ["image_pad", "video_pad", "vision_start", "vision_end"] {
        named = named.replace(&format!("<|{name}|>"), "");
    }
    assert_eq!(named, seen);
    // A frame's time takes characters that the tokenizer of the task lacks.
    let (code, line) = fail(trainer().arg("generate").arg(&model).args(["s=", "--video", &frames]));
    assert_eq!((code, line.contains("timestamp: tokenizer: no token for '<'")), (2, true), "{line}");

    let chat = |lines: String, more: &[&str]| {
        let mut command = trainer();
        command.arg("chat").arg(&model).args(GREEDY).args(more);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let _ = child.stdin.take().unwrap().write_all(lines.as_bytes());
        let out = child.wait_with_output().unwrap();
        (String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap())
    };
    let (by_option, _) = chat("s=\n".into(), &["--image", &dark]);
    let (by_line, said) = chat(format!("/image /nowhere.png\n/image {dark}\ns=\n"), &[]);
    assert_eq!(by_option.lines().count(), 1, "{by_option:?}");
    assert_eq!(by_line, by_option);
    assert!(said.contains("error: /nowhere.png: No such file"), "{said}");
    // Images of earlier turns stay in the conversation.
    let (two_turns, said) = chat(format!("s=\n/image {light}\nx=\n"), &["--image", &dark]);
    assert_eq!(two_turns.lines().next(), by_option.lines().next());
    assert_eq!(two_turns.lines().count(), 2, "{said}");
}

#[test]
fn what_cannot_be_shown_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("a.ppm");
    picture(&image, 9);
    let text = dir.path().join("text");
    succeed(&mut small(&text, &["run.steps=1"]));
    let show = |model: &Path, image: &Path| {
        fail(trainer().arg("generate").arg(model).arg("1").arg("--image").arg(image))
    };
    let (code, line) = show(&only_run(&text), &image);
    assert_eq!((code, line.contains("this one reads text alone")), (2, true), "{line}");

    let model = seeing(&dir.path().join("runs"));
    let (code, line) = show(&model, Path::new("/nowhere.png"));
    assert_eq!((code, line.as_str()), (2, "error: /nowhere.png: No such file or directory (os error 2)"));
    std::fs::write(dir.path().join("notes.png"), "no image").unwrap();
    let (code, line) = show(&model, &dir.path().join("notes.png"));
    assert_eq!((code, line.contains("notes.png: is of no image format")), (2, true), "{line}");
    std::fs::remove_file(model.join("video_preprocessor_config.json")).unwrap();
    let (code, line) = show(&model, &image);
    assert_eq!((code, line.contains("video_preprocessor_config.json: No such file")), (2, true), "{line}");
}
