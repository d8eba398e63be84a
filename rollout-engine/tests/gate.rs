//! Generation under a gate: what is drawn, what stays as it was, and what a training forward finds under the masks.
#![allow(missing_docs, clippy::unwrap_used)]

use std::sync::Arc;

use lcg::{
    AllowAll, Exemptions, FamilyPredictor, FamilySet, FamilyTable, FirstToken, Kind, Protocol, Rules,
    Taxonomy, Vocabulary, Widen,
};
use proptest::prelude::*;
use qwen3::ops::LogitMask;
use qwen3::{Batch, Config, Decoder, ForwardOptions, Model, VisualItems};
use rollout_engine::random::{Stream, keyed_rng};
use rollout_engine::{DraftStats, Engine, EngineOptions, Error, Gate, Generation, Request, SamplingParams};

/// Pieces of characters, characters, and structure.
const TOKENS: [&[u8]; 20] = [
    b"<end>",
    b"a",
    b" b",
    "中".as_bytes(),
    "文字".as_bytes(),
    "да".as_bytes(),
    "ж".as_bytes(),
    b"!",
    b" ",
    b"\n",
    &[0xE4],
    &[0xE3],
    &[0xE3, 0x81],
    &[0x80, 0x85],
    &[0x80],
    &[0x85],
    "の".as_bytes(),
    "한".as_bytes(),
    "ب".as_bytes(),
    "7".as_bytes(),
];

fn table() -> Arc<FamilyTable> {
    let tokens = TOKENS.iter().enumerate();
    let tokens = tokens.map(|(i, b)| (if i == 0 { Kind::Control } else { Kind::Text }, b.to_vec()));
    let vocabulary = Vocabulary::new(tokens);
    Arc::new(FamilyTable::new(Taxonomy::script16(), vocabulary, &Exemptions::default()).unwrap())
}

fn model(seed: u64) -> Model {
    let config = Config::from_json(
        r#"{ "model_type": "qwen3", "vocab_size": 20, "hidden_size": 24, "intermediate_size": 32,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
            "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "max_position_embeddings": 48,
            "tie_word_embeddings": true, "initializer_range": 0.3 }"#,
    )
    .unwrap();
    Model::init(config, |i| keyed_rng(seed, Stream::Init, [i as u64, 0])).unwrap()
}

/// Predicts some families whatever it sees.
struct Always(FamilySet);

impl FamilyPredictor for Always {
    fn predict(&self, hidden: &[f32], logits: &[f32]) -> lcg::Result<Option<FamilySet>> {
        assert_eq!((hidden.len(), logits.len()), (24, 20));
        Ok(Some(self.0))
    }
}

fn gate(predictor: impl FamilyPredictor + Send + Sync + 'static, rules: Rules) -> Gate {
    Gate {
        table: table(),
        predictor: Box::new(predictor),
        rules,
        exempt: FamilySet::EMPTY,
        protocol: Protocol::default(),
        record_supports: false,
    }
}

fn run(model: &Model, gate: Option<Gate>, params: &SamplingParams) -> Vec<Generation> {
    let decoder = Arc::new(Decoder::new(model, 48).unwrap());
    let mut engine = Engine::new(decoder, EngineOptions::default()).unwrap();
    if let Some(gate) = gate {
        engine = engine.with_gate(Arc::new(gate)).unwrap();
    }
    let params = Arc::new(params.clone());
    let request = |id: u64| Request {
        id,
        prompt: vec![5, 7 + id as u32],
        items: VisualItems::default(),
        samples: (0..6).map(|i| [id, i]).collect(),
        seed: 5,
        params: params.clone(),
    };
    engine.generate(vec![request(0), request(1)]).unwrap()
}

/// What the learner of a trainer does with recorded masks.
struct Masks(Arc<FamilyTable>, lcg::record::MaskRecord);

impl LogitMask for Masks {
    fn ban(&self, row: usize, first: usize, logits: &mut [f32]) {
        let mask = self.1.mask(&self.0, row).unwrap();
        for (v, z) in (first as u32..).zip(logits) {
            *z = if mask.allows(v) { *z } else { f32::NEG_INFINITY };
        }
    }
}

