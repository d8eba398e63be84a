//! Scores of categories to the leaderboard's scores of groups.

use std::collections::BTreeMap;

/// A group of categories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// `simple` (the mean of its three languages), `multiple`, `parallel`, `parallel_multiple`.
    NonLive,
    /// The four live categories, weighted by entries.
    Live,
    /// `irrelevance` and `live_irrelevance`.
    Irrelevance,
    /// Four kinds of conversation.
    MultiTurn,
    /// Web search and memory.
    Agentic,
}

impl Group {
    const ALL: [(Group, f64); 5] = [
        (Group::NonLive, 0.10),
        (Group::Live, 0.10),
        (Group::Irrelevance, 0.10),
        (Group::MultiTurn, 0.30),
        (Group::Agentic, 0.40),
    ];

    /// The group's name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Group::NonLive => "non_live",
            Group::Live => "live",
            Group::Irrelevance => "irrelevance",
            Group::MultiTurn => "multi_turn",
            Group::Agentic => "agentic",
        }
    }
}

/// The leaderboard's numbers, in shares of 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Accuracy of each group; `None` where a category of it was not evaluated.
    pub groups: Vec<(Group, Option<f64>)>,
    /// The weighted sum in which a group that was not evaluated counts 0.
    pub overall: f64,
    /// The same, renormalised over the groups that were evaluated; `None` if there are none.
    pub over_evaluated: Option<f64>,
}

/// Aggregates `(valid, total)` by category.
pub fn aggregate(counts: &BTreeMap<String, (u64, u64)>) -> Summary {
    let count = |c: &str| counts.get(c).copied().filter(|(_, total)| *total > 0);
    let accuracy = |c: &str| count(c).map(|(valid, total)| valid as f64 / total as f64);
    let mean =
        |parts: &[Option<f64>]| parts.iter().copied().sum::<Option<f64>>().map(|s| s / parts.len() as f64);
    let means = |names: &[&str]| mean(&names.iter().map(|n| accuracy(n)).collect::<Vec<_>>());
    let groups: Vec<(Group, Option<f64>)> = Group::ALL
        .iter()
        .map(|(group, _)| {
            let score = match group {
                Group::NonLive => mean(&[
                    means(&["simple_python", "simple_java", "simple_javascript"]),
                    accuracy("multiple"),
                    accuracy("parallel"),
                    accuracy("parallel_multiple"),
                ]),
                Group::Live => ["live_simple", "live_multiple", "live_parallel", "live_parallel_multiple"]
                    .iter()
                    .map(|c| count(c))
                    .try_fold((0, 0), |(v, t), c| c.map(|(valid, total)| (v + valid, t + total)))
                    .map(|(valid, total)| valid as f64 / total as f64),
                Group::Irrelevance => means(&["irrelevance", "live_irrelevance"]),
                Group::MultiTurn => means(&[
                    "multi_turn_base",
                    "multi_turn_miss_func",
                    "multi_turn_miss_param",
                    "multi_turn_long_context",
                ]),
                Group::Agentic => mean(&[
                    means(&["web_search_base", "web_search_no_snippet"]),
                    means(&["memory_kv", "memory_vector", "memory_rec_sum"]),
                ]),
            };
            (*group, score)
        })
        .collect();
    let weighted: Vec<(f64, f64)> = groups
        .iter()
        .zip(Group::ALL)
        .filter_map(|((_, score), (_, weight))| score.map(|s| (s, weight)))
        .collect();
    let overall = weighted.iter().map(|(s, w)| s * w).sum();
    let weight: f64 = weighted.iter().map(|(_, w)| w).sum();
    Summary { groups, overall, over_evaluated: (weight > 0.0).then(|| overall / weight) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weighs_as_the_leaderboard_does() {
        let counts: BTreeMap<String, (u64, u64)> = [
            ("simple_python", (1, 2)),
            ("simple_java", (1, 1)),
            ("simple_javascript", (0, 1)),
            ("multiple", (1, 1)),
            ("parallel", (1, 1)),
            ("parallel_multiple", (1, 2)),
            ("live_simple", (1, 2)),
            ("live_multiple", (0, 8)),
            ("live_parallel", (0, 0)),
        ]
        .map(|(c, n)| (c.to_owned(), n))
        .into();
        let summary = aggregate(&counts);
        assert_eq!(summary.groups[0].1, Some((0.5 + 1.0 + 1.0 + 0.5) / 4.0));
        assert_eq!(summary.groups[1].1, None, "two live categories were not evaluated");
        assert!((summary.overall - 0.075).abs() < 1e-12);
        assert!((summary.over_evaluated.unwrap() - 0.75).abs() < 1e-12);
        let mut counts = counts;
        counts.insert("live_parallel".into(), (1, 1));
        counts.insert("live_parallel_multiple".into(), (1, 1));
        assert_eq!(aggregate(&counts).groups[1].1, Some(3.0 / 12.0), "weighted by entries");
    }
}
