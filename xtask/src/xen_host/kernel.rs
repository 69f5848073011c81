//! The kernel in a kernel's file: Xen boots it as it is linked, not packed for a PC's firmware.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};

/// Where the header of a bzImage tells what (Documentation/arch/x86/boot.rst, Linux 6.1).
const SETUP_SECTS: usize = 0x1f1;
const MAGIC: usize = 0x202;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;

/// The ELF file that is packed in a bzImage.
pub(super) fn vmlinux(image: &[u8]) -> anyhow::Result<Vec<u8>> {
    let payload = payload(image).context("this is no kernel for x86 that tells where its payload is")?;
    let unpacker: &[&str] = match payload {
        // What follows the stream (its unpacked size) is not part of it.
        [0xfd, b'7', b'z', b'X', b'Z', ..] => &["xz", "-dc", "--single-stream"],
        [0x1f, 0x8b, ..] => &["gzip", "-dcq"],
        [0x28, 0xb5, 0x2f, 0xfd, ..] => &["zstd", "-dcq"],
        _ => bail!("the kernel is packed by something other than xz, gzip and zstd"),
    };
    let mut child = Command::new(unpacker[0])
        .args(&unpacker[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot run {}", unpacker[0]))?;
    let mut input = child.stdin.take().context("no pipe to the unpacker")?;
    let output = std::thread::scope(|scope| {
        // It may stop reading before the end, at what follows the stream.
        scope.spawn(move || _ = input.write_all(payload));
        child.wait_with_output()
    })?;
    ensure!(output.stdout.starts_with(b"\x7fELF"), "{} made no ELF file of the kernel", unpacker[0]);
    Ok(output.stdout)
}

fn payload(image: &[u8]) -> Option<&[u8]> {
    let number = |at: usize| Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?) as usize);
    if image.get(MAGIC..MAGIC + 4)? != b"HdrS" {
        return None;
    }
    // 0 stands for 4, for the oldest of loaders.
    let setup = match *image.get(SETUP_SECTS)? {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = (setup + 1) * 512 + number(PAYLOAD_OFFSET)?;
    image.get(start..start.checked_add(number(PAYLOAD_LENGTH)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_is_where_the_header_says() {
        let mut image = vec![0; 2 * 512 + 100];
        image[SETUP_SECTS] = 1;
        image[MAGIC..MAGIC + 4].copy_from_slice(b"HdrS");
        image[PAYLOAD_OFFSET] = 10;
        image[PAYLOAD_LENGTH] = 20;
        image[2 * 512 + 10] = 7;
        assert_eq!(payload(&image).map(|payload| (payload[0], payload.len())), Some((7, 20)));
        image[PAYLOAD_LENGTH] = 200;
        assert_eq!(payload(&image), None, "beyond the end");
        assert!(vmlinux(&image).is_err());
        assert!(vmlinux(b"").is_err());
    }
}
