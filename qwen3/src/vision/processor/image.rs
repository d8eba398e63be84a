//! Pixels, and their resampling exactly as Pillow does it.

use rayon::prelude::*;

use crate::error::{Error, Result};

/// An image of 8-bit red, green and blue: `[height, width, 3]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    height: usize,
    width: usize,
    rgb: Vec<u8>,
}

impl Image {
    /// From rows of interleaved red, green and blue: `height · width · 3` bytes. What to do with transparency is the
    /// caller's choice (transformers drops it).
    pub fn from_rgb(height: usize, width: usize, rgb: Vec<u8>) -> Result<Self> {
        let expected = height.checked_mul(width).and_then(|n| n.checked_mul(3));
        if height == 0 || width == 0 || expected != Some(rgb.len()) {
            let reason = format!("{} bytes do not make {height} by {width} pixels of 3 bytes", rgb.len());
            return Err(Error::visual("image", reason));
        }
        Ok(Self { height, width, rgb })
    }

    /// From rows of grey: `height · width` bytes.
    pub fn from_grey(height: usize, width: usize, grey: &[u8]) -> Result<Self> {
        Self::from_rgb(height, width, grey.iter().flat_map(|v| [*v; 3]).collect())
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The bytes, `[height, width, 3]`.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// Resamples to `height` by `width`: bicubic with `a = -0.5`, wider by the factor when shrinking; columns first, the
    /// result rounded to bytes, then rows.
    ///
    /// In the arithmetic of Pillow's `Image.resize(.., BICUBIC)` (weights in 22-bit fixed point), byte for byte up to
    /// Pillow 12. (Pillow 13 resamples rows first where that is cheaper; torchvision, which transformers uses, does not.)
    pub fn resize(&self, height: usize, width: usize) -> Result<Self> {
        if height == 0 || width == 0 {
            return Err(Error::visual("image", format!("cannot be resized to {height} by {width} pixels")));
        }
        let mut rgb = self.rgb.clone();
        if width != self.width {
            let taps = taps(self.width, width);
            rgb = rgb.par_chunks(self.width * 3).flat_map_iter(|row| across(row, &taps)).collect();
        }
        if height != self.height {
            let taps = taps(self.height, height);
            rgb = taps.par_iter().flat_map_iter(|tap| down(&rgb, width * 3, tap)).collect();
        }
        Ok(Self { height, width, rgb })
    }
}

/// The pixels that make one of the output: the first, and a weight each.
struct Tap {
    first: usize,
    weights: Vec<i32>,
}

/// Bits behind the point of a weight, so that a sum of bytes fits 32 bits with a sign and one bit to spare.
const PRECISION: u32 = 32 - 8 - 2;

fn taps(from: usize, to: usize) -> Vec<Tap> {
    let scale = from as f64 / to as f64;
    let wide = scale.max(1.0);
    let support = 2.0 * wide;
    let of = |i: usize| {
        let center = (i as f64 + 0.5) * scale;
        // A conversion truncates, and makes 0 of negative numbers.
        let first = (center - support + 0.5) as usize;
        let last = ((center + support + 0.5) as usize).min(from);
        let exact: Vec<f64> =
            (first..last).map(|k| cubic((k as f64 - center + 0.5) * (1.0 / wide))).collect();
        let sum: f64 = exact.iter().sum();
        let fixed = |w: &f64| {
            let scaled = w / sum * f64::from(1 << PRECISION);
            (if scaled < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32
        };
        Tap { first, weights: exact.iter().map(fixed).collect() }
    };
    (0..to).map(of).collect()
}

/// Keys' cubic with `a = -0.5`.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    match x.abs() {
        x if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
        x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
        _ => 0.0,
    }
}

fn round(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

const HALF: i32 = 1 << (PRECISION - 1);

fn across<'a>(row: &'a [u8], taps: &'a [Tap]) -> impl Iterator<Item = u8> + 'a {
    taps.iter().flat_map(move |tap| {
        let mut sums = [HALF; 3];
        for (pixel, w) in row[tap.first * 3..].chunks_exact(3).zip(&tap.weights) {
            for (sum, byte) in sums.iter_mut().zip(pixel) {
                *sum += i32::from(*byte) * w;
            }
        }
        sums.map(round)
    })
}

fn down(rgb: &[u8], stride: usize, tap: &Tap) -> Vec<u8> {
    let mut sums = vec![HALF; stride];
    for (row, w) in rgb[tap.first * stride..].chunks_exact(stride).zip(&tap.weights) {
        for (sum, byte) in sums.iter_mut().zip(row) {
            *sum += i32::from(*byte) * w;
        }
    }
    sums.into_iter().map(round).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The worked numbers: `(37y + 11x²) mod 256`, 6 by 7.
    #[test]
    fn resampling_is_pillows() {
        let grey: Vec<u8> = (0..42).map(|i| ((37 * (i / 7) + 11 * (i % 7) * (i % 7)) % 256) as u8).collect();
        let image = Image::from_grey(6, 7, &grey).unwrap();
        let red = |image: Image| image.rgb.iter().step_by(3).copied().collect::<Vec<u8>>();
        #[rustfmt::skip]
        let small = [
            13, 66, 139, 98,
            65, 118, 183, 156,
            123, 184, 119, 155,
            183, 180, 115, 113,
        ];
        assert_eq!(red(image.resize(4, 4).unwrap()), small);
        let large = red(image.resize(8, 10).unwrap());
        assert_eq!(large[..10], [0, 2, 15, 40, 75, 132, 171, 42, 63, 145]);
        assert_eq!(large[70..], [186, 191, 210, 235, 79, 26, 112, 197, 149, 63]);
        assert_eq!(image.resize(6, 7).unwrap(), image);
    }

    #[test]
    fn bytes_that_make_no_image_are_refused() {
        for (height, width, bytes) in [(2, 2, 11), (0, 2, 0), (usize::MAX, 2, 6)] {
            let error = Image::from_rgb(height, width, vec![0; bytes]).unwrap_err().to_string();
            assert!(error.contains(&format!("{bytes} bytes do not make {height} by {width}")), "{error}");
        }
        assert!(Image::from_grey(1, 1, &[0]).unwrap().resize(0, 1).is_err());
    }
}
