//! Images and videos to prompts: the files of a checkpoint, what never breaks, and what is refused.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::vl::{config_json, model};
use proptest::prelude::*;
use qwen3::vision::processor::{Image, PixelBounds, Processor, Video, VideoBudget};
use qwen3::{Batch, ForwardOptions, VlConfig};
use serde_json::{Value, json};

fn config() -> VlConfig {
    VlConfig::from_json(&config_json(false).to_string()).unwrap()
}

/// Small images for the tiny model, whose tokens are 8 pixels wide.
fn processor() -> Processor {
    let mut processor = Processor::released(config());
    processor.image_bounds = PixelBounds { least: 64, most: 1024 };
    processor.video_bounds = PixelBounds { least: 256, most: 2048 };
    processor
}

fn image(height: usize, width: usize) -> Image {
    let grey: Vec<u8> = (0..height * width).map(|i| (i * i % 251) as u8).collect();
    Image::from_grey(height, width, &grey).unwrap()
}

/// `seconds` as three tokens.
fn encode(_: &str) -> qwen3::Result<Vec<u32>> {
    Ok(vec![7, 8, 9])
}

fn files() -> [Value; 2] {
    let image = json!({
        "size": { "shortest_edge": 64, "longest_edge": 1024 },
        "patch_size": 4, "temporal_patch_size": 2, "merge_size": 2,
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
        "image_processor_type": "Qwen2VLImageProcessorFast", "resample": 3, "do_resize": true
    });
    let mut video = image.clone();
    video["size"] = json!({ "shortest_edge": 256, "longest_edge": 2048 });
    for (key, value) in [("fps", json!(2)), ("min_frames", json!(4)), ("max_frames", json!(768))] {
        video[key] = value;
    }
    [image, video]
}

fn load([image, video]: &[Value; 2]) -> qwen3::Result<Processor> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("preprocessor_config.json"), image.to_string()).unwrap();
    std::fs::write(dir.path().join("video_preprocessor_config.json"), video.to_string()).unwrap();
    Processor::from_dir(dir.path(), config())
}

#[test]
fn files_of_both_generations_are_read() {
    let [image, mut video] = files();
    assert_eq!(load(&files()).unwrap(), processor());
    let dir = tempfile::tempdir().unwrap();
    let joint =
        json!({ "image_processor": image, "video_processor": video, "processor_class": "Qwen3VLProcessor" });
    std::fs::write(dir.path().join("processor_config.json"), joint.to_string()).unwrap();
    assert_eq!(Processor::from_dir(dir.path(), config()).unwrap(), processor());
    // The older names of the bounds win, and the cap is read.
    video["min_pixels"] = json!(512);
    video["cap_pixels_per_frame"] = json!(true);
    let other = load(&[image, video]).unwrap();
    assert_eq!((other.video_bounds.least, other.video_budget), (512, VideoBudget::CapPerFrame));
}

#[test]
fn files_at_fault_are_named() {
    for (file, key, value, reason) in [
        (0, "patch_size", json!(16), "preprocessor_config.json: patch_size: 16, but the vision tower's is 4"),
        (1, "merge_size", json!(3), "video_preprocessor_config.json: merge_size: 3"),
        (0, "image_mean", json!([0.5]), "preprocessor_config.json: invalid length 1"),
        (0, "image_std", json!([0.5, 0.0, 0.5]), "image_std: [0.5, 0.0, 0.5], expected positive"),
        (0, "size", json!(null), "size: expected bounds of pixels, got None to None"),
        (1, "size", json!({ "shortest_edge": 9, "longest_edge": 3 }), "got Some(9) to Some(3)"),
        (0, "do_resize", json!(false), "do_resize: false is not supported"),
        (0, "resample", json!(2), "resample: only 3 (bicubic)"),
        (0, "rescale_factor", json!(1.0), "rescale_factor: only 1/255"),
        (1, "fps", json!(0), "fps: is 0, expected a positive number"),
        (1, "max_frames", json!(null), "max_frames: is missing"),
    ] {
        let mut files = files();
        files[file][key] = value;
        let error = load(&files).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}, expected: {reason}");
    }
    let empty = tempfile::tempdir().unwrap();
    let error = Processor::from_dir(empty.path(), config()).unwrap_err().to_string();
    assert!(error.contains("preprocessor_config.json"), "{error}");
}

