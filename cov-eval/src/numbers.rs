//! Numbers in prose: money, percentages, counts.

use std::ops::Range;

/// What a number says that it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// A currency sign before it, or a currency after it.
    Money,
    /// A percent sign or word after it.
    Percent,
    /// Neither.
    Plain,
}

/// A number of a text.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Number {
    pub(crate) unit: Unit,
    /// Without its sign.
    pub(crate) value: f64,
    /// Half of the last digit that is written, where a word or letter scales it (`1.2 million`); else 0.
    pub(crate) rounding: f64,
    /// Whether it is written without a fraction and stands alone: no part of a word, a date or a time.
    pub(crate) whole: bool,
    pub(crate) range: Range<usize>,
}

const WORDS: [&str; 20] = [
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
];
const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];

/// Digits that are read; longer numbers are none.
const MOST_DIGITS: usize = 18;

fn word_after(text: &str) -> &str {
    let rest = text.strip_prefix(' ').unwrap_or(text);
    let end = rest.bytes().take(12).take_while(u8::is_ascii_alphabetic).count();
    &rest[..end]
}

/// The number that a word is, in any case.
fn number_word(word: &str) -> Option<usize> {
    let of_length: &[usize] = match word.len() {
        3 => &[1, 2, 6, 10],
        4 => &[4, 5, 9],
        5 => &[3, 7, 8],
        6 => &[11, 12, 20],
        7 => &[15, 16],
        8 => &[13, 14, 18, 19],
        9 => &[17],
        _ => &[],
    };
    of_length.iter().copied().find(|value| WORDS[value - 1].eq_ignore_ascii_case(word))
}

fn is_month(word: &str) -> bool {
    word.get(..3).is_some_and(|start| MONTHS.iter().any(|m| m.eq_ignore_ascii_case(start)))
}

fn scale(word: &str) -> Option<f64> {
    Some(match word.to_ascii_lowercase().as_str() {
        "k" | "thousand" => 1e3,
        "m" | "million" => 1e6,
        "b" | "bn" | "billion" => 1e9,
        _ => return None,
    })
}

/// The numbers of a text, in their order; digits, or words from one to twenty.
pub(crate) fn numbers(text: &str) -> Vec<Number> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let after_word = at > 0
            && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_' || bytes[at - 1] >= 0x80);
        if bytes[at].is_ascii_alphabetic() {
            let end = at + bytes[at..].iter().take_while(|b| b.is_ascii_alphabetic()).count();
            let value = number_word(&text[at..end]);
            let alone =
                !after_word && !bytes.get(end).is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'-');
            if let (Some(value), true) = (value, alone && bytes.get(at.wrapping_sub(1)) != Some(&b'-')) {
                let unit = if is_percent(&text[end..]).is_some() { Unit::Percent } else { Unit::Plain };
                found.push(Number { unit, value: value as f64, rounding: 0.0, whole: true, range: at..end });
            }
            at = end;
        } else if bytes[at].is_ascii_digit() {
            let (number, end) = digits(text, at, after_word);
            found.extend(number);
            at = end;
        } else {
            at += 1;
        }
    }
    found
}

fn is_percent(rest: &str) -> Option<usize> {
    if rest.starts_with('%') || rest.starts_with(" %") {
        return Some(rest.find('%')? + 1);
    }
    let word = word_after(rest);
    let per_cent = rest.strip_prefix(' ').is_some_and(|r| r.starts_with("per cent"));
    (word.eq_ignore_ascii_case("percent") || per_cent).then_some(1 + word.len())
}

