//! The network's kernel, the CPU path and the definition agree.

use cuda_twin::{Gpu, Options, Result, args};

use super::{close, everywhere, no_barrier_can_be_removed, noise, same_bits};
use crate::kernels::{GateKernels, compile};
use crate::sources::GATE;
use crate::{FamilySet, MlpGate, reference};

fn run(gpu: &Gpu, kernels: &GateKernels, gate: &MlpGate, hidden: &[f32]) -> Result<(Vec<f32>, Vec<u32>)> {
    let rows = hidden.len() / gate.hidden_size();
    let (h, w1, w2) = (gpu.upload(hidden)?, gpu.upload(gate.w1())?, gpu.upload(gate.w2())?);
    let thresholds = gpu.upload(gate.thresholds())?;
    let (g, families) = (gpu.uninit::<f32>(rows * gate.families())?, gpu.uninit::<u32>(rows)?);
    let [h, w1, w2, t, out, sets] = args![&h, &w1, &w2, &thresholds, &g, &families];
    // SAFETY: buffers of the gate's and the rows' sizes.
    unsafe { kernels.gate(gate, rows, [h, w1, w2, t], [out, sets]) }?;
    Ok((g.read()?, families.read()?))
}

#[test]
fn gate_logits_and_families_agree() -> Result<()> {
    everywhere(|gpu| {
        let kernels = GateKernels::new(gpu)?;
        for (seed, (rows, d, width, families)) in
            [(1, 1, 32, 1), (7, 31, 32, 4), (8, 32, 64, 16), (9, 70, 128, 16), (17, 33, 256, 32)]
                .into_iter()
                .enumerate()
        {
            let thresholds: Vec<f64> = (0..families).map(|f| 0.45 + 0.003 * f as f64).collect();
            let gate = MlpGate::random(d, width, families, seed as u64)
                .unwrap()
                .with_thresholds(&thresholds)
                .unwrap();
            let mut hidden: Vec<f32> = noise(rows * d, seed as u64 + 40).iter().map(|h| 3.0 * h).collect();
            if rows > 1 {
                hidden[d] = f32::NAN;
            }
            let (g, sets) = run(gpu, &kernels, &gate, &hidden)?;
            let wide = |x: &[f32]| x.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>();
            for (r, h) in hidden.chunks(d).enumerate() {
                let cpu = gate.logits(h).unwrap();
                if r == 1 {
                    assert_eq!((sets[r], gate.allowed(&cpu)), (0, None));
                    continue;
                }
                let expected = reference::gate(&wide(gate.w1()), &wide(gate.w2()), &wide(h));
                for f in 0..families {
                    let what = format!("row {r}, family {f} of {families}, width {width}, {d} inputs");
                    close(&what, g[r * families + f], expected[f], 2e-5, 2e-5);
                    close(&what, cpu[f], expected[f], 2e-5, 2e-5);
                }
                let clear =
                    (0..families).all(|f| (expected[f] - f64::from(gate.thresholds()[f])).abs() > 1e-4);
                if clear {
                    assert_eq!(Some(FamilySet(sets[r])), gate.allowed(&cpu), "row {r}");
                }
            }
        }
        Ok(())
    })
}

#[test]
fn bits_do_not_depend_on_the_order_and_no_barrier_can_be_removed() -> Result<()> {
    let (gate, hidden) = (MlpGate::random(70, 64, 8, 1).unwrap(), noise(5 * 70, 2));
    same_bits(|gpu| run(gpu, &GateKernels::new(gpu)?, &gate, &hidden))?;
    no_barrier_can_be_removed(GATE, 4, |gpu, source| {
        let kernels = GateKernels::of_module(compile(gpu, "gate.cu", source)?);
        run(gpu, &kernels, &gate, &hidden).map(drop)
    })
}

#[test]
fn other_widths_are_refused() -> Result<()> {
    let gpu = Gpu::emulated(Options::default());
    for width in [31, 288, 40] {
        let gate = MlpGate::random(4, width, 4, 1).unwrap();
        let error = run(&gpu, &GateKernels::new(&gpu)?, &gate, &[0.0; 4]).unwrap_err().to_string();
        assert!(error.contains(&width.to_string()), "{error}");
    }
    Ok(())
}
