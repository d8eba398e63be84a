//! Characters, byte strings and streams: sections 2 to 4.
#![allow(clippy::unwrap_used)]

mod common;

use common::{of_bytes, table};
use lcg::utf8::{Pending, Reach, Split};
use lcg::{
    ControlList, Exemptions, FamilySet, FamilyTable, GateState, Kind, Protocol, Taxonomy, Trust, Vocabulary,
};
use proptest::prelude::*;

/// All single bytes, and whatever else is asked for.
fn bytes_and(texts: &[&[u8]]) -> FamilyTable {
    let single = (0..=255).map(|b| vec![b]);
    of_bytes(Taxonomy::script16(), single.chain(texts.iter().map(|t| t.to_vec())))
}

/// Bytes as the strings of byte-level vocabularies have them.
fn alphabet(bytes: &[u8]) -> String {
    let plain = |b: u8| matches!(b, 33..=126 | 161..=172 | 174..=255);
    let char_of = |b: &u8| {
        let shifted = 256 + (0..*b).filter(|b| !plain(*b)).count() as u32;
        char::from_u32(if plain(*b) { u32::from(*b) } else { shifted }).unwrap()
    };
    bytes.iter().map(char_of).collect()
}

fn set(taxonomy: &Taxonomy, names: &[&str]) -> FamilySet {
    taxonomy.set(names, "test").unwrap()
}

#[test]
fn characters_are_of_the_family_of_their_script() {
    let taxonomy = Taxonomy::script16();
    let cases = [
        ("han", "々〇中㐀"),
        ("symbols", "ー。，µℝ𝐀\u{64B}😀㍿ "),
        ("latin", "ＡⅧªﬁ"),
        ("greek", "αΩ"),
        ("arabic", "٠۰"),
        ("devanagari", "०\u{947}ा"),
        ("thai", "\u{E48}ก"),
        ("kana", "のカ"),
        ("hangul", "한"),
        ("other", "ⴰᐁ"),
    ];
    for (family, text) in cases {
        for c in text.chars() {
            assert_eq!(taxonomy.name(taxonomy.family_of(c)), family, "{c:?}");
        }
    }
    let mut spec = taxonomy.spec().clone();
    spec.use_script_extensions = true;
    let extended = Taxonomy::new(spec).unwrap();
    assert_eq!(extended.name(extended.family_of('㍿')), "han");
    assert_eq!(extended.name(extended.family_of('ー')), "symbols", "two scripts use the long mark");
}

#[test]
fn prefixes_reach_what_the_specification_lists() {
    let taxonomy = Taxonomy::script16();
    let reach = Reach::new(&taxonomy);
    let indic = ["arabic", "devanagari", "indic_other", "thai", "sea_other", "other"];
    // Prefix, symbols, assigned code points, determined families.
    let cases: &[(&[u8], u32, u32, &[&str])] = &[
        (&[0xE4, 0xB8], 0, 64, &["han"]),
        (&[0xE4], 64, 4096, &["han"]),
        (&[0xE5], 0, 4096, &["han"]),
        (&[0xE9], 0, 4096, &["han"]),
        (&[0xE3], 423, 423 + 3162 + 333 + 158, &[]),
        (&[0xE3, 0x80], 47, 64, &[]),
        (&[0xE3, 0x81], 0, 63, &["kana"]),
        (&[0xE3, 0x83], 2, 64, &["kana"]),
        (&[0xE3, 0x90], 0, 64, &["han"]),
        (&[0xEB], 0, 4096, &["hangul"]),
        (&[0xED], 0, 2028, &["hangul"]),
        (&[0xD0], 0, 64, &["cyrillic"]),
        (&[0xD7], 0, 41, &["hebrew"]),
        (&[0xD8], 4, 64, &[]),
        (&[0xE0, 0xB8], 1, 59, &["thai"]),
        (&[0xE0], 12, 830 + 290 + 137 + 122 + 101 + 86 + 12, &indic),
        (&[0xC3], 2, 64, &["latin"]),
        (&[0xCE], 2, 57, &["greek"]),
        (&[0xEF, 0xBC], 37, 63, &[]),
        (&[0xF0, 0x9F], 2609, 2610, &[]),
        (&[0xF0, 0xA0], 0, 4096, &["han"]),
        (&[0xF0], 5385, 99_070, &[]),
    ];
    for (prefix, symbols, assigned, families) in cases {
        let (_, s, a) = reach.counts(prefix);
        assert_eq!((s, a), (*symbols, *assigned), "{prefix:02X?}");
        assert_eq!(reach.families(prefix), set(&taxonomy, families), "{prefix:02X?}");
    }
}

