//! Numbers that peers' own code gave: losses and gradients of TRL, logits and gradients of transformers.
//!
//! Walks `GOLDEN_DIR` (default: this crate's `golden` folder). Cases that were never seen before run unchanged; an
//! unknown `kind` or field is a failure, so that no case passes by being ignored.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use policy_loss::{Advantages, LossConfig, Normalizer, Real, TokenBatch};
use qwen3::weights::parameter_specs;
use qwen3::{Batch, Error, ForwardOptions, Model};
use safetensors::SafeTensors;
use serde_json::{Map, Value, json};

fn golden_dir() -> PathBuf {
    match std::env::var_os("GOLDEN_DIR") {
        Some(dir) => {
            let dir = PathBuf::from(dir);
            // Given relative to the workspace, as the default is; cargo runs tests in the crate's folder.
            let from_workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(&dir);
            if dir.is_absolute() || !from_workspace.exists() { dir } else { from_workspace }
        }
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("golden"),
    }
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let read = std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut paths: Vec<PathBuf> = read.map(|e| e.unwrap().path()).collect();
    paths.sort();
    paths
}

const CASE_FIELDS: [&str; 14] = [
    "kind",
    "name",
    "source",
    "objective",
    "aggregation",
    "kl",
    "correction",
    "logp",
    "logp_old",
    "logp_mu",
    "logp_ref",
    "mask",
    "adv",
    "expect",
];
const EXPECT_FIELDS: [&str; 4] = ["loss", "grad_logp", "clip_low_frac", "clip_high_frac"];

fn only(object: &Value, known: &[&str], what: &str) -> Result<(), String> {
    let fields = object.as_object().ok_or_else(|| format!("{what} is not an object"))?;
    match fields.keys().find(|k| !known.contains(&k.as_str())) {
        Some(unknown) => Err(format!("unknown field `{unknown}` in {what}")),
        None => Ok(()),
    }
}

/// A `[N, T]` array as its rows one after the other, and `T`.
fn matrix(case: &Value, name: &str) -> Option<(Vec<f64>, usize)> {
    let rows = case.get(name)?.as_array()?;
    let flat = rows.iter().flat_map(|r| r.as_array().unwrap()).map(|v| v.as_f64().unwrap()).collect();
    Some((flat, rows.first().map_or(0, |r| r.as_array().unwrap().len())))
}

fn policy_loss_case(case: &Value) -> Result<(), String> {
    only(case, &CASE_FIELDS, "the case")?;
    only(&case["expect"], &EXPECT_FIELDS, "expect")?;
    let mut config = Map::from_iter([
        ("objective".to_owned(), case["objective"].clone()),
        ("aggregation".to_owned(), case["aggregation"].clone()),
        // The peers compute with whatever they are given.
        ("allow_positive_logp".to_owned(), json!(true)),
        ("log_ratio_clamp".to_owned(), Value::Null),
    ]);
    for term in ["kl", "correction"] {
        if let Some(value) = case.get(term) {
            config.insert(term.to_owned(), value.clone());
        }
    }
    if let Some(kl) = config.get_mut("kl").and_then(Value::as_object_mut) {
        kl.entry("clamp").or_insert(json!(false));
    }
    let config: LossConfig = serde_json::from_value(Value::Object(config)).map_err(|e| e.to_string())?;
    in_type::<f64>(case, &config, 1e-9, 1e-9)?;
    in_type::<f32>(case, &config, 1e-5, 1e-5)
}

