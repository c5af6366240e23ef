//! Rank 0's side: brings the ranks together, tells them what to train, and parts from them.
//!
//! ```text
//! apart ──form──▶ together ──begin──▶ together ──part──▶ apart
//!                                        │
//!                                        └──(dropped)──▶ ended: every rank was told so, and is gone
//! ```
//!
//! Ranks that this process started are started anew after they parted; those of a launcher are its own to start.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, ToSocketAddrs, UdpSocket};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tch::Device;
use tinygate_c10d::{ErrorKind, Listen, Store};

use super::exchange::Exchange;
use super::job::{Job, Master};
use super::local::{Worker, all_ended};
use super::message::{Cause, GivenUp, Hello, Instruction, Task, Welcome};
use super::{
    Lost, LostHow, Plan, RanksError, WELCOME_KEY, bye_key, gave_up_key, group, hello_key,
    instruction_key, ready_key, versions,
};
use crate::config::Config;
use crate::train::StageTrainer;

/// How long others may take to say why they gave up, and to end when they are told to.
const PARTING: Duration = Duration::from_secs(5);
/// How long rank 0 waits for others to come, only to let them go.
const TURNING_AWAY: Duration = Duration::from_secs(60);
/// How often rank 0 looks for workers that ended while it waits for them to come.
const LOOK: Duration = Duration::from_millis(100);

/// What all ranks of a run must have in common, and how long they wait for each other.
#[derive(Clone)]
pub struct Terms {
    pub config: Config,
    /// BLAKE3 of the frames, in hex.
    pub dataset: String,
    pub device: Device,
    /// CPU threads of each rank that has no setting of its own.
    pub threads: u16,
    pub timeout: Duration,
}

