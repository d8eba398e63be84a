//! Every parser over made-up bytes: no panic, no hang, bounded memory, time linear in the input.
//!
//! usage: fuzz [INPUTS [SEED]]; a million inputs for each parser and seed 1 if not given. Half of the inputs are arbitrary bytes,
//! half are pieces of the formats, rendered calls, and damaged forms of them. Then texts made of one repeated piece are
//! doubled, and the processor time must not grow much faster than they do.
#![expect(clippy::print_stdout, reason = "a command that reports")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use toolrm::json::{self, Dialect};
use toolrm::record::{self, Pair};
use toolrm::{Call, Format, Mode, Val, parse, parse_source, render};

/// Counts what is allocated.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: passes everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(NOW.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A fixed sequence of numbers (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }
}

const PIECES: [&str; 62] = [
    "<tool_call>",
    "</tool_call>",
    "\n",
    "<tool_call>\n",
    "\n</tool_call>",
    "<think>",
    "</think>",
    "<TOOLCALL>",
    "</TOOLCALL>",
    "<functions>",
    "</functions>",
    "<function name=\"f\">",
    "</function>",
    "<params>",
    "</params>",
    "<param name=\"a\" value=\"1\" type=\"integer\"/>",
    "<param name=\"a\" type=\"array\">[1, 'x']</param>",
    "<|python_tag|>",
    "{\"name\": \"f\", \"arguments\": {\"a\": 1}}",
    "{\"name\": \"f\", \"parameters\": {}}",
    "{\"function\":\"f\",\"parameters\":{}}",
    "{\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}",
    "\"tool_calls\":",
    "\"arguments\":",
    "\"name\":",
    "[f(a=1, b='x')]",
    "f(",
    "g.h(c=[1, 2])",
    "a=",
    "**{'k': 1}",
    "lambda x:",
    " for i in x",
    " if ",
    " else ",
    "not ",
    "-",
    "~",
    "**",
    "//",
    "'''",
    "\"\"\"",
    "r'",
    "b'x'",
    "f'{x}'",
    "\\u0041",
    "\\ud800",
    "\\N{DASH}",
    "\\",
    "'",
    "\"",
    "[",
    "]",
    "{",
    "}",
    "(",
    ")",
    ",",
    ":",
    "1e999",
    "0x1F",
    "NaN",
    "é😀\u{2028}",
];

fn value(r: &mut Random, depth: usize) -> Val {
    match r.below(if depth == 0 { 6 } else { 8 }) {
        0 => Val::Null,
        1 => Val::Bool(r.below(2) == 0),
        2 => Val::Int(r.next() as i64 >> r.below(64)),
        3 => Val::Float(f64::from_bits(r.next())),
        4 => Val::from(PIECES[r.below(PIECES.len())]),
        5 => Val::int((i128::from(r.next() as i64) * i128::from(r.next() as i64)).into()),
        6 => Val::List((0..r.below(4)).map(|_| value(r, depth - 1)).collect()),
        _ => Val::dict((0..r.below(4)).map(|_| (PIECES[r.below(PIECES.len())], value(r, depth - 1)))),
    }
}

fn input(r: &mut Random, format: Format) -> String {
    if r.below(2) == 0 {
        let bytes: Vec<u8> = (0..r.below(64)).map(|_| r.next() as u8).collect();
        return String::from_utf8_lossy(&bytes).into_owned();
    }
    let mut text = String::new();
    if r.below(3) == 0 {
        let calls: Vec<Call> = (0..1 + r.below(2))
            .map(|_| Call::new("f.g", (0..r.below(3)).map(|i| (["a", "b", "c"][i], value(r, 2)))))
            .collect();
        text = render(&calls, format).unwrap_or_default();
    } else {
        (0..1 + r.below(12)).for_each(|_| text.push_str(PIECES[r.below(PIECES.len())]));
    }
    // Damage: something inserted, something taken out.
    for _ in 0..r.below(3) {
        let mut at = r.below(text.len() + 1);
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        if r.below(2) == 0 {
            text.insert_str(at, PIECES[r.below(PIECES.len())]);
        } else {
            text.truncate(at);
        }
    }
    text
}

type Parser = (String, Format, Box<dyn Fn(&str)>);

