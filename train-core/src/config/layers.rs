//! Merging layers and keeping the origin of every value.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::Table;

use super::model::Config;
use super::presets::{DEFAULTS, PRESETS};

/// A TOML value.
pub type Value = toml::Value;

/// A configuration at fault.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A key that does not exist.
    #[error("unknown key `{key}` ({origin}){}", suggestion.as_ref().map_or(String::new(), |s| format!("; did you mean `{s}`?")))]
    UnknownKey {
        /// The key, dotted.
        key: String,
        /// Where it was set.
        origin: String,
        /// The nearest key that exists.
        suggestion: Option<String>,
    },
    /// A preset that does not exist.
    #[error("unknown preset `{name}`; there are: {known}")]
    UnknownPreset {
        /// The name given.
        name: String,
        /// All names.
        known: String,
    },
    /// Text that is not TOML.
    #[error("{origin}: {message}")]
    Syntax {
        /// The file or option.
        origin: String,
        /// The parser's reason, with the line.
        message: String,
    },
    /// A value of the wrong type.
    #[error("{key} ({origin}): {message}")]
    Type {
        /// The key, dotted.
        key: String,
        /// Where it was set.
        origin: String,
        /// What was expected.
        message: String,
    },
    /// A value without a meaning, or that does not fit another.
    #[error("{key} = {value} ({origin}): {reason}")]
    Invalid {
        /// The key, dotted.
        key: String,
        /// The value found.
        value: String,
        /// Where it was set.
        origin: String,
        /// Why not, and what would do.
        reason: String,
    },
    /// A file that cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Files that extend one another.
    #[error("{0} extends itself")]
    Cycle(String),
}

/// Keys whose values are whole: nothing below them is a key of its own.
const FREE_FORM: [&str; 6] =
    ["cov.tasks", "data.chat_variables", "gate.labels", "gate.rules", "loss.overrides", "reward.parts"];

/// Layers put over one another.
#[derive(Clone, Debug)]
pub struct Layers {
    merged: Table,
    origins: BTreeMap<String, String>,
    preset: Option<String>,
}

fn parse(text: &str, origin: &str) -> Result<Table, ConfigError> {
    text.parse::<Table>().map_err(|e| ConfigError::Syntax {
        origin: origin.into(),
        message: e.to_string().trim().replace('\n', " "),
    })
}

/// Leaves of a table as dotted keys.
fn leaves(prefix: &str, table: &Table, out: &mut Vec<(String, Value)>) {
    for (name, value) in table {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value {
            Value::Table(inner) if !FREE_FORM.contains(&key.as_str()) => leaves(&key, inner, out),
            other => out.push((key, other.clone())),
        }
    }
}

impl Layers {
    /// The defaults alone.
    #[must_use]
    pub fn defaults() -> Self {
        let merged = parse(DEFAULTS, "defaults").unwrap_or_default();
        Self { merged, origins: BTreeMap::new(), preset: None }
    }

    /// The defaults with a preset over them.
    ///
    /// # Errors
    /// When there is no such preset.
    pub fn preset(name: &str) -> Result<Self, ConfigError> {
        let mut layers = Self::defaults();
        layers.put_preset(name, &mut Vec::new())?;
        layers.preset = Some(name.to_owned());
        Ok(layers)
    }

    /// The preset these layers stand on.
    #[must_use]
    pub fn preset_name(&self) -> Option<&str> {
        self.preset.as_deref()
    }

    fn put_preset(&mut self, name: &str, seen: &mut Vec<String>) -> Result<(), ConfigError> {
        let Some(preset) = PRESETS.iter().find(|p| p.name == name) else {
            let known = PRESETS.iter().map(|p| p.name).collect::<Vec<_>>().join(", ");
            return Err(ConfigError::UnknownPreset { name: name.into(), known });
        };
        if seen.contains(&preset.name.to_owned()) {
            return Err(ConfigError::Cycle(preset.name.into()));
        }
        seen.push(preset.name.into());
        let mut table = parse(preset.text, preset.name)?;
        if let Some(Value::String(base)) = table.remove("extends") {
            self.put_preset(&base, seen)?;
        }
        self.merge(&table, &format!("preset {name}"))
    }

    /// Puts a file over the layers. With `extends = "preset or file"` that comes first; without, the file stands on
    /// what is there.
    ///
    /// # Errors
    /// When a file cannot be read, is not TOML or has an unknown key.
    pub fn file(&mut self, path: &Path) -> Result<(), ConfigError> {
        self.put_file(path, &mut Vec::new())
    }

