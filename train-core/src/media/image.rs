//! PNG, JPEG, WebP, GIF, BMP and PNM files.

use std::io::Cursor;
use std::path::Path;

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
use qwen3::vision::processor::Image;

use super::{MAX_PIXELS, MediaError, check_size};

/// The image of a file, of which an animation gives its first frame: upright by its EXIF orientation, in red, green and
/// blue. Transparency is dropped, not blended, as Pillow's `convert("RGB")` does, and of values of 16 bits the upper 8
/// stay (of 16-bit grey, as there, those above 255 become white).
///
/// # Errors
/// When the file cannot be read, is broken or cut, or is too large.
pub fn read_image(path: &Path) -> Result<Image, MediaError> {
    let bytes = std::fs::read(path).map_err(|e| MediaError::io(path, e))?;
    decode(path, &bytes)
}

/// The format of a file, by how it begins.
pub(super) fn format_of(path: &Path, bytes: &[u8]) -> Result<ImageFormat, MediaError> {
    image::guess_format(bytes).map_err(|_| {
        MediaError::decode(path, "is of no image format that is read (PNG, JPEG, WebP, GIF, BMP, PNM)")
    })
}

/// What a decoder may use: an image of the most pixels, at 16 bits and with transparency.
pub(super) fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_PIXELS * 8);
    limits
}

pub(super) fn decode(path: &Path, bytes: &[u8]) -> Result<Image, MediaError> {
    let format = format_of(path, bytes)?;
    if format == ImageFormat::Jpeg && !jpeg_ends(bytes) {
        return Err(MediaError::decode(path, "the JPEG data is cut: it has no end marker"));
    }
    let bad = |e: image::ImageError| MediaError::decode(path, e);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits());
    let mut decoder = reader.into_decoder().map_err(bad)?;
    let (width, height) = decoder.dimensions();
    check_size(path, width.into(), height.into())?;
    let orientation = decoder.orientation().map_err(bad)?;
    let mut decoded = DynamicImage::from_decoder(decoder).map_err(bad)?;
    decoded.apply_orientation(orientation);
    to_rgb(path, decoded)
}

/// As Pillow's `convert("RGB")`.
fn to_rgb(path: &Path, image: DynamicImage) -> Result<Image, MediaError> {
    let (height, width) = (image.height() as usize, image.width() as usize);
    let high = |v: u16| (v >> 8) as u8;
    let rgb: Vec<u8> = match image {
        DynamicImage::ImageLuma16(grey) => grey.iter().flat_map(|v| [(*v).min(255) as u8; 3]).collect(),
        DynamicImage::ImageLumaA16(grey) => grey.pixels().flat_map(|p| [high(p.0[0]); 3]).collect(),
        DynamicImage::ImageRgb16(rgb) => rgb.iter().map(|v| high(*v)).collect(),
        DynamicImage::ImageRgba16(rgba) => {
            rgba.pixels().flat_map(|p| [0, 1, 2].map(|c| high(p.0[c]))).collect()
        }
        other => other.into_rgb8().into_raw(),
    };
    Image::from_rgb(height, width, rgb).map_err(|e| MediaError::processor(path, e))
}

/// Whether an end marker stands behind the first scan. The decoder fills what is missing with grey.
fn jpeg_ends(bytes: &[u8]) -> bool {
    // Behind the start marker segments follow, each with its length; thumbnails in them have ends of their own.
    let mut at = 2;
    while let Some([0xff, marker, high, low]) = bytes.get(at..at + 4) {
        match marker {
            0xda => return bytes[at..].windows(2).any(|pair| pair == [0xff, 0xd9]),
            // A byte of filling.
            0xff => at += 1,
            _ => at += 2 + usize::from(u16::from_be_bytes([*high, *low])),
        }
    }
    // No scan: the decoder says what is wrong.
    true
}
