//! Violations, put into clean code.

use super::tree;
use crate::key::DetRng;
use crate::python::{Finding, Kind, Token, findings, parse, read, tokens};

/// An edit of a text: bytes, and what takes their place.
pub(super) type Edit = (std::ops::Range<usize>, String);

/// Words with which something goes on.
const KEYWORDS: [&str; 14] = [
    "and", "def", "elif", "else", "for", "if", "in", "is", "lambda", "not", "or", "return", "while", "raise",
];

const NOTES: [&str; 4] = ["check this", "see above", "may change", "keep order"];

fn word_edits(source: &str, old: &str, new: &str) -> Vec<Edit> {
    let edge = |b: Option<&u8>| !b.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
    let bytes = source.as_bytes();
    let whole =
        |&at: &usize| edge(at.checked_sub(1).and_then(|i| bytes.get(i))) && edge(bytes.get(at + old.len()));
    let found = source.match_indices(old).map(|m| m.0).filter(whole);
    found.map(|at| (at..at + old.len(), new.to_owned())).collect()
}

fn apply(source: &str, mut edits: Vec<Edit>) -> String {
    edits.sort_by_key(|e| std::cmp::Reverse(e.0.start));
    let mut text = source.to_owned();
    edits.into_iter().for_each(|(range, new)| text.replace_range(range, &new));
    text
}

