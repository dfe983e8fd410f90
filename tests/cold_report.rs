//! The results of `scripts/bench cold`: their statistics, and what their report shows in
//! a browser.

mod common;

use common::bench::{alike, bench, in_benches, list, page_is_like, python, real};
use common::cli::text;
use common::{Scratch, repository};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;

#[test]
fn figures_are_those_of_the_textbook() {
    let said = in_benches(
        "import figures, json\n\
         lists = [[3, 1, 2], list(range(1, 101)), [5.0], [10, 20, 30, 40], []]\n\
         print(json.dumps([figures.figures(one) for one in lists]))",
    );
    let found: Value = serde_json::from_str(&said).unwrap();
    let is = |at: usize, key: &str, value: f64| alike(real(&found[at][key]), value, key);
    is(0, "mean", 2.0);
    is(0, "p50", 2.0);
    is(0, "sd", 1.0);
    is(0, "p95", 2.9);
    is(1, "p50", 50.5);
    is(1, "p95", 95.05);
    is(1, "p99", 99.01);
    is(1, "sd", 29.011491975882016);
    is(2, "p99", 5.0);
    is(3, "p95", 38.5);
    is(3, "p50", 25.0);
    let few: Vec<_> = (0..4).map(|at| &found[at]["too_few"]).collect();
    let few = serde_json::to_string(&few).unwrap();
    assert_eq!(
        few,
        r#"[["p95","p99"],[],["p50","p95","p99","sd"],["p95","p99"]]"#
    );
    assert_eq!(found[2]["sd"], Value::Null);
    assert_eq!(found[4], Value::Null);
}

/// Results that were written by nobody's benchmark, with hostile texts.
fn made_up(scratch: &Scratch) -> PathBuf {
    let path = scratch.file("results.json");
    let benches = repository().join("benches");
    let script = repository().join("tests/apps/cold_results.py");
    let output = python(&script, &[text(&benches), text(&path)]);
    assert!(output.status.success(), "{output:?}");
    path
}

#[test]
fn results_of_another_form_are_refused() {
    let scratch = Scratch::new();
    let path = made_up(&scratch);
    let good = fs::read_to_string(&path).unwrap();
    let changed = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        good.replacen(from, to, 1)
    };
    let cases = [
        ("not JSON", good[..good.len() / 2].to_owned()),
        ("not JSON", "[".repeat(100_000)),
        ("not JSON", changed("\"reply\": 0.7", "\"reply\": NaN")),
        ("not the results", "{}".to_owned()),
        ("version 2", changed("\"version\": 1", "\"version\": 2")),
        ("no time", changed("\"reply\": 0.7", "\"reply\": -1")),
        ("no time", changed("\"reply\": 0.7", "\"reply\": 1e999")),
        (
            "not what the runs come to",
            changed("\"mean\": ", "\"mean\": 1"),
        ),
        (
            "damaged",
            changed("\"machine\": {", "\"machine\": [], \"x\": {"),
        ),
        (
            "damaged",
            changed(
                "\"checkpoint_bytes\": 1000000000",
                "\"checkpoint_bytes\": 1e999",
            ),
        ),
        ("damaged", changed("\"marks\": []", "\"marks\": [{}]")),
    ];
    for (at, (_, content)) in cases.iter().enumerate() {
        fs::write(scratch.file(&format!("bad-{at}.json")), content).unwrap();
    }
    let said = in_benches(&format!(
        "import coldresults, json\n\
         said = []\n\
         for at in range({}):\n\
         \x20   try:\n\
         \x20       said.append(coldresults.read(f'{}/bad-{{at}}.json') and 'accepted')\n\
         \x20   except coldresults.Refused as reason:\n\
         \x20       said.append(str(reason))\n\
         print(json.dumps(said))",
        cases.len(),
        text(scratch.path())
    ));
    let said: Vec<String> = serde_json::from_str(&said).unwrap();
    for (at, (word, _)) in cases.iter().enumerate() {
        let names_it = said[at].contains(&format!("bad-{at}.json"));
        assert!(
            said[at].contains(word) && names_it,
            "not {word}: {}",
            said[at]
        );
    }
    let out = scratch.file("out");
    let output = bench(&[
        "report",
        text(&scratch.file("bad-0.json")),
        "--out",
        text(&out),
    ]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(
        told.contains(&said[0]) && !told.contains("Traceback"),
        "{told}"
    );
    assert!(!out.exists(), "something was written");
}

