//! The number formats and functions of the header against definitions that are not ours, on every device.

use cuda_twin::{Gpu, Launch, Options, Result, args, capture_printf, devices};
use half::{bf16, f16};

const TYPES: &str = include_str!("kernels/types.cu");

fn all_devices() -> Result<Vec<Gpu>> {
    Ok(devices()?.into_iter().chain([Gpu::emulated(Options::unchecked())]).collect())
}

/// Values of every exponent, around every kind of tie, and the special ones.
fn floats() -> Vec<f32> {
    let mut values = vec![
        0.0,
        -0.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        f32::MAX,
        f32::MIN_POSITIVE,
        65519.9,
        65520.0,
    ];
    values.extend([448.0, 464.0, 464.1, 57344.0, 61440.0, 61441.0, -1e30]);
    for exponent in 80..=150u32 {
        for mantissa in [
            0, 1, 0x1000, 0x2000, 0x3000, 0x8000, 0x1_8000, 0x18_0000, 0x28_0000, 0x7f_ffff, 0x10_0000,
            0x30_0001,
        ] {
            let value = f32::from_bits(exponent << 23 | mantissa);
            values.extend([value, -value]);
        }
    }
    values
}

/// The 8-bit float that is nearest to `x` by search over all codes; ties go to the even code; saturating.
fn nearest_fp8(x: f32, value: impl Fn(u8) -> f64, largest: u8) -> u8 {
    if x.is_nan() {
        return 0x7f;
    }
    let sign = if x.is_sign_negative() { 0x80 } else { 0 };
    let distance = |c: &u8| (value(*c) - f64::from(x.abs().min(1e6))).abs();
    let best = (0..=largest).min_by(|a, b| distance(a).total_cmp(&distance(b)).then((a & 1).cmp(&(b & 1))));
    sign | best.unwrap_or(0)
}

/// OCP OFP8, tables 1 and 2: `bits` of mantissa.
fn fp8(code: u8, mantissa_bits: u32, bias: i32) -> f64 {
    let (exponent, mantissa) =
        (i32::from(code & 0x7f) >> mantissa_bits, f64::from(code & ((1 << mantissa_bits) - 1)));
    let scale = f64::from(1 << mantissa_bits);
    if exponent == 0 {
        mantissa / scale * 2f64.powi(1 - bias)
    } else {
        (1.0 + mantissa / scale) * 2f64.powi(exponent - bias)
    }
}

#[test]
fn narrow_formats_round_to_nearest_even() -> Result<()> {
    let x = floats();
    let n = x.len();
    for gpu in all_devices()? {
        let module = gpu.compile("types.cu", TYPES)?;
        let (h, b) = (gpu.uninit::<f16>(n)?, gpu.uninit::<bf16>(n)?);
        let (e4m3, e5m2) = (gpu.uninit::<u8>(n)?, gpu.uninit::<u8>(n)?);
        let launch = Launch::linear(n.div_ceil(64) as u32, 64);
        // SAFETY: n elements each.
        unsafe { module.launch("narrow", launch, &args![&gpu.upload(&x)?, &h, &b, &e4m3, &e5m2, n as i32]) }?;
        let (h, b, e4m3, e5m2) = (h.read()?, b.read()?, e4m3.read()?, e5m2.read()?);
        for (i, x) in x.iter().copied().enumerate() {
            let nan = x.is_nan();
            assert!(
                nan && h[i].is_nan() || h[i].to_bits() == f16::from_f32(x).to_bits(),
                "{x:e} as half: {}",
                h[i]
            );
            assert!(
                nan && b[i].is_nan() || b[i].to_bits() == bf16::from_f32(x).to_bits(),
                "{x:e} as bfloat16: {}",
                b[i]
            );
            assert_eq!(e4m3[i], nearest_fp8(x, |c| fp8(c, 3, 7), 0x7e), "{x:e} as e4m3");
            assert_eq!(e5m2[i], nearest_fp8(x, |c| fp8(c, 2, 15), 0x7b), "{x:e} as e5m2");
        }
    }
    Ok(())
}

