//! `convert`: a model as a Hugging Face directory or a GGUF file.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use qwen3::SaveType;
use qwen3::gguf::{self, FileType};
use train_core::policy::Policy;
use train_core::setup;

use crate::cli::WeightType;
use crate::inspect::model_of;

pub(crate) fn convert(path: &Path, output: &Path, dtype: WeightType, max_shard_size: u64) -> Result<()> {
    // Never over files that something else made.
    if output.exists()
        && (!output.is_dir() || output.read_dir().is_ok_and(|mut entries| entries.next().is_some()))
    {
        bail!("{} exists already", output.display());
    }
    let path = model_of(path)?;
    let architecture = setup::read_architecture(&path)?;
    let codec = setup::read_codec(&path, &architecture)?;
    let model = setup::read_policy(&path)?;
    if output.extension().is_some_and(|e| e == "gguf") {
        let file_type = match dtype {
            WeightType::F32 => FileType::F32,
            WeightType::F16 => FileType::F16,
            WeightType::Bf16 => FileType::Bf16,
        };
        let Policy::Text(model) = &model else {
            bail!("{}: GGUF files hold no vision tower", output.display());
        };
        let metadata = codec.gguf_metadata(architecture.vocab_size)?;
        gguf::save(output, &architecture, &model.to_tensors()?, file_type, &metadata)?;
    } else {
        let save_type = match dtype {
            WeightType::F32 => SaveType::F32,
            WeightType::Bf16 => SaveType::Bf16,
            WeightType::F16 => SaveType::F16,
        };
        std::fs::create_dir_all(output).with_context(|| output.display().to_string())?;
        codec.save(output)?;
        model.save_sharded(output, save_type, max_shard_size)?;
    }
    let parameters: usize = model.parameters().iter().map(|p| p.var.elem_count()).sum();
    writeln!(std::io::stdout(), "{}: {parameters} parameters", output.display())?;
    Ok(())
}

/// Bytes from a number with a decimal unit, as transformers reads `max_shard_size`.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let units =
        [("TB", 1_000_000_000_000u64), ("GB", 1_000_000_000), ("MB", 1_000_000), ("KB", 1000), ("", 1)];
    let unit = units.iter().find_map(|(name, size)| Some((text.strip_suffix(name)?, size)));
    unit.and_then(|(number, size)| number.trim().parse::<u64>().ok()?.checked_mul(*size))
        .filter(|size| *size > 0)
        .ok_or_else(|| "expected a whole number with KB, MB, GB or TB, or of bytes".to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::size;

    #[test]
    fn sizes_have_decimal_units() {
        let read = ["5GB", "200 MB", "1KB", "3TB", "77"].map(|text| size(text).unwrap());
        assert_eq!(read, [5_000_000_000, 200_000_000, 1000, 3_000_000_000_000, 77]);
        assert!(
            ["", "GB", "0", "-1GB", "1.5GB", "5GiB", "99999999999TB"].iter().all(|text| size(text).is_err())
        );
    }
}
