//! `inspect`: a model's tensors, parameters and memory.

use std::io::Write;
use std::path::Path;

use anyhow::{Result, bail};
use qwen3::VlConfig;
use train_core::footprint::{Footprint, TrainingPass};
use train_core::policy::has_vision;
use train_core::setup;

use crate::inspect::model_of;

pub(crate) fn describe(path: &Path, batch: usize, length: usize, patches: usize) -> Result<()> {
    let path = model_of(path)?;
    let config = setup::read_architecture(&path)?;
    if batch == 0 || length == 0 || length > config.max_position_embeddings {
        bail!(
            "--batch {batch} --length {length}: expected 1 or more, and at most the context of {}",
            config.max_position_embeddings
        );
    }
    let vision = if has_vision(&path) { Some(VlConfig::from_dir(&path)?) } else { None };
    let footprint = vision.as_ref().map_or_else(|| Footprint::new(&config), Footprint::with_vision);
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{}: {}, {} layers of {}, {} query and {} key/value heads of {}, vocabulary {}, context {}",
        path.display(),
        config.architecture.model_type(),
        config.num_hidden_layers,
        config.hidden_size,
        config.num_attention_heads,
        config.num_key_value_heads,
        config.head_dim,
        config.vocab_size,
        config.max_position_embeddings,
    )?;
    if let Some(VlConfig { vision: v, .. }) = &vision {
        writeln!(
            out,
            "vision tower: {} blocks of {}, {} heads, inner width {}, patches of {}",
            v.depth, v.hidden_size, v.num_heads, v.intermediate_size, v.patch_size
        )?;
    }
    writeln!(out, "\n{:<52} {:>20} {:>6} {:>15}", "tensor", "shape", "times", "parameters")?;
    for row in &footprint.tensors {
        let count = row.times * row.shape.iter().product::<usize>();
        writeln!(out, "{:<52} {:>20} {:>6} {count:>15}", row.name, format!("{:?}", row.shape), row.times)?;
    }
    writeln!(out, "{:<52} {:>43}", "all", footprint.parameters)?;
    if footprint.active != footprint.parameters {
        writeln!(out, "{:<52} {:>43}", "of which a token meets", footprint.active)?;
    }
    let patches = if vision.is_some() { batch * patches } else { 0 };
    let of_pass = |recompute| footprint.training(TrainingPass { tokens: batch * length, patches, recompute });
    let (training, again) = (of_pass(false), of_pass(true));
    let images = if patches > 0 { format!(" and {patches} patches") } else { String::new() };
    writeln!(out, "\nTraining passes of {batch} × {length} tokens{images}, in f32, about:")?;
    for (what, bytes) in [
        ("weights", training.weights),
        ("gradients", training.gradients),
        ("moments of AdamW", training.moments),
        ("the sampler's copy of the weights", training.sampler),
        ("kept for the backward pass", training.activations),
        ("together", training.total()),
        ("kept with model.recompute", again.activations),
        ("together with model.recompute", again.total()),
    ] {
        writeln!(out, "{what:<52} {:>43}", size(bytes))?;
    }
    let decoding = footprint.decoding(batch, length);
    writeln!(out, "\nDecoding {batch} × {length} tokens, in f32, about:")?;
    for (what, bytes) in [
        ("weights", decoding.weights),
        ("keys and values", decoding.cache),
        ("logits", decoding.logits),
        ("together", decoding.total()),
    ] {
        writeln!(out, "{what:<52} {:>43}", size(bytes))?;
    }
    Ok(())
}

/// Bytes for people.
fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let unit = (bytes.max(1).ilog2() / 10).min(4);
    let value = bytes as f64 / (1u64 << (10 * unit)) as f64;
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.2} {}", units[unit as usize]) }
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_are_in_the_largest_unit_that_fits() {
        let told = [0, 1023, 1024, 1536 << 10, 5 << 30, 3 << 50].map(size);
        assert_eq!(told, ["0 B", "1023 B", "1.00 KiB", "1.50 MiB", "5.00 GiB", "3072.00 TiB"]);
    }
}
