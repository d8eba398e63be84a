//! Vocabularies small enough to read, and random ones.
#![allow(dead_code, clippy::unwrap_used)]

pub(crate) mod case;

use lcg::{Exemptions, FamilySet, FamilyTable, GateState, Kind, Noise, Plan, Rules, Taxonomy, Vocabulary};

/// A table of these texts.
pub(crate) fn table(taxonomy: Taxonomy, texts: &[&str]) -> FamilyTable {
    of_bytes(taxonomy, texts.iter().map(|t| t.as_bytes().to_vec()))
}

/// A table of these byte strings.
pub(crate) fn of_bytes(taxonomy: Taxonomy, tokens: impl IntoIterator<Item = Vec<u8>>) -> FamilyTable {
    let vocabulary = Vocabulary::new(tokens.into_iter().map(|bytes| (Kind::Text, bytes)));
    FamilyTable::new(taxonomy, vocabulary, &Exemptions::default()).unwrap()
}

/// Tokens of `paper4` families by number: 0 cj, 1 latin, 2 symbols, 3 low-resource.
pub(crate) fn of_families(families: &[usize]) -> FamilyTable {
    table(Taxonomy::paper4(), &families.iter().map(|f| ["中", "a", "!", "ж"][*f]).collect::<Vec<_>>())
}

/// A state behind letters of these families.
pub(crate) fn behind(last: FamilySet) -> GateState {
    GateState { last, generated: 5, ..GateState::default() }
}

/// The plan of the paper's rules for families allowed and written before.
pub(crate) fn plan(table: &FamilyTable, rules: &Rules, predicted: FamilySet, last: FamilySet) -> Plan {
    rules.plan(table.taxonomy(), FamilySet::EMPTY, &behind(last), Some(predicted))
}

pub(crate) fn noise(seed: u64) -> Noise {
    Noise { seed, sequence: 1, position: 0 }
}

pub(crate) fn close(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!((a - b).abs() <= tolerance, "{i}: {a} for {b}");
    }
}
