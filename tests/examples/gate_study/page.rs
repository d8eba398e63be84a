//! Tables and pictures of what came out.

use std::error::Error;
use std::fmt::Write as _;

use lcg::metrics::{Rate, expected_families, mcnemar};
use lcg::{FamilySet, Taxonomy};

use super::Results;
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
    fn of(condition: Condition, setting: usize, outcomes: &'a [Outcome]) -> Self {
        let is_of = |o: &&Outcome| o.condition == condition && o.setting == setting;
        let outcomes: Vec<&Outcome> = outcomes.iter().filter(is_of).collect();
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

pub(crate) fn page(config: &Config, results: &Results) -> Result<(String, Pictures), Box<dyn Error>> {
    let taxonomy = Taxonomy::named(&config.gate.taxonomy).ok_or("the taxonomy is not known")?;
    let codes: Vec<&str> = config.languages.iter().filter(|l| l.mixed).map(|l| l.code.as_str()).collect();
    let mut text = String::new();
    let mut settings = Vec::new();
    for (place, setting) in config.settings.iter().enumerate() {
        let all: Vec<Pooled<'_>> =
            CONDITIONS.iter().map(|c| Pooled::of(*c, place, &results.outcomes)).collect();
        if all.iter().any(|p| p.outcomes.is_empty()) {
            continue;
        }
        writeln!(text, "### {} languages\n", capitalised(&setting.name))?;
        for (_, m) in results.models.iter().filter(|(s, _)| *s == place) {
            writeln!(
                text,
                "A model of {} steps: loss {:.2} on development texts, {:.2} on training texts.",
                m.steps, m.development_loss, m.training_loss
            )?;
        }
        tables(&mut text, &all, &taxonomy, &codes)?;
        settings.push((setting.name.as_str(), all));
    }
    let mut pictures = Vec::new();
    if let Some((name, all)) = settings.last() {
        let families = families(all, &taxonomy, &codes);
        pictures.push(("gate-responses.svg", bars(&settings)));
        pictures.push(("gate-matrix.svg", matrices(name, all, &taxonomy, &families, &codes)));
    }
    Ok((text, pictures))
}

fn capitalised(name: &str) -> String {
    let mut chars = name.chars();
    chars.next().map_or(String::new(), |c| c.to_uppercase().chain(chars).collect())
}

/// The tables of one setting.
fn tables(
    text: &mut String,
    all: &[Pooled<'_>],
    taxonomy: &Taxonomy,
    codes: &[&str],
) -> Result<(), Box<dyn Error>> {
    let none = &all[0];
    let (latin, han) = (taxonomy.set(&["latin"], "page")?, taxonomy.set(&["han"], "page")?);
    writeln!(
        text,
        "\n{} responses of each condition, from {} seeds.\n",
        none.foreign.len(),
        none.outcomes.len()
    )?;
    writeln!(
        text,
        "| | responses with a wrong script | with Latin | with Han | letters of a wrong script | entries a response, behind symbols | p |"
    )?;
    writeln!(text, "|---|---|---|---|---|---|---|")?;
    for pooled in all {
        let letters = foreign_letters(pooled, taxonomy, codes)?;
        let languages = pooled.outcomes.iter().flat_map(|o| &o.languages);
        let entries = languages.fold([0, 0], |s, l| [s[0] + l.entries[0], s[1] + l.entries[1]]);
        let pairs = none.foreign.iter().zip(&pooled.foreign).map(|(a, b)| (!a.is_empty(), !b.is_empty()));
        let p = match pooled.condition {
            Condition::Ungated => String::new(),
            _ => format!("{:.1e}", mcnemar(pairs)),
        };
        writeln!(
            text,
            "| {} | {} | {} | {} | {} | {:.3}, {:.0} % | {p} |",
            pooled.condition.name(),
            pooled.responses(|f| !f.is_empty()),
            pooled.responses(|f| f.meets(latin)),
            pooled.responses(|f| f.meets(han)),
            letters,
            entries[1] as f64 / pooled.foreign.len() as f64,
            100.0 * entries[0] as f64 / entries[1] as f64,
        )?;
    }

    writeln!(text, "\nWhat it costs, on held-out articles with announced English words:\n")?;
    writeln!(
        text,
        "| | announced tokens kept | other tokens denied | loss without, with the gate | tokens changed | tokens a response | labels predicted |"
    )?;
    writeln!(text, "|---|---|---|---|---|---|---|")?;
    for pooled in all {
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
            kept,
            wrong,
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
    for pooled in all {
        write!(text, "| {} |", pooled.condition.name())?;
        for outcome in &pooled.outcomes {
            let mut rate = Rate::default();
            outcome.languages.iter().flat_map(|l| &l.foreign).for_each(|f| rate.add(*f != 0));
            write!(text, " {:.1} % |", 100.0 * rate.value().unwrap_or(f64::NAN))?;
        }
        writeln!(text)?;
    }

    let families = families(all, taxonomy, codes);
    for pooled in all.iter().filter(|p| matches!(p.condition, Condition::Ungated | Condition::Mass)) {
        writeln!(text, "\nLetters by script, %, {}:\n", pooled.condition.name())?;
        writeln!(
            text,
            "| |{}",
            families.iter().map(|f| format!(" {} |", taxonomy.name(*f))).collect::<String>()
        )?;
        writeln!(text, "|---|{}", "---|".repeat(families.len()))?;
        for code in codes {
            let letters = pooled.letters(code, taxonomy.len());
            let total = letters.iter().sum::<u64>().max(1) as f64;
            let cell = |f: &usize| format!(" {:.2} |", 100.0 * letters[*f] as f64 / total);
            writeln!(text, "| {code} |{}", families.iter().map(cell).collect::<String>())?;
        }
    }
    writeln!(text)?;
    Ok(())
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

/// Share of responses with a wrong script, with intervals, by setting.
fn bars(settings: &[(&str, Vec<Pooled<'_>>)]) -> String {
    let (left, width, row) = (270.0, 430.0, 28.0);
    let rate = |p: &Pooled<'_>| p.responses(|f| !f.is_empty());
    let all = || settings.iter().flat_map(|(_, pooled)| pooled);
    let most = all().filter_map(|p| rate(p).interval()).map(|i| i[1]).fold(0.01, f64::max);
    let x = |share: f64| left + width * share / most;
    let height = 34.0 + settings.iter().map(|(_, p)| 30.0 + row * p.len() as f64).sum::<f64>();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 760 {height}\">{STYLE}<text x=\"10\" y=\"20\">Responses with a letter of a wrong script (95 % intervals)</text>"
    );
    let mut y = 34.0;
    for (name, pooled) in settings {
        let _ = write!(svg, "<text x=\"10\" y=\"{:.0}\">{} languages</text>", y + 16.0, capitalised(name));
        y += 26.0;
        for pooled in pooled {
            let rate = rate(pooled);
            let (p, [low, high]) = (rate.value().unwrap_or(0.0), rate.interval().unwrap_or([0.0; 2]));
            let middle = y + 10.0;
            let _ = write!(
                svg,
                "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text><rect x=\"{left}\" y=\"{y}\" width=\"{:.1}\" height=\"20\" fill=\"{}\"/><path d=\"M{:.1} {middle}H{:.1}\" stroke=\"#888\" stroke-width=\"2\"/><text class=\"s\" x=\"{:.1}\" y=\"{:.0}\">{:.1} %</text>",
                left - 8.0,
                y + 15.0,
                pooled.condition.name().replace('`', ""),
                (x(p) - left).max(0.5),
                if pooled.condition == Condition::Ungated { "#b5563c" } else { "#3a7ca5" },
                x(low),
                x(high),
                x(high) + 6.0,
                y + 14.0,
                100.0 * p
            );
            y += row;
        }
        y += 4.0;
    }
    svg.push_str("</svg>\n");
    svg
}

/// Letters by language and script, without a gate and with the one on labels by mass.
fn matrices(
    setting: &str,
    all: &[Pooled<'_>],
    taxonomy: &Taxonomy,
    families: &[usize],
    codes: &[&str],
) -> String {
    let (cell, left, top) = (38.0, 40.0, 130.0);
    let panel = left + cell * families.len() as f64 + 30.0;
    let (width, height) = (2.0 * panel + 10.0, top + 26.0 * codes.len() as f64 + 40.0);
    let mut svg =
        format!("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\">{STYLE}");
    let shown = all.iter().filter(|p| matches!(p.condition, Condition::Ungated | Condition::Mass));
    for (i, pooled) in shown.enumerate() {
        let start = 10.0 + panel * i as f64;
        let name = pooled.condition.name();
        let _ = write!(svg, "<text x=\"{start}\" y=\"18\">{} languages, {name}</text>", capitalised(setting));
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
