//! Gates on disk.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use lcg::file::{GateInfo, SavedGate, export_authors, import_authors};
use lcg::{ControlList, Exemptions, FamilyTable, LabelConfig, MlpGate, Rules, Taxonomy, Vocabulary};

const TOKENIZER: &str = r#"{"decoder":{"type":"ByteLevel"},"added_tokens":[{"id":3,"content":"<call>","special":true}],
    "model":{"type":"BPE","vocab":{"a":0,"Ġb":1,"Ð¶":2}}}"#;

fn table(taxonomy: Taxonomy) -> FamilyTable {
    let vocabulary = Vocabulary::from_tokenizer_json(TOKENIZER, 5, &ControlList::default()).unwrap();
    FamilyTable::new(taxonomy, vocabulary, &Exemptions::default()).unwrap()
}

fn gate(seed: u64, families: usize) -> SavedGate {
    let thresholds: Vec<f64> = (0..families).map(|f| 0.5 - 0.01 * f as f64).collect();
    SavedGate {
        gate: MlpGate::random(6, 3, families, seed).unwrap().with_thresholds(&thresholds).unwrap(),
        info: GateInfo {
            base_model: "tiny".into(),
            version: 3,
            labels: LabelConfig::default(),
            rules: Rules::default(),
            control: ControlList::default(),
            protocol_spans: vec![("<call>".into(), "<call>".into())],
            exemptions: Exemptions::default(),
        },
    }
}

fn error(folder: &Path, tokenizer: &str) -> String {
    SavedGate::load(folder, tokenizer).unwrap_err().to_string()
}

#[test]
fn what_is_saved_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let mut own = Taxonomy::paper4().spec().clone();
    own.name = "own".into();
    for taxonomy in [Taxonomy::script16(), Taxonomy::paper4(), Taxonomy::new(own).unwrap()] {
        let (table, saved) = (table(taxonomy.clone()), gate(1, taxonomy.len()));
        saved.save(folder.path(), &table).unwrap();
        let (loaded, rebuilt) = SavedGate::load(folder.path(), TOKENIZER).unwrap();
        assert_eq!(loaded, saved);
        assert_eq!((rebuilt.taxonomy(), rebuilt.sha256()), (table.taxonomy(), table.sha256()));
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "old weights are gone");
}

#[test]
fn changed_bytes_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    gate(1, 16).save(path, &table(Taxonomy::script16())).unwrap();
    assert!(error(path, &TOKENIZER.replace("Ġb", "Ġc")).contains("the tokenizer is"));
    let json = fs::read_to_string(path.join("lcg.json")).unwrap();
    let change = |from: &str, to: &str| {
        assert!(json.contains(from), "{from}");
        fs::write(path.join("lcg.json"), json.replacen(from, to, 1)).unwrap();
        error(path, TOKENIZER)
    };
    assert!(change("\"single_greek\": false", "\"single_greek\": 1").contains("lcg.json"));
    assert!(change("lcg/1", "lcg/2").contains("lcg/2"));
    assert!(change("0.999", "0.998").contains("0.998"));
    assert!(change("\"script16\"", "\"script17\"").contains("script17"));
    let other = change("\"script16\"", "\"paper4\"");
    assert!(other.contains("the family table is") && other.contains("Unicode"), "{other}");
    assert!(change("\"hidden_size\": 6", "\"hidden_size\": 7").contains("hidden_size has 6"));
    fs::write(path.join("lcg.json"), &json).unwrap();
    let mut weights = fs::read_dir(path).unwrap().map(|e| e.unwrap().path());
    let weights = weights.find(|p| p.extension().is_some_and(|e| e == "safetensors")).unwrap();
    let mut bytes = fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&weights, bytes).unwrap();
    assert!(error(path, TOKENIZER).contains("the weights is"));
    fs::remove_file(&weights).unwrap();
    assert!(error(path, TOKENIZER).contains("safetensors"));
    let four = gate(1, 4).save(path, &table(Taxonomy::script16())).unwrap_err().to_string();
    assert!(four.contains("4 families") && four.contains("16"), "{four}");
}

/// A crash between the two writes: the new weights are there, `lcg.json` is the old one.
#[test]
fn a_crash_between_the_writes_leaves_the_old_gate() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let table = table(Taxonomy::script16());
    gate(1, 16).save(folder.path(), &table).unwrap();
    gate(2, 16).save(other.path(), &table).unwrap();
    for entry in fs::read_dir(other.path()).unwrap().map(|e| e.unwrap().path()) {
        if entry.extension().is_some_and(|e| e == "safetensors") {
            fs::copy(&entry, folder.path().join(entry.file_name().unwrap())).unwrap();
        }
    }
    assert_eq!(SavedGate::load(folder.path(), TOKENIZER).unwrap().0, gate(1, 16));
}

#[test]
fn weights_of_the_authors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gate.safetensors");
    let gate = MlpGate::random(6, 6, 4, 9).unwrap();
    export_authors(&gate, &path).unwrap();
    assert_eq!(import_authors(&path).unwrap(), gate);
    let bytes = fs::read(&path).unwrap();
    assert!(String::from_utf8_lossy(&bytes).contains("code_switch_head.weight"));
    export_authors(&MlpGate::random(6, 6, 5, 9).unwrap(), &path).unwrap();
    assert!(import_authors(&path).unwrap_err().to_string().contains("5 families"));
    fs::write(&path, &bytes[..20]).unwrap();
    assert!(import_authors(&path).unwrap_err().to_string().starts_with("weights"));
}
