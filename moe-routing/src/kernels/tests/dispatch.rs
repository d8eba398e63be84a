//! The kernels sort as `Dispatch` does, slot for slot.

use cuda_twin::{Gpu, Options, Result, args};

use super::{everywhere, no_barrier_can_be_removed, recorded, same_bits};
use crate::Dispatch;
use crate::kernels::{DispatchKernels, compile};
use crate::sources::DISPATCH;

fn run(gpu: &Gpu, kernels: &DispatchKernels, shape: [usize; 3], ids: &[u32]) -> Result<[Vec<u32>; 4]> {
    let [tokens, experts, k] = shape;
    let (ids, pairs) = (gpu.upload(ids)?, tokens * k);
    let scratch = gpu.uninit::<i32>(DispatchKernels::scratch_len(tokens, experts, k))?;
    let arrays = [gpu.uninit::<u32>(pairs)?, gpu.uninit(pairs)?, gpu.uninit(pairs)?];
    let offsets = gpu.uninit::<u32>(experts + 1)?;
    let [order, token_of, inverse] = &arrays;
    let out = args![order, token_of, inverse, &offsets];
    // SAFETY: buffers of the shape; ids are below `experts`.
    unsafe { kernels.dispatch(shape, (&ids).into(), (&scratch).into(), out) }?;
    Ok([order.read()?, token_of.read()?, inverse.read()?, offsets.read()?])
}

fn expected([tokens, experts, k]: [usize; 3], ids: &[u32]) -> [Vec<u32>; 4] {
    let d = Dispatch::new(ids, tokens, experts, k).unwrap();
    [d.order(), d.token_of(), d.inverse(), d.offsets()].map(<[u32]>::to_vec)
}

#[test]
fn all_index_arrays_are_those_of_the_cpu() -> Result<()> {
    // Around a warp of slots, a tile of 1,024 and a round of 256 experts; dead experts; no tokens.
    let shapes = [
        [0, 3, 2],
        [1, 1, 1],
        [33, 1, 1],
        [31, 7, 1],
        [16, 40, 2],
        [128, 32, 8],
        [147, 256, 7],
        [150, 300, 7],
        [1025, 5, 1],
        [8, 600, 4],
    ];
    everywhere(|gpu| {
        let kernels = DispatchKernels::new(gpu)?;
        for (seed, shape) in shapes.into_iter().enumerate() {
            let [tokens, experts, k] = shape;
            let ids = recorded(tokens, experts, k, seed as u64);
            assert_eq!(run(gpu, &kernels, shape, &ids)?, expected(shape, &ids), "{shape:?}");
            // All tokens to the last experts.
            let last: Vec<u32> = (0..tokens * k).map(|q| (experts - 1 - q % k) as u32).collect();
            assert_eq!(run(gpu, &kernels, shape, &last)?, expected(shape, &last), "{shape:?}");
        }
        Ok(())
    })
}

#[test]
fn many_tokens_unchecked() -> Result<()> {
    let (gpu, shape) = (Gpu::emulated(Options::unchecked()), [4099, 128, 8]);
    let ids = recorded(4099, 128, 8, 1);
    assert_eq!(run(&gpu, &DispatchKernels::new(&gpu)?, shape, &ids)?, expected(shape, &ids));
    Ok(())
}

#[test]
fn bits_do_not_depend_on_the_order_and_no_barrier_can_be_removed() -> Result<()> {
    let (shape, ids) = ([150, 300, 7], recorded(150, 300, 7, 3));
    same_bits(|gpu| run(gpu, &DispatchKernels::new(gpu)?, shape, &ids))?;
    no_barrier_can_be_removed(DISPATCH, 7, |gpu, source| {
        let kernels = DispatchKernels::of_module(compile(gpu, "dispatch.cu", source)?);
        run(gpu, &kernels, shape, &ids).map(drop)
    })
}

#[test]
fn too_many_experts_are_refused() -> Result<()> {
    let gpu = Gpu::emulated(Options::default());
    let error = run(&gpu, &DispatchKernels::new(&gpu)?, [0, 20_000, 2], &[]).unwrap_err().to_string();
    assert!(error.contains("20000") && error.contains("12288"), "{error}");
    Ok(())
}
