//! The typed state of AdamW, and its form in `optim_state_dict.pt`: exactly that of
//! `torch.optim.AdamW.state_dict()`, so that PyTorch's `load_state_dict` accepts it.
//!
//! PyTorch numbers parameters across all groups and keeps `state[number]`. Since
//! version 2.6 each group may have `param_names`, which tinygate writes. PyTorch's
//! distributed checkpoints use names instead of numbers; both are read.
//!
//! Invariant: [`AdamWState::from_value`] reads back the state that
//! [`AdamWState::to_value`] wrote.

use std::collections::{BTreeMap, BTreeSet};

use super::directory::CheckpointContent;
use super::names::{MixedPrefix, unwrapped};
use super::torch_file::{Tensor, Value};

/// PyTorch's defaults.
const LEARNING_RATE: f64 = 1e-3;
const BETAS: (f64, f64) = (0.9, 0.999);
const EPSILON: f64 = 1e-8;
const WEIGHT_DECAY: f64 = 0.01;

/// Up to this number an f32, like PyTorch's `step`, counts updates exactly.
const STEP_MAX: u64 = 1 << 24;

/// The whole optimizer: its groups in order.
#[derive(Clone, Debug, PartialEq)]
pub struct AdamWState {
    pub groups: Vec<ParameterGroup>,
}

/// Parameters with the same settings.
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterGroup {
    /// The rate of the last update.
    pub learning_rate: f64,
    /// The base rate that the schedule scales; PyTorch's schedulers set it.
    pub initial_learning_rate: Option<f64>,
    pub weight_decay: f64,
    pub betas: (f64, f64),
    pub eps: f64,
    /// In the optimizer's order.
    pub parameters: Vec<Parameter>,
}

/// The state of one parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// `None` in a foreign file that only numbers its parameters.
    pub name: Option<String>,
    /// `None` for a parameter that never had a gradient.
    pub moments: Option<Moments>,
}

/// Running means of the gradient and of its square, shaped as the parameter
/// (Loshchilov and Hutter, arXiv 1711.05101, algorithm 2: m and v).
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    /// Updates that went into the means, which the bias correction needs.
    pub step: u64,
    pub exp_avg: Tensor,
    pub exp_avg_sq: Tensor,
}

/// Why an optimizer's state is not that of an AdamW.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptimizerError {
    #[error("the optimizer's state has no {expected} at `{place}`")]
    Missing {
        place: String,
        expected: &'static str,
    },
    #[error(
        "the optimizer is {kind}, which keeps {kept}; expected AdamW, which keeps `exp_avg` and `exp_avg_sq`"
    )]
    Kind { kind: &'static str, kept: String },
    #[error("the optimizer is {kind}; expected AdamW")]
    Related { kind: String },
    #[error("the names of the optimizer's parameters: {0}")]
    Wrappers(#[from] MixedPrefix),
    #[error("the optimizer's state has `{setting}` set, which changes how moments are kept")]
    Unsupported { setting: &'static str },
    #[error("the moments of parameter {parameter} have shapes {first:?} and {second:?}")]
    Shapes {
        parameter: String,
        first: Vec<usize>,
        second: Vec<usize>,
    },
    #[error("parameter {parameter} is in two groups or twice in one")]
    Repeated { parameter: String },
    #[error("the state has moments of parameter {parameter}, which is in no group")]
    Stray { parameter: String },
    #[error(
        "parameter {parameter} has done {step} updates, more than the {STEP_MAX} that an f32 can count"
    )]
    Step { parameter: String, step: u64 },
    #[error("{named} of a group's {all} parameters have names, expected all or none")]
    Names { named: usize, all: usize },
}

impl AdamWState {
    /// The form of PyTorch's `state_dict()`: `{state: {0: {step, exp_avg, exp_avg_sq}, ..},
    /// param_groups: [..]}`.
    ///
    /// # Errors
    /// If only some parameters of a group have names, or one has done more than
    /// 2^24 updates.
    pub fn to_value(&self) -> Result<Value, OptimizerError> {
        let mut state = Vec::new();
        let mut groups = Vec::new();
        let mut next = 0_i64;
        for group in &self.groups {
            let first = next;
            for parameter in &group.parameters {
                if let Some(moments) = &parameter.moments {
                    state.push((Value::Int(next), moments.to_value(next)?));
                }
                next += 1;
            }
            groups.push(group.to_value(first..next)?);
        }
        Ok(Value::dict([
            ("state", Value::Dict(state)),
            ("param_groups", Value::List(groups)),
        ]))
    }

