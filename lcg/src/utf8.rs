//! Pieces of UTF-8: what a token's bytes finish, hold and begin, and what an unfinished character can become.

use unicode_general_category::{GeneralCategory, get_general_category};

use crate::family::{FamilySet, Taxonomy};

/// A byte string cut in three: the end of a character begun before, complete characters, the start of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split<'a> {
    /// Continuation bytes at the start.
    pub lead: &'a [u8],
    /// What lies between; malformed sequences in it are not characters.
    pub body: &'a [u8],
    /// A valid unfinished character, 1 to 3 bytes, or nothing.
    pub tail: &'a [u8],
}

/// Whether a byte can continue a character.
pub fn is_continuation(byte: u8) -> bool {
    byte & 0xC0 == 0x80
}

/// Whether a byte can never occur in UTF-8.
pub fn is_never(byte: u8) -> bool {
    matches!(byte, 0xC0 | 0xC1 | 0xF5..)
}

impl<'a> Split<'a> {
    /// Cuts.
    pub fn of(bytes: &'a [u8]) -> Self {
        let start = bytes.iter().position(|b| !is_continuation(*b)).unwrap_or(bytes.len());
        let (lead, rest) = bytes.split_at(start);
        // An unfinished character begins at most three bytes before the end.
        let begins = |at: &usize| !is_continuation(rest[*at]);
        let last = (rest.len().saturating_sub(3)..rest.len()).rev().find(begins);
        let unfinished =
            |at: &usize| std::str::from_utf8(&rest[*at..]).is_err_and(|e| e.error_len().is_none());
        let (body, tail) = rest.split_at(last.filter(unfinished).unwrap_or(rest.len()));
        Self { lead, body, tail }
    }

    /// The characters of the body.
    pub fn chars(&self) -> impl Iterator<Item = char> + 'a {
        self.body.utf8_chunks().flat_map(|chunk| chunk.valid().chars())
    }

    /// Malformed sequences in the body.
    pub fn malformed(&self) -> usize {
        self.body.utf8_chunks().filter(|chunk| !chunk.invalid().is_empty()).count()
    }
}

/// What the 64 code points with one start in common are.
#[derive(Clone, Copy, Debug, Default)]
struct Block {
    /// Families of letters.
    families: FamilySet,
    /// Assigned code points that are symbols.
    symbols: u32,
    /// Assigned code points.
    assigned: u32,
}

/// What unfinished characters can become, under one taxonomy.
#[derive(Clone, Debug)]
pub struct Reach {
    /// Of 64 code points each.
    blocks: Vec<Block>,
}

impl Reach {
    /// Looks at every code point of Unicode.
    pub fn new(taxonomy: &Taxonomy) -> Self {
        let mut blocks = vec![Block::default(); 0x11_0000 / 64];
        for c in '\0'..=char::MAX {
            use GeneralCategory::{Control, PrivateUse, Surrogate, Unassigned};
            if matches!(get_general_category(c), Control | PrivateUse | Surrogate | Unassigned) {
                continue;
            }
            let block = &mut blocks[c as usize / 64];
            let letter = taxonomy.letter(c);
            block.families |= letter;
            block.symbols += u32::from(letter.is_empty());
            block.assigned += 1;
        }
        Self { blocks }
    }

    /// Families of letters, assigned symbols, and assigned code points in all that begin with `prefix`, a [`Split::tail`].
    pub fn counts(&self, prefix: &[u8]) -> (FamilySet, u32, u32) {
        let bits = |byte: u8| usize::from(byte & 0x3F);
        // In blocks of 64: what a first byte and the bytes after it leave open.
        let (start, count) = match *prefix {
            [a @ 0xC2..=0xDF] => (usize::from(a & 0x1F), 1),
            // Below U+0800 and U+10000 the form would be overlong.
            [0xE0] => (32, 32),
            [a @ 0xE1..=0xEF] => (usize::from(a & 0x0F) * 64, 64),
            [a @ 0xE0..=0xEF, b] => (usize::from(a & 0x0F) * 64 + bits(b), 1),
            [0xF0] => (1024, 3072),
            [a @ 0xF1..=0xF3] => (usize::from(a & 0x07) * 4096, 4096),
            [0xF4] => (4 * 4096, 1024),
            [a @ 0xF0..=0xF4, b] => (usize::from(a & 0x07) * 4096 + bits(b) * 64, 64),
            [a @ 0xF0..=0xF4, b, c] => (usize::from(a & 0x07) * 4096 + bits(b) * 64 + bits(c), 1),
            _ => (0, 0),
        };
        let add = |(families, symbols, assigned): (FamilySet, u32, u32), block: &Block| {
            (families | block.families, symbols + block.symbols, assigned + block.assigned)
        };
        let end = (start + count).min(self.blocks.len());
        self.blocks[start.min(end)..end].iter().fold((FamilySet::EMPTY, 0, 0), add)
    }

    /// The families that finish `prefix`, where symbols are few (less than a sixteenth, at most 64 code points); else none:
    /// undetermined. So a first byte of Chinese is Han, and the first bytes of emoji are open.
    pub fn families(&self, prefix: &[u8]) -> FamilySet {
        let (families, symbols, assigned) = self.counts(prefix);
        let determined = 16 * symbols < assigned && symbols <= 64;
        if determined { families } else { FamilySet::EMPTY }
    }
}

/// The start of a character that the next token may finish: 0 to 3 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pending {
    bytes: [u8; 3],
    len: u8,
}

impl Pending {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// Whether no character is unfinished.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes and length in one number; 0 where there is none. The low byte is the length.
    pub fn pack(&self) -> u32 {
        u32::from_le_bytes([self.len, self.bytes[0], self.bytes[1], self.bytes[2]])
    }

    /// The inverse of [`Self::pack`]; `None` for what it never gives.
    pub fn unpack(packed: u32) -> Option<Self> {
        let [len, a, b, c] = packed.to_le_bytes();
        let bytes = [a, b, c];
        let (used, rest) = bytes.split_at_checked(usize::from(len))?;
        let valid = Split::of(used).tail.len() == used.len() && rest.iter().all(|b| *b == 0);
        valid.then_some(Self { bytes, len })
    }

    pub(crate) fn of(tail: &[u8]) -> Self {
        let mut bytes = [0; 3];
        let len = tail.len().min(3);
        bytes[..len].copy_from_slice(&tail[..len]);
        Self { bytes, len: len as u8 }
    }

    /// Appends one byte. Gives the character that it completes. A byte that cannot go on drops what was there and starts
    /// anew.
    pub(crate) fn push(&mut self, byte: u8) -> Option<char> {
        let mut joined = [0; 4];
        let len = usize::from(self.len);
        joined[..len].copy_from_slice(self.bytes());
        joined[len] = byte;
        match std::str::from_utf8(&joined[..=len]) {
            Ok(text) => {
                *self = Self::default();
                text.chars().next()
            }
            Err(e) if e.error_len().is_none() => {
                *self = Self::of(&joined[..=len]);
                None
            }
            Err(_) if len > 0 => {
                *self = Self::default();
                self.push(byte)
            }
            Err(_) => None,
        }
    }
}
