//! Tables and pictures of what came out.

use std::error::Error;
use std::fmt::Write as _;

use lcg::metrics::{Rate, expected_families, mcnemar};
use lcg::{FamilySet, Taxonomy};

use super::config::Config;
use super::score::{CONDITIONS, Condition, OfLanguage, Outcome};

/// Name and SVG text of each picture.
type Pictures = Vec<(&'static str, String)>;

/// The outcomes of one condition, all seeds.
struct Pooled<'a> {
    condition: Condition,
    outcomes: Vec<&'a Outcome>,
    /// Foreign families of every response, in one order for all conditions.
    foreign: Vec<FamilySet>,
}

impl<'a> Pooled<'a> {
    fn of(condition: Condition, outcomes: &'a [Outcome]) -> Self {
        let outcomes: Vec<&Outcome> = outcomes.iter().filter(|o| o.condition == condition).collect();
        let languages = outcomes.iter().flat_map(|o| &o.languages);
        let foreign = languages.flat_map(|l| l.foreign.iter().map(|f| FamilySet(*f))).collect();
        Self { condition, outcomes, foreign }
    }

    fn responses(&self, counted: impl Fn(FamilySet) -> bool) -> Rate {
        let mut rate = Rate::default();
        self.foreign.iter().for_each(|f| rate.add(counted(*f)));
        rate
    }

    fn languages(&self, code: &str) -> impl Iterator<Item = &'a OfLanguage> {
        let code = code.to_owned();
        self.outcomes.clone().into_iter().flat_map(|o| &o.languages).filter(move |l| l.code == code)
    }

    /// Letters by family, of one language.
    fn letters(&self, code: &str, families: usize) -> Vec<u64> {
        let sum = |f: usize| self.languages(code).map(|l| l.letters[f]).sum();
        (0..families).map(sum).collect()
    }

    fn mean(&self, of: impl Fn(&Outcome) -> f64) -> f64 {
        self.outcomes.iter().map(|o| of(o)).sum::<f64>() / self.outcomes.len().max(1) as f64
    }

    fn pair(&self, of: impl Fn(&Outcome) -> [u64; 2]) -> Rate {
        let sum = self.outcomes.iter().map(|o| of(o)).fold([0, 0], |s, p| [s[0] + p[0], s[1] + p[1]]);
        Rate { count: sum[0], total: sum[1] }
    }
}

fn percent(rate: &Rate) -> String {
    match (rate.value(), rate.interval()) {
        (Some(p), Some([low, high])) => {
            format!("{:.2} % [{:.2}, {:.2}]", 100.0 * p, 100.0 * low, 100.0 * high)
        }
        _ => "n/a".into(),
    }
}

