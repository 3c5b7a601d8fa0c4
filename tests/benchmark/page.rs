//! The page of a report: in a browser, with hostile texts, and of a large run.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::browser::Browser;
use crate::made::Made;
use crate::program::{code, collect, finish, program, stderr};
use crate::{Bench, read_json};

const MIB: u64 = 1 << 20;

fn reported(bench: &Bench, folders: &[&Path]) -> PathBuf {
    let mut arguments = vec!["report"];
    arguments.extend(folders.iter().map(|folder| folder.to_str().unwrap()));
    let output = finish(bench.verb(&arguments, true));
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    folders[0].join("report.html")
}

/// A run in a sandbox, beside one of the same model without, and one of another model.
fn three_runs(bench: &Bench) -> PathBuf {
    let run = Made::default();
    let plain = Made {
        plain: true,
        solves: 38,
        ..run.clone()
    };
    let other = Made {
        model: "sample-70b",
        solves: 72,
        turns: 5,
        ..run.clone()
    };
    let folders = [
        run.write(&bench.path(""), "one"),
        plain.write(&bench.path(""), "two"),
        other.write(&bench.path(""), "three"),
    ];
    reported(bench, &[&folders[0], &folders[1], &folders[2]])
}

#[test]
fn a_page_loads_nothing_complains_of_nothing_and_fits_the_window() {
    let Some(mut browser) = Browser::start() else {
        return;
    };
    let bench = Bench::new();
    let page = three_runs(&bench);
    for (width, dark) in [(1280, false), (390, true), (768, false)] {
        browser.window(width, 900, dark);
        browser.open(&page);
        assert_eq!(browser.complaints(), Vec::<String>::new());
        fits(&mut browser, width);
        // The style is in force: a policy that names another digest would leave it out.
        let paper = if dark {
            "rgb(22, 24, 28)"
        } else {
            "rgb(251, 250, 246)"
        };
        assert_eq!(
            browser.eval("getComputedStyle(document.body).backgroundColor"),
            paper
        );
        let charts = browser.eval(
            "[...document.querySelectorAll('svg.plot')].map(plot => [plot.getAttribute('aria-label'), plot.getBoundingClientRect().height, \
             plot.querySelectorAll('rect, circle, polyline').length, plot.parentElement.querySelectorAll('table tbody tr').length])",
        );
        let charts = charts.as_array().unwrap();
        assert!(charts.len() >= 12, "{} charts", charts.len());
        for chart in charts {
            assert!(!chart[0].as_str().unwrap().is_empty(), "{chart}");
            assert!(chart[1].as_f64().unwrap() > 30.0, "{chart}");
            assert!(chart[2].as_u64().unwrap() > 0, "{chart}");
            assert!(chart[3].as_u64().unwrap() > 0, "no table beside {chart}");
        }
        // Text of a picture shrinks with it.
        let letters = browser.eval("Math.min(...[...document.querySelectorAll('svg.plot text')].map(text => text.getBoundingClientRect().height))");
        assert!(letters.as_f64().unwrap() >= 9.0, "{letters}");
        let opened = browser.eval(
            "(() => { const one = document.querySelector('details.sample'); const before = one.getBoundingClientRect().height; \
             one.querySelector('summary').click(); return [one.open, before, one.getBoundingClientRect().height, one.querySelectorAll('pre').length]; })()",
        );
        assert_eq!(opened[0], true);
        assert!(
            opened[2].as_f64().unwrap() > opened[1].as_f64().unwrap() + 100.0,
            "{opened}"
        );
        assert!(opened[3].as_u64().unwrap() > 0, "{opened}");
        browser.eval("document.querySelectorAll('details').forEach(one => one.open = true)");
        fits(&mut browser, width);
        assert_eq!(browser.complaints(), Vec::<String>::new());
    }
}

