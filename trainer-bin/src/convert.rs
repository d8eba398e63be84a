//! `convert`: a model as a Hugging Face directory.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use qwen3::SaveType;
use train_core::setup;

use crate::cli::WeightType;
use crate::inspect::model_of;

pub(crate) fn convert(path: &Path, output: &Path, dtype: WeightType) -> Result<()> {
    // Never over files that something else made.
    if output.exists()
        && (!output.is_dir() || output.read_dir().is_ok_and(|mut entries| entries.next().is_some()))
    {
        bail!("{} exists already", output.display());
    }
    let path = model_of(path)?;
    let architecture = setup::read_architecture(&path)?;
    let codec = setup::read_codec(&path, &architecture)?;
    let model = setup::read_model(&path)?;
    let save_type = match dtype {
        WeightType::F32 => SaveType::F32,
        WeightType::Bf16 => SaveType::Bf16,
    };
    std::fs::create_dir_all(output).with_context(|| output.display().to_string())?;
    codec.save(output)?;
    model.save(output, save_type)?;
    let parameters: usize = model.parameters().iter().map(|p| p.var.elem_count()).sum();
    writeln!(std::io::stdout(), "{}: {parameters} parameters", output.display())?;
    Ok(())
}
