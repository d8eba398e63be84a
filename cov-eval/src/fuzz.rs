//! Texts that no reader is made for, for the tests of single readers: arbitrary bytes, pieces of what a reader reads, right texts
//! with faults, and nesting up to a depth that would end any recursion.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// How often each reader is tried.
pub(crate) const CASES: u32 = 2048;

const DEEPEST: usize = 20_000;

/// A fault: of a kind, at a place, with another place or a byte, and a piece.
type Fault = (u8, Index, Index, u8, &'static str);

fn damage(text: &str, faults: Vec<Fault>) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for (kind, at, other, byte, piece) in faults {
        let at = at.index(bytes.len() + 1);
        let end = bytes.len().min(at + usize::from(byte));
        match kind {
            0 => drop(bytes.drain(at..end)),
            1 => drop(bytes.splice(at..at, piece.bytes())),
            2 if at < bytes.len() => bytes[at] = byte,
            3 => {
                let copy = bytes[at..end].to_vec();
                let to = other.index(bytes.len() + 1);
                bytes.splice(to..to, copy);
            }
            4 if byte < 32 => bytes.truncate(at),
            _ => {
                let mut lines: Vec<&[u8]> = bytes.split_inclusive(|b| *b == b'\n').collect();
                if !lines.is_empty() {
                    let (at, other) = (at % lines.len(), other.index(lines.len()));
                    lines.swap(at, other);
                }
                bytes = lines.concat();
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Texts for a reader of `pieces`; `right` are texts that it should read.
pub(crate) fn texts(pieces: &'static [&'static str], right: Vec<String>) -> BoxedStrategy<String> {
    let lossy = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let piece = || select(pieces);
    let fault = (0..6u8, any::<Index>(), any::<Index>(), any::<u8>(), piece());
    let depth = prop_oneof![9 => 1..200usize, 1 => Just(DEEPEST)];
    prop_oneof![
        1 => vec(any::<u8>(), 0..400).prop_map(lossy),
        2 => vec(piece(), 0..100).prop_map(|all| all.concat()),
        4 => (select(right), vec(fault, 1..8)).prop_map(|(text, faults)| damage(&text, faults)),
        1 => (piece(), piece(), piece(), piece(), depth.clone(), depth).prop_map(|(first, open, core, close, n, m)| {
            format!("{first}{}{core}{}", open.repeat(n), close.repeat(m))
        }),
    ]
    .boxed()
}