/// Nothing is wider than the window, but for what lies in a box that scrolls by itself.
fn fits(browser: &mut Browser, width: u32) {
    let wide = browser.eval(&format!(
        "[...document.querySelectorAll('body *')].filter(one => one.getBoundingClientRect().right > {width} + 0.5 \
         && !one.closest('.scroll, pre, svg')).map(one => one.outerHTML.slice(0, 120)).slice(0, 5)"
    ));
    assert_eq!(wide, json!([]), "at {width}");
    assert_eq!(browser.eval("document.documentElement.scrollWidth"), width);
}

#[test]
fn a_page_with_a_script_an_image_or_a_wide_part_is_seen_as_such() {
    let Some(mut browser) = Browser::start() else {
        return;
    };
    let bench = Bench::new();
    let page = bench.path("bad.html");
    std::fs::write(
        &page,
        "<!doctype html><meta name=viewport content='width=device-width'><p style='width: 2000px'>wide</p><img src='http://127.0.0.1:9/image.png'><script>console.error('told')</script>",
    )
    .unwrap();
    browser.window(390, 900, false);
    browser.open(&page);
    let complaints = browser.complaints().join("\n");
    assert!(complaints.contains("127.0.0.1:9/image.png"), "{complaints}");
    assert!(complaints.contains("told"), "{complaints}");
    assert_ne!(browser.eval("document.documentElement.scrollWidth"), 390);
}

const HOSTILE: &str = "\"'></details></script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\"><svg onload=alert(1)>\
    <style>body{display:none}</style><meta http-equiv=refresh content='0;url=http://127.0.0.1:9/'>]]>--><!--\u{202e}txt.exe\u{2066}\u{200b}\0\u{1b}[2J\u{1b}]52;c;aGk=\u{7}\u{9b}31m\r\n&lt;&#60;שלום مرحبا";

#[test]
fn no_text_of_a_run_becomes_part_of_the_page() {
    let bench = Bench::new();
    let hostile = Made {
        problems: 8,
        turns: 3,
        text: Some(HOSTILE.to_owned()),
        ..Made::default()
    };
    let folder = hostile.write(&bench.path(""), "hostile");
    // One record is a single huge line, one is no text, one is gone.
    let records: Vec<PathBuf> = std::fs::read_dir(folder.join("samples"))
        .unwrap()
        .map(|sample| sample.unwrap().path().join("1/trajectory.jsonl"))
        .collect();
    let message = json!({"role": "assistant", "content": "W".repeat(6 << 20)});
    let event = json!({"type": "completion", "step": 1, "message": message, "finish_reason": null, "usage": null, "attempts": 1, "params": {}, "model_us": 1});
    let line = json!({"n": 1, "t_us": 1, "event": event});
    std::fs::write(
        &records[0],
        format!(
            "{{\"started_unix_s\": 1.0}}\n{line}\n{}\n",
            "x".repeat(20 << 20)
        ),
    )
    .unwrap();
    std::fs::write(&records[1], [0xff, 0xfe, 0, b'\n', 0x1b]).unwrap();
    std::fs::remove_file(&records[2]).unwrap();
    let page = reported(&bench, &[&folder]);
    assert_eq!(read_json(&folder.join("report.json"))["unread"], 3);
    let text = std::fs::read_to_string(&page).unwrap();
    assert!(text.len() < 1_000_000, "{} bytes", text.len());
    for tag in [
        "<script",
        "<img",
        "<meta http-equiv=refresh",
        "onerror=\"",
        "\u{202e}",
        "\0",
        "\u{1b}",
        "\u{9b}",
        "\u{200b}",
    ] {
        assert!(!text.contains(tag), "{tag:?} is in the page");
    }
    assert_eq!(text.matches("<style>").count(), 1);
    assert!(text.contains("&lt;script&gt;") && text.contains("⟨202E⟩") && text.contains("␛[2J"));
    let markdown = std::fs::read_to_string(folder.join("report.md")).unwrap();
    for odd in ['\u{202e}', '\u{200b}', '\u{1b}', '\0'] {
        assert!(!markdown.contains(odd), "{odd:?}");
    }
    assert!(!markdown.replace("\\<", "").contains('<'), "{markdown}");
    let Some(mut browser) = Browser::start() else {
        return;
    };
    browser.window(390, 900, false);
    browser.open(&page);
    assert_eq!(browser.complaints(), Vec::<String>::new());
    assert!(
        browser
            .eval("document.title")
            .as_str()
            .unwrap()
            .contains(" with ")
    );
    let foreign = browser.eval("document.querySelectorAll('script, img, iframe, object, embed, link, form, base, [onload], [onerror]').length");
    assert_eq!(foreign, 0);
    browser.eval("document.querySelectorAll('details').forEach(one => one.open = true)");
    fits(&mut browser, 390);
}

