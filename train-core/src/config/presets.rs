//! The built-in presets, and what each key means.

/// A named configuration.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// Its name.
    pub name: &'static str,
    /// One line on what it does.
    pub about: &'static str,
    /// What it sets over the defaults, as TOML.
    pub text: &'static str,
}

macro_rules! preset {
    ($name:literal, $about:literal) => {
        Preset { name: $name, about: $about, text: include_str!(concat!("../../presets/", $name, ".toml")) }
    };
}

/// All built-in presets.
pub const PRESETS: &[Preset] = &[
    preset!(
        "reverse",
        "write 4, 6, then 8 digits backwards; a small mixture of experts learns it from nothing (default)"
    ),
    preset!("reverse-dense", "the same with a dense model"),
    preset!("sort", "put 4 digits in order; slower"),
    preset!("add", "two-digit addition from nothing: the policy collapses, and a guard says so"),
    preset!("add-warm", "two-digit addition after a supervised start: solved"),
    preset!("study", "the model and the task of `trainer experiment`, sampled in bf16"),
];

/// Every key with its default, as commented TOML.
pub(super) const DEFAULTS: &str = include_str!("../../presets/defaults.toml");

/// Every key, in the order of the defaults file: `(dotted key, default as TOML, meaning)`.
#[must_use]
pub fn keys() -> Vec<(String, String, String)> {
    let (mut section, mut comment, mut keys) = (String::new(), Vec::new(), Vec::new());
    for line in DEFAULTS.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix('#') {
            comment.push(text.trim());
        } else if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned();
            comment.clear();
        } else if let Some((key, value)) = line.split_once(" = ") {
            keys.push((format!("{section}.{key}"), value.to_owned(), comment.join(" ")));
            comment.clear();
        } else {
            comment.clear();
        }
    }
    keys
}

/// The default and the meaning of a key.
#[must_use]
pub fn explain(key: &str) -> Option<(String, String)> {
    keys().into_iter().find(|(name, _, _)| name == key).map(|(_, default, meaning)| (default, meaning))
}
