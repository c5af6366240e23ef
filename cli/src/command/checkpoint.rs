//! `checkpoint verify`: what checkpoints can be used for, and why not for more.
//! `checkpoint show`: what is in one.
//!
//! A checkpoint inside a run is also compared with the hashes in the run's log.
//! Nothing in a file is executed.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;
use serde_json::{Value as Json, json};
use tinygate::checkpoint::torch_file::{Tensor, Value};
use tinygate::checkpoint::{
    self, Accepted, Appraisal, FILE_NAMES, FileRecord, Origin, RejectReason, is_checkpoint_file,
    optimizer_name,
};
use tinygate::events::Event;
use tinygate::run::read;
use tinygate::store::disk::JOURNAL;

use super::walk::walk;
use crate::args::{ShowCheckpointArgs, VerifyArgs};
use crate::exit::Exit;
use crate::output::{self, Advise, Align, Style, Table, advised, bytes, count};

/// How far below a folder checkpoints are searched: `<run>/<stage>/checkpoints/<name>`.
const DEPTH_MOST: u32 = 6;
/// How far above a checkpoint its run can be.
const RUN_ABOVE: usize = 4;

pub fn verify(args: &VerifyArgs) -> anyhow::Result<Exit> {
    let mut refused = false;
    let mut runs = Runs::default();
    for place in &args.path {
        for path in &find(place)? {
            let expected = runs.expected(path)?;
            let appraisal = checkpoint::appraise(path, expected);
            refused |= match &appraisal {
                Appraisal::Resume(_) => false,
                Appraisal::WeightsOnly(..) => !args.weights,
                Appraisal::Nothing(_) => true,
            };
            let in_log = expected.is_some();
            let line = if args.json {
                serde_json::to_string(&Verdict::of(path, &appraisal, in_log))?
            } else {
                line(path, &appraisal, in_log)
            };
            output::data_line(&line)?;
        }
    }
    Ok(if refused { Exit::Refused } else { Exit::Done })
}

/// The verdict on a checkpoint, as JSON.
#[derive(Serialize)]
struct Verdict<'a> {
    path: String,
    good_for: &'static str,
    #[serde(flatten)]
    accepted: Option<&'a Accepted>,
    /// Whether it is in a log; then its hashes are the log's.
    in_log: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Why>,
}

