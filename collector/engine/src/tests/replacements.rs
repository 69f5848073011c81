//! Other settings for a loop that runs.

use super::*;

fn replacement(policy: Policy, sources: Option<Sources>) -> Replacement {
    let notes = vec!["the policy has changed".to_owned()];
    let (policy, limits) = (Some(policy), Some(PlanLimits::default()));
    Replacement { policy, weigh: Some(Weigh::All), limits, sources, notes }
}

#[tokio::test]
async fn other_settings_are_put_in_force_between_steps_and_a_round_follows() {
    let pinner = FakePinner::default();
    let mut engine = engine(vec![Ok(vec![vm("a", 1)])], &pinner);
    let (progress, replacements) = (engine.memory.progress(), engine.memory.replacements());
    let sources = Sources {
        vms: Box::new(FakeVms([Ok(vec![vm("b", 2), vm("c", 3)])].into())),
        sharing: Box::new(FakeSharing::default()),
        host: Box::new(FakeHost),
    };
    assert!(replacements.send(replacement(Policy::None, Some(sources))).await.is_ok());
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
    // Without a pass and long before a round is due by time.
    let options = RunOptions {
        without_passes: Duration::from_secs(3600),
        min_interval: Duration::ZERO,
        rounds: Some(2),
        window: Duration::from_secs(3600),
    };
    let end = run(engine, Box::new(Idle::default()), std::future::pending(), publish, no_commands(), options);
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

#[test]
fn what_is_not_replaced_goes_on() {
    let pinner = FakePinner::default();
    let mut engine = engine(vec![Ok(vec![vm("a", 1), vm("b", 2)])], &pinner);
    let before = round(&mut engine);
    let steps = engine.replace(replacement(Policy::Spread, None));
    assert_eq!(steps.len(), 2, "what has changed, and the round");
    let now = engine.memory.view.clone().unwrap();
    assert_eq!((now.round.number, &now.round.vms), (2, &before.round.vms));
    assert_eq!(now.round.plan.value().unwrap().policy, Policy::Spread);
    assert!(engine.undo().unwrap().restored > 0, "its pinner and journal are the same");
}
