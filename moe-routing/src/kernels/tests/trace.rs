//! Ids go into traces as `RouteTrace` keeps them, and come back.

use bytemuck::Pod;
use cuda_twin::{Gpu, Result, args};

use super::{everywhere, recorded, same_bits};
use crate::kernels::TraceKernels;
use crate::trace::Ids;
use crate::{RouteShape, RouteTrace};

/// One layer after another is packed; the whole trace.
fn pack<T: Pod>(gpu: &Gpu, shape: &RouteShape, tokens: usize, layers: &[Vec<u32>]) -> Result<Vec<T>> {
    let kernels = TraceKernels::new(gpu)?;
    let trace = gpu.uninit::<T>(tokens * shape.row_len())?;
    for (ordinal, ids) in layers.iter().enumerate() {
        let ids = gpu.upload(ids)?;
        let [i, t] = args![&ids, &trace];
        // SAFETY: buffers of the shape.
        unsafe { kernels.pack(shape, tokens, ordinal, i, t) }?;
    }
    trace.read()
}

fn gather<T: Pod>(
    gpu: &Gpu,
    shape: &RouteShape,
    ordinal: usize,
    (trace, source, natural): (&[T], &[i32], &[u32]),
) -> Result<Vec<u32>> {
    let (trace, source, natural) = (gpu.upload(trace)?, gpu.upload(source)?, gpu.upload(natural)?);
    let ids = gpu.uninit::<u32>(source.len() * shape.top_k())?;
    let inputs = args![&trace, &source, &natural];
    // SAFETY: buffers of the shape; sources are rows of the trace.
    unsafe { TraceKernels::new(gpu)?.gather(shape, source.len(), ordinal, inputs, (&ids).into()) }?;
    ids.read()
}

fn round_trip<T: Pod + PartialEq + std::fmt::Debug>(
    ids_of: impl Fn(&RouteTrace) -> Option<&[T]>,
) -> Result<()> {
    let sizes = [(0, 9, 2), (1, 1, 1), (5, 256, 8), (5, 257, 8), (40, 31, 31), (300, 128, 8), (3, 65_535, 2)];
    for (tokens, experts, k) in sizes {
        let shape = RouteShape::new(experts, k, &[0, 3, 4]).unwrap();
        let layers: Vec<Vec<u32>> = (0..3).map(|l| recorded(tokens, experts, k, l)).collect();
        let mut trace = RouteTrace::new(shape.clone(), 0);
        let ids = |t: usize| (0..3).flat_map(move |l| (0..k).map(move |s| (l, t * k + s)));
        for token in 0..tokens {
            let row: Vec<u32> = ids(token).map(|(l, i)| layers[l][i]).collect();
            trace.push(token as u32, &row).unwrap();
        }
        let Some(expected) = ids_of(&trace) else { continue };
        // Every other token, backwards, and some that have no row.
        let source: Vec<i32> =
            (0..tokens as i32).rev().step_by(2).map(|r| if r % 3 == 0 { -1 } else { r }).collect();
        let natural = recorded(source.len(), experts, k, 9);
        everywhere(|gpu| {
            assert_eq!(pack::<T>(gpu, &shape, tokens, &layers)?, expected);
            for ordinal in 0..3 {
                let found = gather(gpu, &shape, ordinal, (expected, &source, &natural))?;
                for (t, row) in source.iter().enumerate() {
                    let wanted: Vec<u32> = match usize::try_from(*row) {
                        Ok(row) => trace.ids(row, ordinal).unwrap().collect(),
                        Err(_) => natural[t * k..(t + 1) * k].to_vec(),
                    };
                    assert_eq!(found[t * k..(t + 1) * k], wanted, "token {t}, layer {ordinal}");
                }
            }
            Ok(())
        })?;
        same_bits(|gpu| pack::<T>(gpu, &shape, tokens, &layers))?;
    }
    Ok(())
}

#[test]
fn a_byte_for_up_to_256_experts() -> Result<()> {
    round_trip(|trace| match &trace.ids {
        Ids::U8(ids) => Some(ids.as_slice()),
        Ids::U16(_) => None,
    })
}

#[test]
fn two_bytes_above() -> Result<()> {
    round_trip(|trace| match &trace.ids {
        Ids::U8(_) => None,
        Ids::U16(ids) => Some(ids.as_slice()),
    })
}

#[test]
fn there_is_no_layer_beyond_the_last() -> Result<()> {
    let shape = RouteShape::new(4, 2, &[0, 3, 4]).unwrap();
    let gpu = Gpu::emulated(cuda_twin::Options::default());
    let error = gather::<u8>(&gpu, &shape, 3, (&[0, 1, 0, 1, 0, 1], &[0], &[0, 1])).unwrap_err().to_string();
    assert!(error.contains("layer") && error.contains("below 3"), "{error}");
    Ok(())
}
