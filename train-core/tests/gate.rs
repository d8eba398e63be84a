//! Runs under a language confusion gate: ratios are exact because masks are replayed.
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;

use lcg::file::SavedGate;
use lcg::record::GateMetrics;
use lcg::train::TrainConfig;
use lcg::{LabelConfig, LabelRule, MlpGate};
use train_core::checkpoint::Checkpoint;
use train_core::config::{Config, Layers};
use train_core::gate::{GateError, GateSetup, GateTraining, family_table, gate_info, train_gate};
use train_core::learner::Learner;
use train_core::metrics::Row;
use train_core::rollout::Sampler;
use train_core::rundir::RunDir;
use train_core::sample::Sample;
use train_core::setup::{codec_and_model, initial_model};
use train_core::trainer::Trainer;
use train_core::types::Prompt;

/// A tiny model over bytes, and prompts in five scripts.
fn settings(dir: &Path) -> Vec<String> {
    let texts = [
        "да и нет",
        "yes and no",
        "是和不是",
        "はいといいえ",
        "네 그리고 아니요",
        "ναι και όχι",
        "نعم ولا",
        "כן ולא",
    ];
    let lines: String =
        texts.iter().map(|t| format!("{}\n", serde_json::json!({ "prompt": t, "answer": t }))).collect();
    let data = dir.join("prompts.jsonl");
    std::fs::write(&data, lines).unwrap();
    let mut settings = vec![format!("data.path={:?}", data.display().to_string())];
    let rest = [
        "data.task=\"\"",
        "data.eval_share=0.25",
        "model.architecture=qwen3",
        "model.hidden_size=24",
        "model.intermediate_size=32",
        "model.num_hidden_layers=1",
        "model.num_attention_heads=2",
        "model.num_key_value_heads=1",
        "model.head_dim=12",
        "model.initializer_range=0.3",
        "rollout.prompts=4",
        "rollout.group=4",
        "rollout.max_new_tokens=12",
        "update.minibatches=2",
        "update.lr=3e-3",
        "eval.every=25",
        "eval.prompts=2",
        "eval.temperature=1.0",
        "ckpt.every=0",
        "run.steps=50",
        "reward.parts=[{ kind = \"regex\", pattern = \"[a-z]\", weight = 1.0 }]",
    ];
    settings.extend(rest.map(str::to_owned));
    settings
}

const GATED: [&str; 5] = [
    "gate.enabled=true",
    "gate.predictor=direct",
    "gate.labels={ rule = { mass = 0.1 } }",
    "gate.rules={ require_letter = false, first_token = \"gate_only\" }",
    "gate.eval_off_every=2",
];

fn config(settings: &[String], more: &[&str]) -> Result<Config, String> {
    let mut layers = Layers::preset("reverse").unwrap();
    for setting in settings.iter().map(String::as_str).chain(more.iter().copied()) {
        layers.set(setting, "test").unwrap();
    }
    layers.resolve().map_err(|e| e.to_string())
}

/// The acceptance of the gate in reinforcement learning: 50 steps of two mini-batches, and in the first of each step every
/// ratio is 1 to the last bit. A gradient flows through the masked head, so the policy changes.
#[test]
fn fifty_steps_under_a_gate_have_exact_ratios() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    let config =
        config(&settings, &[&GATED[..], &["gate.leak_coef=0.1", "loss.kl_coef=0.01"]].concat()).unwrap();
    let mut trainer = Trainer::create(config, RunDir::create(dir.path(), "run").unwrap()).unwrap();
    let (mut flips, mut leaks) = (Vec::new(), Vec::new());
    while !trainer.is_done() {
        let row = trainer.step().unwrap().row;
        assert_eq!(row.get("mismatch/max_abs"), Some(0.0), "step {}", row.step);
        flips.push(row.get("lcg/flip_rate").unwrap());
        leaks.push(row.get("lcg/leak").unwrap());
        assert!(row.get("lcg/denied_mass").unwrap() > 0.0);
        assert!(row.get("optim/grad_norm").unwrap() > 0.0);
        if row.step == 50 {
            assert!(
                row.get("eval_ungated/heldout/reward").is_some(),
                "every second evaluation is done twice"
            );
        } else {
            assert!(row.get("eval_ungated/heldout/reward").is_none());
        }
    }
    assert_eq!(flips.len(), 50);
    assert!(flips.iter().sum::<f64>() > 0.5, "the gate changed tokens: {flips:?}");
    let part = |from: usize| leaks[from..from + 10].iter().sum::<f64>();
    assert!(part(40) < part(0), "the leak loss moves mass off what is denied: {leaks:?}");
    // The log of samples holds the masks.
    let log = std::fs::read_to_string(trainer.dir.file("rollouts/step-000050.jsonl")).unwrap();
    let line: serde_json::Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    assert_eq!(line["denied"].as_array().unwrap().len(), line["tokens"].as_array().unwrap().len());
}

