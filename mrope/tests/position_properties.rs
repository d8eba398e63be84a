//! The algebra of positions, over random streams.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeSet;

use mrope::{
    Advance, Circle, Compat, Delta, FlatStep, Grid, Layout, PositionBuilder, PositionDesign, Positions, Run,
    Sequence, Temporal, TextSpatial,
};
use proptest::prelude::*;

fn grid() -> impl Strategy<Value = Grid> {
    (1u32..5, 1u32..6, 1u32..6).prop_map(|(t, h, w)| Grid::new(t, 2 * h, 2 * w))
}

fn run() -> impl Strategy<Value = Run> {
    prop_oneof![
        (0usize..7).prop_map(Run::Text),
        grid().prop_map(Run::Image),
        (grid(), prop::option::of(0.1f64..3.0))
            .prop_map(|(grid, seconds_per_grid)| Run::Video { grid, seconds_per_grid }),
    ]
}

fn stream() -> impl Strategy<Value = Vec<Run>> {
    prop::collection::vec(run(), 0..7)
}

fn layout() -> impl Strategy<Value = Layout> {
    prop_oneof![
        (1u32..9).prop_map(|k| Layout::Flat(FlatStep::Step(1.0 / f64::from(1 << k)))),
        (1u32..9).prop_map(|k| Layout::Flat(FlatStep::Span(f64::from(k)))),
        Just(Layout::Grid),
        Just(Layout::GridReset),
        Just(Layout::Diagonal),
        (1.0f64..20.0, 0.0f64..=1.0, any::<bool>())
            .prop_map(|(radius, alpha, center)| Layout::Circle(Circle { radius, alpha, center })),
        (1u32..9, 1u32..9, 1u32..9).prop_map(|(t, h, w)| Layout::Scaled {
            t: t.into(),
            h: h.into(),
            w: w.into()
        }),
        Just(Layout::Symmetric4),
    ]
}

fn temporal() -> impl Strategy<Value = Temporal> {
    prop_oneof![
        prop::sample::select(vec![0.5, 0.75, 1.0, 1.25, 1.5, 2.0]).prop_map(Temporal::Stride),
        (1u32..5, any::<bool>()).prop_map(|(rate, whole_seconds)| Temporal::Absolute {
            tokens_per_second: rate.into(),
            whole_seconds
        }),
    ]
}

/// Any combination of the five choices, published or not.
fn design() -> impl Strategy<Value = PositionDesign> {
    let advance = prop::sample::select(vec![
        Advance::MaxPlusOne,
        Advance::TemporalPlusOne,
        Advance::SpatialMax,
        Advance::Extent,
        Advance::Count,
        Advance::CeilPlusOne,
        Advance::Frames4,
    ]);
    let text = prop::sample::select(vec![TextSpatial::Copy, TextSpatial::Zero]);
    (layout(), temporal(), advance, text, any::<bool>(), 1u32..3).prop_map(
        |(layout, temporal, advance, text_spatial, frame_split, merge)| PositionDesign {
            layout,
            temporal,
            advance,
            text_spatial,
            frame_split,
            merge,
        },
    )
}

fn published() -> Vec<PositionDesign> {
    vec![
        PositionDesign::vanilla(),
        PositionDesign::v2pe(FlatStep::Step(1.0 / 16.0)),
        PositionDesign::v2pe(FlatStep::Span(4.0)),
        PositionDesign::qwen2_vl(Compat::Qwen),
        PositionDesign::qwen2_vl(Compat::Transformers5),
        PositionDesign::qwen2_5_vl(2.0, Compat::Qwen),
        PositionDesign::qwen2_5_vl(2.0, Compat::Transformers4),
        PositionDesign::qwen3_vl(),
        PositionDesign::mrope_i(),
        PositionDesign::videorope(2.0),
        PositionDesign::hope(0.75),
        PositionDesign::circle(Circle::default()),
        PositionDesign::omni(),
        PositionDesign::mm(4.0, 8.0, 8.0),
        PositionDesign::vrope(),
        PositionDesign::rope_tie(),
    ]
}

fn starting_at(design: &PositionDesign, next: f64, runs: &[Run]) -> Positions {
    let mut builder = PositionBuilder::resume(design.clone(), Sequence::at(0, next)).unwrap();
    runs.iter().for_each(|run| builder.push(*run).unwrap());
    builder.finish()
}

