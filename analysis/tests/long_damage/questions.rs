//! Every question that can be put to a recording, and the parts of the answers that do not say what was left out.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use clap::Parser;
use huddle_analysis::cli::Cli;
use huddle_model::matrix::Weigh;
use huddle_model::plan::{MissSources, Plan, Policy, what_if};
use huddle_record::replay::Recording;
use huddle_tui::{App, Charset, ColourMode, Options, picture, render};
use serde_json::Value;

/// Answers by the name of the question; one that could not be answered is its error.
pub(crate) type Answers = BTreeMap<String, String>;

/// Puts all questions to the recording `run`; what is written goes beneath `scratch`, which is empty.
pub(crate) fn ask(run: &Path, scratch: &Path) -> Answers {
    let mut answers = Answers::new();
    for question in ["summary", "compare", "sharing", "timeline", "validate"] {
        let answer = analysis(&[question, "--format", "json"], run);
        answers.insert(question.to_owned(), answer.map_or_else(|error| error, |text| without_losses(&text)));
    }
    // Its text is made of the same; it must not panic.
    let _ = analysis(&["summary"], run);
    let page = scratch.join("report.html");
    let report = analysis(&["report", "-o", page.to_str().unwrap()], run);
    let report = report.map_or_else(|error| error, |_| without_gaps(&fs::read_to_string(&page).unwrap()));
    answers.insert("report".to_owned(), report);
    for (format, more) in
        [("csv", &["--for-spreadsheet"][..]), ("json", &[]), ("parquet", &[]), ("perfetto", &[])]
    {
        let dir = scratch.join(format);
        let arguments = [&["export", "--format", format, "-o", dir.to_str().unwrap()], more].concat();
        let exported = analysis(&arguments, run);
        answers.insert(format!("export {format}"), exported.map_or_else(|error| error, |_| content(&dir)));
    }
    answers.extend(replay(run));
    answers
}

/// What a program says, without its path; the outer error is that of a path or of a recording as a whole.
fn analysis(arguments: &[&str], run: &Path) -> Result<String, String> {
    let words = [&["huddle-analysis"], arguments, &[run.to_str().unwrap()]].concat();
    let mut out = Vec::new();
    let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
    let told = cli.run(&mut out).map_err(|error| error.to_string());
    let text = String::from_utf8(out).unwrap();
    told.map(|_| text.replace(run.to_str().unwrap(), "RUN"))
        .map_err(|error| error.replace(run.to_str().unwrap(), "RUN"))
}

/// A JSON answer without what it says of things that were left out.
fn without_losses(text: &str) -> String {
    let mut value: Value = serde_json::from_str(text).unwrap();
    forget(&mut value);
    value.to_string()
}

fn forget(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for name in ["losses", "problems", "notes", "damaged"] {
                fields.remove(name);
            }
            if let Some(Value::Array(warnings)) = fields.get_mut("warnings") {
                warnings
                    .retain(|warning| !warning.as_str().is_some_and(|text| text.starts_with("left out: ")));
            }
            fields.values_mut().for_each(forget);
        }
        Value::Array(values) => values.iter_mut().for_each(forget),
        _ => {}
    }
}

/// A page without its notes of what is missing.
fn without_gaps(page: &str) -> String {
    let mut rest = page;
    let mut out = String::new();
    while let Some(start) =
        rest.find("<p class=\"gap\"").into_iter().chain(rest.find("<ul class=\"gap\"")).min()
    {
        out.push_str(&rest[..start]);
        let end = if rest[start..].starts_with("<p") { "</p>" } else { "</ul>" };
        rest = rest[start..].split_once(end).map_or("", |(_, after)| after);
    }
    out += rest;
    // An element that is left out leaves its line.
    out.lines().filter(|line| !line.trim().is_empty()).collect::<Vec<_>>().join("\n")
}

/// The files of a directory, one after the other.
fn content(dir: &Path) -> String {
    let mut paths: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let file = |path: &std::path::PathBuf| {
        let bytes = fs::read(path).unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        // Parquet is no text; its bytes are equal where its rows are.
        format!("{name}\n{}\n", String::from_utf8_lossy(&bytes))
    };
    paths.iter().map(file).collect()
}

/// What `huddle plan --replay` computes and `huddle top --replay` shows, step by step.
fn replay(run: &Path) -> Answers {
    let mut answers = Answers::new();
    let mut recording = match Recording::open(run) {
        Ok(recording) => recording,
        // Its words have the first thing that is wrong in them.
        Err(_) => return Answers::from([("replay".to_owned(), "cannot be opened".to_owned())]),
    };
    let mut app = App::new(Options {
        colour: ColourMode::NoColour,
        charset: Charset::Ascii,
        size: (100, 40),
        tick: Duration::from_secs(1),
    });
    let (mut steps, mut screens, mut plans) = (String::new(), String::new(), String::new());
    let mut before: Option<Plan> = None;
    let rounds: Vec<usize> = recording.rounds().map(|(position, _)| position).collect();
    for position in 0..recording.len() {
        let view = recording.view(position).unwrap();
        if rounds.contains(&position) {
            let planned = what_if(
                Policy::Sharing,
                Weigh::Read,
                &view.round,
                before.as_ref(),
                MissSources { limits: None, seen: view.observation.value().map(|seen| &**seen) },
            );
            plans += &format!("{:?}\n", planned.as_ref().map(|planned| (&planned.plan, planned.moves)));
            before = planned.value().map(|planned| planned.plan.clone()).or(before);
        }
        steps += &format!("{}\n", serde_json::to_value(&view).unwrap());
        app.on_view(view, 0);
        screens += &picture::text(&render(&app));
    }
    answers.insert("replay".to_owned(), steps);
    answers.insert("plan --replay".to_owned(), plans);
    answers.insert("top --replay".to_owned(), screens);
    answers
}

/// Puts the recording to the real programs; what is wrong with how they end.
pub(crate) fn ask_programs(run: &Path, scratch: &Path) -> Vec<String> {
    let analysis = env!("CARGO_BIN_EXE_huddle-analysis");
    let out = |name: &str| scratch.join(name).to_str().unwrap().to_owned();
    let (run, page, csv) = (run.to_str().unwrap(), out("real.html"), out("real-csv"));
    let mut commands: Vec<(&str, Vec<&str>)> = vec![
        (analysis, vec!["summary", run]),
        (analysis, vec!["compare", "--format", "json", run]),
        (analysis, vec!["sharing", run]),
        (analysis, vec!["timeline", run]),
        (analysis, vec!["validate", run]),
        (analysis, vec!["report", run, "-o", &page]),
        (analysis, vec!["export", run, "--format", "csv", "-o", &csv]),
    ];
    // Of another package, so that only who builds both can say where it is.
    let huddle = std::env::var("HUDDLE_PROGRAM").ok();
    if let Some(huddle) = &huddle {
        commands.push((huddle, vec!["plan", "--replay", run]));
        commands.push((huddle, vec!["plan", "--replay", run, "--format", "json"]));
        // Without a terminal it opens the recording and says what it needs.
        commands.push((huddle, vec!["top", "--replay", run]));
    }
    let mut wrong = Vec::new();
    for (program, arguments) in commands {
        let output = Command::new(program).args(&arguments).stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let is_known = matches!(output.status.code(), Some(0 | 1 | 3));
        if !is_known || said.contains("panicked at") || said.contains("overflow") {
            wrong.push(format!("{program} {arguments:?} ended with {}: {said}", output.status));
        }
    }
    wrong
}
