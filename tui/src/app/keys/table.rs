//! Key bindings as read from the configuration.

use std::fmt;
use std::str::FromStr;

use crossterm::event::{KeyCode, KeyModifiers};

use super::{Binding, Command, Key, KeyMap, Scope};
use crate::app::View;

/// An error in the table of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeysError {
    /// No command has this name.
    UnknownCommand {
        /// As written.
        name: String,
    },
    /// The command exists, but not in this view.
    NotInView {
        /// As written.
        name: String,
    },
    /// No key has this name.
    UnknownKey {
        /// The command it was written for.
        command: String,
        /// As written.
        key: String,
    },
    /// One key would have two commands.
    Twice {
        /// The key.
        key: String,
        /// One of the commands.
        first: &'static str,
        /// The other one.
        second: &'static str,
        /// Where both apply.
        place: String,
    },
    /// A command that is needed to get out of a mode has no key left.
    NoKey {
        /// The command.
        command: &'static str,
    },
}

impl fmt::Display for KeysError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownCommand { name } => {
                let names: Vec<&str> = Command::all().map(Command::name).collect();
                write!(f, "keys: unknown command `{name}`; the commands are {}", names.join(", "))
            }
            Self::NotInView { name } => write!(
                f,
                "keys: `{name}`: that view has no such command; leave the view out, or see the help (`?`) for \
                 what each view has"
            ),
            Self::UnknownKey { command, key } => write!(
                f,
                "keys: `{command}`: `{key}` is not a key; a key is one character, or Space, Tab, Enter, Esc, \
                 Backspace, Delete, Insert, Up, Down, Left, Right, Home, End, PgUp, PgDn, F1 to F24, with \
                 Ctrl-, Alt- or Shift- before it"
            ),
            Self::Twice { key, first, second, place } => write!(
                f,
                "keys: {key} would mean both `{first}` and `{second}` {place}; give one of them another key"
            ),
            Self::NoKey { command } => {
                write!(f, "keys: `{command}` would have no key left; give it at least one")
            }
        }
    }
}

impl std::error::Error for KeysError {}

impl FromStr for Key {
    type Err = ();

    /// `q`, `Space`, `Ctrl-c`, `Alt-Left`, `F5`: as the help shows keys.
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut rest = text;
        let mut modifiers = KeyModifiers::NONE;
        'prefixes: loop {
            for (name, modifier) in [
                ("ctrl-", KeyModifiers::CONTROL),
                ("alt-", KeyModifiers::ALT),
                ("shift-", KeyModifiers::SHIFT),
            ] {
                let is_prefix = rest.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
                if is_prefix && rest.len() > name.len() && !modifiers.contains(modifier) {
                    modifiers |= modifier;
                    rest = &rest[name.len()..];
                    continue 'prefixes;
                }
            }
            break;
        }
        let mut characters = rest.chars();
        let code = match (characters.next(), characters.next()) {
            (Some(' '), None) => return Err(()),
            (Some(only), None) if !only.is_control() => KeyCode::Char(only),
            _ => named(rest).ok_or(())?,
        };
        let is_shifted = modifiers.contains(KeyModifiers::SHIFT);
        let (code, modifiers) = match code {
            KeyCode::Tab if is_shifted => (KeyCode::BackTab, modifiers - KeyModifiers::SHIFT),
            // Shift is part of the character: `L`, not `Shift-l`.
            KeyCode::Char(_) if is_shifted => return Err(()),
            other => (other, modifiers),
        };
        Ok(Self { code, modifiers })
    }
}

fn named(name: &str) -> Option<KeyCode> {
    Some(match name.to_ascii_lowercase().as_str() {
        "space" => KeyCode::Char(' '),
        "tab" => KeyCode::Tab,
        "enter" => KeyCode::Enter,
        "esc" => KeyCode::Esc,
        "backspace" => KeyCode::Backspace,
        "delete" => KeyCode::Delete,
        "insert" => KeyCode::Insert,
        "up" => KeyCode::Up,
        "down" => KeyCode::Down,
        "left" => KeyCode::Left,
        "right" => KeyCode::Right,
        "home" => KeyCode::Home,
        "end" => KeyCode::End,
        "pgup" => KeyCode::PageUp,
        "pgdn" => KeyCode::PageDown,
        other => {
            let number: u8 = other.strip_prefix('f')?.parse().ok()?;
            return (1..=24).contains(&number).then_some(KeyCode::F(number));
        }
    })
}

