//! The trainer: starts the program, sends it commands, checks what it reports, ends it.

use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;
use rustix::process::{Pid, Signal, kill_process_group};
use tinygate::trainer::wire::{self, Hello, HostMessage, ProgramMessage};
use tinygate::trainer::{Ended, Report, Trainer, TrainerCommand, TrainerError, TrainerFact};

use crate::leftover::{self, Started};
use crate::link::{Incoming, Link, write_line};
use crate::order::Order;
use crate::processes::{self, Identity};
use crate::{LOG_FILE, SOCKET, TOKEN, checkpoint};

/// How long a program whose connection is closed may take to exit, and the other way round.
const GRACE: Duration = Duration::from_secs(2);
/// How long a program may take to exit after the last command.
const END_PATIENCE: Duration = Duration::from_secs(20);
/// How much of the program's output a failed chunk keeps, in bytes.
const OUTPUT_MOST: u64 = 8 << 10;
/// Most processes that a program may report.
const RANKS_MOST: usize = 4096;

/// A program and what it is told.
#[derive(Clone, Debug)]
pub struct ProgramSetup {
    /// The run directory, which must exist. This process must have the run's lock.
    pub run: PathBuf,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Its working directory.
    pub directory: PathBuf,
    /// The run's config, as in the log.
    pub config: serde_json::Value,
}

/// A program that trains. It is started at the first command, and again after it failed.
pub struct ProgramTrainer {
    setup: ProgramSetup,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    running: Option<Running>,
    order: Order,
    /// The signal for which it was asked to stop.
    stop: Option<String>,
    /// It reported that its chunk failed, which is its last report.
    failed: bool,
    /// Why it could not be started. Not a failure of a chunk: somebody must fix it.
    refused: Option<String>,
}

/// A program that was started and not yet ended.
struct Running {
    child: Child,
    link: Link,
    started: Started,
    /// `None` until it has said hello.
    connection: Option<UnixStream>,
    /// Waits for the connection.
    pending: Option<TrainerCommand>,
    /// Length of the log file when it was started.
    log_start: u64,
    exited: Option<String>,
    closed: bool,
    /// When the first of the two was seen.
    gone_since: Option<Instant>,
}

impl ProgramTrainer {
    /// Ends what a killed process left of this run's program. Starts nothing yet.
    ///
    /// # Errors
    /// The run directory has no absolute path.
    pub fn new(setup: ProgramSetup) -> io::Result<ProgramTrainer> {
        let run = std::path::absolute(&setup.run)?;
        leftover::end(&run);
        Ok(ProgramTrainer {
            setup: ProgramSetup { run, ..setup },
            state: RefCell::default(),
        })
    }

    /// Tells the program that there are no more commands, and waits a while for it to exit by itself.
    pub fn finish(self) {
        let mut state = self.state.borrow_mut();
        if let Some(running) = &mut state.running
            && running.connection.is_some()
        {
            // A program that was stopped may have closed its end already.
            let _ = running.tell(&HostMessage::End);
            running.wait_for_exit(END_PATIENCE);
        }
        drop(state);
        self.end();
    }

    fn start(&self) -> io::Result<Running> {
        let setup = &self.setup;
        let mut link = Link::listen()?;
        let (log, log_start) = open_log(&setup.run)?;
        let mut words = setup.command.iter();
        let program = words
            .next()
            .ok_or_else(|| io::Error::other("the command is empty"))?;
        let started = Started::new(link.secret().text());
        // If this process is killed, the next one finds the program by its token.
        started.write(&setup.run)?;
        let child = Command::new(program)
            .args(words)
            .current_dir(&setup.directory)
            .env(SOCKET, link.path())
            .env(TOKEN, link.secret().text())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn();
        let child = match child {
            Ok(child) => child,
            Err(error) => {
                link.end();
                leftover::remove(&setup.run);
                return Err(error);
            }
        };
        let watched = link.watch(Pid::from_child(&child));
        let mut running = Running {
            link,
            started,
            connection: None,
            pending: None,
            log_start,
            exited: None,
            closed: false,
            gone_since: None,
            child,
        };
        if let Err(error) = watched {
            running.end(&setup.run);
            return Err(error);
        }
        running.add_processes(&setup.run, &[]);
        Ok(running)
    }

