//! Numbers that peers' own code gave: losses and gradients of TRL, logits and gradients of transformers.
//!
//! Walks `GOLDEN_DIR` (default: this crate's `golden` folder). Cases that were never seen before run unchanged; an
//! unknown `kind` or field is a failure, so that no case passes by being ignored.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use policy_loss::{Advantages, LossConfig, Normalizer, Real, TokenBatch};
use qwen3::decode::{Context, Decoder, Row};
use qwen3::weights::{ParameterSpec, parameter_specs};
use qwen3::{Batch, Error, ForwardOptions, Hidden, Model, Parameter, VisualItems, VlModel};
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

/// The object's fields, all of them among `known`.
fn only<'a>(object: &'a Value, known: &[&str], what: &str) -> Result<&'a Map<String, Value>, String> {
    let fields = object.as_object().ok_or_else(|| format!("{what} is not an object"))?;
    match fields.keys().find(|k| !known.contains(&k.as_str())) {
        Some(unknown) => Err(format!("unknown field `{unknown}` in {what}")),
        None => Ok(fields),
    }
}

fn number(value: &Value, what: &str) -> Result<f64, String> {
    value.as_f64().ok_or_else(|| format!("{what} is {value}, expected a number"))
}

fn array<'a>(value: &'a Value, what: &str) -> Result<&'a Vec<Value>, String> {
    value.as_array().ok_or_else(|| format!("{what} is {value}, expected an array"))
}

fn numbers(value: &Value, what: &str) -> Result<Vec<f64>, String> {
    array(value, what)?.iter().map(|v| number(v, what)).collect()
}

/// An `[N, T]` array as its rows; `None` when the case has none of that name.
fn matrix(case: &Value, name: &str) -> Result<Option<Vec<Vec<f64>>>, String> {
    let Some(value) = case.get(name) else { return Ok(None) };
    let rows: Vec<Vec<f64>> =
        array(value, name)?.iter().map(|r| numbers(r, name)).collect::<Result<_, _>>()?;
    match rows.iter().find(|r| r.len() != rows[0].len()) {
        Some(row) => Err(format!("{name} has rows of {} and of {} numbers", rows[0].len(), row.len())),
        None => Ok(Some(rows)),
    }
}

/// Within `tolerance`. A NaN is near nothing.
fn near(what: &str, found: f64, wanted: f64, tolerance: f64) -> Result<(), String> {
    // Not `> tolerance`, which is false of NaN.
    if (found - wanted).abs() <= tolerance {
        Ok(())
    } else {
        Err(format!("{what} {found}, expected {wanted}"))
    }
}

fn case(case: &Value) -> Result<(), String> {
    match case["kind"].as_str() {
        Some("policy_loss") => policy_loss_case(case),
        _ => Err(format!("unknown kind {}", case["kind"])),
    }
}

fn policy_loss_case(case: &Value) -> Result<(), String> {
    only(case, &CASE_FIELDS, "the case")?;
    only(&case["expect"], &EXPECT_FIELDS, "expect")?;
    let mut config = json!({
        "objective": case["objective"],
        "aggregation": case["aggregation"],
        // The peers compute with whatever they are given.
        "allow_positive_logp": true,
        "log_ratio_clamp": null,
    });
    for term in ["kl", "correction"] {
        if let Some(value) = case.get(term) {
            config[term] = value.clone();
        }
    }
    if let Some(kl) = config.get_mut("kl").and_then(Value::as_object_mut) {
        kl.entry("clamp").or_insert(json!(false));
    }
    let config: LossConfig = serde_json::from_value(config).map_err(|e| e.to_string())?;
    in_type::<f64>(case, &config, 1e-9)?;
    in_type::<f32>(case, &config, 1e-5)
}

