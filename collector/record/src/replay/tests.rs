use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use arrow_schema::Schema;
use huddle_model::availability::Availability;
use huddle_model::event::{Event, EventKind};
use huddle_model::id::{TaskId, Uuid, VcpuId, VmId, XenDomainId};
use huddle_model::matrix::{MatrixVm, MemoryUse, Method, SharingMatrix};
use huddle_model::observation::Observation;
use huddle_model::page_size::PageSize;
use huddle_model::schema::{Environment, MANIFEST_FILE, RowContext, SCHEMA_VERSION, Table};
use huddle_model::topology::Topology;
use huddle_model::update::Round;
use huddle_model::view::View;
use huddle_model::vm::{MemoryKind, Vm, VmmKind};
use huddle_testing::older::forget_checksums;
use huddle_testing::{sample, sample_observed};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::properties::WriterProperties;
use proptest::prelude::*;
use serde_json::Value;

use super::*;

mod damaged;
mod footers;
mod older;
mod rewritten;

const SECOND: u64 = 1_000_000;

/// What a loop over `vms` VMs publishes: rounds a second apart, each with the window that ended in it, and one
/// window in between.
fn published(rounds: u64, vms: usize) -> Vec<View> {
    let mut all: Vec<View> = Vec::new();
    let mut window = 0;
    for round in 1..=rounds {
        let mut view = sample_observed::observed(round, vms);
        let seen = view.observation.value().map(Arc::clone).unwrap();
        let first = view.round.vms[0].reference();
        let event = |at_unix_us, what: &str| Event {
            at_unix_us,
            kind: EventKind::Note,
            vm: Some(first.clone()),
            message: format!("{what} of round {round}"),
        };
        let mut next = |begin_unix_us, end_unix_us, round| {
            window += 1;
            let observation =
                Observation { window, round, begin_unix_us, end_unix_us, ..Observation::clone(&seen) };
            Availability::Available(Arc::new(observation))
        };
        let own = Arc::make_mut(&mut view.round);
        own.events.push(event(own.end_unix_us, "the end"));
        view.events = Arc::new(own.events.clone());
        let (begin, end) = (own.begin_unix_us, own.end_unix_us);
        view.observation = match round {
            1 => Availability::Unavailable(
                "the recording does not hold a window that ended with this round".into(),
            ),
            _ => next(begin - SECOND / 2, begin + 100, round - 1),
        };
        let mut within = View { observation: next(end, begin + SECOND / 2, round), ..view.clone() };
        Arc::make_mut(&mut within.events).push(event(begin + SECOND / 2 + 7, "a window"));
        all.push(view);
        all.push(within);
    }
    all
}

/// A manifest of the topology that the samples have.
fn manifest() -> Manifest {
    let topology = sample::view(1, 1).round.topology.clone();
    Manifest { topology: topology.map(|topology| (&*topology).into()), ..sample::manifest() }
}

/// Records what a loop with these views publishes, in segments of `a_segment` steps each.
fn record(dir: &Path, views: &[View], a_segment: usize) {
    record_with(dir, views, a_segment, manifest());
}

fn record_with(dir: &Path, views: &[View], a_segment: usize, manifest: Manifest) {
    let mut limits = crate::RecorderLimits::default();
    limits.segment.max_age = Duration::from_secs(3600);
    let mut writer = crate::RunWriter::create(dir, manifest, limits).unwrap();
    let mut context = RowContext::default();
    let mut now = Instant::now();
    for (at, step) in sample::steps(views).iter().enumerate() {
        if at > 0 && at % a_segment == 0 {
            now += limits.segment.max_age;
            writer.tick(now);
        }
        writer.write(&context.rows(&step[..]), now);
    }
    writer.finish(now, 1_800_000_000_000_000);
}

/// A view without what is not recorded: what else looked like a VM, the reasons within windows, names of threads, allowed CPUs, the state of a
/// trial, and the parts of the expected effect of a plan (its reasons have them as text).
fn recorded_part(view: &View) -> Value {
    let mut value = serde_json::to_value(view).unwrap();
    forget_reasons(&mut value["observation"]);
    if let Some(comparison) = value["comparison"].get_mut("available") {
        comparison["phase"].take();
        comparison["arms"].take();
    }
    let round = &mut value["round"];
    round["left_out"].take();
    if let Some(plan) = round["plan"].get_mut("available") {
        plan["expected"].take();
    }
    for vm in round["vms"].as_array_mut().unwrap() {
        vm["allowed_cpus"].take();
        vm["vcpus"].as_array_mut().unwrap().iter_mut().for_each(|vcpu| _ = vcpu["thread_name"].take());
    }
    value
}