    /// Missing settings have PyTorch's defaults, and unknown ones are ignored. Wrappers are
    /// removed from the parameters' names.
    ///
    /// # Errors
    /// If `value` is not the state of an AdamW, by number or by name.
    pub fn from_value(value: &Value) -> Result<Self, OptimizerError> {
        if let Some((kind, kept)) = other_kind(value) {
            return Err(OptimizerError::Kind { kind, kept });
        }
        if is_radam(value) {
            let kind = "RAdam, which makes another update of the same moments".to_owned();
            return Err(OptimizerError::Related { kind });
        }
        if let Some(decay) = decay_in_moments(value) {
            let kind = format!("Adam, whose moments have a weight decay of {decay} in them");
            return Err(OptimizerError::Related { kind });
        }
        let state = value.get("state").and_then(Value::as_dict);
        let mut unused = BTreeMap::new();
        for (key, moments) in state.ok_or_else(|| missing("state", "dict"))? {
            let key =
                Key::of(key).ok_or_else(|| missing("state", "key that is an int or a str"))?;
            unused.insert(key, Some(moments));
        }
        let groups = value.get("param_groups").and_then(Value::as_items);
        let groups = groups.ok_or_else(|| missing("param_groups", "list"))?;
        let groups = groups.iter().enumerate();
        let groups = groups.map(|(index, group)| {
            let place = format!("param_groups[{index}]");
            ParameterGroup::from_value(group, &place, &mut unused)
        });
        let groups = groups.collect::<Result<_, _>>()?;
        match unused.iter().find(|(_, moments)| moments.is_some()) {
            Some((key, _)) => Err(OptimizerError::Stray {
                parameter: key.to_string(),
            }),
            None => Self { groups }.without_wrappers(),
        }
    }

    fn without_wrappers(mut self) -> Result<Self, OptimizerError> {
        let parameters = self.groups.iter().flat_map(|group| &group.parameters);
        let names: Vec<&str> = parameters.filter_map(|one| one.name.as_deref()).collect();
        let mut names = unwrapped(&names)?.into_iter();
        let parameters = self
            .groups
            .iter_mut()
            .flat_map(|group| &mut group.parameters);
        for parameter in parameters.filter(|one| one.name.is_some()) {
            parameter.name = names.next();
        }
        Ok(self)
    }
}

/// Settings of an AdamW that differ from tinygate's, which are PyTorch's defaults, each as
/// "`betas` = (0.9, 0.95) (tinygate has (0.9, 0.999))". Rates and weight decay are not
/// compared.
pub fn other_settings(state: &AdamWState) -> Vec<String> {
    // A setting may have been stored as a float32.
    let same = |one: f64, other: f64| (one - other).abs() <= 1e-6 * other.abs();
    let mut found = BTreeSet::new();
    let used = state.groups.iter();
    for group in used.filter(|group| !group.parameters.is_empty()) {
        let (first, second) = group.betas;
        if !same(first, BETAS.0) || !same(second, BETAS.1) {
            found.insert(format!(
                "`betas` = {:?} (tinygate has {BETAS:?})",
                group.betas
            ));
        }
        if !same(group.eps, EPSILON) {
            found.insert(format!(
                "`eps` = {:?} (tinygate has {EPSILON:?})",
                group.eps
            ));
        }
    }
    found.into_iter().collect()
}

/// The optimizer's name, guessed from its state and settings: `AdamW`, `Muon`.
pub fn optimizer_name(optimizer: &Value) -> Option<&'static str> {
    optimizer.as_dict()?;
    if let Some((kind, _)) = other_kind(optimizer) {
        return Some(kind);
    }
    let decoupled = group_has(optimizer, "decoupled_weight_decay", Some(false));
    match kept_of(optimizer) {
        kept if kept.is_empty() => None,
        _ if is_radam(optimizer) => Some("RAdam"),
        _ if decoupled => Some("Adam"),
        _ => Some("AdamW"),
    }
}

