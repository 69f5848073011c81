use proptest::prelude::*;

use super::*;

/// Types as a kernel would have them.
#[derive(Default)]
struct Builder {
    types: Vec<u8>,
    names: Vec<u8>,
    count: u32,
}

impl Builder {
    fn new() -> Self {
        Self { names: vec![0], ..Self::default() }
    }

    fn name(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        let with_end = format!("\0{text}\0");
        if let Some(at) = self.names.windows(with_end.len()).position(|part| part == with_end.as_bytes()) {
            return at as u32 + 1;
        }
        let at = self.names.len() as u32;
        self.names.extend_from_slice(text.as_bytes());
        self.names.push(0);
        at
    }

    fn words(&mut self, words: &[u32]) {
        self.types.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
    }

    fn head(&mut self, name: &str, kind: u32, items: u32, flag: bool) -> u32 {
        let name = self.name(name);
        self.words(&[name, kind << 24 | items | u32::from(flag) << 31, 0]);
        self.count += 1;
        self.count
    }

    /// A structure with members of a type at offsets in bytes.
    fn structure(&mut self, name: &str, flag: bool, members: &[(&str, u32, u32)]) -> u32 {
        let id = self.head(name, 4, members.len() as u32, flag);
        for (name, of_type, bytes) in members {
            let name = self.name(name);
            self.words(&[name, *of_type, bytes * 8]);
        }
        id
    }

    fn finish(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(MAGIC.to_ne_bytes());
        bytes.extend([VERSION, 0]);
        let (types, names) = (self.types.len() as u32, self.names.len() as u32);
        bytes.extend([24, 0, types, types, names].iter().flat_map(|word| word.to_ne_bytes()));
        bytes.extend(&self.types);
        bytes.extend(&self.names);
        bytes
    }
}

fn kernel(fillers: u32, with_functions: bool) -> Vec<u8> {
    let mut types = Builder::new();
    types.head("int", 1, 0, false);
    types.words(&[32]);
    for filler in 0..fillers {
        types.structure(&format!("filler{filler}"), false, &[("files", 1, 3), ("fd", 1, 5)]);
    }
    types.structure("task_struct", true, &[("state", 1, 0), ("files", 1, 2000)]);
    types.head("color", 6, 3, false);
    types.words(&[0; 6]);
    types.structure("files_struct", false, &[("count", 1, 0), ("fdt", 1, 32)]);
    types.structure("fdtable", false, &[("max_fds", 1, 0), ("fd", 1, 8)]);
    types.structure("file", false, &[("private_data", 1, 40)]);
    let inner = types.structure("", false, &[("count", 1, 0), ("pgd", 1, 80)]);
    types.structure("mm_struct", false, &[("", inner, 64), ("mm_mt", 1, 96), ("cpu_bitmap", 1, 900)]);
    types.structure("maple_tree", false, &[("ma_lock", 1, 0), ("ma_root", 1, 8)]);
    let inner = types.structure("", false, &[("vm_start", 1, 0), ("vm_end", 1, 8)]);
    types.structure("vm_area_struct", false, &[("", inner, 0), ("vm_mm", 1, 16), ("vm_flags", 1, 32)]);
    if with_functions {
        for name in FUNCTIONS {
            types.head(name, 12, 1, false);
        }
    }
    types.finish()
}

const OFFSETS: Offsets = Offsets {
    task_files: 2000,
    files_table: 32,
    table_files: 8,
    table_length: 0,
    file_private: 40,
    mm_tables: 144,
};

const MAPPING_OFFSETS: MappingOffsets = MappingOffsets {
    mm_mappings: 96,
    tree_root: 8,
    mapping_start: 0,
    mapping_end: 8,
    mapping_mm: 16,
    mapping_flags: 32,
};

#[test]
fn members_and_functions_are_found() {
    // With more fillers the types fill several windows.
    for fillers in [0, 61, 5000] {
        let found = kernel_types(&kernel(fillers, true)[..]).unwrap();
        assert_eq!(found.offsets, OFFSETS);
        assert_eq!(found.mappings, Some(MAPPING_OFFSETS));
        assert_eq!(found.rcu_functions, Some([fillers + 12, fillers + 13]));
        assert_eq!(kernel_types(&kernel(fillers, false)[..]).unwrap().rcu_functions, None);
    }
}

#[test]
fn what_is_missing_is_named() {
    let whole = kernel(3, true);
    let error = |bytes: &[u8]| kernel_types(bytes).unwrap_err().to_string();
    assert!(error(&[]).contains("ends"));
    assert!(error(&[0; 100]).contains("not BTF"));
    let mut renamed = whole.clone();
    let at = renamed.windows(4).position(|part| part == b"\0pgd").unwrap();
    renamed[at + 1] = b'x';
    assert_eq!(error(&renamed), "it has no mm_struct.pgd");
    // Kernels before 6.1.
    let mut older = whole.clone();
    let at = older.windows(6).position(|part| part == b"\0mm_mt").unwrap();
    older[at + 1] = b'x';
    let found = kernel_types(&older[..]).unwrap();
    assert_eq!((found.offsets, found.mappings), (OFFSETS, None));
    for end in 0..whole.len() {
        assert!(kernel_types(&whole[..end]).is_err(), "{end}");
    }
}

#[test]
fn a_structure_without_a_name_that_holds_itself_ends() {
    let mut types = Builder::new();
    types.structure("mm_struct", false, &[("", 1, 0)]);
    assert!(matches!(kernel_types(&types.finish()[..]), Err(BtfError::Missing { .. })));
}

#[test]
fn this_kernel_has_them() {
    let Ok(file) = std::fs::File::open("/sys/kernel/btf/vmlinux") else { return };
    let found = kernel_types(&file).unwrap();
    assert!(found.offsets.mm_tables > 0 && found.offsets.task_files > 0, "{found:?}");
    assert!(found.mappings.is_some_and(|of| of.mapping_flags > of.mapping_start), "{found:?}");
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = kernel_types(&bytes[..]);
    }

    #[test]
    fn damage_never_panics(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut bytes = kernel(70, true);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = kernel_types(&bytes[..]);
    }

    #[test]
    fn zeros_are_found(bytes in prop::collection::vec(0u8..4, 0..60), from in 0usize..60) {
        let from = from.min(bytes.len());
        let expected = bytes[from..].iter().position(|byte| *byte == 0).map(|at| at + from);
        prop_assert_eq!(find_zero(&bytes, from), expected);
    }
}
