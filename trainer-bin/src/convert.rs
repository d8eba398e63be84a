//! `convert`: a model as a Hugging Face directory or a GGUF file.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use qwen3::SaveType;
use qwen3::gguf::{self, FileType};
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
    if output.extension().is_some_and(|e| e == "gguf") {
        let file_type = match dtype {
            WeightType::F32 => FileType::F32,
            WeightType::F16 => FileType::F16,
            WeightType::Bf16 => FileType::Bf16,
        };
        let metadata = codec.gguf_metadata(architecture.vocab_size)?;
        gguf::save(output, &architecture, &model.to_tensors()?, file_type, &metadata)?;
    } else {
        let save_type = match dtype {
            WeightType::F32 => SaveType::F32,
            WeightType::Bf16 => SaveType::Bf16,
            WeightType::F16 => bail!("--dtype f16 is for GGUF files; a directory takes f32 or bf16"),
        };
        std::fs::create_dir_all(output).with_context(|| output.display().to_string())?;
        codec.save(output)?;
        model.save(output, save_type)?;
    }
    let parameters: usize = model.parameters().iter().map(|p| p.var.elem_count()).sum();
    writeln!(std::io::stdout(), "{}: {parameters} parameters", output.display())?;
    Ok(())
}
