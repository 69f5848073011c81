//! A loop before anything is merged.

use super::*;

/// Nothing is merged in so many rounds; then it is as in [`FakeSharing`].
struct Unmerged(u32);

impl SharingSource for Unmerged {
    fn measure(&mut self, vms: &[Vm]) -> Result<Measurement, StageError> {
        let measured = FakeSharing::default().measure(vms)?;
        if self.0 == 0 {
            return Ok(measured);
        }
        self.0 -= 1;
        let rows = measured.matrix.vms().to_vec();
        let nothing = vec![vec![0; rows.len()]; rows.len()];
        let matrix = SharingMatrix::measured(Method::Merged, rows, &nothing, 0.0, 1.0);
        Ok(Measurement { matrix, ..measured })
    }
}

#[test]
fn a_loop_says_once_that_nothing_is_merged_and_pins_as_soon_as_it_is() {
    let pinner = FakePinner::default();
    let mut engine =
        Engine { sharing: Box::new(Unmerged(2)), ..engine(vec![Ok(vec![vm("a", 1), vm("b", 2)])], &pinner) };
    let notes = |view: &View| {
        let events = view.round.events.iter();
        events.filter(|event| event.message.contains("nothing is merged now")).count()
    };
    let first = round(&mut engine);
    let plan = first.round.plan.value().unwrap();
    assert!(plan.placement.is_empty() && plan.waiting.as_ref().unwrap().contains("no KSM here"), "{plan:?}");
    let second = round(&mut engine);
    // A viewer's command plans anew, and by the same rule.
    let (asked, _) = command(&mut engine, &LoopCommand::SetPolicy(Policy::Opposed)).unwrap();
    assert!(asked.round.plan.value().unwrap().waiting.is_some());
    let (spread, _) = command(&mut engine, &LoopCommand::SetPolicy(Policy::Spread)).unwrap();
    assert_eq!(spread.round.plan.value().unwrap().waiting, None);
    command(&mut engine, &LoopCommand::SetPolicy(Policy::Paper)).unwrap();
    let third = round(&mut engine);
    assert_eq!(third.round.plan.value().unwrap().waiting, None);
    assert_eq!((notes(&first), notes(&second), notes(&third)), (1, 0, 0));
    let applied: Vec<_> =
        pinner.0.lock().unwrap().iter().filter(|call| call.starts_with("apply")).cloned().collect();
    let applied: Vec<&str> = applied.iter().map(String::as_str).collect();
    assert_eq!(
        applied,
        ["apply 0 of 2", "apply 0 of 2", "apply 0 of 2", "apply 2 of 2", "apply 0 of 2", "apply 2 of 2"]
    );
}
