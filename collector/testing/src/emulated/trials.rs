//! One host for all tests of a program, and tests on it, one after the other; tests on hosts of several kinds end the
//! host of one kind before they boot the next.

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use libtest_mimic::{Arguments, Failed, Trial};

use super::host::{self, EmulatedHost};

/// The kind of the host that is up, and the host.
pub type Shared = Arc<Mutex<Option<(String, EmulatedHost)>>>;

/// Boots it, from the image.
pub type Boot = fn(&Path) -> EmulatedHost;

/// Runs tests, and ends this program with their result.
pub fn run(trials: impl FnOnce(&Shared) -> Vec<Trial>) -> ! {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let host = Shared::default();
    let ended = libtest_mimic::run(&arguments, trials(&host));
    // Dropped before this program ends, so that QEMU is waited for.
    drop(host.lock().unwrap_or_else(PoisonError::into_inner).take());
    ended.exit()
}

/// A test on the host, which the first test boots. `program` is one that cargo has built beside it.
pub fn trial(
    name: &str,
    host: &Shared,
    (kind, program): (&str, &str),
    boot: Boot,
    test: fn(&mut EmulatedHost),
) -> Trial {
    let image = match host::image(kind, Path::new(program)) {
        Ok(image) => image,
        Err(reason) if std::env::var("CI").is_ok_and(|value| value == "true") => {
            return Trial::test(name, move || Err(Failed::from(format!("CI must not skip this: {reason}"))));
        }
        Err(reason) => {
            eprintln!("{name}: skipped: {reason}");
            return Trial::test(name, || Ok(())).with_ignored_flag(true);
        }
    };
    let (host, kind) = (Arc::clone(host), kind.to_owned());
    Trial::test(name, move || {
        // A failed test leaves a host that the others can use.
        let mut host = host.lock().unwrap_or_else(PoisonError::into_inner);
        let run = AssertUnwindSafe(|| {
            let running = host.take_if(|(running, _)| *running != kind);
            drop(running);
            let host = &mut host.get_or_insert_with(|| (kind, boot(&image))).1;
            let begin = Instant::now();
            test(host);
            eprintln!("the test took {:.1?}", begin.elapsed());
        });
        std::panic::catch_unwind(run).map_err(|panic| Failed::from(text_of(&*panic)))
    })
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}
