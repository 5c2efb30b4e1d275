//! `wasmblk inspect`: what a guest is and would need, without running anything of it.

use std::fmt::Write as _;

use serde::Serialize;

use super::{human_size, print, print_json};
use crate::cli::Inspect;
use crate::error::{Error, Result};
use crate::guest::{Import, Inspection, Need, Part, Parts, Source, inspect};
use crate::limits;

/// A guest as `--json` shows it.
#[derive(Serialize)]
struct Report {
    file: String,
    size_bytes: u64,
    /// SHA-256 of the file, as a policy file has it.
    digest: String,
    /// Whether `add` and `nbd` would take it, as far as can be seen without compiling it.
    accepted: bool,
    refused: Vec<String>,
    contract: Option<&'static str>,
    wit_versions: Vec<String>,
    exports: Vec<String>,
    imports: Vec<Row>,
    #[serde(flatten)]
    parts: Parts,
}

#[derive(Serialize)]
struct Row {
    interface: String,
    version: Option<String>,
    needs: &'static str,
    remedy: &'static str,
}

pub(super) fn run(command: &Inspect) -> Result<()> {
    let source = Source::read(&command.file)?;
    let file = source.path.display().to_string();
    let found = inspect(&source.bytes).map_err(|why| Error::usage(format!("{file} {why}")))?;
    let report = report(file, &source, found);
    if command.format.json {
        print_json(&report)
    } else {
        print(text(&report))
    }
}

fn report(file: String, source: &Source, found: Inspection) -> Report {
    Report {
        file,
        size_bytes: source.bytes.len() as u64,
        digest: source.digest.clone(),
        accepted: found.refused.is_empty(),
        wit_versions: wit_versions(&found),
        refused: found.refused,
        contract: found.contract.ok().map(|contract| contract.name()),
        exports: found.exports,
        imports: found.imports.into_iter().map(row).collect(),
        parts: found.parts,
    }
}

fn row(import: Import) -> Row {
    Row {
        interface: import.interface,
        version: import.version,
        needs: match import.need {
            Need::Nothing => "nothing",
            Need::Inert => "inert",
            Need::Part(Part::Clocks) => "clocks",
            Need::Part(Part::Random) => "random",
            Need::Environment => "env",
            Need::Directories => "dirs",
            Need::Network => "net",
            Need::Stores => "stores",
            Need::OtherVersion | Need::NotGranted => "refused",
        },
        remedy: import.need.remedy(),
    }
}

/// The versions of our own package that it names: one, where it was built in one piece.
fn wit_versions(found: &Inspection) -> Vec<String> {
    let exported = found.exports.iter().filter_map(|export| {
        let (interface, version) = export.split_once('@')?;
        Some((interface, version))
    });
    let imported = (found.imports.iter())
        .filter_map(|import| Some((&*import.interface, import.version.as_deref()?)));
    let mut versions: Vec<String> = (exported.chain(imported))
        .filter(|(interface, _)| interface.starts_with("wasmblk:block/"))
        .map(|(_, version)| version.to_owned())
        .collect();
    versions.sort();
    versions.dedup();
    versions
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    let mut line = |name: &str, shown: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<16} {shown}");
    };
    let parts = &report.parts;
    line("file", &report.file);
    line("size", &human_size(report.size_bytes));
    line("digest", &report.digest);
    line("contract", report.contract.unwrap_or("-"));
    line("wit", &report.wit_versions.join(" "));
    line("core modules", &parts.core_modules.to_string());
    let least = human_size(parts.memory_min_bytes);
    let mut memories = format!("{}, with at least {least}", parts.memories);
    if parts.memory_min_bytes > limits::GUEST_MEMORY_BYTES_DEFAULT {
        let mib = parts.memory_min_bytes.div_ceil(1 << 20);
        let _ = write!(memories, ": needs --memory-mib {mib} or more");
    }
    line("memories", &memories);
    for needs in [
        "nothing", "inert", "clocks", "random", "env", "dirs", "net", "stores", "refused",
    ] {
        let mut rows = report
            .imports
            .iter()
            .filter(|row| row.needs == needs)
            .peekable();
        let Some(first) = rows.peek() else { continue };
        // Each of those that are refused has a line of its own below.
        let what = match needs {
            "refused" => "refused, see below",
            _ => first.remedy,
        };
        line("imports", what);
        for row in rows {
            let version = row.version.as_deref().map(|it| format!("@{it}"));
            line(
                "",
                &format!("  {}{}", row.interface, version.unwrap_or_default()),
            );
        }
    }
    let verdict = if report.accepted { "yes" } else { "no" };
    line("accepted", verdict);
    for why in &report.refused {
        line("", &format!("it {why}"));
    }
    text
}
