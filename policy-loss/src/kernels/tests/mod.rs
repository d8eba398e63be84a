#![allow(clippy::unwrap_used)]

mod logits;
mod objective;

use cuda_twin::testing::noise;