pub(crate) fn page(config: &Config, outcomes: &[Outcome]) -> Result<(String, Pictures), Box<dyn Error>> {
    let taxonomy = Taxonomy::named(&config.gate.taxonomy).ok_or("the taxonomy is not known")?;
    let all: Vec<Pooled<'_>> = CONDITIONS.iter().map(|c| Pooled::of(*c, outcomes)).collect();
    let codes: Vec<&str> = config.languages.iter().filter(|l| l.mixed).map(|l| l.code.as_str()).collect();
    let none = &all[0];
    let (latin, han) = (taxonomy.set(&["latin"], "page")?, taxonomy.set(&["han"], "page")?);
    let mut text = String::new();

    writeln!(
        text,
        "{} responses of each condition, from {} seeds.\n",
        none.foreign.len(),
        none.outcomes.len()
    )?;
    writeln!(
        text,
        "| | responses with a wrong script | with Latin | with Han | letters of a wrong script | p |"
    )?;
    writeln!(text, "|---|---|---|---|---|---|")?;
    for pooled in &all {
        let letters = foreign_letters(pooled, &taxonomy, &codes)?;
        let pairs = none.foreign.iter().zip(&pooled.foreign).map(|(a, b)| (!a.is_empty(), !b.is_empty()));
        let p = match pooled.condition {
            Condition::Ungated => String::new(),
            _ => format!("{:.1e}", mcnemar(pairs)),
        };
        writeln!(
            text,
            "| {} | {} | {} | {} | {} | {p} |",
            pooled.condition.name(),
            percent(&pooled.responses(|f| !f.is_empty())),
            percent(&pooled.responses(|f| f.meets(latin))),
            percent(&pooled.responses(|f| f.meets(han))),
            percent(&letters),
        )?;
    }

    writeln!(text, "\nWhat it costs, on held-out articles with announced English words:\n")?;
    writeln!(
        text,
        "| | announced tokens kept | other tokens denied | loss without, with the gate | tokens changed | tokens a response | labels predicted |"
    )?;
    writeln!(text, "|---|---|---|---|---|---|---|")?;
    for pooled in &all {
        let kept = pooled.pair(|o| o.kept);
        let wrong = pooled.pair(|o| o.wrongly_denied);
        let stayed = (kept.count + wrong.total - wrong.count) as f64;
        let loss = |i: usize| pooled.outcomes.iter().map(|o| o.loss[i]).sum::<f64>() / stayed;
        let tokens: u64 = pooled.outcomes.iter().flat_map(|o| &o.languages).map(|l| l.response_tokens).sum();
        let fit = match pooled.outcomes.first().and_then(|o| o.fit) {
            Some(_) => format!("{:.1} %", 100.0 * pooled.mean(|o| o.fit.map_or(f64::NAN, |f| f[0]))),
            None => String::new(),
        };
        writeln!(
            text,
            "| {} | {} | {} | {:.4}, {:.4} | {:.2} % | {:.1} | {fit} |",
            pooled.condition.name(),
            percent(&kept),
            percent(&wrong),
            loss(0),
            loss(1),
            100.0 * pooled.mean(|o| o.flip_rate),
            tokens as f64 / pooled.foreign.len() as f64,
        )?;
    }

    writeln!(text, "\nResponses with a wrong script, by seed:\n")?;
    let seeds: Vec<u64> = none.outcomes.iter().map(|o| o.seed).collect();
    writeln!(text, "| |{}", seeds.iter().map(|s| format!(" seed {s} |")).collect::<String>())?;
    writeln!(text, "|---|{}", "---|".repeat(seeds.len()))?;
    for pooled in &all {
        write!(text, "| {} |", pooled.condition.name())?;
        for outcome in &pooled.outcomes {
            let mut rate = Rate::default();
            outcome.languages.iter().flat_map(|l| &l.foreign).for_each(|f| rate.add(*f != 0));
            write!(text, " {:.1} % |", 100.0 * rate.value().unwrap_or(f64::NAN))?;
        }
        writeln!(text)?;
    }

    let families = families(&all, &taxonomy, &codes);
    for pooled in all.iter().filter(|p| matches!(p.condition, Condition::Ungated | Condition::Mass)) {
        writeln!(text, "\nLetters by script, %, {}:\n", pooled.condition.name())?;
        writeln!(
            text,
            "| |{}",
            families.iter().map(|f| format!(" {} |", taxonomy.name(*f))).collect::<String>()
        )?;
        writeln!(text, "|---|{}", "---|".repeat(families.len()))?;
        for code in &codes {
            let letters = pooled.letters(code, taxonomy.len());
            let total = letters.iter().sum::<u64>().max(1) as f64;
            let cell = |f: &usize| format!(" {:.2} |", 100.0 * letters[*f] as f64 / total);
            writeln!(text, "| {code} |{}", families.iter().map(cell).collect::<String>())?;
        }
    }
    let pictures = vec![
        ("gate-responses.svg", bars(&all)),
        ("gate-matrix.svg", matrices(&all, &taxonomy, &families, &codes)),
    ];
    Ok((text, pictures))
}

fn foreign_letters(pooled: &Pooled<'_>, taxonomy: &Taxonomy, codes: &[&str]) -> Result<Rate, lcg::Error> {
    let mut rate = Rate::default();
    for code in codes {
        let expected = expected_families(taxonomy, code)?;
        for (family, count) in pooled.letters(code, taxonomy.len()).into_iter().enumerate() {
            rate.total += count;
            rate.count += if expected.contains(family) { 0 } else { count };
        }
    }
    Ok(rate)
}

