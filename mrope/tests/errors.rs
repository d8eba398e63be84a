//! What is refused, and that the refusal names it.
#![allow(missing_docs, clippy::unwrap_used)]

use candle_core::{DType, Device, Tensor, Var};
use mrope::{
    Advance, Allocation, Circle, Compat, Error, FlatStep, Frequencies, Grid, Heads, Layout, Llama3, Modality,
    Placeholders, PositionBuilder, PositionDesign, Positions, RotaryTable, Run, RunReader, Sequence,
    Temporal, VideoItem, Yarn, apply, apply_inplace, apply_packed_qk, runs_from_ids,
};

const IDS: Placeholders = Placeholders { image: 7, video: 8 };

fn read(ids: &[u32], images: &[Grid], videos: &[Grid]) -> Result<Vec<Run>, Error> {
    let videos: Vec<VideoItem> =
        videos.iter().map(|grid| VideoItem { grid: *grid, seconds_per_grid: None }).collect();
    runs_from_ids(ids, IDS, images, &videos, &PositionDesign::qwen3_vl())
}

fn message<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    result.unwrap_err().to_string()
}

fn table(tokens: usize, rotary_dim: usize) -> RotaryTable {
    let positions = Positions::from_axes(vec![vec![1.0; tokens]; 3]).unwrap();
    let frequencies = Frequencies::new(1e4, rotary_dim).unwrap();
    RotaryTable::new(&positions, &Allocation::OneAxis, &frequencies, &Device::Cpu).unwrap()
}

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap()
}

#[test]
fn placeholders_and_grids_that_do_not_match() {
    let two_by_two = Grid::new(1, 4, 4);
    assert!(read(&[1, 7, 7, 7, 7, 2], &[two_by_two], &[]).is_ok());
    // Shorter than the grid; longer, so that the next grid does not fit; and at the end, where it was cut.
    assert!(matches!(
        read(&[1, 7, 7, 7, 2], &[two_by_two], &[]),
        Err(Error::PlaceholderRun {
            sequence: 0,
            modality: Modality::Image,
            start: 1,
            len: 3,
            item: 0,
            expected: 4
        })
    ));
    assert!(matches!(
        read(&[7, 7, 7, 7, 7, 2], &[two_by_two; 2], &[]),
        Err(Error::PlaceholderRun { start: 0, len: 5, item: 1, expected: 8, .. })
    ));
    assert!(matches!(
        read(&[1, 8, 8, 8], &[], &[two_by_two]),
        Err(Error::CutRun { modality: Modality::Video, start: 1, len: 3, expected: 4, .. })
    ));
    // None given, all used, some left.
    assert!(matches!(
        read(&[1, 7], &[], &[]),
        Err(Error::GridsExhausted { modality: Modality::Image, token: 1, given: 0, .. })
    ));
    assert!(matches!(
        read(&[7, 7, 7, 7, 7], &[two_by_two], &[]),
        Err(Error::GridsExhausted { token: 4, given: 1, .. })
    ));
    assert!(matches!(
        read(&[7, 7, 7, 7], &[two_by_two; 3], &[]),
        Err(Error::GridsLeft { modality: Modality::Image, given: 3, used: 1 })
    ));
    // Frames of a split video are items.
    assert!(matches!(
        read(&[8, 8, 8, 8, 1], &[], &[Grid::new(3, 4, 4)]),
        Err(Error::GridsLeft { modality: Modality::Video, given: 3, used: 1 })
    ));
    // A marker at the end is text; so is everything where there are no placeholders.
    assert_eq!(read(&[1, 2, 3], &[], &[]).unwrap(), [Run::Text(3)]);
    assert!(read(&[], &[], &[]).unwrap().is_empty());
}

