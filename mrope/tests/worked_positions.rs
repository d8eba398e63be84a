//! Position tables of every design, worked out by hand or by the design's own code.
#![allow(missing_docs, clippy::unwrap_used)]

use mrope::{
    Circle, Compat, Delta, FlatStep, Grid, Placeholders, PositionDesign, Positions, Run, TextSpatial,
    VideoItem, runs_from_ids,
};

/// `A` text, `s` timestamp text, `<` `>` markers, `i` `v` placeholders.
fn place(text: &str, images: &[Grid], videos: &[(Grid, Option<f64>)], design: &PositionDesign) -> Positions {
    let ids: Vec<u32> = text.bytes().filter(|b| *b != b' ').map(u32::from).collect();
    let placeholders = Placeholders { image: u32::from(b'i'), video: u32::from(b'v') };
    let videos: Vec<VideoItem> =
        videos.iter().map(|(grid, seconds)| VideoItem { grid: *grid, seconds_per_grid: *seconds }).collect();
    let runs = runs_from_ids(&ids, placeholders, images, &videos, design).unwrap();
    let positions = design.positions(&runs).unwrap();
    assert_eq!(positions.len(), ids.len());
    positions
}

fn numbers<T: std::str::FromStr<Err: std::fmt::Debug>>(line: &str) -> Vec<T> {
    line.split_whitespace().map(|n| n.parse().unwrap()).collect()
}

fn expect(positions: &Positions, t: &str, h: &str, w: &str, delta: i64) {
    let want: Vec<Vec<i32>> = [t, h, w].map(numbers).into();
    assert_eq!(positions.to_i32().unwrap(), want);
    assert_eq!(positions.delta(), Delta::Whole(delta));
}

fn grid(t: u32, h: u32, w: u32) -> Grid {
    Grid::new(t, h, w)
}

fn qwen_line() -> Vec<PositionDesign> {
    let compats = [Compat::Qwen, Compat::Transformers4, Compat::Transformers5];
    let mut designs = vec![PositionDesign::qwen3_vl()];
    designs.extend(compats.map(PositionDesign::qwen2_vl));
    designs.extend(compats.map(|compat| PositionDesign::qwen2_5_vl(2.0, compat)));
    designs
}

#[test]
fn e1_text_only() {
    let others = [
        PositionDesign::vanilla(),
        PositionDesign::v2pe(FlatStep::Step(0.25)),
        PositionDesign::mrope_i(),
        PositionDesign::videorope(2.0),
        PositionDesign::circle(Circle::default()),
    ];
    for design in qwen_line().into_iter().chain(others) {
        let line = "0 1 2 3 4 5";
        let positions = place("AAAAAA", &[], &[], &design);
        expect(&positions, line, line, line, 0);
        assert_eq!(positions.next(), 6.0);
    }
}

#[test]
fn e2_one_image() {
    for design in qwen_line() {
        let positions = place("AA<iiiiii>AA", &[grid(1, 4, 6)], &[], &design);
        let t = "0 1 2 3 3 3 3 3 3 6 7 8";
        let h = "0 1 2 3 3 3 4 4 4 6 7 8";
        let w = "0 1 2 3 4 5 3 4 5 6 7 8";
        expect(&positions, t, h, w, -3);
    }
}

#[test]
fn e3_two_images() {
    for design in qwen_line() {
        let positions = place("A<iiii>A<iii>A", &[grid(1, 4, 4), grid(1, 2, 6)], &[], &design);
        let t = "0 1 2 2 2 2 4 5 6 7 7 7 10 11";
        let h = "0 1 2 2 3 3 4 5 6 7 7 7 10 11";
        let w = "0 1 2 3 2 3 4 5 6 7 8 9 10 11";
        expect(&positions, t, h, w, -2);
    }
}

/// Adjacent items are told apart by their grids.
#[test]
fn two_images_without_a_marker_between_them() {
    let positions = place("iiiiii", &[grid(1, 4, 4), grid(1, 2, 4)], &[], &PositionDesign::qwen3_vl());
    expect(&positions, "0 0 0 0 2 2", "0 0 1 1 2 2", "0 1 0 1 2 3", -2);
}

