//! How near a copy is to its original.

use unicode_normalization::UnicodeNormalization;

/// 1 for a copy, 0 at a similarity of 0.8 and below, linear between: `clamp((sim − 0.8)/0.2, 0, 1)` with
/// `sim = 1 − lev/max(|a|, |b|)` over characters, after NFC and with white space collapsed.
pub(super) fn fidelity(original: &str, copy: &str) -> f64 {
    if original == copy {
        return 1.0;
    }
    let (a, b) = (normal(original), normal(copy));
    let longest = a.len().max(b.len());
    // Five times the distance reaches the length where nothing is left.
    let Some(distance) = levenshtein_within(&a, &b, longest / 5) else { return 0.0 };
    if longest == 0 { 1.0 } else { (1.0 - 5.0 * distance as f64 / longest as f64).max(0.0) }
}

fn normal(text: &str) -> Vec<char> {
    let mut chars = Vec::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !chars.is_empty() {
            chars.push(' ');
        }
        chars.extend(word.nfc());
    }
    chars
}

/// The Levenshtein distance where it is at most `limit`, computed in a band of that width.
fn levenshtein_within(a: &[char], b: &[char], limit: usize) -> Option<usize> {
    let (a, b) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    if b.len() - a.len() > limit {
        return None;
    }
    let far = limit + 1;
    let mut row: Vec<usize> = (0..=b.len()).map(|j| j.min(far)).collect();
    for (i, x) in a.iter().enumerate() {
        let (from, to) = ((i + 1).saturating_sub(limit), (i + 1 + limit).min(b.len()));
        let mut diagonal = if from > 0 { row[from - 1] } else { row[0] };
        if from == 0 {
            row[0] = (i + 1).min(far);
        } else {
            row[from - 1] = far;
        }
        let mut best = if from == 0 { row[0] } else { far };
        for j in from.max(1)..=to {
            let above = if j == i + 1 + limit { far } else { row[j] };
            let cost = (diagonal + usize::from(*x != b[j - 1])).min(above + 1).min(row[j - 1] + 1).min(far);
            diagonal = row[j];
            row[j] = cost;
            best = best.min(cost);
        }
        if best > limit {
            return None;
        }
    }
    Some(row[b.len()]).filter(|&d| d <= limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plain(a: &[char], b: &[char]) -> usize {
        let mut table = vec![vec![0; b.len() + 1]; a.len() + 1];
        for i in 0..=a.len() {
            for j in 0..=b.len() {
                table[i][j] = match (i, j) {
                    (0, j) => j,
                    (i, 0) => i,
                    _ => (table[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]))
                        .min(table[i - 1][j] + 1)
                        .min(table[i][j - 1] + 1),
                };
            }
        }
        table[a.len()][b.len()]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn band_is_exact(a in "[ab]{0,14}", b in "[ab]{0,14}", limit in 0usize..16) {
            let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
            let expected = Some(plain(&a, &b)).filter(|&d| d <= limit);
            prop_assert_eq!(levenshtein_within(&a, &b, limit), expected);
        }
    }

    #[test]
    fn fidelity_values() {
        let text = "x".repeat(100);
        let edited = |n: usize| "y".repeat(n) + &text[n..];
        assert_eq!(fidelity(&text, &text), 1.0);
        assert!((fidelity(&text, &edited(7)) - 0.65).abs() < 1e-12);
        assert_eq!(fidelity(&text, &edited(20)), 0.0);
        assert_eq!(fidelity(&text, &edited(50)), 0.0);
        assert_eq!(fidelity("caf\u{e9}  au lait", "cafe\u{301} au\nlait "), 1.0);
        assert_eq!(fidelity("abc", ""), 0.0);
    }
}
