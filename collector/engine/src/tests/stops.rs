//! A loop that is stopped waits for no reading of the host.

use super::*;

/// Blocks until it is released.
struct Hanging(Option<std::sync::mpsc::Receiver<()>>);

impl SharingSource for Hanging {
    fn measure(&mut self, _: &[Vm]) -> Result<Measurement, StageError> {
        self.0.take().map(|held| held.recv());
        Err("it hung".into())
    }
}

impl VmSource for Hanging {
    fn discover(&mut self) -> Result<Discovery, StageError> {
        self.0.take().map(|held| held.recv());
        Err("it hung".into())
    }
}

impl Observer for Hanging {
    fn observe(&mut self, _: &[Vm], _: Option<&Topology>) -> Availability<Observation> {
        self.0.take().map(|held| held.recv());
        Availability::Unavailable("it hung".into())
    }
}

/// Whatever a round waits for, a stop undoes everything within a second, and nothing is pinned afterwards.
#[tokio::test]
async fn a_stop_waits_for_no_reading_of_the_host() {
    let hang = |stage: usize, engine: &mut Engine| {
        let (release, held) = std::sync::mpsc::channel();
        let hanging = Box::new(Hanging(Some(held)));
        match stage {
            0 => engine.vms = hanging,
            1 => engine.sharing = hanging,
            _ => engine.observer = Some(hanging),
        }
        release
    };
    for stage in 0..3 {
        let pinner = FakePinner::default();
        let mut engine = engine(vec![Ok(vec![vm("a", 1), vm("b", 2)])], &pinner);
        let release = hang(stage, &mut engine);
        let begun = std::time::Instant::now();
        let stop = tokio::time::sleep(Duration::from_millis(100));
        let options = RunOptions {
            without_passes: WITHOUT_PASSES,
            min_interval: Duration::ZERO,
            rounds: None,
            window: Duration::from_secs(60),
        };
        let publish = |step: &Step| panic!("an abandoned round published {step:?}");
        let end = run(engine, Box::new(Often), stop, publish, no_commands(), options).await.unwrap();
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(1), "stage {stage}: {took:?}");
        assert_eq!((end.rounds, end.undo.unwrap().restored), (0, 1), "stage {stage}");
        assert_eq!(*pinner.0.lock().unwrap(), ["undo"], "stage {stage}");
        drop(release);
        // The abandoned reading ends by itself, and has no effect.
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(*pinner.0.lock().unwrap(), ["undo"], "stage {stage}");
    }
}

/// KSM does not answer until it is released.
struct HangingKsm(Option<std::sync::mpsc::Receiver<()>>);

impl HostSource for HangingKsm {
    fn topology(&mut self) -> Result<Topology, StageError> {
        FakeHost.topology()
    }

    fn ksm(&mut self) -> Result<KsmState, StageError> {
        self.0.take().map(|held| held.recv());
        FakeHost.ksm()
    }

    fn node_pages(&mut self, process: TaskId) -> Result<BTreeMap<u32, u64>, StageError> {
        FakeHost.node_pages(process)
    }

    fn runnable_per_cpu(&mut self) -> Result<f64, StageError> {
        FakeHost.runnable_per_cpu()
    }

    fn own_cpu_us(&mut self) -> Result<u64, StageError> {
        FakeHost.own_cpu_us()
    }
}

/// A round that has pinned is published, though a fact of it is not known.
#[tokio::test]
async fn a_stop_waits_for_no_fact_that_is_read_after_pinning() {
    let pinner = FakePinner::default();
    let mut engine = engine(vec![Ok(vec![vm("a", 1)])], &pinner);
    let (release, held) = std::sync::mpsc::channel();
    engine.host = Box::new(HangingKsm(Some(held)));
    let begun = std::time::Instant::now();
    let stop = tokio::time::sleep(Duration::from_millis(100));
    let options = RunOptions {
        without_passes: WITHOUT_PASSES,
        min_interval: Duration::ZERO,
        rounds: None,
        window: Duration::from_secs(60),
    };
    let rounds = Mutex::new(Vec::new());
    let publish = |step: &Step| {
        let round = step.iter().find_map(|update| match update {
            Update::Round(round) => round.ksm.reason().map(str::to_owned),
            _ => None,
        });
        rounds.lock().unwrap().extend(round);
    };
    let end = run(engine, Box::new(Often), stop, publish, no_commands(), options).await.unwrap();
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(end.undo.unwrap().restored, 1);
    assert_eq!(*rounds.lock().unwrap(), ["the loop is ending, and does not wait for this"]);
    assert_eq!(*pinner.0.lock().unwrap(), ["apply 1 of 1", "undo"]);
    drop(release);
}