/// Why ranks did not come together. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum FormError {
    #[error(
        "rank 0 cannot listen at {master}: {source}\n\nhint: MASTER_ADDR is an address of the machine of rank 0, and \
         MASTER_PORT one of its free ports; another job may use it"
    )]
    Listen { master: Master, source: io::Error },
    #[error("rank {rank} cannot be started: {source}\n\nhint: {ONE_RANK}")]
    Start { rank: u32, source: io::Error },
    #[error("rank {rank} ended before it began to train ({status}): {stderr}\n\nhint: {ONE_RANK}")]
    Ended {
        rank: u32,
        status: String,
        stderr: String,
    },
    #[error(
        "{} of {size} ranks came to {master} within {seconds} s; missing: {}\n\nhint: start every rank with the same \
         MASTER_ADDR and MASTER_PORT, which must lead to rank 0; `distributed.timeout_seconds` is how long it waits",
        size - missing.len() as u32, list(.missing)
    )]
    Missing {
        size: u32,
        missing: Vec<u32>,
        master: Master,
        seconds: u64,
    },
    #[error(
        "rank {} came, and did not get ready within {seconds} s\n\nhint: look at what it says; a large data set may take longer \
         to load than `distributed.timeout_seconds`", list(.missing)
    )]
    NotReady { missing: Vec<u32>, seconds: u64 },
    #[error("{what}\n\nhint: {hint}")]
    Other { what: String, hint: &'static str },
    #[error("rank {rank} cannot take part: {text}\n\nhint: {ONE_RANK}")]
    Refused { rank: u32, text: String },
    #[error("{place}: {source}\n\nhint: {ONE_RANK}")]
    Group {
        place: &'static str,
        source: tinygate_c10d::Error,
    },
    #[error("bug: a message between ranks: {0}")]
    Message(#[from] serde_json::Error),
}

const ONE_RANK: &str = "`--allow-single-gpu-fallback` lets `run` and `resume` go on with one rank and more accumulation; a new run \
                        takes as many as `nproc_per_node` says";

fn list(ranks: &[u32]) -> String {
    let names: Vec<String> = ranks.iter().map(u32::to_string).collect();
    names.join(", ")
}

/// Rank 0 and the others, which are there or will be when they are needed.
pub struct Crew {
    plan: Plan,
    terms: Terms,
    together: Option<Together>,
    /// In the middle of a chunk, where the others wait for this rank.
    busy: bool,
}

struct Together {
    store: Store,
    exchange: Exchange,
    /// Those that this process started.
    workers: Vec<Worker>,
    instructions: u64,
}

impl Crew {
    /// Brings the ranks of `plan` together.
    ///
    /// # Errors
    /// Ranks that do not come, or that cannot take part.
    pub fn form(plan: Plan, terms: Terms) -> Result<Crew, FormError> {
        let together = form(&plan, &terms)?;
        Ok(Crew {
            plan,
            terms,
            together: Some(together),
            busy: false,
        })
    }

    pub fn size(&self) -> u32 {
        self.plan.size()
    }

    pub(super) fn exchange(&self) -> Result<&Exchange, RanksError> {
        let together = self.together.as_ref();
        together
            .map(|together| &together.exchange)
            .ok_or(RanksError::Parted)
    }

    pub(super) fn begin(
        &mut self,
        task: &Task,
        trainer: &mut StageTrainer,
    ) -> Result<(), RanksError> {
        let together = match self.together.take() {
            Some(together) => together,
            None if matches!(self.plan, Plan::Joined(_)) => return Err(RanksError::Parted),
            None => form(&self.plan, &self.terms)?,
        };
        let together = self.together.insert(together);
        self.busy = true;
        together.tell(&Instruction::Train(Box::new(task.clone())))?;
        together.exchange.share(trainer)
    }

    pub(super) fn rest(&mut self) {
        self.busy = false;
    }

    /// Ends the ranks that this process started, if they are in the middle of a chunk. Says which rank `error` was due
    /// to, if it was due to one.
    pub(super) fn part(&mut self, error: Option<&RanksError>) -> Option<Lost> {
        if !std::mem::take(&mut self.busy) {
            return None;
        }
        let mut together = self.together.take()?;
        if matches!(self.plan, Plan::Joined(_)) {
            // Whoever waits for an instruction instead of a sum hears that there is none.
            let _ = together.tell(&Instruction::End);
        }
        let error = match error {
            Some(RanksError::Collective(error)) => error,
            Some(
                RanksError::Train(_)
                | RanksError::Form(_)
                | RanksError::Differ { .. }
                | RanksError::Parted
                | RanksError::Bug(_),
            )
            | None => return None,
        };
        let how = match error.kind {
            ErrorKind::TimedOut => LostHow::TimedOut {
                seconds: self.terms.timeout.as_secs(),
            },
            ErrorKind::Network | ErrorKind::Store => LostHow::Exited,
            // Nobody else's doing.
            ErrorKind::Other | ErrorKind::Cut => return None,
        };
        Some(together.lost(how, error))
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        if let Some(mut together) = self.together.take() {
            together.end();
        }
    }
}

impl Together {
    fn tell(&mut self, instruction: &Instruction) -> Result<(), RanksError> {
        let text = serde_json::to_vec(instruction).map_err(FormError::from)?;
        self.store.set(&instruction_key(self.instructions), &text)?;
        self.instructions += 1;
        Ok(())
    }

    /// Tells all ranks that there is nothing left to do, and waits a while for them to go.
    fn end(&mut self) {
        if self.tell(&Instruction::End).is_err() {
            return;
        }
        let until = Instant::now() + PARTING;
        await_byes(&self.store, self.exchange.size(), until);
        all_ended(
            &mut self.workers,
            until.saturating_duration_since(Instant::now()),
        );
    }

    /// The rank to blame: one that says so itself, else one that was ended by something else, else one that says and
    /// does nothing while all others gave up, else this one, which kept the others waiting.
    fn lost(&mut self, how: LostHow, error: &tinygate_c10d::Error) -> Lost {
        let until = Instant::now() + PARTING;
        loop {
            // In this order: a rank leaves word before it ends.
            let ended: Vec<(u32, ExitStatus)> = self
                .workers
                .iter_mut()
                .filter_map(|worker| Some((worker.rank, worker.ended(Duration::ZERO)?)))
                .collect();
            let notes: Vec<(u32, GivenUp)> = (1..self.exchange.size())
                .filter_map(|rank| Some((rank, read(&self.store, &gave_up_key(rank)).ok()??)))
                .collect();
            let noted = |rank: u32| notes.iter().any(|(noted, _)| *noted == rank);
            let own = |(_, note): &&(u32, GivenUp)| note.cause != Cause::OtherRank;
            if let Some((rank, note)) = notes.iter().find(own) {
                return self.blame(*rank, note_how(note), &note.text);
            }
            if let Some((rank, _)) = ended.iter().find(|(rank, _)| !noted(*rank)) {
                return self.blame(*rank, LostHow::Exited, &error.text);
            }
            let silent: Vec<u32> = (1..self.exchange.size())
                .filter(|rank| !noted(*rank))
                .collect();
            let Some(first) = silent.first() else {
                let said = notes.first().map_or("", |(_, note)| note.text.as_str());
                return Lost {
                    how: LostHow::Exited,
                    status: "rank 0 kept the others waiting".to_owned(),
                    stderr: format!("{said}; `distributed.timeout_seconds` is how long they wait"),
                };
            };
            if until <= Instant::now() {
                return match silent.as_slice() {
                    [one] => self.blame(*one, how, &error.text),
                    _ => Lost {
                        how,
                        status: format!("one of the ranks {}", list(&silent)),
                        stderr: error.text.clone(),
                    },
                };
            }
            // Whoever ends next ends the wait; where a launcher has the ranks, their word does.
            let first = *first;
            match self.workers.iter_mut().find(|worker| worker.rank == first) {
                Some(worker) => drop(worker.ended(LOOK)),
                None => drop(self.store.get(&gave_up_key(first), LOOK)),
            }
        }
    }

    /// `said`: what is known of it besides what it wrote to standard error.
    fn blame(&mut self, rank: u32, how: LostHow, said: &str) -> Lost {
        let place = self.workers.iter_mut().find(|worker| worker.rank == rank);
        let Some(worker) = place else {
            return Lost {
                how,
                status: format!("rank {rank}"),
                stderr: said.to_owned(),
            };
        };
        let hangs = matches!(how, LostHow::TimedOut { .. });
        let status = worker.ended(if hangs { Duration::ZERO } else { PARTING });
        let name = worker.name();
        let stderr = worker.stderr();
        Lost {
            how,
            status: status.map_or_else(|| name.clone(), |status| format!("{status}, {name}")),
            stderr: if stderr.contains(said) {
                stderr
            } else {
                format!("{said}\n{stderr}").trim_end().to_owned()
            },
        }
    }
}

fn note_how(note: &GivenUp) -> LostHow {
    match note.cause {
        Cause::OutOfMemory => LostHow::OutOfMemory,
        Cause::Own | Cause::OtherRank => LostHow::Exited,
    }
}

fn form(plan: &Plan, terms: &Terms) -> Result<Together, FormError> {
    match plan {
        Plan::Alone => Err(FormError::Other {
            what: "one rank is no group".to_owned(),
            hint: "report this as a bug",
        }),
        Plan::Local { size, program } => {
            let master = Master {
                host: Ipv4Addr::LOCALHOST.to_string(),
                port: 0,
                served: None,
            };
            let job = |rank: u32, master: &Master| Job {
                rank,
                size: *size,
                local_rank: rank,
                local_size: *size,
                master: master.clone(),
                interface: None,
            };
            let (listener, master) = listen(&master)?;
            let store = Store::serve(listener, terms.timeout).map_err(at("the store of rank 0"))?;
            let workers = (1..*size).map(|rank| {
                let started = Worker::start(program, &job(rank, &master));
                started.map_err(|source| FormError::Start { rank, source })
            });
            let workers = workers.collect::<Result<Vec<_>, _>>()?;
            meet(store, &job(0, &master), workers, terms)
        }
        Plan::Joined(job) => {
            let store = joined_store(job, terms.timeout)?;
            meet(store, job, Vec::new(), terms)
        }
    }
}

/// The store of a launcher's job, which rank 0 serves unless the launcher does.
fn joined_store(job: &Job, timeout: Duration) -> Result<Store, FormError> {
    let master = &job.master;
    match &master.served {
        Some(prefix) => Store::connect(&master.host, master.port, timeout, None)
            .and_then(|store| store.prefixed(prefix))
            .map_err(at("the store of the launcher")),
        None => {
            let (listener, _) = listen(master)?;
            let address = listener.local_addr().map(|address| address.ip());
            if address.is_ok_and(|address| address.is_loopback()) && job.local_size < job.size {
                tracing::warn!(
                    "{master} is this machine's loopback, and LOCAL_WORLD_SIZE is {} of {} ranks: ranks on other machines \
                     cannot come",
                    job.local_size,
                    job.size
                );
            }
            Store::serve(listener, timeout).map_err(at("the store of rank 0"))
        }
    }
}

/// Lets the other ranks of a launcher's job go, which rank 0 does not need: it has nothing to train, or cannot (`why`).
/// Without a word they would wait for it.
pub fn turn_away(job: &Job, why: Option<String>) -> Result<(), FormError> {
    let store = joined_store(job, TURNING_AWAY)?;
    let until = Instant::now() + TURNING_AWAY;
    for rank in 1..job.size {
        let left = until.saturating_duration_since(Instant::now());
        let came = store.get(&hello_key(rank), left).map_err(at("the store"))?;
        if came.is_none() {
            break;
        }
    }
    let word = why.map_or(Welcome::NothingToDo, Welcome::Refused);
    write(&store, WELCOME_KEY, &word)?;
    await_byes(&store, job.size, Instant::now() + PARTING);
    Ok(())
}

/// Waits for every rank, checks that it may take part, and connects all.
fn meet(
    store: Store,
    job: &Job,
    mut workers: Vec<Worker>,
    terms: &Terms,
) -> Result<Together, FormError> {
    let others = || 1..job.size;
    let entries = terms.config.entries();
    let seconds = terms.timeout.as_secs();
    let until = Instant::now() + terms.timeout;
    let hellos = wait(&store, hello_key, job, &mut workers, until)?;
    let hellos: Vec<Hello> = hellos.map_err(|missing| FormError::Missing {
        size: job.size,
        missing,
        master: job.master.clone(),
        seconds,
    })?;
    for (rank, hello) in others().zip(&hellos) {
        if let Err(text) = fits(hello, &entries) {
            write(&store, WELCOME_KEY, &Welcome::Refused(text.clone()))?;
            await_byes(&store, job.size, Instant::now() + PARTING);
            return Err(FormError::Other {
                what: format!("rank {rank} on `{}`: {text}", hello.host),
                hint: "start every rank with the same program and the same config",
            });
        }
    }
    let welcome = Welcome::Config {
        config: terms.config.to_json(),
        dataset: terms.dataset.clone(),
        threads: terms.threads,
    };
    write(&store, WELCOME_KEY, &welcome)?;
    let until = Instant::now() + terms.timeout;
    let ready = wait(&store, ready_key, job, &mut workers, until)?;
    let ready: Vec<Result<(), String>> =
        ready.map_err(|missing| FormError::NotReady { missing, seconds })?;
    for (rank, ready) in others().zip(ready) {
        ready.map_err(|text| FormError::Refused { rank, text })?;
    }
    let listen = listen_at(job)?;
    let own = (0, job.size);
    let (group, device) = group(&store, own, &listen, terms.device, terms.timeout)
        .map_err(at("the ranks could not connect to each other"))?;
    Ok(Together {
        store,
        exchange: Exchange::new(group, 0, job.size, device),
        workers,
        instructions: 0,
    })
}

/// Rank 0 may serve the store, which must not be gone before the others have read the last word.
fn await_byes(store: &Store, size: u32, until: Instant) {
    for rank in 1..size {
        let left = until.saturating_duration_since(Instant::now());
        if !matches!(store.get(&bye_key(rank), left), Ok(Some(_))) {
            return;
        }
    }
}

/// What every other rank says at its key, unless one ends before it says it. Ranks that said nothing by `until` are
/// missing.
fn wait<T: DeserializeOwned>(
    store: &Store,
    key: fn(u32) -> String,
    job: &Job,
    workers: &mut [Worker],
    until: Instant,
) -> Result<Result<Vec<T>, Vec<u32>>, FormError> {
    let mut said = Vec::new();
    for rank in 1..job.size {
        loop {
            let value = store.get(&key(rank), LOOK).map_err(at("the store"))?;
            if let Some(value) = value {
                said.push(serde_json::from_slice(&value)?);
                break;
            }
            for worker in workers.iter_mut() {
                if let Some(status) = worker.ended(Duration::ZERO) {
                    return Err(FormError::Ended {
                        rank: worker.rank,
                        status: status.to_string(),
                        stderr: worker.stderr(),
                    });
                }
            }
            if until <= Instant::now() {
                let missing = (1..job.size).filter(|rank| !store.has(&key(*rank)).unwrap_or(false));
                return Ok(Err(missing.collect()));
            }
        }
    }
    Ok(Ok(said))
}

/// Ranks of one run have one program and one config, but for what belongs to each process.
fn fits(hello: &Hello, entries: &[(String, String)]) -> Result<(), String> {
    let own = versions();
    if hello.versions != own {
        let [tinygate, libtorch] = &hello.versions;
        let [own_tinygate, own_libtorch] = &own;
        return Err(format!(
            "it runs tinygate {tinygate} on libtorch {libtorch}, and rank 0 runs {own_tinygate} on {own_libtorch}"
        ));
    }
    let Some(theirs) = &hello.config else {
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

/// Listens where `master` says: at that address if it is one of this machine; at all addresses if it is none, as that
/// of a service in front of this machine is. A port of 0 takes any that is free.
fn listen(master: &Master) -> Result<(TcpListener, Master), FormError> {
    let failed = |source: io::Error| FormError::Listen {
        master: master.clone(),
        source,
    };
    let addresses: Vec<SocketAddr> = (master.host.as_str(), master.port)
        .to_socket_addrs()
        .map_err(failed)?
        .collect();
    let listener = match TcpListener::bind(addresses.as_slice()) {
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
            tracing::warn!(
                "{master} is no address of this machine: rank 0 listens at port {} of all of its addresses",
                master.port
            );
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, master.port))
        }
        other => other,
    };
    let listener = listener.map_err(failed)?;
    let port = listener.local_addr().map_err(failed)?.port();
    let master = Master {
        port,
        ..master.clone()
    };
    Ok((listener, master))
}