#[test]
fn a_gated_rollout_without_replay_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    let refuse = |more: &[&str], expected: &str| {
        let found = config(&settings, &[&GATED[..], more].concat()).unwrap_err();
        assert!(found.contains(expected), "{found}");
    };
    refuse(
        &["gate.replay=false"],
        "gate.replay = false (test): a gated rollout is trained on under the masks",
    );
    refuse(&["gate.predictor=mlp"], "gate.path = \"\" (default): expected the folder of a gate");
    refuse(&["gate.rules={ widn = \"always\" }"], "gate.rules");
    refuse(&["gate.labels={ rule = \"most\" }"], "gate.labels");
    refuse(&["gate.leak_coef=-1.0"], "gate.leak_coef");
    refuse(&["gate.refresh_every=5"], "gate.refresh_every = 5 (test): only the network");
    refuse(&["gate.refresh_steps=0"], "gate.refresh_steps");
    // Without a gate there is nothing to replay.
    config(&settings, &["gate.replay=false"]).unwrap();

    let open = |more: &[&str]| -> GateError {
        let config = config(&settings, &[&GATED[..], more].concat()).unwrap();
        let (codec, model) = codec_and_model(&config).unwrap();
        GateSetup::new(&config.gate, &codec, &model).err().unwrap()
    };
    let is = |error: GateError, expected: &str| assert!(error.to_string().contains(expected), "{error}");
    is(open(&["gate.taxonomy=script17"]), "unknown taxonomy `script17`");
    is(open(&["gate.exempt=[\"klingon\"]"]), "`klingon` in gate.exempt is not a family");
    is(open(&["gate.predictor=mlp", "gate.path=nowhere"]), "nowhere");
    // The digits of the built-in tasks are no bytes.
    is(open(&["data.path=\"\"", "data.task=reverse"]), "unsupported tokenizer");
}

struct Drawn {
    config: Config,
    setup: GateSetup,
    samples: Vec<Sample>,
}

fn drawn(dir: &Path, more: &[&str]) -> Drawn {
    let set = [&GATED[..], &["update.minibatches=1", "update.lr=0.0"], more].concat();
    let config = config(&settings(dir), &set).unwrap();
    let (codec, architecture) = codec_and_model(&config).unwrap();
    let setup = GateSetup::new(&config.gate, &codec, &architecture).unwrap().unwrap();
    let mut sampler =
        Sampler::new(&config, &codec).with_gate(Some(setup.clone())).with_draft(&config).unwrap();
    sampler.publish(&initial_model(&config, &architecture).unwrap(), 0).unwrap();
    let prompt = |id: u64| Prompt {
        id,
        task: "test".into(),
        tokens: codec.encode("да").unwrap(),
        text: "да".into(),
        answer: None,
        follow_ups: Vec::new(),
        images: Default::default(),
        columns: Default::default(),
    };
    let mut samples = sampler.sample((0..40).map(|id| (prompt(id), 0)).collect(), 0, &codec).unwrap();
    samples.iter_mut().enumerate().for_each(|(i, s)| s.advantage = if i % 2 == 0 { 1.0 } else { -1.0 });
    Drawn { config, setup, samples }
}

impl Drawn {
    fn update(&self, replay: bool, samples: &mut [Sample]) -> Result<(), String> {
        let (_, architecture) = codec_and_model(&self.config).unwrap();
        let model = initial_model(&self.config, &architecture).unwrap();
        let mut learner = Learner::new(model, self.config.loss_choice().unwrap().loss, &self.config);
        if replay {
            learner.replay_masks(Arc::clone(self.setup.table()));
        }
        learner.update(samples, 0).map(drop).map_err(|e| e.to_string())
    }
}

