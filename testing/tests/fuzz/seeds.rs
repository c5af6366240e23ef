//! Small inputs for every target, from which libFuzzer and the driver start.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use tinygate::checkpoint::torch_file::{self, Tensor, Value};
use tinygate::events::stored::frame::Frame;
use tinygate::events::stored::{KINDS, encode_into};
use tinygate::events::{Event, Seq};
use tinygate::store::{Durability, EventLog, Store};
use tinygate_testing::short_policy;

fn process() -> Event {
    Event::ProcessStarted(tinygate_testing::process(7))
}

/// By their file names.
pub type Seeds = BTreeMap<String, Vec<u8>>;

pub fn all() -> Vec<(&'static str, Seeds)> {
    vec![
        ("journal", journal()),
        ("frames", frames()),
        ("stored", stored()),
        ("json", json()),
        ("pickle", pickle()),
        ("datasets", datasets()),
        ("config", config()),
    ]
}

fn workspace(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(name)
}

/// The events of the golden files: kind, JSON form and stored body.
fn golden() -> Vec<(String, String, Vec<u8>)> {
    let mut all = Vec::new();
    let mut paths: Vec<PathBuf> = fs::read_dir(workspace("tests/golden/events"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    for path in paths {
        let text = fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        let kind = name.split('.').next().unwrap().to_owned();
        let mut lines = text.lines();
        while let (Some(json), Some(hex)) = (lines.next(), lines.next()) {
            let body = (0..hex.len() / 2)
                .map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap())
                .collect();
            all.push((kind.clone(), json.to_owned(), body));
        }
    }
    all
}

/// The smallest golden event of each kind.
fn smallest() -> BTreeMap<String, (String, Vec<u8>)> {
    let mut all: BTreeMap<String, (String, Vec<u8>)> = BTreeMap::new();
    for (kind, json, body) in golden() {
        let smaller = all.get(&kind).is_none_or(|(_, old)| body.len() < old.len());
        if smaller {
            all.insert(kind, (json, body));
        }
    }
    all
}

fn stored() -> Seeds {
    let mut seeds = Seeds::new();
    for (kind, (_, body)) in smallest() {
        let place = KINDS.iter().position(|known| known.name == kind).unwrap();
        let mut bytes = vec![place as u8, 1];
        bytes.extend(body);
        seeds.insert(kind, bytes);
    }
    seeds
}

fn json() -> Seeds {
    let mut seeds = Seeds::new();
    for (kind, (json, _)) in smallest() {
        seeds.insert(kind, json.into_bytes());
    }
    let policy = serde_json::to_vec(&short_policy()).unwrap();
    seeds.insert("policy".to_owned(), policy);
    let record = r#"{"seq":3,"time_ms":1700000000000,"kind":"run_finished","stages":3}"#;
    seeds.insert("record".to_owned(), record.into());
    let text = fs::read_to_string(workspace("examples/pong-demo.toml")).unwrap();
    let base = PathBuf::from("/data");
    let loaded = tinygate::config::Config::parse(&text, "demo", &base, &[]).unwrap();
    let config = serde_json::to_vec(&loaded.config.to_json()).unwrap();
    seeds.insert("config".to_owned(), config);
    seeds
}

fn frame(event: &Event, flags: [bool; 3], body: std::ops::Range<usize>) -> Vec<u8> {
    let mut whole = Vec::new();
    let form = encode_into(event, &mut whole).unwrap();
    let mut out = Vec::new();
    Frame {
        form,
        time_ms: 1_700_000_000_000,
        first: flags[0],
        last: flags[1],
        more: flags[2],
        body: &whole[body.start..body.end.min(whole.len())],
    }
    .write(&mut out);
    out
}

fn frames() -> Seeds {
    let event = process();
    let whole = frame(&event, [true, true, false], 0..usize::MAX);
    let two = [
        frame(&event, [true, true, true], 0..usize::MAX),
        whole.clone(),
    ];
    let parts = [
        frame(&event, [true, false, false], 0..20),
        frame(&event, [false, false, false], 20..30),
        frame(&event, [false, true, false], 30..usize::MAX),
    ];
    Seeds::from([
        ("one".to_owned(), whole),
        ("two".to_owned(), two.concat()),
        ("fragments".to_owned(), parts.concat()),
    ])
}

/// A log with a few appends, and the beginning of a recorded log.
fn journal() -> Seeds {
    let run = tempfile::tempdir().unwrap();
    let disk = tinygate::store::RealDisk::new(run.path());
    let store = Store::create_on(std::sync::Arc::new(disk), "seed", [5; 16]).unwrap();
    let mut head = Seq::FIRST;
    let small = Event::RunFinished(tinygate::events::RunFinished { stages: 3 });
    for events in [vec![process()], vec![small.clone(), process()], vec![small]] {
        let append: Vec<(u64, Event)> = events.into_iter().map(|event| (1, event)).collect();
        head = store.append(head, &append, Durability::Durable).unwrap();
    }
    store.close().unwrap();
    let few = fs::read(run.path().join("log/journal.tgj")).unwrap();
    let golden = fs::read(workspace("tests/golden/journal.v1.tgj")).unwrap();
    let recorded = fs::read(workspace("replay/logs/v1-created-only.tgj")).unwrap();
    let stopped = fs::read(workspace("replay/logs/v1-stop-by-budget.tgj")).unwrap();
    Seeds::from([
        ("few".to_owned(), few),
        ("golden".to_owned(), golden),
        ("created-only".to_owned(), recorded),
        (
            "begun".to_owned(),
            stopped[..12_000.min(stopped.len())].to_vec(),
        ),
    ])
}

/// Archives, and pickles, which the target wraps in an archive.
fn pickle() -> Seeds {
    let tensor = Tensor::from_f32(vec![2, 2], &[1.0, 2.0, 3.0, 4.0]).unwrap();
    let state = Value::state_dict([("weight".to_owned(), tensor.clone())]);
    let nested = Value::dict([
        ("state", state.clone()),
        ("step", Value::Int(150)),
        ("list", Value::List(vec![Value::None, Value::Bool(true)])),
        ("scale", Value::Float(0.5)),
        ("tensor", Value::Tensor(tensor)),
    ]);
    let archive = torch_file::write("archive", &state).unwrap();
    let mut seeds = Seeds::from([
        (
            "nested".to_owned(),
            torch_file::write("archive", &nested).unwrap(),
        ),
        ("pickle-plain".to_owned(), pickle_of(&archive)),
    ]);
    seeds.insert("state-dict".to_owned(), archive);
    let theirs = "tests/fixtures/tinyworlds_checkpoint/video_tokenizer_step_149/state.pt";
    let theirs = fs::read(workspace(theirs)).unwrap();
    seeds.insert("pickle-theirs".to_owned(), pickle_of(&theirs));
    seeds.insert("theirs".to_owned(), theirs);
    seeds
}

/// The pickle in the record `data.pkl`, from its first byte to its STOP.
fn pickle_of(archive: &[u8]) -> Vec<u8> {
    let from = archive.windows(2).position(|two| two == [0x80, 2]).unwrap();
    let rest = &archive[from..];
    let end = rest.windows(3).position(|three| three == b".PK");
    let end = end.or_else(|| rest.windows(2).position(|two| two == [b'.', 0]));
    rest[..=end.unwrap_or(rest.len() - 1)].to_vec()
}

fn datasets() -> Seeds {
    let mut seeds = Seeds::new();
    let fixture = |name: &str| fs::read(workspace("tests/fixtures/data").join(name)).unwrap();
    for (format, names) in [
        (
            0,
            &[
                "contiguous.h5",
                "lzf.h5",
                "new_format.h5",
                "gzip_shuffle.h5",
                "empty.h5",
                "soft_link.h5",
                "soft_link_new.h5",
                "soft_link_dense.h5",
                "external_link.h5",
                "in_groups.h5",
            ][..],
        ),
        (1, &["named.npz", "deflated.npz", "only.npz"]),
        (2, &["plain.npy", "fortran.npy", "pickled.npy"]),
    ] {
        for name in names {
            for side in [0, 1] {
                let bytes = [&[format, side][..], &fixture(name)].concat();
                seeds.insert(format!("{name}-{side}"), bytes);
            }
        }
    }
    let mut png = Vec::new();
    let picture = tempfile::tempdir().unwrap();
    let path = picture.path().join("a.png");
    tinygate::picture::png::Picture {
        width: 4,
        height: 4,
        rgb: (0..48).collect(),
    }
    .write(&path)
    .unwrap();
    png.extend([3, 0]);
    png.extend(fs::read(path).unwrap());
    seeds.insert("picture.png".to_owned(), png);
    seeds
}

fn config() -> Seeds {
    let example = |name: &str| fs::read(workspace("examples").join(name)).unwrap();
    Seeds::from([
        ("demo.toml".to_owned(), example("pong-demo.toml")),
        ("strict.toml".to_owned(), example("pong-strict.toml")),
        (
            "lines.toml".to_owned(),
            b"seed = 3\npreset = \"strict\"\ndata.path = [\"a.h5\", \"b\"]\nvideo_tokenizer.learning_rate = 1e-3\n\
              video_tokenizer.ladder = [\"learning_rate *= 0.5\", \"log_interval /= 2\"]\n\
              video_tokenizer.gate.loss_latest = [[5000, 0.05], [40000, 0.01]]\n"
                .to_vec(),
        ),
    ])
}