    /// What a message means, once it is checked.
    fn report(&self, order: &mut Order, message: ProgramMessage) -> Result<Report, TrainerError> {
        order.check(&message).map_err(TrainerError::Broken)?;
        match message {
            ProgramMessage::Hello(_) => Err(TrainerError::Broken("it said hello twice".to_owned())),
            ProgramMessage::Report(report) => Ok(report),
            ProgramMessage::Checkpoint(written) => {
                let hashes = checkpoint::hashes(&self.setup.run, &written);
                let written = written.with_hashes(hashes.map_err(TrainerError::Broken)?);
                Ok(Report::Fact(TrainerFact::CheckpointWritten(written)))
            }
        }
    }
}

impl Trainer for ProgramTrainer {
    fn send(&self, command: TrainerCommand) -> Result<(), TrainerError> {
        let failed = std::mem::take(&mut self.state.borrow_mut().failed);
        if failed {
            self.end();
        }
        let state = &mut *self.state.borrow_mut();
        state.order.begin(&command);
        let running = match &mut state.running {
            Some(running) => running,
            None => match self.start() {
                Ok(running) => state.running.insert(running),
                Err(error) => {
                    state.refused = Some(format!(
                        "cannot start the trainer `{}`: {error}",
                        self.setup.command.join(" ")
                    ));
                    return Ok(());
                }
            },
        };
        if running.connection.is_none() {
            running.pending = Some(command);
            return Ok(());
        }
        // A program that exited is noticed by the next `receive`, which knows how.
        let sent = running.tell(&HostMessage::Command(command));
        sent.or_else(|error| running.is_gone_soon(&error))
    }

    fn receive(&self, patience: Duration) -> Result<Option<Report>, TrainerError> {
        let state = &mut *self.state.borrow_mut();
        if let Some(detail) = state.refused.take() {
            return Ok(Some(Report::Environment { detail }));
        }
        let Some(running) = &mut state.running else {
            return Err(TrainerError::Lost);
        };
        let until = Instant::now() + patience;
        loop {
            if let Some(signal) = &state.stop
                && (running.connection.is_none() || running.gone().is_some())
            {
                // It has nothing to save, or exits because it was asked to.
                let signal = signal.clone();
                return Ok(Some(Report::Interrupted { signal }));
            }
            if let Some(how) = running.gone() {
                return Err(TrainerError::Broken(how));
            }
            let now = Instant::now();
            let rest = until.saturating_duration_since(now);
            let wait = match running.gone_since {
                Some(since) => rest.min((since + GRACE).saturating_duration_since(now)),
                None => rest,
            };
            match running.link.incoming.recv_timeout(wait) {
                Ok(Incoming::Line(line)) => {
                    let message = wire::program_message_from_json(&line)?;
                    let report = self.report(&mut state.order, message)?;
                    state.failed = matches!(report, Report::Fact(TrainerFact::ChunkFailed(_)));
                    return Ok(Some(report));
                }
                Ok(Incoming::Connected(stream, hello)) => {
                    running.connect(&self.setup, stream, &hello)?;
                }
                Ok(Incoming::Nonsense(why)) => return Err(TrainerError::Broken(why)),
                Ok(Incoming::Closed) => running.closed(),
                Ok(Incoming::Exited(how)) => running.exited(how),
                Err(RecvTimeoutError::Timeout) if until <= Instant::now() => return Ok(None),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(TrainerError::Lost),
            }
        }
    }

    fn stop(&self, signal: &str) {
        let state = &mut *self.state.borrow_mut();
        state.stop = Some(signal.to_owned());
        if let Some(running) = &mut state.running
            && running.connection.is_some()
        {
            let signal = signal.to_owned();
            // A connection that is closed is noticed by the next `receive`.
            if let Err(error) = running.tell(&HostMessage::Stop { signal }) {
                tracing::debug!("cannot ask the trainer to stop: {error}");
            }
        }
    }

    fn end(&self) -> Ended {
        let running = self.state.borrow_mut().running.take();
        let output = running.map_or_else(String::new, |running| running.end(&self.setup.run));
        Ended::Exited { output }
    }
}

impl Drop for ProgramTrainer {
    fn drop(&mut self) {
        self.end();
    }
}

