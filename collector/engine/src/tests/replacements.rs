//! Other settings for a loop that runs.

use std::time::Instant;

use huddle_model::trial::Outcome;

use super::trials::{next_decision, trying};
use super::*;

/// Replaces nothing.
fn nothing() -> Replacement {
    Replacement { policy: None, weigh: None, limits: None, sources: None, notes: Vec::new() }
}

fn other_policy(policy: Policy) -> Replacement {
    let notes = vec!["the policy has changed".to_owned()];
    Replacement { policy: Some(policy), notes, ..nothing() }
}

fn sources(vms: Vec<Vm>) -> Option<Sources> {
    Some(Sources {
        vms: Box::new(FakeVms([Ok(vms)].into())),
        sharing: Box::new(FakeSharing::default()),
        host: Box::new(FakeHost),
    })
}

/// Long before a round is due by time.
fn options(rounds: u64, min_interval: Duration) -> RunOptions {
    let hour = Duration::from_secs(3600);
    RunOptions { without_passes: hour, min_interval, rounds: Some(rounds), window: hour }
}

#[tokio::test]
async fn other_settings_are_put_in_force_between_steps_and_a_round_follows() {
    let pinner = FakePinner::default();
    let mut engine = engine(vec![Ok(vec![vm("a", 1)])], &pinner);
    let (progress, replacements) = (engine.memory.progress(), engine.memory.replacements());
    let sources = sources(vec![vm("b", 2), vm("c", 3)]);
    assert!(replacements.send(Replacement { sources, ..other_policy(Policy::None) }).await.is_ok());
    let publisher = Publisher::new(100);
    let events = Mutex::new(Vec::new());
    let publish = |step: &Step| {
        let messages = step.iter().filter_map(|update| match update {
            Update::Event(event) => Some((event.kind, event.message.clone())),
            _ => None,
        });
        events.lock().unwrap().extend(messages);
        publisher.publish(step, Arc::clone(step));
    };
    let (passes, never) = (Box::new(Idle::default()), std::future::pending());
    let end = run(engine, passes, never, publish, no_commands(), options(2, Duration::ZERO));
    assert_eq!(end.await.unwrap().rounds, 2);
    let view = publisher.view().unwrap();
    let names: Vec<_> = view.round.vms.iter().map(|vm| vm.name.as_str()).collect();
    assert_eq!(names, ["b", "c"]);
    assert_eq!(view.round.plan.value().unwrap().policy, Policy::None);
    let said = (EventKind::Lifecycle, "the policy has changed".to_owned());
    assert!(events.lock().unwrap().contains(&said), "{events:?}");
    let steps = progress.so_far();
    assert!(steps.ended >= 3 && !steps.is_busy, "{steps:?}");
}

/// The round of a replacement is one like any other for what follows it.
#[tokio::test]
async fn rounds_keep_their_distance_from_that_of_a_replacement() {
    let (least, later) = (Duration::from_millis(400), Duration::from_millis(300));
    let mut engine = engine(vec![Ok(vec![vm("a", 1)])], &FakePinner::default());
    let replacements = engine.memory.replacements();
    let begun = Instant::now();
    let rounds = Mutex::new(Vec::new());
    let publish = |step: &Step| {
        if step.iter().any(|update| matches!(update, Update::Round(_))) {
            rounds.lock().unwrap().push(begun.elapsed());
        }
    };
    let (often, never) = (Box::new(Often), std::future::pending());
    let replace = async {
        tokio::time::sleep(later).await;
        assert!(replacements.send(other_policy(Policy::Spread)).await.is_ok());
    };
    let (end, ()) =
        tokio::join!(run(engine, often, never, publish, no_commands(), options(3, least)), replace);
    assert_eq!(end.unwrap().rounds, 3);
    let rounds = rounds.into_inner().unwrap();
    assert!(rounds[1] < least, "it waits for nothing: {rounds:?}");
    // A round begins a little before it is published.
    let apart = rounds[2] - rounds[1];
    assert!(apart + Duration::from_millis(50) > least && apart < 3 * least, "{rounds:?}");
}

/// Whoever waits for a pass goes on waiting, also after passes are no longer reported.
#[tokio::test]
async fn a_replacement_is_put_in_force_after_the_trigger_broke() {
    let mut engine = engine(vec![Ok(vec![vm("a", 1)])], &FakePinner::default());
    let replacements = engine.memory.replacements();
    let publisher = Publisher::new(100);
    let broken = |view: &View| view.events.iter().any(|event| event.message.contains("no longer reported"));
    let (is_broken, is_spread) = (seen(publisher.subscribe(), broken), publisher.subscribe());
    let stop = async {
        is_broken.await;
        assert!(replacements.send(other_policy(Policy::Spread)).await.is_ok());
        seen(is_spread, |view| view.round.plan.value().unwrap().policy == Policy::Spread).await;
    };
    let publish = |step: &Step| publisher.publish(step, Arc::clone(step));
    let options = RunOptions { rounds: None, ..options(0, Duration::ZERO) };
    let end = run(engine, Box::new(Broken), stop, publish, no_commands(), options).await.unwrap();
    assert_eq!(end.rounds, 2);
}

