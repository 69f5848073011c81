//! `huddle doctor`.

use crate::doctor::{Finding, State, examine, try_out};
use serde::Serialize;

use crate::cli::args::{Common, Format};
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::table::{print, print_json};

/// Adds a finding behind those of its area.
fn add(findings: &mut Vec<Finding>, found: Finding) {
    let last = findings.iter().rposition(|other| other.area == found.area);
    findings.insert(last.map_or(findings.len(), |last| last + 1), found);
}

pub(crate) fn run(common: &Common) -> Result<(), Failure> {
    let context = Context::new(common)?;
    let mut findings = examine(&context.root);
    add(&mut findings, context.core_scheduling());
    findings.extend(try_out(&context.root, &context.counters.event_set(&context.root)?));
    match common.format {
        Format::Json => {
            #[derive(Serialize)]
            struct Out<'a> {
                schema: &'static str,
                findings: &'a [Finding],
            }
            print_json(&Out { schema: "huddle/doctor/1", findings: &findings })
        }
        _ => {
            let mut area = "";
            for finding in &findings {
                if finding.area != area {
                    area = finding.area;
                    print(area)?;
                }
                let mark = match finding.state {
                    State::Good => "ok     ",
                    State::Degraded => "limited",
                    State::Missing => "missing",
                };
                print(format!("  {mark} {}: {}", finding.item, finding.value))?;
                print(format!("          {}", finding.meaning))?;
                if let Some(remedy) = &finding.remedy {
                    print(format!("          -> {remedy}"))?;
                }
            }
            let gaps = findings.iter().filter(|finding| finding.state != State::Good).count();
            print(format!("\n{} items checked, {gaps} limit what can be measured", findings.len()))
        }
    }
}
