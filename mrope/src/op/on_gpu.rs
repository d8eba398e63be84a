//! The operations on candle's GPU give what they give on the CPU. Without one a line says so, unless `REQUIRE_GPU` is set;
//! `scripts/cuda-mock.sh` makes one that runs the kernels in the emulator.
#![allow(clippy::unwrap_used)]

use candle_core::{CustomOp1, DType, Device, Tensor};

use super::{Heads, Rotate, apply, apply_inplace, apply_packed_qk, packed_planes};
use crate::rows::HeadRows;
use crate::{Allocation, Error, Frequencies, Pairing, Positions, RotaryTable};

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

fn table(tokens: usize, d: usize, allocation: &Allocation, device: &Device) -> RotaryTable {
    let axis = |scale: f64| (0..tokens).map(|t| t as f64 * scale).collect();
    let positions = Positions::from_axes(vec![axis(1.0), axis(3.0), axis(5.5)]).unwrap();
    RotaryTable::new(&positions, allocation, &Frequencies::new(1e4, d).unwrap(), device).unwrap()
}

fn noise(shape: &[usize], dtype: DType) -> Tensor {
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|i| (i as f32 * 0.618_034).sin()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

fn same(what: &str, gpu: &Tensor, cpu: &Tensor) {
    let values = |t: &Tensor| -> Vec<f32> {
        let t = t.to_device(&Device::Cpu).unwrap().to_dtype(DType::F32).unwrap();
        t.flatten_all().unwrap().to_vec1().unwrap()
    };
    assert_eq!(gpu.dims(), cpu.dims());
    let relative = if cpu.dtype() == DType::F32 { 0.0 } else { 1.0 / 128.0 };
    for (i, (found, expected)) in values(gpu).into_iter().zip(values(cpu)).enumerate() {
        let off = (found - expected).abs();
        assert!(off <= 1e-6 + relative * expected.abs(), "{what}[{i}]: {found}, on the CPU {expected}");
    }
}

#[test]
fn rotations_are_those_of_the_cpu() {
    let Some(device) = gpu() else { return };
    let heads = Heads { query: 4, kv: 2 };
    for allocation in
        [Allocation::Interleaved([4, 2, 2]), Allocation::PerHead { sections: vec![1], kv_heads: 2 }]
    {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            for pairing in [Pairing::HalfSplit, Pairing::Adjacent] {
                let on = |device: &Device| table(9, 16, &allocation, device).with_pairing(pairing);
                let (here, there) = (on(&Device::Cpu), on(&device));
                // 24 lanes, of which 16 rotate; with values.
                let x = noise(&[9, 8, 24], dtype);
                let y = x.to_device(&device).unwrap();
                let expected = apply_packed_qk(&x, heads, &here).unwrap();
                let found = apply_packed_qk(&y, heads, &there).unwrap();
                same("packed", &found, &expected);

                let planes = packed_planes(&HeadRows::of(x.layout()).unwrap(), heads, &here).unwrap();
                let op = |x: &Tensor, table: &RotaryTable| {
                    Rotate::checked(x, &HeadRows::of(x.layout()).unwrap(), planes.clone(), table).unwrap()
                };
                let back = |x: &Tensor, table: &RotaryTable| op(x, table).bwd(x, x, x).unwrap().unwrap();
                same("backward", &back(&y, &there), &back(&x, &here));

                apply_inplace(&x, heads, &here).unwrap();
                apply_inplace(&y, heads, &there).unwrap();
                same("in place", &y, &x);
            }
        }
    }
    // Head-major, from a token-major tensor seen through a transpose.
    let allocation = Allocation::OneAxis;
    let (here, there) = (table(6, 16, &allocation, &Device::Cpu), table(6, 16, &allocation, &device));
    let x = noise(&[2, 3, 4, 16], DType::F32);
    let y = x.to_device(&device).unwrap();
    let turned = |x: &Tensor, table: &RotaryTable| apply(&x.transpose(1, 2).unwrap(), table).unwrap();
    same("head-major", &turned(&y, &there), &turned(&x, &here));
}

#[test]
fn what_is_elsewhere_or_of_another_type_is_refused() {
    let Some(device) = gpu() else { return };
    let here = table(3, 4, &Allocation::OneAxis, &Device::Cpu);
    let x = noise(&[3, 1, 4], DType::F32).to_device(&device).unwrap();
    let error = apply(&x, &here).unwrap_err().to_string();
    assert!(error.contains("the rotary table is not on the GPU"), "{error}");
    let wide = Tensor::from_vec(vec![0f64; 12], (3, 1, 4), &Device::Cpu).unwrap().to_device(&device).unwrap();
    let there = table(3, 4, &Allocation::OneAxis, &device);
    assert!(matches!(apply(&wide, &there), Err(Error::DType(DType::F64))));
}
