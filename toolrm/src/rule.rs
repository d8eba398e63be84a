//! The rule-based score: how much of the gold calls a response has.

use std::cmp::Ordering;

use crate::bfcl::NamePolicy;
use crate::bfcl::norm::{norm_eq, spelled};
use crate::msg::Call;
use crate::value::{Key, Map, Tag, Val};

/// R1: when two strings are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StringEq {
    /// Byte for byte.
    #[default]
    Exact,
    /// Ignoring case.
    Casefold,
    /// As the leaderboard: ignoring case, spaces and some punctuation.
    Bfcl,
}

/// R1: when two numbers are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NumEq {
    /// `1` equals `1.0`.
    #[default]
    Loose,
    /// An integer never equals a float.
    Strict,
}

/// R2: what a wrong value costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sim {
    /// Equal entries over the union of keys.
    #[default]
    Keys,
    /// Equal entries over the union of entries.
    Pairs,
}

/// R3: how gold calls find their predictions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Match {
    /// Each takes its best, even one that another took: the paper's formula.
    #[default]
    Max,
    /// In order, each takes its best of those left.
    Greedy,
    /// The assignment with the highest sum.
    Optimal,
}

/// R4: what counts as an argument.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Depth {
    /// Top-level arguments, compared whole.
    #[default]
    One,
    /// The leaves of nested objects and lists, by their paths.
    Deep,
}

/// The readings of the paper that are ours to choose (R1 to R6).
#[derive(Clone, Copy, Debug, Default)]
pub struct ScoreOptions {
    /// R1, strings.
    pub string_eq: StringEq,
    /// R1, numbers.
    pub num_eq: NumEq,
    /// R2.
    pub sim: Sim,
    /// R3.
    pub matching: Match,
    /// R4.
    pub depth: Depth,
    /// R6: how predicted names spell the gold names.
    pub names: NamePolicy,
}

/// A number between 0 and 1 as a reduced fraction; ordered by value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rational {
    /// The numerator.
    pub num: u64,
    /// The denominator, never 0.
    pub den: u64,
}

impl Rational {
    /// Zero.
    pub const ZERO: Rational = Rational { num: 0, den: 1 };
    /// One.
    pub const ONE: Rational = Rational { num: 1, den: 1 };

    /// `num / den`, reduced; `None` when `den` is 0 or the reduced parts need more than 64 bits.
    pub fn new(num: u128, den: u128) -> Option<Rational> {
        let g = gcd(num, den);
        if den == 0 {
            return None;
        }
        Some(Rational { num: u64::try_from(num / g).ok()?, den: u64::try_from(den / g).ok()? })
    }

    /// The fraction with the smallest denominator whose nearest f64 is `x` (`0.3` gives 3/10); `None` for negative numbers, for
    /// what is not finite, and beyond 64 bits.
    pub fn simplest(x: f64) -> Option<Rational> {
        if !(x.is_finite() && x >= 0.0) {
            return None;
        }
        // Convergents of the continued fraction; rounding in `rest` ends the loop at the latest.
        let (mut p, mut q, mut rest) = ([1u128, 0], [0u128, 1], x);
        for _ in 0..64 {
            let whole = rest.floor();
            if whole >= (1u64 << 53) as f64 {
                return None;
            }
            let next = |[a, b]: [u128; 2]| (whole as u128).checked_mul(a)?.checked_add(b);
            (p, q) = ([next(p)?, p[0]], [next(q)?, q[0]]);
            if p[0] as f64 / q[0] as f64 == x {
                return Rational::new(p[0], q[0]);
            }
            rest = 1.0 / (rest - whole);
        }
        None
    }

    /// The nearest f64.
    pub fn to_f64(self) -> f64 {
        self.num as f64 / self.den as f64
    }

    fn plus(self, other: Rational) -> Option<Rational> {
        let (a, b) = (u128::from(self.den), u128::from(other.den));
        let g = gcd(a, b);
        let left = u128::from(self.num).checked_mul(b / g)?;
        let right = u128::from(other.num).checked_mul(a / g)?;
        Rational::new(left.checked_add(right)?, (a / g).checked_mul(b)?)
    }

    /// The difference, or zero when `other` is larger; `None` as for [`Rational::new`].
    pub fn minus(self, other: Rational) -> Option<Rational> {
        let (a, b) = (u128::from(self.den), u128::from(other.den));
        let left = u128::from(self.num) * b;
        Rational::new(left.saturating_sub(u128::from(other.num) * a), a * b)
    }
}

fn gcd(mut a: u128, mut b: u128) -> u128 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a.max(1)
}

