//! One typed configuration out of layers, each value with its origin.
//!
//! Layers, later over earlier: the defaults, the preset (and what it extends), the user's file (and what it
//! extends), environment variables (`TRAINER__UPDATE__LR=1e-3`), `--set update.lr=1e-3`. The defaults file
//! (`presets/defaults.toml`) lists every key with its meaning; a key that is not in it is an error that names the
//! nearest one.
//!
//! ```
//! use train_core::config::Layers;
//! let mut layers = Layers::preset("reverse")?;
//! layers.set("update.lr=1e-3", "--set")?;
//! let config = layers.resolve()?;
//! assert_eq!(config.update.lr, 1e-3);
//! assert_eq!(layers.origin("update.lr"), "--set");
//! let typo = layers.set("update.lrr=1", "--set").unwrap_err().to_string();
//! assert_eq!(typo, "unknown key `update.lrr` (--set); did you mean `update.lr`?");
//! # Ok::<(), train_core::config::ConfigError>(())
//! ```

mod check;
mod gate;
mod layers;
mod model;
mod presets;
mod routing;

pub use check::{LossChoice, batch_sentence};
pub use layers::{ConfigError, Layers, Value};
pub use model::*;
pub use presets::{PRESETS, Preset, explain, keys};

impl Config {
    /// The configuration as TOML text, without origins.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).unwrap_or_default()
    }

    /// Reads what [`Config::to_toml`] wrote.
    ///
    /// # Errors
    /// When a key is missing, unknown or of the wrong type.
    pub fn from_toml(text: &str, origin: &str) -> Result<Self, ConfigError> {
        let mut layers = Layers::defaults();
        layers.table(text, origin)?;
        layers.resolve()
    }
}