impl KeyMap {
    /// The default keys with some commands on other keys: each entry is a command's name ([`Command::name`]),
    /// or `VIEW.COMMAND` for its keys in one view only, and the complete list of its keys. A command without
    /// an entry keeps its keys, except those assigned by an entry.
    ///
    /// # Errors
    /// One sentence that names the entry: an unknown command, view or key, a key with two meanings, or no key
    /// left for a command that is needed to get out of a mode.
    pub fn with_keys<'a, K>(entries: impl IntoIterator<Item = (&'a str, K)>) -> Result<Self, KeysError>
    where
        K: IntoIterator<Item = &'a str>,
    {
        let mut map = Self::default();
        let mut given: Vec<Binding> = Vec::new();
        for (name, keys) in entries {
            let (view, command) = parse_name(name)?;
            let is_meant = |scope: Scope| view.is_none_or(|view| scope == Scope::In(view));
            let mut scopes: Vec<Scope> = Vec::new();
            for binding in Self::default().bindings {
                if binding.command == command && is_meant(binding.scope) && !scopes.contains(&binding.scope) {
                    scopes.push(binding.scope);
                }
            }
            match view {
                // A command that applies everywhere may have other keys in one view.
                Some(view) if scopes.is_empty() && holds_everywhere(command) => {
                    scopes.push(Scope::In(view));
                }
                Some(_) if scopes.is_empty() => return Err(KeysError::NotInView { name: name.into() }),
                _ => {}
            }
            // `Always` is for keys that must work even while typing; a new key there could not be typed.
            if view.is_none() && scopes.contains(&Scope::Everywhere) {
                scopes.retain(|scope| *scope != Scope::Always);
            }
            map.bindings.retain(|binding| binding.command != command || !scopes.contains(&binding.scope));
            for key in keys {
                let parsed: Key = key
                    .parse()
                    .map_err(|()| KeysError::UnknownKey { command: name.into(), key: key.into() })?;
                for scope in &scopes {
                    let binding = Binding { key: parsed, scope: *scope, command };
                    if !given.contains(&binding) {
                        given.push(binding);
                    }
                }
            }
        }
        for (at, binding) in given.iter().enumerate() {
            let same = |other: &&Binding| other.key == binding.key && other.scope == binding.scope;
            if let Some(other) = given[..at].iter().find(same) {
                return Err(KeysError::Twice {
                    key: binding.key.to_string(),
                    first: other.command.name(),
                    second: binding.command.name(),
                    place: binding.scope.heading(),
                });
            }
        }
        let is_reassigned = |binding: &Binding| {
            given.iter().any(|own| {
                // A key assigned everywhere must not be hidden by a view's default.
                let hides = own.scope == Scope::Everywhere && matches!(binding.scope, Scope::In(_));
                own.key == binding.key && (own.scope == binding.scope || hides)
            })
        };
        map.bindings.retain(|binding| !is_reassigned(binding));
        map.bindings.extend(given);
        map.has_way_out()?;
        Ok(map)
    }

    /// Every mode must have a key that leaves it.
    fn has_way_out(&self) -> Result<(), KeysError> {
        let needed = [
            (Command::Quit, Scope::Everywhere),
            (Command::Help, Scope::Everywhere),
            (Command::AcceptFilter, Scope::Typing),
            (Command::CancelFilter, Scope::Typing),
            (Command::Accept, Scope::Asking),
            (Command::Decline, Scope::Asking),
            (Command::Accept, Scope::Choosing),
            (Command::Decline, Scope::Choosing),
        ];
        for (command, scope) in needed {
            let has_key =
                self.bindings.iter().any(|binding| binding.command == command && binding.scope == scope);
            if !has_key {
                return Err(KeysError::NoKey { command: command.name() });
            }
        }
        Ok(())
    }
}

fn holds_everywhere(command: Command) -> bool {
    let map = KeyMap::default();
    map.bindings.iter().any(|binding| binding.command == command && binding.scope == Scope::Everywhere)
}

