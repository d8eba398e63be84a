//! Images and videos from files: formats, orientation, transparency, frames and times, and every kind of broken file.
#![allow(missing_docs, clippy::unwrap_used)]

use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::codecs::gif::GifEncoder;
use image::{Delay, DynamicImage, Frame, ImageFormat, Rgb, RgbImage, RgbaImage};
use proptest::prelude::*;
use qwen3::VlConfig;
use qwen3::vision::processor::{FrameRate, PixelBounds, Processor};
use serde_json::json;
use train_core::media::{MediaError, read_image, read_video};

/// A picture whose every pixel is another.
fn picture(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([(x * 16) as u8, (y * 16) as u8, (x * y) as u8]))
}

fn encoded(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.into().write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// A file in a directory of its own.
fn file(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    (dir, path)
}

fn processor() -> Processor {
    let config = json!({
        "model_type": "qwen3_vl", "tie_word_embeddings": true,
        "image_token_id": 59, "video_token_id": 60, "vision_start_token_id": 61, "vision_end_token_id": 62,
        "text_config": {
            "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "rms_norm_eps": 1e-6,
            "max_position_embeddings": 64,
            "rope_parameters": { "rope_theta": 5e6, "mrope_section": [4, 2, 2], "mrope_interleaved": true }
        },
        "vision_config": {
            "depth": 1, "hidden_size": 24, "num_heads": 2, "intermediate_size": 40, "in_channels": 3,
            "patch_size": 4, "temporal_patch_size": 2, "spatial_merge_size": 2, "out_hidden_size": 32,
            "num_position_embeddings": 16, "deepstack_visual_indexes": [0]
        }
    });
    let mut processor = Processor::released(VlConfig::from_json(&config.to_string()).unwrap());
    processor.image_bounds = PixelBounds { least: 64, most: 1 << 20 };
    processor.video_bounds = PixelBounds { least: 64, most: 1 << 20 };
    processor.frame_rate = FrameRate { fps: 2.0, min_frames: 2, max_frames: 8 };
    processor
}

#[test]
fn formats_without_loss_give_back_the_pixels() {
    let image = picture(12, 7);
    for format in [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::Pnm, ImageFormat::WebP, ImageFormat::Gif]
    {
        // The contents decide, not the name.
        let (_dir, path) = file("picture.jpg", &encoded(image.clone(), format));
        let read = read_image(&path).unwrap();
        assert_eq!((read.height(), read.width()), (7, 12), "{format:?}");
        assert_eq!(read.rgb(), image.as_raw(), "{format:?}");
    }
    let smooth = RgbImage::from_fn(16, 16, |x, y| Rgb([100 + x as u8, 120 + y as u8, 90]));
    let (_dir, path) = file("picture.png", &encoded(smooth.clone(), ImageFormat::Jpeg));
    let read = read_image(&path).unwrap();
    let off = read.rgb().iter().zip(smooth.as_raw()).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    assert!(off <= 8, "off by {off}");
}

/// Pillow's `convert("RGB")`: transparency is dropped; of 16 bits the upper 8 stay, but 16-bit grey is cut at 255.
#[test]
fn colours_become_those_of_pillow() {
    let see_through = RgbaImage::from_fn(2, 1, |x, _| image::Rgba([10, 20, 30, (x * 128) as u8]));
    let grey = image::GrayImage::from_raw(2, 1, vec![7, 250]).unwrap();
    let grey_alpha = image::GrayAlphaImage::from_raw(2, 1, vec![7, 0, 250, 255]).unwrap();
    let deep_grey = image::ImageBuffer::<image::Luma<u16>, _>::from_raw(2, 1, vec![200u16, 40_000]).unwrap();
    let deep = image::ImageBuffer::<Rgb<u16>, _>::from_raw(1, 1, vec![255u16, 256, 65_535]).unwrap();
    let cases: [(DynamicImage, &[u8]); 5] = [
        (see_through.into(), &[10, 20, 30, 10, 20, 30]),
        (grey.into(), &[7, 7, 7, 250, 250, 250]),
        (grey_alpha.into(), &[7, 7, 7, 250, 250, 250]),
        (deep_grey.into(), &[200, 200, 200, 255, 255, 255]),
        (deep.into(), &[0, 1, 255]),
    ];
    for (image, expected) in cases {
        let (_dir, path) = file("a.png", &encoded(image, ImageFormat::Png));
        assert_eq!(read_image(&path).unwrap().rgb(), expected);
    }
}

/// A JPEG with an EXIF orientation. Each of the eight is undone.
#[test]
fn images_stand_upright() {
    let image =
        RgbImage::from_fn(32, 16, |x, y| Rgb([if x < 16 { 0 } else { 255 }, if y < 8 { 0 } else { 255 }, 0]));
    let jpeg = encoded(image, ImageFormat::Jpeg);
    for (orientation, (height, width), right_below) in [
        (1u8, (16, 32), [255, 255]),
        (2, (16, 32), [0, 255]),
        (3, (16, 32), [0, 0]),
        (4, (16, 32), [255, 0]),
        (5, (32, 16), [255, 255]),
        (6, (32, 16), [255, 0]),
        (7, (32, 16), [0, 0]),
        (8, (32, 16), [0, 255]),
    ] {
        let mut exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
        exif.extend([orientation, 0, 0, 0, 0, 0, 0]);
        let length = (exif.len() as u16 + 2).to_be_bytes();
        let turned = [&jpeg[..2], &[0xff, 0xe1], &length[..], &exif, &jpeg[2..]].concat();
        let (_dir, path) = file("photo.jpg", &turned);
        let read = read_image(&path).unwrap();
        assert_eq!((read.height(), read.width()), (height, width), "{orientation}");
        let last = &read.rgb()[read.rgb().len() - 3..];
        let near = |a: u8, b: u8| a.abs_diff(b) < 20;
        assert!(near(last[0], right_below[0]) && near(last[1], right_below[1]), "{orientation}: {last:?}");
    }
}

fn gif(frames: u32, milliseconds: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = GifEncoder::new(&mut bytes);
    for i in 0..frames {
        let grey = RgbaImage::from_pixel(16, 8, image::Rgba([(i * 10) as u8, 0, 0, 255]));
        let delay = Delay::from_numer_denom_ms(milliseconds, 1);
        encoder.encode_frame(Frame::from_parts(grey, 0, 0, delay)).unwrap();
    }
    drop(encoder);
    bytes
}

/// Ten frames a second for two seconds, of which the processor wants two a second.
#[test]
fn an_animation_is_sampled_at_its_own_rate() {
    let (_dir, path) = file("clip.gif", &gif(20, 100));
    let video = read_video(&path, &processor(), None).unwrap();
    let reds: Vec<u8> = video.frames().iter().map(|f| f.rgb()[0]).collect();
    assert_eq!(reds, [0, 60, 130, 190]);
    assert_eq!(video.timestamps(2), [0.3, 1.6]);
    // A frame time too short for anybody to see is 100 milliseconds.
    let (_dir, path) = file("clip.gif", &gif(20, 0));
    assert_eq!(read_video(&path, &processor(), None).unwrap(), video);
}

#[test]
fn a_directory_is_a_video_of_all_its_frames() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..5u8 {
        let frame = RgbImage::from_pixel(16, 8, Rgb([i * 10, 0, 0]));
        std::fs::write(dir.path().join(format!("{}.png", i + 7)), encoded(frame, ImageFormat::Png)).unwrap();
    }
    std::fs::write(dir.path().join(".hidden"), "no image").unwrap();
    let video = read_video(dir.path(), &processor(), Some(2.0)).unwrap();
    let reds: Vec<u8> = video.frames().iter().map(|f| f.rgb()[0]).collect();
    assert_eq!(reds, [0, 10, 20, 30, 40]);
    assert_eq!(video.timestamps(2), [0.25, 1.25, 2.0]);
    // Frames are in the size that the model wants, which follows from the size that they had.
    let mut small = processor();
    small.video_bounds.most = 300;
    let resized = read_video(dir.path(), &small, None).unwrap();
    let sizes = (resized.frames()[0].height(), resized.frames()[0].width());
    assert_eq!(sizes, small.video_frame_size(5, (8, 16)).unwrap());
    let whole = qwen3::vision::processor::Video::whole(video.frames().to_vec(), None).unwrap();
    assert_eq!(small.video(&resized).unwrap(), small.video(&whole).unwrap());

    for (i, frame) in [(20, picture(8, 8)), (21, picture(16, 8)), (22, picture(16, 8)), (23, picture(16, 8))]
    {
        let error = |path: &Path| read_video(path, &processor(), None).unwrap_err();
        let path = dir.path().join(format!("{i}.png"));
        std::fs::write(&path, encoded(frame, ImageFormat::Png)).unwrap();
        if i == 20 {
            let said = error(dir.path()).to_string();
            assert!(said.contains("frame 5 is (8, 8) pixels, the first is (8, 16)"), "{said}");
        }
        if i == 23 {
            assert!(matches!(error(dir.path()), MediaError::TooManyFrames { frames: 9, limit: 8, .. }));
        }
    }
}

