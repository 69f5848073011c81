//! `huddle matrix`.

use huddle_model::matrix::{Method, SharingMatrix};

use crate::cli::args::{Common, Format, MatrixArgs};
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::table::{Table, print, print_json, print_table, right, table};

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
        let percent = |share: f64| format!("{:.2}", share * 100.0);
        let cells = (0..names.len()).map(|j| match matrix.rate_ci95(i, j) {
            _ if i == j => "-".into(),
            Some([low, high]) => {
                format!("{} [{} to {}] %", percent(matrix.rate(i, j)), percent(low), percent(high))
            }
            None => format!("{} %", percent(matrix.rate(i, j))),
        });
        rates.add_row(std::iter::once((*name).to_owned()).chain(cells));
    }
    print_table(&rates)?;
    if matrix.pairs().any(|(i, j)| matrix.shared_file_frames(i, j).is_some_and(|frames| frames > 0)) {
        print("")?;
        print_table(&parts("shares by files with", matrix, &names, SharingMatrix::shared_file_frames))?;
    }
    if let Some(window_ms) = matrix.read_window_ms() {
        print("")?;
        print_table(&parts("reads what it shares with", matrix, &names, SharingMatrix::shared_frames_read))?;
        print(format!("of the shared frames those that both VMs read within {window_ms} ms"))?;
        for (vm, name) in names.iter().enumerate() {
            if let Some(reason) = matrix.reads_unavailable(vm) {
                print(format!("{name}: what it reads is not seen: {reason}"))?;
            }
        }
    }

    let mut memory = table(&[
        "VM",
        "vCPUs",
        "resident pages",
        "file pages",
        "used pages",
        "used frames",
        "zero pages",
        "self-shared pages",
    ]);
    right(&mut memory, 1..=7);
    for vm in matrix.vms() {
        let figures = vm.memory.map(|memory| {
            [
                Some(memory.pages_resident),
                memory.pages_file,
                Some(memory.pages_used),
                Some(memory.frames_used),
                Some(memory.pages_zero),
                Some(memory.self_shared_pages),
            ]
        });
        let number = |figure: Option<u64>| figure.map_or_else(|| "?".into(), |figure| figure.to_string());
        let cells = figures.unwrap_or_default().map(number).to_vec();
        memory.add_row([vec![vm.name.clone(), vm.vcpus.to_string()], cells].concat());
    }
    print("")?;
    print_table(&memory)?;
    let duration = matrix.duration_ms().map_or_else(String::new, |ms| format!(", measured in {ms:.1} ms"));
    let is_sample = matrix.len() > 1 && matrix.rate_error(0, 1).is_some();
    let what = if is_sample { "of contents compared" } else { "read" };
    let coverage =
        matrix.coverage().map_or_else(String::new, |part| format!(", {:.1} % {what}", part * 100.0));
    let frames = match matrix.method() {
        Method::Content => "distinct contents: the frames it would use if everything equal were merged",
        _ => "used frames",
    };
    let method = matrix.method();
    print(format!("\nmethod {method}{coverage}{duration}; a row is the share of that VM's {frames}"))?;
    if is_sample {
        print(
            "rates, used frames and self-shared pages are estimates from a sample of contents; in brackets is the \
             95 % interval of each rate",
        )?;
    }
    Ok(())
}

/// Some of the frames that each pair shares.
fn parts(
    what: &str,
    matrix: &SharingMatrix,
    names: &[&str],
    part: impl Fn(&SharingMatrix, usize, usize) -> Option<u64>,
) -> Table {
    let mut frames = table(&[&[what], names].concat());
    right(&mut frames, 1..=names.len());
    for (i, name) in names.iter().enumerate() {
        let cells = (0..names.len()).map(|j| match (part(matrix, i, j), matrix.shared_frames(i, j)) {
            _ if i == j => "-".into(),
            (Some(part), Some(all)) => format!("{part} of {all}"),
            _ => "?".into(),
        });
        frames.add_row(std::iter::once((*name).to_owned()).chain(cells));
    }
    frames
}
