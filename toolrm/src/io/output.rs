//! Files that appear whole or not at all.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::{RunError, is_stdio};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    Plain,
    Gzip,
    Zstd,
}

impl Codec {
    pub(super) fn of(path: &Path) -> Codec {
        match path.extension().and_then(|e| e.to_str()) {
            Some("gz") => Codec::Gzip,
            Some("zst") => Codec::Zstd,
            _ => Codec::Plain,
        }
    }

    /// A frame of its own: frames one after another are a file, so that a run can go on at the end of any.
    fn frame(self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Codec::Plain => Ok(bytes.to_vec()),
            Codec::Gzip => {
                let mut out = GzEncoder::new(Vec::new(), Compression::default());
                out.write_all(bytes)?;
                out.finish()
            }
            Codec::Zstd => zstd::encode_all(bytes, 0),
        }
    }
}

/// The path with something appended to its name.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

enum Target {
    Stdout,
    Part(File),
}

/// A file that is being written under a temporary name; [`Output::finish`] gives it its own.
pub struct Output {
    path: PathBuf,
    codec: Codec,
    target: Target,
    len: u64,
}

impl Output {
    /// Starts a file; `-` is standard output. What an earlier run left under the temporary name is lost.
    ///
    /// # Errors
    /// [`RunError::Exists`] when the file is there and `force` is not given; [`RunError::File`].
    pub fn create(path: &Path, force: bool) -> Result<Self, RunError> {
        Output::resume(path, force, 0)
    }

    /// Goes on after the first `len` bytes of what an earlier run left.
    pub(super) fn resume(path: &Path, force: bool, len: u64) -> Result<Self, RunError> {
        let codec = Codec::of(path);
        if is_stdio(path) {
            return Ok(Output { path: path.to_owned(), codec, target: Target::Stdout, len: 0 });
        }
        if path.exists() && !force {
            return Err(RunError::Exists(path.to_owned()));
        }
        let part = beside(path, ".part");
        let open = || {
            let file = OpenOptions::new().write(true).create(true).truncate(false).open(&part)?;
            file.set_len(len)?;
            Ok(file)
        };
        let mut file = open().map_err(|e| RunError::file(&part, e))?;
        io::Seek::seek(&mut file, io::SeekFrom::End(0)).map_err(|e| RunError::file(&part, e))?;
        Ok(Output { path: path.to_owned(), codec, target: Target::Part(file), len })
    }

    /// Bytes of the file so far.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        match &self.target {
            Target::Stdout => Ok(()),
            Target::Part(file) => file.sync_data(),
        }
    }

    /// Appends whole lines.
    ///
    /// # Errors
    /// [`RunError::File`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), RunError> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.append(bytes).map_err(|e| RunError::file(&self.path, e))
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.target {
            Target::Stdout => io::stdout().lock().write_all(bytes),
            Target::Part(file) if self.codec == Codec::Plain => {
                self.len += bytes.len() as u64;
                file.write_all(bytes)
            }
            Target::Part(file) => {
                let frame = self.codec.frame(bytes)?;
                self.len += frame.len() as u64;
                file.write_all(&frame)
            }
        }
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// [`RunError::File`].
    pub fn finish(mut self) -> Result<(), RunError> {
        let result = if self.len == 0 && self.codec != Codec::Plain { self.append(b"") } else { Ok(()) };
        let named = || match &self.target {
            Target::Stdout => io::stdout().lock().flush(),
            Target::Part(file) => {
                file.sync_all()?;
                fs::rename(beside(&self.path, ".part"), &self.path)
            }
        };
        result.and_then(|()| named()).map_err(|e| RunError::file(&self.path, e))
    }

    /// Removes what was written.
    pub(super) fn discard(self) {
        if let Target::Part(_) = self.target {
            // What cannot be removed is overwritten by the next run.
            _ = fs::remove_file(beside(&self.path, ".part"));
        }
    }
}
