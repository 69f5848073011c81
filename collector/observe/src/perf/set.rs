//! The event of each role, and which part of a thread is counted.

use std::str::FromStr;

use huddle_model::availability::Availability;
use huddle_model::counters::{CounterRole, Counts};
use huddle_model::observation::CountedEvent;
use huddle_model::schema::EventFact;

use super::check::look_up_caches;
use super::events::{CacheEvents, EventSpec, ROLES};
use super::group::{CALLING_THREAD, PerfGroup, Scope};
use super::parse::{EventError, EventText};
use huddle_host::cpuinfo::Processor;
use huddle_host::{HostError, HostRoot};

/// The value that leaves a role uncounted.
const NONE: &str = "none";

/// The user's choice for one role: `llc_misses=r412e`, `llc_references=none`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventChoice {
    /// The role.
    pub role: CounterRole,
    /// The event; `None`: the role is not counted.
    pub event: Option<EventText>,
}

impl EventChoice {
    /// The choice for a role whose event is given as text.
    ///
    /// # Errors
    /// The text is not an event.
    pub fn of(role: CounterRole, text: &str) -> Result<Self, EventError> {
        let event = if text.trim() == NONE { None } else { Some(text.parse()?) };
        Ok(Self { role, event })
    }
}

impl FromStr for EventChoice {
    type Err = EventError;

    fn from_str(text: &str) -> Result<Self, EventError> {
        // An event may contain `=`: the first one separates it from the role.
        let parts = text.split_once('=').and_then(|(key, event)| {
            let (_, role) = ROLES.iter().find(|(name, _)| *name == key.trim())?;
            Some((*role, event))
        });
        let (role, event) = parts.ok_or_else(|| EventError::Choice { text: text.to_owned() })?;
        Self::of(role, event)
    }
}

/// The events to count on each vCPU thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventSet {
    scope: Scope,
    /// In the order of [`CounterRole::ALL`].
    events: [Availability<EventSpec>; 4],
}

impl EventSet {
    /// The set for this host's processor, in the guest and for it.
    ///
    /// # Errors
    /// What the processor is cannot be read.
    pub fn for_host(root: &HostRoot) -> Result<Self, HostError> {
        CacheEvents::for_host(root).map(Self::with)
    }

    /// The set for a processor of x86; `None`: unknown, so that only cycles and instructions are counted.
    pub fn of(processor: Option<&Processor>) -> Self {
        Self::with(CacheEvents::of(processor))
    }

    fn with(events: CacheEvents) -> Self {
        let CacheEvents { cycles, instructions, llc_references, llc_misses } = events;
        Self { scope: Scope::HostAndGuest, events: [cycles, instructions, llc_references, llc_misses] }
    }

    /// A set of exactly these events.
    pub fn only(events: impl IntoIterator<Item = (CounterRole, EventSpec)>) -> Self {
        let none = CounterRole::ALL.map(|role| Availability::Unavailable(not_asked(role)));
        let mut set = Self { scope: Scope::HostAndGuest, events: none };
        for (role, event) in events {
            set.events[place(role)] = Availability::Available(event);
        }
        set
    }

    /// Applies the user's choice for one role, as it is on this host.
    ///
    /// # Errors
    /// The event is wrong for this host's PMU.
    pub fn choose(&mut self, root: &HostRoot, choice: &EventChoice) -> Result<(), EventError> {
        let EventChoice { role, event } = choice;
        self.events[place(*role)] = match event {
            Some(event) => event.resolve(root)?,
            None => Availability::Unavailable(not_asked(*role)),
        };
        Ok(())
    }

    /// Counts everything the threads do, or only while they run the guest.
    pub fn set_scope(&mut self, scope: Scope) {
        self.scope = scope;
    }

    /// Which part of a thread is counted.
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// The event to count for a role, or why there is none.
    pub fn event(&self, role: CounterRole) -> &Availability<EventSpec> {
        &self.events[place(role)]
    }

    /// What the user should know about the choice, one sentence each.
    pub fn notes(&self) -> Vec<String> {
        let chosen = CounterRole::ALL.into_iter().filter_map(|role| Some((role, self.event(role).value()?)));
        let software = chosen.filter(|(_, event)| event.is_software()).map(|(role, event)| {
            format!(
                "{} is counted for {}: it is a software event of the kernel, so its rates say nothing about a cache",
                event.name,
                role.name()
            )
        });
        let mut notes: Vec<String> = software.collect();
        for (role, event) in
            CounterRole::ALL.into_iter().filter_map(|role| Some((role, self.event(role).value()?)))
        {
            let note = event.note.as_ref().map(|note| format!("{}: {note}", role.name()));
            notes.extend(note);
        }
        notes
    }

