//! Man pages and completions of a command line. `cargo xtask dist` has the tests of both programs write them into the
//! directory that `HUDDLE_PAGES` names, so that no program ships with what makes them.

use std::fs;
use std::path::Path;

use clap::Command;
use clap_complete::{Shell, generate_to};

/// Checks that every command has a page and completions with all its flags, and writes them where they are wanted.
///
/// # Panics
/// A page or a flag is missing, or they cannot be written.
pub fn check(of: impl Fn() -> Command) {
    let dir = tempfile::tempdir().unwrap();
    write(&of, dir.path()).unwrap();
    let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    let command = of();
    let program = command.get_name();
    let (page, bash) = (read(&format!("man/{program}.1")), read(&format!("completions/{program}.bash")));
    let in_page = |text: &str| text.replace('-', "\\-");
    for subcommand in command.get_subcommands() {
        let name = subcommand.get_name();
        assert!(page.contains(&in_page(&format!("{program}-{name}(1)"))), "{name}");
        let own = read(&format!("man/{program}-{name}.1"));
        for flag in subcommand.get_arguments().filter_map(|argument| argument.get_long()) {
            assert!(own.contains(&in_page(&format!("--{flag}"))), "{name}: {flag}");
            assert!(bash.contains(&format!("--{flag}")), "{flag}");
        }
        for shell in [format!("_{program}"), format!("{program}.fish")] {
            assert!(read(&format!("completions/{shell}")).contains(name), "{shell}: {name}");
        }
    }
    assert!(command.get_subcommands().next().is_some(), "there are commands");
    if let Some(directory) = std::env::var_os("HUDDLE_PAGES") {
        write(&of, Path::new(&directory)).unwrap();
    }
}

/// `man/*.1` with a page for each command, and `completions/`, below `directory`.
fn write(of: &impl Fn() -> Command, directory: &Path) -> std::io::Result<()> {
    let (man, completions) = (directory.join("man"), directory.join("completions"));
    fs::create_dir_all(&man)?;
    fs::create_dir_all(&completions)?;
    clap_mangen::generate_to(of(), &man)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let mut command = of();
        let program = command.get_name().to_owned();
        generate_to(shell, &mut command, program, &completions)?;
    }
    Ok(())
}
