//! Rotation of packed queries and keys against a copy of the same bytes in the same run: both read and write every lane
//! once, so the copy is the floor.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::time::Duration;

use candle_core::{DType, Device, Tensor};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mrope::{Allocation, Frequencies, Grid, Heads, PositionDesign, RotaryTable, Run};
use mrope::{apply_inplace, apply_packed_qk};

/// Qwen3-VL-8B: 32 query heads, 8 key heads of 128 lanes.
const HEADS: Heads = Heads { query: 32, kv: 8 };
const HEAD_DIM: usize = 128;

fn rotate(c: &mut Criterion) {
    // A full-HD image (34 by 60 tokens) in 4096 tokens.
    let image = Run::Image(Grid::new(1, 68, 120));
    let positions = PositionDesign::qwen3_vl().positions(&[Run::Text(1544), image, Run::Text(512)]).unwrap();
    let frequencies = Frequencies::new(5e6, HEAD_DIM).unwrap();
    let allocation = Allocation::Interleaved([24, 20, 20]);
    let device = Device::Cpu;
    let tokens = positions.len();

    let mut group = c.benchmark_group("table");
    group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    group.throughput(Throughput::Elements(tokens as u64));
    group.bench_function("tokens", |b| {
        b.iter(|| RotaryTable::new(&positions, &allocation, &frequencies, &device).unwrap());
    });
    group.finish();

    let table = RotaryTable::new(&positions, &allocation, &frequencies, &device).unwrap();
    for dtype in [DType::F32, DType::BF16] {
        let heads = HEADS.query + HEADS.kv;
        let qk = Tensor::randn(0f32, 1.0, (tokens, heads, HEAD_DIM), &device).unwrap();
        let qk = qk.to_dtype(dtype).unwrap();
        let bytes = 2 * qk.elem_count() * dtype.size_in_bytes();
        let mut group = c.benchmark_group(format!("rotate/{dtype:?}"));
        group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function("copy", |b| b.iter(|| black_box(qk.copy().unwrap())));
        group.bench_function("out_of_place", |b| {
            b.iter(|| black_box(apply_packed_qk(&qk, HEADS, &table).unwrap()));
        });
        group.bench_function("in_place", |b| b.iter(|| apply_inplace(&qk, HEADS, &table).unwrap()));
        let head_major = qk.reshape((1, tokens, heads, HEAD_DIM)).unwrap().transpose(1, 2).unwrap();
        group.bench_function("to_head_major", |b| {
            b.iter(|| black_box(apply_packed_qk(&head_major, HEADS, &table).unwrap()));
        });
        group.finish();
    }
}

criterion_group!(benches, rotate);
criterion_main!(benches);
