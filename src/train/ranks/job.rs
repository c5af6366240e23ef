//! The job that a launcher started this process for, from environment variables: those of `torchrun`, which PyTorch
//! users also set for Slurm and Kubernetes.
//!
//! Invariant: an incomplete description is an error, never a run of one rank.

use std::fmt;

use crate::advice::{Advice, Hint};

/// A rank among others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    pub rank: u32,
    pub size: u32,
    /// Rank among those on this machine, which selects the device.
    pub local_rank: u32,
    pub local_size: u32,
    pub master: Master,
    /// The network interface for Gloo, if it is not the one that leads to the master.
    pub interface: Option<String>,
}

/// Where the ranks find each other: the address of rank 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Master {
    pub host: String,
    pub port: u16,
    /// `torchrun` may serve the store itself; then this is the prefix of its current attempt. `None`: rank 0 serves.
    pub served: Option<String>,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    #[error(
        "the environment describes only part of a job of several ranks: {} set, {} not",
        list(.set), list(.missing)
    )]
    Incomplete {
        set: Vec<&'static str>,
        missing: Vec<&'static str>,
    },
    #[error("{name}={found} in the environment: expected {expected}")]
    Value {
        name: &'static str,
        found: String,
        expected: String,
    },
}

impl Advice for JobError {
    fn hints(&self) -> Vec<Hint> {
        let set = match self {
            JobError::Incomplete { .. } => Hint::text(
                "a launcher sets all of RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT (and LOCAL_RANK, LOCAL_WORLD_SIZE \
                 where a machine has several ranks)",
            ),
            JobError::Value { name, .. } => Hint::text(format!("{name} is set by the launcher")),
        };
        let unset = "unset RANK and WORLD_SIZE to train without a launcher";
        vec![set, Hint::text(unset)]
    }
}

fn list(names: &[&str]) -> String {
    let verb = if names.len() == 1 { "is" } else { "are" };
    format!("{} {verb}", names.join(", "))
}

