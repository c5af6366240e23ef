//! The handshake: how a rank introduces itself, and whether rank 0 accepts it.
//!
//! Different builds exchange these messages before they know that they differ, so the format must not change.

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::train::libtorch::LIBTORCH_VERSION;

/// A rank introduces itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// tinygate's and libtorch's.
    pub versions: [String; 2],
    pub host: String,
    pub pid: u32,
    /// The config that this rank was started with, by key, if it has one.
    pub config: Option<Vec<(String, String)>>,
}

/// Rank 0's answer to all ranks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    Config {
        config: serde_json::Value,
        /// BLAKE3 of the frames, in hex.
        dataset: String,
        /// Those of rank 0: another number of threads adds in another order.
        threads: u16,
    },
    Refused(String),
    /// The run has ended already.
    NothingToDo,
}

impl Hello {
    /// `config` is what this rank was started with, if rank 0 should compare it.
    pub fn of(host: String, config: Option<&Config>) -> Hello {
        Hello {
            versions: versions(),
            host,
            pid: std::process::id(),
            config: config.map(Config::entries),
        }
    }

    /// Checks that this rank has the same program and config as rank 0, except for keys that may differ per process.
    /// `entries` is rank 0's config by key.
    ///
    /// # Errors
    /// What differs.
    pub fn check(&self, entries: &[(String, String)]) -> Result<(), String> {
        let own = versions();
        if self.versions != own {
            let [tinygate, libtorch] = &self.versions;
            let [own_tinygate, own_libtorch] = &own;
            return Err(format!(
                "it runs tinygate {tinygate} on libtorch {libtorch}, and rank 0 runs {own_tinygate} on {own_libtorch}"
            ));
        }
        let Some(theirs) = &self.config else {
            return Ok(());
        };
        let mut differences = Vec::new();
        for (key, value) in entries {
            let other = theirs
                .iter()
                .find(|(other, _)| other == key)
                .map(|(_, value)| value);
            if !Config::is_of_process(key) && other != Some(value) {
                let other = other.map_or("nothing", String::as_str);
                differences.push(format!("`{key}` is {other} there and {value} on rank 0"));
            }
        }
        for (key, value) in theirs {
            if !entries.iter().any(|(known, _)| known == key) {
                differences.push(format!("`{key}` is {value} there and nothing on rank 0"));
            }
        }
        if differences.is_empty() {
            Ok(())
        } else {
            Err(format!(
                "it was given another config: {}",
                differences.join(", ")
            ))
        }
    }
}

/// The versions that must be the same on all ranks: tinygate's and libtorch's.
fn versions() -> [String; 2] {
    [
        env!("CARGO_PKG_VERSION").to_owned(),
        LIBTORCH_VERSION.to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(config: Option<Vec<(String, String)>>) -> Hello {
        Hello {
            versions: versions(),
            host: "here".to_owned(),
            pid: 1,
            config,
        }
    }

    fn entries(given: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        given.iter().map(owned).collect()
    }

    #[test]
    fn ranks_need_the_same_program_and_config() {
        let own = entries(&[("seed", "3"), ("device", "\"cpu\""), ("threads", "1")]);
        let fits = |hello: &Hello| hello.check(&own);
        assert_eq!(
            fits(&hello(None)),
            Ok(()),
            "none, so it takes that of rank 0"
        );
        assert_eq!(fits(&hello(Some(own.clone()))), Ok(()), "the same");
        let of_process = entries(&[("seed", "3"), ("device", "\"cuda\""), ("threads", "4")]);
        assert_eq!(
            fits(&hello(Some(of_process))),
            Ok(()),
            "another device, and other threads"
        );
        let other = fits(&hello(Some(entries(&[("seed", "4"), ("more", "1")])))).unwrap_err();
        assert!(
            other.contains("`seed` is 4 there and 3 on rank 0"),
            "{other}"
        );
        assert!(
            other.contains("`more` is 1 there and nothing on rank 0"),
            "{other}"
        );
        assert!(!other.contains("device"), "{other}");
        let old = Hello {
            versions: ["0.0.1".to_owned(), "1.0.0".to_owned()],
            ..hello(None)
        };
        assert!(
            old.check(&own)
                .unwrap_err()
                .contains("tinygate 0.0.1 on libtorch 1.0.0")
        );
    }
}
