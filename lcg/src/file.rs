//! Gates on disk: `lcg.json` and the weights that it names.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use half::bf16;
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use unicode_script::UNICODE_VERSION;

use crate::error::{Error, Result};
use crate::family::{Taxonomy, TaxonomySpec};
use crate::gate::MlpGate;
use crate::labels::LabelConfig;
use crate::rules::{HIGH, Rules};
use crate::table::{Exemptions, FamilyTable};
use crate::vocab::{ControlList, Vocabulary, hex};

const FORMAT: &str = "lcg/1";
const JSON: &str = "lcg.json";
/// Names of the tensors in files of this crate and of the paper's authors.
const OURS: [&str; 2] = ["w1", "w2"];
const AUTHORS: [&str; 2] = ["code_switch_pre.weight", "code_switch_head.weight"];

/// A taxonomy by name, or spelt out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TaxonomyRef {
    /// A built-in one.
    Named(String),
    /// One of the user's.
    Spec(TaxonomySpec),
}

impl TaxonomyRef {
    /// By name where it is built in.
    pub fn of(taxonomy: &Taxonomy) -> Self {
        let name = &taxonomy.spec().name;
        match Taxonomy::named(name) {
            Some(built_in) if built_in == *taxonomy => Self::Named(name.clone()),
            _ => Self::Spec(taxonomy.spec().clone()),
        }
    }

    /// The checked taxonomy.
    ///
    /// # Errors
    /// [`Error::UnknownTaxonomy`], and as [`Taxonomy::new`].
    pub fn resolve(&self) -> Result<Taxonomy> {
        match self {
            Self::Named(name) => {
                Taxonomy::named(name).ok_or_else(|| Error::UnknownTaxonomy { name: name.clone() })
            }
            Self::Spec(spec) => Taxonomy::new(spec.clone()),
        }
    }
}

/// What `lcg.json` holds besides what follows from the weights and the table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GateInfo {
    /// The model that it was trained for.
    pub base_model: String,
    /// Rises with every change of the weights.
    pub version: u32,
    /// How its labels were made.
    pub labels: LabelConfig,
    /// The rules that it is meant for.
    pub rules: Rules,
    /// Control tokens.
    #[serde(flatten)]
    pub control: ControlList,
    /// Pairs of control tokens that open and close spans that are not language.
    pub protocol_spans: Vec<(String, String)>,
    /// Tokens that are never denied.
    pub exemptions: Exemptions,
}

#[derive(Serialize, Deserialize)]
struct GateFile {
    format: String,
    taxonomy: TaxonomyRef,
    hidden_size: usize,
    width: usize,
    vocab_size: usize,
    tokenizer_sha256: String,
    family_table_sha256: String,
    threshold: Vec<f64>,
    hi: Vec<(usize, f64)>,
    unicode: String,
    weights_file: String,
    weights_sha256: String,
    info: GateInfo,
}

/// A gate with what it needs to know of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct SavedGate {
    /// The network.
    pub gate: MlpGate,
    /// What it was made for.
    pub info: GateInfo,
}

fn unicode() -> String {
    let (a, b, c) = UNICODE_VERSION;
    format!("{a}.{b}.{c}")
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error + '_ {
    move |source| Error::Io { path: path.to_owned(), source }
}

/// Writes under a temporary name, then renames: the file appears whole or not at all.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = path.with_extension("tmp");
    let put = || -> std::io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    };
    put().map_err(io(path))
}

fn weights(gate: &MlpGate, names: [&str; 2]) -> Result<Vec<u8>> {
    let bytes = |values: &[f32]| values.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
    let (w1, w2) = (bytes(gate.w1()), bytes(gate.w2()));
    let view = |shape: [usize; 2], data| TensorView::new(Dtype::F32, shape.to_vec(), data);
    let broken = |e: safetensors::SafeTensorError| Error::Weights { reason: e.to_string() };
    let first = view([gate.width(), gate.hidden_size()], &w1).map_err(broken)?;
    let second = view([gate.families(), gate.width()], &w2).map_err(broken)?;
    let metadata = [("format".to_owned(), FORMAT.to_owned())].into();
    serialize([(names[0], first), (names[1], second)], Some(metadata)).map_err(broken)
}

fn parse(bytes: &[u8], names: [&str; 2]) -> Result<MlpGate> {
    let broken = |e: safetensors::SafeTensorError| Error::Weights { reason: e.to_string() };
    let file = SafeTensors::deserialize(bytes).map_err(broken)?;
    let read = |name: &str| {
        let tensor = file.tensor(name).map_err(broken)?;
        let data = tensor.data();
        let values: Vec<f32> = match tensor.dtype() {
            Dtype::F32 => {
                data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
            }
            Dtype::BF16 => data.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            other => {
                return Err(Error::Weights { reason: format!("{name} is {other:?}, expected F32 or BF16") });
            }
        };
        match *tensor.shape() {
            [rows, columns] => Ok((rows, columns, values)),
            ref shape => {
                Err(Error::Weights { reason: format!("{name} has the shape {shape:?}, expected two sizes") })
            }
        }
    };
    let ((width, hidden_size, w1), (families, inner, w2)) = (read(names[0])?, read(names[1])?);
    if inner != width {
        return Err(Error::Weights { reason: format!("{} reads {inner} of {width} units", names[1]) });
    }
    MlpGate::new(hidden_size, width, families, w1, w2)
}