#[test]
fn a_run_of_one_or_two_samples_is_drawn_at_numbers() {
    for problems in [1, 2] {
        let bench = Bench::new();
        let few = Made {
            problems,
            ..Made::default()
        };
        let folder = few.write(&bench.path(""), "few");
        let page = std::fs::read_to_string(reported(&bench, &[&folder])).unwrap();
        for title in ["By turn", "Time of a turn"] {
            let figure = figure(&page, title);
            assert!(figure.contains("<polyline"), "{title} of {problems}");
        }
        let n = format!("n = {problems}</text>");
        assert!(figure(&page, "Score by field").contains(&n));
        assert!(
            !page.contains("inf\"") && !page.contains("NaN"),
            "{problems}"
        );
    }
}

/// The part of a page under a title.
fn figure<'a>(page: &'a str, title: &str) -> &'a str {
    let after = page.split(&format!("<h3>{title}</h3>")).nth(1);
    after.unwrap().split("</figure>").next().unwrap()
}

#[test]
fn a_run_without_scores_or_turns_has_no_empty_pictures() {
    let bench = Bench::new();
    let failed = Made {
        problems: 7,
        plain: true,
        fails: true,
        ..Made::default()
    };
    let folder = failed.write(&bench.path(""), "failed");
    for sample in std::fs::read_dir(folder.join("samples")).unwrap() {
        std::fs::remove_dir_all(sample.unwrap().path()).unwrap();
    }
    let page = std::fs::read_to_string(reported(&bench, &[&folder])).unwrap();
    assert!(page.contains("<b>none</b><span>mean score</span>"));
    assert!(page.contains("7 samples of 5 fields with one plain answer, 1 of each row.</p>"));
    let scores = figure(&page, "Score by field");
    assert!(
        !scores.contains("<svg") && scores.contains("<td>–</td>"),
        "{scores}"
    );
}

#[test]
fn runs_of_equal_names_are_told_apart_and_named_as_they_are() {
    let bench = Bench::new();
    let run = Made {
        problems: 5,
        model: "a & b",
        ..Made::default()
    };
    let other = Made {
        plain: true,
        ..run.clone()
    };
    let folders = ["one", "two", "three"].map(|name| {
        let made = if name == "three" { &other } else { &run };
        made.write(&bench.path(""), name)
    });
    let page = reported(&bench, &[&folders[0], &folders[1], &folders[2]]);
    let page = std::fs::read_to_string(page).unwrap();
    for name in ["sandbox (2) against this run", "plain against this run"] {
        assert!(page.contains(&format!("<h3>{name}</h3>")), "{name}");
    }
    // Each run once, and no field between them.
    let sums = figure(&page, "Tokens of a sample");
    assert_eq!(sums.matches("<th scope=\"row\">").count(), 3, "{sums}");
    let page = reported(
        &bench,
        &[
            &folders[0],
            &other.named("c & d").write(&bench.path(""), "four"),
        ],
    );
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("<h3>c &amp; d, plain against this run</h3>"));
    let without = Made {
        ablations: &["no-network", "no-files"],
        ..run.clone()
    };
    let page = reported(
        &bench,
        &[&without.write(&bench.path(""), "five"), &folders[0]],
    );
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("<dt>Ablations</dt><dd>no-network, no-files</dd>"));
    assert!(page.contains("</svg>sandbox no-network no-files</li>"));
    assert!(page.contains("<dt>Network</dt><dd>none</dd>"));
    let many = [folders[0].to_str().unwrap(); 7];
    let output = finish(bench.verb(&[&["report"], &many[..]].concat(), true));
    assert_eq!(code(&output), 2, "{}", stderr(&output));
}

