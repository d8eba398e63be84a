//! The operation on candle's GPU gives what it gives on the CPU. Without one a line says so, unless `REQUIRE_GPU` is set;
//! `scripts/cuda-mock.sh` makes one that runs the kernels in the emulator.
#![allow(clippy::unwrap_used)]

use candle_core::{DType, Device, Result, Tensor, Var};

use super::cuda::Scores;
use super::{leak, masked_log_probs};
use crate::utf8::Pending;
use crate::{Exemptions, FamilySet, FamilyTable, Kind, RowMask, Taxonomy, Vocabulary};

fn gpu() -> Option<Device> {
    match Device::new_cuda(0) {
        Ok(device) => Some(device),
        Err(error) if std::env::var_os("REQUIRE_GPU").is_none() => {
            eprintln!("{error}; not run");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Letters of four families, symbols, and ends of characters.
fn table(size: usize) -> FamilyTable {
    let texts: [&[u8]; 7] =
        [b"a", "中".as_bytes(), "ж".as_bytes(), b"!", &[0x81], &[0x80, 0x85], "の".as_bytes()];
    let vocabulary = Vocabulary::new((0..size).map(|v| (Kind::Text, texts[v % 7].to_vec())));
    FamilyTable::new(Taxonomy::script16(), vocabulary, &Exemptions::default()).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    let tensor = tensor.to_device(&Device::Cpu).unwrap().to_dtype(DType::F32).unwrap();
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn same(what: &str, gpu: &[f32], cpu: &[f32], relative: f32) {
    assert_eq!(gpu.len(), cpu.len());
    for (i, (found, expected)) in gpu.iter().zip(cpu).enumerate() {
        let off = (found - expected).abs();
        assert!(off <= 4e-6 + relative * expected.abs(), "{what}[{i}]: {found}, on the CPU {expected}");
    }
}

#[test]
fn scores_and_gradients_are_those_of_the_cpu() -> Result<()> {
    let Some(device) = gpu() else { return Ok(()) };
    for (rows, vocabulary, dtype) in [(1, 8, DType::F32), (8, 131, DType::F32), (6, 1000, DType::BF16)] {
        let table = table(vocabulary);
        let [han, east] = [&["han"][..], &["han", "kana", "latin"]]
            .map(|names| table.taxonomy().set(names, "test").unwrap());
        let begun = Pending::unpack(u32::from_le_bytes([1, 0xE3, 0, 0])).unwrap();
        let masks: Vec<Option<RowMask<'_>>> = (0..rows)
            .map(|row| {
                let pending = if row % 2 == 0 { Pending::default() } else { begun };
                let denied = [han, FamilySet::EMPTY, east][row % 3];
                // Truncation to every third token, and the first of each family, in rows with something denied and without.
                let kept = (row % 5 != 0).then(|| {
                    (0..vocabulary as u32).filter(|v| *v < 7 || (v + row as u32).is_multiple_of(3)).collect()
                });
                (row % 4 != 3).then(|| RowMask { view: table.view(pending), denied, kept })
            })
            .collect();
        // The first token from the row's own on that it allows.
        let target = |(row, mask): (usize, &Option<RowMask<'_>>)| match mask {
            Some(mask) => (row as u32..).find(|v| mask.allows(*v)).unwrap(),
            None => 0,
        };
        let targets: Vec<u32> = masks.iter().enumerate().map(target).collect();
        let noise = |i: usize| 5.0 * ((i * 7919 + 1) as f32 * 0.618_034).sin();
        let logits =
            Tensor::from_vec((0..rows * vocabulary).map(noise).collect(), (rows, vocabulary), &Device::Cpu)?;
        // On the CPU from what bf16 makes of them, in f32.
        let rounded = logits.to_dtype(dtype)?;
        let var = Var::from_tensor(&rounded.to_dtype(DType::F32)?)?;
        let cpu = masked_log_probs(&var, &targets, &masks, 0.7)?;
        let whole = rounded.to_device(&device)?;
        same(
            "log-probabilities",
            &values(&masked_log_probs(&whole, &targets, &masks, 0.7)?),
            &values(&cpu),
            2e-6,
        );

        let upstream: Vec<f32> = (0..rows).map(|r| 0.5 + 0.25 * r as f32).collect();
        let weights = Tensor::from_vec(upstream, rows, &Device::Cpu)?;
        let slope = |of: &Tensor| -> Result<Vec<f32>> {
            Ok(values((of * &weights)?.sum_all()?.backward()?.get(&var).unwrap()))
        };
        let gradient = |denials: bool| -> Result<Vec<f32>> {
            let op = Scores::new(&device, &table, &targets, &masks, 0.7, denials)?;
            let scores = whole.apply_op1(Scores::new(&device, &table, &targets, &masks, 0.7, denials)?)?;
            let gradient = whole.force_contiguous()?;
            gradient.inplace_op3(&scores, &weights.to_device(&device)?, &op)?;
            Ok(values(&gradient))
        };
        let relative = if dtype == DType::BF16 { 1.0 / 128.0 } else { 2e-5 };
        let masked = gradient(true)?;
        same("gradient", &masked, &slope(&cpu)?, relative);
        // The leak is the difference of the scores with and without what is denied, and so is its gradient.
        let of_leak = slope(&leak(&var, &targets, &masks, 0.7)?)?;
        let difference: Vec<f32> = masked.iter().zip(gradient(false)?).map(|(a, b)| a - b).collect();
        for (found, expected) in difference.iter().zip(&of_leak) {
            let rounding = if dtype == DType::BF16 { 2e-2 } else { 2e-5 };
            assert!((found - expected).abs() <= rounding, "leak: {found}, on the CPU {expected}");
        }
    }
    Ok(())
}

#[test]
fn what_does_not_fit_is_refused() -> Result<()> {
    let Some(device) = gpu() else { return Ok(()) };
    let (one, other) = (table(8), table(8));
    let latin = one.taxonomy().set(&["latin"], "test").unwrap();
    let mask =
        |table| RowMask { view: FamilyTable::view(table, Pending::default()), denied: latin, kept: None };
    let logits = Tensor::from_vec(vec![0f32; 16], (2, 8), &Device::Cpu)?.to_device(&device)?;
    let refused = |logits: &Tensor, targets: &[u32], masks: [RowMask<'_>; 2]| {
        masked_log_probs(logits, targets, &masks.map(Some), 1.0).unwrap_err().to_string()
    };
    let own = refused(&logits, &[1, 0], [mask(&one), mask(&one)]);
    assert!(own.contains("row 1: token 0 is denied by its own record"), "{own}");
    assert!(refused(&logits, &[1, 8], [mask(&one), mask(&one)]).contains("token 8"));
    assert!(
        refused(&logits, &[1, 1], [mask(&one), mask(&other)]).contains("row 1: a mask over another table")
    );
    let kept = |tokens: &'static [u32]| RowMask { kept: Some(tokens.into()), ..mask(&one) };
    let cut = refused(&logits, &[1, 1], [mask(&one), kept(&[2, 3])]);
    assert!(cut.contains("row 1: token 1 is denied by its own record"), "{cut}");
    let outside = refused(&logits, &[1, 1], [mask(&one), kept(&[1, 8])]);
    assert!(outside.contains("kept token") && outside.contains("less than 8"), "{outside}");
    let narrow = logits.narrow(1, 0, 7)?;
    assert!(refused(&narrow, &[1, 1], [mask(&one), mask(&one)]).contains("logits [2, 7]"));
    let wide = Tensor::from_vec(vec![0f64; 16], (2, 8), &Device::Cpu)?.to_device(&device)?;
    assert!(refused(&wide, &[1, 1], [mask(&one), mask(&one)]).contains("f32 or bf16"));
    Ok(())
}
