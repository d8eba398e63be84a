//! The best of several responses.

use std::cmp::Reverse;
use std::fmt::Write as _;

use completion::Complete;

use super::judge::{Contender, Context, InferError, Judge, Outcome, Usage};
use crate::bench::wilson;
use crate::canon::canon_calls;
use crate::random::{below, bits};
use crate::value::Val;

/// How the best is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// One prompt with all; above `limit` responses in blocks, and then among the winners. An answer that cannot be read
    /// chooses the first.
    Listwise {
        /// The most responses of a prompt, at least 2.
        limit: usize,
    },
    /// A bracket drawn by the seed: n - 1 comparisons, each in both orders; a tie is won by the lower index.
    Knockout {
        /// Draws the bracket.
        seed: u64,
    },
    /// All n(n - 1)/2 comparisons in both orders: most points (1 for a win, ½ for a tie), then most wins less losses counted
    /// by orientation, then the lowest index.
    RoundRobin,
}

/// A group of responses to one conversation.
#[derive(Clone, Debug)]
pub struct BestOf<'a> {
    /// The conversation.
    pub context: Context<'a>,
    /// The responses.
    pub contenders: Vec<Contender>,
}

/// The response that was selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selected {
    /// Its index; of identical responses the first.
    pub index: usize,
    /// Distinct responses that took part.
    pub distinct: usize,
}

/// What identical responses share: calls in canonical form, and text.
fn identity(c: &Contender) -> String {
    format!("{}\0{}", canon_calls(&c.calls), c.text.trim())
}

/// The first index of every distinct response, and how many there are of each.
fn classes(contenders: &[Contender]) -> Vec<(usize, usize)> {
    let mut seen: Vec<(String, usize, usize)> = Vec::new();
    for (i, contender) in contenders.iter().enumerate() {
        let id = identity(contender);
        match seen.iter_mut().find(|(other, ..)| *other == id) {
            Some((_, _, count)) => *count += 1,
            None => seen.push((id, i, 1)),
        }
    }
    seen.into_iter().map(|(_, first, count)| (first, count)).collect()
}

/// The response that most of a group are equal to, the first of equals: a selection without a judge.
pub fn majority(contenders: &[Contender]) -> Option<usize> {
    classes(contenders)
        .into_iter()
        .max_by_key(|(first, count)| (*count, Reverse(*first)))
        .map(|(first, _)| first)
}