fn close(a: &[f64], b: &[f64]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-9)
}

/// Frames, rows and columns of a block in tokens.
fn sides(grid: Grid, merge: u32) -> [usize; 3] {
    [grid.t, grid.h / merge, grid.w / merge].map(|side| side as usize)
}

proptest! {
    /// P7: positions follow the start, except those that are reset.
    #[test]
    fn a_shift_of_the_start_shifts_every_coordinate(
        mut design in design(), runs in stream(), start in 0u32..50, shift in 1u32..1000,
    ) {
        design.text_spatial = TextSpatial::Copy;
        prop_assume!(design.layout != Layout::GridReset);
        let (start, shift) = (f64::from(start), f64::from(shift));
        let (a, b) = (starting_at(&design, start, &runs), starting_at(&design, start + shift, &runs));
        for (a, b) in a.axes().iter().zip(b.axes()) {
            prop_assert!(close(&a.iter().map(|c| c + shift).collect::<Vec<_>>(), b));
        }
        prop_assert!((a.next() + shift - b.next()).abs() < 1e-9);
    }

    /// P8: under spatial reset, two visual tokens differ by their motion alone, wherever their frames are.
    #[test]
    fn reset_differences_are_motion(
        size in grid(), gap in 1usize..9, start in 0u32..9, pick in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
    ) {
        let frame = Run::Video { grid: Grid { t: 1, ..size }, seconds_per_grid: None };
        let runs = [Run::Text(start as usize), frame, Run::Text(gap), frame];
        let [_, height, width] = sides(size, 2);
        let count = height * width;
        let (a, b) = (pick.0.index(count), pick.1.index(count));
        let (first, second) = (start as usize + a, start as usize + count + gap + b);
        let (dy, dx) = ((b / width) as f64 - (a / width) as f64, (b % width) as f64 - (a % width) as f64);
        let differences = |design: &PositionDesign| -> Vec<f64> {
            design.positions(&runs).unwrap().axes().iter().map(|axis| axis[second] - axis[first]).collect()
        };
        let between = gap as f64 + height.max(width) as f64;
        prop_assert_eq!(differences(&PositionDesign::mrope_i()), [between, dy, dx]);
        // Without the reset, the distance between the blocks is added to all three.
        prop_assert_eq!(differences(&PositionDesign::qwen3_vl()), [between, between + dy, between + dx]);

        // In one block, frame k is at k.
        let video = Run::Video { grid: size, seconds_per_grid: None };
        let unsplit = PositionDesign { frame_split: false, ..PositionDesign::mrope_i() };
        let positions = unsplit.positions(&[Run::Text(start as usize), video]).unwrap();
        let last = start as usize + (size.t as usize - 1) * count + b;
        let found: Vec<f64> =
            positions.axes().iter().map(|axis| axis[last] - axis[start as usize + a]).collect();
        prop_assert_eq!(found, [f64::from(size.t) - 1.0, dy, dx]);
    }

    /// P9 (tables) and P10: packing concatenates, padding scatters.
    #[test]
    fn packed_and_padded_are_the_single_tables(
        design in design(), rows in prop::collection::vec(stream(), 1..4), extra in 0usize..5, left: bool, gap in 0usize..3,
    ) {
        let single: Vec<Positions> = rows.iter().map(|runs| design.positions(runs).unwrap()).collect();
        let total: usize = single.iter().map(Positions::len).sum();
        let packed = design.packed(&rows, Some(total + extra)).unwrap();
        prop_assert_eq!(packed.len(), total + extra);
        for (axis, values) in packed.axes().iter().enumerate() {
            let mut want: Vec<f64> = single.iter().flat_map(|one| one.axes()[axis].clone()).collect();
            want.resize(total + extra, 0.0);
            prop_assert_eq!(values, &want);
        }
        let ends: Vec<Sequence> = single.iter().map(|one| one.sequences()[0]).collect();
        prop_assert_eq!(packed.sequences(), &ends[..]);
        prop_assert_eq!(design.packed(&rows, None).unwrap().len(), total);

        // A row starts with text so that the mask may have a hole after its first token.
        let rows: Vec<Vec<Run>> = rows.into_iter().map(|row| [vec![Run::Text(1)], row].concat()).collect();
        let single: Vec<Positions> = rows.iter().map(|runs| design.positions(runs).unwrap()).collect();
        let seq = single.iter().map(Positions::len).max().unwrap() + gap + extra;
        let mut mask = Vec::new();
        for one in &single {
            let mut row = vec![true];
            row.extend(vec![false; gap]);
            row.extend(vec![true; one.len() - 1]);
            let padding = vec![false; seq - row.len()];
            mask.extend(if left { [padding, row].concat() } else { [row, padding].concat() });
        }
        let padded = design.padded(&rows, &mask, -7.0).unwrap();
        prop_assert_eq!(padded.sequences().len(), rows.len());
        for (axis, values) in padded.axes().iter().enumerate() {
            for (row, one) in single.iter().enumerate() {
                let slots = row * seq..(row + 1) * seq;
                let (kept, pads): (Vec<usize>, Vec<usize>) = slots.partition(|slot| mask[*slot]);
                let kept: Vec<f64> = kept.iter().map(|slot| values[*slot]).collect();
                prop_assert_eq!(&kept, &one.axes()[axis]);
                prop_assert!(pads.iter().all(|slot| values[*slot] == -7.0));
                prop_assert_eq!(padded.sequences()[row], one.sequences()[0]);
            }
        }
    }

    /// P11: text may be pushed in any pieces, and a table's beginning is the table of the beginning; a conversation goes
    /// on from where it stands.
    #[test]
    fn building_is_incremental(design in design(), runs in stream(), cut in any::<prop::sample::Index>()) {
        let whole = design.positions(&runs).unwrap();
        let cut = cut.index(runs.len() + 1);
        let prefix = design.positions(&runs[..cut]).unwrap();
        for (all, first) in whole.axes().iter().zip(prefix.axes()) {
            prop_assert_eq!(&all[..first.len()], &first[..]);
        }
        let mut builder = PositionBuilder::resume(design.clone(), prefix.sequences()[0]).unwrap();
        for run in &runs[cut..] {
            match run {
                Run::Text(len) => (0..*len).for_each(|_| builder.push(Run::Text(1)).unwrap()),
                visual => builder.push(*visual).unwrap(),
            }
        }
        prop_assert!((builder.next() - whole.next()).abs() < 1e-9);
        let rest = builder.finish();
        for ((all, first), rest) in whole.axes().iter().zip(prefix.axes()).zip(rest.axes()) {
            prop_assert!(close(&all[first.len()..], rest));
        }
        prop_assert_eq!(rest.sequences()[0].tokens, whole.len());
    }

    /// P12: decoding is the table of the generated tokens as text.
    #[test]
    fn decoding_continues_the_table(design in design(), runs in stream(), steps in 1usize..5) {
        let prompt = design.positions(&runs).unwrap();
        let whole = design.positions(&[&runs[..], &[Run::Text(steps)]].concat()).unwrap();
        let mut rows = prompt.sequences().to_vec();
        let delta = rows[0].delta();
        for step in 0..steps {
            let one = design.decode(&mut rows).unwrap();
            for (axis, values) in one.axes().iter().enumerate() {
                prop_assert!(close(values, &[whole.axes()[axis][prompt.len() + step]]));
            }
            prop_assert!((one.axes()[0][0] - (prompt.next() + step as f64)).abs() < 1e-9);
        }
        prop_assert!((rows[0].next - whole.next()).abs() < 1e-9);
        // The delta is the sequence's for good.
        match (delta, rows[0].delta()) {
            (Delta::Whole(before), Delta::Whole(after)) => prop_assert_eq!(before, after),
            (Delta::Fractional(before), Delta::Fractional(after)) => prop_assert!((before - after).abs() < 1e-9),
            (before, after) => prop_assert!(false, "{before:?} became {after:?}"),
        }
    }

    /// P13: every token has a coordinate, `next` never falls, and a block is complete.
    #[test]
    fn every_token_is_placed_once(design in design(), runs in stream()) {
        let mut builder = PositionBuilder::new(design.clone()).unwrap();
        let mut tokens = 0;
        for run in &runs {
            let before = builder.next();
            builder.push(*run).unwrap();
            prop_assert!(builder.next() >= before);
            tokens += run.tokens(design.merge).unwrap();
        }
        let positions = builder.finish();
        prop_assert_eq!(positions.axes().len(), design.axes());
        prop_assert!(positions.axes().iter().all(|axis| axis.len() == tokens));
        prop_assert_eq!(positions.sequences()[0].tokens, tokens);
    }

    #[test]
    fn a_block_has_every_frame_row_and_column_in_order(size in grid(), start in 0usize..9) {
        let design = PositionDesign::qwen2_vl(Compat::Qwen);
        let video = Run::Video { grid: size, seconds_per_grid: None };
        let positions = design.positions(&[Run::Text(start), video]).unwrap().to_i32().unwrap();
        let [frames, height, width] = sides(size, 2);
        let found: Vec<[i32; 3]> = (start..positions[0].len())
            .map(|token| [0, 1, 2].map(|axis: usize| positions[axis][token] - start as i32))
            .collect();
        let mut want = Vec::new();
        for k in 0..frames {
            for y in 0..height {
                for x in 0..width {
                    want.push([k, y, x].map(|side| side as i32));
                }
            }
        }
        prop_assert_eq!(&found, &want);
        prop_assert_eq!(want.iter().collect::<BTreeSet<_>>().len(), frames * height * width);
    }

    /// P13: `advance` by its formula.
    #[test]
    fn text_continues_where_the_formula_says(size in grid(), start in 0u32..9, stride in 1u32..4) {
        let [t, h, w] = sides(size, 2).map(|side| side as f64);
        let p0 = f64::from(start);
        let tau = (t - 1.0) * f64::from(stride);
        let of = |layout, advance| {
            let design = PositionDesign {
                layout, advance, temporal: Temporal::Stride(stride.into()), ..PositionDesign::vanilla()
            };
            let video = Run::Video { grid: size, seconds_per_grid: None };
            design.positions(&[Run::Text(start as usize), video]).unwrap().next()
        };
        for layout in [Layout::Grid, Layout::GridReset, Layout::Diagonal, Layout::Symmetric4] {
            prop_assert_eq!(of(layout, Advance::TemporalPlusOne), p0 + tau + 1.0);
            prop_assert_eq!(of(layout, Advance::SpatialMax), p0 + h.max(w));
            prop_assert_eq!(of(layout, Advance::Extent), p0 + (tau + 1.0).max(h).max(w));
            prop_assert_eq!(of(layout, Advance::Count), p0 + t * h * w);
            prop_assert_eq!(of(layout, Advance::Frames4), p0 + t * (h + w - 1.0));
        }
        for layout in [Layout::Grid, Layout::GridReset] {
            prop_assert_eq!(of(layout, Advance::MaxPlusOne), p0 + tau.max(h - 1.0).max(w - 1.0) + 1.0);
        }
        let scaled = Layout::Scaled { t: 4.0, h: 8.0, w: 2.0 };
        prop_assert_eq!(
            of(scaled, Advance::MaxPlusOne),
            p0 + (4.0 * tau).max(8.0 * (h - 1.0)).max(2.0 * (w - 1.0)) + 1.0
        );
        let flat = Layout::Flat(FlatStep::Step(0.25));
        prop_assert_eq!(of(flat, Advance::CeilPlusOne), (p0 - 1.0 + 0.25 * t * h * w).ceil() + 1.0);
        let span = Layout::Flat(FlatStep::Span(3.0));
        prop_assert_eq!(of(span, Advance::CeilPlusOne), p0 - 1.0 + 3.0 + 1.0);
    }

    /// P13: under `MaxPlusOne`, text comes after everything before it. VideoRoPE breaks this
    /// (`large_diagonal_blocks_overlap_the_text_after_them`).
    #[test]
    fn text_after_a_block_is_beyond_it(layout in layout(), temporal in temporal(), runs in stream()) {
        let design = PositionDesign {
            layout, temporal, advance: Advance::MaxPlusOne, ..PositionDesign::qwen2_vl(Compat::Qwen)
        };
        let mut builder = PositionBuilder::new(design.clone()).unwrap();
        let mut furthest = f64::NEG_INFINITY;
        for run in &runs {
            builder.push(*run).unwrap();
            let far = builder.clone().finish();
            let all = far.axes().iter().flatten().copied();
            furthest = all.fold(furthest, f64::max);
            prop_assert!(builder.next() > furthest);
        }
    }

    /// P17.
    #[test]
    fn a_circle_is_equally_far_from_every_text_token(
        size in grid(), before in 1usize..6, after in 1usize..6, radius in 1.0f64..20.0, alpha in 0.0f64..=1.0, center: bool,
    ) {
        let design = PositionDesign::circle(Circle { radius, alpha, center });
        let frame = Run::Image(Grid { t: 1, ..size });
        let positions = design.positions(&[Run::Text(before), frame, Run::Text(after)]).unwrap();
        let at = |token: usize| -> Vec<f64> { positions.axes().iter().map(|axis| axis[token]).collect() };
        let tokens = positions.len();
        for text in (0..before).chain(tokens - after..tokens) {
            let distances: Vec<f64> = (before..tokens - after)
                .map(|token| at(text).iter().zip(at(token)).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt())
                .collect();
            let off_axis = (at(text)[0] - before as f64) * 3f64.sqrt();
            for distance in &distances {
                prop_assert!((distance - f64::hypot(radius, off_axis)).abs() < 1e-9);
            }
        }
    }

    /// P18.
    #[test]
    fn the_four_coordinates_of_a_frame_have_one_mean(size in grid(), start in 0usize..9) {
        let video = Run::Video { grid: size, seconds_per_grid: None };
        let positions = PositionDesign::vrope().positions(&[Run::Text(start), video]).unwrap();
        let [frames, height, width] = sides(size, 2);
        for frame in 0..frames {
            let slots = start + frame * height * width..start + (frame + 1) * height * width;
            let means: Vec<f64> = positions
                .axes()
                .iter()
                .map(|axis| axis[slots.clone()].iter().sum::<f64>() / (height * width) as f64)
                .collect();
            prop_assert!(close(&means, &[means[0]; 4]));
        }
    }

    /// A design of its own for one item (V2PE's step, HoPE's stride) is what a builder of that design does.
    #[test]
    fn one_item_under_another_design(a in 1u32..5, b in 1u32..5, size in grid(), start in 0usize..5) {
        let strides = [a, b].map(|stride| PositionDesign::hope(f64::from(stride) / 4.0));
        let video = Run::Video { grid: size, seconds_per_grid: None };
        let mut mixed = PositionBuilder::new(strides[0].clone()).unwrap();
        mixed.push(Run::Text(start)).unwrap();
        mixed.push_with(video, &strides[1]).unwrap();
        prop_assert_eq!(mixed.finish(), strides[1].positions(&[Run::Text(start), video]).unwrap());
    }
}

