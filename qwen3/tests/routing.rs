//! Recording and replaying experts through the whole model, in the bits that it runs in.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{random_model, tiny};
use moe_routing::{Coverage, MissingPolicy, RouteMode, RouteTrace};
use proptest::prelude::*;
use qwen3::{Architecture, Batch, Config, Error, ForwardOptions, Hidden, Model, MoeConfig};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Models with experts; `all` runs every expert of a layer.
fn configs(all: bool) -> impl Strategy<Value = Config> {
    (1usize..7, 1usize..7, any::<bool>(), 1usize..4, 1usize..3, 3usize..20).prop_map(
        move |(experts, k, renorm, layers, sparse, hidden)| Config {
            hidden_size: hidden,
            num_hidden_layers: layers * sparse,
            head_dim: 4,
            moe: Some(MoeConfig {
                num_experts: experts,
                num_experts_per_tok: if all { experts } else { k.min(experts) },
                moe_intermediate_size: 5,
                norm_topk_prob: renorm,
                decoder_sparse_step: sparse,
                mlp_only_layers: Vec::new(),
                router_aux_loss_coef: 0.0,
            }),
            ..tiny(Architecture::Qwen3Moe)
        },
    )
}

fn tokens(lengths: &[usize], seed: u64) -> Vec<Vec<u32>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    lengths.iter().map(|n| (0..*n).map(|_| rng.random_range(0..64)).collect()).collect()
}

fn pack(sequences: &[Vec<u32>]) -> Batch {
    Batch::pack(sequences.iter().map(Vec::as_slice))
}

fn bits(tensor: &candle_core::Tensor) -> Vec<u32> {
    tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().map(|v| v.to_bits()).collect()
}

/// States and every gradient of a loss that reads all of them, as bits.
fn run(model: &Model, batch: &Batch, routing: RouteMode<'_>) -> (Hidden, Vec<Vec<u32>>) {
    let hidden = model.forward(batch, &ForwardOptions { routing, no_grad: false }).unwrap();
    let targets: Vec<u32> = batch.tokens.iter().map(|t| (t + 1) % 64).collect();
    let scores = model.log_probs(&hidden.states, &targets, 1.0).unwrap();
    let gradients = scores.logp.sum_all().unwrap().backward().unwrap();
    let mut all = vec![bits(&hidden.states)];
    all.extend(model.parameters().iter().map(|p| bits(gradients.get(p.var.as_tensor()).unwrap())));
    (hidden, all)
}

fn record(model: &Model, batch: &Batch) -> Vec<RouteTrace> {
    run(model, batch, RouteMode::Record { policy_version: 3 }).0.traces
}

/// A copy of a trace with the ids of each row and layer changed.
fn edit(trace: &RouteTrace, tokens: &[u32], mut f: impl FnMut(usize, usize, &mut Vec<u32>)) -> RouteTrace {
    let mut out = RouteTrace::new(trace.shape().clone(), 0);
    for (row, token) in tokens.iter().enumerate().take(trace.len()) {
        let mut ids = Vec::new();
        for ordinal in 0..trace.shape().layers().len() {
            let mut of_layer: Vec<u32> = trace.ids(row, ordinal).unwrap().collect();
            f(row, ordinal, &mut of_layer);
            ids.extend(of_layer);
        }
        out.push(*token, &ids).unwrap();
    }
    out
}