#[test]
fn e4_one_video_in_one_block() {
    type Case = ((PositionDesign, Compat), Option<f64>, [i32; 3], i32, i64);
    let qwen2 = |compat| (PositionDesign::qwen2_vl(compat), compat);
    let qwen2_5 = |compat| (PositionDesign::qwen2_5_vl(2.0, compat), compat);
    use Compat::{Qwen, Transformers4, Transformers5};
    let cases: [Case; 12] = [
        (qwen2(Qwen), None, [2, 3, 4], 5, -9),
        (qwen2(Transformers4), None, [2, 3, 4], 5, -9),
        (qwen2(Transformers5), None, [2, 3, 4], 4, -10),
        (qwen2_5(Transformers4), Some(1.0), [2, 4, 6], 7, -7),
        (qwen2_5(Transformers5), Some(1.0), [2, 4, 6], 4, -10),
        (qwen2_5(Transformers4), Some(0.5), [2, 2, 2], 4, -10),
        (qwen2_5(Transformers5), Some(0.5), [2, 3, 4], 4, -10),
        (qwen2_5(Qwen), Some(0.5), [2, 3, 4], 5, -9),
        (qwen2_5(Transformers4), Some(1.5), [2, 4, 6], 7, -7),
        (qwen2_5(Transformers5), Some(1.5), [2, 5, 8], 4, -8),
        (qwen2_5(Qwen), Some(1.5), [2, 5, 8], 9, -5),
        // A video without a time per grid counts one second.
        (qwen2_5(Qwen), None, [2, 4, 6], 7, -7),
    ];
    for ((design, compat), seconds, frames, text, delta) in cases {
        let positions = place("A<vvvvvvvvvvvv>AA", &[], &[(grid(3, 4, 4), seconds)], &design);
        let around = |visual: Vec<i32>| [vec![0, 1], visual, vec![text, text + 1, text + 2]].concat();
        let t: Vec<i32> = frames.iter().flat_map(|t| [*t; 4]).collect();
        let want = [around(t), around([2, 2, 3, 3].repeat(3)), around([2, 3, 2, 3].repeat(3))];
        assert_eq!(positions.to_i32().unwrap(), want, "{design:?}, {seconds:?}");
        let row = positions.sequences()[0];
        assert_eq!(compat.delta(&row, 17), Delta::Whole(delta), "{design:?}, {seconds:?}");
        assert_eq!(row.next, f64::from(text) + 3.0);
    }
}

/// `trunc` of an f32 product, not of an f64 one.
#[test]
fn absolute_time_is_truncated_in_f32() {
    let design = PositionDesign::qwen2_5_vl(2.0, Compat::Qwen);
    let video = Run::Video { grid: grid(101, 2, 2), seconds_per_grid: Some(0.29) };
    let t = design.positions(&[video]).unwrap().to_i32().unwrap()[0].clone();
    let interval = 2f32 * 0.29f32;
    for (k, t) in t.iter().enumerate() {
        assert_eq!(*t, (k as f32 * interval) as i32);
    }
    // In f64, 50 · 0.58 is 28.999999999999996.
    assert_eq!((t[50], (50.0 * (2.0 * 0.29)) as i32), (29, 28));
    // An image has no time, whatever its number of frames.
    let image = design.positions(&[Run::Image(grid(3, 2, 2))]).unwrap();
    assert_eq!(image.to_i32().unwrap()[0], [0, 0, 0]);
}

#[test]
fn e5_qwen3_vl_video() {
    let design = PositionDesign::qwen3_vl();
    let positions = place("A sss <vvvv> sss <vvvv> A A", &[], &[(grid(2, 4, 4), None)], &design);
    let t = "0 1 2 3 4 5 5 5 5 7 8 9 10 11 12 12 12 12 14 15 16";
    let h = "0 1 2 3 4 5 5 6 6 7 8 9 10 11 12 12 13 13 14 15 16";
    let w = "0 1 2 3 4 5 6 5 6 7 8 9 10 11 12 13 12 13 14 15 16";
    expect(&positions, t, h, w, -4);
}

