//! Positions that transformers gave.
#![allow(missing_docs, clippy::unwrap_used)]

use mrope::{Delta, Grid, Placeholders, PositionDesign, VideoItem, runs_from_ids};
use serde_json::Value;

fn integers<T: TryFrom<i64>>(value: &Value) -> Vec<T> {
    let integer = |v: &Value| T::try_from(v.as_i64().unwrap()).ok().unwrap();
    value.as_array().unwrap().iter().map(integer).collect()
}

fn grids(value: &Value) -> Vec<Grid> {
    let rows = value.as_array().unwrap().iter().map(integers::<u32>);
    rows.map(|row| Grid::new(row[0], row[1], row[2])).collect()
}

#[test]
fn two_images_and_a_video_as_transformers_places_them() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/qwen3_vl_positions.json");
    let case: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let id = |key: &str| u32::try_from(case[key].as_u64().unwrap()).unwrap();
    let placeholders = Placeholders { image: id("image_token_id"), video: id("video_token_id") };
    let videos: Vec<VideoItem> = grids(&case["video_grid_thw"])
        .into_iter()
        .map(|grid| VideoItem { grid, seconds_per_grid: None })
        .collect();
    let design = PositionDesign::qwen3_vl();
    let ids: Vec<u32> = integers(&case["input_ids"]);
    let runs = runs_from_ids(&ids, placeholders, &grids(&case["image_grid_thw"]), &videos, &design).unwrap();
    let positions = design.positions(&runs).unwrap();
    let want: Vec<Vec<i32>> = case["position_ids"].as_array().unwrap().iter().map(integers::<i32>).collect();
    assert_eq!(positions.to_i32().unwrap(), want);
    assert_eq!(positions.delta(), Delta::Whole(case["rope_delta"].as_i64().unwrap()));
}