/// PyTorch's RAdam has the same moments as AdamW, and lacks two of its settings.
fn is_radam(optimizer: &Value) -> bool {
    let set = |key| group_has(optimizer, key, None);
    set("decoupled_weight_decay") && set("foreach") && !set("amsgrad") && !set("fused")
}

/// The weight decay of an Adam that has one. Without it Adam has the moments of an AdamW; with it the moments are of the
/// sum of gradient and decayed weights.
fn decay_in_moments(optimizer: &Value) -> Option<f64> {
    let groups = optimizer.get("param_groups").and_then(Value::as_items)?;
    groups.iter().find_map(|group| {
        let coupled = group.get("decoupled_weight_decay").and_then(Value::as_bool) == Some(false);
        let decay = group.get("weight_decay").and_then(Value::as_number);
        decay.filter(|decay| coupled && *decay != 0.0)
    })
}

/// How many names of moments are listed in an error.
const KEPT_LISTED: usize = 8;

/// The kind of an optimizer with other moments than AdamW's, and their names.
fn other_kind(optimizer: &Value) -> Option<(&'static str, String)> {
    let kept = kept_of(optimizer);
    let has = |name: &str| kept.contains(name);
    let adamw = ["exp_avg", "exp_avg_sq"];
    let amsgrad = "max_exp_avg_sq";
    if kept.is_empty() || (adamw.iter().all(|name| has(name)) && kept.len() == adamw.len()) {
        return None;
    }
    let muon = ["backend_steps", "ns_steps", "ns_coefficients"];
    let kind = if muon.iter().any(|key| group_has(optimizer, key, None)) {
        "Muon"
    } else if group_has(optimizer, "dampening", None) {
        "SGD"
    } else if has("momentum_buffer") {
        "one with momentum (SGD, Muon)"
    } else if has("exp_avg_sq_row") || has("row_var") {
        "Adafactor"
    } else if has("state1") || has("qmap1") {
        "an Adam of 8 bits"
    } else if has("mu_product") {
        "NAdam"
    } else if has("exp_inf") {
        "Adamax"
    } else if has(amsgrad) && kept.len() == adamw.len() + 1 {
        "AMSGrad"
    } else if has("exp_avg") && kept.len() == 1 {
        "one with a first moment only (Lion)"
    } else {
        "of another kind"
    };
    let listed = kept.iter().take(KEPT_LISTED);
    let mut names: Vec<String> = listed.map(|name| format!("`{name}`")).collect();
    if kept.len() > KEPT_LISTED {
        names.push(format!("{} more", kept.len() - KEPT_LISTED));
    }
    Some((kind, names.join(", ")))
}

/// The names of what an optimizer keeps for its parameters, except the count of updates.
fn kept_of(optimizer: &Value) -> BTreeSet<&str> {
    let state = optimizer.get("state").and_then(Value::as_dict);
    state
        .unwrap_or_default()
        .iter()
        .filter_map(|(_, moments)| moments.as_dict())
        .flatten()
        .filter(|(_, value)| *value != Value::None)
        .filter_map(|(key, _)| key.as_str())
        .filter(|name| *name != "step")
        .collect()
}

fn group_has(optimizer: &Value, key: &str, value: Option<bool>) -> bool {
    let groups = optimizer.get("param_groups").and_then(Value::as_items);
    let mut groups = groups.unwrap_or_default().iter();
    groups.any(|group| match (group.get(key), value) {
        (Some(found), Some(value)) => found.as_bool() == Some(value),
        (found, _) => found.is_some(),
    })
}

/// Updates done, by the optimizer's own count.
pub(super) fn updates_in(optimizer: &Value) -> Option<u64> {
    let state = optimizer.get("state").and_then(Value::as_dict)?;
    let steps = state
        .iter()
        .filter_map(|(_, moments)| step_count(moments.get("step")?));
    steps.max()
}

/// How a file refers to a parameter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Key<'v> {
    Index(i64),
    Name(&'v str),
}

impl<'v> Key<'v> {
    fn of(value: &'v Value) -> Option<Self> {
        let index = value.as_int().map(Key::Index);
        index.or_else(|| value.as_str().map(Key::Name))
    }
}

