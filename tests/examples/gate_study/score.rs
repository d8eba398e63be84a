//! One condition of one seed: responses to held-out prompts, and held-out texts read under the gate.

use std::error::Error;
use std::sync::Arc;

use lcg::metrics::{Letters, entries, expected_families};
use lcg::record::GateMetrics;
use lcg::{
    AllowAll, DirectRule, FamilyPredictor, FamilySet, FamilyTable, GateState, LabelConfig, LabelRule,
    Labeller, NormScale, Protocol, Rules, Softmax, Support, high_confidence, row_norms,
};
use qwen3::{Batch, ForwardOptions, VisualItems};
use rollout_engine::random::{Stream, keyed_rng};
use rollout_engine::{Engine, EngineOptions, Gate, Request, SamplingParams};
use serde::{Deserialize, Serialize};
use train_core::data::TextCodec;
use train_core::gate::{GateTraining, train_gate};
use train_core::policy::Policy;

use super::config::{Config, Mixing};
use super::data::{Corpus, Part, without_announced};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Condition {
    Ungated,
    PresencePlain,
    PresenceAdjusted,
    Mass,
    MassWithoutCarry,
    Direct,
}

pub(crate) const CONDITIONS: [Condition; 6] = [
    Condition::Ungated,
    Condition::PresencePlain,
    Condition::PresenceAdjusted,
    Condition::Mass,
    Condition::MassWithoutCarry,
    Condition::Direct,
];

impl Condition {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ungated => "no gate",
            Self::PresencePlain => "paper's gate, labels not adjusted",
            Self::PresenceAdjusted => "paper's gate, labels adjusted by norms",
            Self::Mass => "gate on labels by mass",
            Self::MassWithoutCarry => "the same, `carry_space` off",
            Self::Direct => "direct rule, no network",
        }
    }

    fn labels(self) -> Option<LabelConfig> {
        match self {
            Self::Ungated => None,
            Self::PresencePlain => {
                Some(LabelConfig { norm_scale: NormScale::Unadjusted, ..LabelConfig::paper() })
            }
            Self::PresenceAdjusted | Self::Direct => Some(LabelConfig::paper()),
            Self::Mass | Self::MassWithoutCarry => {
                let labels = LabelConfig::default();
                assert!(labels.rule == LabelRule::Mass(0.05) && labels.norm_scale == NormScale::Mean);
                Some(labels)
            }
        }
    }
}

/// Counts of one language.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct OfLanguage {
    pub(crate) code: String,
    /// Letters of responses by family.
    pub(crate) letters: Vec<u64>,
    /// Of each response, in the order of prompts and samples: the families that it should not have.
    pub(crate) foreign: Vec<u32>,
    /// Where responses enter a wrong script behind a token of symbols, and everywhere; announced words aside.
    pub(crate) entries: [u64; 2],
    pub(crate) response_tokens: u64,
    /// The responses, in the same order.
    pub(crate) responses: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) condition: Condition,
    pub(crate) setting: usize,
    pub(crate) seed: u64,
    /// Share of labels that the network predicts on held-out positions, and their loss.
    pub(crate) fit: Option<[f64; 2]>,
    pub(crate) languages: Vec<OfLanguage>,
    pub(crate) flip_rate: f64,
    pub(crate) denied_mass: f64,
    /// Announced tokens that stayed possible, and all, in held-out texts.
    pub(crate) kept: [u64; 2],
    /// Other tokens of held-out texts that were denied, and all.
    pub(crate) wrongly_denied: [u64; 2],
    /// Sum of `−log p` over the tokens that stayed possible: without the gate, and with it.
    pub(crate) loss: [f64; 2],
}

/// A trained model, and what belongs to it.
pub(crate) struct Subject<'a> {
    pub(crate) config: &'a Config,
    pub(crate) corpus: &'a Corpus,
    pub(crate) codec: &'a TextCodec,
    pub(crate) model: &'a Policy,
    pub(crate) table: Arc<FamilyTable>,
    /// Its place among those of the configuration.
    pub(crate) setting: usize,
    pub(crate) seed: u64,
}

struct Fitted {
    gate: Gate,
    fit: Option<[f64; 2]>,
}

