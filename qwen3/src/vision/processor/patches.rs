//! From resampled frames to what the tower reads.

use mrope::Grid;

use super::image::Image;

/// Sides of patches and groups, and the normalisation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Patching {
    /// Side of a patch in pixels.
    pub(super) patch: usize,
    /// Patches along each side of a token.
    pub(super) merge: usize,
    /// Frames of a patch.
    pub(super) temporal: usize,
    /// Of bytes scaled to 0..1, by channel.
    pub(super) mean: [f32; 3],
    pub(super) std: [f32; 3],
}

/// The patches of one item.
#[derive(Clone, Debug, PartialEq)]
pub struct Patches {
    /// `[grid.t · grid.h · grid.w, 3 · temporal_patch_size · patch_size²]`, in the order of merge blocks; inside a patch
    /// by channel, frame, row, column.
    pub pixels: Vec<f32>,
    /// The item's size in patches.
    pub grid: Grid,
}

impl Patching {
    /// Side of a token in pixels.
    pub(super) fn factor(&self) -> usize {
        self.patch * self.merge
    }

    /// Patches of frames whose sides are multiples of [`Patching::factor`]; the last frame is repeated to fill the last
    /// patch in time.
    pub(super) fn of(&self, frames: &[Image]) -> Patches {
        let Self { patch, merge, temporal, .. } = *self;
        let (rows, columns) = (frames[0].height() / patch, frames[0].width() / patch);
        let groups = frames.len().div_ceil(temporal);
        let table: Vec<[f32; 256]> = (0..3).map(|channel| self.values(channel)).collect();
        let mut pixels = Vec::with_capacity(groups * rows * columns * 3 * temporal * patch * patch);
        for group in 0..groups {
            for (row, column) in block_order(rows, columns, merge) {
                for (channel, values) in table.iter().enumerate() {
                    for frame in group * temporal..(group + 1) * temporal {
                        let image = &frames[frame.min(frames.len() - 1)];
                        for y in row * patch..(row + 1) * patch {
                            let line = (y * image.width() + column * patch) * 3;
                            let bytes = image.rgb()[line..line + 3 * patch].iter().skip(channel).step_by(3);
                            pixels.extend(bytes.map(|byte| values[usize::from(*byte)]));
                        }
                    }
                }
            }
        }
        Patches { pixels, grid: Grid::new(groups as u32, rows as u32, columns as u32) }
    }

    /// The normalised value of every byte: scaling and normalisation in one, as transformers fuses them.
    fn values(&self, channel: usize) -> [f32; 256] {
        let (mean, std) = (self.mean[channel] * 255.0, self.std[channel] * 255.0);
        std::array::from_fn(|byte| (byte as f32 - mean) / std)
    }
}

/// Rows and columns of the patches of a frame: block by block, row by row inside a block.
fn block_order(rows: usize, columns: usize, merge: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..rows).step_by(merge).flat_map(move |block_row| {
        (0..columns).step_by(merge).flat_map(move |block_column| {
            (block_row..block_row + merge)
                .flat_map(move |row| (block_column..block_column + merge).map(move |column| (row, column)))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A 4 by 8 image of value `80·channel + 10y + x`, in patches of 2 by 2.
    #[test]
    fn patches_are_in_the_order_of_merge_blocks() {
        let value = |i: usize| (80 * (i % 3) + 10 * (i / 24) + i / 3 % 8) as u8;
        let image = Image::from_rgb(4, 8, (0..96).map(value).collect()).unwrap();
        // Mean 0 and deviation 1/255 leave bytes as they are.
        let patching = Patching { patch: 2, merge: 2, temporal: 2, mean: [0.0; 3], std: [1.0 / 255.0; 3] };
        let Patches { pixels, grid } = patching.of(&[image]);
        assert_eq!((grid, pixels.len()), (Grid::new(1, 2, 4), 8 * 24));
        let row = |i: usize| pixels[24 * i..24 * (i + 1)].iter().map(|v| v.round()).collect::<Vec<f32>>();
        let frame = [0.0, 1.0, 10.0, 11.0];
        let channels = [0.0, 0.0, 80.0, 80.0, 160.0, 160.0];
        let first: Vec<f32> = channels.iter().flat_map(|c| frame.map(|v| v + c)).collect();
        assert_eq!(row(0), first);
        for (i, start) in
            [(1, [2.0, 3.0, 12.0, 13.0]), (2, [20.0, 21.0, 30.0, 31.0]), (4, [4.0, 5.0, 14.0, 15.0])]
        {
            assert_eq!(row(i)[..4], start);
        }
    }
}