impl std::fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Index(index) => write!(f, "{index}"),
            Self::Name(name) => write!(f, "`{name}`"),
        }
    }
}

/// Moments by key; `None` once a group has used the key.
type Unused<'v> = BTreeMap<Key<'v>, Option<&'v Value>>;

impl ParameterGroup {
    /// The keys and their order are those of PyTorch 2.13.
    fn to_value(&self, numbers: std::ops::Range<i64>) -> Result<Value, OptimizerError> {
        let mut entries = vec![
            ("weight_decay", Value::Float(self.weight_decay)),
            ("lr", Value::Float(self.learning_rate)),
            (
                "betas",
                Value::Tuple(vec![self.betas.0.into(), self.betas.1.into()]),
            ),
            ("eps", Value::Float(self.eps)),
            ("amsgrad", Value::Bool(false)),
            ("maximize", Value::Bool(false)),
            ("foreach", Value::None),
            ("capturable", Value::Bool(false)),
            ("differentiable", Value::Bool(false)),
            ("fused", Value::None),
            ("decoupled_weight_decay", Value::Bool(true)),
        ];
        if let Some(rate) = self.initial_learning_rate {
            entries.push(("initial_lr", Value::Float(rate)));
        }
        let names: Vec<Value> = self
            .parameters
            .iter()
            .filter_map(|parameter| parameter.name.clone().map(Value::Str))
            .collect();
        if names.len() == self.parameters.len() {
            entries.push(("param_names", Value::List(names)));
        } else if !names.is_empty() {
            return Err(OptimizerError::Names {
                named: names.len(),
                all: self.parameters.len(),
            });
        }
        entries.push(("params", Value::List(numbers.map(Value::Int).collect())));
        Ok(Value::dict(entries))
    }

    fn from_value<'v>(
        group: &'v Value,
        place: &str,
        unused: &mut Unused<'v>,
    ) -> Result<Self, OptimizerError> {
        for setting in ["amsgrad", "maximize"] {
            if group.get(setting).and_then(Value::as_bool) == Some(true) {
                return Err(OptimizerError::Unsupported { setting });
            }
        }
        let at = |key: &str| format!("{place}.{key}");
        let number = |key: &str, default: f64| match group.get(key) {
            None => Ok(default),
            Some(value) => value.as_number().ok_or_else(|| missing(&at(key), "number")),
        };
        let betas = match group.get("betas").map(Value::as_items) {
            None => Some(BETAS),
            Some(Some([first, second])) => first.as_number().zip(second.as_number()),
            Some(_) => None,
        };
        let names = group.get("param_names").and_then(Value::as_items);
        let params = group.get("params").and_then(Value::as_items);
        let params = params.ok_or_else(|| missing(&at("params"), "list"))?;
        if names.is_some_and(|names| names.len() != params.len()) {
            return Err(missing(
                &at("param_names"),
                "list of as many names as `params`",
            ));
        }
        let mut parameters = Vec::new();
        for (index, key) in params.iter().enumerate() {
            let key = Key::of(key);
            let key = key.ok_or_else(|| missing(&at("params"), "key that is an int or a str"))?;
            let given = names
                .and_then(|names| names.get(index))
                .and_then(Value::as_str);
            parameters.push(Parameter::take(key, given, unused)?);
        }
        Ok(Self {
            learning_rate: number("lr", LEARNING_RATE)?,
            initial_learning_rate: group.get("initial_lr").and_then(Value::as_number),
            weight_decay: number("weight_decay", WEIGHT_DECAY)?,
            betas: betas.ok_or_else(|| missing(&at("betas"), "pair of numbers"))?,
            eps: number("eps", EPSILON)?,
            parameters,
        })
    }
}

impl Parameter {
    fn take<'v>(
        key: Key<'v>,
        given: Option<&str>,
        unused: &mut Unused<'v>,
    ) -> Result<Self, OptimizerError> {
        let moments = match unused.insert(key, None) {
            Some(Some(moments)) => Some(Moments::from_value(moments, key)?),
            Some(None) => {
                let parameter = key.to_string();
                return Err(OptimizerError::Repeated { parameter });
            }
            None => None,
        };
        let name = match key {
            Key::Name(name) => Some(name),
            Key::Index(_) => given,
        };
        let name = name.map(str::to_owned);
        Ok(Self { name, moments })
    }
}