/// Where this rank's group listens: at the interface the user names, else at the address by which this machine reaches
/// the master, so that ranks on one machine stay on its loopback.
pub(super) fn listen_at(job: &Job) -> Result<Listen, FormError> {
    if let Some(interface) = &job.interface {
        return Ok(Listen::Interface(interface.clone()));
    }
    let failed = |source: io::Error| FormError::Listen {
        master: job.master.clone(),
        source,
    };
    let master = (job.master.host.as_str(), job.master.port);
    let address = master.to_socket_addrs().map_err(failed)?.next();
    let any: SocketAddr = match address {
        Some(SocketAddr::V6(_)) => (IpAddr::from([0_u16; 8]), 0).into(),
        Some(SocketAddr::V4(_)) | None => (IpAddr::from([0_u8; 4]), 0).into(),
    };
    // Nothing is sent: connecting a datagram socket only chooses its own address.
    let socket = UdpSocket::bind(any).map_err(failed)?;
    socket.connect(master).map_err(failed)?;
    let own = socket.local_addr().map_err(failed)?;
    Ok(Listen::Address(own.ip().to_string()))
}

fn at(place: &'static str) -> impl FnOnce(tinygate_c10d::Error) -> FormError {
    move |source| FormError::Group { place, source }
}

fn write<T: Serialize>(store: &Store, key: &str, value: &T) -> Result<(), FormError> {
    store
        .set(key, &serde_json::to_vec(value)?)
        .map_err(at("the store"))
}

