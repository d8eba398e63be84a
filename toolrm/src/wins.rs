//! Rankings of many items from how often each beat each other.

/// How often each item beat each other: `[items, items]`, row-major; a tie is half a win for both.
#[derive(Clone, Debug)]
pub struct WinMatrix {
    items: usize,
    wins: Vec<f32>,
}

/// Numbers that are no matrix of wins.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum WinMatrixError {
    /// Not as many as cells.
    #[error("{numbers} numbers are not a matrix of {items} items with themselves")]
    Shape {
        /// Numbers found.
        numbers: usize,
        /// Items expected.
        items: usize,
    },
    /// A cell that is no count: below 0, not finite, or of an item with itself.
    #[error("{value} wins of item {winner} over item {loser}")]
    Cell {
        /// The row.
        winner: usize,
        /// The column.
        loser: usize,
        /// What stands there.
        value: f32,
    },
}

/// What an item's meetings with all others come to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Standing {
    /// Copeland points, doubled: 2 for each item that it beat more often than it lost to, 1 for each that it met evenly.
    pub points: u32,
    /// Wins less losses (Borda).
    pub margin: f64,
}

/// How strengths are fitted.
#[derive(Clone, Copy, Debug)]
pub struct BradleyTerry {
    /// Ties with an item of strength 1 that are added to each item's meetings. Above 0, so that strengths are finite where an item lost
    /// or won everything, and their scale is fixed.
    pub prior: f64,
    /// Fitting ends when no strength changes by more than this share of itself.
    pub tolerance: f64,
    /// It ends after as many steps at the latest.
    pub max_steps: usize,
}

impl Default for BradleyTerry {
    fn default() -> Self {
        BradleyTerry { prior: 0.5, tolerance: 1e-9, max_steps: 1000 }
    }
}

/// Strengths of items: `i` beats `j` with the probability `p_i / (p_i + p_j)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Strengths {
    /// One an item, above 0.
    pub strengths: Vec<f64>,
    /// Steps that were taken.
    pub steps: usize,
    /// Whether the last step was within the tolerance.
    pub converged: bool,
}

impl WinMatrix {
    /// Wins of `items` items, a row each.
    ///
    /// # Errors
    /// [`WinMatrixError`].
    pub fn new(wins: Vec<f32>, items: usize) -> Result<Self, WinMatrixError> {
        if items.checked_mul(items) != Some(wins.len()) {
            return Err(WinMatrixError::Shape { numbers: wins.len(), items });
        }
        let bad =
            |(at, w): (usize, &f32)| !(w.is_finite() && *w >= 0.0) || (at / items == at % items && *w > 0.0);
        if let Some((at, value)) = wins.iter().enumerate().find(|cell| bad(*cell)) {
            return Err(WinMatrixError::Cell { winner: at / items, loser: at % items, value: *value });
        }
        Ok(WinMatrix { items, wins })
    }

    /// The number of items.
    pub fn items(&self) -> usize {
        self.items
    }

    /// The cells, row-major.
    pub fn cells(&self) -> &[f32] {
        &self.wins
    }

    /// Wins and losses of item `i` against each other item.
    fn meetings(&self, i: usize) -> impl Iterator<Item = (usize, f64, f64)> + '_ {
        let n = self.items;
        (0..n)
            .filter(move |j| *j != i)
            .map(move |j| (j, self.wins[i * n + j].into(), self.wins[j * n + i].into()))
    }

    /// The standing of each item. Items that never met give one another nothing.
    pub fn standings(&self) -> Vec<Standing> {
        let one = |i| {
            let mut standing = Standing { points: 0, margin: 0.0 };
            for (_, wins, losses) in self.meetings(i).filter(|(_, w, l)| *w > 0.0 || *l > 0.0) {
                standing.points += if wins > losses { 2 } else { u32::from(wins == losses) };
                standing.margin += wins - losses;
            }
            standing
        };
        (0..self.items).map(one).collect()
    }

    /// One step of Hunter's MM iteration from strengths `p` (Hunter 2004, MM algorithms for generalized Bradley-Terry models, §2).
    fn step(&self, p: &[f64], prior: f64) -> Vec<f64> {
        let one = |i: usize| {
            let (mut won, mut met) = (0.0, 0.0);
            for (j, wins, losses) in self.meetings(i) {
                won += wins;
                met += (wins + losses) / (p[i] + p[j]);
            }
            (won + prior) / (met + 2.0 * prior / (p[i] + 1.0))
        };
        (0..self.items).map(one).collect()
    }

    /// Bradley-Terry strengths.
    pub fn bradley_terry(&self, options: &BradleyTerry) -> Strengths {
        let fitted =
            fit(self.items, options, |p| Ok::<_, std::convert::Infallible>(self.step(p, options.prior)));
        match fitted {
            Ok(strengths) => strengths,
            Err(never) => match never {},
        }
    }
}

/// Takes steps from strengths of 1 until they change no more.
pub(crate) fn fit<E>(
    items: usize,
    options: &BradleyTerry,
    mut step: impl FnMut(&[f64]) -> Result<Vec<f64>, E>,
) -> Result<Strengths, E> {
    let mut out = Strengths { strengths: vec![1.0; items], steps: 0, converged: false };
    while out.steps < options.max_steps && !out.converged {
        let next = step(&out.strengths)?;
        let change = |(a, b): (&f64, &f64)| (a - b).abs() <= options.tolerance * b;
        out.converged = out.strengths.iter().zip(&next).all(change);
        out.strengths = next;
        out.steps += 1;
    }
    Ok(out)
}
