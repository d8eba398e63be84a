//! Route traces: what they hold, what they refuse, and what is measured on them.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{case, ids, routers};
use moe_routing::{
    Coverage, Discrepancy, Error, MissingPolicy, RouteMode, RouteShape, RouteTrace, Router, token_digest,
    top_k,
};
use proptest::prelude::*;

const RENORM: Router = Router::SoftmaxTopK { renorm: true };

/// A trace of the layers' ids by row, with rows marked unknown.
fn trace(shape: &RouteShape, tokens: &[u32], rows: &[u32], unknown: &[bool]) -> RouteTrace {
    let mut trace = RouteTrace::new(shape.clone(), 7);
    for ((token, ids), unknown) in tokens.iter().zip(rows.chunks_exact(shape.row_len())).zip(unknown) {
        if *unknown { trace.push_missing(*token) } else { trace.push(*token, ids).unwrap() }
    }
    trace
}

/// Shapes with holes in the layer map, tokens, ids `[rows][layers][K]`, unknown rows.
fn traces() -> impl Strategy<Value = (RouteShape, Vec<u32>, Vec<u32>, Vec<bool>)> {
    let experts = prop::sample::select(vec![1usize, 2, 128, 255, 256, 257, 512, 65535]);
    let layers = prop::collection::btree_set(0usize..40, 1..4);
    (experts, 1usize..5, layers, 0usize..20).prop_flat_map(|(experts, k, layers, rows)| {
        let (k, layers) = (k.min(experts), layers.into_iter().collect::<Vec<_>>());
        let shape = RouteShape::new(experts, k, &layers).unwrap();
        // Distinct ids that reach the last expert: k different offsets from a random start.
        let starts = prop::collection::vec(0..experts as u32, rows * layers.len());
        let ids = starts.prop_map(move |starts| {
            let wrap = move |s: u32| (0..k as u32).map(move |i| (s + i) % experts as u32);
            starts.into_iter().flat_map(wrap).collect()
        });
        let tokens = prop::collection::vec(any::<u32>(), rows);
        (Just(shape), tokens, ids, prop::collection::vec(prop::bool::weighted(0.2), rows))
    })
}

fn read(trace: &RouteTrace, row: usize, ordinal: usize) -> Option<Vec<u32>> {
    trace.ids(row, ordinal).map(Iterator::collect)
}