/// What stands at `key` by now.
fn read<T: DeserializeOwned>(store: &Store, key: &str) -> Result<Option<T>, FormError> {
    if !store.has(key).map_err(at("the store"))? {
        return Ok(None);
    }
    let value = store.get(key, LOOK).map_err(at("the store"))?;
    Ok(value
        .map(|value| serde_json::from_slice(&value))
        .transpose()?)
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
    fn ranks_have_one_program_and_one_config() {
        let own = entries(&[("seed", "3"), ("device", "\"cpu\""), ("threads", "1")]);
        let fits = |hello: &Hello| fits(hello, &own);
        assert_eq!(fits(&hello(None)), Ok(()), "it takes the config of rank 0");
        assert_eq!(fits(&hello(Some(own.clone()))), Ok(()), "the same");
        let of_process = entries(&[("seed", "3"), ("device", "\"cuda\""), ("threads", "4")]);
        assert_eq!(
            fits(&hello(Some(of_process))),
            Ok(()),
            "a device and threads of its own"
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
            fits(&old)
                .unwrap_err()
                .contains("tinygate 0.0.1 on libtorch 1.0.0")
        );
    }

    #[test]
    fn a_taken_port_is_an_error_that_names_it() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let master = Master {
            host: "127.0.0.1".to_owned(),
            port: taken.local_addr().unwrap().port(),
            served: None,
        };
        let error = listen(&master).unwrap_err().to_string();
        assert!(error.contains(&master.to_string()), "{error}");
        assert!(error.contains("hint: "), "{error}");
    }
}