#[test]
fn a_batch_uses_its_grids_in_order() {
    let design = PositionDesign::qwen3_vl();
    let grids = [Grid::new(1, 2, 2), Grid::new(1, 2, 4)];
    let mut reader = RunReader::new(IDS, &grids, &[], &design).unwrap();
    assert_eq!(reader.read(&[1, 7]).unwrap(), [Run::Text(1), Run::Image(grids[0])]);
    let error = reader.clone().read(&[7, 1]).unwrap_err();
    assert!(matches!(error, Error::PlaceholderRun { sequence: 1, item: 1, .. }), "{error}");
    assert_eq!(reader.read(&[7, 7]).unwrap(), [Run::Image(grids[1])]);
    reader.finish().unwrap();
}

#[test]
fn grids_that_cannot_be_merged() {
    for grid in [Grid::new(1, 3, 4), Grid::new(1, 4, 5), Grid::new(0, 4, 4), Grid::new(1, 0, 4)] {
        let design = PositionDesign::qwen3_vl();
        assert!(matches!(
            design.positions(&[Run::Image(grid)]),
            Err(Error::Grid { modality: Modality::Image, merge: 2, .. })
        ));
        assert!(matches!(read(&[8], &[], &[grid]), Err(Error::Grid { modality: Modality::Video, .. })));
    }
    let text = message(PositionDesign::qwen3_vl().positions(&[Run::Image(Grid::new(1, 3, 4))]));
    assert!(text.contains("(1, 3, 4)"), "{text}");
}

/// Sizes that no memory holds are refused before any is asked for.
#[test]
fn sizes_beyond_f32() {
    let design = PositionDesign::vanilla();
    let huge = Grid::new(u32::MAX, u32::MAX - 1, u32::MAX - 1);
    for run in [Run::Text(usize::MAX), Run::Text((1 << 24) + 1), Run::Image(huge)] {
        assert!(matches!(design.positions(&[run]), Err(Error::TooManyTokens { .. })), "{run:?}");
    }
    assert!(matches!(
        RunReader::new(IDS, &[], &[VideoItem { grid: huge, seconds_per_grid: None }], &design),
        Err(Error::TooManyTokens { .. })
    ));
    // The largest coordinate, and one more.
    let near = |next: f64| {
        let mut builder = PositionBuilder::resume(design.clone(), Sequence::at(0, next)).unwrap();
        builder.push(Run::Text(1)).map(|()| builder.next())
    };
    assert_eq!(near(16_777_215.0).unwrap(), 16_777_216.0);
    assert!(matches!(near(16_777_216.0), Err(Error::Coordinate { value: 16_777_217.0, .. })));
    assert!(matches!(
        PositionBuilder::resume(design.clone(), Sequence::at(0, f64::NAN)),
        Err(Error::Coordinate { .. })
    ));
    // A stride that runs away, and a row at the end of its coordinates: nothing is changed.
    let mut builder = PositionBuilder::new(PositionDesign::videorope(1e7)).unwrap();
    builder.push(Run::Text(2)).unwrap();
    let before = builder.clone().finish();
    let video = Run::Video { grid: Grid::new(4, 2, 2), seconds_per_grid: None };
    assert!(matches!(builder.push(video), Err(Error::Coordinate { axis: 0, token: 4, .. })));
    assert_eq!(builder.finish(), before);
    let mut rows = [Sequence::at(3, 1.0), Sequence::at(5, 16_777_217.0)];
    assert!(matches!(design.decode(&mut rows), Err(Error::Coordinate { token: 1, .. })));
    assert_eq!(rows[0], Sequence::at(3, 1.0));
    for bad in [f64::NAN, f64::INFINITY, -16_777_217.0] {
        let positions = Positions::from_axes(vec![vec![0.0, 1.0], vec![0.0, bad]]);
        assert!(matches!(positions, Err(Error::Coordinate { axis: 1, token: 1, .. })));
    }
    assert!(matches!(
        Positions::from_axes(vec![vec![0.0, 1.0], vec![0.0]]),
        Err(Error::Length { found: 1, expected: 2, .. })
    ));
}

