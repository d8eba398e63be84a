//! From output tokens to words and units, and the score of a length.

/// The target of a prose task in words: `round(0.75 · out_tokens)`.
pub fn target_words(out_tokens: u32) -> u32 {
    (3 * out_tokens + 2) / 4
}

/// `per_1024 · out_tokens / 1024`, rounded, at least `min`.
pub(crate) fn proportional(per_1024: u32, out_tokens: u32, min: u32) -> usize {
    (((u64::from(per_1024) * u64::from(out_tokens) + 512) / 1024) as u32).max(min) as usize
}

/// A count listed for 1024, 2048, 4096 and 8192 tokens, linear in `log2(out_tokens)` between and beyond them.
pub(crate) fn interpolated(listed: [u32; 4], out_tokens: u32, min: u32) -> usize {
    let x = f64::from(out_tokens).log2() - 10.0;
    let i = (x.floor().clamp(0.0, 2.0)) as usize;
    let (low, high) = (f64::from(listed[i]), f64::from(listed[i + 1]));
    (low + (x - i as f64) * (high - low)).round().max(f64::from(min)) as usize
}

/// Tokens of a text, without a tokenizer: the larger of `words · 4/3` and `bytes / 4`, rounded up. For budgets and
/// reports, never for scores.
pub fn estimate_tokens(words: usize, bytes: usize) -> usize {
    (4 * words).div_ceil(3).max(bytes.div_ceil(4))
}

/// The score of `words` against a target: 1 within 10 %, 0 at 0.3 and at 4.4 times the target, as LongBench-Write
/// has it but for the dead band.
pub fn length_score(words: usize, target: u32) -> f64 {
    if words == 0 || target == 0 {
        return 0.0;
    }
    // The dead band in integers, so that its ends are where they are said to be.
    let (n, w) = (words as u64 * 10, u64::from(target));
    let r = words as f64 / f64::from(target);
    if n < 9 * w {
        (1.0 - (0.9 / r - 1.0) / 2.0).max(0.0)
    } else if n > 11 * w {
        (1.0 - (r / 1.1 - 1.0) / 3.0).max(0.0)
    } else {
        1.0
    }
}

/// The multiplier of a prose task: `0.5 + 0.5 · length_score`.
pub fn length_multiplier(words: usize, target: u32) -> f64 {
    0.5 + 0.5 * length_score(words, target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn score_values() {
        for (r, expected) in [
            (450, 0.5),
            (600, 0.75),
            (750, 0.9),
            (1500, 0.878_788),
            (2200, 0.666_667),
            (300, 0.0),
            (4400, 0.0),
        ] {
            assert!((length_score(r, 1000) - expected).abs() < 1e-6, "{r}");
        }
        for r in [900, 1000, 1100] {
            assert_eq!(length_score(r, 1000), 1.0);
        }
        assert!(length_score(899, 1000) < 1.0 && length_score(1101, 1000) < 1.0);
        assert_eq!(length_multiplier(0, 1000), 0.5);
    }

    #[test]
    fn counts() {
        assert_eq!([1024, 2048, 4096, 8192].map(target_words), [768, 1536, 3072, 6144]);
        assert_eq!([256, 1024, 8192].map(|l| proportional(55, l, 8)), [14, 55, 440]);
        let segments = [8, 12, 20, 32];
        assert_eq!([1024, 2048, 4096, 8192].map(|l| interpolated(segments, l, 4)), [8, 12, 20, 32]);
        assert_eq!([256, 512, 1448, 32_768].map(|l| interpolated(segments, l, 4)), [4, 4, 10, 56]);
    }
}
