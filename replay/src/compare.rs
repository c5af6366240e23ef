//! Compares two events field by field in their JSON form.

use serde_json::{Map, Value};

/// A field that differs. Null means that the field is absent.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// `metrics[gate_loss].value`, `resume_from.path`, `failures`.
    pub field: String,
    pub recorded: Value,
    pub recomputed: Value,
}

/// Every leaf in which the two differ, in the order of the recorded event.
pub fn differences(recorded: &Value, recomputed: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    walk(String::new(), recorded, recomputed, &mut found);
    found
}

fn walk(field: String, recorded: &Value, recomputed: &Value, found: &mut Vec<Difference>) {
    match (recorded, recomputed) {
        (Value::Object(a), Value::Object(b)) => walk_object(&field, a, b, found),
        (Value::Array(a), Value::Array(b)) => {
            for index in 0..a.len().max(b.len()) {
                let (a, b) = (a.get(index), b.get(index));
                let place = element(index, a, b);
                walk(
                    format!("{field}[{place}]"),
                    a.unwrap_or(&Value::Null),
                    b.unwrap_or(&Value::Null),
                    found,
                );
            }
        }
        (a, b) if same_leaf(a, b) => {}
        (a, b) => found.push(Difference {
            field,
            recorded: a.clone(),
            recomputed: b.clone(),
        }),
    }
}

fn walk_object(
    field: &str,
    recorded: &Map<String, Value>,
    recomputed: &Map<String, Value>,
    found: &mut Vec<Difference>,
) {
    let only_recomputed = recomputed.keys().filter(|key| !recorded.contains_key(*key));
    for key in recorded.keys().chain(only_recomputed) {
        let path = if field.is_empty() {
            key.clone()
        } else {
            format!("{field}.{key}")
        };
        let (a, b) = (recorded.get(key), recomputed.get(key));
        walk(
            path,
            a.unwrap_or(&Value::Null),
            b.unwrap_or(&Value::Null),
            found,
        );
    }
}

/// The name of an element if both sides have the same, otherwise its index.
fn element(index: usize, a: Option<&Value>, b: Option<&Value>) -> String {
    let name = |value: Option<&Value>| value?.get("name")?.as_str().map(str::to_owned);
    match (name(a), name(b)) {
        (Some(a), Some(b)) if a == b => a,
        (_, _) => index.to_string(),
    }
}

/// Numbers are equal if their text is equal, so 0.0 differs from -0.0.
fn same_leaf(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.to_string() == b.to_string(),
        (a, b) => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(name: &str, recorded: Value, recomputed: Value, fields: &[&str]) {
        let found: Vec<String> = differences(&recorded, &recomputed)
            .into_iter()
            .map(|difference| difference.field)
            .collect();
        assert_eq!(found, fields, "{name}");
    }

    #[test]
    fn fields_that_differ() {
        check(
            "equal",
            json!({"a": [1, {"b": null}]}),
            json!({"a": [1, {"b": null}]}),
            &[],
        );
        check(
            "a leaf",
            json!({"a": {"b": 1}}),
            json!({"a": {"b": 2}}),
            &["a.b"],
        );
        check(
            "a field in one only",
            json!({"a": 1}),
            json!({"b": 1}),
            &["a", "b"],
        );
        check(
            "a longer list",
            json!({"a": [1]}),
            json!({"a": [1, 2]}),
            &["a[1]"],
        );
        check(
            "a named element",
            json!([{"name": "x", "value": 1}]),
            json!([{"name": "x", "value": 2}]),
            &["[x].value"],
        );
        check(
            "an element with another name",
            json!([{"name": "x"}]),
            json!([{"name": "y"}]),
            &["[0].name"],
        );
        check(
            "another kind of value",
            json!({"a": 1}),
            json!({"a": "1"}),
            &["a"],
        );
        check(
            "minus zero differs from zero",
            json!(0.0),
            json!(-0.0),
            &[""],
        );
    }
}