/// The number whose digits start at `at`, and where it ends.
fn digits(text: &str, at: usize, after_word: bool) -> (Option<Number>, usize) {
    let bytes = text.as_bytes();
    let digit = |i: usize| bytes.get(i).is_some_and(u8::is_ascii_digit);
    let mut end = at;
    let mut plain = String::new();
    let mut decimals = None;
    while digit(end) || (decimals.is_none() && matches!(bytes.get(end), Some(b',' | b'.')) && digit(end + 1))
    {
        match bytes[end] {
            b',' => {}
            b'.' => {
                decimals = Some(0);
                plain.push('.');
            }
            b => {
                decimals = decimals.map(|n| n + 1);
                if plain.len() <= MOST_DIGITS {
                    plain.push(char::from(b));
                }
            }
        }
        end += 1;
    }
    let glued = bytes.get(end).is_some_and(|b| b.is_ascii_alphabetic() || *b == b'_' || *b >= 0x80);
    let before = &text[..at];
    let money_before = before.ends_with('$') || before.ends_with("$ ") || before.ends_with("USD ");
    let rest = &text[end..];
    let magnitude = word_after(rest);
    let scaled = scale(magnitude).filter(|_| money_before || magnitude.len() > 2);
    let value: f64 = match plain.parse() {
        Ok(value) if plain.len() <= MOST_DIGITS && (!after_word || money_before) => value,
        _ => return (None, end),
    };
    if glued && scaled.is_none() {
        return (None, end + rest.bytes().take_while(u8::is_ascii_alphanumeric).count());
    }
    let mut stop = end;
    let mut rounding = 0.0;
    if scaled.is_some() {
        stop += rest.len() - rest.trim_start_matches(' ').len().min(rest.len());
        stop = (stop + magnitude.len()).min(text.len());
        rounding = 0.5 * 10f64.powi(-decimals.unwrap_or(0)) * scaled.unwrap_or(1.0);
    }
    let currency =
        ["dollars", "dollar", "usd"].iter().any(|c| c.eq_ignore_ascii_case(word_after(&text[stop..])));
    let percent = is_percent(&text[stop..]);
    let unit = match percent {
        _ if money_before || currency => Unit::Money,
        Some(_) => Unit::Percent,
        None => Unit::Plain,
    };
    // Dates and times: joined to other digits, or next to a month.
    let joined = |b: Option<&u8>| matches!(b, Some(b'-' | b'/' | b':'));
    let dated = joined(bytes.get(end)) && digit(end + 1)
        || at > 1 && joined(bytes.get(at - 1)) && bytes[at - 2].is_ascii_digit();
    let last_word = before.trim_end_matches([' ', '.']).rsplit([' ', '\n']).next().unwrap_or("");
    let by_month =
        is_month(last_word) && last_word.bytes().all(|b| b.is_ascii_alphabetic()) || is_month(magnitude);
    let whole = decimals.is_none() && !dated && !by_month;
    let value = value * scaled.unwrap_or(1.0);
    (Some(Number { unit, value, rounding, whole, range: at..end }), stop.max(end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cases() {
        let cases = [
            ("", ""),
            ("it was $1,234.56 in all", "M1234.56"),
            ("$ 5", "M5"),
            ("USD 12 and 3 dollars", "M12 M3"),
            ("$1.2 million, $3k, $4.5M", "M1200000 M3000 M4500000"),
            ("2 million dollars", "M2000000"),
            ("12.3% and 4 percent, five per cent", "P12.3 P4 P5"),
            ("there were 12 orders", "C12"),
            ("twelve orders, twenty-one more", "C12"),
            ("1,204 orders", "C1204"),
            ("R07 and P12 and Q3", ""),
            ("on 2024-03-05 at 10:30", "- - - - -"),
            ("March 5 and 6 April", "- -"),
            ("12.5 units", "-"),
            ("week 23.", "C23"),
            ("one of them", "C1"),
            ("no-one", ""),
            ("9999999999999999999999", ""),
            ("-5.2%", "P5.2"),
            ("3rd", ""),
            ("$12 or 13", "M12 C13"),
        ];
        for (text, expected) in cases {
            let show = |n: Number| match n.unit {
                Unit::Money => format!("M{}", n.value),
                Unit::Percent => format!("P{}", n.value),
                Unit::Plain if n.whole => format!("C{}", n.value),
                Unit::Plain => "-".into(),
            };
            let found: Vec<String> = numbers(text).into_iter().map(show).collect();
            assert_eq!(found.join(" "), expected, "{text:?}");
        }
        assert_eq!(numbers("$1.2 million")[0].rounding, 50_000.0);
    }

    #[test]
    fn words_from_one_to_twenty() {
        for (i, word) in WORDS.iter().enumerate() {
            assert_eq!(number_word(word), Some(i + 1), "{word}");
            assert_eq!(number_word(&word.to_uppercase()), Some(i + 1), "{word}");
        }
        assert_eq!(["", "ones", "tree", "twenties"].map(number_word), [None; 4]);
    }

    proptest! {
        #[test]
        fn any_text(text in "[0-9$%.,a-z é-]{0,60}") {
            for number in numbers(&text) {
                prop_assert!(number.value.is_finite() && number.value >= 0.0);
                prop_assert!(text.get(number.range).is_some());
            }
        }
    }
}
