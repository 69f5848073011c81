//! The kernels and initramfs that `cargo xtask experiment` makes for VMs, one directory a flavour or image.

use std::path::{Path, PathBuf};

/// The directory of a flavour's `vmlinuz` and `initrd`, beneath `images`.
///
/// # Errors
/// One of the two is missing: one sentence with the remedy.
pub fn find(images: &Path, flavour: &str) -> Result<PathBuf, String> {
    let directory = images.join(flavour);
    for file in ["vmlinuz", "initrd"] {
        let path = directory.join(file);
        if !path.is_file() {
            let experiment = if flavour == crate::web::vm::IMAGE { "web" } else { "microbench" };
            return Err(format!(
                "the image {flavour:?} has no {}; make it with `cargo xtask experiment {experiment} --guest qemu`, \
                 after `cargo xtask setup`",
                path.display()
            ));
        }
    }
    Ok(directory)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_flavour_that_was_not_made_is_named_with_the_remedy() {
        let images = tempfile::tempdir().unwrap();
        let why = find(images.path(), "cloud").unwrap_err();
        assert!(why.contains("cloud/vmlinuz") && why.contains("cargo xtask"), "{why}");
        std::fs::create_dir(images.path().join("cloud")).unwrap();
        for file in ["vmlinuz", "initrd"] {
            std::fs::write(images.path().join("cloud").join(file), "").unwrap();
        }
        assert_eq!(find(images.path(), "cloud").unwrap(), images.path().join("cloud"));
    }
}
