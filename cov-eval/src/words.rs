//! Words of a text.

use std::ops::Range;

use wide::u8x16;

/// Words of a text as byte ranges: maximal runs of alphanumerics, with single `'`, `’` and `-` inside them, and `.`
/// and `,` between digits.
pub fn words(text: &str) -> Vec<Range<usize>> {
    let mut words = Words::of(text);
    words.found.reserve_exact(words.count - words.found.len());
    words.find(words.count);
    words.found
}

/// [`words`] of a text, counted at once, and found as far as they are wanted.
pub(crate) struct Words<'a> {
    text: &'a str,
    count: usize,
    found: Vec<Range<usize>>,
    /// Which bytes are letters or digits: 64 in a number, with one that is none at the end. None of a text that is not ASCII,
    /// whose words are found at once.
    marks: Vec<u64>,
    block: usize,
    /// The [`edges`] of this block that were not come to yet.
    left: u64,
}

impl<'a> Words<'a> {
    pub(crate) fn of(text: &'a str) -> Self {
        if !text.is_ascii() {
            let found = any_words(text);
            return Self { text, count: found.len(), found, marks: Vec::new(), block: 0, left: 0 };
        }
        let (blocks, rest) = text.as_bytes().as_chunks();
        let mut last = [0; 64];
        last[..rest.len()].copy_from_slice(rest);
        let mut marks = Vec::with_capacity(blocks.len() + 1);
        marks.extend(blocks.iter().chain([&last]).map(alphanumeric));

        let (mut count, mut before) = (0, 0);
        for (i, &mark) in marks.iter().enumerate() {
            let starts = mark & !follow(mark, before, 1);
            count += starts.count_ones() as usize;
            // Those with one byte before them that is in no run, and a run before that.
            let mut near = starts & follow(mark, before, 2);
            while near != 0 {
                let at = 64 * i + near.trailing_zeros() as usize - 1;
                count -= usize::from(joins(text.as_bytes(), at));
                near &= near - 1;
            }
            before = mark;
        }
        let left = edges(marks[0], 0);
        Self { text, count, found: Vec::new(), marks, block: 0, left }
    }

    pub(crate) fn text(&self) -> &'a str {
        self.text
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// The first `n` or more of them.
    pub(crate) fn find(&mut self, n: usize) -> &[Range<usize>] {
        while self.found.len() < n
            && let (Some(start), Some(mut end)) = (self.edge(), self.edge())
        {
            while joins(self.text.as_bytes(), end)
                && let (Some(_), Some(next)) = (self.edge(), self.edge())
            {
                end = next;
            }
            self.found.push(start..end);
        }
        &self.found
    }

    /// The next place where a run begins or ends.
    #[inline]
    fn edge(&mut self) -> Option<usize> {
        while self.left == 0 {
            let before = *self.marks.get(self.block)?;
            self.block += 1;
            self.left = edges(*self.marks.get(self.block)?, before);
        }
        let at = 64 * self.block + self.left.trailing_zeros() as usize;
        self.left &= self.left - 1;
        Some(at)
    }
}

/// Which of 64 bytes of ASCII are letters or digits, the first one lowest.
fn alphanumeric(bytes: &[u8; 64]) -> u64 {
    let within = |text: u8x16, from: u8, to: u8| (text - u8x16::splat(from)).simd_le(u8x16::splat(to - from));
    let mut mark = 0;
    for (i, &bytes) in bytes.as_chunks().0.iter().enumerate() {
        let text = u8x16::new(bytes);
        let is = within(text | u8x16::splat(0x20), b'a', b'z') | within(text, b'0', b'9');
        mark |= u64::from(is.to_bitmask()) << (16 * i);
    }
    mark
}

/// Which bytes lie `n` behind one that is marked, here or in the block before.
fn follow(mark: u64, before: u64, n: u32) -> u64 {
    (mark << n) | (before >> (64 - n))
}

/// Where runs of marked bytes begin, and where they end: at the first byte that is not in them.
fn edges(mark: u64, before: u64) -> u64 {
    mark ^ follow(mark, before, 1)
}

/// Whether the byte behind a run of letters and digits of ASCII joins it with another.
#[inline]
fn joins(text: &[u8], at: usize) -> bool {
    let between = |good: fn(&u8) -> bool| good(&text[at - 1]) && text.get(at + 1).is_some_and(good);
    match text.get(at) {
        Some(b'\'' | b'-') => between(u8::is_ascii_alphanumeric),
        Some(b'.' | b',') => between(u8::is_ascii_digit),
        _ => false,
    }
}

/// [`words`] of any text.
fn any_words(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::with_capacity(text.len() / 6);
    let mut chars = text.char_indices().peekable();
    let mut start = None;
    let mut last = ' ';
    while let Some((at, c)) = chars.next() {
        if c.is_alphanumeric() {
            start.get_or_insert(at);
        } else if let Some(from) = start {
            let next = chars.peek().map_or(' ', |&(_, next)| next);
            let joins = match c {
                '\'' | '’' | '-' => next.is_alphanumeric() && last.is_alphanumeric(),
                '.' | ',' => next.is_ascii_digit() && last.is_ascii_digit(),
                _ => false,
            };
            if !joins {
                found.push(from..at);
                start = None;
            }
        }
        last = c;
    }
    if let Some(from) = start {
        found.push(from..text.len());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn both_readings_see_the_same_words(text in "([azAZ09@`/:\\[{ .,'\\-\n\t\r\u{b}_]|[a-z]{1,9}){0,80}") {
            let found = words(&text);
            prop_assert_eq!(Words::of(&text).count(), found.len());
            prop_assert_eq!(found, any_words(&text));
        }
    }
}
