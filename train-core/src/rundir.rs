//! The files of a run: configuration, facts, metrics, events, rollouts, checkpoints.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// A file of the run that could not be written or read.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub struct StorageError {
    /// The file.
    pub path: PathBuf,
    /// The system's reason.
    pub source: io::Error,
}

impl StorageError {
    /// For `map_err`: names the file.
    pub fn at(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self { path: path.to_path_buf(), source }
    }
}

/// A run directory.
#[derive(Clone, Debug)]
pub struct RunDir(PathBuf);

impl RunDir {
    /// Makes `parent/name-N` with the first free `N`.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn create(parent: &Path, name: &str) -> Result<Self, StorageError> {
        std::fs::create_dir_all(parent).map_err(StorageError::at(parent))?;
        for n in 1u64.. {
            let path = parent.join(format!("{name}-{n}"));
            match std::fs::create_dir(&path) {
                Ok(()) => {
                    let rollouts = path.join("rollouts");
                    std::fs::create_dir(&rollouts).map_err(StorageError::at(&rollouts))?;
                    return Ok(Self(path));
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(StorageError { path, source }),
            }
        }
        unreachable!("there is a free number")
    }

    /// An existing run directory.
    ///
    /// # Errors
    /// When it has no `config.toml`.
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        let config = path.join("config.toml");
        std::fs::metadata(&config).map_err(StorageError::at(&config))?;
        Ok(Self(path.to_path_buf()))
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A file in it.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file whole or not at all.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn write(&self, name: &str, text: &str) -> Result<(), StorageError> {
        write_whole(&self.file(name), text.as_bytes())
    }

    /// Appends one JSON object as a line.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn append(&self, name: &str, value: &Value) -> Result<(), StorageError> {
        let path = self.file(name);
        let write = || {
            let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
            file.write_all(format!("{value}\n").as_bytes())
        };
        write().map_err(StorageError::at(&path))
    }

    /// Appends an event.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn event(
        &self,
        step: u64,
        kind: &str,
        name: &str,
        message: &str,
        advice: &[&str],
    ) -> Result<(), StorageError> {
        let mut event =
            json!({ "time": unix_time(), "step": step, "kind": kind, "name": name, "message": message });
        if !advice.is_empty() {
            event["advice"] = json!(advice);
        }
        self.append("events.jsonl", &event)
    }

    /// Takes back everything after `step`: lines of `metrics.jsonl` and `events.jsonl`, rollout logs. Half-written
    /// lines go too.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn rewind(&self, step: u64) -> Result<(), StorageError> {
        for name in ["metrics.jsonl", "events.jsonl"] {
            let path = self.file(name);
            let text = match std::fs::read_to_string(&path) {
                Ok(text) => text,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(StorageError { path, source }),
            };
            let kept = text.split_inclusive('\n').filter(|line| {
                let value = serde_json::from_str::<Value>(line).ok();
                line.ends_with('\n') && value.and_then(|v| v["step"].as_u64()).is_some_and(|s| s <= step)
            });
            self.write(name, &kept.collect::<String>())?;
        }
        let rollouts = self.file("rollouts");
        let Ok(entries) = std::fs::read_dir(&rollouts) else { return Ok(()) };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let number = name
                .strip_prefix("step-")
                .and_then(|n| n.split('.').next())
                .and_then(|n| n.parse::<u64>().ok());
            if number.is_some_and(|n| n > step) {
                std::fs::remove_file(entry.path()).map_err(StorageError::at(&entry.path()))?;
            }
        }
        Ok(())
    }
}

/// Writes under a temporary name, syncs, renames.
///
/// # Errors
/// When the system refuses; the old file is then untouched.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), StorageError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(|source| {
        // What is left of the attempt must not fill the disk further.
        let _ = std::fs::remove_file(&temporary);
        StorageError { path: path.to_path_buf(), source }
    })
}

/// Seconds since 1970.
#[must_use]
pub fn unix_time() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}
