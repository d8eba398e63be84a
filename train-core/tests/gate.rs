//! Runs under a language confusion gate: ratios are exact because masks are replayed.
#![allow(missing_docs, clippy::unwrap_used)]

mod gated;

use std::path::Path;
use std::sync::Arc;

use gated::{GATED, config, settings};
use lcg::FamilyTable;
use lcg::record::{GateMetrics, MaskRecord};
use train_core::config::Config;
use train_core::gate::{GateError, GateSetup};
use train_core::learner::{Learner, UpdateReport};
use train_core::rollout::Sampler;
use train_core::rundir::RunDir;
use train_core::sample::Sample;
use train_core::setup::{codec_and_model, initial_model};
use train_core::trainer::Trainer;
use train_core::types::Prompt;

/// The acceptance of the gate in reinforcement learning: 50 steps of two mini-batches, and in the first of each step every
/// ratio is 1 to the last bit. A gradient flows through the masked head, so the policy changes.
#[test]
fn fifty_steps_under_a_gate_have_exact_ratios() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    let config =
        config(&settings, &[&GATED[..], &["gate.leak_coef=0.1", "loss.kl_coef=0.01"]].concat()).unwrap();
    let mut trainer = Trainer::create(config, RunDir::create(dir.path(), "run").unwrap()).unwrap();
    let (mut flips, mut leaks, mut confused) = (Vec::new(), Vec::new(), Vec::new());
    while !trainer.is_done() {
        let row = trainer.step().unwrap().row;
        assert_eq!(row.get("mismatch/max_abs"), Some(0.0), "step {}", row.step);
        flips.push(row.get("lcg/flip_rate").unwrap());
        leaks.push(row.get("lcg/leak").unwrap());
        let [removed, unmasked] =
            ["lcg/denied_mass", "lcg/unmasked_ratio"].map(|name| row.get(name).unwrap());
        assert!(removed > 0.0);
        assert!(
            (unmasked - (1.0 - removed)).abs() < 1e-4,
            "step {}: {unmasked} without masks, {removed} removed",
            row.step
        );
        confused.extend(row.get("lcg/codepoint_confusion_rate"));
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
    // What is written at random is nearly always Latin, which one prompt of eight is.
    let mean = confused.iter().sum::<f64>() / confused.len() as f64;
    assert!(mean > 0.5 && mean < 1.0, "{confused:?}");
    let part = |from: usize| leaks[from..from + 10].iter().sum::<f64>();
    assert!(part(40) < part(0), "the leak loss moves mass off what is denied: {leaks:?}");
    // The log of samples holds the masks.
    let log = std::fs::read_to_string(trainer.dir.file("rollouts/step-000050.jsonl")).unwrap();
    let line: serde_json::Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    for column in ["denied", "logp_unmasked"] {
        assert_eq!(
            line[column].as_array().unwrap().len(),
            line["tokens"].as_array().unwrap().len(),
            "{column}"
        );
    }
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
    refuse(&["rollout.top_k=5", "gate.replay=false"], "gate.replay = false (test)");
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
    fn update(&self, replay: bool, samples: &mut [Sample]) -> Result<UpdateReport, String> {
        let (_, architecture) = codec_and_model(&self.config).unwrap();
        let model = initial_model(&self.config, &architecture).unwrap();
        let mut learner = Learner::new(model, self.config.loss_choice().unwrap().loss, &self.config);
        if replay {
            learner.replay_masks(Arc::clone(self.setup.table()));
        }
        learner.update(samples, 0).map_err(|e| e.to_string())
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
    // What the trainer finds without masks is what the rollout recorded as such.
    let recorded = drawn.samples.iter().flat_map(|s| {
        let unmasked = &s.gate.as_ref().unwrap().unmasked_logps;
        unmasked.iter().zip(&s.logp_mu).map(|(new, old)| (f64::from(*new) - f64::from(*old)).exp())
    });
    assert_eq!(wrong, recorded.collect::<Vec<f64>>());
    let mean = wrong.iter().sum::<f64>() / wrong.len() as f64;
    let mut metrics = GateMetrics::default();
    drawn.samples.iter().for_each(|s| metrics.merge(&s.gate.as_ref().unwrap().metrics));
    let removed = metrics.entries().unwrap().iter().find(|(name, _)| *name == "lcg/denied_mass").unwrap().1;
    assert!(removed > 0.05, "{removed}");
    assert!((mean - (1.0 - removed)).abs() < 1e-4, "mean ratio {mean}, allowed mass {}", 1.0 - removed);
}

/// A record of what was denied alone: its bytes up to the supports, of which none are left.
fn without_supports(record: &MaskRecord, table: &FamilyTable) -> MaskRecord {
    let mut bytes = record.to_bytes(table, 1);
    let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| bytes[at + i])) as usize;
    let length = 56 + 4 * word(44) + 8 * word(48);
    bytes.truncate(length);
    bytes[52..56].fill(0);
    MaskRecord::from_bytes(&bytes, table).unwrap().0
}

