//! Samples as the page shows them: text whose tokens carry their numbers.

use std::fmt::Write as _;

use serde::Serialize;

use super::load::RunData;
use super::rollouts::{Pick, Sample};
use super::scale::{escape, fixed, number};

/// Tokens shown on the whole page, some 100 bytes each.
const TOKENS: usize = 6000;
/// Characters of a prompt, an answer or a response without token pieces.
const CHARS: usize = 1500;

/// Upper limits of the shades for surprise (−logp) and entropy, in nats.
const NATS: [f64; 5] = [0.05, 0.3, 0.7, 1.5, 3.0];
/// Upper limits of the shades for |log(π/μ)|.
const LOG_RATIO: [f64; 4] = [0.02, 0.1, 0.3, 0.7];

/// One step's samples.
#[derive(Debug, Serialize)]
pub(super) struct StepView {
    step: u64,
    count: usize,
    samples: Vec<SampleView>,
}

#[derive(Debug, Serialize)]
struct SampleView {
    pick: &'static str,
    key: String,
    task: String,
    prompt: String,
    answer: Option<String>,
    /// Markup made here, every piece of text escaped.
    response: String,
    tokens: usize,
    reward: String,
    parts: Vec<(String, String)>,
    exact: Option<bool>,
    advantage: Option<String>,
    /// Class of the advantage's shade: `ap3` ... `ap1`, `a0`, `an1` ... `an3`.
    tint: String,
    /// Class of the advantage's sign: `up`, `down` or nothing.
    sign: &'static str,
    finish: String,
}

/// The views of all samples. Long responses are cut in the middle so that all of them fit on the page.
pub(super) fn views(run: &RunData) -> Vec<StepView> {
    let lengths =
        run.rollouts.iter().flat_map(|step| &step.samples).map(|(_, s)| s.pieces.len()).collect::<Vec<_>>();
    let limit = fair_limit(&lengths, TOKENS);
    let steps = run.rollouts.iter();
    steps
        .map(|step| StepView {
            step: step.step,
            count: step.count,
            samples: step.samples.iter().map(|(pick, sample)| view(*pick, sample, limit)).collect(),
        })
        .collect()
}