#[test]
fn designs_with_impossible_numbers() {
    let grid = PositionDesign::qwen3_vl;
    let circle = |radius, alpha| PositionDesign::circle(Circle { radius, alpha, center: true });
    let cases = [
        (PositionDesign::v2pe(FlatStep::Step(0.0)), "flat step"),
        (PositionDesign::v2pe(FlatStep::Span(-1.0)), "flat span"),
        (PositionDesign::mm(1.0, f64::NAN, 1.0), "height scale"),
        (
            PositionDesign { layout: Layout::Scaled { t: 1.0, h: 1.0, w: f64::INFINITY }, ..grid() },
            "width scale",
        ),
        (circle(0.0, 0.5), "circle radius"),
        (circle(1.0, 1.5), "circle alpha"),
        (PositionDesign::videorope(-2.0), "temporal stride"),
        (PositionDesign { temporal: Temporal::Stride(0.0), ..grid() }, "temporal stride"),
        (PositionDesign::qwen2_5_vl(0.0, Compat::Qwen), "tokens_per_second"),
        (PositionDesign { merge: 0, ..grid() }, "spatial merge"),
    ];
    for (design, named) in cases {
        let error = PositionBuilder::new(design).unwrap_err();
        assert!(matches!(error, Error::Parameter { name, .. } if name == named), "{error}");
    }
    let design = PositionDesign::qwen2_5_vl(2.0, Compat::Qwen);
    for seconds in [0.0, -1.0, f64::NAN] {
        let video = Run::Video { grid: Grid::new(2, 2, 2), seconds_per_grid: Some(seconds) };
        assert!(matches!(design.positions(&[video]), Err(Error::Parameter { name: "seconds_per_grid", .. })));
    }
    let mut builder = PositionBuilder::new(PositionDesign::qwen3_vl()).unwrap();
    assert!(matches!(
        builder.push_with(Run::Text(1), &PositionDesign::vrope()),
        Err(Error::MixedAxes { found: 4, expected: 3 })
    ));
    assert!(builder.push_with(Run::Text(1), &PositionDesign { advance: Advance::Count, ..grid() }).is_ok());
}

#[test]
fn masks_and_totals_that_do_not_fit() {
    let design = PositionDesign::qwen3_vl();
    let rows = [[Run::Text(1), Run::Image(Grid::new(1, 2, 4)), Run::Text(1)]];
    let padded = |mask: &[u8]| {
        let mask: Vec<bool> = mask.iter().map(|m| *m != 0).collect();
        design.padded(&rows, &mask, 0.0)
    };
    assert!(padded(&[1, 0, 1, 1, 0, 1]).is_ok());
    assert!(matches!(padded(&[1, 1, 0, 1, 1]), Err(Error::MaskHole { row: 0, slot: 2 })));
    assert!(matches!(padded(&[1, 1, 1, 0]), Err(Error::Length { found: 3, expected: 4, .. })));
    let two = [[Run::Text(1)], [Run::Text(1)]];
    assert!(matches!(design.padded(&two, &[true; 3], 0.0), Err(Error::Length { what: "the mask", .. })));
    assert!(matches!(design.packed(&two, Some(1)), Err(Error::Length { found: 2, expected: 1, .. })));
    let fractional = PositionDesign::v2pe(FlatStep::Step(0.5)).positions(&rows[0]).unwrap();
    assert!(matches!(fractional.to_i32(), Err(Error::Fractional { axis: 0, token: 1, value: 0.5 })));
}