#[test]
fn every_code_of_the_narrow_formats_widens_exactly() -> Result<()> {
    let x: Vec<u16> = (0..=u16::MAX).collect();
    let n = x.len();
    for gpu in [Gpu::emulated(Options::default()), Gpu::emulated(Options::unchecked())] {
        let module = gpu.compile("types.cu", TYPES)?;
        let y: Vec<_> = (0..4).map(|_| gpu.uninit::<f32>(n)).collect::<Result<_>>()?;
        let launch = Launch::linear(n as u32 / 256, 256);
        // SAFETY: n elements each.
        unsafe {
            module.launch("widen", launch, &args![&gpu.upload(&x)?, &y[0], &y[1], &y[2], &y[3], n as i32])
        }?;
        let [h, b, e4m3, e5m2] = [y[0].read()?, y[1].read()?, y[2].read()?, y[3].read()?];
        for bits in x.iter().copied() {
            let i = usize::from(bits);
            let same = |found: f32, expected: f32| {
                found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan()
            };
            assert!(same(h[i], f16::from_bits(bits).to_f32()), "half {bits:#x}: {}", h[i]);
            assert!(same(b[i], bf16::from_bits(bits).to_f32()), "bfloat16 {bits:#x}: {}", b[i]);
            let code = bits as u8;
            let sign = if code & 0x80 == 0 { 1.0 } else { -1.0 };
            let small = if code & 0x7f == 0x7f { f64::NAN } else { fp8(code, 3, 7) };
            let wide = match code & 0x7f {
                0x7c => f64::INFINITY,
                0x7d..=0x7f => f64::NAN,
                _ => fp8(code, 2, 15),
            };
            assert!(same(e4m3[i], (sign * small) as f32), "e4m3 {code:#x}: {}", e4m3[i]);
            assert!(same(e5m2[i], (sign * wide) as f32), "e5m2 {code:#x}: {}", e5m2[i]);
        }
    }
    Ok(())
}

#[test]
fn pairs_and_vectors() -> Result<()> {
    for gpu in all_devices()? {
        let module = gpu.compile("types.cu", TYPES)?;
        let (x, y) = (gpu.upload(&[1.5f32, -2.0, 3.0, 0.25])?, gpu.uninit::<f32>(8)?);
        // SAFETY: four inputs, eight outputs.
        unsafe { module.launch("pairs", Launch::linear(1, 1), &args![&x, &y]) }?;
        // Small numbers that every format holds exactly: 1.5 * 3 + 4.5, -2 * 3 + 1, max(4.5, -1.5), max(-6, -5), 1.5 - 2, ...
        let expected = [9.0, -5.0, 4.5, -5.0, -0.5, 4.5 + 4.5 + 4.5 + 0.5 + 2.0, 2.75, 4.0 + 3.0 + 2.0 + 1.0];
        assert_eq!(y.read()?, expected);
    }
    Ok(())
}

