//! What is recorded of a rollout, and replayed: property 27.
#![allow(clippy::unwrap_used)]

mod common;

use common::{noise, of_bytes};
use lcg::metrics::{Rate, keep_rate};
use lcg::record::{GateMetrics, MaskRecord};
use lcg::{
    Exemptions, FamilySet, FamilyTable, GateState, Kind, Noise, Protocol, Rules, Sampling, Step, Taxonomy,
    Vocabulary, sample,
};

/// A response of a model with random logits, most of whose tokens are single bytes.
type Steps = Vec<(Vec<f32>, Step, GateState)>;

fn rollout(table: &FamilyTable, seed: u64) -> (MaskRecord, GateMetrics, Steps) {
    let rules = Rules::default();
    let hebrew = table.taxonomy().set(&["hebrew"], "test").unwrap();
    let mut state = GateState { last: hebrew, generated: 1, ..GateState::default() };
    let (mut record, mut metrics, mut steps) = (MaskRecord::default(), GateMetrics::default(), Vec::new());
    for position in 0..60 {
        let bits = Noise { position, ..noise(seed + 1) };
        // The first bytes of Han and kana are likely.
        let logits: Vec<f32> = (0..table.len() as u32)
            .map(|v| bits.gumbel(v) + if matches!(v, 0xE3 | 0x80..=0xBF) { 3.0 } else { 0.0 })
            .collect();
        let predicted = if position % 7 == 0 { FamilySet::FULL } else { hebrew | FamilySet::one(0) };
        let plan = rules.plan(table.taxonomy(), FamilySet::EMPTY, &state, Some(predicted));
        let view = table.view(state.pending);
        let draw = Noise { seed, sequence: 0, position };
        let step = sample(0, &logits, &Sampling::default(), rules.widen, &plan, &view, &draw).unwrap();
        record.push(&state, &step);
        metrics.add(&step);
        steps.push((logits, step, state));
        state.advance(table, &Protocol::default(), step.token, &plan.trust).unwrap();
    }
    (record, metrics, steps)
}

fn table() -> FamilyTable {
    of_bytes(
        Taxonomy::script16(),
        (0..=255).map(|b| vec![b]).chain([vec![0x80, 0x85], "ש".as_bytes().to_vec()]),
    )
}

#[test]
fn a_record_goes_through_bytes_and_replays_the_support() {
    let table = table();
    let mut within = 0;
    for seed in 0..20 {
        let (record, _, steps) = rollout(&table, seed);
        let bytes = record.to_bytes(&table, 9);
        let (back, version) = MaskRecord::from_bytes(&bytes, &table).unwrap();
        assert_eq!((&back, version, back.len()), (&record, 9, 60));
        for (i, (logits, step, state)) in steps.iter().enumerate() {
            let mask = back.mask(&table, i).unwrap();
            let view = table.view(state.pending);
            let gated = step.record.intervened;
            within += u32::from(gated && !state.pending.is_empty());
            for v in 0..table.len() {
                let allowed = !gated || !view.denies(step.record.denied, v);
                assert_eq!(mask.allows(v as u32), allowed);
            }
            let replayed = mask.logprob(i, logits, step.token, 1.0).unwrap();
            assert_eq!(replayed.to_bits(), step.record.logprob.to_bits());
        }
    }
    assert!(within > 50, "{within} gated tokens within a character");
}

#[test]
fn turns_of_a_response_are_one_record() {
    let table = table();
    for seed in 0..5 {
        let (first, _, first_steps) = rollout(&table, seed);
        let (second, _, second_steps) = rollout(&table, seed + 100);
        let mut both = first.clone();
        both.append(&second);
        assert_eq!(both.len(), first.len() + second.len());
        let (mut left, mut right) = (MaskRecord::default(), MaskRecord::default());
        for (record, (_, step, state)) in [(&mut left, &first_steps[0]), (&mut right, &second_steps[0])] {
            record.push(state, step);
            record.push_support(&[1 + record.len() as u32, 100], table.len());
        }
        left.append(&right);
        assert_eq!(
            [0, 1].map(|i| left.support(&table, i).unwrap()),
            [Some(vec![2, 100]), Some(vec![2, 100])]
        );
        let mut expected = MaskRecord::default();
        first_steps.iter().chain(&second_steps).for_each(|(_, step, state)| expected.push(state, step));
        assert_eq!(both, expected);
    }
}

