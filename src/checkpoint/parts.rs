//! The parts of a checkpoint in one file: model, optimizer and state, found by the keys
//! that trainers use.

use super::torch_file::Value;

/// The parts of a checkpoint in one file.
#[derive(Debug)]
pub(super) struct Parts {
    pub model: Value,
    pub optimizer: Option<Value>,
    /// Everything else: a dict with `step`, `config` and the like.
    pub state: Value,
}

/// Why a file has no parts.
#[derive(Debug)]
pub(super) enum NoParts {
    NotADict {
        found: String,
    },
    Empty,
    /// None of its values is a dict of tensors.
    NoModel {
        keys: Vec<String>,
    },
    /// A whole module, which only Python can create.
    Module {
        class: String,
    },
}

const MODEL_KEYS: [&str; 7] = [
    "model_state_dict",
    "model",
    "state_dict",
    "module",
    "net",
    "network",
    "weights",
];
const OPTIMIZER_KEYS: [&str; 6] = [
    "optimizer_state_dict",
    "optim_state_dict",
    "optimizer",
    "optim",
    "optimizer_states",
    "opt",
];
const CONFIG_KEYS: [&str; 6] = [
    "config",
    "cfg",
    "args",
    "model_args",
    "hparams",
    "hyper_parameters",
];
/// The most nested dicts around the model, as in `{"model": {"state_dict": ..}}`.
const WRAPPINGS_MOST: usize = 3;

pub(super) fn split(value: Value) -> Result<Parts, NoParts> {
    if let Value::Opaque { class } | Value::Object { class, .. } = value {
        return Err(NoParts::Module { class });
    }
    let kind = value.kind().to_owned();
    let (Value::Dict(mut top) | Value::OrderedDict(mut top)) = value else {
        return Err(NoParts::NotADict { found: kind });
    };
    if top.is_empty() {
        return Err(NoParts::Empty);
    }
    let Some(model_key) = model_key(&top) else {
        if top.iter().any(is_named_tensor) {
            return Ok(Parts {
                model: Value::OrderedDict(top),
                optimizer: None,
                state: Value::Dict(Vec::new()),
            });
        }
        let keys = top.iter().take(12).map(|(key, _)| match key.as_str() {
            Some(key) => format!("`{key}`"),
            None => format!("a {}", key.kind()),
        });
        return Err(NoParts::NoModel {
            keys: keys.collect(),
        });
    };
    let mut model = take(&mut top, model_key);
    for _ in 0..WRAPPINGS_MOST {
        let Some(key) = self::model_key(model.as_dict().unwrap_or_default()) else {
            break;
        };
        if let Value::Dict(mut dict) | Value::OrderedDict(mut dict) = model {
            model = take(&mut dict, key);
        } else {
            break;
        }
    }
    if let Value::Opaque { class } | Value::Object { class, .. } = model {
        return Err(NoParts::Module { class });
    }
    let optimizer = optimizer_key(&top).map(|key| take(&mut top, key));
    let is_config = |value: &Value| value.as_dict().is_some() || is_object(value);
    if let Some(key) = first_key(&top, &CONFIG_KEYS, is_config)
        && key != "config"
    {
        // `config` may be a string or a path.
        take(&mut top, "config");
        let config = take(&mut top, key);
        top.push(("config".into(), config));
    }
    Ok(Parts {
        model,
        optimizer: optimizer.map(only_one),
        state: Value::Dict(top),
    })
}

fn is_named_tensor((key, value): &(Value, Value)) -> bool {
    key.as_str().is_some() && value.as_tensor().is_some()
        // `step` and the like may be tensors next to a model.
        && key.as_str().is_some_and(|key| key.contains('.') || !is_scalar(value))
}

fn is_scalar(value: &Value) -> bool {
    value
        .as_tensor()
        .is_some_and(|tensor| tensor.elements() <= 1)
}

/// The key of the model: preferably a dict of only tensors, then one with some, then a whole
/// module, then any dict, which is a damaged model.
fn model_key(dict: &[(Value, Value)]) -> Option<&'static str> {
    let key = |fits: fn(&Value) -> bool| first_key(dict, &MODEL_KEYS, fits);
    key(|value| holds_tensors(value, WRAPPINGS_MOST, |dict| dict.iter().all(is_tensor)))
        .or_else(|| {
            key(|value| holds_tensors(value, WRAPPINGS_MOST, |dict| dict.iter().any(is_tensor)))
        })
        .or_else(|| key(is_object))
        .or_else(|| key(|value| value.as_dict().is_some()))
}

/// Whether a value is a dict that fits, or has one at a key of models.
fn holds_tensors(value: &Value, deeper: usize, fits: fn(&[(Value, Value)]) -> bool) -> bool {
    let Some(dict) = value.as_dict().filter(|dict| !dict.is_empty()) else {
        return false;
    };
    let inside = |(key, value): &(Value, Value)| {
        key.as_str().is_some_and(|key| MODEL_KEYS.contains(&key))
            && holds_tensors(value, deeper.saturating_sub(1), fits)
    };
    fits(dict) || (deeper > 0 && dict.iter().any(inside))
}

fn is_tensor((_, value): &(Value, Value)) -> bool {
    value.as_tensor().is_some()
}

/// Whether only Python can create the value, such as a whole module.
fn is_object(value: &Value) -> bool {
    matches!(value, Value::Opaque { .. } | Value::Object { .. })
}

/// The key of an optimizer's state, or else of a value that may be intended as one.
fn optimizer_key(dict: &[(Value, Value)]) -> Option<&'static str> {
    let key = |fits: fn(&Value) -> bool| first_key(dict, &OPTIMIZER_KEYS, fits);
    key(|value| {
        let items = value.as_items().unwrap_or(std::slice::from_ref(value));
        items.iter().any(|item| item.get("state").is_some())
    })
    .or_else(|| key(|value| value.as_dict().is_some() || value.as_items().is_some()))
}

/// The first of `keys` whose value fits.
fn first_key(
    dict: &[(Value, Value)],
    keys: &[&'static str],
    fits: impl Fn(&Value) -> bool,
) -> Option<&'static str> {
    let has = |key: &&str| {
        let mut entries = dict.iter();
        entries.any(|(k, value)| k.as_str() == Some(key) && fits(value))
    };
    keys.iter().copied().find(has)
}

fn take(dict: &mut Vec<(Value, Value)>, key: &str) -> Value {
    match dict.iter().position(|(k, _)| k.as_str() == Some(key)) {
        Some(at) => dict.remove(at).1,
        None => Value::None,
    }
}

/// The only item of a list: Lightning keeps a list of optimizers.
fn only_one(mut value: Value) -> Value {
    if let Value::List(items) = &mut value
        && items.len() == 1
        && let Some(only) = items.pop()
    {
        return only;
    }
    value
}
