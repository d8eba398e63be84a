//! Hugging Face weight files: one, or shards with an index.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::weights::{NamedTensor, ParameterSpec, SaveType};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The weight files of a directory, each with the tensors that the index has in it, when there is an index.
fn files(dir: &Path) -> Result<Vec<(PathBuf, Option<BTreeSet<String>>)>> {
    let index = dir.join(INDEX);
    if !index.exists() {
        return Ok(vec![(dir.join(SINGLE), None)]);
    }
    let text = std::fs::read_to_string(&index).map_err(|e| Error::io(&index, e))?;
    let value: Value = serde_json::from_str(&text).map_err(|e| Error::format(&index, e))?;
    let Some(map) = value.get("weight_map").and_then(Value::as_object) else {
        return Err(Error::format(&index, "has no `weight_map`"));
    };
    let mut files: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (tensor, file) in map {
        let Some(name) = file.as_str() else {
            return Err(Error::format(&index, format!("has {file} as the file of {tensor}")));
        };
        // A shard lies beside its index: a name that leads elsewhere would read any file.
        if Path::new(name).file_name() != Some(name.as_ref()) {
            return Err(Error::format(
                &index,
                format!("`{name}` is not the name of a file in this directory"),
            ));
        }
        files.entry(name).or_default().insert(tensor.clone());
    }
    Ok(files.into_iter().map(|(name, tensors)| (dir.join(name), Some(tensors))).collect())
}

fn decode(view: &TensorView<'_>) -> std::result::Result<Vec<f32>, String> {
    let data = view.data();
    let half = |f: fn([u8; 2]) -> f32| data.as_chunks::<2>().0.iter().map(|b| f(*b)).collect();
    match view.dtype() {
        Dtype::F32 => Ok(data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
        Dtype::BF16 => Ok(half(|b| half::bf16::from_le_bytes(b).to_f32())),
        Dtype::F16 => Ok(half(|b| half::f16::from_le_bytes(b).to_f32())),
        other => Err(format!("has type {other:?}, expected F32, BF16 or F16")),
    }
}

/// [`crate::weights::load`] for any list of parameters, whose first is the token embedding.
pub(crate) fn load_specs(dir: &Path, specs: Vec<ParameterSpec>) -> Result<Vec<NamedTensor>> {
    let embedding = specs.first().map(|s| s.name.clone()).unwrap_or_default();
    let wanted: BTreeMap<&str, &[usize]> =
        specs.iter().flat_map(|s| &s.parts).map(|(n, s)| (n.as_str(), s.as_slice())).collect();
    let mut found: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    let mut absent = BTreeSet::new();
    let mut problems = Vec::new();
    let mut tied_head = None;
    for (path, indexed) in files(dir)? {
        let bytes = std::fs::read(&path).map_err(|e| Error::io(&path, e))?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|e| Error::format(&path, e))?;
        let file = path.file_name().unwrap_or_default().display().to_string();
        for name in indexed.iter().flatten().filter(|name| tensors.tensor(name).is_err()) {
            problems.push(format!("{name} is not in {file}, where the index has it"));
            absent.insert(name.clone());
        }
        for (name, view) in tensors.iter() {
            if indexed.as_ref().is_some_and(|indexed| !indexed.contains(name)) {
                problems.push(format!("{name} is in {file}, where the index does not have it"));
            }
            match wanted.get(name) {
                Some(shape) if *shape == view.shape() => match decode(&view) {
                    Ok(data) => drop(found.insert(name.to_string(), data)),
                    Err(why) => problems.push(format!("{name} {why}")),
                },
                Some(shape) => problems.push(format!("{name} is {:?}, expected {shape:?}", view.shape())),
                None if name == "lm_head.weight" => tied_head = decode(&view).ok(),
                None if name.ends_with("rotary_emb.inv_freq") => {}
                None => problems.push(format!("{name} is not a tensor of this architecture")),
            }
        }
    }
    let missing = wanted.keys().filter(|n| !found.contains_key(**n) && !absent.contains(**n));
    problems.extend(missing.map(|n| format!("{n} is missing")));
    if tied_head.is_some_and(|head| found.get(&embedding) != Some(&head)) {
        problems
            .push("lm_head.weight differs from the embedding although tie_word_embeddings is true".into());
    }
    if !problems.is_empty() {
        return Err(Error::Weights { path: dir.to_path_buf(), problems });
    }
    Ok(specs
        .into_iter()
        .map(|spec| {
            let data = spec.parts.iter().flat_map(|(n, _)| found.remove(n).unwrap_or_default()).collect();
            NamedTensor { name: spec.name, shape: spec.shape, data }
        })
        .collect())
}

/// A tensor of a file, with its values.
type Part<'a> = (String, Vec<usize>, &'a [f32]);