proptest! {
    #[test]
    fn bytes_and_back((shape, tokens, ids, unknown) in traces(), version: u64) {
        let mut original = trace(&shape, &tokens, &ids, &unknown);
        original.begin_version(version);
        let bytes = original.to_bytes();
        let again = RouteTrace::from_bytes(&bytes).unwrap();
        prop_assert_eq!(&again, &original);
        let (layers, k) = (shape.layers().len(), shape.top_k());
        for row in 0..tokens.len() {
            prop_assert_eq!(again.is_valid(row), !unknown[row]);
            for layer in 0..layers {
                let expected = (!unknown[row]).then(|| ids[(row * layers + layer) * k..][..k].to_vec());
                prop_assert_eq!(read(&again, row, layer), expected);
            }
        }
        let width = if shape.experts() <= 256 { 1 } else { 2 };
        prop_assert_eq!(again.id_bytes(), tokens.len() * layers * k * width);
        prop_assert_eq!(again.digest(), token_digest(&tokens));
    }

    #[test]
    fn damaged_bytes_are_refused((shape, tokens, ids, unknown) in traces(), at: prop::sample::Index, bit in 0u8..8) {
        let bytes = trace(&shape, &tokens, &ids, &unknown).to_bytes();
        let mut flipped = bytes.clone();
        flipped[at.index(bytes.len())] ^= 1 << bit;
        prop_assert!(RouteTrace::from_bytes(&flipped).is_err());
        prop_assert!(RouteTrace::from_bytes(&bytes[..at.index(bytes.len())]).is_err());
        let longer = [bytes, vec![0]].concat();
        prop_assert!(RouteTrace::from_bytes(&longer).is_err());
    }

    #[test]
    fn a_shifted_trace_is_refused((shape, tokens, ids, unknown) in traces()) {
        prop_assume!(tokens.len() > 2);
        let whole = trace(&shape, &tokens, &ids, &unknown);
        prop_assert!(whole.check_for(&shape, &tokens).is_ok());
        let n = tokens.len();
        prop_assert_eq!(
            whole.check_for(&shape, &tokens[..n - 1]),
            Err(Error::TraceRows { rows: n, tokens: n - 1 })
        );
        // One short is what an engine reports that never fed the last token; two short is not.
        let short = trace(&shape, &tokens[..n - 1], &ids, &unknown);
        prop_assert!(short.check_for(&shape, &tokens).is_ok());
        let two = trace(&shape, &tokens[..n - 2], &ids, &unknown).check_for(&shape, &tokens);
        prop_assert_eq!(two, Err(Error::TraceRows { rows: n - 2, tokens: n }));
        let shifted = trace(&shape, &tokens[1..], &ids, &unknown[1..]);
        if tokens[1..] != tokens[..n - 1] {
            let is_digest = matches!(shifted.check_for(&shape, &tokens), Err(Error::TraceDigest { .. }));
            prop_assert!(is_digest);
        }
    }

    #[test]
    fn a_trace_grown_from_a_prefix_is_the_cold_one((shape, tokens, ids, unknown) in traces(), cut: prop::sample::Index) {
        prop_assume!(!tokens.is_empty());
        let (cut, width) = (cut.index(tokens.len()), shape.row_len());
        let prefix = trace(&shape, &tokens[..cut], &ids, &unknown);
        // From the cache, through bytes, then on with new rows.
        let mut grown = RouteTrace::from_bytes(&prefix.to_bytes()).unwrap();
        for row in cut..tokens.len() {
            if unknown[row] { grown.push_missing(tokens[row]) } else { grown.push(tokens[row], &ids[row * width..][..width]).unwrap() }
        }
        prop_assert_eq!(grown, trace(&shape, &tokens, &ids, &unknown));
    }

    #[test]
    fn invalid_rows_are_routed_naturally_and_counted(
        (experts, k, logits, recorded) in case(), router in routers(), unknown in prop::collection::vec(any::<bool>(), 6),
    ) {
        let tokens: Vec<u32> = (0..(logits.len() / experts) as u32).collect();
        let shape = RouteShape::new(experts, k, &[3]).unwrap();
        let trace = trace(&shape, &tokens, &recorded, &unknown);
        let natural = top_k(&logits, experts, k, &router).unwrap();
        let rows = [(0..tokens.len() as u32).collect()];
        let traces = [&trace];
        let plan = |missing| {
            RouteMode::Replay { traces: &traces, missing }.plan(shape.clone(), router.clone(), &tokens, &rows)
        };
        let lenient = plan(MissingPolicy::Natural).unwrap();
        let ids = lenient.ids(0, &logits).unwrap();
        for row in 0..tokens.len() {
            let source = if unknown[row] { &natural } else { &recorded };
            prop_assert_eq!(&ids[row * k..][..k], &source[row * k..][..k]);
        }
        let missing = unknown[..tokens.len()].iter().filter(|u| **u).count() as u64;
        let coverage = Coverage { rows: tokens.len() as u64, fallback_rows: missing };
        prop_assert_eq!(lenient.coverage(), Some(coverage));
        prop_assert_eq!(coverage.share(), Some(1.0 - missing as f64 / tokens.len() as f64));
        match unknown[..tokens.len()].iter().position(|u| *u) {
            None => prop_assert!(plan(MissingPolicy::Error).is_ok()),
            Some(row) => {
                let error = plan(MissingPolicy::Error).unwrap_err().to_string();
                prop_assert_eq!(error, format!("sequence 0: no experts are recorded for row {row}"));
            }
        }
    }

    #[test]
    fn packed_traces_replay_as_they_do_alone(
        (experts, k, logits, recorded) in case(), cut: prop::sample::Index,
    ) {
        let n = logits.len() / experts;
        let cut = cut.index(n);
        let tokens: Vec<u32> = (10..10 + n as u32).collect();
        let shape = RouteShape::new(experts, k, &[0]).unwrap();
        let known = vec![false; n];
        let parts = [
            trace(&shape, &tokens[..cut], &recorded[..cut * k], &known),
            trace(&shape, &tokens[cut..], &recorded[cut * k..], &known),
        ];
        let rows = [(0..cut as u32).collect(), (cut as u32..n as u32).collect()];
        let traces = [&parts[0], &parts[1]];
        let mode = RouteMode::Replay { traces: &traces, missing: MissingPolicy::Error };
        let plan = mode.plan(shape.clone(), RENORM, &tokens, &rows).unwrap();
        prop_assert_eq!(plan.ids(0, &logits).unwrap(), recorded);
        let swapped = [&parts[1], &parts[0]];
        let mode = RouteMode::Replay { traces: &swapped, missing: MissingPolicy::Natural };
        let refused = mode.plan(shape, RENORM, &tokens, &rows).is_err();
        prop_assert!(refused, "traces of other sequences");
    }

    #[test]
    fn a_shared_prefix_replays_as_copies_of_it_do(
        (experts, k, logits, recorded) in case(), cut: prop::sample::Index,
    ) {
        let n = logits.len() / experts;
        let cut = cut.index(n);
        let tokens: Vec<u32> = (10..10 + n as u32).collect();
        let shape = RouteShape::new(experts, k, &[0]).unwrap();
        let whole = trace(&shape, &tokens, &recorded, &vec![false; n]);
        // Two sequences of the same tokens: the prefix once, the rest twice.
        let packed = [&tokens[..], &tokens[cut..]].concat();
        let first: Vec<u32> = (0..n as u32).collect();
        let second: Vec<u32> = (0..cut as u32).chain(n as u32..(2 * n - cut) as u32).collect();
        let traces = [&whole, &whole];
        let mode = RouteMode::Replay { traces: &traces, missing: MissingPolicy::Error };
        let plan = mode.plan(shape.clone(), RENORM, &packed, &[first.clone(), second.clone()]).unwrap();
        let all = [&logits[..], &logits[cut * experts..]].concat();
        let ids = plan.ids(0, &all).unwrap();
        prop_assert_eq!(&ids[..n * k], &recorded[..]);
        prop_assert_eq!(&ids[n * k..], &recorded[cut * k..]);
        prop_assert_eq!(plan.coverage(), Some(Coverage { rows: packed.len() as u64, fallback_rows: 0 }));
        // Other experts for a row that both read.
        if cut > 0 && k < experts {
            let mut other = recorded.clone();
            other[0] = (0..experts as u32).find(|e| !other[..k].contains(e)).unwrap();
            let other = trace(&shape, &tokens, &other, &vec![false; n]);
            let traces = [&whole, &other];
            let mode = RouteMode::Replay { traces: &traces, missing: MissingPolicy::Error };
            let error = mode.plan(shape, RENORM, &packed, &[first, second]).unwrap_err();
            prop_assert_eq!(
                error.to_string(),
                "sequence 1: row 0 is shared with an earlier sequence whose trace has other experts there"
            );
        }
    }

    #[test]
    fn discrepancy_is_ordered(
        (k, a, b) in (1usize..4, 0usize..4, 1usize..6, 1usize..4).prop_flat_map(|(k, more, tokens, layers)| {
            let layer = move || prop::collection::vec(ids(2 * k + more, k, tokens), layers);
            (Just(k), layer(), layer())
        }),
    ) {
        let d = Discrepancy::of(&a, &b, k).unwrap();
        let [exact, overlap, jaccard] = [d.exact_match(), d.overlap(), d.jaccard()].map(Option::unwrap);
        prop_assert!(overlap >= exact && jaccard <= overlap + 1e-12 && jaccard >= exact - 1e-12);
        // The definitions, by sets.
        let (layers, tokens) = (a.len(), a[0].len() / k);
        let sorted = |ids: &[u32]| { let mut ids = ids.to_vec(); ids.sort_unstable(); ids };
        let differs = |l: usize, t: usize| sorted(&a[l][t * k..][..k]) != sorted(&b[l][t * k..][..k]);
        let by_token: Vec<usize> = (0..tokens).map(|t| (0..layers).filter(|l| differs(*l, t)).count()).collect();
        let mismatches: usize = by_token.iter().sum();
        let any = by_token.iter().filter(|m| **m > 0).count() as f64 / tokens as f64;
        prop_assert_eq!(d.token_any_mismatch(), Some(any));
        prop_assert_eq!(d.layers_mismatched(), Some(mismatches as f64 / tokens as f64));
        prop_assert!((exact - (1.0 - mismatches as f64 / (tokens * layers) as f64)).abs() < 1e-12);
        let by_layer = d.exact_match_by_layer();
        for (l, found) in by_layer.into_iter().enumerate() {
            let wrong = (0..tokens).filter(|t| differs(l, *t)).count();
            prop_assert!((found.unwrap() - (1.0 - wrong as f64 / tokens as f64)).abs() < 1e-12);
        }
    }

    #[test]
    fn equal_choices_have_no_discrepancy_and_disjoint_ones_no_overlap(
        (experts, k, logits, _) in common::sized((1usize..4, 0usize..4, 1usize..6).prop_map(|(k, more, t)| (2 * k + more, k, t))),
        router in routers(),
    ) {
        let natural = top_k(&logits, experts, k, &router).unwrap();
        let of = |ids: &[u32]| {
            Discrepancy::of_replay(std::slice::from_ref(&logits), &[ids.to_vec()], experts, k, &router).unwrap()
        };
        let same = of(&natural);
        prop_assert_eq!((same.exact_match(), same.overlap(), same.gate_tv()), (Some(1.0), Some(1.0), Some(0.0)));
        prop_assert_eq!((same.token_any_mismatch(), same.layers_mismatched()), (Some(0.0), Some(0.0)));
        let others: Vec<u32> = natural
            .chunks_exact(k)
            .flat_map(|row| (0..experts as u32).filter(|e| !row.contains(e)).take(k).collect::<Vec<_>>())
            .collect();
        let apart = of(&others);
        prop_assert_eq!((apart.exact_match(), apart.overlap(), apart.jaccard()), (Some(0.0), Some(0.0), Some(0.0)));
        prop_assert_eq!(apart.token_any_mismatch(), Some(1.0));
        prop_assert!(apart.gate_tv().unwrap() > 0.0);
    }
}