#[test]
fn the_byte_path_of_the_specification() {
    let table = bytes_and(&[&[0x80, 0x85], &[0x80, 0x82]]);
    let han = set(table.taxonomy(), &["han"]);
    let behind = |bytes: &[u8]| {
        let mut state = GateState::default();
        for b in bytes {
            state.advance(&table, &Protocol::default(), u32::from(*b), &Trust::ungated()).unwrap();
        }
        table.view(state.pending)
    };
    let view = behind(&[]);
    assert!(view.denies(han, 0xE4) && !view.denies(han, 0xE3));
    let view = behind(&[0xE3]);
    assert!(!view.denies(han, 0x80) && !view.denies(han, 0x81) && view.denies(han, 0x90));
    assert!(view.denies(han, 256), "80 85 finishes 々");
    assert!(!view.denies(han, 257), "80 82 finishes 。");
    let view = behind(&[0xE3, 0x80]);
    assert!(view.denies(han, 0x85) && !view.denies(han, 0x82));
}

/// Properties 2 and 3, for every scalar value of Unicode, byte by byte: no path writes a denied letter, and no other path is
/// blocked but where a prefix is of a family and the character a symbol.
#[test]
fn no_byte_path_writes_a_denied_letter() {
    let table = bytes_and(&[]);
    let (taxonomy, reach) = (table.taxonomy(), Reach::new(table.taxonomy()));
    let mut views = std::collections::HashMap::new();
    for c in '\0'..=char::MAX {
        let (letter, mut buffer) = (taxonomy.letter(c), [0; 4]);
        let bytes = c.encode_utf8(&mut buffer).as_bytes();
        let others = taxonomy.all().without(letter).without(FamilySet::one(taxonomy.symbols()));
        let (mut blocked, mut others_blocked) = (false, false);
        for (i, byte) in bytes.iter().enumerate() {
            let packed = {
                let mut p = [0; 4];
                p[0] = i as u8;
                p[1..=i].copy_from_slice(&bytes[..i]);
                u32::from_le_bytes(p)
            };
            // The last byte's view is asked once for all characters that share the bytes before.
            let pending = Pending::unpack(packed).unwrap();
            let view = views.entry(packed).or_insert_with(|| table.view(pending));
            blocked |= view.denies(letter, usize::from(*byte));
            others_blocked |= view.denies(others, usize::from(*byte));
        }
        if views.len() > 64 {
            views.clear();
        }
        assert!(blocked || letter.is_empty(), "{c:?} can be written");
        if letter.is_empty() {
            let determined = (1..bytes.len()).any(|i| !reach.families(&bytes[..i]).is_empty());
            assert_eq!(others_blocked, determined, "{c:?}");
            assert!(!others_blocked || !('\u{1F300}'..='\u{1FAFF}').contains(&c), "{c:?} is an emoji");
        } else {
            assert!(!others_blocked, "{c:?} is blocked by families that it is not of");
        }
    }
}

/// Section 4.1, where the authors' code goes by tokens: a letter made of byte tokens is the latest letter, a byte that cannot go
/// on begins anew, and a control token ends what is pending.
#[test]
fn letters_of_byte_tokens_persist() {
    let tokens = (0..=255).map(|b| (Kind::Text, vec![b])).chain([(Kind::Control, b"<end>".to_vec())]);
    let table =
        FamilyTable::new(Taxonomy::script16(), Vocabulary::new(tokens), &Exemptions::default()).unwrap();
    let of = |names: &[&str]| set(table.taxonomy(), names);
    let after = |tokens: &[usize]| {
        let state = advance_all(&table, tokens);
        (state.last, state.pending.bytes().to_vec())
    };
    let a = usize::from(b'a');
    assert_eq!(after(&[a]), (of(&["latin"]), vec![]));
    assert_eq!(after(&[a, 0xE4, 0xB8]), (of(&["latin"]), vec![0xE4, 0xB8]));
    assert_eq!(after(&[a, 0xE4, 0xB8, 0xAD]), (of(&["han"]), vec![]), "中");
    assert_eq!(after(&[a, 0xE3, 0x81, 0xAE]), (of(&["han", "kana"]), vec![]), "の implies Han");
    assert_eq!(after(&[a, 0xE3, 0x80, 0x82]), (of(&["latin"]), vec![]), "。 is no letter");
    assert_eq!(after(&[0xE4, 0xB8, a]), (of(&["latin"]), vec![]));
    assert_eq!(after(&[a, 0xE4, 0xE4]), (of(&["latin"]), vec![0xE4]));
    assert_eq!(after(&[a, 0xAD]), (of(&["latin"]), vec![]));
    assert_eq!(after(&[a, 0xE4, 0xB8, 256]), (of(&["latin"]), vec![]));
    assert_eq!(
        after(&[a, 0xE4, 0xB8, 256, 0xAD]),
        (of(&["latin"]), vec![]),
        "half a letter before, half after"
    );
}