fn forget_reasons(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("unavailable").inspect(|_| _ = fields.insert("unavailable".into(), Value::Null));
            fields.values_mut().for_each(forget_reasons);
        }
        Value::Array(values) => values.iter_mut().for_each(forget_reasons),
        _ => {}
    }
}

fn replayed(recording: &mut Recording) -> Vec<View> {
    (0..recording.len()).map(|at| recording.view(at).unwrap()).collect()
}

fn segment(dir: &Path, table: Table, number: u64) -> PathBuf {
    dir.join(table.name()).join(format!("segment-{number:06}.parquet"))
}

fn open_error(dir: &Path) -> String {
    Recording::open(dir).map(|recording| recording.len()).unwrap_err().to_string()
}

#[test]
fn what_the_loop_published_is_read_back() {
    for (vms, a_segment) in [(3, 1000), (3, 4), (1, 3), (5, 1)] {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run-7");
        let published = published(6, vms);
        record(&run, &published, a_segment);
        let mut recording = Recording::open(&run).unwrap();
        assert_eq!(recording.warnings(), [""; 0]);
        assert_eq!((recording.name(), recording.len()), ("run-7", published.len()));
        let found = replayed(&mut recording);
        // A subscriber of the recording's steps sees what a subscriber of the loop saw.
        let mut followed = None;
        for (at, view) in found.iter().enumerate() {
            View::follow(&mut followed, &recording.step(at).unwrap()[..]);
            assert_eq!(followed.as_ref(), Some(view), "step {at}");
        }
        for (at, (found, published)) in found.iter().zip(&published).enumerate() {
            let mut expected = recorded_part(published);
            if vms == 1 {
                // Without a pair the recording does not have how the matrix of one VM was measured.
                for (name, value) in
                    [("method", "file".into()), ("duration_ms", Value::Null), ("coverage", Value::Null)]
                {
                    expected["round"]["matrix"]["available"][name] = value;
                }
            }
            if published.round.number < 4 {
                // A decision is visible from its own time on: the sample's is of the fourth second.
                assert!(found.decisions.is_empty());
            }
            assert_eq!(recorded_part(found), expected, "step {at} of {vms} VMs");
        }
        let times: Vec<u64> = recording.times_unix_us().collect();
        assert!(times.is_sorted() && times.len() == found.len());
        assert_eq!(recording.span_unix_us(), (times[0], *times.last().unwrap()));
        assert_eq!(recording.rounds().map(|(_, round)| round).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
        // In any order, and twice.
        for at in [11, 0, 7, 7, 3] {
            assert_eq!(recording.view(at).unwrap(), found[at]);
        }
        let beyond = recording.view(12).unwrap_err().to_string();
        assert!(beyond.contains("12"), "{beyond}");
    }
}

/// Earlier versions recorded each decision as an event too.
#[test]
fn a_decision_is_not_an_event_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let mut views = published(6, 2);
    let decision = views.iter().find_map(|view| view.decisions.first()).unwrap().clone();
    for view in views.iter_mut().filter(|view| view.round.number == 4) {
        let own = Arc::make_mut(&mut view.round);
        let message = decision.to_string();
        own.events.push(Event { at_unix_us: own.end_unix_us, kind: EventKind::Note, vm: None, message });
        view.events = Arc::new(own.events.clone());
    }
    record(dir.path(), &views, 100);
    let views = replayed(&mut Recording::open(dir.path()).unwrap());
    let repeats = |view: &View| view.events.iter().any(|event| event.message.contains(&decision.reason));
    assert!(!views.iter().any(repeats));
    assert!(views.last().unwrap().decisions.contains(&decision));
}

#[test]
fn a_recording_of_the_first_version_has_rounds_and_no_windows() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let published: Vec<View> = (1..4).map(|round| sample::view(round, 2)).collect();
    record_with(&run, &published, 1000, Manifest { schema_version: 1, ..manifest() });
    let mut recording = Recording::open(&run).unwrap();
    let skipped =
        "the table groups is skipped: it was added in schema version 6, and the manifest has version 1";
    assert_eq!((recording.len(), recording.warnings()), (3, &[skipped.to_owned()][..]));
    let second = recording.view(1).unwrap();
    let [found, was] = [&second, &published[1]].map(|view| view.round.matrix.value().unwrap());
    assert_eq!((found.shared_frames(0, 1), found.shared_groups()), (was.shared_frames(0, 1), None));
    assert!(second.observation.reason().unwrap().contains("does not hold a window"));
    assert!(second.comparison.reason().unwrap().contains("does not hold a decision"));
}

