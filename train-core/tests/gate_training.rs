//! Gates that are trained, refreshed as the policy moves, and broken.
#![allow(missing_docs, clippy::unwrap_used)]

mod gated;

use std::path::Path;

use gated::{config, settings};
use lcg::file::SavedGate;
use lcg::train::TrainConfig;
use lcg::{LabelConfig, LabelRule, MlpGate};
use train_core::checkpoint::Checkpoint;
use train_core::config::Config;
use train_core::gate::{GateSetup, GateTraining, family_table, gate_info, train_gate};
use train_core::metrics::Row;
use train_core::rundir::RunDir;
use train_core::setup::{codec_and_model, initial_model};
use train_core::trainer::Trainer;

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
