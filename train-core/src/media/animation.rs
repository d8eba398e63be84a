//! GIF, animated WebP and APNG.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use image::codecs::{gif::GifDecoder, png::PngDecoder, webp::WebPDecoder};
use image::{AnimationDecoder, Frame, Frames as Decoded, ImageDecoder, ImageError, ImageFormat};
use qwen3::vision::processor::{Image, Processor, Video};

use super::image::limits;
use super::video::Frames;
use super::{MediaError, check_size};

type Reader = BufReader<File>;

fn open(path: &Path) -> Result<Reader, MediaError> {
    File::open(path).map(BufReader::new).map_err(|e| MediaError::io(path, e))
}

/// The bytes that formats are told by.
pub(super) fn head(path: &Path) -> Result<Vec<u8>, MediaError> {
    let mut head = Vec::new();
    open(path)?.take(64).read_to_end(&mut head).map_err(|e| MediaError::io(path, e))?;
    Ok(head)
}

/// Whether a file has frames: every GIF, some WebP and PNG files.
pub(super) fn is_animated(path: &Path, format: ImageFormat) -> Result<bool, MediaError> {
    let bad = |e: ImageError| MediaError::decode(path, e);
    Ok(match format {
        ImageFormat::Gif => true,
        ImageFormat::WebP => WebPDecoder::new(open(path)?).map_err(bad)?.has_animation(),
        ImageFormat::Png => PngDecoder::new(open(path)?).map_err(bad)?.is_apng().map_err(bad)?,
        _ => false,
    })
}

/// All frames, one after the other, each whole.
fn frames(path: &Path, format: ImageFormat) -> Result<Decoded<'static>, MediaError> {
    let bad = |e: ImageError| MediaError::decode(path, e);
    let reader = open(path)?;
    let check = |decoder: &dyn ImageDecoder| {
        let (width, height) = decoder.dimensions();
        check_size(path, width.into(), height.into())
    };
    Ok(match format {
        ImageFormat::Gif => {
            let mut decoder = GifDecoder::new(reader).map_err(bad)?;
            check(&decoder)?;
            decoder.set_limits(limits()).map_err(bad)?;
            decoder.into_frames()
        }
        ImageFormat::WebP => {
            let mut decoder = WebPDecoder::new(reader).map_err(bad)?;
            check(&decoder)?;
            decoder.set_limits(limits()).map_err(bad)?;
            decoder.into_frames()
        }
        _ => {
            let decoder = PngDecoder::with_limits(reader, limits()).map_err(bad)?;
            check(&decoder)?;
            decoder.apng().map_err(bad)?.into_frames()
        }
    })
}

/// Milliseconds that a frame is shown. Fewer than 20 are 100: so browsers and ffmpeg read such files.
fn milliseconds(frame: &Frame) -> f64 {
    let (numerator, denominator) = frame.delay().numer_denom_ms();
    let milliseconds = f64::from(numerator) / f64::from(denominator.max(1));
    if milliseconds < 20.0 { 100.0 } else { milliseconds }
}

/// Reads an animation twice, first to count: its rate is its number of frames over the time they take.
pub(super) fn read(path: &Path, format: ImageFormat, processor: &Processor) -> Result<Video, MediaError> {
    let bad = |e: ImageError| MediaError::decode(path, e);
    let (mut total, mut length) = (0, 0.0);
    for frame in frames(path, format)? {
        length += milliseconds(&frame.map_err(bad)?);
        total += 1;
    }
    let fps = (total > 0).then(|| total as f64 * 1000.0 / length);
    let indices = processor.frame_rate.sample(total, fps).map_err(|e| MediaError::processor(path, e))?;
    let mut taken = Frames::new(path, processor, indices, fps);
    for (number, frame) in frames(path, format)?.enumerate() {
        let Some(next) = taken.next() else { break };
        let frame = frame.map_err(bad)?.into_buffer();
        if number == next {
            let (height, width) = (frame.height() as usize, frame.width() as usize);
            let rgb = frame.pixels().flat_map(|p| [p.0[0], p.0[1], p.0[2]]).collect();
            taken.push(&Image::from_rgb(height, width, rgb).map_err(|e| MediaError::processor(path, e))?)?;
        }
    }
    taken.finish()
}