#[test]
fn e6_image_video_image() {
    let design = PositionDesign::qwen3_vl();
    let images = [grid(1, 2, 4), grid(1, 4, 4)];
    let text = "A<ii> A ss<vvvv> ss<vvvv> A <iiii> A";
    let positions = place(text, &images, &[(grid(2, 4, 4), None)], &design);
    let t = "0 1 2 2 4 5 6 7 8 9 9 9 9 11 12 13 14 15 15 15 15 17 18 19 20 20 20 20 22 23";
    let h = "0 1 2 2 4 5 6 7 8 9 9 10 10 11 12 13 14 15 15 16 16 17 18 19 20 20 21 21 22 23";
    let w = "0 1 2 3 4 5 6 7 8 9 10 9 10 11 12 13 14 15 16 15 16 17 18 19 20 21 20 21 22 23";
    expect(&positions, t, h, w, -6);
}

#[test]
fn e7_padding() {
    let design = PositionDesign::qwen3_vl();
    let image = vec![Run::Text(2), Run::Image(grid(1, 4, 4)), Run::Text(2)];
    let rows = [image, vec![Run::Text(3)], vec![Run::Text(3)]];
    let mask: Vec<bool> =
        "11111111 00000111 11100000".bytes().filter(|b| *b != b' ').map(|b| b == b'1').collect();
    for (compat, t, deltas) in [
        (Compat::Transformers4, "0 1 2 2 2 2 4 5  1 1 1 1 1 0 1 2  0 1 2 1 1 1 1 1", [-2, -5, -5]),
        (Compat::Transformers5, "0 1 2 2 2 2 4 5  0 0 0 0 0 0 1 2  0 1 2 0 0 0 0 0", [-2, 0, 0]),
        (Compat::Qwen, "0 1 2 2 2 2 4 5  0 0 0 0 0 0 1 2  0 1 2 0 0 0 0 0", [-2, 0, 0]),
    ] {
        let positions = design.padded(&rows, &mask, compat.pad_value()).unwrap();
        assert_eq!(positions.to_i32().unwrap()[0], numbers::<i32>(t));
        let found: Vec<Delta> = positions.sequences().iter().map(|row| compat.delta(row, 8)).collect();
        assert_eq!(found, deltas.map(Delta::Whole));
    }
}

/// `A < i×6 > < v×4 > < v×4 > A`.
fn e8(design: &PositionDesign) -> Positions {
    let frame = Run::Video { grid: grid(1, 4, 4), seconds_per_grid: None };
    let image = Run::Image(grid(1, 4, 6));
    let text = Run::Text(2);
    design.positions(&[text, image, text, frame, text, frame, text]).unwrap()
}

#[test]
fn e8_vanilla_and_grids() {
    let line = (0..22).map(|i| i.to_string()).collect::<Vec<_>>().join(" ");
    expect(&e8(&PositionDesign::vanilla()), &line, &line, &line, 0);
    let t = "0 1 2 2 2 2 2 2 5 6 7 7 7 7 9 10 11 11 11 11 13 14";
    for design in qwen_line() {
        let h = "0 1 2 2 2 3 3 3 5 6 7 7 8 8 9 10 11 11 12 12 13 14";
        let w = "0 1 2 3 4 2 3 4 5 6 7 8 7 8 9 10 11 12 11 12 13 14";
        expect(&e8(&design), t, h, w, -7);
    }
    let copied = PositionDesign { text_spatial: TextSpatial::Copy, ..PositionDesign::omni() };
    for design in [PositionDesign::mrope_i(), PositionDesign::mhrope(), copied] {
        let h = "0 1 0 0 0 1 1 1 5 6 0 0 1 1 9 10 0 0 1 1 13 14";
        let w = "0 1 0 1 2 0 1 2 5 6 0 1 0 1 9 10 0 1 0 1 13 14";
        expect(&e8(&design), t, h, w, -7);
    }
    for design in [PositionDesign::omni(), PositionDesign::il()] {
        let h = "0 0 0 0 0 1 1 1 0 0 0 0 1 1 0 0 0 0 1 1 0 0";
        let w = "0 0 0 1 2 0 1 2 0 0 0 1 0 1 0 0 0 1 0 1 0 0";
        expect(&e8(&design), t, h, w, -7);
    }
    // After each block the count of its tokens: 2 + 6, 10 + 4, 16 + 4.
    let t = "0 1 2 2 2 2 2 2 8 9 10 10 10 10 14 15 16 16 16 16 20 21";
    let h = "0 1 2 2 2 3 3 3 8 9 10 10 11 11 14 15 16 16 17 17 20 21";
    let w = "0 1 2 3 4 2 3 4 8 9 10 11 10 11 14 15 16 17 16 17 20 21";
    expect(&e8(&PositionDesign::rope_tie()), t, h, w, 0);
}

