//! What is exported, and where.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Metrics of a loop (`run`, `top`), as OpenMetrics and in Prometheus's older text format ([metrics](metrics.md)).
/// What VMs share is confidential, so metrics are for those who may know it: everybody on this host can connect to an
/// address, and only root and the user of huddle to a socket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsSettings {
    /// Where they can be fetched, at `/metrics`: an address such as `"127.0.0.1:9188"`, or a Unix socket such as
    /// `"unix:/run/huddle/metrics"`. [default: nowhere]
    pub listen: Option<Listen>,
    /// Allow an address of `listen` that other hosts can reach. Whoever reaches it sees what VMs share.
    pub allow_remote: bool,
    /// File that they are written to, for node_exporter's textfile collector: its name has to end with `.prom`. Everybody
    /// who can enter its directory can read it. It is removed when the loop ends. [default: none]
    pub textfile: Option<PathBuf>,
    /// How often `textfile` is written, in seconds, from 1 to 3600.
    pub textfile_interval_s: u64,
    /// Least sharing rate of a pair of VMs that has metrics of its own, from 0 to 1.
    pub pair_threshold: f64,
    /// Most pairs of VMs with metrics of their own; those with the highest rates are taken.
    pub max_pairs: usize,
    /// Most VMs with metrics of their own.
    pub max_vms: usize,
}

impl Default for MetricsSettings {
    fn default() -> Self {
        Self {
            listen: None,
            allow_remote: false,
            textfile: None,
            textfile_interval_s: 15,
            pair_threshold: 0.05,
            max_pairs: 500,
            max_vms: 1000,
        }
    }
}

/// Where metrics can be fetched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Listen {
    /// An address and port.
    Address(SocketAddr),
    /// A Unix socket.
    Socket(PathBuf),
}

/// A text that says no place.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no place to listen at; give an address with a port, such as \"127.0.0.1:9188\", or \"unix:/PATH\""
)]
pub struct NoPlace(String);

impl FromStr for Listen {
    type Err = NoPlace;

    fn from_str(text: &str) -> Result<Self, NoPlace> {
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Ok(Self::Socket(path.into())),
            Some(_) => Err(NoPlace(text.to_owned())),
            None => text.parse().map(Self::Address).map_err(|_| NoPlace(text.to_owned())),
        }
    }
}

impl TryFrom<String> for Listen {
    type Error = NoPlace;

    fn try_from(text: String) -> Result<Self, NoPlace> {
        text.parse()
    }
}

impl From<Listen> for String {
    fn from(listen: Listen) -> Self {
        listen.to_string()
    }
}

impl std::fmt::Display for Listen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Socket(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A setting that cannot be used.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum BadSetting {
    /// Other hosts could connect.
    #[error(
        "listen is {0}, which other hosts may reach, and what VMs share is confidential; listen at 127.0.0.1, or set \
         allow_remote = true"
    )]
    Remote(SocketAddr),
    /// Not a rate.
    #[error("pair_threshold is {0}, expected 0 to 1")]
    Threshold(f64),
    /// Too often, or hardly ever.
    #[error("textfile_interval_s is {0}, expected 1 to 3600")]
    Interval(u64),
    /// node_exporter would not read it.
    #[error("textfile is {}, expected a path that ends with .prom, which node_exporter reads", .0.display())]
    TextFile(PathBuf),
}

impl MetricsSettings {
    /// # Errors
    /// A setting cannot be used.
    pub fn check(&self) -> Result<(), BadSetting> {
        if let Some(Listen::Address(address)) = self.listen
            && !address.ip().is_loopback()
            && !self.allow_remote
        {
            return Err(BadSetting::Remote(address));
        }
        if !(0.0..=1.0).contains(&self.pair_threshold) {
            return Err(BadSetting::Threshold(self.pair_threshold));
        }
        if !(1..=3600).contains(&self.textfile_interval_s) {
            return Err(BadSetting::Interval(self.textfile_interval_s));
        }
        match &self.textfile {
            Some(path) if path.extension().is_none_or(|extension| extension != "prom") => {
                Err(BadSetting::TextFile(path.clone()))
            }
            _ => Ok(()),
        }
    }

    /// Whether anybody gets them.
    pub fn is_on(&self) -> bool {
        self.listen.is_some() || self.textfile.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_an_address_with_a_port_or_the_path_of_a_socket() {
        let place = |text: &str| text.parse::<Listen>().map(|listen| listen.to_string());
        for text in ["127.0.0.1:9188", "[::1]:9188", "unix:/run/huddle/metrics"] {
            assert_eq!(place(text), Ok(text.to_owned()));
        }
        for text in ["127.0.0.1", "localhost:9188", "9188", "unix:metrics", "/run/huddle/metrics", ""] {
            assert!(place(text).unwrap_err().to_string().contains("127.0.0.1:9188"), "{text}");
        }
    }

    #[test]
    fn only_this_host_is_served_unless_more_is_asked_for() {
        let settings = |listen: &str| MetricsSettings {
            listen: Some(listen.parse().unwrap()),
            ..MetricsSettings::default()
        };
        for here in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "unix:/x"] {
            assert_eq!(settings(here).check(), Ok(()), "{here}");
        }
        for elsewhere in ["0.0.0.0:1", "[::]:1", "192.0.2.1:1", "[::ffff:192.0.2.1]:1"] {
            assert!(matches!(settings(elsewhere).check(), Err(BadSetting::Remote(_))), "{elsewhere}");
            let allowed = MetricsSettings { allow_remote: true, ..settings(elsewhere) };
            assert_eq!(allowed.check(), Ok(()), "{elsewhere}");
        }
    }

    #[test]
    fn other_settings_have_their_ranges() {
        let default = MetricsSettings::default;
        assert!(MetricsSettings { pair_threshold: f64::NAN, ..default() }.check().is_err());
        assert!(MetricsSettings { textfile_interval_s: 0, ..default() }.check().is_err());
        assert!(MetricsSettings { textfile: Some("/x/huddle.txt".into()), ..default() }.check().is_err());
        assert_eq!(MetricsSettings { textfile: Some("/x/huddle.prom".into()), ..default() }.check(), Ok(()));
    }
}
