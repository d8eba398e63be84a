//! Training a gate for a model: its hidden states on some texts stream by, and its own distributions are the labels.

use candle_core::Device;
use lcg::file::GateInfo;
use lcg::train::{Fit, Positions, TrainConfig, train};
use lcg::{
    ControlList, Exemptions, FamilySet, FamilyTable, LabelConfig, Labeller, MlpGate, NormScale, Rules,
    row_norms,
};
use qwen3::{Batch, ForwardOptions, VisualItems};
use rand::Rng;
use rollout_engine::random::{Stream, keyed_rng};

use super::GateError;
use crate::policy::Policy;

/// How a gate is trained.
#[derive(Clone, Debug)]
pub struct GateTraining {
    /// Units of the network.
    pub width: usize,
    /// How labels are made.
    pub labels: LabelConfig,
    /// The fit.
    pub fit: TrainConfig,
    /// Positions of a step, about.
    pub positions: usize,
    /// Longest part of a text that is read at once, tokens.
    pub length: usize,
    /// Share of the texts that are held out, at least one.
    pub held_out: f64,
    /// Decides weights and order.
    pub seed: u64,
}

impl Default for GateTraining {
    fn default() -> Self {
        Self {
            width: 128,
            labels: LabelConfig::default(),
            fit: TrainConfig::default(),
            positions: 4096,
            length: 512,
            held_out: 0.05,
            seed: 0,
        }
    }
}

/// What a fitted gate was fitted to.
#[derive(Clone, Debug)]
pub struct GateReport {
    /// The fit.
    pub fit: Fit,
    /// Held-out positions.
    pub held_out: usize,
    /// By family: mean norm of the output rows of its tokens (`NaN` without any), and the share of held-out labels with the
    /// family, as trained and without adjustment by norms.
    pub families: Vec<[f64; 3]>,
}

impl GateReport {
    /// Families whose labels the adjustment made more frequent although their output rows are longer than the mean: there it
    /// works against what it is for.
    #[must_use]
    pub fn raised(&self) -> Vec<usize> {
        let norms: Vec<f64> = self.families.iter().map(|f| f[0]).filter(|n| n.is_finite()).collect();
        let mean = norms.iter().sum::<f64>() / norms.len().max(1) as f64;
        let is_raised = |[norm, adjusted, plain]: &[f64; 3]| *norm > mean && *adjusted > plain + 0.01;
        (0..self.families.len()).filter(|f| is_raised(&self.families[*f])).collect()
    }
}

/// What a gate of these options is saved with, for the defaults of its table's taxonomy.
#[must_use]
pub fn gate_info(table: &FamilyTable, options: &GateTraining, base_model: &str) -> GateInfo {
    GateInfo {
        base_model: base_model.to_owned(),
        version: 1,
        labels: options.labels,
        rules: Rules::default(),
        control: ControlList::default(),
        protocol_spans: Vec::new(),
        exemptions: Exemptions::of(table.taxonomy()),
    }
}

