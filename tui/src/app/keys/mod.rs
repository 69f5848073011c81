//! The table of keys, from which both key handling and the help are made.

mod command;
mod table;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::View;
pub use command::Command;
pub use table::KeysError;

/// Where a binding applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Everywhere, even while a filter is typed.
    Always,
    /// In every view and in the help, but not while a filter is typed.
    Everywhere,
    /// In one view only; takes precedence over everywhere.
    In(View),
    /// In the help; takes precedence over everywhere.
    InHelp,
    /// While a filter is typed.
    Typing,
    /// While a confirmation is open.
    Asking,
    /// While a choice is open.
    Choosing,
}

impl Scope {
    /// Its heading in the help.
    pub(crate) fn heading(self) -> String {
        match self {
            Self::Always | Self::Everywhere => "everywhere".into(),
            Self::In(view) => format!("in {}", view.name()),
            Self::InHelp => "in this help".into(),
            Self::Typing => "while typing a filter".into(),
            Self::Asking => "when asked for confirmation".into(),
            Self::Choosing => "when choosing from a list".into(),
        }
    }
}

/// A pressed key. Shift is part of the character, so it is not kept for characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    code: KeyCode,
    modifiers: KeyModifiers,
}

impl Key {
    /// A key without modifiers.
    pub fn plain(code: KeyCode) -> Self {
        Self { code, modifiers: KeyModifiers::NONE }
    }

    /// A key with Ctrl.
    pub fn control(code: KeyCode) -> Self {
        Self { code, modifiers: KeyModifiers::CONTROL }
    }

    /// The character it types into a filter.
    pub(crate) fn typed(self) -> Option<char> {
        match self.code {
            KeyCode::Char(typed) if self.modifiers.is_empty() && !typed.is_control() => Some(typed),
            _ => None,
        }
    }
}

impl From<KeyEvent> for Key {
    fn from(event: KeyEvent) -> Self {
        // Terminals differ in whether they report Shift for a key that Shift already changed.
        let shifted = matches!(event.code, KeyCode::Char(_) | KeyCode::BackTab);
        let dropped = if shifted { KeyModifiers::SHIFT } else { KeyModifiers::NONE };
        Self { code: event.code, modifiers: event.modifiers - dropped }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (modifier, name) in
            [(KeyModifiers::CONTROL, "Ctrl-"), (KeyModifiers::ALT, "Alt-"), (KeyModifiers::SHIFT, "Shift-")]
        {
            if self.modifiers.contains(modifier) {
                f.write_str(name)?;
            }
        }
        match self.code {
            KeyCode::Char(' ') => f.write_str("Space"),
            KeyCode::Char(character) => write!(f, "{character}"),
            KeyCode::BackTab => f.write_str("Shift-Tab"),
            KeyCode::PageUp => f.write_str("PgUp"),
            KeyCode::PageDown => f.write_str("PgDn"),
            KeyCode::F(number) => write!(f, "F{number}"),
            other => write!(f, "{other:?}"),
        }
    }
}

/// One key and its command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The key.
    pub key: Key,
    /// Where it applies.
    pub scope: Scope,
    /// The command.
    pub command: Command,
}

/// What keys currently do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Normal,
    Help,
    Typing,
    Asking,
    Choosing,
}

/// All bindings; the single source for key handling and help.
#[derive(Clone, Debug)]
pub struct KeyMap {
    bindings: Vec<Binding>,
}