#[test]
fn large_diagonal_blocks_overlap_the_text_after_them() {
    let image = Run::Image(Grid::new(1, 12, 12));
    let positions = PositionDesign::videorope(1.0).positions(&[Run::Text(2), image, Run::Text(3)]).unwrap();
    let largest = positions.axes()[1][2..38].iter().copied().fold(0.0, f64::max);
    assert_eq!((largest, positions.axes()[1][38]), (5.0, 3.0));
}

#[test]
fn nothing_at_all() {
    for design in published() {
        let positions = design.positions(&[]).unwrap();
        assert_eq!((positions.len(), positions.next(), positions.delta()), (0, 0.0, Delta::Whole(0)));
        assert!(positions.is_empty());
        let packed = design.packed::<Vec<Run>>(&[], None).unwrap();
        assert_eq!((packed.len(), packed.sequences().len(), packed.next()), (0, 0, 0.0));
        assert_eq!(design.padded::<Vec<Run>>(&[], &[], 0.0).unwrap().len(), 0);
    }
}

#[test]
fn a_block_may_end_the_sequence() {
    let image = Run::Image(Grid::new(1, 4, 6));
    let positions = PositionDesign::qwen3_vl().positions(&[Run::Text(2), image]).unwrap();
    assert_eq!((positions.len(), positions.next()), (8, 5.0));
    // Several frames of an image are one block.
    let frames = PositionDesign::qwen3_vl().positions(&[Run::Image(Grid::new(3, 2, 2))]).unwrap();
    assert_eq!(frames.to_i32().unwrap(), [[0, 1, 2], [0, 0, 0], [0, 0, 0]]);
}
