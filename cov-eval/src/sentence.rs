//! Sentences of a text.

use std::ops::Range;

/// Words that a period may follow within a sentence. Those with a capital have it there, too: "Peoria, Ill." goes on, "was ill." ends.
const ABBREVIATIONS: &[&str] = &[
    "Mr", "Mrs", "Ms", "Dr", "Prof", "Gov", "Sen", "Rep", "Gen", "Rev", "Jan", "Feb", "Mar", "Apr", "Aug",
    "Sept", "Oct", "Nov", "Dec", "St", "Ave", "Blvd", "Rd", "a.m", "p.m", "U.S", "Inc", "Ltd", "No", "Ala",
    "Ariz", "Calif", "Colo", "Conn", "Fla", "Ga", "Ill", "Ind", "Kan", "Ky", "Md", "Mass", "Mich", "Minn",
    "Mont", "Neb", "Nev", "Okla", "Ore", "Pa", "Tenn", "Va", "Vt", "Wash", "Wis", "Wyo", "e.g", "i.e", "vs",
];

/// Whether the period at `at` ends an abbreviation or an initial.
fn abbreviates(text: &str, at: usize) -> bool {
    let from = text.floor_char_boundary(at.saturating_sub(8));
    let before = &text[from..at];
    let word = before.rsplit(|c: char| c.is_whitespace() || "(\"'[".contains(c)).next().unwrap_or("");
    let initial = word.len() == 1 && word.bytes().all(|b| b.is_ascii_uppercase());
    initial || (word.len() < before.len() || from == 0) && is_abbreviation(word)
}

fn is_abbreviation(word: &str) -> bool {
    let capital = word.starts_with(|c: char| c.is_ascii_uppercase());
    let written = |known: &str| capital || !known.starts_with(|c: char| c.is_ascii_uppercase());
    ABBREVIATIONS.iter().any(|known| known.eq_ignore_ascii_case(word) && written(known))
}

/// Whether a line is a heading, an item of a list or a row of a table.
pub(crate) fn is_listing(line: &str) -> bool {
    let line = line.trim_start();
    let digits = line.bytes().take_while(u8::is_ascii_digit).count();
    let numbered =
        (1..=4).contains(&digits) && [". ", ") "].iter().any(|mark| line[digits..].starts_with(mark));
    numbered
        || line.starts_with(['#', '|', '•'])
        || ["- ", "* ", "+ "].iter().any(|mark| line.starts_with(mark))
}

/// Byte ranges of the sentences, without the white space between them. A sentence ends after `.`, `!` or `?` (and
/// closing quotes and brackets) before white space and an upper-case letter, digit, quote, `$` or `[`, but not after an
/// abbreviation; and at blank lines, and around headings and items of lists.
pub fn sentences(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut start = 0;
    let mut close = |start: &mut usize, end: usize| {
        let piece = &text[*start..end];
        let trimmed = piece.trim();
        if !trimmed.is_empty() {
            let from = *start + piece.len() - piece.trim_start().len();
            found.push(from..from + trimmed.len());
        }
        *start = end;
    };
    let mut line_start = 0;
    let mut blank_before = false;
    for line in text.split_inclusive('\n') {
        let listing = is_listing(line);
        if listing || blank_before {
            close(&mut start, line_start);
        }
        for at in memchr::memchr3_iter(b'.', b'!', b'?', line.as_bytes()) {
            let at = line_start + at;
            if at < start {
                continue;
            }
            let end = at + 1 + text[at + 1..].bytes().take_while(|b| b"\"')]".contains(b)).count();
            let rest = &text[end..];
            let gap = rest.bytes().take(64).take_while(u8::is_ascii_whitespace).count();
            let opens = |c: char| c.is_uppercase() || c.is_ascii_digit() || "\"'$[".contains(c);
            let next = rest[gap..].chars().next();
            if gap > 0 && next.is_some_and(opens) && !(text[at..].starts_with('.') && abbreviates(text, at)) {
                close(&mut start, end);
            }
        }
        line_start += line.len();
        blank_before = line.trim().is_empty();
        if listing {
            close(&mut start, line_start);
        }
    }
    close(&mut start, text.len());
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[rustfmt::skip]
    const PIECES: &[&str] = &[
        "A", "b", " ", ".", "!", "?", "...", "\"", "'", ")", "(", "[", "$", "1", "\n", "\n\n", "\r\n", "\u{a0}", "\u{2028}", "é", "É", "\u{301}",
        "Mr.", "p.m.", "Sept.", "U.S.", "# ", "- ", "1. ", "| ", "3.5", "\0", "\u{feff}",
    ];

    fn hostile() -> impl Strategy<Value = String> {
        let right = [
            "Mr. Glenn left at 8 p.m. on Sept. 3. He paid $5.50 (10%). \"Fine,\" she said. Done!",
            "# Report\n\nSales rose. They fell.\n\n- First item.\n- Second item\n\n1. One. Two?\n",
            "The U.S. team won 3.5 points... Nobody knew why. [Q1] Total: $1,000.\r\n\r\nEnd.",
        ];
        crate::fuzz::texts(PIECES, right.map(str::to_owned).to_vec())
    }

    #[test]
    fn capitals_tell_abbreviations_from_words() {
        for (text, expected) in [
            ("The chairman was ill. Sorim left.", 2),
            ("They met in Peoria, Ill. Sorim left.", 1),
            ("He said no. Mass begins at 9 a.m. Friday.", 2),
            ("MR. GLENN LEFT. HE PAID.", 2),
        ] {
            assert_eq!(sentences(text).len(), expected, "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(crate::fuzz::CASES))]

        /// Sentences lie one behind the other, begin and end with what is not white space, and between them nothing else is left out.
        #[test]
        fn any_text_is_cut_at_white_space(text in hostile()) {
            let mut end = 0;
            for range in sentences(&text) {
                prop_assert!(range.start >= end && !range.is_empty());
                prop_assert!(text[end..range.start].chars().all(char::is_whitespace));
                prop_assert_eq!(text[range.clone()].trim(), &text[range.clone()]);
                end = range.end;
            }
            prop_assert!(text[end..].chars().all(char::is_whitespace));
        }
    }
}
