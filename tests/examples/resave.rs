//! `resave MODEL OUT f32|bf16|f16 MAX_SHARD_BYTES`: loads a directory and writes it again, for transformers to read.

use std::path::Path;

use qwen3::SaveType;
use train_core::policy::Policy;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, out, save_type, max_shard_size] = arguments.as_slice() else {
        return Err("usage: resave MODEL OUT f32|bf16|f16 MAX_SHARD_BYTES".into());
    };
    let save_type = match save_type.as_str() {
        "f32" => SaveType::F32,
        "bf16" => SaveType::Bf16,
        "f16" => SaveType::F16,
        other => return Err(format!("{other} is none of f32, bf16, f16").into()),
    };
    Policy::load(Path::new(model))?.save_sharded(Path::new(out), save_type, max_shard_size.parse()?)?;
    Ok(())
}
