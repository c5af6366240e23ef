//! Reads and writes `torch.save` files from the command line. `tests/interop/torch_files.py`
//! compares the result with the real PyTorch:
//!
//! ```text
//! torch_file read FILE     prints the content of a file as one line of JSON
//! torch_file accept DIR    prints the verdict on a checkpoint as one line of JSON
//! torch_file sample DIR    writes DIR/sample.pt and a checkpoint DIR/sample_step_7
//! ```
//!
//! In the JSON every value is a pair of kind and content. Floats are given by their 64 bits in
//! hexadecimal, and tensors by the length and CRC-32 of their bytes.

use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value as Json, json};
use tinygate::checkpoint::torch_file::{self, DType, Tensor, TensorError, Value};
use tinygate::checkpoint::{
    AdamWState, CheckpointContent, Moments, Parameter, ParameterGroup, UPDATES_DONE, accept, write,
};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments.as_slice() {
        ["read", file] => read(file),
        ["accept", directory] => accepted(directory),
        ["sample", directory] => sample(Path::new(directory)),
        _ => Err("usage: torch_file read FILE | accept DIR | sample DIR".into()),
    };
    let printed = result.and_then(|json| Ok(writeln!(std::io::stdout(), "{json}")?));
    match printed {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn read(file: &str) -> Result<Json, Box<dyn Error>> {
    let loaded = torch_file::read(&std::fs::read(file)?)?;
    Ok(json!({"value": described(&loaded.value), "foreign": loaded.foreign}))
}

fn accepted(directory: &str) -> Result<Json, Box<dyn Error>> {
    Ok(serde_json::to_value(accept(Path::new(directory), None))?)
}

fn described(value: &Value) -> Json {
    let entries = |entries: &[(Value, Value)]| -> Json {
        let entries = entries.iter();
        entries
            .map(|(key, value)| json!([described(key), described(value)]))
            .collect()
    };
    let items = |items: &[Value]| -> Json { items.iter().map(described).collect() };
    let content = match value {
        Value::None => Json::Null,
        Value::Bool(value) => json!(value),
        Value::Int(value) => json!(value),
        Value::Float(value) => json!(format!("{:016x}", value.to_bits())),
        Value::Str(text) => json!(text),
        Value::List(list) | Value::Tuple(list) => items(list),
        Value::Dict(dict) | Value::OrderedDict(dict) => entries(dict),
        Value::Tensor(tensor) => json!({
            "dtype": tensor.dtype().name(),
            "shape": tensor.shape(),
            "bytes": tensor.data().len(),
            "crc32": crc32fast::hash(tensor.data()),
        }),
        Value::Opaque { class } | Value::Object { class, .. } => {
            return json!(["opaque", class]);
        }
    };
    json!([value.kind(), content])
}

/// Writes exactly the values that the script expects.
fn sample(directory: &Path) -> Result<Json, Box<dyn Error>> {
    let bytes = torch_file::write("sample", &sample_value()?)?;
    std::fs::write(directory.join("sample.pt"), bytes)?;
    let written = write(directory, "sample_step_7", &sample_checkpoint()?)?;
    Ok(json!({"checkpoint": written.path, "files": written.files}))
}

fn sample_value() -> Result<Value, TensorError> {
    let mut tensors = Vec::new();
    for dtype in DType::ALL {
        // Only bytes 0 and 1 are valid in every type, including bool.
        let data = (0..6 * dtype.size()).map(|i| (i % 2) as u8).collect();
        tensors.push((
            dtype.name().to_owned(),
            Tensor::new(dtype, vec![2, 3], data)?,
        ));
    }
    let ints = [
        0,
        255,
        256,
        65_536,
        -1,
        1 << 31,
        -(1 << 31),
        i64::MAX,
        i64::MIN,
    ];
    let floats = [
        0.1,
        -0.0,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::MIN_POSITIVE,
    ];
    Ok(Value::dict([
        ("tensors", Value::state_dict(tensors)),
        ("scalar", Value::from(Tensor::scalar_f32(-0.5))),
        ("empty", Value::from(Tensor::from_f32(vec![0, 3], &[])?)),
        ("ints", Value::List(ints.map(Value::Int).to_vec())),
        ("floats", Value::Tuple(floats.map(Value::Float).to_vec())),
        ("nothing", Value::Tuple(Vec::new())),
        ("none", Value::None),
        ("flags", Value::List(vec![true.into(), false.into()])),
        ("größe", Value::from("größer als 0, \u{1F3AE}")),
        (
            "by index",
            Value::Dict(vec![(Value::Int(3), "three".into())]),
        ),
    ]))
}

/// Two parameters of a linear layer after seven updates.
fn sample_checkpoint() -> Result<CheckpointContent, Box<dyn Error>> {
    let ramp = |shape: Vec<usize>, scale: f32| {
        let count = shape.iter().product::<usize>();
        let values: Vec<f32> = (0..count).map(|i| i as f32 * scale).collect();
        Tensor::from_f32(shape, &values)
    };
    let parameter = |name: &str, shape: &[usize]| -> Result<Parameter, TensorError> {
        let moments = Moments {
            step: 7,
            exp_avg: ramp(shape.to_vec(), 0.25)?,
            exp_avg_sq: ramp(shape.to_vec(), 0.125)?,
        };
        Ok(Parameter {
            name: Some(name.to_owned()),
            moments: Some(moments),
        })
    };
    let group = |weight_decay, parameter| ParameterGroup {
        learning_rate: 3e-5,
        initial_learning_rate: Some(3e-3),
        weight_decay,
        betas: (0.9, 0.999),
        eps: 1e-8,
        parameters: vec![parameter],
    };
    let optimizer = AdamWState {
        groups: vec![
            group(0.01, parameter("weight", &[5, 3])?),
            group(0.0, parameter("bias", &[5])?),
        ],
    };
    let config = Value::dict([("patch_size", Value::Int(8)), ("amp", Value::Bool(false))]);
    Ok(CheckpointContent {
        model: vec![
            ("weight".to_owned(), ramp(vec![5, 3], 0.5)?),
            ("bias".to_owned(), ramp(vec![5], -1.0)?),
        ],
        optimizer: optimizer.to_value()?,
        state: Value::dict([
            ("scheduler_state_dict", Value::None),
            ("config", config),
            ("step", Value::Int(6)),
            ("timestamp", Value::from("2026_11_23_03_30_17")),
            (UPDATES_DONE, Value::Int(7)),
        ]),
    })
}
