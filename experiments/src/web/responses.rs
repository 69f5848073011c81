//! Writes every response to the table `responses` of recordings.

use std::path::{Path, PathBuf};

use huddle_model::schema::{ResponseRow, Table};
use huddle_model::summary::Block;
use huddle_record::{RecordError, write_segment};

/// Writes all responses of all blocks, the invalid ones too, beneath the run's `directory`.
///
/// # Errors
/// The file cannot be written.
pub(super) fn write(directory: &Path, blocks: &[Block]) -> Result<PathBuf, RecordError> {
    write_segment(directory, Table::Responses, blocks.iter().map(rows))
}

fn rows(block: &Block) -> Vec<ResponseRow> {
    let mut rows = Vec::new();
    for sample in &block.samples {
        for tenant in &sample.tenants {
            rows.extend(tenant.responses.iter().map(|response| ResponseRow {
                at_us: response.at_us,
                window: 0,
                round: 0,
                vm: tenant.vm.clone(),
                // VMs of an experiment are named by its specification, and it is one trial.
                vm_kind: None,
                uuid: None,
                domid: None,
                trial: None,
                arm: Some(sample.arm.name().to_owned()),
                block: Some(u32::try_from(block.number).unwrap_or(u32::MAX)),
                latency_us: Some(response.latency_ns as f64 / 1000.0),
                status: response.status.map(u32::from),
                failure: response.failure.map(|why| why.name().to_owned()),
            }));
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use huddle_model::summary::{Arm, Failure, Response, Sample, TenantSample};

    use super::*;

    #[test]
    fn every_response_is_a_row_and_a_failure_is_no_number() {
        let good = Response { at_us: 7, latency_ns: 1500, status: Some(200), failure: None };
        let bad = Response { at_us: 8, latency_ns: 9, status: None, failure: Some(Failure::TimedOut) };
        let tenants = vec![TenantSample::new("vm1", vec![good, bad], 0..2, None)];
        let samples = vec![Sample { tenants, ..Sample::new(Arm::Opposed) }];
        let block = Block { number: 3, samples, invalid: None };
        let rows = rows(&block);
        let outcome = |row: &ResponseRow| (row.latency_us, row.status, row.failure.clone());
        assert_eq!(outcome(&rows[0]), (Some(1.5), Some(200), None));
        assert_eq!(outcome(&rows[1]), (Some(0.009), None, Some("timed_out".into())));
        assert_eq!((rows[0].arm.as_deref(), rows[0].block, &*rows[0].vm), (Some("opposed"), Some(3), "vm1"));

        let dir = tempfile::tempdir().unwrap();
        let path = write(dir.path(), &[block]).unwrap();
        assert_eq!(path, dir.path().join("responses/segment-000001.parquet"));
        let files = std::fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(files, 1, "no temporary file is left");
        let place = dir.path().join("file");
        std::fs::write(&place, "").unwrap();
        assert!(write(&place, &[]).unwrap_err().to_string().contains("file"));
    }
}