#[test]
fn what_is_not_replaced_goes_on() {
    let pinner = FakePinner::default();
    let mut engine = engine(vec![Ok(vec![vm("a", 1), vm("b", 2)])], &pinner);
    let before = round(&mut engine);
    let steps = engine.replace(other_policy(Policy::Spread));
    assert_eq!(steps.len(), 2, "what has changed, and the round");
    let now = engine.memory.view.clone().unwrap();
    assert_eq!((now.round.number, &now.round.vms), (2, &before.round.vms));
    assert_eq!(now.round.plan.value().unwrap().policy, Policy::Spread);
    assert!(engine.undo().unwrap().restored > 0, "its pinner and journal are the same");
}

#[test]
fn a_policy_that_a_viewer_chose_stays_unless_it_is_replaced() {
    let mut engine = engine(vec![Ok(vec![vm("a", 1), vm("b", 2)])], &FakePinner::default());
    round(&mut engine);
    command(&mut engine, &LoopCommand::SetPolicy(Policy::Opposed)).unwrap();
    let limits = PlanLimits { vcpus_per_cpu: Some(2.0), ..PlanLimits::default() };
    engine.replace(Replacement { limits: Some(limits.clone()), ..nothing() });
    engine.replace(Replacement { weigh: Some(Weigh::Read), ..nothing() });
    engine.replace(Replacement { sources: sources(vec![vm("c", 3)]), ..nothing() });
    assert_eq!((engine.policy, engine.weigh, &engine.limits), (Policy::Opposed, Weigh::Read, &limits));
    let view = engine.memory.view.clone().unwrap();
    assert_eq!(view.round.vms.len(), 1);
    assert_eq!(view.round.plan.value().unwrap().policy, Policy::Opposed);
    engine.replace(other_policy(Policy::Spread));
    assert_eq!((engine.policy, engine.weigh, &engine.limits), (Policy::Spread, Weigh::Read, &limits));
}

/// Why the trial that ran was aborted.
fn aborted(engine: &Engine) -> String {
    let decisions = &engine.memory.view.as_ref().unwrap().decisions;
    let [decision] = &decisions[..] else { panic!("{decisions:?}") };
    assert_eq!(decision.outcome, Outcome::Aborted);
    decision.reason.clone()
}

#[test]
fn a_trial_is_aborted_by_any_replacement_and_no_viewer_is_said_to_have_asked() {
    let limits = Some(PlanLimits { vcpus_per_cpu: Some(2.0), ..PlanLimits::default() });
    for replacement in [
        Replacement { limits, ..nothing() },
        other_policy(Policy::Paper),
        // All vCPUs are left to the kernel.
        other_policy(Policy::None),
    ] {
        let policy = replacement.policy;
        let (mut engine, pinned) = trying();
        engine.replace(replacement);
        assert_eq!(aborted(&engine), "the configuration was reloaded", "{policy:?}");
        assert_eq!(pinned.now(), "nothing", "what was only tried: {policy:?}");
        if policy == Some(Policy::None) {
            engine.observe();
            engine.round();
            assert_eq!(pinned.now(), "nothing");
        } else {
            // It is tried again by the new settings.
            assert_eq!(next_decision(&mut engine).outcome, Outcome::Kept, "{policy:?}");
        }
    }
}

#[test]
fn a_placement_that_was_kept_stays_with_its_policy_and_goes_with_policy_none() {
    let (mut engine, pinned) = trying();
    // The first decision, of which `next_decision` takes the one after.
    command(&mut engine, &LoopCommand::SetPolicy(Policy::Paper)).unwrap();
    assert_eq!(next_decision(&mut engine).outcome, Outcome::Kept);
    let kept = pinned.now();
    assert_ne!(kept, "nothing");
    engine.replace(Replacement { weigh: Some(Weigh::All), ..nothing() });
    assert_eq!((pinned.now(), engine.policy), (kept, Policy::Paper));
    engine.replace(other_policy(Policy::None));
    assert_eq!(pinned.now(), "nothing");
    // Nothing is left that a viewer's policy or a second reload could bring back.
    engine.replace(nothing());
    engine.observe();
    assert_eq!((pinned.now(), engine.policy), ("nothing".to_owned(), Policy::None));
}
