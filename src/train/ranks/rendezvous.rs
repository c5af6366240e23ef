//! Rank 0's side of the rendezvous: starts the other ranks or waits for them, checks each, and connects all.
//!
//! ```text
//! another rank               rank 0
//!       hello  ───────────▶  one program, one config?
//!              ◀───────────  answer: the config, a refusal, or nothing to do
//!       ready  ───────────▶  all loaded their data?
//!              ◀──connect──▶ the group
//! ```

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::time::{Duration, Instant};

use tch::Device;
use tinygate_c10d::Store;

use super::connection::connect;
use super::error::RendezvousError;
use super::group::{PARTING, RankGroup};
use super::handshake::Answer;
use super::job::{Job, Master};
use super::local::Worker;
use super::mailbox::{MailError, Mailbox};
use super::plan::Launch;
use crate::config::Config;

/// How long rank 0 waits for others that it turns away.
const TURNING_AWAY: Duration = Duration::from_secs(60);
/// How often rank 0 looks for workers that exited while it waits for them.
const POLL: Duration = Duration::from_millis(100);

/// What all ranks of a run must have in common, and how long they wait for each other.
#[derive(Clone)]
pub struct Terms {
    pub config: Config,
    /// BLAKE3 of the frames, in hex.
    pub dataset: String,
    pub device: Device,
    /// CPU threads of each rank that does not set its own.
    pub threads: u16,
    pub timeout: Duration,
}

/// Rank 0 while it waits for the others, and the ranks that it started.
pub(super) struct Rendezvous<'t> {
    job: Job,
    terms: &'t Terms,
    mailbox: Mailbox,
    /// The ranks that this process started.
    workers: Vec<Worker>,
}

