//! Means of a few values with their intervals.

/// 97.5 % quantiles of Student's t by degrees of freedom; the normal one beyond.
const STUDENT: [f64; 10] = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228];

/// Mean and half the width of its 95 % interval (Student's t); no interval for a single value.
#[must_use]
pub(crate) fn interval(values: &[f64]) -> Option<(f64, Option<f64>)> {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    match values.len() {
        0 => None,
        1 => Some((mean, None)),
        len => {
            let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
            let t = STUDENT.get(len - 2).copied().unwrap_or(1.96);
            Some((mean, Some(t * (variance / n).sqrt())))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn intervals_are_students() {
        assert_eq!(interval(&[]), None);
        assert_eq!(interval(&[2.0]), Some((2.0, None)));
        // Mean 2, standard deviation 1, t = 4.303 with two degrees of freedom.
        let (mean, half) = interval(&[1.0, 2.0, 3.0]).unwrap();
        assert_eq!(mean, 2.0);
        assert!((half.unwrap() - 4.303 / 3f64.sqrt()).abs() < 1e-12);
    }
}
