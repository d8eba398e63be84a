//! Definition, CPU operation and kernels agree on tables and rotations.

use candle_core::{Device, Tensor};
use cuda_twin::{Error, Gpu, Options, Result, args, devices};
use half::{bf16, f16};
use ndarray::Array3;

use super::{Element, close, elements, noise};
use crate::kernels::{HeadStrides, RotaryKernels, Rotation, TableShape};
use crate::{Allocation, Frequencies, Pairing, Positions, RotaryTable, reference};

fn positions(tokens: usize) -> Positions {
    let axis = |scale: f64| (0..tokens).map(|t| (t as f64 * scale * 37.0) % 1000.0).collect();
    Positions::from_axes(vec![axis(1.0), axis(2.5), axis(1.75)]).unwrap()
}

#[test]
fn the_table_is_that_of_the_cpu() -> Result<()> {
    let scaling = 1.25f32;
    for (tokens, pairs) in [(1, 1), (7, 8), (65, 12)] {
        let (positions, inv) = (positions(tokens), Frequencies::new(1e4, 2 * pairs).unwrap());
        let mut plan: Vec<i32> = (0..2 * pairs).map(|i| i as i32 % 3).collect();
        plan[0] = -1;
        let coordinates: Vec<f32> = positions.axes().iter().flatten().map(|p| *p as f32).collect();
        let inv: Vec<f32> = inv.inv().iter().map(|f| *f as f32).collect();
        for gpu in devices()? {
            let kernels = RotaryKernels::new(&gpu)?;
            let (coordinates_, inv_, axes) =
                (gpu.upload(&coordinates)?, gpu.upload(&inv)?, gpu.upload(&plan)?);
            let len = 2 * tokens * pairs;
            let (cos, sin) = (gpu.uninit::<f32>(len)?, gpu.uninit::<f32>(len)?);
            let shape = TableShape { planes: 2, tokens, pairs };
            let [p, i, a, c, s] = args![&coordinates_, &inv_, &axes, &cos, &sin];
            // SAFETY: the buffers have the sizes of `shape` and three axes.
            unsafe { kernels.table(shape, scaling, p, i, a, c, s) }?;
            let (cos, sin) = (cos.read()?, sin.read()?);
            for (at, axis) in plan.iter().enumerate() {
                let (plane, i) = (at / pairs, at % pairs);
                for token in 0..tokens {
                    let angle =
                        usize::try_from(*axis).map_or(0.0, |a| coordinates[a * tokens + token] * inv[i]);
                    let (s, c) = f64::from(angle).sin_cos();
                    let index = (plane * tokens + token) * pairs + i;
                    for (found, expected) in
                        [(cos[index], c as f32 * scaling), (sin[index], s as f32 * scaling)]
                    {
                        assert!((found - expected).abs() <= 3e-7, "{found}, expected {expected} of {angle}");
                    }
                }
            }
        }
    }
    Ok(())
}

/// A tensor of heads somewhere in a larger buffer.
struct Case {
    rotation: Rotation,
    /// Elements of the buffer.
    len: usize,
    planes: Vec<i32>,
    table_planes: usize,
}

fn token_major(tokens: usize, heads: usize, head_dim: usize, pairs: usize, gap: usize) -> Case {
    let strides = HeadStrides { batch: 0, token: heads * head_dim + gap, head: head_dim };
    Case {
        rotation: Rotation {
            tokens,
            seq: tokens,
            heads,
            head_dim,
            pairs,
            pairing: Pairing::HalfSplit,
            plane_stride: tokens * pairs,
            adjoint: false,
            from: strides,
            to: strides,
        },
        len: tokens * strides.token,
        planes: vec![0; heads],
        table_planes: 1,
    }
}

/// From `[batch · seq, heads, d]` to `[batch, heads, seq, d]`.
fn to_head_major(batch: usize, seq: usize, heads: usize, head_dim: usize) -> Case {
    let case = token_major(batch * seq, heads, head_dim, head_dim / 2, 0);
    let width = heads * head_dim;
    Case {
        rotation: Rotation {
            seq,
            from: HeadStrides { batch: seq * width, token: width, head: head_dim },
            to: HeadStrides { batch: seq * width, token: head_dim, head: seq * head_dim },
            ..case.rotation
        },
        ..case
    }
}