fn parse_name(name: &str) -> Result<(Option<View>, Command), KeysError> {
    let unknown = || KeysError::UnknownCommand { name: name.to_owned() };
    let (view, command) = match name.split_once('.') {
        Some((view, command)) => {
            let view = View::ALL.into_iter().find(|known| known.name() == view).ok_or_else(unknown)?;
            (Some(view), command)
        }
        None => (None, name),
    };
    let command = Command::all().find(|known| known.name() == command).ok_or_else(unknown)?;
    Ok((view, command))
}

#[cfg(test)]
mod tests {
    use super::super::Mode;
    use super::*;

    fn map(entries: &[(&str, &[&str])]) -> Result<KeyMap, String> {
        KeyMap::with_keys(entries.iter().map(|(name, keys)| (*name, keys.iter().copied())))
            .map_err(|error| error.to_string())
    }

    fn key(text: &str) -> Key {
        text.parse().unwrap()
    }

    #[test]
    fn every_key_of_the_help_is_read_back() {
        for binding in KeyMap::default().bindings() {
            assert_eq!(binding.key.to_string().parse(), Ok(binding.key));
        }
        assert_eq!(key("ctrl-alt-F5").to_string(), "Ctrl-Alt-F5");
        assert_eq!(key("-"), Key::plain(KeyCode::Char('-')));
        for wrong in ["", " ", "Shift-l", "Ctrl-", "F25", "abc", "Hyper-x"] {
            assert_eq!(wrong.parse::<Key>(), Err(()), "{wrong:?}");
        }
    }

    #[test]
    fn every_command_has_a_name_of_its_own_and_default_keys() {
        let names: std::collections::HashSet<&str> = Command::all().map(Command::name).collect();
        assert_eq!(names.len(), Command::all().count());
        let map = KeyMap::default();
        for command in Command::all() {
            assert!(map.bindings().iter().any(|binding| binding.command == command), "{command:?}");
        }
        for binding in map.bindings() {
            assert!(Command::all().any(|command| command == binding.command), "{binding:?}");
        }
    }

    #[test]
    fn a_command_gets_the_keys_it_is_given_and_loses_its_own() {
        let map = map(&[("quit", &["x"]), ("sharing.highest", &["F2"])]).unwrap();
        let meant = |view, text| map.command(Mode::Normal, view, key(text));
        assert_eq!(meant(View::Log, "x"), Some(Command::Quit));
        assert_eq!(meant(View::Log, "q"), None);
        assert_eq!(meant(View::Log, "Ctrl-c"), Some(Command::Quit), "it always works");
        assert_eq!(meant(View::Sharing, "F2"), Some(Command::Highest));
    }

    #[test]
    fn a_reassigned_key_loses_its_old_command() {
        let map = map(&[("next_view", &["Space"])]).unwrap();
        assert_eq!(map.command(Mode::Normal, View::Log, key("Space")), Some(Command::NextView));
    }

    #[test]
    fn a_key_assigned_everywhere_is_hidden_in_no_view() {
        let map = map(&[("pause", &["s"])]).unwrap();
        for view in View::ALL {
            assert_eq!(map.command(Mode::Normal, view, key("s")), Some(Command::Pause), "{view:?}");
        }
    }

    #[test]
    fn errors_name_the_entry() {
        let error = |entries: &[(&str, &[&str])]| map(entries).unwrap_err();
        assert!(error(&[("quti", &["x"])]).contains("unknown command `quti`; the commands are quit, "));
        assert!(error(&[("nowhere.quit", &["x"])]).contains("unknown command `nowhere.quit`"));
        assert!(error(&[("log.highest", &["x"])]).contains("that view has no such command"));
        assert!(error(&[("quit", &["Hyper-x"])]).contains("`quit`: `Hyper-x` is not a key"));
        let twice = error(&[("quit", &["x"]), ("help", &["x"])]);
        assert!(twice.contains("x would mean both `quit` and `help` everywhere"), "{twice}");
        assert!(error(&[("quit", &[])]).contains("`quit` would have no key left"));
        assert!(error(&[("up", &["q"])]).contains("`quit` would have no key left"));
    }
}