#[test]
fn the_report_is_right_in_a_browser() {
    let scratch = Scratch::new();
    let path = made_up(&scratch);
    let output = bench(&["report", text(&path)]);
    assert!(output.status.success(), "{output:?}");
    let found: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    page_is_like(
        &found,
        &fs::read_to_string(scratch.file("report.html")).unwrap(),
    );
    let csv = fs::read_to_string(scratch.file("results.csv")).unwrap();
    assert!(csv.contains("gpu_busy: <script>"), "{csv}");

    let browser = repository().join("tests/apps/browser.py");
    let output = python(
        &browser,
        &[text(&scratch.file("report.html")), text(scratch.path())],
    );
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(3) {
        eprintln!("SKIPPED, as the report cannot be looked at: {said}");
        return;
    }
    assert!(output.status.success(), "{said}");
    let looks: Value = serde_json::from_slice(&output.stdout).unwrap();
    let looks = looks.as_array().unwrap();
    assert_eq!(looks.len(), 4);
    for look in looks {
        let where_ = format!("{} {}", look["asked"], look["scheme"]);
        assert_eq!(look["width"], look["asked"]);
        for none in ["console", "requests", "overflowing", "small"] {
            assert!(
                list(look, none).is_empty(),
                "{where_}: {none}: {}",
                look[none]
            );
        }
        assert!(
            real(&look["page"]) <= real(&look["asked"]),
            "{where_}: it scrolls sideways"
        );
        assert_eq!([&look["scripts"], &look["unlabelled"]], [0, 0], "{where_}");
        assert!(
            look["title"].as_str().unwrap().starts_with("Cold starts"),
            "{where_}"
        );
        let picture = format!(
            "report-{}-{}.png",
            look["asked"],
            look["scheme"].as_str().unwrap()
        );
        assert!(fs::metadata(scratch.file(&picture)).unwrap().len() > 10_000);
        bars_are_like(&found, look, &where_);
    }
    assert_ne!(looks[0]["bars"][0]["colour"], looks[1]["bars"][0]["colour"]);
}

/// The bars' lengths are as the means are, in each chart, and they follow one another.
#[track_caller]
fn bars_are_like(found: &Value, look: &Value, where_: &str) {
    let bars_of = |chart: &str| -> Vec<&Value> {
        let all = list(look, "bars").iter();
        all.filter(|bar| bar["chart"] == chart).collect()
    };
    for chart in ["chart", "closer"] {
        let bars = bars_of(chart);
        let longest = bars
            .iter()
            .max_by(|one, other| real(&one["value"]).total_cmp(&real(&other["value"])));
        let longest = longest.unwrap_or_else(|| panic!("{where_}: no bars in {chart}"));
        let scale = real(&longest["width"]) / real(&longest["value"]);
        for bar in &bars {
            let wanted = real(&bar["value"]) * scale;
            assert!(
                (wanted - real(&bar["width"])).abs() < 0.6,
                "{where_}: {wanted} for {bar}"
            );
        }
        for pair in bars
            .windows(2)
            .filter(|pair| pair[0]["variant"] == pair[1]["variant"])
        {
            let end = real(&pair[0]["x"]) + real(&pair[0]["width"]);
            assert!(
                (end - real(&pair[1]["x"])).abs() < 0.6,
                "{where_}: {pair:?}"
            );
        }
    }
    let mut shown = 0;
    for entry in list(found, "variants") {
        let mut of_it = bars_of("chart");
        of_it.retain(|bar| bar["variant"] == entry["name"]);
        let parts = list(entry, "parts");
        assert_eq!(of_it.len(), parts.len(), "{where_}: {}", entry["name"]);
        for (bar, part) in of_it.iter().zip(parts) {
            assert_eq!(bar["component"], part["name"]);
            alike(real(&bar["value"]), real(&part["mean"]), where_);
            shown += 1;
        }
    }
    assert!(shown > 40, "{where_}: {shown}");
}
