//! What has changed in a configuration, and what of it a running loop puts in force.

use std::collections::BTreeMap;

use toml::{Table, Value};

/// When a changed key takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Applies {
    /// At a reload, with the next round.
    AtReload,
    /// Only when the loop is started again.
    AtRestart,
    /// In terminals that are started later; a loop without a terminal does not use it.
    InTerminals,
}

impl Applies {
    /// Of a key, named by its tables and itself (`plan.apart`).
    pub(crate) fn of(path: &str) -> Self {
        match path.split('.').next().unwrap_or_default() {
            // Their socket is opened once.
            "limits" if path == "limits.report_names" => Self::AtRestart,
            "cache_level" | "policy" | "vm" | "discover" | "limits" | "plan" | "sharing" => Self::AtReload,
            "top" => Self::InTerminals,
            // What is opened once (sockets, counters, recordings), or belongs to what was measured and pinned so far
            // (trials, bindings, Xen's affinities).
            _ => Self::AtRestart,
        }
    }

    /// Of a key in a loop that can or cannot replace the stages that find and measure VMs.
    fn in_loop(path: &str, can_replace: bool) -> Self {
        if Self::needs_sources(path) && !can_replace { Self::AtRestart } else { Self::of(path) }
    }

    /// Whether another value means to find or measure VMs by other settings.
    fn needs_sources(path: &str) -> bool {
        let is_of_plans = path == "policy" || path.starts_with("plan.");
        Self::of(path) == Self::AtReload && !is_of_plans
    }

    /// For the page of all keys.
    #[cfg(test)]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::AtReload => "yes",
            Self::AtRestart => "no",
            Self::InTerminals => "",
        }
    }
}

/// A key that has changed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Change {
    path: String,
    was: Option<Value>,
    is: Option<Value>,
}

impl Change {
    /// The key, named by its tables and itself.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Whether VMs are to be found or measured by other settings.
    pub(crate) fn needs_sources(&self) -> bool {
        Applies::needs_sources(&self.path)
    }

    /// When it takes effect, in a loop that can or cannot replace the stages that find and measure VMs.
    pub(crate) fn applies(&self, can_replace: bool) -> Applies {
        Applies::in_loop(&self.path, can_replace)
    }

    /// The key, what it was and is, and whether that is in force.
    pub(crate) fn sentence(&self, can_replace: bool) -> String {
        let shown =
            |value: &Option<Value>| value.as_ref().map_or_else(|| "default".to_owned(), Value::to_string);
        let rest = match self.applies(can_replace) {
            Applies::AtReload => "",
            Applies::AtRestart => "; takes effect after a restart",
            Applies::InTerminals => "; takes effect in terminals that are started later",
        };
        format!("{}: {} → {}{rest}", self.path, shown(&self.was), shown(&self.is))
    }
}

/// The keys that differ, in the order of their names.
pub(crate) fn changes(before: &Table, now: &Table) -> Vec<Change> {
    let (mut was, mut is) = (BTreeMap::new(), BTreeMap::new());
    flatten("", before, &mut was);
    flatten("", now, &mut is);
    let mut paths: Vec<String> = was.keys().chain(is.keys()).cloned().collect();
    paths.sort();
    paths.dedup();
    let changed = paths.into_iter().map(|path| {
        let (was, is) = (was.remove(&path), is.remove(&path));
        Change { path, was, is }
    });
    changed.filter(|change| change.was != change.is).collect()
}

/// What is in force after a reload: `before` with the keys of `now` that such a loop applies then.
pub(crate) fn merged(before: &Table, now: &Table, can_replace: bool) -> Table {
    let keep = |table: &Table, applied: bool| {
        let mut values = BTreeMap::new();
        flatten("", table, &mut values);
        values.retain(|path, _| (Applies::in_loop(path, can_replace) == Applies::AtReload) == applied);
        values
    };
    let mut merged = Table::new();
    for (path, value) in keep(before, false).into_iter().chain(keep(now, true)) {
        insert(&mut merged, &path, value);
    }
    merged
}

