//! Parity with TinyWorlds: each fixture holds ten training updates of one stage as the public
//! PyTorch code made them, and our models, losses, optimizer and schedule must reproduce them.
//!
//! Reads every `*.safetensors` of `tests/fixtures`, or of the folder that `TINYGATE_FIXTURES`
//! names. The config is in each file's metadata.
#![cfg(feature = "train")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use tch::{Device, Kind, Tensor};
use tinygate::train::models::{ModelConfig, patches_of};
use tinygate::train::{
    Batch, Element, InitKey, Learner, NamedTensor, Stage, TokenMask, Wanted, learning_rate,
};

const OUTPUT: f64 = 1e-5;
const LOSS: f64 = 1e-6;
const GRADIENT: f64 = 1e-5;
/// A gradient's largest entry counts as at least this share of the global norm.
const GRADIENT_FLOOR: f64 = 1e-6;
const COURSE: f64 = 1e-4;
const FINAL: f64 = 1e-4;
/// The gradient of a key's bias is 0 in exact arithmetic (it shifts all scores of a query alike),
/// so AdamW scales rounding noise to full steps.
const FINAL_KEY_BIAS: f64 = 1e-3;

struct Fixture {
    path: PathBuf,
    settings: BTreeMap<String, String>,
    tensors: BTreeMap<String, Stored>,
}

struct Stored {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// Largest deviation of each check, and what lies beyond its limit.
#[derive(Default)]
struct Report {
    failures: Vec<String>,
}

impl Report {
    fn check(
        &mut self,
        place: &str,
        name: &str,
        deviations: impl IntoIterator<Item = (String, f64)>,
        limit: f64,
    ) {
        let mut largest = (String::from("nothing compared"), f64::NAN);
        for (what, deviation) in deviations {
            if !(deviation <= limit) {
                self.failures.push(format!(
                    "{place}: {name} of {what} deviates by {deviation:e}, allowed {limit:e}"
                ));
            }
            if !(deviation <= largest.1) {
                largest = (what, deviation);
            }
        }
        if largest.1.is_nan() {
            self.failures
                .push(format!("{place}: {name}: {}", largest.0));
        }
        println!(
            "{place}: {name}: largest deviation {:.2e} of {limit:.0e} allowed ({})",
            largest.1, largest.0
        );
    }
}

#[test]
fn every_fixture_is_reproduced() {
    let folder = std::env::var_os("TINYGATE_FIXTURES").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures"),
        PathBuf::from,
    );
    let mut report = Report::default();
    for path in fixture_files(&folder).unwrap() {
        reproduce(&Fixture::read(&path), &mut report);
    }
    assert!(
        report.failures.is_empty(),
        "{} deviations:\n{}",
        report.failures.len(),
        report.failures.join("\n")
    );
}

#[test]
fn a_folder_without_fixtures_is_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    assert!(fixture_files(folder.path()).is_err());
    assert!(fixture_files(&folder.path().join("missing")).is_err());
}

fn fixture_files(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let entries =
        std::fs::read_dir(folder).map_err(|error| format!("`{}`: {error}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "safetensors")
        })
        .collect();
    files.sort();
    if files.is_empty() {
        return Err(format!(
            "`{}` holds no *.safetensors: nothing would be compared",
            folder.display()
        ));
    }
    Ok(files)
}

fn reproduce(fixture: &Fixture, report: &mut Report) {
    let place = fixture
        .path
        .file_stem()
        .unwrap()
        .to_string_lossy()
        .into_owned();
    let config = fixture.config();
    let key = InitKey {
        run_seed: 0,
        stage: place.clone(),
        restart: 0,
    };
    let mut learner = Learner::new(fixture.stage(), &config, &key, Device::Cpu).unwrap();
    let initial = fixture.named("param.");
    learner.load(&initial, None).unwrap();
    assert_eq!(
        sorted(learner.export().unwrap()),
        initial,
        "{place}: names, shapes, bytes after loading"
    );

    let batches: Vec<Batch> = (0..fixture.updates())
        .map(|update| fixture.batch(update, &config))
        .collect();
    let output = learner.output(&batches[0]).unwrap();
    report.check(
        &place,
        "output",
        [(
            "the first batch".to_owned(),
            largest_difference(&output, &fixture.tensor("output")),
        )],
        OUTPUT,
    );
    if fixture.tensors.contains_key("tokens_initial") {
        let codes = learner.codes(&batches[0]).unwrap();
        let different = codes
            .ne_tensor(&fixture.tensor("tokens_initial"))
            .sum(Kind::Int64)
            .int64_value(&[]);
        report.check(
            &place,
            "tokens",
            [(format!("{} tokens", codes.numel()), different as f64)],
            0.0,
        );
    }
    check_gradients(&place, fixture, &learner, &batches[0], report);
    check_course(&place, fixture, &mut learner, &batches, report);
    check_final(&place, fixture, &learner, report);
}

