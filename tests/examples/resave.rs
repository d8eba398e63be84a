//! `resave MODEL OUT`: loads a Qwen3-VL directory and writes it again, for transformers to read.

use std::path::Path;

use qwen3::{SaveType, VlModel};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, out] = arguments.as_slice() else { return Err("usage: resave MODEL OUT".into()) };
    VlModel::load(Path::new(model))?.save(Path::new(out), SaveType::F32)?;
    Ok(())
}