#[test]
fn a_turn_of_very_many_calls_is_bounded_on_the_page() {
    let bench = Bench::new();
    let run = Made {
        problems: 5,
        turns: 1,
        ..Made::default()
    };
    let folder = run.write(&bench.path(""), "run");
    let record = folder.join("samples/math_0000/1/trajectory.jsonl");
    let mut text = std::fs::read_to_string(&record).unwrap();
    let call = text
        .lines()
        .find(|line| line.contains("\"tool_call\""))
        .unwrap();
    let end = text.find(call).unwrap();
    text.insert_str(end, &format!("{call}\n").repeat(20_000));
    std::fs::write(&record, text).unwrap();
    let page = std::fs::read_to_string(reported(&bench, &[&folder])).unwrap();
    assert!(page.contains("more entries of this turn left out"));
    assert!(page.len() < 400_000, "{} bytes", page.len());
}

/// Of the children of a shell: the last line of its `times`, as `0m1.250s 0m0.130s`.
fn cpu_time(told: &str) -> Duration {
    let last = told.lines().last().unwrap();
    let parts = last.split_whitespace().map(|part| {
        let (minutes, seconds) = part.trim_end_matches('s').split_once('m').unwrap();
        60.0 * minutes.parse::<f64>().unwrap() + seconds.parse::<f64>().unwrap()
    });
    Duration::from_secs_f64(parts.sum())
}

/// The whole is 10,000 samples: `LIS_TEST_REPORT_SAMPLES=10000`.
#[test]
fn the_report_of_a_large_run_is_bounded_in_time_memory_and_size() {
    let samples =
        std::env::var("LIS_TEST_REPORT_SAMPLES").map_or(600, |text| text.parse().unwrap());
    let bench = Bench::new();
    let large = Made {
        problems: samples,
        turns: 14,
        ..Made::default()
    };
    let folder = large.write(&bench.path(""), "large");
    // Anonymous memory of the whole process, as the kernel counts it.
    let mut command = Command::new("sh");
    command
        .args(["-c", "ulimit -d 262144 && \"$0\" \"$@\" && times"])
        .arg(std::path::absolute(program()).unwrap())
        .args(["report", "--trajectory_mib", "4"])
        .arg(&folder)
        .current_dir(bench.path(""))
        .env("HOME", bench.path(""))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let output = collect(command.spawn().unwrap());
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let took = cpu_time(&String::from_utf8_lossy(&output.stdout));
    let report = read_json(&folder.join("report.json"));
    let turns = report["totals"]["turns"].as_u64().unwrap();
    let sizes = ["report.html", "report.md", "report.json"]
        .map(|name| std::fs::metadata(folder.join(name)).unwrap().len());
    println!(
        "{samples} samples, {turns} turns: {took:?} of CPU time, {} MiB of output",
        sizes.iter().sum::<u64>() / MIB
    );
    assert_eq!(report["totals"]["samples"], samples);
    assert_eq!(report["unread"], 0);
    assert!(sizes.iter().sum::<u64>() < 50 * MIB, "{sizes:?}");
    // CPU time, since others may be at work here; a tenth of it is read in a tenth of the time, also by a program that is not
    // optimised.
    assert!(took < Duration::from_secs(10), "{took:?}");
    let page = std::fs::read_to_string(folder.join("report.html")).unwrap();
    let (open, told) = (
        page.matches("<details class=\"sample\">").count(),
        page.matches("are left out to keep this page small").count(),
    );
    assert!(open > 20 && (open as u64) < samples, "{open} trajectories");
    assert_eq!(told, 1);
    // What failed comes first.
    let first = page.split("<details class=\"sample\">").nth(1).unwrap();
    assert!(first.contains("mark failed"), "{first:.300}");
}

