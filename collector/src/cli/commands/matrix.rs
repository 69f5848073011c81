//! `huddle matrix`.

use huddle_model::matrix::{Method, SharingMatrix};

use crate::cli::args::{Common, Format, MatrixArgs};
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::table::{print, print_json, print_table, right, table};

pub(crate) fn run(common: &Common, args: &MatrixArgs) -> Result<(), Failure> {
    let context = Context::new(common)?;
    let method = args.method.map(Method::from).unwrap_or(context.backend.default_method());
    if method != Method::Content
        && let Some(name) = args.content.given()
    {
        let error = anyhow::anyhow!("{name} is of method content: add --method content");
        return Err(Failure::usage(error));
    }
    let (vms, matrix) = context.measure(Some(method), &args.content)?;
    match common.format {
        Format::Json => print_json(&matrix),
        _ => {
            print_matrix(&matrix)?;
            for vm in &vms {
                for reason in &vm.cannot_merge {
                    print(format!("{}: {reason}", vm.name))?;
                }
            }
            Ok(())
        }
    }
}

/// The rates as the paper prints them, then what each VM's memory consists of.
pub(crate) fn print_matrix(matrix: &SharingMatrix) -> Result<(), Failure> {
    let names: Vec<&str> = matrix.vms().iter().map(|vm| vm.name.as_str()).collect();
    let mut rates = table(&[&["shares with"], names.as_slice()].concat());
    right(&mut rates, 1..=names.len());
    for (i, name) in names.iter().enumerate() {
        let cells = (0..names.len()).map(|j| match matrix.rate_error(i, j) {
            _ if i == j => "-".into(),
            Some(error) => format!("{:.2} ± {:.2} %", matrix.rate(i, j) * 100.0, error * 100.0),
            None => format!("{:.2} %", matrix.rate(i, j) * 100.0),
        });
        rates.add_row(std::iter::once((*name).to_owned()).chain(cells));
    }
    print_table(&rates)?;

    let mut memory = table(&[
        "VM",
        "vCPUs",
        "resident pages",
        "used pages",
        "used frames",
        "zero pages",
        "self-shared pages",
    ]);
    right(&mut memory, 1..=6);
    for vm in matrix.vms() {
        let figures = vm.memory.map(|memory| {
            [
                memory.pages_resident,
                memory.pages_used,
                memory.frames_used,
                memory.pages_zero,
                memory.self_shared_pages,
            ]
        });
        let cells: Vec<String> = match figures {
            Some(figures) => figures.iter().map(u64::to_string).collect(),
            None => vec!["?".into(); 5],
        };
        memory.add_row([vec![vm.name.clone(), vm.vcpus.to_string()], cells].concat());
    }
    print("")?;
    print_table(&memory)?;
    let duration = matrix.duration_ms().map_or_else(String::new, |ms| format!(", measured in {ms:.1} ms"));
    let coverage = matrix.coverage().map_or_else(String::new, |part| format!(", {:.1} % read", part * 100.0));
    let frames = match matrix.method() {
        Method::Content => "distinct contents: the frames it would use if everything equal were merged",
        _ => "used frames",
    };
    let method = matrix.method();
    print(format!("\nmethod {method}{coverage}{duration}; a row is the share of that VM's {frames}"))?;
    if matrix.len() > 1 && matrix.rate_error(0, 1).is_some() {
        print("figures are estimates from a sample; after ± is the standard error of each rate")?;
    }
    Ok(())
}
