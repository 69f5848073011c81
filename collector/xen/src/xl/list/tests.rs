use proptest::prelude::*;

use super::*;

// Recorded on Xen 4.17: four CPUs; a paused domain with pinned vCPUs; one with a blank in its name and a vCPU
// offline; one in a second cpupool.
const LIST: &str = include_str!("../../fixtures/list-v-c.txt");
const DETAILS: &str = include_str!("../../fixtures/list-l.json");
const VCPUS: &str = include_str!("../../fixtures/vcpu-list.txt");
/// From xl_info.c: cases without a fixture.
const HEADER: &str = "Name                                        ID   Mem VCPUs\tState\tTime(s)   UUID                            Reason-Code\tSecurity Label         Cpupool";
const VCPU_HEADER: &str =
    "Name                                ID  VCPU   CPU State   Time(s) Affinity (Hard / Soft)";
const UUID: [u8; 16] =
    [0x8b, 0x31, 0xca, 0x9c, 0x5e, 0x34, 0x4a, 0x82, 0xb2, 0x51, 0xd0, 0xd9, 0x08, 0x62, 0x14, 0x30];

fn pools(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

/// A line as `xl list -v -c` prints it.
fn line(name: &str, id: u16, state: &str, label: &str, pool: &str) -> String {
    let uuid = "8b31ca9c-5e34-4a82-b251-d0d908621430";
    format!(
        "{name:<40} {id:>5} {:>5} {:>5}     {state}  {:>8.1} {uuid} {:>8} {label:>16}{pool:>16}",
        128, 2, 31.84, "-"
    )
}

#[test]
fn domains_of_a_real_host() {
    let listed = list(LIST).unwrap();
    let names: Vec<_> = listed.iter().map(|line| (line.domain.id, line.name.as_deref().unwrap())).collect();
    assert_eq!(names, [(0, "Domain-0"), (1, "a1"), (2, "b 2"), (3, "b3")]);
    assert_eq!(listed[0].domain.uuid, [0; 16]);
    assert_eq!(listed[2].domain.uuid, UUID);
    assert_eq!((listed[0].mib, listed[3].mib), (512, 128));
    assert!(listed[3].is_paused && !listed[2].is_paused);
    assert!(listed.iter().all(|line| !line.is_ending));
    let names = pools(&["Pool-0", "second", "empty"]);
    let of: Vec<_> = listed.iter().map(|line| line.pool(&names).unwrap()).collect();
    assert_eq!(of, [0, 1, 0, 0]);
}

#[test]
fn states_labels_and_pools_of_any_length() {
    for (state, is_paused, is_ending) in
        [("--p---", true, false), ("---sr-", false, true), ("--ps-d", true, true), ("-b---d", false, true)]
    {
        let listed = list(&format!("{HEADER}\n{}\n", line("a", 4, state, "-", "Pool-0"))).unwrap();
        assert_eq!((listed[0].is_paused, listed[0].is_ending), (is_paused, is_ending), "{state}");
    }
    // The label and the name of the pool touch; one pool's name ends another's.
    let text = line("a", 4, "-b----", "system_u:system_r:domU_t", "my pool of sixteen");
    let listed = list(&format!("{HEADER}\n{text}\n")).unwrap();
    assert_eq!(listed[0].pool(&pools(&["sixteen", "my pool of sixteen"])), Ok(1));
    assert!(listed[0].pool(&pools(&["Pool-0"])).unwrap_err().text.contains("my pool"));
}

#[test]
fn domains_named_like_a_uuid_or_not_at_all() {
    let name = "00000000-1111-2222-3333-444444444444";
    let listed = list(&format!("{HEADER}\n{}\n", line(name, 4, "r-----", "-", "Pool-0"))).unwrap();
    assert_eq!((listed[0].name.as_deref(), listed[0].domain.uuid), (Some(name), UUID));
    let listed = list(&format!("{HEADER}\n{}\n", line("(null)", 4, "r-----", "-", "Pool-0"))).unwrap();
    assert_eq!(listed[0].name, None);
    let listed = list(&format!("{HEADER}\n{}\n", line("a\u{1b}[2Jb", 4, "r-----", "-", "Pool-0"))).unwrap();
    assert_eq!(listed[0].name.as_deref(), Some("a\\u{1b}[2Jb"));
}

#[test]
fn damage_is_named() {
    for text in ["", "libxl_list_domain failed.", "Name ID State"] {
        assert_eq!(list(text), Err(ParseError::new("a header of xl", text)));
        assert_eq!(vcpu_list(text), Err(ParseError::new("a header of xl", text)));
    }
    let good = line("a", 4, "-b----", "-", "Pool-0");
    for (from, to) in [("-b----", "-b---"), (" 128", " 12x"), ("31.8", "31,8"), ("8b31ca9c", "8b31ca9g")] {
        let bad = good.replace(from, to);
        let error = list(&format!("{HEADER}\n{bad}\n")).unwrap_err();
        assert_eq!(error, ParseError::new("a domain of xl list", &bad));
    }
    // A name with a line break, made to look like another domain.
    let text = format!("{HEADER}\n{good}\n{}\n", good.replace("a   ", "b   "));
    assert_eq!(list(&text).unwrap_err().what, "a second line of one number");
}

#[test]
fn vcpus_of_a_real_host() {
    let vcpus = vcpu_list(VCPUS).unwrap();
    let set = |text: &str| Affinity::Cpus(text.parse().unwrap());
    assert_eq!(vcpus.len(), 7);
    assert_eq!((vcpus[0].cpu, &vcpus[0].hard, &vcpus[0].soft), (Some(2), &Affinity::All, &Affinity::All));
    assert_eq!(
        vcpus[3],
        ListedVcpu {
            id: 2,
            name: Some("b 2".to_owned()),
            index: 1,
            cpu: None,
            cpu_time_ns: 7_400_000_000,
            hard: Affinity::All,
            soft: set("2-3"),
        }
    );
    assert_eq!((vcpus[4].cpu, &vcpus[4].hard, &vcpus[4].soft), (Some(1), &set("0-1"), &set("1")));
    assert_eq!((&vcpus[5].hard, &vcpus[5].soft), (&set("0,2"), &Affinity::All));
    assert_eq!((&vcpus[6].hard, &vcpus[6].soft), (&Affinity::All, &set("1-2")));
}

#[test]
fn invalid_vcpus_are_named() {
    let good = "b 2    2     0    1   -b-      24.9  all / 2-3";
    assert!(vcpu_list(&format!("{VCPU_HEADER}\n{good}")).is_ok());
    for (from, to) in [("all", "most"), ("/", ""), ("24.9", "24.95"), ("-b-", "-bp"), ("2-3", "3-2")] {
        let bad = good.replace(from, to);
        let error = vcpu_list(&format!("{VCPU_HEADER}\n{bad}")).unwrap_err();
        assert_eq!(error, ParseError::new("a vCPU of xl vcpu-list", &bad));
    }
    // A set may have no CPU below the number of online CPUs.
    let none = vcpu_list(&format!("{VCPU_HEADER}\n{}", good.replace("all", "none"))).unwrap();
    assert_eq!(none[0].hard, Affinity::Cpus(CpuSet::new()));
}

#[test]
fn kinds_of_a_real_host() {
    let details = details(DETAILS).unwrap();
    assert_eq!(details.len(), 4);
    assert_eq!(details[&0].kind(DomainRef { id: 0, uuid: [0; 16] }), Some(DomainKind::Pv));
    assert_eq!(details[&2].kind(DomainRef { id: 2, uuid: UUID }), Some(DomainKind::Pv));
    // Another domain of that number.
    assert_eq!(details[&2].kind(DomainRef { id: 2, uuid: [1; 16] }), None);
    assert!(super::details("[{\"domid\":").is_err());
    let odd =
        r#"[{"domid": null, "config": {"c_info": {"type": "pv"}}}, {"domid": 1, "config": {"c_info": {}}}]"#;
    assert!(super::details(odd).unwrap().is_empty());
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,60}(\\n\\PC{0,80}){0,4}") {
        let _ = list(&format!("{HEADER}\n{text}"));
        let _ = vcpu_list(&format!("{VCPU_HEADER}\n{text}"));
        let _ = details(&text);
    }

    #[test]
    fn any_name_round_trips(name in "[!-~äß日]([ -~äß日]{0,50}[!-~äß日])?", id in 0u16..32_752, pool in "[!-~]{1,20}") {
        let listed = list(&format!("{HEADER}\n{}\n", line(&name, id, "r-----", "-", &pool))).unwrap();
        prop_assert_eq!(listed[0].name.as_deref(), Some(name.as_str()).filter(|name| *name != "(null)"));
        prop_assert_eq!(listed[0].domain.id, id);
        prop_assert_eq!(listed[0].pool(&[pool]), Ok(0));

        let text = format!("{VCPU_HEADER}\n{name:<32} {id:>5} {:>5}{:>5} r-- {:>9.1}  0-3,5 / all\n", 1, 7, 0.5);
        let vcpus = vcpu_list(&text).unwrap();
        prop_assert_eq!(&vcpus[0].name, &listed[0].name);
        prop_assert_eq!((vcpus[0].id, vcpus[0].index, vcpus[0].cpu, vcpus[0].cpu_time_ns), (id, 1, Some(7), 500_000_000));
    }
}