fn replay<'a>(traces: &'a [&'a RouteTrace]) -> RouteMode<'a> {
    RouteMode::Replay { traces, missing: MissingPolicy::Error }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn replay_under_the_same_weights_has_the_bits_of_natural_routing(
        config in configs(false), lengths in prop::collection::vec(1usize..9, 1..4), seed in 0u64..1000,
    ) {
        let model = random_model(config, seed);
        let sequences = tokens(&lengths, seed);
        let batch = pack(&sequences);
        let (natural, natural_bits) = run(&model, &batch, RouteMode::Natural);
        let (recorded, recorded_bits) = run(&model, &batch, RouteMode::Record { policy_version: 3 });
        prop_assert_eq!(&recorded_bits, &natural_bits);
        prop_assert!(natural.traces.is_empty() && natural.coverage.is_none());
        let traces: Vec<&RouteTrace> = recorded.traces.iter().collect();
        let (replayed, replayed_bits) = run(&model, &batch, replay(&traces));
        prop_assert_eq!(&replayed_bits, &natural_bits);
        prop_assert_eq!(replayed.routes, natural.routes);
        let rows = batch.tokens.len() as u64;
        prop_assert_eq!(replayed.coverage, Some(Coverage { rows, fallback_rows: 0 }));

        // The order of ids in a row is no information.
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let shuffled: Vec<RouteTrace> = traces
            .iter()
            .zip(&sequences)
            .map(|(trace, tokens)| edit(trace, tokens, |_, _, ids| ids.shuffle(&mut rng)))
            .collect();
        let shuffled: Vec<&RouteTrace> = shuffled.iter().collect();
        prop_assert_eq!(run(&model, &batch, replay(&shuffled)).1, natural_bits);
    }

    #[test]
    fn where_every_expert_runs_any_trace_is_natural(
        config in configs(true), length in 1usize..12, seed in 0u64..1000,
    ) {
        let model = random_model(config, seed);
        let sequences = tokens(&[length], seed);
        let batch = pack(&sequences);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let any = edit(&record(&model, &batch)[0], &sequences[0], |_, _, ids| ids.shuffle(&mut rng));
        prop_assert_eq!(run(&model, &batch, replay(&[&any])).1, run(&model, &batch, RouteMode::Natural).1);
    }

    #[test]
    fn one_other_expert_changes_nothing_before_it(
        config in configs(false), length in 1usize..12, at in (0usize..12, 0usize..4), seed in 0u64..1000,
    ) {
        let moe = config.moe.clone().unwrap();
        prop_assume!(moe.num_experts_per_tok < moe.num_experts);
        let layers = config.moe_layers().len();
        let (row, ordinal) = (at.0 % length, at.1 % layers);
        let model = random_model(config, seed);
        let sequences = tokens(&[length], seed);
        let batch = pack(&sequences);
        let recorded = record(&model, &batch).remove(0);
        let flipped = edit(&recorded, &sequences[0], |r, o, ids| {
            if (r, o) == (row, ordinal) {
                let other = (0..moe.num_experts as u32).find(|e| !ids.contains(e)).unwrap();
                ids[0] = other;
            }
        });
        let (before, after) = (run(&model, &batch, replay(&[&recorded])).0, run(&model, &batch, replay(&[&flipped])).0);
        let rows = |t: &candle_core::Tensor| -> Vec<Vec<u32>> {
            bits(t).chunks(t.dim(1).unwrap()).map(<[u32]>::to_vec).collect()
        };
        let (a, b) = (rows(&before.states), rows(&after.states));
        prop_assert_eq!(&a[..row], &b[..row]);
        prop_assert_ne!(&a[row], &b[row]);
        for (layer, (a, b)) in before.router_logits.iter().zip(&after.router_logits).enumerate() {
            let (a, b) = (rows(a), rows(b));
            prop_assert_eq!(&a[..row], &b[..row]);
            if layer <= ordinal {
                prop_assert_eq!(a, b, "layer {} reads nothing that the flip changes", layer);
            }
        }
    }

    #[test]
    fn packed_replay_has_the_bits_of_replay_alone(
        config in configs(false), lengths in prop::collection::vec(1usize..9, 2..4), seed in 0u64..1000,
    ) {
        let model = random_model(config, seed);
        let sequences = tokens(&lengths, seed);
        let other = random_model(model.config().clone(), seed + 1);
        // Experts chosen by other weights, so that replay differs from natural routing.
        let traces = record(&other, &pack(&sequences));
        let traces: Vec<&RouteTrace> = traces.iter().collect();
        let packed = run(&model, &pack(&sequences), replay(&traces)).0;
        let alone: Vec<u32> = sequences
            .iter()
            .zip(&traces)
            .flat_map(|(s, t)| bits(&run(&model, &pack(std::slice::from_ref(s)), replay(&[t])).0.states))
            .collect();
        prop_assert_eq!(bits(&packed.states), alone);
    }

    #[test]
    fn unknown_rows_are_routed_naturally(
        config in configs(false), length in 1usize..12, unknown in 0usize..12, seed in 0u64..1000,
    ) {
        let unknown = unknown % length;
        let model = random_model(config, seed);
        let sequences = tokens(&[length], seed);
        let batch = pack(&sequences);
        let other = random_model(model.config().clone(), seed + 1);
        let mut trace = record(&other, &batch).remove(0);
        let k = trace.shape().top_k();
        trace.invalidate(unknown..unknown + 1);
        let natural = run(&model, &batch, RouteMode::Natural).0;
        let traces = [&trace];
        let lenient = RouteMode::Replay { traces: &traces, missing: MissingPolicy::Natural };
        let replayed = run(&model, &batch, lenient).0;
        // The first layer with experts sees the same input either way.
        prop_assert_eq!(
            &replayed.routes[0][unknown * k..][..k],
            &natural.routes[0][unknown * k..][..k]
        );
        for row in (0..length).filter(|r| *r != unknown) {
            let recorded: Vec<u32> = trace.ids(row, 0).unwrap().collect();
            prop_assert_eq!(&replayed.routes[0][row * k..][..k], &recorded);
        }
        prop_assert_eq!(replayed.coverage, Some(Coverage { rows: length as u64, fallback_rows: 1 }));
        let error = model.forward(&batch, &ForwardOptions { routing: replay(&traces), no_grad: true }).unwrap_err();
        prop_assert_eq!(error.to_string(), format!("sequence 0: no experts are recorded for row {unknown}"));
    }

    #[test]
    fn threads_change_no_bit(config in configs(false), lengths in prop::collection::vec(1usize..90, 1..4), seed in 0u64..1000) {
        let model = random_model(Config { max_position_embeddings: 128, ..config }, seed);
        let batch = pack(&tokens(&lengths, seed));
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| run(&model, &batch, RouteMode::Natural).1)
        };
        let one = with(1);
        prop_assert_eq!(&with(2), &one);
        prop_assert_eq!(&with(5), &one);
    }

    #[test]
    fn experts_without_a_token_get_exactly_zero(config in configs(false), length in 1usize..4, seed in 0u64..1000) {
        let model = random_model(config, seed);
        let moe = model.config().moe().unwrap().clone();
        let (hidden, gradients) = run(&model, &pack(&tokens(&[length], seed)), RouteMode::Natural);
        let mut ordinal = 0;
        for layer in 0..model.config().num_hidden_layers {
            if !model.config().is_moe_layer(layer) {
                continue;
            }
            let name = format!("model.layers.{layer}.mlp.experts.gate_up_proj");
            let at = model.parameters().iter().position(|p| p.name == name).unwrap();
            let size = gradients[at + 1].len() / moe.num_experts;
            for expert in 0..moe.num_experts {
                let used = hidden.routes[ordinal].contains(&(expert as u32));
                let zero = gradients[at + 1][expert * size..][..size].iter().all(|b| *b == 0);
                prop_assert_eq!(zero, !used, "expert {}", expert);
            }
            ordinal += 1;
        }
    }
}