    /// The event that was chosen for each role and what it counts, in words for a recording.
    pub fn facts(&self) -> Vec<EventFact> {
        let fact = |role| {
            let event = self.event(role);
            let meaning = event.value().and_then(|event| event.meaning);
            EventFact {
                role,
                event: event.clone().map(|event| event.name),
                counts: meaning.map(|meaning| meaning.to_string()),
                source: meaning.map(|meaning| meaning.source.to_owned()),
                note: event.value().and_then(|event| event.note.clone()),
            }
        };
        CounterRole::ALL.map(fact).into()
    }

    /// Tries the set on the calling thread: which events this host counts, and why it does not count the
    /// others.
    pub fn probe(&self) -> Vec<CountedEvent> {
        let group = self.open(CALLING_THREAD);
        let opened = group.outcome.into_iter();
        opened.map(|(role, event)| CountedEvent { role, event }).collect()
    }

    /// Tries the set on the calling thread, and lets it look up the caches meanwhile: takes some 80 ms where there is
    /// a PMU.
    pub fn try_out(&self) -> Vec<TriedEvent> {
        let counted = self.check();
        let tried = self.probe().into_iter().map(|CountedEvent { role, event }| TriedEvent {
            role,
            chosen: self.event(role).clone(),
            event,
            counted: counted.and_then(|counts| counts.get(role)),
        });
        tried.collect()
    }

    /// What the hardware events of the set count on the calling thread while it looks up the caches, in the guest
    /// and for it, since this thread is no guest. `None` where none of them opens, or the group is never on the PMU.
    pub(super) fn check(&self) -> Option<Counts> {
        let is_hardware = |role| self.event(role).value().is_some_and(|event| !event.is_software());
        let mut opened = Self { scope: Scope::HostAndGuest, ..self.clone() }.open(CALLING_THREAD);
        if !opened.outcome.iter().any(|(role, event)| event.value().is_some() && is_hardware(*role)) {
            return None;
        }
        let before = opened.group.read().ok()?;
        look_up_caches();
        let after = opened.group.read().ok()?;
        let mut counts = Counts::default();
        for ((role, before), after) in opened.roles.iter().zip(&before.counts).zip(&after.counts) {
            let grown = before.value().zip(after.value()).map(|(before, after)| after.wrapping_sub(*before));
            counts.set(*role, grown);
        }
        (after.time_running_ns > before.time_running_ns).then_some(counts)
    }

    /// Opens the set on a thread.
    pub(super) fn open(&self, tid: i32) -> OpenSet {
        let wanted = CounterRole::ALL.map(|role| (role, self.event(role)));
        let specs: Vec<EventSpec> = wanted.iter().filter_map(|(_, event)| event.value().cloned()).collect();
        let group = PerfGroup::open(tid, &specs, self.scope);
        let mut opened = group.events().into_iter();
        let mut roles = Vec::new();
        let outcome = wanted.map(|(role, event)| {
            let event = match event {
                Availability::Unavailable(reason) => Availability::Unavailable(reason.clone()),
                Availability::Available(spec) => {
                    roles.push(role);
                    match opened.next() {
                        Some(opened) => opened.map(|()| spec.name.clone()),
                        None => Availability::Unavailable(format!("{} was not opened", spec.name)),
                    }
                }
            };
            (role, event)
        });
        OpenSet { group, roles, outcome }
    }
}

/// One event of a set that was tried on the calling thread.
#[derive(Clone, Debug, PartialEq)]
pub struct TriedEvent {
    /// The role.
    pub role: CounterRole,
    /// The event that was chosen for it, or why none was.
    pub chosen: Availability<EventSpec>,
    /// The name of the event if it opens, or why it does not.
    pub event: Availability<String>,
    /// What it counted while the thread looked up the caches; `None` if that was not tried.
    pub counted: Option<u64>,
}

/// A set that was opened on a thread.
#[derive(Debug)]
pub(super) struct OpenSet {
    pub(super) group: PerfGroup,
    /// The role of each event of the group.
    pub(super) roles: Vec<CounterRole>,
    /// The name of the event that is counted for each role, or why there is none.
    pub(super) outcome: [(CounterRole, Availability<String>); 4],
}

fn place(role: CounterRole) -> usize {
    match role {
        CounterRole::Cycles => 0,
        CounterRole::Instructions => 1,
        CounterRole::LlcReferences => 2,
        CounterRole::LlcMisses => 3,
    }
}

