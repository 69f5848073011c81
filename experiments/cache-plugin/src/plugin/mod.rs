//! What QEMU loads: `-plugin file=libhuddle_cache_plugin.so,stream=PATH`.
//!
//! # What a guest pays
//! While nothing is recorded, translated code has a callback on returns from interrupts only, some hundreds a second:
//! there the plugin sees whether the runner wants a recording. It then has QEMU drop all translated code
//! (`qemu_plugin_reset`), and what is translated from then on counts instructions and calls back for each access. The
//! callback compares the low bits of the virtual address with a constant and mostly returns. Fetches are decided when a
//! block is translated: only an instruction in the kept line gets a callback.

pub mod interface;
mod recorder;

use std::ffi::{CStr, OsStr, c_char, c_int, c_uint, c_void};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use self::interface::{AccessInfo, Block, Forgetting, Functions, Info, PluginId, VERSION};
use self::recorder::{Callbacks, Recorder};
use crate::stream::{StreamError, StreamWriter};

/// How long a vCPU waits for room in its ring: longer than the runner simulates what it has drained, on a busy host too,
/// and shorter than a guest's kernel takes a vCPU for stuck (20 s, Documentation/admin-guide/lockup-watchdogs.rst,
/// Linux 6.1).
const MOST_WAITED: Duration = Duration::from_secs(5);

/// The version of the interface that QEMU has to offer.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals, reason = "QEMU looks for this name")]
pub static qemu_plugin_version: c_int = VERSION;

/// The one recorder of the process: callbacks of version 1 for translations are given nothing of the plugin's own.
static RECORDER: OnceLock<Recorder> = OnceLock::new();

/// The option that names the stream.
const OPTION: &[u8] = b"stream=";

/// Why the plugin cannot be installed.
#[derive(Debug, thiserror::Error)]
enum InstallError {
    #[error("it records x86-64 guests of system emulation; this one is of {0:?}")]
    Guest(String),
    #[error("name the stream that the runner made, and nothing else: -plugin file=...,stream=PATH")]
    Option,
    #[error("this QEMU has no {0:?}; QEMU 7.2 has")]
    Function(&'static CStr),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("it is loaded already; give QEMU one -plugin option with it")]
    Twice,
}

/// Called by QEMU when it loads the plugin, before there are vCPUs. Returns 0, or another number after a sentence on
/// standard error.
///
/// # Safety
/// As QEMU calls it: `info` is its description of itself, `argv` has `argc` strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qemu_plugin_install(
    id: PluginId,
    info: *const Info,
    argc: c_int,
    argv: *const *const c_char,
) -> c_int {
    // SAFETY: by the contract of this function.
    let installed = unsafe { options(argc, argv) }.ok_or(InstallError::Option).and_then(|path| {
        // SAFETY: as above; QEMU keeps its description until this returns.
        unsafe { info.as_ref() }.map_or(Err(InstallError::Option), |info| install(id, info, path))
    });
    match installed {
        Ok(()) => 0,
        Err(error) => {
            // A panic of `eprintln!` would end QEMU without a word.
            let _ = writeln!(std::io::stderr(), "huddle-cache-plugin cannot be installed: {error}");
            1
        }
    }
}

/// The path of the stream; `None` unless that is the only option.
///
/// # Safety
/// `argv` has `argc` strings.
unsafe fn options<'a>(argc: c_int, argv: *const *const c_char) -> Option<&'a Path> {
    if argc != 1 || argv.is_null() {
        return None;
    }
    // SAFETY: there is one string, by the contract of this function.
    let option = unsafe { CStr::from_ptr(*argv) };
    Some(Path::new(OsStr::from_bytes(option.to_bytes().strip_prefix(OPTION)?)))
}

