//! What is read in each domain, and by whom.

use std::collections::BTreeMap;

use super::inputs::Inputs;
use crate::cache::estimate::{Data, ReadPattern, Reader, Use};

/// The readers and the data of a domain.
#[derive(Default)]
pub(super) struct Load {
    /// The VM of each reader.
    pub(super) vms: Vec<usize>,
    pub(super) readers: Vec<Reader>,
    pub(super) data: Vec<Data>,
}

/// The load of each domain. `parts_of`: of each VM the parts of its vCPUs in domains.
pub(super) fn loads(inputs: &Inputs, parts_of: &[Vec<(usize, f64)>]) -> Vec<Load> {
    let domains = parts_of.iter().flatten().map(|(domain, _)| domain + 1).max().unwrap_or(0);
    let mut loads: Vec<Load> = std::iter::repeat_with(Load::default).take(domains).collect();
    // Sets of readers with the bytes that exactly these read.
    let mut bytes: Vec<BTreeMap<Vec<u32>, f64>> = vec![BTreeMap::new(); domains];
    for (vm, parts) in parts_of.iter().enumerate() {
        for (domain, part) in parts {
            let load = &mut loads[*domain];
            let reader = load.vms.len() as u32;
            load.vms.push(vm);
            load.readers.push(Reader { rate: inputs.rates[vm] * part, pattern: ReadPattern::Independent });
            *bytes[*domain].entry(vec![reader]).or_default() += inputs.own[vm];
        }
    }
    for (vms, of_group) in &inputs.groups {
        let mut here: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
        for vm in vms {
            parts_of[*vm as usize].iter().for_each(|(domain, _)| here.entry(*domain).or_default().push(*vm));
        }
        for (domain, vms) in here {
            let load = &loads[domain];
            for (readers, part) in levels(inputs, load, &vms) {
                *bytes[domain].entry(readers).or_default() += part * of_group;
            }
        }
    }
    for (load, bytes) in loads.iter_mut().zip(bytes) {
        let of = |(readers, bytes): (Vec<u32>, f64)| {
            let uses = readers.iter().map(|reader| {
                let set = inputs.working_set_bytes(load.vms[*reader as usize]);
                let share = if set > 0.0 { (bytes / set).min(1.0) } else { 0.0 };
                Use { reader: *reader as usize, share }
            });
            Data { bytes, uses: uses.collect() }
        };
        load.data = bytes.into_iter().filter(|(_, bytes)| *bytes > 0.0).map(of).collect();
    }
    loads
}

/// Of frames that these VMs map the parts that sets of readers use: all the part that every VM uses, and so on, up to
/// the VM with the largest part, which uses the last of it alone.
fn levels(inputs: &Inputs, load: &Load, vms: &[u32]) -> Vec<(Vec<u32>, f64)> {
    let mut by_part: Vec<(f64, u32)> = vms
        .iter()
        .filter_map(|vm| {
            // Readers are in the order of the VMs.
            let reader = load.vms.binary_search(&(*vm as usize)).ok()?;
            Some((inputs.parts[*vm as usize], reader as u32))
        })
        .collect();
    by_part.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let (mut levels, mut counted) = (Vec::new(), 0.0);
    for (at, (part, _)) in by_part.iter().enumerate() {
        if *part > counted {
            let mut readers: Vec<u32> = by_part[at..].iter().map(|(_, reader)| *reader).collect();
            readers.sort_unstable();
            levels.push((readers, part - counted));
            counted = *part;
        }
    }
    levels
}
