//! The cells of a study: which settings are compared.

use serde::{Deserialize, Serialize};

/// A study of the claims of a paper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Study {
    /// "Stabilizing RL with LLMs" (arXiv 2512.01374): optimiser steps a batch × ablations of MiniRL × Routing Replay.
    Stability,
    /// SAPO (arXiv 2511.20347): objectives × dense and mixture of experts, and SAPO's `τ_neg`.
    Sapo,
}

/// One setting of a study, to be run with several seeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its name, also of its files.
    pub name: String,
    /// Which table it belongs to, and the row and the column of it there.
    pub place: [String; 3],
    /// Whether the model has experts.
    pub moe: bool,
    /// `key=value` over the study's preset.
    pub set: Vec<String>,
}

/// How much of a study is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// The whole grid.
    Full,
    /// The part that a few minutes allow.
    Quick,
}

const MINI_RL: &str = "kind = \"mini_rl\", clip_low = 0.2, clip_high = 0.27, cap = 5.0";

/// MiniRL and its ablations: name and `loss.overrides`.
const ABLATIONS: [(&str, &str); 4] = [
    ("MiniRL", ""),
    ("no IS weight", "objective = { BASE, no_train_infer_is = true }"),
    ("length-normalised", "aggregation = { mode = \"seq_mean_token_mean\" }"),
    ("no clip", "objective = { BASE, no_clip = true }"),
];

impl Study {
    /// Its name on the command line and of its files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stability => "stability",
            Self::Sapo => "sapo",
        }
    }

    /// Its settings, in the order in which they are run.
    #[must_use]
    pub fn settings(self, extent: Extent) -> Vec<Setting> {
        match self {
            Self::Stability => stability(extent),
            Self::Sapo => sapo(),
        }
    }
}

fn batch(updates: usize, per_update: usize) -> [String; 2] {
    // The mini-batch stays as it is; a larger batch is more of them (2512.01374 §4.1).
    [format!("update.minibatches={updates}"), format!("rollout.prompts={}", updates * per_update)]
}

fn slug(text: &str) -> String {
    text.to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "_")
}

/// Prompts of one mini-batch.
pub(super) const PROMPTS: usize = 8;

fn stability(extent: Extent) -> Vec<Setting> {
    let (batches, ablations): (&[usize], &[usize]) = match extent {
        Extent::Full => (&[1, 2, 4, 8], &[0, 1, 2, 3]),
        Extent::Quick => (&[1, 4], &[0, 3]),
    };
    let mut all = Vec::new();
    for n in batches {
        for (name, overrides) in ablations.iter().map(|i| ABLATIONS[*i]) {
            for (replay, routing) in [("none", "natural"), ("R2", "r2"), ("R3", "r3")] {
                // With one update the old policy is the current one: R2 is no replay, nothing is ever clipped.
                if *n == 1 && (routing == "r2" || name == "no clip") {
                    continue;
                }
                let mut set = batch(*n, PROMPTS).to_vec();
                set.push("loss.objective=mini_rl".into());
                set.push(format!("update.routing={routing}"));
                if !overrides.is_empty() {
                    set.push(format!("loss.overrides={{ {} }}", overrides.replace("BASE", MINI_RL)));
                }
                all.push(Setting {
                    name: format!("n{n}-{}-{}", slug(name), slug(replay)),
                    place: [format!("N = {n}"), name.into(), replay.into()],
                    moe: true,
                    set,
                });
            }
        }
    }
    all
}

fn sapo() -> Vec<Setting> {
    let objectives = [
        ("SAPO", "sapo", "natural"),
        ("GSPO", "gspo", "natural"),
        ("GRPO", "grpo", "natural"),
        ("GRPO + R2", "grpo", "r2"),
        ("CISPO", "cispo", "natural"),
        ("MiniRL", "mini_rl", "natural"),
    ];
    let mut all = Vec::new();
    for (model, moe) in [("MoE", true), ("dense", false)] {
        let base = |objective: &str, routing: &str| {
            let mut set = batch(4, PROMPTS).to_vec();
            set.push(format!("loss.objective={objective}"));
            set.push(format!("update.routing={routing}"));
            set
        };
        for (name, objective, routing) in objectives {
            if moe || routing == "natural" {
                all.push(Setting {
                    name: format!("{}-{}", slug(model), slug(name)),
                    place: ["objectives, N = 4".into(), name.into(), model.into()],
                    moe,
                    set: base(objective, routing),
                });
            }
        }
        // 1.05 is the preset's, which stands among the objectives.
        for tau in [0.95, 1.0] {
            let objective = format!("kind = \"sapo\", tau_pos = 1.0, tau_neg = {tau:?}");
            let mut set = base("sapo", "natural");
            set.push(format!("loss.overrides={{ objective = {{ {objective} }} }}"));
            all.push(Setting {
                name: format!("{}-tau_{}", slug(model), slug(&format!("{tau:.2}"))),
                place: ["SAPO, N = 4".into(), format!("τ_neg = {tau:.2}"), model.into()],
                moe,
                set,
            });
        }
    }
    all
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::config::Layers;

    #[test]
    fn every_setting_is_a_configuration_of_its_own() {
        for study in [Study::Stability, Study::Sapo] {
            for extent in [Extent::Full, Extent::Quick] {
                let settings = study.settings(extent);
                let mut seen = Vec::new();
                for setting in &settings {
                    let mut layers = Layers::preset("study").unwrap();
                    for set in &setting.set {
                        layers.set(set, "study").unwrap();
                    }
                    let config = layers.resolve().unwrap();
                    config.loss_choice().unwrap();
                    assert!(!seen.contains(&(config.clone(), setting.moe)), "{} is twice in", setting.name);
                    seen.push((config, setting.moe));
                }
                let mut names: Vec<_> = settings.iter().map(|s| &s.name).collect();
                names.sort();
                names.dedup();
                assert_eq!(names.len(), settings.len());
            }
        }
        assert_eq!(Study::Stability.settings(Extent::Full).len(), 3 * 12 + 6);
        assert_eq!(Study::Sapo.settings(Extent::Full).len(), 6 + 5 + 4);
    }
}
