//! Curves as numbers: smoothing, and thinning for the page.

/// Kernel average (Nadaraya, 1964; Watson, 1964) at the points `at`, with a Gaussian kernel of standard deviation
/// `width` steps. Centred, so unlike an exponential moving average it does not lag behind a change. Values that are not
/// finite stay as they are and count for nothing in the others.
pub(super) fn smooth(points: &[(f64, f64)], at: &[usize], width: f64) -> Vec<(f64, f64)> {
    let average = |&i: &usize| {
        let (centre, own) = points[i];
        if !own.is_finite() {
            return (centre, own);
        }
        let from = points.partition_point(|p| p.0 < centre - 3.0 * width);
        let near =
            points[from..].iter().take_while(|p| p.0 <= centre + 3.0 * width).filter(|p| p.1.is_finite());
        let (sum, weight) = near.fold((0.0, 0.0), |(sum, weight), p| {
            let w = (-0.5 * ((p.0 - centre) / width).powi(2)).exp();
            (sum + w * p.1, weight + w)
        });
        (centre, sum / weight)
    };
    at.iter().map(average).collect()
}

/// Indices of at most `want` points that keep the curve's shape: largest-triangle-three-buckets (Steinarsson,
/// *Downsampling Time Series for Visual Representation*, 2013, §4.2). Every kept point is one that was recorded.
///
/// Non-finite points count as zero height when triangles are compared.
pub(super) fn thin(points: &[(f64, f64)], want: usize) -> Vec<usize> {
    let n = points.len();
    if n <= want || want < 3 {
        return (0..n).collect();
    }
    let height = |i: usize| if points[i].1.is_finite() { points[i].1 } else { 0.0 };
    // Buckets divide the points between the first and the last, which are always kept.
    let edge = |bucket: usize| 1 + bucket * (n - 2) / (want - 2);
    let mut kept = vec![0];
    let mut previous = 0;
    for bucket in 0..want - 2 {
        let next = edge(bucket + 1)..edge(bucket + 2).min(n).max(edge(bucket + 1) + 1);
        let count = next.len() as f64;
        let (mut cx, mut cy) = (0.0, 0.0);
        for i in next {
            cx += points[i].0 / count;
            cy += height(i) / count;
        }
        let (ax, ay) = (points[previous].0, height(previous));
        let area = |i: usize| ((ax - cx) * (height(i) - ay) - (ax - points[i].0) * (cy - ay)).abs();
        let mut best = edge(bucket);
        for i in edge(bucket)..edge(bucket + 1) {
            if area(i) > area(best) {
                best = i;
            }
        }
        kept.push(best);
        previous = best;
    }
    kept.push(n - 1);
    kept
}

/// What a row of numbers says of a curve; only finite values count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Summary {
    pub(super) first: f64,
    pub(super) last: f64,
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) median: f64,
}

/// `None` when no value is finite.
pub(super) fn summary(points: &[(f64, f64)]) -> Option<Summary> {
    let values: Vec<f64> = points.iter().map(|p| p.1).filter(|y| y.is_finite()).collect();
    let mut sorted = values.clone();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let median = if sorted.len().is_multiple_of(2) && middle > 0 {
        (sorted[middle - 1] + sorted[middle]) / 2.0
    } else {
        *sorted.get(middle)?
    };
    Some(Summary {
        first: *values.first()?,
        last: *values.last()?,
        min: *sorted.first()?,
        max: *sorted.last()?,
        median,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn smoothing_keeps_a_constant_and_does_not_lag() {
        let all: Vec<usize> = (0..200).collect();
        let flat: Vec<_> = (0..200).map(|i| (f64::from(i), 0.75)).collect();
        assert!(smooth(&flat, &all, 6.0).iter().all(|p| (p.1 - 0.75).abs() < 1e-12));
        let line: Vec<_> = (0..200).map(|i| (f64::from(i), f64::from(i))).collect();
        assert!((smooth(&line, &[100], 6.0)[0].1 - 100.0).abs() < 1e-9);
        // A unit step, averaged at its foot: half of the mass, less half of the kernel's centre 1/(σ√2π).
        let step: Vec<_> = (0..200).map(|i| (f64::from(i), if i < 100 { 0.0 } else { 1.0 })).collect();
        let expected = 0.5 - 0.5 / (6.0 * std::f64::consts::TAU.sqrt());
        assert!((smooth(&step, &[99], 6.0)[0].1 - expected).abs() < 1e-3);
    }

    #[test]
    fn smoothing_passes_over_what_is_not_finite() {
        let s = smooth(&[(0.0, 1.0), (1.0, f64::NAN), (2.0, 1.0)], &[0, 1, 2], 5.0);
        assert!(s[1].1.is_nan());
        assert!((s[2].1 - 1.0).abs() < 1e-12);
    }

    #[test]
    fn thinning_keeps_a_lone_spike() {
        let mut points: Vec<_> = (0..5000).map(|i| (f64::from(i), 0.0)).collect();
        points[3333].1 = 9.0;
        assert!(thin(&points, 100).contains(&3333));
    }

    #[test]
    fn summary_of_odd_and_even_counts() {
        let s = summary(&[(0.0, 3.0), (1.0, f64::NAN), (2.0, 1.0), (3.0, 2.0)]).unwrap();
        assert_eq!((s.first, s.last, s.min, s.max, s.median), (3.0, 2.0, 1.0, 3.0, 2.0));
        assert_eq!(summary(&[(0.0, 1.0), (1.0, 2.0)]).unwrap().median, 1.5);
        assert_eq!(summary(&[(0.0, f64::INFINITY)]), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn thinning_gives_rising_indices_with_both_ends(n in 0_usize..2000, want in 3_usize..300) {
            let points: Vec<_> = (0..n).map(|i| (i as f64, ((i * 7919) % 101) as f64)).collect();
            let kept = thin(&points, want);
            prop_assert_eq!(kept.len(), n.min(want));
            prop_assert!(kept.windows(2).all(|w| w[0] < w[1]));
            if n > 0 {
                prop_assert_eq!((kept[0], kept[kept.len() - 1]), (0, n - 1));
            }
        }
    }
}