impl Default for KeyMap {
    /// The default keys. `h` moves left in the sharing view, whose cursor moves in both directions, and opens
    /// the help elsewhere.
    fn default() -> Self {
        use Command as C;
        use KeyCode::{
            BackTab, Backspace, Char, Down, End, Enter, Esc, Home, Left, PageDown, PageUp, Right, Tab, Up,
        };
        let mut bindings = Vec::new();
        let mut bind = |scope, command, keys: &[Key]| {
            bindings.extend(keys.iter().map(|key| Binding { key: *key, scope, command }));
        };
        let plain = Key::plain;
        bind(Scope::Everywhere, C::Quit, &[plain(Char('q'))]);
        bind(Scope::Always, C::Quit, &[Key::control(Char('c'))]);
        bind(Scope::Everywhere, C::Help, &[plain(Char('?')), plain(Char('h'))]);
        for view in View::ALL {
            bind(Scope::Everywhere, C::Show(view), &[plain(Char(view.digit()))]);
        }
        bind(Scope::Everywhere, C::NextView, &[plain(Tab)]);
        bind(Scope::Everywhere, C::PreviousView, &[plain(BackTab)]);
        bind(Scope::Everywhere, C::Pause, &[plain(Char(' '))]);
        bind(Scope::Everywhere, C::Step, &[plain(Char('t'))]);
        bind(Scope::Everywhere, C::StepBack, &[plain(Char('T'))]);
        bind(Scope::Everywhere, C::Up, &[plain(Up), plain(Char('k'))]);
        bind(Scope::Everywhere, C::Down, &[plain(Down), plain(Char('j'))]);
        bind(Scope::Everywhere, C::Left, &[plain(Left)]);
        bind(Scope::Everywhere, C::Right, &[plain(Right), plain(Char('l'))]);
        bind(Scope::Everywhere, C::PageUp, &[plain(PageUp)]);
        bind(Scope::Everywhere, C::PageDown, &[plain(PageDown)]);
        bind(Scope::Everywhere, C::First, &[plain(Home)]);
        bind(Scope::Everywhere, C::Last, &[plain(End)]);
        bind(Scope::Everywhere, C::Clear, &[plain(Esc)]);
        bind(Scope::Everywhere, C::Why, &[plain(Char('e'))]);
        bind(Scope::Everywhere, C::LongerWindow, &[plain(Char(']'))]);
        bind(Scope::Everywhere, C::ShorterWindow, &[plain(Char('['))]);
        bind(Scope::Everywhere, C::Faster, &[plain(Char('+')), plain(Char('='))]);
        bind(Scope::Everywhere, C::Slower, &[plain(Char('-'))]);
        bind(Scope::Everywhere, C::DryRun, &[plain(Char('d'))]);
        bind(Scope::Everywhere, C::ApplyPlan, &[plain(Char('a'))]);
        bind(Scope::Everywhere, C::ChoosePolicy, &[plain(Char('p'))]);
        bind(Scope::Everywhere, C::Restore, &[plain(Char('R'))]);
        bind(Scope::Everywhere, C::Record, &[plain(Char('r'))]);
        bind(Scope::Everywhere, C::SaveLast, &[plain(Char('K'))]);
        bind(Scope::Everywhere, C::SaveText, &[plain(Char('w'))]);
        bind(Scope::Everywhere, C::SaveSvg, &[plain(Char('W'))]);
        bind(Scope::Everywhere, C::SeekBack, &[plain(Char(','))]);
        bind(Scope::Everywhere, C::SeekForward, &[plain(Char('.'))]);
        bind(Scope::Everywhere, C::SeekStart, &[plain(Char('<'))]);
        bind(Scope::Everywhere, C::SeekEnd, &[plain(Char('>'))]);
        bind(Scope::In(View::Sharing), C::Left, &[plain(Char('h'))]);
        for view in [View::Sharing, View::Misses, View::Ksm, View::Log] {
            bind(Scope::In(view), C::Filter, &[plain(Char('/'))]);
            bind(Scope::In(view), C::Order, &[plain(Char('s'))]);
        }
        bind(Scope::In(View::Misses), C::Reverse, &[plain(Char('S'))]);
        bind(Scope::In(View::Ksm), C::Reverse, &[plain(Char('S'))]);
        bind(Scope::In(View::Misses), C::Level, &[plain(Char('v'))]);
        bind(Scope::In(View::Misses), C::Metric, &[plain(Char('m'))]);
        bind(Scope::In(View::Sharing), C::Scale, &[plain(Char('L'))]);
        bind(Scope::In(View::Sharing), C::Reads, &[plain(Char('e'))]);
        bind(Scope::In(View::Sharing), C::Highest, &[plain(Char('m'))]);
        bind(Scope::InHelp, C::Help, &[plain(Esc)]);
        bind(Scope::Asking, C::Accept, &[plain(Char('y'))]);
        bind(Scope::Asking, C::Decline, &[plain(Char('n')), plain(Esc)]);
        bind(Scope::Choosing, C::Up, &[plain(Up), plain(Char('k'))]);
        bind(Scope::Choosing, C::Down, &[plain(Down), plain(Char('j'))]);
        bind(Scope::Choosing, C::Accept, &[plain(Enter)]);
        bind(Scope::Choosing, C::Decline, &[plain(Esc), plain(Char('q'))]);
        bind(Scope::Typing, C::AcceptFilter, &[plain(Enter)]);
        bind(Scope::Typing, C::CancelFilter, &[plain(Esc)]);
        bind(Scope::Typing, C::Erase, &[plain(Backspace)]);
        Self { bindings }
    }
}

