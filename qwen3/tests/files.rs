//! Model directories that are missing, broken or made for something else: one clear line each.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::{random_model, tiny};
use qwen3::{Architecture, Config, Error, Model, SaveType};

fn load_error(dir: &Path) -> String {
    match Model::load(dir) {
        Ok(_) => panic!("loaded"),
        Err(e) => e.to_string(),
    }
}

fn saved(config: Config) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    random_model(config, 3).save(dir.path(), SaveType::F32).unwrap();
    dir
}

fn edit(dir: &Path, f: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>)) {
    let path = dir.join("config.json");
    let mut value: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    f(value.as_object_mut().unwrap());
    std::fs::write(path, value.to_string()).unwrap();
}

#[test]
fn directories_at_fault_are_named() {
    assert!(load_error(Path::new("/nowhere/model")).starts_with("/nowhere/model/config.json: "));
    let dir = saved(tiny(Architecture::Qwen3));
    std::fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    assert!(load_error(dir.path()).contains("model.safetensors: No such file"));
    let dir = saved(tiny(Architecture::Qwen3));
    std::fs::write(dir.path().join("config.json"), "{ \"model_type\": ").unwrap();
    assert!(load_error(dir.path()).starts_with("model configuration: config.json: EOF"));
    let dir = saved(tiny(Architecture::Qwen3));
    let path = dir.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert!(load_error(dir.path()).contains("model.safetensors: "));
}

#[test]
fn configurations_at_fault_are_named() {
    let fault = |f: &dyn Fn(&mut serde_json::Map<String, serde_json::Value>)| {
        let dir = saved(tiny(Architecture::Qwen3Moe));
        edit(dir.path(), |c| f(c));
        load_error(dir.path())
    };
    let set = |name: &'static str, value: serde_json::Value| {
        fault(&move |c| drop(c.insert(name.into(), value.clone())))
    };
    let unset = |name: &'static str| fault(&move |c| drop(c.remove(name)));
    assert_eq!(unset("rms_norm_eps"), "model configuration: rms_norm_eps: is missing");
    assert_eq!(unset("norm_topk_prob"), "model configuration: norm_topk_prob: is missing");
    assert_eq!(
        set("model_type", "gpt2".into()),
        "unsupported architecture `gpt2` (supported: llama, qwen3, qwen3_moe)"
    );
    assert_eq!(
        set("attention_bias", true.into()),
        "model configuration: attention_bias: true is not supported"
    );
    assert!(set("hidden_act", "gelu".into()).contains("\"gelu\" is not supported"));
    assert!(set("num_hidden_layers", 1_000_000_000.into()).contains("is 1000000000, expected at most 4096"));
    assert!(set("num_experts", 70_000.into()).contains("is 70000, expected at most 65535"));
    assert!(set("num_experts_per_tok", 9.into()).contains("is 9, expected 1 to num_experts = 8"));
    assert!(set("mlp_only_layers", serde_json::json!([4])).contains("layer 4 is beyond the 4 layers"));
    assert!(set("num_key_value_heads", 3.into()).contains("3 does not divide the 4 query heads"));
    assert!(set("vocab_size", "many".into()).contains("vocab_size: expected a whole number, got \"many\""));
    let rope = serde_json::json!({ "rope_type": "llama3", "rope_theta": 5e5 });
    assert!(set("rope_parameters", rope.clone()).contains("`llama3` is not supported"));
    // A null is no value, under whichever name the next one stands.
    let scaled = fault(&|c| {
        c.insert("rope_parameters".into(), serde_json::Value::Null);
        c.insert("rope_scaling".into(), rope.clone());
    });
    assert!(scaled.contains("`llama3` is not supported"), "{scaled}");
}

#[test]
fn weights_that_do_not_fit_are_reported_at_once() {
    let dir = saved(tiny(Architecture::Qwen3));
    edit(dir.path(), |c| {
        c.insert("num_hidden_layers".into(), 5.into());
        c.insert("vocab_size".into(), 65.into());
    });
    let Err(Error::Weights { problems, .. }) = Model::load(dir.path()) else { panic!("loaded") };
    assert!(problems.contains(&"model.embed_tokens.weight is [64, 32], expected [65, 32]".to_string()));
    assert!(problems.contains(&"model.layers.4.mlp.gate_proj.weight is missing".to_string()));
    let dir = saved(tiny(Architecture::Qwen3));
    edit(dir.path(), |c| drop(c.insert("num_hidden_layers".into(), 3.into())));
    assert!(
        load_error(dir.path())
            .contains("model.layers.3.mlp.gate_proj.weight is not a tensor of this architecture")
    );
}

#[test]
fn an_index_that_leads_out_of_its_directory_is_refused() {
    let dir = saved(tiny(Architecture::Qwen3));
    let index = dir.path().join("model.safetensors.index.json");
    for name in ["../model.safetensors", "/etc/hostname", "a/b.safetensors", "..", ""] {
        std::fs::write(
            &index,
            serde_json::json!({ "weight_map": { "model.norm.weight": name } }).to_string(),
        )
        .unwrap();
        let error = load_error(dir.path());
        assert!(error.contains(&format!("`{name}` is not the name of a file in this directory")), "{error}");
    }
}

#[test]
fn a_bf16_model_survives_the_round_trip_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    random_model(tiny(Architecture::Qwen3Moe), 4).save(dir.path(), SaveType::Bf16).unwrap();
    let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    let first = (read("model.safetensors"), read("config.json"));
    Model::load(dir.path()).unwrap().save(dir.path(), SaveType::Bf16).unwrap();
    assert!(first == (read("model.safetensors"), read("config.json")));
    assert!(String::from_utf8(first.1).unwrap().contains("\"torch_dtype\": \"bfloat16\""));
}

#[test]
fn eos_tokens_come_from_the_generation_config() {
    let dir = saved(tiny(Architecture::Qwen3));
    assert_eq!(Config::from_dir(dir.path()).unwrap().eos_token_ids, [1]);
    std::fs::write(dir.path().join("generation_config.json"), r#"{ "eos_token_id": [2, 5] }"#).unwrap();
    assert_eq!(Config::from_dir(dir.path()).unwrap().eos_token_ids, [2, 5]);
}

#[cfg(unix)]
#[test]
fn a_full_or_read_only_disk_leaves_the_old_file() {
    let dir = saved(tiny(Architecture::Qwen3));
    let before = std::fs::read(dir.path().join("model.safetensors")).unwrap();
    // A directory in the way of the temporary file makes the write fail for any user.
    std::fs::create_dir(dir.path().join("model.tmp")).unwrap();
    let error =
        random_model(tiny(Architecture::Qwen3), 9).save(dir.path(), SaveType::F32).unwrap_err().to_string();
    assert!(error.contains("model.safetensors: "), "{error}");
    assert_eq!(before, std::fs::read(dir.path().join("model.safetensors")).unwrap());
}
