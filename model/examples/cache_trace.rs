//! Runs a synthetic stream through the simulator and writes what each access did, for a comparison with another
//! simulator (`analysis/python/checks/caches.py`):
//!
//! `cache_trace PATTERN ACCESSES MODEL.json PLACEMENTS.json OUT`
//!
//! `OUT` gets, for each access, eight bytes (the access, little-endian, see `Access`) and one byte: bit `n` is set if the
//! access missed under placement `n`.
#![allow(clippy::unwrap_used, reason = "an example for a check: failures panic")]

use std::io::{BufWriter, Write};

use huddle_model::cache::{CacheModel, DomainPlacement, Pattern, Sampling, Simulator, Synthetic};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [pattern, accesses, model, placements, out] = &arguments[..] else {
        panic!("usage: cache_trace PATTERN ACCESSES MODEL.json PLACEMENTS.json OUT");
    };
    let pattern = Pattern::ALL.into_iter().find(|known| known.name() == pattern).unwrap();
    let model: CacheModel = serde_json::from_str(&std::fs::read_to_string(model).unwrap()).unwrap();
    let placements: Vec<DomainPlacement> =
        serde_json::from_str(&std::fs::read_to_string(placements).unwrap()).unwrap();
    let vcpus = placements[0].domain_of.len() as u16;
    let mut simulator = Simulator::new(&model, &placements, Sampling::ALL).unwrap();
    let mut out = BufWriter::new(std::fs::File::create(out).unwrap());
    let mut misses = vec![0; placements.len()];
    for access in Synthetic::new(pattern, vcpus, 1).take(accesses.parse().unwrap()) {
        simulator.feed(&[access]).unwrap();
        let mut missed = 0u8;
        for (placement, before) in misses.iter_mut().enumerate() {
            let now = simulator.total(placement).misses.all();
            missed |= u8::from(now > *before) << placement;
            *before = now;
        }
        out.write_all(&access.to_bits().to_le_bytes()).unwrap();
        out.write_all(&[missed]).unwrap();
    }
    out.flush().unwrap();
}