/// Section 11 in a run: under a gate, a draft model changes no sample.
#[test]
fn a_draft_changes_no_sample() {
    let dir = tempfile::tempdir().unwrap();
    let plain = drawn(dir.path(), &[]);
    let (_, architecture) = codec_and_model(&plain.config).unwrap();
    let folder = dir.path().join("draft");
    let key = format!("rollout.draft={:?}", folder.display().to_string());
    let save = |vocab_size: usize| {
        let other = config(&settings(dir.path()), &["run.seed=77"]).unwrap();
        let architecture = qwen3::Config { vocab_size, ..architecture.clone() };
        initial_model(&other, &architecture).unwrap().save(&folder, qwen3::SaveType::F32).unwrap();
    };
    save(architecture.vocab_size);
    let drafted = drawn(dir.path(), &[&key, "rollout.draft_tokens=3"]);
    assert_eq!(plain.samples.len(), drafted.samples.len());
    for (a, b) in plain.samples.iter().zip(&drafted.samples) {
        let bits = |s: &Sample| s.logp_mu.iter().map(|l| l.to_bits()).collect::<Vec<u32>>();
        assert_eq!((&a.response, bits(a), &a.gate), (&b.response, bits(b), &b.gate));
    }
    // What does not fit shows that the draft is asked.
    let refused = |set: &[&str]| {
        let config = config(&settings(dir.path()), &[&GATED[..], set].concat()).unwrap();
        let run = RunDir::create(dir.path(), &format!("draft-{}", set.len())).unwrap();
        Trainer::create(config, run).and_then(|mut t| t.step().map(drop)).unwrap_err().to_string()
    };
    save(architecture.vocab_size + 1);
    assert!(refused(&[&key]).contains("the draft model: it has a vocabulary"));
    assert!(refused(&["rollout.draft=nowhere", "rollout.draft_tokens=2"]).contains("nowhere"));
    for (set, expected) in [
        (&["data.turns=2", "rollout.draft=x"][..], "rollout.draft"),
        (&["rollout.draft_tokens=0"], "1 or more"),
    ] {
        let found = config(&settings(dir.path()), set).unwrap_err();
        assert!(found.contains(expected), "{found}");
    }
}

/// Acceptance 4: scored without the masks, the mean ratio is the mean mass that the gate left.
#[test]
fn without_replay_ratios_are_the_mass_that_the_gate_left() {
    let dir = tempfile::tempdir().unwrap();
    let drawn = drawn(dir.path(), &[]);
    let ratios = |replay: bool| -> Vec<f64> {
        let mut samples = drawn.samples.clone();
        drawn.update(replay, &mut samples).unwrap();
        let ratio = |(new, old): (&f32, &f32)| (f64::from(*new) - f64::from(*old)).exp();
        samples
            .iter()
            .flat_map(|s| s.logp_trained.iter().zip(&s.logp_mu).map(ratio).collect::<Vec<_>>())
            .collect()
    };
    assert!(ratios(true).iter().all(|r| *r == 1.0));
    let wrong = ratios(false);
    let mean = wrong.iter().sum::<f64>() / wrong.len() as f64;
    let mut metrics = GateMetrics::default();
    drawn.samples.iter().for_each(|s| metrics.merge(&s.gate.as_ref().unwrap().metrics));
    let removed = metrics.entries().unwrap().iter().find(|(name, _)| *name == "lcg/denied_mass").unwrap().1;
    assert!(removed > 0.05, "{removed}");
    assert!((mean - (1.0 - removed)).abs() < 1e-4, "mean ratio {mean}, allowed mass {}", 1.0 - removed);
}

/// A record that is missing, or that denies its own token, stops the update and names the sample.
#[test]
fn broken_records_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let drawn = drawn(dir.path(), &["rollout.max_new_tokens=30"]);
    let mut samples = drawn.samples.clone();
    samples[5].gate = None;
    let missing = drawn.update(true, &mut samples).unwrap_err();
    assert_eq!(missing, "gate.replay: no masks are recorded for sample 1 of prompt 1 (epoch 0)");

    let mut samples = drawn.samples.clone();
    let other = samples.iter().position(|s| s.response.len() != samples[0].response.len());
    if let Some(other) = other {
        samples[0].gate = samples[other].gate.clone();
        let wrong = drawn.update(true, &mut samples).unwrap_err();
        assert!(wrong.contains("sample 0 of prompt 0") && wrong.contains("record of masks has"), "{wrong}");
    }
    // Another token than the one that was drawn, which its mask denies.
    let mut samples = drawn.samples.clone();
    let table = drawn.setup.table();
    let (sample, row, token) = (0..samples.len())
        .flat_map(|s| (0..samples[s].response.len()).map(move |r| (s, r)))
        .find_map(|(s, r)| {
            let mask = samples[s].gate.as_ref()?.masks.mask(table, r).ok()?;
            (0..table.len() as u32).find(|v| !mask.allows(*v)).map(|v| (s, r, v))
        })
        .unwrap();
    samples[sample].response[row] = token;
    let denied = drawn.update(true, &mut samples).unwrap_err();
    assert!(denied.contains(&format!("row {row}: token {token} is denied by its own record")), "{denied}");
}

