//! Invented names, made of syllables: none is a word, and all of one kind have their own endings.

use crate::key::DetRng;

const HEADS: &[&str] = &[
    "Bro", "Cal", "Dor", "Fen", "Gri", "Hal", "Jor", "Kel", "Lum", "Mor", "Nev", "Ori", "Pel", "Quo", "Ral",
    "Sor", "Tam", "Ulv", "Vor", "Wex", "Yar", "Zel",
];
const MIDDLES: &[&str] = &["ad", "ek", "im", "ov", "ul", "an", "eb", "is", "or", "uz"];

/// A kind of name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NameKind {
    /// Given names of persons.
    Given,
    /// Family names.
    Surname,
    /// Towns and regions.
    Place,
    /// What an event or incident is called after.
    Incident,
    /// Companies and schools.
    Organization,
    /// Products and works.
    Product,
}

impl NameKind {
    const fn endings(self) -> &'static [&'static str] {
        match self {
            NameKind::Given => &["ia", "o"],
            NameKind::Surname => &["quist", "vane"],
            NameKind::Place => &["burg", "mere"],
            NameKind::Incident => &["ric", "yx"],
            NameKind::Organization => &["dyne", "worth"],
            NameKind::Product => &["flex", "lumen"],
        }
    }

    /// How many there are.
    pub(crate) const fn len(self) -> usize {
        HEADS.len() * MIDDLES.len() * self.endings().len()
    }

    /// The name at a place of the inventory.
    pub(crate) fn name(self, i: usize) -> String {
        let (rest, ending) = (i / self.endings().len(), self.endings()[i % self.endings().len()]);
        format!("{}{}{ending}", HEADS[rest / MIDDLES.len()], MIDDLES[rest % MIDDLES.len()])
    }

    /// Different names; fewer than `count` only where there are no more.
    pub(crate) fn draw(self, count: usize, rng: &mut DetRng) -> Vec<String> {
        rng.sample(self.len(), count).into_iter().map(|i| self.name(i)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_is_in_another() {
        use NameKind::{Given, Incident, Organization, Place, Product, Surname};
        let kinds = [Given, Surname, Place, Incident, Organization, Product];
        let all: Vec<String> = kinds.iter().flat_map(|&k| (0..k.len()).map(move |i| k.name(i))).collect();
        assert_eq!(all.len(), 6 * 440);
        for (i, name) in all.iter().enumerate() {
            for (j, other) in all.iter().enumerate() {
                assert!(i == j || !other.contains(name.as_str()), "{name} is in {other}");
            }
        }
    }
}
