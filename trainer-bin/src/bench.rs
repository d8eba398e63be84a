//! `bench`: where the time of a training step, of decoding steps and of an RL step goes, beside what the machine can do.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use qwen3::decode::{Context, Row};
use qwen3::kernel::softmax::argmax;
use qwen3::{Batch, ForwardOptions, Model, Precision, VisualItems};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rayon::prelude::*;
use serde_json::{Value, json};
use train_core::config::Layers;
use train_core::metrics::peak_memory_mib;
use train_core::optim::{AdamW, Gradients};
use train_core::policy::Policy;
use train_core::setup;

use crate::bench_rl;
use crate::cli::BenchArgs;
use crate::inspect::model_of;
use crate::machine::{Machine, give_pages_back, reset_peak_memory};
use crate::profile::{Components, Limits};
use crate::run::use_threads;

pub(crate) fn bench(model: &Path, args: &BenchArgs) -> Result<()> {
    use_threads(args.threads)?;
    if args.length < 2 || args.steps == 0 || args.prompt == 0 || args.decode.contains(&0) {
        bail!("--steps, --prompt and --decode must be 1 or more, --length 2 or more");
    }
    let samples = args.samples();
    let of_rl = if samples > 0 { args.prompt + args.response } else { 0 };
    let longest = (args.prompt + args.steps + 2).max(args.length).max(of_rl);
    let fits = |config: &qwen3::Config| match config.max_position_embeddings {
        context if longest > context => {
            bail!("sequences of {longest} tokens, the model's context is {context}")
        }
        _ => Ok(()),
    };
    let products = args.precision.of_products();
    if args.gate {
        let mut policy: Policy = match config_of(model)? {
            Some(config) => Model::init(config, random)?.into(),
            None => setup::read_policy(&model_of(model)?)?,
        };
        policy.set_matmul_precision(products);
        fits(policy.config())?;
        return crate::bench_gate::bench(model, &policy, args);
    }
    let (weights, training, rl, decoder) = match config_of(model)? {
        // For decoding alone a random model is made as the decoder stores it.
        Some(config) if args.batch == 0 && samples == 0 => {
            fits(&config)?;
            let context = config.max_position_embeddings;
            let tensors: Vec<_> = qwen3::weights::parameter_specs(&config);
            let weights = tensors.iter().map(|spec| spec.shape.iter().product::<usize>()).sum();
            let tensors = qwen3::weights::init(&config, random).map(Ok);
            let decoder = qwen3::Decoder::from_tensors(config, tensors, context, Precision::F32, products)?;
            (weights, None, None, decoder)
        }
        config => {
            let mut policy: Policy = match config {
                Some(config) => Model::init(config, random)?.into(),
                None => setup::read_policy(&model_of(model)?)?,
            };
            policy.set_matmul_precision(products);
            policy.set_recompute(args.recompute);
            fits(policy.config())?;
            if args.on_request && args.batch > 0 {
                let mut step = Step::new(&policy, args)?;
                return on_request(|_| Ok(step.run()?.iter().sum()));
            }
            let weights: usize = policy.parameters().iter().map(|p| p.var.elem_count()).sum();
            let training = if args.batch > 0 { Some(train(&policy, args)?) } else { None };
            let (rl, policy) = match samples {
                0 => (None, policy),
                _ => bench_rl::measure(policy, args, samples).map(|(rl, policy)| (Some(rl), policy))?,
            };
            let decoder = policy.decoder(Precision::F32)?;
            give_pages_back(|| drop(policy));
            (weights, training, rl, decoder)
        }
    };
    if args.on_request {
        return on_request(|batch| match batch {
            Some(batch @ 1..) => Ok(decode(&decoder, batch, weights, args)?.seconds),
            _ => bail!("a request for decoding is a number of sequences, such as `[8]`"),
        });
    }
    let decode = |batch: &usize| decode(&decoder, *batch, weights, args);
    let decoding = args.decode.iter().map(decode).collect::<Result<Vec<_>>>()?;
    // Last, so that its buffers are in no peak.
    let machine = Machine::measure();

    let mut out = std::io::stdout().lock();
    let (threads, precision) = (rayon::current_num_threads(), args.precision.name());
    writeln!(out, "{}: {:.1} M parameters, products in {precision}", model.display(), weights as f64 / 1e6)?;
    writeln!(
        out,
        "{threads} threads; matrix products {:.0} GFLOP/s in f32, {:.0} in bf16; memory {:.1} GB/s",
        machine.gflops, machine.bf16_gflops, machine.gbytes
    )?;
    let limits = Limits { gflops: machine.products(args.precision), gbytes: machine.gbytes };
    if let Some(training) = &training {
        training.print(&mut out, limits)?;
    }
    if !decoding.is_empty() {
        print_decoding(&mut out, &decoding, args.prompt, limits)?;
    }
    if let Some(rl) = &rl {
        rl.print(&mut out, limits)?;
    }
    if let Some(path) = &args.json {
        let text = json!({
            "model": model.display().to_string(),
            "parameters": weights,
            "precision": precision,
            "threads": threads,
            "machine": {
                "matmul_gflops": machine.gflops,
                "matmul_bf16_gflops": machine.bf16_gflops,
                "memory_gb_per_s": machine.gbytes,
            },
            "training": training.map(|t| t.to_json()),
            "decoding": decoding.iter().map(Decoding::to_json).collect::<Vec<_>>(),
            "rl": rl.map(|rl| rl.to_json()),
        });
        std::fs::write(path, format!("{text:#}\n")).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// Answers every line of standard input, a list of at most one number, with the seconds that `measure` gives for it, and
/// the most memory since the first line was awaited.
fn on_request(mut measure: impl FnMut(Option<usize>) -> Result<f64>) -> Result<()> {
    let mut out = std::io::stdout();
    reset_peak_memory();
    writeln!(out, "ready")?;
    for line in std::io::stdin().lines() {
        let line = line?;
        let request: Vec<usize> = serde_json::from_str(&line).with_context(|| format!("request `{line}`"))?;
        let seconds = measure(request.first().copied())?;
        let peak = peak_memory_mib().unwrap_or(f64::NAN);
        writeln!(out, "{}", json!({ "seconds": seconds, "peak_mib": peak }))?;
        out.flush()?;
    }
    Ok(())
}

fn print_decoding(out: &mut impl Write, decoding: &[Decoding], prompt: usize, limits: Limits) -> Result<()> {
    writeln!(out, "\nDecoding, after a prompt of {prompt} tokens:")?;
    let titles = ["batch", "ms a step", "tokens/s", "GB/s weights", "peak MiB"];
    let [batch, ms, tokens, rate, peak] = titles;
    writeln!(out, "{batch:>6} {ms:>10} {tokens:>10} {rate:>12} {peak:>10}")?;
    for d in decoding {
        let (ms, tokens) = (1e3 * d.seconds, d.batch as f64 / d.seconds);
        writeln!(
            out,
            "{:>6} {ms:>10.2} {tokens:>10.1} {:>12.1} {:>10.0}",
            d.batch, d.weight_gbytes, d.peak_mib
        )?;
    }
    for d in decoding {
        writeln!(out, "\nA step of {} sequences:", d.batch)?;
        d.components.print(out, d.seconds, limits)?;
    }
    Ok(())
}

/// The architecture, where the model is a `config.json` alone: its weights are random.
fn config_of(path: &Path) -> Result<Option<qwen3::Config>> {
    if path.extension().is_none_or(|e| e != "json") {
        return Ok(None);
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(Some(qwen3::Config::from_json(&text).with_context(|| path.display().to_string())?))
}

fn random(parameter: usize) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(parameter as u64)
}

/// Seconds of the steps of one kind.
pub(crate) fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_unstable_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

/// Ids without a pattern that a model could use.
pub(crate) fn tokens(count: usize, vocabulary: usize) -> Vec<u32> {
    (0..count as u64)
        .map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33) as u32 % vocabulary as u32)
        .collect()
}