    fn put_file(&mut self, path: &Path, seen: &mut Vec<PathBuf>) -> Result<(), ConfigError> {
        if seen.contains(&path.to_path_buf()) {
            return Err(ConfigError::Cycle(path.display().to_string()));
        }
        seen.push(path.to_path_buf());
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Io { path: path.to_path_buf(), source })?;
        let origin = path.display().to_string();
        let mut table = parse(&text, &origin)?;
        if let Some(Value::String(base)) = table.remove("extends") {
            let file = path.parent().unwrap_or(Path::new(".")).join(&base);
            if file.is_file() {
                self.put_file(&file, seen)?;
            } else {
                *self = Self::preset(&base)?;
            }
        }
        self.merge(&table, &origin)
    }

    /// Puts TOML text over the layers.
    ///
    /// # Errors
    /// As [`Layers::file`].
    pub fn table(&mut self, text: &str, origin: &str) -> Result<(), ConfigError> {
        self.merge(&parse(text, origin)?, origin)
    }

    /// Puts one `key=value` over the layers. A value that is not TOML is taken as a string.
    ///
    /// # Errors
    /// When there is no `=`, or no such key.
    pub fn set(&mut self, assignment: &str, origin: &str) -> Result<(), ConfigError> {
        let Some((key, value)) = assignment.split_once('=') else {
            let message = format!("expected key=value, got `{assignment}`");
            return Err(ConfigError::Syntax { origin: origin.into(), message });
        };
        let (key, value) = (key.trim(), value.trim());
        let value = parse(&format!("x = {value}"), origin)
            .ok()
            .and_then(|mut t| t.remove("x"))
            .unwrap_or_else(|| Value::String(value.into()));
        let leaf = key.rsplit('.').next().unwrap_or(key).to_owned();
        let mut table = Table::from_iter([(leaf, value)]);
        for name in key.rsplit('.').skip(1) {
            table = Table::from_iter([(name.to_owned(), Value::Table(table))]);
        }
        self.merge(&table, origin)
    }

    /// Puts variables such as `TRAINER__UPDATE__LR` over the layers.
    ///
    /// # Errors
    /// As [`Layers::set`].
    pub fn environment(
        &mut self,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(), ConfigError> {
        for (name, value) in variables {
            if let Some(rest) = name.strip_prefix("TRAINER__") {
                let key = rest.to_lowercase().replace("__", ".");
                self.set(&format!("{key}={value}"), &format!("environment variable {name}"))?;
            }
        }
        Ok(())
    }

    fn merge(&mut self, table: &Table, origin: &str) -> Result<(), ConfigError> {
        let mut values = Vec::new();
        leaves("", table, &mut values);
        for (key, value) in values {
            let Some(slot) = self.slot(&key) else {
                return Err(ConfigError::UnknownKey {
                    suggestion: self.nearest(&key),
                    key,
                    origin: origin.into(),
                });
            };
            // A whole number is a fine value for a key that holds a fraction.
            *slot = match (&*slot, value) {
                (Value::Float(_), Value::Integer(i)) => Value::Float(i as f64),
                (_, value) => value,
            };
            self.origins.insert(key, origin.into());
        }
        Ok(())
    }

    fn slot(&mut self, key: &str) -> Option<&mut Value> {
        let (section, name) = key.split_once('.')?;
        self.merged.get_mut(section)?.as_table_mut()?.get_mut(name)
    }

    fn nearest(&self, key: &str) -> Option<String> {
        let mut all = Vec::new();
        leaves("", &self.merged, &mut all);
        let leaf = |k: &str| k.rsplit('.').next().unwrap_or(k).to_owned();
        let score = |known: &str| {
            strsim::jaro_winkler(key, known).max(0.98 * strsim::jaro_winkler(&leaf(key), &leaf(known)))
        };
        let best = all.into_iter().map(|(k, _)| k).max_by(|a, b| score(a).total_cmp(&score(b)))?;
        (score(&best) > 0.8).then_some(best)
    }

    /// Where a key was set: `default`, `preset NAME`, a file, an environment variable or `--set`.
    #[must_use]
    pub fn origin(&self, key: &str) -> String {
        self.origins.get(key).cloned().unwrap_or_else(|| "default".into())
    }

    /// Every key with its value as TOML and its origin.
    #[must_use]
    pub fn values(&self) -> Vec<(String, String, String)> {
        let mut all = Vec::new();
        leaves("", &self.merged, &mut all);
        all.into_iter().map(|(key, value)| (key.clone(), value.to_string(), self.origin(&key))).collect()
    }

    /// The typed configuration, checked.
    ///
    /// # Errors
    /// When a value has the wrong type, no meaning, or does not fit another.
    pub fn resolve(&self) -> Result<Config, ConfigError> {
        let config: Config =
            serde_path_to_error::deserialize(Value::Table(self.merged.clone())).map_err(|e| {
                let key = e.path().to_string();
                ConfigError::Type {
                    origin: self.origin(&key),
                    key,
                    message: e.inner().to_string().trim().to_owned(),
                }
            })?;
        config.check(&|key| self.origin(key))?;
        Ok(config)
    }
}

impl Config {
    /// A preset, as it is.
    ///
    /// # Errors
    /// When there is no such preset.
    pub fn preset(name: &str) -> Result<Self, ConfigError> {
        Layers::preset(name)?.resolve()
    }
}

/// Merges `over` into `base`, table by table.
pub(super) fn deep_merge(base: &mut Table, over: &Table) {
    for (key, value) in over {
        match (base.get_mut(key), value) {
            // Tagged values (`kind = …`) of another kind replace, they do not mix.
            (Some(Value::Table(inner)), Value::Table(more))
                if more.get("kind").is_none_or(|k| inner.get("kind") == Some(k)) =>
            {
                deep_merge(inner, more);
            }
            _ => drop(base.insert(key.clone(), value.clone())),
        }
    }
}

/// Reads a TOML table as a typed value.
pub(super) fn typed<T: for<'a> serde::Deserialize<'a>>(table: Table) -> Result<T, String> {
    T::deserialize(Value::Table(table)).map_err(|e| e.to_string().trim().to_owned())
}
