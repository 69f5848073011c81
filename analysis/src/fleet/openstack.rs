//! Moves as the input of a weigher of OpenStack Nova's scheduler.
//!
//! A weigher of Nova (`nova/scheduler/weights`, `BaseHostWeigher._weigh_object`) gives a host a number for the request of
//! one server, from `host_state.host` and `request_spec.instance_uuid`; Nova scales the numbers of all hosts to 0 to 1 and
//! adds them, times a multiplier, to those of its other weighers. So this is a number for each server and host, by the
//! names that Nova has for both. Limits stay with Nova's own filters.

use std::collections::BTreeMap;

use serde::Serialize;

use super::hosts::VmHosts;
use super::propose::ProposedMoves;

/// Weights by server and host.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct OpenstackWeights {
    /// Always `huddle/fleet-openstack/1`.
    schema: &'static str,
    /// By the UUID of the server, which is that of its domain in libvirt.
    servers: BTreeMap<String, Server>,
    left_out: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Server {
    /// Its host today.
    host: String,
    /// The host that is proposed; the same if it should stay.
    proposed_host: String,
    /// By host, from 0 to 1: 1 for the proposed host, for others half of the share of the server's contents that its VMs
    /// hold. A host that is not named has 0.
    weights: BTreeMap<String, f64>,
}

impl OpenstackWeights {
    pub(super) fn of(moves: &ProposedMoves, hosts: &VmHosts) -> Self {
        let mut servers: BTreeMap<String, Server> = BTreeMap::new();
        let mut without = 0;
        for row in hosts.rows() {
            let Some(uuid) = &row.uuid else {
                without += u64::from(row.choice == 0);
                continue;
            };
            let server = servers.entry(uuid.clone()).or_insert_with(|| Server {
                host: row.host.clone(),
                proposed_host: row.host.clone(),
                weights: BTreeMap::new(),
            });
            let share = row.contained.map_or(0.0, |of| of.rate);
            server.weights.insert(row.other_host.clone(), share / 2.0);
        }
        // A VM may move twice to make room; the last host counts.
        for one in &moves.moves {
            if let Some(server) = one.uuid.as_ref().and_then(|uuid| servers.get_mut(uuid)) {
                server.proposed_host.clone_from(&one.to);
            }
        }
        for server in servers.values_mut() {
            server.weights.insert(server.proposed_host.clone(), 1.0);
        }
        let mut left_out = moves.left_out.clone();
        if without > 0 {
            left_out.push(format!("{without} VMs without a UUID, by which no server can be found"));
        }
        Self { schema: "huddle/fleet-openstack/1", servers, left_out }
    }
}