fn cases() -> Vec<Case> {
    let mut cases = vec![
        token_major(1, 1, 2, 1, 0),
        token_major(5, 3, 6, 2, 1),
        token_major(67, 4, 16, 8, 0),
        token_major(9, 2, 80, 32, 16),
        to_head_major(2, 3, 3, 16),
        to_head_major(3, 5, 2, 128),
    ];
    for (i, case) in token_major(11, 4, 16, 8, 8).by_heads(3).into_iter().enumerate() {
        cases.push(if i == 1 {
            Case { rotation: Rotation { pairing: Pairing::Adjacent, ..case.rotation }, ..case }
        } else {
            case
        });
    }
    cases
}

impl Case {
    /// Heads of different planes, one of which is not rotated; twice.
    fn by_heads(self, table_planes: usize) -> [Self; 2] {
        let planes: Vec<i32> = (0..self.rotation.heads as i32).map(|h| h - 1).collect();
        let case = |adjoint| Self {
            rotation: Rotation { adjoint, ..self.rotation },
            planes: planes.clone(),
            table_planes,
            ..self
        };
        [case(false), case(true)]
    }

    fn at(&self, strides: HeadStrides, token: usize, head: usize) -> usize {
        let seq = self.rotation.seq;
        token / seq * strides.batch + token % seq * strides.token + head * strides.head
    }

    fn table(&self) -> (Vec<f32>, Vec<f32>) {
        let angles = noise(self.table_planes * self.rotation.plane_stride, 3);
        angles.iter().map(|a| ((9.0 * a).cos() as f32, (9.0 * a).sin() as f32)).unzip()
    }

    /// By the definition, lane by lane; elements outside heads are those of `y`.
    fn expected<T: Element>(&self, x: &[T], y: &[T]) -> Vec<f64> {
        let (r, (cos, sin)) = (&self.rotation, self.table());
        let mut out: Vec<f64> = y.iter().map(|v| v.wide()).collect();
        for token in 0..r.tokens {
            for (head, plane) in self.planes.iter().enumerate() {
                let from = &x[self.at(r.from, token, head)..][..r.head_dim];
                let to = self.at(r.to, token, head);
                let lanes = Array3::from_shape_fn((1, 1, r.head_dim), |(_, _, i)| from[i].wide());
                let angle = |table: &[f32], otherwise: f64| {
                    Array3::from_shape_fn((1, 1, r.pairs), |(_, _, i)| match usize::try_from(*plane) {
                        Ok(plane) => f64::from(table[plane * r.plane_stride + token * r.pairs + i]),
                        Err(_) => otherwise,
                    })
                };
                let (c, s) = (angle(&cos, 1.0), angle(&sin, 0.0));
                let rotate = if r.adjoint { reference::rotate_adjoint } else { reference::rotate };
                let turned = rotate(lanes.view(), c.view(), s.view(), r.pairing);
                out[to..to + r.head_dim].copy_from_slice(turned.as_slice().unwrap());
            }
        }
        out
    }

    fn run<T: Element>(&self, gpu: &Gpu, vectors: bool, x: &[T], y: Option<&[T]>) -> Result<Vec<T>> {
        let kernels = RotaryKernels::new(gpu)?;
        let (cos, sin) = self.table();
        let (cos, sin, planes) = (gpu.upload(&cos)?, gpu.upload(&sin)?, gpu.upload(&self.planes)?);
        let x = gpu.upload(x)?;
        let y = y.map(|y| gpu.upload(y)).transpose()?;
        let out = y.as_ref().unwrap_or(&x);
        let [from, to, c, s, p] = args![&x, out, &cos, &sin, &planes];
        // SAFETY: both buffers hold the heads of `rotation`, the table its planes; buffers are aligned.
        unsafe { kernels.rotate(T::DTYPE, &self.rotation, vectors, from, to, c, s, p) }?;
        out.read()
    }
}

