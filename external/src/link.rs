//! The connection to a program: a socket that one program may use, and threads that feed a channel.

use std::fs::{self, Permissions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use tempfile::TempDir;
use tinygate::trainer::wire::{self, Hello, ProgramMessage};

/// Longest line of a program, in bytes.
pub const LINE_MOST: usize = 16 << 20;
/// Longest first line, which may come from anybody.
const HELLO_MOST: usize = 1 << 20;
/// How long a connection may take to send its first line.
const HELLO_PATIENCE: Duration = Duration::from_secs(10);
/// How long the program may take to read a command.
const WRITE_PATIENCE: Duration = Duration::from_secs(60);
/// Lines that wait for the host. A program that sends more waits too.
const LINES_WAITING: usize = 16;
/// Longest path of a socket, without the byte that ends it. Linux allows 107, macOS 103.
const PATH_MOST: usize = 103;

/// What the threads have to say.
#[derive(Debug)]
pub enum Incoming {
    /// The program is connected; this end takes its commands.
    Connected(UnixStream, Hello),
    Line(String),
    /// It broke the rules of the connection.
    Nonsense(String),
    /// Its end of the connection is closed.
    Closed,
    /// It has exited, but is still a zombie, so that nobody else has its pid.
    Exited(String),
}

/// The socket and the threads of one program.
pub struct Link {
    folder: TempDir,
    secret: Secret,
    /// No connection is awaited any more.
    ended: Arc<AtomicBool>,
    sender: Sender<Incoming>,
    pub incoming: Receiver<Incoming>,
    waiter: Option<JoinHandle<()>>,
}

/// The token of a program.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    fn new() -> io::Result<Secret> {
        let mut bytes = [0; 32];
        fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        let hex = bytes.iter().map(|byte| format!("{byte:02x}"));
        Ok(Secret(hex.collect()))
    }

    pub fn text(&self) -> &str {
        &self.0
    }

    /// Compares hashes, so that the time tells nothing about the token.
    fn is(&self, given: &str) -> bool {
        blake3::hash(self.0.as_bytes()) == blake3::hash(given.as_bytes())
    }
}

impl Link {
    /// Listens on a socket in a folder that only this user can open.
    ///
    /// # Errors
    /// An error of the system, or a path too long for a socket.
    pub fn listen() -> io::Result<Link> {
        let secret = Secret::new()?;
        let (folder, listener) = socket()?;
        let (sender, incoming) = bounded(LINES_WAITING);
        let ended = Arc::new(AtomicBool::new(false));
        let accept = Accept {
            listener,
            secret: secret.clone(),
            ended: Arc::clone(&ended),
            sender: sender.clone(),
        };
        thread::Builder::new()
            .name("tinygate-program".to_owned())
            .spawn(move || accept.serve())?;
        Ok(Link {
            folder,
            secret,
            ended,
            sender,
            incoming,
            waiter: None,
        })
    }

    pub fn path(&self) -> PathBuf {
        path_in(self.folder.path())
    }

    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// Waits for a child of this process on another thread.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn watch(&mut self, child: Pid) -> io::Result<()> {
        let sender = self.sender.clone();
        let waiter = thread::Builder::new().name("tinygate-exit".to_owned());
        self.waiter = Some(waiter.spawn(move || {
            // An error means that nobody listens any more.
            let _ = sender.send(Incoming::Exited(exit_of(child)));
        })?);
        Ok(())
    }

    /// Ends the threads. The child must have been killed; it is left as a zombie.
    pub fn end(self) {
        self.ended.store(true, Ordering::SeqCst);
        // Wakes the thread that awaits a connection.
        let _ = UnixStream::connect(self.path());
        // Whoever sends into the channel stops now.
        drop(self.incoming);
        if let Some(waiter) = self.waiter
            && waiter.join().is_err()
        {
            tracing::warn!("the thread that waits for the trainer ended in a panic");
        }
    }
}

