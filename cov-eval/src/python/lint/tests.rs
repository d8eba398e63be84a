//! What the lint finds in small programs is what flake8 and its plug-ins find (`tests/oracles/lint_cases.py`).

use std::collections::BTreeMap;

use super::*;
use crate::python::read;

/// For each program the rule that it is about, whether that is broken, the findings of flake8, and the text.
fn cases() -> Vec<(&'static str, bool, Vec<String>, String)> {
    let text = include_str!("../../../tests/golden/lint.txt");
    let mut cases: Vec<(&str, bool, Vec<String>, String)> = Vec::new();
    for line in text.split_inclusive('\n') {
        match line.strip_prefix("=== ").and_then(|head| head.split_once(':')) {
            Some((head, findings)) => {
                let (code, verdict) = head.split_once(' ').unwrap();
                let findings = findings.split_whitespace().map(str::to_owned).collect();
                cases.push((code, verdict == "yes", findings, String::new()));
            }
            None if !line.starts_with(';') => cases.last_mut().unwrap().3.push_str(line),
            None => {}
        }
    }
    cases
}

#[test]
fn flake8_finds_the_same() {
    let mut counts: BTreeMap<&str, [usize; 2]> = BTreeMap::new();
    let mut different = Vec::new();
    for (code, broken, mut expected, source) in cases() {
        counts.entry(code).or_default()[usize::from(broken)] += 1;
        let parsed = read(&source).unwrap();
        let mut found: Vec<String> =
            findings(&source, &parsed).iter().map(|f| format!("{}:{}", f.line, f.code)).collect();
        found.sort();
        expected.sort();
        if found != expected {
            different.push(format!("{code} {broken}\n{source}flake8: {expected:?}\nhere:   {found:?}\n"));
        }
    }
    assert!(different.is_empty(), "{} differ\n{}", different.len(), different.join("\n"));
    for (code, _) in RULES {
        assert!(
            counts.get(code).is_some_and(|c| c.iter().all(|&n| n >= 4)),
            "{code}: {:?}",
            counts.get(code)
        );
    }
}