struct Training {
    tokens: usize,
    /// Of a whole step.
    seconds: f64,
    /// Of forward, backward and optimiser, means.
    parts: [f64; 3],
    /// By component, means of a step.
    components: Components,
    peak_mib: f64,
}

/// A training step that can be run again and again.
struct Step<'a> {
    policy: &'a Policy,
    batch: Batch,
    targets: Vec<u32>,
    /// Of the sequences.
    offsets: Vec<usize>,
    optimizer: AdamW,
}

impl<'a> Step<'a> {
    fn new(policy: &'a Policy, args: &BenchArgs) -> Result<Self> {
        let ids = tokens(args.batch * (args.length + 1), policy.config().vocab_size);
        let sequences: Vec<&[u32]> = ids.chunks(args.length + 1).collect();
        let batch = Batch::pack(sequences.iter().map(|s| &s[..args.length]));
        let targets = sequences.iter().flat_map(|s| &s[1..]).copied().collect();
        let optimizer = AdamW::new(policy, &Layers::defaults().resolve()?.update);
        let offsets = (0..=args.batch).map(|i| i * args.length).collect();
        let mut step = Self { policy, batch, targets, offsets, optimizer };
        // The first one also pays for the memory of all that follow.
        step.run()?;
        Ok(step)
    }

