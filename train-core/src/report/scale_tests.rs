use proptest::prelude::*;

use super::scale::*;

#[test]
fn ticks_are_round_and_inside() {
    let scale = |lo, hi| Scale::new((lo, hi), (0.0, 100.0), false);
    assert_eq!(scale(0.0, 1.0).ticks(5), [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]);
    assert_eq!(scale(0.0, 37.0).ticks(4), [0.0, 10.0, 20.0, 30.0]);
    assert_eq!(scale(-3.0, 3.0).ticks(3), [-2.0, 0.0, 2.0]);
    let log = Scale::new((0.5, 2e4), (0.0, 100.0), true);
    assert_eq!(log.ticks(5), [1.0, 10.0, 100.0, 1000.0, 10000.0]);
}

#[test]
fn step_ticks_are_whole_numbers() {
    let ticks = |lo, hi| step_ticks(&Scale::new((lo, hi), (0.0, 1.0), false), 6);
    assert_eq!(ticks(0.0, 3.0), [0.0, 1.0, 2.0, 3.0]);
    assert_eq!(ticks(3.5, 4.5), [4.0]);
    assert_eq!(ticks(0.0, 10_000.0), [0.0, 2000.0, 4000.0, 6000.0, 8000.0, 10_000.0]);
}

#[test]
fn a_single_value_lands_in_the_middle() {
    for value in [0.0, 7.0, -2.5] {
        assert!((Scale::new((value, value), (0.0, 100.0), false).at(value) - 50.0).abs() < 1e-9);
    }
    assert!((Scale::new((3.0, 3.0), (0.0, 100.0), true).at(3.0) - 50.0).abs() < 1e-9);
}

#[test]
fn what_has_no_place_breaks_the_path() {
    let log = Scale::new((1.0, 100.0), (0.0, 10.0), true);
    assert!(log.at(0.0).is_nan() && log.at(-1.0).is_nan() && log.at(f64::NAN).is_nan());
    let gap = path([(0.0, 1.0), (1.0, f64::NAN), (2.0, 3.25), (3.0, 4.0)]);
    assert_eq!(gap, "M0 1M2 3.2L3 4");
    assert_eq!(path([]), "");
}

#[test]
fn numbers_read_well() {
    let cases = [
        (0.0, "0"),
        (0.123_456, "0.12"),
        (0.012_345, "0.012"),
        (0.001_234, "0.0012"),
        (-3.456, "−3.46"),
        (-0.000_000_1, "−1.00×10⁻⁷"),
        (12_345.6, "12,346"),
        (123.4, "123"),
        (3.2e12, "3.20×10¹²"),
        (f64::NAN, "NaN"),
        (f64::NEG_INFINITY, "−∞"),
    ];
    for (value, text) in cases {
        assert_eq!(number(value), text);
    }
    assert_eq!(fixed(-0.001, 2), "0.00");
    assert_eq!(Unit::Share.show(0.974), "97.4%");
    assert_eq!([0.0, 0.5, 1.0].map(|v| Unit::Share.show(v)), ["0%", "50%", "100%"]);
    assert_eq!(Unit::Share.show(0.0123), "1.2%");
    assert_eq!(
        [0.012, 0.84, 48.25, 59.97, 725.0, 12_000.0].map(duration),
        ["12.0 ms", "840 ms", "48.2 s", "1 min 0 s", "12 min 5 s", "3 h 20 min"]
    );
}

#[test]
fn tick_labels_share_their_decimals() {
    let labels =
        |ticks: &[f64], unit: Unit, log| ticks.iter().map(|&t| unit.tick(t, ticks, log)).collect::<Vec<_>>();
    assert_eq!(labels(&[0.0, 0.5, 1.0], Unit::Plain, false), ["0", "0.5", "1.0"]);
    assert_eq!(labels(&[0.0, 5e4, 1e5], Unit::Plain, false), ["0", "50k", "100k"]);
    assert_eq!(labels(&[0.0, 2.5e-6, 5e-6], Unit::Plain, false), ["0", "2.5×10⁻⁶", "5×10⁻⁶"]);
    assert_eq!(labels(&[0.01, 0.1, 1.0], Unit::Plain, true), ["10⁻²", "10⁻¹", "10⁰"]);
    assert_eq!(labels(&[0.0, 0.25, 0.5], Unit::Share, false), ["0%", "25%", "50%"]);
}

#[test]
fn text_cannot_become_markup() {
    assert_eq!(escape("<a b=\"c\" d='e'>&"), "&lt;a b=&quot;c&quot; d=&#39;e&#39;&gt;&amp;");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn nice_domains_hold_the_data_and_end_on_ticks(lo in -1e6_f64..1e6, width in 1e-6_f64..1e6, count in 2_usize..8) {
        let (a, b) = nice(lo, lo + width, count);
        let slack = 1e-6 * (b - a);
        prop_assert!(a <= lo + slack && b >= lo + width - slack);
        let ticks = Scale::new((a, b), (0.0, 1.0), false).ticks(count);
        prop_assert!(ticks.len() >= 2 && ticks.len() <= count + 4, "{:?}", ticks);
        prop_assert!((ticks[0] - a).abs() <= slack.max(1e-9) , "{a} {:?}", ticks);
    }
}
