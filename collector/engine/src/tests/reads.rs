//! A loop in which shared frames count that are read.

use huddle_model::matrix::SharedReads;

use super::*;

/// Four VMs: a and b share most, and read of it what is said; a and c share less, and read it all.
struct Reads {
    of_most: u64,
    unavailable: Option<&'static str>,
}

impl SharingSource for Reads {
    fn measure(&mut self, vms: &[Vm]) -> Result<Measurement, StageError> {
        let memory = Some(MemoryUse { frames_used: 1000, ..MemoryUse::default() });
        let rows = vms.iter().map(|vm| MatrixVm::of(vm, memory)).collect();
        let pairs = |most: u64, less: u64| {
            vec![vec![0, most, less, 0], vec![0, 0, 0, less], vec![0, 0, 0, most], vec![0; 4]]
        };
        let unavailable = (0..4).map(|vm| self.unavailable.filter(|_| vm == 3).map(str::to_owned)).collect();
        let reads = SharedReads::new(&pairs(self.of_most, 200), None, 100, unavailable);
        let matrix = SharingMatrix::measured(Method::Merged, rows, &pairs(800, 200), 0.0, 1.0);
        Ok(Measurement {
            least_interval: Duration::from_secs(7),
            ..Measurement::of(matrix.with_reads(reads))
        })
    }
}

fn loop_by(weigh: Weigh, sharing: Reads, pinner: &FakePinner) -> Engine {
    let vms = [("a", 1), ("b", 2), ("c", 3), ("d", 4)].map(|(name, pid)| vm(name, pid)).to_vec();
    Engine { sharing: Box::new(sharing), weigh, ..engine(vec![Ok(vms)], pinner) }
}

/// The VM that is with a.
fn with_a(view: &View) -> &str {
    let plan = view.round.plan.value().unwrap();
    let domain = |name: &str| plan.domain_of(name, 0).map(|domain| domain.id);
    ["b", "c", "d"].into_iter().find(|other| domain(other) == domain("a")).unwrap()
}

#[test]
fn vms_are_placed_by_what_they_read_and_rounds_wait_as_long_as_it_costs() {
    let pinner = FakePinner::default();
    let mut by_all = loop_by(Weigh::All, Reads { of_most: 5, unavailable: None }, &pinner);
    assert_eq!(with_a(&round(&mut by_all)), "b");
    let mut by_reads = loop_by(Weigh::Read, Reads { of_most: 5, unavailable: None }, &pinner);
    let least = Duration::from_secs(1);
    assert_eq!(by_reads.interval(least), least);
    let view = round(&mut by_reads);
    assert_eq!(with_a(&view), "c");
    assert_eq!(by_reads.interval(least), Duration::from_secs(7));
    let plan = view.round.plan.value().unwrap();
    assert!(plan.reasons.iter().any(|reason| reason.contains("as far as both VMs read them")), "{plan:?}");
    // What is published has both.
    let matrix = view.round.matrix.value().unwrap();
    assert_eq!((matrix.shared_frames(0, 1), matrix.shared_frames_read(0, 1)), (Some(800), Some(5)));
}

#[test]
fn where_reads_of_a_vm_are_not_seen_all_frames_count_and_this_is_said_once() {
    let pinner = FakePinner::default();
    let unseen = Reads { of_most: 5, unavailable: Some("it runs in KVM") };
    let mut engine = loop_by(Weigh::Read, unseen, &pinner);
    let said = |view: &View| {
        let is_it =
            |text: &str| text.contains("all shared frames count") && text.contains("reads of d are not seen");
        let events = view.round.events.iter().filter(|event| is_it(&event.message)).count();
        (events, view.round.plan.value().unwrap().reasons.iter().any(|reason| is_it(reason)))
    };
    let first = round(&mut engine);
    assert_eq!((with_a(&first), said(&first)), ("b", (1, true)));
    assert_eq!(said(&round(&mut engine)), (0, true));
}

#[test]
fn where_nothing_is_read_nothing_is_moved() {
    let pinner = FakePinner::default();
    let mut engine = loop_by(Weigh::Read, Reads { of_most: 0, unavailable: None }, &pinner);
    assert_eq!(with_a(&round(&mut engine)), "c");
    struct Idle;
    impl SharingSource for Idle {
        fn measure(&mut self, vms: &[Vm]) -> Result<Measurement, StageError> {
            let measured = FakeSharing::default().measure(vms)?;
            let nothing = vec![vec![0; vms.len()]; vms.len()];
            let reads = SharedReads::new(&nothing, None, 100, vec![None; vms.len()]);
            Ok(Measurement { matrix: measured.matrix.clone().with_reads(reads), ..measured })
        }
    }
    engine.sharing = Box::new(Idle);
    let view = round(&mut engine);
    let waiting = view.round.plan.value().unwrap().waiting.clone().unwrap();
    assert!(waiting.contains("no two of the 4 VMs read a frame that they share"), "{waiting}");
}
