//! Extracting the kernel from a boot image: Xen boots an ELF file.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};

/// Fields of the setup header (Documentation/x86/boot.rst, Linux 6.1), from protocol 2.08 on.
const SETUP_SECTORS: usize = 0x1f1;
const MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;

/// Magic numbers of payloads, and the programs that unpack them from standard input.
const FORMATS: [(&[u8], &str); 6] = [
    (b"\x1f\x8b", "gzip"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x02\x21\x4c\x18", "lz4"),
    (b"BZh", "bzip2"),
    (b"\x89LZO", "lzop"),
];

/// The ELF file in a kernel (`vmlinuz`).
pub(super) fn extract(kernel: &[u8]) -> anyhow::Result<Vec<u8>> {
    let payload = payload(kernel)?;
    let format = FORMATS.iter().find(|(begin, _)| payload.starts_with(begin));
    let Some((_, program)) = format else {
        bail!("the kernel is compressed in an unknown way: it begins with {:02x?}", payload.get(..8))
    };
    let elf = unpack(program, payload)?;
    ensure!(elf.starts_with(b"\x7fELF"), "the output of {program} for the kernel is not an ELF file");
    Ok(elf)
}

/// The compressed kernel, without its length, which the linker appends.
fn payload(kernel: &[u8]) -> anyhow::Result<&[u8]> {
    let number = |at: usize| {
        let bytes = kernel.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u32::from_le_bytes).context("the kernel is cut off within its header")
    };
    ensure!(
        number(MAGIC)?.to_le_bytes() == *b"HdrS" && number(VERSION)? & 0xffff >= 0x208,
        "the kernel has no setup header of protocol 2.08 or later: it is not one for x86-64"
    );
    // 0 means 4, from the time of floppy disks; the boot sector comes before.
    let sectors = match kernel[SETUP_SECTORS] {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = (sectors + 1) * 512 + number(PAYLOAD_OFFSET)? as usize;
    let length = number(PAYLOAD_LENGTH)? as usize;
    let whole = kernel.get(start..start.saturating_add(length)).context("the kernel is cut off")?;
    // The length in four bytes; gzip's own trailer is the same, and part of it.
    Ok(if whole.starts_with(FORMATS[0].0) { whole } else { &whole[..whole.len().saturating_sub(4)] })
}

fn unpack(program: &str, payload: &[u8]) -> anyhow::Result<Vec<u8>> {
    let failed = || format!("cannot unpack the kernel with {program}; on Debian: apt-get install {program}");
    let mut child = Command::new(program)
        .arg("-dc")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(failed)?;
    let mut input = child.stdin.take().with_context(failed)?;
    // In a thread, since both pipes are small; the pipe closes when it ends.
    let (written, output) = std::thread::scope(|scope| {
        let writer = scope.spawn(move || input.write_all(payload));
        let output = child.wait_with_output();
        (writer.join(), output)
    });
    let output = output.with_context(failed)?;
    ensure!(output.status.success() && matches!(written, Ok(Ok(()))), failed());
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(payload: &[u8]) -> Vec<u8> {
        let mut kernel = vec![0; 1024 + 16];
        kernel[SETUP_SECTORS] = 1;
        kernel[MAGIC..MAGIC + 4].copy_from_slice(b"HdrS");
        kernel[VERSION..VERSION + 2].copy_from_slice(&0x20f_u16.to_le_bytes());
        kernel[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&16_u32.to_le_bytes());
        kernel[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        kernel.extend(payload);
        kernel
    }

    fn packed(program: &str, content: &[u8]) -> Vec<u8> {
        let path = std::env::temp_dir().join(format!("xtask-vmlinux-{program}-{}", std::process::id()));
        std::fs::write(&path, content).unwrap();
        let output = Command::new(program).arg("-c").arg(&path).output().unwrap();
        std::fs::remove_file(path).unwrap();
        output.stdout
    }

    #[test]
    fn the_kernel_is_found_by_its_header_and_unpacked() {
        let content = b"\x7fELF and the rest";
        let gzip = packed("gzip", content);
        assert_eq!(extract(&kernel(&gzip)).unwrap(), content);
        let error = extract(&kernel(b"nothing known")).unwrap_err().to_string();
        assert!(error.contains("unknown way"), "{error}");
        assert!(extract(&kernel(&packed("gzip", b"text"))).unwrap_err().to_string().contains("not an ELF"));
    }

    #[test]
    fn other_files_are_rejected() {
        for (bytes, why) in [(&b"MZ"[..], "cut off"), (&[0; 2048][..], "no setup header")] {
            let error = extract(bytes).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        let mut short = kernel(b"\x1f\x8b");
        short.pop();
        assert!(extract(&short).unwrap_err().to_string().contains("cut off"));
    }
}
