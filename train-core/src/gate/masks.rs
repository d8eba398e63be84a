//! The masks of packed samples: what the sampler took out of the distributions of their tokens is out of the learner's too.

use std::sync::Arc;

use lcg::utf8::Pending;
use lcg::{Error, FamilySet, FamilyTable};
use policy_loss::LogitMask;

use crate::learner::UpdateError;
use crate::sample::Sample;

/// The distribution of one token.
#[derive(Clone)]
struct RowMask {
    denied: FamilySet,
    /// The bytes before it.
    pending: Pending,
    /// What truncation left, where it is recorded.
    kept: Option<Arc<[u32]>>,
}

/// The mask of each token.
pub(crate) struct Masks {
    table: Arc<FamilyTable>,
    rows: Vec<RowMask>,
}

impl Masks {
    /// Of samples, one behind the other; `None` where nothing is denied or cut.
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
                    let kept = trace.masks.support(table, row)?;
                    let cut = kept.as_ref().is_some_and(|kept| kept.binary_search(token).is_err());
                    if cut || table.view(pending).denies(denied, *token as usize) {
                        return Err(Error::SampledTokenDenied { row, token: *token, denied: denied.0 });
                    }
                    rows.push(RowMask { denied, pending, kept: kept.map(Arc::from) });
                }
                Ok(())
            };
            of_sample().map_err(|source| UpdateError::Masks { key, source })?;
        }
        let masks = rows.iter().any(|row| !row.denied.is_empty() || row.kept.is_some());
        Ok(masks.then(|| Arc::new(Self { table: table.clone(), rows })))
    }

    /// Rows at which something is denied.
    pub(crate) fn denied_rows(&self) -> Vec<u32> {
        let rows = self.rows.iter().enumerate();
        rows.filter(|(_, row)| !row.denied.is_empty()).map(|(at, _)| at as u32).collect()
    }

    /// The masks of some rows, without what truncation cut.
    pub(crate) fn denials_of(&self, rows: &[u32]) -> Arc<Self> {
        let of = |row: &u32| RowMask { kept: None, ..self.rows[*row as usize].clone() };
        Arc::new(Self { table: self.table.clone(), rows: rows.iter().map(of).collect() })
    }
}

impl LogitMask for Masks {
    fn ban(&self, row: usize, first: usize, logits: &mut [f32]) {
        let RowMask { denied, pending, kept } = &self.rows[row];
        if !denied.is_empty() {
            self.table.view(*pending).ban(*denied, first, logits);
        }
        if let Some(kept) = kept {
            let here = |v: &u32| (*v as usize) < first + logits.len();
            let kept = &kept[kept.partition_point(|v| (*v as usize) < first)..];
            let kept = &kept[..kept.partition_point(here)];
            let stay: Vec<f32> = kept.iter().map(|v| logits[*v as usize - first]).collect();
            logits.fill(f32::NEG_INFINITY);
            kept.iter().zip(stay).for_each(|(v, z)| logits[*v as usize - first] = z);
        }
    }
}
