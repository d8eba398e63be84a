//! Checkpoints: everything a run needs to go on as if it had not been stopped.
//!
//! `ckpt/step-000123/` holds `meta.json`, `model.safetensors` with `config.json` and the tokenizer (a Hugging Face
//! directory), `optim.safetensors`, `stages.json` and `DIGESTS`; of a run under a trained gate also that
//! (`lcg.json` and its weights), so that the directory is a gate's folder too. It is written under a temporary name and
//! renamed, so a directory of the final name is whole; `latest` names the newest.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::data::TextCodec;
use crate::gate::GateSetup;
use crate::learner::Learner;
use crate::rundir::{StorageError, write_whole};

/// The form of checkpoints that this code writes and reads.
const FORMAT: u32 = 1;

/// What a checkpoint says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meta {
    /// Form of the directory.
    pub format: u32,
    /// Steps done.
    pub step: u64,
    /// Optimiser steps done, those of a warm start included.
    pub optimizer_steps: u64,
    /// The run's seed.
    pub seed: u64,
    /// SHA-256 of the merged configuration.
    pub config_digest: String,
    /// Version of this code.
    pub code_version: String,
    /// Seconds since 1970.
    pub time: f64,
}

/// Why a checkpoint cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The model.
    #[error(transparent)]
    Model(#[from] qwen3::Error),
    /// The tokenizer.
    #[error(transparent)]
    Data(#[from] crate::data::DataError),
    /// A checkpoint that is broken or of another form.
    #[error("{}: {reason}", path.display())]
    Broken {
        /// The checkpoint.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A run without a usable checkpoint.
    #[error("{} has no usable checkpoint{}", path.display(), skipped.iter().map(|s| format!("; {s}")).collect::<String>())]
    None {
        /// The run.
        path: PathBuf,
        /// Those that were looked at, and why not.
        skipped: Vec<String>,
    },
}

fn broken(path: &Path, reason: impl ToString) -> CheckpointError {
    CheckpointError::Broken { path: path.to_path_buf(), reason: reason.to_string() }
}

/// Hexadecimal SHA-256.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Writes a checkpoint of `step` under `dir` (`RUN/ckpt`), with the run's `gate`, and removes all but the
/// newest `keep`.
///
/// # Errors
/// When a file cannot be written; checkpoints that were there stay.
pub fn save(
    dir: &Path,
    meta: &Meta,
    learner: &Learner,
    codec: &TextCodec,
    gate: Option<&GateSetup>,
    stages: &Value,
    keep: usize,
) -> Result<PathBuf, CheckpointError> {
    let name = format!("step-{:06}", meta.step);
    let temporary = dir.join(format!(".{name}.tmp"));
    let _ = std::fs::remove_dir_all(&temporary);
    std::fs::create_dir_all(&temporary).map_err(StorageError::at(&temporary))?;
    let written = write_files(&temporary, meta, learner, codec, gate, stages).and_then(|()| {
        let path = dir.join(&name);
        let _ = std::fs::remove_dir_all(&path);
        std::fs::rename(&temporary, &path).map_err(StorageError::at(&path))?;
        if let Ok(dir) = std::fs::File::open(dir) {
            // Makes the rename itself last; not every file system can.
            let _ = dir.sync_all();
        }
        write_whole(&dir.join("latest"), format!("{name}\n").as_bytes())?;
        Ok(path)
    });
    if written.is_err() {
        // What is left of the attempt must not fill the disk further.
        let _ = std::fs::remove_dir_all(&temporary);
    }
    let path = written?;
    for old in list(dir).into_iter().rev().skip(keep) {
        // An old checkpoint that stays is no reason to stop.
        let _ = std::fs::remove_dir_all(old);
    }
    Ok(path)
}

fn write_files(
    dir: &Path,
    meta: &Meta,
    learner: &Learner,
    codec: &TextCodec,
    gate: Option<&GateSetup>,
    stages: &Value,
) -> Result<(), CheckpointError> {
    learner.model.save(dir, qwen3::SaveType::F32)?;
    codec.save(dir)?;
    if let Some(gate) = gate {
        gate.save(dir).map_err(|e| broken(dir, e))?;
    }
    let moments: Vec<(String, Vec<u8>, usize)> = learner
        .optimizer
        .state(&learner.model)
        .map(|(name, values)| (name, values.iter().flat_map(|v| v.to_le_bytes()).collect(), values.len()))
        .collect();
    let views = moments
        .iter()
        .map(|(name, bytes, len)| Ok((name, TensorView::new(Dtype::F32, vec![*len], bytes)?)))
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
        .map_err(|e| broken(dir, e))?;
    let bytes = safetensors::serialize(views, None).map_err(|e| broken(dir, e))?;
    write_whole(&dir.join("optim.safetensors"), &bytes)?;
    let json = |value: &Value| format!("{value:#}\n");
    write_whole(&dir.join("stages.json"), json(stages).as_bytes())?;
    let meta = serde_json::to_value(meta).map_err(|e| broken(dir, e))?;
    write_whole(&dir.join("meta.json"), json(&meta).as_bytes())?;
    let mut digests = String::new();
    for (name, path) in files(dir).map_err(StorageError::at(dir))? {
        let bytes = std::fs::read(&path).map_err(StorageError::at(&path))?;
        digests.push_str(&format!("{}  {name}\n", digest(&bytes)));
    }
    write_whole(&dir.join("DIGESTS"), digests.as_bytes())?;
    Ok(())
}

fn files(dir: &Path) -> io::Result<BTreeMap<String, PathBuf>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != "DIGESTS" {
            files.insert(name, entry.path());
        }
    }
    Ok(files)
}