/// The largest limit with `Σ min(length, limit) ≤ budget`: short samples stay whole, long ones share what is left.
fn fair_limit(lengths: &[usize], budget: usize) -> usize {
    let used = |limit: usize| lengths.iter().map(|&n| n.min(limit)).sum::<usize>();
    let (mut low, mut high) = (0, budget);
    while low < high {
        let middle = (low + high).div_ceil(2);
        if used(middle) <= budget {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    low
}

fn view(pick: Pick, sample: &Sample, limit: usize) -> SampleView {
    // Rounded as it is shown, so that `0.00` has neither sign nor shade.
    let advantage = sample.advantage.map(|a| (a * 100.0).round() / 100.0);
    let tint = match advantage {
        Some(a) if a != 0.0 && a.is_finite() => {
            let level = [0.5, 1.2].iter().filter(|&&limit| a.abs() > limit).count() + 1;
            format!("a{}{level}", if a > 0.0 { 'p' } else { 'n' })
        }
        _ => "a0".to_owned(),
    };
    let signed = |a: f64| if a > 0.0 { format!("+{}", fixed(a, 2)) } else { fixed(a, 2) };
    SampleView {
        pick: match pick {
            Pick::Best => "best",
            Pick::Worst => "worst",
            Pick::Random => "random",
        },
        key: sample.key.clone(),
        task: sample.task.clone(),
        prompt: cut(&sample.prompt),
        answer: sample.answer.as_deref().map(cut),
        response: response(sample, limit),
        tokens: sample.pieces.len(),
        reward: if sample.reward.is_nan() { "not scored".into() } else { number(sample.reward) },
        parts: sample.parts.iter().map(|(name, value)| (name.replace('_', " "), number(*value))).collect(),
        exact: sample.exact,
        advantage: advantage.map(signed),
        sign: match advantage {
            Some(a) if a > 0.0 => "up",
            Some(a) if a < 0.0 => "down",
            _ => "",
        },
        tint,
        finish: sample.finish.clone(),
    }
}

fn cut(text: &str) -> String {
    let count = text.chars().count();
    if count <= CHARS {
        return text.to_owned();
    }
    let head: String = text.chars().take(CHARS * 2 / 3).collect();
    let tail: String = text.chars().skip(count - CHARS / 3).collect();
    format!("{head} … {} characters … {tail}", count - CHARS * 2 / 3 - CHARS / 3)
}

fn response(sample: &Sample, limit: usize) -> String {
    let n = sample.pieces.len();
    if n == 0 {
        return escape(&cut(&sample.response));
    }
    let (head, tail) = if n <= limit { (n, n) } else { (limit * 2 / 3, n - limit / 3) };
    let mut out = String::new();
    for i in (0..head).chain(tail..n) {
        if i == tail && head < tail {
            let _ = write!(out, "<span class=\"cut\"> … {} tokens … </span>", tail - head);
        }
        token(&mut out, sample, i);
    }
    if tail == n && head < n {
        let _ = write!(out, "<span class=\"cut\"> … {} tokens</span>", n - head);
    }
    out
}

/// One token: classes for the shades of the four views, and its numbers as the title.
fn token(out: &mut String, sample: &Sample, i: usize) {
    let get = |values: &[f64]| values.get(i).copied().filter(|v| v.is_finite());
    let (sampled, updated, entropy) = (get(&sample.logp_mu), get(&sample.logp), get(&sample.entropy));
    let shade = |value: f64, limits: &[f64]| limits.iter().filter(|&&limit| value > limit).count();
    let (mut class, mut title) = (String::new(), Vec::new());
    if let Some(logp) = updated.or(sampled) {
        let _ = write!(class, "l{}", shade(-logp, &NATS));
        title.push(format!("logp {} (p {})", number(logp), number(logp.exp())));
    }
    if let Some(entropy) = entropy {
        let _ = write!(class, " e{}", shade(entropy, &NATS));
        title.push(format!("entropy {}", number(entropy)));
    }
    if let (Some(sampled), Some(updated)) = (sampled, updated) {
        let log_ratio = updated - sampled;
        let level = shade(log_ratio.abs(), &LOG_RATIO);
        let sign = if level == 0 {
            "0"
        } else if log_ratio > 0.0 {
            "p"
        } else {
            "n"
        };
        let _ = write!(class, " r{sign}{level}");
        title.push(format!("ratio {}", number(log_ratio.exp())));
    }
    let (class, title) = (class.trim_start(), title.join(" · "));
    let piece = &sample.pieces[i];
    let shown = match piece.as_str() {
        "" => "∅".to_owned(),
        "\n" => "⏎\n".to_owned(),
        _ => escape(piece),
    };
    let _ = write!(out, "<i class=\"{class}\" title=\"{title}\">{shown}</i>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_spends_the_budget_on_the_long_ones() {
        assert_eq!(fair_limit(&[10, 20, 30], 100), 100);
        assert_eq!(fair_limit(&[10, 500, 500], 110), 50);
        assert_eq!(fair_limit(&[7; 100], 50), 0);
        assert_eq!(fair_limit(&[], 50), 50);
    }

    #[test]
    fn a_cut_response_keeps_its_end_and_says_what_is_missing() {
        let pieces: Vec<String> = (0..100).map(|i| format!("<{i}>")).collect();
        let sample = Sample { pieces, ..Sample::default() };
        let html = response(&sample, 30);
        assert!(html.contains("… 70 tokens …") && html.contains("&lt;99&gt;") && html.contains("&lt;19&gt;"));
        assert!(!html.contains("&lt;20&gt;") && !html.contains("<9"));
        assert_eq!(response(&sample, 0), "<span class=\"cut\"> … 100 tokens</span>");
    }

    #[test]
    fn shades_follow_the_numbers() {
        let sample = Sample {
            pieces: vec!["a".into()],
            logp_mu: vec![-0.5],
            logp: vec![-1.0],
            entropy: vec![0.01],
            ..Sample::default()
        };
        let html = response(&sample, 9);
        assert!(html.contains("class=\"l3 e0 rn3\""), "{html}");
        assert!(html.contains("ratio 0.61"), "{html}");
    }
}