#[test]
fn what_is_no_image_or_video_is_named() {
    let image = |name: &str, bytes: &[u8]| {
        let (_dir, path) = file(name, bytes);
        read_image(&path).unwrap_err().to_string()
    };
    assert!(image("notes.png", b"hello").contains("notes.png: is of no image format that is read"));
    assert!(image("empty.png", b"").contains("empty.png: is of no image format"));
    let huge = b"P6 60000 60000 255 ";
    assert!(image("huge.ppm", huge).contains("huge.ppm: 60000 by 60000 pixels are more than the 178956970"));
    let missing = read_image(Path::new("/nowhere/a.png")).unwrap_err().to_string();
    assert!(missing.starts_with("/nowhere/a.png: No such file"), "{missing}");
    let (_dir, path) = file("still.png", &encoded(picture(8, 8), ImageFormat::Png));
    let still = read_video(&path, &processor(), None).unwrap_err().to_string();
    assert!(still.ends_with("still.png: is an image, not a video"), "{still}");
    let none = read_video(tempfile::tempdir().unwrap().path(), &processor(), None).unwrap_err().to_string();
    assert!(none.ends_with("has 0 frames"), "{none}");
}

/// A file cut anywhere is an error, or all of the image is there (what is behind the pixels may go).
#[test]
fn cut_files_are_errors() {
    for format in [
        ImageFormat::Png,
        ImageFormat::Jpeg,
        ImageFormat::WebP,
        ImageFormat::Gif,
        ImageFormat::Bmp,
        ImageFormat::Pnm,
    ] {
        let bytes = encoded(picture(24, 18), format);
        let (_dir, path) = file("a", &bytes);
        let whole = read_image(&path).unwrap();
        let mut kept = 0;
        for cut in 0..bytes.len() {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            if let Ok(image) = read_image(&path) {
                assert_eq!(image, whole, "{format:?}: {cut} of {} bytes give another image", bytes.len());
                kept += 1;
            }
        }
        assert!(kept < 32, "{format:?}: {kept} cuts go unseen");
    }
    let bytes = gif(6, 100);
    let (_dir, path) = file("clip.gif", &bytes);
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let error = read_video(&path, &processor(), None).unwrap_err();
    assert!(matches!(&error, MediaError::Decode { path: found, .. } if *found == path), "{error}");
}