/// Section 10.5: a gate that knows nothing yet is refreshed from rollouts, agrees better with the labels of new weights, gets
/// a new version, and a run that was stopped in between goes on with it, bit for bit.
#[test]
fn a_gate_is_refreshed_as_the_policy_trains() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    let plain = config(&settings, &[]).unwrap();
    let (codec, architecture) = codec_and_model(&plain).unwrap();
    let table = family_table("script16", &codec, architecture.vocab_size).unwrap();
    let gate = MlpGate::random(architecture.hidden_size, 24, table.taxonomy().len(), 5).unwrap();
    let folder = dir.path().join("gate");
    let info = gate_info(&table, &GateTraining::default(), "tiny");
    SavedGate { gate: gate.clone(), info }.save(&folder, &table).unwrap();
    let path = format!("gate.path={:?}", folder.display().to_string());
    let set = [
        "gate.enabled=true",
        path.as_str(),
        "gate.rules={ require_letter = false, first_token = \"gate_only\" }",
        "gate.refresh_every=2",
        "gate.refresh_steps=60",
        "filter.zero_variance=keep",
        "ckpt.every=3",
        "run.steps=5",
        "eval.every=0",
    ];
    let config = config(&settings, &set).unwrap();
    let mut trainer = Trainer::create(config.clone(), RunDir::create(dir.path(), "whole").unwrap()).unwrap();
    let (mut rows, mut versions) = (Vec::new(), Vec::new());
    while !trainer.is_done() {
        let row = trainer.step().unwrap().row;
        // Masks are recorded, so a gate that changes changes no ratio.
        assert_eq!(row.get("mismatch/max_abs"), Some(0.0), "step {}", row.step);
        let agreements = ["lcg/label_agreement", "lcg/refreshed_agreement"].map(|name| row.get(name));
        assert_eq!(agreements[0].is_some(), row.step.is_multiple_of(2), "step {}", row.step);
        if row.step == 2 {
            assert!(agreements[1] > agreements[0], "{agreements:?}");
        }
        versions.push(row.get("lcg/gate_version").unwrap());
        rows.push(row);
    }
    // The first fit starts from random weights; what later ones find depends on the policy.
    assert_eq!(versions[..3], [1.0, 1.0, 2.0]);
    assert!(versions.is_sorted());
    let saved = |run: &Path| {
        let (saved, _) =
            SavedGate::load(&Checkpoint::newest(run).unwrap().0.path, &codec.tokenizer_json().unwrap())
                .unwrap();
        saved
    };
    let whole = saved(&trainer.dir.file(""));
    assert!(whole.gate != gate && whole.info.version >= 2);
    let untouched = SavedGate::load(&folder, &codec.tokenizer_json().unwrap()).unwrap().0;
    assert_eq!(untouched.gate, gate, "the gate of `gate.path` is the user's");

    let run = RunDir::create(dir.path(), "cut").unwrap();
    let cut = run.file("");
    let mut trainer = Trainer::create(config, run).unwrap();
    (0..3).for_each(|_| drop(trainer.step().unwrap()));
    drop(trainer);
    let mut trainer = Trainer::resume(&cut, false).unwrap().0;
    while !trainer.is_done() {
        let (row, expected) = (trainer.step().unwrap().row, &rows[trainer.steps_done() as usize - 1]);
        let timeless = |row: &Row| {
            row.values().filter(|(n, _)| !n.starts_with("time/") && !n.ends_with("_per_second")).count()
        };
        assert_eq!(timeless(&row), timeless(expected));
        for (name, value) in
            expected.values().filter(|(n, _)| n.starts_with("lcg/") || n.starts_with("loss/"))
        {
            assert_eq!(row.get(name), Some(value), "{name} of step {}", row.step);
        }
    }
    assert_eq!(saved(&cut), whole);
}