impl Moments {
    fn to_value(&self, number: i64) -> Result<Value, OptimizerError> {
        if self.step > STEP_MAX {
            return Err(OptimizerError::Step {
                parameter: number.to_string(),
                step: self.step,
            });
        }
        Ok(Value::dict([
            ("step", Value::from(Tensor::scalar_f32(self.step as f32))),
            ("exp_avg", Value::from(self.exp_avg.clone())),
            ("exp_avg_sq", Value::from(self.exp_avg_sq.clone())),
        ]))
    }

    fn from_value(value: &Value, key: Key<'_>) -> Result<Self, OptimizerError> {
        let at = |field: &str| format!("state[{key}].{field}");
        let tensor = |field: &str| {
            let tensor = value.get(field).and_then(Value::as_tensor).cloned();
            tensor.ok_or_else(|| missing(&at(field), "tensor"))
        };
        let (exp_avg, exp_avg_sq) = (tensor("exp_avg")?, tensor("exp_avg_sq")?);
        if exp_avg.shape() != exp_avg_sq.shape() {
            return Err(OptimizerError::Shapes {
                parameter: key.to_string(),
                first: exp_avg.shape().to_vec(),
                second: exp_avg_sq.shape().to_vec(),
            });
        }
        let step = value.get("step").and_then(step_count);
        Ok(Self {
            step: step.ok_or_else(|| missing(&at("step"), "count of updates"))?,
            exp_avg,
            exp_avg_sq,
        })
    }
}

/// The count in a scalar tensor, usually of f32, or in a plain number, as in old versions.
fn step_count(value: &Value) -> Option<u64> {
    let number = value.as_number()?;
    let counts = (0.0..=STEP_MAX as f64).contains(&number) && number.fract() == 0.0;
    counts.then_some(number as u64)
}

/// Whether weight decay applies: to tensors of two or more dimensions that are no bias and
/// not part of a norm.
pub fn decays(name: &str, dimensions: usize) -> bool {
    dimensions >= 2 && !name.ends_with(".bias") && !name.contains("norm")
}

/// The moments of every parameter of a checkpoint's model, in the order of its
/// `state_dict()`. An optimizer that only numbers its parameters has TinyWorlds' groups
/// (parameters with weight decay, then those without, each in the order of
/// `state_dict()`), or all parameters in one group in that order.
///
/// # Errors
/// What is missing in the state, or how its parameters differ from the model's.
pub fn moments_of(content: &CheckpointContent) -> Result<Vec<(String, Moments)>, String> {
    let floats = content.model.iter();
    let floats = floats.filter(|(_, tensor)| tensor.dtype().is_float());
    let parameters: Vec<_> = floats
        .map(|(name, tensor)| (name.as_str(), tensor.shape()))
        .collect();
    moments_for(&parameters, &content.optimizer)
}

/// Like [`moments_of`], for parameters by name and shape.
pub(super) fn moments_for(
    parameters: &[(&str, &[usize])],
    optimizer: &Value,
) -> Result<Vec<(String, Moments)>, String> {
    let state = AdamWState::from_value(optimizer).map_err(|error| error.to_string())?;
    let mut moments = named_moments(parameters, state)?;
    let mut ordered = Vec::new();
    for (name, shape) in parameters {
        let of = moments.remove(*name);
        let of = of.ok_or_else(|| format!("the optimizer has no moments of parameter `{name}`"))?;
        if of.exp_avg.shape() != *shape {
            return Err(format!(
                "the moments of parameter `{name}` have shape {:?}, expected its own, {shape:?}",
                of.exp_avg.shape(),
            ));
        }
        ordered.push(((*name).to_owned(), of));
    }
    match moments.into_keys().next() {
        Some(name) => Err(format!(
            "the optimizer has moments of `{name}`, which the model does not have"
        )),
        None => Ok(ordered),
    }
}

