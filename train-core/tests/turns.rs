//! A conversation of two turns is one sequence to the trainer: what the policy drew is trained on, what it was told is
//! read, and the experts of both are replayed.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;

use moe_routing::RouteTrace;
use serde_json::{Value, json};
use train_core::chat::{Chat, message};
use train_core::config::{Config, Data, Layers};
use train_core::data::{FileSource, PromptSource, TextCodec};
use train_core::learner::{Learner, UpdateReport};
use train_core::rollout::Sampler;
use train_core::rundir::RunDir;
use train_core::sample::{Packed, Sample, micro_batches};
use train_core::setup;
use train_core::trainer::Trainer;
use train_core::types::Finish;

fn config(set: &[&str]) -> Config {
    let mut layers = Layers::preset("sort").unwrap();
    let small = [
        "data.turns=2",
        "data.levels=[2]",
        "model.hidden_size=12",
        "model.num_attention_heads=2",
        "model.num_key_value_heads=1",
        "model.head_dim=6",
        "model.num_experts=6",
        "model.moe_intermediate_size=8",
        "model.initializer_range=0.3",
        "rollout.prompts=4",
        "rollout.group=4",
        // An untrained policy ends a turn after a dozen tokens or so.
        "rollout.max_new_tokens=50",
        "update.routing=r3",
        "update.minibatches=2",
        "warm_start.steps=0",
    ];
    small.iter().chain(set).for_each(|set| layers.set(set, "test").unwrap());
    layers.resolve().unwrap()
}

/// An update on a batch that a sampler with the trainer's own numbers drew; `change` sees it before.
fn run(set: &[&str], change: impl FnOnce(&mut Vec<Sample>)) -> Result<(UpdateReport, Vec<Sample>), String> {
    let sampling = config(&[]);
    let (codec, architecture) = setup::codec_and_model(&sampling).unwrap();
    let model = setup::initial_model(&sampling, &architecture).unwrap();
    let mut sampler = Sampler::new(&sampling, &codec);
    sampler.publish(&model, 1).unwrap();
    let prompts = setup::prompt_source(&sampling, &codec, &architecture).unwrap().next(4).unwrap();
    let mut samples = sampler.sample(prompts, 0, &codec).unwrap();
    for sample in &mut samples {
        sample.advantage = if sample.key.index % 2 == 0 { 1.0 } else { -1.0 };
    }
    change(&mut samples);
    let config = config(set);
    let mut learner = Learner::new(model, config.loss_choice().unwrap().loss, &config);
    let report = learner.update(&mut samples, 1).map_err(|e| e.to_string())?;
    Ok((report, samples))
}

/// Rows of the trace from what the policy was told on.
fn second_turn(sample: &Sample) -> std::ops::Range<usize> {
    sample.prompt.tokens.len() + sample.observations[0].before..sample.fed()
}

/// A sample that came to its second turn.
fn two_turns(samples: &[Sample]) -> usize {
    samples.iter().position(|s| !s.observations.is_empty() && second_turn(s).len() > 4).unwrap()
}

#[test]
fn old_log_probabilities_are_the_samplers_in_both_turns() {
    // The samples are of the trainer's own numbers; a sampler that claims others makes the trainer score them again.
    for routing in ["update.routing=r2", "update.routing=r3"] {
        let (report, samples) = run(&[routing, "rollout.precision=bf16"], |samples| {
            assert!(samples.iter().filter(|s| s.observations.len() == 1).count() >= 4);
        })
        .unwrap();
        for sample in &samples {
            assert_eq!(sample.logp_old.len(), sample.response.len());
            assert_eq!(sample.routes.as_ref().unwrap().len(), sample.fed());
            for (old, mu) in sample.logp_old.iter().zip(&sample.logp_mu) {
                assert!((old - mu).abs() <= 1e-6, "{routing}: {old} {mu}");
            }
        }
        assert_eq!(report.coverage.unwrap().fallback_rows, 0);
    }
    // What is not scored again is measured where it trains first.
    assert_eq!(run(&[], |_| {}).unwrap().0.mismatch.max_abs(), Some(0.0));
}