    /// Seconds of forward, backward and optimiser.
    fn run(&mut self) -> Result<[f64; 3]> {
        let Self { policy, batch, targets, offsets, optimizer } = self;
        let start = Instant::now();
        let hidden = policy.forward(batch, &VisualItems::default(), &ForwardOptions::default())?;
        let (loss, _) = policy.cross_entropy(&hidden.states, targets, offsets, targets.len())?;
        let forward = start.elapsed().as_secs_f64();
        let of_pass = policy.gradients(&loss, &VisualItems::default())?;
        let backward = start.elapsed().as_secs_f64();
        let mut gradients = Gradients::new(policy);
        gradients.add(of_pass);
        optimizer.step(policy, &gradients, 1e-6, 1.0)?;
        let all = start.elapsed().as_secs_f64();
        Ok([forward, backward - forward, all - backward])
    }
}

fn train(policy: &Policy, args: &BenchArgs) -> Result<Training> {
    reset_peak_memory();
    let mut step = Step::new(policy, args)?;
    let run = || (0..args.steps).map(|_| step.run()).collect::<Result<Vec<[f64; 3]>>>();
    let (seconds, components) = Components::of(args.steps, run);
    let seconds = seconds?;
    Ok(Training {
        tokens: step.targets.len(),
        seconds: median(seconds.iter().map(|parts| parts.iter().sum()).collect()),
        parts: [0, 1, 2].map(|i| seconds.iter().map(|parts| parts[i]).sum::<f64>() / args.steps as f64),
        components,
        peak_mib: peak_memory_mib().unwrap_or(f64::NAN),
    })
}

impl Training {
    fn print(&self, out: &mut impl Write, limits: Limits) -> Result<()> {
        let [forward, backward, optimizer] = self.parts;
        writeln!(
            out,
            "\nTraining step of {} tokens: {:.3} s ({:.0} tokens/s), peak {:.0} MiB",
            self.tokens,
            self.seconds,
            self.tokens as f64 / self.seconds,
            self.peak_mib
        )?;
        writeln!(out, "forward {forward:.3} s, backward {backward:.3} s, optimiser {optimizer:.3} s")?;
        Ok(self.components.print(out, self.parts.iter().sum(), limits)?)
    }

    fn to_json(&self) -> Value {
        json!({
            "tokens": self.tokens,
            "seconds": self.seconds,
            "tokens_per_s": self.tokens as f64 / self.seconds,
            "forward_s": self.parts[0],
            "backward_s": self.parts[1],
            "optimizer_s": self.parts[2],
            "components": self.components.to_json(),
            "peak_mib": self.peak_mib,
        })
    }
}

struct Decoding {
    batch: usize,
    seconds: f64,
    /// Means of a step.
    components: Components,
    /// Weights read a second, each once a step.
    weight_gbytes: f64,
    peak_mib: f64,
}

fn decode(decoder: &qwen3::Decoder, batch: usize, weights: usize, args: &BenchArgs) -> Result<Decoding> {
    reset_peak_memory();
    let vocabulary = decoder.config().vocab_size;
    let ids = tokens(batch * args.prompt, vocabulary);
    let mut contexts: Vec<Context> = vec![Context::default(); batch];
    let mut seen: Vec<&mut Context> = contexts.iter_mut().collect();
    let rows: Vec<Row> =
        ids.iter().enumerate().map(|(i, token)| Row { context: i / args.prompt, token: *token }).collect();
    decoder.step(&rows, &mut seen)?;
    let mut next: Vec<u32> = ids[..batch].to_vec();
    let mut step = || -> Result<f64> {
        let start = Instant::now();
        let rows: Vec<Row> =
            next.iter().enumerate().map(|(context, token)| Row { context, token: *token }).collect();
        let states = decoder.step(&rows, &mut seen)?.states;
        let logits = decoder.logits(&states);
        next = logits.par_chunks(vocabulary).map(|row| argmax(row) as u32).collect();
        Ok(start.elapsed().as_secs_f64())
    };
    step()?;
    let run = || (0..args.steps).map(|_| step()).collect::<Result<Vec<f64>>>();
    let (seconds, components) = Components::of(args.steps, run);
    let seconds = seconds?;
    let seconds = median(seconds);
    Ok(Decoding {
        batch,
        seconds,
        components,
        weight_gbytes: args.precision.bytes() * weights as f64 / seconds / 1e9,
        peak_mib: peak_memory_mib().unwrap_or(f64::NAN),
    })
}

impl Decoding {
    fn to_json(&self) -> Value {
        json!({
            "batch": self.batch,
            "seconds": self.seconds,
            "tokens_per_s": self.batch as f64 / self.seconds,
            "weight_gb_per_s": self.weight_gbytes,
            "components": self.components.to_json(),
            "peak_mib": self.peak_mib,
        })
    }
}