/// Why a checkpoint cannot be used for more.
#[derive(Serialize)]
struct Why {
    code: &'static str,
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl<'a> Verdict<'a> {
    fn of(path: &Path, appraisal: &'a Appraisal, in_log: bool) -> Verdict<'a> {
        let why = |reason: &RejectReason| Why {
            code: reason.code(),
            text: reason.to_string(),
            hint: output::hint(reason),
        };
        let (accepted, reason) = parts(appraisal);
        Verdict {
            path: path.display().to_string(),
            good_for: match appraisal {
                Appraisal::Resume(_) => "resume",
                Appraisal::WeightsOnly(..) => "weights_only",
                Appraisal::Nothing(_) => "nothing",
            },
            accepted,
            in_log,
            reason: reason.map(why),
        }
    }
}

fn parts(appraisal: &Appraisal) -> (Option<&Accepted>, Option<&RejectReason>) {
    match appraisal {
        Appraisal::Resume(accepted) => (Some(accepted), None),
        Appraisal::WeightsOnly(accepted, reason) => (Some(accepted), Some(reason)),
        Appraisal::Nothing(reason) => (None, Some(reason)),
    }
}

fn line(path: &Path, appraisal: &Appraisal, in_log: bool) -> String {
    let style = Style::of_stdout();
    let path = path.display();
    let (accepted, refused) = (style.good("accepted"), style.bad("refused "));
    match appraisal {
        Appraisal::Resume(found) => {
            format!("{accepted}  {path}  resume: {}", describe(found, in_log))
        }
        Appraisal::WeightsOnly(found, reason) => format!(
            "{refused}  {path}  weights only: {}; no resume: {}: {reason}{}",
            describe(found, in_log),
            reason.code(),
            hint_below(reason)
        ),
        Appraisal::Nothing(reason) => {
            let hint = hint_below(reason);
            format!(
                "{refused}  {path}  nothing: {}: {reason}{hint}",
                reason.code()
            )
        }
    }
}

fn hint_below(reason: &RejectReason) -> String {
    let hint = output::hint(reason);
    hint.map_or_else(String::new, |hint| format!("\n          hint: {hint}"))
}

fn describe(accepted: &Accepted, in_log: bool) -> String {
    let step = accepted.step.map_or("unknown".to_owned(), count);
    let origin = match accepted.origin {
        Origin::Tinygate if in_log => "tinygate's, hashes as in the log",
        Origin::Tinygate => "tinygate's",
        Origin::Foreign => "foreign",
    };
    let rounded = if accepted.rounded {
        ", float64 rounded to float32"
    } else {
        ""
    };
    format!(
        "{origin}, {step} updates, {} tensors, {} numbers{rounded}",
        accepted.tensors,
        count(accepted.elements)
    )
}

/// The checkpoints at or below a path, sorted by name.
fn find(place: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let metadata = fs::metadata(place).advise(
        || format!("cannot read `{}`", place.display()),
        "name a checkpoint's directory, a run, or a folder of them",
    )?;
    if !metadata.is_dir() {
        return Ok(vec![place.to_owned()]);
    }
    let mut found = Vec::new();
    walk(place, DEPTH_MOST, |folder| {
        let Looked {
            is_checkpoint,
            files,
            below,
        } = look(folder)?;
        if is_checkpoint {
            found.push(folder.to_owned());
            return Ok(Vec::new());
        }
        found.extend(files);
        Ok(below)
    })?;
    if found.is_empty() {
        // An empty folder is a checkpoint without its files.
        found.push(place.to_owned());
    }
    found.sort();
    Ok(found)
}

/// The contents of a folder.
#[derive(Default)]
struct Looked {
    /// It has some of the three files of a checkpoint.
    is_checkpoint: bool,
    /// Files that may each be a checkpoint.
    files: Vec<PathBuf>,
    below: Vec<PathBuf>,
}

fn look(folder: &Path) -> io::Result<Looked> {
    let mut looked = Looked::default();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        looked.is_checkpoint |= FILE_NAMES.iter().any(|known| name == *known);
        // A link, such as a stage's `best`, leads to a checkpoint that is found anyway.
        if entry.file_type()?.is_dir() && !name.as_encoded_bytes().starts_with(b".") {
            looked.below.push(entry.path());
        } else if is_checkpoint_file(&entry.path()) {
            looked.files.push(entry.path());
        }
    }
    Ok(looked)
}

/// The files of checkpoints in the logs of their runs. Each log is read once.
#[derive(Default)]
struct Runs(BTreeMap<PathBuf, BTreeMap<PathBuf, Vec<FileRecord>>>);

impl Runs {
    /// `None`: the checkpoint is in no log.
    fn expected(&mut self, path: &Path) -> anyhow::Result<Option<&[FileRecord]>> {
        let path =
            fs::canonicalize(path).with_context(|| format!("cannot read `{}`", path.display()))?;
        let has_log = |folder: &&Path| folder.join(JOURNAL).is_file();
        let Some(run) = path.ancestors().skip(1).take(RUN_ABOVE).find(has_log) else {
            return Ok(None);
        };
        if !self.0.contains_key(run) {
            self.0.insert(run.to_owned(), named_in_log(run)?);
        }
        let files = self.0.get(run).and_then(|named| named.get(&path));
        Ok(files.map(Vec::as_slice))
    }
}

/// The files of every checkpoint in a run's log.
fn named_in_log(run: &Path) -> anyhow::Result<BTreeMap<PathBuf, Vec<FileRecord>>> {
    let mut named = BTreeMap::new();
    for record in read(run)? {
        if let Event::CheckpointWritten(written) = record?.event {
            let files = written.files.iter().map(Into::into).collect();
            named.insert(run.join(written.checkpoint.path), files);
        }
    }
    Ok(named)
}

pub fn show(args: &ShowCheckpointArgs) -> anyhow::Result<Exit> {
    let path = &args.path;
    fs::metadata(path).advise(
        || format!("cannot read `{}`", path.display()),
        "name a checkpoint's directory, or a model in one file",
    )?;
    let whole = checkpoint::load(path);
    let without_optimizer = whole.as_ref().err().map(ToString::to_string);
    let content = match whole {
        Ok(content) => content,
        Err(_) => checkpoint::load_weights(path).map_err(|error| {
            advised(
                error.to_string(),
                "`tinygate checkpoint verify` says what each can be used for",
            )
        })?,
    };
    let appraisal = checkpoint::appraise(path, Runs::default().expected(path)?);
    let shown = Shown {
        verdict: Verdict::of(path, &appraisal, false),
        step: checkpoint::updates_of(path, &content),
        tensors: content.model.iter().map(TensorRow::of).collect(),
        config: content.state.get("config"),
        optimizer: optimizer_name(&content.optimizer),
        without_optimizer,
    };
    if args.json {
        output::data_line(&serde_json::to_string(&shown.json())?)?;
    } else {
        output::data(&shown.text())?;
    }
    Ok(Exit::Done)
}

struct Shown<'a> {
    verdict: Verdict<'a>,
    step: Option<u64>,
    tensors: Vec<TensorRow<'a>>,
    config: Option<&'a Value>,
    optimizer: Option<&'static str>,
    /// Why the optimizer could not be read.
    without_optimizer: Option<String>,
}

#[derive(Serialize)]
struct TensorRow<'a> {
    name: &'a str,
    dtype: &'static str,
    shape: &'a [usize],
    bytes: usize,
    /// Of its elements; `None` where there are none, or where one is not finite.
    min: Option<f64>,
    max: Option<f64>,
    mean: Option<f64>,
}