impl Subject<'_> {
    pub(crate) fn run(&self, condition: Condition, texts: &[Vec<u32>]) -> Result<Outcome> {
        let Fitted { gate, fit } = self.fitted(condition, texts)?;
        let gate = Arc::new(gate);
        let mut outcome = Outcome {
            condition,
            setting: self.setting,
            seed: self.seed,
            fit,
            languages: Vec::new(),
            flip_rate: 0.0,
            denied_mass: 0.0,
            kept: [0; 2],
            wrongly_denied: [0; 2],
            loss: [0.0; 2],
        };
        self.generate(&gate, &mut outcome)?;
        self.read(&gate, &mut outcome)?;
        Ok(outcome)
    }

    fn fitted(&self, condition: Condition, texts: &[Vec<u32>]) -> Result<Fitted> {
        let settings = &self.config.gate;
        let carry_space = settings.rules.carry_space && condition != Condition::MassWithoutCarry;
        let rules = Rules { carry_space, ..settings.rules };
        let of = |predictor: Box<dyn FamilyPredictor + Send + Sync>, fit| Fitted {
            gate: Gate {
                table: self.table.clone(),
                predictor,
                rules,
                exempt: FamilySet::EMPTY,
                protocol: Protocol::default(),
                record_supports: false,
            },
            fit,
        };
        let Some(labels) = condition.labels() else { return Ok(of(Box::new(AllowAll), None)) };
        if condition == Condition::Direct {
            let head = self.model.text().head().flatten_all()?.to_vec1::<f32>()?;
            let norms = row_norms(&head, self.model.config().hidden_size)?;
            return Ok(of(Box::new(DirectRule::new(Labeller::new(&self.table, &norms, labels)?)), None));
        }
        let fit = lcg::train::TrainConfig {
            lr: settings.lr,
            steps: settings.steps,
            warmup: 20,
            ..lcg::train::TrainConfig::default()
        };
        let training = GateTraining {
            width: settings.width,
            labels,
            fit,
            positions: settings.positions,
            seed: self.seed,
            ..GateTraining::default()
        };
        let (gate, report) = train_gate(self.model, &self.table, texts, &training)?;
        Ok(of(Box::new(gate), Some([report.fit.agreement, report.fit.held_out_loss])))
    }

    fn engine(&self) -> Result<Engine> {
        let decoder = Arc::new(self.model.decoder(qwen3::Precision::F32)?);
        Ok(Engine::new(decoder, EngineOptions { max_rows: 64, ..EngineOptions::default() })?)
    }

    fn params(&self) -> Arc<SamplingParams> {
        Arc::new(SamplingParams {
            temperature: self.config.evaluation.temperature,
            max_new_tokens: self.config.evaluation.new_tokens,
            stop_tokens: vec![0],
            ..SamplingParams::default()
        })
    }

    /// The beginning of a text, up to the end of a character.
    fn prompt(&self, text: &[u32]) -> Vec<u32> {
        let mut prompt = text[..text.len().min(self.config.evaluation.prompt_tokens)].to_vec();
        while self.codec.decode(&prompt).ends_with(char::REPLACEMENT_CHARACTER) {
            prompt.pop();
        }
        prompt
    }

    /// What gates learn from: `texts`, and as many beginnings of them that the model itself went on with, without a gate.
    pub(crate) fn with_continuations(&self, texts: Vec<Vec<u32>>) -> Result<Vec<Vec<u32>>> {
        let params = self.params();
        let request = |(i, text): (usize, &Vec<u32>)| Request {
            id: i as u64,
            prompt: self.prompt(text),
            items: VisualItems::default(),
            samples: vec![[u64::MAX, i as u64]],
            seed: self.seed,
            params: params.clone(),
        };
        let requests: Vec<Request> =
            texts.iter().enumerate().map(request).filter(|r| !r.prompt.is_empty()).collect();
        let prompts: Vec<Vec<u32>> = requests.iter().map(|r| r.prompt.clone()).collect();
        let responses = self.engine()?.generate(requests)?;
        let whole = prompts.into_iter().zip(responses).map(|(prompt, g)| [prompt, g.tokens].concat());
        Ok(texts.into_iter().chain(whole.collect::<Vec<_>>()).collect())
    }

    /// Responses to the beginnings of held-out articles.
    fn generate(&self, gate: &Arc<Gate>, outcome: &mut Outcome) -> Result<()> {
        let evaluation = &self.config.evaluation;
        let mut engine = self.engine()?.with_gate(gate.clone())?;
        let params = self.params();
        let mut metrics = GateMetrics::default();
        for (index, language) in self.config.languages.iter().enumerate().filter(|(_, l)| l.mixed) {
            let mut requests = Vec::new();
            for (i, article) in self.corpus.articles(index, Part::HeldOut).into_iter().enumerate() {
                let prompt = self.prompt(&self.codec.encode(article)?);
                let id = (100 * index + i) as u64;
                let samples = (0..evaluation.samples).map(|k| [id, k]).collect();
                let (items, params) = (VisualItems::default(), params.clone());
                requests.push(Request { id, prompt, items, samples, seed: self.seed, params });
            }
            let taxonomy = self.table.taxonomy();
            let expected = expected_families(taxonomy, &language.code)?;
            let mut letters = Letters::default();
            let mut of = OfLanguage { code: language.code.clone(), ..OfLanguage::default() };
            for g in engine.generate(requests)? {
                let text = self.codec.decode(&g.tokens);
                let found = Letters::of(taxonomy, &without_announced(&text));
                letters.add(&found);
                of.foreign.push(found.families().without(expected).0);
                for entry in entries(&self.table, expected, &g.tokens)? {
                    if !self.codec.decode(&g.tokens[..entry.token]).ends_with('(') {
                        of.entries[0] += u64::from(entry.after_symbol);
                        of.entries[1] += 1;
                    }
                }
                of.responses.push(text);
                of.response_tokens += g.tokens.len() as u64;
                if let Some(trace) = &g.gate {
                    metrics.merge(&trace.metrics);
                }
            }
            of.letters = letters.0[..taxonomy.len()].to_vec();
            outcome.languages.push(of);
        }
        let value = |name: &str| {
            let entries = metrics.entries().into_iter().flatten();
            entries.filter(|(n, _)| *n == name).map(|(_, v)| v).sum::<f64>()
        };
        (outcome.flip_rate, outcome.denied_mass) = (value("lcg/flip_rate"), value("lcg/denied_mass"));
        Ok(())
    }

    /// Held-out articles with announced words, token by token under the gate.
    fn read(&self, gate: &Gate, outcome: &mut Outcome) -> Result<()> {
        let taxonomy = self.table.taxonomy();
        let latin = taxonomy.set(&["latin"], "the study")?;
        let mixing = Mixing { wrong: 0.0, announced: 0.1 };
        let mut rng = keyed_rng(self.seed, Stream::Eval, [0, 0]);
        for (index, _) in self.config.languages.iter().enumerate().filter(|(_, l)| l.mixed) {
            for article in self.corpus.articles(index, Part::HeldOut) {
                let tokens = self.codec.encode(&self.corpus.mixed(article, &mixing, &mut rng))?;
                for part in tokens.chunks(self.config.training.length).filter(|p| p.len() > 1) {
                    let options = ForwardOptions { no_grad: true, ..ForwardOptions::default() };
                    let fed = Batch::pack([&part[..part.len() - 1]]);
                    let hidden = self.model.forward(&fed, &VisualItems::default(), &options)?.states;
                    let logits = self.model.text().logits(&hidden)?.to_vec2::<f32>()?;
                    let hidden = hidden.to_vec2::<f32>()?;
                    let mut state = GateState::default();
                    state.advance(&self.table, &gate.protocol, part[0], &lcg::Trust::ungated())?;
                    for ((hidden, logits), token) in hidden.iter().zip(&logits).zip(&part[1..]) {
                        let predicted = gate.predictor.predict(hidden, logits)?;
                        let plan = gate.rules.plan(taxonomy, gate.exempt, &state, predicted);
                        let view = self.table.view(state.pending);
                        let all = Softmax::of_row(logits, 1.0);
                        let high = high_confidence(logits, |z| all.log_prob(z));
                        let denied =
                            plan.decide(gate.rules.widen, &view, logits, Support::All, &high).denied();
                        let lost = view.denies(denied, *token as usize);
                        let count = match self.table.signature(*token as usize).any.meets(latin) {
                            true => {
                                outcome.kept[0] += u64::from(!lost);
                                &mut outcome.kept[1]
                            }
                            false => {
                                outcome.wrongly_denied[0] += u64::from(lost);
                                &mut outcome.wrongly_denied[1]
                            }
                        };
                        *count += 1;
                        if !lost {
                            let mut left = logits.clone();
                            view.ban(denied, 0, &mut left);
                            let z = logits[*token as usize];
                            outcome.loss[0] -= all.log_prob(z);
                            outcome.loss[1] -= Softmax::of_row(&left, 1.0).log_prob(z);
                        }
                        state.advance(&self.table, &gate.protocol, *token, &plan.trust)?;
                    }
                }
            }
        }
        Ok(())
    }
}