/// Fits a gate to `texts`, token sequences. No hidden state is kept beyond its step, but for those held out.
///
/// # Errors
/// Fewer than two texts of two tokens, and what model, labels and fit refuse.
pub fn train_gate(
    model: &Policy,
    table: &FamilyTable,
    texts: &[Vec<u32>],
    options: &GateTraining,
) -> Result<(MlpGate, GateReport), GateError> {
    let length = options.length.clamp(2, model.config().max_position_embeddings);
    let parts = |text: &Vec<u32>| {
        text.chunks(length).filter(|p| p.len() > 1).map(<[u32]>::to_vec).collect::<Vec<_>>()
    };
    let mut texts: Vec<Vec<Vec<u32>>> = texts.iter().map(parts).filter(|parts| !parts.is_empty()).collect();
    let mut rng = keyed_rng(options.seed, Stream::Shuffle, [0, 0]);
    for i in (1..texts.len()).rev() {
        texts.swap(i, rng.random_range(0..=i));
    }
    if texts.len() < 2 {
        let reason = format!("{} texts of two tokens or more, expected 2 or more", texts.len());
        return Err(GateError::Setting { key: "texts", reason });
    }
    let count = ((texts.len() as f64 * options.held_out) as usize).clamp(1, texts.len() - 1);
    let held_out = texts.split_off(texts.len() - count).concat();
    let texts = texts.concat();

    let head = model.text().head().detach();
    let norms = row_norms(&head.flatten_all()?.to_vec1::<f32>()?, model.config().hidden_size)?;
    let labeller = Labeller::new(table, &norms, options.labels)?;
    let positions = |parts: &[&Vec<u32>], labeller: &Labeller| -> Result<Positions, lcg::Error> {
        let candle = |e: qwen3::Error| lcg::Error::from(candle_core::Error::Msg(e.to_string()));
        let batch = Batch::pack(parts.iter().map(|part| &part[..part.len() - 1]));
        let options = ForwardOptions { no_grad: true, ..ForwardOptions::default() };
        let hidden = model.forward(&batch, &VisualItems::default(), &options).map_err(candle)?;
        Positions::label(&hidden.states, &vec![true; batch.tokens.len()], &head, labeller)
    };
    let kept = up_to_most(&held_out, |part| part.len() - 1);
    let measured = positions(&kept, &labeller)?;
    let plain = LabelConfig { norm_scale: NormScale::Unadjusted, ..options.labels };
    let plain = positions(&kept, &Labeller::new(table, &norms, plain)?)?;

    let gate =
        MlpGate::random(model.config().hidden_size, options.width, table.taxonomy().len(), options.seed)?;
    let rows = |part: &Vec<u32>| part.len() - 1;
    let (gate, fit) = fit_to(&gate, options, &measured, &texts, rows, |parts| positions(parts, &labeller))?;
    let report = GateReport {
        fit,
        held_out: measured.len(),
        families: by_family(table, &norms, &measured.labels, &plain.labels),
    };
    Ok((gate, report))
}

/// Fits a gate to `parts`, drawn at random until they have the positions of a step; `rows` counts those of one.
pub(super) fn fit_to<T>(
    gate: &MlpGate,
    options: &GateTraining,
    held_out: &Positions,
    parts: &[T],
    rows: impl Fn(&T) -> usize,
    positions: impl Fn(&[&T]) -> lcg::Result<Positions>,
) -> lcg::Result<(MlpGate, Fit)> {
    train(gate, &options.fit, held_out, &Device::Cpu, |step| {
        let mut rng = keyed_rng(options.seed, Stream::Data, [step as u64, 0]);
        let (mut batch, mut count) = (Vec::new(), 0);
        while count < options.positions {
            let part = &parts[rng.random_range(0..parts.len())];
            count += rows(part);
            batch.push(part);
        }
        positions(&batch).map(Some)
    })
}

/// The first parts that have [`MOST_HELD_OUT`] positions together.
pub(super) fn up_to_most<T>(parts: &[T], rows: impl Fn(&T) -> usize) -> Vec<&T> {
    let mut count = 0;
    let is_wanted = |part: &&T| {
        let wanted = count < MOST_HELD_OUT;
        count += rows(*part);
        wanted
    };
    parts.iter().take_while(is_wanted).collect()
}

/// Held-out positions at most, but for the rest of a part.
const MOST_HELD_OUT: usize = 4096;

fn by_family(table: &FamilyTable, norms: &[f32], labels: &[FamilySet], plain: &[FamilySet]) -> Vec<[f64; 3]> {
    let share = |labels: &[FamilySet], family: usize| {
        labels.iter().filter(|l| l.contains(family)).count() as f64 / labels.len().max(1) as f64
    };
    let of = |family: usize| {
        let tokens = (0..table.len()).filter(|v| table.label_families(*v).contains(family));
        let norms: Vec<f64> = tokens.map(|v| f64::from(norms[v])).collect();
        [norms.iter().sum::<f64>() / norms.len() as f64, share(labels, family), share(plain, family)]
    };
    (0..table.taxonomy().len()).map(of).collect()
}