fn advance_all(table: &FamilyTable, tokens: &[usize]) -> GateState {
    let mut state = GateState::default();
    for t in tokens {
        state.advance(table, &Protocol::default(), *t as u32, &Trust::ungated()).unwrap();
    }
    state
}

/// Strings of many scripts, cut anywhere.
fn text() -> impl Strategy<Value = String> {
    let sample = "aZ 中々のカ한жαب\u{64B}א०ก😀。ー𠀀é\n".chars().collect::<Vec<_>>();
    let letter = prop_oneof![4 => prop::sample::select(sample), 1 => any::<char>()];
    prop::collection::vec(letter, 0..12).prop_map(String::from_iter)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Property 2, with random cuts.
    #[test]
    fn no_cut_writes_a_denied_letter(c in any::<char>(), cuts in prop::collection::vec(any::<bool>(), 3), before in text()) {
        let bytes = c.to_string().into_bytes();
        let mut pieces = vec![vec![bytes[0]]];
        for (i, b) in bytes[1..].iter().enumerate() {
            if cuts[i] { pieces.push(vec![]); }
            pieces.last_mut().unwrap().push(*b);
        }
        // The first piece also carries text before, in one token.
        pieces[0] = [before.as_bytes(), &pieces[0]].concat();
        let table = of_bytes(Taxonomy::script16(), pieces.clone());
        let letter = table.taxonomy().letter(c);
        let mut state = GateState::default();
        let mut denied = false;
        for v in 0..pieces.len() {
            denied |= table.view(state.pending).denies(letter, v);
            state.advance(&table, &Protocol::default(), v as u32, &Trust::ungated()).unwrap();
        }
        prop_assert!(denied || letter.is_empty());
    }

    /// Property 12: the state is a function of bytes.
    #[test]
    fn state_depends_on_bytes_alone(bytes in prop_oneof![
        text().prop_map(String::into_bytes), prop::collection::vec(any::<u8>(), 0..20)
    ], cut in 0usize..20) {
        let cut = cut.min(bytes.len());
        let table = of_bytes(Taxonomy::script16(), [bytes.clone(), bytes[..cut].to_vec(), bytes[cut..].to_vec()]
            .into_iter().chain((0..=255).map(|b| vec![b])));
        // Tokens with impossible bytes are tokens all the same.
        let whole = advance_all(&table, &[0]);
        let halves = advance_all(&table, &[1, 2]);
        let single = advance_all(&table, &bytes.iter().map(|b| 3 + usize::from(*b)).collect::<Vec<_>>());
        prop_assert_eq!((whole.pending, whole.last), (halves.pending, halves.last));
        prop_assert_eq!((whole.pending, whole.last), (single.pending, single.last));
        prop_assert_eq!(Pending::unpack(whole.pending.pack()), Some(whole.pending));
    }

    /// Properties 4 and 6: a space before changes nothing, and a text has the families of its parts, together as one by one, and
    /// as its bytes have along the stream.
    #[test]
    fn spaces_are_free_and_texts_add_up(a in text(), b in text()) {
        let texts = [a.clone(), format!(" {a}"), b.clone(), format!("{a}{b}")];
        let table = table(Taxonomy::script16(), &texts.each_ref().map(String::as_str));
        let any: Vec<FamilySet> = (0..4).map(|v| table.signature(v).any).collect();
        prop_assert_eq!(table.signature(0), table.signature(1));
        prop_assert_eq!(any[3], any[0] | any[2]);
        let bytes = bytes_and(&[texts[3].as_bytes()]);
        let (mut state, mut seen) = (GateState::default(), FamilySet::EMPTY);
        for byte in texts[3].bytes() {
            seen |= bytes.view(state.pending).signature(byte.into()).any;
            state.advance(&bytes, &Protocol::default(), byte.into(), &Trust::ungated()).unwrap();
        }
        prop_assert_eq!(seen, bytes.signature(256).any);
    }

    /// Property 1: every id of a tokenizer has the one kind that its entry says, and only text has families, symbols never.
    #[test]
    fn every_token_has_one_kind_and_no_bit_of_symbols(
        entries in prop::collection::btree_set(prop_oneof![
            prop::collection::vec(any::<u8>(), 1..6), text().prop_map(String::into_bytes)], 1..20),
        added in 0usize..4, four: bool,
    ) {
        let taxonomy = if four { Taxonomy::paper4() } else { Taxonomy::script16() };
        let entries: Vec<Vec<u8>> = entries.into_iter().filter(|e| !e.is_empty()).collect();
        // Every second id is a hole; behind them, added tokens by turns special and not.
        let vocab: serde_json::Map<String, serde_json::Value> =
            entries.iter().enumerate().map(|(i, bytes)| (alphabet(bytes), (2 * i).into())).collect();
        let first = 2 * entries.len();
        let added: Vec<serde_json::Value> = (0..added)
            .map(|i| serde_json::json!({ "id": first + i, "content": format!("<да{i}>"), "special": i % 2 == 0 }))
            .collect();
        let json = serde_json::json!({ "added_tokens": added, "decoder": { "type": "ByteLevel" },
            "model": { "type": "BPE", "vocab": vocab } });
        let size = first + added.len() + 1;
        let vocabulary = Vocabulary::from_tokenizer_json(&json.to_string(), size, &ControlList::default()).unwrap();
        let table = FamilyTable::new(taxonomy, vocabulary, &Exemptions::default()).unwrap();
        let symbols = FamilySet::one(table.taxonomy().symbols());
        for v in 0..size {
            let bytes = table.vocabulary().bytes(v);
            let kind = match entries.get(v / 2).filter(|_| v % 2 == 0 && v < first) {
                Some(entry) => {
                    prop_assert_eq!(bytes, &entry[..]);
                    let never = |b: &u8| matches!(b, 0xC0 | 0xC1 | 0xF5..);
                    if entry.iter().any(never) { Kind::InvalidByte } else { Kind::Text }
                }
                None if (first..size - 1).contains(&v) && (v - first).is_multiple_of(2) => Kind::Control,
                None if (first..size - 1).contains(&v) => Kind::Text,
                None => Kind::Hole,
            };
            prop_assert_eq!(table.vocabulary().kind(v), kind, "token {}", v);
            let families = table.signature(v).families();
            prop_assert!(!families.meets(symbols) && (kind == Kind::Text || families.is_empty()), "token {}", v);
        }
    }

    /// A split is a partition, and each part is what it is called.
    #[test]
    fn splits_are_partitions(bytes in prop::collection::vec(prop_oneof![
        any::<u8>(), prop::sample::select(vec![0xE4u8, 0xB8, 0xF0, 0x9F, 0x80, 0xC3, b'a'])], 0..12)) {
        let split = Split::of(&bytes);
        prop_assert_eq!([split.lead, split.body, split.tail].concat(), bytes.clone());
        let tail = std::str::from_utf8(split.tail);
        prop_assert!(split.tail.is_empty() || tail.is_err_and(|e| e.error_len().is_none()));
        let whole = String::from_utf8_lossy(&bytes);
        let kept: String = split.chars().collect();
        prop_assert_eq!(kept, whole.chars().filter(|c| *c != '\u{FFFD}').collect::<String>());
    }

    /// Property 5: ids are names.
    #[test]
    fn renumbering_permutes_the_table(texts in prop::collection::vec(text(), 1..12)) {
        let forward = of_bytes(Taxonomy::script16(), texts.iter().map(|t| t.clone().into_bytes()));
        let back = of_bytes(Taxonomy::script16(), texts.iter().rev().map(|t| t.clone().into_bytes()));
        for v in 0..texts.len() {
            prop_assert_eq!(forward.signature(v), back.signature(texts.len() - 1 - v));
        }
    }
}

