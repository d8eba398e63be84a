use std::collections::BTreeSet;
use std::fs;

use regex::Regex;

use super::synthetic::{Plan, write_run};
use super::{ConfigChange, ReportError, ReportOptions, RunData, curve_svg, render, write};

fn page(plan: &Plan) -> String {
    let dir = tempfile::tempdir().unwrap();
    write_run(dir.path(), plan);
    render(&[RunData::load(dir.path()).unwrap()], &ReportOptions::default()).unwrap()
}

/// What must hold of every page: nothing fetched, ids unique, references resolved, charts named.
fn check(html: &str) {
    for needle in ["http:", "https:", "//cdn", "@import", "url("] {
        assert!(!html.contains(needle), "the page contains {needle}");
    }
    let ids = |pattern: &str| {
        Regex::new(pattern).unwrap().captures_iter(html).map(|c| c[1].to_owned()).collect::<Vec<_>>()
    };
    let all = ids(r#"\sid="([^"]*)""#);
    let unique: BTreeSet<&String> = all.iter().collect();
    assert_eq!(unique.len(), all.len(), "an id is used twice");
    for used in [
        ids(r##"href="#([^"]*)""##),
        ids(r#"aria-labelledby="([^"]*)""#),
        ids(r#"aria-describedby="([^"]*)""#),
    ]
    .concat()
    {
        assert!(unique.contains(&used), "nothing has the id {used}");
    }
    let head = Regex::new(
        r#"^<svg [^>]*role="img" aria-labelledby="([^"]+)" aria-describedby="([^"]+)"[^>]*><title id="([^"]+)">[^<]+</title><desc id="([^"]+)">[^<]+</desc>"#,
    )
    .unwrap();
    let svg = Regex::new(r"(?s)<svg .*?</svg>").unwrap();
    for chart in svg.find_iter(html).map(|m| m.as_str()) {
        let named = head.captures(chart);
        let named = named.unwrap_or_else(|| {
            panic!("no title or description: {}", chart.chars().take(300).collect::<String>())
        });
        assert!(named[1] == named[3] && named[2] == named[4], "the name of a chart is not its own title");
        assert!(!chart.contains("NaN") || chart.contains("not finite"), "NaN in a chart");
    }
    let paths = Regex::new(r#"\sd="([^"]*)""#).unwrap();
    let data = Regex::new(r"^[MLHVZhvlmz0-9. -]*$").unwrap();
    assert!(paths.captures_iter(html).all(|c| data.is_match(&c[1])), "path data that is not a path");
    for tag in ["div", "figure", "section", "details", "table", "svg", "g", "i", "span", "ul", "dl"] {
        let count = |pattern: String| Regex::new(&pattern).unwrap().find_iter(html).count();
        assert_eq!(count(format!("<{tag}[ >]")), count(format!("</{tag}>")), "<{tag}> is not closed");
    }
}

#[test]
fn a_measurement_before_the_first_step_is_no_step() {
    let dir = tempfile::tempdir().unwrap();
    write_run(dir.path(), &Plan::default());
    let file = dir.path().join("metrics.jsonl");
    let rows = fs::read_to_string(&file).unwrap();
    let count = rows.lines().count();
    let first = "{\"step\":0,\"reward/mean\":null,\"time/total\":null,\"eval/heldout/exact\":0.25}";
    let later = rows.lines().skip(1);
    fs::write(&file, format!("{first}\n{}\n", later.collect::<Vec<_>>().join("\n"))).unwrap();
    let run = RunData::load(dir.path()).unwrap();
    assert!(super::headline::sentence(&run).starts_with(&format!("In {} steps", count - 1)));
}

#[test]
fn events_are_dated_from_the_start_of_the_run() {
    let dir = tempfile::tempdir().unwrap();
    write_run(dir.path(), &Plan::default());
    let (rows, _) = super::headline::events(&RunData::load(dir.path()).unwrap());
    let start = rows.iter().find(|row| row.kind == "start").unwrap();
    assert_eq!(start.time, super::scale::duration(1.5));
}

#[test]
fn the_page_of_a_usual_run() {
    let html = page(&Plan { routing: true, ..Plan::default() });
    check(&html);
    for shown in [
        "Reward",
        "Exact answers",
        "level 6",
        "custom/unheard_of",
        "raise rollout.group",
        "109,824",
        "Replaced share",
        "zero std share",
    ] {
        let known = html.contains(shown) || (shown == "109,824" && html.contains("110k"));
        assert!(known, "{shown} is missing");
    }
    assert!(html.contains("1 not finite, marked ×") && html.contains("class=\"nonfinite\""));
}

#[test]
fn text_of_prompts_names_and_events_is_never_markup() {
    let dir = tempfile::tempdir().unwrap();
    let attack = "</script><script>alert(1)</script><img src=x onerror=\"a\" '>";
    write_run(dir.path(), &Plan { prompt: "<script>alert(1)</script>", ..Plan::default() });
    let mut run = RunData::load(dir.path()).unwrap();
    run.name = attack.into();
    run.config_text = Some(attack.into());
    run.notes.push(attack.into());
    run.facts.insert(attack.into(), attack.into());
    for event in &mut run.events {
        event.kind = attack.into();
        event.name = attack.into();
        event.message = attack.into();
        event.advice = vec![attack.into()];
    }
    for (_, sample) in run.rollouts.iter_mut().flat_map(|step| &mut step.samples) {
        sample.response = attack.into();
        sample.answer = Some(attack.into());
        sample.finish = attack.into();
        sample.task = attack.into();
        sample.pieces[0] = attack.into();
        sample.parts.push((attack.into(), 1.0));
    }
    let column = run.metrics.series["reward/mean"].clone();
    for area in ["eval", "route", "time", "reward/part"] {
        run.metrics.series.insert(format!("{area}/{attack}/exact"), column.clone());
        run.metrics.series.insert(format!("{area}/{attack}"), column.clone());
    }
    let change = ConfigChange { key: attack.into(), preset: attack.into(), value: attack.into() };
    let html = render(&[run.clone()], &ReportOptions { config_changes: vec![change] }).unwrap();
    let both = render(&[run.clone(), run.clone()], &ReportOptions::default()).unwrap();
    for html in [html, both, curve_svg(&run).unwrap()] {
        // The page's own script is the only one, and no attribute was broken out of.
        assert!(html.matches("<script").count() <= 1, "a script came through");
        assert!(!html.contains("<img") && !html.contains("onerror=\""), "markup came through");
        if !html.starts_with("<svg") {
            check(&html);
        }
    }
}

#[test]
fn a_run_in_progress_or_nearly_empty_still_has_a_page() {
    let dir = tempfile::tempdir().unwrap();
    let metrics = dir.path().join("metrics.jsonl");
    for (text, shown) in [
        ("", "No step has finished yet"),
        ("{\"step\":0,\"rew", "No step has finished yet"),
        ("{\"step\":0,\"reward/mean\":\"nan\",\"time/total\":null}\n", "no reward was recorded"),
        (
            "{\"step\":3,\"reward/mean\":0.25,\"reward/p10\":0,\"reward/p50\":0,\"reward/p90\":1}\n{\"st",
            "the mean reward was 0.25",
        ),
    ] {
        fs::write(&metrics, text).unwrap();
        let html = render(&[RunData::load(dir.path()).unwrap()], &ReportOptions::default()).unwrap();
        assert!(html.contains(shown), "{shown}");
        check(&html);
    }
    check(&page(&Plan { steps: 1, ..Plan::default() }));
    check(&page(&Plan { steps: 2, tokens: 0, ..Plan::default() }));
}

#[test]
fn ten_thousand_steps_stay_below_two_megabytes() {
    let html =
        page(&Plan { steps: 10_000, half: 1500.0, routing: true, extra: 40, tokens: 700, ..Plan::default() });
    assert!(html.len() < 2_000_000, "{} bytes", html.len());
    check(&html);
    // Thinned, but from the first step to the last.
    assert!(html.contains("9,999") || html.contains(">9999<"), "the last step is missing");
}

#[test]
fn write_leaves_one_whole_file_and_names_what_it_cannot_write() {
    let dir = tempfile::tempdir().unwrap();
    write_run(dir.path(), &Plan::default());
    let path = write(dir.path(), &ReportOptions::default()).unwrap();
    assert!(fs::read_to_string(&path).unwrap().ends_with("</html>"));
    let names: Vec<String> =
        fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.iter().all(|name| !name.ends_with(".tmp")), "{names:?}");
    let error = super::save(&dir.path().join("no/such/report.html"), "x").unwrap_err();
    assert!(error.to_string().contains("no/such/report.html"), "{error}");
}

#[test]
fn runs_are_compared_with_the_settings_that_differ() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_run(a.path(), &Plan::default());
    write_run(b.path(), &Plan { half: 50.0, ..Plan::default() });
    let runs = [RunData::load(a.path()).unwrap(), RunData::load(b.path()).unwrap()];
    let html = render(&runs, &ReportOptions::default()).unwrap();
    check(&html);
    let name = |dir: &tempfile::TempDir| dir.path().file_name().unwrap().to_string_lossy().into_owned();
    assert!(html.contains(&name(&a)) && html.contains(&name(&b)), "equal names are told apart by directory");
    assert!(html.contains("update.lr") && !html.contains("rollout.group"), "only settings that differ");
    assert!(matches!(render(&[], &ReportOptions::default()), Err(ReportError::NoRuns)));
}

#[test]
fn the_same_run_gives_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    write_run(dir.path(), &Plan::default());
    let make = || render(&[RunData::load(dir.path()).unwrap()], &ReportOptions::default()).unwrap();
    assert!(make() == make());
}

#[test]
fn the_picture_stands_alone() {
    let dir = tempfile::tempdir().unwrap();
    write_run(dir.path(), &Plan::default());
    let mut run = RunData::load(dir.path()).unwrap();
    let svg = curve_svg(&run).unwrap();
    assert!(svg.starts_with("<svg xmlns=") && svg.ends_with("</svg>") && svg.contains("exact, heldout"));
    run.metrics = super::Metrics::default();
    assert_eq!(curve_svg(&run), None);
}

/// `KEEL_REPORT_OUT=DIR cargo test -p train-core pages_to_look_at -- --ignored`
#[test]
#[ignore = "writes pages for people to look at"]
fn pages_to_look_at() {
    let out = std::path::PathBuf::from(std::env::var_os("KEEL_REPORT_OUT").unwrap());
    let change = |key: &str, preset: &str, value: &str| ConfigChange {
        key: key.into(),
        preset: preset.into(),
        value: value.into(),
    };
    let options = ReportOptions {
        config_changes: vec![change("update.lr", "0.001", "0.002"), change("rollout.group", "", "8")],
    };
    let plans = [
        ("a", Plan { routing: true, ..Plan::default() }),
        ("b", Plan { name: "reverse-slow", half: 50.0, ..Plan::default() }),
        (
            "long",
            Plan { name: "long", steps: 10_000, half: 1500.0, tokens: 700, extra: 40, ..Plan::default() },
        ),
        ("one", Plan { name: "one step", steps: 1, ..Plan::default() }),
    ];
    for (name, plan) in &plans {
        let dir = out.join(name);
        write_run(&dir, plan);
        write(&dir, &options).unwrap();
    }
    let runs = [RunData::load(out.join("a")).unwrap(), RunData::load(out.join("b")).unwrap()];
    super::save(&out.join("compare.html"), &render(&runs, &options).unwrap()).unwrap();
    super::save(&out.join("curve.svg"), &curve_svg(&runs[0]).unwrap()).unwrap();
}
