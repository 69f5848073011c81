//! A fleet at a glance, for `huddle top --fleet` and the report.

use std::collections::BTreeMap;

use huddle_model::fleet::{
    FLEET_OVERVIEW_SCHEMA, FamilyOnHost, FamilyOverview, FleetOverview, HostOverview, MoveLimits,
    MoveOverview,
};

use super::families::FleetFamilies;
use super::load::{FleetLimits, LoadedFleet};
use super::newest::{HostFacts, NewestSketches};
use super::propose::ProposedMoves;
use crate::AnalysisError;

/// The overview, with at most so many families.
///
/// # Errors
/// A recording cannot be read.
pub(super) fn overview(
    sketches: &NewestSketches,
    limits: FleetLimits,
    moves: MoveLimits,
    most_families: usize,
) -> Result<FleetOverview, AnalysisError> {
    let bytes = |kept: u64| sketches.bytes_of(kept);
    let (families, on_hosts) = FleetFamilies::with_hosts(sketches, None)?;
    let mut of_families: BTreeMap<u64, Vec<FamilyOnHost>> = BTreeMap::new();
    for on in on_hosts {
        let found = FamilyOnHost { host: on.host, bytes: bytes(on.kept), vms: on.vms };
        of_families.entry(on.family_key).or_default().push(found);
    }
    let family = |family: &super::families::Family| {
        let mut hosts = of_families.remove(&family.key()).unwrap_or_default();
        hosts.sort_by_key(|on| on.host);
        FamilyOverview { bytes: family.contents_bytes, vms: family.vms, hosts }
    };
    let families = families.rows().iter().take(most_families).map(family).collect();
    let loaded = LoadedFleet::of(sketches, limits)?;
    let vms_of = loaded.vms_of();
    let host = |(host, vms): (&HostFacts, &Vec<usize>)| {
        let held: u64 = vms.iter().map(|vm| loaded.kept[*vm]).sum();
        let saved = loaded.exact.saved(std::slice::from_ref(vms));
        HostOverview {
            name: host.name.clone(),
            vms: vms.len() as u64,
            held_bytes: bytes(held),
            distinct_bytes: bytes(held.saturating_sub(saved)),
        }
    };
    let found = ProposedMoves::of_loaded(sketches, &loaded, moves);
    let one = |one: &super::propose::ProposedMove| MoveOverview {
        vm: one.vm.clone(),
        from: one.from.clone(),
        to: one.to.clone(),
        saved_bytes: one.saved_bytes,
        memory_bytes: one.memory_bytes,
    };
    Ok(FleetOverview {
        schema: FLEET_OVERVIEW_SCHEMA.to_owned(),
        hosts: sketches.hosts.iter().zip(&vms_of).map(host).collect(),
        families,
        moves: found.moves.iter().map(one).collect(),
        saved_more_standard_error_bytes: found.saved_more_standard_error_bytes,
        left_out: loaded.left_out,
    })
}
