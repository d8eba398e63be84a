#![allow(clippy::unwrap_used)]

mod gate;
mod logprob;
mod sample;

use cuda_twin::testing::{everywhere, no_barrier_can_be_removed, same_bits};
use cuda_twin::{Gpu, Options, Result};
use half::bf16;

use super::Dtype;
use crate::kernels::compile;
use crate::sources::{BLOCKS, SOURCES};
use crate::utf8::Pending;
use crate::{
    Exemptions, FamilySet, FamilyTable, GateState, Kind, Noise, Protocol, Taxonomy, Trust, Vocabulary,
};

/// Element types, and how they are rounded.
trait Element: bytemuck::Pod {
    const DTYPE: Dtype;
    fn round(value: f32) -> Self;
    fn wide(self) -> f32;
}

impl Element for f32 {
    const DTYPE: Dtype = Dtype::F32;
    fn round(value: f32) -> Self {
        value
    }
    fn wide(self) -> f32 {
        self
    }
}

impl Element for bf16 {
    const DTYPE: Dtype = Dtype::Bf16;
    fn round(value: f32) -> Self {
        Self::from_f32(value)
    }
    fn wide(self) -> f32 {
        self.to_f32()
    }
}

/// Numbers in `(−1, 1)`.
fn noise(count: usize, seed: u64) -> Vec<f32> {
    let noise = Noise { seed, sequence: 3, position: 0 };
    (0..count as u32).map(|i| noise.bits(i)[1] as f32 / 2f32.powi(31) - 1.0).collect()
}

/// A vocabulary of `size` tokens of many scripts, with parts of characters.
fn table(size: usize) -> FamilyTable {
    const TEXTS: [&[u8]; 12] = [
        b" a",
        "中".as_bytes(),
        "ж".as_bytes(),
        b"!",
        "の中".as_bytes(),
        "aж".as_bytes(),
        &[0xE4],
        &[0x80, 0x85],
        &[0x81],
        "한".as_bytes(),
        &[0xE3],
        "б".as_bytes(),
    ];
    let tokens = (0..size).map(|v| (Kind::Text, TEXTS[v * 7 % 12].to_vec()));
    FamilyTable::new(Taxonomy::script16(), Vocabulary::new(tokens), &Exemptions::default()).unwrap()
}

/// What is pending after one byte.
fn after(table: &FamilyTable, byte: u8) -> Pending {
    let token = (0..table.len()).find(|v| table.vocabulary().bytes(*v) == [byte]);
    let Some(token) = token else { return Pending::default() };
    let mut state = GateState::default();
    state.advance(table, &Protocol::default(), token as u32, &Trust::ungated()).unwrap();
    state.pending
}

fn set(table: &FamilyTable, names: &[&str]) -> FamilySet {
    table.taxonomy().set(names, "test").unwrap()
}

#[track_caller]
fn close(what: &str, found: f32, expected: f64, relative: f64, absolute: f64) {
    let off = (f64::from(found) - expected).abs();
    assert!(off <= relative * expected.abs() + absolute, "{what}: {found}, expected {expected}");
}

#[test]
fn every_kernel_says_its_block() -> Result<()> {
    let gpu = Gpu::emulated(Options::default());
    let mut found = Vec::new();
    for (name, source) in SOURCES {
        found.extend(compile(&gpu, name, source)?.kernels());
    }
    let mut listed: Vec<&str> = BLOCKS.iter().map(|(kernel, _)| *kernel).collect();
    found.sort_unstable();
    listed.sort_unstable();
    assert_eq!(found, listed);
    Ok(())
}
