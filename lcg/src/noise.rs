//! Gumbel noise as a function of `(seed, sequence, position, token)`: there is no generator state, so a draw depends on nothing
//! else, not on the batch, on threads or on the shape of a launch.

/// The noise of one position of one sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noise {
    /// Of the run.
    pub seed: u64,
    /// Of the sequence.
    pub sequence: u64,
    /// Of the token in it.
    pub position: u32,
}

impl Noise {
    /// Four numbers of 32 random bits: those of tokens `4·block` to `4·block + 3`.
    pub fn bits(&self, block: u32) -> [u32; 4] {
        let counter = [block, self.position, self.sequence as u32, (self.sequence >> 32) as u32];
        philox(counter, [self.seed as u32, (self.seed >> 32) as u32])
    }

    /// `−ln(−ln u)` for the uniform number of a token.
    pub fn gumbel(&self, token: u32) -> f32 {
        gumbel(self.bits(token / 4)[token as usize % 4])
    }
}

/// Gumbel noise of 32 random bits, `u = (bits + ½)/2³²`. Near 1 it is taken from `1 − u`, so that the upper tail, which decides
/// draws, has all 32 bits.
pub(crate) fn gumbel(bits: u32) -> f32 {
    const UNIT: f32 = 1.0 / 4_294_967_296.0;
    let exponential = match bits >> 31 {
        0 => -((bits as f32 + 0.5) * UNIT).ln(),
        _ => -(-((!bits) as f32 + 0.5) * UNIT).ln_1p(),
    };
    -exponential.ln()
}

/// Philox4x32-10 (Salmon et al., 2011).
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = u64::from(counter[0]) * 0xD251_1F53;
        let b = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [
            (b >> 32) as u32 ^ counter[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ counter[3] ^ key[1],
            a as u32,
        ];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of Random123's `kat_vectors`.
    #[test]
    fn philox_gives_the_known_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        let ones = philox([u32::MAX; 4], [u32::MAX; 2]);
        assert_eq!(ones, [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    }

    #[test]
    fn gumbel_is_finite_and_rises_with_its_bits() {
        let mut before = f32::NEG_INFINITY;
        for bits in [0, 1, 1 << 16, (1 << 31) - 1, 1 << 31, u32::MAX - 1000, u32::MAX - 1, u32::MAX] {
            let g = gumbel(bits);
            assert!(g.is_finite() && g >= before, "{bits}: {g}");
            before = g;
        }
        assert!((gumbel(0) + 23f32.ln()).abs() < 0.02 && (gumbel(u32::MAX) - 22.87).abs() < 0.01);
        assert!((gumbel(1 << 31) - 0.366_513).abs() < 1e-5);
    }
}
