//! Reading lines in batches.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::read::MultiGzDecoder;

use super::RunError;
use super::output::Codec;

/// The longest line that is read, in bytes.
pub const MAX_LINE: usize = 64 << 20;

/// Lines of a batch, and bytes after which it ends: together they bound memory, and they depend on nothing but the file.
pub(super) const BATCH_LINES: usize = 4096;
const BATCH_BYTES: usize = 32 << 20;
const READ: usize = 1 << 20;

/// Whether a path stands for standard input or output.
pub fn is_stdio(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// One line's place in its batch.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) range: Range<usize>,
    /// Longer than [`MAX_LINE`]: the range holds its beginning.
    pub(super) too_long: bool,
}

/// Consecutive lines of a file.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    pub(super) lines: Vec<Place>,
    /// The number of the first line, from 1.
    pub(super) first: u64,
    /// Where the next batch starts, in decompressed bytes.
    pub(super) end: u64,
}

/// Counts what is read of a file, for progress.
struct Counted<R>(R, Arc<AtomicU64>);

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.0.read(buf)?;
        self.1.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

pub(super) struct Input {
    path: PathBuf,
    reader: Box<dyn Read + Send>,
    pending: Vec<u8>,
    offset: u64,
    number: u64,
    done: bool,
    most: usize,
}

impl Input {
    /// Opens a file at a place that an earlier [`Batch::end`] gave, with that many lines before it.
    pub(super) fn open(
        path: &Path,
        offset: u64,
        number: u64,
        read: &Arc<AtomicU64>,
    ) -> Result<Self, RunError> {
        let fail = |e| RunError::file(path, e);
        let reader: Box<dyn Read + Send> = if is_stdio(path) {
            Box::new(Counted(io::stdin(), read.clone()))
        } else {
            let mut file = File::open(path).map_err(fail)?;
            if file.metadata().map_err(fail)?.is_dir() {
                return Err(fail(io::ErrorKind::IsADirectory.into()));
            }
            match Codec::of(path) {
                Codec::Plain => {
                    file.seek(SeekFrom::Start(offset)).map_err(fail)?;
                    read.fetch_add(offset, Ordering::Relaxed);
                    Box::new(Counted(file, read.clone()))
                }
                Codec::Gzip => {
                    skipped(MultiGzDecoder::new(Counted(file, read.clone())), offset).map_err(fail)?
                }
                Codec::Zstd => {
                    let decoder = zstd::Decoder::new(Counted(file, read.clone())).map_err(fail)?;
                    skipped(decoder, offset).map_err(fail)?
                }
            }
        };
        Ok(Input {
            path: path.to_owned(),
            reader,
            pending: Vec::new(),
            offset,
            number,
            done: false,
            most: MAX_LINE,
        })
    }

    /// The next lines; an empty batch at the end of the file.
    pub(super) fn batch(&mut self) -> Result<Batch, RunError> {
        let mut bytes = std::mem::take(&mut self.pending);
        let mut lines: Vec<Place> = Vec::new();
        let (mut start, mut scanned, mut dropped) = (0, 0, 0u64);
        loop {
            while lines.len() < BATCH_LINES && start < BATCH_BYTES {
                let Some(i) = memchr::memchr(b'\n', &bytes[scanned..]) else {
                    scanned = bytes.len();
                    break;
                };
                let end = scanned + i;
                lines.push(Place { range: start..end, too_long: end - start > self.most });
                (start, scanned) = (end + 1, end + 1);
            }
            if lines.len() == BATCH_LINES || start >= BATCH_BYTES {
                break;
            }
            if bytes.len() - start > self.most {
                let kept = start + 200;
                dropped += (bytes.len() - kept) as u64;
                bytes.truncate(kept);
                lines.push(Place { range: start..kept, too_long: true });
                dropped += self.drop_line(&mut bytes)?;
                (start, scanned) = (kept, kept);
                continue;
            }
            if self.done || self.more(&mut bytes)? == 0 {
                self.done = true;
                if start < bytes.len() {
                    lines.push(Place { range: start..bytes.len(), too_long: false });
                    start = bytes.len();
                }
                break;
            }
        }
        self.pending = bytes.split_off(start);
        self.offset += start as u64 + dropped;
        let first = self.number + 1;
        self.number += lines.len() as u64;
        Ok(Batch { bytes, lines, first, end: self.offset })
    }