#[test]
fn allocations_that_do_not_fit() {
    assert!(matches!(
        Allocation::Chunked(vec![16, 24, 23]).axes(64),
        Err(Error::Sections { sum: 63, pairs: 64, .. })
    ));
    assert!(matches!(Allocation::RoundRobin(vec![]).axes(64), Err(Error::Sections { sum: 0, .. })));
    assert!(matches!(
        Allocation::Chunked(vec![usize::MAX, 2]).axes(64),
        Err(Error::Sections { sum: usize::MAX, .. })
    ));
    let spatial = Allocation::SpatialHigh { sections: [1, 1, 1], rotate_time: true };
    assert!(matches!(spatial.axes(4), Err(Error::Sections { sum: 3, pairs: 4, .. })));
    assert!(matches!(
        Allocation::Interleaved([16, 24, 24]).axes(64),
        Err(Error::InterleavedClips { clipped: [22, 21, 21], .. })
    ));
    assert!(matches!(
        Allocation::Interleaved([2, 3, 3]).axes(8),
        Err(Error::InterleavedClips { clipped: [3, 3, 2], .. })
    ));
    // Of the ratios studied in the paper, the rule expresses only these.
    for (sections, fits) in [
        ([0, 32, 32], false),
        ([12, 26, 26], false),
        ([24, 20, 20], true),
        ([32, 16, 16], true),
        ([48, 8, 8], true),
    ] {
        assert_eq!(Allocation::Interleaved(sections).axes(64).is_ok(), fits, "{sections:?}");
    }
    assert!(matches!(Allocation::Cyclic(0).axes(4), Err(Error::Parameter { .. })));
    let per_head = Allocation::PerHead { sections: vec![2, 3, 3], kv_heads: 7 };
    assert!(matches!(per_head.axes(64), Err(Error::PerHeadSections { kv_heads: 7, .. })));
    let one_axis = Positions::from_axes(vec![vec![0.0]]).unwrap();
    let frequencies = Frequencies::new(1e4, 8).unwrap();
    assert!(matches!(
        RotaryTable::new(&one_axis, &Allocation::Cyclic(4), &frequencies, &Device::Cpu),
        Err(Error::MissingAxis { axis: 1, axes: 1 })
    ));
}

#[test]
fn frequencies_that_do_not_exist() {
    for rotary_dim in [0, 7, usize::MAX - 1] {
        assert!(matches!(Frequencies::new(1e4, rotary_dim), Err(Error::RotaryDim { .. })));
    }
    for theta in [1.0, 0.0, -3.0, f64::NAN, f64::INFINITY] {
        assert!(matches!(Frequencies::new(theta, 8), Err(Error::Parameter { name: "rope_theta", .. })));
    }
    let plain = Frequencies::new(1e4, 8).unwrap();
    for factor in [0.5, f64::NAN, f64::INFINITY] {
        for scaled in [
            plain.clone().linear(factor),
            plain.clone().ntk(factor),
            plain.clone().dynamic_ntk(factor, 10.0, 20.0),
            plain.clone().yarn(&Yarn::new(factor, 4096.0)),
        ] {
            assert!(matches!(scaled, Err(Error::Parameter { name: "rope scaling factor", .. })));
        }
    }
    assert!(plain.clone().yarn(&Yarn { beta_fast: 0.5, ..Yarn::new(2.0, 4096.0) }).is_err());
    assert!(plain.clone().yarn(&Yarn { attention_factor: Some(0.0), ..Yarn::new(2.0, 4096.0) }).is_err());
    // Trained on a tenth of a turn of the fastest pair: the ramp would run backwards.
    let short = plain.clone().yarn(&Yarn::new(2.0, 0.5));
    assert!(matches!(short, Err(Error::YarnRange { trained_len: 0.5, .. })), "{short:?}");
    let llama3 = Llama3 { factor: 8.0, low_freq_factor: 4.0, high_freq_factor: 4.0, trained_len: 8192.0 };
    assert!(matches!(plain.clone().llama3(&llama3), Err(Error::Parameter { name: "high_freq_factor", .. })));
    assert!(matches!(plain.clone().repeat(0), Err(Error::RotaryDim { rotary_dim: 0 })));
    assert!(matches!(plain.repeat(usize::MAX), Err(Error::RotaryDim { .. })));
}

