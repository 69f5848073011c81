//! Plans of files, without a VM.

use super::*;

#[test]
fn the_papers_example_is_planned_offline() {
    let huddle = Huddle::new();
    let (matrix, topology) = (huddle.file("m.csv", TABLE_1), huddle.file("t.json", TWO_SOCKETS));
    let plan = huddle.json(&["plan", "--matrix", &matrix, "--topology", &topology]);
    assert_eq!(plan["schema"], "huddle/plan/1");
    let domains: Vec<_> = plan["placement"].as_array().unwrap().iter().map(|vcpu| &vcpu["domain"]).collect();
    assert_eq!(domains, [0, 0, 1, 1]);
    assert!(!huddle.state_dir().exists(), "planning touches no state");

    let table = huddle.output(&["plan", "--matrix", &matrix, "--topology", &topology, "--policy", "opposed"]);
    let text = String::from_utf8(table.stdout).unwrap();
    assert!(text.contains("policy opposed") && text.contains("20 MiB"), "{text}");
}

/// Two pairs that share all of their memory, on caches of which sizes and ways are known.
#[test]
fn misses_are_estimated_offline_where_working_sets_are_known() {
    let huddle = Huddle::new();
    let vm = |name: &str| {
        serde_json::json!({"name": name, "vcpus": 1, "pages_resident": 9000, "pages_used": 9000,
        "frames_used": 9000, "pages_zero": 0, "self_shared_pages": 0})
    };
    let vms = ["a", "b", "c", "d"].map(vm);
    let matrix = serde_json::json!({"schema": "huddle/matrix/1", "method": "merged", "duration_ms": 1.0,
        "vms": vms,
        "shared_frames": [[0, 9000, 0, 0], [9000, 0, 0, 0], [0, 0, 0, 9000], [0, 0, 9000, 0]],
        "rate": [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]});
    let topology = r#"{"domains":[{"id":0,"cpus":[0,1],"size_bytes":20971520},{"id":1,"cpus":[2,3],"size_bytes":20971520}],
        "sets":[{"domain":0,"ways":20,"line_bytes":64},{"domain":1,"ways":20,"line_bytes":64}]}"#;
    let files = (huddle.file("m.json", &matrix.to_string()), huddle.file("t.json", topology));
    let config = "[plan]\nworking_set_kib = { a = 15360, b = 15360, c = 15360, d = 15360 }\n";
    let config = huddle.file("c.toml", config);
    let args = ["plan", "--matrix", &files.0, "--topology", &files.1];
    let misses = |policy: &str| {
        let plan = huddle.json(&[&args[..], &["--config", &config, "--policy", policy]].concat());
        plan["expected"]["misses"].clone()
    };
    let (sharing, opposed) = (misses("sharing"), misses("opposed"));
    let of = |misses: &Value| misses["misses_per_million_reads"].as_u64().unwrap();
    assert!(of(&sharing) < 30_000 && of(&opposed) > 300_000, "{sharing} {opposed}");
    assert_eq!(sharing["basis"]["caches"][0]["ways_assumed"], false);
    assert_eq!(
        (&sharing["now_misses_per_million_reads"], &sharing["domains"][1]["vms"][1]["vm"]),
        (&Value::Null, &"d".into())
    );
    let table = huddle.output(&[&args[..], &["--config", &config]].concat());
    let text = String::from_utf8(table.stdout).unwrap();
    assert!(text.contains("- estimated: ") && text.contains("as configured, used evenly"), "{text}");
    let plan = huddle.json(&args);
    assert_eq!(plan["expected"]["misses"], Value::Null);
    let text = String::from_utf8(huddle.output(&args).stdout).unwrap();
    assert!(text.contains("no estimate of misses: the working set of a is unknown; set it in"), "{text}");
}

#[test]
fn files_that_cannot_be_used_are_refused_in_one_line() {
    let huddle = Huddle::new();
    let good = (huddle.file("m.csv", TABLE_1), huddle.file("t.json", TWO_SOCKETS));
    for (text, word) in [
        ("vm,a,b\na,-,1\n", "not square"),
        ("vm,a,b\na,-,NaN\nb,1,-\n", "NaN"),
        ("vm,a,b\na,-,-1\nb,1,-\n", "-1"),
        ("vm,a,b\na,-,101\nb,1,-\n", "101"),
        ("vm,a,a\na,-,1\na,1,-\n", "two VMs"),
        ("{\"schema\":\"x\"}", "not a matrix"),
    ] {
        let file = huddle.file("bad.csv", text);
        let line = huddle.refusal(2, &["plan", "--matrix", &file, "--topology", &good.1]);
        assert!(line.contains(word) && line.contains("bad.csv"), "{line}");
    }
    for (text, word) in [
        (r#"{"domains":[{"id":0,"cpus":[0,1]},{"id":1,"cpus":[1]}]}"#, "CPU 1"),
        (r#"{"domains":[{"id":0,"cpus":[]}]}"#, "no CPU"),
        ("[]", "not a topology"),
    ] {
        let file = huddle.file("bad.json", text);
        let line = huddle.refusal(2, &["plan", "--matrix", &good.0, "--topology", &file]);
        assert!(line.contains(word) && line.contains("bad.json"), "{line}");
    }
    let line = huddle.refusal(2, &["plan", "--matrix", "/nowhere/m.csv", "--topology", &good.1]);
    assert!(line.contains("/nowhere/m.csv"), "{line}");
    let line = huddle.refusal(2, &["vms", "--config", "/nowhere/c.toml"]);
    assert!(line.contains("/nowhere/c.toml"), "{line}");
}