/// Section 3.6, and where the authors' code differs: it calls a token Latin as soon as a letter of it is.
#[test]
fn one_class_of_the_paper_for_each_token() {
    let table = of_bytes(
        Taxonomy::paper4(),
        [
            "a".as_bytes(),
            " ΔE".as_bytes(),
            "aж".as_bytes(),
            "a中".as_bytes(),
            "ж中".as_bytes(),
            "42!".as_bytes(),
            &[0xE4, 0xB8],
            &[0xC3],
            &[0xD0],
            &[0xE0],
            &[0xE3],
            &[b'a', 0xD0],
        ]
        .map(<[u8]>::to_vec),
    );
    let names: Vec<&str> =
        (0..table.len()).map(|v| table.taxonomy().name(lcg::paper::primary(&table, v).unwrap())).collect();
    let expected = [
        "latin", "low_res", "low_res", "cj", "cj", "symbols", "cj", "latin", "low_res", "low_res", "symbols",
        "low_res",
    ];
    assert_eq!(names, expected);
    assert_eq!(lcg::paper::primary(&of_bytes(Taxonomy::script16(), [b"a".to_vec()]), 0), None);
}

#[test]
fn exemptions_free_what_they_name() {
    let texts = ["α", " π ", "αβ", "ΔE", " A", "H", "assistant", "αж"];
    let build = |exemptions: &Exemptions| {
        let vocabulary = Vocabulary::new(texts.map(|t| (Kind::Text, t.as_bytes().to_vec())));
        let table = FamilyTable::new(Taxonomy::script16(), vocabulary, exemptions).unwrap();
        (0..texts.len()).map(|v| table.signature(v).any.is_empty()).collect::<Vec<_>>()
    };
    let t = true;
    assert_eq!(build(&Exemptions::of(&Taxonomy::script16())), [t, t, !t, !t, !t, !t, !t, !t]);
    let strings = vec!["assistant".to_owned()];
    let plugin = Exemptions { strings, single_greek: false, option_letters: true };
    assert_eq!(build(&plugin), [!t, !t, !t, !t, t, !t, t, !t]);
}