#[test]
fn a_recording_that_is_still_written_shows_what_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let mut limits = crate::RecorderLimits::default();
    limits.segment.max_age = Duration::from_secs(60);
    let mut writer = crate::RunWriter::create(&run, manifest(), limits).unwrap();
    let (mut context, now, all) = (RowContext::default(), Instant::now(), published(4, 2));
    let steps = sample::steps(&all);
    let mut write = |step: &Step, now| assert!(writer.write(&context.rows(&step[..]), now));
    write(&steps[0], now);
    assert!(open_error(&run).contains("the recording has no end"));
    steps[1..5].iter().for_each(|step| write(step, now));
    // This one closes the first segments, and is in open ones itself.
    write(&steps[5], now + Duration::from_secs(60));
    write(&steps[6], now + Duration::from_secs(61));
    let mut recording = Recording::open(&run).unwrap();
    assert_eq!(recording.warnings().len(), 1, "{:?}", recording.warnings());
    let found = replayed(&mut recording);
    assert!((5..7).contains(&found.len()), "{}", found.len());
    for (found, published) in found.iter().zip(&all[..5]) {
        assert_eq!(
            (found.round.number, &found.round.matrix),
            (published.round.number, &published.round.matrix)
        );
    }
}

#[test]
fn other_cache_domains_than_at_the_start_are_not_made_up() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let other = Topology::from_json(r#"{"domains":[{"id":0,"cpus":[0,1,2]},{"id":1,"cpus":[3]}]}"#).unwrap();
    record_with(
        &run,
        &published(2, 2),
        1000,
        Manifest { topology: Availability::Available((&other).into()), ..manifest() },
    );
    let round = Recording::open(&run).unwrap().view(0).unwrap().round;
    assert!(round.topology.reason().unwrap().contains("others than at its start"));
    let plan = round.plan.value().unwrap();
    assert_eq!(plan.placement, sample::view(1, 2).round.plan.value().unwrap().placement);
    assert!(plan.domains.iter().all(|domain| domain.cpus.len() == 1), "{:?}", plan.domains);
}

/// Rewrites a segment as version 2 wrote it: with another name for one column.
fn age_by_one_version(path: &Path, name: &str, old: &str) {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    let about = builder.metadata().file_metadata().key_value_metadata().unwrap().clone();
    let about = about.into_iter().filter(|entry| entry.key != "ARROW:schema").map(|mut entry| {
        if entry.key == "huddle.schema_version" {
            entry.value = Some("2".to_owned());
        }
        entry
    });
    let fields = builder.schema().fields().iter().map(|field| {
        let named = if field.name() == name { old } else { field.name() };
        field.as_ref().clone().with_name(named)
    });
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let properties = WriterProperties::builder().set_key_value_metadata(Some(about.collect())).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), Arc::clone(&schema), Some(properties)).unwrap();
    for batch in builder.build().unwrap() {
        let columns = batch.unwrap().columns().to_vec();
        writer.write(&RecordBatch::try_new(Arc::clone(&schema), columns).unwrap()).unwrap();
    }
    std::fs::write(path, writer.into_inner().unwrap()).unwrap();
}

#[test]
fn columns_of_older_versions_are_read_by_their_old_names() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let published: Vec<View> = (1..4).map(|round| sample::view(round, 2)).collect();
    record_with(&run, &published, 1000, manifest());
    forget_checksums(&run);
    age_by_one_version(&segment(&run, Table::Ksm, 1), "ksm_run", "run");
    let mut recording = Recording::open(&run).unwrap();
    assert_eq!(recording.warnings(), &[] as &[String]);
    assert_eq!(recording.view(1).unwrap().round.ksm, published[1].round.ksm);

    // Any other name is a fault.
    age_by_one_version(&segment(&run, Table::Ksm, 1), "run", "runs");
    let recording = Recording::open(&run).unwrap();
    assert!(recording.warnings()[0].contains("run is missing"), "{:?}", recording.warnings());
}

/// A VM of one kind or the other, with its vCPU.
fn identity() -> impl Strategy<Value = (VmId, Option<Uuid>, VcpuId)> {
    let task = |id: i32, start_ticks| TaskId { id, start_ticks };
    let process = (1i32..1 << 22, any::<u64>(), any::<Option<u128>>(), any::<(i32, u64)>());
    let held = process.prop_map(move |(pid, start, uuid, (tid, started))| {
        (task(pid, start).into(), uuid.map(Uuid::from_u128), task(tid, started).into())
    });
    let on_xen = (any::<u32>(), any::<u128>()).prop_map(|(domid, uuid)| {
        let domain = XenDomainId { domid, uuid: Uuid::from_u128(uuid) };
        (VmId::XenDomain(domain), Some(domain.uuid), VcpuId::Xen { domain, vcpu: 0 })
    });
    prop_oneof![held, on_xen]
}