#[test]
fn the_released_shape_takes_384_bytes_a_token() {
    let layers: Vec<usize> = (0..48).collect();
    let shape = RouteShape::new(128, 8, &layers).unwrap();
    let mut trace = RouteTrace::new(shape, 0);
    let row: Vec<u32> = (0..48).flat_map(|l| (0..8).map(move |k| (l + 11 * k) % 128)).collect();
    (0..1000).for_each(|token| trace.push(token, &row).unwrap());
    assert_eq!(trace.id_bytes(), 384 * 1000);
    assert!(trace.to_bytes().len() < 385 * 1000);
}

#[test]
fn what_engines_report_is_taken_over_or_refused() {
    // Layers 1 and 3 of 4 have experts; K = 2; three tokens.
    let shape = RouteShape::new(8, 2, &[1, 3]).unwrap();
    let tokens = [5, 6, 7];
    let ingest = |rows: usize, ids: &[i32]| RouteTrace::ingest(shape.clone(), 4, &tokens, rows, ids, 0);
    let moe_only = [0, 1, 2, 3, -1, -1, -1, -1, 4, 5, 6, 7];
    let found = ingest(3, &moe_only).unwrap();
    assert_eq!(
        [found.is_valid(0), found.is_valid(1), found.is_valid(2), found.is_valid(3)],
        [true, false, true, false]
    );
    assert_eq!((read(&found, 0, 1), read(&found, 1, 0)), (Some(vec![2, 3]), None));
    // The same with dense layers in between, whatever they hold.
    let all = [[-1, -1, 0, 1, 9, 9, 2, 3], [-1, -1, -1, -1, 0, 0, -1, -1], [-1, -1, 4, 5, 0, 0, 6, 7]];
    assert_eq!(ingest(3, all.as_flattened()).unwrap(), found);
    // The token sampled last was never fed.
    assert_eq!(ingest(2, &moe_only[..8]).unwrap().len(), 2);
    assert!(ingest(2, &moe_only[..8]).unwrap().check_for(&shape, &tokens).is_ok());

    let message = |rows: usize, ids: &[i32]| ingest(rows, ids).unwrap_err().to_string();
    assert_eq!(message(1, &moe_only[..4]), "1 rows of routes for 3 tokens, expected 3 or one less");
    assert_eq!(message(4, &[0; 16]), "4 rows of routes for 3 tokens, expected 3 or one less");
    assert_eq!(message(3, &moe_only[..6]), "routes of 1 layers, expected 2 (with experts) or 4 (all)");
    assert_eq!(message(3, &[]), "routes of 0 layers, expected 2 (with experts) or 4 (all)");
    let partial = |ids: [i32; 4]| message(3, &[ids, [0, 1, 2, 3], [0, 1, 2, 3]].concat());
    assert_eq!(
        partial([0, -1, 2, 3]),
        "row 0, layer 1: some ids of [0, -1] are negative, expected all or none of the row's"
    );
    assert!(partial([0, 1, -1, -1]).starts_with("row 0, layer 3: some ids of [-1, -1] are negative"));
    assert!(partial([-1, -1, 2, 3]).starts_with("row 0, layer 3: some ids of [2, 3] are negative"));
    assert_eq!(partial([0, 1, 8, 3]), "row 0, layer 3: expert ids [8, 3] must be distinct and below 8");
    assert_eq!(partial([4, 4, 2, 3]), "row 0, layer 1: expert ids [4, 4] must be distinct and below 8");
}

