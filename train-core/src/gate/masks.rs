//! The masks of packed samples: what the sampler took out of the distributions of their tokens is out of the learner's too.

use std::sync::Arc;

use lcg::utf8::Pending;
use lcg::{Error, FamilySet, FamilyTable};
use qwen3::ops::LogitMask;

use crate::learner::UpdateError;
use crate::sample::Sample;

/// The denied families of each token, and the bytes pending before it.
pub(crate) struct Masks {
    table: Arc<FamilyTable>,
    rows: Vec<(FamilySet, Pending)>,
}

impl Masks {
    /// Of samples, one behind the other; `None` where nothing is denied.
    pub(crate) fn of(
        table: &Arc<FamilyTable>,
        samples: &[&Sample],
    ) -> Result<Option<Arc<Self>>, UpdateError> {
        let mut rows = Vec::new();
        for sample in samples {
            let key = sample.key;
            let trace = sample.gate.as_ref().ok_or(UpdateError::NoMasks(key))?;
            let mut of_sample = || -> lcg::Result<()> {
                let (found, expected) = (trace.masks.len(), sample.response.len());
                if found != expected {
                    return Err(Error::Shape { what: "record of masks", found, expected });
                }
                for (row, token) in sample.response.iter().enumerate() {
                    let (denied, pending) = trace.masks.at(row)?;
                    if table.view(pending).denies(denied, *token as usize) {
                        return Err(Error::SampledTokenDenied { row, token: *token, denied: denied.0 });
                    }
                    rows.push((denied, pending));
                }
                Ok(())
            };
            of_sample().map_err(|source| UpdateError::Masks { key, source })?;
        }
        let denies = rows.iter().any(|(denied, _)| !denied.is_empty());
        Ok(denies.then(|| Arc::new(Self { table: table.clone(), rows })))
    }

    /// Rows at which something is denied.
    pub(crate) fn denied_rows(&self) -> Vec<u32> {
        let rows = self.rows.iter().enumerate();
        rows.filter(|(_, (denied, _))| !denied.is_empty()).map(|(row, _)| row as u32).collect()
    }
}

impl LogitMask for Masks {
    fn ban(&self, row: usize, first: usize, logits: &mut [f32]) {
        let (denied, pending) = self.rows[row];
        if !denied.is_empty() {
            self.table.view(pending).ban(denied, first, logits);
        }
    }
}
