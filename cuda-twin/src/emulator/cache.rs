//! Where compiled kernels are kept: a folder of the build's target folder.

use crate::{Error, Result};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// The cache's folder: `$CUDA_TWIN_CACHE`; else `cuda-twin` in the target folder that the running program lies in, or of
/// the package that Cargo runs; else a private folder of the system's temporary one.
pub(crate) fn folder() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("CUDA_TWIN_CACHE") {
        return create(PathBuf::from(folder));
    }
    let target = |start: PathBuf, name: &str| {
        // Cargo marks a target folder with this file.
        start.ancestors().map(|a| a.join(name)).find(|t| t.join("CACHEDIR.TAG").is_file())
    };
    let of_program = std::env::current_exe().ok().and_then(|exe| target(exe, ""));
    let named = || std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from).filter(|t| t.is_dir());
    let of_package = || target(PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR")?), "target");
    match of_program.or_else(named).or_else(of_package) {
        Some(target) => create(target.join("cuda-twin")),
        None => private(),
    }
}

fn create(folder: PathBuf) -> Result<PathBuf> {
    std::fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
    std::fs::canonicalize(&folder).map_err(|e| Error::io(&folder, e))
}

/// Libraries are loaded from the cache, so in a folder that others can write it must be ours alone.
fn private() -> Result<PathBuf> {
    // SAFETY: no arguments, no failure.
    let user = unsafe { libc::getuid() };
    let folder = std::env::temp_dir().join(format!("cuda-twin-{user}"));
    let made = std::fs::DirBuilder::new().mode(0o700).create(&folder);
    match std::fs::symlink_metadata(&folder) {
        Ok(m) if m.is_dir() && m.uid() == user && m.mode() & 0o077 == 0 => create(folder),
        Ok(_) => {
            Err(Error::io(&folder, "belongs to another user, or others can write it; set CUDA_TWIN_CACHE"))
        }
        Err(e) => Err(Error::io(&folder, made.err().unwrap_or(e))),
    }
}

/// The folder `name` of the cache, made by `make` in another place first unless it is there: others see the whole of it or
/// nothing.
pub(crate) fn entry(name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let cache = folder()?;
    let entry = cache.join(name);
    if entry.is_dir() {
        return Ok(entry);
    }
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let draft = cache.join(format!("draft-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&draft).map_err(|e| Error::io(&draft, e))?;
    let made = make(&draft);
    if made.is_ok() && (std::fs::rename(&draft, &entry).is_ok() || entry.is_dir()) {
        let _ = std::fs::remove_dir_all(&draft); // left over where somebody else was first
        return Ok(entry);
    }
    let _ = std::fs::remove_dir_all(&draft);
    made.and_then(|()| Err(Error::io(&entry, "cannot be put in place")))
}
