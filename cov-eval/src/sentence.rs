//! Sentences of a text.

use std::ops::Range;

/// Words that a period may follow within a sentence, in lower case.
const ABBREVIATIONS: &[&str] = &[
    "mr", "mrs", "ms", "dr", "prof", "gov", "sen", "rep", "gen", "rev", "jan", "feb", "mar", "apr", "aug",
    "sept", "oct", "nov", "dec", "st", "ave", "blvd", "rd", "a.m", "p.m", "u.s", "inc", "ltd", "no", "ala",
    "ariz", "calif", "colo", "conn", "fla", "ga", "ill", "ind", "kan", "ky", "md", "mass", "mich", "minn",
    "mont", "neb", "nev", "okla", "ore", "pa", "tenn", "va", "vt", "wash", "wis", "wyo", "e.g", "i.e", "vs",
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
    ABBREVIATIONS.iter().any(|known| known.eq_ignore_ascii_case(word))
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
        for (at, mark) in line.match_indices(['.', '!', '?']) {
            let at = line_start + at;
            if at < start {
                continue;
            }
            let end = at + 1 + text[at + 1..].bytes().take_while(|b| b"\"')]".contains(b)).count();
            let rest = &text[end..];
            let gap = rest.bytes().take(64).take_while(u8::is_ascii_whitespace).count();
            let opens = |c: char| c.is_uppercase() || c.is_ascii_digit() || "\"'$[".contains(c);
            let next = rest[gap..].chars().next();
            if gap > 0 && next.is_some_and(opens) && !(mark == "." && abbreviates(text, at)) {
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

    #[test]
    fn cases() {
        let cases = [
            ("", ""),
            ("One.", "One."),
            ("One. Two.", "One.|Two."),
            ("One! Two? Three.", "One!|Two?|Three."),
            ("One. two.", "One. two."),
            ("One.Two.", "One.Two."),
            ("It cost $5.50. Then more.", "It cost $5.50.|Then more."),
            ("At 3.5 it stops. Yes.", "At 3.5 it stops.|Yes."),
            ("Mr. Glenn left. He ran.", "Mr. Glenn left.|He ran."),
            ("At 8 p.m. Frost spoke.", "At 8 p.m. Frost spoke."),
            ("At 8 a.m. Frost spoke.", "At 8 a.m. Frost spoke."),
            ("On Sept. 14 it rained.", "On Sept. 14 it rained."),
            ("In September. 14 came.", "In September.|14 came."),
            ("At 16 Harlan Ave. Frost spoke.", "At 16 Harlan Ave. Frost spoke."),
            ("In Nashville, Tenn. Frost spoke.", "In Nashville, Tenn. Frost spoke."),
            ("J. Frost spoke.", "J. Frost spoke."),
            ("Plan B. Then C.", "Plan B. Then C."),
            ("The U.S. Senate met.", "The U.S. Senate met."),
            ("He said \"go.\" Then left.", "He said \"go.\"|Then left."),
            ("He said (go.) Then left.", "He said (go.)|Then left."),
            ("End. \"Go,\" he said.", "End.|\"Go,\" he said."),
            ("End. $5 is left.", "End.|$5 is left."),
            ("End. [Q1] More.", "End.|[Q1] More."),
            ("Ends [Q1]. More.", "Ends [Q1].|More."),
            ("End.  Two spaces.", "End.|Two spaces."),
            ("End.\nNew line.", "End.|New line."),
            ("No end\nNew line.", "No end\nNew line."),
            ("Title\n\nText.", "Title|Text."),
            ("# Title\nText.", "# Title|Text."),
            ("Text.\n- item one\n- item two\nMore.", "Text.|- item one|- item two|More."),
            ("1. item\n2) item", "1. item|2) item"),
            ("a | b\n| c | d |\n", "a | b|| c | d |"),
            ("Wait... What?", "Wait...|What?"),
            ("Étude. École.", "Étude.|École."),
            ("Nothing ends", "Nothing ends"),
            ("  padded.  ", "padded."),
            ("Acme Inc. Then Ltd. Too.", "Acme Inc. Then Ltd. Too."),
            ("No. 5 lives.", "No. 5 lives."),
            ("casino. Next.", "casino.|Next."),
            ("éno. Next.", "éno.|Next."),
        ];
        for (text, expected) in cases {
            let found: Vec<&str> = sentences(text).into_iter().map(|r| &text[r]).collect();
            assert_eq!(found.join("|"), expected, "{text:?}");
        }
    }
}