fn check_gradients(
    place: &str,
    fixture: &Fixture,
    learner: &Learner,
    batch: &Batch,
    report: &mut Report,
) {
    let accumulated = learner
        .accumulate(std::slice::from_ref(batch), Wanted::default())
        .unwrap();
    let loss = (accumulated.loss() - fixture.floats("losses")[0]).abs();
    report.check(place, "loss", [("the first batch".to_owned(), loss)], LOSS);
    let floor = GRADIENT_FLOOR * fixture.floats("grad_norms")[0];
    let gradients = learner.export_gradients(&accumulated).unwrap();
    let expected = fixture.named("grad.");
    let names =
        |tensors: &[NamedTensor]| tensors.iter().map(|t| t.name.clone()).collect::<Vec<_>>();
    let gradients = sorted(gradients);
    assert_eq!(
        names(&gradients),
        names(&expected),
        "{place}: parameters with a gradient"
    );
    let (noise, real): (Vec<_>, Vec<_>) = gradients
        .iter()
        .zip(&expected)
        .partition(|(ours, _)| ours.name.ends_with("k_proj.bias"));
    let deviation = |ours: &NamedTensor, theirs: &NamedTensor| {
        let largest = floats_of(theirs)
            .iter()
            .fold(floor, |most, value| most.max(value.abs()));
        (
            ours.name.clone(),
            differ(&floats_of(ours), &floats_of(theirs)) / largest,
        )
    };
    report.check(
        place,
        "gradient",
        real.into_iter()
            .map(|(ours, theirs)| deviation(ours, theirs)),
        GRADIENT,
    );
    // Rounding noise around 0 on both sides: nothing to compare but its size.
    let sizes = noise.into_iter().map(|(ours, _)| {
        (
            ours.name.clone(),
            differ(&floats_of(ours), &vec![0.0; floats_of(ours).len()]),
        )
    });
    report.check(place, "gradient that is 0", sizes, floor);
}

fn check_course(
    place: &str,
    fixture: &Fixture,
    learner: &mut Learner,
    batches: &[Batch],
    report: &mut Report,
) {
    let target = fixture.setting("total_updates") as u64;
    let base: f64 = fixture.settings["learning_rate"].parse().unwrap();
    let (mut losses, mut norms, mut rates) = (Vec::new(), Vec::new(), Vec::new());
    for (update, batch) in (0_u64..).zip(batches) {
        let rate = learning_rate(update, target, base);
        let accumulated = learner
            .accumulate(std::slice::from_ref(batch), Wanted::default())
            .unwrap();
        let metrics = learner.apply(accumulated, rate).unwrap();
        losses.push(metrics.loss);
        norms.push(metrics.grad_norm);
        rates.push(rate);
    }
    for (name, ours, key) in [
        ("losses", losses, "losses"),
        ("gradient norms", norms, "grad_norms"),
        ("rates", rates, "learning_rates"),
    ] {
        let theirs = fixture.floats(key);
        assert_eq!(ours.len(), theirs.len(), "{place}: {name}");
        let relative = |(ours, theirs): (&f64, &f64)| {
            if ours == theirs {
                0.0
            } else {
                ((ours - theirs) / theirs).abs()
            }
        };
        let deviations = ours.iter().zip(&theirs).map(relative).enumerate();
        report.check(
            place,
            name,
            deviations.map(|(update, value)| (format!("update {}", update + 1), value)),
            COURSE,
        );
    }
}

fn check_final(place: &str, fixture: &Fixture, learner: &Learner, report: &mut Report) {
    let ours = sorted(learner.export().unwrap());
    let theirs = fixture.named("final.");
    assert_eq!(ours.len(), theirs.len(), "{place}: final weights");
    let pairs: Vec<_> = ours
        .iter()
        .zip(&theirs)
        .filter(|(ours, _)| ours.element == Element::F32)
        .collect();
    let deviation = |(ours, theirs): &(&NamedTensor, &NamedTensor)| {
        assert_eq!(ours.name, theirs.name, "{place}");
        (
            ours.name.clone(),
            differ(&floats_of(ours), &floats_of(theirs)),
        )
    };
    let (noise, real): (Vec<_>, Vec<_>) = pairs
        .iter()
        .partition(|(ours, _)| ours.name.ends_with("k_proj.bias"));
    report.check(place, "final weights", real.iter().map(deviation), FINAL);
    report.check(
        place,
        "final k_proj.bias",
        noise.iter().map(deviation),
        FINAL_KEY_BIAS,
    );
}