impl KeyMap {
    /// All bindings, in the order of the help.
    pub fn bindings(&self) -> &[Binding] {
        &self.bindings
    }

    pub(crate) fn command(&self, mode: Mode, view: View, key: Key) -> Option<Command> {
        let scopes: &[Scope] = match mode {
            Mode::Normal => &[Scope::Always, Scope::In(view), Scope::Everywhere],
            Mode::Help => &[Scope::Always, Scope::InHelp, Scope::Everywhere],
            Mode::Typing => &[Scope::Always, Scope::Typing],
            // Nothing else, so that no key meant for something else confirms an action.
            Mode::Asking => &[Scope::Always, Scope::Asking],
            Mode::Choosing => &[Scope::Always, Scope::Choosing],
        };
        scopes.iter().find_map(|scope| {
            let hit = |binding: &&Binding| binding.scope == *scope && binding.key == key;
            self.bindings.iter().find(hit).map(|binding| binding.command)
        })
    }

    /// The keys of each command of a scope, as the help shows them.
    pub(crate) fn help(&self, wanted: &[Scope]) -> Vec<(String, &'static str)> {
        let mut commands: Vec<(Command, Vec<String>)> = Vec::new();
        for binding in self.bindings.iter().filter(|binding| wanted.contains(&binding.scope)) {
            match commands.iter_mut().find(|(command, _)| *command == binding.command) {
                Some((_, keys)) => keys.push(binding.key.to_string()),
                None => commands.push((binding.command, vec![binding.key.to_string()])),
            }
        }
        commands.into_iter().map(|(command, keys)| (keys.join(" "), command.description())).collect()
    }

    /// The keys of a command in a scope, such as a confirmation.
    pub(crate) fn keys_in(&self, scope: Scope, command: Command) -> String {
        let own = self.bindings.iter().filter(|binding| binding.scope == scope && binding.command == command);
        own.map(|binding| binding.key.to_string()).collect::<Vec<_>>().join(" or ")
    }

    /// The first key of a command in a view, for hints.
    pub(crate) fn key_of(&self, view: View, command: Command) -> Option<String> {
        let key = self.bindings.iter().find(|binding| {
            binding.command == command && self.command(Mode::Normal, view, binding.key) == Some(command)
        });
        key.map(|binding| binding.key.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_key_has_two_meanings_in_one_scope() {
        let map = KeyMap::default();
        let mut seen = HashSet::new();
        for binding in map.bindings() {
            assert!(seen.insert((binding.scope, binding.key)), "{binding:?}");
        }
    }

    #[test]
    fn every_binding_is_reachable_and_in_the_help() {
        let map = KeyMap::default();
        for binding in map.bindings() {
            let mode = match binding.scope {
                Scope::InHelp => Mode::Help,
                Scope::Typing => Mode::Typing,
                Scope::Asking => Mode::Asking,
                Scope::Choosing => Mode::Choosing,
                _ => Mode::Normal,
            };
            let views = View::ALL.into_iter().filter(|view| match binding.scope {
                Scope::In(only) => *view == only,
                _ => true,
            });
            let reached = |view| map.command(mode, view, binding.key) == Some(binding.command);
            assert!(views.into_iter().any(reached), "{binding:?}");
            let help = map.help(&[binding.scope]);
            let shown = |(keys, text): &(String, &str)| {
                keys.split(' ').any(|key| key == binding.key.to_string())
                    && *text == binding.command.description()
            };
            assert!(help.iter().any(shown), "{binding:?}");
        }
    }

    #[test]
    fn h_is_left_where_a_cursor_moves_and_help_elsewhere() {
        let map = KeyMap::default();
        let h = Key::plain(KeyCode::Char('h'));
        assert_eq!(map.command(Mode::Normal, View::Sharing, h), Some(Command::Left));
        assert_eq!(map.command(Mode::Normal, View::Overview, h), Some(Command::Help));
        assert_eq!(map.command(Mode::Typing, View::Overview, h), None);
    }

    #[test]
    fn shift_is_part_of_a_character() {
        let event = KeyEvent::new(KeyCode::Char('L'), KeyModifiers::SHIFT);
        assert_eq!(Key::from(event), Key::plain(KeyCode::Char('L')));
        let back = KeyEvent::new(KeyCode::BackTab, KeyModifiers::SHIFT);
        assert_eq!(Key::from(back), Key::plain(KeyCode::BackTab));
    }
}
