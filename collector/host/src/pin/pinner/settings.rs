//! Setting KSM.

use super::super::journal::{Change, Key};
use super::super::ksm;
use super::{HostPinner, PinError};
use crate::HostError;

impl HostPinner {
    /// Writes settings of KSM in the given order; those that have the value already are not touched.
    /// They are undone in the opposite order of their first change.
    ///
    /// # Errors
    /// When a setting does not exist or the kernel refuses it; those before it are set, and in the
    /// journal.
    pub fn set_ksm(&mut self, settings: &[(&str, String)]) -> Result<(), PinError> {
        if let Some((file, _)) = settings.iter().find(|(file, _)| !ksm::SETTINGS.contains(file)) {
            return Err(PinError::UnknownSetting { file: (*file).to_owned() });
        }
        for (file, value) in settings {
            self.set_one_setting(file, value.trim())?;
            self.settings.retain(|(earlier, _)| earlier != file);
            self.settings.push(((*file).to_owned(), value.clone()));
        }
        Ok(())
    }

    /// After an undo: sets what was set before it; what failed, one sentence each.
    pub(super) fn set_ksm_again(&mut self) -> Vec<String> {
        let mut failures = Vec::new();
        for (file, value) in std::mem::take(&mut self.settings) {
            failures.extend(self.set_one_setting(&file, value.trim()).err().map(|error| error.to_string()));
            self.settings.push((file, value));
        }
        failures
    }

    fn set_one_setting(&mut self, file: &str, value: &str) -> Result<(), PinError> {
        let key = Key::KsmSetting(file.to_owned());
        let refused = |source| PinError::Setting { file: file.to_owned(), value: value.to_owned(), source };
        let current = match ksm::read(&self.root, file) {
            Err(HostError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Err(refused(source));
            }
            result => result?,
        };
        if current == value {
            return Ok(());
        }
        let change = |file: &str, before: &str, after: &str| Change::KsmSetting {
            file: file.to_owned(),
            before: before.to_owned(),
            after: after.to_owned(),
        };
        let (mut changes, mut foreign) = (Vec::new(), Vec::new());
        if file == "advisor_mode" && current == "none" {
            // Both turning an advisor on and off overwrites pages_to_scan (mm/ksm.c, Linux 6.18). Its
            // entry is the older one, so that it is put back after the advisor is off.
            let pages = ksm::read(&self.root, "pages_to_scan")?;
            changes.push(change("pages_to_scan", &pages, &pages));
        }
        if self.is_foreign_setting(&key, &current) {
            tracing::warn!("somebody else set KSM's {file} to {current}; huddle will return it to that");
            foreign.push(key);
        }
        changes.push(change(file, &current, value));
        self.journal.record_anew(&foreign, &changes)?;
        ksm::write(&self.root, file, value).map_err(refused)?;
        let got = ksm::read(&self.root, file)?;
        if got != value {
            self.journal.record(&[change(file, &current, &got)])?;
            return Err(PinError::SettingNotTaken { file: file.to_owned(), value: value.to_owned(), got });
        }
        Ok(())
    }

    fn is_foreign_setting(&self, key: &Key, current: &str) -> bool {
        let mut known = self.journal.by_key().of(key).peekable();
        known.peek().is_some()
            && *key != Key::KsmSetting("pages_to_scan".to_owned())
            && !known.any(|change| {
                matches!(change, Change::KsmSetting { before, after, .. }
                    if current == before || current == after)
            })
    }
}
