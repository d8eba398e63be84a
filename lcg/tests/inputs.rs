//! Bad input is refused, by a message that names it.
#![allow(clippy::unwrap_used)]

mod common;

use common::{noise, of_families, plan};
use lcg::{
    AllowAll, ControlList, DirectRule, FamilyPredictor, FamilySet, LabelConfig, LabelRule, Labeller, MlpGate,
    RowMask, Rules, Sampling, Support, Taxonomy, TaxonomySpec, Vocabulary, Widen, draw, row_norms, sample,
};

fn refused<T, E: std::fmt::Display>(result: Result<T, E>, words: &[&str]) {
    let error = result.err().map(|e| e.to_string()).unwrap_or_else(|| panic!("accepted; expected {words:?}"));
    assert!(words.iter().all(|w| error.contains(w)), "{error}: expected {words:?}");
}

fn spec(change: impl Fn(&mut TaxonomySpec)) -> lcg::Result<Taxonomy> {
    let mut spec = Taxonomy::paper4().spec().clone();
    change(&mut spec);
    Taxonomy::new(spec)
}

#[test]
fn taxonomies() {
    assert_eq!(spec(|_| ()).unwrap(), Taxonomy::paper4());
    refused(spec(|s| s.families.clear()), &["0 families"]);
    refused(spec(|s| s.families = vec![s.families[0].clone(); 33]), &["33 families", "32"]);
    refused(spec(|s| s.families[1].name = "cj".into()), &["`cj`", "twice"]);
    refused(spec(|s| s.families[2].name = "signs".into()), &["symbols"]);
    refused(spec(|s| s.families[1].scripts.push("Han".into())), &["Han", "`cj`", "`latin`"]);
    refused(spec(|s| s.families[1].scripts.push("Klingon".into())), &["Klingon", "`latin`"]);
    refused(spec(|s| s.families[3].scripts.clear()), &["0 families", "\"*\""]);
    refused(spec(|s| s.families[1].scripts.push("*".into())), &["2 families", "\"*\""]);
    refused(spec(|s| s.exempt.push("thai".into())), &["`thai`", "exempt"]);
    refused(spec(|s| drop(s.implies.insert("cj".into(), vec!["x".into()]))), &["`x`", "implies"]);
    refused(Taxonomy::paper4().set(&["thai"], "gate.exempt"), &["`thai`", "gate.exempt"]);
    let mut none = Taxonomy::paper4().spec().clone();
    none.exempt.clear();
    assert_eq!(Taxonomy::new(none).unwrap().exempt(), FamilySet(4), "symbols are exempt, named or not");
    let json = serde_json::to_string(Taxonomy::script16().spec()).unwrap();
    let back: TaxonomySpec = serde_json::from_str(&json).unwrap();
    assert_eq!(Taxonomy::new(back).unwrap(), Taxonomy::script16());
}