impl<'a> TensorRow<'a> {
    fn of((name, tensor): &'a (String, Tensor)) -> TensorRow<'a> {
        let known = tensor.is_finite() && tensor.elements() > 0;
        let fold = |pick: fn(f64, f64) -> f64| tensor.numbers().reduce(pick).filter(|_| known);
        TensorRow {
            name,
            dtype: tensor.dtype().name(),
            shape: tensor.shape(),
            bytes: tensor.data().len(),
            min: fold(f64::min),
            max: fold(f64::max),
            mean: fold(|sum, number| sum + number).map(|sum| sum / tensor.elements() as f64),
        }
    }

    fn elements(&self) -> u64 {
        self.shape.iter().map(|size| *size as u64).product()
    }
}

impl Shown<'_> {
    /// Numbers that training changes: floats.
    fn parameters(&self) -> u64 {
        let floats = self
            .tensors
            .iter()
            .filter(|row| row.dtype.contains("float"));
        floats.map(TensorRow::elements).sum()
    }

    fn size(&self) -> u64 {
        self.tensors.iter().map(|row| row.bytes as u64).sum()
    }

    fn json(&self) -> Json {
        json!({
            "path": self.verdict.path,
            "good_for": self.verdict.good_for,
            "reason": self.verdict.reason,
            "step": self.step,
            "parameters": self.parameters(),
            "bytes": self.size(),
            "optimizer": self.optimizer,
            "config": self.config.map(plain),
            "tensors": self.tensors,
        })
    }

    fn text(&self) -> String {
        let mut text = format!("{}\n", self.verdict.path);
        let step = self.step.map_or("unknown".to_owned(), count);
        let mut row = |name: &str, value: &str| text += &format!("{name:<11} {value}\n");
        let good_for = self.verdict.good_for.replace('_', " ");
        match &self.verdict.reason {
            None => row("good for", &good_for),
            Some(why) => row(
                "good for",
                &format!("{good_for}; {}: {}", why.code, why.text),
            ),
        }
        if let Some(hint) = self
            .verdict
            .reason
            .as_ref()
            .and_then(|why| why.hint.as_ref())
        {
            row("", &format!("hint: {hint}"));
        }
        row("updates", &step);
        row(
            "parameters",
            &format!(
                "{} in {} tensors, {}",
                count(self.parameters()),
                self.tensors.len(),
                bytes(self.size())
            ),
        );
        match (self.optimizer, &self.without_optimizer) {
            (Some(name), _) => row("optimizer", name),
            (None, Some(why)) => row("optimizer", &format!("none that can be read: {why}")),
            (None, None) => row("optimizer", "none"),
        }
        match self.config {
            None => row("own config", "none"),
            Some(config) => {
                let mut lines = Vec::new();
                flatten("", config, &mut lines);
                row("own config", "");
                for (key, value) in lines {
                    text += &format!("  {key} = {value}\n");
                }
            }
        }
        let columns = [
            ("tensor", Align::Left),
            ("type", Align::Left),
            ("shape", Align::Left),
            ("size", Align::Right),
        ];
        let mut table = Table::new(&columns);
        for tensor in &self.tensors {
            table.row([
                tensor.name.to_owned(),
                tensor.dtype.to_owned(),
                format!("{:?}", tensor.shape),
                bytes(tensor.bytes as u64),
            ]);
        }
        text + "\n" + &table.lines().join("\n") + "\n"
    }
}

/// A value as JSON; what only Python could make by the name of its class.
fn plain(value: &Value) -> Json {
    match value {
        Value::None => Json::Null,
        Value::Bool(value) => json!(value),
        Value::Int(value) => json!(value),
        Value::Float(value) if value.is_finite() => json!(value),
        Value::Float(value) => json!(value.to_string()),
        Value::Str(text) => json!(text),
        Value::List(items) | Value::Tuple(items) => items.iter().map(plain).collect(),
        Value::Dict(entries) | Value::OrderedDict(entries) => {
            let entry = |(key, value): &(Value, Value)| (key_text(key), plain(value));
            Json::Object(entries.iter().map(entry).collect())
        }
        Value::Tensor(tensor) => json!(format!("{tensor:?}")),
        Value::Opaque { class } => json!(format!("<{class}>")),
        Value::Object { class, attributes } => {
            let entry = |(key, value): &(Value, Value)| (key_text(key), plain(value));
            let class = ("class".to_owned(), json!(class));
            Json::Object(
                std::iter::once(class)
                    .chain(attributes.iter().map(entry))
                    .collect(),
            )
        }
    }
}

fn key_text(key: &Value) -> String {
    key.as_str()
        .map_or_else(|| plain(key).to_string(), str::to_owned)
}

/// Entries of nested dicts, each under its dotted key.
fn flatten(prefix: &str, value: &Value, lines: &mut Vec<(String, String)>) {
    let entries = if let Value::Object { attributes, .. } = value {
        Some(attributes.as_slice())
    } else {
        value.as_dict()
    };
    match entries {
        Some(entries) if !entries.is_empty() => {
            for (key, value) in entries {
                let key = key_text(key);
                let key = if prefix.is_empty() {
                    key
                } else {
                    format!("{prefix}.{key}")
                };
                flatten(&key, value, lines);
            }
        }
        Some(_) | None => lines.push((prefix.to_owned(), plain(value).to_string())),
    }
}