fn largest_difference(ours: &Tensor, theirs: &Tensor) -> f64 {
    assert_eq!(ours.size(), theirs.size());
    (ours - theirs).abs().max().double_value(&[])
}

/// Largest difference; a NaN on either side is the result.
fn differ(ours: &[f64], theirs: &[f64]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let differences = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, |most, value| if value <= most { most } else { value })
}

fn sorted(mut tensors: Vec<NamedTensor>) -> Vec<NamedTensor> {
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    tensors
}

fn floats_of(tensor: &NamedTensor) -> Vec<f64> {
    assert_eq!(tensor.element, Element::F32);
    tensor
        .bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|bytes| f64::from(f32::from_le_bytes(*bytes)))
        .collect()
}

impl Fixture {
    fn read(path: &Path) -> Fixture {
        let bytes = std::fs::read(path).unwrap();
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        let settings = metadata.metadata().clone().unwrap().into_iter().collect();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let store = |view: safetensors::tensor::TensorView| Stored {
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
            bytes: view.data().to_vec(),
        };
        let tensors = file
            .tensors()
            .into_iter()
            .map(|(name, view)| (name, store(view)))
            .collect();
        Fixture {
            path: path.to_owned(),
            settings,
            tensors,
        }
    }

    fn setting(&self, key: &str) -> i64 {
        self.settings[key].parse().unwrap()
    }

    fn stage(&self) -> Stage {
        match self.settings["stage"].as_str() {
            "video_tokenizer" => Stage::VideoTokenizer,
            "latent_actions" => Stage::LatentActions,
            "dynamics" => Stage::Dynamics,
            other => panic!("`{}` is of stage `{other}`", self.path.display()),
        }
    }

    fn config(&self) -> ModelConfig {
        ModelConfig {
            frame_size: self.setting("frame_size"),
            patch_size: self.setting("patch_size"),
            context_length: self.setting("context_length"),
            embed_dim: self.setting("embed_dim"),
            num_heads: self.setting("num_heads"),
            hidden_dim: self.setting("hidden_dim"),
            num_blocks: self.setting("num_blocks"),
            latent_dim: self.setting("latent_dim"),
            num_bins: self.setting("num_bins"),
            n_actions: self.setting("n_actions"),
        }
    }

    fn updates(&self) -> i64 {
        self.tensors["losses"].shape[0] as i64
    }

    fn tensor(&self, name: &str) -> Tensor {
        let stored = &self.tensors[name];
        let kind = match stored.dtype {
            Dtype::F32 => Kind::Float,
            Dtype::F64 => Kind::Double,
            Dtype::I64 => Kind::Int64,
            Dtype::U8 | Dtype::BOOL => Kind::Uint8,
            other => panic!("`{name}` is of {other:?}"),
        };
        let shape: Vec<i64> = stored.shape.iter().map(|&n| n as i64).collect();
        Tensor::from_data_size(&stored.bytes, &shape, kind)
    }

    fn floats(&self, name: &str) -> Vec<f64> {
        Vec::try_from(self.tensor(name).to_kind(Kind::Double)).unwrap()
    }

    /// The tensors whose names begin with `prefix`, sorted by the rest.
    fn named(&self, prefix: &str) -> Vec<NamedTensor> {
        let of_prefix = self
            .tensors
            .iter()
            .filter_map(|(name, stored)| Some((name.strip_prefix(prefix)?, stored)));
        let tensors = of_prefix.map(|(name, stored)| {
            let element = if stored.dtype == Dtype::I64 {
                Element::I64
            } else {
                Element::F32
            };
            NamedTensor {
                name: name.to_owned(),
                shape: stored.shape.clone(),
                element,
                bytes: stored.bytes.clone(),
            }
        });
        sorted(tensors.collect())
    }

    fn batch(&self, update: i64, config: &ModelConfig) -> Batch {
        if self.stage() != Stage::Dynamics {
            return Batch::Rows(
                patches_of(&self.tensor("frames").get(update), config.patch_size).unwrap(),
            );
        }
        let mask = self.tensor("mask_positions").get(update);
        let [batch, time, positions] = mask.size()[..] else {
            panic!("mask of {:?}", mask.size())
        };
        let masked = Vec::<u8>::try_from(mask.flatten(0, -1))
            .unwrap()
            .iter()
            .map(|&value| value == 1)
            .collect();
        let mask = TokenMask {
            batch: batch as usize,
            time: time as usize,
            positions: positions as usize,
            masked,
        };
        Batch::from_codes(
            &self.tensor("tokens").get(update),
            &self.tensor("actions").get(update),
            mask,
            config,
            Device::Cpu,
        )
        .unwrap()
    }
}
