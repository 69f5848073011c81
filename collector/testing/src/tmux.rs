//! A real terminal: tmux with a server of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Time limit for drawing on a busy machine.
const PATIENCE: Duration = Duration::from_secs(40);

/// Why no terminal is available for tests.
pub fn missing() -> Option<String> {
    let found = Command::new("tmux").arg("-V").output().is_ok_and(|output| output.status.success());
    (!found).then(|| "tmux is missing".to_owned())
}

/// A terminal in which a script runs; dropping it ends both.
pub struct Terminal {
    socket: PathBuf,
}

impl Terminal {
    /// Starts `script` by `sh`, in a terminal of so many columns and rows.
    pub fn start(dir: &Path, (width, height): (u16, u16), script: &str) -> Self {
        let (socket, file) = (dir.join("tmux"), dir.join("script"));
        std::fs::write(&file, script).unwrap();
        let terminal = Self { socket };
        let (width, height) = (width.to_string(), height.to_string());
        let command = format!("sh {}", file.display());
        // Only the environment variables that the test sets.
        terminal.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", &width, "-y", &height, &command]);
        terminal
    }

    fn tmux(&self, args: &[&str]) -> String {
        let output = Command::new("tmux").arg("-S").arg(&self.socket).args(args).output().unwrap();
        assert!(output.status.success(), "tmux {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The text on the screen.
    pub fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// Waits until the screen is as wanted, and returns it.
    pub fn until(&self, wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let screen = self.screen();
            if wanted(&screen) {
                return screen;
            }
            assert!(Instant::now() < deadline, "timed out waiting for the screen:\n{screen}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until this text is on the screen.
    pub fn shows(&self, words: &str) -> String {
        self.until(|screen| screen.contains(words))
    }

    /// Presses keys, as tmux names them.
    pub fn keys(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    /// Resizes to so many columns and rows.
    pub fn resize(&self, width: u16, height: u16) {
        self.tmux(&["resize-window", "-x", &width.to_string(), "-y", &height.to_string()]);
    }

    /// A variable of the terminal's state, such as `cursor_flag`.
    pub fn state(&self, name: &str) -> String {
        self.tmux(&["display-message", "-p", &format!("#{{{name}}}")]).trim().to_owned()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = Command::new("tmux").arg("-S").arg(&self.socket).arg("kill-server").output();
    }
}