#[test]
fn a_trace_of_another_model_is_named() {
    let shape = RouteShape::new(8, 2, &[0, 2]).unwrap();
    let trace = RouteTrace::new(RouteShape::new(8, 2, &[0, 1]).unwrap(), 0);
    assert_eq!(
        trace.check_for(&shape, &[]).unwrap_err().to_string(),
        "the trace is of 8 experts, top-2, in layers [0, 1], the model has 8 experts, top-2, in layers [0, 2]"
    );
    for (experts, k) in [(4, 2), (8, 1)] {
        let other = RouteTrace::new(RouteShape::new(experts, k, &[0, 2]).unwrap(), 0);
        assert!(matches!(other.check_for(&shape, &[]), Err(Error::TraceShape { .. })));
    }
    assert!(matches!(RouteShape::new(65536, 1, &[0]), Err(Error::TraceLimit { what: "experts", .. })));
    assert!(matches!(RouteShape::new(8, 9, &[0]), Err(Error::TopK { .. })));
    assert!(matches!(RouteShape::new(8, 2, &[]), Err(Error::TraceLimit { what: "layers", .. })));
    assert!(matches!(RouteShape::new(8, 2, &[2, 1]), Err(Error::LayerMap(_))));
    let none: [&RouteTrace; 0] = [];
    let mode = RouteMode::Replay { traces: &none, missing: MissingPolicy::Error };
    let error = mode.plan(shape.clone(), RENORM, &[1, 2], &[vec![0], vec![1]]).unwrap_err();
    assert_eq!(error.to_string(), "0 route traces for 2 sequences");
    let plan = RouteMode::Natural.plan(shape, RENORM, &[1], &[vec![0]]).unwrap();
    assert!(matches!(plan.ids(0, &[0.0f32; 7]), Err(Error::Shape { what: "router_logits", .. })));
}

