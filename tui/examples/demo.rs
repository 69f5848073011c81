//! A demonstration of the terminal on MADE-UP data: nothing shown was measured on this host.
//!
//! `cargo run -p huddle-tui --example demo -- [VMS] [DOMAINS] [--panic]`; with `--panic` it panics
//! after two seconds, to show that the terminal is restored.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use huddle_model::event::{Event, EventKind};
use huddle_model::plan::Policy;
use huddle_testing::fixtures;
use huddle_tui::terminal::TerminalGuard;
use huddle_tui::{Action, App, Charset, ColourEnv, ColourMode, LocaleEnv, Options, draw};

const TICK: Duration = Duration::from_secs(1);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut numbers = arguments.iter().filter_map(|argument| argument.parse::<u16>().ok());
    let vms = usize::from(numbers.next().unwrap_or(4));
    let domains = u32::from(numbers.next().unwrap_or(2).max(1));
    let shall_panic = arguments.iter().any(|argument| argument == "--panic");
    let scene = fixtures::Scene { vms, vcpus: 2, domains, cpus: 4, policy: Policy::Paper };

    let variable = |name| std::env::var(name).ok();
    let (no_color, colorterm, term) = (variable("NO_COLOR"), variable("COLORTERM"), variable("TERM"));
    let (lc_all, lc_ctype, lang) = (variable("LC_ALL"), variable("LC_CTYPE"), variable("LANG"));
    let colour = ColourMode::detect(ColourEnv {
        no_color: no_color.as_deref(),
        colorterm: colorterm.as_deref(),
        term: term.as_deref(),
    });
    let charset = Charset::detect(LocaleEnv {
        lc_all: lc_all.as_deref(),
        lc_ctype: lc_ctype.as_deref(),
        lang: lang.as_deref(),
    });

    let mut guard = TerminalGuard::enter(|| false)?;
    let mut app = App::new(Options { colour, charset, size: guard.size()?, tick: TICK });
    let mut round = 0;
    let mut next_tick = Instant::now();
    loop {
        if Instant::now() >= next_tick {
            next_tick += TICK;
            app.on_tick();
            round += 1;
            let policy = if round / 10 % 2 == 0 { Policy::Paper } else { Policy::Opposed };
            let mut view = fixtures::view(fixtures::Scene { policy, ..scene }, round);
            let own = Arc::make_mut(&mut view.round);
            own.events.insert(
                0,
                Event {
                    at_unix_us: own.begin_unix_us,
                    kind: EventKind::Lifecycle,
                    vm: None,
                    message: format!("demonstration on made-up data, round {round}"),
                },
            );
            view.events = Arc::new(own.events.clone());
            app.on_view(view, 0);
            assert!(!(shall_panic && round > 2), "asked to panic");
        }
        if app.take_dirty() {
            guard.terminal().draw(|frame| draw(frame, &app))?;
        }
        let wait = next_tick.saturating_duration_since(Instant::now());
        if crossterm::event::poll(wait)? && app.on_event(crossterm::event::read()?).contains(&Action::Quit) {
            return Ok(());
        }
    }
}
