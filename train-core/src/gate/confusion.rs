//! How much of the responses of a step is of scripts that it should not be.

use lcg::metrics::{Letters, Rate, entries, expected_families, strip_code};
use lcg::{FamilySet, FamilyTable, Taxonomy};

use super::{GateError, GateSetup};
use crate::metrics::Row;
use crate::sample::Sample;
use crate::types::Prompt;

impl GateSetup {
    /// Sets `lcg/codepoint_confusion_rate`, `lcg/confusion_rate/<family>` and `lcg/residual_after_symbol`.
    pub(crate) fn confusion(&self, samples: &[Sample], row: &mut Row) -> Result<(), GateError> {
        confusion(&self.table, samples, row)
    }
}

/// The families of a response: those of the row's column `language` (ISO 639-1), or, without one, of the prompt. `None` for a
/// language that is not known, and for a prompt without a letter.
fn expected(taxonomy: &Taxonomy, prompt: &Prompt) -> Option<FamilySet> {
    let families = match prompt.columns.get("language") {
        Some(language) => expected_families(taxonomy, language.as_str()?).ok()?,
        None => taxonomy.closure(Letters::of(taxonomy, &strip_code(&prompt.text)).families()),
    };
    (!families.is_empty()).then_some(families)
}

fn confusion(table: &FamilyTable, samples: &[Sample], row: &mut Row) -> Result<(), GateError> {
    let taxonomy = table.taxonomy();
    let (mut letters, mut residual) = (Rate::default(), Rate::default());
    let mut responses = vec![Rate::default(); taxonomy.len()];
    for sample in samples {
        let Some(expected) = expected(taxonomy, &sample.prompt) else { continue };
        let found = Letters::of(taxonomy, &strip_code(&sample.text));
        let foreign = found.foreign(expected);
        letters = Rate { count: letters.count + foreign.count, total: letters.total + foreign.total };
        let unexpected = taxonomy.all().without(expected).without(FamilySet::one(taxonomy.symbols()));
        unexpected.iter().for_each(|f| responses[f].add(found.families().contains(f)));
        if foreign.count > 0 {
            let entries = entries(table, expected, &sample.response)?;
            entries.iter().for_each(|entry| residual.add(entry.after_symbol));
        }
    }
    let of_families = responses.iter().enumerate();
    let of_families =
        of_families.map(|(f, rate)| (format!("lcg/confusion_rate/{}", taxonomy.name(f)), *rate));
    let others = [("lcg/codepoint_confusion_rate", letters), ("lcg/residual_after_symbol", residual)];
    for (name, rate) in of_families.chain(others.map(|(name, rate)| (name.to_owned(), rate))) {
        if let Some(value) = rate.value() {
            row.set(name, value);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rollout_engine::Generation;
    use serde_json::json;

    use super::*;
    use crate::data::TextCodec;
    use crate::gate::family_table;
    use crate::types::{Finish, SampleKey};

    fn sample(codec: &TextCodec, prompt: &str, language: Option<&str>, response: &str) -> Sample {
        let tokens = codec.encode(response).unwrap();
        let columns = language.map(|l| ("language".to_owned(), json!(l))).into_iter().collect();
        let prompt = Prompt {
            id: 0,
            task: String::new(),
            tokens: Vec::new(),
            text: prompt.to_owned(),
            answer: None,
            follow_ups: Vec::new(),
            images: crate::types::Images::default(),
            columns,
        };
        let generation = Generation {
            request: 0,
            sample: 0,
            logps: Vec::new(),
            truncated_logps: Vec::new(),
            entropies: Vec::new(),
            tokens,
            finish: Finish::Stop,
            routes: None,
            gate: None,
        };
        let key = SampleKey { prompt: 0, epoch: 0, index: 0 };
        Sample::new(key, Arc::new(prompt), 0, response.to_owned(), generation)
    }

    #[test]
    fn rates_are_those_counted_by_hand() {
        let codec = TextCodec::bytes().unwrap();
        let table = family_table("script16", &codec, codec.vocab_size()).unwrap();
        let measured = |samples: &[Sample]| {
            let mut row = Row::new(1);
            confusion(&table, samples, &mut row).unwrap();
            row
        };
        let row = measured(&[
            // 5 letters, 3 of them Latin, which begin behind a space.
            sample(&codec, "да и нет", None, "да yes"),
            // 2 letters, one Latin, behind a letter. The column goes before the prompt's script.
            sample(&codec, "yes", Some("zh"), "是x"),
            // Kana in the prompt allow Han; what is code is not counted. 1 letter.
            sample(&codec, "はい", None, "`ls` 是"),
            // Not measured: nothing says what is expected.
            sample(&codec, "1 + 1", None, "abc"),
            sample(&codec, "да", Some("tlh"), "abc"),
        ]);
        let share = |name: &str| row.get(name);
        assert_eq!(share("lcg/codepoint_confusion_rate"), Some(4.0 / 8.0));
        assert_eq!(share("lcg/confusion_rate/latin"), Some(2.0 / 3.0));
        // Expected in two of three.
        assert_eq!(share("lcg/confusion_rate/han"), Some(0.0));
        assert_eq!(share("lcg/confusion_rate/greek"), Some(0.0));
        assert_eq!(share("lcg/confusion_rate/symbols"), None);
        assert_eq!(share("lcg/residual_after_symbol"), Some(1.0 / 2.0));

        // Without an entry there is no share of them, and without a known response no rate at all.
        let clean = measured(&[sample(&codec, "да", None, "нет")]);
        assert_eq!(clean.get("lcg/codepoint_confusion_rate"), Some(0.0));
        assert_eq!(clean.get("lcg/residual_after_symbol"), None);
        let unknown = measured(&[sample(&codec, "?", None, "abc")]);
        assert!(unknown.values().next().is_none(), "{:?}", unknown.values().collect::<Vec<_>>());
    }
}