fn install(id: PluginId, info: &Info, path: &Path) -> Result<(), InstallError> {
    // SAFETY: a string that QEMU has for as long as it runs.
    let target = unsafe { CStr::from_ptr(info.target_name) };
    if !info.is_system || target != c"x86_64" {
        return Err(InstallError::Guest(target.to_string_lossy().into_owned()));
    }
    let functions = Functions::find().map_err(InstallError::Function)?;
    let stream = StreamWriter::open(path, usize::try_from(info.vcpus).unwrap_or(0), MOST_WAITED)?;
    let callbacks = Callbacks { on_block, on_fetch, on_access, on_return };
    let recorder = Recorder::new(id, functions, Forgetting::find(), callbacks, stream);
    RECORDER.set(recorder).map_err(|_| InstallError::Twice)?;
    register(id);
    Ok(())
}

fn register(id: PluginId) {
    if let Some(recorder) = RECORDER.get() {
        // SAFETY: QEMU's functions, with the id that it gave.
        unsafe {
            (recorder.functions().on_translation)(id, on_translation);
            (recorder.functions().on_flush)(id, on_flush);
        }
    }
}

/// All translated code has been dropped, and no vCPU runs: see [`interface::Forgetting`].
extern "C" fn on_flush(_: PluginId) {
    if let Some(recorder) = RECORDER.get() {
        // SAFETY: no vCPU runs.
        unsafe { recorder.forget_callbacks() };
    }
}

/// The same, after [`on_flush`]; no callback is registered any more.
extern "C" fn on_reset(id: PluginId) {
    if let Some(recorder) = RECORDER.get() {
        recorder.apply();
    }
    register(id);
}

extern "C" fn on_translation(_: PluginId, block: *mut Block) {
    if let Some(recorder) = RECORDER.get() {
        // SAFETY: a block that QEMU is translating.
        unsafe { recorder.translate(block) };
    }
}

/// Counts the instructions of a block that a vCPU begins.
extern "C" fn on_block(vcpu: c_uint, instructions: *mut c_void) {
    if let Some(recorder) = RECORDER.get() {
        recorder.count(vcpu, instructions as u64);
    }
}

/// The kept line at this address of QEMU's process is fetched from.
extern "C" fn on_fetch(vcpu: c_uint, line: *mut c_void) {
    if let Some(recorder) = RECORDER.get() {
        recorder.fetch(vcpu, line as u64);
    }
}

/// Every access comes here, so what is left to do for most is one comparison.
extern "C" fn on_access(vcpu: c_uint, info: AccessInfo, address: u64, first: *mut c_void) {
    if recorder::may_touch(address, first as u64)
        && let Some(recorder) = RECORDER.get()
    {
        recorder.access(vcpu, info, address);
    }
}

/// A vCPU returns from an interrupt.
extern "C" fn on_return(_: c_uint, _: *mut c_void) {
    if let Some(recorder) = RECORDER.get()
        && recorder.begins_to_change()
    {
        // SAFETY: QEMU's function, called in a vCPU's thread.
        unsafe { (recorder.functions().reset)(recorder.id(), on_reset) };
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn install_with(target: &CStr, is_system: bool, options: &[&CStr]) -> c_int {
        let info = Info { target_name: target.as_ptr(), versions: [0, 1], is_system, vcpus: 1, max_vcpus: 1 };
        let argv: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        // SAFETY: as QEMU calls it.
        unsafe { qemu_plugin_install(1, &raw const info, argv.len() as c_int, argv.as_ptr()) }
    }

    #[test]
    fn what_cannot_be_installed_is_refused_without_a_panic() {
        let stream = c"stream=/nowhere";
        for (target, is_system, options) in [
            (c"aarch64", true, &[stream][..]),
            (c"x86_64", false, &[stream]),
            (c"x86_64", true, &[]),
            (c"x86_64", true, &[c"stream"]),
            (c"x86_64", true, &[stream, c"more=1"]),
            // This program has no functions of QEMU.
            (c"x86_64", true, &[stream]),
        ] {
            assert_eq!(install_with(target, is_system, options), 1, "{options:?}");
        }
        // SAFETY: QEMU gives no null pointers, but nothing may break by one.
        assert_eq!(unsafe { qemu_plugin_install(1, std::ptr::null(), 0, std::ptr::null()) }, 1);
        assert!(RECORDER.get().is_none());
    }
}
