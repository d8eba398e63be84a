//! Texts: articles of the declaration, and what is mixed into them.

use std::error::Error;
use std::path::Path;

use rand::Rng;

use super::config::{Config, Mixing};

/// The articles of one language.
pub(crate) struct Articles(pub(crate) Vec<String>);

impl Articles {
    fn read(path: &Path) -> Result<Self, Box<dyn Error>> {
        let html = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let articles = html.split("<article").skip(1).map(|part| {
            let part = part.split("</article>").next().unwrap_or(part);
            let paragraphs = part.split("<p>").skip(1).filter_map(|p| p.split("</p>").next());
            paragraphs.map(plain).collect::<Vec<_>>().join(" ")
        });
        let articles: Vec<String> = articles.collect();
        if articles.len() != 30 || articles.iter().any(String::is_empty) {
            return Err(
                format!("{}: {} articles, expected 30 with text", path.display(), articles.len()).into()
            );
        }
        Ok(Self(articles))
    }
}

/// Text without tags, in single spaces.
fn plain(html: &str) -> String {
    let (mut text, mut inside) = (String::new(), false);
    for c in html.chars() {
        match c {
            '<' => inside = true,
            '>' => inside = false,
            c if !inside => text.push(c),
            _ => {}
        }
    }
    let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&").replace("&nbsp;", " ");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// All texts of the study.
pub(crate) struct Corpus {
    /// By language, then by article.
    languages: Vec<Articles>,
    latin: Vec<String>,
    han: Vec<char>,
    /// Places of the articles of each part.
    parts: [Vec<usize>; 3],
}

/// What articles are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The model learns from them.
    Training,
    /// They say when the model has learnt enough, and gates learn from them.
    Development,
    /// They prompt the evaluation.
    HeldOut,
}

impl Corpus {
    pub(crate) fn read(config: &Config, dir: &Path) -> Result<Self, Box<dyn Error>> {
        let read = |l: &super::config::Language| Articles::read(&dir.join(format!("{}.html", l.file)));
        let languages = config.languages.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let of = |code: &str| config.languages.iter().position(|l| l.code == code).ok_or("no such language");
        let (english, chinese) = (&languages[of("en")?], &languages[of("zh")?]);
        let words = english.0.iter().flat_map(|a| a.split(|c: char| !c.is_ascii_alphabetic()));
        let latin = words.filter(|w| w.len() > 2).map(str::to_owned).collect();
        let han = chinese.0.iter().flat_map(|a| a.chars()).filter(|c| ('一'..='鿿').contains(c)).collect();
        let parts = [&config.training_articles, &config.development_articles, &config.held_out_articles];
        let mut all: Vec<usize> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        all.sort_unstable();
        if all.windows(2).any(|w| w[0] == w[1]) || all.iter().any(|a| !(1..=30).contains(a)) {
            return Err("an article is of two parts, or none of 1 to 30".into());
        }
        let parts = parts.map(|part| part.iter().map(|article| article - 1).collect());
        Ok(Self { languages, latin, han, parts })
    }

    /// The articles of a language that are of a part.
    pub(crate) fn articles(&self, language: usize, part: Part) -> Vec<&str> {
        self.parts[part as usize].iter().map(|i| self.languages[language].0[*i].as_str()).collect()
    }

    fn word(&self, rng: &mut impl Rng) -> &str {
        &self.latin[rng.random_range(0..self.latin.len())]
    }

    /// A text with wrong words and announced ones. Thai, which writes no spaces between words, takes them at any character
    /// that no mark follows.
    pub(crate) fn mixed(&self, text: &str, mixing: &Mixing, rng: &mut impl Rng) -> String {
        let mut out = String::with_capacity(2 * text.len());
        let spaces = text.chars().filter(|c| *c == ' ').count();
        let written_together = spaces * 15 < text.chars().count();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            let gap = match written_together {
                // As rare as words elsewhere.
                true => {
                    c.is_alphabetic()
                        && chars.peek().is_some_and(|n| n.is_alphabetic())
                        && rng.random_bool(0.15)
                }
                false => c == ' ',
            };
            if gap && rng.random_bool(mixing.wrong) {
                if c != ' ' {
                    out.push(c);
                }
                if rng.random_bool(0.5) {
                    out.push(' ');
                    out.push_str(self.word(rng));
                } else {
                    let start = rng.random_range(0..self.han.len() - 4);
                    if rng.random_bool(0.5) {
                        out.push(' ');
                    }
                    out.extend(&self.han[start..start + rng.random_range(2..5)]);
                }
                out.push(' ');
            } else if gap && rng.random_bool(mixing.announced) {
                if c != ' ' {
                    out.push(c);
                }
                out.push_str(" (");
                out.push_str(self.word(rng));
                out.push_str(") ");
            } else {
                out.push(c);
            }
        }
        out
    }
}

/// A response without what is announced: round brackets with English words alone in them, which the response may end within.
pub(crate) fn without_announced(text: &str) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(at) = rest.find('(') {
        let inside = &rest[at + 1..];
        let end = inside.find(|c: char| !c.is_ascii_alphabetic() && c != ' ').unwrap_or(inside.len());
        out.push_str(&rest[..at]);
        rest = match inside[end..].strip_prefix(')') {
            Some(behind) => behind,
            None if end == inside.len() => "",
            None => {
                out.push('(');
                inside
            }
        };
    }
    out.push_str(rest);
    out
}