#[test]
fn only_what_the_policy_drew_is_trained_on() {
    run(&[], |samples| {
        let all: Vec<&Sample> = samples.iter().collect();
        for micro in micro_batches(&all, 200) {
            let packed = Packed::new(&micro).unwrap();
            for ((sample, range), rows) in
                micro.iter().zip(packed.offsets.windows(2)).zip(packed.batch.sequences())
            {
                // Places in the sequence of the tokens that are predicted.
                let (rows_of, targets) =
                    (&packed.rows[range[0]..range[1]], &packed.targets[range[0]..range[1]]);
                assert_eq!(targets, sample.response);
                let whole: Vec<(u32, bool)> = sample.behind_prompt().collect();
                let first = sample.prompt.tokens.len();
                let predicted: Vec<usize> = rows_of
                    .iter()
                    .map(|row| rows.iter().position(|r| r == row).unwrap() + 1 - first)
                    .collect();
                let drawn: Vec<usize> = (0..whole.len()).filter(|i| whole[*i].1).collect();
                assert_eq!(predicted, drawn);
                let told: Vec<u32> = whole.iter().filter(|(_, drawn)| !drawn).map(|(t, _)| *t).collect();
                let expected = &sample.prompt.follow_ups[..sample.observations.len()];
                assert_eq!(told, expected.concat());
                let fed: Vec<u32> = rows.iter().map(|row| packed.batch.tokens[*row as usize]).collect();
                assert_eq!(fed, sample.fed_tokens().collect::<Vec<_>>());
            }
        }
    })
    .unwrap();
}

#[test]
fn a_shifted_trace_is_refused_in_whichever_turn() {
    let ids = |trace: &RouteTrace, row: usize| -> Vec<u32> {
        (0..trace.shape().layers().len()).flat_map(|layer| trace.ids(row, layer).unwrap()).collect()
    };
    // All rows from some row on are lost but the last, which shifts the rest by one.
    let late = |from: fn(&Sample) -> usize| {
        run(&[], |samples| {
            let at = two_turns(samples);
            let sample = &mut samples[at];
            let (trace, fed) = (sample.routes.take().unwrap(), sample.fed_tokens().collect::<Vec<_>>());
            let mut shifted = RouteTrace::new(trace.shape().clone(), 0);
            for row in (0..trace.len()).filter(|row| *row != from(sample)) {
                shifted.push(fed[row], &ids(&trace, row)).unwrap();
            }
            sample.routes = Some(shifted);
        })
        .err()
        .unwrap()
    };
    for error in [late(|_| 0), late(|sample| second_turn(sample).start)] {
        assert!(error.starts_with("update.routing: sample "), "{error}");
        assert!(error.contains("the trace was recorded for other tokens"), "{error}");
    }
    // Under the right tokens no digest can tell; the discrepancy does.
    let (report, _) = run(&[], |samples| {
        for sample in samples.iter_mut().filter(|s| !s.observations.is_empty()) {
            let (trace, fed) = (sample.routes.take().unwrap(), sample.fed_tokens().collect::<Vec<_>>());
            let mut shifted = RouteTrace::new(trace.shape().clone(), 0);
            for (row, token) in fed.iter().enumerate() {
                let from = if row > second_turn(sample).start { row - 1 } else { row };
                shifted.push(*token, &ids(&trace, from)).unwrap();
            }
            sample.routes = Some(shifted);
        }
    })
    .unwrap();
    assert!(report.mismatch.max_abs().unwrap() > 1e-4 && report.flips.exact_match().unwrap() < 1.0);
}

#[test]
fn a_missing_trace_of_the_second_turn_is_refused_or_counted() {
    let forget = |samples: &mut Vec<Sample>| {
        let at = two_turns(samples);
        let rows = second_turn(&samples[at]);
        samples[at].routes.as_mut().unwrap().invalidate(rows);
    };
    let refused = run(&[], forget).err().unwrap();
    assert!(refused.contains("no experts are recorded for row"), "{refused}");
    let (report, samples) = run(&["update.missing_routes=natural"], forget).unwrap();
    let (rows, coverage) =
        (second_turn(&samples[two_turns(&samples)]).len() as u64, report.coverage.unwrap());
    assert_eq!(coverage.fallback_rows, rows);
    let share = 1.0 - rows as f64 / coverage.rows as f64;
    assert!((coverage.share().unwrap() - share).abs() < 1e-12 && share < 1.0);
}

