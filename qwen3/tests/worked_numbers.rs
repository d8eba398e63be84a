//! Losses, logits, routes and gradients of tiny models whose weights are a function of the tensors' names.
//! The numbers were computed in f64 and agree with transformers 5.23.0 within its f32 rounding.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{named_weights, tiny, values};
use qwen3::reference::{self, Weights};
use qwen3::{Architecture, Batch, Config, ForwardOptions, Model};

const INPUT: [u32; 10] = [3, 17, 42, 8, 25, 31, 54, 1, 9, 40];

struct Fast {
    loss: f64,
    logits: Vec<Vec<f32>>,
    routes: Vec<Vec<u32>>,
    /// Gradients by parameter name.
    gradients: Vec<(String, Vec<f32>)>,
}

fn fast(config: &Config) -> Fast {
    let model = Model::from_tensors(config.clone(), named_weights(config)).unwrap();
    let batch = Batch::pack([INPUT.as_slice()]);
    let hidden = model.forward(&batch, &ForwardOptions::default()).unwrap();
    let states = hidden.states.narrow(0, 0, INPUT.len() - 1).unwrap().contiguous().unwrap();
    let scores = model.log_probs(&states, &INPUT[1..], 1.0).unwrap();
    let loss = scores.logp.mean_all().unwrap().neg().unwrap();
    let store = loss.backward().unwrap();
    let gradients = model
        .parameters()
        .iter()
        .map(|p| {
            (p.name.clone(), store.get(p.var.as_tensor()).unwrap().flatten_all().unwrap().to_vec1().unwrap())
        })
        .collect();
    Fast {
        loss: f64::from(loss.to_scalar::<f32>().unwrap()),
        logits: model.logits(&hidden.states).unwrap().to_vec2().unwrap(),
        routes: hidden.routes,
        gradients,
    }
}

impl Fast {
    fn gradient(&self, name: &str) -> (f64, f64) {
        let (_, g) = self.gradients.iter().find(|(n, _)| n == name).unwrap();
        l2_and_sum(g.iter().map(|v| f64::from(*v)))
    }
}

fn l2_and_sum(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    (values.clone().map(|v| v * v).sum::<f64>().sqrt(), values.sum())
}

#[track_caller]
fn close(found: f64, expected: f64, tolerance: f64) {
    assert!((found - expected).abs() <= tolerance, "found {found}, expected {expected}");
}

struct Expected {
    loss: f64,
    sum: f64,
    l2: f64,
    rows: &'static [(usize, [f64; 6])],
}

fn check(config: &Config, expected: &Expected) -> Fast {
    let weights = Weights::new(config, &named_weights(config)).unwrap();
    let exact = reference::forward(config, &weights, &INPUT, None).unwrap();
    let nll = |row: usize| -reference::log_prob(exact.logits.row(row), INPUT[row + 1] as usize, 1.0).0;
    close((0..9).map(nll).sum::<f64>() / 9.0, expected.loss, 1e-9);
    let (l2, sum) = l2_and_sum(exact.logits.iter().copied());
    close(l2, expected.l2, 1e-8);
    close(sum, expected.sum, 1e-8);

    let fast = fast(config);
    close(fast.loss, expected.loss, 5e-6);
    for (row, numbers) in expected.rows {
        for (column, number) in numbers.iter().enumerate() {
            close(exact.logits[[*row, column]], *number, 1e-8);
        }
    }
    for (row, exact) in fast.logits.iter().zip(exact.logits.rows()) {
        for (found, expected) in row.iter().zip(exact) {
            close(f64::from(*found), *expected, 3e-5);
        }
    }
    fast
}

#[test]
fn weights_are_the_stated_function_of_names() {
    let embedding = values("model.embed_tokens.weight", &[64, 32]);
    for (found, expected) in embedding.iter().zip([-0.128_709_52, -0.179_981_80, 0.013_285_24]) {
        close(f64::from(*found), expected, 1e-8);
    }
    let q = values("model.layers.0.self_attn.q_proj.weight", &[64, 32]);
    for (found, expected) in q.iter().zip([-0.042_796_92, -0.229_664_22, 0.189_109_07]) {
        close(f64::from(*found), expected, 1e-8);
    }
}