#[test]
fn bit_functions() -> Result<()> {
    let (a, b) = (0x0012_3450_i32, -0x0123_4568_i32);
    let (u, v) = (a as u32, b as u32);
    let long = u64::from(v) << 32 | u64::from(u);
    let bytes = |x: u32| x.to_le_bytes().map(|b| i32::from(b as i8));
    let expected = [
        u.count_ones() as i32,
        20,
        u.leading_zeros() as i32,
        32,
        63,
        1 + u.trailing_zeros() as i32,
        0,
        u.reverse_bits() as i32,
        i32::from_le_bytes([1, 3, 5, 7].map(|i| long.to_le_bytes()[i])),
        (long << 8 >> 32) as i32,
        (long >> 8) as i32,
        ((i64::from(a) * i64::from(b)) >> 32) as i32,
        ((u64::from(u) * u64::from(v)) >> 32) as i32,
        10 + bytes(u).iter().zip(bytes(v)).map(|(x, y)| x * y).sum::<i32>(),
        b,
        v as i32,
        0.25f32.to_bits() as i32,
        2,
        -2,
        i32::MAX,
        0,
        a,
        2.0f32.to_bits() as i32,
        1.0f32.to_bits() as i32,
        1.0f32.to_bits() as i32,
        1,
        4,
    ];
    for gpu in all_devices()? {
        let module = gpu.compile("types.cu", TYPES)?;
        let (x, y) = (gpu.upload(&[a, b])?, gpu.uninit::<i32>(expected.len())?);
        // SAFETY: two inputs, as many outputs as the kernel has.
        unsafe { module.launch("bits", Launch::linear(1, 1), &args![&x, &y]) }?;
        assert_eq!(y.read()?, expected);
    }
    Ok(())
}

#[test]
fn warp_operations() -> Result<()> {
    for gpu in all_devices()? {
        let module = gpu.compile("types.cu", TYPES)?;
        let y = gpu.uninit::<i32>(96)?;
        // SAFETY: 96 outputs.
        unsafe { module.launch("warps", Launch::linear(1, 32), &args![&y]) }?;
        let y = y.read()?;
        for t in 0..32i32 {
            let (up, down) = (if t < 3 { t } else { t - 3 }, if t % 16 + 5 > 15 { t } else { t + 5 });
            assert_eq!(y[t as usize], up + 100 * down + 10_000 * (t ^ 9), "lane {t}");
            assert_eq!(y[32 + t as usize], t / 8 * 8 + 2 + 100 * 31 + 10_000 + 40_000 * (t ^ 1), "lane {t}");
            assert_eq!(y[64 + t as usize], 496 - 9000 + 15, "lane {t}");
        }
    }
    Ok(())
}

#[test]
fn atomic_operations() -> Result<()> {
    for gpu in all_devices()? {
        let module = gpu.compile("types.cu", TYPES)?;
        let (i, u, l) = (gpu.zeros::<i32>(5)?, gpu.upload(&[u32::MAX, 0, 0, 0, 0, 0])?, gpu.zeros::<u64>(2)?);
        let (f, d) = (gpu.zeros::<f32>(1)?, gpu.zeros::<f64>(1)?);
        let (h, b) = (gpu.zeros::<f16>(2)?, gpu.zeros::<bf16>(1)?);
        // SAFETY: as many elements as the kernel accesses; the pair of halves is aligned.
        unsafe { module.launch("atomics", Launch::linear(1, 32), &args![&i, &u, &l, &f, &d, &h, &b]) }?;
        assert_eq!(i.read()?, [32, -64, 31, -31, 7]);
        // 32 steps through 0..=9 upwards, and downwards from 0.
        assert_eq!(u.read()?, [0, u32::MAX, 0, 2, 8, 99]);
        assert_eq!(l.read()?, [32 << 33, 31]);
        assert_eq!((f.read()?, d.read()?), (vec![16.0], vec![8.0]));
        assert_eq!(
            (h.read()?, b.read()?),
            (vec![f16::from_f32(32.0), f16::from_f32(64.0)], vec![bf16::from_f32(32.0)])
        );
    }
    Ok(())
}

#[test]
fn words() -> Result<()> {
    for gpu in [Gpu::emulated(Options::default()), Gpu::emulated(Options::unchecked())] {
        let module = gpu.compile("types.cu", TYPES)?;
        // SAFETY: no memory.
        let launch =
            |n: i32| capture_printf(|| unsafe { module.launch("words", Launch::linear(1, 1), &args![n]) });
        assert_eq!(launch(3), (Ok(()), "n is 3\n".to_string()));
        assert!(launch(0).0.is_err());
    }
    Ok(())
}
