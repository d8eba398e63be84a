//! Logits, log-probabilities, gradients, positions and features of transformers, checkpoints with `expected.safetensors`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor};
use qwen3::decode::{Context, Decoder, Row};
use qwen3::weights::{ParameterSpec, parameter_specs};
use qwen3::{Batch, Error, ForwardOptions, Hidden, LogProbs, Model, Parameter, VisualItems, VlModel};
use safetensors::SafeTensors;
use serde_json::Value;

use crate::{entries, golden_dir, near, only};

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

fn wide(tensor: &Tensor) -> Vec<f64> {
    tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f64::from).collect()
}

/// What a folder expects of its model, for sequences of one length.
struct Case {
    expected: Expected,
    text: Value,
    ids: Vec<u32>,
    len: usize,
}

impl Case {
    fn read(dir: &Path) -> Self {
        let mut expected = Expected::read(&dir.join("expected.safetensors"));
        let text: Value =
            serde_json::from_str(&std::fs::read_to_string(dir.join("expected.json")).unwrap()).unwrap();
        only(&text, &["source", "mean_nll", "grad_norms", "greedy"], "expected.json").unwrap();
        let (shape, ids) = expected.take("input_ids").unwrap();
        Self { expected, text, ids: ids.into_iter().map(|v| v as u32).collect(), len: shape[1] }
    }

    fn batch(&self) -> Batch {
        Batch::pack(self.ids.chunks(self.len))
    }

    fn close(&mut self, name: &str, found: &[f64], tolerance: f64) {
        close(name, found, &self.expected.take(name).unwrap().1, tolerance);
    }

    /// Compares all that a decoder says of the text, and with it uses up what is expected; the gradients of the mean
    /// negative log-likelihood.
    fn scores_agree(
        &mut self,
        hidden: &Hidden,
        logits: impl Fn(&Tensor) -> qwen3::Result<Tensor>,
        log_probs: impl Fn(&Tensor, &[u32]) -> qwen3::Result<LogProbs>,
    ) -> GradStore {
        self.close("logits", &wide(&logits(&hidden.states).unwrap()), 1e-4);
        if let Some((shape, wanted)) = self.expected.take("router_logits") {
            let found: Vec<f64> = hidden.router_logits.iter().flat_map(wide).collect();
            assert_eq!(shape[0], hidden.router_logits.len(), "router_logits: another number of layers");
            close("router_logits", &found, &wanted, 1e-4);
        }
        // The last row of a sequence predicts nothing.
        let predicts = |i: &usize| !(i + 1).is_multiple_of(self.len);
        let rows = 0..self.ids.len();
        let targets: Vec<u32> =
            rows.clone().map(|i| if predicts(&i) { self.ids[i + 1] } else { 0 }).collect();
        let weights: Vec<f32> = rows.clone().map(|i| if predicts(&i) { 1.0 } else { 0.0 }).collect();
        let scores = log_probs(&hidden.states, &targets).unwrap();
        let all = wide(&scores.logp);
        let logp: Vec<f64> = rows.filter(predicts).map(|i| all[i]).collect();
        self.close("logp", &logp, 1e-4);
        let mean_nll = -logp.iter().sum::<f64>() / logp.len() as f64;
        close("mean_nll", &[mean_nll], &[self.text["mean_nll"].as_f64().unwrap()], 1e-5);
        let unknown: Vec<&String> = self.expected.numbers.keys().collect();
        assert!(unknown.is_empty(), "unknown tensors {unknown:?}");

        let weights = Tensor::new(weights, &Device::Cpu).unwrap();
        let nll = (scores.logp * weights).unwrap().sum_all().unwrap().affine(-1.0 / logp.len() as f64, 0.0);
        nll.unwrap().backward().unwrap()
    }

    fn gradient_norms_agree(&self, norms: &BTreeMap<String, f64>) {
        let wanted = self.text["grad_norms"].as_object().unwrap();
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
}

fn model_case(dir: &Path, model: &Model) {
    let mut case = Case::read(dir);
    let hidden = model.forward(&case.batch(), &ForwardOptions::default()).unwrap();
    let store = case.scores_agree(
        &hidden,
        |states| model.logits(states),
        |states, targets| model.log_probs(states, targets, 1.0),
    );
    case.gradient_norms_agree(&gradient_norms(parameter_specs(model.config()), model.parameters(), &store));
}

/// Pixels and sizes of one kind of item; none when the case has none.
fn items(expected: &mut Expected, pixels: &str, grids: &str) -> (Option<Tensor>, Vec<mrope::Grid>) {
    let pixels = expected.take(pixels).map(|(shape, values)| {
        let values: Vec<f32> = values.into_iter().map(|v| v as f32).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    });
    let grids = expected.take(grids).map(|(_, values)| values).unwrap_or_default();
    let grid = |g: &[f64; 3]| mrope::Grid::new(g[0] as u32, g[1] as u32, g[2] as u32);
    (pixels, grids.as_chunks::<3>().0.iter().map(grid).collect())
}

fn vl_model_case(dir: &Path, model: &VlModel) {
    let mut case = Case::read(dir);
    let batch = case.batch();
    let (image_pixels, image_grids) = items(&mut case.expected, "pixel_values", "image_grid_thw");
    let (video_pixels, video_grids) = items(&mut case.expected, "pixel_values_videos", "video_grid_thw");
    let visual =
        VisualItems { image_pixels, image_grids, video_pixels, video_grids, ..VisualItems::default() };

    let positions = model.positions(&batch, &visual).unwrap();
    case.close("position_ids", &positions.axes().concat(), 0.0);
    let deltas: Vec<f64> = positions.sequences().iter().map(|s| s.next - s.tokens as f64).collect();
    case.close("rope_delta", &deltas, 0.0);
    if let Some((_, wanted)) = case.expected.take("image_embeds") {
        let pixels = visual.image_pixels.as_ref().unwrap();
        let features = model.encode(pixels, &visual.image_grids).unwrap();
        close("image_embeds", &wide(&features.merged), &wanted, 1e-4);
        let levels: Vec<f64> = features.levels.iter().flat_map(wide).collect();
        case.close("deepstack", &levels, 1e-4);
    }

    let hidden = model.forward(&batch, &visual, &ForwardOptions::default()).unwrap();
    let store = case.scores_agree(
        &hidden,
        |states| model.logits(states),
        |states, targets| model.log_probs(states, targets, 1.0),
    );
    let specs = qwen3::vision::parameter_specs(model.config());
    case.gradient_norms_agree(&gradient_norms(specs, model.parameters(), &store));
    if let Some(greedy) = case.text.get("greedy") {
        greedy_tokens_agree(model, &case.ids[..case.len], &visual, greedy);
    }
}

/// The most likely continuation of the first sequence, whose items are the first ones.
fn greedy_tokens_agree(model: &VlModel, prompt: &[u32], all: &VisualItems, expected: &Value) {
    let first = |pixels: &Option<Tensor>, grids: &[mrope::Grid], count: &Value| {
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
    store: &GradStore,
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
