//! Which instances are to be answered.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::RunError;
use crate::key::{InstanceKey, Split, TaskId};
use crate::model::TaskConfig;
use crate::tasks::task;

/// Instances of one task, length and difficulty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cell {
    /// The task.
    pub task: TaskId,
    /// Output tokens.
    pub length: u32,
    /// 0 to 3.
    #[serde(default = "one_u8")]
    pub difficulty: u8,
    /// How many instances.
    pub n: u64,
    /// Pads the material to about so many tokens.
    #[serde(default)]
    pub in_tokens: Option<u32>,
}

/// What is evaluated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The population; `test` by default.
    #[serde(default = "test_split")]
    pub split: Split,
    /// The seed of the instances.
    #[serde(default)]
    pub base_seed: u64,
    /// Answers to each instance.
    #[serde(default = "one_u32")]
    pub samples_per_instance: u32,
    /// The cells.
    pub cells: Vec<Cell>,
}

fn one_u8() -> u8 {
    1
}

fn one_u32() -> u32 {
    1
}

fn test_split() -> Split {
    Split::Test
}

/// One answer that is planned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Which cell of the plan.
    pub cell: usize,
    /// The instance.
    pub key: InstanceKey,
    /// How it is made.
    pub config: TaskConfig,
    /// Which of its samples.
    pub sample: u32,
}

impl Plan {
    /// The suite: every task at 1K, 2K, 4K and 8K, `n` instances each.
    pub fn suite(n: u64) -> Self {
        let cell = |task, length| Cell { task, length, difficulty: 1, n, in_tokens: None };
        let lengths = |&task: &TaskId| [1024, 2048, 4096, 8192].map(|length| cell(task, length));
        let cells = TaskId::ALL.iter().flat_map(lengths).collect();
        Self { split: Split::Test, base_seed: 0, samples_per_instance: 1, cells }
    }

    /// Everything that is planned, in the order of the cells.
    ///
    /// # Errors
    /// No cells, a cell of nothing, two cells with the same instances, a key outside its ranges.
    pub fn items(&self) -> Result<Vec<Item>, RunError> {
        if self.cells.is_empty() || self.samples_per_instance == 0 {
            return Err(RunError::Plan("there are no cells, or no samples".into()));
        }
        let mut seen = BTreeSet::new();
        let mut items = Vec::new();
        for (cell, &Cell { task: id, length, difficulty, n, in_tokens }) in self.cells.iter().enumerate() {
            let name = format!("cell {id}, length {length}, difficulty {difficulty}");
            if n == 0 {
                return Err(RunError::Plan(format!("{name}: n is 0")));
            }
            if !seen.insert((id, length, difficulty)) {
                return Err(RunError::Plan(format!("{name}: given twice")));
            }
            let config = TaskConfig { in_tokens, ..TaskConfig::default() };
            for index in 0..n {
                let &Self { split, base_seed, .. } = self;
                let key = InstanceKey {
                    task: id,
                    version: task(id).version(),
                    split,
                    length,
                    difficulty,
                    base_seed,
                    index,
                };
                key.check()?;
                for sample in 0..self.samples_per_instance {
                    items.push(Item { cell, key: key.clone(), config: config.clone(), sample });
                }
            }
        }
        Ok(items)
    }

    /// What must be equal for two runs to be the same: the plan, the crate's version and those of the tasks.
    pub(super) fn identity(&self) -> serde_json::Value {
        let versions: Vec<(String, u32)> =
            TaskId::ALL.iter().map(|&id| (id.to_string(), task(id).version())).collect();
        serde_json::json!({ "plan": self, "crate_version": env!("CARGO_PKG_VERSION"), "task_versions": versions })
    }

    /// SHA-256 of the identity.
    pub fn fingerprint(&self) -> [u8; 32] {
        Sha256::digest(self.identity().to_string().as_bytes()).into()
    }
}