/// Loss and gradient within `tolerance` of what is expected, relative to it. A loss or gradient near zero is what
/// remains of terms near 1, so relative to no less than 0.01.
fn in_type<F: Real>(case: &Value, config: &LossConfig, tolerance: f64) -> Result<(), String> {
    let scale = |wanted: f64| tolerance * wanted.abs().max(1e-2);
    let logp = matrix(case, "logp")?.ok_or("no logp")?;
    let width = logp.first().map_or(0, Vec::len);
    let offsets: Vec<usize> = (0..=logp.len()).map(|i| i * width).collect();
    let flat = |name: &str| -> Result<Option<Vec<F>>, String> {
        let rows = matrix(case, name)?;
        Ok(rows.map(|rows| rows.concat().into_iter().map(F::of).collect()))
    };
    let mut mask = Vec::new();
    for value in matrix(case, "mask")?.ok_or("no mask")?.concat() {
        if value != 0.0 && value != 1.0 {
            return Err(format!("mask holds {value}, expected 0 or 1"));
        }
        mask.push(value == 1.0);
    }
    let per_token = array(&case["adv"], "adv")?.first().is_some_and(Value::is_array);
    let adv: Vec<F> = if per_token {
        flat("adv")?.ok_or("no adv")?
    } else {
        numbers(&case["adv"], "adv")?.into_iter().map(F::of).collect()
    };
    let advantages = if per_token { Advantages::PerToken(&adv) } else { Advantages::PerSequence(&adv) };
    let logp = logp.concat().into_iter().map(F::of).collect::<Vec<F>>();
    let (old, mu, reference) = (flat("logp_old")?, flat("logp_mu")?, flat("logp_ref")?);
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
    let wanted = number(&expect["loss"], "the expected loss")?;
    near("loss", out.loss, wanted, scale(wanted))?;
    let gradient = matrix(expect, "grad_logp")?.ok_or("no expected gradient")?.concat();
    if out.grad_logp.len() != gradient.len() {
        return Err(format!("{} gradients, expected {}", out.grad_logp.len(), gradient.len()));
    }
    for (i, (found, wanted)) in out.grad_logp.iter().zip(&gradient).enumerate() {
        near(&format!("gradient {i}"), (*found).into(), *wanted, scale(*wanted))?;
    }
    for side in ["low", "high"] {
        let Some(wanted) = expect.get(format!("clip_{side}_frac")) else { continue };
        let wanted = number(wanted, &format!("clip_{side}_frac"))?;
        let names = [format!("clip/{side}_frac"), format!("cispo/{side}_frac")];
        let found = names.iter().find_map(|n| out.metrics.get(n)).ok_or("no clip share")?;
        near(&format!("clip_{side}_frac"), found, wanted, 1e-9)?;
    }
    Ok(())
}

/// Runs every case of a file: their number and what failed, or why the file is none.
fn file(text: &str) -> Result<(usize, Vec<String>), String> {
    let cases: Vec<Value> = serde_json::from_str(text).map_err(|e| e.to_string())?;
    if cases.is_empty() {
        return Err("the file holds no case".into());
    }
    let failures = cases.iter().enumerate().filter_map(|(i, value)| {
        let reason = case(value).err()?;
        Some(format!("case {i} ({}): {reason}", value["name"]))
    });
    Ok((cases.len(), failures.collect()))
}

fn is_policy_loss(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with("policy_loss") && name.ends_with(".json")
}

#[test]
fn policy_losses() {
    let files: Vec<PathBuf> = entries(&golden_dir()).into_iter().filter(|p| is_policy_loss(p)).collect();
    assert!(!files.is_empty(), "no policy_loss*.json in {}", golden_dir().display());
    let mut failures = Vec::new();
    for path in files {
        match file(&std::fs::read_to_string(&path).unwrap()) {
            Ok((count, failed)) => {
                println!("{}: {count} cases", path.display());
                failures.extend(failed.into_iter().map(|f| format!("{}: {f}", path.display())));
            }
            Err(reason) => failures.push(format!("{}: {reason}", path.display())),
        }
    }
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
        near(&format!("{what}[{i}]"), *f, *w, tolerance).unwrap();
    }
}

fn wide(tensor: &candle_core::Tensor) -> Vec<f64> {
    tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f64::from).collect()
}

