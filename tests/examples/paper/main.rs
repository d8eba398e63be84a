//! Writes `docs/gpu-paper.md`: what the kernels and whole steps would take on GPUs at the limit of their data sheets.
//!
//! `cargo run -p tests --example paper` writes the page; with `-- --check` it compares instead. Arithmetic only: nothing here
//! has run on a GPU.

#![expect(clippy::print_stdout, reason = "a command that reports")]

#[path = "../kernels/costs.rs"]
#[expect(dead_code, reason = "the shared memory of kernels is the other example's")]
mod costs;
mod gpu;
mod kernels;
mod models;
mod steps;

use std::error::Error;
use std::path::Path;

use gpu::GPUS;
use models::{QWEN3_06B, QWEN3_30B};
use steps::{Work, decode_step, training_step};

const HEAD: &str = "\
# On paper: kernels and steps on GPUs

**Nothing on this page is measured, and no kernel of this project has run on a GPU.** It is arithmetic over data sheets, written by
`cargo run -p tests --example paper` from [`kernels.toml`](../kernels.toml) and the formulas in `tests/examples/paper`; the gate
checks that the page is what they give. A kernel takes at least the longer of its bytes over the bandwidth and its operations over
the rate. What a real one takes besides is launch, latency, waiting at barriers and the tail of the last wave.

";

fn main() -> Result<(), Box<dyn Error>> {
    let check = match std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => false,
        [flag] if flag == "--check" => true,
        other => return Err(format!("unknown arguments {other:?}; usage: paper [--check]").into()),
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = root.join("docs/gpu-paper.md");
    let text = text(&root)?;
    if !check {
        std::fs::write(&page, text)?;
        println!("written to docs/gpu-paper.md");
    } else if std::fs::read_to_string(&page)? != text {
        return Err("docs/gpu-paper.md is not what `cargo run -p tests --example paper` writes".into());
    }
    Ok(())
}

fn text(root: &Path) -> Result<String, Box<dyn Error>> {
    let mut text = HEAD.to_owned();
    text += &gpu::table();
    text += &kernels::table(&root.join("kernels.toml"))?;
    text += steps::HEAD;
    for (model, steps) in [&QWEN3_06B, &QWEN3_30B].map(|m| (m, [training_step(m), decode_step(m)])) {
        text += &format!("\n### {}\n\n{}\n", model.name, model.describe());
        for step in steps {
            text += &step_text(&step);
        }
    }
    Ok(text)
}

/// Totals on every GPU, and where the time goes.
fn step_text(step: &steps::Step) -> String {
    let mut text = format!("\n**{}.** {}\n\n", step.title, step.shape);
    text += "| | A100 | H100 | B200 |\n|---|---|---|---|\n";
    let row = |name: &str, cell: &dyn Fn(&gpu::Gpu) -> String| {
        format!("| {name} | {} |\n", GPUS.iter().map(cell).collect::<Vec<_>>().join(" | "))
    };
    let all = |gpu: &gpu::Gpu, share: f64| step.work.iter().map(|w| w.seconds(gpu, share)).sum::<f64>();
    let rate = |gpu: &gpu::Gpu, share| format!("{:.0}", step.tokens / all(gpu, share));
    text += &row("at the limit, ms", &|g| format!("{:.2}", 1e3 * all(g, 1.0)));
    text += &row("tokens/s at the limit", &|g| rate(g, 1.0));
    text += &row(&format!("at {:.0} % of every limit, ms", 100.0 * steps::SHARE), &|g| {
        format!("{:.2}", 1e3 * all(g, steps::SHARE))
    });
    text += "\n| part | whose | GB | TFLOP | bound on A100, H100, B200 | ms at the limit | share on H100 |\n|---|---|---|---|---|---|---|\n";
    for work in &step.work {
        text += &line(work, all(&GPUS[1], 1.0));
    }
    text
}

fn line(work: &Work, h100: f64) -> String {
    let each = |cell: &dyn Fn(&gpu::Gpu) -> String| GPUS.iter().map(cell).collect::<Vec<_>>().join(", ");
    format!(
        "| {} | {} | {:.2} | {:.3} | {} | {} | {:.1} % |\n",
        work.name,
        work.whose,
        work.bytes / 1e9,
        work.flops / 1e12,
        each(&|g| work.bound(g).to_owned()),
        each(&|g| format!("{:.3}", 1e3 * work.seconds(g, 1.0))),
        100.0 * work.seconds(&GPUS[1], 1.0) / h100
    )
}
