//! The file with the secret seed of a fleet.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use huddle_host::files::{Access, open_own};
use huddle_sharing::content::SketchKey;

/// What the file is, in messages.
const ROLE: &str = "seed of the fleet";

/// Bytes of a seed, in the file as twice as many hexadecimal digits.
const SEED_BYTES: usize = 16;

/// The seed in a file, and its name: that of the file without what follows the last dot.
///
/// # Errors
/// The file belongs to somebody else, is readable by others, or holds something else.
pub(crate) fn read(path: &Path) -> anyhow::Result<(SketchKey, String)> {
    let make_one = || format!("make one with `huddle sketch --make-seed {}`", path.display());
    let file = open_own(path, ROLE, Access::Read);
    let file = file.with_context(|| format!("cannot read the {ROLE} {}; {}", path.display(), make_one()))?;
    let mode = file.metadata()?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        bail!(
            "the {ROLE} {} may be read by others (mode {mode:04o}); if it was, make another one for all hosts, else \
             chmod 600 {}",
            path.display(),
            path.display()
        );
    }
    let mut text = String::new();
    let limit = 4 * SEED_BYTES as u64;
    let read = file.take(limit).read_to_string(&mut text);
    let seed = read.ok().and_then(|_| parse(text.trim()));
    let Some(seed) = seed else {
        bail!(
            "{} is no {ROLE}: expected {} hexadecimal digits; {}",
            path.display(),
            2 * SEED_BYTES,
            make_one()
        );
    };
    let name = path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Ok((SketchKey::new(seed), name))
}

/// Writes a new seed, from the kernel's random numbers, for the owner alone.
///
/// # Errors
/// There is something already, or it cannot be written.
pub(crate) fn make(path: &Path) -> anyhow::Result<()> {
    let mut seed = [0; SEED_BYTES];
    let random = std::fs::File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut seed));
    random.context("cannot read /dev/urandom")?;
    let digits: String = seed.iter().map(|byte| format!("{byte:02x}")).collect();
    let file = open_own(path, ROLE, Access::Create);
    let mut file = file.with_context(|| {
        format!("cannot make the {ROLE} {}; name a file that does not exist", path.display())
    })?;
    let written = writeln!(file, "{digits}").and_then(|()| file.sync_all());
    written.with_context(|| format!("cannot write {}", path.display()))
}

fn parse(digits: &str) -> Option<[u8; SEED_BYTES]> {
    let mut seed = [0; SEED_BYTES];
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    if pairs.len() != SEED_BYTES || !rest.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_hexdigit())
    {
        return None;
    }
    for (byte, pair) in seed.iter_mut().zip(pairs) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(seed)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_seed_that_was_made_is_read_again_and_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lab-2026.seed");
        make(&path).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o600);
        let (key, name) = read(&path).unwrap();
        assert_eq!(name, "lab-2026");
        assert!(make(&path).unwrap_err().to_string().contains("name a file that does not exist"));
        assert_eq!(read(&path).unwrap().0, key, "it is as it was");
        let other = dir.path().join("b.seed");
        make(&other).unwrap();
        assert_ne!(read(&other).unwrap().0, key);
    }

    #[test]
    fn a_seed_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seed");
        make(&path).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("may be read by others (mode 0640)"));
    }

    #[test]
    fn only_32_hexadecimal_digits_are_a_seed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seed");
        for (text, is_seed) in [
            ("00112233445566778899aAbBcCdDeEfF\n", true),
            ("", false),
            ("00112233445566778899aabbccddeef", false),
            ("00112233445566778899aabbccddeeff00", false),
            ("+0112233445566778899aabbccddeeff", false),
            ("zz112233445566778899aabbccddeeff", false),
        ] {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            assert_eq!(read(&path).is_ok(), is_seed, "{text:?}");
        }
    }
}