/// Names that assignments of a function bind, to be written with a capital.
fn locals(source: &str) -> Vec<String> {
    let first = |line: &str| {
        let (name, _) = line.trim().split_once(" = ")?;
        (line.starts_with("    ") && name.bytes().all(|b| b.is_ascii_lowercase())).then(|| name.to_owned())
    };
    let mut names: Vec<String> = source.lines().filter_map(first).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Ways to bring one violation of a rule into a function.
fn edits(source: &str, code: &str, rng: &mut DetRng) -> Vec<Vec<Edit>> {
    let tokens = tokens(source);
    let text = |t: &Token| &source[t.range.clone()];
    let operators = |wanted: &'static [&'static str]| {
        let is = move |t: &&Token| t.kind == Kind::Operator && wanted.contains(&&source[t.range.clone()]);
        tokens.iter().filter(is)
    };
    let space_after = |t: &Token| source[t.range.end..].starts_with(' ');
    let end_of_line = |t: &Token| source[t.range.end..].starts_with('\n');
    let insert = |at: usize, new: &str| vec![(at..at, new.to_owned())];
    // Ends of lines that close a statement.
    let line_ends: Vec<usize> =
        tokens.iter().filter(|t| t.kind == Kind::Newline).map(|t| t.range.start).collect();
    let simple = |end: &usize| !source[..*end].ends_with(':') && !source[..*end].ends_with("\"\"\"");
    // Starts of lines within the function, after its first two.
    let starts: Vec<usize> =
        line_ends.iter().skip(1).map(|end| end + 1).filter(|&s| s < source.len()).collect();
    let indent = |start: usize| {
        let rest = &source[start..];
        " ".repeat(rest.len() - rest.trim_start_matches(' ').len())
    };
    let compares: &[&str] = &["=", "==", "!=", "<", ">", "<=", ">=", "+=", "-="];
    let note = *rng.pick(&NOTES);
    let keywords = || tokens.iter().filter(|t| t.kind == Kind::Name && KEYWORDS.contains(&text(t)));
    // Where the one line of a block starts.
    let bodies: Vec<usize> = line_ends
        .windows(2)
        .filter(|ends| {
            let (block, after) = (ends[0] + 1, ends[1] + 1);
            let deep = |at: usize| if at < source.len() { indent(at).len() } else { 0 };
            source[..ends[0]].ends_with(':') && deep(block) > 4 && deep(after) < deep(block)
        })
        .map(|ends| ends[0] + 1)
        .collect();
    let phrase = |old: &str, new: &str| -> Vec<Vec<Edit>> {
        source.match_indices(old).map(|(at, _)| vec![(at..at + old.len(), new.to_owned())]).collect()
    };
    match code {
        "E201" => operators(&["(", "[", "{"])
            .filter(|t| !end_of_line(t))
            .map(|t| insert(t.range.end, " "))
            .collect(),
        "E202" => operators(&[")", "]", "}"]).map(|t| insert(t.range.start, " ")).collect(),
        "E203" => operators(&[",", ":"]).map(|t| insert(t.range.start, " ")).collect(),
        "E221" => {
            operators(compares).filter(|t| space_after(t)).map(|t| insert(t.range.start, " ")).collect()
        }
        "E222" => operators(compares).filter(|t| space_after(t)).map(|t| insert(t.range.end, " ")).collect(),
        "E225" => operators(compares)
            .filter(|t| space_after(t))
            .map(|t| vec![(t.range.end..t.range.end + 1, String::new())])
            .collect(),
        "E231" => operators(&[","])
            .filter(|t| space_after(t))
            .map(|t| vec![(t.range.end..t.range.end + 1, String::new())])
            .collect(),
        "E251" => operators(&["="])
            .filter(|t| !space_after(t))
            .map(|t| insert(if rng.below(2) == 0 { t.range.start } else { t.range.end }, " "))
            .collect(),
        "E261" => line_ends.iter().map(|&end| insert(end, &format!(" # {note}"))).collect(),
        "E262" => line_ends.iter().map(|&end| insert(end, &format!("  #{note}"))).collect(),
        "E265" => starts.iter().map(|&s| insert(s, &format!("{}#{note}\n", indent(s)))).collect(),
        "E303" => starts.iter().map(|&s| insert(s, "\n\n")).collect(),
        "E501" => {
            let length = |end: usize| end - source[..end].rfind('\n').map_or(0, |at| at + 1);
            let filler = |end: usize| {
                format!("  # {}", "note ".repeat((86 - length(end).min(70)) / 5)).trim_end().to_owned()
            };
            line_ends.iter().map(|&end| insert(end, &filler(end))).collect()
        }
        "E701" => {
            let mut found = Vec::new();
            for (i, &end) in line_ends.iter().enumerate() {
                let line = source[..end].rfind('\n').map_or(0, |at| at + 1);
                let (body, next) = (line_ends.get(i + 1).copied(), line_ends.get(i + 2).copied());
                let Some(body) = body.filter(|_| source[..end].ends_with(':') && line > 0) else { continue };
                let only = next.is_none() || indent(body + 1).len() < indent(end + 1).len();
                let words = source[line..end].trim_start();
                let plain = ["if ", "for ", "while ", "else"].iter().any(|w| words.starts_with(w));
                if only && plain && !source[end + 1..body].trim_start().starts_with(['i', 'f', 'w', 't']) {
                    found.push(vec![(end..end + 1 + indent(end + 1).len(), " ".to_owned())]);
                }
            }
            found
        }
        "E703" => line_ends.iter().filter(|e| simple(e)).map(|&end| insert(end, ";")).collect(),
        "E711" => [phrase(" is None", " == None"), phrase(" is not None", " != None")].concat(),
        "E713" => {
            let mut found = Vec::new();
            for (at, _) in source.match_indices(" not in ") {
                let word = source[..at].rfind([' ', '(']).map_or(0, |i| i + 1);
                found.push(vec![(word..word, "not ".to_owned()), (at..at + 8, " in ".to_owned())]);
            }
            found
        }
        "E722" => phrase("except ValueError:", "except:"),
        "F841" => starts
            .iter()
            .map(|&s| insert(s, &format!("{}unused_{} = 0\n", indent(s), rng.below(90))))
            .collect(),
        "B006" => {
            let guard = "    if extra is None:\n        extra = []\n";
            match (source.find("extra=None"), source.find(guard)) {
                (Some(a), Some(b)) => {
                    vec![vec![(a..a + 10, "extra=[]".to_owned()), (b..b + guard.len(), String::new())]]
                }
                _ => Vec::new(),
            }
        }
        "C408" => [phrase(" = {}\n", " = dict()\n"), phrase(" = []\n", " = list()\n")].concat(),
        "N806" => {
            let rename = |name: String| word_edits(source, &name, &crate::prose::capital(&name));
            locals(source).into_iter().map(rename).collect()
        }
        "SIM118" => {
            let loops = source.match_indices(" in totals:").chain(source.match_indices(" in links and"));
            loops
                .map(|(at, m)| insert(at + m.len() - if m.ends_with(':') { 1 } else { 4 }, ".keys()"))
                .collect()
        }
        "W291" => line_ends.iter().map(|&end| insert(end, "  ")).collect(),
        "W293" => starts.iter().map(|&s| insert(s, "    \n")).collect(),
        "N802" => {
            let name = tokens.get(1).map(|t| text(t).to_owned()).unwrap_or_default();
            let camel: String = name
                .split('_')
                .enumerate()
                .map(|(i, part)| if i == 0 { part.to_owned() } else { crate::prose::capital(part) })
                .collect();
            vec![word_edits(source, &name, &camel)]
        }
        "E111" => bodies.iter().map(|at| vec![(*at..at + 2, String::new())]).collect(),
        "E117" => bodies.iter().map(|&at| insert(at, "    ")).collect(),
        "E211" => {
            let follows = |pair: &&[Token]| {
                let opens = pair[1].kind == Kind::Operator && matches!(text(&pair[1]), "(" | "[");
                let value = match pair[0].kind {
                    Kind::Name => !KEYWORDS.contains(&text(&pair[0])),
                    _ => matches!(text(&pair[0]), ")" | "]"),
                };
                opens && value && pair[0].range.end == pair[1].range.start
            };
            tokens.windows(2).filter(follows).map(|pair| insert(pair[1].range.start, " ")).collect()
        }
        "E266" => starts.iter().map(|&s| insert(s, &format!("{}## {note}\n", indent(s)))).collect(),
        "E271" => keywords().filter(|t| space_after(t)).map(|t| insert(t.range.end, " ")).collect(),
        "E272" => {
            let spaced = |t: &&Token| {
                let before = &source[..t.range.start];
                before.ends_with(' ') && !before.ends_with("  ")
            };
            keywords().filter(spaced).map(|t| insert(t.range.start, " ")).collect()
        }
        // Of a method the first, of a function in a function the other.
        "E301" | "E306" => {
            let blank = |at: usize| source[at + 2..].trim_start_matches(' ').starts_with("def ");
            let found = source.match_indices("\n\n ").map(|m| m.0).filter(|&at| blank(at));
            found.map(|at| vec![(at..at + 1, String::new())]).collect()
        }
        "W191" => starts.iter().map(|&s| insert(s, &format!("\t# {note}\n"))).collect(),
        "W605" => {
            let (start, end) = source.find("\"\"\"").map_or((0, 0), |at| {
                (at + 3, source[at + 3..].find("\"\"\"").map_or(at + 3, |length| at + 3 + length))
            });
            let escapes = |&at: &usize| {
                source[..at].ends_with(' ') && !source[at..].starts_with(|c: char| "abfnrtvxNuU".contains(c))
            };
            (start..end).filter(escapes).map(|at| insert(at, "\\")).collect()
        }
        _ => tree::edits(source, code, rng),
    }
}