/// Checkpoints of a run's `ckpt` directory, oldest first.
#[must_use]
pub fn list(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let is_step = |e: &std::fs::DirEntry| e.file_name().to_string_lossy().starts_with("step-");
    let mut all: Vec<PathBuf> = entries.filter(is_step).map(|e| e.path()).collect();
    all.sort();
    all
}

/// A checkpoint that was read and whose digests are right.
#[derive(Debug)]
pub struct Checkpoint {
    /// Its directory.
    pub path: PathBuf,
    /// What it says of itself.
    pub meta: Meta,
    /// The stages' states.
    pub stages: Value,
}

impl Checkpoint {
    /// The newest checkpoint of `run` that is whole, and why newer ones were passed over.
    ///
    /// # Errors
    /// When there is none.
    pub fn newest(run: &Path) -> Result<(Self, Vec<String>), CheckpointError> {
        let mut skipped = Vec::new();
        for path in list(&run.join("ckpt")).into_iter().rev() {
            match Self::read(&path) {
                Ok(checkpoint) => return Ok((checkpoint, skipped)),
                Err(e) => skipped.push(e.to_string()),
            }
        }
        Err(CheckpointError::None { path: run.to_path_buf(), skipped })
    }

    /// Reads and verifies one checkpoint.
    ///
    /// # Errors
    /// When a file is missing, changed or of another form.
    pub fn read(path: &Path) -> Result<Self, CheckpointError> {
        let text = |name: &str| {
            let file = path.join(name);
            std::fs::read_to_string(&file).map_err(StorageError::at(&file))
        };
        for line in text("DIGESTS")?.lines() {
            let Some((wanted, name)) = line.split_once("  ") else {
                return Err(broken(path, "DIGESTS is broken"));
            };
            let file = path.join(name);
            let bytes = std::fs::read(&file).map_err(StorageError::at(&file))?;
            if digest(&bytes) != wanted {
                return Err(broken(path, format!("{name} is not what was written")));
            }
        }
        let meta: Meta =
            serde_json::from_str(&text("meta.json")?).map_err(|e| broken(path, format!("meta.json: {e}")))?;
        if meta.format != FORMAT {
            return Err(broken(path, format!("form {}, this version reads {FORMAT}", meta.format)));
        }
        let stages = serde_json::from_str(&text("stages.json")?)
            .map_err(|e| broken(path, format!("stages.json: {e}")))?;
        Ok(Self { path: path.to_path_buf(), meta, stages })
    }

    /// Whether it holds a gate.
    #[must_use]
    pub fn has_gate(&self) -> bool {
        self.path.join("lcg.json").exists()
    }

    /// Puts the optimiser's moments back.
    ///
    /// # Errors
    /// When one is missing.
    pub fn restore_optimizer(&self, learner: &mut Learner) -> Result<(), CheckpointError> {
        let path = self.path.join("optim.safetensors");
        let bytes = std::fs::read(&path).map_err(StorageError::at(&path))?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|e| broken(&path, e))?;
        let floats = |name: &str| {
            let view = tensors.tensor(name).ok()?;
            Some(view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
        };
        let Learner { model, optimizer, .. } = learner;
        optimizer
            .restore(model, self.meta.optimizer_steps, floats)
            .map_err(|name| broken(&path, format!("{name} is missing or of another size")))
    }
}

impl Meta {
    /// What a checkpoint written now says.
    #[must_use]
    pub fn new(step: u64, optimizer_steps: u64, seed: u64, config: &str) -> Self {
        Self {
            format: FORMAT,
            step,
            optimizer_steps,
            seed,
            config_digest: digest(config.as_bytes()),
            code_version: env!("CARGO_PKG_VERSION").into(),
            time: crate::rundir::unix_time(),
        }
    }
}