/// Section 16: a network that overflows denies nothing, is counted, and is spoken of once.
#[test]
fn the_first_nan_of_a_gate_is_logged() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    let plain = config(&settings, &[]).unwrap();
    let (codec, architecture) = codec_and_model(&plain).unwrap();
    let table = family_table("script16", &codec, architecture.vocab_size).unwrap();
    let (hidden, families) = (architecture.hidden_size, table.taxonomy().len());
    // Two units that overflow for any hidden state, and are subtracted: ∞ − ∞.
    let one = |sign: f32| (0..hidden).map(move |_| sign * f32::MAX);
    let w1 = one(1.0).chain(one(-1.0)).chain(one(1.0)).chain(one(-1.0)).collect();
    let w2 = (0..families).flat_map(|_| [1.0, 1.0, -1.0, -1.0]).collect();
    let gate = MlpGate::new(hidden, 4, families, w1, w2).unwrap();
    let folder = dir.path().join("gate");
    let info = gate_info(&table, &GateTraining::default(), "tiny");
    SavedGate { gate, info }.save(&folder, &table).unwrap();
    let path = format!("gate.path={:?}", folder.display().to_string());
    let rules = "gate.rules={ require_letter = false, first_token = \"gate_only\" }";
    let config = config(&settings, &["gate.enabled=true", path.as_str(), rules, "eval.every=0"]).unwrap();
    let mut trainer = Trainer::create(config, RunDir::create(dir.path(), "nan").unwrap()).unwrap();
    for _ in 0..2 {
        let row = trainer.step().unwrap().row;
        assert!(row.get("lcg/nan_rate").unwrap() > 0.5, "{:?}", row.get("lcg/nan_rate"));
        assert_eq!(row.get("lcg/intervention_rate"), Some(0.0));
    }
    let events = std::fs::read_to_string(trainer.dir.file("events.jsonl")).unwrap();
    assert_eq!(events.matches("the gate's network gave NaN").count(), 1, "{events}");
}

/// A gate that learns from a model's hidden states predicts its labels, is the same under the same seed, and goes through its
/// files into a run.
#[test]
fn a_trained_gate_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    let plain = config(&settings, &[]).unwrap();
    let (codec, architecture) = codec_and_model(&plain).unwrap();
    let model = initial_model(&plain, &architecture).unwrap();
    let table = family_table("script16", &codec, architecture.vocab_size).unwrap();
    let texts = ["да и нет, нет и да", "yes and no, no and yes", "是和不是，不是和是", "네 그리고 아니요"];
    let texts: Vec<Vec<u32>> = texts.iter().cycle().take(24).map(|t| codec.encode(t).unwrap()).collect();
    let fit = TrainConfig { steps: 120, lr: 1e-2, warmup: 10, ..TrainConfig::default() };
    let labels = LabelConfig { rule: LabelRule::Presence, ..LabelConfig::default() };
    let options =
        GateTraining { width: 24, positions: 128, fit, labels, held_out: 0.3, ..GateTraining::default() };
    let train = || train_gate(&model, &table, &texts, &options).unwrap();
    let (gate, report) = train();
    assert_eq!(gate, train().0);
    assert!(report.held_out > 50 && report.families.len() == 16);
    // Better than one answer for all positions, which is not always right.
    let constant = report.families.iter().map(|f| f[1].max(1.0 - f[1])).sum::<f64>() / 16.0;
    assert!(constant < 0.97, "{:?}", report.families);
    assert!(report.fit.agreement > (1.0 + constant) / 2.0, "{:?}, {constant} by one answer", report.fit);
    let folder = dir.path().join("gate");
    let info = gate_info(&table, &options, "tiny");
    SavedGate { gate, info }.save(&folder, &table).unwrap();

    let path = format!("gate.path={:?}", folder.display().to_string());
    let gated = |more: &[&str]| {
        let own = [
            "gate.enabled=true",
            path.as_str(),
            "gate.rules={ require_letter = false, first_token = \"gate_only\" }",
        ];
        config(&settings, &[&own[..], more].concat()).unwrap()
    };
    let mut trainer = Trainer::create(gated(&[]), RunDir::create(dir.path(), "mlp").unwrap()).unwrap();
    let row = trainer.step().unwrap().row;
    assert_eq!(row.get("mismatch/max_abs"), Some(0.0));
    assert!(row.get("lcg/intervention_rate").unwrap() > 0.5);
    let refused = |config: Config, expected: &str| {
        let (codec, model) = codec_and_model(&config).unwrap();
        let error = GateSetup::new(&config.gate, &codec, &model).err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
    };
    refused(gated(&["gate.thresholds=[0.5, 0.5]"]), "threshold has 2 elements, expected 16");
    refused(gated(&["model.hidden_size=36"]), "hidden states have 36 elements, the gate reads 24");
    let few = train_gate(&model, &table, &texts[..1], &options).unwrap_err().to_string();
    assert_eq!(few, "texts: 1 texts of two tokens or more, expected 2 or more");
}