/// A socket in a new folder. The temporary folder may have a path that is too long.
fn socket() -> io::Result<(TempDir, UnixListener)> {
    let temporary = std::env::temp_dir();
    let bases = [
        temporary.as_path(),
        Path::new("/tmp"),
        Path::new("/var/tmp"),
    ];
    let mut failed = None;
    for base in bases {
        let listening = tempfile::Builder::new()
            .prefix("tinygate-")
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(base)
            .and_then(|folder| {
                let path = path_in(folder.path());
                if PATH_MOST < path.as_os_str().len() {
                    let text = format!("`{}` is too long for a socket", path.display());
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
                }
                UnixListener::bind(path).map(|listener| (folder, listener))
            });
        match listening {
            Ok(listening) => return Ok(listening),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    Err(failed.unwrap_or_else(|| io::Error::other("there is no temporary folder")))
}

fn path_in(folder: &Path) -> PathBuf {
    folder.join("socket")
}

/// Waits for the end of a child, and leaves it as a zombie.
fn exit_of(child: Pid) -> String {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    let status = loop {
        match waitid(WaitId::Pid(child), options) {
            Err(rustix::io::Errno::INTR) => {}
            Ok(Some(status)) => break status,
            Ok(None) | Err(_) => return "the program has exited".to_owned(),
        }
    };
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("the program exited with status {code}"),
        (None, Some(signal)) => format!("the program was ended by signal {signal}"),
        (None, None) => "the program has exited".to_owned(),
    }
}

/// The thread that awaits the program, and then reads its lines.
struct Accept {
    listener: UnixListener,
    secret: Secret,
    ended: Arc<AtomicBool>,
    sender: Sender<Incoming>,
}

impl Accept {
    fn serve(self) {
        let Some((stream, hello, mut reader)) = self.first() else {
            return;
        };
        let Accept {
            listener, sender, ..
        } = self;
        // One connection is all that a program gets.
        drop(listener);
        if sender.send(Incoming::Connected(stream, hello)).is_err() {
            return;
        }
        loop {
            let incoming = match read_line(&mut reader, LINE_MOST) {
                Line::Text(line) => Incoming::Line(line),
                Line::Nonsense(why) => Incoming::Nonsense(why),
                Line::End => Incoming::Closed,
            };
            let is_last = !matches!(incoming, Incoming::Line(_));
            if sender.send(incoming).is_err() || is_last {
                return;
            }
        }
    }

    /// The first connection whose first line has the token.
    fn first(&self) -> Option<(UnixStream, Hello, BufReader<UnixStream>)> {
        loop {
            let accepted = self.listener.accept();
            if self.ended.load(Ordering::SeqCst) {
                return None;
            }
            let accepted = accepted.and_then(|(stream, _)| {
                stream.set_read_timeout(Some(HELLO_PATIENCE))?;
                stream.set_write_timeout(Some(WRITE_PATIENCE))?;
                let reader = BufReader::new(stream.try_clone()?);
                Ok((stream, reader))
            });
            let (stream, mut reader) = match accepted {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    let text = format!("its connection cannot be accepted: {error}");
                    let _ = self.sender.send(Incoming::Nonsense(text));
                    return None;
                }
            };
            let Line::Text(line) = read_line(&mut reader, HELLO_MOST) else {
                tracing::warn!("a connection to the trainer's socket said nothing; it was closed");
                continue;
            };
            if !wire::token_of(&line).is_some_and(|token| self.secret.is(&token)) {
                tracing::warn!(
                    "a connection to the trainer's socket had no valid token; it was closed"
                );
                continue;
            }
            let hello = match wire::program_message_from_json(&line) {
                Ok(ProgramMessage::Hello(hello)) => hello,
                Ok(ProgramMessage::Report(_) | ProgramMessage::Checkpoint(_)) => {
                    let text = "its first message is not `hello`".to_owned();
                    let _ = self.sender.send(Incoming::Nonsense(text));
                    return None;
                }
                Err(misreport) => {
                    let _ = self.sender.send(Incoming::Nonsense(misreport.to_string()));
                    return None;
                }
            };
            return match stream.set_read_timeout(None) {
                Ok(()) => Some((stream, hello, reader)),
                Err(_) => None,
            };
        }
    }
}

enum Line {
    Text(String),
    Nonsense(String),
    End,
}

/// Reads one line of at most `most` bytes.
fn read_line(reader: &mut impl BufRead, most: usize) -> Line {
    let mut bytes = Vec::new();
    let read = reader.take(most as u64 + 1).read_until(b'\n', &mut bytes);
    if read.is_err() {
        return Line::End;
    }
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        return match String::from_utf8(bytes) {
            Ok(text) => Line::Text(text),
            Err(_) => Line::Nonsense("it sent a line that is not UTF-8".to_owned()),
        };
    }
    if most < bytes.len() {
        let most = tinygate::numbers::bytes(most as u64);
        return Line::Nonsense(format!("it sent a line of more than {most}"));
    }
    // A process that was killed may leave half a line.
    Line::End
}

/// Sends a line to the program.
///
/// # Errors
/// The connection is closed, or the program does not read.
pub fn write_line(stream: &mut UnixStream, line: &str) -> io::Result<()> {
    stream.write_all(line.as_bytes())?;
    stream.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_a_limit() {
        let mut reader = BufReader::new(&b"abc\nabcd\nrest"[..]);
        assert!(matches!(read_line(&mut reader, 4), Line::Text(text) if text == "abc"));
        assert!(matches!(read_line(&mut reader, 4), Line::Text(text) if text == "abcd"));
        assert!(matches!(read_line(&mut reader, 4), Line::End));
        let mut long = BufReader::new(&b"abcdef"[..]);
        assert!(matches!(read_line(&mut long, 4), Line::Nonsense(_)));
    }

    #[test]
    fn the_folder_of_a_socket_is_private() {
        let (folder, _listener) = socket().unwrap();
        let mode = fs::metadata(folder.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }
}