fn named_moments(
    model: &[(&str, &[usize])],
    state: AdamWState,
) -> Result<BTreeMap<String, Moments>, String> {
    let groups = state.groups.iter();
    let sizes: Vec<usize> = groups.map(|group| group.parameters.len()).collect();
    let groups = state.groups.into_iter();
    let parameters: Vec<Parameter> = groups.flat_map(|group| group.parameters).collect();
    let named = parameters.iter().filter(|one| one.name.is_some()).count();
    if named == parameters.len() {
        let named = |one: Parameter| Some((one.name?, one.moments?));
        return Ok(parameters.into_iter().filter_map(named).collect());
    }
    if named != 0 {
        return Err(format!(
            "{named} of the optimizer's {} parameters have names, expected all or none",
            parameters.len()
        ));
    }
    let (mut order, plain): (Vec<_>, Vec<_>) = model
        .iter()
        .partition(|(name, shape)| decays(name, shape.len()));
    if sizes == [model.len()] {
        order = model.to_vec();
    } else if sizes == [order.len(), plain.len()] {
        order.extend(plain);
    } else {
        return Err(format!(
            "the optimizer's parameters have no names, and its groups have {sizes:?} of them; expected TinyWorlds' \
             {:?}, those with weight decay and those without",
            [order.len(), plain.len()]
        ));
    }
    let mut moments = BTreeMap::new();
    for (number, ((name, shape), one)) in order.into_iter().zip(parameters).enumerate() {
        let Some(of) = one.moments else {
            continue;
        };
        if of.exp_avg.shape() != shape {
            return Err(format!(
                "the optimizer's parameter {number} has shape {:?}, expected {shape:?} of `{name}`, which has this number in \
                 TinyWorlds' order",
                of.exp_avg.shape(),
            ));
        }
        moments.insert(name.to_owned(), of);
    }
    Ok(moments)
}

