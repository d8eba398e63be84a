//! The parts of a gated step, and of its replay, on a vocabulary of the size of Qwen3's: `cargo bench -p lcg`.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use lcg::{
    Exemptions, FamilyPredictor, FamilySet, FamilyTable, GateState, Kind, MlpGate, Noise, RowMask, Rules,
    Sampling, Taxonomy, Vocabulary, high_confidence, sample,
};

const V: usize = 151_936;
const HIDDEN: usize = 1024;

/// Bytes, then words of several scripts.
fn vocabulary() -> Vocabulary {
    let letters = ['a', 'b', 'c', 'я', '中', 'の', '한', 'ع', 'ก', '!'];
    let word = |v: usize| std::iter::repeat_n(letters[v % letters.len()], 1 + v % 4).collect::<String>();
    let token = |v: usize| if v < 256 { vec![v as u8] } else { word(v).into_bytes() };
    Vocabulary::new((0..V).map(|v| (Kind::Text, token(v))))
}

/// Numbers in `(−scale, scale)`.
fn numbers(count: usize, scale: f32) -> Vec<f32> {
    let noise = Noise { seed: 3, sequence: 0, position: 0 };
    (0..count as u32).map(|i| scale * (noise.bits(i)[0] as f32 / 2f32.powi(31) - 1.0)).collect()
}

fn benches(c: &mut Criterion) {
    let taxonomy = Taxonomy::script16;
    c.bench_function("table", |b| {
        b.iter(|| FamilyTable::new(taxonomy(), vocabulary(), &Exemptions::of(&taxonomy())).unwrap());
    });
    let table = FamilyTable::new(taxonomy(), vocabulary(), &Exemptions::of(&taxonomy())).unwrap();
    let (hidden, logits) = (numbers(HIDDEN, 1.0), numbers(V, 12.0));
    let gate = MlpGate::random(HIDDEN, 128, table.taxonomy().len(), 1).unwrap();
    c.bench_function("network", |b| b.iter(|| gate.predict(black_box(&hidden), &logits).unwrap()));
    c.bench_function("high confidence", |b| {
        b.iter(|| high_confidence(black_box(&logits), |z| f64::from(z) - 20.0));
    });

    let latin = table.taxonomy().set(&["latin"], "bench").unwrap();
    let state = GateState { last: latin, generated: 3, ..GateState::default() };
    let plan = Rules::default().plan(table.taxonomy(), FamilySet::EMPTY, &state, Some(latin));
    let view = table.view(state.pending);
    c.bench_function("ban", |b| {
        let mut row = logits.clone();
        b.iter(|| view.ban(plan.denied, 0, black_box(&mut row)));
    });
    let noise = Noise { seed: 1, sequence: 2, position: 3 };
    let sampling = Sampling::default();
    let rules = Rules::default();
    c.bench_function("sample", |b| {
        b.iter(|| sample(0, black_box(&logits), &sampling, rules.widen, &plan, &view, &noise).unwrap());
    });
    let token = sample(0, &logits, &sampling, rules.widen, &plan, &view, &noise).unwrap().token;
    let mask = RowMask { view, denied: plan.denied, kept: None };
    c.bench_function("masked logprob", |b| {
        b.iter(|| mask.logprob(0, black_box(&logits), token, 1.0).unwrap());
    });
}

criterion_group!(step, benches);
criterion_main!(step);