/// The best of each group by the numbers of a reward model, `scores[group][response]`: the highest, the lower index of equal ones.
/// Identical responses take part once, with the number of the first.
///
/// # Errors
/// [`InferError::Nobody`] for a group without responses, [`InferError::Scores`] for one that has not a number for each.
pub fn best_by_score(groups: &[BestOf<'_>], scores: &[Vec<f64>]) -> Result<Vec<Selected>, InferError> {
    let refuse =
        |group: &BestOf<'_>, reason: String| InferError::Scores { id: group.context.id.to_owned(), reason };
    let one = |(g, group): (usize, &BestOf<'_>)| {
        let scores = scores.get(g).map_or(&[][..], Vec::as_slice);
        if scores.len() != group.contenders.len() {
            return Err(refuse(
                group,
                format!("{} numbers for {} responses", scores.len(), group.contenders.len()),
            ));
        }
        if let Some(i) = scores.iter().position(|s| s.is_nan()) {
            return Err(refuse(group, format!("the number of response {i} is NaN")));
        }
        let classes = classes(&group.contenders);
        let better = |best: usize, (i, _): &(usize, usize)| match Outcome::of_scores(scores[best], scores[*i])
        {
            Outcome::B => *i,
            Outcome::A | Outcome::Tie => best,
        };
        let (first, _) = classes.first().ok_or_else(|| InferError::Nobody(group.context.id.to_owned()))?;
        Ok(Selected { index: classes.iter().fold(*first, better), distinct: classes.len() })
    };
    groups.iter().enumerate().map(one).collect()
}

impl<C: Complete> Judge<C> {
    /// The best of each group. Identical responses take part once.
    ///
    /// # Errors
    /// As [`Judge::compare`]; [`InferError::Nobody`] for a group without responses.
    pub fn best_of(
        &mut self,
        groups: &[BestOf<'_>],
        strategy: Strategy,
    ) -> Result<Vec<Selected>, InferError> {
        let mut left = Vec::with_capacity(groups.len());
        for group in groups {
            let classes: Vec<usize> =
                classes(&group.contenders).into_iter().map(|(first, _)| first).collect();
            if classes.is_empty() {
                return Err(InferError::Nobody(group.context.id.to_owned()));
            }
            left.push(classes);
        }
        let distinct: Vec<usize> = left.iter().map(Vec::len).collect();
        match strategy {
            Strategy::Listwise { limit } => self.listwise(groups, &mut left, limit.max(2))?,
            Strategy::Knockout { seed } => self.knockout(groups, &mut left, seed)?,
            Strategy::RoundRobin => self.round_robin(groups, &mut left)?,
        }
        Ok(left.iter().zip(distinct).map(|(l, distinct)| Selected { index: l[0], distinct }).collect())
    }

    fn listwise(
        &mut self,
        groups: &[BestOf<'_>],
        left: &mut [Vec<usize>],
        limit: usize,
    ) -> Result<(), InferError> {
        while left.iter().any(|l| l.len() > 1) {
            let mut lists = Vec::new();
            for (group, l) in groups.iter().zip(left.iter()).filter(|(_, l)| l.len() > 1) {
                for block in l.chunks(limit).filter(|b| b.len() > 1) {
                    lists.push((&group.context, block.iter().map(|i| &group.contenders[*i]).collect()));
                }
            }
            let mut chosen = self.choose(&lists)?.into_iter();
            for l in left.iter_mut().filter(|l| l.len() > 1) {
                let winner = |block: &[usize]| match block {
                    [only] => *only,
                    _ => block[chosen.next().flatten().unwrap_or(0)],
                };
                *l = l.chunks(limit).map(winner).collect();
            }
        }
        Ok(())
    }

    fn knockout(
        &mut self,
        groups: &[BestOf<'_>],
        left: &mut [Vec<usize>],
        seed: u64,
    ) -> Result<(), InferError> {
        for (group, l) in groups.iter().zip(left.iter_mut()) {
            for i in (1..l.len()).rev() {
                l.swap(i, below(i + 1, bits(seed, group.context.id, i as u64)));
            }
        }
        while left.iter().any(|l| l.len() > 1) {
            let mut pairs = Vec::new();
            for (group, l) in groups.iter().zip(left.iter()) {
                for pair in l.chunks_exact(2) {
                    let pair = [&group.contenders[pair[0]], &group.contenders[pair[1]]];
                    pairs.push((&group.context, pair));
                }
            }
            let mut outcomes = self.compare(&pairs, true)?.into_iter();
            for l in left.iter_mut() {
                // Who has no opponent goes on.
                let winner = |pair: &[usize]| match pair {
                    [a, b] => match outcomes.next().map(|c| c.outcome) {
                        Some(Outcome::A) => *a,
                        Some(Outcome::B) => *b,
                        _ => *a.min(b),
                    },
                    _ => pair[0],
                };
                *l = l.chunks(2).map(winner).collect();
            }
        }
        Ok(())
    }

    fn round_robin(&mut self, groups: &[BestOf<'_>], left: &mut [Vec<usize>]) -> Result<(), InferError> {
        let mut pairs = Vec::new();
        for (group, l) in groups.iter().zip(left.iter()) {
            for (n, a) in l.iter().enumerate() {
                for b in &l[n + 1..] {
                    pairs.push((&group.context, [&group.contenders[*a], &group.contenders[*b]]));
                }
            }
        }
        let mut outcomes = self.compare(&pairs, true)?.into_iter();
        for l in left.iter_mut() {
            // Points in halves (Copeland), then votes for less votes against (Borda).
            let mut points = vec![(0i64, 0i64); l.len()];
            for a in 0..l.len() {
                for b in a + 1..l.len() {
                    let Some(done) = outcomes.next() else { return Ok(()) };
                    let (to_a, to_b) = match done.outcome {
                        Outcome::A => (2, 0),
                        Outcome::B => (0, 2),
                        Outcome::Tie => (1, 1),
                    };
                    points[a].0 += to_a;
                    points[b].0 += to_b;
                    for (order, choice) in done.choices.iter().enumerate() {
                        let margin = match choice {
                            Some(c) if (*c == 1) == (order == 0) => 1,
                            Some(_) => -1,
                            None => 0,
                        };
                        points[a].1 += margin;
                        points[b].1 -= margin;
                    }
                }
            }
            let best = (0..l.len()).max_by_key(|i| (points[*i], Reverse(l[*i])));
            *l = best.map(|i| vec![l[i]]).unwrap_or_default();
        }
        Ok(())
    }
}

/// How good selections are, against what is right.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BestOfReport {
    /// Groups.
    pub groups: usize,
    /// Groups whose selected response is right.
    pub selected: usize,
    /// Groups with a right response: what a perfect judge would reach.
    pub oracle: usize,
    /// Groups whose most frequent response is right.
    pub majority: usize,
    /// Groups that a draw among their responses would get right, in expectation.
    pub random: f64,
}

impl BestOfReport {
    /// Counts a group: its responses, which of them are right, and the one selected.
    pub fn add(&mut self, contenders: &[Contender], right: &[bool], selected: usize) {
        self.groups += 1;
        self.selected += usize::from(right.get(selected) == Some(&true));
        self.oracle += usize::from(right.contains(&true));
        self.majority += usize::from(majority(contenders).is_some_and(|i| right.get(i) == Some(&true)));
        self.random += right.iter().filter(|r| **r).count() as f64 / right.len().max(1) as f64;
    }

    /// A few lines for a reader, with what the judge was asked for it.
    pub fn to_text(&self, usage: &Usage) -> String {
        let n = self.groups.max(1) as f64;
        let (low, high) = wilson(self.selected as u64, self.groups as u64);
        let mut out = format!("steps        {}\n", self.groups);
        _ = writeln!(
            out,
            "selected     {:.1} % right (95 %: {:.1} to {:.1})",
            100.0 * self.selected as f64 / n,
            100.0 * low,
            100.0 * high
        );
        for (name, right) in
            [("random", self.random), ("majority", self.majority as f64), ("oracle", self.oracle as f64)]
        {
            _ = writeln!(out, "{name:12} {:.1} %", 100.0 * right / n);
        }
        let Usage { calls, strict, soft, unread, tokens_in, tokens_out } = usage;
        _ = writeln!(out, "judge calls  {calls} ({strict} strict, {soft} soft, {unread} unread)");
        _ = writeln!(out, "tokens       {tokens_in} in, {tokens_out} out");
        out
    }

    /// The same as an object, with counts and not shares.
    pub fn to_val(&self) -> Val {
        let int = |n: usize| Val::Int(n as i64);
        Val::dict([
            ("steps", int(self.groups)),
            ("selected", int(self.selected)),
            ("random", Val::Float(self.random)),
            ("majority", int(self.majority)),
            ("oracle", int(self.oracle)),
        ])
    }
}