impl Running {
    fn tell(&mut self, message: &HostMessage) -> io::Result<()> {
        let line = wire::host_message_to_json(message)?;
        match &mut self.connection {
            Some(connection) => write_line(connection, &line),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// The program has said hello: welcomes it and sends what waits.
    fn connect(
        &mut self,
        setup: &ProgramSetup,
        stream: UnixStream,
        hello: &Hello,
    ) -> Result<(), TrainerError> {
        if RANKS_MOST < hello.ranks.len() {
            let text = format!("it reported more than {RANKS_MOST} ranks");
            return Err(TrainerError::Broken(text));
        }
        let ranks = hello.ranks.iter().map(|rank| Identity {
            pid: rank.pid,
            start_time: rank.start_time,
        });
        self.add_processes(&setup.run, &ranks.collect::<Vec<_>>());
        self.connection = Some(stream);
        let welcome = HostMessage::Welcome {
            directory: setup.run.to_string_lossy().into_owned(),
            config: setup.config.clone(),
        };
        let pending = self.pending.take().map(HostMessage::Command);
        let mut messages = std::iter::once(welcome).chain(pending);
        let sent = messages.try_for_each(|message| self.tell(&message));
        sent.or_else(|error| self.is_gone_soon(&error))
    }

    /// Keeps these processes, and the child, as those to be ended. A process that started before the
    /// child is not one of the program's, whatever it reports.
    fn add_processes(&mut self, run: &Path, ranks: &[Identity]) {
        let child = match self.started.processes.first() {
            Some(child) => *child,
            None => Identity::of(self.child.id()),
        };
        let later = ranks.iter().filter(|rank| {
            **rank != child && child.start_time.is_some() && child.start_time <= rank.start_time
        });
        self.started.processes = std::iter::once(child).chain(later.copied()).collect();
        if let Err(error) = self.started.write(run) {
            tracing::warn!("cannot record the processes of the trainer: {error}");
        }
    }

    /// Decides on a failed write. If the program is about to exit, the next `receive` says how.
    fn is_gone_soon(&mut self, error: &io::Error) -> Result<(), TrainerError> {
        let closed = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset];
        if closed.contains(&error.kind()) {
            return Ok(());
        }
        let text = format!("it does not take its commands: {error}");
        Err(TrainerError::Broken(text))
    }

    fn closed(&mut self) {
        self.closed = true;
        self.gone_since.get_or_insert_with(Instant::now);
    }

    fn exited(&mut self, how: String) {
        self.exited = Some(how);
        self.gone_since.get_or_insert_with(Instant::now);
    }

    /// How it ended, once it has exited and its connection is closed, or one of the two long enough.
    fn gone(&self) -> Option<String> {
        let late = self.gone_since?.elapsed() >= GRACE;
        let never_connected = self.connection.is_none() && self.link.incoming.is_empty();
        match &self.exited {
            Some(how) if self.closed || late || never_connected => Some(how.clone()),
            None if late => Some("it closed the connection".to_owned()),
            Some(_) | None => None,
        }
    }

    fn wait_for_exit(&mut self, patience: Duration) {
        let until = Instant::now() + patience;
        while self.exited.is_none() {
            let rest = until.saturating_duration_since(Instant::now());
            match self.link.incoming.recv_timeout(rest) {
                Ok(Incoming::Exited(how)) => self.exited(how),
                Ok(
                    Incoming::Connected(..)
                    | Incoming::Line(_)
                    | Incoming::Nonsense(_)
                    | Incoming::Closed,
                ) => {}
                Err(_) => return,
            }
        }
    }

    /// Ends every process of the program, and returns the end of its output.
    fn end(mut self, run: &Path) -> String {
        // Followers notice it.
        if let Some(connection) = self.connection.take() {
            let _ = connection.shutdown(std::net::Shutdown::Both);
        }
        // The child is at least a zombie, so nobody else has its group.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        processes::end_all(&self.started.processes, &self.started.token);
        self.link.end();
        if let Err(error) = self.child.wait() {
            tracing::warn!("cannot wait for the trainer: {error}");
        }
        leftover::remove(run);
        output_since(run, self.log_start)
    }
}

/// The log file, to append to, and its length.
fn open_log(run: &Path) -> io::Result<(File, u64)> {
    let path = run.join(LOG_FILE);
    let file = OpenOptions::new().append(true).create(true).open(&path)?;
    let length = fs::metadata(&path)?.len();
    Ok((file, length))
}

/// The end of the output after `start`.
fn output_since(run: &Path, start: u64) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(run.join(LOG_FILE))?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(
            start.max(length.saturating_sub(OUTPUT_MOST)),
        ))?;
        let mut bytes = Vec::new();
        file.take(OUTPUT_MOST).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) => String::from_utf8_lossy(&bytes).trim().to_owned(),
        Err(error) => format!("cannot read `{LOG_FILE}`: {error}"),
    }
}