#[test]
fn qwen3_dense_untied() {
    let fast = check(
        &tiny(Architecture::Qwen3),
        &Expected {
            loss: 4.494_522_179_8,
            sum: -132.622_360_749,
            l2: 22.950_051_081,
            rows: &[
                (
                    0,
                    [
                        1.264_098_267,
                        -1.620_430_988,
                        -0.897_788_658,
                        0.218_062_258,
                        -0.084_295_370,
                        1.098_341_614,
                    ],
                ),
                (
                    9,
                    [
                        1.908_039_220,
                        -1.470_533_105,
                        -0.997_098_208,
                        0.955_138_415,
                        -0.238_591_738,
                        0.782_023_417,
                    ],
                ),
            ],
        },
    );
    close(fast.gradient("model.embed_tokens.weight").0, 1.579_933_502, 1e-5);
    close(fast.gradient("model.layers.0.self_attn.q_norm.weight").0, 0.112_639_139, 1e-6);
    let (l2, sum) = fast.gradient("model.layers.3.mlp.down_proj.weight");
    close(l2, 0.575_095_826, 1e-5);
    close(sum, 0.468_757_262, 1e-5);
}

#[test]
fn qwen3_dense_tied() {
    let config = Config { tie_word_embeddings: true, ..tiny(Architecture::Qwen3) };
    let fast = check(
        &config,
        &Expected {
            loss: 5.736_565_533_6,
            sum: 28.343_022_085,
            l2: 40.014_855_899,
            rows: &[(
                9,
                [0.828_762_231, 3.040_040_335, 4.913_159_789, 1.525_148_558, 2.040_235_265, 1.427_133_726],
            )],
        },
    );
    let (l2, sum) = fast.gradient("model.embed_tokens.weight");
    close(l2, 3.805_059_806, 2e-5);
    close(sum, -1.431_031_817, 5e-5);
}

#[test]
fn llama_tied() {
    let config = Config {
        tie_word_embeddings: true,
        rms_norm_eps: 1e-5,
        rope_theta: 1e5,
        ..tiny(Architecture::Llama)
    };
    let fast = check(
        &config,
        &Expected {
            loss: 5.783_284_350_4,
            sum: 19.814_011_541,
            l2: 39.662_291_668,
            rows: &[(
                9,
                [0.881_753_748, 2.551_591_101, 4.750_086_327, 1.329_213_178, 1.629_830_053, 1.284_194_461],
            )],
        },
    );
    close(fast.gradient("model.embed_tokens.weight").0, 3.922_330_606, 2e-5);
    // Rows 64..96 of the joined projection are the keys.
    let (_, qkv) =
        fast.gradients.iter().find(|(n, _)| n == "model.layers.0.self_attn.qkv_proj.weight").unwrap();
    let (l2, sum) = l2_and_sum(qkv[64 * 32..96 * 32].iter().map(|v| f64::from(*v)));
    close(l2, 1.016_190_859, 1e-5);
    close(sum, -2.194_273_987, 5e-5);
}

#[test]
fn qwen3_moe() {
    let fast = check(
        &tiny(Architecture::Qwen3Moe),
        &Expected {
            loss: 4.372_256_175_8,
            sum: -90.331_797_396,
            l2: 19.889_967_415,
            rows: &[(
                9,
                [0.072_178_805, -1.541_190_824, 0.719_631_342, -0.355_174_479, -0.841_753_132, 0.705_490_632],
            )],
        },
    );
    let routes = |text: &str| -> Vec<u32> {
        text.bytes().filter(|b| *b != b' ').map(|b| u32::from(b - b'0')).collect()
    };
    assert_eq!(fast.routes[0], routes("07 02 50 57 07 05 07 01 02 02"));
    assert_eq!(fast.routes[1], routes("76 46 71 70 67 10 01 70 47 70"));
    assert_eq!(fast.routes[2], routes("23 27 23 23 42 23 23 24 43 24"));
    let (l2, sum) = fast.gradient("model.layers.0.mlp.gate.weight");
    close(l2, 0.349_626_037, 1e-5);
    close(sum, 0.0, 1e-5);
    close(fast.gradient("model.layers.1.mlp.down_proj.weight").0, 0.748_060_113, 1e-5);
    let (_, down) = fast.gradients.iter().find(|(n, _)| n == "model.layers.2.mlp.experts.down_proj").unwrap();
    let expert = |e: usize| l2_and_sum(down[e * 32 * 12..(e + 1) * 32 * 12].iter().map(|v| f64::from(*v))).0;
    close(expert(0), 0.073_126_437, 1e-6);
    assert_eq!(expert(5), 0.0, "expert 5 of layer 2 is unused");
}

#[test]
fn qwen3_moe_without_renormalised_gates() {
    let mut config = tiny(Architecture::Qwen3Moe);
    config.moe.as_mut().unwrap().norm_topk_prob = false;
    let fast = check(
        &config,
        &Expected {
            loss: 4.325_993_985_2,
            sum: -106.785_561_598,
            l2: 20.495_984_802,
            rows: &[(
                0,
                [1.036_906_877, -1.724_194_782, -0.269_511_901, 0.176_186_755, -0.023_658_412, 1.244_718_360],
            )],
        },
    );
    close(fast.gradient("model.layers.0.mlp.gate.weight").0, 0.251_417_513, 1e-5);
}