#[test]
fn e8_diagonal_and_scaled() {
    let t = "0 1 2 2 2 2 2 2 3 4 5 5 5 5 6 7 8 8 8 8 9 10";
    let h = "0 1 2 2 2 3 3 3 3 4 5 5 6 6 6 7 8 8 9 9 9 10";
    let w = "0 1 1 2 3 1 2 3 3 4 5 6 5 6 6 7 8 9 8 9 9 10";
    expect(&e8(&PositionDesign::videorope(2.0)), t, h, w, -11);
    let t = "0 1 2 2 2 2 2 2 19 20 21 21 21 21 30 31 32 32 32 32 41 42";
    let h = "0 1 2 2 2 10 10 10 19 20 21 21 29 29 30 31 32 32 40 40 41 42";
    let w = "0 1 2 10 18 2 10 18 19 20 21 29 21 29 30 31 32 40 32 40 41 42";
    expect(&e8(&PositionDesign::mm(4.0, 8.0, 8.0)), t, h, w, 21);
}

fn close(got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{got:?} against {want:?}");
    for (g, w) in got.iter().zip(want) {
        assert!((g - w).abs() <= tolerance, "{got:?} against {want:?}");
    }
}

#[test]
fn e8_v2pe_span() {
    let positions = e8(&PositionDesign::v2pe(FlatStep::Span(2.0)));
    let third = 1.0 / 3.0;
    let image = (1..=6).map(|j| 1.0 + f64::from(j) * third);
    let want: Vec<f64> = [0.0, 1.0]
        .into_iter()
        .chain(image)
        .chain([4.0, 5.0, 5.5, 6.0, 6.5, 7.0, 8.0, 9.0, 9.5, 10.0, 10.5, 11.0, 12.0, 13.0])
        .collect();
    for axis in positions.axes() {
        close(axis, &want, 1e-12);
    }
    assert_eq!((positions.delta(), positions.next()), (Delta::Whole(-8), 14.0));
}

#[test]
fn e8_circle() {
    let positions = e8(&PositionDesign::circle(Circle { radius: 10.0, alpha: 0.5, center: true }));
    let t =
        "0 1 2 9.5275 7.8319 -6.165 -6.1004 -5.9078 10.5275 11.5275 12.5275 20.4142 4.3625 4.6407 21.4142";
    let h = "0 1 9.0711 0.9754 -5.8649 6.0825 5.1629 4.1933 10.5275";
    let w = "0 1 -5.0711 -4.5029 4.033 6.0825 6.9375 7.7145 10.5275";
    for (axis, line) in positions.axes().iter().zip([t, h, w]) {
        let want: Vec<f64> = numbers(line);
        close(&axis[..want.len()], &want, 6e-5);
    }
    close(&[positions.next()], &[34.3010], 6e-5);
    assert!(matches!(positions.delta(), Delta::Fractional(_)));
}