impl Job {
    /// The job in `variables`; `None` if there is none, or if it has a single rank.
    ///
    /// # Errors
    /// Some variables set and others missing, or a value that is not a number.
    pub fn of(variables: impl Fn(&str) -> Option<String>) -> Result<Option<Job>, JobError> {
        let get = |name: &str| variables(name).filter(|value| !value.is_empty());
        let (Some(_), Some(_)) = (get("RANK"), get("WORLD_SIZE")) else {
            // One of them alone means that the other was forgotten. An address alone is no job.
            let names = ["RANK", "WORLD_SIZE"];
            let (set, missing) = names
                .into_iter()
                .partition::<Vec<_>, _>(|name| get(name).is_some());
            return if set.is_empty() {
                Ok(None)
            } else {
                Err(JobError::Incomplete { set, missing })
            };
        };
        let number =
            |name: &'static str, least: u32, most: u32| number(name, get(name), least, most);
        let size = number("WORLD_SIZE", 1, RANKS_MAX)?.unwrap_or(1);
        let rank = number("RANK", 0, size - 1)?.unwrap_or(0);
        if size == 1 {
            return Ok(None);
        }
        let names = ["RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"];
        let (set, missing) = names
            .into_iter()
            .partition::<Vec<_>, _>(|name| get(name).is_some());
        if !missing.is_empty() {
            return Err(JobError::Incomplete { set, missing });
        }
        let local_size = number("LOCAL_WORLD_SIZE", 1, size)?.unwrap_or(1);
        let local_rank = number("LOCAL_RANK", 0, RANKS_MAX)?.unwrap_or(0);
        let port = number("MASTER_PORT", 1, u32::from(u16::MAX))?.unwrap_or(0);
        let agent = get("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|value| value == "True");
        let attempt = get("TORCHELASTIC_RESTART_COUNT").unwrap_or_else(|| "0".to_owned());
        Ok(Some(Job {
            rank,
            size,
            local_rank,
            local_size: local_size.max(local_rank.saturating_add(1)),
            master: Master {
                host: get("MASTER_ADDR").unwrap_or_default(),
                port: u16::try_from(port).unwrap_or(0),
                served: agent.then(|| format!("tinygate/attempt_{attempt}")),
            },
            interface: get("GLOO_SOCKET_IFNAME"),
        }))
    }

    /// The variables that describe this job to a process.
    pub fn variables(&self) -> [(&'static str, String); 6] {
        [
            ("RANK", self.rank.to_string()),
            ("WORLD_SIZE", self.size.to_string()),
            ("LOCAL_RANK", self.local_rank.to_string()),
            ("LOCAL_WORLD_SIZE", self.local_size.to_string()),
            ("MASTER_ADDR", self.master.host.clone()),
            ("MASTER_PORT", self.master.port.to_string()),
        ]
    }
}

impl fmt::Display for Master {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// More ranks than any cluster that trains these models has.
const RANKS_MAX: u32 = 65_536;

fn number(
    name: &'static str,
    found: Option<String>,
    least: u32,
    most: u32,
) -> Result<Option<u32>, JobError> {
    let Some(found) = found else { return Ok(None) };
    match found.parse() {
        Ok(number) if (least..=most).contains(&number) => Ok(Some(number)),
        Ok(_) | Err(_) => Err(JobError::Value {
            name,
            found,
            expected: format!("a whole number from {least} to {most}"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(variables: &[(&str, &str)]) -> Result<Option<Job>, JobError> {
        Job::of(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    const TWO: [(&str, &str); 4] = [
        ("RANK", "1"),
        ("WORLD_SIZE", "2"),
        ("MASTER_ADDR", "node0"),
        ("MASTER_PORT", "29500"),
    ];

    fn with(more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
        let kept = TWO
            .iter()
            .filter(|(name, _)| !more.iter().any(|(other, _)| other == name));
        kept.chain(more).copied().collect()
    }

    #[test]
    fn a_launcher_describes_a_job() {
        assert_eq!(job(&[]), Ok(None), "no launcher");
        assert_eq!(
            job(&[("MASTER_ADDR", "node0")]),
            Ok(None),
            "an address alone"
        );
        assert_eq!(
            job(&[("RANK", "0"), ("WORLD_SIZE", "1")]),
            Ok(None),
            "one rank is no job"
        );
        assert_eq!(
            job(&[("RANK", ""), ("WORLD_SIZE", "")]),
            Ok(None),
            "empty is not set"
        );
        let found = job(&TWO).unwrap().unwrap();
        assert_eq!(
            (found.rank, found.size, found.local_rank, found.local_size),
            (1, 2, 0, 1)
        );
        assert_eq!(found.master.to_string(), "node0:29500");
        assert_eq!(found.master.served, None);
        assert_eq!(
            job(&found
                .variables()
                .each_ref()
                .map(|(name, value)| (*name, value.as_str()))),
            Ok(Some(found))
        );
        let agent = [
            ("LOCAL_RANK", "1"),
            ("LOCAL_WORLD_SIZE", "2"),
            ("TORCHELASTIC_USE_AGENT_STORE", "True"),
            ("TORCHELASTIC_RESTART_COUNT", "3"),
        ];
        let found = job(&with(&agent)).unwrap().unwrap();
        assert_eq!((found.local_rank, found.local_size), (1, 2));
        assert_eq!(found.master.served.as_deref(), Some("tinygate/attempt_3"));
    }

    #[track_caller]
    fn check(name: &str, variables: &[(&str, &str)], words: &[&str]) {
        let error = job(variables).unwrap_err();
        assert!(!error.hints().is_empty(), "{name}: no hint for: {error}");
        let error = error.to_string();
        for word in words {
            assert!(error.contains(word), "{name}: no `{word}` in: {error}");
        }
    }

    #[test]
    fn an_incomplete_job_is_an_error() {
        check(
            "no size",
            &[("RANK", "0")],
            &["RANK is set, WORLD_SIZE is not"],
        );
        check(
            "no rank",
            &[("WORLD_SIZE", "2")],
            &["WORLD_SIZE is set, RANK is not"],
        );
        check(
            "no address",
            &TWO[..2],
            &["MASTER_ADDR, MASTER_PORT are not"],
        );
        check(
            "not a number",
            &with(&[("RANK", "one")]),
            &["RANK=one", "a whole number from 0 to 1"],
        );
        check(
            "a rank that is too large",
            &with(&[("RANK", "2")]),
            &["RANK=2", "from 0 to 1"],
        );
        check("no ranks", &with(&[("WORLD_SIZE", "0")]), &["WORLD_SIZE=0"]);
        check(
            "no port",
            &with(&[("MASTER_PORT", "65536")]),
            &["MASTER_PORT=65536"],
        );
        check(
            "more local ranks than ranks",
            &with(&[("LOCAL_WORLD_SIZE", "3")]),
            &["LOCAL_WORLD_SIZE=3", "from 1 to 2"],
        );
    }
}
