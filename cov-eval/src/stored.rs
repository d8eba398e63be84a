//! Instances that were stored, checked when they are read.

use serde::Deserialize;

use crate::error::GenError;
use crate::key::InstanceKey;
use crate::model::{Budget, Constraint, Instance, Material, Memo, Prompt, SCHEMA};
use crate::tasks::Targets;

/// The stored form, which is taken as an [`Instance`] only where it is one.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stored {
    schema: u32,
    id: String,
    key: InstanceKey,
    prompt: Prompt,
    material: Material,
    constraints: Vec<Constraint>,
    targets: Targets,
    budget: Budget,
    content_hash: String,
}

impl TryFrom<Stored> for Instance {
    type Error = GenError;

    fn try_from(stored: Stored) -> Result<Self, GenError> {
        let mismatch =
            |field, found: String, expected: String| Err(GenError::Stored { field, found, expected });
        let Stored { schema, id, key, prompt, material, constraints, targets, budget, content_hash } = stored;
        key.check()?;
        if schema != SCHEMA {
            return mismatch("schema", schema.to_string(), SCHEMA.to_string());
        }
        if id != key.id() {
            return mismatch("id", id, key.id());
        }
        if targets.task() != key.task {
            return mismatch("targets", targets.task().to_string(), key.task.to_string());
        }
        let runs = Memo::default();
        let instance =
            Self { schema, id, key, prompt, material, constraints, targets, budget, content_hash, runs };
        let expected = instance.hash_content();
        if instance.content_hash != expected {
            return mismatch("content_hash", instance.content_hash, expected);
        }
        Ok(instance)
    }
}