/// Rules that are broken inside a function or class.
pub(super) const INSIDE: &[&str] = &[
    "B006", "B007", "B008", "C400", "C401", "C402", "C403", "C404", "C405", "C408", "C411", "C416", "C417",
    "C419", "E111", "E117", "E201", "E202", "E203", "E211", "E221", "E222", "E225", "E231", "E251", "E261",
    "E262", "E265", "E266", "E271", "E272", "E301", "E303", "E306", "E501", "E701", "E702", "E703", "E711",
    "E712", "E713", "E714", "E721", "E722", "E731", "E741", "F541", "F821", "F841", "N801", "N802", "N803",
    "N806", "SIM102", "SIM103", "SIM108", "SIM118", "SIM201", "SIM202", "SIM210", "SIM300", "W191", "W291",
    "W293", "W605",
];

/// Rules that are broken between functions. W391 is not: what follows the last line of an answer does not count.
pub(super) const BETWEEN: &[&str] = &["E302", "E305", "E401", "E402", "F401", "F811"];

/// The violations of a text that parses.
pub(super) fn lint(source: &str) -> Option<Vec<Finding>> {
    read(source).ok().map(|parsed| findings(source, &parsed))
}

/// One more violation of a rule in a function, and no other change of what the lint says; `None` where there is no place.
pub(super) fn break_rule(source: &str, code: &str, rng: &mut DetRng) -> Option<String> {
    let mut ways = edits(source, code, rng);
    rng.shuffle(&mut ways);
    let codes = |source: &str| Some(lint(source)?.into_iter().map(|f| f.code).collect::<Vec<_>>());
    let mut expected = codes(source)?;
    expected.push(rule(code)?);
    expected.sort_unstable();
    ways.into_iter().filter(|w| !w.is_empty()).take(6).find_map(|way| {
        let text = apply(source, way);
        let mut found = codes(&text)?;
        found.sort_unstable();
        (found == expected).then_some(text)
    })
}

/// The rule's own name, which lives as long as the program.
fn rule(code: &str) -> Option<&'static str> {
    crate::python::RULES.iter().map(|r| r.0).find(|known| *known == code)
}

/// A fault of syntax; `None` where there is no place.
pub(super) fn break_syntax(source: &str, rng: &mut DetRng) -> Option<String> {
    let mut ways: Vec<Vec<Edit>> = Vec::new();
    for (at, _) in source.match_indices(":\n") {
        ways.push(vec![(at..at + 1, String::new())]);
    }
    for (at, _) in source.match_indices(")\n") {
        ways.push(vec![(at..at + 1, String::new())]);
    }
    for (old, new) in [("    return ", "    retrun "), ("    for ", "    fro "), ("\ndef ", "\ndfe ")] {
        ways.extend(source.match_indices(old).map(|(at, _)| vec![(at..at + old.len(), new.to_owned())]));
    }
    rng.shuffle(&mut ways);
    ways.into_iter().take(8).find_map(|way| Some(apply(source, way)).filter(|text| parse(text).is_err()))
}