#[test]
fn corrupt_records_are_refused() {
    let table = table();
    let (record, ..) = rollout(&table, 3);
    let bytes = record.to_bytes(&table, 1);
    let error = |bytes: &[u8]| MaskRecord::from_bytes(bytes, &table).unwrap_err().to_string();
    assert!(error(b"lcg").contains("lcgmask1"));
    assert!(error(&bytes[..20]).contains("hash"));
    assert!(error(&bytes[..44]).contains("sizes"));
    assert!(error(&bytes[..bytes.len() - 4]).contains("length"));
    assert!(error(&[&bytes[..], &[0]].concat()).contains("length"));
    let change = |at: usize, to: u32| {
        let mut bytes = bytes.clone();
        bytes[at..at + 4].copy_from_slice(&to.to_le_bytes());
        bytes
    };
    assert!(error(&change(bytes.len() - 8, 99)).contains("out of order"));
    let last = change(bytes.len() - 4, 0x0000_4101);
    let (broken, _) = MaskRecord::from_bytes(&last, &table).unwrap();
    let refused = (0..60).filter_map(|i| broken.mask(&table, i).err()).collect::<Vec<_>>();
    assert!(refused.len() == 1 && refused[0].to_string().contains("0x00004101"), "{refused:?}");
    assert!(record.mask(&table, 60).unwrap_err().to_string().contains("token 60 of 60"));
    let vocabulary = Vocabulary::new([(Kind::Text, b"a".to_vec())]);
    let other = FamilyTable::new(Taxonomy::script16(), vocabulary, &Exemptions::default()).unwrap();
    assert!(MaskRecord::from_bytes(&bytes, &other).unwrap_err().to_string().contains("family table"));
}

#[test]
fn corrupt_supports_are_refused() {
    let table = table();
    let mut record = MaskRecord::default();
    for (_, step, state) in &rollout(&table, 3).2[..2] {
        record.push(state, step);
        record.push_support(&[3, 200], table.len());
    }
    let bytes = record.to_bytes(&table, 1);
    assert_eq!(record.support(&table, 1).unwrap(), Some(vec![3, 200]));
    assert_eq!(record.support(&table, 2).unwrap(), None);
    let error = |bytes: &[u8]| MaskRecord::from_bytes(bytes, &table).unwrap_err().to_string();
    // Each support is its token, its length, the form, and 1 and 2 bytes of differences.
    let change = |back: usize, to: &[u8]| {
        let mut bytes = bytes.clone();
        let at = bytes.len() - back;
        bytes[at..at + to.len()].copy_from_slice(to);
        bytes
    };
    assert!(error(&change(24, &[5])).contains("supports are out of order"));
    assert!(error(&change(8, &[100])).contains("length"));
    assert!(error(&bytes[..bytes.len() - 1]).contains("length"));
    assert!(error(&[&bytes[..], &[0]].concat()).contains("length"));
    let (broken, _) = MaskRecord::from_bytes(&change(4, &[9]), &table).unwrap();
    assert!(broken.mask(&table, 0).is_ok());
    assert!(broken.mask(&table, 1).unwrap_err().to_string().contains("the support of token 1 is none"));
}

#[test]
fn metrics_add_up() {
    let table = table();
    assert_eq!(GateMetrics::default().entries(), None);
    let (mut sum, mut all) = (GateMetrics::default(), GateMetrics::default());
    let (mut flips, mut mass) = (0.0, 0.0);
    for seed in 0..3 {
        let (_, metrics, steps) = rollout(&table, seed);
        sum.merge(&metrics);
        for (_, step, _) in &steps {
            all.add(step);
            flips += f64::from(u8::from(step.record.flipped)) / 180.0;
            mass += f64::from(step.record.denied_mass) / 180.0;
        }
    }
    let of = |m: &GateMetrics, name: &str| m.entries().unwrap().iter().find(|e| e.0 == name).unwrap().1;
    for (name, expected) in [("lcg/flip_rate", flips), ("lcg/denied_mass", mass)] {
        assert!(
            (of(&sum, name) - expected).abs() < 1e-9 && (of(&all, name) - expected).abs() < 1e-9,
            "{name}"
        );
    }
    assert!(flips > 0.0 && of(&sum, "lcg/intervention_rate") >= flips);
}

/// Annotated switches that a gate leaves possible.
#[test]
fn keep_rates() {
    let table = of_bytes(Taxonomy::script16(), ["a", "ж"].map(|t| t.as_bytes().to_vec()));
    let latin = table.taxonomy().set(&["latin"], "test").unwrap();
    let view = || table.view(Default::default());
    let switches = [(view(), latin, 0), (view(), FamilySet::EMPTY, 0), (view(), latin, 1)];
    assert_eq!(keep_rate(switches), Rate { count: 2, total: 3 });
}
