//! The real terminal: raw mode, alternate screen and mouse, restored on any end that lets code run (return,
//! error, panic). For SIGTERM the caller's loop must return; after `kill -9` the shell's `reset` is the
//! remedy.

use std::io::{self, IsTerminal, Stdout, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossterm::event::{DisableMouseCapture, EnableMouseCapture};
use crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use crossterm::{cursor, execute};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use rustix::termios::{Winsize, tcsetwinsize};

/// Holds the terminal in the state the program needs; dropping it, or a panic of any thread, restores the
/// previous state.
pub struct TerminalGuard {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    /// Whether the terminal is in our state; shared with the panic hook, so that it is restored once.
    is_entered: Arc<AtomicBool>,
}

impl TerminalGuard {
    /// Enters raw mode and the alternate screen and enables the mouse. `is_caught` tells, on a thread that
    /// panics, whether the program catches that panic and goes on: then the screen stays.
    ///
    /// # Errors
    /// When standard input or output is not a terminal, with a remedy, or when the terminal refuses; changes
    /// made by then are undone.
    pub fn enter(is_caught: fn() -> bool) -> io::Result<Self> {
        if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "standard input and output are not both a terminal, so there is no screen to draw on; \
                 use `huddle run` to run without one",
            ));
        }
        let is_entered = Arc::new(AtomicBool::new(true));
        let restore_on_panic = Arc::clone(&is_entered);
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !is_caught() {
                // The message must go to the main screen, which stays.
                restore(&restore_on_panic);
            }
            before(info);
        }));
        let set_up = || -> io::Result<Terminal<CrosstermBackend<Stdout>>> {
            enable_raw_mode()?;
            execute!(io::stdout(), EnterAlternateScreen, EnableMouseCapture, cursor::Hide)?;
            measure_if_unknown()?;
            Terminal::new(CrosstermBackend::new(io::stdout()))
        };
        match set_up() {
            Ok(terminal) => Ok(Self { terminal, is_entered }),
            Err(error) => {
                restore(&is_entered);
                Err(error)
            }
        }
    }

    /// The terminal to draw on.
    pub fn terminal(&mut self) -> &mut Terminal<CrosstermBackend<Stdout>> {
        &mut self.terminal
    }

    /// Current columns and rows.
    ///
    /// # Errors
    /// When the terminal does not report its size.
    pub fn size(&self) -> io::Result<(u16, u16)> {
        crossterm::terminal::size()
    }
}

/// A serial line or a VM's console does not know the size of the terminal at its other end and reports 0 by
/// 0: then the terminal itself is asked for its last corner, and the line is set to that size, as the program
/// `resize` (xterm) does.
fn measure_if_unknown() -> io::Result<()> {
    if crossterm::terminal::size().is_ok_and(|(columns, rows)| columns > 0 && rows > 0) {
        return Ok(());
    }
    // A cursor moved beyond the end stays at the end (ECMA-48, CUP).
    execute!(io::stdout(), cursor::MoveTo(998, 998))?;
    let (column, row) = cursor::position().map_err(|error| {
        let text =
            format!("the terminal does not report its size ({error}); set it with `stty cols 120 rows 40`");
        io::Error::new(io::ErrorKind::Unsupported, text)
    })?;
    let size = Winsize { ws_col: column + 1, ws_row: row + 1, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(tcsetwinsize(io::stdout(), size)?)
}

impl Drop for TerminalGuard {
    fn drop(&mut self) {
        restore(&self.is_entered);
    }
}

/// Restores the terminal unless that was done. Errors are ignored: there is no screen left to show them on,
/// and every step is tried all the same.
fn restore(is_entered: &AtomicBool) {
    if !is_entered.swap(false, Ordering::SeqCst) {
        return;
    }
    let mut out = io::stdout();
    let _ = execute!(out, DisableMouseCapture);
    let _ = execute!(out, LeaveAlternateScreen, cursor::Show);
    let _ = disable_raw_mode();
    let _ = out.flush();
}
