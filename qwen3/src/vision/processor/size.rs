//! Which size an image or video is resampled to.

use super::PixelBounds;
use crate::error::{Error, Result};

/// Longer side over shorter side, at most.
const MAX_RATIO: f64 = 200.0;

/// Python's `round(x / factor) * factor`: halves go to the even multiple, so 720 rows become 704 under 32, not 736.
fn nearest(x: usize, factor: usize) -> usize {
    (x as f64 / factor as f64).round_ties_even() as usize * factor
}

fn check(item: &str, height: usize, width: usize) -> Result<()> {
    if height == 0 || width == 0 {
        return Err(Error::visual(item, format!("is {height} by {width} pixels")));
    }
    let ratio = height.max(width) as f64 / height.min(width) as f64;
    if ratio > MAX_RATIO {
        let reason = format!(
            "{height} by {width} pixels: the sides' ratio is {ratio}, at most {MAX_RATIO} is allowed"
        );
        return Err(Error::visual(item, reason));
    }
    Ok(())
}

/// Both sides scaled down by `by`, to multiples of `factor` below; or up, to multiples above.
fn shrink(side: usize, by: f64, factor: usize) -> usize {
    ((side as f64 / by / factor as f64).floor() as usize * factor).max(factor)
}

fn grow(side: usize, by: f64, factor: usize) -> usize {
    (side as f64 * by / factor as f64).ceil() as usize * factor
}

/// The size of an image of `height` by `width` pixels: multiples of `factor`, about the same shape, its pixels about
/// within `bounds` (transformers' `smart_resize`, which keeps neither bound exactly).
pub fn image_size(height: usize, width: usize, factor: usize, bounds: PixelBounds) -> Result<(usize, usize)> {
    check("image", height, width)?;
    let (h, w) = (nearest(height, factor), nearest(width, factor));
    let area = (height * width) as f64;
    Ok(if h * w > bounds.most {
        let by = (area / bounds.most as f64).sqrt();
        (shrink(height, by, factor), shrink(width, by, factor))
    } else if h * w < bounds.least {
        let by = (bounds.least as f64 / area).sqrt();
        (grow(height, by, factor), grow(width, by, factor))
    } else {
        (h, w)
    })
}

/// The size of the frames of a video of `frames` frames: as [`image_size`], with bounds over the pixels of all frames,
/// whose number is rounded to a multiple of `temporal`. Frames smaller than `factor` are enlarged first
/// (transformers 4 refuses them).
pub fn video_size(
    frames: usize,
    (height, width): (usize, usize),
    temporal: usize,
    factor: usize,
    bounds: PixelBounds,
) -> Result<(usize, usize)> {
    if frames < temporal {
        return Err(Error::visual("video", format!("has {frames} frames, expected at least {temporal}")));
    }
    if height == 0 || width == 0 {
        return Err(Error::visual("video", format!("has frames of {height} by {width} pixels")));
    }
    let (mut height, mut width) = (height, width);
    if height < factor || width < factor {
        let by = (factor as f64 / height as f64).max(factor as f64 / width as f64);
        (height, width) = ((height as f64 * by) as usize, (width as f64 * by) as usize);
    }
    check("video", height, width)?;
    let (h, w, t) = (nearest(height, factor), nearest(width, factor), nearest(frames, temporal));
    let volume = (frames * height * width) as f64;
    Ok(if t * h * w > bounds.most {
        let by = (volume / bounds.most as f64).sqrt();
        (shrink(height, by, factor), shrink(width, by, factor))
    } else if t * h * w < bounds.least {
        let by = (bounds.least as f64 / volume).sqrt();
        (grow(height, by, factor), grow(width, by, factor))
    } else {
        (h, w)
    })
}

