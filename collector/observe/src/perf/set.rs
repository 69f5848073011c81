//! The event of each role, and which part of a thread is counted.

use std::str::FromStr;

use huddle_model::availability::Availability;
use huddle_model::counters::CounterRole;
use huddle_model::observation::CountedEvent;

use super::events::{CacheEvents, EventSpec, ROLES};
use super::group::{CALLING_THREAD, PerfGroup, Scope};
use super::parse::EventError;
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
    pub event: Option<EventSpec>,
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

    /// The set for a processor; `None`: unknown, so the kernel's generic events.
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
            set.choose(EventChoice { role, event: Some(event) });
        }
        set
    }

    /// Applies the user's choice for one role.
    pub fn choose(&mut self, choice: EventChoice) {
        let EventChoice { role, event } = choice;
        self.events[place(role)] = match event {
            Some(event) => Availability::Available(event),
            None => Availability::Unavailable(not_asked(role)),
        };
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
        software.collect()
    }

    /// Tries the set on the calling thread: which events this host counts, and why it does not count the
    /// others.
    pub fn probe(&self) -> Vec<CountedEvent> {
        let group = self.open(CALLING_THREAD);
        let opened = group.outcome.into_iter();
        opened.map(|(role, event)| CountedEvent { role, event }).collect()
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

    #[test]
    fn a_choice_replaces_the_table_and_none_removes() {
        let mut set = EventSet::of(None);
        assert_eq!(set.event(CounterRole::LlcMisses).value().unwrap().name, "cache-misses");
        for choice in ["llc_misses=event=0x2e,umask=0x41", "llc_references=none"] {
            set.choose(choice.parse().unwrap());
        }
        assert_eq!(set.event(CounterRole::LlcMisses).value().unwrap().raw_code(), Some(0x412e));
        let reason = set.event(CounterRole::LlcReferences).reason();
        assert_eq!(reason, Some("LLC references are not configured"));
        assert_eq!(set.event(CounterRole::Cycles).value().unwrap().name, "cycles");
        assert_eq!(set.notes(), Vec::<String>::new());
        set.choose("llc_misses=page-faults".parse().unwrap());
        assert!(set.notes()[0].contains("page-faults is counted for LLC misses"), "{:?}", set.notes());
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
