//! JSON as aligned text: plain values as lines, lists of objects as tables.
//!
//! It knows nothing of what it shows, save that a field named `differences` comes first: whoever
//! looks wants to know whether the nodes agree.

use std::fmt::Write;

use serde_json::{Map, Value};

/// Shown first, and said to be none if it is empty.
const FIRST: &str = "differences";
/// The columns that tables begin with, if they have them.
const LEADING: [&str; 4] = ["name", "node", "id", "node_id"];
/// Deeper values are shown as JSON.
const DEPTH_MAX: usize = 4;

/// The text of a value.
pub(super) fn render(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(fields) => object(fields, 0, &mut out),
        Value::Array(items) => list(items, 0, &mut out),
        other => out.push_str(&cell(other)),
    }
    if !out.ends_with('\n') {
        out.push('\n');
    }
    out
}

fn object(fields: &Map<String, Value>, depth: usize, out: &mut String) {
    if let Some(value) = fields.get(FIRST) {
        section(FIRST, value, depth, out);
    }
    let rest = || fields.iter().filter(|field| field.0 != FIRST);
    let plain = || rest().filter(|field| is_plain(field.1, depth));
    let width = plain().map(|field| columns(field.0)).max().unwrap_or(0);
    for (name, value) in plain() {
        let padding = " ".repeat(width - columns(name));
        let _ = writeln!(out, "{}{name}{padding}  {}", indent(depth), cell(value));
    }
    for (name, value) in rest().filter(|field| !is_plain(field.1, depth)) {
        section(name, value, depth, out);
    }
}

fn section(name: &str, value: &Value, depth: usize, out: &mut String) {
    if !out.is_empty() {
        out.push('\n');
    }
    let _ = write!(out, "{}{name}", indent(depth));
    match value {
        Value::Object(fields) if !fields.is_empty() && depth < DEPTH_MAX => {
            out.push('\n');
            object(fields, depth + 1, out);
        }
        Value::Array(items) if !items.is_empty() && depth < DEPTH_MAX => {
            let _ = writeln!(out, " ({})", items.len());
            list(items, depth + 1, out);
        }
        Value::Array(_) | Value::Object(_) if is_empty(value) => out.push_str(": none\n"),
        other => {
            let _ = writeln!(out, ": {}", cell(other));
        }
    }
}

fn list(items: &[Value], depth: usize, out: &mut String) {
    let rows: Vec<&Map<String, Value>> = items.iter().filter_map(Value::as_object).collect();
    if rows.len() == items.len() {
        table(&rows, depth, out);
        return;
    }
    for item in items {
        let _ = writeln!(out, "{}{}", indent(depth), cell(item));
    }
}

fn table(rows: &[&Map<String, Value>], depth: usize, out: &mut String) {
    let mut names: Vec<&str> = Vec::new();
    for name in rows.iter().flat_map(|row| row.keys()) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    names.sort_by_key(|name| LEADING.iter().position(|lead| lead == name).unwrap_or(LEADING.len()));
    let text = |row: &Map<String, Value>, name: &str| row.get(name).map_or(String::new(), cell);
    let mut lines: Vec<Vec<String>> = vec![names.iter().map(|name| (*name).to_owned()).collect()];
    lines.extend(rows.iter().map(|row| names.iter().map(|name| text(row, name)).collect()));
    let width = |at: usize| lines.iter().map(|line| columns(&line[at])).max().unwrap_or(0);
    let widths: Vec<usize> = (0..names.len()).map(width).collect();
    for line in &lines {
        let mut text = indent(depth);
        for (cell, width) in line.iter().zip(&widths) {
            let _ = write!(text, "{cell}{}  ", " ".repeat(width - columns(cell)));
        }
        let _ = writeln!(out, "{}", text.trim_end());
    }
}

/// A value within a line: control characters, which a name could bring along, do not get out.
fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => "-".to_owned(),
        Value::Bool(flag) => if *flag { "yes" } else { "no" }.to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Array(items) if items.iter().all(|item| !item.is_array() && !item.is_object()) => {
            items.iter().map(cell).collect::<Vec<_>>().join(", ")
        }
        nested @ (Value::Array(_) | Value::Object(_)) => nested.to_string(),
    };
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn is_plain(value: &Value, depth: usize) -> bool {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
        Value::Array(items) => {
            depth >= DEPTH_MAX
                || !items.is_empty() && !items.iter().any(|i| i.is_object() || i.is_array())
        }
        Value::Object(_) => depth >= DEPTH_MAX,
    }
}

fn is_empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty)
}

fn columns(text: &str) -> usize {
    text.chars().count()
}

fn indent(depth: usize) -> String {
    "  ".repeat(depth)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn a_view_is_a_table_that_begins_with_where_nodes_differ() {
        let view = json!({
            "cluster": "coterie",
            "differences": [{"about": "node-2", "here": "down", "node": "node-1", "there": "alive"}],
            "members": [
                {"generation": 1, "id": "", "name": "node-0", "reachable": true, "state": "alive"},
                {"name": "n", "state": "down", "reachable": false, "id": "ab", "since": null},
            ],
            "packets": {"in": 12, "out": 7},
            "queued": [],
            "placement_number": 1,
        });
        let expected = "\
differences (1)
  node    about   here  there
  node-1  node-2  down  alive
cluster           coterie
placement_number  1

members (2)
  name    id  generation  reachable  state  since
  node-0  -   1           yes        alive
  n       ab              no         down   -

packets
  in   12
  out  7

queued: none
";
        assert_eq!(render(&view), expected);
        assert!(render(&json!({"differences": []})).starts_with("differences: none"));
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(7, 64, 4, |inner| {
            let fields = proptest::collection::btree_map(".*", inner.clone(), 0..4);
            prop_oneof![
                proptest::collection::vec(inner, 0..4).prop_map(Value::from),
                fields.prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_value_can_be_shown(value in values()) {
            prop_assert!(render(&value).ends_with('\n'));
        }
    }
}
