//! Harder instances for a policy that masters the present ones, easier ones for a policy that gets nothing.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::key::MAX_DIFFICULTY;

/// Rewards that the mean is over.
const WINDOW: usize = 256;

/// Rewards between two changes, at least.
const HYSTERESIS: u64 = 512;

/// Above this mean, harder; below the other, easier.
const MASTERED: f64 = 0.75;
const LOST: f64 = 0.15;

/// The difficulty and length of one task's instances, a function of the rewards so far and of nothing else. Part of a
/// checkpoint, so that a run that is resumed goes on with the same instances.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Curriculum {
    lengths: Vec<u32>,
    length: usize,
    difficulty: u8,
    highest: u8,
    since_change: u64,
    window: VecDeque<f32>,
}

impl Curriculum {
    /// Begins at the first of `lengths` (output tokens, at least one) and at `difficulty`, and never goes above `highest`.
    pub fn new(lengths: Vec<u32>, difficulty: u8, highest: u8) -> Option<Self> {
        let valid = !lengths.is_empty() && difficulty <= highest && highest <= MAX_DIFFICULTY;
        let window = VecDeque::with_capacity(WINDOW);
        valid.then_some(Self { lengths, length: 0, difficulty, highest, since_change: 0, window })
    }

    /// The lengths it goes through.
    pub fn lengths(&self) -> &[u32] {
        &self.lengths
    }

    /// Output tokens and difficulty of the next instance.
    pub fn current(&self) -> (u32, u8) {
        (self.lengths[self.length], self.difficulty)
    }

    /// Takes a reward into account. Above a mean of 0.75 the difficulty rises, and from the highest on the length;
    /// below 0.15 the difficulty falls.
    pub fn push(&mut self, reward: f32) {
        self.since_change += 1;
        if self.window.len() == WINDOW {
            self.window.pop_front();
        }
        self.window.push_back(reward);
        if self.since_change < HYSTERESIS {
            return;
        }
        let mean = self.window.iter().map(|&r| f64::from(r)).sum::<f64>() / self.window.len() as f64;
        let before = self.current();
        if mean > MASTERED {
            if self.difficulty < self.highest {
                self.difficulty += 1;
            } else {
                self.length = (self.length + 1).min(self.lengths.len() - 1);
            }
        } else if mean < LOST {
            self.difficulty = self.difficulty.saturating_sub(1);
        }
        if self.current() != before {
            self.since_change = 0;
            self.window.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(rewards: impl IntoIterator<Item = f32>) -> Curriculum {
        let mut curriculum = Curriculum::new(vec![256, 512], 1, 3).unwrap();
        rewards.into_iter().for_each(|r| curriculum.push(r));
        curriculum
    }

    #[test]
    fn steps() {
        let constant = |reward: f32, n: usize| after(std::iter::repeat_n(reward, n)).current();
        assert_eq!(constant(1.0, 511), (256, 1));
        assert_eq!(constant(1.0, 512), (256, 2));
        assert_eq!(constant(1.0, 1023), (256, 2));
        assert_eq!(constant(1.0, 1024), (256, 3));
        assert_eq!(constant(1.0, 1536), (512, 3));
        assert_eq!(constant(1.0, 9999), (512, 3));
        assert_eq!(constant(0.75, 9999), (256, 1));
        assert_eq!(constant(0.1, 512), (256, 0));
        assert_eq!(constant(0.0, 9999), (256, 0));
        // Only the last 256 rewards count.
        assert_eq!(after((0..512).map(|i| if i < 256 { 0.0 } else { 1.0 })).current(), (256, 2));
        assert!(Curriculum::new(vec![], 0, 3).is_none() && Curriculum::new(vec![256], 4, 4).is_none());
        let mut capped = Curriculum::new(vec![256, 512], 0, 0).unwrap();
        (0..512).for_each(|_| capped.push(1.0));
        assert_eq!(capped.current(), (512, 0));
    }

    #[test]
    fn resumed_is_the_same() {
        let reward = |i: u32| (i * 37 % 101) as f32 / 60.0;
        let whole = after((0..3000).map(reward));
        let stored = serde_json::to_string(&after((0..1234).map(reward))).unwrap();
        let mut resumed: Curriculum = serde_json::from_str(&stored).unwrap();
        (1234..3000).for_each(|i| resumed.push(reward(i)));
        assert_eq!(resumed, whole);
    }
}
