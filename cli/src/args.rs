//! The command line, as data.
//!
//! Help, usage errors and shell completions all come from these definitions. Texts with a form of
//! their own (an override, a checkpoint with its stage) are parsed by the commands.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Trains world models in stages behind gates; every decision can be recomputed from the log.
///
/// Relative paths inside a config file are relative to that file's folder; those on the command
/// line, also in `--set data.path=...`, are relative to the working directory. A config named `-`
/// is read from the standard input, its paths relative to the working directory.
///
/// Exit codes: 0 finished or agreed; 1 stopped by a gate, diverged or refused;
/// 2 usage, config or environment; 3 log damaged; 4 written by a newer build;
/// 5 nothing was checked; 130 interrupted, resumable.
#[derive(Debug, Parser)]
#[command(name = "tinygate", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a run in a new directory
    Run(RunArgs),
    /// Continue a run that was interrupted or stopped
    Resume(ResumeArgs),
    /// Recompute every decision of a log and compare
    Replay(ReplayArgs),
    /// Show where a run stands
    Status(StatusArgs),
    /// Print the events of a log
    Log(LogArgs),
    /// Explain why a decision was made
    Explain(ExplainArgs),
    /// Write a run's log to one file
    Export(ExportArgs),
    /// Create a run directory from an exported log
    Import(ImportArgs),
    /// Repair both copies of a run's log
    Repair(RepairArgs),
    /// List the checkpoints that retention may delete, or delete them
    Prune(PruneArgs),
    /// Check and show checkpoints
    #[command(subcommand)]
    Checkpoint(CheckpointCommand),
    /// Write, check and show configs
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print a shell's completions
    Completions(CompletionsArgs),
    /// Join a run as one of its other ranks; started by the run itself
    #[cfg(feature = "train")]
    #[command(hide = true)]
    Worker,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    /// The config, a TOML file, or `-` for the standard input; paths in it are relative to its
    /// folder. May be left out with --next-cycle-of
    #[arg(required_unless_present = "next_cycle_of")]
    pub config: Option<PathBuf>,
    /// Directory of the run; created if missing, refused if it has a log
    #[arg(long, required_unless_present = "dry_run")]
    pub dir: Option<PathBuf>,
    /// Resume the run in the directory if there is one, as in a requeued job; then the config, --stage,
    /// --init-from and --next-cycle-of are not used
    #[arg(long, conflicts_with = "dry_run")]
    pub or_resume: bool,
    /// Override a key of the config; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Train this stage only; --init-from gives the stages it builds on
    #[arg(long)]
    pub stage: Option<String>,
    /// Measure a few updates and show gates, size, memory and time; write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print one JSON object per gate on stdout
    #[arg(long)]
    pub json: bool,
    /// Print nothing but errors; with --dry-run too, unless --json is given
    #[arg(long, short)]
    pub quiet: bool,
    /// Start from that run's first config and the settings that its ladders deferred
    #[arg(long, value_name = "RUN")]
    pub next_cycle_of: Option<PathBuf>,
    /// Start a stage from a checkpoint of tinygate or TinyWorlds, or a model in one file; may be repeated
    #[arg(long, value_name = "[STAGE=]CHECKPOINT")]
    pub init_from: Vec<String>,
    /// Take only the weights of the checkpoint that a stage starts from; the optimizer's moments start at
    /// zero
    #[arg(long, requires = "init_from")]
    pub fresh_optimizer: bool,
    /// Accept a checkpoint that fits although its own config or its optimizer has other settings
    #[arg(long, requires = "init_from")]
    pub allow_other_settings: bool,
    /// Continue with fewer devices than ranks, with more accumulation
    #[arg(long)]
    pub allow_single_gpu_fallback: bool,
}

#[derive(Debug, Args)]
pub struct ResumeArgs {
    /// Directory of the run
    pub dir: PathBuf,
    /// Allow the stopped stage this many more failures
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub retries: Option<u32>,
    /// Change a setting; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Give up checkpoints whose files are missing, and resume from the newest that is left
    #[arg(long)]
    pub give_up: bool,
    /// Print one JSON object per gate on stdout
    #[arg(long)]
    pub json: bool,
    /// Print nothing but errors on stderr
    #[arg(long, short)]
    pub quiet: bool,
    /// Continue with fewer devices than ranks, with more accumulation
    #[arg(long)]
    pub allow_single_gpu_fallback: bool,
}

