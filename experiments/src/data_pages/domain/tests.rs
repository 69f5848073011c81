use std::collections::BTreeMap;

use huddle_guest::chase;
use huddle_model::cpuset::CpuSet;
use huddle_xen::toolstack::{AffinityKind, CpuPool, DomainKind, DomainRef, Machine, PAGE_BYTES, PhysicalCpu};
use huddle_xen::vms;
use nix::errno::Errno;

use super::*;
use crate::data_pages::DataPages;
use crate::guest::GuestData;

const DATA: GuestData = GuestData { seed: 1, own_seed: 2, kib: 32, cold: None };

/// Domains 1 to 3; the first two hold the same data from page 3 on, the third other data.
struct Fake {
    domains: Vec<Domain>,
    pages: Vec<Vec<u8>>,
    /// The handle of a page that is shared, by domain and number.
    shared: BTreeMap<(u16, u64), u64>,
    nominated: u64,
}

impl Fake {
    fn new() -> Self {
        let domain = |id| Domain {
            domain: DomainRef { id, uuid: [id as u8; 16] },
            name: format!("huddle-vm{id}"),
            kind: Some(DomainKind::Pvh),
            pool: 0,
            is_paused: false,
            is_ending: false,
            pages: 11,
            shared_pages: Some(0),
            vcpus: Vec::new(),
        };
        let memory = |seed: u64| {
            let mut words = vec![0; DATA.kib as usize * 128];
            chase::fill(&mut words, seed);
            let data = words.iter().flat_map(|word| word.to_ne_bytes());
            std::iter::repeat_n(0, 3 * PAGE_BYTES).chain(data).collect()
        };
        Self {
            domains: (1..4).map(domain).collect(),
            pages: vec![memory(1), memory(1), memory(9)],
            shared: BTreeMap::new(),
            nominated: 0,
        }
    }

    fn vms(&self) -> Vec<Vm> {
        let cpus = vec![PhysicalCpu { cpu: 0, core: 0, socket: 0, node: None }];
        let pools = vec![CpuPool { id: 0, cpus: CpuSet::new() }];
        let machine = Machine { cpus, pools };
        let vm = |domain: &Domain| vms::vm(domain.name.clone(), domain, &machine, AffinityKind::Hard);
        self.domains.iter().map(vm).collect()
    }
}

/// The toolstack's part of it.
struct Listed(Vec<Domain>);

impl Toolstack for Listed {
    fn name(&self) -> String {
        "made up".to_owned()
    }

    fn domains(&self) -> Result<Vec<Domain>, XenError> {
        Ok(self.0.clone())
    }

    fn machine(&self) -> Result<Machine, XenError> {
        Ok(Machine { cpus: Vec::new(), pools: Vec::new() })
    }

    fn affinity(&self, domain: DomainRef, _: u32, _: AffinityKind) -> Result<CpuSet, XenError> {
        Err(XenError::Gone(domain.id))
    }

    fn set_affinity(&self, domain: DomainRef, _: u32, _: AffinityKind, _: &CpuSet) -> Result<(), XenError> {
        Err(XenError::Gone(domain.id))
    }
}

struct Memory(Vec<Vec<u8>>);

impl ForeignMemory for Memory {
    fn frames(&mut self, domain: &Domain) -> Result<Vec<u64>, XenError> {
        Ok((0..domain.pages).collect())
    }

    fn map(
        &mut self,
        domain: DomainRef,
        frames: &[u64],
        each: &mut dyn FnMut(usize, &[u8; PAGE_BYTES]),
    ) -> Result<(), XenError> {
        let pages: &[[u8; PAGE_BYTES]] = self.0[usize::from(domain.id) - 1].as_chunks().0;
        frames.iter().enumerate().for_each(|(position, frame)| each(position, &pages[*frame as usize]));
        Ok(())
    }
}

impl MemorySharing for Fake {
    fn control(&mut self, _: DomainRef, _: bool) -> Result<(), XenError> {
        Ok(())
    }

    fn nominate(&mut self, domain: DomainRef, gfn: u64) -> Result<u64, XenError> {
        self.nominated += 1;
        let refused = || XenError::Call { call: "nominate".to_owned(), errno: Errno::E2BIG };
        self.shared.get(&(domain.id, gfn)).copied().ok_or_else(refused)
    }

    fn share(&mut self, _: (DomainRef, u64, u64), _: (DomainRef, u64, u64)) -> Result<(), XenError> {
        Ok(())
    }

    fn unshare(&mut self, domain: DomainRef, gfn: u64) -> Result<(), XenError> {
        self.shared.remove(&(domain.id, gfn));
        Ok(())
    }
}

#[test]
fn data_is_merged_where_xen_has_it_on_one_frame() {
    let mut xen = Fake::new();
    let (vms, listed, mut pages) = (xen.vms(), Listed(xen.domains.clone()), Memory(xen.pages.clone()));
    let data = [DATA, DATA, GuestData { seed: 9, ..DATA }];
    let mut held = None;
    let mut look = |sharing: Option<&mut Fake>| {
        let sharing = sharing.map(|fake| fake as &mut dyn MemorySharing);
        let mut memory = DomainMemory { toolstack: &listed, memory: &mut pages, sharing };
        DataPages::look(&mut held, &mut memory, &vms, &data).unwrap()
    };
    // It is there, and nothing of it is merged.
    assert_eq!(look(None), vec![vec![0; 3]; 3]);
    assert_eq!(look(Some(&mut xen)), vec![vec![0; 3]; 3]);
    // All but two pages of it are: one has a frame of its own, one is on another's.
    for gfn in 3..11 {
        xen.shared.insert((1, gfn), 100 + gfn);
        xen.shared.insert((2, gfn), 100 + gfn);
    }
    xen.shared.remove(&(2, 4));
    xen.shared.insert((2, 7), 500);
    assert_eq!(look(Some(&mut xen)), [[0, 6, 0], [6, 0, 0], [0, 0, 0]]);
    assert!(xen.nominated > 0);
}