/// [`crate::weights::save`] for any list of parameters.
pub(crate) fn save_specs(
    dir: &Path,
    specs: Vec<ParameterSpec>,
    config: &str,
    tensors: &[NamedTensor],
    save_type: SaveType,
    max_shard_size: u64,
) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
    let mut parts: Vec<Part<'_>> = Vec::new();
    for (spec, tensor) in specs.into_iter().zip(tensors) {
        let mut rest = &tensor.data[..];
        for (name, shape) in spec.parts {
            let Some((part, behind)) = rest.split_at_checked(shape.iter().product()) else {
                return Err(Error::Batch(format!("{name} has too few values for its shape {shape:?}")));
            };
            parts.push((name, shape, part));
            rest = behind;
        }
    }
    let shards = shards(parts, save_type, max_shard_size);
    let name = |index: usize| match shards.len() {
        1 => SINGLE.to_string(),
        count => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
    };
    let (mut weight_map, mut size, mut parameters) = (BTreeMap::new(), 0, 0);
    for (index, shard) in shards.iter().enumerate() {
        write_whole(&dir.join(name(index)), &serialize(dir, shard, save_type)?)?;
        for (tensor, _, values) in shard {
            weight_map.insert(tensor.clone(), name(index));
            parameters += values.len();
            size += bytes(values, save_type);
        }
    }
    // A reader follows the index, so it comes behind its shards, and goes before other files do.
    if shards.len() > 1 {
        let index = json!({
            "metadata": { "total_parameters": parameters, "total_size": size }, "weight_map": weight_map,
        });
        write_whole(&dir.join(INDEX), format!("{index:#}\n").as_bytes())?;
    }
    remove_others(dir, &(0..shards.len()).map(name).collect(), shards.len() > 1)?;
    write_whole(&dir.join("config.json"), config.as_bytes())
}

/// Bytes that values take in a file.
fn bytes(values: &[f32], save_type: SaveType) -> u64 {
    let width = match save_type {
        SaveType::F32 => 4,
        SaveType::Bf16 | SaveType::F16 => 2,
    };
    values.len() as u64 * width
}

/// Tensors in their order, in files of no more than `limit` bytes of values; a larger one has a file of its own.
fn shards<'a>(parts: Vec<Part<'a>>, save_type: SaveType, limit: u64) -> Vec<Vec<Part<'a>>> {
    let mut shards = vec![Vec::new()];
    let mut size = 0u64;
    for part in parts {
        let own = bytes(part.2, save_type);
        if size > 0 && size.saturating_add(own) > limit {
            shards.push(Vec::new());
            size = 0;
        }
        size += own;
        if let Some(shard) = shards.last_mut() {
            shard.push(part);
        }
    }
    shards
}

fn serialize(dir: &Path, shard: &[Part<'_>], save_type: SaveType) -> Result<Vec<u8>> {
    let dtype = match save_type {
        SaveType::F32 => Dtype::F32,
        SaveType::Bf16 => Dtype::BF16,
        SaveType::F16 => Dtype::F16,
    };
    let encode = |(name, _, values): &Part<'_>| -> Result<Vec<u8>> {
        Ok(match save_type {
            SaveType::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            SaveType::Bf16 => values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect(),
            SaveType::F16 => {
                let too_large = |v: &&f32| v.is_finite() && half::f16::from_f32(**v).is_infinite();
                if let Some(value) = values.iter().find(too_large) {
                    let problems = vec![format!("{name} has the value {value}, beyond the range of f16")];
                    return Err(Error::Weights { path: dir.to_path_buf(), problems });
                }
                values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect()
            }
        })
    };
    let encoded = shard.iter().map(encode).collect::<Result<Vec<_>>>()?;
    let mut views = Vec::with_capacity(shard.len());
    for ((name, shape, _), bytes) in shard.iter().zip(&encoded) {
        let view = TensorView::new(dtype, shape.clone(), bytes).map_err(|e| Error::format(dir, e))?;
        views.push((name.clone(), view));
    }
    let metadata = [("format".to_string(), "pt".to_string())].into();
    safetensors::serialize(views, Some(metadata)).map_err(|e| Error::format(dir, e))
}

/// Removes weight files of an earlier save.
fn remove_others(dir: &Path, written: &BTreeSet<String>, indexed: bool) -> Result<()> {
    let remove = |name: &str| {
        let path = dir.join(name);
        std::fs::remove_file(&path).map_err(|e| Error::io(&path, e))
    };
    if !indexed && dir.join(INDEX).exists() {
        remove(INDEX)?;
    }
    for entry in std::fs::read_dir(dir).map_err(|e| Error::io(dir, e))? {
        let name = entry.map_err(|e| Error::io(dir, e))?.file_name();
        let Some(name) = name.to_str() else { continue };
        let shard = name
            .strip_prefix("model-")
            .and_then(|rest| rest.strip_suffix(".safetensors"))
            .and_then(|rest| rest.split_once("-of-"))
            .is_some_and(|(i, n)| [i, n].iter().all(|s| s.bytes().all(|b| b.is_ascii_digit())));
        if (shard || name == SINGLE) && !written.contains(name) {
            remove(name)?;
        }
    }
    Ok(())
}

/// Writes under a temporary name, then renames.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = path.with_extension("tmp");
    let write = || {
        let mut file = std::fs::File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(|e| {
        let _ = std::fs::remove_file(&temporary);
        Error::io(path, e)
    })
}