/// The size of a video's frames, each with bounds of its own: at least 128 tokens, at most 768 and no more than twice
/// its share of `most` pixels (`fetch_video` of qwen-vl-utils 0.0.14, which scripts for fine-tuning use).
pub fn frame_size(
    frames: usize,
    (height, width): (usize, usize),
    temporal: usize,
    factor: usize,
    most: usize,
) -> Result<(usize, usize)> {
    if frames < temporal {
        return Err(Error::visual("video", format!("has {frames} frames, expected at least {temporal}")));
    }
    check("video", height, width)?;
    let least = 128 * factor * factor;
    let share = most as f64 / frames as f64 * 2.0;
    let most = share.min((768 * factor * factor) as f64).max((least as f64 * 1.05).floor());
    let (h, w) = (nearest(height, factor).max(factor), nearest(width, factor).max(factor));
    let area = (height * width) as f64;
    let floor = |side: usize, by: f64| (side as f64 / by / factor as f64).floor() as usize * factor;
    let (h, w) = if (h * w) as f64 > most {
        let by = (area / most).sqrt();
        (floor(height, by), floor(width, by))
    } else if h * w < least {
        let by = (least as f64 / area).sqrt();
        (grow(height, by, factor), grow(width, by, factor))
    } else {
        (h, w)
    };
    if h == 0 || w == 0 {
        let reason =
            format!("frames of {height} by {width} pixels shrink to {h} by {w} within {most} pixels");
        return Err(Error::visual("video", reason));
    }
    Ok((h, w))
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: PixelBounds = PixelBounds { least: 65_536, most: 16_777_216 };
    const VIDEO: PixelBounds = PixelBounds { least: 4_096, most: 25_165_824 };

    /// The worked sizes, with bounds of the released checkpoints.
    #[test]
    fn image_sizes() {
        for (from, to) in [
            ((37, 80), (192, 384)),
            ((48, 48), (256, 256)),
            ((48, 80), (224, 352)),
            ((80, 80), (256, 256)),
            ((112, 144), (256, 320)),
            ((336, 400), (320, 384)),
            ((480, 640), (480, 640)),
            ((720, 1280), (704, 1280)),
            ((1080, 1920), (1088, 1920)),
            ((2160, 3840), (2176, 3840)),
            ((4096, 4096), (4096, 4096)),
            ((5000, 3000), (4992, 3008)),
            ((16, 3000), (32, 3520)),
            ((16, 3200), (32, 3648)),
            ((1, 200), (32, 3648)),
        ] {
            assert_eq!(image_size(from.0, from.1, 32, IMAGE).unwrap(), to, "{from:?}");
        }
        for (from, reason) in [((16, 3201), "ratio is 200.0625"), ((0, 5), "is 0 by 5 pixels")] {
            let error = image_size(from.0, from.1, 32, IMAGE).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn video_sizes() {
        let size = |frames, size| video_size(frames, size, 2, 32, VIDEO);
        for (frames, from, to) in [
            (8, (360, 640), (352, 640)),
            (16, (720, 1280), (704, 1280)),
            (5, (480, 640), (480, 640)),
            (768, (720, 1280), (128, 224)),
            // transformers 5.24: odd numbers of frames, whose volume is theirs though they are counted in pairs …
            (13, (1080, 1920), (1088, 1920)),
            (15, (1080, 1920), (960, 1696)),
            (21, (1000, 1400), (896, 1280)),
            // … and frames that are enlarged first.
            (4, (8, 16), (32, 64)),
            (3, (8, 90), (32, 352)),
            (2, (33, 20), (64, 32)),
        ] {
            assert_eq!(size(frames, from).unwrap(), to, "{frames} frames of {from:?}");
        }
        for (frames, from, reason) in [
            (0, (64, 64), "has 0 frames, expected at least 2"),
            (1, (64, 64), "has 1 frames, expected at least 2"),
            (2, (64, 0), "frames of 64 by 0 pixels"),
            (2, (1, 300), "ratio is 300"),
        ] {
            let error = size(frames, from).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    /// What qwen-vl-utils gives.
    #[test]
    fn frame_sizes() {
        let size = |frames, size| frame_size(frames, size, 2, 32, 25_165_824);
        for (frames, from, to) in [
            (4, (720, 1280), (640, 1152)),
            (8, (360, 640), (352, 640)),
            (300, (480, 640), (352, 448)),
            (768, (720, 1280), (256, 480)),
            (16, (64, 48), (448, 320)),
            (8, (16, 1500), (64, 3520)),
            (4, (200, 200), (384, 384)),
            (2, (50, 10_000), (64, 9984)),
        ] {
            assert_eq!(size(frames, from).unwrap(), to, "{frames} frames of {from:?}");
        }
        // … where a side vanishes, it gives no size.
        let error = size(768, (30, 6000)).unwrap_err().to_string();
        assert!(error.contains("frames of 30 by 6000 pixels shrink to 0 by 5216"), "{error}");
        assert!(size(1, (64, 64)).is_err() && size(2, (0, 64)).is_err());
    }
}