/// What the processor makes of odd sizes, the model reads; an item that cannot be used is named.
#[test]
fn prompts_are_read_by_the_model() {
    let (_dir, model) = model(&config_json(false));
    let clip =
        |frames: usize, side: usize| Video::whole(vec![image(side, side + 4); frames], Some(4.0)).unwrap();
    let images = [image(37, 13), image(1, 5)];
    let prompt =
        processor().prompt(&[3, 61, 59, 62, 5, 61, 60, 62, 59], &images, &[clip(3, 20)], encode).unwrap();
    assert_eq!(prompt.items.prompt_lens, [prompt.tokens.len()]);
    let batch = Batch::pack([&prompt.tokens[..]]);
    let hidden = model.forward(&batch, &prompt.items, &ForwardOptions::default()).unwrap();
    assert_eq!(hidden.states.dims(), [prompt.tokens.len(), 32]);

    let fault = |tokens: &[u32], images: &[Image], videos: &[Video]| {
        processor().prompt(tokens, images, videos, encode).unwrap_err().to_string()
    };
    for (error, reason) in [
        (
            fault(&[59, 59], &[image(9, 9), image(1, 300)], &[]),
            "image 1: 1 by 300 pixels: the sides' ratio is 300",
        ),
        (fault(&[60], &[], &[clip(1, 9)]), "video 0: has 1 frames, expected at least 2"),
        (fault(&[59], &[], &[]), "the prompt has 1 image placeholders for 0 images"),
    ] {
        assert!(error.contains(reason), "{error}, expected: {reason}");
    }
    let mut config = config_json(false);
    config["vision_start_token_id"] = json!(null);
    let bare = Processor::released(VlConfig::from_json(&config.to_string()).unwrap());
    let error = bare.prompt(&[1], &[], &[], encode).unwrap_err().to_string();
    assert!(error.contains("vision_start_token_id: is missing"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// As many placeholders as merged patches, rows of patches as the grid says, and a prompt that comes back when each
    /// item is one placeholder again.
    #[test]
    fn counts_agree(
        sizes in prop::collection::vec((1usize..90, 1usize..90), 0..3),
        clips in prop::collection::vec((2usize..9, 1usize..40, 1usize..40, 1.0f64..40.0), 0..2),
    ) {
        let images: Vec<Image> = sizes.iter().map(|(h, w)| image(*h, *w)).collect();
        let videos: Vec<Video> = clips
            .iter()
            .map(|(n, h, w, fps)| Video::whole(vec![image(*h, *w); *n], Some(*fps)).unwrap())
            .collect();
        let mut prompt = vec![1];
        images.iter().for_each(|_| prompt.extend([61, 59, 62, 4]));
        videos.iter().for_each(|_| prompt.extend([61, 60, 62, 5]));
        let out = processor().prompt(&prompt, &images, &videos, encode).unwrap();
        let count = |id: u32| out.tokens.iter().filter(|t| **t == id).count() as u32;
        let patches = |grids: &[mrope::Grid]| grids.iter().map(|g| g.t * g.h * g.w).sum::<u32>();
        prop_assert_eq!(count(59) * 4, patches(&out.items.image_grids));
        prop_assert_eq!(count(60) * 4, patches(&out.items.video_grids));
        for (pixels, grids) in
            [(&out.items.image_pixels, &out.items.image_grids), (&out.items.video_pixels, &out.items.video_grids)]
        {
            prop_assert_eq!(pixels.as_ref().map_or(0, |p| p.dims()[0]), patches(grids) as usize);
            prop_assert!(grids.iter().all(|g| g.h % 2 == 0 && g.w % 2 == 0));
        }
        for video in &videos {
            let times = video.timestamps(2);
            prop_assert!(times.windows(2).all(|w| w[0] <= w[1]));
        }
        // The inverse: a run of image tokens is one, and a video is one from its first timestamp to its last end.
        let mut groups = out.items.video_grids.iter().map(|g| g.t);
        let (mut back, mut rest) = (Vec::new(), &out.tokens[..]);
        while let Some(token) = rest.first() {
            match *token {
                7 => {
                    back.extend([61, 60, 62]);
                    for _ in 0..groups.next().unwrap() {
                        let end = rest.iter().position(|t| *t == 62).unwrap();
                        rest = &rest[end + 1..];
                    }
                    continue;
                }
                59 if back.last() == Some(&59) => {}
                token => back.push(token),
            }
            rest = &rest[1..];
        }
        prop_assert_eq!(back, prompt);
    }
}
