//! How far two choices of experts agree.

/// Agreement between two sets of expert ids, over tokens and layers; parts may be merged.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Agreement {
    rows: u64,
    exact: u64,
    overlap: f64,
    jaccard: f64,
}

impl Agreement {
    /// Compares `[rows · top_k]` ids row by row, as sets.
    pub fn of(a: &[u32], b: &[u32], top_k: usize) -> Self {
        let mut sum = Self::default();
        for (a, b) in a.chunks_exact(top_k).zip(b.chunks_exact(top_k)) {
            let common = a.iter().filter(|id| b.contains(id)).count();
            sum.rows += 1;
            sum.exact += u64::from(common == top_k);
            sum.overlap += common as f64 / top_k as f64;
            sum.jaccard += common as f64 / (2 * top_k - common) as f64;
        }
        sum
    }

    /// Adds another part.
    pub fn merge(&mut self, other: &Self) {
        self.rows += other.rows;
        self.exact += other.exact;
        self.overlap += other.overlap;
        self.jaccard += other.jaccard;
    }

    /// Share of rows with equal sets; `None` without rows.
    pub fn exact_match(&self) -> Option<f64> {
        (self.rows > 0).then(|| self.exact as f64 / self.rows as f64)
    }

    /// Mean share of common experts.
    pub fn overlap(&self) -> Option<f64> {
        (self.rows > 0).then(|| self.overlap / self.rows as f64)
    }

    /// Mean intersection over union.
    pub fn jaccard(&self) -> Option<f64> {
        (self.rows > 0).then(|| self.jaccard / self.rows as f64)
    }
}