fn agree<T: Element>() -> Result<()> {
    let mut in_vectors = 0;
    for (index, case) in cases().into_iter().enumerate() {
        let (x, y) = (elements::<T>(case.len, index as u64), elements::<T>(case.len, 100 + index as u64));
        let expected = case.expected(&x, &y);
        for gpu in devices()? {
            let plain = case.run(&gpu, false, &x, Some(&y))?;
            close(&format!("case {index}"), &plain, &expected);
            if case.rotation.vectors(T::DTYPE, true) {
                in_vectors += 1;
                assert_eq!(case.run(&gpu, true, &x, Some(&y))?, plain, "case {index} in vectors");
            }
            if case.rotation.from == case.rotation.to {
                let expected = case.expected(&x, &x);
                close(&format!("case {index} in place"), &case.run(&gpu, false, &x, None)?, &expected);
            }
        }
    }
    assert!(in_vectors > 0, "no case was run in vectors");
    Ok(())
}

#[test]
fn f32_rotations_agree() -> Result<()> {
    agree::<f32>()
}

#[test]
fn bf16_rotations_agree() -> Result<()> {
    agree::<bf16>()
}

#[test]
fn f16_rotations_agree() -> Result<()> {
    agree::<f16>()
}

/// The candle operation, with the table that it builds.
#[test]
fn the_kernel_is_the_operation() -> Result<()> {
    let (tokens, heads, d) = (13, 6, 16);
    let allocation = Allocation::PerHead { sections: vec![1, 1], kv_heads: 3 };
    let table =
        RotaryTable::new(&positions(tokens), &allocation, &Frequencies::new(1e4, d).unwrap(), &Device::Cpu)
            .unwrap();
    let values: Vec<f32> = elements(tokens * heads * d, 5);
    let x = Tensor::from_vec(values.clone(), (tokens, heads, d), &Device::Cpu).unwrap();
    let expected: Vec<f32> = crate::apply(&x, &table).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    let expected: Vec<f64> = expected.into_iter().map(f64::from).collect();
    let planes: Vec<i32> =
        table.head_planes(heads).unwrap().into_iter().map(|p| p.map_or(-1, |p| p as i32)).collect();
    let (mut cos, mut sin) = (Vec::new(), Vec::new());
    table
        .with_angles(|angles| {
            for plane in 0..2 {
                for token in 0..tokens {
                    let (c, s) = angles.row(token, plane);
                    cos.extend_from_slice(c);
                    sin.extend_from_slice(s);
                }
            }
        })
        .unwrap();
    let rotation = token_major(tokens, heads, d, d / 2, 0).rotation;
    for gpu in devices()? {
        let kernels = RotaryKernels::new(&gpu)?;
        let (x, y) = (gpu.upload(&values)?, gpu.uninit::<f32>(values.len())?);
        let (cos, sin, planes) = (gpu.upload(&cos)?, gpu.upload(&sin)?, gpu.upload(&planes)?);
        let [from, to, c, s, p] = args![&x, &y, &cos, &sin, &planes];
        // SAFETY: as the operation's tensors.
        unsafe { kernels.rotate(f32::DTYPE, &rotation, true, from, to, c, s, p) }?;
        close("kernel", &y.read()?, &expected);
    }
    Ok(())
}

#[test]
fn what_does_not_fit_is_refused() -> Result<()> {
    let gpu = Gpu::emulated(Options::default());
    let odd = token_major(2, 1, 6, 2, 0);
    let x = elements::<f32>(odd.len, 1);
    assert!(matches!(odd.run(&gpu, true, &x, None), Err(Error::Launch { what: "sizes", .. })));
    let wide = Case { rotation: Rotation { pairs: 4, ..odd.rotation }, ..odd };
    assert!(matches!(wide.run(&gpu, false, &x, None), Err(Error::Launch { what: "pairs", .. })));
    let none = token_major(0, 1, 6, 2, 0);
    assert!(none.run::<f32>(&gpu, false, &[], None)?.is_empty());
    Ok(())
}