/// Families of which some response has a letter.
fn families(all: &[Pooled<'_>], taxonomy: &Taxonomy, codes: &[&str]) -> Vec<usize> {
    let found = |f: &usize| all.iter().any(|p| codes.iter().any(|c| p.letters(c, taxonomy.len())[*f] > 0));
    (0..taxonomy.len()).filter(found).collect()
}

const STYLE: &str = "<style>text{font:13px sans-serif;fill:#222}.s{font-size:11px;fill:#555}.c{font-size:11px}</style>\
                     <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>";

/// Share of responses with a wrong script, with intervals.
fn bars(all: &[Pooled<'_>]) -> String {
    let (left, width, row) = (270.0, 430.0, 34.0);
    let rates: Vec<Rate> = all.iter().map(|p| p.responses(|f| !f.is_empty())).collect();
    let most = rates.iter().filter_map(Rate::interval).map(|i| i[1]).fold(0.01, f64::max);
    let x = |share: f64| left + width * share / most;
    let height = 50.0 + row * all.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 760 {height}\">{STYLE}<text x=\"10\" y=\"20\">Responses with a letter of a wrong script (95 % intervals)</text>"
    );
    for (i, (pooled, rate)) in all.iter().zip(&rates).enumerate() {
        let y = 36.0 + row * i as f64;
        let (p, [low, high]) = (rate.value().unwrap_or(0.0), rate.interval().unwrap_or([0.0; 2]));
        let middle = y + 10.0;
        let _ = write!(
            svg,
            "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text><rect x=\"{left}\" y=\"{y}\" width=\"{:.1}\" height=\"20\" fill=\"{}\"/><path d=\"M{:.1} {middle}H{:.1}\" stroke=\"#888\" stroke-width=\"2\"/><text class=\"s\" x=\"{:.1}\" y=\"{:.0}\">{:.1} %</text>",
            left - 8.0,
            y + 15.0,
            pooled.condition.name().replace('`', ""),
            (x(p) - left).max(0.5),
            if i == 0 { "#b5563c" } else { "#3a7ca5" },
            x(low),
            x(high),
            x(high) + 6.0,
            y + 14.0,
            100.0 * p
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// Letters by language and script, without a gate and with the one on labels by mass.
fn matrices(all: &[Pooled<'_>], taxonomy: &Taxonomy, families: &[usize], codes: &[&str]) -> String {
    let (cell, left, top) = (38.0, 40.0, 130.0);
    let panel = left + cell * families.len() as f64 + 30.0;
    let (width, height) = (2.0 * panel + 10.0, top + 26.0 * codes.len() as f64 + 40.0);
    let mut svg =
        format!("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\">{STYLE}");
    let shown = all.iter().filter(|p| matches!(p.condition, Condition::Ungated | Condition::Mass));
    for (i, pooled) in shown.enumerate() {
        let start = 10.0 + panel * i as f64;
        let _ = write!(svg, "<text x=\"{start}\" y=\"18\">{}</text>", pooled.condition.name());
        for (column, family) in families.iter().enumerate() {
            let (x, y) = (start + left + cell * (column as f64 + 0.5), top - 8.0);
            let name = taxonomy.name(*family);
            let _ = write!(
                svg,
                "<text class=\"s\" transform=\"translate({x:.0} {y}) rotate(-60)\">{name}</text>"
            );
        }
        for (line, code) in codes.iter().enumerate() {
            let y = top + 26.0 * line as f64;
            let letters = pooled.letters(code, taxonomy.len());
            let total = letters.iter().sum::<u64>().max(1) as f64;
            let _ = write!(svg, "<text x=\"{:.0}\" y=\"{:.0}\">{code}</text>", start + 8.0, y + 17.0);
            for (column, family) in families.iter().enumerate() {
                let share = letters[*family] as f64 / total;
                // Shares of a thousandth are to be seen beside those of one.
                let depth = if share > 0.0 { ((share.log10() + 4.0) / 4.0).clamp(0.05, 1.0) } else { 0.0 };
                let _ = write!(
                    svg,
                    "<rect x=\"{:.1}\" y=\"{y}\" width=\"{:.0}\" height=\"24\" fill=\"#3a7ca5\" fill-opacity=\"{:.2}\" stroke=\"#999\" stroke-width=\"0.5\"/><text class=\"c\" x=\"{:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{}</text>",
                    start + left + cell * column as f64,
                    cell - 2.0,
                    0.6 * depth,
                    start + left + cell * (column as f64 + 0.5) - 1.0,
                    y + 16.0,
                    if letters[*family] > 0 { format!("{:.1}", 100.0 * share) } else { String::new() },
                );
            }
        }
    }
    let _ = write!(
        svg,
        "<text class=\"s\" x=\"10\" y=\"{:.0}\">Share of the letters, %; depth of colour is logarithmic</text></svg>",
        height - 10.0
    );
    svg.push('\n');
    svg
}
