//! What operators use beside the metrics: alerts, dashboard and documentation name metrics that exist, and the tools of
//! Prometheus take all of it.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use huddle_metrics::families::{ALL, Family, Kind};
use huddle_metrics::{Encoder, Facts, Fold, Format, MetricsSettings};
use huddle_testing::output::say;
use huddle_testing::sample_observed::observed;
use serde_json::Value;

const WRITE: &str = "HUDDLE_WRITE_DOCS";

fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(repository().join(path)).unwrap()
}

/// `promtool`: the installed one, or that of `cargo xtask setup`. `None` with a message where there is none, which in CI
/// is a failure.
fn promtool() -> Option<Command> {
    let programs = [PathBuf::from("promtool"), repository().join("target/tools/bin/promtool")];
    let works = |program: &PathBuf| Command::new(program).arg("--version").output().is_ok();
    let found = programs.iter().find(|program| works(program)).map(Command::new);
    if found.is_none() {
        assert!(
            std::env::var_os("CI").is_none(),
            "promtool is missing in CI; `cargo xtask setup` unpacks it"
        );
        say("skipped: no promtool here; `cargo xtask setup` unpacks it");
    }
    found
}

fn succeeds(command: &mut Command, input: Option<&str>) {
    use std::io::Write as _;
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // It may end before it has read everything.
    let _ = stdin.write_all(input.unwrap_or_default().as_bytes());
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&said));
}

/// The queries of the dashboard, as they are when Grafana has filled in its variables.
fn queries() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&read("packaging/monitoring/huddle.dashboard.json")).unwrap();
    let expr = |of: &Value| of["expr"].as_str().unwrap().to_owned();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let mut found: Vec<String> =
        panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten()).map(expr).collect();
    found.extend(dashboard["annotations"]["list"].as_array().unwrap().iter().map(expr));
    assert!(found.len() > 30, "{}", found.len());
    let filled = |query: String| query.replace("$__rate_interval", "5m").replace("$instance", ".*");
    found.into_iter().map(filled).collect()
}

/// The names of metrics in a text.
fn names(text: &str) -> BTreeSet<String> {
    let is_part = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let words = text.split(|character| !is_part(character));
    words.filter(|word| word.starts_with("huddle_")).map(str::to_owned).collect()
}

#[test]
fn alerts_and_dashboard_name_metrics_that_exist() {
    let known: BTreeSet<String> = ALL.iter().map(|family| family.sample_name()).collect();
    let texts = [
        read("packaging/monitoring/huddle.rules.yml"),
        read("packaging/monitoring/huddle.rules.test.yml"),
        queries().join("\n"),
        names(&read("packaging/monitoring/huddle.dashboard.json")).into_iter().collect::<Vec<_>>().join("\n"),
    ];
    for text in texts {
        let unknown: Vec<String> = names(&text).difference(&known).cloned().collect();
        assert_eq!(unknown, [""; 0]);
    }
}

#[test]
fn promtool_takes_metrics_alerts_and_queries() {
    let Some(_) = promtool() else { return };
    let mut fold = Fold::default();
    fold.follow(&observed(4, 3).updates_since(None), 1);
    let encoder = Encoder::new(MetricsSettings::default());
    let text = encoder.encode(&Arc::new(fold), Facts::default(), Format::Prometheus);
    succeeds(promtool().unwrap().args(["check", "metrics"]), Some(&text));
    let monitoring = repository().join("packaging/monitoring");
    let in_place = |args: [&str; 3]| succeeds(promtool().unwrap().args(args).current_dir(&monitoring), None);
    in_place(["check", "rules", "huddle.rules.yml"]);
    in_place(["test", "rules", "huddle.rules.test.yml"]);

    // A query is parsed like the expression of a rule.
    let dir = tempfile::tempdir().unwrap();
    let rule = |(number, query): (usize, String)| serde_json::json!({ "record": format!("query:of_dashboard:{number}"), "expr": query });
    let rules: Vec<Value> = queries().into_iter().enumerate().map(rule).collect();
    let file = dir.path().join("queries.yml");
    // JSON is YAML.
    let groups = serde_json::json!({ "groups": [{ "name": "dashboard", "rules": rules }] });
    std::fs::write(&file, groups.to_string()).unwrap();
    succeeds(promtool().unwrap().args(["check", "rules"]).arg(&file), None);
    std::fs::write(&file, groups.to_string().replace("topk(", "topp(")).unwrap();
    let refused = promtool().unwrap().args(["check", "rules"]).arg(&file).output().unwrap();
    assert!(!refused.status.success(), "it takes everything");
}

#[test]
fn each_alert_is_tested_and_has_its_reason_in_the_documentation() {
    let (rules, tests) =
        (read("packaging/monitoring/huddle.rules.yml"), read("packaging/monitoring/huddle.rules.test.yml"));
    let documentation = read("docs/metrics.md");
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() >= 10);
    for alert in alerts {
        assert!(tests.contains(&format!("alertname: {alert} ")), "{alert}: no test that it does not fire");
        assert!(tests.contains(&format!("alertname=\"{alert}\"")), "{alert}: no test that it fires");
        assert!(documentation.contains(&format!("`{alert}`")), "{alert}: not in docs/metrics.md");
    }
}

/// The table of docs/metrics.md.
fn table() -> String {
    let row = |family: &&Family| {
        let kind = match family.kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
        };
        let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        format!("| `{}` | {kind} | {} | {} |\n", family.sample_name(), labels.join(", "), family.help)
    };
    let rows: String = ALL.iter().map(row).collect();
    format!("| metric | type | labels | meaning |\n|---|---|---|---|\n{rows}")
}

#[test]
fn the_table_of_the_documentation_is_current() {
    let (begin, end) = ("<!-- metrics -->\n", "<!-- end of metrics -->");
    let page = read("docs/metrics.md");
    let (before, rest) = page.split_once(begin).unwrap();
    let (written, after) = rest.split_once(end).unwrap();
    if std::env::var_os(WRITE).is_some() {
        let page = format!("{before}{begin}{}{end}{after}", table());
        std::fs::write(repository().join("docs/metrics.md"), page).unwrap();
        return;
    }
    let hint =
        format!("docs/metrics.md is old: run `{WRITE}=1 cargo test --package huddle-metrics documentation`");
    assert!(written == table(), "{hint}");
}