/// The view with VMs of these identities.
fn identified(mut view: View, ids: &[(VmId, Option<Uuid>, VcpuId)]) -> View {
    let round = Arc::make_mut(&mut view.round);
    for (vm, (id, uuid, vcpu)) in Arc::make_mut(&mut round.vms).iter_mut().zip(ids) {
        (vm.id, vm.uuid, vm.vcpus[0].id, vm.vcpus[0].process) = (*id, *uuid, *vcpu, id.process());
        vm.memory[0].process = id.process();
        vm.vmm = if id.process().is_some() { VmmKind::QemuKvm } else { VmmKind::XenPvh };
    }
    let memory = MemoryUse { frames_used: 800, ..MemoryUse::default() };
    let measured = round.vms.iter().map(|vm| MatrixVm::of(vm, Some(memory))).collect();
    let shared = vec![vec![7; ids.len()]; ids.len()];
    let matrix = SharingMatrix::measured(Method::Merged, measured, &shared, 1.0, 1.0);
    round.matrix = Availability::Available(Arc::new(matrix));
    if let Availability::Available(seen) = &mut view.observation {
        let seen = Arc::make_mut(seen);
        seen.vms = round.vms.iter().map(Vm::reference).collect();
        for (vcpu, (id, _, of)) in seen.vcpus.iter_mut().zip(ids) {
            (vcpu.id, vcpu.process) = (*of, id.process());
        }
        for (merging, (id, ..)) in seen.merging.iter_mut().zip(ids) {
            merging.id = *id;
        }
    }
    view
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn ids_of_both_kinds_are_read_back_from_parquet(ids in proptest::collection::vec(identity(), 1..5)) {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        let published = identified(sample_observed::observed(2, ids.len()), &ids);
        record(&run, std::slice::from_ref(&published), 1000);
        let mut recording = Recording::open(&run).unwrap();
        prop_assert_eq!(recording.warnings(), &[] as &[String]);
        let found = recording.view(recording.len() - 1).unwrap();
        let of = |view: &View| -> Vec<_> {
            view.round.vms.iter().map(|vm| (vm.id, vm.uuid, vm.vcpus[0].id)).collect()
        };
        prop_assert_eq!(of(&found), ids);
        prop_assert_eq!(
            found.round.matrix.value().unwrap().vms(),
            published.round.matrix.value().unwrap().vms()
        );
        let (seen, was) = (found.observation.value().unwrap(), published.observation.value().unwrap());
        prop_assert_eq!(&seen.vms, &was.vms);
        prop_assert_eq!(&seen.trial, &was.trial);
        let vcpus = |seen: &Observation| -> Vec<_> {
            seen.vcpus.iter().map(|vcpu| (vcpu.id, vcpu.process, vcpu.run_ns())).collect()
        };
        prop_assert_eq!(vcpus(seen), vcpus(was));
        let merging = |seen: &Observation| -> Vec<_> { seen.merging.iter().map(|vm| vm.id).collect() };
        prop_assert_eq!(merging(seen), merging(was));
    }
}

/// A vCPU on Xen that may run on several CPUs: its CPU time is known, and not where it was used.
#[test]
fn cpu_time_without_a_place_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let mut published = sample_observed::observed(2, 1);
    let Availability::Available(seen) = &mut published.observation else { panic!() };
    let seen = Arc::make_mut(seen);
    seen.vcpus[0].residency = Availability::Unavailable("on one of several".into());
    seen.vcpus[0].migrations = Availability::Unavailable("not reported".into());
    seen.vcpus[0].run_ns_anywhere = Some(123_456);
    record(&run, &[published], 1000);
    let mut recording = Recording::open(&run).unwrap();
    let found = recording.view(recording.len() - 1).unwrap();
    let vcpu = &found.observation.value().unwrap().vcpus[0];
    assert_eq!((vcpu.run_ns(), vcpu.residency.value()), (Some(123_456), None));
}

/// Frames of a recording have the size of the host's pages, which its manifest has.
#[test]
fn pages_have_the_size_that_the_manifest_has() {
    let dir = tempfile::tempdir().unwrap();
    let published = published(2, 3);
    let recorded = sample::manifest();
    for (name, page_bytes, expected) in [("new", PageSize::new(65_536).ok(), 65_536), ("old", None, 4096)] {
        let run = dir.path().join(name);
        let environment = Environment { page_bytes, ..recorded.environment.clone() };
        record_with(&run, &published, 1000, Manifest { environment, ..manifest() });
        let mut recording = Recording::open(&run).unwrap();
        let view = recording.view(0).unwrap();
        let matrix = view.round.matrix.value().unwrap();
        let ksm = view.round.ksm.value().unwrap();
        assert_eq!((matrix.page_size().bytes(), ksm.page_size.bytes()), (expected, expected), "{name}");
    }
}