fn parsers() -> Vec<Parser> {
    let mut out: Vec<Parser> = Vec::new();
    for format in Format::ALL.into_iter().chain([Format::Auto]) {
        for mode in [Mode::Strict, Mode::Lenient, Mode::Bfcl] {
            let name = format!("{} {mode:?}", format.name());
            out.push((name, format, Box::new(move |text| drop(parse(text, format, mode)))));
        }
    }
    for lang in [toolrm::bfcl::Lang::Java, toolrm::bfcl::Lang::JavaScript] {
        out.push((
            format!("source {lang:?}"),
            Format::Pythonic,
            Box::new(move |t| drop(parse_source(t, lang))),
        ));
    }
    for dialect in [Dialect::Strict, Dialect::Python, Dialect::Lenient] {
        let name = format!("json {dialect:?}");
        out.push((name, Format::Xlam, Box::new(move |text| drop(json::parse(text, dialect)))));
    }
    out.push(("json members".into(), Format::Xlam, Box::new(|text| drop(json::members(text)))));
    out.push(("pair record".into(), Format::Xlam, Box::new(|text| drop(record::read::<Pair>(text)))));
    out
}

/// The least of a few times.
fn time(parser: &dyn Fn(&str), text: &str) -> Duration {
    let one = || {
        let start = Instant::now();
        parser(text);
        start.elapsed()
    };
    (0..3).map(|_| one()).min().unwrap_or_default()
}

/// Texts that a parser may read over and over.
fn repeated() -> Vec<String> {
    let mut out: Vec<String> = PIECES.map(String::from).into();
    let more = [
        "<tool_call>[\"<tool_call>[\",",
        "<tool_call>{\"a\":\"",
        "<tool_call>[1,",
        "<tool_call>\n{\"name\"",
        "\"<tool_call>[',\",\"','\",",
        "[f(",
        "[f(a=1)] ",
        "f(a=[",
        "a.b",
        "(1,",
        "{'a':",
        "<a b='1'>",
        "<functions><function name=\"f\">",
        "a='1' ",
        "&amp;",
        "<!--",
        "{\"name\":\"f\",\"parameters\":{}};",
        "x=y,",
        "<List<",
        "not -",
        "'a' ",
        "[{\"a\":1},",
        "\\\"",
        "</think><think>",
        "<response>",
    ];
    out.extend(more.map(String::from));
    out
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let inputs: u64 = args.next().map_or(Ok(1_000_000), |a| a.parse())?;
    let seed: u64 = args.next().map_or(Ok(1), |a| a.parse())?;
    let start = Instant::now();
    let mut faults = Vec::new();
    for (name, format, parser) in parsers() {
        let mut r = Random(seed);
        let (mut slowest, mut most, begun) = (Duration::ZERO, 0f64, Instant::now());
        for _ in 0..inputs {
            let text = input(&mut r, format);
            let before = NOW.load(Relaxed);
            PEAK.store(before, Relaxed);
            let at = Instant::now();
            parser(&text);
            slowest = slowest.max(at.elapsed());
            let used = PEAK.load(Relaxed) - before;
            // What a parser allocates whatever it reads is no part of the growth.
            most = most.max(used.saturating_sub(1 << 16) as f64 / (text.len() + 1) as f64);
        }
        let wall = begun.elapsed().as_secs_f64();
        println!(
            "{name:22} {inputs} inputs in {wall:.1} s, slowest {slowest:.1?}, {most:.0} bytes a byte above 64 KiB"
        );
        if slowest > Duration::from_secs(2) {
            faults.push(format!("{name}: one input took {slowest:?}"));
        }
        if most > 4096.0 {
            faults.push(format!("{name}: {most} bytes for each byte of input"));
        }
    }
    println!("{:.0} s for all of them", start.elapsed().as_secs_f64());
    const LENGTH: usize = 1 << 16;
    for (name, _, parser) in parsers() {
        for piece in repeated() {
            for frame in [
                "",
                "<tool_call>",
                "<tool_call>[",
                "[f(a=",
                "<functions>",
                "<functions><function name=\"f\" ",
            ] {
                let of = |length: usize| format!("{frame}{}", piece.repeat(length / piece.len()));
                let (short, long) = (of(LENGTH), of(4 * LENGTH));
                // Four times the text: 4 times the time if linear, 16 times if quadratic.
                let grown = |_| {
                    let (a, b) = (time(&parser, &short), time(&parser, &long));
                    b.as_secs_f64() / a.as_secs_f64().max(2e-4)
                };
                let ratio = (0..3).map(grown).find(|r| *r < 9.0);
                if ratio.is_none() {
                    faults.push(format!(
                        "{name}: {piece:?} repeated after {frame:?} takes time that is not linear"
                    ));
                }
            }
        }
    }
    println!("{:.0} s with repeated pieces", start.elapsed().as_secs_f64());
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n").into()) }
}