fn in_type<F: Real>(
    case: &Value,
    config: &LossConfig,
    loss_tolerance: f64,
    tolerance: f64,
) -> Result<(), String> {
    let narrow = |name: &str| matrix(case, name).map(|(v, _)| v.into_iter().map(F::of).collect::<Vec<F>>());
    let (logp, width) = matrix(case, "logp").ok_or("no logp")?;
    let logp: Vec<F> = logp.into_iter().map(F::of).collect();
    let rows = logp.len() / width.max(1);
    let offsets: Vec<usize> = (0..=rows).map(|i| i * width).collect();
    let mask: Vec<bool> = matrix(case, "mask").ok_or("no mask")?.0.iter().map(|m| *m != 0.0).collect();
    let adv = case["adv"].as_array().ok_or("no adv")?;
    let per_token = adv.first().is_some_and(Value::is_array);
    let adv: Vec<F> = if per_token {
        narrow("adv").ok_or("no adv")?
    } else {
        adv.iter().map(|a| F::of(a.as_f64().unwrap())).collect()
    };
    let advantages = if per_token { Advantages::PerToken(&adv) } else { Advantages::PerSequence(&adv) };
    let (old, mu, reference) = (narrow("logp_old"), narrow("logp_mu"), narrow("logp_ref"));
    let batch = TokenBatch {
        logp_old: old.as_deref(),
        logp_mu: mu.as_deref(),
        logp_ref: reference.as_deref(),
        mask: Some(&mask),
        ..TokenBatch::new(&offsets, &logp, advantages)
    };
    let loss = config.clone().validate().map_err(|e| e.to_string())?;
    let out = loss.evaluate(&batch, &Normalizer::default()).map_err(|e| e.to_string())?;
    let expect = &case["expect"];
    let wanted = expect["loss"].as_f64().ok_or("no expected loss")?;
    if (out.loss - wanted).abs() > loss_tolerance * wanted.abs().max(1e-2) {
        return Err(format!("loss {}, expected {wanted}", out.loss));
    }
    let (gradient, _) = matrix(expect, "grad_logp").ok_or("no expected gradient")?;
    for (i, (found, wanted)) in out.grad_logp.iter().zip(&gradient).enumerate() {
        let found: f64 = (*found).into();
        if (found - wanted).abs() > tolerance * wanted.abs().max(1.0) {
            return Err(format!("gradient {i} is {found}, expected {wanted}"));
        }
    }
    if out.grad_logp.len() != gradient.len() {
        return Err(format!("{} gradients, expected {}", out.grad_logp.len(), gradient.len()));
    }
    for side in ["low", "high"] {
        let Some(wanted) = expect.get(format!("clip_{side}_frac")).and_then(Value::as_f64) else { continue };
        let names = [format!("clip/{side}_frac"), format!("cispo/{side}_frac")];
        let found = names.iter().find_map(|n| out.metrics.get(n)).ok_or("no clip share")?;
        if (found - wanted).abs() > 1e-6 {
            return Err(format!("clip_{side}_frac is {found}, expected {wanted}"));
        }
    }
    Ok(())
}

#[test]
fn policy_losses() {
    let files: Vec<PathBuf> = entries(&golden_dir())
        .into_iter()
        .filter(|p| {
            let name = p.file_name().unwrap().to_string_lossy().into_owned();
            name.starts_with("policy_loss") && name.ends_with(".json")
        })
        .collect();
    assert!(!files.is_empty(), "no policy_loss*.json in {}", golden_dir().display());
    let (mut count, mut failures) = (0, Vec::new());
    for file in files {
        let cases: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        for (i, case) in cases.as_array().unwrap().iter().enumerate() {
            count += 1;
            let result = match case["kind"].as_str() {
                Some("policy_loss") => policy_loss_case(case),
                other => Err(format!("unknown kind {other:?}")),
            };
            if let Err(reason) = result {
                failures.push(format!("{} case {i} ({}): {reason}", file.display(), case["name"]));
            }
        }
    }
    println!("{count} cases");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

struct Expected {
    numbers: BTreeMap<String, (Vec<usize>, Vec<f64>)>,
}

impl Expected {
    fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let numbers = tensors
            .iter()
            .map(|(name, view)| {
                use safetensors::Dtype;
                let data = view.data();
                let values = match view.dtype() {
                    Dtype::F32 => {
                        data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b).into()).collect()
                    }
                    Dtype::F64 => data.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
                    Dtype::I64 => {
                        data.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b) as f64).collect()
                    }
                    Dtype::I32 => {
                        data.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b).into()).collect()
                    }
                    other => panic!("{name} has type {other:?}"),
                };
                (name.to_owned(), (view.shape().to_vec(), values))
            })
            .collect();
        Self { numbers }
    }

    fn take(&mut self, name: &str) -> Option<(Vec<usize>, Vec<f64>)> {
        self.numbers.remove(name)
    }
}

#[track_caller]
fn close(what: &str, found: &[f64], wanted: &[f64], tolerance: f64) {
    assert_eq!(found.len(), wanted.len(), "{what}: another number of values");
    for (i, (f, w)) in found.iter().zip(wanted).enumerate() {
        assert!((f - w).abs() <= tolerance, "{what}[{i}] is {f}, expected {w}");
    }
}

fn wide(tensor: &candle_core::Tensor) -> Vec<f64> {
    tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f64::from).collect()
}

