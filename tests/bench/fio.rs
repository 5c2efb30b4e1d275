//! fio as the client.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tests::command::output;

use crate::load::Load;

/// Requests per second as fio reaches them; `target` says with which engine and where.
pub(crate) fn run(target: &[&str], load: &Load, time: Duration) -> Result<f64> {
    let mut fio = Command::new("fio");
    fio.args(["--name=bench", "--time_based", "--norandommap", "--thread"])
        .args(["--group_reporting", "--output-format=json"])
        .args(target)
        .arg(format!("--rw={}", load.what()))
        .arg(format!("--bs={}", load.bytes))
        .arg(format!("--iodepth={}", load.depth))
        .arg(format!("--numjobs={}", load.connections))
        .arg(format!("--size={}", load.span))
        .arg(format!("--runtime={}ms", time.as_millis()));
    if load.batch > 1 {
        fio.arg(format!("--iodepth_batch_submit={}", load.batch))
            .arg(format!("--iodepth_batch_complete_min={}", load.batch));
    }
    let text = output(&mut fio)?;
    let json = text.find('{').context("fio printed no JSON")?;
    let value: Value = serde_json::from_str(&text[json..])?;
    let side = if load.write { "write" } else { "read" };
    value
        .pointer(&format!("/jobs/0/{side}/iops"))
        .and_then(Value::as_f64)
        .context("fio told no IOPS")
}