#[test]
fn e9_videos_in_one_block() {
    let runs = [Run::Text(2), Run::Video { grid: grid(3, 4, 4), seconds_per_grid: None }, Run::Text(2)];
    let v2pe = PositionDesign::v2pe(FlatStep::Step(0.25)).positions(&runs).unwrap();
    let line: Vec<f64> =
        [0.0, 1.0].into_iter().chain((1..=12).map(|j| 1.0 + f64::from(j) / 4.0)).chain([5.0, 6.0]).collect();
    assert_eq!(v2pe.axes()[2], line);
    assert_eq!(v2pe.next(), 7.0);

    let videorope = PositionDesign::videorope(2.0).positions(&runs).unwrap();
    let t = "0 1 2 2 2 2 4 4 4 4 6 6 6 6 7 8";
    let h = "0 1 2 2 3 3 4 4 5 5 6 6 7 7 7 8";
    let w = "0 1 2 3 2 3 4 5 4 5 6 7 6 7 7 8";
    expect(&videorope, t, h, w, -7);

    let hope = PositionDesign::hope(0.75).positions(&runs).unwrap();
    let t = "0 1 2 2 2 2 2.75 2.75 2.75 2.75 3.5 3.5 3.5 3.5 4.5 5.5";
    assert_eq!(hope.axes()[0], numbers::<f64>(t));
    assert_eq!((hope.next(), hope.delta()), (6.5, Delta::Fractional(-9.5)));

    let vrope = PositionDesign::vrope().positions(&runs).unwrap();
    let want = [
        "0 1 2 3 3 4 5 6 6 7 8 9 9 10 11 12",
        "0 1 3 4 2 3 6 7 5 6 9 10 8 9 11 12",
        "0 1 4 3 3 2 7 6 6 5 10 9 9 8 11 12",
        "0 1 3 2 4 3 6 5 7 6 9 8 10 9 11 12",
    ];
    assert_eq!(vrope.to_i32().unwrap(), want.map(numbers::<i32>));
    assert_eq!(vrope.next(), 13.0);
}

/// How far text moves past a visual item.
#[test]
fn coordinates_taken_by_an_item() {
    let image = Run::Image(grid(1, 68, 120));
    let video = Run::Video { grid: grid(128, 44, 80), seconds_per_grid: None };
    let taken = |design: &PositionDesign, runs: &[Run]| {
        let positions = design.positions(runs).unwrap();
        (positions.len(), positions.next())
    };
    let v2pe = PositionDesign::v2pe(FlatStep::Step(1.0 / 16.0));
    let qwen2 = PositionDesign::qwen2_vl(Compat::Qwen);
    let qwen2_5 = PositionDesign::qwen2_5_vl(2.0, Compat::Qwen);
    let diagonal = PositionDesign::videorope(1.0);
    assert_eq!(taken(&PositionDesign::vanilla(), &[image]), (2040, 2040.0));
    assert_eq!(taken(&qwen2, &[image]), (2040, 60.0));
    assert_eq!(taken(&diagonal, &[image]), (2040, 1.0));
    // 127.5 steps end at 126.5; text continues on the next whole number but one.
    assert_eq!(taken(&v2pe, &[image]), (2040, 128.0));
    assert_eq!(v2pe.positions(&[image]).unwrap().axes()[0][2039], 126.5);
    assert_eq!(taken(&PositionDesign::vanilla(), &[video]), (112_640, 112_640.0));
    assert_eq!(taken(&v2pe, &[video]), (112_640, 7040.0));
    assert_eq!(taken(&qwen2, &[video]), (112_640, 128.0));
    assert_eq!(taken(&diagonal, &[video]), (112_640, 128.0));
    assert_eq!(taken(&qwen2_5, &[video]), (112_640, 255.0));
    // Qwen3-VL: every frame takes 40 and its nine markers 9.
    let frame = Run::Video { grid: grid(1, 44, 80), seconds_per_grid: None };
    let stream = [Run::Text(9), frame].repeat(128);
    assert_eq!(taken(&PositionDesign::qwen3_vl(), &stream), (113_792, 6272.0));
}
