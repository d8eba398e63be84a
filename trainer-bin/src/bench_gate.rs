//! `bench --gate`: what a language confusion gate adds to a decoding step, measured beside the same step without it.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result};
use lcg::{
    Exemptions, FamilySet, FamilyTable, GateState, Kind, MlpGate, Protocol, Rules, Taxonomy, Vocabulary,
};
use qwen3::Precision;
use qwen3::decode::{Context, Row};
use rayon::prelude::*;
use rollout_engine::random::{Stream, uniform_at};
use rollout_engine::{Gate, SamplingParams, draw};
use serde_json::json;
use train_core::gate::family_table;
use train_core::policy::Policy;
use train_core::setup;

use crate::bench::{median, tokens};
use crate::cli::BenchArgs;
use crate::inspect::model_of;

/// The default width of trained gates.
const WIDTH: usize = 128;

/// One batch size; seconds, medians over steps.
struct Times {
    batch: usize,
    /// Decoder and logits.
    model: f64,
    /// Drawing without a gate, and with one.
    draws: [f64; 2],
    /// The difference, as a share of a step without a gate.
    share: f64,
    interventions: f64,
}

pub(crate) fn bench(path: &Path, policy: &Policy, args: &BenchArgs) -> Result<()> {
    let config = policy.config();
    let table = match path.extension().is_some_and(|e| e == "json") {
        true => made_up(config.vocab_size)?,
        false => family_table("script16", &setup::read_codec(&model_of(path)?, config)?, config.vocab_size)?,
    };
    let families = table.taxonomy().len();
    let gate = Gate {
        predictor: Box::new(MlpGate::random(config.hidden_size, WIDTH, families, 7)?),
        table: Arc::new(table),
        rules: Rules::default(),
        exempt: FamilySet::EMPTY,
        protocol: Protocol::default(),
        record_supports: false,
    };
    let decoder = policy.decoder(Precision::F32)?;
    let times =
        args.decode.iter().map(|batch| time(&decoder, &gate, *batch, args)).collect::<Result<Vec<_>>>()?;
    let mut out = std::io::stdout().lock();
    let (name, threads) = (path.display(), rayon::current_num_threads());
    writeln!(
        out,
        "{name}, products in {}, a gate of {WIDTH} units, {threads} threads",
        args.precision.name()
    )?;
    let [batch, model, free, gated, share, acts] =
        ["batch", "model ms", "draw ms", "gated ms", "gate's share", "interventions"];
    writeln!(out, "{batch:>6} {model:>10} {free:>10} {gated:>10} {share:>13} {acts:>14}")?;
    for t in &times {
        let [free, gated] = t.draws.map(|s| 1e3 * s);
        let (model, share, acts) = (1e3 * t.model, 100.0 * t.share, 100.0 * t.interventions);
        writeln!(
            out,
            "{:>6} {model:>10.2} {free:>10.3} {gated:>10.3} {share:>11.2} % {acts:>12.0} %",
            t.batch
        )?;
    }
    if let Some(path) = &args.json {
        let one = |t: &Times| {
            json!({ "batch": t.batch, "model_s": t.model, "draw_s": t.draws[0], "gated_draw_s": t.draws[1],
                "share": t.share, "interventions": t.interventions })
        };
        let text = json!({ "gate": times.iter().map(one).collect::<Vec<_>>() });
        std::fs::write(path, format!("{text:#}\n")).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

fn time(decoder: &qwen3::Decoder, gate: &Gate, batch: usize, args: &BenchArgs) -> Result<Times> {
    let (vocabulary, hidden) = (decoder.config().vocab_size, decoder.config().hidden_size);
    let ids = tokens(batch * args.prompt, vocabulary);
    let mut contexts: Vec<Context> = vec![Context::default(); batch];
    let mut seen: Vec<&mut Context> = contexts.iter_mut().collect();
    let rows: Vec<Row> =
        ids.iter().enumerate().map(|(i, token)| Row { context: i / args.prompt, token: *token }).collect();
    decoder.step(&rows, &mut seen)?;
    let mut next: Vec<u32> = ids[..batch].to_vec();
    // Behind a Latin letter.
    let latin = gate.table.taxonomy().set(&["latin"], "bench")?;
    let state = GateState { last: latin, generated: 1, ..GateState::default() };
    let params = SamplingParams::default();
    let (mut model, mut draws, mut shares) = (Vec::new(), [Vec::new(), Vec::new()], Vec::new());
    let mut interventions = 0;
    for step in 0..=args.steps {
        let start = Instant::now();
        let rows: Vec<Row> =
            next.iter().enumerate().map(|(context, token)| Row { context, token: *token }).collect();
        let states = decoder.step(&rows, &mut seen)?.states;
        let logits = decoder.logits(&states);
        let of_model = start.elapsed().as_secs_f64();
        let mut of_draws = [0.0; 2];
        // First one way, then the other.
        for gated in [step % 2 == 0, step % 2 == 1] {
            let start = Instant::now();
            let all = logits.par_chunks(vocabulary).zip(states.par_chunks(hidden)).enumerate();
            let one = |(row, (logits, hidden)): (usize, (&[f32], &[f32]))| -> Result<(u32, usize)> {
                let uniform = |stream| uniform_at(0, stream, [row as u64, 0], step as u64);
                if !gated {
                    return Ok((draw(logits, &params, uniform(Stream::Sample))?.token, 0));
                }
                let uniforms = [Stream::Sample, Stream::Gate].map(uniform);
                let (draw, gated) = gate.draw(&state, hidden, logits, &params, uniforms)?;
                Ok((draw.token, usize::from(gated.step.record.intervened)))
            };
            let drawn = all.map(one).collect::<Result<Vec<_>>>()?;
            of_draws[usize::from(gated)] = start.elapsed().as_secs_f64();
            interventions += if step > 0 { drawn.iter().map(|(_, acted)| acted).sum::<usize>() } else { 0 };
            next = drawn.into_iter().map(|(token, _)| token).collect();
        }
        if step > 0 {
            model.push(of_model);
            draws.iter_mut().zip(of_draws).for_each(|(all, one)| all.push(one));
            shares.push((of_draws[1] - of_draws[0]) / (of_model + of_draws[0]));
        }
    }
    let interventions = interventions as f64 / (batch * args.steps) as f64;
    Ok(Times { batch, model: median(model), draws: draws.map(median), share: median(shares), interventions })
}

/// Bytes, then words of ten scripts, two thirds of them Latin: the families of a vocabulary whose tokenizer is not at hand.
fn made_up(size: usize) -> Result<FamilyTable> {
    const LETTERS: [char; 10] = ['a', 'я', '中', 'の', '한', 'ع', 'ש', 'ก', 'अ', '!'];
    let token = |v: usize| match v {
        0..256 => vec![v as u8],
        _ => {
            let letter = if v.is_multiple_of(3) { LETTERS[v / 3 % LETTERS.len()] } else { 'a' };
            std::iter::repeat_n(letter, 1 + v % 5).collect::<String>().into_bytes()
        }
    };
    let vocabulary = Vocabulary::new((0..size).map(|v| (Kind::Text, token(v))));
    Ok(FamilyTable::new(Taxonomy::script16(), vocabulary, &Exemptions::default())?)
}