#[test]
fn bad_routes_are_named() {
    let model = random_model(tiny(Architecture::Qwen3Moe), 1);
    let sequences = [vec![3, 4, 5, 2], vec![6, 7]];
    let batch = pack(&sequences);
    let traces = record(&model, &batch);
    let refuse = |traces: &[&RouteTrace]| {
        let options = ForwardOptions { routing: replay(traces), no_grad: true };
        model.forward(&batch, &options).unwrap_err().to_string()
    };
    assert_eq!(refuse(&[&traces[0]]), "1 route traces for 2 sequences");
    assert_eq!(
        refuse(&[&traces[1], &traces[0]]),
        "sequence 0: 2 rows of routes for 4 tokens, expected 4 or one less"
    );
    let other = edit(&traces[1], &[6, 8], |_, _, _| {});
    assert!(refuse(&[&traces[0], &other]).starts_with("sequence 1: the trace was recorded for other tokens"));
    let mut config = tiny(Architecture::Qwen3Moe);
    config.moe.as_mut().unwrap().mlp_only_layers = vec![0];
    let foreign = record(&random_model(config, 1), &batch);
    assert_eq!(
        refuse(&[&foreign[0], &foreign[1]]),
        "sequence 0: the trace is of 8 experts, top-2, in layers [1, 2, 3], \
         the model has 8 experts, top-2, in layers [0, 2, 3]"
    );
    let dense = random_model(tiny(Architecture::Qwen3), 1);
    let both = [&traces[0], &traces[1]];
    let options = ForwardOptions { routing: replay(&both), no_grad: true };
    assert_eq!(
        dense.forward(&batch, &options).unwrap_err().to_string(),
        "the model has no experts to replay"
    );
    let recorded = ForwardOptions { routing: RouteMode::Record { policy_version: 0 }, no_grad: true };
    assert!(dense.forward(&batch, &recorded).unwrap().traces.is_empty());
}

#[test]
fn broken_router_logits_name_the_layer() {
    let config = tiny(Architecture::Qwen3Moe);
    let mut tensors = random_model(config.clone(), 1).to_tensors().unwrap();
    let batch = pack(&[vec![3, 4]]);
    let healthy = Model::from_tensors(config.clone(), tensors.clone()).unwrap();
    let traces = record(&healthy, &batch);
    let router = tensors.iter_mut().find(|t| t.name == "model.layers.2.mlp.gate.weight").unwrap();
    router.data[5 * 32] = f32::NAN;
    let model = Model::from_tensors(config, tensors).unwrap();
    // Replay does not hide it, although the recorded experts may not be the broken one.
    for routing in [RouteMode::Natural, replay(&[&traces[0]])] {
        let error = model.forward(&batch, &ForwardOptions { routing, no_grad: true }).unwrap_err();
        assert!(matches!(error, Error::Router { layer: 2, .. }));
        assert_eq!(error.to_string(), "layer 2: router logit of token 0, expert 5 is NaN");
    }
    let decoder = qwen3::Decoder::new(&model, 8).unwrap();
    let mut context = qwen3::decode::Context::default();
    let row = qwen3::decode::Row { context: 0, token: 3 };
    let error = decoder.step(&[row], &mut [&mut context]).unwrap_err();
    assert_eq!(error.to_string(), "layer 2: router logit of token 0, expert 5 is NaN");
}