fn seeds() -> Vec<Vec<u8>> {
    let formats = [
        ImageFormat::Png,
        ImageFormat::Jpeg,
        ImageFormat::WebP,
        ImageFormat::Gif,
        ImageFormat::Bmp,
        ImageFormat::Pnm,
    ];
    formats.map(|format| encoded(picture(17, 9), format)).into_iter().chain([gif(3, 50)]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// Whatever the bytes, an image comes out or an error: never a panic.
    #[test]
    fn no_bytes_panic(
        seed in prop::sample::select(seeds()),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
        noise in prop::option::of(prop::collection::vec(any::<u8>(), 0..300)),
    ) {
        let mut bytes = seed.clone();
        flips.iter().for_each(|(at, value)| bytes[at.index(seed.len())] = *value);
        if let Some(cut) = cut {
            bytes.truncate(cut.index(seed.len()));
        }
        // Noise behind the head of a format.
        if let Some(noise) = noise {
            bytes.truncate(12);
            bytes.extend(noise);
        }
        let (_dir, path) = file("a", &bytes);
        for outcome in [read_image(&path).map(drop), read_video(&path, &processor(), None).map(drop)] {
            if let Err(error) = outcome {
                prop_assert!(error.to_string().contains(path.to_str().unwrap()), "{}", error);
            }
        }
    }
}

/// With ffmpeg on the path a video file gives the frames that the processor wants; without it the error says what to
/// install.
#[test]
fn other_videos_take_ffmpeg() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("clip.avi");
    let made = std::process::Command::new("ffmpeg")
        .args(["-v", "error", "-f", "lavfi", "-i", "testsrc=size=64x32:rate=10:duration=2", "-c:v", "mjpeg"])
        .arg(&path)
        .status();
    if made.is_err() {
        std::fs::write(&path, b"RIFF....AVI LIST").unwrap();
        let error = read_video(&path, &processor(), None).unwrap_err();
        assert!(matches!(error, MediaError::NoProgram { .. }), "{error}");
        assert!(error.to_string().contains("clip.avi: reading this video takes ffprobe"), "{error}");
        return;
    }
    let video = read_video(&path, &processor(), None).unwrap();
    let sizes: Vec<(usize, usize)> = video.frames().iter().map(|f| (f.height(), f.width())).collect();
    assert_eq!(sizes, [(32, 64); 4]);
    assert_eq!(video.timestamps(2), [0.3, 1.6]);
    // The test picture moves: no frame comes twice.
    assert!(video.frames().windows(2).all(|w| w[0] != w[1]));
    std::fs::write(&path, b"no video").unwrap();
    let error = read_video(&path, &processor(), None).unwrap_err().to_string();
    assert!(error.contains("clip.avi: ffprobe: "), "{error}");
}
