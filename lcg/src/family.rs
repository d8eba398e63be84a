//! Families of scripts: taxonomies as data, and the family of a character.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{BitAnd, BitOr, BitOrAssign};

use serde::{Deserialize, Serialize};
use unicode_script::{Script, UnicodeScript};

use crate::error::{Error, Result};

/// A set of at most 32 families: bit `f` is family `f` of a [`Taxonomy`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FamilySet(pub u32);

impl FamilySet {
    /// No family.
    pub const EMPTY: Self = Self(0);
    /// All bits, also those beyond the families of a taxonomy.
    pub const FULL: Self = Self(u32::MAX);

    /// Family `f` alone.
    pub fn one(family: usize) -> Self {
        Self(1 << family)
    }

    /// The first `count` families.
    pub fn first(count: usize) -> Self {
        Self(u32::MAX.checked_shr(32 - count as u32).unwrap_or(0))
    }

    /// Whether family `f` is in.
    pub fn contains(self, family: usize) -> bool {
        self.0 >> family & 1 == 1
    }

    /// Whether none is in.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether a family is in both.
    pub fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Those that are not in `other`.
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The families, ascending.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..32).filter(move |f| self.contains(*f))
    }
}

impl BitOr for FamilySet {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for FamilySet {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl BitAnd for FamilySet {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl FromIterator<usize> for FamilySet {
    fn from_iter<I: IntoIterator<Item = usize>>(families: I) -> Self {
        families.into_iter().fold(Self::EMPTY, |set, f| set | Self::one(f))
    }
}

impl fmt::Binary for FamilySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A family as it stands in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Family {
    /// Its name; `symbols` is reserved for what belongs to no writing system.
    pub name: String,
    /// Unicode script names (`Latin`, `Han`); `"*"` is every script that no family lists.
    pub scripts: Vec<String>,
}

/// A taxonomy as it stands in a file; [`Taxonomy::new`] checks it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaxonomySpec {
    /// Its name.
    pub name: String,
    /// The families; their order is that of the bits and of a gate's outputs.
    pub families: Vec<Family>,
    /// Families that are never denied; `symbols` is, named or not.
    #[serde(default)]
    pub exempt: Vec<String>,
    /// Families that a letter of a family allows besides its own: Japanese kana allow Han.
    #[serde(default)]
    pub implies: BTreeMap<String, Vec<String>>,
    /// Whether a Common character with exactly one script extension is of that script (`㍿` is Han).
    #[serde(default)]
    pub use_script_extensions: bool,
}

/// A checked taxonomy: which family a character is of, and what follows from that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taxonomy {
    spec: TaxonomySpec,
    /// By `Script as u8`.
    family_of: Vec<u8>,
    symbols: usize,
    exempt: FamilySet,
    implies: Vec<FamilySet>,
}

const SYMBOLS: &str = "symbols";
/// Scripts of `symbols` where no family lists them.
const NEUTRAL: [Script; 3] = [Script::Common, Script::Inherited, Script::Unknown];

impl Taxonomy {
    /// Checks a taxonomy.
    ///
    /// # Errors
    /// More than 32 families or none, two of a name, a script that is unknown or in two families, not exactly one
    /// `symbols` and one catch-all `"*"`, names in `exempt` or `implies` that are no family.
    pub fn new(spec: TaxonomySpec) -> Result<Self> {
        let count = spec.families.len();
        if !(1..=32).contains(&count) {
            return Err(Error::TooManyFamilies { found: count });
        }
        let index = |name: &str| spec.families.iter().position(|f| f.name == name);
        if let Some((_, twice)) = spec.families.iter().enumerate().find(|(i, f)| index(&f.name) != Some(*i)) {
            return Err(Error::FamilyTwice { family: twice.name.clone() });
        }
        let symbols = index(SYMBOLS).ok_or(Error::NoSymbols)?;
        const UNSET: u8 = 0xFF;
        let mut family_of = vec![UNSET; 256];
        let mut catch_all = None;
        for (f, family) in spec.families.iter().enumerate() {
            for name in &family.scripts {
                if name == "*" {
                    if catch_all.replace(f).is_some() {
                        return Err(Error::CatchAll { found: 2 });
                    }
                    continue;
                }
                let Some(script) = Script::from_full_name(name) else {
                    return Err(Error::UnknownScript { script: name.clone(), family: family.name.clone() });
                };
                let slot = &mut family_of[script as usize];
                if *slot != UNSET {
                    let first = spec.families[usize::from(*slot)].name.clone();
                    return Err(Error::ScriptTwice {
                        script: name.clone(),
                        first,
                        second: family.name.clone(),
                    });
                }
                *slot = f as u8;
            }
        }
        let catch_all = catch_all.ok_or(Error::CatchAll { found: 0 })?;
        for script in NEUTRAL {
            let slot = &mut family_of[script as usize];
            if *slot == UNSET {
                *slot = symbols as u8;
            }
        }
        family_of.iter_mut().filter(|f| **f == UNSET).for_each(|f| *f = catch_all as u8);
        let known = |family: &str, named_in: &'static str| {
            index(family).ok_or_else(|| Error::UnknownFamily { family: family.to_owned(), named_in })
        };
        let mut exempt = FamilySet::one(symbols);
        for name in &spec.exempt {
            exempt |= FamilySet::one(known(name, "exempt")?);
        }
        let mut implies = vec![FamilySet::EMPTY; count];
        for (from, to) in &spec.implies {
            let from = known(from, "implies")?;
            for name in to {
                implies[from] |= FamilySet::one(known(name, "implies")?);
            }
        }
        Ok(Self { spec, family_of, symbols, exempt, implies })
    }

