//! vCPUs that their owner bound: named once, and not in plans.

use huddle_model::binding::{Binding, BindingKind};

use super::*;

/// Messages about bindings that a round gives.
fn notes(engine: &mut Engine) -> Vec<String> {
    let view = round(engine);
    let events = view.round.events.iter().filter(|event| event.message.contains("owner bound"));
    events.map(|event| event.message.clone()).collect()
}

#[test]
fn a_binding_is_reported_once_and_again_when_it_comes_back() {
    let bound = |cpus: &str| {
        let mut vm = vm("a", 1);
        let kind = BindingKind::Affinity;
        vm.vcpus[0].limits.binding = Some(Binding { cpus: cpus.parse().unwrap(), kind });
        Ok(vec![vm, super::vm("b", 2)])
    };
    let free = Ok(vec![vm("a", 1), vm("b", 2)]);
    let pinner = FakePinner::default();
    let mut engine = engine(vec![bound("1"), bound("1"), free, bound("1")], &pinner);
    let seen: Vec<usize> = (0..4).map(|_| notes(&mut engine).len()).collect();
    assert_eq!(seen, [1, 0, 0, 1]);
    let log = pinner.0.lock().unwrap();
    assert_eq!(log[..], ["apply 1 of 2", "apply 1 of 2", "apply 2 of 2", "apply 1 of 2"]);
}