/// Section 10.2: with truncation the trainer scores over exactly what the sampler drew from, so that ratios are 1 to the last bit;
/// and the leak loss still is of what the gate denied, not of what truncation cut.
#[test]
fn truncated_supports_are_replayed() {
    let widen = "gate.rules={ require_letter = false, first_token = \"gate_only\", widen = \"if_empty\" }";
    let cuts: [&[&str]; 4] = [
        &["rollout.top_k=5"],
        &["rollout.top_p=0.7", widen],
        &["rollout.min_p=0.2", "rollout.temperature=1.3"],
        &["rollout.top_k=40", "rollout.top_p=0.9", "rollout.min_p=0.02", "rollout.temperature=0.8"],
    ];
    for cut in cuts {
        let dir = tempfile::tempdir().unwrap();
        let drawn = drawn(dir.path(), &[cut, &["gate.leak_coef=0.1"]].concat());
        let table = drawn.setup.table();
        let (mut supports, mut denied) = (0, 0);
        for sample in &drawn.samples {
            let trace = sample.gate.as_ref().unwrap();
            for row in 0..sample.response.len() {
                let support = trace.masks.support(table, row).unwrap().unwrap();
                let (families, pending) = trace.masks.at(row).unwrap();
                let view = table.view(pending);
                assert!(support.iter().all(|v| families.is_empty() || !view.denies(families, *v as usize)));
                supports += 1;
                denied += usize::from(!families.is_empty());
                assert!(support.len() < table.len() / 2 && support.contains(&sample.response[row]));
            }
        }
        assert!(supports > 200 && denied > 20, "{cut:?}: {denied} of {supports}");
        // Both scorings, by the trainer: over what was drawn from, and over all.
        let mut samples = drawn.samples.clone();
        let report = drawn.update(true, &mut samples).unwrap();
        let mut denials = drawn.samples.clone();
        for trace in denials.iter_mut().filter_map(|s| s.gate.as_mut()) {
            trace.masks = without_supports(&trace.masks, table);
        }
        assert!(report.leak[0] > 0.0);
        assert_eq!(report.leak, drawn.update(true, &mut denials).unwrap().leak, "{cut:?}");
        let bits = |logps: &[f32]| logps.iter().map(|l| l.to_bits()).collect::<Vec<u32>>();
        for s in &samples {
            assert_eq!(bits(&s.logp_trained), bits(&s.logp_mu), "{cut:?}");
        }
        let mut whole = drawn.samples.clone();
        drawn.update(false, &mut whole).unwrap();
        for s in &whole {
            let trace = s.gate.as_ref().unwrap();
            assert_eq!(bits(&s.logp_trained), bits(&trace.unmasked_logps), "{cut:?}");
            assert!(s.logp_trained.iter().zip(&s.logp_mu).all(|(all, left)| *all < left + 1e-6));
        }
        // A token that is allowed but was cut is none of the sampler's.
        let (sample, row, other) = (0..samples.len())
            .flat_map(|s| (0..samples[s].response.len()).map(move |r| (s, r)))
            .find_map(|(s, r)| {
                let mask = samples[s].gate.as_ref()?.masks.mask(table, r).ok()?;
                let gated = lcg::RowMask { kept: None, ..mask.clone() };
                (0..table.len() as u32).find(|v| gated.allows(*v) && !mask.allows(*v)).map(|v| (s, r, v))
            })
            .unwrap();
        samples[sample].response[row] = other;
        let refused = drawn.update(true, &mut samples).unwrap_err();
        assert!(
            refused.contains(&format!("row {row}: token {other} is denied by its own record")),
            "{refused}"
        );
    }
    // In a run, of two mini-batches a step: the first is exact.
    let dir = tempfile::tempdir().unwrap();
    let set =
        [&GATED[..], &["rollout.top_k=8", "rollout.top_p=0.9", "gate.leak_coef=0.1", "run.steps=4"]].concat();
    let config = config(&settings(dir.path()), &set).unwrap();
    let mut trainer = Trainer::create(config, RunDir::create(dir.path(), "run").unwrap()).unwrap();
    while !trainer.is_done() {
        let row = trainer.step().unwrap().row;
        assert_eq!(row.get("mismatch/max_abs"), Some(0.0), "step {}", row.step);
        let [unmasked, leak] = ["lcg/unmasked_ratio", "lcg/leak"].map(|name| row.get(name).unwrap());
        assert!(leak > 0.0 && unmasked > 0.0 && unmasked < 1.0, "{leak}, {unmasked}");
    }
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
