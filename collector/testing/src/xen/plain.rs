//! The program that huddle is compared with, compiled against Xen's own headers and libraries.

use std::path::Path;
use std::process::Command;

/// `plain.c` as a program for dom0.
pub fn compiled(image: &Path) -> Vec<u8> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/xen/plain.c");
    let program = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    let (include, lib) = (image.join("include"), image.join("lib"));
    let output = Command::new("cc")
        .args(["-O2", "-Wall", "-Werror", "-o"])
        .arg(&program)
        .arg("-I")
        .arg(include)
        .arg(source)
        .arg("-L")
        .arg(&lib)
        .args(["-lxenctrl", "-lxenguest", "-lxenforeignmemory"])
        .arg(format!("-Wl,-rpath-link,{}", lib.display()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read(&program).unwrap()
}
