//! Messages between ranks, each at a key of PyTorch's TCPStore.
//!
//! Different builds must be able to read each other's handshake, so the keys must not change.

use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tinygate_c10d::Store;

use super::error::{RanksError, RendezvousError};
use super::handshake::{Answer, Hello};
use super::message::{GivenUp, Instruction};

/// The store that all ranks of a job share.
pub(super) struct Mailbox {
    store: Store,
}

/// A message that could not be sent or read.
#[derive(Debug)]
pub(super) enum MailError {
    Store(tinygate_c10d::Error),
    Json(serde_json::Error),
}

impl Mailbox {
    pub fn new(store: Store) -> Mailbox {
        Mailbox { store }
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Later waits cannot be cancelled.
    pub fn disable_cancel(&mut self) {
        self.store.disable_cancel();
    }

    pub fn say_hello(&self, rank: u32, hello: &Hello) -> Result<(), MailError> {
        self.write(&hello_key(rank), hello)
    }

    /// The introduction of `rank`; `None` if it sent none within `wait`.
    pub fn hello(&self, rank: u32, wait: Duration) -> Result<Option<Hello>, MailError> {
        self.read(&hello_key(rank), wait)
    }

    pub fn said_hello(&self, rank: u32) -> bool {
        self.store.has(&hello_key(rank)).unwrap_or(false)
    }

    /// Answers all ranks at once.
    pub fn say_answer(&self, answer: &Answer) -> Result<(), MailError> {
        self.write(ANSWER_KEY, answer)
    }

    pub fn answer(&self, wait: Duration) -> Result<Option<Answer>, MailError> {
        self.read(ANSWER_KEY, wait)
    }

    /// Reports that a rank can train, or why it cannot.
    pub fn say_ready(&self, rank: u32, ready: &Result<(), String>) -> Result<(), MailError> {
        self.write(&ready_key(rank), ready)
    }

    pub fn ready(
        &self,
        rank: u32,
        wait: Duration,
    ) -> Result<Option<Result<(), String>>, MailError> {
        self.read(&ready_key(rank), wait)
    }

    pub fn said_ready(&self, rank: u32) -> bool {
        self.store.has(&ready_key(rank)).unwrap_or(false)
    }

    pub fn instruct(&self, number: u64, instruction: &Instruction) -> Result<(), MailError> {
        self.write(&instruction_key(number), instruction)
    }

    pub fn instruction(
        &self,
        number: u64,
        wait: Duration,
    ) -> Result<Option<Instruction>, MailError> {
        self.read(&instruction_key(number), wait)
    }

    /// Leaves a note for rank 0 of why `rank` gave up.
    pub fn say_gave_up(&self, rank: u32, note: &GivenUp) -> Result<(), MailError> {
        self.write(&gave_up_key(rank), note)
    }

    /// The note of `rank`, if there is one.
    pub fn gave_up(&self, rank: u32, wait: Duration) -> Option<GivenUp> {
        if !self.store.has(&gave_up_key(rank)).ok()? {
            return None;
        }
        self.read(&gave_up_key(rank), wait).ok()?
    }

    /// Waits until `rank` leaves a note.
    pub fn await_gave_up(&self, rank: u32, wait: Duration) {
        drop(self.store.get(&gave_up_key(rank), wait));
    }

    /// Tells rank 0 that its last message was read. Ignores errors, since rank 0 may be gone already.
    pub fn say_goodbye(&self, rank: u32) {
        let _ = self.store.set(&goodbye_key(rank), b"");
    }

    /// Waits until all ranks but 0 have said goodbye: rank 0 may serve the store, which must exist until they have read the
    /// last message.
    pub fn await_goodbyes(&self, size: u32, until: Instant) {
        for rank in 1..size {
            let left = until.saturating_duration_since(Instant::now());
            if !matches!(self.store.get(&goodbye_key(rank), left), Ok(Some(_))) {
                return;
            }
        }
    }

    fn write<T: Serialize>(&self, key: &str, value: &T) -> Result<(), MailError> {
        let text = serde_json::to_vec(value).map_err(MailError::Json)?;
        self.store.set(key, &text).map_err(MailError::Store)
    }

    fn read<T: DeserializeOwned>(&self, key: &str, wait: Duration) -> Result<Option<T>, MailError> {
        let text = self.store.get(key, wait).map_err(MailError::Store)?;
        text.map(|text| serde_json::from_slice(&text))
            .transpose()
            .map_err(MailError::Json)
    }
}

impl From<MailError> for RendezvousError {
    fn from(error: MailError) -> Self {
        match error {
            MailError::Store(source) => RendezvousError::Group {
                what: "the store",
                source,
            },
            MailError::Json(error) => RendezvousError::Message(error),
        }
    }
}

impl From<MailError> for RanksError {
    fn from(error: MailError) -> Self {
        match error {
            MailError::Store(error) => error.into(),
            MailError::Json(error) => RendezvousError::Message(error).into(),
        }
    }
}

const ANSWER_KEY: &str = "welcome";

fn hello_key(rank: u32) -> String {
    format!("hello/{rank}")
}

fn ready_key(rank: u32) -> String {
    format!("ready/{rank}")
}

fn gave_up_key(rank: u32) -> String {
    format!("gave_up/{rank}")
}

fn goodbye_key(rank: u32) -> String {
    format!("bye/{rank}")
}

fn instruction_key(number: u64) -> String {
    format!("instruction/{number}")
}
