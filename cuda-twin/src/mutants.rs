//! Barrier mutants: the source with one synchronisation taken out.

/// A source with one barrier or fence removed. A test that passes on it does not show that the barrier is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mutant {
    /// The line of the removed call, from 1. Lines keep their numbers.
    pub line: u32,
    /// What was removed: `__syncthreads` and so on.
    pub call: &'static str,
    /// The changed source.
    pub source: String,
}

/// Longer names first, so that none is taken for the beginning of another.
const CALLS: [&str; 8] = [
    "__syncthreads_count",
    "__syncthreads_and",
    "__syncthreads_or",
    "__syncthreads",
    "__syncwarp",
    "__threadfence_system",
    "__threadfence_block",
    "__threadfence",
];

/// One mutant for each call of a barrier or fence in the text: `__syncthreads`, `__syncwarp`, `__threadfence` and their
/// variants. A call without a value becomes `((void)0)`; one with a vote becomes the thread's own vote. Comments and strings
/// are left alone.
///
/// ```
/// let source = "a();\n__syncthreads(); // not __syncthreads()\nb();\n__syncwarp(mask);\n";
/// let mutants: Vec<_> = cuda_twin::mutants(source).collect();
/// assert_eq!(mutants.iter().map(|m| (m.line, m.call)).collect::<Vec<_>>(), [(2, "__syncthreads"), (4, "__syncwarp")]);
/// assert!(mutants[0].source.starts_with("a();\n((void)0); // not"));
/// ```
pub fn mutants(source: &str) -> impl Iterator<Item = Mutant> + '_ {
    calls(source).into_iter().map(move |(start, open, end, call)| {
        let own_vote = call.starts_with("__syncthreads_");
        let instead = if own_vote {
            format!("(({}) != 0)", &source[open + 1..end - 1])
        } else {
            "((void)0)".to_string()
        };
        Mutant {
            line: 1 + source[..start].matches('\n').count() as u32,
            call,
            source: format!("{}{instead}{}", &source[..start], &source[end..]),
        }
    })
}

/// Start, opening bracket and end of each call, and its name.
fn calls(source: &str) -> Vec<(usize, usize, usize, &'static str)> {
    let (text, mut found, mut i) = (source.as_bytes(), Vec::new(), 0);
    while i < text.len() {
        let rest = &source[i..];
        let skip = |open: usize, close: &str| {
            rest[open..].find(close).map_or(rest.len(), |n| open + n + close.len())
        };
        if rest.starts_with("//") {
            i += skip(2, "\n");
        } else if rest.starts_with("/*") {
            i += skip(2, "*/");
        } else if text[i] == b'"' || text[i] == b'\'' {
            i += quoted(rest.as_bytes());
        } else if text[i] == b'_' || text[i].is_ascii_alphanumeric() {
            let word = rest.bytes().take_while(|c| *c == b'_' || c.is_ascii_alphanumeric()).count();
            let call = CALLS.into_iter().find(|call| *call == &rest[..word]);
            let gap = rest[word..].bytes().take_while(u8::is_ascii_whitespace).count();
            if let (Some(call), Some(length)) = (call, bracketed(&rest[word + gap..])) {
                found.push((i, i + word + gap, i + word + gap + length, call));
            }
            i += word;
        } else {
            i += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    found
}

/// Length of the quoted text that `rest` starts with.
fn quoted(rest: &[u8]) -> usize {
    let mut i = 1;
    while i < rest.len() && rest[i] != rest[0] && rest[i] != b'\n' {
        i += if rest[i] == b'\\' { 2 } else { 1 };
    }
    (i + 1).min(rest.len())
}

/// Length of `( ... )` at the start of `rest`.
fn bracketed(rest: &str) -> Option<usize> {
    let mut depth = 0;
    for (i, c) in rest.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return (i > 0).then_some(i + 1);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::mutants;

    #[test]
    fn a_vote_stays_the_threads_own_and_names_are_whole_words() {
        let source = "x = __syncthreads_or(f(1) > 0);\n'\\''; my__syncthreads(); /* __syncthreads(); */ \"__syncwarp()\";";
        let found: Vec<_> = mutants(source).collect();
        assert_eq!(found.len(), 1);
        assert!(found[0].source.starts_with("x = ((f(1) > 0) != 0);\n"));
    }

    #[test]
    fn text_that_ends_early_or_is_not_ascii_is_no_problem() {
        for source in ["__syncthreads", "__syncthreads(", "\"", "'\\", "/*", "é __syncthreads() é", "// é"]
        {
            let expected = usize::from(source.contains('é') && source.contains("__"));
            assert_eq!(mutants(source).count(), expected, "{source}");
        }
    }
}
