//! What is printed while a run is in progress, for people and for programs.
//!
//! Every event is durable before it is shown. A terminal shows one progress line per stage that is
//! updated in place; otherwise a plain line is printed every ten seconds.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tinygate::controller::Observer;
use tinygate::events::{Event, InterruptReason, Record, StageName};
use tinygate::machine::RunState;
use tinygate::trainer::Progress;
use tinygate_words::numbers::{count, duration, number};
use tinygate_words::{Summary, describe, explain, gate_lines, numbers};

use super::streams::{data_line, say, stderr_is_terminal};
use super::{GateJson, Style};

/// Between plain lines.
const PLAIN: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Console {
    json: bool,
    quiet: bool,
    style: Style,
    line: Line,
    /// Stdout is closed, so no more gates are printed.
    closed: bool,
    /// The state after every recorded event.
    summary: Summary,
}

#[derive(Debug)]
enum Line {
    Moving(Option<(StageName, ProgressBar)>),
    Plain(Instant),
    None,
}

impl Console {
    /// For a new run.
    pub fn new(json: bool, quiet: bool) -> Console {
        Console::continuing(json, quiet, Summary::empty())
    }

    /// For a run with the state `summary`.
    pub fn continuing(json: bool, quiet: bool, summary: Summary) -> Console {
        let line = match (quiet, stderr_is_terminal()) {
            (true, _) => Line::None,
            (false, true) => Line::Moving(None),
            (false, false) => Line::Plain(Instant::now()),
        };
        Console {
            json,
            quiet,
            style: Style::of_stderr(),
            line,
            closed: false,
            summary,
        }
    }

    /// The state of the run after every recorded event.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Prints a line for people, above the progress line.
    pub fn say(&self, line: &str) {
        if self.quiet {
            return;
        }
        match &self.line {
            Line::Moving(Some((_, bar))) => bar.suspend(|| say(line)),
            Line::Moving(None) | Line::Plain(_) | Line::None => say(line),
        }
    }

    /// Prints several lines at once, so that the progress line is redrawn only once.
    pub fn say_all(&self, lines: &[String]) {
        self.say(&lines.join("\n"));
    }

    /// Removes the progress line; the lines of the gate have its last values.
    pub fn end_line(&mut self) {
        if let Line::Moving(moving) = &mut self.line
            && let Some((_, bar)) = moving.take()
        {
            bar.finish_and_clear();
        }
    }

    fn print_gate(&mut self, event: &Event) {
        let Some(gate) = GateJson::of(event) else {
            return;
        };
        if self.closed {
            return;
        }
        let written = serde_json::to_string(&gate)
            .map_err(std::io::Error::from)
            .and_then(|json| data_line(&json));
        if let Err(error) = written {
            self.closed = true;
            if error.kind() != std::io::ErrorKind::BrokenPipe {
                tracing::warn!("gates are no longer printed: {error}");
            }
        }
    }

    fn print(&mut self, event: &Event, state: &RunState) {
        match event {
            Event::GateDecided(gate) => {
                if !self.json {
                    let stage = state.stage_named(&gate.stage);
                    let lines = gate_lines(gate, stage);
                    let painted = lines.iter().map(|line| self.style.line(line));
                    self.say_all(&painted.collect::<Vec<_>>());
                }
            }
            Event::CheckpointJudged(judged) => {
                if judged.rejected.is_some() {
                    self.say(&describe(event));
                }
            }
            Event::StageReopened(_) | Event::FailureDecided(_) => {
                self.say(&explain(event, state.policy()))
            }
            Event::StageStarted(_) => self.say(&self.style.strong(&describe(event))),
            Event::StagePassed(_) => {
                self.end_line();
                self.say(&self.style.good(&describe(event)));
            }
            Event::StageStopped(_) => {
                self.end_line();
                self.say(&self.style.bad(&explain(event, state.policy())));
            }
            Event::RunInterrupted(interrupted) => {
                self.end_line();
                // The process ends with any other reason as its error.
                if let InterruptReason::Signal { .. } = interrupted.reason {
                    self.say(&describe(event));
                }
            }
            Event::RunFinished(_) | Event::RunStopped(_) => {
                self.end_line();
                self.say(&describe(event));
            }
            Event::StageMeasured(_) => self.say(&explain(event, state.policy())),
            Event::ChunkFailed(_)
            | Event::SettingChanged(_)
            | Event::FallbackGranted(_)
            | Event::StoreRepaired(_)
            | Event::CheckpointGivenUp(_)
            | Event::PruneRequested(_) => self.say(&describe(event)),
            Event::RunCreated(_)
            | Event::ProcessStarted(_)
            | Event::MetricsLogged(_)
            | Event::CheckpointWritten(_)
            | Event::HeldOutScored(_)
            | Event::PictureScored(_)
            | Event::ChunkFinished(_)
            | Event::ChunkStarted(_)
            | Event::SamplesSuperseded(_)
            | Event::PatchApplied(_)
            | Event::PatchDeferred(_)
            | Event::CheckpointDeleted(_) => {}
        }
    }
}

impl Observer for Console {
    fn recorded(&mut self, record: &Record, state: &RunState) {
        self.summary.add(record);
        if self.json {
            self.print_gate(&record.event);
        }
        if !self.quiet {
            self.print(&record.event, state);
        }
    }

    fn progressed(&mut self, progress: &Progress) {
        match &mut self.line {
            Line::None => {}
            Line::Plain(last) => {
                if PLAIN <= last.elapsed() {
                    *last = Instant::now();
                    say(&format!("{}: {}", progress.stage, plain(progress)));
                }
            }
            Line::Moving(moving) => {
                let known = moving
                    .as_ref()
                    .is_some_and(|(stage, _)| *stage == progress.stage);
                if !known {
                    *moving = Some((progress.stage.clone(), bar(progress)));
                }
                if let Some((_, bar)) = moving {
                    bar.set_length(progress.target.get());
                    bar.set_position(progress.step.get());
                    bar.set_message(moving_text(progress));
                }
            }
        }
    }
}

fn bar(progress: &Progress) -> ProgressBar {
    let template = "{prefix} {wide_bar} {pos}/{len}  {msg}";
    let bar =
        ProgressBar::with_draw_target(Some(progress.target.get()), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_prefix(progress.stage.to_string());
    bar
}

fn moving_text(progress: &Progress) -> String {
    format!(
        "gate {}  loss {:<9}  {}/s  ETA {}",
        progress.gate,
        number(progress.loss),
        rate(progress),
        eta(progress)
    )
}

fn plain(progress: &Progress) -> String {
    format!(
        "update {} of {}, gate at {}, loss {}, {} updates/s, ETA {}",
        count(progress.step.get()),
        count(progress.target.get()),
        count(progress.gate.get()),
        number(progress.loss),
        rate(progress),
        eta(progress)
    )
}

fn rate(progress: &Progress) -> String {
    numbers::rate(progress.updates_per_second)
}

/// The time until the stage's target.
fn eta(progress: &Progress) -> String {
    let left = progress.target.get().saturating_sub(progress.step.get());
    duration(left as f64 / progress.updates_per_second)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tinygate::events::Step;

    #[test]
    fn a_plain_line_shows_the_progress() {
        let progress = Progress {
            stage: StageName::new("dynamics"),
            step: Step::new(1200),
            gate: Step::new(5000),
            target: Step::new(10_000),
            loss: 0.012_345,
            updates_per_second: 10.0,
        };
        assert_eq!(
            plain(&progress),
            "update 1,200 of 10,000, gate at 5,000, loss 0.01235, 10.0 updates/s, ETA 14:40"
        );
    }
}
