//! Mealy machines: drawn, checked, walked.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::key::DetRng;

/// Draws before [`Machine::constructed`] is taken.
const REDRAWS: usize = 1000;

/// A Mealy machine with states `0..states`, and one cell for each state and input, by state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Machine {
    pub(super) states: usize,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    /// `(next state, output)`.
    pub(super) cells: Vec<(u16, u16)>,
}

impl Machine {
    /// A random machine that is strongly connected, minimal, and no shortcut: outputs do not follow from next
    /// states, nor next states from inputs.
    pub(super) fn draw(states: usize, inputs: usize, outputs: usize, rng: &mut DetRng) -> Self {
        for _ in 0..REDRAWS {
            let cell = |_| (rng.index(states) as u16, rng.index(outputs) as u16);
            let cells = (0..states * inputs).map(cell).collect();
            let machine = Self { states, inputs, outputs, cells };
            if machine.is_acceptable() {
                return machine;
            }
        }
        Self::constructed(states, inputs, outputs, rng)
    }

    /// An acceptable machine without trial: a random cycle through all states on the first input, whose output tells
    /// one state of the cycle from the others; a second way into its successor with another output; the rest random.
    pub(super) fn constructed(states: usize, inputs: usize, outputs: usize, rng: &mut DetRng) -> Self {
        let cycle = rng.sample(states, states);
        let cell = |_| (rng.index(states) as u16, rng.index(outputs) as u16);
        let mut cells: Vec<(u16, u16)> = (0..states * inputs).map(cell).collect();
        for (i, &state) in cycle.iter().enumerate() {
            cells[state * inputs] = (cycle[(i + 1) % states] as u16, u16::from(i == 0));
        }
        cells[cycle[0] * inputs + 1] = (cycle[1] as u16, 0);
        Self { states, inputs, outputs, cells }
    }

    pub(super) fn step(&self, state: usize, input: usize) -> (usize, usize) {
        let (next, output) = self.cells[state * self.inputs + input];
        (next.into(), output.into())
    }

    pub(super) fn is_acceptable(&self) -> bool {
        self.is_strongly_connected()
            && self.is_minimal()
            && self.has_free_outputs()
            && self.depends_on_state()
    }

    /// Steps from `from` to each state: the first input of a shortest path, and its length.
    fn distances(&self, from: usize) -> Vec<Option<(usize, usize)>> {
        let mut found = vec![None; self.states];
        let mut queue = VecDeque::from([(from, None, 0)]);
        while let Some((state, first, length)) = queue.pop_front() {
            for input in 0..self.inputs {
                let (next, _) = self.step(state, input);
                if found[next].is_none() {
                    let first = first.unwrap_or(input);
                    found[next] = Some((first, length + 1));
                    queue.push_back((next, Some(first), length + 1));
                }
            }
        }
        found
    }

    fn is_strongly_connected(&self) -> bool {
        (0..self.states).all(|state| self.distances(state).iter().all(Option::is_some))
    }

    /// No two states answer every input string alike (partition refinement).
    fn is_minimal(&self) -> bool {
        let mut class = vec![0usize; self.states];
        let mut classes = 1;
        loop {
            let mut seen: Vec<Vec<(usize, usize)>> = Vec::new();
            let mut refined = Vec::with_capacity(self.states);
            for state in 0..self.states {
                // The own class comes first, so that a refinement never joins what was apart.
                let moves = (0..self.inputs).map(|input| self.step(state, input));
                let mut row = vec![(class[state], 0)];
                row.extend(moves.map(|(next, output)| (class[next], output)));
                let known = seen.iter().position(|other| *other == row);
                refined.push(known.unwrap_or_else(|| {
                    seen.push(row);
                    seen.len() - 1
                }));
            }
            if seen.len() == classes {
                return classes == self.states;
            }
            (class, classes) = (refined, seen.len());
        }
    }

    /// Two transitions into one state have different outputs.
    fn has_free_outputs(&self) -> bool {
        let mut output_into = vec![None; self.states];
        self.cells
            .iter()
            .any(|&(next, output)| *output_into[usize::from(next)].get_or_insert(output) != output)
    }

    /// The next state is not a function of the input alone.
    fn depends_on_state(&self) -> bool {
        (0..self.inputs)
            .any(|input| (1..self.states).any(|state| self.step(state, input).0 != self.step(0, input).0))
    }

    /// `n` inputs: half of them go to the nearest state not seen yet, the others are uniform.
    pub(super) fn walk(&self, start: usize, n: usize, rng: &mut DetRng) -> Vec<usize> {
        let mut visited = vec![false; self.states];
        visited[start] = true;
        let mut state = start;
        let mut inputs = Vec::with_capacity(n);
        for i in 0..n {
            let distances = self.distances(state);
            let unseen = (0..self.states).filter(|&s| !visited[s]).filter_map(|s| distances[s]);
            let nearest = unseen.min_by_key(|&(first, length)| (length, first));
            let input = match nearest {
                Some((first, _)) if i < n / 2 => first,
                _ => rng.index(self.inputs),
            };
            inputs.push(input);
            state = self.step(state, input).0;
            visited[state] = true;
        }
        inputs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rng(seed: u8) -> DetRng {
        DetRng::from_seed([seed; 32])
    }

    #[test]
    fn construction_is_acceptable() {
        for seed in 0..200 {
            for (states, inputs, outputs) in [(3, 3, 3), (3, 4, 4), (6, 4, 4), (20, 10, 10), (4, 2, 2)] {
                let machine = Machine::constructed(states, inputs, outputs, &mut rng(seed));
                assert!(machine.is_acceptable(), "{machine:?}");
            }
        }
    }

    #[test]
    fn defects_are_seen() {
        let base = Machine { states: 2, inputs: 2, outputs: 2, cells: vec![(1, 0), (0, 1), (0, 1), (0, 0)] };
        assert!(base.is_acceptable());
        let with = |cells: [(u16, u16); 4]| Machine { cells: cells.to_vec(), ..base.clone() };
        assert!(!with([(0, 0), (0, 1), (0, 1), (0, 0)]).is_strongly_connected());
        assert!(!with([(1, 0), (0, 1), (0, 0), (0, 1)]).is_minimal());
        assert!(!with([(1, 0), (0, 1), (0, 1), (0, 1)]).has_free_outputs());
        assert!(!with([(1, 0), (0, 1), (1, 1), (0, 0)]).depends_on_state());
    }

    #[test]
    fn walks_see_all_states() {
        for seed in 0..50 {
            let machine = Machine::draw(6, 4, 4, &mut rng(seed));
            let mut state = 0;
            let mut seen = [false; 6];
            for input in machine.walk(0, 55, &mut rng(seed)) {
                seen[state] = true;
                state = machine.step(state, input).0;
            }
            assert_eq!(seen, [true; 6]);
        }
    }
}
