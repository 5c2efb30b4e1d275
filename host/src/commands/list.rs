//! `wasmblk list`.

use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;
use tracing::warn;

use super::devices::{self, Found};
use super::{human_size, print, print_json};
use crate::broker::wire::{self, Record};
use crate::cli::Format;
use crate::error::Result;
use crate::limits;
use crate::plane::{RunDir, State};
use crate::text::printable;
use crate::ublk::block_path;

#[derive(Serialize)]
struct Row {
    id: u32,
    device: String,
    name: Option<String>,
    state: State,
    size_bytes: Option<u64>,
    guest: Option<String>,
    pid: Option<u32>,
    uid: Option<u32>,
}

pub(super) fn run(format: Format, run_dir: &RunDir, broker: &Path) -> Result<()> {
    let mut rows = Vec::new();
    for found in devices::all(run_dir) {
        match found {
            Ok(found) => rows.push(row(found)),
            Err(error) => warn!("{}", error.chain()),
        }
    }
    // Those of others, as far as the broker shows them.
    for record in devices::brokered(broker) {
        if rows.iter().any(|row| Some(row.id) == record.id) {
            continue;
        }
        match devices::status_of(&record) {
            Some(status) => rows.push(row(Found::Served(status))),
            None => rows.extend(row_of(record)),
        }
    }
    rows.sort_by_key(|row| row.id);
    if format.json {
        print_json(&rows)
    } else {
        print(table(&rows))
    }
}

fn row(found: Found) -> Row {
    match found {
        Found::Served(status) => Row {
            id: status.id,
            device: status.device.display().to_string(),
            name: status.name,
            state: status.state,
            size_bytes: Some(status.size_bytes),
            guest: Some(status.guest.display().to_string()),
            pid: Some(status.pid),
            uid: Some(status.uid),
        },
        Found::Dead(id) => Row {
            id,
            device: block_path(id).display().to_string(),
            name: None,
            state: State::Dead,
            size_bytes: None,
            guest: None,
            pid: None,
            uid: None,
        },
    }
}

/// What the broker knows of a device; of one that has no number there is nothing to show.
fn row_of(record: Record) -> Option<Row> {
    let id = record.id?;
    Some(Row {
        id,
        device: block_path(id).display().to_string(),
        name: record.name,
        state: match record.state {
            wire::State::Starting => State::Starting,
            wire::State::Live => State::Live,
            wire::State::Lost => State::Dead,
        },
        size_bytes: Some(record.size_bytes),
        guest: None,
        pid: u32::try_from(record.pid).ok(),
        uid: Some(record.uid),
    })
}

fn table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut text = format!(
        "{:>4}  {:<14} {:<16} {:<8} {:>8} {:>8} {:>6}  {}\n",
        "ID", "DEVICE", "NAME", "STATE", "SIZE", "PID", "UID", "GUEST"
    );
    for row in rows {
        let state = format!("{:?}", row.state).to_lowercase();
        // It may be another user's words.
        let shown = |text: &str| printable(text, limits::MESSAGE_BYTES_MAX);
        let or_dash = |text: Option<String>| shown(&text.unwrap_or_else(|| "-".into()));
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{:>4}  {:<14} {:<16} {:<8} {:>8} {:>8} {:>6}  {}",
            row.id,
            shown(&row.device),
            or_dash(row.name.clone()),
            state,
            or_dash(row.size_bytes.map(human_size)),
            or_dash(row.pid.map(|pid| pid.to_string())),
            or_dash(row.uid.map(|uid| uid.to_string())),
            or_dash(row.guest.clone()),
        );
    }
    text
}