#[test]
fn a_run_of_two_turns_learns_to_answer_both() {
    let dir = tempfile::tempdir().unwrap();
    let set = [
        "data.levels=[1]",
        "model.hidden_size=24",
        "rollout.max_new_tokens=4",
        "rollout.precision=bf16",
        "warm_start.steps=60",
        "warm_start.lr=0.01",
        "eval.every=2",
        "eval.prompts=10",
        "run.steps=2",
        "log.rollout_groups=-1",
    ];
    let mut trainer = Trainer::create(config(&set), RunDir::create(dir.path(), "turns").unwrap()).unwrap();
    let before = trainer.before_first().unwrap().unwrap();
    // A digit is its own order: after the supervised steps both answers are mostly right.
    assert!(before.get("eval/heldout/exact").unwrap() > 0.5, "{before:?}");
    let row = trainer.step().unwrap().row;
    assert_eq!(row.get("route/coverage"), Some(1.0));
    assert!(row.get("mismatch/k3").unwrap() > 0.0);
    let log = std::fs::read_to_string(trainer.dir.file("rollouts/step-000001.jsonl")).unwrap();
    let line: Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    let turns = |name: &str| line[name].as_str().unwrap().split('\n').count();
    assert_eq!((turns("prompt"), turns("answer"), turns("response")), (2, 2, 2));
    assert_eq!(line["observations"][0]["before"], 2);
    assert_eq!(line["tokens"].as_array().unwrap().len(), line["logp_mu"].as_array().unwrap().len());
}

#[test]
fn a_turn_that_is_cut_is_not_answered() {
    run(&["rollout.max_new_tokens=50"], |samples| {
        for sample in samples {
            let turns = sample.text.split('\n').count();
            assert_eq!(turns, sample.observations.len() + 1);
            assert!(turns == 2 || sample.finish == Finish::Length, "{sample:?}");
        }
    })
    .unwrap();
}

const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// Bytes as tokens, with the control tokens of a chat template.
fn chat_codec(dir: &std::path::Path) -> TextCodec {
    TextCodec::bytes().unwrap().save(dir).unwrap();
    let path = dir.join("tokenizer.json");
    let mut file: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let added = file["added_tokens"].as_array_mut().unwrap();
    for (i, token) in ["<|im_start|>", "<|im_end|>"].iter().enumerate() {
        let id = 257 + i;
        added.push(
            json!({ "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true }),
        );
    }
    std::fs::write(path, file.to_string()).unwrap();
    let config = json!({ "eos_token": "<|im_end|>", "chat_template": CHATML });
    std::fs::write(dir.join("tokenizer_config.json"), config.to_string()).unwrap();
    TextCodec::from_dir(dir, vec![258]).unwrap()
}

#[test]
fn later_turns_of_a_file_are_what_the_template_makes_of_the_conversation() {
    let dir = tempfile::tempdir().unwrap();
    let codec = chat_codec(dir.path());
    let path = dir.path().join("data.jsonl");
    let row = json!({ "prompt": "2+2?", "turns": ["And <|im_end|> 3+3?", "Sure?"], "answer": "4\n6\nyes" });
    std::fs::write(&path, format!("{row}\n")).unwrap();
    let mut settings = config(&["data.chat=true", "data.turns_column=turns", "data.eval_share=0.0"]).data;
    settings.path = path.display().to_string();
    let open = |settings: &Data, max_new| FileSource::new(settings, &codec, 0, 0, max_new, 200);
    let mut source = open(&settings, 8).unwrap();
    let prompt = source.next(1).unwrap().remove(0).0;
    assert_eq!((prompt.turns(), prompt.text.as_str()), (3, "2+2?\nAnd <|im_end|> 3+3?\nSure?"));
    let said = ["4", "6"].map(|text| [codec.encode(text).unwrap(), vec![258]].concat());
    let whole: Vec<u32> = [&prompt.tokens, &said[0], &prompt.follow_ups[0], &said[1], &prompt.follow_ups[1]]
        .into_iter()
        .flatten()
        .copied()
        .collect();
    let messages =
        [("user", "2+2?"), ("assistant", "4"), ("user", "And <|im_end|> 3+3?"), ("assistant", "6")];
    let messages = messages.into_iter().chain([("user", "Sure?")]).map(|(role, text)| message(role, text));
    let chat = Chat { messages: messages.collect(), add_generation_prompt: true, ..Chat::default() };
    assert_eq!(whole, codec.encode_chat(&chat).unwrap());
    // All turns have to fit, whatever the policy says in them.
    let error = open(&settings, 40).err().unwrap().to_string();
    assert!(error.contains("with 120 new ones"), "{error}");
    settings.chat = false;
    let prompt = open(&settings, 8).unwrap().next(1).unwrap().remove(0).0;
    assert_eq!(prompt.follow_ups[1], codec.encode("Sure?").unwrap());
    let broken: BTreeMap<&str, Value> = [("prompt", json!("2+2?")), ("turns", json!("And?"))].into();
    std::fs::write(&path, format!("{}\n", json!(broken))).unwrap();
    let error = open(&settings, 8).err().unwrap().to_string();
    assert!(error.ends_with("line 1: column `turns` has \"And?\", expected a list of texts"), "{error}");
}