fn params() -> impl Strategy<Value = SamplingParams> {
    let temperature = prop_oneof![Just(1.0f32), Just(0.0), Just(0.7)];
    let (top_k, top_p) = (prop_oneof![Just(0usize), 1usize..6], prop_oneof![Just(1.0f32), Just(0.6)]);
    let min_p = prop_oneof![2 => Just(0.0f32), 1 => Just(0.2)];
    (temperature, top_k, top_p, min_p).prop_map(|(temperature, top_k, top_p, min_p)| SamplingParams {
        temperature,
        top_k,
        top_p,
        min_p,
        max_new_tokens: 20,
        stop_tokens: vec![0],
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Property 10: a gate that allows everything changes no bit.
    #[test]
    fn a_gate_that_passes_changes_nothing(params in params(), seed in 0u64..50) {
        let model = model(seed);
        let free = run(&model, None, &params);
        let gated = run(&model, Some(gate(AllowAll, Rules::default())), &params);
        for (free, gated) in free.iter().zip(gated) {
            let trace = gated.gate.clone().unwrap();
            prop_assert!(trace.masks.denied().all(FamilySet::is_empty) && trace.masks.len() == free.tokens.len());
            prop_assert_eq!(&trace.unmasked_logps, &free.logps);
            prop_assert_eq!(free, &Generation { gate: None, ..gated });
        }
        // To record what was cut changes how tokens are scored, not what is drawn.
        let records = Gate { record_supports: true, ..gate(AllowAll, Rules::default()) };
        for (free, gated) in free.iter().zip(run(&model, Some(records), &params)) {
            prop_assert_eq!(&free.tokens, &gated.tokens);
            for (a, b) in free.truncated_logps.iter().zip(&gated.truncated_logps) {
                prop_assert!((a - b).abs() < 1e-5, "{a} and {b}");
            }
        }
    }

    /// No denied token is drawn, a token changes only where the ungated draw was denied, and a training forward under the
    /// recorded masks finds the recorded log-probabilities bit for bit (property 25), those of what truncation left where that
    /// is recorded; one without masks finds the unmasked ones.
    #[test]
    fn what_was_drawn_is_replayed_bit_for_bit(
        params in params(), seed in 0u64..50, family in 1usize..6, always: bool, record_supports: bool,
    ) {
        let model = model(seed);
        let widen = if always { Widen::Always } else { Widen::IfEmpty };
        let rules = Rules { widen, require_letter: false, first_token: FirstToken::GateOnly, ..Rules::default() };
        let gate = Gate { record_supports, ..gate(Always(FamilySet::one(family)), rules) };
        for g in run(&model, Some(gate), &params) {
            let trace = g.gate.unwrap();
            prop_assert_eq!(trace.masks.len(), g.tokens.len());
            let cuts = params.truncates() && params.temperature > 0.0;
            for (i, token) in g.tokens.iter().enumerate() {
                prop_assert!(trace.masks.mask(&table(), i).unwrap().allows(*token), "token {token} at {i}");
                let support = trace.masks.support(&table(), i).unwrap();
                prop_assert_eq!(support.is_some(), record_supports && cuts);
                if let Some(support) = support {
                    prop_assert!(support.is_sorted() && support.len() <= 20);
                    prop_assert_eq!(g.logps[i].to_bits(), g.truncated_logps[i].to_bits());
                }
            }
            let prompt = [5, 7 + g.request as u32];
            let fed: Vec<u32> = prompt.iter().chain(&g.tokens[..g.tokens.len() - 1]).copied().collect();
            let options = ForwardOptions { no_grad: true, ..ForwardOptions::default() };
            let hidden = model.forward(&Batch::pack([&fed[..]]), &options).unwrap();
            let states = hidden.states.narrow(0, 1, g.tokens.len()).unwrap().contiguous().unwrap();
            let temperature = if params.temperature == 0.0 { 1.0 } else { f64::from(params.temperature) };
            let unmasked = model.masked_log_probs(&states, &g.tokens, temperature, None).unwrap();
            let mask: Arc<dyn LogitMask> = Arc::new(Masks(table(), trace.masks));
            let scores = model.masked_log_probs(&states, &g.tokens, temperature, Some(mask)).unwrap();
            let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
            prop_assert_eq!(bits(&scores.logp.to_vec1::<f32>().unwrap()), bits(&g.logps));
            prop_assert_eq!(bits(&scores.entropy.to_vec1::<f32>().unwrap()), bits(&g.entropies));
            prop_assert_eq!(bits(&unmasked.logp.to_vec1::<f32>().unwrap()), bits(&trace.unmasked_logps));
        }
    }
}

/// Section 12.3, by redrawing: without truncation, the first token that differs is one whose ungated draw was denied.
#[test]
fn a_token_changes_only_where_the_ungated_one_was_denied() {
    let params = SamplingParams { max_new_tokens: 16, ..SamplingParams::default() };
    let rules = Rules { require_letter: false, first_token: FirstToken::GateOnly, ..Rules::default() };
    let (mut changed, mut flips) = (0, 0.0);
    for seed in 0..20 {
        let model = model(seed);
        let free = run(&model, None, &params);
        for (free, gated) in
            free.iter().zip(run(&model, Some(gate(Always(FamilySet::one(1)), rules)), &params))
        {
            let trace = gated.gate.unwrap();
            let entries = trace.metrics.entries().unwrap();
            flips += entries.iter().find(|(name, _)| *name == "lcg/flip_rate").unwrap().1;
            let Some(at) = free.tokens.iter().zip(&gated.tokens).position(|(a, b)| a != b) else { continue };
            changed += 1;
            assert!(!trace.masks.mask(&table(), at).unwrap().allows(free.tokens[at]));
        }
    }
    assert!(changed > 50 && flips > 5.0, "{changed} changed responses, flip rates of {flips}");
}

/// With the gate on, the first token's frequencies are the softmax over what is allowed (property 31's condition, in the
/// engine).
#[test]
fn frequencies_are_those_of_the_gated_distribution() {
    let model = model(3);
    let rules = Rules { require_letter: false, first_token: FirstToken::GateOnly, ..Rules::default() };
    let decoder = Arc::new(Decoder::new(&model, 48).unwrap());
    let gate = gate(Always(FamilySet::one(1)), rules);
    let mut engine =
        Engine::new(decoder, EngineOptions::default()).unwrap().with_gate(Arc::new(gate)).unwrap();
    let draws = 20_000u64;
    let params = SamplingParams { max_new_tokens: 1, ..SamplingParams::default() };
    let (items, params) = (VisualItems::default(), Arc::new(params));
    let samples = (0..draws).map(|i| [0, i]).collect();
    let request = Request { id: 0, prompt: vec![5, 7], items, samples, seed: 9, params };
    let all = engine.generate(vec![request]).unwrap();
    let mut counts = [0f64; 20];
    let mut expected = [0f64; 20];
    for g in &all {
        counts[g.tokens[0] as usize] += 1.0;
        expected[g.tokens[0] as usize] = f64::from(g.logps[0]).exp() * draws as f64;
    }
    let seen: f64 = expected.iter().sum();
    assert!((seen / draws as f64 - 1.0).abs() < 1e-3, "tokens that were never drawn have mass");
    let chi: f64 =
        (0..20).filter(|v| expected[*v] > 0.0).map(|v| (counts[v] - expected[v]).powi(2) / expected[v]).sum();
    let freedom = expected.iter().filter(|e| **e > 0.0).count() - 1;
    // The 1 − 10⁻⁴ quantile of χ² for up to 19 degrees of freedom.
    assert!(freedom >= 3 && chi < 50.8, "χ² of {chi} for {freedom}");
    assert!(counts[3] == 0.0 && counts[1] > 0.0);
}

fn drafted(
    model: &Model,
    draft: &Model,
    tokens: usize,
    gate: Option<Gate>,
    params: &SamplingParams,
    (samples, max_rows): (u64, usize),
) -> (Vec<Generation>, DraftStats) {
    let of = |model: &Model| Arc::new(Decoder::new(model, 48).unwrap());
    let options = EngineOptions { max_rows, ..EngineOptions::default() };
    let mut engine = Engine::new(of(model), options).unwrap().with_draft(of(draft), tokens).unwrap();
    if let Some(gate) = gate {
        engine = engine.with_gate(Arc::new(gate)).unwrap();
    }
    let params = Arc::new(params.clone());
    let request = |id: u64| Request {
        id,
        prompt: vec![5, 7 + id as u32],
        items: VisualItems::default(),
        samples: (0..samples).map(|i| [id, i]).collect(),
        seed: 5,
        params: params.clone(),
    };
    let all = engine.generate(vec![request(0), request(1)]).unwrap();
    let stats = engine.draft_stats();
    assert!(stats.accepted <= stats.drafted);
    (all, stats)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Section 11: with a draft, under a gate or not, what comes out has the bits that it has without one (also property 15:
    /// what was rejected leaves no trace).
    #[test]
    fn drafting_changes_nothing(
        params in params(), seed in 0u64..50, tokens in 1usize..7, family in 1usize..6, gated: bool, same: bool,
        new in 1usize..46,
    ) {
        let params = SamplingParams { max_new_tokens: new, ..params };
        let rules = Rules { require_letter: false, first_token: FirstToken::GateOnly, ..Rules::default() };
        let gate = || gated.then(|| gate(Always(FamilySet::one(family)), rules));
        let (model, draft) = (model(seed), model(if same { seed } else { seed + 100 }));
        let plain = run(&model, gate(), &params);
        let (all, stats) = drafted(&model, &draft, tokens, gate(), &params, (6, 16));
        prop_assert_eq!(plain, all);
        // A model foresees its own draw; what it drafts behind a stop token goes.
        prop_assert!(!same || gated || stats.drafted == 0 || stats.accepted > 0, "{:?}", stats);
    }
}

/// Acceptance 6: a family that is denied everywhere does not occur in 10⁵ drafted tokens.
#[test]
fn a_denied_family_never_appears_under_drafting() {
    let rules = Rules { require_letter: false, first_token: FirstToken::GateOnly, ..Rules::default() };
    let params = SamplingParams { max_new_tokens: 46, ..SamplingParams::default() };
    let allowed = FamilySet::first(2);
    let (han, mut total) = ([3u32, 4, 10], 0);
    for seed in 0u64.. {
        let all = drafted(
            &model(seed),
            &model(seed + 1),
            3,
            Some(gate(Always(allowed), rules)),
            &params,
            (128, 256),
        )
        .0;
        for g in all {
            total += g.tokens.len();
            assert!(!g.tokens.iter().any(|t| han.contains(t)), "{:?}", g.tokens);
        }
        if total > 100_000 {
            break;
        }
    }
}

#[test]
fn drafts_that_do_not_fit_are_refused() {
    let decoder = |max_len: usize| Arc::new(Decoder::new(&model(1), max_len).unwrap());
    let refused = |draft: Arc<Decoder>, tokens: usize| {
        let engine =
            Engine::new(decoder(48), EngineOptions { max_rows: 8, ..EngineOptions::default() }).unwrap();
        engine.with_draft(draft, tokens).err().unwrap().to_string()
    };
    assert_eq!(refused(decoder(20), 2), "the draft model: its context is of 20 tokens, the model's of 48");
    assert_eq!(
        refused(decoder(48), 8),
        "the draft model: 8 tokens at a time, expected 1 to 7 (max_rows − 1)"
    );
    assert_eq!(
        refused(decoder(48), 0),
        "the draft model: 0 tokens at a time, expected 1 to 7 (max_rows − 1)"
    );
    let config = Config { vocab_size: 21, ..model(1).config().clone() };
    let other = Model::init(config, |i| keyed_rng(1, Stream::Init, [i as u64, 0])).unwrap();
    let other = Arc::new(Decoder::new(&other, 48).unwrap());
    assert_eq!(refused(other, 2), "the draft model: it has a vocabulary of 21, the model one of 20");
}

#[test]
fn a_gate_of_another_vocabulary_is_refused() {
    let vocabulary = Vocabulary::new([(Kind::Text, b"a".to_vec())]);
    let table = FamilyTable::new(Taxonomy::script16(), vocabulary, &Exemptions::default()).unwrap();
    let gate = Gate { table: Arc::new(table), ..gate(AllowAll, Rules::default()) };
    let decoder = Arc::new(Decoder::new(&model(1), 48).unwrap());
    let engine = Engine::new(decoder, EngineOptions::default()).unwrap().with_gate(Arc::new(gate));
    assert!(matches!(engine.err(), Some(Error::Gate(lcg::Error::VocabMismatch { logits: 20, table: 1 }))));
}
