//! What must hold of the `[gate]` section.

use lcg::{LabelConfig, Rules};
use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::layers::{deep_merge, typed};
use super::model::{GateSection, Predictor};

/// `base` with the fields of `over` put over its own.
fn over<T: Serialize + DeserializeOwned>(base: &T, over: &Table) -> Result<T, String> {
    let Value::Table(mut table) = Value::try_from(base).map_err(|e| e.to_string())? else {
        return Err("not a table".into());
    };
    deep_merge(&mut table, over);
    typed(table)
}

impl GateSection {
    /// The rules of the section, over those that the gate's file has.
    ///
    /// # Errors
    /// A field that is unknown or of the wrong type.
    pub fn rules_over(&self, base: &Rules) -> Result<Rules, String> {
        over(base, &self.rules)
    }

    /// The labels of the direct rule, over its defaults.
    ///
    /// # Errors
    /// A field that is unknown or of the wrong type.
    pub fn direct_labels(&self) -> Result<LabelConfig, String> {
        over(&LabelConfig::default(), &self.labels)
    }

    /// The key at fault, its value and why.
    pub(super) fn check(&self) -> Result<(), (&'static str, String, String)> {
        if !self.enabled {
            return Ok(());
        }
        if !self.replay {
            let reason = "a gated rollout is trained on under the masks it was drawn with: scored without them, every \
                          ratio is off by the mass that the gate removed. Leave it true, or set gate.enabled = false";
            return Err(("gate.replay", "false".into(), reason.into()));
        }
        if self.predictor == Predictor::Mlp && self.path.is_empty() {
            let reason =
                "expected the folder of a gate (`trainer gate train` makes one), or another gate.predictor";
            return Err(("gate.path", "\"\"".into(), reason.into()));
        }
        if !(0.0..=1e6).contains(&self.leak_coef) {
            return Err(("gate.leak_coef", self.leak_coef.to_string(), "expected 0 to 1000000".into()));
        }
        if self.refresh_every > 0 && self.predictor != Predictor::Mlp {
            let reason = "only the network of gate.predictor = \"mlp\" is trained";
            return Err(("gate.refresh_every", self.refresh_every.to_string(), reason.into()));
        }
        if self.refresh_steps == 0 {
            return Err(("gate.refresh_steps", "0".into(), "expected 1 or more".into()));
        }
        self.rules_over(&Rules::default()).map_err(|e| ("gate.rules", self.rules.to_string(), e))?;
        self.direct_labels().map_err(|e| ("gate.labels", self.labels.to_string(), e))?;
        Ok(())
    }
}
