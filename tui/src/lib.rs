//! The terminal interface of huddle: where VMs run, what they share, what KSM does, and why.
//!
//! [`App`] is pure state: it takes updates, terminal events and ticks, and returns
//! [`Action`]s. [`draw`] renders it without changing it. Neither does I/O; [`terminal`] alone touches
//! the real terminal. The event loop is the caller's:
//!
//! ```no_run
//! # use std::time::Duration;
//! # use huddle_tui::{terminal::TerminalGuard, Action, App, Charset, ColourMode, Options};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut guard = TerminalGuard::enter(|| false)?;
//! let size = guard.size()?;
//! let tick = Duration::from_secs(1);
//! let mut app =
//!     App::new(Options { colour: ColourMode::Ansi16, charset: Charset::Ascii, size, tick });
//! loop {
//!     if app.take_dirty() {
//!         guard.terminal().draw(|frame| huddle_tui::draw(frame, &app))?;
//!     }
//!     if crossterm::event::poll(tick)? {
//!         if app.on_event(crossterm::event::read()?).contains(&Action::Quit) {
//!             return Ok(());
//!         }
//!     } else {
//!         app.on_tick();
//!     }
//! }
//! # }
//! ```

mod app;
mod colour;
mod fleet;
pub mod picture;
pub mod terminal;
mod view;

pub use app::geometry::MINIMUM_SIZE;
pub use app::keys::{Binding, Command, Key, KeyMap, KeysError, Scope};
pub use app::scale::Scale;
pub use app::{Action, App, Capability, ExperimentResult, Options, Replay, Source, Speed, Tone, View};
pub use colour::{Charset, ColourEnv, ColourMode, LocaleEnv, Palette, PaletteError};
pub use fleet::FleetApp;
pub use view::{draw, render};
