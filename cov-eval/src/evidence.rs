//! What of a prose answer counts, and in what form it is matched.

use std::ops::Range;

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::canonical_combining_class;

use crate::flags::FlagSet;
use crate::intake::is_invisible;
use crate::length::{length_multiplier, length_score};
use crate::model::Instance;
use crate::sentence::sentences;
use crate::text::distinct_share;
use crate::words::words;

/// The first 125 % of the words that were asked for, in a normal form: NFKC, straight quotes, plain spaces, no invisible
/// characters, without a fence around the whole.
pub(crate) struct Evidence {
    pub(crate) text: String,
    /// Words of `text`.
    pub(crate) words: Vec<Range<usize>>,
    /// Sentences of `text`.
    pub(crate) sentences: Vec<Range<usize>>,
    /// The score of the length of the whole answer.
    pub(crate) length: f64,
    length_multiplier: f64,
    repetition: f64,
    /// For each byte of `text`, where it comes from; absent where that is `shift` bytes on.
    origin: Option<Vec<u32>>,
    shift: usize,
}

/// The inside of a fence around the whole text, else the whole.
fn unwrap_fence(text: &str) -> Range<usize> {
    let trimmed = text.trim();
    let inside = || {
        let rest = trimmed.strip_prefix("```")?.strip_suffix("```")?;
        let (info, body) = rest.split_once('\n')?;
        let whole = !body.contains("```") && !info.contains('`');
        whole.then(|| {
            let start = text.len() - text.trim_start().len() + 3 + info.len() + 1;
            start..start + body.len()
        })
    };
    inside().unwrap_or(0..text.len())
}

/// The normal form, with the origin of each byte.
fn normal(text: &str) -> (String, Vec<u32>) {
    let (mut out, mut origin) = (String::with_capacity(text.len()), Vec::with_capacity(text.len()));
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let mut end = at + c.len_utf8();
        // A character composes with the marks after it.
        while let Some(&(_, mark)) = chars.peek().filter(|(_, mark)| canonical_combining_class(*mark) != 0) {
            end += mark.len_utf8();
            chars.next();
        }
        if is_invisible(c) {
            continue;
        }
        for c in text[at..end].nfkc() {
            out.push(match c {
                '‘' | '’' | '‛' => '\'',
                '“' | '”' | '‟' => '"',
                c => c,
            });
            origin.resize(out.len(), at as u32);
        }
    }
    (out, origin)
}

impl Evidence {
    pub(crate) fn read(instance: &Instance, visible: &str) -> Self {
        let target = instance.budget.target_words.unwrap_or(0);
        let inside = unwrap_fence(visible);
        let shift = inside.start;
        let (mut text, mut origin) = match visible[inside.clone()].is_ascii() {
            true => (visible[inside].to_owned(), None),
            false => {
                let (text, origin) = normal(&visible[inside]);
                (text, Some(origin))
            }
        };
        let mut words = words(&text);
        let count = words.len();
        let kept = (target as usize * 5).div_ceil(4).max(1);
        if count > kept {
            let mut end = words[kept - 1].end;
            // The punctuation that belongs to the last word stays.
            end += text[end..].bytes().take_while(|b| b".,!?;:\"')]%".contains(b)).count();
            text.truncate(end);
            words.truncate(kept);
            if let Some(origin) = &mut origin {
                origin.truncate(end);
            }
        }
        let distinct = if count < 40 { 1.0 } else { distinct_share(&text, &words, 4) };
        Self {
            sentences: sentences(&text),
            length: length_score(count, target),
            length_multiplier: length_multiplier(count, target),
            repetition: ((distinct - 0.3) / 0.3).clamp(0.0, 1.0),
            text,
            words,
            origin,
            shift,
        }
    }

    /// What all prose tasks multiply their score by.
    pub(crate) fn multipliers(&self) -> Vec<(&'static str, f64)> {
        vec![("length", self.length_multiplier), ("repetition", self.repetition)]
    }

    pub(crate) fn flags(&self) -> FlagSet {
        let mut flags = FlagSet::default();
        flags.set(FlagSet::REPETITION, self.repetition < 1.0);
        flags
    }

    /// The bytes of the visible text that a range of `text` comes from.
    pub(crate) fn span(&self, range: &Range<usize>) -> Range<u32> {
        let at = |byte: usize| match &self.origin {
            Some(origin) => origin.get(byte).or(origin.last()).map_or(0, |&o| o as usize),
            None => byte,
        };
        let (start, end) = (at(range.start) + self.shift, at(range.end) + self.shift);
        start as u32..end.max(start) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn normal_forms() {
        for (text, expected) in [
            ("“a”\u{a0}‘b’", "\"a\" 'b'"),
            ("cafe\u{301}", "caf\u{e9}"),
            ("soft\u{ad}hy\u{200b}phen", "softhyphen"),
            ("５％ of ﬁve", "5% of five"),
        ] {
            assert_eq!(normal(text).0, expected);
        }
        let (text, origin) = normal("é“x”");
        assert_eq!((text.len(), origin), (5, vec![0, 0, 2, 5, 6]));
    }

    #[test]
    fn fences_around_the_whole() {
        for (text, expected) in [
            ("plain", "plain"),
            ("```\nin\n```", "in\n"),
            (" ```text\nin\nside\n``` ", "in\nside\n"),
            ("```\na\n```\nb\n```", "```\na\n```\nb\n```"),
            ("```only", "```only"),
            ("a\n```\nb\n```", "a\n```\nb\n```"),
        ] {
            assert_eq!(&text[unwrap_fence(text)], expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn origins_are_boundaries(text in "\\PC{0,40}") {
            let (out, origin) = normal(&text);
            prop_assert_eq!(out.len(), origin.len());
            prop_assert!(origin.windows(2).all(|pair| pair[0] <= pair[1]));
            prop_assert!(origin.iter().all(|&at| text.is_char_boundary(at as usize)));
        }
    }
}
