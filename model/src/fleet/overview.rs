//! A fleet at a glance, as `huddle-analysis fleet overview` writes it and `huddle top --fleet` shows it.

use serde::{Deserialize, Serialize};

/// Value of [`FleetOverview::schema`].
pub const FLEET_OVERVIEW_SCHEMA: &str = "huddle/fleet/1";

/// Hosts, families and proposed moves of a fleet. All sizes are estimates from sketches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetOverview {
    /// [`FLEET_OVERVIEW_SCHEMA`].
    pub schema: String,
    /// The hosts.
    pub hosts: Vec<HostOverview>,
    /// Families, those first of which VMs hold most; at most as many as the writer was asked for.
    pub families: Vec<FamilyOverview>,
    /// Proposed moves, in an order in which each has room.
    pub moves: Vec<MoveOverview>,
    /// Standard error of what all moves bring together, in bytes.
    pub saved_more_standard_error_bytes: u64,
    /// What was left out, one sentence each.
    pub left_out: Vec<String>,
}

/// A host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostOverview {
    /// Its name.
    pub name: String,
    /// VMs on it.
    pub vms: u64,
    /// Distinct contents of each of its VMs, added up, in bytes.
    pub held_bytes: u64,
    /// Distinct contents of all of them together, in bytes: what is left of [`Self::held_bytes`] if everything equal is
    /// merged.
    pub distinct_bytes: u64,
}

impl HostOverview {
    /// What merging everything equal saves.
    pub fn saved_bytes(&self) -> u64 {
        self.held_bytes.saturating_sub(self.distinct_bytes)
    }

    /// The same as a part of what its VMs hold, from 0 to 1; `None` if they hold nothing.
    pub fn saved_share(&self) -> Option<f64> {
        (self.held_bytes > 0).then(|| self.saved_bytes() as f64 / self.held_bytes as f64)
    }
}

/// Contents that many VMs hold: a system, a library, an application.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FamilyOverview {
    /// Its contents, each counted once.
    pub bytes: u64,
    /// VMs that hold at least half of it.
    pub vms: u64,
    /// The hosts that hold some of it.
    pub hosts: Vec<FamilyOnHost>,
}

impl FamilyOverview {
    /// What a host, by its position in [`FleetOverview::hosts`], holds of it, from 0 to 1.
    pub fn share_on(&self, host: usize) -> f64 {
        let found = self.hosts.iter().find(|on| on.host == host);
        found.map_or(0.0, |on| if self.bytes == 0 { 0.0 } else { on.bytes as f64 / self.bytes as f64 })
    }
}

/// What a host holds of a family.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FamilyOnHost {
    /// Position in [`FleetOverview::hosts`].
    pub host: usize,
    /// Contents of the family that are on this host, each counted once.
    pub bytes: u64,
    /// VMs of the host that hold some of it.
    pub vms: u64,
}

/// A move of a VM to another host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveOverview {
    /// The VM.
    pub vm: String,
    /// Its host.
    pub from: String,
    /// Where it belongs.
    pub to: String,
    /// What it saves at its turn; negative if it only makes room for others.
    pub saved_bytes: i64,
    /// Its memory, which is copied.
    pub memory_bytes: u64,
}

/// A text that is no overview.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOverview {
    /// Not of this form.
    #[error("this is not an overview of a fleet ({0}); `huddle-analysis fleet overview` writes one")]
    Form(String),
    /// Of another version.
    #[error(
        "this has the schema {0:?}, expected {FLEET_OVERVIEW_SCHEMA:?}; use a huddle of the same version"
    )]
    Schema(String),
}

impl FleetOverview {
    /// Reads what [`serde`] wrote as JSON. A host that a family names and that does not exist is an error.
    ///
    /// # Errors
    /// The text is something else.
    pub fn from_json(text: &str) -> Result<Self, InvalidOverview> {
        #[derive(Deserialize)]
        struct Version {
            schema: String,
        }
        let form =
            |error: serde_json::Error| InvalidOverview::Form(crate::text::plain(&error.to_string()).into());
        let Version { schema } = serde_json::from_str(text).map_err(form)?;
        if schema != FLEET_OVERVIEW_SCHEMA {
            let short: String = crate::text::plain(&schema).chars().take(100).collect();
            return Err(InvalidOverview::Schema(short));
        }
        let overview: Self = serde_json::from_str(text).map_err(form)?;
        let mut named = overview.families.iter().flat_map(|family| &family.hosts).map(|on| on.host);
        match named.find(|host| *host >= overview.hosts.len()) {
            Some(host) => {
                Err(InvalidOverview::Form(format!("a family is on host {host}, which is not there")))
            }
            None => Ok(overview),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn overview() -> FleetOverview {
        let host = |name: &str, vms, held_bytes, distinct_bytes| HostOverview {
            name: name.into(),
            vms,
            held_bytes,
            distinct_bytes,
        };
        FleetOverview {
            schema: FLEET_OVERVIEW_SCHEMA.into(),
            hosts: vec![host("h1", 2, 1000, 750), host("h2", 0, 0, 0)],
            families: vec![FamilyOverview {
                bytes: 400,
                vms: 2,
                hosts: vec![FamilyOnHost { host: 0, bytes: 300, vms: 2 }],
            }],
            ..FleetOverview::default()
        }
    }

    #[test]
    fn what_was_written_is_read_and_shares_are_parts_of_the_whole() {
        let read = FleetOverview::from_json(&serde_json::to_string(&overview()).unwrap()).unwrap();
        assert_eq!(read, overview());
        assert_eq!((read.hosts[0].saved_share(), read.hosts[1].saved_share()), (Some(0.25), None));
        assert_eq!((read.families[0].share_on(0), read.families[0].share_on(1)), (0.75, 0.0));
    }

    #[test]
    fn other_texts_are_refused_with_what_is_expected() {
        let error = |text: &str| FleetOverview::from_json(text).unwrap_err().to_string();
        assert!(error("{").contains("huddle-analysis fleet overview"));
        assert!(error("{\"schema\":\"huddle/fleet/9\"}").contains("huddle/fleet/1"));
        let mut wrong = overview();
        wrong.families[0].hosts[0].host = 2;
        assert!(error(&serde_json::to_string(&wrong).unwrap()).contains("host 2, which is not there"));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".*") {
            let _ = FleetOverview::from_json(&text);
        }
    }
}
