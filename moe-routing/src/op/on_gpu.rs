//! The operations on candle's GPU give what they give on the CPU. Without one a line says so, unless `REQUIRE_GPU` is set;
//! `scripts/cuda-mock.sh` makes one that runs the kernels in the emulator.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use candle_core::{CustomOp1, CustomOp2, Device, Result, Tensor};

use super::rows::{Combine, Move};
use super::{
    GatesBackward, LossGradient, RouterLoss, choose, gates, load_balance_loss, permute, router_z_loss,
    unpermute,
};
use crate::{AuxForm, Dispatch, ExpertCounts, Router};

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

fn noise(shape: (usize, usize), salt: usize) -> Tensor {
    let value = |i: usize| 3.0 * ((i * 7919 + salt) as f32 * 0.618_034).sin();
    let values: Vec<f32> = (0..shape.0 * shape.1).map(value).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.to_device(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn same(what: &str, gpu: &Tensor, cpu: &Tensor) {
    assert!(gpu.device().is_cuda() && gpu.dims() == cpu.dims(), "{what}: {:?}", gpu.dims());
    for (i, (found, expected)) in values(gpu).into_iter().zip(values(cpu)).enumerate() {
        let off = (found - expected).abs();
        assert!(off <= 1e-6 + 2e-5 * expected.abs(), "{what}[{i}]: {found}, on the CPU {expected}");
    }
}

fn routers(experts: usize) -> [Router; 4] {
    let sigmoid = |bias| Router::SigmoidTopK { renorm: true, bias, scale: 2.5 };
    let bias = (0..experts).map(|e| (e % 5) as f32 / 8.0).collect();
    [
        Router::SoftmaxTopK { renorm: true },
        Router::SoftmaxTopK { renorm: false },
        sigmoid(bias),
        Router::GroupLimited { groups: 4, keep: 2, router: Box::new(sigmoid(vec![])) },
    ]
}

#[test]
fn values_and_gradients_are_those_of_the_cpu() -> Result<()> {
    let Some(device) = gpu() else { return Ok(()) };
    let (tokens, experts, k) = (6, 40, 4);
    let cpu = noise((tokens, experts), 1);
    // Rows of a larger tensor, so that the storage does not start with them.
    let larger = Tensor::cat(&[&cpu.affine(-1.0, 0.5)?, &cpu], 0)?.to_device(&device)?;
    let there = larger.narrow(0, tokens, tokens)?;
    for router in routers(experts) {
        let what = format!("{router:?}");
        let ids = choose(&cpu, k, &router)?;
        assert_eq!(choose(&there, k, &router)?, ids, "{what}");
        same(&what, &gates(&there, &ids, k, &router)?, &gates(&cpu, &ids, k, &router)?);
        let (op, up) = (
            super::Gates { ids: ids.clone().into(), top_k: k, router: router.clone() },
            noise((tokens, k), 2),
        );
        let found = there.apply_op2_no_bwd(&up.to_device(&device)?, &GatesBackward(&op))?;
        same(&what, &found, &cpu.apply_op2_no_bwd(&up, &GatesBackward(&op))?);

        let counts = ExpertCounts::of(&ids, experts)?;
        let loss = |x: &Tensor| load_balance_loss(x, &counts, k, &router, AuxForm::Hf);
        same(&what, &loss(&there)?, &loss(&cpu)?);
        let op = RouterLoss::Balance {
            counts: counts.clone(),
            top_k: k,
            router: router.clone(),
            form: AuxForm::Hf,
        };
        same(&what, &there.apply_op1_no_bwd(&LossGradient(&op))?, &cpu.apply_op1_no_bwd(&LossGradient(&op))?);
    }
    same("z-loss", &router_z_loss(&there)?, &router_z_loss(&cpu)?);
    let z = LossGradient(&RouterLoss::Z);
    same("gradient of the z-loss", &there.apply_op1_no_bwd(&z)?, &cpu.apply_op1_no_bwd(&z)?);
    Ok(())
}

#[test]
fn errors_are_those_of_the_cpu() -> Result<()> {
    let Some(device) = gpu() else { return Ok(()) };
    let router = Router::TopKSoftmax;
    let mut logits = values(&noise((3, 8), 1));
    logits[13] = f32::NAN;
    let bad = Tensor::from_vec(logits, (3, 8), &Device::Cpu)?;
    let good = noise((3, 8), 1);
    let counts = ExpertCounts::of(&[0, 1], 8)?;
    type Call<'a> = (&'a Tensor, &'a dyn Fn(&Tensor) -> Result<()>);
    let cases: [Call<'_>; 6] = [
        (&bad, &|x| choose(x, 2, &router).map(drop)),
        (&bad, &|x| gates(x, &[0, 1, 2, 3, 4, 5], 2, &router).map(drop)),
        (&bad, &|x| load_balance_loss(x, &counts, 2, &router, AuxForm::Switch).map(drop)),
        (&bad, &|x| router_z_loss(x).map(drop)),
        (&good, &|x| gates(x, &[0, 1, 2, 3, 4, 4], 2, &router).map(drop)),
        (&good, &|x| gates(x, &[0, 1, 2, 3], 2, &router).map(drop)),
    ];
    for (logits, run) in cases {
        let first_line = |e: candle_core::Error| e.to_string().lines().next().unwrap_or_default().to_string();
        let expected = first_line(run(logits).unwrap_err());
        assert_eq!(first_line(run(&logits.to_device(&device)?).unwrap_err()), expected);
    }
    Ok(())
}

#[test]
fn activations_go_to_experts_and_back_as_on_the_cpu() -> Result<()> {
    let Some(device) = gpu() else { return Ok(()) };
    for (tokens, experts, k, width) in [(1, 1, 1, 3), (7, 5, 2, 6), (9, 8, 3, 8)] {
        let ids: Vec<u32> = (0..tokens * k).map(|i| ((i / k + i % k * 3) % experts) as u32).collect();
        let dispatch = Arc::new(Dispatch::new(&ids, tokens, experts, k).unwrap());
        let (x, rows) = (noise((tokens, width), 1), noise((tokens * k, width), 2));
        let (gates, dy) = (noise((tokens, k), 3), noise((tokens, width), 4));
        let there = |t: &Tensor| t.to_device(&device);
        same("permuted", &permute(&there(&x)?, &dispatch)?, &permute(&x, &dispatch)?);
        let back = Move { dispatch: dispatch.clone(), to_tokens: false };
        let d_x = |x: &Tensor, d: &Tensor| CustomOp1::bwd(&back, x, d, d).map(Option::unwrap);
        same("dx", &d_x(&there(&x)?, &there(&rows)?)?, &d_x(&x, &rows)?);
        let there_y = unpermute(&there(&rows)?, &there(&gates)?, &dispatch)?;
        same("y", &there_y, &unpermute(&rows, &gates, &dispatch)?);
        let op = Combine { dispatch: dispatch.clone() };
        let both = |r: &Tensor, g: &Tensor, d: &Tensor| CustomOp2::bwd(&op, r, g, d, d);
        let (d_rows, d_gates) = both(&there(&rows)?, &there(&gates)?, &there(&dy)?)?;
        let (want_rows, want_gates) = both(&rows, &gates, &dy)?;
        same("d rows", &d_rows.unwrap(), &want_rows.unwrap());
        same("d gates", &d_gates.unwrap(), &want_gates.unwrap());
    }
    Ok(())
}