fn not_asked(role: CounterRole) -> String {
    format!("{} are not configured", role.name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::perf::resolve::fixture::Tree;

    #[test]
    fn a_choice_replaces_the_table_and_none_removes() {
        let tree = Tree::intel();
        let mut set = EventSet::for_host(&tree.root).unwrap();
        assert_eq!(set.event(CounterRole::LlcMisses).value().unwrap().name, "cache-misses");
        let choose = |set: &mut EventSet, choice: &str| set.choose(&tree.root, &choice.parse().unwrap());
        for choice in ["llc_misses=event=0x2e,umask=0x41", "llc_references=none"] {
            choose(&mut set, choice).unwrap();
        }
        assert_eq!(set.event(CounterRole::LlcMisses).value().unwrap().raw_code(), Some(0x412e));
        let reason = set.event(CounterRole::LlcReferences).reason();
        assert_eq!(reason, Some("LLC references are not configured"));
        assert_eq!(set.event(CounterRole::Cycles).value().unwrap().name, "cycles");
        assert_eq!(set.notes(), Vec::<String>::new());
        choose(&mut set, "llc_misses=page-faults").unwrap();
        assert!(set.notes()[0].contains("page-faults is counted for LLC misses"), "{:?}", set.notes());
        let before = set.clone();
        let error = choose(&mut set, "llc_misses=event=0x12e").unwrap_err().to_string();
        assert!(error.contains("beyond 0xff") && set == before, "{error}");
    }

    #[test]
    fn generic_events_on_arm_have_a_note() {
        let tree = Tree::arm();
        let mut set = EventSet::for_host(&tree.root).unwrap();
        assert!(set.event(CounterRole::LlcMisses).reason().is_some() && set.notes().is_empty());
        set.choose(&tree.root, &"llc_misses=cache-misses".parse().unwrap()).unwrap();
        assert_eq!(set.notes().len(), 1);
        assert!(set.notes()[0].contains("LLC misses: cache-misses counts the first-level data cache"));
        // A stand-in with a known count, where there is nothing better.
        set.choose(&tree.root, &"llc_misses=r8".parse().unwrap()).unwrap();
        assert_eq!(set.event(CounterRole::LlcMisses).value().unwrap().raw_code(), Some(8));
    }

    #[test]
    fn a_recording_has_what_each_event_counts() {
        let tree = Tree::amd();
        let facts = EventSet::for_host(&tree.root).unwrap().facts();
        assert_eq!(facts.len(), 4);
        let misses = &facts[3];
        assert_eq!(misses.event.value().unwrap(), "amd.demand_fills_beyond_l3(0x43:0xdc)");
        let counts = misses.counts.as_ref().unwrap();
        assert!(counts.starts_with("the L3 of the core complex: demand fills"), "{counts}");
        assert!(misses.source.as_ref().unwrap().contains("amdzen4") && misses.note.is_none());
        assert_eq!((facts[0].counts.clone(), facts[0].event.value().unwrap().as_str()), (None, "cycles"));
    }

    #[test]
    fn events_of_the_kernel_alone_are_not_tried_on_the_caches() {
        let set = EventSet::only([(CounterRole::LlcMisses, EventSpec::page_faults())]);
        assert_eq!(set.check(), None);
        let tried = set.try_out();
        assert!(tried.iter().all(|event| event.counted.is_none()), "{tried:?}");
    }

    #[test]
    fn an_invalid_choice_is_named() {
        for (text, word) in [
            ("llc_mises=r1", "llc_misses"),
            ("cycles", "ROLE=EVENT"),
            ("cycles=", "not an event"),
            ("cycles=r1g", "\"r1g\""),
        ] {
            let error = text.parse::<EventChoice>().unwrap_err().to_string();
            assert!(error.contains(word) && !error.contains('\n'), "{text}: {error}");
        }
    }

    #[test]
    fn roles_and_places_agree() {
        for (index, role) in CounterRole::ALL.into_iter().enumerate() {
            assert_eq!((place(role), ROLES[index].1), (index, role));
        }
    }

    #[test]
    fn uncounted_events_keep_the_tables_reason() {
        let old = Processor { vendor: "AuthenticAMD".into(), family: 0x15, model: 1 };
        let counted = EventSet::of(Some(&old)).probe();
        assert_eq!(counted.len(), 4);
        assert!(counted[3].event.reason().unwrap().contains("0x15"), "{counted:?}");
    }
}
