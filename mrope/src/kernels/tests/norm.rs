//! Definition and kernels agree on norm and rotation in one pass, forward and backward.

use cuda_twin::{Error, Gpu, Options, Result, args, devices};
use half::{bf16, f16};

use super::{Element, close, elements, noise};
use crate::kernels::{NormKernels, NormShape};

struct Case<T> {
    shape: NormShape,
    x: Vec<T>,
    dy: Vec<T>,
    q: Vec<f32>,
    k: Vec<f32>,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

struct Found<T> {
    y: Vec<T>,
    dx: Vec<T>,
    dq: Vec<f32>,
    dk: Vec<f32>,
}

fn case<T: Element>(shape: NormShape, seed: u64) -> Case<T> {
    let len = shape.tokens * (shape.query + 2 * shape.kv) * shape.head_dim;
    let angles = noise(shape.tokens * shape.pairs, seed + 1);
    let (cos, sin) = angles.iter().map(|a| ((9.0 * a).cos() as f32, (9.0 * a).sin() as f32)).unzip();
    let weight = |seed| noise(shape.head_dim, seed).iter().map(|w| (1.0 + 0.5 * w) as f32).collect();
    Case {
        shape,
        x: elements(len, seed + 2),
        dy: elements(len, seed + 3),
        q: weight(seed + 4),
        k: weight(seed + 5),
        cos,
        sin,
    }
}

impl<T: Element> Case<T> {
    fn run(&self, gpu: &Gpu) -> Result<Found<T>> {
        let (kernels, s) = (NormKernels::new(gpu)?, &self.shape);
        let (x, dy) = (gpu.upload(&self.x)?, gpu.upload(&self.dy)?);
        let (q, k) = (gpu.upload(&self.q)?, gpu.upload(&self.k)?);
        let (cos, sin) = (gpu.upload(&self.cos)?, gpu.upload(&self.sin)?);
        let (y_buf, dx_buf) = (gpu.uninit::<T>(self.x.len())?, gpu.uninit::<T>(self.x.len())?);
        let rstd = gpu.uninit::<f32>(s.tokens * (s.query + s.kv))?;
        let partial = gpu.uninit::<f32>(s.partial_len())?;
        let (dq, dk) = (gpu.uninit::<f32>(s.head_dim)?, gpu.uninit::<f32>(s.head_dim)?);
        let [x, y, dy, dx, q, k, c, n, r] = args![&x, &y_buf, &dy, &dx_buf, &q, &k, &cos, &sin, &rstd];
        let (weights, angles) = ((q, k), (c, n));
        // SAFETY: the buffers have the sizes of `shape`.
        unsafe {
            kernels.forward(T::DTYPE, s, x.clone(), y, weights.clone(), angles.clone(), r.clone())?;
            let sums = ((&dq).into(), (&dk).into());
            kernels.backward(T::DTYPE, s, (x, dy, dx), weights, angles, r, (&partial).into(), sums)?;
        }
        Ok(Found { y: y_buf.read()?, dx: dx_buf.read()?, dq: dq.read()?, dk: dk.read()? })
    }

    fn weight(&self, head: usize) -> Option<Vec<f64>> {
        let wide = |w: &[f32]| w.iter().map(|w| f64::from(*w)).collect();
        match head {
            h if h < self.shape.query => Some(wide(&self.q)),
            h if h < self.shape.query + self.shape.kv => Some(wide(&self.k)),
            _ => None,
        }
    }

    /// One head by the definition.
    fn head(&self, token: usize, x: &[f64], weight: &[f64]) -> Vec<f64> {
        let NormShape { pairs, head_dim, eps, .. } = self.shape;
        let mean = x.iter().map(|x| x * x).sum::<f64>() / head_dim as f64;
        let mut z: Vec<f64> =
            x.iter().zip(weight).map(|(x, w)| w * x / (mean + f64::from(eps)).sqrt()).collect();
        for i in 0..pairs {
            let (c, s) = (f64::from(self.cos[token * pairs + i]), f64::from(self.sin[token * pairs + i]));
            (z[i], z[i + pairs]) = (z[i] * c - z[i + pairs] * s, z[i + pairs] * c + z[i] * s);
        }
        z
    }