#[derive(Debug, Args)]
pub struct PruneArgs {
    /// Directory of the run
    pub dir: PathBuf,
    /// Besides best, passed and resume points, keep this many of each stage's newest accepted
    /// checkpoints
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub keep: u32,
    /// Delete them; without this they are only listed
    #[arg(long)]
    pub delete: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// Run directories, exported files, or folders of them
    #[arg(required = true)]
    pub log: Vec<PathBuf>,
    /// Print one JSON object per log on stdout
    #[arg(long)]
    pub json: bool,
    /// Also train the recorded chunks again, from the recorded checkpoints, and compare every sample
    /// and every file; needs run directories
    #[arg(long)]
    pub retrain: bool,
    /// Train only this stage's chunks again
    #[arg(long, requires = "retrain")]
    pub stage: Option<String>,
    /// Train only chunks A to B of each stage again, both included
    #[arg(long, requires = "retrain", value_name = "A..B")]
    pub chunks: Option<ChunkRange>,
    /// Change where the data is, the device or the threads: data.path, device, threads
    #[arg(long, requires = "retrain", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// Numbers of chunks, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkRange {
    pub first: u32,
    pub last: u32,
}

impl std::str::FromStr for ChunkRange {
    type Err = String;

    fn from_str(text: &str) -> Result<ChunkRange, String> {
        let number = |text: &str| text.parse::<u32>().ok();
        let (first, last) = text.split_once("..").unwrap_or((text, text));
        match (number(first), number(last)) {
            (Some(first), Some(last)) if 1 <= first && first <= last => {
                Ok(ChunkRange { first, last })
            }
            _ => Err(
                "expected two chunk numbers as in `2..5`, or one; the first chunk is 1".to_owned(),
            ),
        }
    }
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Directory of the run, or an exported file
    pub dir: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Show the state after this event
    #[arg(long, value_name = "SEQ")]
    pub at: Option<u64>,
}

#[derive(Debug, Args)]
pub struct LogArgs {
    /// Directory of the run, or an exported file
    pub dir: PathBuf,
    /// Print one JSON object per event
    #[arg(long)]
    pub json: bool,
    /// Wait for new events until the run has finished or stopped
    #[arg(long, short)]
    pub follow: bool,
    /// First event
    #[arg(long, value_name = "SEQ")]
    pub from: Option<u64>,
    /// Last event
    #[arg(long, value_name = "SEQ")]
    pub to: Option<u64>,
}

#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Directory of the run, or an exported file
    pub dir: PathBuf,
    /// The decision's event; default: the last gate or failure
    pub seq: Option<u64>,
}

#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Directory of the run
    pub dir: PathBuf,
    /// File to write
    pub file: PathBuf,
    /// Replace an existing file
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct ImportArgs {
    /// An exported log
    pub file: PathBuf,
    /// Directory to create
    pub dir: PathBuf,
}

#[derive(Debug, Args)]
pub struct RepairArgs {
    /// Directory of the run
    pub dir: PathBuf,
    /// Show what would be done, by trying it on a copy
    #[arg(long)]
    pub dry_run: bool,
    /// If events are damaged in both copies, give up these and all later ones
    #[arg(long)]
    pub accept_loss: bool,
    /// If two intact copies differ, continue with this one
    #[arg(long, value_enum)]
    pub keep: Option<CopyName>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum CopyName {
    /// `log/journal.tgj`
    Journal,
    /// `log/sled`
    Sled,
}

#[derive(Debug, Subcommand)]
pub enum CheckpointCommand {
    /// Show what each checkpoint can be used for, and why not for more
    ///
    /// `resume`: training can resume from it. `weights only`: a stage can build on it, or start from its
    /// weights with --fresh-optimizer. `nothing`: it cannot be used. Exits with 0 if each can be used for
    /// `resume` (with --weights: for its weights), with 1 otherwise.
    Verify(VerifyArgs),
    /// Print a checkpoint's tensors, its own config, its optimizer and its step
    Show(ShowCheckpointArgs),
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Checkpoints of tinygate or TinyWorlds, models in one file, or folders that contain some
    #[arg(required = true, value_name = "PATH")]
    pub path: Vec<PathBuf>,
    /// Require sound weights only
    #[arg(long)]
    pub weights: bool,
    /// Print one JSON object per checkpoint
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ShowCheckpointArgs {
    /// A checkpoint's directory, or a model in one file
    pub path: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print a commented config with every key
    Init(InitArgs),
    /// Check a config without reading its data
    Check(CheckArgs),
    /// Print a config with every default filled in; without FILE, all keys
    Show(ShowArgs),
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum PresetName {
    /// The limits of the original rules
    Seed,
    /// For real runs
    Strict,
}

#[derive(Debug, Args)]
pub struct InitArgs {
    /// The policy that sets the defaults
    #[arg(long, value_enum, default_value_t = PresetName::Seed)]
    pub preset: PresetName,
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The config, a TOML file, or `-` for the standard input
    pub file: PathBuf,
    /// Override a key of the config; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The config, a TOML file, or `-` for the standard input
    pub file: Option<PathBuf>,
    /// Override a key of the config; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "file")]
    pub set: Vec<String>,
}

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}