impl SavedGate {
    /// Writes `lcg.json` and its weights into `folder`. The weights have their hash in their name and come first, so that a
    /// crash at any moment leaves the old gate or the new one.
    ///
    /// # Errors
    /// [`Error::FamilyCount`], [`Error::Io`].
    pub fn save(&self, folder: &Path, table: &FamilyTable) -> Result<()> {
        self.check_families(table.taxonomy())?;
        fs::create_dir_all(folder).map_err(io(folder))?;
        let bytes = weights(&self.gate, OURS)?;
        let sha256 = hex(&Sha256::digest(&bytes));
        let file = GateFile {
            format: FORMAT.to_owned(),
            taxonomy: TaxonomyRef::of(table.taxonomy()),
            hidden_size: self.gate.hidden_size(),
            width: self.gate.width(),
            vocab_size: table.len(),
            tokenizer_sha256: table.vocabulary().sha256(),
            family_table_sha256: table.sha256().to_owned(),
            threshold: self.gate.threshold_probabilities(),
            hi: HIGH.to_vec(),
            unicode: unicode(),
            weights_file: format!("lcg-{}.safetensors", &sha256[..16]),
            weights_sha256: sha256,
            info: self.info.clone(),
        };
        let json = serde_json::to_string_pretty(&file)
            .map_err(|e| Error::Json { what: JSON, reason: e.to_string() })?;
        write(&folder.join(&file.weights_file), &bytes)?;
        write(&folder.join(JSON), json.as_bytes())?;
        // What no `lcg.json` names any more.
        for entry in fs::read_dir(folder).map_err(io(folder))?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("lcg-") && name.ends_with(".safetensors") && name != file.weights_file {
                fs::remove_file(entry.path()).map_err(io(&entry.path()))?;
            }
        }
        Ok(())
    }

    /// Reads a gate, and rebuilds the family table of its taxonomy from the text of the model's `tokenizer.json`.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Json`], [`Error::Format`]; [`Error::Mismatch`] where weights, tokenizer or table are not those
    /// that the gate was saved with (also under another version of Unicode: bit positions are meaning);
    /// [`Error::FamilyCount`]; what [`Vocabulary::from_tokenizer_json`] refuses.
    pub fn load(folder: &Path, tokenizer_json: &str) -> Result<(Self, FamilyTable)> {
        let path = folder.join(JSON);
        let text = fs::read_to_string(&path).map_err(io(&path))?;
        let file: GateFile =
            serde_json::from_str(&text).map_err(|e| Error::Json { what: JSON, reason: e.to_string() })?;
        if file.format != FORMAT || file.hi != HIGH {
            return Err(Error::Format { found: format!("{} with supports {:?}", file.format, file.hi) });
        }
        let same = |what: &'static str, found: &str, expected: &str| match found == expected {
            true => Ok(()),
            false => Err(Error::Mismatch { what, found: found.to_owned(), expected: expected.to_owned() }),
        };
        let path = folder.join(&file.weights_file);
        let bytes = fs::read(&path).map_err(io(&path))?;
        same("weights", &hex(&Sha256::digest(&bytes)), &file.weights_sha256)?;
        let gate = parse(&bytes, OURS)?.with_thresholds(&file.threshold)?;
        let vocabulary =
            Vocabulary::from_tokenizer_json(tokenizer_json, file.vocab_size, &file.info.control)?;
        same("tokenizer", &vocabulary.sha256(), &file.tokenizer_sha256)?;
        let table = FamilyTable::new(file.taxonomy.resolve()?, vocabulary, &file.info.exemptions)?;
        let of = |sha256: &str, unicode: &str| format!("{sha256} (Unicode {unicode})");
        if table.sha256() != file.family_table_sha256 {
            let (found, expected) =
                (of(table.sha256(), &unicode()), of(&file.family_table_sha256, &file.unicode));
            return Err(Error::Mismatch { what: "family table", found, expected });
        }
        let saved = Self { gate, info: file.info };
        saved.check_families(table.taxonomy())?;
        for (what, found, expected) in [
            ("hidden_size", saved.gate.hidden_size(), file.hidden_size),
            ("width", saved.gate.width(), file.width),
        ] {
            if found != expected {
                return Err(Error::Shape { what, found, expected });
            }
        }
        Ok((saved, table))
    }

    fn check_families(&self, taxonomy: &Taxonomy) -> Result<()> {
        match (self.gate.families(), taxonomy.len()) {
            (file, taxonomy) if file != taxonomy => Err(Error::FamilyCount { file, taxonomy }),
            _ => Ok(()),
        }
    }
}

/// Reads the weights that the paper's authors publish (`paper4`, for [`Rules::paper`]) from a safetensors file.
///
/// # Errors
/// [`Error::Io`], [`Error::Weights`]; [`Error::FamilyCount`] for other than four families.
pub fn import_authors(path: &Path) -> Result<MlpGate> {
    let gate = parse(&fs::read(path).map_err(io(path))?, AUTHORS)?;
    match gate.families() {
        4 => Ok(gate),
        file => Err(Error::FamilyCount { file, taxonomy: 4 }),
    }
}

/// Writes a gate under the authors' names of tensors.
///
/// # Errors
/// [`Error::Io`].
pub fn export_authors(gate: &MlpGate, path: &Path) -> Result<()> {
    write(path, &weights(gate, AUTHORS)?)
}
