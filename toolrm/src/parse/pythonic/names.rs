//! Names.

/// Whether a name is a word of the language.
pub(super) fn keyword(name: &str) -> bool {
    match name.len() {
        2 => matches!(name, "as" | "if" | "in" | "is" | "or"),
        3 => matches!(name, "and" | "def" | "del" | "for" | "not" | "try"),
        4 => matches!(name, "None" | "True" | "elif" | "else" | "from" | "pass" | "with"),
        5 => matches!(name, "False" | "async" | "await" | "break" | "class" | "raise" | "while" | "yield"),
        6 => matches!(name, "assert" | "except" | "global" | "import" | "lambda" | "return"),
        7 => name == "finally",
        8 => matches!(name, "continue" | "nonlocal"),
        _ => false,
    }
}

/// Whether a name can be a keyword argument.
pub(crate) fn identifier(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c == '_' || unicode_ident::is_xid_start(c))
        && chars.all(unicode_ident::is_xid_continue)
        && !keyword(name)
        && unicode_normalization::is_nfkc(name)
}