    /// Forward by the definition, gradients by its differences.
    fn check(&self, who: &str, found: &Found<T>) {
        let (d, heads) = (self.shape.head_dim, self.shape.query + 2 * self.shape.kv);
        let (mut y, mut dx) = (Vec::new(), Vec::new());
        let mut dw = [vec![0.0; d], vec![0.0; d]];
        let h = 1e-5;
        for (row, (x, dy)) in self.x.chunks(d).zip(self.dy.chunks(d)).enumerate() {
            let (token, head) = (row / heads, row % heads);
            let wide = |v: &[T]| v.iter().map(|v| v.wide()).collect::<Vec<f64>>();
            let (mut x, dy) = (wide(x), wide(dy));
            let Some(mut w) = self.weight(head) else {
                y.extend(x);
                dx.extend(dy);
                continue;
            };
            let loss = |x: &[f64], w: &[f64]| -> f64 {
                self.head(token, x, w).iter().zip(&dy).map(|(y, dy)| y * dy).sum()
            };
            y.extend(self.head(token, &x, &w));
            for i in 0..d {
                let at = x[i];
                let side = |x: &mut [f64], to: f64| {
                    x[i] = to;
                    loss(x, &w)
                };
                dx.push((side(&mut x, at + h) - side(&mut x, at - h)) / (2.0 * h));
                x[i] = at;
                let at = w[i];
                let side = |w: &mut [f64], to: f64| {
                    w[i] = to;
                    loss(&x, w)
                };
                let slope = (side(&mut w, at + h) - side(&mut w, at - h)) / (2.0 * h);
                dw[usize::from(head >= self.shape.query)][i] += slope;
                w[i] = at;
            }
        }
        close(&format!("{who}: y"), &found.y, &y);
        close(&format!("{who}: dx"), &found.dx, &dx);
        for (name, found, expected) in [("dq", &found.dq, &dw[0]), ("dk", &found.dk, &dw[1])] {
            for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
                let size = 1e-6 * (self.shape.tokens as f64).max(10.0);
                let off = (f64::from(*found) - expected).abs();
                assert!(off <= size, "{who}: {name}[{i}]: {found}, expected {expected}");
            }
        }
    }
}

fn shapes() -> [NormShape; 6] {
    let shape =
        |tokens, query, kv, head_dim, pairs| NormShape { tokens, query, kv, head_dim, pairs, eps: 1e-3 };
    [
        shape(1, 1, 1, 2, 1),
        shape(3, 2, 1, 6, 2),
        shape(2, 3, 1, 1, 0),
        shape(NormShape::CHUNK + 3, 2, 1, 16, 8),
        shape(2, 1, 1, 80, 40),
        shape(2, 1, 0, 256, 128),
    ]
}

fn agree<T: Element>() -> Result<()> {
    for (index, shape) in shapes().into_iter().enumerate() {
        let case = case::<T>(shape, 10 * index as u64);
        let mut seen: Option<Vec<u32>> = None;
        for gpu in devices()?.iter().chain([&Gpu::emulated(Options::unchecked())]) {
            let found = case.run(gpu)?;
            case.check(&format!("{shape:?}"), &found);
            if gpu.emulation().is_some() {
                let bits: Vec<u32> = found.dq.iter().chain(&found.dk).map(|v| v.to_bits()).collect();
                assert_eq!(*seen.get_or_insert(bits.clone()), bits, "bits depend on the order");
            }
        }
    }
    Ok(())
}

#[test]
fn f32_heads_agree() -> Result<()> {
    agree::<f32>()
}

#[test]
fn bf16_heads_agree() -> Result<()> {
    agree::<bf16>()
}

#[test]
fn f16_heads_agree() -> Result<()> {
    agree::<f16>()
}

#[test]
fn a_token_does_not_know_its_neighbours() -> Result<()> {
    let shape = NormShape { tokens: 5, query: 2, kv: 1, head_dim: 16, pairs: 8, eps: 1e-6 };
    let all = case::<f32>(shape, 4);
    let (row, pairs) = (4 * 16, shape.pairs);
    for gpu in devices()? {
        let found = all.run(&gpu)?;
        for t in 0..shape.tokens {
            let alone = Case {
                shape: NormShape { tokens: 1, ..shape },
                x: all.x[t * row..][..row].to_vec(),
                dy: all.dy[t * row..][..row].to_vec(),
                q: all.q.clone(),
                k: all.k.clone(),
                cos: all.cos[t * pairs..][..pairs].to_vec(),
                sin: all.sin[t * pairs..][..pairs].to_vec(),
            };
            let alone = alone.run(&gpu)?;
            assert_eq!(alone.y, found.y[t * row..][..row]);
            assert_eq!(alone.dx, found.dx[t * row..][..row]);
        }
    }
    Ok(())
}

#[test]
fn what_does_not_fit_is_refused() {
    let gpu = Gpu::emulated(Options::default());
    let wide = NormShape { tokens: 1, query: 1, kv: 0, head_dim: 130, pairs: 1, eps: 1e-6 };
    for shape in [wide, NormShape { head_dim: 4, pairs: 3, ..wide }] {
        let refused = case::<f32>(shape, 1).run(&gpu);
        assert!(matches!(refused, Err(Error::Launch { what: "lanes of a head", .. })));
    }
    let none = NormShape { tokens: 0, head_dim: 4, ..wide };
    let found = case::<f32>(none, 1).run(&gpu).unwrap();
    assert_eq!((found.y, found.dq), (vec![], vec![0.0; 4]));
}
