//! Groups of transactions, their rankings, and questions on these.

use super::Question;
use super::answer::{Dim, Part};
use super::table::{Row, Table};

/// The smallest margin, in thousandths.
const MARGIN: u64 = 20;

/// A question that could be asked.
pub(super) struct Candidate {
    pub(super) question: Question,
    /// 3 is asked first; 0 only where the others do not suffice.
    pub(super) priority: u8,
    /// The lowest difficulty that asks it.
    pub(super) level: u8,
    /// How clear its decision is, in thousandths.
    pub(super) margin: u64,
}

/// Sums of a group of transactions.
#[derive(Clone, Copy, Default)]
pub(super) struct Sums {
    pub(super) revenue: u64,
    pub(super) count: u64,
    pub(super) units: u64,
    /// Of squares of whole dollars.
    squares: u128,
}

impl Sums {
    pub(super) fn add(&mut self, row: &Row) {
        let whole = u128::from(row.amount / 100);
        self.revenue += row.amount;
        self.count += 1;
        self.units += row.quantity;
        self.squares += whole * whole;
    }

    pub(super) fn mean(&self) -> u64 {
        self.revenue / self.count.max(1)
    }

    /// The squared coefficient of variation, in millionths.
    pub(super) fn variation(&self) -> u64 {
        let sum = u128::from(self.revenue / 100);
        let spread = (u128::from(self.count) * self.squares).saturating_sub(sum * sum);
        (spread * 1_000_000 / (sum * sum).max(1)) as u64
    }
}

/// Things in the order of a value.
pub(super) struct Ranking(pub(super) Vec<(usize, u64)>);

impl Ranking {
    /// Highest first; those with a `None` do not take part.
    pub(super) fn new(groups: &[Sums], value: impl Fn(usize, &Sums) -> Option<u64>) -> Self {
        let some = groups.iter().enumerate().filter(|(_, s)| s.count > 0);
        let mut list: Vec<(usize, u64)> = some.filter_map(|(i, s)| Some((i, value(i, s)?))).collect();
        list.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
        Self(list)
    }

    pub(super) fn ascending(mut self) -> Self {
        self.0.reverse();
        self
    }

    /// The first `k`, and the smallest gap that puts them in that order; nothing where there are fewer.
    pub(super) fn first(&self, k: usize) -> Option<(Vec<usize>, u64)> {
        let gap =
            |pair: &[(usize, u64)]| pair[0].1.abs_diff(pair[1].1) * 1000 / pair[0].1.max(pair[1].1).max(1);
        let ids = self.0.get(..k)?.iter().map(|e| e.0).collect();
        Some((ids, self.0.windows(2).take(k).map(gap).min().unwrap_or(1000)))
    }

    pub(super) fn value(&self, place: usize) -> u64 {
        self.0.get(place).map_or(0, |e| e.1)
    }
}

/// `part / whole` in thousandths of a point.
pub(super) fn share(part: u64, whole: u64) -> Part {
    let (part, whole) = (u128::from(part) * 100_000, u128::from(whole.max(1)));
    Part::Percent(((part + whole / 2) / whole) as u64)
}

pub(super) struct Catalogue<'a> {
    pub(super) table: &'a Table,
    pub(super) total: u64,
    pub(super) found: Vec<Candidate>,
}

impl Catalogue<'_> {
    pub(super) fn add(
        &mut self,
        code: &str,
        rank: (u8, u8),
        margin: u64,
        text: impl Into<String>,
        form: &str,
        parts: Vec<Part>,
    ) {
        if margin >= MARGIN {
            let question = Question { code: code.into(), text: text.into(), form: form.into(), parts };
            self.found.push(Candidate { question, priority: rank.0, level: rank.1, margin });
        }
    }

    pub(super) fn group(
        &self,
        of: impl Fn(&Row) -> usize,
        n: usize,
        wanted: impl Fn(&Row) -> bool,
    ) -> Vec<Sums> {
        let mut groups = vec![Sums::default(); n];
        self.table.rows.iter().filter(|r| wanted(r)).for_each(|r| groups[of(r)].add(r));
        groups
    }

    /// The first of a ranking, with what `parts` adds.
    pub(super) fn first(
        &mut self,
        code: &str,
        rank: (u8, u8),
        (dim, ranking): (Dim, &Ranking),
        text: &str,
        form: &str,
        parts: &[Part],
    ) {
        if let Some((ids, margin)) = ranking.first(1) {
            let parts = [&[Part::Entity(dim, ids[0])], parts].concat();
            self.add(code, rank, margin, text, form, parts);
        }
    }

    /// The second of a ranking and its distance from the first.
    pub(super) fn second(&mut self, code: &str, priority: u8, (dim, ranking): (Dim, &Ranking), what: &str) {
        if let Some((ids, margin)) = ranking.first(2) {
            let gap = share(ranking.value(0) - ranking.value(1), ranking.value(0));
            let text = format!(
                "Which {what} had the second highest revenue, and by how many percent of the highest revenue was it \
                 behind?"
            );
            let form = format!("The runner-up by revenue as a {what} was {{0}}, behind by {{1}}");
            self.add(code, (priority, 1), margin, text, &form, vec![Part::Entity(dim, ids[1]), gap]);
        }
    }

    /// The first three of a ranking.
    pub(super) fn three(
        &mut self,
        code: &str,
        priority: u8,
        (dim, ranking): (Dim, &Ranking),
        what: &str,
        order: &str,
    ) {
        if let Some((ids, margin)) = ranking.first(3) {
            let text = format!("Name the three {what} with the {order} revenue, in that order.");
            let form = format!("The three {what} to name here were {{0}} in that order");
            self.add(code, (priority, 0), margin, text, &form, vec![Part::List(dim, ids)]);
        }
    }

    pub(super) fn joint(&mut self, code: &str, priority: u8, ranking: &Ranking, what: &str) {
        if let Some((_, margin)) = ranking.first(3) {
            let sum = (0..3).map(|i| ranking.value(i)).sum();
            let text = format!(
                "Which share of total revenue did the three {what} with the highest revenue have together?"
            );
            let form = format!("The leading three {what} together made {{0}} of all revenue");
            self.add(code, (priority, 0), margin.max(MARGIN), text, &form, vec![share(sum, self.total)]);
        }
    }
}
