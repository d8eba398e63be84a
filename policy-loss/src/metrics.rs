//! Diagnostics that can be added up over micro-batches and ranks before they are finished.

use std::collections::BTreeMap;

/// A quantity gathered as sums, so that parts can be merged.
#[derive(Clone, Debug, PartialEq)]
enum Gathered {
    Sum(f64),
    /// Sum, count.
    Mean(f64, f64),
    Min(f64),
    Max(f64),
    /// Sum, sum of squares, count: standard deviation.
    Std(f64, f64, f64),
    /// Sum, sum of squares, count: effective sample size as a share.
    Ess(f64, f64, f64),
    /// By group, whether it has the property that is counted so far.
    Groups(BTreeMap<u32, bool>),
    /// Counts by bin of the logarithm, and the quantile wanted.
    Quantile(f64, BTreeMap<i32, f64>),
}

/// Metrics of one or several evaluations, by the names of this crate's README.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics(BTreeMap<&'static str, Gathered>);

/// Bins per unit of natural logarithm: quantiles are exact to 1.6 %.
const BINS: f64 = 64.0;

impl Metrics {
    /// Adds those of another part.
    pub fn merge(&mut self, other: &Self) {
        for (name, theirs) in &other.0 {
            match self.0.get_mut(name) {
                Some(ours) => ours.merge(theirs),
                None => drop(self.0.insert(name, theirs.clone())),
            }
        }
    }

    /// The finished values by name. What was not measured is absent.
    pub fn finish(&self) -> BTreeMap<&'static str, f64> {
        self.0.iter().filter_map(|(name, g)| g.finish().map(|v| (*name, v))).collect()
    }

    /// One finished value.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.get(name).and_then(Gathered::finish)
    }

    pub(crate) fn sum(&mut self, name: &'static str, value: f64) {
        self.put(name, Gathered::Sum(value));
    }

    pub(crate) fn mean(&mut self, name: &'static str, value: f64) {
        self.put(name, Gathered::Mean(value, 1.0));
    }

    /// Adds `sum / count` as the mean of `count` values.
    pub(crate) fn share(&mut self, name: &'static str, sum: f64, count: f64) {
        self.put(name, Gathered::Mean(sum, count));
    }

    pub(crate) fn min(&mut self, name: &'static str, value: f64) {
        self.put(name, Gathered::Min(value));
    }

    pub(crate) fn max(&mut self, name: &'static str, value: f64) {
        self.put(name, Gathered::Max(value));
    }

    /// Of `count` values with this sum and sum of squares.
    pub(crate) fn std(&mut self, name: &'static str, sum: f64, squares: f64, count: f64) {
        self.put(name, Gathered::Std(sum, squares, count));
    }

    /// As [`Metrics::std`].
    pub(crate) fn ess(&mut self, name: &'static str, sum: f64, squares: f64, count: f64) {
        self.put(name, Gathered::Ess(sum, squares, count));
    }

    pub(crate) fn quantile(&mut self, name: &'static str, q: f64, value: f64) {
        let bin = if value > 0.0 { (value.ln() * BINS).round() as i32 } else { i32::MIN };
        match self.0.get_mut(name) {
            Some(Gathered::Quantile(_, bins)) => *bins.entry(bin).or_default() += 1.0,
            _ => drop(self.0.insert(name, Gathered::Quantile(q, [(bin, 1.0)].into()))),
        }
    }

    /// Counts the groups for all parts of which `holds`.
    pub(crate) fn group(&mut self, name: &'static str, group: u32, holds: bool) {
        self.put(name, Gathered::Groups([(group, holds)].into()));
    }

    fn put(&mut self, name: &'static str, value: Gathered) {
        match self.0.get_mut(name) {
            Some(ours) => ours.merge(&value),
            None => drop(self.0.insert(name, value)),
        }
    }
}

impl Gathered {
    fn merge(&mut self, other: &Self) {
        match (self, other) {
            (Self::Sum(a), Self::Sum(b)) => *a += b,
            (Self::Mean(a, n), Self::Mean(b, m)) => (*a, *n) = (*a + b, *n + m),
            (Self::Min(a), Self::Min(b)) => *a = a.min(*b),
            (Self::Max(a), Self::Max(b)) => *a = a.max(*b),
            (Self::Std(a, s, n), Self::Std(b, t, m)) | (Self::Ess(a, s, n), Self::Ess(b, t, m)) => {
                (*a, *s, *n) = (*a + b, *s + t, *n + m);
            }
            (Self::Groups(groups), Self::Groups(more)) => {
                for (group, holds) in more {
                    *groups.entry(*group).or_insert(true) &= holds;
                }
            }
            (Self::Quantile(_, bins), Self::Quantile(_, more)) => {
                for (bin, count) in more {
                    *bins.entry(*bin).or_default() += count;
                }
            }
            _ => unreachable!("a metric's name decides how it is gathered"),
        }
    }

    fn finish(&self) -> Option<f64> {
        match self {
            Self::Sum(v) | Self::Min(v) | Self::Max(v) => Some(*v),
            Self::Mean(_, n) | Self::Std(_, _, n) | Self::Ess(_, _, n) if *n == 0.0 => None,
            Self::Mean(sum, n) => Some(sum / n),
            Self::Std(sum, squares, n) => Some((squares / n - (sum / n).powi(2)).max(0.0).sqrt()),
            Self::Ess(sum, squares, n) => Some(if *squares > 0.0 { sum * sum / (n * squares) } else { 0.0 }),
            Self::Groups(groups) => Some(groups.values().filter(|holds| **holds).count() as f64),
            Self::Quantile(q, bins) => {
                let wanted = q * bins.values().sum::<f64>();
                let mut seen = 0.0;
                let bin = bins.iter().find(|(_, count)| {
                    seen += **count;
                    seen >= wanted
                });
                bin.map(|(bin, _)| if *bin == i32::MIN { 0.0 } else { (f64::from(*bin) / BINS).exp() })
            }
        }
    }
}
