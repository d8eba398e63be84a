//! The tokens that truncation kept at a position, as bytes: the differences of their ids, or a bit for each token of the vocabulary
//! where that is shorter.

const IDS: u8 = 0;
const BITS: u8 = 1;

/// Of ascending ids below `vocabulary`, at least one. At most `2 + vocabulary / 8` bytes.
pub(crate) fn encode(tokens: &[u32], vocabulary: usize) -> Box<[u8]> {
    let longest = 1 + vocabulary.div_ceil(8);
    let (mut bytes, mut least) = (vec![IDS], 0);
    for token in tokens {
        // LEB128 of the ids passed over since the last.
        let mut gap = token - least;
        least = token + 1;
        while gap >= 0x80 {
            bytes.push(gap as u8 | 0x80);
            gap >>= 7;
        }
        bytes.push(gap as u8);
        if bytes.len() > longest {
            return bits(tokens, longest);
        }
    }
    bytes.into()
}

fn bits(tokens: &[u32], length: usize) -> Box<[u8]> {
    let mut bytes = vec![0; length];
    bytes[0] = BITS;
    for token in tokens {
        bytes[1 + *token as usize / 8] |= 1 << (token % 8);
    }
    bytes.into()
}

/// What [`encode`] was given; `None` for bytes that it never makes of such a vocabulary.
pub(crate) fn decode(bytes: &[u8], vocabulary: usize) -> Option<Vec<u32>> {
    let tokens = match bytes.split_first()? {
        (&IDS, gaps) => from_gaps(gaps)?,
        (&BITS, bits) if bits.len() == vocabulary.div_ceil(8) => {
            let set = |v: &u32| bits[*v as usize / 8] >> (v % 8) & 1 == 1;
            (0..8 * bits.len() as u32).filter(set).collect()
        }
        _ => return None,
    };
    tokens.last().is_some_and(|last| (*last as usize) < vocabulary).then_some(tokens)
}

fn from_gaps(bytes: &[u8]) -> Option<Vec<u32>> {
    let (mut tokens, mut least) = (Vec::new(), 0u64);
    let mut bytes = bytes.iter();
    while let Some(first) = bytes.next() {
        let (mut byte, mut gap, mut shift) = (*first, u64::from(first & 0x7F), 7);
        while byte & 0x80 != 0 {
            byte = *bytes.next()?;
            if shift > 28 {
                return None;
            }
            gap |= u64::from(byte & 0x7F) << shift;
            shift += 7;
        }
        tokens.push(u32::try_from(least + gap).ok()?);
        least += gap + 1;
    }
    Some(tokens)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// What goes in comes out, in no more bytes than a bit for each token.
        #[test]
        fn supports_go_through_bytes(
            vocabulary in 1u32..3000, seeds in prop::collection::vec(any::<u32>(), 1..600), dense: bool,
        ) {
            let mut tokens: Vec<u32> = match dense {
                true => (0..vocabulary).filter(|v| seeds[0] % (v + 2) != 0).collect(),
                false => seeds.iter().map(|s| s % vocabulary).collect(),
            };
            tokens.push(seeds[0] % vocabulary);
            tokens.sort_unstable();
            tokens.dedup();
            let bytes = encode(&tokens, vocabulary as usize);
            prop_assert!(bytes.len() <= 2 + vocabulary as usize / 8);
            prop_assert!(bytes.len() <= 1 + 2 * tokens.len());
            prop_assert_eq!(decode(&bytes, vocabulary as usize).unwrap(), tokens);
        }

        /// Bytes of any origin give ascending tokens of the vocabulary, or nothing.
        #[test]
        fn broken_supports_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..40), vocabulary in 1usize..200) {
            if let Some(tokens) = decode(&bytes, vocabulary) {
                prop_assert!(!tokens.is_empty() && tokens.is_sorted() && (tokens[tokens.len() - 1] as usize) < vocabulary);
                prop_assert!(tokens.windows(2).all(|w| w[0] != w[1]));
            }
        }
    }

    #[test]
    fn twenty_tokens_of_a_large_vocabulary() {
        let tokens: Vec<u32> = (0..20).map(|i| 311 + 7_541 * i).collect();
        // A byte for the form, two a token, and one more where ids are 16,384 apart.
        assert_eq!(encode(&tokens, 151_936).len(), 41);
        assert_eq!(decode(&[], 9), None);
        assert_eq!(decode(&[IDS], 9), None, "no support is empty");
        assert_eq!(decode(&[IDS, 9], 9), None);
        assert_eq!(decode(&[IDS, 0x80], 9), None);
        assert_eq!(decode(&[BITS, 1], 9), None);
        assert_eq!(decode(&[2, 1], 9), None);
    }
}