/// Property 17 without a real vocabulary: added tokens of structure, most of them not `special`, are never denied; runs of
/// newlines and HTML tags, which are added too, are text.
#[test]
fn structure_has_no_family() {
    let control = [
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
        "<tool_response>",
        "</tool_response>",
        "<mask>",
        "[multimodal]",
        "<unused0>",
        "<unused6241>",
        "<|fim_prefix|>",
        "<|repo_name|>",
        "<|file_sep|>",
    ];
    let special = ["<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|channel|>", "<|message|>", "<|return|>"];
    let text = ["\n\n", "<h1>", "<unusual>", "unused1"];
    let mut added = Vec::new();
    for (list, special) in [(&control[..], false), (&special, true), (&text, false)] {
        for content in list {
            added.push(serde_json::json!({ "id": added.len(), "content": content, "special": special }));
        }
    }
    let (count, structure) = (added.len(), control.len() + special.len());
    let json = serde_json::json!({ "added_tokens": added, "decoder": { "type": "ByteLevel" },
        "model": { "type": "BPE", "vocab": {} } });
    let vocabulary =
        Vocabulary::from_tokenizer_json(&json.to_string(), count, &ControlList::default()).unwrap();
    let table = FamilyTable::new(Taxonomy::script16(), vocabulary, &Exemptions::default()).unwrap();
    for v in 0..count {
        let is_text = v >= structure;
        assert_eq!(table.vocabulary().kind(v), if is_text { Kind::Text } else { Kind::Control }, "token {v}");
        for byte in [None, Some(0xE3)] {
            let word = byte.map_or(0, |b| u32::from_le_bytes([1, b, 0, 0]));
            let view = table.view(Pending::unpack(word).unwrap());
            // Newlines are symbols.
            let denied = is_text && v > structure;
            assert_eq!(view.denies(FamilySet::FULL, v), denied, "token {v}");
        }
    }
}

#[test]
fn spans_of_the_protocol_are_not_language() {
    let tokens =
        [(Kind::Text, "ж"), (Kind::Control, "<call>"), (Kind::Text, "name"), (Kind::Control, "</call>")];
    let vocabulary = Vocabulary::new(tokens.map(|(kind, text)| (kind, text.as_bytes().to_vec())));
    let table = FamilyTable::new(Taxonomy::script16(), vocabulary, &Exemptions::default()).unwrap();
    let protocol = Protocol::new(&table, &[("<call>", "</call>")]).unwrap();
    let mut state = GateState::default();
    let cyrillic = set(table.taxonomy(), &["cyrillic"]);
    // An opening in a span and a closing outside one are ignored.
    for (token, open) in [(3, false), (0, false), (1, true), (2, true), (1, true), (3, false), (3, false)] {
        state.advance(&table, &protocol, token, &Trust::ungated()).unwrap();
        assert_eq!(state.protocol, open);
    }
    assert_eq!(state.last, cyrillic);
    state.advance(&table, &protocol, 2, &Trust::ungated()).unwrap();
    assert_eq!(state.last, set(table.taxonomy(), &["latin"]));
    // A prompt gives its latest letter, and nothing else.
    let seeded = GateState::after_prompt(&table, &protocol, &[0, 1, 2]).unwrap();
    assert_eq!(seeded, GateState { last: cyrillic, ..GateState::default() });
    let error = Protocol::new(&table, &[("<call>", "name")]).unwrap_err().to_string();
    assert!(error.contains("`name`"), "{error}");
    assert!(
        state.advance(&table, &protocol, 4, &Trust::ungated()).unwrap_err().to_string().contains("token 4")
    );
}
