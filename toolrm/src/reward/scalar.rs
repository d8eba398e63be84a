//! The loss of reward models that give a number.

/// The Bradley–Terry loss of a pair, −ln σ(chosen − rejected), in nats, and its derivative by the number of the chosen response; that by
/// the other's is its negative. Exact at any distance: no exponential overflows, and the loss of a pair that is far on the wrong side
/// grows like the distance.
///
/// ```
/// use toolrm::reward::bradley_terry_loss;
/// assert_eq!(bradley_terry_loss(1.5, 1.5), (2f64.ln(), -0.5));
/// assert_eq!(bradley_terry_loss(-1e4, 1e4), (2e4, -1.0));
/// ```
pub fn bradley_terry_loss(chosen: f64, rejected: f64) -> (f64, f64) {
    let margin = chosen - rejected;
    let small = (-margin.abs()).exp();
    let loss = (-margin).max(0.0) + small.ln_1p();
    // σ(−margin), with the exponential that is at most 1.
    let wrong = if margin >= 0.0 { small / (1.0 + small) } else { 1.0 / (1.0 + small) };
    (loss, -wrong)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::bradley_terry_loss;

    proptest! {
        #[test]
        fn the_loss_is_minus_the_log_of_the_probability_and_its_derivative_the_slope(
            chosen in -30.0..30.0f64, rejected in -30.0..30.0f64,
        ) {
            let (loss, slope) = bradley_terry_loss(chosen, rejected);
            let plain = (1.0 + (rejected - chosen).exp()).ln();
            prop_assert!((loss - plain).abs() < 1e-12 * plain.max(1.0), "{loss} {plain}");
            let h = 1e-5;
            let numeric = (bradley_terry_loss(chosen + h, rejected).0 - bradley_terry_loss(chosen - h, rejected).0) / (2.0 * h);
            prop_assert!((slope - numeric).abs() < 1e-8, "{slope} {numeric}");
            // The two orders of a pair share the probability.
            let (_, other) = bradley_terry_loss(rejected, chosen);
            prop_assert!((slope + other + 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn far_margins_are_finite() {
        assert_eq!(bradley_terry_loss(1e308, -1e308), (0.0, -0.0));
        assert_eq!(bradley_terry_loss(0.0, 800.0), (800.0, -1.0));
        // ln(1 + e⁻⁴⁰) is not lost.
        let (loss, slope) = bradley_terry_loss(40.0, 0.0);
        assert!((loss / (-40f64).exp() - 1.0).abs() < 1e-12 && (slope / -(-40f64).exp() - 1.0).abs() < 1e-12);
    }
}