fn model_case(dir: &Path, model: &Model) {
    let mut expected = Expected::read(&dir.join("expected.safetensors"));
    let text: Value =
        serde_json::from_str(&std::fs::read_to_string(dir.join("expected.json")).unwrap()).unwrap();
    only(&text, &["source", "mean_nll", "grad_norms", "greedy"], "expected.json").unwrap();
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
    router_logits_agree(&mut expected, &hidden);
    assert!(expected.numbers.is_empty(), "unknown tensors {:?}", expected.numbers.keys());

    let weight = candle_core::Tensor::new(predicts, &candle_core::Device::Cpu).unwrap();
    let scale = -1.0 / (sequences * (len - 1)) as f64;
    let loss = (scores.logp * weight).unwrap().sum_all().unwrap().affine(scale, 0.0).unwrap();
    let store = loss.backward().unwrap();
    model.check_gradients(&store).unwrap();
    let specs = parameter_specs(model.config());
    gradient_norms_agree(&text, &gradient_norms(specs, model.parameters(), &store));
}

fn router_logits_agree(expected: &mut Expected, hidden: &Hidden) {
    let Some((shape, wanted)) = expected.take("router_logits") else { return };
    let found: Vec<f64> = hidden.router_logits.iter().flat_map(wide).collect();
    assert_eq!(shape[0], hidden.router_logits.len(), "router_logits: another number of layers");
    close("router_logits", &found, &wanted, 1e-4);
}

