//! The operations on candle's GPU give what they give on the CPU. Without one a line says so, unless `REQUIRE_GPU` is set;
//! `scripts/cuda-mock.sh` makes one that runs the kernels in the emulator.
#![allow(clippy::unwrap_used)]

use candle_core::{DType, Device, Result, Tensor};

use super::{LogProbs, masked_log_probs};

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

fn noise(shape: (usize, usize), scale: f32, salt: usize) -> Tensor {
    let value = |i: usize| scale * ((i * 7919 + salt) as f32 * 0.618_034).sin();
    let values: Vec<f32> = (0..shape.0 * shape.1).map(value).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    let tensor = tensor.to_device(&Device::Cpu).unwrap().to_dtype(DType::F32).unwrap();
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn same(what: &str, gpu: &Tensor, cpu: &Tensor, relative: f32) {
    for (i, (found, expected)) in values(gpu).into_iter().zip(values(cpu)).enumerate() {
        let off = (found - expected).abs();
        assert!(off <= 4e-6 + relative * expected.abs(), "{what}[{i}]: {found}, on the CPU {expected}");
    }
}

#[test]
fn scores_and_gradients_are_those_of_the_cpu() -> Result<()> {
    let Some(device) = gpu() else { return Ok(()) };
    for (rows, vocabulary, dtype) in [(1, 5, DType::F32), (6, 131, DType::F32), (4, 1000, DType::BF16)] {
        let relative = if dtype == DType::BF16 { 1.0 / 128.0 } else { 2e-5 };
        let logits = noise((rows, vocabulary), 5.0, 1).to_dtype(dtype)?;
        // Rows of a larger tensor, so that the storage does not start with them.
        let larger = Tensor::cat(&[&logits.affine(-1.0, 0.5)?, &logits], 0)?.to_device(&device)?;
        let there = larger.narrow(0, rows, rows)?;
        let targets: Vec<u32> = (0..rows).map(|r| (r * 13 % vocabulary) as u32).collect();
        let mask: Vec<bool> = (0..rows).map(|r| r % 4 != 3).collect();
        let scores = masked_log_probs(&logits, &targets, Some(&mask), 0.7)?;
        same("scores", &masked_log_probs(&there, &targets, Some(&mask), 0.7)?, &scores, 2e-6);

        let op = LogProbs::new(&targets, Some(&mask), vocabulary, 0.7)?;
        let upstream = noise((rows, 2), 1.0, 2);
        let gradient = |logits: &Tensor, upstream: &Tensor| -> Result<Tensor> {
            let scores = logits.apply_op1(op.clone())?;
            let gradient = logits.force_contiguous()?;
            op.replace_by_gradient(&gradient, &scores, upstream)?;
            Ok(gradient)
        };
        let whole = logits.to_device(&device)?;
        let found = gradient(&whole, &upstream.to_device(&device)?)?;
        same("gradient", &found, &gradient(&logits, &upstream)?, relative);
    }
    Ok(())
}

#[test]
fn other_types_are_refused() -> Result<()> {
    let Some(device) = gpu() else { return Ok(()) };
    let logits = Tensor::from_vec(vec![1f64, 2.0], (1, 2), &Device::Cpu)?.to_device(&device)?;
    let error = masked_log_probs(&logits, &[0], None, 1.0).unwrap_err().to_string();
    assert!(error.starts_with("logits must be f32 or bf16"), "{error}");
    Ok(())
}

#[test]
fn a_loss_and_its_gradients_reach_the_gpu() -> Result<()> {
    use crate::{Advantages, LossConfig, Normalizer, TokenBatch};
    let Some(device) = gpu() else { return Ok(()) };
    let (logp, old, entropy) = ([-0.4f32, -1.1, -2.0], [-0.5, -0.9, -2.2], [0.3, 0.5, 0.9]);
    let batch = TokenBatch {
        logp_old: Some(&old),
        entropy: Some(&entropy),
        ..TokenBatch::new(&[0, 2, 3], &logp, Advantages::PerSequence(&[1.0, -0.5]))
    };
    let config = LossConfig::preset("sapo", 8).unwrap().0;
    let out = config.validate().unwrap().evaluate(&batch, &Normalizer::default()).unwrap();
    let scalar = |device: &Device| -> Result<(Tensor, Tensor, Tensor)> {
        let (logp, entropy) = (Tensor::new(&logp, device)?, Tensor::new(&entropy, device)?);
        let one = Tensor::new(0.5f32, device)?;
        let loss = super::super::loss_tensor(&out, &logp, Some(&entropy))?;
        let (d_logp, d_entropy) =
            candle_core::CustomOp2::bwd(&super::super::Loss::of(&out), &logp, &entropy, &loss, &one)?;
        Ok((loss, d_logp.unwrap(), d_entropy.unwrap()))
    };
    let (found, expected) = (scalar(&device)?, scalar(&Device::Cpu)?);
    same("loss", &found.0, &expected.0, 0.0);
    same("d logp", &found.1, &expected.1, 0.0);
    same("d entropy", &found.2, &expected.2, 0.0);
    assert!(found.1.device().is_cuda());
    Ok(())
}