    /// The taxonomy of the paper, in the order of its published weights: `cj`, `latin`, `symbols`, `low_res`.
    pub fn paper4() -> Self {
        Self::built_in(
            "paper4",
            &[
                ("cj", &["Han", "Bopomofo", "Hiragana", "Katakana"]),
                ("latin", &["Latin"]),
                (SYMBOLS, &["Common", "Inherited", "Unknown"]),
                ("low_res", &["*"]),
            ],
            &[SYMBOLS, "low_res"],
            &[],
        )
    }

    /// Sixteen families, which also tell apart what the paper calls low-resource, Han from kana, and Hangul from both.
    pub fn script16() -> Self {
        let indic = &[
            "Bengali",
            "Gurmukhi",
            "Gujarati",
            "Oriya",
            "Tamil",
            "Telugu",
            "Kannada",
            "Malayalam",
            "Sinhala",
        ];
        Self::built_in(
            "script16",
            &[
                (SYMBOLS, &["Common", "Inherited", "Unknown"]),
                ("latin", &["Latin"]),
                ("han", &["Han", "Bopomofo"]),
                ("kana", &["Hiragana", "Katakana"]),
                ("hangul", &["Hangul"]),
                ("cyrillic", &["Cyrillic"]),
                ("greek", &["Greek"]),
                ("arabic", &["Arabic"]),
                ("hebrew", &["Hebrew"]),
                ("devanagari", &["Devanagari"]),
                ("indic_other", indic),
                ("thai", &["Thai"]),
                ("sea_other", &["Lao", "Khmer", "Myanmar", "Tibetan"]),
                ("armenian_georgian", &["Armenian", "Georgian"]),
                ("ethiopic", &["Ethiopic"]),
                ("other", &["*"]),
            ],
            &[SYMBOLS],
            // A Japanese text always uses Han; a Chinese one never kana.
            &[("kana", "han")],
        )
    }

    fn built_in(name: &str, families: &[(&str, &[&str])], exempt: &[&str], implies: &[(&str, &str)]) -> Self {
        let owned = |names: &[&str]| names.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let family =
            |(name, scripts): &(&str, &[&str])| Family { name: (*name).to_owned(), scripts: owned(scripts) };
        let spec = TaxonomySpec {
            name: name.to_owned(),
            families: families.iter().map(family).collect(),
            exempt: owned(exempt),
            implies: implies.iter().map(|(from, to)| ((*from).to_owned(), owned(&[to]))).collect(),
            use_script_extensions: false,
        };
        match Self::new(spec) {
            Ok(taxonomy) => taxonomy,
            Err(error) => unreachable!("built-in taxonomy {name}: {error}"),
        }
    }

    /// The built-in taxonomy of this name.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "paper4" => Some(Self::paper4()),
            "script16" => Some(Self::script16()),
            _ => None,
        }
    }

    /// What it was made of.
    pub fn spec(&self) -> &TaxonomySpec {
        &self.spec
    }

    /// The number of families, `F`.
    pub fn len(&self) -> usize {
        self.spec.families.len()
    }

    /// Never: a taxonomy has a family of symbols.
    pub fn is_empty(&self) -> bool {
        self.spec.families.is_empty()
    }

    /// All families.
    pub fn all(&self) -> FamilySet {
        FamilySet::first(self.len())
    }

    /// The family of symbols.
    pub fn symbols(&self) -> usize {
        self.symbols
    }

    /// Families that are never denied.
    pub fn exempt(&self) -> FamilySet {
        self.exempt
    }

    /// The index of a family.
    pub fn family(&self, name: &str) -> Option<usize> {
        self.spec.families.iter().position(|f| f.name == name)
    }

    /// The families of these names.
    ///
    /// # Errors
    /// [`Error::UnknownFamily`], which says that the name stands in `named_in`.
    pub fn set(&self, names: &[impl AsRef<str>], named_in: &'static str) -> Result<FamilySet> {
        let find = |name: &str| {
            let unknown = || Error::UnknownFamily { family: name.to_owned(), named_in };
            self.family(name).ok_or_else(unknown)
        };
        names.iter().map(|name| find(name.as_ref())).collect()
    }

    /// The family of a Unicode script, by its name.
    pub fn family_of_script(&self, name: &str) -> Option<usize> {
        Script::from_full_name(name).map(|script| usize::from(self.family_of[script as usize]))
    }

    /// The name of a family.
    pub fn name(&self, family: usize) -> &str {
        &self.spec.families[family].name
    }

    /// `families` and what they imply.
    pub fn closure(&self, families: FamilySet) -> FamilySet {
        families.iter().take_while(|f| *f < self.len()).fold(families, |set, f| set | self.implies[f])
    }

    /// The family of a character, by the Unicode property Script.
    pub fn family_of(&self, c: char) -> usize {
        let mut script = c.script();
        if self.spec.use_script_extensions && script == Script::Common {
            script = Script::try_from(c.script_extension()).unwrap_or(script);
        }
        usize::from(self.family_of[script as usize])
    }

    /// The family of a character as a set, without [`Self::symbols`].
    pub fn letter(&self, c: char) -> FamilySet {
        let family = self.family_of(c);
        if family == self.symbols { FamilySet::EMPTY } else { FamilySet::one(family) }
    }
}