impl Ord for Rational {
    fn cmp(&self, other: &Self) -> Ordering {
        (u128::from(self.num) * u128::from(other.den)).cmp(&(u128::from(other.num) * u128::from(self.den)))
    }
}

impl PartialOrd for Rational {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A score with its reasons.
#[derive(Clone, Debug)]
pub struct ScoreOut {
    /// The score between 0 and 1.
    pub score: f64,
    /// The score as an exact fraction, by which scores are compared. It is rounded to a multiple of 2⁻⁵³ in the one case
    /// that no fraction of 64-bit numbers holds it.
    pub ratio: Rational,
    /// `ok`, `parse_failed`, `count_mismatch` or `duplicate_call`.
    pub message: &'static str,
    /// For each gold call, the prediction that it took (none if no name fits) and their similarity.
    pub per_gold: Vec<(Option<usize>, f64)>,
}

fn flat(ratio: Rational, message: &'static str) -> ScoreOut {
    ScoreOut { score: ratio.to_f64(), ratio, message, per_gold: Vec::new() }
}

/// Scores predicted calls against gold calls (ToolRM, §3.1); `None` is a response that could not be parsed.
///
/// ```text
/// 0                                       unparsable, another number of calls, or two equal predicted calls
/// 1                                       no gold calls
/// 1/m Σ_gold max_pred sim(args)           else; sim = equal arguments over the union of argument names
/// ```
pub fn rule_score(gold: &[Call], predicted: Option<&[Call]>, options: &ScoreOptions) -> ScoreOut {
    let Some(predicted) = predicted else { return flat(Rational::ZERO, "parse_failed") };
    if gold.len() != predicted.len() {
        return flat(Rational::ZERO, "count_mismatch");
    }
    if (1..predicted.len()).any(|i| predicted[..i].iter().any(|c| c.same(&predicted[i]))) {
        return flat(Rational::ZERO, "duplicate_call");
    }
    if gold.is_empty() {
        return flat(Rational::ONE, "ok");
    }
    let table: Vec<Vec<Option<Rational>>> = gold
        .iter()
        .map(|g| {
            let name = spelled(&g.name, options.names);
            predicted.iter().map(|p| (p.name == name).then(|| similarity(g, p, options))).collect()
        })
        .collect();
    let picks = match options.matching {
        Match::Max => table.iter().map(|row| best(row, &[])).collect(),
        Match::Greedy => {
            let mut used = vec![false; predicted.len()];
            let mut pick = |row: &Vec<Option<Rational>>| {
                let found = best(row, &used);
                if let Some((i, _)) = found {
                    used[i] = true;
                }
                found
            };
            table.iter().map(&mut pick).collect::<Vec<_>>()
        }
        Match::Optimal => assign(&table),
    };
    let sims = picks.iter().map(|p| p.map_or(Rational::ZERO, |(_, sim)| sim));
    let m = gold.len() as u64;
    let exact = sims
        .clone()
        .try_fold(Rational::ZERO, Rational::plus)
        .and_then(|sum| Rational::new(u128::from(sum.num), u128::from(sum.den) * u128::from(m)));
    let ratio = exact.unwrap_or_else(|| {
        let mean = sims.map(Rational::to_f64).sum::<f64>() / m as f64;
        let unit = 1u64 << 53;
        Rational::new((mean * unit as f64) as u128, u128::from(unit)).unwrap_or(Rational::ZERO)
    });
    let per_gold = picks.iter().map(|p| p.map_or((None, 0.0), |(i, sim)| (Some(i), sim.to_f64()))).collect();
    ScoreOut { score: ratio.to_f64(), ratio, message: "ok", per_gold }
}

/// The first best prediction of a row that is not used.
fn best(row: &[Option<Rational>], used: &[bool]) -> Option<(usize, Rational)> {
    let free = row.iter().enumerate().filter(|(i, _)| !used.get(*i).is_some_and(|u| *u));
    free.filter_map(|(i, sim)| sim.map(|s| (i, s))).fold(None, |best: Option<(usize, Rational)>, next| {
        match best {
            Some(b) if b.1 >= next.1 => Some(b),
            _ => Some(next),
        }
    })
}

/// The assignment with the highest sum, by the Hungarian method in integers over a common denominator, or in floats when
/// there is none that fits.
pub(crate) fn assign(table: &[Vec<Option<Rational>>]) -> Vec<Option<(usize, Rational)>> {
    let n = table.len();
    let lcm = table.iter().flatten().flatten().try_fold(1u128, |lcm, r| {
        let den = u128::from(r.den);
        (lcm / gcd(lcm, den)).checked_mul(den).filter(|l| *l < 1 << 100)
    });
    let cost = |r: Option<Rational>| match (r, lcm) {
        (None, _) => 0i128,
        (Some(r), Some(lcm)) => -((u128::from(r.num) * (lcm / u128::from(r.den))) as i128),
        (Some(r), None) => -((r.to_f64() * (1u64 << 53) as f64) as i128),
    };
    // Potentials u, v; owner[j]: the row of column j; row and column 0 are the method's own.
    let (mut u, mut v, mut owner) = (vec![0i128; n + 1], vec![0i128; n + 1], vec![0usize; n + 1]);
    for i in 1..=n {
        owner[0] = i;
        let mut j0 = 0;
        let (mut least, mut way, mut seen) =
            (vec![i128::MAX; n + 1], vec![0usize; n + 1], vec![false; n + 1]);
        while owner[j0] != 0 {
            seen[j0] = true;
            let (row, mut delta, mut j1) = (owner[j0], i128::MAX, 0);
            for j in 1..=n {
                if !seen[j] {
                    let reduced = cost(table[row - 1][j - 1]) - u[row] - v[j];
                    if reduced < least[j] {
                        least[j] = reduced;
                        way[j] = j0;
                    }
                    if least[j] < delta {
                        delta = least[j];
                        j1 = j;
                    }
                }
            }
            for j in 0..=n {
                if seen[j] {
                    u[owner[j]] += delta;
                    v[j] -= delta;
                } else if least[j] < i128::MAX {
                    least[j] -= delta;
                }
            }
            j0 = j1;
        }
        while j0 != 0 {
            owner[j0] = owner[way[j0]];
            j0 = way[j0];
        }
    }
    let mut picks = vec![None; n];
    for j in 1..=n {
        picks[owner[j] - 1] = table[owner[j] - 1][j - 1].map(|sim| (j - 1, sim));
    }
    picks
}

fn similarity(gold: &Call, predicted: &Call, options: &ScoreOptions) -> Rational {
    match options.depth {
        Depth::One => overlap(&gold.args, &predicted.args, options),
        Depth::Deep => overlap(&leaves(&gold.args), &leaves(&predicted.args), options),
    }
}

fn overlap(a: &Map, b: &Map, options: &ScoreOptions) -> Rational {
    if a.is_empty() && b.is_empty() {
        return Rational::ONE;
    }
    let mut common = 0u128;
    let mut equal = 0u128;
    for (k, v) in a {
        if let Some(w) = b.get(k) {
            common += 1;
            equal += u128::from(same(v, w, options));
        }
    }
    let sizes = (a.len() + b.len()) as u128;
    let union = match options.sim {
        Sim::Keys => sizes - common,
        Sim::Pairs => sizes - equal,
    };
    Rational::new(equal, union).unwrap_or(Rational::ZERO)
}

/// R1.
fn same(a: &Val, b: &Val, options: &ScoreOptions) -> bool {
    match (a, b) {
        (Val::Str(a), Val::Str(b)) => match options.string_eq {
            StringEq::Exact => a == b,
            StringEq::Casefold => a == b || a.to_lowercase() == b.to_lowercase(),
            StringEq::Bfcl => norm_eq(a, b),
        },
        (Val::List(a) | Val::Tuple(a), Val::List(b) | Val::Tuple(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b, options))
        }
        (Val::Dict(a), Val::Dict(b)) => {
            a.len() == b.len() && a.iter().all(|(k, v)| b.get(k).is_some_and(|w| same(v, w, options)))
        }
        _ => (options.num_eq == NumEq::Loose || a.tag() == b.tag()) && crate::value::eq_json(a, b),
    }
}

/// The leaves of arguments under their paths; empty containers are leaves.
fn leaves(args: &Map) -> Map {
    fn walk(path: String, v: &Val, out: &mut Map) {
        match v {
            Val::Dict(entries) if !entries.is_empty() => {
                for (k, v) in entries {
                    let mut step = String::new();
                    match k {
                        Key::Str(s) => crate::json::write_str(s, &mut step),
                        other => step = format!("{other:?}"),
                    }
                    walk(format!("{path}.{step}"), v, out);
                }
            }
            Val::List(items) | Val::Tuple(items) if !items.is_empty() => {
                for (i, v) in items.iter().enumerate() {
                    walk(format!("{path}[{i}]"), v, out);
                }
            }
            leaf => _ = out.insert(path.into(), leaf.clone()),
        }
    }
    let mut out = Map::default();
    walk(String::new(), &Val::Dict(args.clone()), &mut out);
    if args.is_empty() {
        out.clear();
    }
    debug_assert!(out.values().all(|v| v.tag() != Tag::Dict || v.as_dict().is_some_and(Map::is_empty)));
    out
}