fn model_case(dir: &Path, model: &Model) {
    let mut expected = Expected::read(&dir.join("expected.safetensors"));
    let text: Value =
        serde_json::from_str(&std::fs::read_to_string(dir.join("expected.json")).unwrap()).unwrap();
    only(&text, &["source", "mean_nll", "grad_norms"], "expected.json").unwrap();
    let (shape, ids) = expected.take("input_ids").unwrap();
    let (sequences, len) = (shape[0], shape[1]);
    let ids: Vec<u32> = ids.into_iter().map(|v| v as u32).collect();
    let batch = Batch::pack(ids.chunks(len));
    let hidden = model.forward(&batch, &ForwardOptions::default()).unwrap();
    close("logits", &wide(&model.logits(&hidden.states).unwrap()), &expected.take("logits").unwrap().1, 1e-4);

    // The last row of a sequence predicts nothing.
    let targets: Vec<u32> = (0..ids.len()).map(|i| if (i + 1) % len == 0 { 0 } else { ids[i + 1] }).collect();
    let scores = model.log_probs(&hidden.states, &targets, 1.0).unwrap();
    let predicts: Vec<f32> = (0..ids.len()).map(|i| if (i + 1) % len == 0 { 0.0 } else { 1.0 }).collect();
    let logp: Vec<f64> = wide(&scores.logp)
        .into_iter()
        .enumerate()
        .filter(|(i, _)| (i + 1) % len != 0)
        .map(|(_, v)| v)
        .collect();
    close("logp", &logp, &expected.take("logp").unwrap().1, 1e-4);
    let mean_nll = -logp.iter().sum::<f64>() / logp.len() as f64;
    close("mean_nll", &[mean_nll], &[text["mean_nll"].as_f64().unwrap()], 1e-5);
    if let Some((shape, wanted)) = expected.take("router_logits") {
        let found: Vec<f64> = hidden.router_logits.iter().flat_map(wide).collect();
        assert_eq!(shape[0], hidden.router_logits.len(), "router_logits: another number of layers");
        close("router_logits", &found, &wanted, 1e-4);
    }
    assert!(expected.numbers.is_empty(), "unknown tensors {:?}", expected.numbers.keys());

    let weight = candle_core::Tensor::new(predicts, &candle_core::Device::Cpu).unwrap();
    let scale = -1.0 / (sequences * (len - 1)) as f64;
    let loss = (scores.logp * weight).unwrap().sum_all().unwrap().affine(scale, 0.0).unwrap();
    let store = loss.backward().unwrap();
    model.check_gradients(&store).unwrap();
    let norms = gradient_norms(model, &store);
    let wanted = text["grad_norms"].as_object().unwrap();
    assert!(!wanted.is_empty());
    for (name, value) in wanted {
        let value = value.as_f64().unwrap();
        let found = *norms.get(name).unwrap_or_else(|| panic!("no gradient of {name}"));
        assert!(
            (found - value).abs() <= 1e-3 * value.abs().max(1e-6),
            "gradient norm of {name} is {found}, expected {value}"
        );
    }
}

/// Norms by Hugging Face name, of parts and of whole stacked parameters.
fn gradient_norms(model: &Model, store: &candle_core::backprop::GradStore) -> BTreeMap<String, f64> {
    let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
    let mut norms = BTreeMap::new();
    for (spec, parameter) in parameter_specs(model.config()).into_iter().zip(model.parameters()) {
        let gradient = wide(store.get(parameter.var.as_tensor()).unwrap());
        norms.insert(spec.name, norm(&gradient));
        let mut start = 0;
        for (name, shape) in spec.parts {
            let len: usize = shape.iter().product();
            norms.insert(name, norm(&gradient[start..start + len]));
            start += len;
        }
    }
    norms
}

#[test]
fn models() {
    let (mut run, mut skipped) = (Vec::new(), Vec::new());
    for dir in entries(&golden_dir().join("models")).into_iter().filter(|p| p.is_dir()) {
        match Model::load(&dir) {
            Ok(model) => {
                println!("{}", dir.display());
                model_case(&dir, &model);
                run.push(dir);
            }
            Err(Error::UnsupportedArchitecture(name)) => {
                println!("{}: skipped, architecture {name} is not supported yet", dir.display());
                skipped.push(dir);
            }
            Err(e) => panic!("{}: {e}", dir.display()),
        }
    }
    assert!(
        !run.is_empty(),
        "no model of a supported architecture in {} ({} skipped)",
        golden_dir().display(),
        skipped.len()
    );
}

#[test]
fn cases_that_are_not_understood_fail() {
    let files = entries(&golden_dir());
    let file = files.iter().find(|p| p.to_string_lossy().ends_with("policy_loss.json")).unwrap();
    let cases: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let good = cases[0].clone();
    policy_loss_case(&good).unwrap();
    let with = |path: &[&str], value: Value| {
        let mut case = good.clone();
        let mut at = &mut case;
        for name in path {
            at = &mut at[*name];
        }
        *at = value;
        policy_loss_case(&case)
    };
    assert!(with(&["surprise"], json!(1)).unwrap_err().contains("unknown field `surprise`"));
    assert!(with(&["expect", "surprise"], json!(1)).unwrap_err().contains("unknown field"));
    assert!(with(&["objective", "surprise"], json!(1)).is_err());
    assert!(with(&["objective", "kind"], json!("magic")).is_err());
    assert!(with(&["kl"], json!({ "kind": "k3", "beta": 0.1, "surprise": 1 })).is_err());
    let wrong = good["expect"]["loss"].as_f64().unwrap() + 1e-3;
    assert!(with(&["expect", "loss"], json!(wrong)).unwrap_err().starts_with("loss "));
    assert!(with(&["aggregation", "surprise"], json!(1)).is_err());
}