fn gradient_norms_agree(text: &Value, norms: &BTreeMap<String, f64>) {
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

/// Pixels and sizes of one kind of item; none when the case has none.
fn items(
    expected: &mut Expected,
    pixels: &str,
    grids: &str,
) -> (Option<candle_core::Tensor>, Vec<mrope::Grid>) {
    let pixels = expected.take(pixels).map(|(shape, values)| {
        let values: Vec<f32> = values.into_iter().map(|v| v as f32).collect();
        candle_core::Tensor::from_vec(values, shape, &candle_core::Device::Cpu).unwrap()
    });
    let grids = expected.take(grids).map(|(_, values)| values).unwrap_or_default();
    let grid = |g: &[f64; 3]| mrope::Grid::new(g[0] as u32, g[1] as u32, g[2] as u32);
    (pixels, grids.as_chunks::<3>().0.iter().map(grid).collect())
}

fn vl_model_case(dir: &Path, model: &VlModel) {
    let mut expected = Expected::read(&dir.join("expected.safetensors"));
    let text: Value =
        serde_json::from_str(&std::fs::read_to_string(dir.join("expected.json")).unwrap()).unwrap();
    only(&text, &["source", "mean_nll", "grad_norms", "greedy"], "expected.json").unwrap();
    let (shape, ids) = expected.take("input_ids").unwrap();
    let (sequences, len) = (shape[0], shape[1]);
    let ids: Vec<u32> = ids.into_iter().map(|v| v as u32).collect();
    let batch = Batch::pack(ids.chunks(len));
    let (image_pixels, image_grids) = items(&mut expected, "pixel_values", "image_grid_thw");
    let (video_pixels, video_grids) = items(&mut expected, "pixel_values_videos", "video_grid_thw");
    let visual =
        VisualItems { image_pixels, image_grids, video_pixels, video_grids, ..VisualItems::default() };

    let positions = model.positions(&batch, &visual).unwrap();
    close("position_ids", &positions.axes().concat(), &expected.take("position_ids").unwrap().1, 0.0);
    let deltas: Vec<f64> = positions.sequences().iter().map(|s| s.next - s.tokens as f64).collect();
    close("rope_delta", &deltas, &expected.take("rope_delta").unwrap().1, 0.0);
    if let Some((_, wanted)) = expected.take("image_embeds") {
        let pixels = visual.image_pixels.as_ref().unwrap();
        let features = model.encode(pixels, &visual.image_grids).unwrap();
        close("image_embeds", &wide(&features.merged), &wanted, 1e-4);
        let levels: Vec<f64> = features.levels.iter().flat_map(wide).collect();
        close("deepstack", &levels, &expected.take("deepstack").unwrap().1, 1e-4);
    }

    let hidden = model.forward(&batch, &visual, &ForwardOptions::default()).unwrap();
    close("logits", &wide(&model.logits(&hidden.states).unwrap()), &expected.take("logits").unwrap().1, 1e-4);
    router_logits_agree(&mut expected, &hidden);
    let targets: Vec<u32> = (0..ids.len()).map(|i| if (i + 1) % len == 0 { 0 } else { ids[i + 1] }).collect();
    let predicts: Vec<f32> = (0..ids.len()).map(|i| if (i + 1) % len == 0 { 0.0 } else { 1.0 }).collect();
    let scores = model.log_probs(&hidden.states, &targets, 1.0).unwrap();
    let all = wide(&scores.logp);
    let logp: Vec<f64> = (0..ids.len()).filter(|i| (i + 1) % len != 0).map(|i| all[i]).collect();
    close("logp", &logp, &expected.take("logp").unwrap().1, 1e-4);
    let mean_nll = -logp.iter().sum::<f64>() / logp.len() as f64;
    close("mean_nll", &[mean_nll], &[text["mean_nll"].as_f64().unwrap()], 1e-5);
    assert!(expected.numbers.is_empty(), "unknown tensors {:?}", expected.numbers.keys());

    let weight = candle_core::Tensor::new(predicts, &candle_core::Device::Cpu).unwrap();
    let scale = -1.0 / (sequences * (len - 1)) as f64;
    let loss = (scores.logp * weight).unwrap().sum_all().unwrap().affine(scale, 0.0).unwrap();
    let store = loss.backward().unwrap();
    model.check_gradients(&store).unwrap();
    let specs = qwen3::vision::parameter_specs(model.config());
    gradient_norms_agree(&text, &gradient_norms(specs, model.parameters(), &store));
    if let Some(greedy) = text.get("greedy") {
        greedy_tokens_agree(model, &ids[..len], &visual, greedy);
    }
}

/// The most likely continuation of the first sequence, whose items are the first ones.
fn greedy_tokens_agree(model: &VlModel, prompt: &[u32], all: &VisualItems, expected: &Value) {
    let first = |pixels: &Option<candle_core::Tensor>, grids: &[mrope::Grid], count: &Value| {
        let grids = grids[..count.as_u64().unwrap() as usize].to_vec();
        let patches = grids.iter().map(|g| (g.t * g.h * g.w) as usize).sum();
        let pixels = pixels.as_ref().map(|p| p.narrow(0, 0, patches).unwrap().contiguous().unwrap());
        (pixels.filter(|_| !grids.is_empty()), grids)
    };
    let (image_pixels, image_grids) = first(&all.image_pixels, &all.image_grids, &expected["images"]);
    let (video_pixels, video_grids) = first(&all.video_pixels, &all.video_grids, &expected["videos"]);
    let items =
        VisualItems { image_pixels, image_grids, video_pixels, video_grids, ..VisualItems::default() };
    let tokens: Vec<u32> = serde_json::from_value(expected["tokens"].clone()).unwrap();
    let decoder = Decoder::with_vision(model, prompt.len() + tokens.len(), qwen3::Precision::F32).unwrap();
    let mut context = Context::reading(Arc::new(decoder.prompt(prompt, &items).unwrap()));
    let mut next = prompt.to_vec();
    for (step, token) in tokens.iter().enumerate() {
        let rows: Vec<Row> = next.iter().map(|token| Row { context: 0, token: *token }).collect();
        let states = decoder.step(&rows, &mut [&mut context]).unwrap().states;
        let logits = decoder.logits(&states[states.len() - model.config().text.hidden_size..]);
        let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap() as u32;
        assert_eq!(best, *token, "greedy token {step}");
        next = vec![best];
    }
}

/// Norms by Hugging Face name, of parts and of whole stacked parameters.
fn gradient_norms(
    specs: Vec<ParameterSpec>,
    parameters: &[Parameter],
    store: &candle_core::backprop::GradStore,
) -> BTreeMap<String, f64> {
    let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
    let mut norms = BTreeMap::new();
    for (spec, parameter) in specs.into_iter().zip(parameters) {
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
            Err(Error::UnsupportedArchitecture(name)) if name.starts_with("qwen3_vl") => {
                println!("{}", dir.display());
                vl_model_case(&dir, &VlModel::load(&dir).unwrap());
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

/// A case of one token, worked out by hand: `r = e^0.1`, loss `−r`, gradient `−r`.
fn good() -> Value {
    json!({
        "kind": "policy_loss", "name": "by hand", "source": "by hand",
        "objective": { "kind": "ppo_clip", "clip_low": 0.2, "clip_high": 0.2 },
        "aggregation": { "mode": "token_mean", "seq_count": "all" },
        "logp": [[-0.9]], "logp_old": [[-1.0]], "mask": [[1]], "adv": [1.0],
        "expect": { "loss": -(0.1f64.exp()), "grad_logp": [[-(0.1f64.exp())]],
            "clip_low_frac": 0.0, "clip_high_frac": 0.0 },
    })
}

#[test]
fn cases_that_are_wrong_or_not_understood_fail() {
    case(&good()).unwrap();
    let per_token = json!([[1.0]]);
    let with = |path: &[&str], value: Value| {
        let mut bad = good();
        *path.iter().fold(&mut bad, |at, name| &mut at[*name]) = value;
        case(&bad)
    };
    with(&["adv"], per_token).unwrap();
    for (path, value, reason) in [
        (&["kind"][..], json!("magic"), "unknown kind \"magic\""),
        (&["kind"], Value::Null, "unknown kind null"),
        (&["surprise"], json!(1), "unknown field `surprise` in the case"),
        (&["expect", "surprise"], json!(1), "unknown field `surprise` in expect"),
        (&["expect"], json!(1), "expect is not an object"),
        (&["objective", "surprise"], json!(1), "unknown field `surprise`"),
        (&["objective", "kind"], json!("magic"), "unknown variant `magic`"),
        (&["aggregation", "surprise"], json!(1), "unknown field `surprise`"),
        (&["kl"], json!({ "kind": "k3", "beta": 0.1, "surprise": 1 }), "unknown field `surprise`"),
        (&["kl"], json!({ "kind": "k3", "beta": 0.1 }), "needs logp_ref"),
        (&["correction"], json!({ "surprise": 1 }), "unknown field `surprise`"),
        (&["logp"], json!(1.0), "logp is 1.0, expected an array"),
        (&["logp"], json!([[null]]), "logp is null, expected a number"),
        (&["logp"], json!([[-0.9], [-0.9, -0.8]]), "rows of 1 and of 2"),
        (&["logp_old"], json!("-1.0"), "logp_old is \"-1.0\", expected an array"),
        (&["logp_ref"], Value::Null, "logp_ref is null, expected an array"),
        (&["mask"], json!([[0.5]]), "mask holds 0.5"),
        (&["adv"], json!(1.0), "adv is 1.0, expected an array"),
        (&["expect", "loss"], json!(-1.105), "loss -1.10517"),
        (&["expect", "loss"], json!("nan"), "the expected loss is \"nan\", expected a number"),
        (&["expect", "grad_logp"], json!([[-1.105]]), "gradient 0 -1.10517"),
        (&["expect", "grad_logp"], json!([[]]), "1 gradients, expected 0"),
        (&["expect", "clip_low_frac"], json!("0"), "clip_low_frac is \"0\", expected a number"),
        (&["expect", "clip_high_frac"], json!(0.5), "clip_high_frac 0, expected 0.5"),
    ] {
        let error = with(path, value).expect_err(reason);
        assert!(error.contains(reason), "{error}, expected: {reason}");
    }
    assert!(near("loss", f64::NAN, 1.0, 1e9).is_err() && near("loss", 1.0, f64::NAN, 1e9).is_err());
    assert_eq!(file("[]").unwrap_err(), "the file holds no case");
    assert!(file("{}").is_err());
    let (count, failures) = file(&json!([good(), { "kind": "magic", "name": "x" }]).to_string()).unwrap();
    assert_eq!((count, failures), (2, vec!["case 1 (\"x\"): unknown kind \"magic\"".to_owned()]));
}
