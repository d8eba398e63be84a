//! `sample --diverse --device cuda`: what the CPU chooses, or an error that says why not.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use cuda_twin::{Error, Gpu};
use tempfile::TempDir;

const PAIRS: usize = 120;
const WIDTH: usize = 20;

fn run(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_toolrm")).current_dir(dir).args(args).output().unwrap()
}

/// Pairs of three sources, and embeddings without two cosines alike.
fn made() -> TempDir {
    let dir = TempDir::new().unwrap();
    let side = |score: f64| format!(r#"{{"text":"t","score":{score},"origin":"m"}}"#);
    let line = |i: usize| {
        format!(
            r#"{{"id":"p{i:03}","step_id":"s{i}","source":"{}","chosen":{},"rejected":{},"intensity":1,"complexity":{},"bin":9}}"#,
            ["a", "b", "b", "c", "c", "c", "c"][i % 7],
            side(1.0),
            side(0.0),
            i % 5 + 1
        ) + "\n"
    };
    fs::write(dir.path().join("pairs.jsonl"), (0..PAIRS).map(line).collect::<String>()).unwrap();
    let noise = cuda_twin::testing::noise(PAIRS * WIDTH, 11);
    let rows = noise.chunks_exact(WIDTH).flat_map(|row| {
        let length = row.iter().map(|x| x * x).sum::<f64>().sqrt();
        row.iter().map(move |x| (x / length) as f32)
    });
    fs::write(dir.path().join("embed.f32"), rows.flat_map(f32::to_le_bytes).collect::<Vec<u8>>()).unwrap();
    dir
}

#[test]
fn a_device_chooses_what_the_cpu_chooses_or_is_an_error() {
    let dir = made();
    let dir = dir.path();
    let sample = |output: &str, more: &[&str]| {
        let args =
            ["sample", "pairs.jsonl", "-n", "40", "--val", "8", "--diverse", "embed.f32", "-o", output];
        let out = run(dir, &[&args[..], more].concat());
        (out.status.code(), String::from_utf8(out.stderr).unwrap())
    };
    let files =
        |output: &str| ["train.jsonl", "val.jsonl"].map(|f| fs::read(dir.join(output).join(f)).unwrap());
    assert_eq!(sample("cpu", &["--device", "cpu"]).0, Some(0));
    let gpu = Gpu::cuda(0);
    let (code, err) = sample("cuda", &["--device", "cuda", "--device-from", "400"]);
    match gpu {
        Ok(_) => {
            // Pools of 52 and of what the smaller sources have: 18 and 34, of 20 numbers each.
            assert_eq!(code, Some(0), "{err}");
            assert!(err.contains("groups.cpu 1, groups.device 2") && err.contains("device 0."), "{err}");
            assert_eq!(files("cuda"), files("cpu"));
            // By its default the choice between so few stays on the CPU.
            let (code, err) = sample("few", &["--device", "cuda"]);
            assert!(code == Some(0) && err.contains("groups.cpu 3, groups.device 0"), "{err}");
            assert_eq!(files("few"), files("cpu"));
        }
        Err(error) => {
            assert!(
                std::env::var_os("REQUIRE_GPU").is_none() && matches!(error, Error::NoGpu { .. }),
                "{error}"
            );
            assert_eq!(code, Some(2), "{err}");
            let why =
                if cfg!(feature = "cuda") { error.to_string() } else { "without the feature `cuda`".into() };
            assert!(err.starts_with("error: --device cuda: ") && err.contains(&why), "{err}");
            assert!(!dir.join("cuda").exists(), "nothing is begun");
        }
    }
    let (code, err) = sample("x", &["--device", "tpu"]);
    assert!(code == Some(2) && err.contains("cuda"), "{err}");
    let out = run(dir, &["sample", "pairs.jsonl", "-o", "y", "--device", "cuda"]);
    assert_eq!(out.status.code(), Some(2), "without --diverse there is nothing to compare");
}