    fn more(&mut self, bytes: &mut Vec<u8>) -> Result<usize, RunError> {
        let old = bytes.len();
        bytes.resize(old + READ, 0);
        let read = loop {
            match self.reader.read(&mut bytes[old..]) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        let n = read.map_err(|e| {
            let what = format!("after line {}: {e}", self.number);
            RunError::file(&self.path, io::Error::new(e.kind(), what))
        })?;
        bytes.truncate(old + n);
        Ok(n)
    }

    /// Reads to the end of the line and appends what follows it; returns the number of bytes that are gone.
    fn drop_line(&mut self, bytes: &mut Vec<u8>) -> Result<u64, RunError> {
        let mut gone = 0;
        let mut buffer = Vec::new();
        loop {
            buffer.clear();
            let n = self.more(&mut buffer)?;
            if n == 0 {
                self.done = true;
                return Ok(gone);
            }
            if let Some(i) = memchr::memchr(b'\n', &buffer) {
                bytes.extend_from_slice(&buffer[i + 1..]);
                return Ok(gone + i as u64 + 1);
            }
            gone += n as u64;
        }
    }
}

/// A reader without its first bytes; compressed files cannot be entered in the middle.
fn skipped<R: Read + Send + 'static>(mut reader: R, offset: u64) -> io::Result<Box<dyn Read + Send>> {
    let copied = io::copy(&mut (&mut reader).take(offset), &mut io::sink())?;
    if copied < offset { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(Box::new(reader)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(text: &[u8], most: usize) -> Input {
        let reader = Box::new(io::Cursor::new(text.to_vec()));
        Input { path: "x".into(), reader, pending: Vec::new(), offset: 0, number: 0, done: false, most }
    }

    #[test]
    fn a_long_line_costs_itself_alone() {
        let long = vec![b'x'; 5 * READ];
        let text = [b"one\n", &long[..], b"\nthree\n", &long[..400], b"\n\nlast"].concat();
        let mut input = input(&text, 300);
        let batch = input.batch().unwrap();
        let of = |i: usize| &batch.bytes[batch.lines[i].range.clone()];
        assert_eq!((of(0), of(2), of(5)), (&b"one"[..], &b"three"[..], &b"last"[..]));
        let marks: Vec<bool> = batch.lines.iter().map(|l| l.too_long).collect();
        assert_eq!(marks, [false, true, false, true, false, false]);
        assert_eq!((batch.first, batch.end), (1, text.len() as u64));
        assert!(batch.bytes.len() < 3 * READ, "{}", batch.bytes.len());
        assert!(input.batch().unwrap().lines.is_empty());
    }

    #[test]
    fn batches_start_where_the_last_one_ended() {
        let text: Vec<u8> = (0..10_000).flat_map(|i| format!("line {i}\n").into_bytes()).collect();
        let mut all = input(&text, MAX_LINE);
        let (mut number, mut offset) = (1, 0);
        loop {
            let batch = all.batch().unwrap();
            if batch.lines.is_empty() {
                break;
            }
            assert_eq!(batch.first, number);
            let first = &batch.bytes[batch.lines[0].range.clone()];
            assert_eq!(first, format!("line {}", number - 1).as_bytes());
            assert!(text[offset as usize..].starts_with(first));
            number += batch.lines.len() as u64;
            offset = batch.end;
        }
        assert_eq!((number, offset), (10_001, text.len() as u64));
    }
}