#[test]
fn tensors_that_do_not_fit() {
    let table = table(3, 8);
    assert!(matches!(apply(&zeros(&[3, 2]), &table), Err(Error::Shape { .. })));
    let text = message(apply(&zeros(&[4, 2, 8]), &table));
    assert!(text.contains("[4, 2, 8]") && text.contains("[3, 4]"), "{text}");
    assert!(matches!(apply(&zeros(&[1, 2, 4, 8]), &table), Err(Error::Shape { .. })));
    assert!(matches!(apply(&zeros(&[3, 2, 6]), &table), Err(Error::HeadDim { rotary_dim: 8, head_dim: 6 })));
    let strided = zeros(&[3, 8, 8]).transpose(1, 2).unwrap();
    assert!(matches!(apply(&strided, &table), Err(Error::Strides { .. })));
    let double = zeros(&[3, 2, 8]).to_dtype(DType::F64).unwrap();
    assert!(matches!(apply(&double, &table), Err(Error::DType(DType::F64))));
    let heads = |query, kv| Heads { query, kv };
    assert!(matches!(
        apply_packed_qk(&zeros(&[3, 5, 8]), heads(3, 2), &table),
        Err(Error::HeadGroups { heads: 3, kv_heads: 2 })
    ));
    assert!(matches!(apply_packed_qk(&zeros(&[3, 7, 8]), heads(4, 2), &table), Err(Error::Shape { .. })));
    assert!(matches!(
        apply_packed_qk(&zeros(&[3, 7, 8]), heads(usize::MAX, 1), &table),
        Err(Error::Shape { .. })
    ));
    assert!(matches!(table.narrow(2, 2), Err(Error::Range { start: 2, len: 2, available: 3, .. })));
    assert!(table.narrow(usize::MAX, 2).is_err());
}

#[test]
fn tensors_that_cannot_change_in_place() {
    let (table, heads) = (table(3, 8), Heads { query: 2, kv: 0 });
    let variable = Var::from_tensor(&zeros(&[3, 2, 8])).unwrap();
    assert!(matches!(apply_inplace(&variable, heads, &table), Err(Error::Tracked)));
    assert!(matches!(apply_inplace(&variable.affine(2.0, 0.0).unwrap(), heads, &table), Err(Error::Tracked)));
    let shared = zeros(&[1, 2, 8]).broadcast_as((3, 2, 8)).unwrap();
    let error = apply_inplace(&shared, heads, &table).unwrap_err();
    assert!(matches!(&error, Error::Overlap { strides, .. } if strides == &[0, 8, 1]), "{error}");
}

#[test]
fn heads_that_do_not_divide() {
    let positions = Positions::from_axes(vec![vec![1.0]; 3]).unwrap();
    let allocation = Allocation::PerHead { sections: vec![1, 1, 1], kv_heads: 3 };
    let frequencies = Frequencies::new(1e4, 8).unwrap();
    let table = RotaryTable::new(&positions, &allocation, &frequencies, &Device::Cpu).unwrap();
    assert!(apply(&zeros(&[1, 6, 8]), &table).is_ok());
    assert!(matches!(apply(&zeros(&[1, 4, 8]), &table), Err(Error::HeadGroups { heads: 4, kv_heads: 3 })));
    // Six key heads are not the three of the allocation, though they divide.
    assert!(matches!(
        apply_packed_qk(&zeros(&[1, 12, 8]), Heads { query: 6, kv: 6 }, &table),
        Err(Error::HeadGroups { heads: 6, kv_heads: 3 })
    ));
    assert!(matches!(table.shard(2, 2), Err(Error::Range { what: "key/value heads", .. })));
    assert!(matches!(
        apply(&zeros(&[1, 2, 8]), &table.shard(1, 0).unwrap()),
        Err(Error::HeadGroups { heads: 2, kv_heads: 0 })
    ));
}

#[test]
fn no_tokens_no_launch() {
    let (table, heads) = (table(0, 8), Heads { query: 2, kv: 1 });
    assert_eq!(apply(&zeros(&[0, 2, 8]), &table).unwrap().dims(), [0, 2, 8]);
    assert_eq!(apply_packed_qk(&zeros(&[2, 4, 0, 8]), heads, &table).unwrap().dims(), [2, 4, 0, 8]);
    apply_inplace(&zeros(&[0, 4, 8]), heads, &table).unwrap();
}

/// Inside a candle computation, the message survives.
#[test]
fn errors_convert_to_candles() {
    let error: candle_core::Error = Error::Tracked.into();
    assert!(error.to_string().contains("tracked for gradients"));
    let candle = Error::from(candle_core::Error::Msg("theirs".into()));
    assert!(candle_core::Error::from(candle).to_string().contains("theirs"));
}
