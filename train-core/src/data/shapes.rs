//! Pictures of shapes in the cells of a grid, with a question about one of them.

use std::fmt;
use std::str::FromStr;

use qwen3::VlConfig;
use qwen3::vision::processor::{Image, PixelBounds, Processor, Prompt};
use rand::Rng;

use super::{DataError, TextCodec};

/// The shapes by letter, six by six pixels: square, cross, disc, plus.
const SHAPES: [(char, [&str; 6]); 4] = [
    ('s', ["######", "#....#", "#....#", "#....#", "#....#", "######"]),
    ('x', ["#....#", ".#..#.", "..##..", "..##..", ".#..#.", "#....#"]),
    ('o', [".####.", "######", "######", "######", "######", ".####."]),
    ('t', ["..##..", "..##..", "######", "######", "..##..", "..##.."]),
];

/// Side of a picture in pixels.
const SIDE: usize = 32;

/// Three different shapes, each in its own cell, and what is asked. As text: `s01 x22 t10?x`, where a shape's digits are its
/// row and column; behind `?` stands a shape (the answer is its cell) or a cell (the answer is its shape).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scene {
    shapes: Vec<(char, usize, usize)>,
    question: String,
}

impl Scene {
    /// Every character of scenes and answers.
    pub(super) const ALPHABET: &'static str = "0123456789 sxot?=";

    /// A scene on a grid of `side` by `side` cells, 2 to 4.
    pub(super) fn draw(side: u32, rng: &mut impl Rng) -> Self {
        let side = side.clamp(2, 4) as usize;
        let mut shapes: Vec<(char, usize, usize)> = Vec::new();
        while shapes.len() < 3 {
            let (letter, cell) =
                (SHAPES[rng.random_range(0..SHAPES.len())].0, rng.random_range(0..side * side));
            let (row, column) = (cell / side, cell % side);
            if shapes.iter().all(|(l, r, c)| *l != letter && (*r, *c) != (row, column)) {
                shapes.push((letter, row, column));
            }
        }
        let (letter, row, column) = shapes[rng.random_range(0..3)];
        let question = if rng.random() { letter.to_string() } else { format!("{row}{column}") };
        Self { shapes, question }
    }

    /// The right answer.
    pub(super) fn answer(&self) -> String {
        let name =
            |(letter, row, column): &(char, usize, usize)| (letter.to_string(), format!("{row}{column}"));
        let names = self.shapes.iter().map(name);
        let other = |(letter, cell): (String, String)| match &self.question {
            q if *q == letter => Some(cell),
            q if *q == cell => Some(letter),
            _ => None,
        };
        names.filter_map(other).next().unwrap_or_default()
    }

    /// The picture: bright shapes on dark noise. Colours and noise follow from the text of the scene.
    fn picture(&self) -> Result<Image, qwen3::Error> {
        let text = self.to_string();
        let mut state = text
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        let mut byte = |limit: u8| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            ((state >> 40) as u8) % limit
        };
        let mut rgb: Vec<u8> = (0..SIDE * SIDE * 3).map(|_| byte(64)).collect();
        // Cells of 8 pixels, whatever the side of the grid: level by level more of the picture is used.
        for (letter, row, column) in &self.shapes {
            let colour = [0; 3].map(|_| 160 + byte(96));
            let Some((_, rows)) = SHAPES.iter().find(|(l, _)| l == letter) else { continue };
            for (y, line) in rows.iter().enumerate() {
                for x in line.bytes().enumerate().filter(|(_, c)| *c == b'#').map(|(x, _)| x) {
                    let at = ((row * 8 + y + 1) * SIDE + column * 8 + x + 1) * 3;
                    rgb[at..at + 3].copy_from_slice(&colour);
                }
            }
        }
        Image::from_rgb(SIDE, SIDE, rgb)
    }

    /// What the model reads: the picture, then the question.
    pub(super) fn prompt(&self, codec: &TextCodec, vision: &VlConfig) -> Result<Prompt, DataError> {
        let mut processor = Processor::released(vision.clone());
        processor.image_bounds = PixelBounds { least: 1, most: usize::MAX };
        let (start, end) = (vision.vision_start_token_id, vision.vision_end_token_id);
        let mut tokens: Vec<u32> = start.into_iter().chain([vision.placeholders.image]).chain(end).collect();
        tokens.extend(codec.encode(&format!("{}=", self.question))?);
        let vision = |e: qwen3::Error| DataError::State(e.to_string());
        processor.prompt(&tokens, &[self.picture().map_err(vision)?], &[], |_| Ok(Vec::new())).map_err(vision)
    }
}

impl fmt::Display for Scene {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shapes: Vec<String> = self.shapes.iter().map(|(l, r, c)| format!("{l}{r}{c}")).collect();
        write!(f, "{}?{}", shapes.join(" "), self.question)
    }
}

impl FromStr for Scene {
    type Err = DataError;

    fn from_str(text: &str) -> Result<Self, DataError> {
        let bad = || DataError::State(format!("{text:?} is no scene of shapes"));
        let (shapes, question) = text.split_once('?').ok_or_else(bad)?;
        let shape = |shape: &str| {
            let mut chars = shape.chars();
            let (letter, row, column) =
                (chars.next()?, chars.next()?.to_digit(4)?, chars.next()?.to_digit(4)?);
            let known = SHAPES.iter().any(|(l, _)| *l == letter) && chars.next().is_none();
            known.then_some((letter, row as usize, column as usize))
        };
        let shapes = shapes.split(' ').map(shape).collect::<Option<_>>().ok_or_else(bad)?;
        Ok(Self { shapes, question: question.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use rollout_engine::random::{Stream, keyed_rng};

    use super::*;

    #[test]
    fn a_scene_is_what_its_text_says() {
        for id in 0..200 {
            let scene = Scene::draw(2 + id as u32 % 3, &mut keyed_rng(1, Stream::Data, [id, 0]));
            let read: Scene = scene.to_string().parse().unwrap();
            assert_eq!(read, scene);
            assert_eq!(read.picture().unwrap(), scene.picture().unwrap());
            // Pixels of a shape are bright, and only they.
            let image = scene.picture().unwrap();
            let bright = image.rgb().chunks(3).filter(|p| p.iter().all(|v| *v >= 160)).count();
            let expected: usize = scene
                .shapes
                .iter()
                .map(|(l, ..)| {
                    let rows = SHAPES.iter().find(|(s, _)| s == l).unwrap().1;
                    rows.concat().matches('#').count()
                })
                .sum();
            assert_eq!(bright, expected, "{scene}");
        }
        let scene: Scene = "s01 x22 t10?x".parse().unwrap();
        assert_eq!(scene.answer(), "22");
        let scene: Scene = "s01 x22 t10?10".parse().unwrap();
        assert_eq!(scene.answer(), "t");
        for text in ["", "s01", "s0?s", "q01?q", "s015?s", "s41?s"] {
            assert!(text.parse::<Scene>().is_err(), "{text}");
        }
    }
}