impl<'t> Rendezvous<'t> {
    /// Opens the store, and starts the other ranks unless a launcher does.
    pub fn open(launch: &Launch, terms: &'t Terms) -> Result<Rendezvous<'t>, RendezvousError> {
        let (size, program) = match launch {
            Launch::Local { size, program } => (*size, program),
            Launch::External(job) => {
                return Ok(Rendezvous {
                    job: job.clone(),
                    terms,
                    mailbox: Mailbox::new(open_store(job, terms.timeout)?),
                    workers: Vec::new(),
                });
            }
        };
        let (listener, master) = listen(&Master {
            host: Ipv4Addr::LOCALHOST.to_string(),
            port: 0,
            served: None,
        })?;
        let job = |rank: u32| Job {
            rank,
            size,
            local_rank: rank,
            local_size: size,
            master: master.clone(),
            interface: None,
        };
        let store = Store::serve(listener, terms.timeout).map_err(at("the store of rank 0"))?;
        let workers = (1..size).map(|rank| {
            let started = Worker::start(program, &job(rank));
            started.map_err(|source| RendezvousError::Start { rank, source })
        });
        Ok(Rendezvous {
            job: job(0),
            terms,
            mailbox: Mailbox::new(store),
            workers: workers.collect::<Result<Vec<_>, _>>()?,
        })
    }

    /// Waits for every rank, checks that it can take part, and connects all.
    pub fn meet(mut self) -> Result<RankGroup, RendezvousError> {
        self.greet()?;
        self.await_ready()?;
        let Terms {
            device, timeout, ..
        } = self.terms;
        let exchange = connect(self.mailbox.store(), &self.job, *device, *timeout)?;
        Ok(RankGroup::new(self.mailbox, exchange, self.workers))
    }

    /// The handshake with all ranks. They get the config, or all are refused with what is wrong with one of them.
    fn greet(&mut self) -> Result<(), RendezvousError> {
        let hellos = self.wait(Mailbox::hello, Mailbox::said_hello)?;
        let hellos = hellos.map_err(|missing| RendezvousError::Missing {
            size: self.job.size,
            missing,
            master: self.job.master.clone(),
            seconds: self.terms.timeout.as_secs(),
        })?;
        let entries = self.terms.config.entries();
        for (rank, hello) in (1..).zip(&hellos) {
            if let Err(text) = hello.check(&entries) {
                self.mailbox.say_answer(&Answer::Refused(text.clone()))?;
                self.mailbox
                    .await_goodbyes(self.job.size, Instant::now() + PARTING);
                return Err(RendezvousError::Differs {
                    rank,
                    host: hello.host.clone(),
                    text,
                });
            }
        }
        self.mailbox.say_answer(&Answer::Config {
            config: self.terms.config.to_json(),
            dataset: self.terms.dataset.clone(),
            threads: self.terms.threads,
        })?;
        Ok(())
    }

    /// Waits until all ranks have loaded their data.
    fn await_ready(&mut self) -> Result<(), RendezvousError> {
        let seconds = self.terms.timeout.as_secs();
        let ready = self.wait(Mailbox::ready, Mailbox::said_ready)?;
        let ready = ready.map_err(|missing| RendezvousError::NotReady { missing, seconds })?;
        for (rank, ready) in (1..).zip(ready) {
            ready.map_err(|text| RendezvousError::Refused { rank, text })?;
        }
        Ok(())
    }

    /// Waits for the message of every other rank. Returns the ranks that sent none in time.
    ///
    /// # Errors
    /// A rank that exited before it sent its message.
    fn wait<T>(
        &mut self,
        message: impl Fn(&Mailbox, u32, Duration) -> Result<Option<T>, MailError>,
        is_there: impl Fn(&Mailbox, u32) -> bool,
    ) -> Result<Result<Vec<T>, Vec<u32>>, RendezvousError> {
        let until = Instant::now() + self.terms.timeout;
        let others = 1..self.job.size;
        let mut said = Vec::new();
        for rank in others.clone() {
            loop {
                if let Some(message) = message(&self.mailbox, rank, POLL)? {
                    said.push(message);
                    break;
                }
                for worker in &mut self.workers {
                    if let Some(status) = worker.ended(Duration::ZERO) {
                        return Err(RendezvousError::Ended {
                            rank: worker.rank,
                            status: status.to_string(),
                            stderr: worker.stderr(),
                        });
                    }
                }
                if until <= Instant::now() {
                    let missing = others.filter(|rank| !is_there(&self.mailbox, *rank));
                    return Ok(Err(missing.collect()));
                }
            }
        }
        Ok(Ok(said))
    }
}

/// Turns away the other ranks of a launcher's job, which would wait for rank 0: it has nothing to train, or cannot (`why`).
pub fn turn_away(job: &Job, why: Option<String>) -> Result<(), RendezvousError> {
    let mailbox = Mailbox::new(open_store(job, TURNING_AWAY)?);
    let until = Instant::now() + TURNING_AWAY;
    for rank in 1..job.size {
        let left = until.saturating_duration_since(Instant::now());
        if mailbox.hello(rank, left)?.is_none() {
            break;
        }
    }
    mailbox.say_answer(&why.map_or(Answer::NothingToDo, Answer::Refused))?;
    mailbox.await_goodbyes(job.size, Instant::now() + PARTING);
    Ok(())
}

/// The store of a launcher's job. Rank 0 serves it unless the launcher does.
fn open_store(job: &Job, timeout: Duration) -> Result<Store, RendezvousError> {
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
                     cannot connect",
                    job.local_size,
                    job.size
                );
            }
            Store::serve(listener, timeout).map_err(at("the store of rank 0"))
        }
    }
}

/// Listens at the address of `master` if this machine has it, and at all its addresses if not, as behind a proxy. Port 0
/// means any free port.
fn listen(master: &Master) -> Result<(TcpListener, Master), RendezvousError> {
    let failed = |source: io::Error| RendezvousError::Listen {
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
                "{master} is not an address of this machine: rank 0 listens at port {} of all its addresses",
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

fn at(what: &'static str) -> impl FnOnce(tinygate_c10d::Error) -> RendezvousError {
    move |source| RendezvousError::Group { what, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::advice::Advice;

    #[test]
    fn a_port_in_use_is_an_error_with_its_address() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let master = Master {
            host: "127.0.0.1".to_owned(),
            port: taken.local_addr().unwrap().port(),
            served: None,
        };
        let error = listen(&master).unwrap_err();
        assert!(error.to_string().contains(&master.to_string()), "{error}");
        assert!(!error.hints().is_empty(), "{error}");
    }
}