fn missing(place: &str, expected: &'static str) -> OptimizerError {
    let place = place.to_owned();
    OptimizerError::Missing { place, expected }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(step: u64, values: &[f32]) -> Moments {
        Moments {
            step,
            exp_avg: Tensor::from_f32(vec![values.len()], values).unwrap(),
            exp_avg_sq: Tensor::from_f32(vec![values.len()], values).unwrap(),
        }
    }

    fn group(parameters: Vec<Parameter>) -> ParameterGroup {
        ParameterGroup {
            learning_rate: 1e-3,
            initial_learning_rate: Some(3e-3),
            weight_decay: 0.01,
            betas: (0.9, 0.999),
            eps: 1e-8,
            parameters,
        }
    }

    fn parameter(name: Option<&str>, moments: Option<Moments>) -> Parameter {
        let name = name.map(str::to_owned);
        Parameter { name, moments }
    }

    fn sample() -> AdamWState {
        AdamWState {
            groups: vec![
                group(vec![
                    parameter(Some("a.weight"), Some(moments(7, &[1.0, 2.0]))),
                    parameter(Some("b.weight"), None),
                ]),
                group(vec![parameter(Some("a.bias"), Some(moments(7, &[3.0])))]),
            ],
        }
    }

    #[test]
    fn a_state_round_trips_through_its_value() {
        let state = sample();
        let value = state.to_value().unwrap();
        assert_eq!(AdamWState::from_value(&value), Ok(state));
    }

    #[test]
    fn a_state_by_name_is_read() {
        let state = Value::dict([("w", moments(2, &[1.0]).to_value(0).unwrap())]);
        let mut entries = group(vec![]).to_value(0..0).unwrap();
        if let Value::Dict(entries) = &mut entries {
            entries.retain(|(key, _)| key.as_str() != Some("param_names"));
            entries.retain(|(key, _)| key.as_str() != Some("params"));
            entries.push(("params".into(), Value::List(vec!["w".into()])));
        }
        let value = Value::dict([
            ("state", state),
            ("param_groups", Value::List(vec![entries])),
        ]);
        let read = AdamWState::from_value(&value).unwrap();
        let want = parameter(Some("w"), Some(moments(2, &[1.0])));
        assert_eq!(read.groups[0].parameters, vec![want]);
    }

    #[track_caller]
    fn check_settings(name: &str, change: impl FnOnce(&mut ParameterGroup), want: &[&str]) {
        let mut state = sample();
        change(&mut state.groups[1]);
        assert_eq!(other_settings(&state), want, "{name}");
    }

    #[test]
    fn settings_that_differ_from_tinygates_are_reported() {
        check_settings("none", |_| {}, &[]);
        check_settings(
            "as float32",
            |group| group.betas = (f64::from(0.9_f32), f64::from(0.999_f32)),
            &[],
        );
        check_settings(
            "other betas",
            |group| group.betas = (0.9, 0.95),
            &["`betas` = (0.9, 0.95) (tinygate has (0.9, 0.999))"],
        );
        check_settings(
            "another eps",
            |group| group.eps = 1e-6,
            &["`eps` = 1e-6 (tinygate has 1e-8)"],
        );
        check_settings(
            "not a number",
            |group| group.eps = f64::NAN,
            &["`eps` = NaN (tinygate has 1e-8)"],
        );
        check_settings(
            "a group without parameters",
            |group| {
                group.eps = 1e-6;
                group.parameters.clear();
            },
            &[],
        );
    }

    #[track_caller]
    fn check_written(name: &str, state: AdamWState, want: OptimizerError) {
        assert_eq!(state.to_value(), Err(want), "{name}");
    }

    #[test]
    fn invalid_states_are_not_written() {
        let of = |parameters| AdamWState {
            groups: vec![group(parameters)],
        };
        check_written(
            "half of the parameters named",
            of(vec![parameter(Some("a"), None), parameter(None, None)]),
            OptimizerError::Names { named: 1, all: 2 },
        );
        check_written(
            "more updates than an f32 counts",
            of(vec![parameter(None, Some(moments(STEP_MAX + 1, &[0.0])))]),
            OptimizerError::Step {
                parameter: "0".to_owned(),
                step: STEP_MAX + 1,
            },
        );
    }

    /// Puts `new` at `param_groups[0].<key>` of the sample's value.
    fn with_setting(key: &str, new: Value) -> Value {
        let mut value = sample().to_value().unwrap();
        let Value::Dict(top) = &mut value else {
            panic!("a dict")
        };
        let Value::List(groups) = &mut top[1].1 else {
            panic!("a list")
        };
        let Value::Dict(entries) = &mut groups[0] else {
            panic!("a dict")
        };
        let entry = entries.iter_mut().find(|(k, _)| k.as_str() == Some(key));
        entry.unwrap().1 = new;
        value
    }

    #[track_caller]
    fn check_read(name: &str, value: &Value, want: &str) {
        let error = AdamWState::from_value(value).unwrap_err();
        assert_eq!(error.to_string(), want, "{name}");
    }

    #[test]
    fn other_values_are_refused() {
        let number = |n| Value::Int(n);
        check_read(
            "a model's dict",
            &Value::dict([("weight", number(1))]),
            "the optimizer's state has no dict at `state`",
        );
        check_read(
            "amsgrad",
            &with_setting("amsgrad", true.into()),
            "the optimizer's state has `amsgrad` set, which changes how moments are kept",
        );
        check_read(
            "a rate that is no number",
            &with_setting("lr", "fast".into()),
            "the optimizer's state has no number at `param_groups[0].lr`",
        );
        check_read(
            "a parameter twice in a group",
            &with_setting("params", Value::List(vec![number(0), number(0)])),
            "parameter 0 is in two groups or twice in one",
        );
        check_read(
            "a parameter of no group",
            &with_setting("params", Value::List(vec![number(7), number(8)])),
            "the state has moments of parameter 0, which is in no group",
        );
    }

    #[track_caller]
    fn check_step(name: &str, value: Value, want: Option<u64>) {
        assert_eq!(step_count(&value), want, "{name}");
    }

    #[test]
    fn steps_are_whole_counts() {
        let i64s = |values: &[i64]| Tensor::from_i64(vec![values.len()], values).unwrap();
        check_step("a scalar", Tensor::scalar_f32(150.0).into(), Some(150));
        check_step("an i64 tensor", i64s(&[9]).into(), Some(9));
        check_step("a negative i64", i64s(&[-9]).into(), None);
        check_step("two numbers", i64s(&[1, 2]).into(), None);
        check_step("an int", Value::Int(3), Some(3));
        check_step("a fraction", Value::Float(1.5), None);
        check_step("a negative float", Tensor::scalar_f32(-1.0).into(), None);
        check_step("NaN", Tensor::scalar_f32(f32::NAN).into(), None);
        check_step("infinity", Value::Float(f64::INFINITY), None);
        check_step("nothing", Value::None, None);
    }
}
