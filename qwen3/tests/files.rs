//! Model directories that are missing, broken or made for something else: one clear line each.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::{random_model, tiny, vl};
use proptest::prelude::*;
use qwen3::{Architecture, Config, Error, Model, SaveType, VlModel};

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

/// Every file of a directory.
fn contents(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<(String, Vec<u8>)> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

/// In every type, in one file and in shards, with layers of experts and dense ones; for Qwen3-VL too.
#[test]
fn what_was_saved_and_loaded_is_saved_again_byte_for_byte() {
    let dense = tempfile::tempdir().unwrap();
    random_model(tiny(Architecture::Qwen3), 4).save(dense.path(), SaveType::F32).unwrap();
    let moe = tempfile::tempdir().unwrap();
    random_model(tiny(Architecture::Qwen3Moe), 5).save(moe.path(), SaveType::F32).unwrap();
    let vision = [false, true].map(|moe| vl::model(&vl::config_json(moe)).0);
    for save_type in [SaveType::F32, SaveType::Bf16, SaveType::F16] {
        for limit in [u64::MAX, 20_000, 1] {
            if limit == 1 && save_type != SaveType::Bf16 {
                continue;
            }
            let again = |from: &Path, to: &Path| match from.join("config.json") {
                path if std::fs::read_to_string(&path).unwrap().contains("vision_config") => {
                    VlModel::load(from).unwrap().save_sharded(to, save_type, limit).unwrap();
                }
                _ => Model::load(from).unwrap().save_sharded(to, save_type, limit).unwrap(),
            };
            for dir in [&dense, &moe, &vision[0], &vision[1]] {
                let [first, second] = [(); 2].map(|()| tempfile::tempdir().unwrap());
                again(dir.path(), first.path());
                again(first.path(), second.path());
                let files = contents(first.path());
                assert!(files == contents(second.path()));
                let shards = files.iter().filter(|(name, _)| name.ends_with(".safetensors")).count();
                assert_eq!((shards > 1, shards > 30), (limit < u64::MAX, limit == 1));
                // A tensor of the embedding is 8 192 bytes in f32: the limit holds for all files of more than one.
                let room = limit.max(100_000).saturating_add(20_000);
                assert!(files.iter().all(|(_, bytes)| bytes.len() as u64 <= room));
            }
        }
    }
}

/// As `huggingface_hub` 2.4 cuts: in order, and never a tensor.
#[test]
fn shards_hold_what_fits_and_the_index_says_where() {
    let dir = tempfile::tempdir().unwrap();
    let model = random_model(tiny(Architecture::Qwen3), 4);
    model.save_sharded(dir.path(), SaveType::Bf16, 10_000).unwrap();
    let index = std::fs::read(dir.path().join("model.safetensors.index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    assert_eq!(index["metadata"]["total_size"], 2 * 47_520);
    assert_eq!(index["metadata"]["total_parameters"], 47_520);
    let map = index["weight_map"].as_object().unwrap();
    let mut counts = Vec::new();
    let shards = contents(dir.path()).into_iter().filter(|(name, _)| name.ends_with(".safetensors"));
    let shards: Vec<_> = shards.collect();
    for (i, (name, bytes)) in shards.iter().enumerate() {
        assert_eq!(*name, format!("model-{:05}-of-{:05}.safetensors", i + 1, shards.len()));
        let file = safetensors::SafeTensors::deserialize(bytes).unwrap();
        let size: usize = file.tensors().iter().map(|(_, view)| view.data().len()).sum();
        assert!(size <= 10_000 && file.names().iter().all(|tensor| map[*tensor] == name.as_str()));
        counts.push(file.len());
    }
    // What `split_torch_state_dict_into_shards` makes of these tensors.
    assert_eq!(counts, [3, 6, 4, 5, 3, 3, 5, 3, 3, 5, 3, 3, 1]);
    assert_eq!(counts.iter().sum::<usize>(), map.len());

    // A save over it leaves nothing of it.
    model.save_sharded(dir.path(), SaveType::Bf16, 20_000).unwrap();
    assert_eq!(contents(dir.path()).len(), 2 + 5);
    Model::load(dir.path()).unwrap();
    model.save(dir.path(), SaveType::Bf16).unwrap();
    let names: Vec<String> = contents(dir.path()).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["config.json", "model.safetensors"]);
}

#[test]
fn values_beyond_half_precision_are_refused() {
    let model = random_model(tiny(Architecture::Qwen3), 4);
    let norm = model.parameters().iter().find(|p| p.name == "model.norm.weight").unwrap();
    norm.var.set(&(norm.var.as_tensor() * 7e4).unwrap()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let error = model.save(dir.path(), SaveType::F16).unwrap_err().to_string();
    assert!(error.contains("model.norm.weight has the value 70000, beyond the range of f16"), "{error}");
}

/// Shards and an index that do not fit together name the file and the tensor.
#[test]
fn shards_at_fault_are_named() {
    let fault = |f: &dyn Fn(&Path, &mut serde_json::Value)| {
        let dir = tempfile::tempdir().unwrap();
        random_model(tiny(Architecture::Qwen3), 4).save_sharded(dir.path(), SaveType::F32, 100_000).unwrap();
        let path = dir.path().join("model.safetensors.index.json");
        let mut index = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        f(dir.path(), &mut index);
        std::fs::write(path, index.to_string()).unwrap();
        load_error(dir.path())
    };
    let (first, second) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
    let has = |error: String, parts: &[&str]| {
        assert!(parts.iter().all(|part| error.contains(part)), "{error}, expected: {parts:?}");
    };
    has(fault(&|dir, _| std::fs::remove_file(dir.join(second)).unwrap()), &[second, "No such file"]);
    let moved = fault(&|_, index| index["weight_map"]["model.norm.weight"] = first.into());
    has(
        moved,
        &[
            &format!("model.norm.weight is not in {first}, where the index has it"),
            &format!("model.norm.weight is in {second}, where the index does not have it"),
        ],
    );
    let unlisted =
        fault(&|_, index| drop(index["weight_map"].as_object_mut().unwrap().remove("model.norm.weight")));
    has(unlisted, &[&format!("model.norm.weight is in {second}, where the index does not have it")]);
    let extra = fault(&|_, index| index["weight_map"]["model.other.weight"] = first.into());
    has(extra, &[&format!("model.other.weight is not in {first}, where the index has it")]);
    // The first shard stands in the place of the second: its tensors are there twice, the others nowhere.
    let twice = fault(&|dir, _| {
        std::fs::copy(dir.join(first), dir.join(second)).unwrap();
    });
    has(
        twice,
        &[
            &format!("model.embed_tokens.weight is in {second}, where the index does not have it"),
            &format!("model.norm.weight is not in {second}, where the index has it"),
        ],
    );
    let cut = fault(&|dir, _| {
        let bytes = std::fs::read(dir.join(second)).unwrap();
        std::fs::write(dir.join(second), &bytes[..bytes.len() - 1]).unwrap();
    });
    has(cut, &[second]);
    has(
        fault(&|_, index| index["weight_map"]["model.norm.weight"] = 7.into()),
        &["index.json", "has 7 as the file of model.norm.weight"],
    );
    has(fault(&|_, index| *index = serde_json::json!([])), &["index.json", "has no `weight_map`"]);
}

/// Headers that lie: an error that names the file, whatever stands in them.
#[test]
fn broken_headers_name_the_file() {
    let dir = saved(tiny(Architecture::Qwen3));
    let path = dir.path().join("model.safetensors");
    let good = std::fs::read(&path).unwrap();
    let header = u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let with = |header: &[u8], data: &[u8]| [&(header.len() as u64).to_le_bytes(), header, data].concat();
    let text = std::str::from_utf8(&good[8..8 + header]).unwrap();
    let edited = |from: &str, to: &str| {
        assert!(text.contains(from));
        with(text.replacen(from, to, 1).as_bytes(), &good[8 + header..])
    };
    let files = [
        Vec::new(),
        good[..7].to_vec(),
        good[..8 + header / 2].to_vec(),
        [&u64::MAX.to_le_bytes(), &good[8..]].concat(),
        [&(good.len() as u64).to_le_bytes(), &good[8..]].concat(),
        with(b"{", &[]),
        with(&[0xff; 16], &[]),
        edited("\"dtype\":\"F32\"", "\"dtype\":\"F33\""),
        edited("\"data_offsets\":[0,", "\"data_offsets\":[8,"),
        edited("\"shape\":[64,32]", "\"shape\":[64,33]"),
        edited("\"shape\":[64,32]", "\"shape\":[18446744073709551615,32]"),
        [&good[..], &[0]].concat(),
    ];
    for (case, bytes) in files.into_iter().enumerate() {
        std::fs::write(&path, bytes).unwrap();
        let error = load_error(dir.path());
        assert!(error.contains("model.safetensors: "), "case {case}: {error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// A byte of the header or the index changed: a model, or an error that names the directory.
    #[test]
    fn broken_bytes_are_an_error_or_a_model(at in any::<prop::sample::Index>(), byte in any::<u8>(), of_index in any::<bool>()) {
        thread_local! {
            static DIR: (tempfile::TempDir, Vec<(String, Vec<u8>)>) = {
                let dir = tempfile::tempdir().unwrap();
                random_model(tiny(Architecture::Qwen3), 4).save_sharded(dir.path(), SaveType::Bf16, 50_000).unwrap();
                let files = contents(dir.path());
                (dir, files)
            };
        }
        DIR.with(|(dir, files)| {
            let (name, mut bytes) = files[if of_index { 3 } else { 1 }].clone();
            let header = if of_index { bytes.len() } else { 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize };
            bytes[at.index(header)] = byte;
            std::fs::write(dir.path().join(&name), bytes).unwrap();
            if let Err(error) = Model::load(dir.path()) {
                let named = error.to_string().starts_with(&dir.path().display().to_string());
                assert!(named && matches!(error, Error::Io { .. } | Error::Format { .. } | Error::Weights { .. }), "{error}");
            }
            std::fs::write(dir.path().join(&name), &files[if of_index { 3 } else { 1 }].1).unwrap();
        });
    }
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