#[test]
fn tokenizers() {
    let read = |json: &str, size| Vocabulary::from_tokenizer_json(json, size, &ControlList::default());
    let byte_level = |vocab: &str| {
        format!(r#"{{"decoder":{{"type":"ByteLevel"}},"model":{{"type":"BPE","vocab":{vocab}}}}}"#)
    };
    refused(read("{", 9), &["tokenizer.json"]);
    refused(read(&byte_level(r#"{"a":9}"#), 9), &["token 9", "9 columns"]);
    refused(read(&byte_level(r#"{"中":3}"#), 9), &["token 3", "'中'"]);
    refused(read(r#"{"model":{"type":"WordPiece","vocab":{}}}"#, 9), &["WordPiece"]);
    refused(read(r#"{"model":{"type":"Unigram","vocab":[["a",-1.0]]}}"#, 9), &["Unigram"]);
    refused(read(r#"{"model":{"type":"BPE","vocab":{}}}"#, 9), &["BPE", "none"]);
    let control = ControlList { control_patterns: vec!["(".into()], ..ControlList::default() };
    refused(Vocabulary::from_tokenizer_json(&byte_level("{}"), 9, &control), &["`(`"]);

    // Both schemes, added tokens, holes.
    let json = r#"{"added_tokens":[{"id":3,"content":"é","special":false},{"id":4,"content":"</think>","special":false}],
        "pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"ByteLevel"}]},
        "model":{"type":"BPE","vocab":{"Ġa":0,"é":1,"ÿ":2}}}"#;
    let vocabulary = read(json, 6).unwrap();
    let bytes: Vec<&[u8]> = (0..6).map(|v| vocabulary.bytes(v)).collect();
    assert_eq!(bytes, [&b" a"[..], &[0xE9], &[0xFF], "é".as_bytes(), b"</think>", b""]);
    use lcg::Kind::{Control, Hole, InvalidByte, Text};
    let kinds: Vec<_> = (0..6).map(|v| vocabulary.kind(v)).collect();
    assert_eq!(kinds, [Text, Text, InvalidByte, Text, Control, Hole]);
    let json = r#"{"model":{"type":"BPE","byte_fallback":true,"vocab":{"▁a":0,"<0xE4>":1,"<0xzz>":2}}}"#;
    let vocabulary = read(json, 3).unwrap();
    assert_eq!((0..3).map(|v| vocabulary.bytes(v)).collect::<Vec<_>>(), [&b" a"[..], &[0xE4], b"<0xzz>"]);
}

#[test]
fn rows_and_sampling() {
    let table = of_families(&[1, 0, 3]);
    let (view, off) =
        (table.view(Default::default()), plan(&table, &Rules::paper(), FamilySet(8), FamilySet(8)));
    let run = |logits: &[f32], sampling: &Sampling| {
        sample(7, logits, sampling, Widen::Always, &off, &view, &noise(0))
    };
    let all = Sampling::default();
    refused(run(&[0.0, f32::NAN, 0.0], &all), &["token 1", "row 7"]);
    refused(run(&[0.0, 0.0, f32::INFINITY], &all), &["token 2", "row 7"]);
    refused(run(&[f32::NEG_INFINITY; 3], &all), &["row 7", "no finite"]);
    refused(run(&[0.0; 4], &all), &["4 columns", "3 tokens"]);
    for (field, sampling) in [
        ("top_p", Sampling { top_p: 0.0, ..all }),
        ("top_p", Sampling { top_p: 1.5, ..all }),
        ("top_p", Sampling { top_p: f64::NAN, ..all }),
        ("temperature", Sampling { temperature: -1.0, ..all }),
        ("temperature", Sampling { temperature: f32::NAN, ..all }),
    ] {
        refused(run(&[0.0; 3], &sampling), &[field]);
    }
    assert!(run(&[0.0; 3], &Sampling { top_k: 1_000_000, ..all }).is_ok(), "top_k is clamped");
    let of = |tokens: &[u32]| {
        draw(
            7,
            &[0.0, 0.0, f32::NEG_INFINITY],
            1.0,
            Support::Tokens(tokens),
            Widen::Always,
            &off,
            &view,
            &noise(0),
        )
    };
    [&[][..], &[2], &[3]].iter().for_each(|tokens| refused(of(tokens), &["row 7"]));
    let mask = RowMask { view: table.view(Default::default()), denied: FamilySet(2), kept: None };
    refused(mask.logprob(5, &[0.0; 3], 0, 1.0), &["row 5", "token 0", "0b10"]);
    refused(mask.logprob(5, &[0.0; 3], 3, 1.0), &["token 3"]);
    refused(mask.logprob(5, &[0.0; 2], 1, 1.0), &["2 columns"]);
    refused(mask.leak(&[0.0; 2], 1.0), &["2 columns"]);
    let kept = RowMask { kept: Some([1][..].into()), ..mask };
    refused(kept.logprob(5, &[0.0; 3], 2, 1.0), &["row 5", "token 2"]);
    assert_eq!(kept.logprob(5, &[0.0; 3], 1, 1.0).unwrap(), 0.0);
}

#[test]
fn gates_and_labels() {
    refused(MlpGate::new(3, 2, 4, vec![0.0; 5], vec![0.0; 8]), &["w1", "5", "6"]);
    refused(MlpGate::new(3, 2, 4, vec![0.0; 6], vec![0.0; 7]), &["w2", "7", "8"]);
    let gate = MlpGate::random(3, 2, 4, 0).unwrap();
    refused(gate.logits(&[0.0; 4]), &["4 elements", "3"]);
    refused(gate.clone().with_thresholds(&[0.5; 3]), &["threshold", "3", "4"]);
    refused(gate.clone().with_thresholds(&[0.5, 1.0, 0.5, 0.5]), &["family 1"]);
    assert_eq!(gate.clone().with_thresholds(&[0.5; 4]).unwrap(), gate);
    // NaN is not an opinion; infinities are.
    assert_eq!(gate.predict(&[f32::NAN; 3], &[]).unwrap(), None);
    assert_eq!(gate.allowed(&[f32::NEG_INFINITY; 4]), Some(FamilySet(1)));
    assert_eq!(gate.allowed(&[-1.0, f32::INFINITY, 0.0, -0.1]), Some(FamilySet(6)));
    assert_eq!(AllowAll.predict(&[], &[]).unwrap(), Some(FamilySet::FULL));

    let table = of_families(&[1, 0, 3]);
    let of = |norms: &[f32], config| Labeller::new(&table, norms, config);
    let config = LabelConfig::default();
    refused(of(&[1.0; 2], config), &["2 columns"]);
    refused(of(&[0.0; 3], config), &["no text token"]);
    refused(of(&[1.0; 3], LabelConfig { top_p: 2.0, ..config }), &["top_p"]);
    refused(of(&[1.0; 3], LabelConfig { rule: LabelRule::Mass(0.0), ..config }), &["mass"]);
    let labeller = of(&[1.0, 0.0, f32::NAN], config).unwrap();
    assert_eq!(labeller.excluded_rows(), 2);
    assert_eq!(labeller.label(0, &[0.0, 9.0, 9.0]).unwrap(), FamilySet(2), "what is excluded has no say");
    refused(labeller.label(4, &[f32::NEG_INFINITY, 1.0, 1.0]), &["row 4"]);
    refused(labeller.label(4, &[f32::NAN, 1.0, 1.0]), &["row 4", "token 0"]);
    refused(row_norms(&[1.0; 5], 2), &["embedding"]);
    let direct = DirectRule::new(of(&[1.0; 3], LabelConfig::paper()).unwrap());
    assert_eq!(direct.predict(&[], &[9.0, 0.0, 0.0]).unwrap(), Some(FamilySet(2)));
    assert_eq!(direct.config(), &LabelConfig::paper());
}