#[test]
fn segments_remember_their_policy() {
    let mut trace = RouteTrace::new(RouteShape::new(4, 1, &[0]).unwrap(), 3);
    trace.begin_version(4);
    trace.push(1, &[0]).unwrap();
    trace.push(2, &[1]).unwrap();
    trace.begin_version(5);
    trace.push(3, &[2]).unwrap();
    assert_eq!(trace.policy_versions(), [(0, 4), (2, 5)]);
    trace.invalidate(0..2);
    assert_eq!([trace.is_valid(0), trace.is_valid(1), trace.is_valid(2)], [false, false, true]);
    assert_eq!(RouteTrace::from_bytes(&trace.to_bytes()).unwrap(), trace);
}

#[test]
fn unequal_choices_are_refused() {
    let of = |a: &[Vec<u32>], b: &[Vec<u32>], k| Discrepancy::of(a, b, k);
    assert!(matches!(of(&[vec![0, 1]], &[vec![0]], 1), Err(Error::Shape { found: 1, expected: 2, .. })));
    assert!(matches!(of(&[vec![0, 1, 2]], &[vec![0, 1, 2]], 2), Err(Error::Shape { found: 3, .. })));
    assert!(matches!(of(&[vec![0]], &[], 1), Err(Error::Shape { found: 0, expected: 1, .. })));
    assert!(matches!(of(&[vec![0]], &[vec![0]], 0), Err(Error::Router { what: "top_k", .. })));
    let nothing = of(&[], &[], 1).unwrap();
    assert!(nothing.metrics().is_empty() && nothing.exact_match().is_none());
}