#[test]
fn sums_of_a_report_are_those_of_its_records() {
    let bench = Bench::new();
    let run = Made {
        problems: 25,
        repeat: 2,
        turns: 4,
        ..Made::default()
    };
    let folder = run.write(&bench.path(""), "run");
    reported(&bench, &[&folder]);
    let report = read_json(&folder.join("report.json"));
    let lines = std::fs::read_to_string(folder.join("results.jsonl")).unwrap();
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let sum = |pointer: &str| {
        lines
            .iter()
            .filter_map(|line| line.pointer(pointer)?.as_u64())
            .sum::<u64>()
    };
    let totals = &report["totals"];
    assert_eq!(totals["samples"], 50);
    assert_eq!(totals["turns"], sum("/steps"));
    assert_eq!(totals["completion_tokens"], sum("/usage/completion_tokens"));
    assert_eq!(totals["prompt_tokens"], sum("/usage/prompt_tokens"));
    assert_eq!(totals["all_written_bytes"], sum("/sandbox/written_bytes"));
    // Between two requests 90 to 689 tokens joined that no model wrote.
    let joined = totals["environment_tokens"].as_u64().unwrap();
    let between = sum("/steps") - 50;
    assert!(
        (90 * between..690 * between).contains(&joined),
        "{joined} in {between}"
    );
    let by_domain: u64 = report["domains"]
        .as_object()
        .unwrap()
        .values()
        .map(|domain| domain["totals"]["samples"].as_u64().unwrap())
        .sum();
    assert_eq!(by_domain, 50);
    let by_turn = report["by_turn"].as_array().unwrap();
    assert_eq!(by_turn[0]["turns"], 50);
    assert_eq!(
        by_turn
            .iter()
            .map(|turn| turn["turns"].as_u64().unwrap())
            .sum::<u64>(),
        sum("/steps")
    );
    let lengths = report["by_length"].as_array().unwrap();
    assert_eq!(
        lengths
            .iter()
            .map(|part| part["samples"].as_u64().unwrap())
            .sum::<u64>(),
        50
    );
    assert_eq!(report["summary"]["pass_at"].as_object().unwrap().len(), 2);
    // Whatever the order in which they are told: the worst are first.
    let scores: Vec<Value> = report["short"]
        .as_array()
        .unwrap()
        .iter()
        .map(|short| short["status"].clone())
        .collect();
    let failed = scores
        .iter()
        .take_while(|status| *status == "failed")
        .count();
    assert_eq!(
        failed,
        lines
            .iter()
            .filter(|line| line["status"] == "failed")
            .count()
    );
}

/// `LIS_TEST_SCREENSHOTS=docs/report cargo test --test benchmark screenshots` makes those of the documentation.
#[test]
fn screenshots() {
    let Some(mut browser) = Browser::start() else {
        return;
    };
    let bench = Bench::new();
    let page = three_runs(&bench);
    let to = std::env::var_os("LIS_TEST_SCREENSHOTS").map(PathBuf::from);
    let shots = [
        ("scores", 1280, 1000, false, "scrollTo(0, 0)"),
        (
            "computer",
            1280,
            1000,
            false,
            "document.querySelector('#computer').scrollIntoView()",
        ),
        (
            "costs",
            1280,
            1000,
            true,
            "document.querySelector('#costs').scrollIntoView()",
        ),
        (
            "turns",
            1280,
            1000,
            false,
            "(() => { const one = document.querySelectorAll('details.sample')[8]; one.open = true; one.scrollIntoView(); })()",
        ),
        ("telephone", 390, 844, true, "scrollTo(0, 0)"),
    ];
    for (name, width, height, dark, place) in shots {
        browser.window(width, height, dark);
        browser.open(&page);
        browser.eval(place);
        let png = browser.screenshot();
        assert!(
            png.starts_with(b"\x89PNG") && png.len() > 10_000,
            "{name}: {} bytes",
            png.len()
        );
        if let Some(to) = &to {
            std::fs::create_dir_all(to).unwrap();
            std::fs::write(to.join(format!("{name}.png")), png).unwrap();
        }
    }
}
