//! A trainer in Python that needs the standard library only, and a config that runs it.

use std::fs;
use std::path::{Path, PathBuf};

const MODULE: &str = include_str!("trainer.py");

/// A folder with the config `run.toml` of a run that a Python program trains.
pub struct ProgramFolder {
    folder: tempfile::TempDir,
}

/// A program that trains every chunk: `import trainer` has what it needs.
pub const GOOD: &str = "trainer.Program().run()";

impl ProgramFolder {
    /// The program imports `trainer` (`trainer.py`) and then runs `script`. Its stage has 60 updates, a
    /// gate every 20, and an accuracy that is too low until the learning rate was halved.
    ///
    /// # Errors
    /// An error of the file system.
    pub fn new(script: &str) -> std::io::Result<ProgramFolder> {
        let folder = ProgramFolder {
            folder: tempfile::tempdir()?,
        };
        fs::write(folder.path("trainer.py"), MODULE)?;
        fs::write(folder.path("run.toml"), CONFIG)?;
        folder.set_script(script)?;
        Ok(folder)
    }

    /// Replaces the script.
    ///
    /// # Errors
    /// An error of the file system.
    pub fn set_script(&self, script: &str) -> std::io::Result<()> {
        let imports = "import os, socket, subprocess, sys, time\nimport trainer\n";
        fs::write(self.path("main.py"), format!("{imports}{script}\n"))
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Waits until a file exists, and returns its text.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn wait_for(&self, name: &str) -> std::io::Result<String> {
        let path = self.path(name);
        while !path.exists() {
            std::thread::yield_now();
        }
        fs::read_to_string(path)
    }
}

const CONFIG: &str = r#"
stages = ["classifier"]
seed = 5

[trainer]
kind = "command"
command = ["python3", "main.py"]

[classifier]
loss = "cross_entropy"
n_updates = 60
chunk_size = 20
learning_rate = 0.1
batch_size_per_gpu = 8
log_interval = 5

[classifier.gate]
criteria = ["checkpoint_valid", "loss_finite", "accuracy", "metrics_fresh"]

[classifier.gate.at_least]
accuracy = 0.5
"#;

/// Whether a process exists and is not a zombie. Always false without `/proc`.
pub fn is_running(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    let state = stat.rsplit(')').next().unwrap_or_default();
    let state = state.split_whitespace().next();
    state.is_some_and(|state| !matches!(state, "Z" | "X"))
}
