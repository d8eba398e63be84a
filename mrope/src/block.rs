//! The coordinates of one visual block.

use std::f64::consts::TAU;

use crate::design::{Advance, Circle, FlatStep, Layout, PositionDesign, Temporal};
use crate::error::{Result, require};
use crate::run::{Modality, Run};

/// A visual block in tokens, and the time of its frames.
#[derive(Clone, Copy)]
pub(crate) struct Block {
    frames: usize,
    rows: usize,
    columns: usize,
    clock: Clock,
}

/// `tau(k)`.
#[derive(Clone, Copy)]
enum Clock {
    Stride(f64),
    /// `trunc(k · interval)` in `f32`: the arithmetic of transformers, which decides on which side of a whole number
    /// a product falls.
    Truncated(f32),
}

impl Block {
    /// The blocks that `run` is fed as; none for text.
    pub(crate) fn of(run: Run, design: &PositionDesign) -> Result<Vec<Self>> {
        let (modality, grid, seconds) = match run {
            Run::Text(_) => return Ok(Vec::new()),
            Run::Image(grid) => (Modality::Image, grid, None),
            Run::Video { grid, seconds_per_grid } => (Modality::Video, grid, seconds_per_grid),
        };
        if let Some(seconds) = seconds {
            require("seconds_per_grid", seconds, seconds > 0.0, "a positive number")?;
        }
        let [frames, rows, columns] = grid.merged(modality, design.merge)?;
        let clock = match design.temporal {
            Temporal::Stride(stride) => Clock::Stride(stride),
            Temporal::Absolute { .. } if modality == Modality::Image => Clock::Stride(0.0),
            Temporal::Absolute { tokens_per_second, whole_seconds } => {
                let seconds = seconds.unwrap_or(1.0);
                let seconds = if whole_seconds { seconds.trunc() } else { seconds };
                Clock::Truncated(tokens_per_second as f32 * seconds as f32)
            }
        };
        if design.frame_split && modality == Modality::Video {
            return Ok(vec![Self { frames: 1, rows, columns, clock }; frames]);
        }
        Ok(vec![Self { frames, rows, columns, clock }])
    }

    fn tau(&self, frame: usize) -> f64 {
        match self.clock {
            Clock::Stride(stride) => frame as f64 * stride,
            Clock::Truncated(interval) => f64::from((frame as f32 * interval).trunc()),
        }
    }

    pub(crate) fn tokens(&self) -> usize {
        self.frames * self.rows * self.columns
    }

    /// Appends the coordinates of the block that starts at `p0`, in the order frame, row, column.
    pub(crate) fn place(&self, layout: Layout, p0: f64, axes: &mut [Vec<f64>]) {
        let mut push = |coordinates: &[f64]| {
            for (axis, value) in axes.iter_mut().zip(coordinates) {
                axis.push(*value);
            }
        };
        let (height, width) = (self.rows as f64, self.columns as f64);
        let angles = match layout {
            Layout::Circle(circle) => self.circle_angles(circle),
            _ => Vec::new(),
        };
        let mut index = 0;
        for frame in 0..self.frames {
            let q = p0 + self.tau(frame);
            for row in 0..self.rows {
                for column in 0..self.columns {
                    let (y, x) = (row as f64, column as f64);
                    match layout {
                        Layout::Flat(step) => {
                            let walked = (index + 1) as f64;
                            // Multiply first: the last token of a span is then exactly at its end.
                            let distance = match step {
                                FlatStep::Step(step) => step * walked,
                                FlatStep::Span(span) => span * walked / self.tokens() as f64,
                            };
                            push(&[p0 - 1.0 + distance; 3]);
                        }
                        Layout::Grid => push(&[q, p0 + y, p0 + x]),
                        Layout::GridReset => push(&[q, y, x]),
                        Layout::Diagonal => {
                            let (middle_y, middle_x) = ((self.rows - 1) / 2, (self.columns - 1) / 2);
                            push(&[q, q + y - middle_y as f64, q + x - middle_x as f64]);
                        }
                        Layout::Circle(Circle { radius, .. }) => {
                            let angle: f64 = angles[row * self.columns + column];
                            let (cx, cy) = (radius * angle.cos(), radius * angle.sin());
                            // An orthonormal basis of the plane normal to (1, 1, 1); in the order w, h, t they are
                            // (-1, 1, 0)/√2 and (-1, -1, 2)/√6.
                            let (u, v) = (cx / 2f64.sqrt(), cy / 6f64.sqrt());
                            push(&[q + 2.0 * v, q + u - v, q - u - v]);
                        }
                        Layout::Scaled { t, h, w } => {
                            push(&[p0 + t * self.tau(frame), p0 + h * y, p0 + w * x]);
                        }
                        Layout::Symmetric4 => {
                            let b = p0 + frame as f64 * (height + width - 1.0);
                            push(&[
                                b + x + y,
                                b + x - y + height - 1.0,
                                b - x - y + height + width - 2.0,
                                b - x + y + width - 1.0,
                            ]);
                        }
                    }
                    index += 1;
                }
            }
        }
    }

    /// The angle of each token of a frame on its circle.
    fn circle_angles(&self, circle: Circle) -> Vec<f64> {
        let (height, width) = (self.rows as f64, self.columns as f64);
        let (middle_y, middle_x) =
            if circle.center { ((height - 1.0) / 2.0, (width - 1.0) / 2.0) } else { (0.0, 0.0) };
        let directions: Vec<f64> = (0..self.rows * self.columns)
            .map(|i| {
                let (y, x) = ((i / self.columns) as f64, (i % self.columns) as f64);
                (y - middle_y).atan2(x - middle_x)
            })
            .collect();
        let low = directions.iter().copied().fold(f64::INFINITY, f64::min);
        let high = directions.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let count = height * width;
        directions
            .iter()
            .enumerate()
            .map(|(i, g)| {
                let spread = if high > low { (g - low) / (high - low) * TAU } else { *g };
                circle.alpha * spread + (1.0 - circle.alpha) * TAU * i as f64 / count
            })
            .collect()
    }

    /// Where text continues after the block. `placed` holds its coordinates on each axis.
    pub(crate) fn advance(&self, design: &PositionDesign, p0: f64, placed: &[&[f64]]) -> f64 {
        let last = self.tau(self.frames - 1);
        let (height, width) = (self.rows as f64, self.columns as f64);
        match design.advance {
            Advance::MaxPlusOne if design.layout == Layout::GridReset => {
                p0 + last.max(height - 1.0).max(width - 1.0) + 1.0
            }
            Advance::MaxPlusOne => {
                placed.iter().copied().flatten().copied().fold(f64::NEG_INFINITY, f64::max) + 1.0
            }
            Advance::TemporalPlusOne => p0 + last + 1.0,
            Advance::SpatialMax => p0 + height.max(width),
            Advance::Extent => p0 + (last + 1.0).max(height).max(width),
            Advance::Count => p0 + self.tokens() as f64,
            // On a circle the last token may lie before the block's start.
            Advance::CeilPlusOne => placed[0].last().map_or(p0, |c| (c.ceil() + 1.0).max(p0)),
            Advance::Frames4 => p0 + self.frames as f64 * (height + width - 1.0),
        }
    }
}
