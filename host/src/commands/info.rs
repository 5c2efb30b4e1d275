//! `wasmblk info`.

use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::devices::{self, Found};
use super::{human_size, print, print_json};
use crate::cli::Info;
use crate::error::{Context, Error, Result};
use crate::limits;
use crate::plane::RunDir;
use crate::text::printable;
use crate::ublk;

pub(super) fn run(info: &Info, run_dir: &RunDir, broker: &Path) -> Result<()> {
    let brokered = devices::brokered(broker);
    let id = devices::resolve(run_dir, &brokered, &info.device)?;
    if let Found::Served(status) = devices::find(run_dir, id)? {
        return show(info, &*status);
    }
    if let Some(record) = brokered.iter().find(|record| record.id == Some(id)) {
        return match devices::status_of(record) {
            Some(status) => show(info, &*status),
            None => show(info, record),
        };
    }
    Err(Error::failed(if ublk::exists(id) {
        format!("no process of wasmblk serves device {id}; 'wasmblk del {id}' removes it")
    } else {
        format!("there is no device {id}; see 'wasmblk list'")
    }))
}

fn show(info: &Info, status: &impl Serialize) -> Result<()> {
    if info.format.json {
        return print_json(status);
    }
    let value = serde_json::to_value(status).doing(|| "cannot show the status".into())?;
    let mut text = String::new();
    lines(&mut text, "", &value);
    print(text)
}

/// One line for each field, nested ones with a dot in their name.
fn lines(text: &mut String, name: &str, value: &Value) {
    if let Value::Object(fields) = value {
        for (field, value) in fields {
            let name = if name.is_empty() {
                field.clone()
            } else {
                format!("{name}.{field}")
            };
            lines(text, &name, value);
        }
        return;
    }
    let shown = match value {
        Value::Null => "-".into(),
        Value::String(string) => string.clone(),
        Value::Array(words) => words.iter().map(word).collect::<Vec<_>>().join(" "),
        Value::Number(number) if name.ends_with("_bytes") => {
            number.as_u64().map(human_size).unwrap_or_default()
        }
        other => other.to_string(),
    };
    // It may be another user's words.
    let shown = printable(&shown, limits::MESSAGE_BYTES_MAX);
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{name:<24} {shown}");
}

/// A word, or an option or a store as the command line has it.
fn word(value: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if value.is_string() {
        return text(value);
    }
    if value.is_array() {
        return format!("{}={}", text(&value[0]), text(&value[1]));
    }
    let mut word = format!("{}={}", text(&value["name"]), text(&value["path"]));
    for (field, shown) in [("read_only", ":ro"), ("direct", ":direct")] {
        if value[field] == true {
            word.push_str(shown);
        }
    }
    word
}
