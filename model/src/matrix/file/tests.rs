use proptest::prelude::*;

use super::*;
use crate::matrix::{SampledContents, SharedGroup, SharedReads};

#[test]
fn bad_json_is_rejected_with_its_position() {
    let with = |vms: &str, frames: &str, rate: &str| {
        format!(r#"{{"schema":"huddle/matrix/1","vms":{vms},"shared_frames":{frames},"rate":{rate}}}"#)
    };
    let ab = r#"[{"name":"a"},{"name":"b"}]"#;
    let memory = |resident: u64, used: u64, frames: u64, of_files: u64| {
        format!(
            r#"[{{"name":"a","pages_resident":{resident},"pages_used":{used},"frames_used":{frames},"pages_zero":0,
            "self_shared_pages":0,"pages_file":{of_files}}}]"#
        )
    };
    for (text, word) in [
        (r#"{"schema":"huddle/plan/1","vms":[],"rate":[]}"#.to_owned(), "huddle/plan/1"),
        ("{".to_owned(), "not a matrix"),
        (with("[]", "null", "[]"), "names no VM"),
        (with(ab, "null", "[[0,1]]"), "rate has 1"),
        (with(ab, "null", "[[0,1],[1]]"), "row 2 of rate"),
        (with(ab, "null", "[[0,1.5],[1,0]]"), "1.5"),
        (with(ab, "null", "[[0,-0.5],[1,0]]"), "-0.5"),
        (with(ab, "null", "[[0,NaN],[1,0]]"), "not a matrix"),
        (with(ab, "null", "[[0.5,1],[1,0]]"), "diagonal"),
        (with(ab, "[[0,1],[2,0]]", "[[0,1],[1,0]]"), "both ways"),
        (r#"{"schema":"huddle/matrix/1","vms":[{"name":"a"},{"name":"b"}],"rate":[[0,1],[1,0]],"rate_error":[[0,-0.5],[0,0]]}"#.to_owned(), "-0.5"),
        (r#"{"schema":"huddle/matrix/1","vms":[{"name":"a"}],"rate":[[0]],"rate_error":[]}"#.to_owned(), "rate_error has 0"),
        (with(ab, "null,\"rate_low\":[[0,0],[0,0]]", "[[0,1],[1,0]]"), "both or none"),
        (with(ab, "null,\"rate_low\":[[0,0],[0.5,0]],\"rate_high\":[[0,1],[1,0]]", "[[0,1],[0.4,0]]"), "0.5 to 1"),
        (with(ab, "null,\"rate_low\":[[0,0],[0,0]],\"rate_high\":[[0,1],[1,0.5]]", "[[0,1],[0.4,0]]"), "diagonal"),
        (with(r#"[{"name":"a","pages_used":1}]"#, "null", "[[0]]"), "all or none"),
        (with(ab, "[[0,0],[0,0]]", "[[0,1],[1,0]]"), "divided by the used frames"),
        (with(&memory(4, 2, 2, 1), "[[0]]", "[[0]]"), ""),
        (with(&memory(4, 5, 2, 1), "[[0]]", "[[0]]"), "pages_used of VM \"a\" is 5, expected at most its pages_resident (4)"),
        (with(&memory(4, 2, 3, 1), "[[0]]", "[[0]]"), "frames_used of VM \"a\" is 3"),
        (with(&memory(4, 2, 2, 9), "[[0]]", "[[0]]"), "pages_file of VM \"a\" is 9"),
        (with(ab, "[[0,1],[1,0]],\"shared_file_frames\":[[0,2],[2,0]]", "[[0,1],[1,0]]"), "of the page cache"),
        (with(ab, "null,\"shared_file_frames\":[[0,2],[2,0]]", "[[0,1],[1,0]]"), "no shared_frames"),
        (with(ab, "null,\"coverage\":-1", "[[0,1],[1,0]]"), "coverage of the matrix is -1, expected 0 to 1"),
        (with(ab, "null,\"duration_ms\":-1", "[[0,1],[1,0]]"), "duration_ms"),
    ] {
        let read = SharingMatrix::from_file_text(&text);
        if word.is_empty() {
            assert!(read.is_ok(), "{text:?}: {read:?}");
            continue;
        }
        let error = read.unwrap_err().to_string();
        assert!(error.contains(word), "{text:?}: {error}");
    }
}

fn uuid(seed: u64) -> Uuid {
    Uuid::from_u64_pair(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), !seed)
}

#[test]
fn files_of_earlier_versions_are_read_without_ids_that_they_do_not_have() {
    let text = r#"{"schema":"huddle/matrix/1","method":"merged","vms":[
        {"name":"a","pid":4711,"vcpus":2},{"name":"b","domid":3,"pid":null},{"name":"c"}],
        "rate":[[0,0.5,0],[0.25,0,0],[0,0,0]]}"#;
    let matrix = SharingMatrix::from_file_text(text).unwrap();
    assert!(matrix.vms().iter().all(|vm| vm.id.is_none() && vm.uuid.is_none()));
    assert_eq!((matrix.vms()[0].vcpus, matrix.rate(0, 1)), (2, 0.5));
    let written = serde_json::to_value(&matrix).unwrap();
    for field in ["vm_kind", "pid", "start_ticks", "uuid", "domid"] {
        assert!(written["vms"][0].get(field).is_some_and(serde_json::Value::is_null), "{field}");
    }
    let wrong = text.replace("\"domid\":3", "\"uuid\":\"no uuid\"");
    assert!(SharingMatrix::from_file_text(&wrong).unwrap_err().to_string().contains("UUID"));
}

fn measured() -> impl Strategy<Value = SharingMatrix> {
    (1usize..7).prop_flat_map(|n| {
        let frames = proptest::collection::vec(proptest::collection::vec(0u64..1000, n), n);
        let used = proptest::collection::vec(1000u64..5000, n);
        (frames, used).prop_map(|(frames, used)| {
            let vms = used.iter().enumerate().map(|(i, frames_used)| MatrixVm {
                name: format!("vm{i}"),
                // A process, with or without a UUID, or a domain.
                id: Some(match i % 3 {
                    0 | 1 => VmId::Process(TaskId { id: i as i32 + 1, start_ticks: u64::MAX - *frames_used }),
                    _ => VmId::XenDomain(XenDomainId { domid: i as u32, uuid: uuid(*frames_used) }),
                }),
                uuid: (i % 3 > 0).then(|| uuid(*frames_used)),
                owner: None,
                vcpus: 1,
                memory: Some(MemoryUse {
                    pages_resident: frames_used * 2,
                    pages_used: frames_used + 1,
                    frames_used: *frames_used,
                    pages_file: (i > 0).then_some(frames_used / 2),
                    ..MemoryUse::default()
                }),
            });
            let of_files: Vec<Vec<u64>> =
                frames.iter().map(|row| row.iter().map(|count| count / 3).collect()).collect();
            let matrix = SharingMatrix::measured(Method::Content, vms.collect(), &frames, 1.5, 0.25);
            let matrix = if used.len() % 3 == 0 { matrix } else { matrix.with_file_frames(&of_files) };
            let matrix = match used.len() % 4 {
                0 | 1 => matrix,
                of_four => {
                    let read: Vec<Vec<u64>> =
                        frames.iter().map(|row| row.iter().map(|count| count / 2).collect()).collect();
                    let unseen = |vm: usize| (of_four == 2 && vm == 0).then(|| "it runs in KVM".to_owned());
                    matrix.with_reads(SharedReads::new(
                        &read,
                        None,
                        100,
                        (0..used.len()).map(unseen).collect(),
                    ))
                }
            };
            let seen_in_both: Vec<Vec<u64>> =
                frames.iter().map(|row| row.iter().map(|count| count / 4).collect()).collect();
            let seen = vec![frames.iter().flatten().max().unwrap_or(&0) / 4 + 1; frames.len()];
            let sample = SampledContents { probability: 0.25, seen: &seen, seen_in_both: &seen_in_both };
            if frames.len() % 2 == 0 { matrix.estimated(&sample) } else { matrix }
        })
    })
}

#[test]
fn reads_that_cannot_be_are_refused() {
    let vms = |unseen: &str| {
        let vm = |name: &str, more: &str| format!("{{\"name\":\"{name}\"{more}}}");
        format!("[{},{}]", vm("a", ""), vm("b", unseen))
    };
    let read = |vms: &str, rest: &str| {
        let json = format!(
            "{{\"schema\":\"huddle/matrix/1\",\"vms\":{vms},\"shared_frames\":[[0,9],[9,0]],\"rate\":[[0,0.5],[0.5,0]]{rest}}}"
        );
        SharingMatrix::from_file_text(&json).map(|matrix| matrix.shared_frames_read(0, 1))
    };
    let (plain, in_kvm) = (vms(""), vms(",\"reads_unavailable\":\"it runs in KVM\""));
    let of = |cells: &str| format!(",\"read_window_ms\":100,\"shared_frames_read\":{cells}");
    assert_eq!(read(&plain, &of("[[0,4],[4,0]]")), Ok(Some(4)));
    assert_eq!(read(&in_kvm, &of("[[0,null],[null,null]]")), Ok(None));
    let groups = ",\"shared_groups_read\":{\"groups\":[{\"vms\":[0,1],\"frames\":5}]}";
    for (vms, rest, word) in [
        (&plain, of("[[0,10],[10,0]]"), "no more frames that are read"),
        (&plain, of("[[0,4],[5,0]]"), "both ways"),
        (&plain, of("[[0,null],[null,0]]"), "reads_unavailable"),
        (&in_kvm, of("[[0,4],[4,0]]"), "null"),
        (&plain, of("[[0,4]]"), "not square"),
        (&plain, of("[[0,4],[4,0]]") + groups, "5 frames"),
        (&plain, ",\"read_window_ms\":100".to_owned(), "belongs together"),
        (&plain, groups.to_owned(), "belongs together"),
    ] {
        let error = read(vms, &rest).unwrap_err().to_string();
        assert!(error.contains(word), "{rest}: {error}");
    }
    // Rates are known without the memory of VMs, and stay so.
    let json = format!(
        "{{\"schema\":\"huddle/matrix/1\",\"vms\":{plain},\"shared_frames\":[[0,9],[9,0]],\"rate\":[[0,0.5],[0.2,0]]{}}}",
        of("[[0,3],[3,0]]")
    );
    let matrix: SharingMatrix = serde_json::from_str(&json).unwrap();
    let by_reads = matrix.of_reads().unwrap();
    assert!(
        (by_reads.rate(0, 1) - 0.5 / 3.0).abs() < 1e-12 && (by_reads.rate(1, 0) - 0.2 / 3.0).abs() < 1e-12
    );
}

proptest! {
    #[test]
    fn writing_and_reading_agree(matrix in measured()) {
        let text = serde_json::to_string(&matrix).unwrap();
        prop_assert_eq!(SharingMatrix::from_file_text(&text).unwrap(), matrix);
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in ".{0,200}") {
        let _ = SharingMatrix::from_file_text(&text);
    }
}

#[test]
fn the_size_of_frames_is_read_back_and_was_4_kib() {
    let memory = Some(MemoryUse { pages_resident: 9, pages_used: 9, frames_used: 9, ..MemoryUse::default() });
    let vms = ["a", "b"].map(|name| MatrixVm { memory, ..MatrixVm::named(name) });
    let frames = [vec![0, 5], vec![5, 0]];
    let size = crate::page_size::PageSize::new(16_384).unwrap();
    let matrix = SharingMatrix::measured(Method::Merged, vms.to_vec(), &frames, 1.0, 1.0).of_pages(size);
    let text = serde_json::to_string(&matrix).unwrap();
    assert!(text.contains(r#""page_bytes":16384"#), "{text}");
    assert_eq!(SharingMatrix::from_file_text(&text).unwrap(), matrix);
    assert_eq!((matrix.part(&[0, 1]).page_size(), matrix.weighted(|_| 0.5).page_size()), (size, size));
    let old = SharingMatrix::from_file_text(&text.replace(r#","page_bytes":16384"#, "")).unwrap();
    assert_eq!((old.page_size().bytes(), old.same_sharing_as(&matrix)), (4096, false));
    let error = SharingMatrix::from_file_text(&text.replace("16384", "16385")).unwrap_err().to_string();
    assert!(error.contains("a page of 16385 bytes"), "{error}");
}

#[test]
fn groups_are_read_back_and_checked_against_the_shared_frames() {
    let memory = Some(MemoryUse { pages_resident: 9, pages_used: 9, frames_used: 9, ..MemoryUse::default() });
    let vms = ["a", "b", "c"].map(|name| MatrixVm { memory, ..MatrixVm::named(name) });
    let frames = [vec![0, 5, 3], vec![5, 0, 3], vec![3, 3, 0]];
    let group = |vms: &[u32], frames| SharedGroup { vms: vms.to_vec(), frames };
    let groups = SharedGroups::of([group(&[0, 1, 2], 3), group(&[0, 1], 2)], 0);
    let matrix =
        SharingMatrix::measured(Method::Merged, vms.to_vec(), &frames, 1.0, 1.0).with_groups(groups.clone());
    let text = serde_json::to_string(&matrix).unwrap();
    let read = SharingMatrix::from_file_text(&text).unwrap();
    assert_eq!((&read, read.shared_groups()), (&matrix, Some(&groups)));
    assert_eq!(matrix.part(&[0, 2]).shared_groups().unwrap().groups(), [group(&[0, 1], 3)]);
    let refused = |from: &str, to: &str, words: &str| {
        assert!(text.contains(from), "{text}");
        let error = SharingMatrix::from_file_text(&text.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    refused("[0,1,2]", "[0,1,3]", "VM number 3, the matrix has 3");
    refused("[0,1,2]", "[0,2,1]", "two or more different ones in ascending order");
    refused("[0,1,2]", "[0]", "two or more different ones");
    refused("[0,1,2]", "[0,1]", "is listed twice");
    refused(r#""frames":3}"#, r#""frames":4}"#, r#"the groups of "a" and "b" have 6 frames, expected 5"#);
    refused(r#""frames":3}"#, r#""frames":2}"#, "have 4 frames, expected 5");
    // Less is right where some frames are in no group of the list.
    let with_rest = text.replacen(r#""frames":3}"#, r#""frames":2}"#, 1);
    let with_rest = with_rest.replacen(r#""rest_frames":0"#, r#""rest_frames":1"#, 1);
    let read = SharingMatrix::from_file_text(&with_rest).unwrap();
    assert!(!read.shared_groups().unwrap().is_complete());
    // Earlier files have none.
    let (before, _) = text.split_once(r#","shared_groups""#).unwrap();
    let read = SharingMatrix::from_file_text(&format!("{before}}}")).unwrap();
    assert_eq!(read.shared_groups(), None);
}
