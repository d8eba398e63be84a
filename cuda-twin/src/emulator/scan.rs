//! Finds the kernels of a source in its preprocessed text.

/// A kernel's name and the line of its declaration.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Declaration {
    pub(crate) name: String,
    pub(crate) line: u32,
}

/// The functions after each `__global__` of the compiler's preprocessed text with line markers. Kernels made by macros are
/// in it like others, at the line of the macro's use.
pub(crate) fn declarations(preprocessed: &str) -> Vec<Declaration> {
    let (mut found, mut line, mut open) = (Vec::new(), 0, None::<(u32, String)>);
    for text in preprocessed.lines() {
        if let Some(marker) = text.strip_prefix("# ") {
            // `# 12 "k.cu"`: the next line is line 12 of k.cu.
            line = marker.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(line);
            continue;
        }
        let mut parts = text.split("__global__");
        let mut part = parts.next();
        while let Some(words) = part {
            if let Some((at, mut head)) = open.take() {
                head.push(' ');
                match words.split_once('(') {
                    Some((rest, _)) => {
                        head.push_str(rest);
                        found.extend(last_word(&head).map(|name| Declaration { name, line: at }));
                    }
                    None => {
                        head.push_str(words);
                        open = Some((at, head));
                    }
                }
            }
            part = parts.next();
            if part.is_some() {
                open = Some((line, String::new()));
            }
        }
        line += 1;
    }
    let mut seen = std::collections::HashSet::new();
    found.retain(|d: &Declaration| seen.insert(d.name.clone())); // a declaration and its definition
    found
}

fn last_word(head: &str) -> Option<String> {
    let word = head.split(|c: char| c != '_' && !c.is_ascii_alphanumeric()).rfind(|w| !w.is_empty())?;
    (!word.starts_with(|c: char| c.is_ascii_digit())).then(|| word.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_found_over_several_lines_and_several_in_one() {
        let text = "# 1 \"k.cu\"\nint f(int);\nextern \"C\" __global__ void\n  a(int x) {}\n# 40 \"k.cu\"\n\
                    __global__ void b(float) {} __global__ void c () {}\n__global__ void a(int x);\n";
        let expected = [("a", 2), ("b", 40), ("c", 40)];
        let found = declarations(text);
        assert_eq!(found.iter().map(|d| (d.name.as_str(), d.line)).collect::<Vec<_>>(), expected);
    }
}