/// The values of a table by their paths. The tables of this file have fixed names without dots; what is below one with
/// names of the user (`plan.working_set_kib`, `top.keys`) is one value.
fn flatten(prefix: &str, table: &Table, values: &mut BTreeMap<String, Value>) {
    for (key, value) in table {
        match value {
            Value::Table(inner) if prefix.is_empty() => flatten(&format!("{key}."), inner, values),
            value => {
                values.insert(format!("{prefix}{key}"), value.clone());
            }
        }
    }
}

fn insert(table: &mut Table, path: &str, value: Value) {
    match path.split_once('.') {
        None => {
            table.insert(path.to_owned(), value);
        }
        Some((outer, key)) => {
            let inner = table.entry(outer).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                inner.insert(key.to_owned(), value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> Table {
        text.parse().unwrap()
    }

    #[test]
    fn each_changed_key_is_named_with_what_it_was_and_is() {
        let before = table(
            "policy = \"paper\"\nobjective = \"ipc\"\n[plan]\nload_per_cpu = 0.8\napart = [[\"a\", \"b\"]]\n",
        );
        let now = table(
            "policy = \"exact\"\n[plan]\napart = [[\"a\", \"b\"]]\n[top]\nascii = true\n[[vm]]\nname = \"a\"\npid = 7\n",
        );
        let all: Vec<_> = changes(&before, &now)
            .iter()
            .map(|change| (change.sentence(true), change.needs_sources()))
            .collect();
        let expected = [
            ("objective: \"ipc\" → default; takes effect after a restart", false),
            ("plan.load_per_cpu: 0.8 → default", false),
            ("policy: \"paper\" → \"exact\"", false),
            ("top.ascii: default → true; takes effect in terminals that are started later", false),
            ("vm: default → [{ name = \"a\", pid = 7 }]", true),
        ];
        assert_eq!(all, expected.map(|(text, needs)| (text.to_owned(), needs)));
        assert!(changes(&now, &now).is_empty());
        // Where VMs are always found by the settings of the start.
        let vm = changes(&before, &now).pop().unwrap();
        assert!(vm.sentence(false).ends_with("after a restart"), "{vm:?}");
    }

    #[test]
    fn what_needs_a_restart_stays_as_it_was() {
        let before = table(
            "objective = \"ipc\"\nstate_dir = \"/a\"\n[plan]\nload_per_cpu = 0.8\n[trial]\nblocks = 8\n",
        );
        let now = table(
            "state_dir = \"/b\"\npolicy = \"exact\"\n[sharing]\nmethod = \"content\"\n[trial]\nblocks = 9\n",
        );
        let expected = table(
            "objective = \"ipc\"\nstate_dir = \"/a\"\npolicy = \"exact\"\n[trial]\nblocks = 8\n[sharing]\nmethod = \"content\"\n",
        );
        assert_eq!(merged(&before, &now, true), expected);
        // Where nothing but plans can have other settings, the next reload names what still waits.
        let fewer =
            table("objective = \"ipc\"\nstate_dir = \"/a\"\npolicy = \"exact\"\n[trial]\nblocks = 8\n");
        assert_eq!(merged(&before, &now, false), fewer);
        assert!(changes(&fewer, &now).iter().any(|change| change.path() == "sharing.method"));
    }

    #[test]
    fn names_of_the_user_are_no_paths() {
        let before = table("[plan.working_set_kib]\n\"a.b\" = 5\n");
        let now = table("[plan.working_set_kib]\n\"a.b\" = 6\n");
        assert_eq!(merged(&before, &now, true), now);
        let [change] = &changes(&before, &now)[..] else { panic!() };
        assert!(change.sentence(true).starts_with("plan.working_set_kib: { \"a.b\" = 5 } → "), "{change:?}");
    }
}
