//! The reward of a policy by a judge: its responses meet in pairs (ToolRM, §4.4).

use crate::random::{below, bits};

/// Two responses of a group that meet, in the order in which the judge sees them.
pub type Match = (usize, usize);

/// Disjoint random pairs of a group of `n` responses, drawn by seed and group; one response stays over when `n` is odd.
///
/// ```
/// let pairs = toolrm::reward::pair_up(5, 7, "prompt 3");
/// assert_eq!(pairs.len(), 2);
/// assert_eq!(pairs, toolrm::reward::pair_up(5, 7, "prompt 3"));
/// ```
pub fn pair_up(n: usize, seed: u64, group: &str) -> Vec<Match> {
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        order.swap(i, below(i + 1, bits(seed, group, i as u64)));
    }
    order.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()
}

/// The rewards of a group of `n` from its matches: 1 to a winner, 0 to a loser, ½ to both where nobody won. An outcome is
/// the winner's place in the match (0 or 1). Who met nobody gets the mean of the others (½ in a group of one).
///
/// ```
/// let rewards = toolrm::reward::judged_rewards(5, &[((0, 3), Some(1)), ((4, 1), None)]);
/// assert_eq!(rewards, [0.0, 0.5, 0.5, 1.0, 0.5]);
/// ```
pub fn judged_rewards(n: usize, matches: &[(Match, Option<usize>)]) -> Vec<f64> {
    let mut rewards: Vec<Option<f64>> = vec![None; n];
    for ((a, b), winner) in matches {
        let (first, second) = match winner {
            Some(0) => (1.0, 0.0),
            Some(_) => (0.0, 1.0),
            None => (0.5, 0.5),
        };
        rewards[*a] = Some(first);
        rewards[*b] = Some(second);
    }
    let met: Vec<f64> = rewards.iter().flatten().copied().collect();
    let mean = if met.is_empty() { 0.5 } else { met.iter().sum::<f64>() / met.len() as f64 };
    rewards.into_iter().map(|r| r.unwrap_or(mean)).collect()
}
